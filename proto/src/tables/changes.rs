//! Changes of rules at the price of the change: control keeps the groups of a node's rules and makes those anew that a change is in
//! ([`RuleGroups`]); a node finds out from the groups that went and came which rules changed ([`changed_rules`]).

use std::collections::{BTreeMap, HashSet};

use marchproxy_engine::tables::{RuleChanges, RuleTables};
use prost::Message;

use super::decode::{self, Names};
use super::encode::{self, ends, fnv, split};
use super::{EncodedGroup, TableError};
use crate::v1::{Group, RuleGroup, TableRule, group::Kind};

/// Priority and name: a rule's place in the order.
type Key = (u32, String);

fn key(rule: &TableRule) -> Key {
    (rule.priority, rule.name.clone())
}

/// Whether an encoded group is one of rules: field 4, length-delimited.
pub fn holds_rules(encoded: &[u8]) -> bool {
    encoded.first() == Some(&(4 << 3 | 2))
}

/// The rules of an encoded group.
fn rules_of(encoded: &[u8]) -> Result<Vec<TableRule>, TableError> {
    match Group::decode(encoded) {
        Ok(Group { kind: Some(Kind::Rules(group)) }) => Ok(group.rules),
        Ok(_) => Err(TableError::new("group", "kind", "another one", "rules")),
        Err(error) => Err(TableError::new("group", "encoding", error, "a Group of marchproxy.v1")),
    }
}

/// The groups of one node's rules; always those that [`encode`](super::encode()) makes of the whole list.
#[derive(Clone, Debug, Default)]
pub struct RuleGroups {
    /// With the key of the last rule of each.
    groups: Vec<(Key, EncodedGroup)>,
}

impl RuleGroups {
    /// The ones among encoded tables.
    pub fn of(encoded: &[EncodedGroup]) -> Result<Self, TableError> {
        let mut groups = Vec::new();
        for group in encoded.iter().filter(|group| holds_rules(&group.bytes)) {
            if let Some(last) = rules_of(&group.bytes)?.last() {
                groups.push((key(last), group.clone()));
            }
        }
        Ok(Self { groups })
    }

    /// In order.
    pub fn groups(&self) -> impl Iterator<Item = &EncodedGroup> {
        self.groups.iter().map(|(_, group)| group)
    }

    /// Makes these changes; of `tables` only interfaces and policers are looked at. After an error the groups are of no use.
    pub fn change(&mut self, tables: &RuleTables, changes: &RuleChanges) -> Result<(), TableError> {
        let mut wanted: BTreeMap<Key, Option<TableRule>> = BTreeMap::new();
        wanted.extend(changes.gone.iter().map(|key| (key.clone(), None)));
        for spec in &changes.put {
            let rule = encode::rule(tables, spec)?;
            wanted.insert(key(&rule), Some(rule));
        }
        // From the end, so that places before stay what they are.
        while let Some((last, _)) = wanted.last_key_value() {
            let at = self.groups.partition_point(|(end, _)| end < last).min(self.groups.len().saturating_sub(1));
            let first = at.checked_sub(1).map(|before| self.groups[before].0.clone());
            let here = match first {
                Some(before) => {
                    let mut here = wanted.split_off(&before);
                    // The key of the group before belongs there.
                    wanted.extend(here.remove(&before).map(|rule| (before, rule)));
                    here
                }
                None => std::mem::take(&mut wanted),
            };
            self.again(at, here)?;
        }
        Ok(())
    }

    /// Makes the group at a place anew, and those behind it as far as borders move.
    fn again(&mut self, at: usize, changes: BTreeMap<Key, Option<TableRule>>) -> Result<(), TableError> {
        let mut until = (at + 1).min(self.groups.len());
        let mut rules: BTreeMap<Key, TableRule> = BTreeMap::new();
        for (_, group) in &self.groups[at..until] {
            rules.extend(rules_of(&group.bytes)?.into_iter().map(|rule| (key(&rule), rule)));
        }
        for (key, rule) in changes {
            match rule {
                Some(rule) => drop(rules.insert(key, rule)),
                None => drop(rules.remove(&key)),
            }
        }
        let mut rules: Vec<TableRule> = rules.into_values().collect();
        let border = |rule: &TableRule| fnv(rule.name.as_bytes());
        loop {
            let parts = split(&rules, border);
            let ended = parts.last().is_none_or(|part| part.last().is_some_and(|last| ends(part.len(), border(last))));
            if ended || until == self.groups.len() {
                let made: Vec<_> = parts.into_iter().filter_map(encoded).collect();
                self.groups.splice(at..until, made);
                return Ok(());
            }
            rules.extend(rules_of(&self.groups[until].1.bytes)?);
            until += 1;
        }
    }
}

fn encoded(rules: &[TableRule]) -> Option<(Key, EncodedGroup)> {
    let group = Group { kind: Some(Kind::Rules(RuleGroup { rules: rules.to_vec() })) };
    Some((key(rules.last()?), EncodedGroup::new(&group)))
}

/// What changes from tables to others that differ in rules alone; `None` when something else differs, too.
pub fn changed_rules(
    tables: &RuleTables,
    before: &[EncodedGroup],
    after: &[EncodedGroup],
) -> Option<Result<RuleChanges, TableError>> {
    let others = |groups: &'_ [EncodedGroup]| -> Vec<[u8; 32]> {
        groups.iter().filter(|group| !holds_rules(&group.bytes)).map(|group| group.hash).collect()
    };
    if others(before) != others(after) {
        return None;
    }
    let hashes = |groups: &[EncodedGroup]| groups.iter().map(|group| group.hash).collect::<HashSet<_>>();
    let (old, new) = (hashes(before), hashes(after));
    let gone = before.iter().filter(|group| !new.contains(&group.hash)).map(|group| &*group.bytes);
    let come = after.iter().filter(|group| !old.contains(&group.hash)).map(|group| &*group.bytes);
    Some(rule_changes(tables, gone, come))
}

/// What changes for tables when these groups of rules go and those come; of `tables` only interfaces and policers are looked at.
fn rule_changes<'a>(
    tables: &RuleTables,
    gone: impl Iterator<Item = &'a [u8]>,
    come: impl Iterator<Item = &'a [u8]>,
) -> Result<RuleChanges, TableError> {
    let mut before: BTreeMap<Key, TableRule> = BTreeMap::new();
    for group in gone {
        before.extend(rules_of(group)?.into_iter().map(|rule| (key(&rule), rule)));
    }
    let interfaces = Names::new("interface", tables.interfaces.iter().map(|interface| &interface.name));
    let policers = Names::new("policer", tables.policers.iter().map(|policer| &policer.name));
    let mut changes = RuleChanges::default();
    for group in come {
        for rule in rules_of(group)? {
            if before.remove(&key(&rule)).is_none_or(|old| old != rule) {
                changes.put.push(decode::rule(&rule, &interfaces, &policers)?);
            }
        }
    }
    changes.gone = before.into_keys().collect();
    Ok(changes)
}
