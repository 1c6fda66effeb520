//! Rules.

use std::net::IpAddr;

use marchproxy_engine::tables::{Cidr, Class, FlagMatch, FragmentMatch, RuleAction, RuleMatch};
use marchproxy_proto::v1::{self, Document};

use super::super::report::{At, Report, quoted};
use super::super::types::{Rule, Way};
use super::super::words;
use super::network::{Network, not_a_host};
use super::{References, marks};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// The rules, with holes where they are wrong.
pub(super) fn check(
    document: &Document,
    references: &References<'_>,
    network: &Network,
    report: &mut Report,
) -> Vec<Option<Rule>> {
    let mut check = Check { document, references, network, report };
    document
        .rules
        .iter()
        .enumerate()
        .map(|(index, rule)| check.one(rule, &At::new("rules", index, "rule", &rule.name)))
        .collect()
}

/// What a rule does that its words alone do not say.
struct Deeds {
    action: RuleAction,
    mark: Option<u8>,
    class: Option<Class>,
    policer: Option<usize>,
    way: Option<Way>,
}

struct Check<'a> {
    document: &'a Document,
    references: &'a References<'a>,
    network: &'a Network,
    report: &'a mut Report,
}

impl Check<'_> {
    fn one(&mut self, rule: &v1::Rule, at: &At<'_>) -> Option<Rule> {
        let before = self.report.violations.len();
        let none = v1::Match::default();
        let matches = rule.r#match.as_ref().unwrap_or(&none);
        let deeds = self.deeds(rule, at);
        let conditions = self.conditions(matches, at);
        // What follows compares fields; it would only repeat what is wrong with one of them.
        if self.report.violations.len() > before {
            return None;
        }
        let Deeds { action, mark, class, policer, way } = deeds?;
        self.ports(&conditions, matches, at);
        self.closer(&conditions, matches, at);
        let families = self.families(&conditions, at);
        if let Some(Way::NextHop(address)) = way {
            self.way(address, families, at);
        }
        (self.report.violations.len() == before).then(|| Rule {
            name: rule.name.clone(),
            priority: rule.priority,
            matches: conditions,
            action,
            mark,
            policer,
            way,
            log_sample: rule.log_sample.unwrap_or_default(),
            new_only: rule.new_only,
            class,
        })
    }

    /// What it does, each field by itself.
    fn deeds(&mut self, rule: &v1::Rule, at: &At<'_>) -> Option<Deeds> {
        const ACTIONS: [(&str, RuleAction); 4] = [
            ("permit", RuleAction::Permit),
            ("deny", RuleAction::Deny),
            ("reject", RuleAction::Reject),
            ("count", RuleAction::Count),
        ];
        let action = self.report.choice(at, "action", &rule.action, None, &ACTIONS);
        let mark = match rule.mark.as_str() {
            "" => None,
            mark => self.references.maps.mark(self.report, at, "mark", mark),
        };
        let policer = match rule.policer.as_str() {
            "" => None,
            name => self.references.policers.find(self.report, at, "policer", name),
        };
        let class = marks::class(self.report, at, "class", &rule.class);
        if let Some(one_of) = rule.log_sample {
            self.report.within(at, "log_sample", one_of, 1..=1_000_000_000, "");
        }
        let way = match (rule.next_hop.as_str(), rule.table.as_str()) {
            ("", "") => None,
            ("", table) => self.table(table, at).map(Way::Table),
            (hop, "") => self.report.word(at, "next_hop", hop, words::host).map(Way::NextHop),
            (_, table) => {
                self.report.refuse(at, "table", format!("{} with next_hop", quoted(table)), "one of them");
                None
            }
        };
        let action = action?;
        let verb = match action {
            RuleAction::Permit => None,
            RuleAction::Deny => Some("denies"),
            RuleAction::Reject => Some("rejects"),
            RuleAction::Count => Some("counts"),
        };
        if let Some(verb) = verb {
            let given = [
                ("mark", &rule.mark),
                ("class", &rule.class),
                ("policer", &rule.policer),
                ("next_hop", &rule.next_hop),
                ("table", &rule.table),
            ];
            for (field, _) in given.iter().filter(|(_, word)| !word.is_empty()) {
                self.report.warn(at, field, format!("has no effect: the rule {verb}"));
            }
        }
        if rule.new_only && !matches!(action, RuleAction::Deny | RuleAction::Reject) {
            let found = format!("true with action {}", action.label());
            self.report.refuse(at, "new_only", found, "with action deny or reject only");
        }
        Some(Deeds { action, mark, class, policer, way })
    }

    fn table(&mut self, name: &str, at: &At<'_>) -> Option<String> {
        self.report.word(at, "table", name, words::name)?;
        let tables = self.network.tables();
        if !tables.contains(&name) && self.network.is_complete() {
            let allowed = format!("a routing table that an interface or a route names: {}", tables.join(", "));
            self.report.refuse(at, "table", quoted(name), allowed);
            return None;
        }
        Some(name.to_owned())
    }

    /// What it matches, each field by itself.
    fn conditions(&mut self, matches: &v1::Match, at: &At<'_>) -> RuleMatch {
        const FRAGMENTS: [(&str, Option<FragmentMatch>); 4] = [
            ("no", Some(FragmentMatch::No)),
            ("yes", Some(FragmentMatch::Yes)),
            ("first", Some(FragmentMatch::First)),
            ("later", Some(FragmentMatch::Later)),
        ];
        let report = &mut *self.report;
        let src = report.words(at, "match.src", &matches.src, words::network);
        let dst = report.words(at, "match.dst", &matches.dst, words::network);
        let protocol = match matches.protocol.as_str() {
            "" => None,
            protocol => report.word(at, "match.protocol", protocol, words::protocol),
        };
        let src_ports = words::join(report.words(at, "match.src_ports", &matches.src_ports, words::port_range));
        let dst_ports = words::join(report.words(at, "match.dst_ports", &matches.dst_ports, words::port_range));
        let in_interface = match matches.r#in.as_str() {
            "" => None,
            name => self.references.interfaces.find(report, at, "match.in", name),
        };
        let flags = report.words(at, "match.tcp_flags", &matches.tcp_flags, words::tcp_flag);
        let tcp_flags = flags.into_iter().fold(None::<FlagMatch>, |all, flag| {
            let FlagMatch { value, mask } = all.unwrap_or_default();
            if (value ^ flag.value) & mask & flag.mask != 0 {
                report.refuse(at, "match.tcp_flags", "a flag that is set and unset", "each flag once");
            }
            Some(FlagMatch { value: value | flag.value, mask: mask | flag.mask })
        });
        let vlan = match matches.vlan.as_str() {
            "" => None,
            vlan => report.word(at, "match.vlan", vlan, words::vlan),
        };
        let mut dscp = report.words(at, "match.dscp", &matches.dscp, words::dscp);
        dscp.sort_unstable();
        dscp.dedup();
        let fragment = report.choice(at, "match.fragment", &matches.fragment, Some(None), &FRAGMENTS).flatten();
        RuleMatch { src, dst, protocol, src_ports, dst_ports, in_interface, tcp_flags, vlan, dscp, fragment }
    }

    fn ports(&mut self, rule: &RuleMatch, matches: &v1::Match, at: &At<'_>) {
        for (field, ports) in [("match.src_ports", &rule.src_ports), ("match.dst_ports", &rule.dst_ports)] {
            if !ports.is_empty() && !matches!(rule.protocol, Some(TCP | UDP)) {
                self.report.refuse(at, field, given(matches), "ports with protocol tcp or udp only");
            }
        }
    }

    /// Conditions that exclude each other.
    fn closer(&mut self, rule: &RuleMatch, matches: &v1::Match, at: &At<'_>) {
        if rule.tcp_flags.is_some() && rule.protocol != Some(TCP) {
            self.report.refuse(at, "match.tcp_flags", given(matches), "flags with protocol tcp only");
        }
        if rule.tcp_flags.is_some() && rule.fragment == Some(FragmentMatch::Later) {
            let allowed = "no, yes or first: later fragments have no TCP header, or no packet matches";
            self.report.refuse(at, "match.fragment", "\"later\" with tcp_flags", allowed);
        }
        let Some(interface) = rule.in_interface.and_then(|index| self.document.interfaces.get(index)) else { return };
        if rule.vlan.is_some_and(|vlan| u32::from(vlan) != interface.vlan.unwrap_or(0)) {
            let own = interface.vlan.map_or("untagged".to_owned(), |vlan| vlan.to_string());
            let found = format!("{} with in: {}", quoted(&matches.vlan), interface.name);
            self.report.refuse(
                at,
                "match.vlan",
                found,
                format!("{own}, as the interface has it, or no packet matches"),
            );
        }
    }

    /// A rule that no packet can match is a mistake. Says which families it matches: IPv4, IPv6.
    fn families(&mut self, rule: &RuleMatch, at: &At<'_>) -> (bool, bool) {
        let RuleMatch { src, dst, protocol, .. } = rule;
        let has = |list: &[Cidr], v4: bool| list.is_empty() || list.iter().any(|prefix| prefix.addr.is_ipv4() == v4);
        let (v4, v6) = (has(src, true) && has(dst, true), has(src, false) && has(dst, false));
        let report = &mut *self.report;
        if !v4 && !v6 {
            report.refuse(
                at,
                "match.dst",
                "of another family than match.src",
                "a family that both have, or no packet matches",
            );
        } else if *protocol == Some(ICMP) && !v4 {
            report.refuse(at, "match.protocol", "\"icmp\" with IPv6 prefixes", "icmpv6 for IPv6");
        } else if *protocol == Some(ICMPV6) && !v6 {
            report.refuse(at, "match.protocol", "\"icmpv6\" with IPv4 prefixes", "icmp for IPv4");
        }
        (v4 && *protocol != Some(ICMPV6), v6 && *protocol != Some(ICMP))
    }

    /// Whether packets can be handed to the next hop it sets.
    fn way(&mut self, address: IpAddr, (v4, v6): (bool, bool), at: &At<'_>) {
        if let Err(allowed) = self.next_hop(address) {
            self.report.refuse(at, "next_hop", address, allowed);
            return;
        }
        let (own, other) = if address.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        let (matches_own, matches_other) = if address.is_ipv4() { (v4, v6) } else { (v6, v4) };
        if !matches_own {
            self.report.refuse(at, "next_hop", address, format!("an {other} address, as the rule's prefixes are"));
        } else if matches_other {
            let message = format!("is for the {own} packets of the rule; {other} ones go by their routes");
            self.report.warn(at, "next_hop", message);
        }
    }

    fn next_hop(&self, address: IpAddr) -> Result<(), String> {
        if let Some(interface) = self.network.owner(address) {
            return Err(format!("the address of another router, not that of interface {interface}"));
        }
        if self.network.is_service(address) {
            return Err("the address of another router, not that of a service".to_owned());
        }
        let mut connected = self.network.connected_anywhere(address).peekable();
        if connected.peek().is_none() && self.network.is_complete() {
            return Err("an address in a connected prefix of an interface: this one leads nowhere".to_owned());
        }
        match connected.find_map(|connected| Some((not_a_host(connected.own, address)?, connected.own.network()))) {
            Some((why, prefix)) => Err(format!("an address of a host, not {why} of {prefix}")),
            None => Ok(()),
        }
    }
}

/// How a condition that needs a protocol was found.
fn given(matches: &v1::Match) -> String {
    match matches.protocol.as_str() {
        "" => "given without protocol".to_owned(),
        protocol => format!("given with protocol {protocol}"),
    }
}
