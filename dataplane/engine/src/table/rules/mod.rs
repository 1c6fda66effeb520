//! First matching rule, by decision trees whose worst case is known.
//!
//! Rules are split by what they are specific about: a destination, else a source, else neither. Each part begins with a root that is indexed by the
//! first bits of that address; below each root entry a small tree cuts by windows of bits of any field (in the manner of HyperCuts:
//! Singh, Baboescu, Varghese and Wang, SIGCOMM 2003) until a leaf has about four rules, which are compared at once. Every entry says
//! which rule is the first below it, so parts that can't come before a match already found are left alone.
//!
//! `build` bounds the copies of rules that cuts make and counts the cache lines of the longest path; no choice of packets touches
//! more. Rules that can't be told apart within the budget are refused by name.
//!
//! Rules that only count stand beside the trees, in a list that every packet is compared with as a whole; it has its share of the lines.

mod block;
mod build;
mod counting;
mod cut;
pub mod edit;
mod record;
mod sight;
mod tree;

#[cfg(test)]
mod tests;

use marchproxy_cpu::prefetch_slice;

use crate::burst::{BURST, Mask, NONE};
use crate::flow::FlowKey;
use crate::tables::{Cidr, Class, PortRange, RuleAction, RuleMatch, RuleSpec};

pub use build::{Limits, Refused};
use counting::Counting;
pub use sight::Sight;
use sight::Wanted;
use tree::Tree;

/// What a packet shows to the rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuleKey {
    /// Addresses, protocol; ports count only with `has_ports`.
    pub flow: FlowKey,
    /// TCP or UDP, and not a later fragment.
    pub has_ports: bool,
    /// Interface it was received on (index into the snapshot), [`crate::burst::NONE`] when that is gone.
    pub interface: u32,
    /// What else rules may ask about; may be the default unless they [look closer](Rules::look_closer).
    pub sight: Sight,
}

/// A rule as the snapshot holds it: one cache line.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Its priority.
    pub priority: u32,
    /// Its decision.
    pub action: RuleAction,
    /// Its mark.
    pub mark: Option<u8>,
    /// Counter slot.
    pub counter: u32,
    /// Its policer (index into the snapshot), or [`crate::burst::NONE`].
    pub policer: u32,
    /// Its way (number among the rules that have one, as in [`crate::snapshot::Snapshot::detour`]), or [`crate::burst::NONE`].
    pub way: u32,
    /// Of so many packets one is recorded; 0: none.
    pub log_sample: u32,
    /// Its number among the rules that sample.
    pub sampler: u32,
    /// Its denial ends no session.
    pub new_only: bool,
    /// Its class.
    pub class: Option<Class>,
    /// It is none: a number between two rules, kept for one that may come.
    vacant: bool,
}

const _: () = assert!(size_of::<Rule>() == 64);

impl Rule {
    /// One that sets no way and samples nothing.
    fn plain(spec: &RuleSpec, counter: u32) -> Self {
        Self {
            name: spec.name.clone(),
            priority: spec.priority,
            action: spec.action,
            mark: spec.mark,
            counter,
            policer: spec.policer.map_or(NONE, |policer| policer as u32),
            way: NONE,
            log_sample: spec.log_sample,
            sampler: NONE,
            new_only: spec.new_only,
            class: spec.class,
            vacant: false,
        }
    }

    fn vacant() -> Self {
        Self { vacant: true, ..Self::plain(&RuleSpec::default(), NONE) }
    }

    /// Whether it does anything to packets beyond what a session's decision holds itself.
    #[inline]
    pub fn does_more(&self) -> bool {
        self.way != NONE || self.log_sample > 0
    }
}

/// In a long list one number behind so many rules is left out, so that a rule that comes later finds one near its place.
const RUN: u32 = 4;

/// Rules from which on a list is long: shorter ones are built anew in no time.
pub const LONG: usize = 2048;

/// The number of the rule at a place of a list without gaps, or with them.
fn dense(index: usize) -> u32 {
    index as u32
}

fn spaced(index: usize) -> u32 {
    index as u32 + index as u32 / RUN
}

/// The rules of a snapshot, in order.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// By number.
    list: Vec<Rule>,
    tree: Tree,
    counting: Counting,
    decide: bool,
    look_closer: bool,
}

impl Rules {
    /// Builds from rules in order; their numbers are their places.
    pub fn build(specs: &[RuleSpec], limits: Limits, counter: impl FnMut(&RuleSpec) -> u32) -> Result<Self, Refused> {
        Self::numbered(specs, dense, limits, counter)
    }

    /// Builds from rules in order, a [`LONG`] list with gaps in its numbers. A refusal names places.
    pub fn build_for_change(
        specs: &[RuleSpec],
        limits: Limits,
        counter: impl FnMut(&RuleSpec) -> u32,
    ) -> Result<Self, Refused> {
        if specs.len() < LONG {
            return Self::build(specs, limits, counter);
        }
        Self::numbered(specs, spaced, limits, counter).map_err(|mut refused| {
            for culprit in &mut refused.culprits {
                *culprit -= *culprit / (RUN + 1);
            }
            refused
        })
    }

    fn numbered(
        specs: &[RuleSpec],
        number: fn(usize) -> u32,
        limits: Limits,
        mut counter: impl FnMut(&RuleSpec) -> u32,
    ) -> Result<Self, Refused> {
        if specs.is_empty() {
            return Ok(Self::default());
        }
        let (mut ways, mut samplers) = (0.., 0..);
        let mut list = Vec::with_capacity(number(specs.len()) as usize);
        for (index, s) in specs.iter().enumerate() {
            list.resize_with(number(index) as usize, Rule::vacant);
            list.push(Rule {
                way: s.way.and_then(|_| ways.next()).unwrap_or(NONE),
                sampler: (s.log_sample > 0).then(|| samplers.next()).flatten().unwrap_or(NONE),
                ..Rule::plain(s, counter(s))
            });
        }
        let counting = Counting::build(specs, number, limits)?;
        let left = Limits { lines: limits.lines - counting.lines, ..limits };
        Ok(Self {
            list,
            tree: Tree::build(specs, number, left)?,
            counting,
            decide: specs.iter().any(|s| s.action != RuleAction::Count),
            look_closer: specs.iter().any(|s| Wanted::of(&s.matches) != Wanted::ANY),
        })
    }

    /// Whether there is no rule at all.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether any rule decides; if none does, everything is permitted.
    #[inline]
    pub fn decide(&self) -> bool {
        self.decide
    }

    /// Whether any rule looks at a packet's [`Sight`].
    #[inline]
    pub fn look_closer(&self) -> bool {
        self.look_closer
    }

    /// Whether any rule counts.
    #[inline]
    pub fn count(&self) -> bool {
        !self.counting.is_empty()
    }

    /// The rules that count a packet about which rule `decided` decides ([`crate::burst::NONE`]: none), as a set.
    pub fn counting(&self, key: &RuleKey, decided: u32) -> u16 {
        self.counting.matches(key, decided)
    }

    /// The rules of such a set.
    pub fn counted(&self, set: u16) -> impl Iterator<Item = &Rule> {
        self.counting.rules_of(set).filter_map(|rule| self.get(rule))
    }

    /// Number of the first matching rule.
    #[inline]
    pub fn first_match(&self, key: &RuleKey) -> Option<u32> {
        self.tree.first_match(key)
    }

    /// The same for lanes of a burst at once, [`crate::burst::NONE`] for no match.
    #[inline]
    pub fn first_matches(&self, lanes: Mask, key: impl Fn(usize) -> RuleKey, out: &mut [u32; BURST]) {
        self.tree.first_matches(lanes, key, out);
        // The next stage reads what they decide.
        for lane in lanes.lanes() {
            prefetch_slice(&self.list, out[lane.index()] as usize);
        }
    }

    /// By number.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&Rule> {
        self.list.get(index as usize)
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.list.iter().filter(|rule| !rule.vacant)
    }

    /// In order, with their numbers.
    pub fn with_numbers(&self) -> impl Iterator<Item = (u32, &Rule)> {
        (0..).zip(&self.list).filter(|(_, rule)| !rule.vacant)
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        self.tree.bytes() + self.counting.bytes() + self.list.len() * size_of::<Rule>()
    }

    /// Cache lines a look-up touches at most.
    pub fn worst_lines(&self) -> usize {
        self.tree.lines.into_iter().max().unwrap_or(0) + self.counting.lines
    }
}

/// The slow twin: try every rule that decides. `why` and the tests use it.
pub fn scan(specs: &[RuleSpec], key: &RuleKey) -> Option<usize> {
    specs.iter().position(|rule| rule.action != RuleAction::Count && meets(key, &rule.matches))
}

/// Whether a packet meets a rule's conditions.
pub fn meets(key: &RuleKey, m: &RuleMatch) -> bool {
    let inside = |list: &[Cidr], addr| list.is_empty() || list.iter().any(|c| c.contains(crate::flow::to_ip(addr)));
    let ports = |list: &[PortRange], port| list.is_empty() || key.has_ports && list.iter().any(|r| r.contains(port));
    inside(&m.src, key.flow.src)
        && inside(&m.dst, key.flow.dst)
        && m.protocol.is_none_or(|p| p == key.flow.protocol)
        && ports(&m.src_ports, key.flow.sport)
        && ports(&m.dst_ports, key.flow.dport)
        && m.in_interface.is_none_or(|i| i as u32 == key.interface)
        && Wanted::of(m).accepts(key.sight.dscp(), key.sight.rest())
}
