//! Rules.

use marchproxy_engine::tables::{Cidr, RuleAction};
use marchproxy_proto::v1::{self, Document};

use super::super::report::{At, Report};
use super::super::types::Rule;
use super::super::words;
use super::References;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// The rules, with holes where they are wrong.
pub(super) fn check(document: &Document, references: &References<'_>, report: &mut Report) -> Vec<Option<Rule>> {
    document
        .rules
        .iter()
        .enumerate()
        .map(|(index, rule)| one(rule, &At::new("rules", index, "rule", &rule.name), references, report))
        .collect()
}

fn one(rule: &v1::Rule, at: &At<'_>, references: &References<'_>, report: &mut Report) -> Option<Rule> {
    let before = report.violations.len();
    let action =
        report.choice(at, "action", &rule.action, None, &[("permit", RuleAction::Permit), ("deny", RuleAction::Deny)]);
    let mark = match rule.mark.as_str() {
        "" => None,
        mark => report.word(at, "mark", mark, words::dscp),
    };
    if mark.is_some() && action == Some(RuleAction::Deny) {
        report.warn(at, "mark", "has no effect: the rule denies");
    }
    let none = v1::Match::default();
    let matches = rule.r#match.as_ref().unwrap_or(&none);
    let src = report.words(at, "match.src", &matches.src, words::network);
    let dst = report.words(at, "match.dst", &matches.dst, words::network);
    let protocol = match matches.protocol.as_str() {
        "" => None,
        protocol => report.word(at, "match.protocol", protocol, words::protocol),
    };
    let src_ports = report.words(at, "match.src_ports", &matches.src_ports, words::port_range);
    let dst_ports = report.words(at, "match.dst_ports", &matches.dst_ports, words::port_range);
    let in_interface = match matches.r#in.as_str() {
        "" => None,
        name => references.interfaces.find(report, at, "match.in", name),
    };
    // What follows compares fields; it would only repeat what is wrong with one of them.
    if report.violations.len() > before {
        return None;
    }
    for (field, ports) in [("match.src_ports", &src_ports), ("match.dst_ports", &dst_ports)] {
        if !ports.is_empty() && !matches!(protocol, Some(TCP | UDP)) {
            let found = match matches.protocol.as_str() {
                "" => "given without protocol".to_owned(),
                protocol => format!("given with protocol {protocol}"),
            };
            report.refuse(at, field, found, "ports with protocol tcp or udp only");
        }
    }
    families(at, protocol, &src, &dst, report);
    if report.violations.len() > before {
        return None;
    }
    Some(Rule {
        name: rule.name.clone(),
        priority: rule.priority,
        src,
        dst,
        protocol,
        src_ports: words::join(src_ports),
        dst_ports: words::join(dst_ports),
        in_interface,
        action: action?,
        mark,
    })
}

/// A rule that no packet can match is a mistake.
fn families(at: &At<'_>, protocol: Option<u8>, src: &[Cidr], dst: &[Cidr], report: &mut Report) {
    let has = |list: &[Cidr], v4: bool| list.is_empty() || list.iter().any(|prefix| prefix.addr.is_ipv4() == v4);
    let (v4, v6) = (has(src, true) && has(dst, true), has(src, false) && has(dst, false));
    if !v4 && !v6 {
        report.refuse(
            at,
            "match.dst",
            "of another family than match.src",
            "a family that both have, or no packet matches",
        );
    } else if protocol == Some(ICMP) && !v4 {
        report.refuse(at, "match.protocol", "\"icmp\" with IPv6 prefixes", "icmpv6 for IPv6");
    } else if protocol == Some(ICMPV6) && !v6 {
        report.refuse(at, "match.protocol", "\"icmpv6\" with IPv4 prefixes", "icmp for IPv4");
    }
}
