//! How long to wait before the next attempt: doubling, with jitter so that a thousand nodes do not come back in one second.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// Waiting times of one connection.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait: between half and all of 200 ms, 400 ms, ... 10 s.
    pub fn next_wait(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        // The standard library seeds each RandomState anew: randomness enough for jitter.
        let random = RandomState::new().hash_one(self.failures) % 1000;
        full / 2 + full.mul_f64(random as f64 / 2000.0)
    }

    /// It worked: begin again with short waits.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_never_equal_for_all() {
        let mut backoff = Backoff::default();
        let mut full = FIRST;
        for _ in 0..40 {
            let wait = backoff.next_wait();
            assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
            full = (full * 2).min(LONGEST);
        }
        backoff.reset();
        assert!(backoff.next_wait() <= FIRST);
        let many: std::collections::BTreeSet<Duration> = (0..50).map(|_| Backoff::default().next_wait()).collect();
        assert!(many.len() > 5);
    }
}
