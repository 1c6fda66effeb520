//! Credit in two buckets that several threads draw from: refilled by whoever comes first, lent in lots, never more in all than the
//! buckets hold.

use crate::sync::{AtomicU64, Ordering};

/// Two buckets on lines of their own. What is lent still counts as being in them.
#[derive(Debug)]
#[repr(align(128))]
pub struct Pool {
    /// Up to when credit was earned. Raised by the thread that adds what was earned since.
    last: AtomicU64,
    tokens: [AtomicU64; 2],
    lent: [AtomicU64; 2],
}

impl Pool {
    /// Full buckets.
    pub fn full(sizes: [u64; 2]) -> Self {
        Self { last: AtomicU64::new(0), tokens: sizes.map(AtomicU64::new), lent: [0; 2].map(AtomicU64::new) }
    }

    /// Adds what was `earned` in the nanoseconds until `now`: every moment is added once, whoever is first. `overflow` says how much of
    /// what the first bucket cannot hold goes to the second.
    pub fn refill(
        &self,
        now: u64,
        sizes: [u64; 2],
        earned: impl FnOnce(u64) -> [u64; 2],
        overflow: impl FnOnce(u64) -> u64,
    ) {
        if self.last.load(Ordering::Acquire) >= now {
            return;
        }
        let before = self.last.fetch_max(now, Ordering::AcqRel);
        if before >= now {
            return;
        }
        let [first, second] = earned(now - before);
        let rest = first - self.add(0, first, sizes[0]);
        self.add(1, second.saturating_add(overflow(rest)), sizes[1]);
    }

    /// As much as fits besides what is lent; returns how much that was. A bucket that was made smaller is cut.
    fn add(&self, bucket: usize, more: u64, size: u64) -> u64 {
        let tokens = &self.tokens[bucket];
        let mut before = tokens.load(Ordering::Acquire);
        loop {
            // A thread says what it takes before it takes it. So what is read here may be too much, which leaves a little out, but never
            // too little for the tokens that the exchange below finds unchanged.
            let room = size.saturating_sub(self.lent[bucket].load(Ordering::Acquire));
            let after = before.saturating_add(more).min(room);
            match tokens.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return after.saturating_sub(before),
                Err(now) => before = now,
            }
        }
    }

    /// Takes up to `want`, or nothing where there is less than `need`. Returns how much.
    pub fn borrow(&self, bucket: usize, need: u64, want: u64) -> u64 {
        let (tokens, lent) = (&self.tokens[bucket], &self.lent[bucket]);
        let mut before = tokens.load(Ordering::Acquire);
        while before >= need {
            let taken = before.min(want);
            lent.fetch_add(taken, Ordering::AcqRel);
            match tokens.compare_exchange_weak(before, before - taken, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return taken,
                Err(now) => {
                    lent.fetch_sub(taken, Ordering::AcqRel);
                    before = now;
                }
            }
        }
        0
    }

    /// So much of what was lent is spent.
    pub fn spent(&self, bucket: usize, tokens: u64) {
        if tokens > 0 {
            self.lent[bucket].fetch_sub(tokens, Ordering::AcqRel);
        }
    }

    /// So much of what was lent is there again.
    pub fn give_back(&self, bucket: usize, tokens: u64) {
        if tokens > 0 {
            self.tokens[bucket].fetch_add(tokens, Ordering::AcqRel);
            self.lent[bucket].fetch_sub(tokens, Ordering::AcqRel);
        }
    }

    /// What is in a bucket and what is lent from it.
    pub fn holds(&self, bucket: usize) -> (u64, u64) {
        (self.tokens[bucket].load(Ordering::Acquire), self.lent[bucket].load(Ordering::Acquire))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_counts_in_the_size() {
        let pool = Pool::full([100, 10]);
        let earn = |pool: &Pool, now| pool.refill(now, [100, 10], |nanos| [nanos, 0], |rest| rest);
        assert_eq!(pool.borrow(0, 101, 200), 0, "less than what is needed is nothing");
        assert_eq!(pool.borrow(0, 30, 60), 60);
        assert_eq!(pool.borrow(0, 30, 60), 40);
        earn(&pool, 50);
        assert_eq!((pool.holds(0), pool.holds(1)), ((0, 100), (10, 0)), "all of it is lent");
        pool.spent(0, 50);
        earn(&pool, 50);
        assert_eq!(pool.holds(0), (0, 50), "the same moment twice earns nothing");
        pool.borrow(1, 5, 5);
        pool.spent(1, 5);
        earn(&pool, 103);
        assert_eq!((pool.holds(0), pool.holds(1)), ((50, 50), (8, 0)), "three run over");
        pool.give_back(0, 50);
        assert_eq!(pool.holds(0), (100, 0));
        earn(&pool, 10);
        pool.refill(104, [40, 4], |_| [1, 0], |rest| rest);
        assert_eq!((pool.holds(0), pool.holds(1)), ((40, 0), (4, 0)), "smaller buckets are cut");
    }
}

/// Loom explores every interleaving of refilling, borrowing and giving back.
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use crate::sync::Arc;
    use loom::thread;

    const SIZE: u64 = 4;

    fn refill(pool: &Pool, now: u64) {
        pool.refill(now, [SIZE, 0], |nanos| [nanos, 0], |_| 0);
    }

    /// Starts a pool of which all is spent, at time 0.
    fn empty() -> Arc<Pool> {
        let pool = Pool::full([SIZE, 0]);
        let all = pool.borrow(0, SIZE, SIZE);
        pool.spent(0, all);
        Arc::new(pool)
    }

    #[test]
    fn every_moment_is_earned_once() {
        loom::model(|| {
            let pool = empty();
            let other = pool.clone();
            let worker = thread::spawn(move || {
                refill(&other, 2);
                let got = other.borrow(0, 1, 1);
                other.spent(0, got);
                got
            });
            refill(&pool, 3);
            let got = pool.borrow(0, 1, 1);
            pool.spent(0, got);
            let got = got + worker.join().unwrap();
            let (tokens, lent) = pool.holds(0);
            assert_eq!((tokens + got, lent), (3, 0), "three nanoseconds, three tokens");
        });
    }

    #[test]
    fn pool_and_loans_never_hold_more_than_the_bucket() {
        loom::model(|| {
            let pool = Arc::new(Pool::full([SIZE, 0]));
            let other = pool.clone();
            let worker = thread::spawn(move || {
                let got = other.borrow(0, 1, 2);
                other.give_back(0, got);
            });
            let got = pool.borrow(0, 1, 3);
            refill(&pool, 9);
            worker.join().unwrap();
            let (tokens, lent) = pool.holds(0);
            assert_eq!(lent, got);
            assert!(tokens + lent <= SIZE, "{tokens} and {lent}");
        });
    }
}
