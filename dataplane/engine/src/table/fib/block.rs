//! Blocks: longest match over sixteen bits, in one cache line where few ranges suffice.

use marchproxy_cpu::prefetch_slice;

use super::entry::{Entry, Kind};

/// `RANGES` ranges: range `i` ends before `bounds[i]`, and `entries[i]` answers for it. Unused bounds are `u16::MAX`, and the last
/// entry fills the rest, so that no key is special. `BOUNDS` is rounded up for the comparison of all at once.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Ranges<const RANGES: usize, const BOUNDS: usize> {
    bounds: [u16; BOUNDS],
    entries: [Entry; RANGES],
}

/// In one cache line.
type Line = Ranges<10, 12>;
/// In two that lie side by side.
type Wide = Ranges<20, 24>;

const _: () = assert!(size_of::<Line>() == 64 && size_of::<Wide>() == 128);

/// Set in the index of a [`Kind::Line`] that is [`Wide`].
const WIDE: usize = 1 << 29;

impl<const RANGES: usize, const BOUNDS: usize> Ranges<RANGES, BOUNDS> {
    const ROOM: usize = RANGES;

    /// Of at most [`ROOM`](Self::ROOM) ranges.
    fn new(ranges: &[(u16, Entry)]) -> Self {
        let mut new = Self { bounds: [u16::MAX; BOUNDS], entries: [Entry::NONE; RANGES] };
        for (at, &(start, entry)) in ranges.iter().enumerate() {
            if at > 0 {
                new.bounds[at - 1] = start;
            }
            new.entries[at..].fill(entry);
        }
        new
    }

    #[inline]
    fn get(&self, key: u16) -> Entry {
        let at = self.bounds.iter().fold(0u16, |at, &bound| at + u16::from(bound <= key));
        self.entries[usize::from(at).min(RANGES - 1)]
    }
}

/// A node of 256 entries.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Node(pub [Entry; 256]);

/// A prefix inside a block: first key, bits (1 to 16), entry.
pub type Inside = (u16, u8, Entry);

/// All blocks of a table.
#[derive(Debug, Default, Clone)]
pub struct Blocks {
    lines: Vec<Line>,
    wide: Vec<Wide>,
    nodes: Vec<Node>,
}

impl Blocks {
    /// The entry of a block for the prefixes inside it (sorted: by key, short before long); `outside` answers for the rest.
    pub fn add(&mut self, outside: Entry, inside: &[Inside]) -> Entry {
        self.cover(&ranges(outside, inside), false)
    }

    /// The entry for ranges that begin at or before the part of the keys they stand for.
    fn cover(&mut self, ranges: &[(u16, Entry)], low: bool) -> Entry {
        if let [(_, only)] = ranges {
            return *only;
        }
        if ranges.len() <= Line::ROOM {
            self.lines.push(Line::new(ranges));
            Entry::at(Kind::Line, self.lines.len() - 1)
        } else if ranges.len() <= Wide::ROOM {
            self.wide.push(Wide::new(ranges));
            Entry::at(Kind::Line, WIDE | (self.wide.len() - 1))
        } else {
            self.node(ranges, low)
        }
    }

    /// A node over the upper octet of the keys, or over the lower one of the keys of one upper octet.
    fn node(&mut self, ranges: &[(u16, Entry)], low: bool) -> Entry {
        let index = self.nodes.len();
        self.nodes.push(Node([Entry::NONE; 256]));
        let base = if low { ranges[0].0 & 0xff00 } else { 0 };
        let mut from = 0;
        for octet in 0..256u16 {
            let (first, last) = if low { (base | octet, base | octet) } else { (octet << 8, octet << 8 | 0xff) };
            while ranges.get(from + 1).is_some_and(|r| r.0 <= first) {
                from += 1;
            }
            let until = from + ranges[from..].partition_point(|r| r.0 <= last);
            let mut part = ranges[from..until].to_vec();
            part[0].0 = part[0].0.max(first);
            let entry = self.cover(&part, true);
            self.nodes[index].0[usize::from(octet)] = entry;
        }
        Entry::at(Kind::Node, index)
    }

    /// Starts loading the line of a block that the key's entry is in.
    #[inline]
    pub fn prefetch(&self, entry: Entry, key: u16) {
        if entry.is(Kind::Line) {
            if entry.index() & WIDE == 0 {
                prefetch_slice(&self.lines, entry.index());
            } else if let Some(wide) = self.wide.get(entry.index() & !WIDE) {
                prefetch_slice(&wide.entries, 0);
                prefetch_slice(&wide.entries, 10);
            }
        } else if entry.is(Kind::Node)
            && let Some(node) = self.nodes.get(entry.index())
        {
            prefetch_slice(&node.0, usize::from(key >> 8));
        }
    }

    /// The entry for a key: an answer, or a way deeper.
    #[inline]
    pub fn get(&self, entry: Entry, key: u16) -> Entry {
        if entry.is_answer() {
            return entry;
        }
        if entry.is(Kind::Line) {
            return self.line(entry.index(), key);
        }
        if !entry.is(Kind::Node) {
            return entry;
        }
        let entry = self.nodes.get(entry.index()).map_or(Entry::NONE, |node| node.0[usize::from(key >> 8)]);
        if entry.is_answer() { entry } else { self.low(entry, key) }
    }

    #[inline]
    fn line(&self, index: usize, key: u16) -> Entry {
        if index & WIDE == 0 {
            self.lines.get(index).map_or(Entry::NONE, |line| line.get(key))
        } else {
            self.wide.get(index & !WIDE).map_or(Entry::NONE, |wide| wide.get(key))
        }
    }

    /// Behind a node: ranges, a node over the lower octet, or a way deeper.
    fn low(&self, entry: Entry, key: u16) -> Entry {
        if entry.is(Kind::Line) {
            self.line(entry.index(), key)
        } else if entry.is(Kind::Node) {
            self.nodes.get(entry.index()).map_or(Entry::NONE, |node| node.0[usize::from(key as u8)])
        } else {
            entry
        }
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
            + self.wide.len() * size_of::<Wide>()
            + self.nodes.len() * size_of::<Node>()
    }
}

/// Cuts the keys where the answer changes: first key of each range, from 0 on, neighbours differ.
fn ranges(outside: Entry, inside: &[Inside]) -> Vec<(u16, Entry)> {
    let mut out = vec![(0, outside)];
    // Prefixes around the current key, outermost first: where they end, and what they say.
    let mut open: Vec<(u32, Entry)> = Vec::new();
    let mut set = |key: u32, entry: Entry| {
        let Ok(key) = u16::try_from(key) else { return };
        if out.last().is_some_and(|last| last.0 == key) {
            out.pop();
        }
        if out.last().is_none_or(|last| last.1 != entry) {
            out.push((key, entry));
        }
    };
    for &(first, bits, entry) in inside {
        let first = u32::from(first);
        while let Some(&(end, _)) = open.last().filter(|o| o.0 <= first) {
            open.pop();
            set(end, open.last().map_or(outside, |o| o.1));
        }
        set(first, entry);
        open.push((first + (1 << (16 - bits)), entry));
    }
    while let Some((end, _)) = open.pop() {
        set(end, open.last().map_or(outside, |o| o.1));
    }
    out
}
