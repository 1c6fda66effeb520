//! Where each rule is decided, and why there. The program may end a packet only where the engine would certainly end it, too, for the same
//! reason and under the same rule.
//!
//! What makes that certain:
//! - The program knows a rule by addresses, protocol and ports alone. So it says the same of every packet of a session, whichever of them comes
//!   first, and a session that the rules of this generation refuse is refused whenever it is touched (BEHAVIOUR.md, 5).
//! - It knows as well every rule before it that may match the same packets. What matches one of those first is the engine's.
//! - A reply is judged with its session and not by its own addresses, so packets from addresses of backends are the engine's, and from those that
//!   were backends since the process began, for sessions outlive what they began under.
//! - Fragments, headers that are not plain, ICMP errors, packets for own addresses and interfaces that check sources are the engine's.
//!
//! One thing does differ: a session whose packets end here idles out, where the engine would end it with its first packet.

mod classes;
pub(crate) mod fast;
mod overlap;

use std::fmt;

use marchproxy_engine::tables::{FragmentMatch, InterfaceSpec, RuleAction, RuleMatch, RuleSpec, RuleTables, Urpf};

pub(crate) use classes::{ByPrefix, Classes};
pub use fast::Balanced;
use overlap::overlap;

/// Rules that the program has room for.
pub const MAX_RULES: usize = 64;

/// Where a rule is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the XDP program, for packets whose headers are plain.
    Xdp,
    /// In the engine.
    UserSpace(Why),
}

/// What keeps a rule in user space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It permits.
    Permits,
    /// It tells the sender.
    Rejects,
    /// It decides nothing.
    Counts,
    /// It records samples.
    Samples,
    /// It spares established sessions.
    NewOnly,
    /// It looks at what differs among the packets of a session.
    LooksAt(&'static str),
    /// With the rules before it that overlap, it has no room.
    NoRoom {
        /// So many rules, itself included, that are not there yet.
        more: usize,
    },
    /// So many addresses were backends that they are not followed any more.
    FormerBackends,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permits => write!(f, "permits: services and routes say where its packets go on"),
            Self::Rejects => write!(f, "tells the sender"),
            Self::Counts => write!(f, "counts, and leaves the decision to others"),
            Self::Samples => write!(f, "records samples"),
            Self::NewOnly => write!(f, "needs the session: established ones are spared"),
            Self::LooksAt(what) => write!(f, "needs the session: {what} may differ among its packets"),
            Self::NoRoom { more } => {
                write!(f, "needs room for {more} rules with those before it that overlap; XDP knows {MAX_RULES}")
            }
            Self::FormerBackends => {
                write!(f, "needs the session: too many addresses were backends and may still reply")
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xdp => write!(f, "xdp"),
            Self::UserSpace(why) => write!(f, "user space: {why}"),
        }
    }
}

/// Which rules the program knows, and which of them it decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By rule, in their order.
    pub rules: Vec<Place>,
    /// Whether packets that no rule matches are denied in XDP.
    pub denies_the_rest: bool,
    /// Interfaces that check sources or meter: what is received there is the engine's.
    pub left_interfaces: Vec<String>,
    /// By service: whether its packets go on in XDP.
    pub services: Vec<Balanced>,
    /// Why nothing is forwarded in XDP; `None`: what has one next hop is.
    pub forwards_nothing: Option<&'static str>,
    /// The rules that the program knows, ascending.
    pub(crate) known: Vec<usize>,
}

impl Plan {
    /// For these tables. `follows_backends` is false when replies can't be told any more.
    pub fn new(tables: &RuleTables, follows_backends: bool) -> Self {
        let rules = &tables.rules;
        let all = rules.len() <= MAX_RULES;
        let mut known: Vec<usize> = if all { (0..rules.len()).collect() } else { Vec::new() };
        let mut place = |index: usize, rule: &RuleSpec| {
            if let Some(why) = keeps(rule) {
                return Place::UserSpace(why);
            }
            if !follows_backends {
                return Place::UserSpace(Why::FormerBackends);
            }
            let before =
                rules.iter().take(index).enumerate().filter(|(_, before)| overlap(&before.matches, &rule.matches));
            let wanted = before.map(|(before, _)| before).chain([index]);
            let missing: Vec<usize> = wanted.filter(|wanted| !known.contains(wanted)).take(MAX_RULES + 1).collect();
            if known.len() + missing.len() > MAX_RULES {
                return Place::UserSpace(Why::NoRoom { more: missing.len() });
            }
            known.extend(missing);
            Place::Xdp
        };
        let places: Vec<Place> = rules.iter().enumerate().map(|(index, rule)| place(index, rule)).collect();
        known.sort_unstable();
        let decided = rules.iter().any(|rule| rule.action != RuleAction::Count);
        let denies_the_rest = all && decided && follows_backends;
        let left = tables.interfaces.iter().filter(|interface| !is_judged(interface));
        let left_interfaces = left.map(|interface| interface.name.clone()).collect();
        Self { rules: places, denies_the_rest, left_interfaces, known, ..Self::default() }
    }
}

/// Whether what an interface receives may be decided in XDP: nothing comes before the rules there, and nothing is counted off behind them.
pub fn is_judged(interface: &InterfaceSpec) -> bool {
    interface.urpf == Urpf::Off && interface.policer.is_none()
}

/// What keeps a rule from being decided by the program, whatever the others are.
fn keeps(rule: &RuleSpec) -> Option<Why> {
    match rule.action {
        RuleAction::Permit => return Some(Why::Permits),
        RuleAction::Reject => return Some(Why::Rejects),
        RuleAction::Count => return Some(Why::Counts),
        RuleAction::Deny => {}
    }
    if rule.new_only {
        return Some(Why::NewOnly);
    }
    if rule.log_sample > 0 {
        return Some(Why::Samples);
    }
    looks_at(&rule.matches).map(Why::LooksAt)
}

/// What may differ among the packets of a session.
fn looks_at(matches: &RuleMatch) -> Option<&'static str> {
    let RuleMatch { in_interface, tcp_flags, vlan, dscp, fragment, .. } = matches;
    let differs = [
        (tcp_flags.is_some(), "TCP flags"),
        (!dscp.is_empty(), "the DSCP"),
        (in_interface.is_some(), "the interface"),
        (vlan.is_some(), "the VLAN"),
        (fragment.is_some_and(|fragment| fragment != FragmentMatch::No), "being a fragment"),
    ];
    differs.iter().find(|(differs, _)| *differs).map(|(_, what)| *what)
}

/// Whether it permits and sets nothing, so that what it permits may go on in XDP.
fn permits_plainly(rule: &RuleSpec) -> bool {
    let RuleSpec { action, mark, class, policer, way, log_sample, .. } = rule;
    let sets = mark.is_some() || class.is_some() || policer.is_some() || way.is_some() || *log_sample > 0;
    *action == RuleAction::Permit && !sets && looks_at(&rule.matches).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use marchproxy_engine::tables::{Cidr, Class, FlagMatch, PortRange};

    fn cidr(text: &str) -> Cidr {
        let (address, len) = text.split_once('/').unwrap();
        Cidr { addr: address.parse().unwrap(), len: len.parse().unwrap() }
    }

    fn deny(src: &str) -> RuleSpec {
        let matches = RuleMatch { src: vec![cidr(src)], ..Default::default() };
        RuleSpec { matches, action: RuleAction::Deny, ..Default::default() }
    }

    fn plan(rules: Vec<RuleSpec>) -> Plan {
        Plan::new(&RuleTables { rules, ..Default::default() }, true)
    }

    #[test]
    fn every_rule_has_its_place_and_reason() {
        let permit = RuleSpec::default();
        let with = |change: fn(&mut RuleSpec)| {
            let mut rule = deny("10.0.0.0/8");
            change(&mut rule);
            rule
        };
        let table = [
            (deny("10.0.0.0/8"), "xdp"),
            (with(|r| r.matches.fragment = Some(FragmentMatch::No)), "xdp"),
            (with(|r| r.matches.dst_ports = vec![PortRange { first: 1, last: 9 }]), "xdp"),
            (permit, "user space: permits: services and routes say where its packets go on"),
            (with(|r| r.action = RuleAction::Reject), "user space: tells the sender"),
            (with(|r| r.action = RuleAction::Count), "user space: counts, and leaves the decision to others"),
            (with(|r| r.log_sample = 10), "user space: records samples"),
            (with(|r| r.new_only = true), "user space: needs the session: established ones are spared"),
            (
                with(|r| r.matches.tcp_flags = Some(FlagMatch { value: 2, mask: 2 })),
                "user space: needs the session: TCP flags may differ among its packets",
            ),
            (
                with(|r| r.matches.vlan = Some(20)),
                "user space: needs the session: the VLAN may differ among its packets",
            ),
        ];
        let rules: Vec<RuleSpec> = table.iter().map(|(rule, _)| rule.clone()).collect();
        let made = plan(rules.clone());
        for (place, (_, wanted)) in made.rules.iter().zip(&table) {
            assert_eq!(place.to_string(), *wanted);
        }
        assert!(made.denies_the_rest && made.known.len() == table.len());
        let blind = Plan::new(&RuleTables { rules, ..Default::default() }, false);
        assert_eq!(blind.rules[0], Place::UserSpace(Why::FormerBackends));
        assert!(!blind.denies_the_rest && !plan(Vec::new()).denies_the_rest);
    }

    #[test]
    fn of_many_rules_those_count_that_overlap() {
        let mut rules: Vec<RuleSpec> =
            (0..100).map(|n| RuleSpec { action: RuleAction::Permit, ..deny(&format!("10.0.{n}.0/24")) }).collect();
        rules.push(deny("10.0.7.0/25"));
        rules.push(deny("192.0.2.0/24"));
        rules.push(deny("10.0.0.0/8"));
        let made = plan(rules);
        assert_eq!(made.known, [7, 100, 101]);
        assert_eq!(made.rules[100..], [Place::Xdp, Place::Xdp, Place::UserSpace(Why::NoRoom { more: MAX_RULES + 1 })]);
        assert!(!made.denies_the_rest);
    }

    #[test]
    fn interfaces_that_check_sources_or_meter_are_left() {
        let interface =
            |name: &str, urpf, policer| InterfaceSpec { name: name.into(), urpf, policer, ..Default::default() };
        let interfaces = vec![
            interface("a", Urpf::Off, None),
            interface("b", Urpf::Loose, None),
            interface("c", Urpf::Off, Some(0)),
        ];
        let tables = RuleTables { interfaces, ..Default::default() };
        assert_eq!(Plan::new(&tables, true).left_interfaces, ["b", "c"]);
    }

    #[test]
    fn rules_that_set_something_let_nothing_go_on() {
        assert!(permits_plainly(&RuleSpec::default()));
        for rule in [
            RuleSpec { mark: Some(10), ..Default::default() },
            RuleSpec { class: Some(Class::P1), ..Default::default() },
            RuleSpec { policer: Some(0), ..Default::default() },
            RuleSpec { log_sample: 1, ..Default::default() },
        ] {
            assert!(!permits_plainly(&rule), "{rule:?}");
        }
    }
}
