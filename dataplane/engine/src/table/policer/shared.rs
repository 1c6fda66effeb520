//! One limit for several workers: each borrows credit from a pool that all of them fill, in lots, and gives back what it does not use.
//!
//! What is lent counts in the pool's size, so that all workers together never spend more than one burst, and nothing is ever earned
//! twice. A worker that wants more than there is takes nothing, so no credit lies about in pieces too small for a packet.

use marchproxy_rcu::Pool;

use super::PolicerTable;
use super::meter::{Colour, Profile};

/// A worker takes at most what is earned in this time beyond what it needs at once: long enough that few packets of a fast policer touch
/// the pool, short enough that little of the limit is with a worker that has nothing to do.
const LOT_NANOS: u64 = 50_000;

/// And with all workers together no more than this part of a bucket.
const LOT_PART: u64 = 8;

/// The least lot, in octets.
const LOT_LEAST: usize = 1500;

/// What is not used for so long goes back.
const IDLE_NANOS: u64 = 100_000;

/// The lots of both buckets for one of `workers`.
pub(super) fn lots(profile: &Profile, workers: u64) -> [u64; 2] {
    let earned = profile.earned(LOT_NANOS);
    // The excess bucket of RFC 2697 has no rate of its own.
    let rates = if earned[1] == 0 { [earned[0]; 2] } else { earned };
    // Less than a packet would be of no use.
    let packet = profile.cost(LOT_LEAST);
    [0, 1].map(|bucket| match rates[bucket].min(profile.sizes[bucket] / (LOT_PART * workers)) {
        lot if lot < packet => 0,
        lot => lot,
    })
}

/// What one worker has borrowed for one policer: one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Loan {
    tokens: [u64; 2],
    /// What the pool takes for lent.
    lent: [u64; 2],
    /// When a packet was last metered.
    used: u64,
    incarnation: u32,
}

const _: () = assert!(size_of::<Loan>() == 64);

impl Loan {
    pub const NONE: Self = Self { tokens: [0; 2], lent: [0; 2], used: 0, incarnation: 0 };

    /// The colour of a packet.
    pub fn meter(&mut self, table: &PolicerTable, pool: &Pool, now: u64, cost: u64, pre: Colour) -> Colour {
        if self.incarnation != table.incarnation {
            // What was lent belonged to another policer's pool, which nobody asks any more.
            *self = Self { incarnation: table.incarnation, ..Self::NONE };
        }
        self.used = now;
        let profile = &table.profile;
        let wanted = profile.wants(self.tokens, cost, pre);
        if wanted != [false; 2] {
            pool.refill(now, profile.sizes, |nanos| profile.earned(nanos), |rest| profile.overflow(rest));
            for bucket in [0, 1] {
                // What the first one gave may be all that is needed.
                if profile.wants(self.tokens, cost, pre)[bucket] {
                    let need = cost - self.tokens[bucket];
                    let got = pool.borrow(bucket, need, need.saturating_add(table.lots[bucket]));
                    self.tokens[bucket] += got;
                    self.lent[bucket] += got;
                }
            }
        }
        let (colour, takes) = profile.decide(self.tokens, cost, pre);
        for bucket in [0, 1] {
            self.tokens[bucket] -= takes[bucket];
        }
        if wanted != [false; 2] {
            self.settle(pool);
        }
        colour
    }

    /// Tells the pool what was spent.
    fn settle(&mut self, pool: &Pool) {
        for bucket in [0, 1] {
            pool.spent(bucket, self.lent[bucket] - self.tokens[bucket]);
            self.lent[bucket] = self.tokens[bucket];
        }
    }

    /// Gives back what is left and was not used for long.
    pub fn end(&mut self, table: &PolicerTable, pool: &Pool, now: u64) {
        if self.lent == [0; 2] || self.incarnation != table.incarnation || now < self.used.saturating_add(IDLE_NANOS) {
            return;
        }
        self.settle(pool);
        for bucket in [0, 1] {
            pool.give_back(bucket, std::mem::take(&mut self.tokens[bucket]));
            self.lent[bucket] = 0;
        }
    }
}
