//! Which service an (address, protocol, port) belongs to, and which addresses are services' at all.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::flow::{Addr, FlowKey, from_ip, is_v4};
use crate::hash::{hash, mix};
use crate::table::ring::Ring;
use crate::table::sessions::ServiceLimits;
use crate::tables::{
    BackendLoss, BackendSpec, BackendState, Class, HealthSpec, PortRange, ServiceMode, ServiceProtocol, ServiceSpec,
};

/// A service as the snapshot holds it.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Index into the snapshot's policers.
    pub policer: Option<u32>,
    /// DSCP for both directions.
    pub mark: Option<u8>,
    /// Class for both directions.
    pub class: Option<Class>,
    /// Counter slot.
    pub counter: u32,
    /// Limits of its sessions.
    pub limits: Option<Box<ServiceLimits>>,
    /// How packets get to its backends.
    pub mode: ServiceMode,
    /// Whether it has no sessions.
    pub stateless: bool,
    /// What becomes of sessions whose backend is lost.
    pub on_backend_loss: BackendLoss,
    /// Sources of full NAT, of IPv4 and IPv6.
    pools: [Box<[Addr]>; 2],
    /// Whether its sessions are told to the node's flow collector.
    pub flows: bool,
    /// How its backends are checked.
    pub health: Option<HealthSpec>,
    /// Its first port.
    pub first_port: Option<u16>,
    source_affinity: bool,
    backends: Box<[Backend]>,
    /// Rings of IPv4 and IPv6 service addresses.
    rings: [Ring; 2],
}

/// A backend as the snapshot holds it.
#[derive(Debug)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Where packets go.
    pub address: Addr,
    /// Destination port there, or the client's.
    pub port: Option<u16>,
    /// Counter slot.
    pub counter: u32,
    /// Share of new sessions.
    pub weight: u16,
    /// What the document says it takes.
    pub state: BackendState,
    /// Its checks say that it takes nothing. Written by the slow path alone.
    out: AtomicBool,
}

impl Backend {
    /// Whether its checks took it out of the ring.
    #[inline]
    pub fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    /// Whether document or checks say that it is out of service.
    pub fn is_lost(&self) -> bool {
        self.state == BackendState::Down || self.is_out()
    }

    /// Whether new sessions may come to it.
    pub fn is_eligible(&self) -> bool {
        self.state == BackendState::Up && !self.is_out()
    }

    /// The tuple of its replies to a client's packet.
    #[inline]
    pub fn reply_to(&self, key: &FlowKey) -> FlowKey {
        FlowKey {
            src: self.address,
            dst: key.src,
            protocol: key.protocol,
            sport: self.port.unwrap_or(key.dport),
            dport: key.sport,
        }
    }
}

impl Service {
    /// From its specification; `counter` gives the slot of the service, then of each backend by name.
    pub fn new(spec: &ServiceSpec, mut counter: impl FnMut(Option<&BackendSpec>) -> u32) -> Self {
        Self {
            name: spec.name.clone(),
            policer: spec.policer.map(|p| p as u32),
            mark: spec.mark,
            class: spec.class,
            counter: counter(None),
            limits: None,
            mode: spec.mode,
            stateless: spec.stateless,
            on_backend_loss: spec.on_backend_loss,
            pools: [false, true].map(|v6| {
                spec.source_pool.iter().filter(|pool| pool.is_ipv6() == v6).map(|pool| from_ip(*pool)).collect()
            }),
            flows: false,
            health: spec.health.clone(),
            first_port: spec.ports.first().map(|range| range.first),
            source_affinity: spec.source_affinity,
            backends: spec
                .backends
                .iter()
                .map(|b| Backend {
                    name: b.name.clone(),
                    address: from_ip(b.address),
                    port: b.port,
                    counter: counter(Some(b)),
                    weight: b.weight,
                    state: b.state,
                    out: AtomicBool::new(false),
                })
                .collect(),
            rings: [false, true].map(|v6| {
                let family = (!spec.mode.is_tunnel()).then_some(v6);
                Ring::build(&spec.backends, family, spec.health.is_some())
            }),
        }
    }

    /// The same with limits.
    #[must_use]
    pub fn with_limits(self, limits: Option<ServiceLimits>) -> Self {
        Self { limits: limits.map(Box::new), ..self }
    }

    /// The same, told to a flow collector or not.
    #[must_use]
    pub fn with_flows(self, flows: bool) -> Self {
        Self { flows, ..self }
    }

    /// Takes the backends out that `out` names, one for each, and puts all others back: at once, in the rings that workers use. Returns
    /// whether one went out. Only for a service with checks, and only from one thread.
    pub fn leave_out(&self, out: &[bool]) -> bool {
        let (mut changed, mut lost) = (false, false);
        for (backend, &now) in self.backends.iter().zip(out) {
            let before = backend.out.swap(now, Ordering::Relaxed);
            changed |= before != now;
            lost |= now && !before;
        }
        if changed {
            self.rings.iter().for_each(|ring| ring.leave_out(out));
        }
        lost
    }

    /// What leaving backends out costs at most: slots to fill.
    pub fn slots(&self) -> usize {
        self.rings.iter().map(Ring::len).sum()
    }

    /// The backends that are out stay so: those of `before`, the same service in the generation it replaces, that are the same here.
    pub fn take_over(&self, before: &Service) {
        if self.health.is_none() || before.health.is_none() {
            return;
        }
        let still_out = |b: &Backend| {
            let found = before.backends.binary_search_by(|old| old.name.as_str().cmp(&b.name));
            found.is_ok_and(|at| {
                let old = &before.backends[at];
                old.is_out() && (old.address, old.port) == (b.address, b.port)
            })
        };
        let out: Vec<bool> = self.backends.iter().map(still_out).collect();
        self.leave_out(&out);
    }

    /// The backend a new flow gets.
    #[inline]
    pub fn pick(&self, key: &FlowKey) -> Option<&Backend> {
        let ring = &self.rings[usize::from(!is_v4(key.dst))];
        self.backends.get(usize::from(ring.pick(key, self.source_affinity)?))
    }

    /// The addresses that full NAT takes a flow's source from.
    #[inline]
    pub fn pool(&self, key: &FlowKey) -> &[Addr] {
        &self.pools[usize::from(!is_v4(key.dst))]
    }

    /// The ring of a family's service addresses.
    pub fn ring(&self, v6: bool) -> &Ring {
        &self.rings[usize::from(v6)]
    }

    /// In name order.
    pub fn backends(&self) -> impl ExactSizeIterator<Item = &Backend> {
        self.backends.iter()
    }

    /// The backend at an address and port, if it is still one.
    pub fn backend_at(&self, address: Addr, port: u16, service_port: u16) -> Option<&Backend> {
        self.backends.iter().find(|b| b.address == address && b.port.unwrap_or(service_port) == port)
    }

    fn bytes(&self) -> usize {
        self.rings.iter().map(Ring::bytes).sum::<usize>() + self.backends.len() * size_of::<Backend>()
    }
}

/// Port ranges of the services of one (address, protocol), sorted, disjoint.
#[derive(Debug, Clone)]
struct Entry {
    address: Addr,
    protocol: u8,
    ports: Vec<(PortRange, u32)>,
}

/// All services of a snapshot.
#[derive(Debug, Default)]
pub struct Services {
    list: Box<[Service]>,
    /// Whether one of them has a direct mode.
    direct: bool,
    entries: Vec<Entry>,
    /// Open addressing over `entries`: index + 1, at most half full.
    slots: Box<[u32]>,
    /// The service addresses and those of source pools, sorted.
    addresses: Vec<Addr>,
    /// Open addressing over the same, at most a quarter full; `::`, which no packet is sent to, is a free place.
    address_set: Box<[Addr]>,
}

impl Services {
    /// Builds the look-up from services and their specifications, which are parallel.
    pub fn build(specs: &[ServiceSpec], services: Vec<Service>) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        let mut addresses: Vec<Addr> = Vec::new();
        let mut by_key = std::collections::HashMap::new();
        for (index, spec) in specs.iter().enumerate() {
            // Addresses of pools are answered for like services', and nothing is served there.
            addresses.extend(spec.source_pool.iter().map(|ip| from_ip(*ip)));
            for &ip in &spec.addresses {
                let address = from_ip(ip);
                addresses.push(address);
                let protocol = spec.protocol.number(ip.is_ipv6());
                let at = *by_key.entry((address, protocol)).or_insert_with(|| {
                    entries.push(Entry { address, protocol, ports: Vec::new() });
                    entries.len() - 1
                });
                let ranges = if spec.protocol == ServiceProtocol::Icmp { &[PortRange::ALL][..] } else { &spec.ports };
                entries[at].ports.extend(ranges.iter().map(|&range| (range, index as u32)));
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        let mut slots = vec![0u32; (entries.len() * 2).next_power_of_two().max(2)].into_boxed_slice();
        let mask = slots.len() - 1;
        for (index, entry) in entries.iter_mut().enumerate() {
            entry.ports.sort_unstable_by_key(|(range, _)| range.first);
            let mut slot = slot_hash(entry.address, entry.protocol) as usize & mask;
            while slots[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            slots[slot] = index as u32 + 1;
        }
        let address_set = address_set(&addresses);
        let direct = services.iter().any(|service| service.mode.is_direct());
        Self { list: services.into_boxed_slice(), direct, entries, slots, addresses, address_set }
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether packets of some service keep their addresses on the way to the backend.
    #[inline]
    pub fn has_direct(&self) -> bool {
        self.direct
    }

    /// By index.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&Service> {
        self.list.get(index as usize)
    }

    /// By name.
    pub fn named(&self, name: &str) -> Option<&Service> {
        self.list.binary_search_by(|service| service.name.as_str().cmp(name)).ok().map(|at| &self.list[at])
    }

    /// In name order.
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        self.list.iter()
    }

    /// The service for a destination. For ICMP the caller makes sure it is an echo request.
    #[inline(always)]
    pub fn lookup(&self, address: Addr, protocol: u8, port: u16) -> Option<&Service> {
        let entry = self.entry(address, protocol)?;
        let at = entry.ports.partition_point(|(range, _)| range.last < port);
        let (range, index) = entry.ports.get(at)?;
        range.contains(port).then(|| self.list.get(*index as usize))?
    }

    /// Whether the address is a service's, whatever the protocol, or one of a source pool.
    #[inline]
    pub fn is_address(&self, address: Addr) -> bool {
        let mask = self.address_set.len().wrapping_sub(1);
        let mut slot = address_hash(address) as usize & mask;
        loop {
            match self.address_set.get(slot) {
                None | Some(0) => return false,
                Some(found) if *found == address => return true,
                Some(_) => slot = (slot + 1) & mask,
            }
        }
    }

    /// All service addresses and those of source pools, sorted.
    pub fn addresses(&self) -> &[Addr] {
        &self.addresses
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        self.list.iter().map(Service::bytes).sum::<usize>()
            + self.entries.len() * size_of::<Entry>()
            + size_of_val(&*self.slots)
            + (self.addresses.len() + self.address_set.len()) * size_of::<Addr>()
    }

    #[inline]
    fn entry(&self, address: Addr, protocol: u8) -> Option<&Entry> {
        if self.entries.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut slot = slot_hash(address, protocol) as usize & mask;
        // At most half the slots are taken, so an empty one ends the walk.
        loop {
            let entry = self.entries.get((*self.slots.get(slot)? as usize).checked_sub(1)?)?;
            if entry.address == address && entry.protocol == protocol {
                return Some(entry);
            }
            slot = (slot + 1) & mask;
        }
    }
}

fn address_set(addresses: &[Addr]) -> Box<[Addr]> {
    let mut set = vec![0; (addresses.len() * 4).next_power_of_two().max(2)].into_boxed_slice();
    let mask = set.len() - 1;
    for &address in addresses {
        let mut slot = address_hash(address) as usize & mask;
        while set[slot] != 0 {
            slot = (slot + 1) & mask;
        }
        set[slot] = address;
    }
    set
}

#[inline]
fn address_hash(address: Addr) -> u64 {
    mix((address >> 64) as u64 ^ 0x9E37_79B9_7F4A_7C15, address as u64 ^ 0xD6E8_FEB8_6659_FD93)
}

#[inline]
fn slot_hash(address: Addr, protocol: u8) -> u64 {
    hash(u64::from(protocol), &[(address >> 64) as u64, address as u64])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, addresses: &[&str], protocol: ServiceProtocol, ports: &[(u16, u16)]) -> ServiceSpec {
        ServiceSpec {
            name: name.into(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            protocol,
            ports: ports.iter().map(|&(first, last)| PortRange { first, last }).collect(),
            source_affinity: false,
            backends: vec![],
            policer: None,
            mark: None,
            ..Default::default()
        }
    }

    #[test]
    fn finds_by_address_protocol_and_port() {
        let specs = [
            spec("dns", &["192.0.2.1", "2001:db8::1"], ServiceProtocol::Udp, &[(53, 53)]),
            spec("ping", &["192.0.2.1"], ServiceProtocol::Icmp, &[]),
            spec("web", &["192.0.2.1"], ServiceProtocol::Tcp, &[(80, 80), (8000, 8099)]),
            spec("web2", &["192.0.2.1"], ServiceProtocol::Tcp, &[(81, 90)]),
        ];
        let services = Services::build(&specs, specs.iter().map(|s| Service::new(s, |_| 0)).collect());
        let find = |ip: &str, protocol, port| {
            services.lookup(from_ip(ip.parse().unwrap()), protocol, port).map(|s| s.name.as_str())
        };
        assert_eq!(find("192.0.2.1", 6, 80), Some("web"));
        assert_eq!(find("192.0.2.1", 6, 8050), Some("web"));
        assert_eq!(find("192.0.2.1", 6, 85), Some("web2"));
        assert_eq!(find("192.0.2.1", 6, 91), None);
        assert_eq!(find("192.0.2.1", 6, 79), None);
        assert_eq!(find("192.0.2.1", 17, 53), Some("dns"));
        assert_eq!(find("2001:db8::1", 17, 53), Some("dns"));
        assert_eq!(find("192.0.2.1", 1, 0), Some("ping"));
        assert_eq!(find("2001:db8::1", 58, 0), None);
        assert_eq!(find("192.0.2.2", 6, 80), None);
        assert!(services.is_address(from_ip("2001:db8::1".parse().unwrap())));
        assert!(!services.is_address(0) && !Services::default().is_address(1));
    }

    #[test]
    fn many_addresses_keep_their_services() {
        let specs: Vec<_> = (0..500u16)
            .map(|i| {
                spec(
                    &format!("s{i:03}"),
                    &[&format!("10.1.{}.{}", i / 250, i % 250)],
                    ServiceProtocol::Tcp,
                    &[(80, 80)],
                )
            })
            .collect();
        let services = Services::build(&specs, specs.iter().map(|s| Service::new(s, |_| 0)).collect());
        for s in &specs {
            let found = services.lookup(from_ip(s.addresses[0]), 6, 80).unwrap();
            assert_eq!(found.name, s.name);
            assert!(services.is_address(from_ip(s.addresses[0])));
        }
        for stranger in (0..10_000).map(|n| crate::flow::v4(0x0a02_0000 + n)) {
            assert!(!services.is_address(stranger));
        }
    }
}
