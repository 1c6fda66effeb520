//! Single rate three colour marker, colour-blind (RFC 2697), in exact integer arithmetic.
//!
//! Tokens are counted in millionths of a bit: a rate of 1 kbit/s is exactly one unit per nanosecond, so refilling is one
//! multiplication without division or rounding and the long-run error is zero. One octet costs 8,000,000 units.

use crate::tables::{PolicerAction, PolicerSpec};

/// Token units per octet.
pub const UNITS_PER_OCTET: u64 = 8_000_000;

/// Largest burst size in octets: two buckets and an arriving refill fit a `u64` of units.
pub const MAX_BURST_OCTETS: u64 = 1 << 39;

/// The colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Within the committed burst.
    Green,
    /// Within the excess burst.
    Yellow,
    /// Beyond both.
    Red,
}

/// A policer as the snapshot holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicerTable {
    /// Place of the state in each worker's array; kept across generations for equal names.
    pub slot: u32,
    /// Changes when the slot goes to another policer, whose buckets then start full.
    pub incarnation: u32,
    /// Units per nanosecond.
    pub cir: u64,
    /// Committed bucket's size in units.
    pub cbs: u64,
    /// Excess bucket's size in units.
    pub ebs: u64,
    /// Per colour.
    pub actions: [PolicerAction; 3],
    /// Counter slot.
    pub counter: u32,
}

impl PolicerTable {
    /// From its specification.
    pub fn new(spec: &PolicerSpec, slot: u32, incarnation: u32, counter: u32) -> Self {
        let units = |octets: u64| octets.min(MAX_BURST_OCTETS) * UNITS_PER_OCTET;
        Self {
            slot,
            incarnation,
            cir: spec.cir_kbps,
            cbs: units(spec.cbs_bytes),
            ebs: units(spec.ebs_bytes),
            actions: [spec.on_green, spec.on_yellow, spec.on_red],
            counter,
        }
    }
}

/// One worker's buckets of one policer: state and parameters on one line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Policer {
    committed: u64,
    excess: u64,
    cir: u64,
    cbs: u64,
    ebs: u64,
    /// Time of the last refill in nanoseconds.
    last: u64,
    /// Generation whose parameters are in here; 0 for none.
    generation: u64,
    incarnation: u32,
    started: bool,
}

const _: () = assert!(size_of::<Policer>() == 64);

impl Policer {
    /// A state that belongs to nobody yet.
    pub const EMPTY: Self = Self {
        committed: 0,
        excess: 0,
        cir: 0,
        cbs: 0,
        ebs: 0,
        last: 0,
        generation: 0,
        incarnation: 0,
        started: false,
    };

    /// Takes over the parameters of a generation. The same policer keeps its tokens, clipped to the new sizes; another one
    /// starts full.
    #[inline]
    pub fn sync(&mut self, table: &PolicerTable, generation: u64) {
        if self.generation != generation {
            self.resync(table, generation);
        }
    }

    #[cold]
    fn resync(&mut self, table: &PolicerTable, generation: u64) {
        let keep = self.generation != 0 && self.incarnation == table.incarnation;
        *self = Self {
            committed: if keep { self.committed.min(table.cbs) } else { table.cbs },
            excess: if keep { self.excess.min(table.ebs) } else { table.ebs },
            cir: table.cir,
            cbs: table.cbs,
            ebs: table.ebs,
            last: self.last,
            generation,
            incarnation: table.incarnation,
            started: keep && self.started,
        };
    }

    /// Meters one packet of `octets` at `now` nanoseconds. A clock that runs backwards adds nothing.
    #[inline]
    pub fn meter(&mut self, now: u64, octets: usize) -> Colour {
        if !self.started {
            self.started = true;
            self.last = now;
        }
        if now > self.last {
            self.refill(now - self.last);
            self.last = now;
        }
        let cost = octets as u64 * UNITS_PER_OCTET;
        if self.committed >= cost {
            self.committed -= cost;
            Colour::Green
        } else if self.excess >= cost {
            self.excess -= cost;
            Colour::Yellow
        } else {
            Colour::Red
        }
    }

    /// Tokens go to the committed bucket, and what does not fit to the excess bucket (RFC 2697 s3).
    #[inline]
    fn refill(&mut self, nanos: u64) {
        // Saturation is beyond both buckets: MAX_BURST_OCTETS bounds their sum.
        let tokens = nanos.saturating_mul(self.cir);
        let room = self.cbs - self.committed;
        let committed = tokens.min(room);
        self.committed += committed;
        self.excess = self.excess.saturating_add(tokens - committed).min(self.ebs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policer(cir_kbps: u64, cbs: u64, ebs: u64) -> Policer {
        let table = PolicerTable {
            slot: 0,
            incarnation: 1,
            cir: cir_kbps,
            cbs: cbs * UNITS_PER_OCTET,
            ebs: ebs * UNITS_PER_OCTET,
            actions: [PolicerAction::Pass; 3],
            counter: 0,
        };
        let mut policer = Policer::EMPTY;
        policer.sync(&table, 1);
        policer
    }

    #[test]
    fn bursts_are_green_then_yellow_then_red() {
        let mut p = policer(8, 1500, 3000);
        let colours: Vec<_> = (0..5).map(|_| p.meter(0, 1000)).collect();
        assert_eq!(colours, [Colour::Green, Colour::Yellow, Colour::Yellow, Colour::Yellow, Colour::Red]);
        // 8 kbit/s refill 1,000 octets a second; 500 were left in the committed bucket.
        assert_eq!(p.meter(499_999_999, 1000), Colour::Red);
        assert_eq!(p.meter(500_000_000, 1000), Colour::Green);
    }

    #[test]
    fn a_jumping_clock_yields_at_most_one_burst() {
        let mut p = policer(1_000_000, 1500, 0);
        p.meter(u64::MAX / 2, 1500);
        assert_eq!(p.meter(u64::MAX, 1500), Colour::Green);
        assert_eq!(p.meter(u64::MAX, 1500), Colour::Red);
        assert_eq!(p.meter(0, 1500), Colour::Red, "backwards adds nothing");
    }

    #[test]
    fn long_run_rate_is_exact() {
        // 10 Mbit/s for 100 s, a 1250-octet packet offered every 100 us (10x the rate).
        let mut p = policer(10_000, 1250, 0);
        let green = (0..1_000_000u64).filter(|i| p.meter(i * 100_000, 1250) == Colour::Green).count();
        assert_eq!(green, 100_000);
    }

    #[test]
    fn a_push_keeps_the_tokens_and_a_new_policer_starts_full() {
        let mut p = policer(8, 1500, 0);
        assert_eq!(p.meter(0, 1500), Colour::Green);
        let mut table = PolicerTable {
            slot: 0,
            incarnation: 1,
            cir: 8,
            cbs: 9000 * UNITS_PER_OCTET,
            ebs: 0,
            actions: [PolicerAction::Pass; 3],
            counter: 0,
        };
        p.sync(&table, 2);
        assert_eq!(p.meter(0, 64), Colour::Red, "same policer, same empty bucket");
        table.incarnation = 2;
        p.sync(&table, 3);
        assert_eq!(p.meter(0, 9000), Colour::Green);
    }

    /// The slow twin: RFC 2697 with unlimited integers.
    struct Twin {
        committed: u128,
        excess: u128,
        last: u64,
    }

    proptest! {
        #[test]
        fn equals_the_rfc_in_wide_integers(
            cir in 1u64..=100_000_000, cbs in 0u64..1 << 32, ebs in 1u64..1 << 32,
            arrivals in prop::collection::vec((0u64..1 << 40, 20usize..9216), 1..200),
        ) {
            let mut p = policer(cir, cbs, ebs);
            let unit = u128::from(UNITS_PER_OCTET);
            let (cbs, ebs) = (u128::from(cbs) * unit, u128::from(ebs) * unit);
            let mut twin = Twin { committed: cbs, excess: ebs, last: 0 };
            let mut now = 0;
            for (i, (step, len)) in arrivals.into_iter().enumerate() {
                now += step;
                if i > 0 {
                    let tokens = u128::from(now - twin.last) * u128::from(cir);
                    let total = twin.committed + tokens;
                    twin.committed = total.min(cbs);
                    twin.excess = (twin.excess + (total - twin.committed)).min(ebs);
                }
                twin.last = now;
                let cost = len as u128 * unit;
                let expected = if twin.committed >= cost { twin.committed -= cost; Colour::Green }
                    else if twin.excess >= cost { twin.excess -= cost; Colour::Yellow } else { Colour::Red };
                prop_assert_eq!(p.meter(now, len), expected);
            }
        }
    }
}
