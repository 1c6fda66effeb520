//! Who is due when: a hierarchical timing wheel (Varghese and Lauck) over the accounts, which are its list nodes.
//!
//! A level has 256 slots, a slot of the first level is 256 ns wide, each level's are 256 times as wide as those of the level below. An account goes
//! to the level of the highest octet in which its time differs from the wheel's, so those of a lower level are always due first, and each
//! moves down once per level until it is due: constant work, whatever the number of accounts and however far apart they are.

use super::account::Account;
use super::places::NIL;

/// `log2` of a tick in nanoseconds.
const TICK: u32 = 8;
/// A tick is 56 bits then: seven octets.
const LEVELS: usize = 7;
const SLOTS: usize = 256;
/// Accounts looked at in one call at most.
const MOVES: usize = 256;

pub struct Wheel {
    /// First account by level and slot.
    heads: Box<[[u32; SLOTS]; LEVELS]>,
    /// Slots with accounts in them.
    occupied: [[u64; SLOTS / 64]; LEVELS],
    /// Levels with accounts in them.
    levels: u8,
    /// The rest of the slot that was opened last.
    opened: u32,
    /// The tick up to which everybody due was given out.
    elapsed: u64,
}

impl Default for Wheel {
    fn default() -> Self {
        let occupied = [[0; SLOTS / 64]; LEVELS];
        Self { heads: Box::new([[NIL; SLOTS]; LEVELS]), occupied, levels: 0, opened: NIL, elapsed: 0 }
    }
}

impl Wheel {
    /// Lets an account be due at a time of the future, or at the next tick.
    #[inline]
    pub fn insert(&mut self, accounts: &mut [Account], id: u32, at: u64) {
        // Never before its time.
        let when = (at.div_ceil(1 << TICK)).max(self.elapsed + 1);
        if let Some(account) = accounts.get_mut(id as usize) {
            account.when = when;
            self.link(account, id);
        }
    }

    #[inline]
    fn link(&mut self, account: &mut Account, id: u32) {
        let level = ((self.elapsed ^ account.when | 1).ilog2() / 8) as usize % LEVELS;
        let slot = (account.when >> (8 * level)) as usize % SLOTS;
        account.due_next = self.heads[level][slot];
        self.heads[level][slot] = id;
        self.occupied[level][slot / 64] |= 1 << (slot % 64);
        self.levels |= 1 << level;
    }

    /// The next account that is due at `now`, if there is one. Some that are due may have to wait for the next call: what one does is bounded.
    #[inline]
    pub fn pop(&mut self, accounts: &mut [Account], now: u64) -> Option<u32> {
        let now = now >> TICK;
        for _ in 0..MOVES {
            if self.opened == NIL && !self.open(now) {
                return None;
            }
            let id = self.opened;
            let account = accounts.get_mut(id as usize)?;
            self.opened = account.due_next;
            if account.when <= now {
                return Some(id);
            }
            self.link(account, id);
        }
        None
    }

    /// Opens the first slot if its time has come. All in it must have been moved before the next one is looked for.
    #[inline]
    fn open(&mut self, now: u64) -> bool {
        if self.levels == 0 {
            self.elapsed = self.elapsed.max(now);
            return false;
        }
        let level = self.levels.trailing_zeros() as usize;
        let words = &mut self.occupied[level];
        let Some(word) = words.iter().position(|word| *word != 0) else { return false };
        let slot = word * 64 + words[word].trailing_zeros() as usize;
        // The slot's first tick: the wheel's octets above, its own, zeros.
        let above = 8 * (level + 1);
        let from = (self.elapsed >> above) << above | (slot as u64) << (8 * level);
        if from > now {
            self.elapsed = self.elapsed.max(now);
            return false;
        }
        self.elapsed = self.elapsed.max(from);
        self.opened = std::mem::replace(&mut self.heads[level][slot], NIL);
        words[word] &= !(1 << (slot % 64));
        if words.iter().all(|word| *word == 0) {
            self.levels &= !(1 << level);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
        /// As a sorted list would: nobody before their time, everybody at the first look after it.
        #[test]
        fn everybody_is_due_once_and_in_time(
            start in prop_oneof![Just(0u64), 0u64..1 << 40, Just((1 << 32) - 1000), Just(1 << 56)],
            steps in proptest::collection::vec((prop_oneof![0u64..1000, 0u64..1 << 22, 0u64..1 << 36], 0u32..64, prop_oneof![0u64..5000, 0u64..1 << 24, 0u64..1 << 38]), 1..300),
        ) {
            let mut accounts = vec![Account::default(); 64];
            let (mut wheel, mut due) = (Wheel::default(), vec![None; 64]);
            let mut now = start;
            prop_assert_eq!(wheel.pop(&mut accounts, now), None);
            for (pause, id, wait) in steps {
                now += pause;
                while let Some(id) = wheel.pop(&mut accounts, now) {
                    let at: u64 = due[id as usize].take().unwrap_or(u64::MAX);
                    prop_assert!(at <= now);
                }
                for at in due.iter().flatten() {
                    prop_assert!(at >> TICK >= now >> TICK, "{at} is overdue at {now}");
                }
                if due[id as usize].is_none() {
                    due[id as usize] = Some(now + wait);
                    wheel.insert(&mut accounts, id, now + wait);
                }
            }
        }
    }
}
