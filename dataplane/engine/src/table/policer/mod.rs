//! Policers: three colour markers of rules, services, interfaces and sources.
//!
//! A worker that is alone has the buckets of each policer, beside what they allow, on one cache line. Several workers draw from a pool
//! (`shared.rs`); sources have buckets in a table of their own (`sources.rs`).

mod meter;
mod shared;
mod sources;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use marchproxy_rcu::Pool;

use crate::flow::Addr;
use crate::tables::{PolicerAction, PolicerSpec, SourcesSpec};

pub use meter::{
    Buckets, Colour, MAX_BURST_OCTETS, MAX_BURST_PACKETS, MAX_RATES, Profile, UNITS_PER_OCTET, UNITS_PER_PACKET,
};
use shared::Loan;
use sources::Sources;

/// A policer as the snapshot holds it.
#[derive(Clone, Debug)]
pub struct PolicerTable {
    /// Place of the state in each worker's array; kept across generations for equal names.
    pub slot: u32,
    /// Changes when the slot goes to another policer, whose buckets then start full.
    pub incarnation: u32,
    /// Whether nothing but the packet's length is asked for: one worker, colour-blind, no sources.
    pub plain: bool,
    /// What it allows.
    pub profile: Profile,
    /// Per colour.
    pub actions: [PolicerAction; 3],
    /// Counter slot.
    pub counter: u32,
    /// Counter slots of yellow and red packets.
    pub worse: [u32; 2],
    /// What several workers draw from.
    pub pool: Option<Arc<Pool>>,
    /// What a worker takes from the pool beyond what a packet wants.
    lots: [u64; 2],
    /// What a source is, where each has buckets of its own.
    sources: Option<SourcesSpec>,
    /// What each source may have of one worker, which counts packets `workers` times.
    of_source: Profile,
    workers: u64,
    fills_in: u64,
}

impl PolicerTable {
    /// From its specification, for one worker of several.
    pub fn new(spec: &PolicerSpec, slot: u32, incarnation: u32, workers: usize) -> Self {
        let profile = Profile::new(spec);
        let shares = workers.max(1) as u64;
        let of_source = profile.divided(shares);
        Self {
            slot,
            incarnation,
            plain: workers <= 1 && !spec.colour_aware && spec.per_source.is_none(),
            profile,
            actions: [spec.on_green, spec.on_yellow, spec.on_red],
            counter: crate::burst::NONE,
            worse: [crate::burst::NONE; 2],
            pool: (workers > 1).then(|| Arc::new(Pool::full(profile.sizes))),
            lots: shared::lots(&profile, shares),
            sources: spec.per_source,
            of_source,
            workers: shares,
            fills_in: of_source.fills_in(),
        }
    }
}

/// One worker's buckets of one policer: state and parameters on one line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Policer {
    buckets: Buckets,
    profile: Profile,
    /// The lower half of the generation whose parameters are in here; 0 for none.
    generation: u32,
    incarnation: u32,
}

const _: () = assert!(size_of::<Policer>() == 64);

impl Policer {
    /// A state that belongs to nobody yet.
    pub const EMPTY: Self =
        Self { buckets: Buckets { tokens: [0; 2], last: 0 }, profile: Profile::NONE, generation: 0, incarnation: 0 };

    /// Takes over the parameters of a generation. The same policer keeps its tokens, clipped to the new sizes; another one
    /// starts full.
    #[inline]
    pub fn sync(&mut self, table: &PolicerTable, generation: u64) {
        if self.generation != generation as u32 {
            self.resync(table, generation);
        }
    }

    #[cold]
    fn resync(&mut self, table: &PolicerTable, generation: u64) {
        if self.generation == 0 || self.incarnation != table.incarnation {
            // Full buckets earn nothing, so their time does not matter.
            self.buckets.tokens = table.profile.sizes;
        }
        self.buckets.cut(&table.profile);
        (self.profile, self.generation, self.incarnation) = (table.profile, generation as u32, table.incarnation);
    }

    /// Meters one packet of `octets` at `now` nanoseconds. A clock that runs backwards adds nothing.
    #[inline]
    pub fn meter(&mut self, now: u64, octets: usize, pre: Colour) -> Colour {
        let cost = self.profile.cost(octets);
        self.buckets.meter(&self.profile, now, cost, pre)
    }
}

/// A packet to be metered.
#[derive(Clone, Copy, Debug)]
pub struct Metered {
    /// Where it comes from.
    pub source: Addr,
    /// L3 length.
    pub octets: usize,
    /// Its colour on arrival, which only a colour-aware policer asks for.
    pub pre: Colour,
}

/// One worker's policers.
#[derive(Debug)]
pub struct Policers {
    lines: Box<[Policer]>,
    loans: Box<[Loan]>,
    sources: Sources,
    /// The policer whose loan is looked at next.
    cursor: usize,
    /// Packets of sources without a place.
    placeless: u64,
}

impl Policers {
    /// For so many slots, and as many sources. `secret` keys the sources' hash.
    pub fn new(slots: usize, secret: u64) -> Self {
        Self {
            lines: vec![Policer::EMPTY; slots].into_boxed_slice(),
            loans: Box::default(),
            sources: Sources::new(slots, secret),
            cursor: 0,
            placeless: 0,
        }
    }

    /// Makes them those of one of several workers.
    pub fn share(&mut self) {
        self.loans = vec![Loan::NONE; self.lines.len()].into_boxed_slice();
    }

    /// The colour of a packet by a policer that is [plain](PolicerTable::plain).
    #[inline]
    pub fn meter_plain(&mut self, table: &PolicerTable, generation: u64, now: u64, octets: usize) -> Colour {
        let Some(line) = self.lines.get_mut(table.slot as usize) else { return Colour::Green };
        line.sync(table, generation);
        line.meter(now, octets, Colour::Green)
    }

    /// The colour of a packet by any policer.
    #[inline(never)]
    pub fn meter(&mut self, table: &PolicerTable, generation: u64, now: u64, packet: &Metered) -> Colour {
        let pre = if table.profile.is_aware() { packet.pre } else { Colour::Green };
        let cost = table.profile.cost(packet.octets);
        if table.sources.is_some() {
            let cost = cost.saturating_mul(table.workers);
            if let Some(colour) = self.sources.meter(table, packet.source, now, cost, pre) {
                return colour;
            }
            self.placeless += 1;
        }
        let slot = table.slot as usize;
        if let (Some(pool), Some(loan)) = (&table.pool, self.loans.get_mut(slot)) {
            return loan.meter(table, pool, now, cost, pre);
        }
        let Some(line) = self.lines.get_mut(slot) else { return Colour::Green };
        line.sync(table, generation);
        line.meter(now, packet.octets, pre)
    }

    /// Between bursts: gives back what one policer has borrowed and not used for long.
    #[inline]
    pub fn upkeep(&mut self, policers: &[PolicerTable], now: u64) {
        if !self.loans.is_empty() {
            self.give_back(policers, now);
        }
    }

    fn give_back(&mut self, policers: &[PolicerTable], now: u64) {
        self.cursor = if self.cursor + 1 < policers.len() { self.cursor + 1 } else { 0 };
        let Some(table) = policers.get(self.cursor) else { return };
        if let (Some(pool), Some(loan)) = (&table.pool, self.loans.get_mut(table.slot as usize)) {
            loan.end(table, pool, now);
        }
    }

    /// Packets that shared their policer's own buckets because their source had no place.
    pub fn placeless(&self) -> u64 {
        self.placeless
    }
}
