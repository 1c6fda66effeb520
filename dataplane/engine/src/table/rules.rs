//! First matching rule, by bit vectors (Lakshman and Stiliadis, SIGCOMM 1998): each dimension cuts its values into intervals, each
//! interval has the set of rules that accept it; the lowest bit in the intersection of all sets is the answer. Work per packet
//! is bounded by dimensions x rules / 64 words whatever the rules are, so no choice of rules or packets explodes it. Memory grows
//! with rules x distinct intervals; equal sets are stored once, and the budget refuses what is too large.

use std::collections::HashMap;

use crate::flow::{Addr, FlowKey, from_ip, is_v4};
use crate::tables::{Cidr, PortRange, RuleAction, RuleSpec};

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

/// A rule as the snapshot holds it.
#[derive(Debug, Clone)]
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

/// The rules of a snapshot, in order.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    rules: Box<[Rule]>,
    families: [Family; 2],
}

/// The look-up structure of one family.
#[derive(Debug, Clone, Default)]
struct Family {
    /// Words per set; 0 when no rule can match the family.
    words: usize,
    src: Dimension<Addr>,
    dst: Dimension<Addr>,
    sport: Dimension<u16>,
    dport: Dimension<u16>,
    /// Set for packets without ports: rules that ask for none.
    portless: u32,
    protocol: Dimension<u8>,
    /// Interface index to set; beyond its end the last entry counts (rules for any interface).
    interface: Vec<u32>,
    /// Distinct sets, `words` words each.
    sets: Vec<u64>,
}

/// Values cut into intervals: `starts` sorted, first is the least value; `sets[i]` belongs to `starts[i]..starts[i + 1]`.
#[derive(Debug, Clone, Default)]
struct Dimension<K> {
    starts: Vec<K>,
    sets: Vec<u32>,
}

impl<K: Ord + Copy> Dimension<K> {
    #[inline]
    fn find(&self, value: K) -> u32 {
        let at = self.starts.partition_point(|&start| start <= value);
        self.sets.get(at.wrapping_sub(1)).copied().unwrap_or(0)
    }
}

/// Collects distinct sets.
struct Sets {
    words: usize,
    index: HashMap<Box<[u64]>, u32>,
    flat: Vec<u64>,
    limit: usize,
}

/// The sets would take more memory than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

impl Sets {
    fn intern(&mut self, set: &[u64]) -> Result<u32, TooLarge> {
        if let Some(&at) = self.index.get(set) {
            return Ok(at);
        }
        let at = self.index.len() as u32;
        if (self.flat.len() + self.words) * 8 > self.limit {
            return Err(TooLarge);
        }
        self.flat.extend_from_slice(set);
        self.index.insert(set.into(), at);
        Ok(at)
    }

    /// Cuts the values of type `K` at the ends of all ranges. `ranges` holds for each rule its inclusive ranges; `None` is "any".
    fn dimension<K: Ord + Copy>(
        &mut self,
        least: K,
        next: impl Fn(K) -> Option<K>,
        ranges: &[Option<Vec<(K, K)>>],
    ) -> Result<Dimension<K>, TooLarge> {
        // Events: from this value on the rule accepts, or no longer does.
        let mut events: Vec<(K, usize, bool)> = Vec::new();
        let mut set = vec![0u64; self.words];
        for (rule, list) in ranges.iter().enumerate() {
            match list {
                None => set[rule / 64] |= 1 << (rule % 64),
                Some(list) => {
                    for (first, last) in union(list) {
                        events.push((first, rule, true));
                        if let Some(end) = next(last) {
                            events.push((end, rule, false));
                        }
                    }
                }
            }
        }
        // Ends before starts: ranges of one rule may touch.
        events.sort_unstable_by_key(|&(value, _, accepts)| (value, accepts));
        let (mut starts, mut sets) = (Vec::new(), Vec::new());
        let mut at = 0;
        if events.first().is_none_or(|&(value, _, _)| value > least) {
            starts.push(least);
            sets.push(self.intern(&set)?);
        }
        while at < events.len() {
            let value = events[at].0;
            while at < events.len() && events[at].0 == value {
                let (_, rule, accepts) = events[at];
                if accepts {
                    set[rule / 64] |= 1 << (rule % 64);
                } else {
                    set[rule / 64] &= !(1 << (rule % 64));
                }
                at += 1;
            }
            starts.push(value);
            sets.push(self.intern(&set)?);
        }
        Ok(Dimension { starts, sets })
    }
}

/// Sorted union of inclusive ranges: none overlap, some may touch.
fn union<K: Ord + Copy>(ranges: &[(K, K)]) -> Vec<(K, K)> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut out: Vec<(K, K)> = Vec::new();
    for (first, last) in sorted {
        match out.last_mut() {
            Some(previous) if first <= previous.1 => previous.1 = previous.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

impl Family {
    fn build(specs: &[RuleSpec], v6: bool, interfaces: usize, limit: usize) -> Result<Self, TooLarge> {
        let words = specs.len().div_ceil(64);
        let mut sets = Sets { words, index: HashMap::new(), flat: Vec::new(), limit };
        let addresses = |list: &[Cidr]| {
            (!list.is_empty()).then(|| {
                let own = list.iter().filter(|c| c.addr.is_ipv6() == v6);
                own.map(address_range).collect::<Vec<_>>()
            })
        };
        let ports =
            |list: &[PortRange]| (!list.is_empty()).then(|| list.iter().map(|r| (r.first, r.last)).collect::<Vec<_>>());
        let next_address = |a: Addr| a.checked_add(1);
        let sources: Vec<_> = specs.iter().map(|r| addresses(&r.matches.src)).collect();
        let destinations: Vec<_> = specs.iter().map(|r| addresses(&r.matches.dst)).collect();
        let src = sets.dimension(0, next_address, &sources)?;
        let dst = sets.dimension(0, next_address, &destinations)?;
        let next_port = |p: u16| p.checked_add(1);
        let sports: Vec<_> = specs.iter().map(|r| ports(&r.matches.src_ports)).collect();
        let dports: Vec<_> = specs.iter().map(|r| ports(&r.matches.dst_ports)).collect();
        let sport = sets.dimension(0, next_port, &sports)?;
        let dport = sets.dimension(0, next_port, &dports)?;
        let protocols: Vec<_> = specs.iter().map(|r| r.matches.protocol.map(|p| vec![(p, p)])).collect();
        let protocol = sets.dimension(0, |p: u8| p.checked_add(1), &protocols)?;
        let subset = |accepts: &dyn Fn(&RuleSpec) -> bool| {
            let mut set = vec![0u64; words];
            for (rule, _) in specs.iter().enumerate().filter(|(_, spec)| accepts(spec)) {
                set[rule / 64] |= 1 << (rule % 64);
            }
            set
        };
        let portless = sets.intern(&subset(&|r| r.matches.src_ports.is_empty() && r.matches.dst_ports.is_empty()))?;
        let mut interface = Vec::new();
        for index in 0..=interfaces {
            let set = subset(&|r| r.matches.in_interface.is_none_or(|i| i == index && index < interfaces));
            interface.push(sets.intern(&set)?);
        }
        Ok(Self { words, src, dst, sport, dport, portless, protocol, interface, sets: sets.flat })
    }

    #[inline]
    fn set(&self, index: u32) -> &[u64] {
        let from = index as usize * self.words;
        self.sets.get(from..from + self.words).unwrap_or(&[])
    }

    #[inline]
    fn first_match(&self, key: &RuleKey) -> Option<usize> {
        let interface = self.interface.get(key.interface as usize).or(self.interface.last())?;
        let (sport, dport) = if key.has_ports {
            (self.sport.find(key.flow.sport), self.dport.find(key.flow.dport))
        } else {
            (self.portless, self.portless)
        };
        let src = self.set(self.src.find(key.flow.src));
        let dst = self.set(self.dst.find(key.flow.dst));
        let protocol = self.set(self.protocol.find(key.flow.protocol));
        let (sport, dport, interface) = (self.set(sport), self.set(dport), self.set(*interface));
        for (word, (((((&a, &b), &c), &d), &e), &f)) in
            src.iter().zip(dst).zip(protocol).zip(sport).zip(dport).zip(interface).enumerate()
        {
            let matching = a & b & c & d & e & f;
            if matching != 0 {
                return Some(word * 64 + matching.trailing_zeros() as usize);
            }
        }
        None
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.sets)
            + (self.src.starts.len() + self.dst.starts.len()) * (size_of::<Addr>() + 4)
            + (self.sport.starts.len() + self.dport.starts.len()) * 6
    }

    /// Cache lines a look-up touches at most: the binary searches and six whole sets.
    fn worst_lines(&self) -> usize {
        let search = |n: usize| (usize::BITS - n.leading_zeros()) as usize;
        search(self.src.starts.len())
            + search(self.dst.starts.len())
            + search(self.sport.starts.len())
            + search(self.dport.starts.len())
            + 6 * self.words.div_ceil(8)
    }
}

/// A prefix as an inclusive range of [`Addr`].
fn address_range(cidr: &Cidr) -> (Addr, Addr) {
    let network = cidr.network();
    let (first, bits) = (from_ip(network.addr), if network.addr.is_ipv6() { 128 } else { 32 });
    let span = 1u128.checked_shl(bits - u32::from(cidr.len)).map_or(u128::MAX, |size| size - 1);
    (first, first | span)
}

impl Rules {
    /// Builds from rules in order. `limit` bounds the memory in octets.
    pub fn build(
        specs: &[RuleSpec],
        interfaces: usize,
        limit: usize,
        mut counter: impl FnMut(&RuleSpec) -> u32,
    ) -> Result<Self, TooLarge> {
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
        let v4 = Family::build(specs, false, interfaces, limit)?;
        let v6 = Family::build(specs, true, interfaces, limit.saturating_sub(v4.bytes()))?;
        Ok(Self { rules, families: [v4, v6] })
    }

    /// Whether there is no rule at all (then everything is permitted).
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Index of the first matching rule.
    #[inline]
    pub fn first_match(&self, key: &RuleKey) -> Option<u32> {
        self.families[usize::from(!is_v4(key.flow.src))].first_match(key).map(|i| i as u32)
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
        self.families.iter().map(Family::bytes).sum::<usize>() + self.rules.len() * size_of::<Rule>()
    }

    /// Cache lines a look-up touches at most.
    pub fn worst_lines(&self) -> usize {
        self.families.iter().map(Family::worst_lines).max().unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::RuleMatch;
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u32..8).prop_map(|n| IpAddr::V4((0x0a00_0000 | n << 5 | n).into())),
            (0u128..8).prop_map(|n| IpAddr::V6((0x2001_0db8 << 96 | n << 60 | n).into())),
        ]
    }

    fn cidr() -> impl Strategy<Value = Cidr> {
        (address(), 0u8..=128).prop_map(|(addr, len)| {
            let len = if addr.is_ipv4() { len % 33 } else { len };
            Cidr { addr, len }.network()
        })
    }

    fn range() -> impl Strategy<Value = PortRange> {
        (0u16..12, 0u16..4).prop_map(|(a, b)| match (a, b) {
            (0, 0) => PortRange::ALL,
            (11, _) => PortRange { first: u16::MAX - b, last: u16::MAX },
            _ => PortRange { first: a, last: a + b },
        })
    }

    prop_compose! {
        fn rule()(src in prop::collection::vec(cidr(), 0..3), dst in prop::collection::vec(cidr(), 0..3),
                  protocol in prop::option::of(prop::sample::select(vec![1u8, 6, 17, 58, 255])),
                  src_ports in prop::collection::vec(range(), 0..2), dst_ports in prop::collection::vec(range(), 0..3),
                  in_interface in prop::option::of(0usize..3)) -> RuleSpec {
            RuleSpec { name: String::new(), priority: 0, action: RuleAction::Permit, mark: None,
                matches: RuleMatch { src, dst, protocol, src_ports, dst_ports, in_interface } }
        }
    }

    prop_compose! {
        fn key()(src in address(), dst in address(), protocol in prop::sample::select(vec![0u8, 1, 6, 17, 58, 255]),
                 sport in 0u16..14, dport in prop_oneof![0u16..14, Just(u16::MAX)], has_ports: bool,
                 interface in prop_oneof![0u32..4, Just(u32::MAX)]) -> RuleKey {
            let dst = if src.is_ipv4() == dst.is_ipv4() { dst } else { src };
            RuleKey { flow: FlowKey { src: from_ip(src), dst: from_ip(dst), protocol, sport, dport }, has_ports, interface }
        }
    }

    proptest! {
        #[test]
        fn equals_the_scan(specs in prop::collection::vec(rule(), 1..150), keys in prop::collection::vec(key(), 1..60)) {
            let rules = Rules::build(&specs, 3, usize::MAX, |_| 0).unwrap();
            for key in keys {
                prop_assert_eq!(rules.first_match(&key).map(|i| i as usize), scan(&specs, &key), "{:?}", key);
            }
        }
    }

    #[test]
    fn too_large_is_refused() {
        let specs: Vec<_> = (0..1000u32)
            .map(|n| RuleSpec {
                name: n.to_string(),
                priority: n,
                action: RuleAction::Deny,
                mark: None,
                matches: RuleMatch {
                    src: vec![Cidr { addr: IpAddr::V4((n << 8).into()), len: 24 }],
                    ..RuleMatch::default()
                },
            })
            .collect();
        assert_eq!(Rules::build(&specs, 1, 10_000, |_| 0).unwrap_err(), TooLarge);
        assert!(Rules::build(&specs, 1, 10_000_000, |_| 0).is_ok());
    }
}
