//! When to look at which session: a word per entry in place of the entry, so that the search for idle sessions reads a line per sixteen of them.

use arrayvec::ArrayVec;

/// Entries looked at in a step: the words of one cache line.
pub(super) const STEP: usize = 16;

/// Nanoseconds of a deadline's unit, as a power of two: 1.07 s.
const UNIT_BITS: u32 = 30;

/// No session.
const NEVER: u32 = u32::MAX;

/// The deadlines, and the sessions on their way out.
pub(super) struct Expiry {
    /// By entry: not before this does the session end, unless its state changes. A packet moves the end and leaves this alone; the search
    /// finds out and corrects it.
    deadlines: Box<[u32]>,
    /// The next entry to look at.
    hand: usize,
    /// Found by the last step; their lines are being loaded.
    pub due: ArrayVec<u32, STEP>,
    /// Found idle by the last step; the buckets of their keys are being loaded.
    pub idle: ArrayVec<u32, STEP>,
}

impl Expiry {
    pub fn new(entries: usize) -> Self {
        Self {
            deadlines: vec![NEVER; entries].into_boxed_slice(),
            hand: 0,
            due: ArrayVec::new(),
            idle: ArrayVec::new(),
        }
    }

    /// The session of an entry ends at `end` at the earliest.
    #[inline]
    pub fn set(&mut self, entry: usize, end: u64) {
        if let Some(deadline) = self.deadlines.get_mut(entry) {
            *deadline = (end >> UNIT_BITS).min(u64::from(NEVER - 1)) as u32;
        }
    }

    /// The session of an entry is gone.
    pub fn clear(&mut self, entry: usize) {
        if let Some(deadline) = self.deadlines.get_mut(entry) {
            *deadline = NEVER;
        }
    }

    /// Passes over the next [`STEP`] entries; those whose deadline came are `due`.
    #[inline]
    pub fn step(&mut self, now: u64) {
        self.due.clear();
        let now = (now >> UNIT_BITS).min(u64::from(NEVER - 1)) as u32;
        let end = (self.hand + STEP).min(self.deadlines.len());
        let words = self.deadlines.get(self.hand..end).unwrap_or_default();
        let first = self.hand;
        self.hand = if end == self.deadlines.len() { 0 } else { end };
        // One comparison for all: most lines hold nobody's deadline.
        if words.iter().fold(NEVER, |least, &deadline| least.min(deadline)) > now {
            return;
        }
        for (offset, &deadline) in words.iter().enumerate() {
            if deadline <= now {
                self.due.push((first + offset) as u32);
            }
        }
    }
}
