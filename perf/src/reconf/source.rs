//! Where the next tables come from. What is pushed differs from what runs in the marks of some rules: no packet's way changes, so a packet
//! that is lost was lost by the push.

use marchproxy_engine::tables::{RuleSpec, RuleTables};

use crate::Error;

/// DSCP codepoints of changed rules in turn.
const MARKS: [u8; 2] = [10, 18];

/// Makes tables.
pub trait Source {
    /// Gets ready a change of `changed` rules; before the clock starts.
    fn wish(&mut self, changed: usize) -> Result<(), Error>;
    /// Carries it through as far as the node's tables.
    fn apply(&mut self) -> Result<&RuleTables, Error>;
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
}

impl Direct {
    /// Begins with these.
    pub fn new(tables: RuleTables) -> Self {
        Self { tables, round: 0 }
    }
}

impl Source for Direct {
    fn wish(&mut self, changed: usize) -> Result<(), Error> {
        change(&mut self.tables.rules, changed, self.round);
        self.round += 1;
        Ok(())
    }

    fn apply(&mut self) -> Result<&RuleTables, Error> {
        Ok(&self.tables)
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
