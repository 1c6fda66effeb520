//! Rules that count: all of them are compared with every packet, so there may be few, and what that costs is known while building.

use super::RuleKey;
use super::block::{Block, EXTRA, Extra, Key, NOTHING, WIDTH};
use super::build::{Limits, Refused};
use super::record::{MAX_RECORDS, Record, records};
use crate::flow::is_v4;
use crate::tables::{RuleAction, RuleSpec};

/// Most rules that count: a set of them is a word of this many bits.
pub const MOST: usize = 16;

/// The part of the budget of cache lines that they may have.
const SHARE: usize = 2;

/// The rules that count.
#[derive(Clone, Debug, Default)]
pub struct Counting {
    /// Their indexes, in order.
    rules: Vec<u32>,
    /// IPv4's and IPv6's records; their rules are numbers of this list.
    blocks: [Vec<Block>; 2],
    extras: Vec<Extra>,
    /// Cache lines a packet touches.
    pub lines: usize,
}

impl Counting {
    /// The rules of a list that count.
    pub fn build(specs: &[RuleSpec], number: fn(usize) -> u32, limits: Limits) -> Result<Self, Refused> {
        let counts = |(_, spec): &(usize, &RuleSpec)| spec.action == RuleAction::Count;
        let mut counting = Self::default();
        counting.rules.extend(specs.iter().enumerate().filter(counts).map(|(index, _)| number(index)));
        let refused = |field, found: usize, allowed: usize, culprits: &[u32]| {
            Err(Refused { field, found: found.to_string(), allowed: allowed.to_string(), culprits: culprits.to_vec() })
        };
        if counting.rules.len() > MOST {
            return refused("rules that count", counting.rules.len(), MOST, &counting.rules[MOST..]);
        }
        for v6 in [false, true] {
            let listed = specs.iter().enumerate().filter(counts);
            let listed = listed.map(|(index, spec)| (number(index) as usize, spec));
            let found = records(listed, v6, MAX_RECORDS).map_err(|too_many| too_many.refused())?;
            counting.add(usize::from(v6), &found);
        }
        let allowed = limits.lines / SHARE;
        if counting.lines > allowed {
            return refused("cache lines per packet of rules that count", counting.lines, allowed, &counting.rules);
        }
        Ok(counting)
    }

    fn add(&mut self, family: usize, list: &[Record]) {
        let mut lines = 0;
        for four in list.chunks(WIDTH) {
            let mut block = Block::END;
            lines += 2;
            for (place, record) in four.iter().enumerate() {
                let number = self.rules.partition_point(|&rule| rule < record.rule) as u32;
                let record = Record { rule: number, ..record.clone() };
                let extra = Extra::of(&record).map(|extra| {
                    lines += 1;
                    self.extras.push(extra);
                    self.extras.len() as u32 - 1
                });
                block.put(place, &record, extra);
            }
            self.blocks[family].push(block);
        }
        self.lines = self.lines.max(lines);
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Those that a packet meets, a bit each, of the ones before rule `decided`.
    pub fn matches(&self, key: &RuleKey, decided: u32) -> u16 {
        let v4 = is_v4(key.flow.src);
        let key = Key::new(key, v4);
        let mut found = 0;
        for block in &self.blocks[usize::from(!v4)] {
            for place in (0..WIDTH).filter(|&place| block.accepts(place, &key)) {
                let index = block.index(place);
                let number = match self.extras.get((index & !EXTRA) as usize) {
                    _ if index == NOTHING => continue,
                    _ if index & EXTRA == 0 => index,
                    Some(extra) if extra.accepts(&key) => extra.rule,
                    _ => continue,
                };
                found |= 1 << (number as usize % MOST);
            }
        }
        let before = self.rules.partition_point(|&rule| rule < decided);
        found & (1u32 << before).wrapping_sub(1) as u16
    }

    /// The rules of a set.
    #[inline]
    pub fn rules_of(&self, set: u16) -> impl Iterator<Item = u32> {
        self.rules.iter().enumerate().filter(move |(number, _)| set >> number & 1 == 1).map(|(_, &rule)| rule)
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(|blocks| size_of_val(&**blocks)).sum::<usize>() + size_of_val(&*self.extras)
    }
}
