//! Next hops, and which of several a flow takes (`BEHAVIOUR.md` 8).
//!
//! A slot belongs to the hop with the least claim for its weight, so hops that come and go move no other hop's flows. Links that go down take
//! their hops out in place: workers find the change with their next packet, and no generation is made for it.

use std::sync::atomic::{AtomicU16, Ordering};

use crate::flow::{Addr, to_ip};
use crate::hash::{ECMP_SLOTS, hop_claim, hop_identity};
use crate::ports::PortSlot;

/// A next hop.
#[derive(Debug, Clone, Copy)]
pub struct Hop {
    /// Its address.
    pub address: Addr,
    /// Egress interface.
    pub interface: u32,
    /// The port of that.
    pub port: PortSlot,
    /// Its share among several.
    pub weight: u16,
    /// Hash in the neighbour table.
    pub neighbour_hash: u64,
}

/// The next hops of one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: u32,
    /// How many.
    pub count: u32,
    /// With several: the first of [`ECMP_SLOTS`] slots.
    slots: u32,
}

/// All next hops of a generation.
#[derive(Debug, Default)]
pub struct Hops {
    all: Vec<Hop>,
    /// By range with several hops and slot: which of them.
    slots: Vec<AtomicU16>,
    /// The ranges with several hops.
    several: Vec<Range>,
}

impl Hops {
    /// Adds the hops of a route.
    pub fn add(&mut self, hops: impl Iterator<Item = Hop>) -> Range {
        let first = self.all.len();
        self.all.extend(hops);
        let range =
            Range { first: first as u32, count: (self.all.len() - first) as u32, slots: self.slots.len() as u32 };
        if range.count > 1 {
            self.slots.extend(owners(&self.all[first..], |_| true).map(AtomicU16::new));
            self.several.push(range);
        }
        range
    }

    /// The hops of a route.
    #[inline]
    pub fn of(&self, range: Range) -> &[Hop] {
        self.all.get(range.first as usize..(range.first + range.count) as usize).unwrap_or(&[])
    }

    /// The hop of a flow with this hash.
    #[inline]
    pub fn choose(&self, range: Range, hash: impl FnOnce() -> u64) -> Option<&Hop> {
        let mut nth = range.first;
        if range.count > 1 {
            let slot = self.slots.get(range.slots as usize + hash() as usize % ECMP_SLOTS)?;
            nth += u32::from(slot.load(Ordering::Relaxed));
        }
        self.all.get(nth as usize)
    }

    /// The links of these ports are down, a bit by port slot, and no others: flows of their hops go over the others of the route, as long as there
    /// are any.
    pub fn set_down(&self, ports: u64) {
        for range in &self.several {
            let hops = self.of(*range);
            let is_up = |hop: &Hop| ports >> hop.port.index() & 1 == 0;
            let none = !hops.iter().any(is_up);
            let slots = self.slots.get(range.slots as usize..).unwrap_or(&[]);
            for (slot, owner) in slots.iter().zip(owners(hops, |hop| none || is_up(hop))) {
                slot.store(owner, Ordering::Relaxed);
            }
        }
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        self.all.len() * size_of::<Hop>()
            + self.slots.len() * size_of::<AtomicU16>()
            + self.several.len() * size_of::<Range>()
    }
}

/// For each slot the serving hop with the least claim for its weight.
fn owners(hops: &[Hop], serves: impl Fn(&Hop) -> bool) -> impl Iterator<Item = u16> {
    let serving = hops.iter().enumerate().filter(|(_, hop)| serves(hop));
    let serving: Vec<_> =
        serving.map(|(nth, hop)| (nth as u16, hop_identity(to_ip(hop.address)), u64::from(hop.weight))).collect();
    (0..ECMP_SLOTS).map(move |slot| {
        let (mut owner, mut least) = (0, (u64::MAX, 1));
        for &(nth, identity, weight) in &serving {
            let claim = hop_claim(identity, slot);
            // claim / weight < least claim / its weight; claims have 27 bits, weights 16.
            if least.0 == u64::MAX || claim * least.1 < least.0 * weight {
                (owner, least) = (nth, (claim, weight));
            }
        }
        owner
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::v4;

    fn choices(hops: &Hops, range: Range) -> Vec<u32> {
        (0..10_000u64).map(|flow| hops.choose(range, || flow * 7919).unwrap().interface).collect()
    }

    #[test]
    fn a_link_that_goes_down_moves_its_own_flows_and_back() {
        let hop = |n: u32| Hop {
            address: v4(0xc000_0200 + n),
            interface: n,
            port: PortSlot::from_index(n as usize % 3),
            weight: 1 + n as u16,
            neighbour_hash: 0,
        };
        let mut hops = Hops::default();
        let one = hops.add((9..10).map(hop));
        let range = hops.add((0..4).map(hop));
        let before = choices(&hops, range);
        // Ports 0 (hops 0 and 3) and 1.
        for (down, lost) in [(0b001, vec![0, 3]), (0b010, vec![1]), (0b011, vec![0, 1, 3])] {
            hops.set_down(down);
            for (now, was) in choices(&hops, range).iter().zip(&before) {
                assert!(!lost.contains(now) && (now == was || lost.contains(was)), "{down:b}: {was} became {now}");
            }
            hops.set_down(0);
            assert_eq!(choices(&hops, range), before);
        }
        hops.set_down(u64::MAX);
        assert_eq!(choices(&hops, range), before, "none is left: all are as good");
        assert_eq!(hops.choose(one, || 0).unwrap().interface, 9, "the only one stays");
    }
}
