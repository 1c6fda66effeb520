//! The classifier as look-ups see it. A look-up walks three times from a root entry through cuts to a leaf: rules with a specific
//! destination, of the others those with a specific source, the rest. An entry is one word that says everything about the next
//! step, so a step costs one cache line. Both families share the arrays; IPv4 addresses are the upper bits of longer ones.
//!
//! For a burst each step is done for all lanes before the next, and the line of the next is prefetched meanwhile. Lanes that are done
//! leave the list without a branch: which ones do is random, and a wrong guess costs as much as a step.

use std::collections::HashMap;

use marchproxy_cpu::prefetch_slice;

use crate::burst::{BURST, Mask, NONE};
use crate::flow::is_v4;

use super::RuleKey;
use super::block::{Block, EXTRA, Extra, Key, NOTHING, WIDTH, place, word};
use super::record::Field;

/// The parts of a rule list: specific destination, specific source, neither.
pub const PARTS: usize = 3;

/// A step. From the lowest bit: 5 bits for the lane of a burst that is here, 1 bit cut or leaf, 13 bits how, 19 bits the lowest rule below
/// divided by 32, 26 bits where its children or blocks begin. How a cut: 3 bits word, 6 shift, 4 width; a leaf: 8 bits blocks after
/// the first, 2 bits place of a block to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry(u64);

const CUT: u64 = 1 << 5;
const WORD_SHIFT: u32 = 6;
const FROM_SHIFT: u32 = 9;
const BITS_SHIFT: u32 = 15;
const REST_SHIFT: u32 = 6;
const REST: u64 = 0xff << REST_SHIFT;
const PLACE_SHIFT: u32 = 14;
const BOUND_SHIFT: u32 = 19;
/// Rules that one step of a bound stands for, as a shift.
const BOUND_UNIT: u32 = 5;
const BASE_SHIFT: u32 = 38;
/// Entries, and blocks, that can be told apart.
pub const MAX_BASE: usize = 1 << 26;
/// Blocks a leaf can have.
pub const MAX_BLOCKS: usize = 256;

const _: () = assert!(BURST == 32);

/// Bits of a field that choose among the children of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Of this field,
    pub field: Field,
    /// from this bit
    pub shift: u32,
    /// this many: at most 15.
    pub bits: u32,
}

impl Default for Entry {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Entry {
    /// No rule: a leaf of block 0, which matches everything as nothing.
    pub const EMPTY: Self = Self(Self::common(0, NOTHING));

    /// A cut with its children from `base`; `lowest` is the lowest rule below.
    pub fn cut(window: Window, base: usize, lowest: u32) -> Self {
        let (word, shift) = place(window.field, window.shift);
        let how = (word as u64) << WORD_SHIFT | u64::from(shift) << FROM_SHIFT | u64::from(window.bits) << BITS_SHIFT;
        Self(CUT | how | Self::common(base, lowest))
    }

    /// A leaf of `blocks` blocks from `base`.
    pub fn leaf(blocks: usize, base: usize, lowest: u32) -> Self {
        Self((blocks as u64 - 1) << REST_SHIFT | Self::common(base, lowest))
    }

    const fn common(base: usize, lowest: u32) -> u64 {
        (base as u64) << BASE_SHIFT | ((lowest >> BOUND_UNIT) as u64) << BOUND_SHIFT
    }

    /// The same where entries and blocks that were counted from 1 stand behind so many others.
    #[must_use]
    pub fn moved(self, entries: usize, blocks: usize) -> Self {
        match self.base() {
            0 => self,
            base => {
                let base = base - 1 + if self.is_cut() { entries } else { blocks };
                Self(self.0 & ((1 << BASE_SHIFT) - 1) | (base as u64) << BASE_SHIFT)
            }
        }
    }

    /// Most cache lines that a look-up touches from here on, in a tree; `seen` is what is known of its cuts.
    pub fn lines(self, tree: &Tree, seen: &mut HashMap<Entry, usize>) -> usize {
        if self.is_cut() {
            if let Some(&lines) = seen.get(&self) {
                return lines;
            }
            let children = self.base()..self.base() + (1 << (self.0 >> BITS_SHIFT & 15));
            let children = tree.entries.get(children).unwrap_or(&[]);
            let lines = 1 + children.iter().map(|child| child.lines(tree, seen)).max().unwrap_or(0);
            seen.insert(self, lines);
            return lines;
        }
        if self.base() == 0 {
            return 0;
        }
        let blocks = tree.blocks.get(self.blocks()).unwrap_or(&[]);
        blocks.len() * 2 + blocks.iter().map(Block::extras).sum::<usize>()
    }

    /// A lane at entry `at`.
    #[inline]
    fn visit(lane: usize, at: usize) -> Self {
        Self((at as u64) << BASE_SHIFT | lane as u64)
    }

    /// This entry with a lane that is here.
    #[inline]
    fn of(self, lane: usize) -> Self {
        Self(self.0 | lane as u64)
    }

    #[inline]
    fn lane(self) -> usize {
        self.0 as usize % BURST
    }

    #[inline]
    fn base(self) -> usize {
        (self.0 >> BASE_SHIFT) as usize
    }

    #[inline]
    fn is_cut(self) -> bool {
        self.0 & CUT != 0
    }

    /// Place of the block that a look-up in a leaf begins with.
    #[inline]
    fn place(self) -> usize {
        (self.0 >> PLACE_SHIFT) as usize & 3
    }

    /// A leaf to be looked at from a place of its first block on.
    #[inline]
    fn at_place(self, place: usize) -> Self {
        Self(self.0 | (place as u64 & 3) << PLACE_SHIFT)
    }

    /// Whether a leaf has more blocks.
    #[inline]
    fn has_next(self) -> bool {
        self.0 & REST != 0
    }

    /// A leaf without its first block; only with [`has_next`](Self::has_next).
    #[inline]
    fn next(self) -> Self {
        Self(self.0.wrapping_add((1 << BASE_SHIFT) - (1 << REST_SHIFT)))
    }

    /// Of a leaf: its blocks.
    pub fn blocks(self) -> std::ops::Range<usize> {
        self.base()..self.base() + 1 + ((self.0 & REST) >> REST_SHIFT) as usize
    }

    /// The child of a cut that a packet goes to.
    #[inline]
    fn child(self, key: &Key) -> usize {
        let value = key.words[(self.0 >> WORD_SHIFT) as usize & 7] >> (self.0 >> FROM_SHIFT & 63);
        let mask = !(u64::MAX << (self.0 >> BITS_SHIFT & 15));
        self.base() + (value & mask) as usize
    }

    /// Whether something below it may come before rule `best`.
    #[inline]
    fn precedes(self, best: u32) -> bool {
        ((self.0 >> BOUND_SHIFT) as u32 & (u32::MAX >> (32 - (BASE_SHIFT - BOUND_SHIFT)))) << BOUND_UNIT < best
    }
}

/// Where a part begins: the upper half of an address, cut to its first bits, spread over a power of two of entries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Root {
    /// First entry.
    pub base: u32,
    /// Bits of the upper half that do not count.
    pub shift: u32,
    /// Spreads what is left over 64 bits...
    pub factor: u64,
    /// ...of which the ones above this count.
    pub out: u32,
}

impl Root {
    /// The entry of an address's upper half.
    #[inline]
    pub fn slot(&self, half: u64) -> usize {
        self.base as usize + ((half >> self.shift).wrapping_mul(self.factor) >> self.out) as usize
    }
}

/// All rules.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// IPv4's and IPv6's.
    pub roots: [[Root; PARTS]; 2],
    /// Entries of roots and cuts.
    pub entries: Vec<Entry>,
    /// Leaves.
    pub blocks: Vec<Block>,
    /// Conditions that blocks do not hold.
    pub extras: Vec<Extra>,
    /// Parts that have rules, of either family.
    pub used: [bool; PARTS],
    /// Most cache lines a look-up touches, by family.
    pub lines: [usize; 2],
}

/// Which word a part's root looks at.
const ROOT_WORD: [usize; PARTS] = [word::DST, word::SRC, word::SRC];

/// Lanes of a burst at one step of a walk.
struct List {
    items: [Entry; BURST],
    len: usize,
}

impl List {
    const fn new() -> Self {
        Self { items: [Entry(0); BURST], len: 0 }
    }

    /// Adds the item if `really`. No branch: what is written and not counted is written over.
    #[inline]
    fn push(&mut self, item: Entry, really: bool) {
        self.items[self.len % BURST] = item;
        self.len += usize::from(really);
    }

    /// Empties it, and how many there were. They can still be read one after the other while as many are pushed.
    #[inline]
    fn restart(&mut self) -> usize {
        std::mem::take(&mut self.len).min(BURST)
    }

    #[inline]
    fn as_slice(&self) -> &[Entry] {
        &self.items[..self.len.min(BURST)]
    }
}

impl Tree {
    /// Lowest index of a matching rule of each lane into `out`, [`NONE`] without one.
    #[inline]
    pub fn first_matches(&self, lanes: Mask, key: impl Fn(usize) -> RuleKey, out: &mut [u32; BURST]) {
        let mut keys = [Key::default(); BURST];
        let mut best = [NOTHING; BURST];
        let mut starts = [const { List::new() }; 2];
        let mut v6 = Mask::default();
        for lane in lanes.lanes() {
            let index = lane.index();
            let seen = key(index);
            let v4 = is_v4(seen.flow.src);
            let key = Key::new(&seen, v4);
            let roots = &self.roots[usize::from(!v4)];
            for (start, part) in starts.iter_mut().zip(0..PARTS).filter(|(_, part)| self.used[*part]) {
                let slot = roots[part].slot(key.words[ROOT_WORD[part]]);
                prefetch_slice(&self.entries, slot);
                start.push(Entry::visit(index, slot), true);
            }
            v6.insert_if(lane, !v4);
            keys[index] = key;
        }
        self.walk(&keys, &mut starts[0], &mut best);
        self.keep(&mut starts[1], &best);
        self.walk(&keys, &mut starts[1], &mut best);
        if self.used[2] {
            let entries = [0, 1].map(|family| self.entries.get(self.roots[family][2].base as usize).copied());
            let [Some(four), Some(six)] = entries else { return };
            let mut last = List::new();
            for lane in lanes.lanes() {
                let (index, entry) = (lane.index(), if v6.contains(lane) { six } else { four });
                let at = self.roots[usize::from(v6.contains(lane))][2].base as usize;
                last.push(Entry::visit(index, at), entry.precedes(best[index]));
            }
            self.walk(&keys, &mut last, &mut best);
        }
        for lane in lanes.lanes() {
            let lane = lane.index();
            out[lane] = if best[lane] == NOTHING { NONE } else { best[lane] };
        }
    }

    /// Leaves only the lanes for which something at their entry may come before what they have.
    #[inline]
    fn keep(&self, list: &mut List, best: &[u32; BURST]) {
        for i in 0..list.restart() {
            let item = list.items[i % BURST];
            let entry = self.entries.get(item.base()).copied().unwrap_or(Entry::EMPTY);
            list.push(item, entry.precedes(best[item.lane()]));
        }
    }

    /// Takes all items of one part from root entries to the end.
    fn walk(&self, keys: &[Key; BURST], list: &mut List, best: &mut [u32; BURST]) {
        let mut leaves = List::new();
        while list.len > 0 {
            for i in 0..list.restart() {
                let item = list.items[i % BURST];
                let lane = item.lane();
                let entry = self.entries.get(item.base()).copied().unwrap_or(Entry::EMPTY);
                list.push(Entry::visit(lane, entry.child(&keys[lane])), entry.is_cut());
                leaves.push(entry.of(lane), !entry.is_cut());
            }
            for item in list.as_slice() {
                prefetch_slice(&self.entries, item.base());
            }
        }
        self.compare(keys, &mut leaves, best);
    }

    /// Compares each item's lane with its leaf's blocks until something matches.
    #[inline]
    fn compare(&self, keys: &[Key; BURST], leaves: &mut List, best: &mut [u32; BURST]) {
        let mut extras = List::new();
        while leaves.len > 0 {
            for block in leaves.as_slice().iter().filter_map(|item| self.blocks.get(item.base())) {
                block.prefetch();
            }
            for i in 0..leaves.restart() {
                let item = leaves.items[i % BURST];
                let Some(block) = self.blocks.get(item.base()) else { continue };
                let lane = item.lane();
                let (place, index) = block.first(&keys[lane]);
                // The number of an extra condition is above every rule.
                best[lane] = best[lane].min(index);
                extras.push(item.at_place(place), index & EXTRA != 0);
                leaves.push(item.next(), (index == NOTHING) & item.has_next());
            }
            let count = extras.restart();
            for item in extras.items.iter().take(count) {
                let index = self.blocks.get(item.base()).map_or(0, |block| block.index(item.place()));
                prefetch_slice(&self.extras, (index & !EXTRA) as usize);
            }
            for item in extras.items.iter().take(count) {
                let (lane, number) = (item.lane(), self.blocks.get(item.base()).map_or(0, |b| b.index(item.place())));
                let found = match self.extras.get((number & !EXTRA) as usize) {
                    Some(extra) if extra.accepts(&keys[lane]) => extra.rule,
                    _ => self.scan(*item, &keys[lane]),
                };
                best[lane] = best[lane].min(found);
            }
        }
    }

    /// Lowest index of a matching rule for one packet.
    pub fn first_match(&self, key: &RuleKey) -> Option<u32> {
        let v4 = is_v4(key.flow.src);
        let roots = &self.roots[usize::from(!v4)];
        let key = Key::new(key, v4);
        let mut best = NOTHING;
        for (part, root) in roots.iter().enumerate() {
            let mut slot = root.slot(key.words[ROOT_WORD[part]]);
            while let Some(&entry) = self.entries.get(slot).filter(|entry| entry.precedes(best)) {
                if !entry.is_cut() {
                    best = best.min(self.scan(entry, &key));
                    break;
                }
                slot = entry.child(&key);
            }
        }
        (best != NOTHING).then_some(best)
    }

    /// The first match in a leaf, from the place it names on.
    #[inline(never)]
    fn scan(&self, leaf: Entry, key: &Key) -> u32 {
        let blocks = self.blocks.get(leaf.blocks()).unwrap_or(&[]);
        let places = blocks.iter().flat_map(|block| (0..WIDTH).map(move |place| (block, place)));
        for (block, place) in places.skip(leaf.place()).filter(|(block, place)| block.accepts(*place, key)) {
            let index = block.index(place);
            match self.extras.get((index & !EXTRA) as usize) {
                _ if index & EXTRA == 0 => return index,
                Some(extra) if extra.accepts(key) => return extra.rule,
                _ => {}
            }
        }
        NOTHING
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.entries) + size_of_val(&*self.blocks) + size_of_val(&*self.extras)
    }
}
