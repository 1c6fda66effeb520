//! First matching rule, by decision trees whose worst case is known.
//!
//! Rules are split by what they are specific about: a destination, else a source, else neither. Each part begins with a root that is indexed by the
//! first bits of that address; below each root entry a small tree cuts by windows of bits of any field (in the manner of HyperCuts:
//! Singh, Baboescu, Varghese and Wang, SIGCOMM 2003) until a leaf has about four rules, which are compared at once. Every entry says
//! which rule is the first below it, so parts that can't come before a match already found are left alone.
//!
//! `build` bounds the copies of rules that cuts make and counts the cache lines of the longest path; no choice of packets touches
//! more. Rules that can't be told apart within the budget are refused by name.

mod block;
mod build;
mod cut;
mod record;
mod tree;

#[cfg(test)]
mod tests;

use marchproxy_cpu::prefetch_slice;

use crate::burst::{BURST, Mask};
use crate::flow::FlowKey;
use crate::tables::{Cidr, PortRange, RuleAction, RuleSpec};

pub use build::{Limits, Refused};
use tree::Tree;

/// What a packet shows to the rules.
#[derive(Clone, Copy, Debug)]
pub struct RuleKey {
    /// Addresses, protocol; ports count only with `has_ports`.
    pub flow: FlowKey,
    /// TCP or UDP, and not a later fragment.
    pub has_ports: bool,
    /// Interface it was received on (index into the snapshot), [`crate::burst::NONE`] when that is gone.
    pub interface: u32,
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
}

const _: () = assert!(size_of::<Rule>() == 64);

/// The rules of a snapshot, in order.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    rules: Box<[Rule]>,
    tree: Tree,
}

impl Rules {
    /// Builds from rules in order.
    pub fn build(
        specs: &[RuleSpec],
        limits: Limits,
        mut counter: impl FnMut(&RuleSpec) -> u32,
    ) -> Result<Self, Refused> {
        if specs.is_empty() {
            return Ok(Self::default());
        }
        let rules = specs
            .iter()
            .map(|s| Rule {
                name: s.name.clone(),
                priority: s.priority,
                action: s.action,
                mark: s.mark,
                counter: counter(s),
            })
            .collect();
        Ok(Self { rules, tree: Tree::build(specs, limits)? })
    }

    /// Whether there is no rule at all (then everything is permitted).
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Index of the first matching rule.
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
            prefetch_slice(&self.rules, out[lane.index()] as usize);
        }
    }

    /// By index.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&Rule> {
        self.rules.get(index as usize)
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        self.tree.bytes() + self.rules.len() * size_of::<Rule>()
    }

    /// Cache lines a look-up touches at most.
    pub fn worst_lines(&self) -> usize {
        self.tree.lines.into_iter().max().unwrap_or(0)
    }
}

/// The slow twin: try every rule. `why` and the tests use it.
pub fn scan(specs: &[RuleSpec], key: &RuleKey) -> Option<usize> {
    let inside = |list: &[Cidr], addr| list.is_empty() || list.iter().any(|c| c.contains(crate::flow::to_ip(addr)));
    let ports = |list: &[PortRange], port| list.is_empty() || key.has_ports && list.iter().any(|r| r.contains(port));
    specs.iter().position(|rule| {
        let m = &rule.matches;
        inside(&m.src, key.flow.src)
            && inside(&m.dst, key.flow.dst)
            && m.protocol.is_none_or(|p| p == key.flow.protocol)
            && ports(&m.src_ports, key.flow.sport)
            && ports(&m.dst_ports, key.flow.dport)
            && m.in_interface.is_none_or(|i| i as u32 == key.interface)
    })
}
