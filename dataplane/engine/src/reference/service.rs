//! Section 7: services, and the Maglev ring that picks backends (Eisenbud et al., NSDI 2016, s3.4, weighted).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::layer4::Tuple;
use crate::hash::{MAGLEV_FLOW_SEED, RING_OFFSET_SEED, RING_OUT_SEED, RING_SKIP_SEED, backend_words, flow_words, hash};
use crate::tables::{BackendSpec, BackendState, ServiceProtocol, ServiceSpec};

/// Sizes of rings: primes, so that every step visits every slot.
const RING_SIZES: [usize; 4] = [1021, 4093, 16381, 65521];
/// Slots per backend that a ring has at least, up to its largest size: shares are then within about 1 % of the weights.
const SLOTS_PER_BACKEND: usize = 100;

/// The service that owns (address, protocol, port). ICMP has no ports.
pub(super) fn find(services: &[ServiceSpec], address: IpAddr, protocol: u8, port: u16) -> Option<usize> {
    services.iter().position(|service| {
        service.addresses.contains(&address)
            && service.protocol.number(address.is_ipv6()) == protocol
            && (service.protocol == ServiceProtocol::Icmp || service.ports.iter().any(|range| range.contains(port)))
    })
}

/// The rings of the running configuration, made when first asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Rings {
    by_service: HashMap<(usize, bool), Vec<usize>>,
    /// Services and backends by name: what checks say takes nothing now.
    out: HashSet<(String, String)>,
}

impl Rings {
    /// Checks say that these backends of the service are out, and no others of it.
    pub fn leave_out(&mut self, service: &str, backends: &[&str]) {
        self.out.retain(|(of, _)| of != service);
        self.out.extend(backends.iter().map(|&backend| (service.to_owned(), backend.to_owned())));
        self.by_service.clear();
    }

    /// The next configuration: what is out stays out where both check it, and it is the same backend.
    pub fn configure(&mut self, before: &[ServiceSpec], after: &[ServiceSpec]) {
        let find = |services: &[ServiceSpec], (service, backend): &(String, String)| {
            let service = services.iter().find(|s| s.name == *service && s.health.is_some())?;
            service.backends.iter().find(|b| b.name == *backend).map(|b| (b.address, b.port))
        };
        self.out.retain(|names| {
            let now = find(after, names);
            now.is_some() && now == find(before, names)
        });
        self.by_service.clear();
    }

    /// Whether the configuration or checks say that a backend is out of service.
    pub fn is_lost(&self, service: &ServiceSpec, backend: &BackendSpec) -> bool {
        backend.state == BackendState::Down || self.out.contains(&(service.name.clone(), backend.name.clone()))
    }

    /// Whether new sessions may come to a backend.
    pub fn is_eligible(&self, service: &ServiceSpec, backend: &BackendSpec) -> bool {
        backend.state == BackendState::Up && !self.is_lost(service, backend)
    }

    /// The backend for a new session with this client-side tuple.
    pub fn pick<'a>(&mut self, services: &'a [ServiceSpec], index: usize, tuple: &Tuple) -> Option<&'a BackendSpec> {
        let service = &services[index];
        let v6 = tuple.dst.is_ipv6();
        let out = &self.out;
        let ring = self.by_service.entry((index, v6)).or_insert_with(|| {
            let is_out = |b: usize| out.contains(&(service.name.clone(), service.backends[b].name.clone()));
            without(&ring(&service.backends, (!service.mode.is_tunnel()).then_some(v6)), is_out)
        });
        let words = if service.source_affinity {
            flow_words(tuple.src, tuple.dst, 0, 0, 0)
        } else {
            flow_words(tuple.src, tuple.dst, tuple.protocol, tuple.sport, tuple.dport)
        };
        let slot = hash(MAGLEV_FLOW_SEED, words.as_slice()).checked_rem(ring.len() as u64)?;
        service.backends.get(ring[slot as usize])
    }
}

/// For each slot the index of its backend; empty when no backend of the family (or of any) is eligible.
///
/// Backends take turns in order of their names. In each round a backend gains its weight, and for the largest weight it pays it
/// takes the next slot of its permutation that is still free.
fn ring(backends: &[BackendSpec], v6: Option<bool>) -> Vec<usize> {
    let eligible: Vec<usize> = (0..backends.len())
        .filter(|&i| v6.is_none_or(|v6| backends[i].address.is_ipv6() == v6) && backends[i].state == BackendState::Up)
        .collect();
    let Some(heaviest) = eligible.iter().map(|&i| u32::from(backends[i].weight)).max() else { return Vec::new() };
    let wanted = SLOTS_PER_BACKEND * eligible.len();
    let size = RING_SIZES.into_iter().find(|&size| size >= wanted).unwrap_or(RING_SIZES[3]);

    let permutations: Vec<(u64, u64)> = eligible
        .iter()
        .map(|&i| {
            let id = backend_words(backends[i].address, backends[i].port);
            let offset = hash(RING_OFFSET_SEED, id.as_slice()) % size as u64;
            let skip = hash(RING_SKIP_SEED, id.as_slice()) % (size as u64 - 1) + 1;
            (offset, skip)
        })
        .collect();
    let mut next = vec![0u64; eligible.len()];
    let mut credit = vec![0u32; eligible.len()];
    let mut slots: Vec<Option<usize>> = vec![None; size];
    let mut taken = 0;
    while taken < size {
        for (turn, &backend) in eligible.iter().enumerate() {
            credit[turn] += u32::from(backends[backend].weight);
            if credit[turn] < heaviest || taken == size {
                continue;
            }
            credit[turn] -= heaviest;
            let (offset, skip) = permutations[turn];
            loop {
                let slot = ((offset + next[turn] * skip) % size as u64) as usize;
                next[turn] += 1;
                if slots[slot].is_none() {
                    slots[slot] = Some(backend);
                    taken += 1;
                    break;
                }
            }
        }
    }
    slots.into_iter().flatten().collect()
}

/// The ring while some backends are out: other slots are drawn for theirs, eight at most, then any of the rest.
fn without(ring: &[usize], is_out: impl Fn(usize) -> bool) -> Vec<usize> {
    // In order of the names, each once.
    let rest: Vec<usize> = ring.iter().copied().filter(|b| !is_out(*b)).collect::<BTreeSet<_>>().into_iter().collect();
    if rest.is_empty() {
        return Vec::new();
    }
    let serve = |slot: usize| {
        let mut serving = ring[slot];
        for k in 1..=8 {
            if !is_out(serving) {
                return serving;
            }
            serving = ring[(hash(RING_OUT_SEED, &[slot as u64, k]) % ring.len() as u64) as usize];
        }
        if is_out(serving) {
            serving = rest[(hash(RING_OUT_SEED, &[slot as u64, 0]) % rest.len() as u64) as usize];
        }
        serving
    };
    (0..ring.len()).map(serve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use BackendState::{Down, Draining, Up};

    fn backend(last: u8, weight: u16, state: BackendState) -> BackendSpec {
        let address = IpAddr::from([10, 0, 20, last]);
        BackendSpec { name: format!("b{last}"), address, port: None, weight, state, ..Default::default() }
    }

    #[test]
    fn shares_follow_weights() {
        let slots = ring(
            &[backend(1, 10, Up), backend(2, 30, Up), backend(3, 10, Draining), backend(4, 10, Down)],
            Some(false),
        );
        assert_eq!(slots.len(), 1021);
        let share = |index| slots.iter().filter(|&&slot| slot == index).count();
        assert_eq!((share(0), share(1), share(2)), (255, 766, 0));
    }

    #[test]
    fn the_ring_grows_with_the_backends() {
        let many: Vec<_> = (1..=11).map(|last| backend(last, 1, Up)).collect();
        assert_eq!(ring(&many, Some(false)).len(), 4093);
        assert_eq!(ring(&many[..10], Some(false)).len(), 1021);
        assert!(ring(&many, Some(true)).is_empty());
        assert!(ring(&[backend(1, 1, Down)], Some(false)).is_empty());
    }

    /// The point of Maglev: most slots keep their backend when one leaves.
    #[test]
    fn a_leaving_backend_disturbs_few() {
        let all: Vec<_> = (1..=5).map(|last| backend(last, 1, Up)).collect();
        let mut fewer = all.clone();
        fewer[2].state = BackendState::Draining;
        let (before, after) = (ring(&all, Some(false)), ring(&fewer, Some(false)));
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a && **b != 2).count();
        assert!(moved < 1021 / 10, "{moved} slots moved without need");
    }
}
