//! What a thread does between turns that moved nothing.

use std::time::Duration;

use crate::config::Idle;

/// Empty turns before the first sleep: some 10 us of polling, in which most gaps of busy traffic end.
const SPINS: u32 = 256;

/// Backs off: spins, then sleeps, each sleep twice as long up to the longest.
#[derive(Debug)]
pub(super) struct Backoff {
    idle: Idle,
    longest: Duration,
    empty: u32,
    nap: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_micros(2);

    /// For a worker: 1,024 descriptors fill in 100 us at 10 million packets a second, and traffic like that never lets it idle.
    pub(super) fn worker(idle: Idle) -> Self {
        Self { idle, longest: Duration::from_micros(100), empty: 0, nap: Self::FIRST }
    }

    /// For the slow path, whose timers are in milliseconds.
    pub(super) fn slow_path(idle: Idle) -> Self {
        // It has no core of its own, so it sleeps whatever the workers do.
        let idle = if idle == Idle::Busy { Idle::Sleep } else { idle };
        Self { idle, longest: Duration::from_millis(1), empty: 0, nap: Self::FIRST }
    }

    /// A turn moved packets, or not. Returns how long to sleep; zero means go on.
    pub(super) fn after(&mut self, packets: usize) -> Duration {
        if packets > 0 {
            self.empty = 0;
            self.nap = Self::FIRST;
            return Duration::ZERO;
        }
        self.empty = self.empty.saturating_add(1);
        if self.idle == Idle::Busy || self.empty <= SPINS {
            return Duration::ZERO;
        }
        let nap = self.nap;
        self.nap = (nap * 2).min(self.longest);
        nap
    }
}

/// Lets this thread's sleeps end when they should: the kernel's default slack is 50 us, as long as the sleep itself.
pub(super) fn precise_sleeps() {
    // Not being allowed to only makes sleeps longer.
    let _ = std::fs::write(format!("/proc/{}/timerslack_ns", nix::unistd::gettid()), "1000");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_spins_then_sleeps_longer_and_longer_and_wakes_at_once() {
        let mut backoff = Backoff::worker(Idle::Sleep);
        for _ in 0..SPINS {
            assert_eq!(backoff.after(0), Duration::ZERO);
        }
        assert_eq!(backoff.after(0), Duration::from_micros(2));
        assert_eq!(backoff.after(0), Duration::from_micros(4));
        for _ in 0..10 {
            backoff.after(0);
        }
        assert_eq!(backoff.after(0), Duration::from_micros(100));
        assert_eq!(backoff.after(1), Duration::ZERO);
        assert_eq!(backoff.after(0), Duration::ZERO);
    }

    #[test]
    fn busy_workers_never_sleep() {
        let mut backoff = Backoff::worker(Idle::Busy);
        assert!((0..10_000).all(|_| backoff.after(0).is_zero()));
        let mut slow = Backoff::slow_path(Idle::Busy);
        assert!((0..1000).any(|_| slow.after(0) == Duration::from_millis(1)));
    }
}
