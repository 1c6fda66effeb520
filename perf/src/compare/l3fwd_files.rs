//! Our tables in the words of l3fwd's files: routes, rules and exact flows, each family in a file of its own.

use std::fmt::Write;
use std::net::IpAddr;

use marchproxy_engine::tables::{Cidr, PortRange, RouteAction, RuleAction, RuleMatch, RuleTables};

use crate::seeded::rules::Tuple;

/// The files of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// `--rule_ipv4=`
    pub v4: String,
    /// `--rule_ipv6=`
    pub v6: String,
    /// Lines in each.
    pub lines: [usize; 2],
}

impl Files {
    fn add(&mut self, v6: bool, line: std::fmt::Arguments<'_>) {
        let file = if v6 { &mut self.v6 } else { &mut self.v4 };
        // Writing to a string cannot fail.
        let _ = file.write_fmt(line);
        self.lines[usize::from(v6)] += 1;
    }
}

/// Routes for lpm and fib: `RPREFIX/LENGTH PORT`. Only routes over a next hop have a port.
pub fn routes(tables: &RuleTables) -> Files {
    let mut files = Files::default();
    for route in &tables.routes {
        let RouteAction::Via(hops) = &route.action else { continue };
        let Some(interface) = hops.first().and_then(|hop| tables.interfaces.get(hop.interface)) else { continue };
        let prefix = route.prefix.network();
        files.add(prefix.addr.is_ipv6(), format_args!("R{} {}\n", net(&prefix), interface.port));
    }
    files
}

/// Rules for acl, the first match counting as with us: a permit is l3fwd's "route" to `port`, a deny its "rule".
pub fn rules(tables: &RuleTables, port: u8) -> Files {
    let mut files = Files::default();
    let mut sorted: Vec<_> = tables.rules.iter().collect();
    sorted.sort_by_key(|rule| rule.priority);
    for rule in sorted {
        let (lead, port) = match rule.action {
            RuleAction::Permit => ('R', format!(" {port}")),
            RuleAction::Deny | RuleAction::Reject => ('@', String::new()),
            // Nothing of acl's counts and goes on.
            RuleAction::Count => continue,
        };
        for v6 in families(&rule.matches) {
            each(&rule.matches, v6, |condition| files.add(v6, format_args!("{lead}{condition}{port}\n")));
        }
    }
    files
}

/// Flows for em, each to its port: `RDST SRC DPORT SPORT PROTOCOL PORT`.
pub fn flows<'a>(flows: impl IntoIterator<Item = &'a (Tuple, u8)>) -> Files {
    let mut files = Files::default();
    for (flow, port) in flows {
        let (dst, src) = (full(flow.dst), full(flow.src));
        let line = format_args!("R{dst} {src} {} {} {} {port}\n", flow.dport, flow.sport, flow.protocol);
        files.add(flow.dst.is_ipv6(), line);
    }
    files
}

/// The families a rule is about: both when it names no address.
fn families(matches: &RuleMatch) -> Vec<bool> {
    match matches.src.first().or(matches.dst.first()) {
        Some(prefix) => vec![prefix.addr.is_ipv6()],
        None => vec![false, true],
    }
}

/// The rule as lines of one source, one destination, one range each: `SRC/LEN DST/LEN LOW : HIGH LOW : HIGH PROTOCOL/MASK`.
fn each(matches: &RuleMatch, v6: bool, mut line: impl FnMut(String)) {
    let any = if v6 { "0000:0000:0000:0000:0000:0000:0000:0000/0" } else { "0.0.0.0/0" };
    let nets = |list: &[Cidr]| {
        let mut nets: Vec<String> = list.iter().map(|prefix| net(&prefix.network())).collect();
        if nets.is_empty() {
            nets.push(any.into());
        }
        nets
    };
    let ranges = |list: &[PortRange]| {
        let mut ranges: Vec<String> = list.iter().map(|range| format!("{} : {}", range.first, range.last)).collect();
        if ranges.is_empty() {
            ranges.push("0 : 65535".into());
        }
        ranges
    };
    let protocol = matches.protocol.map_or_else(|| "0/0".into(), |protocol| format!("{protocol}/0xff"));
    let (dst, sports, dports) = (nets(&matches.dst), ranges(&matches.src_ports), ranges(&matches.dst_ports));
    for src in nets(&matches.src) {
        for dst in &dst {
            for sport in &sports {
                for dport in &dports {
                    line(format!("{src} {dst} {sport} {dport} {protocol}"));
                }
            }
        }
    }
}

fn net(prefix: &Cidr) -> String {
    format!("{}/{}", full(prefix.addr), prefix.len)
}

/// An address without `::`, which the parser of acl does not know.
fn full(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => address.segments().map(|word| format!("{word:04x}")).join(":"),
    }
}

#[cfg(test)]
mod tests {
    use marchproxy_engine::tables::RuleSpec;

    use super::*;
    use crate::compare::programs;
    use crate::progress::Progress;
    use crate::scenario::{Params, Scenario, traffic};

    fn rule(priority: u32, action: RuleAction, change: impl FnOnce(&mut RuleMatch)) -> RuleSpec {
        let mut matches = RuleMatch::default();
        change(&mut matches);
        RuleSpec { name: format!("r{priority}"), priority, matches, action, mark: None, ..Default::default() }
    }

    #[test]
    fn routes_name_the_port_of_their_next_hop() {
        let params = Params { flows: 16, ..programs::defaults(Scenario::Forward) };
        let plan = traffic(Scenario::Forward, &params, &Progress::hidden()).unwrap();
        let files = routes(&plan.tables);
        // Half of the 16 routes, and the clients' prefix behind the other port.
        assert_eq!(files.lines, [9, 9]);
        assert!(files.v4.contains("R100.64.0.0/10 1\n"), "{}", files.v4);
        assert!(files.v6.contains("R2001:0db8:000c:0000:0000:0000:0000:0000/48 1\n"), "{}", files.v6);
        assert_eq!(files.v4.lines().filter(|line| line.starts_with('R') && line.ends_with(" 0")).count(), 8);
    }

    #[test]
    fn rules_keep_their_order_and_meaning() {
        let prefix = |text: &str, len| Cidr { addr: text.parse().unwrap(), len };
        let tables = RuleTables {
            rules: vec![
                rule(20, RuleAction::Permit, |m| {
                    m.dst = vec![prefix("2a00::", 16)];
                    m.protocol = Some(17);
                    m.src_ports = vec![PortRange { first: 1024, last: 65_535 }];
                    m.dst_ports = vec![PortRange { first: 53, last: 53 }, PortRange { first: 443, last: 443 }];
                }),
                rule(10, RuleAction::Deny, |m| m.src = vec![prefix("8.8.0.0", 16)]),
                rule(30, RuleAction::Deny, |m| m.protocol = Some(6)),
            ],
            ..RuleTables::default()
        };
        let files = rules(&tables, 0);
        assert_eq!(
            files.v4,
            "@8.8.0.0/16 0.0.0.0/0 0 : 65535 0 : 65535 0/0\n@0.0.0.0/0 0.0.0.0/0 0 : 65535 0 : 65535 6/0xff\n"
        );
        let (any, net) = ("0000:0000:0000:0000:0000:0000:0000:0000/0", "2a00:0000:0000:0000:0000:0000:0000:0000/16");
        assert_eq!(
            files.v6,
            format!(
                "R{any} {net} 1024 : 65535 53 : 53 17/0xff 0\nR{any} {net} 1024 : 65535 443 : 443 17/0xff 0\n\
                 @{any} {any} 0 : 65535 0 : 65535 6/0xff\n"
            )
        );
        assert_eq!(files.lines, [2, 3]);
    }

    #[test]
    fn flows_are_exact() {
        let flow = |src: &str, dst: &str| {
            let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
            Tuple { src, dst, protocol: 6, sport: 4000, dport: 443 }
        };
        let files = flows(&[(flow("1.2.3.4", "5.6.7.8"), 1), (flow("2a00::1", "2a00::2"), 0)]);
        assert_eq!(files.v4, "R5.6.7.8 1.2.3.4 443 4000 6 1\n");
        assert_eq!(
            files.v6,
            "R2a00:0000:0000:0000:0000:0000:0000:0002 2a00:0000:0000:0000:0000:0000:0000:0001 443 4000 6 0\n"
        );
    }
}
