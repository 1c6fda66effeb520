//! One generation of everything the workers look up: immutable, built off the workers, swapped whole.

use std::sync::Arc;

use crate::burst::{Egress, NONE};
use crate::change::counter_name;
use crate::flow::Addr;
use crate::ports::PortSlot;
use crate::qos::Shaping;
use crate::slots::Slots;
use crate::stats::MAX_PORTS;
use crate::table::fib::Fib;
use crate::table::filter::AddressFilter;
use crate::table::hops::{Hop, Hops, Range};
use crate::table::maps::Maps;
use crate::table::neighbours::NeighbourKey;
use crate::table::policer::{Colour, PolicerTable};
use crate::table::rules::Rules;
use crate::table::services::Services;
use crate::table::sessions::FlowSettings;
use crate::tables::{PortSpec, Urpf};

/// One generation. Made by [`build`](crate::build::build); `Default` is the empty configuration.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    /// Which one it is; its copies have the same.
    pub(crate) serial: u64,
    pub(crate) ports: Vec<(PortSlot, PortSpec)>,
    pub(crate) interfaces: Vec<Interface>,
    /// Whether every interface keeps the DSCP of what it receives.
    pub(crate) trusts_all: bool,
    /// Whether some interface checks sources.
    pub(crate) checks_sources: bool,
    /// Whether all that is decided about most packets is their way: see [`express`](crate::stage::express).
    pub(crate) only_ways: bool,
    /// Per port slot: (VLAN, interface), sorted.
    pub(crate) by_port: PortInterfaces,
    pub(crate) fibs: Vec<Fib>,
    pub(crate) routes: Vec<Route>,
    /// Copies of a generation share them, and with them what links say.
    pub(crate) hops: Arc<Hops>,
    /// Routes of prefixes of length 0, a few.
    pub(crate) default_routes: Vec<u32>,
    /// By route: its next hop where there is but one and never another; otherwise of interface [`NONE`].
    pub(crate) ways: Vec<Egress>,
    /// The same for [`express`](crate::stage::express).
    pub(crate) exits: Vec<Exit>,
    /// Interface addresses, sorted.
    pub(crate) own: Vec<Addr>,
    /// Directed broadcast addresses of connected IPv4 prefixes, sorted.
    pub(crate) broadcasts: Vec<Addr>,
    /// Whether an address may be in `own` or `broadcasts`.
    pub(crate) special: AddressFilter,
    /// Addresses of backends, sorted: of this generation and, because their sessions may live on, of earlier ones.
    pub(crate) backends: Vec<Addr>,
    /// Addresses of source pools, likewise.
    pub(crate) pools: Vec<Addr>,
    /// The rules.
    pub rules: Rules,
    /// Ways that rules set, in the order of the rules.
    pub(crate) detours: Vec<Detour>,
    /// The services; copies of a generation share them, and with them what checks say of backends.
    pub services: Arc<Services>,
    /// Which sessions are told to a flow collector; `None`: none.
    pub flows: Option<FlowSettings>,
    /// Whether some interface has a policer.
    pub(crate) polices_interfaces: bool,
    /// Whether somebody wants to know the classes of packets.
    pub classes: bool,
    /// Maps of codepoints.
    pub maps: Maps,
    /// The policers, by index.
    pub policers: Vec<PolicerTable>,
    pub(crate) policer_names: Vec<String>,
    pub(crate) port_slots: Slots,
    pub(crate) counter_slots: Slots,
    pub(crate) policer_slots: Slots,
    pub(crate) limit_slots: Slots,
    pub(crate) queue_slots: Slots,
    /// What waits in queues.
    pub shaping: Shaping,
}

/// Interfaces by port slot and VLAN.
#[derive(Debug, Clone)]
pub(crate) struct PortInterfaces([Vec<(u16, u32)>; MAX_PORTS]);

impl Default for PortInterfaces {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Vec::new()))
    }
}

impl PortInterfaces {
    pub(crate) fn insert(&mut self, port: PortSlot, vlan: u16, interface: u32) {
        let list = &mut self.0[port.index()];
        list.push((vlan, interface));
        list.sort_unstable();
    }

    #[inline]
    fn get(&self, port: PortSlot, vlan: u16) -> Option<u32> {
        let list = &self.0[port.index()];
        match list.first() {
            Some(&(first, interface)) if first == vlan => Some(interface),
            _ => list.binary_search_by_key(&vlan, |&(v, _)| v).ok().map(|at| list[at].1),
        }
    }
}

/// An interface as the snapshot holds it.
#[derive(Debug, Clone)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The port it lives on.
    pub port: PortSlot,
    /// Its VLAN, [`crate::ports::UNTAGGED`] for none.
    pub vlan: u16,
    /// Largest L3 packet that fits out of it.
    pub mtu: u16,
    /// Whether received DSCP is kept.
    pub trust_dscp: bool,
    /// What is asked of sources.
    pub urpf: Urpf,
    /// Its policer (index into the snapshot), or [`NONE`].
    pub policer: u32,
    /// Own addresses and prefix lengths, in document order.
    pub addresses: Vec<(Addr, u8)>,
    /// Index into the snapshot's tables.
    pub(crate) fib: u32,
    /// The number of its table in the document.
    pub table: u32,
}

impl Interface {
    /// The first own address whose connected prefix holds `addr`.
    pub fn connected_to(&self, addr: Addr) -> Option<Addr> {
        self.addresses.iter().find(|&&(own, len)| in_prefix(own, len, addr)).map(|a| a.0)
    }

    /// Where a neighbour on this interface stands in the neighbour table.
    #[inline]
    pub fn neighbour(&self, address: Addr) -> NeighbourKey {
        NeighbourKey { port: self.port, vlan: self.vlan, address }
    }
}

/// Whether `addr` is of the family of `prefix` and shares its first `len` bits.
pub(crate) fn in_prefix(prefix: Addr, len: u8, addr: Addr) -> bool {
    let bits = if crate::flow::is_v4(prefix) { 32 } else { 128 };
    crate::flow::is_v4(prefix) == crate::flow::is_v4(addr)
        && (prefix ^ addr).checked_shr(bits - u32::from(len)).unwrap_or(0) == 0
}

/// What a destination leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The destination is a neighbour on this interface.
    Connected {
        /// Index into the snapshot's interfaces.
        interface: u32,
        /// Its port and VLAN as one word for the neighbour hash.
        place: (PortSlot, u16),
    },
    /// One of these next hops.
    Via(Range),
    /// Drop without a word.
    Blackhole,
    /// Drop and tell the sender.
    Reject,
}

/// A way that a rule sets.
#[derive(Debug, Clone, Copy)]
pub enum Detour {
    /// To this neighbour.
    NextHop {
        /// For IPv6 packets, else for IPv4 ones.
        v6: bool,
        /// Where it is.
        egress: Egress,
    },
    /// By this one of the snapshot's tables.
    Table(u32),
}

/// A next hop with all that a packet needs to leave for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exit {
    /// Where it stands in the neighbour table.
    pub neighbour: NeighbourKey,
    /// Under this hash.
    pub hash: u64,
    /// Egress interface; [`NONE`] where there is no such single next hop.
    pub interface: u32,
    /// Largest L3 packet that fits.
    pub mtu: u16,
}

const _: () = assert!(size_of::<Exit>() <= 64);

/// What kind of object a counter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A rule.
    Rule,
    /// A service.
    Service,
    /// A backend, named SERVICE/BACKEND.
    Backend,
    /// A policer.
    Policer,
    /// Yellow and red packets of a policer, named POLICER/COLOUR.
    Colour,
}

impl ObjectKind {
    /// The name shown to people and in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Service => "service",
            Self::Backend => "backend",
            Self::Policer => "policer",
            Self::Colour => "colour",
        }
    }
}

impl Snapshot {
    /// The ports and their slots, sorted by name.
    pub fn ports(&self) -> impl Iterator<Item = (PortSlot, &PortSpec)> {
        self.ports.iter().map(|(slot, spec)| (*slot, spec))
    }

    /// The interfaces, in table order.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// An interface by index.
    #[inline]
    pub fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.get(index as usize)
    }

    /// How many routing tables there are; they are in order of their numbers.
    pub(crate) fn tables(&self) -> u32 {
        self.fibs.len() as u32
    }

    /// An interface whose packets a table routes.
    pub(crate) fn interface_of_table(&self, table: u32) -> Option<u32> {
        self.interfaces.iter().position(|interface| interface.fib == table).map(|at| at as u32)
    }

    /// The interface of a port and VLAN.
    #[inline]
    pub fn interface_at(&self, port: PortSlot, vlan: u16) -> Option<u32> {
        self.by_port.get(port, vlan)
    }

    /// Whether packets are only routed: without rules and services nothing is decided about them, and nobody looks at ports.
    #[inline]
    pub fn only_routes(&self) -> bool {
        self.rules.is_empty() && self.services.is_empty()
    }

    /// The number of the table an interface's packets are routed by.
    pub fn table_of(&self, interface: u32) -> u32 {
        self.interface(interface).map_or(0, |interface| interface.table)
    }

    /// Whether the port is part of this generation.
    #[inline]
    pub fn knows_port(&self, port: PortSlot) -> bool {
        self.ports.iter().any(|(slot, _)| *slot == port)
    }

    /// Whether the address may be an interface's or a directed broadcast address; false is certain.
    #[inline]
    pub fn may_be_special(&self, addr: Addr) -> bool {
        self.special.may_hold(addr)
    }

    /// Interface and directed broadcast addresses.
    pub(crate) fn specials(&self) -> impl Iterator<Item = Addr> {
        self.own.iter().chain(&self.broadcasts).copied()
    }

    /// Whether it is an interface address of this node.
    #[inline]
    pub fn is_own(&self, addr: Addr) -> bool {
        self.own.binary_search(&addr).is_ok()
    }

    /// Whether packets from this address may be replies of a service's backend.
    #[inline]
    pub fn is_backend(&self, addr: Addr) -> bool {
        self.backends.binary_search(&addr).is_ok()
    }

    /// The addresses that full NAT takes or took sources from, sorted.
    pub fn pools(&self) -> &[Addr] {
        &self.pools
    }

    /// Whether full NAT gives or gave sources of this address to sessions.
    #[inline]
    pub fn is_pool(&self, addr: Addr) -> bool {
        self.pools.binary_search(&addr).is_ok()
    }

    /// Whether it is the directed broadcast address of a connected prefix.
    #[inline]
    pub fn is_broadcast(&self, addr: Addr) -> bool {
        self.broadcasts.binary_search(&addr).is_ok()
    }

    /// The route of a destination, seen from an interface's table.
    #[inline]
    pub fn route(&self, interface: u32, destination: Addr) -> Option<Route> {
        self.route_at(self.fib_of(interface)?.lookup(destination)?)
    }

    /// The route of a destination in a table of [`Detour::Table`].
    #[inline]
    pub fn route_in(&self, table: u32, destination: Addr) -> Option<Route> {
        self.route_at(self.fibs.get(table as usize)?.lookup(destination)?)
    }

    /// By the value in a table.
    #[inline]
    pub(crate) fn route_at(&self, index: u32) -> Option<Route> {
        self.routes.get(index as usize).copied()
    }

    /// Whether any rule sets a way.
    #[inline]
    pub fn diverts(&self) -> bool {
        !self.detours.is_empty()
    }

    /// What [`Rule::way`](crate::table::rules::Rule::way) leads to.
    #[inline]
    pub fn detour(&self, number: u32) -> Option<&Detour> {
        self.detours.get(number as usize)
    }

    /// The table an interface's packets are routed by.
    #[inline]
    pub(crate) fn fib_of(&self, interface: u32) -> Option<&Fib> {
        self.fibs.get(self.interfaces.get(interface as usize)?.fib as usize)
    }

    /// The next hop of a route that always leads to the same one.
    #[inline]
    pub(crate) fn only_way(&self, route: Option<u32>) -> Option<&Egress> {
        self.ways.get(route? as usize).filter(|way| way.interface != NONE)
    }

    /// The same with all that is needed there.
    #[inline]
    pub(crate) fn exit(&self, route: Option<u32>) -> Option<&Exit> {
        self.exits.get(route? as usize).filter(|exit| exit.interface != NONE)
    }

    /// The way over a next hop.
    pub(crate) fn way(&self, hop: &Hop) -> Egress {
        let (mtu, port) =
            self.interface(hop.interface).map_or((u16::MAX, PortSlot::default()), |out| (out.mtu, out.port));
        Egress { interface: hop.interface, next_hop: hop.address, neighbour_hash: hop.neighbour_hash, mtu, port }
    }

    /// The next hop of a route that has but one.
    pub fn only_hop(&self, range: Range) -> Option<&Hop> {
        self.hops.of(range).first().filter(|_| range.count == 1)
    }

    /// The links of these ports are down, a bit by port slot, and no others: see [`Hops::set_down`].
    pub fn set_links_down(&self, ports: u64) {
        self.hops.set_down(ports);
    }

    /// The counter of a rule.
    pub fn rule_counter(&self, name: &str) -> Option<u32> {
        self.counter_slots.get(&counter_name(name)).map(|slot| slot.index)
    }

    /// Objects that have counters: kind, name, slot.
    pub fn objects(&self) -> impl Iterator<Item = (ObjectKind, String, u32)> {
        let rules = self.rules.iter().map(|r| (ObjectKind::Rule, r.name.clone(), r.counter));
        let services = self.services.iter().flat_map(|s| {
            let backends = s.backends().map(|b| (ObjectKind::Backend, format!("{}/{}", s.name, b.name), b.counter));
            std::iter::once((ObjectKind::Service, s.name.clone(), s.counter)).chain(backends)
        });
        let policers = self.policer_names.iter().zip(&self.policers).flat_map(|(name, p)| {
            let colour = |colour: Colour, counter| (ObjectKind::Colour, format!("{name}/{}", colour.label()), counter);
            let [yellow, red] = p.worse;
            let all = (ObjectKind::Policer, name.clone(), p.counter);
            [all, colour(Colour::Yellow, yellow), colour(Colour::Red, red)]
        });
        rules.chain(services).chain(policers)
    }

    /// Memory the tables take.
    pub fn bytes(&self) -> usize {
        self.fibs.iter().map(Fib::bytes).sum::<usize>()
            + self.routes.len() * (size_of::<Route>() + size_of::<Egress>())
            + self.hops.bytes()
            + self.rules.bytes()
            + self.detours.len() * size_of::<Detour>()
            + self.services.bytes()
            + self.shaping.bytes()
    }

    /// The name of a policer.
    pub fn policer_name(&self, index: u32) -> Option<&str> {
        self.policer_names.get(index as usize).map(String::as_str)
    }
}
