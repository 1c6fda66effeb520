//! What a row of results makes of a backend: rise, fall, and the hold-down of those that flap (`BEHAVIOUR.md`, "Health"). Arithmetic
//! alone: no packets, no clock.

use crate::tables::HealthSpec;

const MS: u64 = 1_000_000;
/// A backend that stays up this long after a recovery has stopped flapping.
const STABLE: u64 = 300_000 * MS;
/// Longest hold-down.
const MAX_HOLD: u64 = 300_000 * MS;
/// Doublings of the hold-down that matter: 2^24 times 20 ms is beyond [`MAX_HOLD`].
const MAX_DOUBLINGS: u32 = 24;

/// The times and counts of a service's checks, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) interval: u64,
    pub(super) timeout: u64,
    /// From the start of a failed check of a backend that is still up to the start of the next.
    retry: u64,
    rise: u32,
    fall: u32,
}

impl Pace {
    pub(super) fn new(spec: &HealthSpec) -> Self {
        let (interval, timeout) = (u64::from(spec.interval_ms) * MS, u64::from(spec.timeout_ms) * MS);
        let (rise, fall) = (u32::from(spec.rise.max(1)), u32::from(spec.fall.max(1)));
        // The first failing check starts at most an interval after the last good one did; the `fall - 1` others follow so that
        // the last has timed out when `fall` intervals are over.
        let steps = u64::from(fall - 1);
        let retry = (interval * steps).saturating_sub(timeout).checked_div(steps);
        let retry = retry.map_or(interval, |retry| retry.max(timeout).min(interval));
        Self { interval, timeout, retry, rise, fall }
    }
}

/// Where a backend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Not checked yet; it is used, and its first result decides.
    Unknown,
    /// Healthy.
    Up,
    /// Out.
    Down,
    /// Its checks succeed again, but it flapped: out until the hold-down is over.
    Held,
}

impl HealthState {
    /// The name shown to people and in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
            Self::Held => "held",
        }
    }
}

/// One backend's standing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    state: HealthState,
    /// When `state` began.
    pub(super) since: u64,
    /// Results like the last one, in a row.
    pub(super) streak: u32,
    good: bool,
    /// Times in a row that it fell soon after it had come back.
    pub(super) flaps: u32,
    recovered: Option<u64>,
    /// Not back before.
    pub(super) held_until: u64,
}

impl Standing {
    pub(super) fn new(now: u64) -> Self {
        let state = HealthState::Unknown;
        Self { state, since: now, streak: 0, good: true, flaps: 0, recovered: None, held_until: 0 }
    }

    pub(super) fn state(&self) -> HealthState {
        self.state
    }

    /// Whether it takes new sessions.
    pub(super) fn healthy(&self) -> bool {
        matches!(self.state, HealthState::Unknown | HealthState::Up)
    }

    /// Takes a result into account.
    pub(super) fn record(&mut self, good: bool, now: u64, pace: &Pace) {
        self.streak = if self.good == good { self.streak.saturating_add(1) } else { 1 };
        self.good = good;
        let row = self.streak;
        let next = match (self.state, good) {
            (HealthState::Up, false) if row < pace.fall => HealthState::Up,
            (_, false) => HealthState::Down,
            (HealthState::Down | HealthState::Held, true) if row < pace.rise => HealthState::Down,
            (HealthState::Down | HealthState::Held, true) if now < self.held_until => HealthState::Held,
            (_, true) => HealthState::Up,
        };
        if next == self.state {
            return;
        }
        let before = self.healthy();
        self.state = next;
        self.since = now;
        match (before, self.healthy()) {
            (true, false) => self.fell(now, pace),
            (false, true) => self.recovered = Some(now),
            _ => {}
        }
    }

    /// It went down: soon after a recovery that is a flap, and each in a row doubles the hold-down.
    fn fell(&mut self, now: u64, pace: &Pace) {
        let soon = self.recovered.is_some_and(|at| now.saturating_sub(at) < STABLE);
        self.flaps = if soon { self.flaps.saturating_add(1) } else { 0 };
        let hold = match self.flaps {
            0 => 0,
            flaps => (pace.interval * u64::from(pace.rise)).saturating_mul(1 << flaps.min(MAX_DOUBLINGS)).min(MAX_HOLD),
        };
        self.held_until = now + hold;
    }

    /// When the next check starts, after one that started at `started`.
    pub(super) fn next_start(&self, started: u64, pace: &Pace) -> u64 {
        started + if self.state == HealthState::Up && !self.good { pace.retry } else { pace.interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(interval_ms: u32, timeout_ms: u32, rise: u16, fall: u16) -> Pace {
        Pace::new(&HealthSpec { interval_ms, timeout_ms, rise, fall, ..HealthSpec::default() })
    }

    /// Runs results at the interval and gives the state after each: `+` up, `-` down, `h` held.
    fn run(standing: &mut Standing, start: u64, pace: &Pace, results: &str) -> String {
        let state = |(n, result): (usize, char)| {
            standing.record(result == '+', start + n as u64 * pace.interval, pace);
            match standing.state() {
                HealthState::Unknown => '?',
                HealthState::Up => '+',
                HealthState::Down => '-',
                HealthState::Held => 'h',
            }
        };
        results.chars().enumerate().map(state).collect()
    }

    #[test]
    fn the_first_result_decides_then_rise_and_fall_do() {
        let pace = pace(1000, 500, 2, 3);
        let table = [("+", "+"), ("-", "-"), ("+--+--+---", "+++++++++-"), ("-+-++", "----+"), ("+---+++", "+++--++")];
        for (results, states) in table {
            assert_eq!(run(&mut Standing::new(0), 0, &pace, results), states, "{results}");
        }
    }

    #[test]
    fn silence_is_known_within_fall_intervals_of_the_last_good_check() {
        for (interval, fall) in [(2000, 3), (2000, 2), (20, 1), (200, 10), (60_000, 2), (100, 2), (3_600_000, 100)] {
            let longest = HealthSpec::longest_timeout_ms(interval, fall);
            for timeout in [1, longest / 2, longest] {
                let pace = pace(interval, timeout.max(1), 2, fall);
                let mut standing = Standing::new(0);
                standing.record(true, 0, &pace);
                let (mut start, mut end) = (standing.next_start(0, &pace), 0);
                while standing.healthy() {
                    assert!(start >= end, "checks of one backend do not overlap");
                    end = start + pace.timeout;
                    standing.record(false, end, &pace);
                    start = standing.next_start(start, &pace);
                }
                let allowed = u64::from(fall) * pace.interval + if fall < 3 { 50 * MS } else { 0 };
                assert!(end <= allowed, "interval {interval}, timeout {timeout}, fall {fall}: {end} of {allowed}");
            }
        }
    }

    #[test]
    fn a_backend_that_flaps_is_held_down_longer_each_time() {
        let pace = pace(1000, 500, 2, 1);
        let mut standing = Standing::new(0);
        assert_eq!(run(&mut standing, 0, &pace, "+-++"), "+--+");
        // Fell 1 s after it had come back: two intervals times rise.
        assert_eq!(run(&mut standing, 4000 * MS, &pace, "-++++"), "--hh+");
        assert_eq!(standing.flaps, 1);
        assert_eq!(run(&mut standing, 10_000 * MS, &pace, "-++++++++"), "--hhhhhh+");
        assert_eq!(standing.flaps, 2);
        // A failure while it is held begins the row anew.
        assert_eq!(run(&mut standing, 19_000 * MS, &pace, "-++-++"), "--h--h");
        let later = 19_000 * MS + 16_000 * MS;
        assert_eq!(run(&mut standing, later, &pace, "+"), "+");
        // Up for long enough, the past is forgotten.
        assert_eq!(run(&mut standing, later + STABLE, &pace, "-++"), "--+");
        assert_eq!(standing.flaps, 0);
    }

    #[test]
    fn the_hold_down_has_a_longest() {
        let pace = pace(1000, 10, 1, 1);
        let mut standing = Standing::new(0);
        standing.record(true, 0, &pace);
        let mut now = 0;
        for _ in 0..100 {
            standing.record(false, now, &pace);
            now = now.max(standing.held_until);
            assert!(standing.held_until - standing.since <= MAX_HOLD);
            standing.record(true, now, &pace);
            assert!(standing.healthy());
        }
        assert_eq!(standing.flaps, 99);
    }
}
