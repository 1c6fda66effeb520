//! Builds the classifier: parts, roots, then cuts from the top until leaves are small. Every place in the tree has a bounded number of
//! copies of rules below it, so memory and time are bounded by the number of rules, whatever they are; what that costs a packet is
//! counted while building.

use std::collections::HashMap;

use super::block::{Block, EXTRA, Extra, NOTHING, WIDTH};
use super::cut::Chooser;
use super::record::{Field, Record, Space, records};
use super::sight::Wanted;
use super::tree::{Entry, MAX_BASE, MAX_BLOCKS, PARTS, Root, Tree};
use crate::tables::{RuleAction, RuleSpec};

/// What look-ups may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Octets.
    pub bytes: usize,
    /// Cache lines a packet touches at most.
    pub lines: usize,
}

/// Rules that cost more than allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which measure.
    pub field: &'static str,
    /// What it would take.
    pub found: String,
    /// What is allowed.
    pub allowed: String,
    /// Indexes of the rules that make it so, most to blame first.
    pub culprits: Vec<u32>,
}

/// Bits of an IPv4 address that the root looks at, and of an IPv6 address.
pub(super) const ROOT_BITS: [u32; 2] = [16, 32];
/// Prefixes at least this long are specific: at most 16 root entries each.
const SPECIFIC: [u32; 2] = [12, 28];
/// Root entries per distinct IPv6 key: more make fewer keys share one.
const SPREAD: usize = 4;
/// Spreads IPv6 keys over the root (2^64 divided by the golden ratio).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
/// Cuts above one another at most.
const MAX_DEPTH: usize = 16;
/// Copies of each rule that cutting a place may make, tried in turn until the worst path is short enough.
const COPIES: [usize; 3] = [8, 64, 512];
/// Places with more rules than this are not searched for hidden rules pair by pair.
const PAIRWISE: usize = 256;

/// What is known of a subtree.
#[derive(Clone, Copy, Debug, Default)]
struct Built {
    entry: Entry,
    /// Most lines a packet touches from here.
    lines: usize,
    /// The leaf where it does.
    worst: Entry,
}

/// Where in the tree.
#[derive(Clone, Copy)]
struct Place {
    /// Its packets lie in this.
    space: Space,
    /// Copies of rules allowed below.
    room: usize,
    depth: usize,
}

struct Builder<'a> {
    records: &'a [Record],
    tree: Tree,
    chooser: Chooser,
    limits: Limits,
    leaves: HashMap<Box<[u32]>, Built>,
    extras: HashMap<Extra, u32>,
}

impl Tree {
    /// From rules in order with their numbers; those that count are left out.
    pub fn build(specs: &[RuleSpec], number: fn(usize) -> u32, limits: Limits) -> Result<Self, Refused> {
        if number(specs.len()) >= NOTHING {
            return Err(Refused {
                field: "rules",
                found: specs.len().to_string(),
                allowed: (NOTHING - 1).to_string(),
                culprits: vec![NOTHING],
            });
        }
        let mut tree = Self::default();
        // Entry 0 and block 0 are what empty parts lead to and what is prefetched in vain.
        tree.entries.push(Entry::EMPTY);
        tree.blocks.push(Block::END);
        let mut extras = HashMap::new();
        for family in [false, true] {
            // While building they take about as much as the budget has for what is built.
            let most = limits.bytes / size_of::<Record>();
            let decide = specs.iter().enumerate().filter(|(_, spec)| spec.action != RuleAction::Count);
            let decide = decide.map(|(index, spec)| (number(index) as usize, spec));
            let records = records(decide, family, most).map_err(|too_many| too_many.refused())?;
            let mut builder = Builder {
                records: &records,
                tree,
                chooser: Chooser::new(&records),
                limits,
                leaves: HashMap::new(),
                extras: std::mem::take(&mut extras),
            };
            builder.family(usize::from(family))?;
            (tree, extras) = (builder.tree, builder.extras);
        }
        tree.entries.shrink_to_fit();
        tree.blocks.shrink_to_fit();
        tree.extras.shrink_to_fit();
        Ok(tree)
    }
}

/// The part of a family's rules that a record belongs to.
pub(super) fn part_of(record: &Record, family: usize) -> usize {
    let specific = |field| record.prefix_len(field) >= SPECIFIC[family];
    match (specific(Field::Dst), specific(Field::Src)) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    }
}

/// The first bits of an address that a record accepts.
pub(super) fn keys(record: &Record, family: usize, field: Field) -> std::ops::RangeInclusive<u64> {
    let (first, last) = record.space.range(field);
    let beyond = 128 - ROOT_BITS[family];
    (first >> beyond) as u64..=(last >> beyond) as u64
}

/// Where the packets of a root entry lie.
pub(super) fn space_of(family: usize, field: Field, slot: u32) -> Space {
    if family == 0 {
        let bits = ROOT_BITS[family];
        let first = u128::from(slot) << (128 - bits);
        Space::ALL.with(field, (first, first | u128::MAX >> bits))
    } else {
        // Other addresses may share the entry.
        Space::ALL
    }
}

/// What lies below one root entry, by itself: a tree whose entries and blocks count from 1, its first entry, the lines of its longest
/// path. The same as the part of a whole tree that these records lead to.
pub(super) fn subtree(records: &[Record], space: Space, limits: Limits) -> Result<(Tree, Entry, usize), Refused> {
    let mut tree = Tree::default();
    tree.entries.push(Entry::EMPTY);
    tree.blocks.push(Block::END);
    let chooser = Chooser::new(records);
    let mut builder = Builder { records, tree, chooser, limits, leaves: HashMap::new(), extras: HashMap::new() };
    let all: Vec<u32> = (0..records.len() as u32).collect();
    let built = builder.place_all(&all, space)?;
    Ok((builder.tree, built.entry, built.lines))
}

impl Builder<'_> {
    fn family(&mut self, family: usize) -> Result<(), Refused> {
        let mut parts: [Vec<u32>; PARTS] = Default::default();
        for (number, record) in self.records.iter().enumerate() {
            parts[part_of(record, family)].push(number as u32);
        }
        for (used, part) in self.tree.used.iter_mut().zip(&parts) {
            *used |= !part.is_empty();
        }
        let mut worst = [Built::default(); PARTS];
        for (part, field) in [Field::Dst, Field::Src].into_iter().enumerate() {
            (self.tree.roots[family][part], worst[part]) = self.root(family, field, &parts[part])?;
        }
        let built = self.place_all(&parts[2], Space::ALL)?;
        self.tree.roots[family][2] = Root { base: self.tree.entries.len() as u32, shift: 63, factor: 0, out: 63 };
        self.tree.entries.push(built.entry);
        worst[2] = Built { lines: built.lines + 1, ..built };
        let lines = worst.iter().map(|built| built.lines).sum();
        self.tree.lines[family] = lines;
        if lines > self.limits.lines {
            let worst = worst.into_iter().max_by_key(|built| built.lines).unwrap_or_default();
            return Err(Refused {
                field: "cache lines per packet",
                found: lines.to_string(),
                allowed: self.limits.lines.to_string(),
                culprits: self.rules_of(worst.worst),
            });
        }
        Ok(())
    }

    /// A root over one address, and its worst path.
    fn root(&mut self, family: usize, field: Field, list: &[u32]) -> Result<(Root, Built), Refused> {
        if list.is_empty() {
            return Ok((Root { base: 0, shift: 63, factor: 0, out: 63 }, Built::default()));
        }
        let keys_of = |record: &Record| keys(record, family, field);
        let base = self.tree.entries.len();
        let root = if family == 0 {
            // The upper 16 bits themselves.
            Root { base: base as u32, shift: 48, factor: 1 << 48, out: 48 }
        } else {
            let mut keys: Vec<u64> = list.iter().flat_map(|&n| keys_of(&self.records[n as usize])).collect();
            keys.sort_unstable();
            keys.dedup();
            let size = (keys.len() * SPREAD).next_power_of_two().clamp(16, 1 << 22);
            Root { base: base as u32, shift: 32, factor: GOLDEN, out: 64 - size.trailing_zeros() }
        };
        let size = 1usize << (64 - root.out);
        // (entry, record), sorted: the rules of each entry in order.
        let mut members: Vec<(u32, u32)> = Vec::with_capacity(list.len());
        for &number in list {
            for key in keys_of(&self.records[number as usize]) {
                members.push(((root.slot(key << root.shift) - base) as u32, number));
            }
        }
        members.sort_unstable();
        members.dedup();
        self.tree.entries.resize(base + size, Entry::EMPTY);
        let mut worst = Built::default();
        for group in members.chunk_by(|a, b| a.0 == b.0) {
            let slot = group[0].0;
            let space = space_of(family, field, slot);
            let built = self.place_all(&group.iter().map(|&(_, number)| number).collect::<Vec<_>>(), space)?;
            self.tree.entries[base + slot as usize] = built.entry;
            if built.lines > worst.lines {
                worst = built;
            }
        }
        worst.lines += 1;
        Ok((root, worst))
    }

    /// A whole subtree below a root entry: again with more room when its worst path is long, and the best of all attempts.
    fn place_all(&mut self, list: &[u32], space: Space) -> Result<Built, Refused> {
        let before = (self.tree.entries.len(), self.tree.blocks.len());
        let short = self.limits.lines / PARTS;
        let mut attempt = |copies: usize| {
            self.tree.entries.truncate(before.0);
            self.tree.blocks.truncate(before.1);
            self.leaves.clear();
            self.place(list.to_vec(), Place { space, room: list.len() * copies + 64, depth: 0 })
        };
        let mut best: Option<(usize, usize)> = None;
        let mut last = Err(Refused { field: "", found: String::new(), allowed: String::new(), culprits: Vec::new() });
        for copies in COPIES {
            last = attempt(copies);
            if let Ok(built) = &last {
                if built.lines <= short {
                    return last;
                }
                if best.is_none_or(|(lines, _)| built.lines < lines) {
                    best = Some((built.lines, copies));
                }
            }
        }
        match (best, &last) {
            (None, _) => last,
            (Some((lines, _)), Ok(built)) if built.lines == lines => last,
            (Some((_, copies)), _) => attempt(copies),
        }
    }

    fn place(&mut self, mut list: Vec<u32>, at: Place) -> Result<Built, Refused> {
        self.unhide(&mut list, &at.space);
        if list.is_empty() {
            return Ok(Built::default());
        }
        let window = if at.depth < MAX_DEPTH { self.chooser.choose(self.records, &list, at.room) } else { None };
        let Some(window) = window else { return self.leaf(&list) };
        let mut children: Vec<Vec<u32>> = vec![Vec::new(); window.children()];
        let mut copies = 0;
        for &number in &list {
            let to = window.children_of(&self.records[number as usize]);
            copies += to.count;
            for child in to.first..to.first + to.count {
                children[child & (window.children() - 1)].push(number);
            }
        }
        let base = self.tree.entries.len();
        self.tree.entries.resize(base + window.children(), Entry::EMPTY);
        self.within_bytes(&list)?;
        let mut worst = Built::default();
        let (whole_first, whole_last) = at.space.range(window.field);
        let above = window.shift + window.bits;
        // The place is known to lie under one value of the bits above the window: then each child's range is known, too.
        let beyond = |v: u128| v.checked_shr(above).unwrap_or(0);
        let known = beyond(whole_first) == beyond(whole_last);
        let mut same: HashMap<Vec<u32>, Built> = HashMap::new();
        for (child, list) in children.into_iter().enumerate() {
            if list.is_empty() {
                continue;
            }
            let built = match same.get(&list) {
                Some(&built) if !known => built,
                _ => {
                    let mut space = at.space;
                    if known {
                        let first = (beyond(whole_first) << window.bits | child as u128) << window.shift;
                        let last = first | !(u128::MAX << window.shift);
                        space = space.with(window.field, (first.max(whole_first), last.min(whole_last)));
                    }
                    let room = at.room * list.len() / copies.max(1);
                    let key = if known { Vec::new() } else { list.clone() };
                    let built = self.place(list, Place { space, room, depth: at.depth + 1 })?;
                    same.insert(key, built);
                    built
                }
            };
            self.tree.entries[base + child] = built.entry;
            if built.lines > worst.lines {
                worst = built;
            }
        }
        let lowest = self.records[list[0] as usize].rule;
        Ok(Built { entry: Entry::cut(window, base, lowest), lines: worst.lines + 1, worst: worst.worst })
    }

    /// Leaves out rules that no packet of the place reaches, because an earlier one takes all of theirs.
    fn unhide(&self, list: &mut Vec<u32>, space: &Space) {
        let record = |number: u32| &self.records[number as usize];
        if list.len() <= PAIRWISE {
            let mut kept = 0;
            for i in 0..list.len() {
                let number = list[i];
                if !list[..kept].iter().any(|&earlier| record(earlier).covers(record(number), space)) {
                    list[kept] = number;
                    kept += 1;
                }
            }
            list.truncate(kept);
            return;
        }
        let interface = super::record::ANY_INTERFACE;
        let all = Record { space: Space::ALL, needs_ports: false, interface, wanted: Wanted::ANY, rule: 0 };
        if let Some(last) = list.iter().position(|&number| record(number).covers(&all, space)) {
            list.truncate(last + 1);
        }
    }

    fn leaf(&mut self, list: &[u32]) -> Result<Built, Refused> {
        if let Some(&built) = self.leaves.get(list) {
            return Ok(built);
        }
        let blocks = list.len().div_ceil(WIDTH);
        let mut lines = blocks * 2;
        if blocks > MAX_BLOCKS || lines > self.limits.lines.saturating_mul(8) {
            return Err(Refused {
                field: "cache lines per packet",
                found: format!("{lines}, because {} rules overlap in many fields", list.len()),
                allowed: self.limits.lines.to_string(),
                culprits: list.iter().map(|&number| self.records[number as usize].rule).collect(),
            });
        }
        let base = self.tree.blocks.len();
        for four in list.chunks(WIDTH) {
            let mut block = Block::END;
            for (place, &number) in four.iter().enumerate() {
                let record = &self.records[number as usize];
                let extra = Extra::of(record);
                let extra = extra.map(|extra| {
                    *self.extras.entry(extra).or_insert_with(|| {
                        self.tree.extras.push(extra);
                        self.tree.extras.len() as u32 - 1
                    })
                });
                lines += usize::from(extra.is_some());
                block.put(place, record, extra);
            }
            self.tree.blocks.push(block);
        }
        self.within_bytes(list)?;
        let entry = Entry::leaf(blocks, base, self.records[list[0] as usize].rule);
        let built = Built { entry, lines, worst: entry };
        self.leaves.insert(list.into(), built);
        Ok(built)
    }

    fn within_bytes(&self, list: &[u32]) -> Result<(), Refused> {
        let (bytes, tree) = (self.tree.bytes(), &self.tree);
        if bytes <= self.limits.bytes && tree.blocks.len() < MAX_BASE && tree.entries.len() < MAX_BASE {
            return Ok(());
        }
        Err(Refused {
            field: "bytes",
            found: format!("more than {bytes}, because many prefixes and port ranges overlap"),
            allowed: self.limits.bytes.to_string(),
            culprits: list.iter().map(|&number| self.records[number as usize].rule).collect(),
        })
    }

    /// The rules of a leaf.
    fn rules_of(&self, leaf: Entry) -> Vec<u32> {
        let blocks = self.tree.blocks.get(leaf.blocks()).unwrap_or(&[]);
        let rule = |index: u32| match index & EXTRA {
            0 => Some(index),
            _ => self.tree.extras.get((index & !EXTRA) as usize).map(|extra| extra.rule),
        };
        let indexes = blocks.iter().flat_map(|block| (0..WIDTH).map(|place| block.index(place)));
        indexes.filter(|&index| index != NOTHING).filter_map(rule).collect()
    }
}
