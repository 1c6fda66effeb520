//! What all interfaces of a process share: the tables, in two sets of which one is in use.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::{bytes_of, cast_slice};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use marchproxy_engine::Snapshot;
use marchproxy_engine::flow::from_ip;
use marchproxy_engine::io::Mac;
use marchproxy_engine::table::neighbours::NeighbourTable;
use marchproxy_engine::tables::RuleTables;

use crate::abi::{self, Chunk, Count, PrefixV4, PrefixV6, RouteV4, RouteV6};
use crate::addresses::{Addresses, Backends, PortFacts};
use crate::error::XdpError;
use crate::maps::{Loaded, Program, failed, put};
use crate::plan::fast::{self, Fast, Out, RingPlace, Way};
use crate::plan::{ByPrefix, Classes, MAX_RULES, Plan};
use crate::steering::{Steering, sum_of};
use crate::tables::{Content, Made, install};

/// The maps that are one for all interfaces.
const SHARED: [&str; 16] = [
    "active",
    "generations",
    "addresses",
    "sources_v4",
    "sources_v6",
    "targets_v4",
    "targets_v6",
    "source_ports",
    "target_ports",
    "services",
    "slots",
    "backends",
    "hops",
    "routes_v4",
    "routes_v6",
    "rules",
];

/// XDP in this process. Making one tries for real whether the kernel takes the program.
pub struct Xdp {
    shared: Vec<(String, MapHandle)>,
    state: Mutex<State>,
}

/// A generation for XDP.
#[derive(Clone, Copy, Debug)]
pub struct Push<'a> {
    /// What the node is told to do.
    pub tables: &'a RuleTables,
    /// Addresses of the kernel on all interfaces of this network namespace.
    pub kernel: &'a [IpAddr],
    /// Ports with their index in the tables and what is new about them. Others keep what they have.
    pub ports: &'a [(usize, &'a Steering, &'a PortFacts)],
    /// By what packets go on in XDP; `None`: all that goes on is left to the engine.
    pub sending: Option<Sending<'a>>,
}

/// What changes without a push: who is out of rings, and who has which MAC address.
#[derive(Clone, Copy, Debug)]
pub struct Sending<'a> {
    /// The generation that the tables of the push made.
    pub snapshot: &'a Snapshot,
    /// The neighbours.
    pub neighbours: &'a NeighbourTable,
}

/// A rule's name, packets and octets.
type Counted = (String, (u64, u64));

impl Sending<'_> {
    fn mac(&self, way: Way) -> Option<Mac> {
        let key = self.snapshot.interface(way.interface as u32)?.neighbour(from_ip(way.address));
        self.neighbours.lookup(&key, key.hash())
    }

    fn chunks(&self, service: &str, v6: bool) -> Vec<Chunk> {
        self.snapshot.services.named(service).map_or_else(Vec::new, |service| fast::chunks(service.ring(v6).slots()))
    }
}

#[derive(Default)]
struct State {
    /// Which set is in use.
    active: u32,
    backends: Backends,
    /// Names of the rules that the program knows, by their bit.
    names: Vec<String>,
    /// What ended under rules in earlier generations.
    ended: BTreeMap<String, (u64, u64)>,
    made: Made,
    /// What the program has been told of rules, but for [`abi::WATCHED`].
    generation: Option<abi::Generation>,
    watched: bool,
    living: Living,
}

/// What is refreshed in the set that is in use.
#[derive(Default)]
struct Living {
    hops: Option<MapHandle>,
    ways: Vec<(Way, abi::Hop)>,
    slots: Option<MapHandle>,
    /// By ring: its service's name, and what the program has.
    rings: Vec<(String, RingPlace, Vec<Chunk>)>,
}

impl Xdp {
    /// Loads the program once, attached to nothing.
    pub fn load() -> Result<Self, XdpError> {
        let mut loaded = Loaded::new(Program::Interface, &[])?;
        let mut shared = Vec::new();
        for name in SHARED {
            shared.push((name.to_owned(), loaded.take(name)?));
        }
        let xdp = Self { shared, state: Mutex::default() };
        xdp.publish(&Push { tables: &RuleTables::default(), kernel: &[], ports: &[], sending: None })?;
        Ok(xdp)
    }

    pub(crate) fn program(&self, program: Program) -> Result<Loaded, XdpError> {
        Loaded::new(program, &self.shared)
    }

    fn map(&self, name: &'static str) -> Result<&MapHandle, XdpError> {
        let found = self.shared.iter().find(|(known, _)| known == name);
        found
            .map(|(_, map)| map)
            .ok_or_else(|| XdpError::Table { table: name, source: std::io::ErrorKind::NotFound.into() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a generation into use on all interfaces, from one packet to the next, and says what is decided where. On an error the
    /// generation before stays.
    pub fn publish(&self, push: &Push) -> Result<Plan, XdpError> {
        let mut state = self.state();
        let state = &mut *state;
        let (tables, before) = (push.tables, state.active);
        let next = (before + 1) % abi::GENERATIONS;
        let mut plan = Plan::new(tables, state.backends.follow(tables));
        let mut classes = Classes::new(tables, &plan);
        let addresses = Addresses::new(tables, push.kernel, &state.backends);

        // Nobody looks at the next set: its last user is gone since the push before.
        self.install(state, next, Content::new("addresses", MapType::Hash, 0, addresses.entries()))?;
        self.install_rules(state, next, &classes)?;
        let mut living = Living::default();
        if let Some(sending) = &push.sending {
            let receiving: Vec<usize> = (0..tables.interfaces.len()).filter(|&i| sends(push, i)).collect();
            let fast = Fast::new(tables, sending.snapshot, &receiving, &addresses.ids());
            living = self.install_fast(state, next, push, sending, &fast)?;
            classes.generation.flags |= if fast.services.is_empty() { 0 } else { abi::BALANCES };
            classes.generation.flags |= if fast.forwards_nothing.is_none() { abi::FORWARDS } else { 0 };
            (plan.services, plan.forwards_nothing) = (fast.balanced, fast.forwards_nothing);
        } else {
            plan.forwards_nothing = Some("the node sends nothing from XDP");
        }
        self.put_generation(next, &classes.generation, state.watched)?;
        for (_, steering, facts) in push.ports {
            steering.configure_for(next, facts)?;
        }
        self.clear_rules(next)?;

        put("active", self.map("active")?, &0u32, &next.to_ne_bytes())?;
        (state.active, state.living, state.generation) = (next, living, Some(classes.generation));
        // The kernel exchanges an inner map only when no program can see the old one any more. So behind this line nothing looks at the
        // set before, its counters stand, and the next push may write to it.
        self.wait(before)?;
        state.made.forget("addresses", before);
        // A port that a later push does not mention keeps this.
        for (_, steering, facts) in push.ports {
            steering.configure_for(before, facts)?;
        }
        for (name, (packets, octets)) in self.counted(before, &state.names)? {
            let sum = state.ended.entry(name).or_default();
            *sum = (sum.0 + packets, sum.1 + octets);
        }
        state.names =
            plan.known.iter().filter_map(|&rule| tables.rules.get(rule)).map(|rule| rule.name.clone()).collect();
        state.ended.retain(|name, _| tables.rules.iter().any(|rule| rule.name == *name));
        Ok(plan)
    }

    /// Tells the program what changed since the push: neighbours, and backends that are out of rings or back. To be called all the time; it
    /// writes only what is new.
    pub fn refresh(&self, sending: &Sending) -> Result<(), XdpError> {
        let mut state = self.state();
        let unused = (state.active + 1) % abi::GENERATIONS;
        // Waiting puts an empty one there.
        state.made.forget("addresses", unused);
        let Living { hops, ways, slots, rings } = &mut state.living;
        if let Some(hops) = hops {
            for (number, (way, hop)) in (0u32..).zip(ways) {
                self.refresh_hop(hops, number, hop, sending.mac(*way), unused)?;
            }
        }
        if let Some(slots) = slots {
            for (service, place, known) in rings {
                let now = sending.chunks(service, place.v6);
                for (number, (known, now)) in
                    known.iter_mut().zip(now).enumerate().filter(|(_, (known, now))| **known != *now)
                {
                    put("slots", slots, &((place.first_chunk + number) as u32), bytes_of(&now))?;
                    *known = now;
                }
            }
        }
        Ok(())
    }

    /// A program must never read half an address, and a map writes octets in any order: so an address changes only while it does not count.
    fn refresh_hop(
        &self,
        hops: &MapHandle,
        number: u32,
        hop: &mut abi::Hop,
        mac: Option<Mac>,
        unused: u32,
    ) -> Result<(), XdpError> {
        let known = (hop.known != 0).then_some(hop.dst_mac);
        if mac == known || hop.ifindex == 0 {
            return Ok(());
        }
        if known.is_some() {
            hop.known = 0;
            put("hops", hops, &number, bytes_of(hop))?;
            self.wait(unused)?;
        }
        if let Some(mac) = mac {
            hop.dst_mac = mac;
            put("hops", hops, &number, bytes_of(hop))?;
            hop.known = 1;
            put("hops", hops, &number, bytes_of(hop))?;
        }
        Ok(())
    }

    /// While somebody looks at packets all of ours go to the engine, which can show them.
    pub fn watch(&self, watched: bool) -> Result<(), XdpError> {
        let mut state = self.state();
        if let Some(generation) = &state.generation {
            self.put_generation(state.active, generation, watched)?;
        }
        state.watched = watched;
        Ok(())
    }

    fn put_generation(&self, slot: u32, generation: &abi::Generation, watched: bool) -> Result<(), XdpError> {
        let watched = if watched { abi::WATCHED } else { 0 };
        let generation = abi::Generation { flags: generation.flags | watched, ..*generation };
        put("generations", self.map("generations")?, &slot, bytes_of(&generation))
    }

    /// Returns when every program has ended that began before.
    fn wait(&self, unused: u32) -> Result<(), XdpError> {
        let nothing: [([u8; 16], abi::Address); 0] = [];
        let empty = Content::new("addresses", MapType::Hash, 0, nothing).make()?;
        install("addresses", self.map("addresses")?, unused, &empty)
    }

    /// Packets and octets that ended or went on here, by rule, since the process began; rules that are gone are gone here, too.
    pub fn rules(&self) -> Result<BTreeMap<String, (u64, u64)>, XdpError> {
        let state = self.state();
        let mut sums = state.ended.clone();
        for (name, (packets, octets)) in self.counted(state.active, &state.names)? {
            let sum = sums.entry(name).or_default();
            *sum = (sum.0 + packets, sum.1 + octets);
        }
        Ok(sums)
    }

    fn counted(&self, slot: u32, names: &[String]) -> Result<Vec<Counted>, XdpError> {
        let map = self.map("rules")?;
        let count =
            |(bit, name): (u32, &String)| Ok((name.clone(), sum_of("rules", map, slot * MAX_RULES as u32 + bit)?));
        (0u32..).zip(names).map(count).collect()
    }

    fn clear_rules(&self, slot: u32) -> Result<(), XdpError> {
        let cores = libbpf_rs::num_possible_cpus().map_err(|_| failed("rules"))?;
        let zeros = vec![vec![0u8; size_of::<Count>()]; cores];
        (0..MAX_RULES as u32).try_for_each(|bit| {
            let index = (slot * MAX_RULES as u32 + bit).to_ne_bytes();
            self.map("rules")?.update_percpu(&index, &zeros, MapFlags::ANY).map_err(|_| failed("rules"))
        })
    }

    fn install(&self, state: &mut State, slot: u32, content: Content) -> Result<(), XdpError> {
        let name = content.name();
        state.made.install(content, self.map(name)?, slot)
    }

    fn install_rules(&self, state: &mut State, slot: u32, classes: &Classes) -> Result<(), XdpError> {
        let prefixes = [
            prefixes_v4("sources_v4", &classes.sources_v4),
            prefixes_v6("sources_v6", &classes.sources_v6),
            prefixes_v4("targets_v4", &classes.targets_v4),
            prefixes_v6("targets_v6", &classes.targets_v6),
        ];
        let ports =
            |name, bits: &[u64]| Content::new(name, MapType::Array, abi::INNER_MAP, (0u32..).zip(bits.iter().copied()));
        let ports = [ports("source_ports", &classes.source_ports), ports("target_ports", &classes.target_ports)];
        // What no rule looks at is not looked up, so it may stay as it is.
        for content in prefixes.into_iter().chain(ports).filter(|content| !content.is_empty()) {
            self.install(state, slot, content)?;
        }
        Ok(())
    }

    fn install_fast(
        &self,
        state: &mut State,
        slot: u32,
        push: &Push,
        sending: &Sending,
        fast: &Fast,
    ) -> Result<Living, XdpError> {
        let array = |name, values: &[u8], size: usize| Content::array(name, abi::INNER_MAP, values, size);
        let v4 = fast.routes_v4.iter().map(|(&(table, address, len), &value)| {
            let (table, address) = (table.to_be_bytes(), ((address >> 96) as u32).to_be_bytes());
            (RouteV4 { length: 32 + u32::from(len), table, address }, value)
        });
        let v6 = fast.routes_v6.iter().map(|(&(table, address, len), &value)| {
            let (table, address) = (table.to_be_bytes(), address.to_be_bytes());
            (RouteV6 { length: 32 + u32::from(len), table, address }, value)
        });
        self.install(state, slot, Content::new("routes_v4", MapType::LpmTrie, abi::NO_PREALLOC, v4))?;
        self.install(state, slot, Content::new("routes_v6", MapType::LpmTrie, abi::NO_PREALLOC, v6))?;
        self.install(state, slot, Content::new("services", MapType::Hash, 0, fast.services.iter().copied()))?;
        self.install(state, slot, array("backends", cast_slice(&fast.backends), size_of::<abi::Backend>()))?;

        // These change while they are in use, so they are never used once more.
        let out = |way: &Way| {
            let port = push.tables.interfaces.get(way.interface)?.port;
            let (_, steering, facts) = push.ports.iter().find(|(index, _, _)| *index == port)?;
            Some(Out { ifindex: steering.ifindex(), mac: facts.mac })
        };
        let mut ways = Vec::new();
        for way in &fast.ways {
            let mut hop = fast::hop(push.tables, *way, out(way));
            if let (Some(mac), true) = (sending.mac(*way), hop.ifindex != 0) {
                (hop.dst_mac, hop.known) = (mac, 1);
            }
            ways.push((*way, hop));
        }
        let entries: Vec<abi::Hop> = ways.iter().map(|(_, hop)| *hop).collect();
        let hops = array("hops", cast_slice(&entries), size_of::<abi::Hop>()).make()?;
        install("hops", self.map("hops")?, slot, &hops)?;
        let mut chunks = vec![Chunk { slots: [abi::NOBODY; abi::CHUNK] }; fast.chunks];
        let mut rings = Vec::new();
        for place in &fast.rings {
            let name = push.tables.services.get(place.service).map(|service| service.name.clone()).unwrap_or_default();
            let now = sending.chunks(&name, place.v6);
            for (chunk, now) in chunks[place.first_chunk..][..place.chunks].iter_mut().zip(&now) {
                *chunk = *now;
            }
            rings.push((name, place.clone(), now));
        }
        let slots = array("slots", cast_slice(&chunks), size_of::<Chunk>()).make()?;
        install("slots", self.map("slots")?, slot, &slots)?;
        Ok(Living { hops: Some(hops), ways, slots: Some(slots), rings })
    }
}

/// Whether packets received on an interface may go on in XDP.
fn sends(push: &Push, interface: usize) -> bool {
    let Some(spec) = push.tables.interfaces.get(interface) else { return false };
    push.ports.iter().any(|(port, _, facts)| *port == spec.port && facts.table.is_some())
}

fn prefixes_v4(name: &'static str, bits: &ByPrefix) -> Content {
    let entries = bits.iter().map(|(&(address, length), &bits)| {
        (PrefixV4 { length: u32::from(length), address: ((address >> 96) as u32).to_be_bytes() }, bits)
    });
    Content::new(name, MapType::LpmTrie, abi::NO_PREALLOC, entries)
}

fn prefixes_v6(name: &'static str, bits: &ByPrefix) -> Content {
    let entries = bits.iter().map(|(&(address, length), &bits)| {
        (PrefixV6 { length: u32::from(length), address: address.to_be_bytes() }, bits)
    });
    Content::new(name, MapType::LpmTrie, abi::NO_PREALLOC, entries)
}

impl std::fmt::Debug for Xdp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Xdp").field("active", &self.state().active).finish_non_exhaustive()
    }
}
