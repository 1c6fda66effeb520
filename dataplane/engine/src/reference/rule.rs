//! Section 6: rules.

use super::layer4::{Ip, TCP, Tuple, UDP};
use crate::reason::DropReason;
use crate::tables::{PortRange, RuleAction, RuleMatch, RuleSpec};

/// What rules look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub tuple: Tuple,
    /// Whether the tuple's ports are ports.
    pub has_ports: bool,
    /// Where it came in, if that interface still exists.
    pub interface: Option<usize>,
}

impl Subject {
    pub fn packet(ip: &Ip, interface: usize) -> Self {
        Self { tuple: ip.tuple(), has_ports: ip.ports().is_some(), interface: Some(interface) }
    }

    /// The client side of a session; only whole packets have sessions.
    pub fn session(forward: Tuple, interface: Option<usize>) -> Self {
        Self { tuple: forward, has_ports: matches!(forward.protocol, TCP | UDP), interface }
    }
}

/// The mark of the rule that permits it, or that it is denied.
pub(super) fn judge(rules: &[RuleSpec], subject: &Subject) -> Result<Option<u8>, DropReason> {
    if rules.is_empty() {
        return Ok(None);
    }
    match rules.iter().find(|rule| matches(&rule.matches, subject)) {
        Some(RuleSpec { action: RuleAction::Permit, mark, .. }) => Ok(*mark),
        _ => Err(DropReason::RuleDeny),
    }
}

fn matches(wanted: &RuleMatch, subject: &Subject) -> bool {
    let Subject { tuple, has_ports, interface } = *subject;
    let in_ranges =
        |ranges: &[PortRange], port| ranges.is_empty() || has_ports && ranges.iter().any(|range| range.contains(port));
    (wanted.src.is_empty() || wanted.src.iter().any(|prefix| prefix.contains(tuple.src)))
        && (wanted.dst.is_empty() || wanted.dst.iter().any(|prefix| prefix.contains(tuple.dst)))
        && wanted.protocol.is_none_or(|protocol| protocol == tuple.protocol)
        && in_ranges(&wanted.src_ports, tuple.sport)
        && in_ranges(&wanted.dst_ports, tuple.dport)
        && (wanted.in_interface.is_none() || wanted.in_interface == interface)
}
