//! What may go on in XDP: packets to services without sessions, and packets by routes with one next hop. The rest is left to the engine.

use std::collections::BTreeMap;
use std::net::IpAddr;

use marchproxy_engine::Snapshot;
use marchproxy_engine::flow::{from_ip, to_ip};
use marchproxy_engine::io::Mac;
use marchproxy_engine::snapshot::Route;
use marchproxy_engine::tables::{
    MARK_KEEP, NextHopSpec, PortRange, RouteAction, RuleTables, ServiceMode, ServiceProtocol, ServiceSpec,
};

use crate::abi::{self, Backend, CHUNK, Chunk, NO_DSCP, NOBODY, ROUTE_BLACKHOLE, ROUTE_LEAVE, Service, ServiceKey};

/// Each port of a service takes a place in a table.
const MAX_PORTS: usize = 64;
/// Every push writes all routes; with more of them it would take too long.
const MAX_ROUTES: usize = 16_384;

/// Where a service is balanced, or why not in XDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balanced {
    /// In XDP, but for SYNs into tunnels and backends whose next hop is not known.
    Xdp,
    /// In the engine.
    UserSpace(&'static str),
}

impl std::fmt::Display for Balanced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Xdp => write!(f, "xdp"),
            Self::UserSpace(why) => write!(f, "user space: {why}"),
        }
    }
}

/// A port that packets may leave by.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    pub ifindex: u32,
    pub mac: Mac,
}

/// Of one family's ring.
#[derive(Clone, Debug)]
pub struct RingPlace {
    pub service: usize,
    pub v6: bool,
    pub first_chunk: usize,
    pub chunks: usize,
}

/// A next hop of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Way {
    pub interface: usize,
    pub address: IpAddr,
}

/// A prefix of a routing table: table, address in the upper bits, length.
pub type RouteKey = (u32, u128, u8);

/// What the program's tables hold, but for what changes without a push: slots of rings and MAC addresses.
#[derive(Clone, Debug, Default)]
pub struct Fast {
    /// By service.
    pub balanced: Vec<Balanced>,
    /// Why nothing is forwarded.
    pub forwards_nothing: Option<&'static str>,
    pub services: Vec<(ServiceKey, Service)>,
    pub rings: Vec<RingPlace>,
    pub chunks: usize,
    pub backends: Vec<Backend>,
    pub ways: Vec<Way>,
    pub routes_v4: BTreeMap<RouteKey, u32>,
    pub routes_v6: BTreeMap<RouteKey, u32>,
}

impl Fast {
    /// `receiving` are the interfaces whose packets may go on in XDP; `ids` are numbers of services' addresses.
    pub fn new(tables: &RuleTables, snapshot: &Snapshot, receiving: &[usize], ids: &BTreeMap<IpAddr, u32>) -> Self {
        let mut fast = Self::default();
        let mut balanced = Vec::new();
        for (index, service) in tables.services.iter().enumerate() {
            balanced.push(match fast.service(tables, snapshot, receiving, ids, index, service) {
                Ok(()) => Balanced::Xdp,
                Err(why) => Balanced::UserSpace(why),
            });
        }
        fast.balanced = balanced;
        fast.routes(tables, receiving);
        fast
    }

    fn way(&mut self, way: Way) -> u32 {
        let known = self.ways.iter().position(|known| *known == way);
        known.unwrap_or_else(|| {
            self.ways.push(way);
            self.ways.len() - 1
        }) as u32
    }

    fn service(
        &mut self,
        tables: &RuleTables,
        snapshot: &Snapshot,
        receiving: &[usize],
        ids: &BTreeMap<IpAddr, u32>,
        index: usize,
        spec: &ServiceSpec,
    ) -> Result<(), &'static str> {
        if !spec.stateless {
            return Err("it has sessions");
        }
        if spec.policer.is_some() {
            return Err("it has a policer");
        }
        if spec.mark.is_some_and(|mark| mark >= MARK_KEEP) {
            return Err("its mark depends on the packet");
        }
        let ports: Vec<u16> = match spec.protocol {
            ServiceProtocol::Icmp => vec![0],
            _ => spec.ports.iter().flat_map(|range: &PortRange| range.first..=range.last).take(MAX_PORTS + 1).collect(),
        };
        if ports.len() > MAX_PORTS {
            return Err("it has more than 64 ports");
        }
        let ways: Result<Vec<Way>, &'static str> =
            spec.backends.iter().map(|backend| the_way(snapshot, receiving, backend.address)).collect();
        let ways = ways?;
        if ways.iter().any(|way| is_shaped(tables, *way)) {
            return Err("packets wait at the port of a backend, which is shaped");
        }
        if spec.mode == ServiceMode::DsrMac && ways.iter().zip(&spec.backends).any(|(way, b)| way.address != b.address)
        {
            return Err("a backend is not on a link of ours");
        }
        let live = snapshot.services.named(&spec.name).ok_or("it is not in use yet")?;
        let first_backend = self.backends.len() as u32;
        for (backend, way) in spec.backends.iter().zip(ways) {
            let v6 = backend.address.is_ipv6();
            let own = tables.interfaces.get(way.interface).map(|out| out.addresses.as_slice()).unwrap_or_default();
            let src = own.iter().map(|cidr| cidr.addr).find(|ip| ip.is_ipv6() == v6);
            // On the next hop's prefix there is one, except where the next hop is of another family, which is none.
            let (src, hop) = (octets(src.unwrap_or(backend.address)), self.way(way));
            self.backends.push(Backend { src, dst: octets(backend.address), hop, is_v6: u32::from(v6) });
        }
        for v6 in [false, true] {
            let slots = live.ring(v6).len();
            if slots == 0 {
                continue;
            }
            let chunks = slots.div_ceil(CHUNK);
            self.rings.push(RingPlace { service: index, v6, first_chunk: self.chunks, chunks });
            let entry = Service {
                first_slot: (self.chunks * CHUNK) as u32,
                slots: slots as u32,
                reciprocal: ((1u128 << 64) / slots as u128) as u64,
                first_backend,
                mode: spec.mode as u8,
                affinity: u8::from(spec.source_affinity),
                dscp: spec.mark.unwrap_or(NO_DSCP),
                reserved: 0,
            };
            self.chunks += chunks;
            for address in spec.addresses.iter().filter(|address| address.is_ipv6() == v6) {
                let id = ids.get(address).copied().unwrap_or(0);
                let protocol = spec.protocol.number(v6);
                let key = |port| ServiceKey { address: id, port, protocol, reserved: 0 };
                self.services.extend(ports.iter().map(|&port| (key(port), entry)));
            }
        }
        Ok(())
    }

    fn routes(&mut self, tables: &RuleTables, receiving: &[usize]) {
        if tables.routes.len() > MAX_ROUTES {
            self.forwards_nothing = Some("there are more than 16384 routes");
            return;
        }
        let wanted = |table: u32| receiving.iter().any(|&i| tables.interfaces.get(i).is_some_and(|i| i.table == table));
        for interface in tables.interfaces.iter().filter(|interface| wanted(interface.table)) {
            for cidr in &interface.addresses {
                // Who is there changes with every neighbour.
                self.insert(interface.table, cidr.network().addr, cidr.len, ROUTE_LEAVE);
            }
        }
        for route in tables.routes.iter().filter(|route| wanted(route.table)) {
            let value = match &route.action {
                RouteAction::Via(hops) => match hops.as_slice() {
                    [NextHopSpec { interface, address, .. }] => {
                        let way = Way { interface: *interface, address: *address };
                        if is_shaped(tables, way) { ROUTE_LEAVE } else { self.way(way) }
                    }
                    _ => ROUTE_LEAVE,
                },
                RouteAction::Blackhole => ROUTE_BLACKHOLE,
                RouteAction::Reject => ROUTE_LEAVE,
            };
            self.insert(route.table, route.prefix.addr, route.prefix.len, value);
        }
    }

    fn insert(&mut self, table: u32, prefix: IpAddr, len: u8, value: u32) {
        match prefix {
            IpAddr::V4(a) => self.routes_v4.insert((table, u128::from(a.to_bits()) << 96, len), value),
            IpAddr::V6(a) => self.routes_v6.insert((table, a.to_bits(), len), value),
        };
    }
}

/// A ring's slots as the program reads them.
pub fn chunks(slots: impl Iterator<Item = Option<u16>>) -> Vec<Chunk> {
    let slots: Vec<u16> = slots.map(|slot| slot.unwrap_or(NOBODY)).collect();
    let chunk = |part: &[u16]| {
        let mut chunk = Chunk { slots: [NOBODY; CHUNK] };
        chunk.slots[..part.len()].copy_from_slice(part);
        chunk
    };
    slots.chunks(CHUNK).map(chunk).collect()
}

/// Whether packets that go this way wait in queues, which only the engine has.
fn is_shaped(tables: &RuleTables, way: Way) -> bool {
    let port = tables.interfaces.get(way.interface).map(|out| out.port);
    tables.shapers.iter().any(|shaper| Some(shaper.port) == port)
}

/// The one next hop to a backend, wherever a packet came in.
fn the_way(snapshot: &Snapshot, receiving: &[usize], backend: IpAddr) -> Result<Way, &'static str> {
    let mut ways = receiving.iter().map(|&interface| match snapshot.route(interface as u32, from_ip(backend)) {
        Some(Route::Connected { interface, .. }) => Ok(Way { interface: interface as usize, address: backend }),
        Some(Route::Via(range)) if range.count == 1 => {
            let hop = snapshot.only_hop(range).ok_or("its backends have no route")?;
            Ok(Way { interface: hop.interface as usize, address: to_ip(hop.address) })
        }
        Some(Route::Via(_)) => Err("a backend has several next hops"),
        _ => Err("a backend has no route"),
    });
    let first = ways.next().ok_or("no port sends packets on in XDP")??;
    match ways.find(|way| *way != Ok(first)) {
        None => Ok(first),
        Some(Err(why)) => Err(why),
        Some(Ok(_)) => Err("a backend's next hop depends on the routing table"),
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(a) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&a.octets());
            octets
        }
        IpAddr::V6(a) => a.octets(),
    }
}

/// The entry of a hop whose MAC address is not known.
pub fn hop(tables: &RuleTables, way: Way, out: Option<Out>) -> abi::Hop {
    let interface = tables.interfaces.get(way.interface);
    let mtu = interface.and_then(|interface| tables.ports.get(interface.port)).map_or(0, |port| u32::from(port.mtu));
    let vlan = interface.and_then(|interface| interface.vlan).unwrap_or(0);
    let (ifindex, src_mac) = out.map_or((0, [0; 6]), |out| (out.ifindex, out.mac));
    abi::Hop { dst_mac: [0; 6], known: 0, src_mac, vlan, ifindex, mtu }
}
