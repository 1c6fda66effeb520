//! Changes to a list of rules at the price of the change. The [`Editor`] stands beside the rules and knows which of them each root entry of
//! the tree leads to; for a change it builds the few subtrees anew whose rules differ, and says so in an [`Edit`], which is
//! then written into one copy of the [`Rules`] after the other. A subtree depends on its own rules alone, so
//! it comes out as a build from nothing would make it.
//!
//! Rules keep their numbers; one that comes takes a free number between its neighbours, and where there is none the next few rules move up.
//! Whatever is rare (rules that count, set a way or take samples; a part of the tree that had no rules; no number near by; more lines or
//! octets than allowed; a change of a large part) is left to a build from nothing: [`Editor::edit`] then answers `None`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use super::block::{Block, Extra};
use super::build::{ROOT_BITS, keys, part_of, space_of, subtree};
use super::record::{Field, MAX_RECORDS, Record, Space, records};
use super::sight::Wanted;
use super::tree::{Entry, MAX_BASE, PARTS, Root};
use super::{Limits, Rule, Rules};
use crate::tables::{RuleAction, RuleChanges, RuleSpec};

/// Rules that may move up to make room for one.
const MOVED: u32 = 64;

/// When the conditions of more than one rule in so many change, the tree is built from nothing.
const LARGE: usize = 16;

/// Priority and name: a rule's place in the order.
type Key = (u32, Box<str>);

/// A rule and its number.
#[derive(Clone, Debug)]
struct Placed {
    number: u32,
    spec: Arc<RuleSpec>,
}

/// What a root entry leads to.
#[derive(Debug, Default)]
struct Slot {
    /// Rules with a record here, by number.
    rules: BTreeMap<u32, Arc<RuleSpec>>,
    /// Lines of its longest path.
    lines: usize,
}

/// A part of one family's tree.
#[derive(Debug, Default)]
struct Part {
    root: Root,
    slots: HashMap<u32, Slot>,
    /// How many slots have so many lines.
    lines: BTreeMap<usize, usize>,
}

/// Stands beside the rules of a generation.
#[derive(Debug)]
pub struct Editor {
    /// Without the lines of the rules that count.
    limits: Limits,
    order: BTreeMap<Key, Placed>,
    parts: [[Part; PARTS]; 2],
    used: [bool; PARTS],
    entries: usize,
    blocks: usize,
    extras: usize,
    /// Octets of the rules when they were built from nothing.
    fresh: usize,
    /// Octets of rules that count, which no edit changes.
    counting: usize,
    /// Numbers there are.
    numbers: u32,
    deciding: usize,
    looking: usize,
    classed: usize,
    /// Combinations of prefixes and ports, by family.
    records: [usize; 2],
}

/// A change, ready to be written into the rules it was made for.
#[derive(Debug, Default)]
pub struct Edit {
    roots: Vec<(u32, Entry)>,
    entries: Vec<Entry>,
    blocks: Vec<Block>,
    extras: Vec<Extra>,
    /// What stands at a number from now on.
    rules: Vec<(u32, Option<Arc<RuleSpec>>)>,
    used: [bool; PARTS],
    lines: [usize; 2],
    decide: bool,
    look_closer: bool,
    /// Names that go.
    pub gone: Vec<String>,
    /// Names that come, in order.
    pub come: Vec<String>,
}

/// Family, part and slot.
type Place = (usize, usize, u32);

impl Part {
    /// The slots that a record has here, in the numbering of its root.
    fn slots_of(&self, record: &Record, family: usize, part: usize) -> Vec<u32> {
        let Some(field) = field_of(part) else { return vec![0] };
        let beyond = 64 - ROOT_BITS[family];
        let slot = |key: u64| (self.root.slot(key << beyond) - self.root.base as usize) as u32;
        let mut slots: Vec<u32> = keys(record, family, field).map(slot).collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    fn note(&mut self, before: usize, after: usize) {
        if let Some(count) = self.lines.get_mut(&before) {
            *count -= 1;
            if *count == 0 {
                self.lines.remove(&before);
            }
        }
        *self.lines.entry(after).or_default() += 1;
    }

    fn worst(&self) -> usize {
        match self.lines.last_key_value() {
            None | Some((0, _)) => 0,
            Some((lines, _)) => lines + 1,
        }
    }

    /// Whether more slots than expected have rules, so that unlike addresses often share one.
    fn is_full(&self) -> bool {
        self.root.factor != 0 && self.slots.len() > 1 << (63 - self.root.out)
    }
}

/// The address that a part's root looks at.
const fn field_of(part: usize) -> Option<Field> {
    match part {
        0 => Some(Field::Dst),
        1 => Some(Field::Src),
        _ => None,
    }
}

/// Whether a rule is of those that edits can handle.
fn plain(spec: &RuleSpec) -> bool {
    spec.action != RuleAction::Count && spec.way.is_none() && spec.log_sample == 0
}

fn looks(spec: &RuleSpec) -> bool {
    Wanted::of(&spec.matches) != Wanted::ANY
}

impl Editor {
    /// For rules that were built from these.
    pub fn new(specs: &[RuleSpec], rules: &Rules, limits: Limits) -> Self {
        let tree = &rules.tree;
        let part = |family: usize, part: usize| {
            let root = tree.roots[family][part];
            Part { root, ..Part::default() }
        };
        let mut editor = Self {
            limits: Limits { lines: limits.lines.saturating_sub(rules.counting.lines), ..limits },
            order: BTreeMap::new(),
            parts: [0, 1].map(|family| [part(family, 0), part(family, 1), part(family, 2)]),
            used: tree.used,
            entries: tree.entries.len(),
            blocks: tree.blocks.len(),
            extras: tree.extras.len(),
            fresh: rules.bytes(),
            counting: rules.counting.bytes(),
            numbers: rules.list.len() as u32,
            deciding: specs.iter().filter(|spec| spec.action != RuleAction::Count).count(),
            looking: specs.iter().filter(|spec| looks(spec)).count(),
            classed: specs.iter().filter(|spec| spec.class.is_some()).count(),
            records: [0; 2],
        };
        for (spec, (number, _)) in specs.iter().zip(rules.with_numbers()) {
            let spec = Arc::new(spec.clone());
            editor.order.insert((spec.priority, spec.name.as_str().into()), Placed { number, spec: spec.clone() });
            if spec.action != RuleAction::Count {
                for family in 0..2 {
                    editor.records[family] += of_rule(number as usize, &spec, family).map_or(0, |list| list.len());
                }
                editor.each_place(&spec, |editor, (family, part, slot)| {
                    let slot = editor.parts[family][part].slots.entry(slot).or_default();
                    slot.rules.insert(number, spec.clone());
                });
            }
        }
        let mut seen = HashMap::new();
        for part in editor.parts.iter_mut().flatten() {
            for (slot, of) in &mut part.slots {
                let entry = tree.entries.get((part.root.base + slot) as usize).copied().unwrap_or_default();
                of.lines = entry.lines(tree, &mut seen);
                *part.lines.entry(of.lines).or_default() += 1;
            }
        }
        editor
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether any rule names a class.
    pub fn classify(&self) -> bool {
        self.classed > 0
    }

    /// Octets of the rules as they are.
    pub fn bytes(&self) -> usize {
        self.numbers as usize * size_of::<Rule>()
            + self.counting
            + self.entries * size_of::<Entry>()
            + self.blocks * size_of::<Block>()
            + self.extras * size_of::<Extra>()
    }

    /// The edit that makes these changes. `None`: build from nothing; the editor is of no use any more then.
    pub fn edit(&mut self, changes: &RuleChanges) -> Option<Edit> {
        let most = self.order.len() / LARGE;
        let (moves, names) = self.order(changes)?;
        let same = |(before, after): &Move| matches!((before, after), (Some(a), Some(b)) if a.matches == b.matches);
        if moves.values().filter(|moved| !same(moved)).count() > most {
            return None;
        }
        let mut touched: BTreeSet<Place> = BTreeSet::new();
        let mut edit = Edit { gone: names.0, come: names.1, ..Edit::default() };
        for (number, (before, after)) in moves {
            let moved = (before, after);
            if same(&moved) {
                edit.rules.push((number, moved.1));
                continue;
            }
            let (before, after) = moved;
            if let Some(before) = &before {
                self.each_place(before, |editor, place @ (family, part, slot)| {
                    editor.parts[family][part].slots.entry(slot).or_default().rules.remove(&number);
                    touched.insert(place);
                });
            }
            if let Some(after) = &after {
                self.each_place(after, |editor, place @ (family, part, slot)| {
                    editor.parts[family][part].slots.entry(slot).or_default().rules.insert(number, after.clone());
                    touched.insert(place);
                });
            }
            edit.rules.push((number, after));
        }
        for place in touched {
            self.again(place, &mut edit)?;
        }
        edit.used = self.used;
        edit.lines = [0, 1].map(|family| self.lines(family));
        edit.decide = self.deciding > 0;
        edit.look_closer = self.looking > 0;
        // What was left behind may not take more than what is in use.
        let room = self.bytes() <= self.limits.bytes && self.bytes() <= self.fresh * 2 + (1 << 16);
        let most = self.limits.bytes / size_of::<Record>();
        let room = room && self.records.iter().all(|records| *records <= most);
        (room && edit.lines.iter().all(|lines| *lines <= self.limits.lines)).then_some(edit)
    }

    /// Lines of a family's longest look-up. The third part's root is there without rules, too.
    fn lines(&self, family: usize) -> usize {
        let [first, second, third] = &self.parts[family];
        first.worst() + second.worst() + third.worst().max(1)
    }

    /// Calls with every place that a rule has.
    fn each_place(&mut self, spec: &RuleSpec, mut call: impl FnMut(&mut Self, Place)) {
        for family in 0..2 {
            for record in of_rule(0, spec, family).unwrap_or_default() {
                let part = part_of(&record, family);
                for slot in self.parts[family][part].slots_of(&record, family, part) {
                    call(self, (family, part, slot));
                }
            }
        }
    }

    /// Builds the subtree of a place.
    fn again(&mut self, (family, part, slot): Place, edit: &mut Edit) -> Option<()> {
        let limits = Limits { bytes: self.limits.bytes.saturating_sub(self.bytes()), ..self.limits };
        let (base, bases) = (self.parts[family][part].root.base, (self.entries, self.blocks, self.extras));
        // A part without rules so far has no root.
        if base == 0 {
            return None;
        }
        self.used[part] = true;
        let at = &mut self.parts[family][part];
        if at.is_full() {
            return None;
        }
        let mut list = Vec::new();
        for (&number, spec) in &at.slots.get(&slot)?.rules {
            let mine = |record: &Record| part_of(record, family) == part;
            list.extend(of_rule(number as usize, spec, family)?.into_iter().filter(mine));
        }
        list.retain(|record| at.slots_of(record, family, part).contains(&slot));
        let space = field_of(part).map_or(Space::ALL, |field| space_of(family, field, slot));
        let (tree, entry, lines) = subtree(&list, space, limits).ok()?;
        let moved = |entry: &Entry| entry.moved(bases.0, bases.1);
        edit.roots.push((base + slot, moved(&entry)));
        edit.entries.extend(tree.entries.iter().skip(1).map(moved));
        edit.blocks.extend(tree.blocks.iter().skip(1).map(|block| block.moved(bases.2)));
        edit.extras.extend(&tree.extras);
        self.entries += tree.entries.len() - 1;
        self.blocks += tree.blocks.len() - 1;
        self.extras += tree.extras.len();
        let before = at.slots.get(&slot)?.lines;
        at.note(before, lines);
        if list.is_empty() {
            at.slots.remove(&slot);
        } else if let Some(slot) = at.slots.get_mut(&slot) {
            slot.lines = lines;
        }
        (self.entries < MAX_BASE && self.blocks < MAX_BASE).then_some(())
    }

    /// Makes the changes in the order of rules. What stood at which number before and what stands there now; names that go and that come.
    #[allow(clippy::type_complexity, reason = "two pairs of the same kind")]
    fn order(&mut self, changes: &RuleChanges) -> Option<(BTreeMap<u32, Move>, (Vec<String>, Vec<String>))> {
        let mut moves: BTreeMap<u32, Move> = BTreeMap::new();
        let mut gone: BTreeSet<&str> = BTreeSet::new();
        for (priority, name) in &changes.gone {
            let placed = self.order.remove(&(*priority, name.as_str().into()))?;
            self.count(&placed.spec, false)?;
            moves.insert(placed.number, (Some(placed.spec), None));
            gone.insert(name);
        }
        let mut come = Vec::new();
        let mut put: Vec<&RuleSpec> = changes.put.iter().collect();
        put.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        for spec in put {
            let (key, spec) = ((spec.priority, Box::from(spec.name.as_str())), Arc::new(spec.clone()));
            self.count(&spec, true)?;
            if let Some(placed) = self.order.get_mut(&key) {
                let before = std::mem::replace(&mut placed.spec, spec.clone());
                moves.entry(placed.number).or_insert((Some(before.clone()), None)).1 = Some(spec);
                self.count(&before, false)?;
                continue;
            }
            if !gone.remove(spec.name.as_str()) {
                come.push(spec.name.clone());
            }
            let number = self.room(&key, &mut moves)?;
            self.order.insert(key, Placed { number, spec: spec.clone() });
            moves.entry(number).or_default().1 = Some(spec);
        }
        Some((moves, (gone.into_iter().map(str::to_owned).collect(), come)))
    }

    fn count(&mut self, spec: &RuleSpec, more: bool) -> Option<()> {
        let change = |n: usize| if more { n + 1 } else { n.saturating_sub(1) };
        self.deciding = change(self.deciding);
        if looks(spec) {
            self.looking = change(self.looking);
        }
        if spec.class.is_some() {
            self.classed = change(self.classed);
        }
        for family in 0..2 {
            let count = of_rule(0, spec, family)?.len();
            let all = self.records[family];
            self.records[family] = if more { all + count } else { all.saturating_sub(count) };
        }
        plain(spec).then_some(())
    }

    /// A free number for a rule at this place, found or made.
    fn room(&mut self, key: &Key, moves: &mut BTreeMap<u32, Move>) -> Option<u32> {
        let before = self.order.range(..key.clone()).next_back().map(|(_, placed)| placed.number);
        let wanted = before.map_or(0, |number| number + 1);
        // The rules behind it that stand next to each other, up to the first free number.
        let behind = self.order.range((Excluded(key.clone()), Unbounded)).take(MOVED as usize + 1);
        let run: Vec<Key> = (wanted..)
            .zip(behind)
            .take_while(|(number, (_, p))| p.number == *number)
            .map(|(_, (k, _))| k.clone())
            .collect();
        if run.len() > MOVED as usize {
            return None;
        }
        for key in run.into_iter().rev() {
            let placed = self.order.get_mut(&key)?;
            // It may neither count nor set a way: their numbers are kept elsewhere, too.
            plain(&placed.spec).then_some(())?;
            let from = placed.number;
            placed.number += 1;
            let spec = placed.spec.clone();
            self.numbers = self.numbers.max(from + 2);
            let left = moves.entry(from).or_insert((Some(spec.clone()), None));
            left.1 = None;
            moves.entry(from + 1).or_default().1 = Some(spec);
        }
        self.numbers = self.numbers.max(wanted + 1);
        Some(wanted)
    }
}

/// What stood at a number, and what stands there now.
type Move = (Option<Arc<RuleSpec>>, Option<Arc<RuleSpec>>);

/// The records of one rule; `None` where there are too many.
fn of_rule(number: usize, spec: &RuleSpec, family: usize) -> Option<Vec<Record>> {
    records(std::iter::once((number, spec)), family == 1, MAX_RECORDS).ok()
}

impl Edit {
    /// Writes it into rules that had all edits before; `counter` gives the counters of rules.
    pub fn write(&self, rules: &mut Rules, mut counter: impl FnMut(&RuleSpec) -> u32) {
        let tree = &mut rules.tree;
        tree.entries.extend_from_slice(&self.entries);
        tree.blocks.extend_from_slice(&self.blocks);
        tree.extras.extend_from_slice(&self.extras);
        for &(at, entry) in &self.roots {
            if let Some(root) = tree.entries.get_mut(at as usize) {
                *root = entry;
            }
        }
        (tree.used, tree.lines) = (self.used, self.lines);
        for (number, spec) in &self.rules {
            let rule = spec.as_ref().map_or_else(Rule::vacant, |spec| Rule::plain(spec, counter(spec)));
            let number = *number as usize;
            if number >= rules.list.len() {
                rules.list.resize_with(number + 1, Rule::vacant);
            }
            rules.list[number] = rule;
        }
        (rules.decide, rules.look_closer) = (self.decide, self.look_closer);
    }
}
