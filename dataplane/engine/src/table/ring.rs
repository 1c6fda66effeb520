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
//! - While a backend is out (health), each of its slots belongs to another: of the slots `hash(RING_OUT_SEED, slot, k) mod M` for
//!   k = 1 to 8 the first whose backend is not out, else the backend number `hash(RING_OUT_SEED, slot, 0) mod H` of the ring's H backends
//!   that are not out, in name order. So only flows of backends that are out change, and they spread by the weights.

use std::sync::atomic::{AtomicU16, Ordering};

use crate::flow::FlowKey;
use crate::hash::{MAGLEV_FLOW_SEED, RING_OFFSET_SEED, RING_OUT_SEED, RING_SKIP_SEED, backend_words, hash};
use crate::tables::{BackendSpec, BackendState};

/// Ring sizes, primes.
pub const SIZES: [usize; 4] = [1021, 4093, 16381, 65521];

/// Other slots that are asked for a slot whose backend is out, before one of the rest is taken whatever its weight.
const TRIES: u64 = 8;
/// In place of a backend, when all are out.
const NOBODY: u16 = u16::MAX;

/// A ring over backends of one family.
#[derive(Debug, Default)]
pub struct Ring {
    /// Backend index per slot, or [`NOBODY`]; empty when nobody is eligible. The slow path alone writes here, while workers read: any mix
    /// of old and new slots is a valid ring, so no order between them is needed.
    slots: Box<[AtomicU16]>,
    /// The slots while nobody is out; kept for services whose backends are checked.
    base: Box<[u16]>,
}

impl Ring {
    /// Fills a ring with the backends of one family (or of both) that are up. `backends` is in name order; slots hold indexes into it. Only a
    /// `checked` one can leave backends out later.
    pub fn build(backends: &[BackendSpec], v6: Option<bool>, checked: bool) -> Self {
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
        let base = if checked { slots.clone() } else { Box::default() };
        Self { slots: slots.into_iter().map(AtomicU16::new).collect(), base }
    }

    /// Gives the slots of the backends that are out to the others. `out` is by backend.
    pub fn leave_out(&self, out: &[bool]) {
        let is_out = |backend: u16| out.get(usize::from(backend)).copied().unwrap_or(true);
        let mut stays = vec![false; out.len()];
        for &backend in self.base.iter().filter(|&&backend| !is_out(backend)) {
            stays[usize::from(backend)] = true;
        }
        let rest: Vec<u16> = (0..out.len()).filter(|&backend| stays[backend]).map(|backend| backend as u16).collect();
        let draw = |slot: u64, k: u64, of: usize| (hash(RING_OUT_SEED, &[slot, k]) % of as u64) as usize;
        let other = |slot: u64| {
            let tried = (1..=TRIES).map(|k| self.base[draw(slot, k, self.base.len())]);
            tried.filter(|&backend| !is_out(backend)).chain([rest[draw(slot, 0, rest.len())]]).next().unwrap_or(NOBODY)
        };
        for (number, (slot, &base)) in self.slots.iter().zip(&self.base).enumerate() {
            let backend = match (is_out(base), rest.is_empty()) {
                (false, _) => base,
                (true, true) => NOBODY,
                (true, false) => other(number as u64),
            };
            slot.store(backend, Ordering::Relaxed);
        }
    }

    /// The backend of every slot, as of now; none where all are out.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = Option<u16>> {
        self.slots.iter().map(|slot| Some(slot.load(Ordering::Relaxed)).filter(|&backend| backend != NOBODY))
    }

    /// How many slots it has.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no backend was eligible.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Backend index for a client's tuple towards the service; `None` when nobody is eligible.
    #[inline]
    pub fn pick(&self, key: &FlowKey, source_affinity: bool) -> Option<u16> {
        if self.slots.is_empty() {
            return None;
        }
        let key = if source_affinity { FlowKey { protocol: 0, sport: 0, dport: 0, ..*key } } else { *key };
        let slot = self.slots.get((key.hash(MAGLEV_FLOW_SEED) % self.slots.len() as u64) as usize)?;
        Some(slot.load(Ordering::Relaxed)).filter(|&backend| backend != NOBODY)
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.slots) + size_of_val(&*self.base)
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

    fn picks(ring: &Ring) -> Vec<u16> {
        ring.slots.iter().map(|slot| slot.load(Ordering::Relaxed)).collect()
    }

    fn shares(ring: &Ring, n: usize) -> Vec<f64> {
        let mut counts = vec![0usize; n];
        for slot in picks(ring) {
            counts[usize::from(slot)] += 1;
        }
        counts.iter().map(|&c| c as f64 / ring.slots.len() as f64).collect()
    }

    #[test]
    fn slots_follow_the_weights() {
        let ring = Ring::build(&backends(&[1, 2, 3, 10]), Some(false), true);
        for (share, weight) in shares(&ring, 4).iter().zip([1.0, 2.0, 3.0, 10.0]) {
            assert!((share * 16.0 / weight - 1.0).abs() < 0.03, "share {share} for weight {weight}");
        }
    }

    #[test]
    fn losing_a_backend_moves_few_other_flows() {
        let all = backends(&[1; 20]);
        let mut fewer = all.clone();
        fewer[7].state = BackendState::Draining;
        let (before, after) = (Ring::build(&all, Some(false), true), Ring::build(&fewer, Some(false), true));
        let moved = picks(&before).iter().zip(&picks(&after)).filter(|&(b, a)| *b != 7 && b != a).count();
        assert!(moved * 100 < before.slots.len() * 5, "{moved} of {} slots moved without need", before.slots.len());
        assert!(!picks(&after).contains(&7));
    }

    #[test]
    fn nobody_eligible_means_no_backend() {
        let mut all = backends(&[1]);
        let key = FlowKey { src: v4(1), dst: v4(2), protocol: 6, sport: 1, dport: 2 };
        assert!(Ring::build(&all, Some(true), true).pick(&key, false).is_none());
        all[0].state = BackendState::Down;
        assert!(Ring::build(&all, Some(false), true).pick(&key, false).is_none());
    }

    #[test]
    fn affinity_ignores_ports() {
        let ring = Ring::build(&backends(&[1; 8]), Some(false), true);
        let key = FlowKey { src: v4(1), dst: v4(2), protocol: 6, sport: 1, dport: 2 };
        let picks: Vec<_> = (0..64).map(|sport| ring.pick(&FlowKey { sport, ..key }, true)).collect();
        assert!(picks.windows(2).all(|w| w[0] == w[1]));
        let spread: std::collections::HashSet<_> =
            (0..64).map(|sport| ring.pick(&FlowKey { sport, ..key }, false)).collect();
        assert!(spread.len() > 4);
    }

    #[test]
    fn backends_that_are_out_move_their_own_flows_only() {
        let ring = Ring::build(&backends(&[1, 2, 3, 10]), Some(false), true);
        let before = picks(&ring);
        ring.leave_out(&[false, false, true, false]);
        let after = picks(&ring);
        assert!(before.iter().zip(&after).all(|(b, a)| if *b == 2 { *a != 2 } else { a == b }));
        for (share, weight) in shares(&ring, 4).iter().zip([1.0, 2.0, 0.0, 10.0]) {
            assert!((share - weight / 13.0).abs() < 0.03, "share {share} for weight {weight}");
        }
        ring.leave_out(&[true, false, true, true]);
        assert!(picks(&ring).iter().all(|&backend| backend == 1));
        ring.leave_out(&[true; 4]);
        let key = FlowKey { src: v4(1), dst: v4(2), protocol: 6, sport: 1, dport: 2 };
        assert_eq!(ring.pick(&key, false), None);
        ring.leave_out(&[false; 4]);
        assert_eq!(picks(&ring), before);
    }
}
