//! A token bucket that lets go what it has tokens for, in exact integer arithmetic.

use crate::table::policer::UNITS_PER_OCTET;

/// Tokens are millionths of a bit (see [`crate::table::policer`]): a rate of 1 kbit/s is one of them per nanosecond, so nothing is
/// rounded and the long-run error is zero. In any time `t` at most `rate * t + depth` goes through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    tokens: u64,
    /// Time of the last refill in nanoseconds.
    last: u64,
    /// Units per nanosecond.
    rate: u64,
    depth: u64,
    /// `2^64 / rate`, so that a wait needs no division.
    inverse: u64,
}

impl Bucket {
    /// Changes rate (kbit/s) and depth (units); the tokens stay, cut to the new depth. One that never had any is full.
    pub fn set(&mut self, rate_kbps: u64, depth: u64) {
        let fresh = self.rate == 0;
        self.tokens = if fresh { depth } else { self.tokens.min(depth) };
        (self.rate, self.depth) = (rate_kbps, depth);
        self.inverse = u64::MAX / rate_kbps.max(1);
    }

    /// Whether it limits anything.
    #[inline]
    pub fn limits(&self) -> bool {
        self.rate != 0
    }

    /// Earns what time brought. A clock that runs backwards brings nothing, one that jumps no more than the bucket holds.
    #[inline]
    pub fn refill(&mut self, now: u64) {
        if now > self.last {
            let earned = (now - self.last).saturating_mul(self.rate);
            self.tokens = self.tokens.saturating_add(earned).min(self.depth);
            self.last = now;
        }
    }

    /// Whether it has tokens for this many octets.
    #[inline]
    pub fn has(&self, octets: u32) -> bool {
        self.tokens >= u64::from(octets) * UNITS_PER_OCTET
    }

    /// Takes the tokens of this many octets, as far as there are.
    #[inline]
    pub fn take(&mut self, octets: u32) {
        self.tokens = self.tokens.saturating_sub(u64::from(octets) * UNITS_PER_OCTET);
    }

    /// Nanoseconds from the last refill until it has tokens for this many octets, or one more.
    #[inline]
    pub fn wait(&self, octets: u32) -> u64 {
        let short = (u64::from(octets) * UNITS_PER_OCTET).saturating_sub(self.tokens);
        ((u128::from(short) * u128::from(self.inverse)) >> 64) as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_starts_full_and_a_jump_of_the_clock_is_worth_one_burst() {
        let mut bucket = Bucket::default();
        bucket.set(1_000_000, 3000 * UNITS_PER_OCTET);
        bucket.refill(5);
        assert!(bucket.has(3000) && !bucket.has(3001));
        bucket.take(3000);
        bucket.refill(u64::MAX);
        assert!(bucket.has(3000) && !bucket.has(3001));
        bucket.take(3000);
        bucket.refill(7);
        assert!(!bucket.has(1), "time that goes back earns nothing");
    }

    proptest! {
        /// Whatever is asked whenever: never more than rate * time + depth, and a wait is as long as it must be (1 ns at most beyond).
        #[test]
        fn rate_and_burst_hold(
            rate in prop_oneof![1u64..100, 1_000u64..1_000_000, 1_000_000u64..=400_000_000],
            depth in 1u64..100_000,
            steps in proptest::collection::vec((0u64..1 << 24, 1u32..9300), 1..100),
        ) {
            let mut bucket = Bucket::default();
            bucket.set(rate, depth * UNITS_PER_OCTET);
            let (mut now, mut sent) = (1u64, 0u128);
            bucket.refill(now);
            for (pause, octets) in steps {
                now += pause;
                bucket.refill(now);
                if bucket.has(octets) {
                    bucket.take(octets);
                    sent += u128::from(octets) * u128::from(UNITS_PER_OCTET);
                } else if u64::from(octets) <= depth {
                    let wait = bucket.wait(octets);
                    let mut later = bucket;
                    later.refill(now + wait + 1);
                    prop_assert!(later.has(octets));
                    let mut earlier = bucket;
                    earlier.refill(now + wait.saturating_sub(2));
                    prop_assert!(!earlier.has(octets) || wait < 2);
                }
                let allowed = u128::from(now - 1) * u128::from(rate) + u128::from(depth * UNITS_PER_OCTET);
                prop_assert!(sent <= allowed);
            }
        }
    }
}
