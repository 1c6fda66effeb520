//! Stable places for named things across generations: counters, policer buckets, ports.

use std::collections::{BTreeSet, HashMap, HashSet};

/// Name to slot. A name keeps its slot while it is configured, and gets it back when it returns, as long as no other name needed it
/// meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Slots {
    live: HashMap<String, Slot>,
    /// Names of the generation before, until they are asked for again.
    previous: HashMap<String, Slot>,
    /// Names of earlier generations.
    retired: HashMap<String, Slot>,
    free: BTreeSet<u32>,
    next: u32,
    incarnations: u32,
}

/// A place and a number that is new whenever the place is given out: a name that was away for a generation gets its old place, but a new
/// incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The place.
    pub index: u32,
    /// Changes whenever the place goes to another name.
    pub incarnation: u32,
}

impl Slots {
    /// Starts the next generation: every name is retired until it is asked for.
    #[must_use]
    pub fn next_generation(&self) -> Self {
        let mut next = self.clone();
        next.retired.extend(next.previous.drain());
        next.previous = std::mem::take(&mut next.live);
        next
    }

    /// The slot of a name, below `limit`; `None` when all are taken by other live names.
    pub fn take(&mut self, name: &str, limit: u32) -> Option<Slot> {
        if let Some(slot) = self.live.get(name) {
            return Some(*slot);
        }
        if let Some((name, slot)) = self.previous.remove_entry(name) {
            self.live.insert(name, slot);
            return Some(slot);
        }
        let index = if let Some(slot) = self.retired.remove(name) {
            slot.index
        } else if self.next < limit {
            self.next += 1;
            self.next - 1
        } else {
            self.free.pop_first()?
        };
        self.incarnations = self.incarnations.wrapping_add(1);
        let slot = Slot { index, incarnation: self.incarnations };
        self.live.insert(name.to_owned(), slot);
        Some(slot)
    }

    /// Gives up places of names that are not among `names` when these would not fit below `limit`. Call before taking them.
    pub fn make_room(&mut self, names: &[String], limit: u32) {
        let names: HashSet<&str> = names.iter().map(String::as_str).collect();
        self.retired.extend(self.previous.extract_if(|name, _| !names.contains(name.as_str())));
        let new = names.iter().filter(|&&n| !self.previous.contains_key(n) && !self.retired.contains_key(n)).count();
        let available = (limit.saturating_sub(self.next)) as usize + self.free.len();
        if new <= available {
            return;
        }
        let mut given_up: Vec<_> = self.retired.keys().filter(|n| !names.contains(n.as_str())).cloned().collect();
        given_up.sort_unstable();
        for name in given_up.into_iter().take(new - available) {
            if let Some(slot) = self.retired.remove(&name) {
                self.free.insert(slot.index);
            }
        }
    }

    /// Goes on to the generation in which the names `gone` go, those of `come` come and all others stay: what
    /// [`next_generation`](Self::next_generation), [`make_room`](Self::make_room) and [`take`](Self::take) of every name would
    /// lead to, for the price of the difference.
    pub fn renew(&mut self, gone: &[String], come: &[String], limit: u32) {
        self.retired.extend(self.previous.drain());
        for name in gone {
            self.retired.extend(self.live.remove_entry(name));
        }
        let known = |name: &String| self.live.contains_key(name) || self.retired.contains_key(name);
        let new = come.iter().filter(|&name| !known(name)).count();
        let available = limit.saturating_sub(self.next) as usize + self.free.len();
        if new > available {
            let come: HashSet<&String> = come.iter().collect();
            let mut given_up: Vec<_> = self.retired.keys().filter(|&name| !come.contains(name)).cloned().collect();
            given_up.sort_unstable();
            for name in given_up.into_iter().take(new - available) {
                self.free.extend(self.retired.remove(&name).map(|slot| slot.index));
            }
        }
        for name in come {
            self.take(name, limit);
        }
    }

    /// The slot of a name in use.
    pub fn get(&self, name: &str) -> Option<Slot> {
        self.live.get(name).copied()
    }

    /// Names in use.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether no name is in use.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_keep_their_slots_and_come_back_to_them() {
        let mut first = Slots::default();
        let a = first.take("a", 8).unwrap();
        let b = first.take("b", 8).unwrap();
        assert_ne!(a.index, b.index);
        let mut second = first.next_generation();
        assert_eq!(second.take("b", 8), Some(b));
        let c = second.take("c", 8).unwrap();
        assert_ne!(c.index, a.index, "a retired slot is not reused without need");
        let mut third = second.next_generation();
        let back = third.take("a", 8).unwrap();
        assert_eq!(back.index, a.index);
        assert_ne!(back.incarnation, a.incarnation, "it was away for a generation");
    }

    #[test]
    fn renewing_is_a_generation_with_all_names() {
        let mut state = 1u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % n
        };
        let limit = 12;
        let (mut whole, mut renewed) = (Slots::default(), Slots::default());
        let mut used: BTreeSet<String> = BTreeSet::new();
        for _ in 0..2000 {
            let next: BTreeSet<String> =
                (0..20).filter(|_| below(2) == 0).map(|n| format!("n{n}")).take(limit as usize).collect();
            let list: Vec<String> = next.iter().cloned().collect();
            whole = whole.next_generation();
            whole.make_room(&list, limit);
            let expected: Vec<_> = list.iter().map(|name| whole.take(name, limit)).collect();
            let (gone, come): (Vec<_>, Vec<_>) =
                (used.difference(&next).cloned().collect(), next.difference(&used).cloned().collect());
            renewed.renew(&gone, &come, limit);
            assert_eq!(list.iter().map(|name| renewed.get(name)).collect::<Vec<_>>(), expected);
            used = next;
        }
    }

    #[test]
    fn retired_slots_are_reused_only_when_needed_and_with_a_new_incarnation() {
        let mut slots = Slots::default();
        let (a, b) = (slots.take("a", 2).unwrap(), slots.take("b", 2).unwrap());
        assert_eq!(slots.take("c", 2), None);
        let mut slots = slots.next_generation();
        slots.make_room(&names(&["b", "c"]), 2);
        assert_eq!(slots.take("b", 2), Some(b));
        let c = slots.take("c", 2).unwrap();
        assert_eq!(c.index, a.index);
        assert_ne!(c.incarnation, a.incarnation);
        assert_eq!(slots.len(), 2);
    }
}
