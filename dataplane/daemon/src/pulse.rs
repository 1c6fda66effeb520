//! Whether the packet threads are alive: each counts its turns, and whoever looks remembers when the count last moved.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::runtime::Runtime;

/// A thread that did not go round its loop for so long is not alive. A turn takes microseconds, a sleep between turns a millisecond at
/// most; the rest is room for a machine with more work than cores.
pub const SILENCE: Duration = Duration::from_secs(5);

/// A thread and how long ago it was seen to move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// `worker 0`, `slow path`.
    pub thread: String,
    /// Since then.
    pub age: Duration,
}

impl Beat {
    /// Not silent for too long.
    pub fn alive(&self) -> bool {
        self.age < SILENCE
    }
}

/// What was seen of the threads; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<BTreeMap<String, (u64, Instant)>>>);

impl Pulse {
    /// Looks now. Only as good as it is asked: a thread that stopped after the last look is found silent counting from this one.
    pub fn look(&self, runtime: &dyn Runtime) -> Vec<Beat> {
        self.look_at(runtime.turns(), Instant::now())
    }

    fn look_at(&self, turns: Vec<(String, u64)>, now: Instant) -> Vec<Beat> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let beat = |(thread, count): (String, u64)| {
            let last = seen.entry(thread.clone()).or_insert((count, now));
            if last.0 != count {
                *last = (count, now);
            }
            Beat { thread, age: now.saturating_duration_since(last.1) }
        };
        turns.into_iter().map(beat).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_does_not_move_is_not_alive() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let look = |a: u64, b: u64, seconds: u64| {
            let beats = pulse.look_at(vec![("a".into(), a), ("b".into(), b)], start + Duration::from_secs(seconds));
            beats.iter().map(Beat::alive).collect::<Vec<_>>()
        };
        assert_eq!(look(1, 1, 0), [true, true]);
        assert_eq!(look(2, 1, 4), [true, true]);
        assert_eq!(look(3, 1, 5), [true, false]);
        assert_eq!(look(3, 2, 6), [true, true], "it was only slow");
    }
}
