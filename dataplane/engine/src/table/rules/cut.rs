//! Which bits to cut by: the window that leaves the least work to an average packet without copying rules too often.

use super::block::WIDTH;
use super::record::{Field, Record, Space};
use super::tree::Window;

/// Widest cut: 4,096 children, for places with that many rules.
const MAX_BITS: u32 = 12;
/// What a cache line of memory weighs against one touched by a packet, for a place with as many rules as lines: small, but a structure
/// twice as large is in a slower cache.
const MEMORY_WEIGHT: f32 = 0.08;

/// Where a record goes: children from `first` on, `count` of them, past the last child around to the first.
#[derive(Clone, Copy)]
pub struct Children {
    /// First child.
    pub first: usize,
    /// How many.
    pub count: usize,
}

impl Window {
    /// Children there are.
    pub const fn children(self) -> usize {
        1 << self.bits
    }

    /// The children that packets which a record accepts may go to.
    #[inline]
    pub fn children_of(self, record: &Record) -> Children {
        let (first, last) = record.space.range(self.field);
        let (first, last) = (first >> self.shift, last >> self.shift);
        let all = self.children();
        if last - first >= all as u128 {
            return Children { first: 0, count: all };
        }
        Children { first: first as usize & (all - 1), count: (last - first) as usize + 1 }
    }
}

/// Finds cuts; keeps its working memory.
#[derive(Default)]
pub struct Chooser {
    /// Fields that some record says anything about.
    fields: Vec<Field>,
    counts: Vec<i32>,
    weights: Vec<f32>,
    candidates: Vec<Window>,
}

/// Cache lines an average packet touches in a place with so many rules, cut further or not.
fn expected(rules: usize) -> f32 {
    match rules {
        0 => 0.0,
        1..=WIDTH => 2.0,
        _ => 2.0 + 1.3 * (rules as f32 / WIDTH as f32).log2(),
    }
}

/// The same when it is not cut any further: half the blocks on the way to the match.
fn as_leaf(rules: usize) -> f32 {
    rules.div_ceil(WIDTH) as f32 + 1.0
}

impl Chooser {
    /// For these records.
    pub fn new(records: &[Record]) -> Self {
        let said = |field: &Field| records.iter().any(|r| r.space.range(*field) != Space::ALL.range(*field));
        Self { fields: Field::ALL.into_iter().filter(said).collect(), ..Self::default() }
    }

    /// The best cut for these records, where copies of rules are allowed up to `room` rules in all children together. `None`: a leaf.
    pub fn choose(&mut self, records: &[Record], list: &[u32], room: usize) -> Option<Window> {
        if list.len() <= WIDTH {
            return None;
        }
        self.candidates.clear();
        let most = (usize::BITS - list.len().leading_zeros()).min(MAX_BITS);
        for at in 0..self.fields.len() {
            self.propose(records, list, self.fields[at], most);
        }
        let mut best = (as_leaf(list.len()), None);
        let candidates = std::mem::take(&mut self.candidates);
        for &window in &candidates {
            let cost = self.cost(records, list, window, room);
            if cost < best.0 {
                best = (cost, Some(window));
            }
        }
        self.candidates = candidates;
        best.1
    }

    /// Adds windows of a field that may be worth it: from the first bit in which the records differ, and from those that tell most
    /// pairs of records apart.
    fn propose(&mut self, records: &[Record], list: &[u32], field: Field, most: u32) {
        let width = field.width();
        // Values with how many of their upper bits a record fixes; of a range those that its ends share.
        let fixed = list.iter().map(|&number| {
            let (first, last) = records[number as usize].space.range(field);
            (first << (128 - width), (first ^ last).leading_zeros() - (128 - width))
        });
        let Some((reference, len)) = fixed.clone().max_by_key(|&(_, len)| len) else { return };
        let everything = |number: &u32| records[*number as usize].space.range(field) == Space::ALL.range(field);
        if len == 0 && list.iter().all(everything) {
            return;
        }
        let said = |len: u32| u128::MAX.checked_shl(128 - len).unwrap_or(0);
        let differing = fixed.clone().fold(0, |bits, (value, len)| bits | (value ^ reference) & said(len));
        let start = differing.leading_zeros().min(width);
        let mut ones = [0u32; 128];
        let mut all = [0u32; 128];
        for (value, len) in fixed {
            for bit in start..len {
                ones[bit as usize] += (value >> (127 - bit)) as u32 & 1;
                all[bit as usize] += 1;
            }
        }
        let score = |bit: u32| {
            let (ones, all) = (u64::from(ones[bit as usize]), u64::from(all[bit as usize]));
            ones * (all - ones)
        };
        let good = |bit: &u32| score(*bit) > 0;
        let best = (start..width).max_by_key(|&bit| (score(bit), width - bit)).filter(good);
        let far = |bit: &u32| best.is_some_and(|best| bit.abs_diff(best) > 2);
        let other = (start..width).filter(far).max_by_key(|&bit| (score(bit), bit)).filter(good);
        for start in [Some(start), best, other].into_iter().flatten() {
            for bits in 1..=most.min(width - start) {
                self.add(field, width - start - bits, bits);
            }
        }
        // Ranges of ports are told apart by the upper bits.
        if matches!(field, Field::Sport | Field::Dport) {
            for bits in 1..=most.min(6) {
                self.add(field, width - bits, bits);
            }
        }
    }

    fn add(&mut self, field: Field, shift: u32, bits: u32) {
        // A window lies in one 64-bit word.
        let whole = shift / 64 == (shift + bits - 1) / 64;
        let window = Window { field, shift, bits };
        if whole && !self.candidates.contains(&window) {
            self.candidates.push(window);
        }
    }

    /// Cache lines of an average packet after this cut, and a little for memory. Packets are taken to be spread evenly over the records,
    /// and those of a record over the children it goes to.
    fn cost(&mut self, records: &[Record], list: &[u32], window: Window, room: usize) -> f32 {
        let children = window.children();
        self.counts.clear();
        self.counts.resize(children + 1, 0);
        self.weights.clear();
        self.weights.resize(children + 1, 0.0);
        let (mut everywhere, mut total) = (0i32, 0usize);
        for &number in list {
            let Children { first, count } = window.children_of(&records[number as usize]);
            total += count;
            if count == children {
                everywhere += 1;
                continue;
            }
            let weight = 1.0 / count as f32;
            let end = first + count;
            self.counts[first] += 1;
            self.weights[first] += weight;
            self.counts[end.min(children)] -= 1;
            self.weights[end.min(children)] -= weight;
            if end > children {
                self.counts[0] += 1;
                self.weights[0] += weight;
                self.counts[end - children] -= 1;
                self.weights[end - children] -= weight;
            }
        }
        if total > room || everywhere as usize == list.len() {
            return f32::INFINITY;
        }
        let (mut count, mut weight) = (everywhere, everywhere as f32 / children as f32);
        let (mut cost, mut lines, mut largest) = (0.0, children as f32 / 8.0, 0);
        for child in 0..children {
            count += self.counts[child];
            weight += self.weights[child];
            let rules = count as usize;
            largest = largest.max(rules);
            cost += weight * expected(rules);
            lines += rules.div_ceil(WIDTH) as f32 * 2.0;
        }
        let rules = list.len() as f32;
        // What helps no packet at the end is not worth a step.
        if cost >= expected(list.len()) * rules && largest == list.len() {
            return f32::INFINITY;
        }
        1.0 + cost / rules + MEMORY_WEIGHT * lines / rules * 4.0
    }
}
