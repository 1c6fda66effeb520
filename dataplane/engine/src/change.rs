//! The next generation at the price of what changes.
//!
//! A snapshot can't be changed while workers read it, and copying a large one for a small change would take longer than the change. So there
//! are two: the one that runs, and a spare that was a generation before. A change is written into the spare (after the changes it missed),
//! which then runs; the one that ran becomes the spare once no worker reads it any more. Nothing large is made or freed, and memory is
//! twice one generation, always. What is needed to find out what a change means for the tables ([`Changer`]) exists once.
//!
//! Only changes of rules are made in this way; [`Changer::change`] answers `None` to what it leaves to [`build`](crate::build::build), which
//! also tells what is wrong with them. Both come to tables that treat every packet alike.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::build::{Budget, Named, check_rule, classes_beside_rules};
use crate::snapshot::Snapshot;
use crate::table::rules::LONG;
use crate::table::rules::edit::{Edit, Editor};
use crate::tables::{RuleAction, RuleChanges, RuleSpec, RuleTables};

/// A change of one generation to the next, to be written into a copy of it.
#[derive(Debug)]
pub struct Change {
    edit: Edit,
    counters: u32,
    /// Whether somebody wants to know the classes of packets from now on.
    classes: bool,
}

impl Change {
    /// Writes it into a snapshot equal to the generation it was made for.
    pub fn write(&self, snapshot: &mut Snapshot) {
        let named = |names: &[String]| names.iter().map(|name| counter_name(name)).collect::<Vec<_>>();
        let slots = &mut snapshot.counter_slots;
        slots.renew(&named(&self.edit.gone), &named(&self.edit.come), self.counters);
        let counter =
            |rule: &RuleSpec| slots.get(&counter_name(&rule.name)).map_or(crate::burst::NONE, |slot| slot.index);
        self.edit.write(&mut snapshot.rules, counter);
        snapshot.classes = self.classes;
    }

    /// Names of rules that go.
    pub fn gone(&self) -> &[String] {
        &self.edit.gone
    }

    /// Names of rules that come, in order.
    pub fn come(&self) -> &[String] {
        &self.edit.come
    }
}

/// The name of a rule's counter.
pub(crate) fn counter_name(rule: &str) -> String {
    format!("rule/{rule}")
}

/// Finds out what changes of rules mean for tables.
#[derive(Debug)]
pub struct Changer {
    editor: Editor,
    budget: Budget,
    /// Octets of everything but the rules.
    others: usize,
    /// Counters in use.
    counters: usize,
    named: Named,
    /// Whether somebody wants to know classes, whatever the rules say.
    classes: bool,
}

impl Changer {
    /// For a snapshot that was built of these tables within this budget; `None` where building anew is as good.
    pub fn new(tables: &RuleTables, snapshot: &Snapshot, budget: &Budget) -> Option<Self> {
        if tables.rules.len() < LONG || tables.rules.iter().all(|rule| rule.action == RuleAction::Count) {
            return None;
        }
        Some(Self {
            editor: Editor::new(&tables.rules, &snapshot.rules, budget.of_rules()),
            budget: *budget,
            others: snapshot.bytes() - snapshot.rules.bytes(),
            counters: snapshot.counter_slots.len(),
            named: Named::of(tables),
            classes: classes_beside_rules(tables),
        })
    }

    /// What these changes make of the tables. `None`: [`build`](crate::build::build) must say, and this is of no use any more.
    pub fn change(&mut self, changes: &RuleChanges) -> Option<Change> {
        for rule in &changes.put {
            check_rule(rule, &self.named).ok()?;
        }
        let edit = self.editor.edit(changes)?;
        self.counters = (self.counters + edit.come.len()).checked_sub(edit.gone.len())?;
        let fits = self.counters <= self.budget.counters as usize
            && self.others + self.editor.bytes() <= self.budget.bytes
            && self.editor.len() >= LONG;
        let classes = self.classes || self.editor.classify();
        fits.then_some(Change { edit, counters: self.budget.counters, classes })
    }
}

/// Makes generation after generation. It never makes a worker wait, and what it is given back it keeps.
#[derive(Debug, Default)]
pub struct Successor {
    changer: Option<Changer>,
    /// A copy of the current generation but for `missed`.
    spare: Option<Snapshot>,
    missed: VecDeque<Change>,
    /// Serials of the current generation and of the one before.
    current: u64,
    former: u64,
}

/// A number no other snapshot has but its copies.
pub(crate) fn serial() -> u64 {
    static SERIALS: AtomicU64 = AtomicU64::new(1);
    SERIALS.fetch_add(1, Ordering::Relaxed)
}

impl Successor {
    /// Whether changes can be made to the current generation.
    pub fn is_ready(&self) -> bool {
        self.changer.is_some() && self.spare.is_some()
    }

    /// Gets ready for changes to a generation that was built as a whole. Takes time in proportion to the tables: after they are published.
    pub fn prepare(&mut self, tables: &RuleTables, current: &Snapshot, budget: &Budget) {
        self.forget();
        self.changer = Changer::new(tables, current, budget);
        self.spare = self.changer.is_some().then(|| current.clone());
        self.current = current.serial;
    }

    /// Whatever comes next is built as a whole.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// The generation after the current one, to be published, or this to be [forgotten](Self::forget). `None`: build it as a whole, and
    /// [`prepare`](Self::prepare) again.
    pub fn next(&mut self, changes: &RuleChanges) -> Option<Snapshot> {
        let (Some(changer), Some(mut next)) = (&mut self.changer, self.spare.take()) else {
            self.forget();
            return None;
        };
        let Some(change) = changer.change(changes) else {
            self.forget();
            return None;
        };
        for missed in self.missed.drain(..) {
            missed.write(&mut next);
        }
        change.write(&mut next);
        next.serial = serial();
        self.former = std::mem::replace(&mut self.current, next.serial);
        // What runs until now lacks this one.
        self.missed.push_back(change);
        Some(next)
    }

    /// The change that [`next`](Self::next) made last, as long as nothing came after it.
    pub fn newest(&self) -> Option<&Change> {
        self.missed.back()
    }

    /// A generation that nobody reads any more: the one before the current, or it is of no use. Freed in the caller's thread then. Readers that lag
    /// may give back older ones late, which lack more than was missed.
    pub fn give_back(&mut self, old: Snapshot) {
        if self.changer.is_some() && self.spare.is_none() && old.serial == self.former {
            self.spare = Some(old);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::build;
    use crate::flow::{FlowKey, from_ip};
    use crate::table::rules::{RuleKey, scan};
    use crate::tables::{Cidr, PortRange, RuleMatch};

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u32) -> u32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) as u32 % n
        }

        fn prefix(&mut self) -> Cidr {
            let (site, host) = (self.below(200), self.below(4096));
            let cidr = if self.below(2) == 0 {
                let addr = Ipv4Addr::from(0x0b00_0000 + (site << 16) + host).into();
                Cidr { addr, len: [14, 20, 24, 32][self.below(4) as usize] }
            } else {
                let high = 0x2a00_u128 << 112 | u128::from(site) << 90;
                let addr = Ipv6Addr::from(high | u128::from(host)).into();
                Cidr { addr, len: [32, 48, 64, 128][self.below(4) as usize] }
            };
            cidr.network()
        }

        fn rule(&mut self, name: u32) -> RuleSpec {
            let port = self.below(6) as u16;
            let matches = RuleMatch {
                dst: vec![self.prefix()],
                protocol: Some(6),
                dst_ports: vec![PortRange { first: port, last: port + 1 }],
                ..RuleMatch::default()
            };
            let action = if self.below(2) == 0 { RuleAction::Deny } else { RuleAction::Permit };
            RuleSpec { name: format!("r{name}"), priority: self.below(4000), matches, action, ..RuleSpec::default() }
        }

        fn key(&mut self, rule: &RuleSpec) -> RuleKey {
            let dst = from_ip(rule.matches.dst[0].addr);
            let flow = FlowKey { src: dst, dst, protocol: 6, sport: 1, dport: self.below(8) as u16 };
            RuleKey { flow, has_ports: true, ..RuleKey::default() }
        }
    }

    fn sorted(tables: &mut RuleTables) {
        tables.rules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    }

    /// A chain of changes, and the same states each built as a whole after the other: every look-up and every counter is the same.
    #[test]
    fn changed_generations_equal_built_ones() {
        let mut random = Random(3);
        let mut tables =
            RuleTables { rules: (0..2600).map(|name| random.rule(name)).collect(), ..RuleTables::default() };
        sorted(&mut tables);
        // Few enough counters that names must give theirs up.
        let budget = Budget { counters: 2640, ..Budget::default() };
        let mut whole = build(&tables, None, &budget).unwrap();
        let mut current = build(&tables, None, &budget).unwrap();
        let mut successor = Successor::default();
        successor.prepare(&tables, &current, &budget);
        let mut changed = 0;
        for round in 0..24 {
            let mut changes = RuleChanges::default();
            for n in 0..=random.below(8) {
                let at = random.below(tables.rules.len() as u32) as usize;
                let fresh = random.rule(10_000 + round * 100 + n);
                let old = &tables.rules[at];
                if changes.put.iter().any(|rule| rule.name == old.name) {
                    continue;
                }
                match random.below(3) {
                    0 => changes.put.push(fresh),
                    1 => changes.put.push(RuleSpec { name: old.name.clone(), priority: old.priority, ..fresh }),
                    _ => {
                        changes.gone.push((old.priority, old.name.clone()));
                        tables.rules.remove(at);
                    }
                }
            }
            tables.rules.retain(|rule| changes.put.iter().all(|put| put.name != rule.name));
            tables.rules.extend(changes.put.iter().cloned());
            sorted(&mut tables);
            whole = build(&tables, Some(&whole), &budget).unwrap();
            let next = if let Some(next) = successor.next(&changes) {
                changed += 1;
                next
            } else {
                let next = build(&tables, Some(&current), &budget).unwrap();
                successor.prepare(&tables, &next, &budget);
                next
            };
            successor.give_back(std::mem::replace(&mut current, next));
            let objects =
                |snapshot: &Snapshot| snapshot.objects().map(|(_, name, slot)| (name, slot)).collect::<Vec<_>>();
            assert_eq!(objects(&current), objects(&whole), "round {round}");
            for _ in 0..300 {
                let rule = random.below(tables.rules.len() as u32) as usize;
                let key = random.key(&tables.rules[rule]);
                let expected = scan(&tables.rules, &key).map(|at| &tables.rules[at]);
                let found = current.rules.first_match(&key).and_then(|number| current.rules.get(number));
                assert_eq!(found.map(|rule| &rule.name), expected.map(|rule| &rule.name), "round {round}");
                assert_eq!(found.map(|rule| rule.action), expected.map(|rule| rule.action));
            }
        }
        assert!(changed > 20, "{changed} of 24 changes were made for the price of the change");
    }

    /// Readers may keep generations for as long as they like, and give them back in any order.
    #[test]
    fn only_the_generation_before_becomes_the_spare() {
        let mut random = Random(5);
        let mut tables =
            RuleTables { rules: (0..2600).map(|name| random.rule(name)).collect(), ..RuleTables::default() };
        sorted(&mut tables);
        let budget = Budget::default();
        let mut successor = Successor::default();
        let (early, late) = (build(&tables, None, &budget).unwrap(), build(&tables, None, &budget).unwrap());
        let first = build(&tables, Some(&late), &budget).unwrap();
        successor.prepare(&tables, &first, &budget);
        successor.give_back(early);
        let mut next = |successor: &mut Successor, name| {
            let rule = RuleSpec { name: format!("n{name}"), ..random.rule(0) };
            successor.next(&RuleChanges { put: vec![rule], ..RuleChanges::default() })
        };
        let second = next(&mut successor, 1).unwrap();
        successor.give_back(late);
        assert!(!successor.is_ready(), "it lacks more than one change");
        successor.give_back(first);
        let third = next(&mut successor, 2).unwrap();
        successor.give_back(second.clone());
        let fourth = next(&mut successor, 3).unwrap();
        successor.give_back(second);
        assert!(!successor.is_ready());
        successor.give_back(third);
        assert!(successor.is_ready());
        let mut names: Vec<_> =
            fourth.rules.iter().map(|rule| rule.name.as_str()).filter(|name| name.starts_with('n')).collect();
        names.sort_unstable();
        assert_eq!(names, ["n1", "n2", "n3"]);
    }

    /// What a generation knows of its rules beyond their tree: whether anybody asks for classes.
    #[test]
    fn classes_are_asked_for_while_some_rule_names_one() {
        let mut random = Random(6);
        let mut tables =
            RuleTables { rules: (0..2600).map(|name| random.rule(name)).collect(), ..RuleTables::default() };
        sorted(&mut tables);
        let budget = Budget::default();
        let mut current = build(&tables, None, &budget).unwrap();
        let mut successor = Successor::default();
        successor.prepare(&tables, &current, &budget);
        let plain = tables.rules[7].clone();
        let classed = RuleSpec { class: Some(crate::tables::Class::P1), ..plain.clone() };
        let fresh = RuleSpec { name: "fresh".into(), ..classed.clone() };
        let steps = [
            (vec![classed], vec![], true),
            (vec![fresh.clone()], vec![], true),
            (vec![plain], vec![], true),
            (vec![], vec![(fresh.priority, fresh.name)], false),
        ];
        for (put, gone, asked) in steps {
            let wanted = put.iter().map(|rule| (rule.name.clone(), rule.class)).collect::<Vec<_>>();
            let next = successor.next(&RuleChanges { gone, put }).unwrap();
            assert_eq!(next.classes, asked);
            for (name, class) in wanted {
                assert_eq!(next.rules.iter().find(|rule| rule.name == name).unwrap().class, class);
            }
            successor.give_back(std::mem::replace(&mut current, next));
        }
        let unknown =
            RuleSpec { name: "unknown".into(), mark: Some(crate::tables::MARK_MAP), ..tables.rules[9].clone() };
        assert!(successor.next(&RuleChanges { put: vec![unknown], ..RuleChanges::default() }).is_none(), "no such map");
    }

    #[test]
    fn short_lists_and_strange_changes_are_built() {
        let mut random = Random(4);
        let mut tables = RuleTables { rules: (0..20).map(|name| random.rule(name)).collect(), ..RuleTables::default() };
        sorted(&mut tables);
        let budget = Budget::default();
        let snapshot = build(&tables, None, &budget).unwrap();
        let mut successor = Successor::default();
        successor.prepare(&tables, &snapshot, &budget);
        assert!(!successor.is_ready());
        assert!(successor.next(&RuleChanges { put: vec![random.rule(7)], ..RuleChanges::default() }).is_none());
        tables.rules = (0..2600).map(|name| random.rule(name)).collect();
        sorted(&mut tables);
        let snapshot = build(&tables, None, &budget).unwrap();
        successor.prepare(&tables, &snapshot, &budget);
        assert!(successor.is_ready());
        let mut wrong = random.rule(9999);
        wrong.policer = Some(3);
        assert!(successor.next(&RuleChanges { put: vec![wrong], ..RuleChanges::default() }).is_none());
        assert!(!successor.is_ready());
    }
}
