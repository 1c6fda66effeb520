//! Section 6: rules.

use std::collections::HashMap;

use super::layer2::Frame;
use super::layer4::{Fragment, Ip, TCP, Tuple, UDP};
use super::node::Node;
use crate::tables::{Class, FragmentMatch, PortRange, RuleAction, RuleMatch, RuleSpec, RuleWay};

/// What rules look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub tuple: Tuple,
    /// Whether the tuple's ports are ports.
    pub has_ports: bool,
    /// Where it came in, if that interface still exists.
    pub interface: Option<usize>,
    pub sight: Sight,
    pub fragment: Fragment,
}

/// What a session remembers of its first packet for the rules of later generations, its tuple aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// The VLAN it came on.
    pub vlan: Option<u16>,
    /// Its DSCP.
    pub dscp: u8,
    /// TCP flags, if it has a TCP header.
    pub flags: Option<u8>,
}

impl Subject {
    pub fn packet(node: &Node, frame: &Frame, ip: &Ip) -> Self {
        let flags = (ip.protocol == TCP && ip.fragment != Fragment::Later).then(|| ip.body()[13]);
        let vlan = node.interface(frame.interface).vlan;
        let sight = Sight { vlan, dscp: super::finish::tos(ip) >> 2, flags };
        let (tuple, has_ports) = (ip.tuple(), ip.ports().is_some());
        Self { tuple, has_ports, interface: Some(frame.interface), sight, fragment: ip.fragment }
    }

    /// The client's first packet of a session; only whole packets have sessions.
    pub fn session(forward: Tuple, interface: Option<usize>, sight: Sight) -> Self {
        let has_ports = matches!(forward.protocol, TCP | UDP);
        Self { tuple: forward, has_ports, interface, sight, fragment: Fragment::No }
    }
}

/// What rules said about a packet that may go on. Names and indices are of the generation that said it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruled {
    /// The rule that decided.
    pub rule: Option<String>,
    /// The rules that counted.
    pub counted: Vec<String>,
    /// The rule's mark.
    pub mark: Option<u8>,
    /// The rule's policer.
    pub policer: Option<usize>,
    /// The rule's class.
    pub class: Option<Class>,
    /// The rule's way.
    pub way: Option<RuleWay>,
}

/// What a list of rules comes to.
pub(super) struct Judged<'a> {
    /// The rule that decides.
    pub rule: Option<&'a RuleSpec>,
    pub action: RuleAction,
    pub ruled: Ruled,
}

pub(super) fn judge<'a>(rules: &'a [RuleSpec], subject: &Subject) -> Judged<'a> {
    let mut ruled = Ruled::default();
    for rule in rules.iter().filter(|rule| matches(&rule.matches, subject)) {
        if rule.action == RuleAction::Count {
            ruled.counted.push(rule.name.clone());
            continue;
        }
        ruled.rule = Some(rule.name.clone());
        (ruled.mark, ruled.policer, ruled.class, ruled.way) = (rule.mark, rule.policer, rule.class, rule.way);
        return Judged { rule: Some(rule), action: rule.action, ruled };
    }
    let decided = rules.iter().any(|rule| rule.action != RuleAction::Count);
    Judged { rule: None, action: if decided { RuleAction::Deny } else { RuleAction::Permit }, ruled }
}

fn matches(wanted: &RuleMatch, subject: &Subject) -> bool {
    let Subject { tuple, has_ports, interface, sight, fragment } = *subject;
    let in_ranges =
        |ranges: &[PortRange], port| ranges.is_empty() || has_ports && ranges.iter().any(|range| range.contains(port));
    (wanted.src.is_empty() || wanted.src.iter().any(|prefix| prefix.contains(tuple.src)))
        && (wanted.dst.is_empty() || wanted.dst.iter().any(|prefix| prefix.contains(tuple.dst)))
        && wanted.protocol.is_none_or(|protocol| protocol == tuple.protocol)
        && in_ranges(&wanted.src_ports, tuple.sport)
        && in_ranges(&wanted.dst_ports, tuple.dport)
        && (wanted.in_interface.is_none() || wanted.in_interface == interface)
        && wanted.tcp_flags.is_none_or(|want| sight.flags.is_some_and(|flags| flags & want.mask == want.value))
        && wanted.vlan.is_none_or(|vlan| vlan == sight.vlan.unwrap_or(0))
        && (wanted.dscp.is_empty() || wanted.dscp.contains(&sight.dscp))
        && wanted.fragment.is_none_or(|want| match want {
            FragmentMatch::No => fragment == Fragment::No,
            FragmentMatch::Yes => fragment != Fragment::No,
            FragmentMatch::First => fragment == Fragment::First,
            FragmentMatch::Later => fragment == Fragment::Later,
        })
}

/// How many packets counted under each rule since the last push, for the samples.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    counted: HashMap<String, u64>,
}

impl Samples {
    /// Whether this packet, which counts under the rule, is to be recorded.
    pub fn due(&mut self, rule: &RuleSpec) -> bool {
        let counted = self.counted.entry(rule.name.clone()).or_default();
        let due = rule.log_sample > 0 && counted.is_multiple_of(u64::from(rule.log_sample));
        *counted += 1;
        due
    }
}
