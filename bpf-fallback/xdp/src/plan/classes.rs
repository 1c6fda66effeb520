//! The known rules as the program looks for them: a bit each, and for every part of a packet the bits of the rules that accept it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use bytemuck::Zeroable;
use marchproxy_engine::tables::{Cidr, PortRange, RuleMatch, RuleTables};

use super::{Place, Plan, permits_plainly};
use crate::abi::{
    DENIES_THE_REST, Generation, LOOKS_AT_SOURCE_PORT, LOOKS_AT_SOURCE_V4, LOOKS_AT_SOURCE_V6, LOOKS_AT_TARGET_PORT,
    LOOKS_AT_TARGET_V4, LOOKS_AT_TARGET_V6, PERMITS_ALL,
};

/// Bits by prefix: of all rules that accept the addresses in it.
pub type ByPrefix = BTreeMap<(u128, u8), u64>;

/// What the program's tables hold. Tables that nothing looks at are empty.
pub struct Classes {
    pub generation: Generation,
    pub sources_v4: ByPrefix,
    pub sources_v6: ByPrefix,
    pub targets_v4: ByPrefix,
    pub targets_v6: ByPrefix,
    pub source_ports: Vec<u64>,
    pub target_ports: Vec<u64>,
}

impl Classes {
    pub fn new(tables: &RuleTables, plan: &Plan) -> Self {
        let known: Vec<&RuleMatch> =
            plan.known.iter().filter_map(|&rule| tables.rules.get(rule)).map(|r| &r.matches).collect();
        let bits = |accepts: &dyn Fn(&RuleMatch) -> bool| {
            known.iter().enumerate().filter(|(_, rule)| accepts(rule)).fold(0u64, |bits, (bit, _)| bits | 1 << bit)
        };
        let mut generation = Generation::zeroed();
        generation.all = bits(&|_| true);
        generation.portless = bits(&|rule| rule.src_ports.is_empty() && rule.dst_ports.is_empty());
        for (number, protocol) in generation.protocols.iter_mut().enumerate() {
            *protocol = bits(&|rule| rule.protocol.is_none_or(|wanted| usize::from(wanted) == number));
        }
        for (bit, &rule) in plan.known.iter().enumerate() {
            if plan.rules.get(rule) == Some(&Place::Xdp) {
                generation.ends |= 1 << bit;
            }
        }
        if tables.rules.is_empty() {
            generation.flags |= PERMITS_ALL;
        }
        // The first of the known rules is the first of all only where all are known.
        if plan.known.len() == tables.rules.len() {
            for (bit, _) in tables.rules.iter().enumerate().filter(|(_, rule)| permits_plainly(rule)) {
                generation.permits |= 1 << bit;
            }
        }
        let mut looks = |flag: u32, does: &dyn Fn(&RuleMatch) -> bool| {
            let does = bits(does) != 0;
            if does {
                generation.flags |= flag;
            }
            does
        };
        // A list of one family accepts nothing of the other, so any list is looked at in both.
        let source = looks(LOOKS_AT_SOURCE_V4 | LOOKS_AT_SOURCE_V6, &|rule| !rule.src.is_empty());
        let target = looks(LOOKS_AT_TARGET_V4 | LOOKS_AT_TARGET_V6, &|rule| !rule.dst.is_empty());
        let source_port = looks(LOOKS_AT_SOURCE_PORT, &|rule| !rule.src_ports.is_empty());
        let target_port = looks(LOOKS_AT_TARGET_PORT, &|rule| !rule.dst_ports.is_empty());
        if plan.denies_the_rest {
            generation.flags |= DENIES_THE_REST;
        }
        let prefixes = |wanted: bool, v6, list: fn(&RuleMatch) -> &[Cidr]| {
            if wanted { by_prefix(&known, v6, list) } else { ByPrefix::new() }
        };
        let ports = |wanted: bool, list: fn(&RuleMatch) -> &[PortRange]| {
            if wanted { by_port(&known, list) } else { Vec::new() }
        };
        Self {
            sources_v4: prefixes(source, false, |rule| &rule.src),
            sources_v6: prefixes(source, true, |rule| &rule.src),
            targets_v4: prefixes(target, false, |rule| &rule.dst),
            targets_v6: prefixes(target, true, |rule| &rule.dst),
            source_ports: ports(source_port, |rule| &rule.src_ports),
            target_ports: ports(target_port, |rule| &rule.dst_ports),
            generation,
        }
    }
}

/// Of one family, as a number in the upper bits of 128.
fn number(cidr: &Cidr, v6: bool) -> Option<(u128, u8)> {
    match cidr.network().addr {
        IpAddr::V4(a) if !v6 => Some((u128::from(a.to_bits()) << 96, cidr.len)),
        IpAddr::V6(a) if v6 => Some((Ipv6Addr::to_bits(a), cidr.len)),
        _ => None,
    }
}

/// All prefixes of the rules, and the one of length 0.
fn by_prefix(known: &[&RuleMatch], v6: bool, list: fn(&RuleMatch) -> &[Cidr]) -> ByPrefix {
    let mut bits = ByPrefix::from([((0, 0), 0)]);
    for (bit, rule) in known.iter().enumerate() {
        let list = list(rule);
        if list.is_empty() {
            *bits.entry((0, 0)).or_default() |= 1 << bit;
        }
        for prefix in list.iter().filter_map(|cidr| number(cidr, v6)) {
            *bits.entry(prefix).or_default() |= 1 << bit;
        }
    }
    // In order of (address, length) a prefix comes before those in it: what is around one stands on the stack.
    let mut around: Vec<((u128, u8), u64)> = Vec::new();
    for (&(address, len), bits) in &mut bits {
        while around.last().is_some_and(|((outer, outer_len), _)| {
            (outer ^ address).checked_shr(128 - u32::from(*outer_len)).unwrap_or(0) != 0
        }) {
            around.pop();
        }
        *bits |= around.last().map_or(0, |(_, bits)| *bits);
        around.push(((address, len), *bits));
    }
    bits
}

fn by_port(known: &[&RuleMatch], list: fn(&RuleMatch) -> &[PortRange]) -> Vec<u64> {
    let mut bits = vec![0u64; 1 << 16];
    for (bit, rule) in known.iter().enumerate() {
        let list = list(rule);
        let all = [PortRange::ALL];
        for range in if list.is_empty() { &all } else { list } {
            for port in range.first..=range.last {
                bits[usize::from(port)] |= 1 << bit;
            }
        }
    }
    bits
}
