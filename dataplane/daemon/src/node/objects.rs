//! Counters of named objects. The engine counts by slot, and a slot may pass to another name; each name begins at zero.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use marchproxy_engine::Snapshot;
use marchproxy_engine::change::Change;
use marchproxy_engine::snapshot::ObjectKind;
use marchproxy_engine::stats::ThreadStats;

/// Packets, octets, drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) dropped: u64,
}

/// An object, where it is counted, and what stood there before it.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) kind: ObjectKind,
    pub(super) name: String,
    pub(super) slot: u32,
    before: Counts,
}

/// The objects of the generation that runs.
#[derive(Debug, Default)]
pub(super) struct Objects(Mutex<Arc<Vec<Object>>>);

impl Objects {
    /// The objects of the next generation; names that stay keep their counts.
    pub(super) fn next(&self, snapshot: &Snapshot, threads: &[Arc<ThreadStats>]) -> Vec<Object> {
        let now = self.list();
        let old: HashMap<(&'static str, &str), &Object> =
            now.iter().map(|object| ((object.kind.label(), object.name.as_str()), object)).collect();
        let object = |(kind, name, slot): (ObjectKind, String, u32)| {
            let before = match old.get(&(kind.label(), name.as_str())) {
                Some(old) if old.slot == slot => old.before,
                _ => sum(slot, threads),
            };
            Object { kind, name, slot, before }
        };
        snapshot.objects().map(object).collect()
    }

    /// The same for a change that is about to be published: what comes is counted from here on, all others as before.
    pub(super) fn change(&self, snapshot: &Snapshot, change: Option<&Change>, threads: &[Arc<ThreadStats>]) {
        let Some(change) = change.filter(|change| change.gone().len() + change.come().len() > 0) else { return };
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let list = Arc::make_mut(&mut list);
        let gone: HashSet<&str> = change.gone().iter().map(String::as_str).collect();
        if !gone.is_empty() {
            list.retain(|object| object.kind != ObjectKind::Rule || !gone.contains(object.name.as_str()));
        }
        let come = change.come().iter().filter_map(|name| {
            let slot = snapshot.rule_counter(name)?;
            Some(Object { kind: ObjectKind::Rule, name: name.clone(), slot, before: sum(slot, threads) })
        });
        // Rules stand first.
        let rules = list.iter().take_while(|object| object.kind == ObjectKind::Rule).count();
        list.splice(rules..rules, come);
    }

    /// The generation was published.
    pub(super) fn replace(&self, objects: Vec<Object>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(objects);
    }

    /// The objects now.
    pub(super) fn list(&self) -> Arc<Vec<Object>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Object {
    /// What was counted under this name.
    pub(super) fn counts(&self, threads: &[Arc<ThreadStats>]) -> Counts {
        let now = sum(self.slot, threads);
        Counts {
            packets: now.packets.saturating_sub(self.before.packets),
            bytes: now.bytes.saturating_sub(self.before.bytes),
            dropped: now.dropped.saturating_sub(self.before.dropped),
        }
    }
}

fn sum(slot: u32, threads: &[Arc<ThreadStats>]) -> Counts {
    threads.iter().filter_map(|stats| stats.object(slot)).fold(Counts::default(), |sum, counters| Counts {
        packets: sum.packets + counters.matched.packets.value(),
        bytes: sum.bytes + counters.matched.bytes.value(),
        dropped: sum.dropped + counters.dropped.value(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use marchproxy_engine::tables::{RuleAction, RuleMatch, RuleSpec, RuleTables};
    use marchproxy_engine::{Budget, build};

    fn tables(rules: &[&str]) -> RuleTables {
        let rule = |name: &&str| RuleSpec {
            name: (*name).into(),
            priority: 1,
            matches: RuleMatch::default(),
            action: RuleAction::Permit,
            mark: None,
            ..Default::default()
        };
        RuleTables { rules: rules.iter().map(rule).collect(), ..RuleTables::default() }
    }

    #[test]
    fn a_name_that_takes_over_a_slot_begins_at_zero() {
        let budget = Budget { counters: 1, ..Budget::default() };
        let threads = [Arc::new(ThreadStats::new(1)), Arc::new(ThreadStats::new(1))];
        let objects = Objects::default();
        let first = build(&tables(&["a"]), None, &budget).unwrap();
        objects.replace(objects.next(&first, &threads));
        threads[0].objects[0].matched.count(100);
        threads[1].objects[0].matched.count(50);
        let counted = objects.list()[0].counts(&threads);
        assert_eq!((counted.packets, counted.bytes), (2, 150));
        // The same name goes on counting, another one in its place begins anew.
        let second = build(&tables(&["a"]), Some(&first), &budget).unwrap();
        objects.replace(objects.next(&second, &threads));
        assert_eq!(objects.list()[0].counts(&threads).packets, 2);
        let third = build(&tables(&["b"]), Some(&second), &budget).unwrap();
        objects.replace(objects.next(&third, &threads));
        assert_eq!((objects.list()[0].name.as_str(), objects.list()[0].counts(&threads).packets), ("b", 0));
        threads[0].objects[0].dropped.add(1);
        assert_eq!(objects.list()[0].counts(&threads).dropped, 1);
    }
}
