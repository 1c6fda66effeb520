//! Weighted Maglev (Eisenbud et al., NSDI 2016): which backend a new flow gets. Size, hash and seeds are fixed here, so that every node,
//! worker and tier picks the same backend.
//!
//! - M, the ring's size, is the smallest of [`SIZES`] that is at least 100 times the number of eligible backends, else the
//!   largest. (100 slots per backend bound the imbalance of equal weights to about 1 %.)
//! - A backend's permutation is `(offset + k * skip) mod M` with `offset = hash(RING_OFFSET_SEED, id) mod M` and
//!   `skip = hash(RING_SKIP_SEED, id) mod (M - 1) + 1`, id = address and port.
//! - Rounds in name order: credit grows by the weight; a backend whose credit reaches the largest weight pays that and takes its
//!   next free slot; until all slots are taken.
//! - A flow takes slot `hash(MAGLEV_FLOW_SEED, flow) mod M`.

use crate::flow::FlowKey;
use crate::hash::{MAGLEV_FLOW_SEED, RING_OFFSET_SEED, RING_SKIP_SEED, backend_words, hash};
use crate::tables::{BackendSpec, BackendState};

/// Ring sizes, primes.
pub const SIZES: [usize; 4] = [1021, 4093, 16381, 65521];

/// A ring over backends of one family.
#[derive(Debug, Clone, Default)]
pub struct Ring {
    /// Backend index per slot; empty when nobody is eligible.
    slots: Box<[u16]>,
}

impl Ring {
    /// Fills a ring with the backends of one family (or of both) that are up. `backends` is in name order; slots hold indexes into it.
    pub fn build(backends: &[BackendSpec], v6: Option<bool>) -> Self {
        let eligible: Vec<_> = backends
            .iter()
            .enumerate()
            .filter(|(_, b)| v6.is_none_or(|v6| b.address.is_ipv6() == v6) && b.state == BackendState::Up)
            .collect();
        let Some(largest) = eligible.iter().map(|(_, b)| u32::from(b.weight)).max() else { return Self::default() };
        let size = SIZES.into_iter().find(|&m| m >= 100 * eligible.len()).unwrap_or(SIZES[SIZES.len() - 1]);
        let mut slots = vec![u16::MAX; size].into_boxed_slice();
        let mut walkers: Vec<_> = eligible
            .iter()
            .map(|(index, backend)| {
                let id = backend_words(backend.address, backend.port);
                Walker {
                    backend: *index as u16,
                    weight: u32::from(backend.weight),
                    credit: 0,
                    position: (hash(RING_OFFSET_SEED, id.as_slice()) % size as u64) as usize,
                    skip: (hash(RING_SKIP_SEED, id.as_slice()) % (size as u64 - 1)) as usize + 1,
                }
            })
            .collect();
        let mut free = size;
        while free > 0 {
            for walker in &mut walkers {
                walker.credit += walker.weight;
                if walker.credit >= largest && free > 0 {
                    walker.credit -= largest;
                    walker.take(&mut slots);
                    free -= 1;
                }
            }
        }
        Self { slots }
    }

    /// Backend index for a client's tuple towards the service; `None` when nobody is eligible.
    #[inline]
    pub fn pick(&self, key: &FlowKey, source_affinity: bool) -> Option<u16> {
        if self.slots.is_empty() {
            return None;
        }
        let key = if source_affinity { FlowKey { protocol: 0, sport: 0, dport: 0, ..*key } } else { *key };
        self.slots.get((key.hash(MAGLEV_FLOW_SEED) % self.slots.len() as u64) as usize).copied()
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }
}

/// A backend on its way through its permutation.
struct Walker {
    backend: u16,
    weight: u32,
    credit: u32,
    position: usize,
    skip: usize,
}

impl Walker {
    fn take(&mut self, slots: &mut [u16]) {
        while slots[self.position] != u16::MAX {
            self.position = (self.position + self.skip) % slots.len();
        }
        slots[self.position] = self.backend;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::v4;

    fn backends(weights: &[u16]) -> Vec<BackendSpec> {
        weights
            .iter()
            .enumerate()
            .map(|(i, &weight)| BackendSpec {
                name: format!("b{i:03}"),
                address: format!("10.0.0.{}", i + 1).parse().unwrap(),
                port: Some(80),
                weight,
                ..Default::default()
            })
            .collect()
    }

    fn shares(ring: &Ring, n: usize) -> Vec<f64> {
        let mut counts = vec![0usize; n];
        for &slot in &ring.slots {
            counts[usize::from(slot)] += 1;
        }
        counts.iter().map(|&c| c as f64 / ring.slots.len() as f64).collect()
    }

    #[test]
    fn slots_follow_the_weights() {
        let ring = Ring::build(&backends(&[1, 2, 3, 10]), Some(false));
        for (share, weight) in shares(&ring, 4).iter().zip([1.0, 2.0, 3.0, 10.0]) {
            assert!((share * 16.0 / weight - 1.0).abs() < 0.03, "share {share} for weight {weight}");
        }
    }

    #[test]
    fn losing_a_backend_moves_few_other_flows() {
        let all = backends(&[1; 20]);
        let mut fewer = all.clone();
        fewer[7].state = BackendState::Draining;
        let (before, after) = (Ring::build(&all, Some(false)), Ring::build(&fewer, Some(false)));
        let moved = before.slots.iter().zip(&after.slots).filter(|&(b, a)| *b != 7 && b != a).count();
        assert!(moved * 100 < before.slots.len() * 5, "{moved} of {} slots moved without need", before.slots.len());
        assert!(!after.slots.contains(&7));
    }

    #[test]
    fn nobody_eligible_means_no_backend() {
        let mut all = backends(&[1]);
        let key = FlowKey { src: v4(1), dst: v4(2), protocol: 6, sport: 1, dport: 2 };
        assert!(Ring::build(&all, Some(true)).pick(&key, false).is_none());
        all[0].state = BackendState::Down;
        assert!(Ring::build(&all, Some(false)).pick(&key, false).is_none());
    }

    #[test]
    fn affinity_ignores_ports() {
        let ring = Ring::build(&backends(&[1; 8]), Some(false));
        let key = FlowKey { src: v4(1), dst: v4(2), protocol: 6, sport: 1, dport: 2 };
        let picks: Vec<_> = (0..64).map(|sport| ring.pick(&FlowKey { sport, ..key }, true)).collect();
        assert!(picks.windows(2).all(|w| w[0] == w[1]));
        let spread: std::collections::HashSet<_> =
            (0..64).map(|sport| ring.pick(&FlowKey { sport, ..key }, false)).collect();
        assert!(spread.len() > 4);
    }
}
