//! Counters with a single writer: the thread that owns them adds with a plain load and store, everybody may read.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use marchproxy_cpu::prefetch_slice;

use crate::reason::{ConsumeReason, DropReason, LookupResult, PuntReason, SessionEnd};
use crate::table::sessions::MOST_POOLS;

/// Ports a node may have.
pub const MAX_PORTS: usize = 64;

/// A counter that one thread writes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning thread may call it (two writers would lose counts, nothing worse).
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Sets; only the owning thread may call it.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The terms of the conservation law of one thread (worker or slow path):
/// `rx + originated + taken = tx + dropped + consumed + given + held`, exact at the end of every turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Received from ports.
    pub rx: u64,
    /// Made here.
    pub originated: u64,
    /// Taken from rings that other threads of the node fill.
    pub taken: u64,
    /// Accepted by drivers.
    pub tx: u64,
    /// Dropped, all reasons.
    pub dropped: u64,
    /// Consumed, all reasons.
    pub consumed: u64,
    /// Put into rings that other threads of the node drain.
    pub given: u64,
    /// In this thread's own holders.
    pub held: u64,
}

impl Totals {
    /// Left minus right side of the law: 0, or packets were lost (positive) or invented (negative).
    pub fn residue(&self) -> i64 {
        (self.rx + self.originated + self.taken) as i64
            - (self.tx + self.dropped + self.consumed + self.given + self.held) as i64
    }

    /// Sum over threads; `given - taken` packets are then inside rings, which count as held.
    #[must_use]
    pub fn plus(&self, other: &Totals) -> Totals {
        Totals {
            rx: self.rx + other.rx,
            originated: self.originated + other.originated,
            taken: self.taken + other.taken,
            tx: self.tx + other.tx,
            dropped: self.dropped + other.dropped,
            consumed: self.consumed + other.consumed,
            given: self.given + other.given,
            held: self.held + other.held,
        }
    }

    fn words(&self) -> [u64; 8] {
        [self.rx, self.originated, self.taken, self.tx, self.dropped, self.consumed, self.given, self.held]
    }

    fn from_words([rx, originated, taken, tx, dropped, consumed, given, held]: [u64; 8]) -> Self {
        Self { rx, originated, taken, tx, dropped, consumed, given, held }
    }
}

/// [`Totals`] that other threads read whole: a sequence lock with one writer.
#[derive(Debug, Default)]
pub struct SharedTotals {
    sequence: AtomicU64,
    words: [AtomicU64; 8],
}

impl SharedTotals {
    /// Publishes new totals. Owning thread only.
    pub fn publish(&self, totals: &Totals) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in self.words.iter().zip(totals.words()) {
            word.store(value, Ordering::Relaxed);
        }
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// A consistent copy. Retries while the writer is in the middle, which lasts nanoseconds.
    pub fn read(&self) -> Totals {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let words = std::array::from_fn(|i| self.words[i].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
                return Totals::from_words(words);
            }
            std::thread::yield_now();
        }
    }
}

/// Packets and octets.
#[derive(Debug, Default)]
pub struct PacketsBytes {
    /// Packets.
    pub packets: Counter,
    /// Octets: frames for ports, L3 packets for objects.
    pub bytes: Counter,
}

impl PacketsBytes {
    /// Counts one packet.
    #[inline]
    pub fn count(&self, bytes: usize) {
        self.packets.add(1);
        self.bytes.add(bytes as u64);
    }
}

/// One named object's counters (rule, service, backend, policer).
#[derive(Debug, Default)]
// Never across two cache lines.
#[repr(align(32))]
pub struct ObjectCounters {
    /// What it matched.
    pub matched: PacketsBytes,
    /// Packets it dropped.
    pub dropped: Counter,
}

/// Counters of one port as one worker sees it.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Received frames.
    pub rx: PacketsBytes,
    /// Frames the driver accepted.
    pub tx: PacketsBytes,
}

/// Ports in use of one address of a source pool, as one worker sees it.
#[derive(Debug, Default)]
pub struct PoolCounters {
    /// The address's halves, high first; 0 is none.
    pub address: [Counter; 2],
    /// Of TCP and UDP.
    pub used: [Counter; 2],
}

/// Calls, packets and sampled cycles of one stage.
#[derive(Debug, Default)]
pub struct StageCounters {
    /// Bursts.
    pub calls: Counter,
    /// Packets in those bursts.
    pub packets: Counter,
    /// TSC ticks of the sampled bursts.
    pub sampled_ticks: Counter,
    /// Packets of the sampled bursts.
    pub sampled_packets: Counter,
}

/// The stages whose cost is measured, in pipeline order.
pub const STAGES: [&str; 8] = ["express", "parse", "session", "rule", "balance", "route", "finish", "drain"];

/// Everything one thread counts.
#[derive(Debug)]
pub struct ThreadStats {
    /// The conservation terms.
    pub totals: SharedTotals,
    /// By drop reason.
    pub drops: [Counter; DropReason::COUNT],
    /// By punt reason.
    pub punts: [Counter; PuntReason::COUNT],
    /// By consume reason.
    pub consumed: [Counter; ConsumeReason::COUNT],
    /// By port slot.
    pub ports: Box<[PortCounters]>,
    /// By stage, see [`STAGES`].
    pub stages: [StageCounters; STAGES.len()],
    /// By counter slot of the snapshot's objects.
    pub objects: Box<[ObjectCounters]>,
    /// Ports of full NAT by the worker's place for an address.
    pub pools: Box<[PoolCounters]>,
    /// Live sessions.
    pub sessions: Counter,
    /// Sessions created since the start.
    pub sessions_created: Counter,
    /// Session look-ups by what they found.
    pub lookups: [Counter; LookupResult::COUNT],
    /// Sessions ended, by why.
    pub sessions_ended: [Counter; SessionEnd::COUNT],
    /// New sessions whose source had no place for its limits.
    pub sources_untracked: Counter,
    /// Packets of sources that had no place for buckets of their own, metered with others'.
    pub policer_sources_placeless: Counter,
    /// Packets handed to the worker that owns their session.
    pub handed_off: Counter,
    /// Packets recorded because a rule samples.
    pub samples: Counter,
    /// Packets that were to be recorded when the ring for it was full.
    pub samples_lost: Counter,
    /// Sessions that are told to a flow collector.
    pub flows_selected: Counter,
    /// Sessions that would be told if they were one of N.
    pub flows_passed_over: Counter,
    /// Records about sessions for a flow collector.
    pub flow_records: Counter,
    /// Those for which the ring to the exporter had no room.
    pub flow_records_lost: Counter,
    /// Packets of which fragments came and others may still come.
    pub fragmented: Counter,
    /// Fragments that wait for their first one.
    pub fragments_held: Counter,
    /// Fragments that waited for their first one and went on.
    pub fragments_released: Counter,
    /// ICMP errors and resets not sent because of the rate limit.
    pub icmp_rate_limited: Counter,
    /// ICMP errors about translated packets that were translated and sent on.
    pub icmp_errors_translated: Counter,
    /// Packets that could not be made because the pool was empty.
    pub originate_failed: Counter,
    /// TSC ticks of turns that moved packets.
    pub busy_ticks: Counter,
    /// TSC ticks of all turns, sleep included.
    pub all_ticks: Counter,
}

impl ThreadStats {
    /// All zero, with room for `objects` counter slots.
    pub fn new(objects: usize) -> Self {
        Self {
            totals: SharedTotals::default(),
            drops: std::array::from_fn(|_| Counter::default()),
            punts: std::array::from_fn(|_| Counter::default()),
            consumed: std::array::from_fn(|_| Counter::default()),
            ports: (0..MAX_PORTS).map(|_| PortCounters::default()).collect(),
            stages: std::array::from_fn(|_| StageCounters::default()),
            objects: (0..objects).map(|_| ObjectCounters::default()).collect(),
            pools: (0..MOST_POOLS).map(|_| PoolCounters::default()).collect(),
            sessions: Counter::default(),
            sessions_created: Counter::default(),
            lookups: std::array::from_fn(|_| Counter::default()),
            sessions_ended: std::array::from_fn(|_| Counter::default()),
            sources_untracked: Counter::default(),
            policer_sources_placeless: Counter::default(),
            handed_off: Counter::default(),
            samples: Counter::default(),
            samples_lost: Counter::default(),
            flows_selected: Counter::default(),
            flows_passed_over: Counter::default(),
            flow_records: Counter::default(),
            flow_records_lost: Counter::default(),
            fragmented: Counter::default(),
            fragments_held: Counter::default(),
            fragments_released: Counter::default(),
            icmp_rate_limited: Counter::default(),
            icmp_errors_translated: Counter::default(),
            originate_failed: Counter::default(),
            busy_ticks: Counter::default(),
            all_ticks: Counter::default(),
        }
    }

    /// Starts loading the counters of an object.
    #[inline]
    pub fn prefetch_object(&self, slot: u32) {
        prefetch_slice(&self.objects, slot as usize);
    }

    /// The counters of an object; `None` beyond the configured room.
    #[inline]
    pub fn object(&self, slot: u32) -> Option<&ObjectCounters> {
        self.objects.get(slot as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn readers_never_see_half_an_update() {
        let shared = Arc::new(SharedTotals::default());
        let writer = {
            let shared = shared.clone();
            std::thread::spawn(move || {
                for n in 1..200_000 {
                    shared.publish(&Totals { rx: n, tx: n, ..Totals::default() });
                }
            })
        };
        while !writer.is_finished() {
            assert_eq!(shared.read().residue(), 0);
        }
        writer.join().unwrap();
        assert_eq!(shared.read().rx, 199_999);
    }

    #[test]
    fn residue_shows_a_lost_packet() {
        let mut totals = Totals { rx: 10, originated: 1, tx: 6, dropped: 3, consumed: 1, held: 1, ..Totals::default() };
        assert_eq!(totals.residue(), 0);
        totals.dropped -= 1;
        assert_eq!(totals.residue(), 1);
    }
}
