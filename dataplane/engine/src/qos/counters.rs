//! What a port's queues count, for everybody to read: by service and class.

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

/// One queue: a service's packets of one class. Three cache lines, of which a packet touches two, written by the port's owner alone.
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
    /// Packets let go by how long they had waited, see [`SOJOURN_BOUNDS`]; not cumulated.
    pub sojourn: [Counter; SOJOURN_BOUNDS.len() + 1],
    /// Nanoseconds that they waited, all together.
    pub waited: Counter,
    /// Nanoseconds that the last of them waited: how long the queue is, in time.
    pub last_wait: Counter,
    /// Whose packets these are, see [`crate::slots::Slot`].
    incarnation: Counter,
}

const _: () = assert!(size_of::<WaitCounters>() == 192);

impl WaitCounters {
    /// Counts a packet that was let go after a wait.
    #[inline]
    pub(super) fn sent(&self, octets: u32, sojourn: u64) {
        self.sent.count(octets as usize);
        self.sojourn[bucket(sojourn)].add(1);
        self.waited.add(sojourn);
        self.last_wait.set(sojourn);
    }

    /// From now on these are another service's packets; what still waits is counted on.
    fn begin(&self, incarnation: u32) {
        let counts = [&self.sent.packets, &self.sent.bytes, &self.marked, &self.waited, &self.last_wait];
        counts.into_iter().chain(&self.dropped).chain(&self.sojourn).for_each(|count| count.set(0));
        self.incarnation.set(u64::from(incarnation));
    }

    /// Whether anything was ever counted.
    pub fn is_used(&self) -> bool {
        self.packets.value() + self.sent.packets.value() + self.dropped.iter().map(Counter::value).sum::<u64>() > 0
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

    /// The queues of a slot, by class, as long as they count for this incarnation; of another one is not to be told.
    pub fn of(&self, slot: usize, incarnation: u32) -> &[WaitCounters] {
        let queues = self.slot(slot);
        let ours = queues.iter().all(|queue| queue.incarnation.value() == u64::from(incarnation));
        if ours { queues } else { &[] }
    }

    /// A slot goes to another service.
    pub(super) fn begin(&self, slot: usize, incarnation: u32) {
        self.slot(slot).iter().for_each(|queue| queue.begin(incarnation));
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
