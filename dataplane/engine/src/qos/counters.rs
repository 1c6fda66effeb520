//! What a port's queues count, for everybody to read: by service and class.

use std::sync::atomic::{AtomicU32, Ordering};

use super::CLASSES;
use crate::stats::{Counter, PacketsBytes};

/// Upper bounds of the buckets of [`WaitCounters::sojourn`] in nanoseconds; the last bucket has none. The promises of P0, P1 and P2 are among
/// them.
pub const SOJOURN_BOUNDS: [u64; 11] = [
    10_000,
    30_000,
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
];

/// Why a queue dropped a packet, as counted per queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueDrop {
    /// No room.
    Full,
    /// It waited too long.
    Deadline,
    /// Queue management, and its ends do not know ECN.
    Aqm,
}

impl QueueDrop {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Full, Self::Deadline, Self::Aqm];

    /// The name shown to people and in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Deadline => "deadline",
            Self::Aqm => "aqm",
        }
    }
}

/// One queue: a service's packets of one class. Two cache lines, written by the port's owner alone.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct WaitCounters {
    /// Octets that wait, as they count on the wire.
    pub octets: Counter,
    /// Packets that wait.
    pub packets: Counter,
    /// What was let go, as it counts on the wire.
    pub sent: PacketsBytes,
    /// By [`QueueDrop`].
    pub dropped: [Counter; 3],
    /// Packets marked CE.
    pub marked: Counter,
    /// Packets let go by how long they had waited, see [`SOJOURN_BOUNDS`]. Wraps at 2^32.
    sojourn: [AtomicU32; SOJOURN_BOUNDS.len() + 1],
}

const _: () = assert!(size_of::<WaitCounters>() == 128);

impl WaitCounters {
    /// Counts a packet that was let go after a wait.
    #[inline]
    pub(super) fn sent(&self, octets: u32, sojourn: u64) {
        self.sent.count(octets as usize);
        let bucket = &self.sojourn[bucket(sojourn)];
        bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// How many waited up to each bound, not cumulated.
    pub fn sojourn(&self) -> [u32; SOJOURN_BOUNDS.len() + 1] {
        std::array::from_fn(|n| self.sojourn[n].load(Ordering::Relaxed))
    }
}

/// The bucket of a wait: a guess by its highest bit, and one comparison, since no power of two has two bounds inside.
#[inline]
fn bucket(sojourn: u64) -> usize {
    const GUESS: [u8; 65] = guesses();
    let guess = usize::from(GUESS[64 - sojourn.leading_zeros() as usize]);
    guess + usize::from(SOJOURN_BOUNDS.get(guess).is_some_and(|bound| sojourn > *bound))
}

/// By number of bits: the bucket of the least wait that has so many.
const fn guesses() -> [u8; 65] {
    let mut guesses = [0; 65];
    let mut bits = 1;
    while bits < 65 {
        let least = 1u64 << (bits - 1);
        let mut bucket = 0;
        while bucket < SOJOURN_BOUNDS.len() && SOJOURN_BOUNDS[bucket] < least {
            bucket += 1;
        }
        guesses[bits] = bucket as u8;
        bits += 1;
    }
    guesses
}

/// All queues of one port, by queue slot and class.
#[derive(Debug)]
pub struct QueueCounters {
    queues: Box<[WaitCounters]>,
}

impl QueueCounters {
    /// For this many slots.
    pub fn new(slots: usize) -> Self {
        Self { queues: (0..slots * CLASSES).map(|_| WaitCounters::default()).collect() }
    }

    /// The queues of a slot, by class.
    pub fn slot(&self, slot: usize) -> &[WaitCounters] {
        self.queues.get(slot * CLASSES..(slot + 1) * CLASSES).unwrap_or(&[])
    }

    /// By place.
    #[inline]
    pub(super) fn at(&self, queue: usize) -> Option<&WaitCounters> {
        self.queues.get(queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_sorted_by_the_bounds() {
        let by_hand = |sojourn| SOJOURN_BOUNDS.iter().position(|b| sojourn <= *b).unwrap_or(SOJOURN_BOUNDS.len());
        for bound in SOJOURN_BOUNDS {
            for sojourn in [bound - 1, bound, bound + 1, bound / 2, bound * 2] {
                assert_eq!(bucket(sojourn), by_hand(sojourn), "{sojourn}");
            }
        }
        for bits in 0..64 {
            for sojourn in [(1u64 << bits) - 1, 1 << bits] {
                assert_eq!(bucket(sojourn), by_hand(sojourn), "{sojourn}");
            }
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, SOJOURN_BOUNDS.len()));
    }
}
