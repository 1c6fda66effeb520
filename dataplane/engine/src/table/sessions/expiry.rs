//! When to look at which session: a word per entry in place of the entry, so that the search for idle sessions reads a line per sixteen of them.

use arrayvec::ArrayVec;

use super::entry::Kind;

/// Entries looked at in a step: the words of one cache line.
pub(super) const STEP: usize = 16;

/// Words looked at for a session to give up: eight cache lines.
const SEARCHED: usize = 128;

/// Of these, the ones worth a look at their session.
const LOOKS: usize = 8;

/// Nanoseconds of a deadline's unit, as a power of two: 1.07 s. In 30 bits: 36 years.
const UNIT_BITS: u32 = 30;

/// Bits of a word below the deadline: the session's [`Kind`].
const KIND_BITS: u32 = 2;
const KIND: u32 = (1 << KIND_BITS) - 1;

/// No session.
const NEVER: u32 = u32::MAX;

/// The word of a time and a kind.
fn word(time: u64, kind: u32) -> u32 {
    (((time >> UNIT_BITS).min(u64::from(NEVER >> KIND_BITS) - 1) as u32) << KIND_BITS) | kind
}

/// The deadlines, and the sessions on their way out.
pub(super) struct Expiry {
    /// By entry: not before this does the session end, unless its state changes. A packet moves the end and leaves this alone; the search
    /// finds out and corrects it.
    deadlines: Box<[u32]>,
    /// The next entry to look at.
    hand: usize,
    /// How far the search for one that can be given up is in its round.
    search: usize,
    /// Lines of [`STEP`] words, and from one to the next that is searched. Sessions that came to be together lie together: a search in order would
    /// meet nothing else for many lines.
    lines: usize,
    stride: usize,
    /// Found by the last step; their lines are being loaded.
    pub due: ArrayVec<u32, STEP>,
    /// Found idle by the last step; the buckets of their keys are being loaded.
    pub idle: ArrayVec<u32, STEP>,
}

impl Expiry {
    pub fn new(entries: usize) -> Self {
        let lines = entries.div_ceil(STEP).max(1);
        Self {
            deadlines: vec![NEVER; entries].into_boxed_slice(),
            hand: 0,
            search: 0,
            lines,
            stride: stride(lines),
            due: ArrayVec::new(),
            idle: ArrayVec::new(),
        }
    }

    /// The session of an entry ends at `end` at the earliest.
    #[inline]
    pub fn set(&mut self, entry: usize, end: u64, kind: Kind) {
        if let Some(deadline) = self.deadlines.get_mut(entry) {
            *deadline = word(end, kind as u32);
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
        let now = word(now, KIND);
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

    /// Entries whose session may be given up, the best first: one that is due or half-open where there is any, else those that end, else the others.
    /// Goes round the table, so what it finds has been there for about a round.
    #[cold]
    pub fn give_up(&mut self, now: u64) -> ArrayVec<u32, LOOKS> {
        let now = word(now, KIND);
        let (mut ending, mut open) = (ArrayVec::<u32, LOOKS>::new(), ArrayVec::<u32, LOOKS>::new());
        for _ in 0..SEARCHED.min(self.lines * STEP) {
            let entry = self.search / STEP * self.stride % self.lines * STEP + self.search % STEP;
            self.search = if self.search + 1 == self.lines * STEP { 0 } else { self.search + 1 };
            let deadline = self.deadlines.get(entry).copied().unwrap_or(NEVER);
            if deadline == NEVER {
                continue;
            }
            if deadline <= now || deadline & KIND == Kind::HalfOpen as u32 {
                return ArrayVec::from_iter([entry as u32]);
            }
            let list = if deadline & KIND == Kind::Ending as u32 { &mut ending } else { &mut open };
            // What finds no room was behind enough others.
            let _ = list.try_push(entry as u32);
        }
        for entry in open {
            let _ = ending.try_push(entry);
        }
        ending
    }
}

/// Visits every line once in a round, neighbours far apart: near the golden section, and without a divisor in common.
fn stride(lines: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (lines * 618 / 1000..lines).find(|&stride| gcd(stride, lines) == 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_of_the_search_meets_every_entry_once() {
        for entries in [1, 2, 15, 16, 17, 100, 1000, 1024, 4099] {
            let mut expiry = Expiry::new(entries);
            (0..entries).for_each(|entry| expiry.set(entry, 1 << 40, Kind::HalfOpen));
            for _ in 0..2 {
                let mut met: Vec<u32> = (0..entries).flat_map(|_| expiry.give_up(0)).collect();
                met.sort_unstable();
                assert_eq!(met, (0..entries as u32).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn neighbours_do_not_hide_the_others() {
        let mut expiry = Expiry::new(1 << 16);
        for entry in 0..1 << 16 {
            let kind = if entry < 1 << 15 { Kind::Open } else { Kind::HalfOpen };
            expiry.set(entry, 1 << 40, kind);
        }
        for _ in 0..1 << 15 {
            let found = expiry.give_up(0);
            assert!(found.len() == 1 && found[0] >= 1 << 15, "{found:?}");
        }
    }
}
