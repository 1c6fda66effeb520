//! Where the next tables come from. What is pushed differs from what runs in the marks of some rules: no packet's way changes, so a packet
//! that is lost was lost by the push.

use std::time::Instant;

use marchproxy_engine::tables::{RuleChanges, RuleSpec, RuleTables};
use serde::Serialize;

use crate::Error;

/// DSCP codepoints of changed rules in turn.
const MARKS: [u8; 2] = [10, 18];

/// What the node gets.
#[derive(Debug)]
pub enum Pushed {
    /// Other tables.
    Whole,
    /// The same with other rules.
    Rules(RuleChanges),
}

/// What a push is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// So many rules.
    Rules(usize),
    /// The document as a whole, from its text.
    Document(Format),
}

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As people write it.
    Yaml,
    /// As programs write it.
    Json,
}

/// What a part of a push took, in milliseconds.
pub type Stages = Vec<(&'static str, f64)>;

/// Calls, and notes how long that took.
pub fn timed<T>(stages: &mut Stages, name: &'static str, call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = call();
    stages.push((name, start.elapsed().as_secs_f64() * 1e3));
    done
}

/// Makes tables.
pub trait Source {
    /// Gets ready what is pushed next; before the clock starts.
    fn wish(&mut self, wish: Wish) -> Result<(), Error>;
    /// Carries it through as far as the node.
    fn apply(&mut self, stages: &mut Stages) -> Result<Pushed, Error>;
    /// The node's tables as a whole.
    fn tables(&mut self) -> Result<RuleTables, Error>;
}

/// The rules' next state: `changed` of them, spread evenly over the list, get another mark each time.
pub fn change(rules: &mut [RuleSpec], changed: usize, round: usize) -> Vec<usize> {
    let (all, changed) = (rules.len(), changed.min(rules.len()));
    let places: Vec<usize> = (0..changed).map(|n| (n * all / changed + round) % all).collect();
    for &place in &places {
        let rule = &mut rules[place];
        rule.mark = Some(if rule.mark == Some(MARKS[0]) { MARKS[1] } else { MARKS[0] });
    }
    places
}

/// Tables straight from the harness: the node's part of a push and nothing else.
pub struct Direct {
    tables: RuleTables,
    round: usize,
    changes: RuleChanges,
}

impl Direct {
    /// Begins with these.
    pub fn new(tables: RuleTables) -> Self {
        Self { tables, round: 0, changes: RuleChanges::default() }
    }
}

impl Source for Direct {
    fn wish(&mut self, wish: Wish) -> Result<(), Error> {
        let Wish::Rules(changed) = wish else {
            return Err(Error::Harness("documents are control's: build with --features control"));
        };
        let places = change(&mut self.tables.rules, changed, self.round);
        self.changes.put = places.into_iter().map(|place| self.tables.rules[place].clone()).collect();
        self.round += 1;
        Ok(())
    }

    fn apply(&mut self, _: &mut Stages) -> Result<Pushed, Error> {
        Ok(Pushed::Rules(std::mem::take(&mut self.changes)))
    }

    fn tables(&mut self) -> Result<RuleTables, Error> {
        Ok(self.tables.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::rules::{Profile, generate};

    #[test]
    fn as_many_rules_change_as_were_asked_for_every_time() {
        let mut rules = generate(Profile::Acl, 100, 1, &[]);
        for round in 0..3 {
            for changed in [1, 10, 33, 100, 1000] {
                let before = rules.clone();
                let places = change(&mut rules, changed, round);
                let differ = before.iter().zip(&rules).filter(|(a, b)| a != b).count();
                assert_eq!((places.len(), differ), (changed.min(100), changed.min(100)));
            }
        }
        assert!(rules.iter().all(|rule| rule.mark.is_some()));
    }
}
