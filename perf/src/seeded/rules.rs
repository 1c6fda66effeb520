//! Rules in the manner of ClassBench (Taylor and Turner, INFOCOM 2005): three profiles that differ in wildcards, port classes and
//! protocols; prefixes nest and mix lengths; a packet drawn from a rule is matched by some five to seventy rules at any size.

use std::net::IpAddr;

use marchproxy_engine::flow::{FlowKey, from_ip};
use marchproxy_engine::table::rules::RuleKey;
use marchproxy_engine::tables::{Cidr, PortRange, RuleAction, RuleMatch, RuleSpec};
use marchproxy_engine::wire::{ICMP, ICMPV6, TCP, UDP};

use super::{Rng, addresses};

/// What kind of list is imitated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Access control list: specific destinations and ports, source ports rarely matter.
    #[default]
    Acl,
    /// Firewall: many wildcards and port ranges.
    Fw,
    /// IP chain: both ends specific, all kinds of ports.
    Ipc,
}

/// Kinds of port conditions.
#[derive(Clone, Copy)]
enum Ports {
    Any,
    High,
    Low,
    Range,
    Exact,
}

/// The numbers of a profile: weights, or shares in percent.
struct Shape {
    src_any: u32,
    dst_any: u32,
    sport: &'static [(u32, Ports)],
    dport: &'static [(u32, Ports)],
    permit: u32,
}

impl Profile {
    const fn shape(self) -> Shape {
        use Ports::{Any, Exact, High, Low, Range};
        match self {
            Self::Acl => Shape {
                src_any: 20,
                dst_any: 0,
                sport: &[(98, Any), (1, High), (1, Exact)],
                dport: &[(60, Exact), (25, Any), (8, Range), (7, High)],
                permit: 75,
            },
            Self::Fw => Shape {
                src_any: 40,
                dst_any: 10,
                sport: &[(75, Any), (10, High), (10, Exact), (5, Range)],
                dport: &[(30, Exact), (30, Any), (20, Range), (12, High), (8, Low)],
                permit: 60,
            },
            Self::Ipc => Shape {
                src_any: 5,
                dst_any: 5,
                sport: &[(60, Any), (30, Exact), (5, Range), (5, High)],
                dport: &[(45, Exact), (40, Any), (15, Range)],
                permit: 70,
            },
        }
    }
}

/// Ports that rule lists name most.
const WELL_KNOWN: [u16; 24] = [
    20, 21, 22, 25, 53, 80, 110, 123, 143, 161, 179, 389, 443, 445, 993, 1433, 1521, 3306, 3389, 5060, 5432, 8080,
    8443, 9100,
];

/// Broad rules at the end of every list, whatever its size: what keeps the number of overlapping matches where real lists have it.
const BROAD: usize = 60;

/// Distance of priorities, so that others fit between.
pub const PRIORITY_STEP: u32 = 10;

/// `count` rules, specific ones first. Destinations nest in `networks`, or in networks of the generator's own when that is empty.
pub fn generate(profile: Profile, count: usize, seed: u64, networks: &[Cidr]) -> Vec<RuleSpec> {
    let mut rng = Rng::new(seed, "rules");
    let shape = profile.shape();
    let own = networks_for(count, &mut rng);
    let sources = networks_for(count, &mut rng);
    let mut generator = Generator {
        shape,
        sources: Pool::new(&sources),
        destinations: Pool::new(if networks.is_empty() { &own } else { networks }),
        rng,
    };
    let broad = BROAD.min(count / 8);
    let mut rules: Vec<RuleSpec> = Vec::with_capacity(count);
    for index in 0..count {
        let (matches, action) =
            if index < count - broad { generator.narrow() } else { generator.broad(index + broad - count) };
        rules.push(RuleSpec {
            name: format!("r{index:06}"),
            priority: (index as u32 + 1) * PRIORITY_STEP,
            matches,
            action,
            mark: None,
            ..Default::default()
        });
    }
    rules
}

/// Sites of one organisation: some sixteen rules each, half of each family.
fn networks_for(count: usize, rng: &mut Rng) -> Vec<Cidr> {
    (0..count / 16 + 4)
        .flat_map(|_| {
            let (v4_len, v6_len) = (rng.between(12, 22) as u8, rng.between(29, 44) as u8);
            [addresses::prefix(addresses::public_v4(rng), v4_len), addresses::prefix(addresses::public_v6(rng), v6_len)]
        })
        .collect()
}

/// Prefixes of both families, growing by nesting.
struct Pool([Vec<Cidr>; 2]);

impl Pool {
    fn new(networks: &[Cidr]) -> Self {
        let family = |v6: bool| networks.iter().copied().filter(|c| c.addr.is_ipv6() == v6).collect();
        Self([family(false), family(true)])
    }

    /// A prefix inside one that is there already; it becomes a place to nest in itself.
    fn nest(&mut self, v6: bool, rng: &mut Rng) -> Option<Cidr> {
        let family = &mut self.0[usize::from(v6)];
        let outer = *rng.pick(family)?;
        let (full, step) = if v6 { (128, 16) } else { (32, 6) };
        // A third are whole hosts, as in real lists.
        let len = if rng.percent(33) { full } else { (u32::from(outer.len) + rng.between(0, step)).min(full) };
        let inner = addresses::prefix(addresses::inside(rng, &outer), len as u8);
        if u32::from(inner.len) + step <= full {
            family.push(inner);
        }
        Some(inner)
    }
}

struct Generator {
    shape: Shape,
    sources: Pool,
    destinations: Pool,
    rng: Rng,
}

impl Generator {
    fn narrow(&mut self) -> (RuleMatch, RuleAction) {
        let rng = &mut self.rng;
        let mut v6 = rng.percent(50);
        // A family without destinations leaves the other.
        if self.destinations.0[usize::from(v6)].is_empty() {
            v6 = !v6;
        }
        let (src_any, dst_any) = (rng.percent(self.shape.src_any), rng.percent(self.shape.dst_any));
        let src = if src_any && !dst_any { None } else { self.sources.nest(v6, rng) };
        let dst = if dst_any { None } else { self.destinations.nest(v6, rng) };
        let protocol =
            rng.weighted(&[(70, Some(TCP)), (20, Some(UDP)), (5, Some(if v6 { ICMPV6 } else { ICMP })), (5, None)]);
        let protocol = protocol.flatten();
        let mut matches = RuleMatch {
            src: src.into_iter().collect(),
            dst: dst.into_iter().collect(),
            protocol,
            ..RuleMatch::default()
        };
        if matches!(protocol, Some(TCP | UDP)) {
            matches.src_ports = ports(self.shape.sport, rng);
            matches.dst_ports = ports(self.shape.dport, rng);
        }
        let action = if rng.percent(self.shape.permit) { RuleAction::Permit } else { RuleAction::Deny };
        (matches, action)
    }

    /// The end of a list: whole halves of the address space by protocol and service, permits and denies in turn, at last "permit TCP
    /// and UDP to unprivileged ports".
    fn broad(&mut self, index: usize) -> (RuleMatch, RuleAction) {
        let rng = &mut self.rng;
        let high = vec![PortRange { first: 1024, last: u16::MAX }];
        let protocol = Some(if rng.percent(70) { TCP } else { UDP });
        match index % 4 {
            0 => {
                let src = addresses::prefix(addresses::public_v4(rng), rng.between(2, 6) as u8);
                (RuleMatch { src: vec![src], protocol, dst_ports: high, ..RuleMatch::default() }, RuleAction::Permit)
            }
            1 => {
                let src = addresses::prefix(addresses::public_v6(rng), rng.between(8, 14) as u8);
                (RuleMatch { src: vec![src], protocol, ..RuleMatch::default() }, RuleAction::Permit)
            }
            2 => {
                let port = rng.pick(&WELL_KNOWN).copied().unwrap_or(22);
                let dst_ports = vec![PortRange { first: port, last: port }];
                (RuleMatch { protocol, dst_ports, ..RuleMatch::default() }, RuleAction::Deny)
            }
            _ => {
                let dst_ports = vec![PortRange { first: rng.between(1024, 9000) as u16, last: u16::MAX }];
                (RuleMatch { protocol, dst_ports, ..RuleMatch::default() }, RuleAction::Permit)
            }
        }
    }
}

fn ports(weights: &[(u32, Ports)], rng: &mut Rng) -> Vec<PortRange> {
    let range = |first, last| vec![PortRange { first, last }];
    match rng.weighted(weights) {
        None | Some(Ports::Any) => Vec::new(),
        Some(Ports::High) => range(1024, u16::MAX),
        Some(Ports::Low) => range(0, 1023),
        Some(Ports::Range) => {
            let first = rng.between(1, 60_000) as u16;
            range(first, first + rng.between(1, 4000) as u16)
        }
        Some(Ports::Exact) => {
            let port = match rng.pick(&WELL_KNOWN) {
                Some(&port) if rng.percent(70) => port,
                _ => rng.between(1024, 65_535) as u16,
            };
            range(port, port)
        }
    }
}

/// A flow's tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source.
    pub src: IpAddr,
    /// Destination, of the same family.
    pub dst: IpAddr,
    /// Upper-layer protocol.
    pub protocol: u8,
    /// Source port; 0 without ports.
    pub sport: u16,
    /// Destination port; 0 without ports.
    pub dport: u16,
}

impl Tuple {
    /// As rules see it on an interface.
    pub fn key(&self, interface: u32) -> RuleKey {
        let flow = FlowKey {
            src: from_ip(self.src),
            dst: from_ip(self.dst),
            protocol: self.protocol,
            sport: self.sport,
            dport: self.dport,
        };
        RuleKey { flow, has_ports: matches!(self.protocol, TCP | UDP), interface, ..RuleKey::default() }
    }
}

/// A TCP or UDP flow that a rule matches; `None` for rules about other protocols.
pub fn flow_of(rule: &RuleMatch, rng: &mut Rng) -> Option<Tuple> {
    let v6 = match rule.src.first().or(rule.dst.first()) {
        Some(prefix) => prefix.addr.is_ipv6(),
        None => rng.percent(50),
    };
    let mut address = |list: &[Cidr]| match list.first() {
        Some(prefix) => addresses::inside(rng, prefix),
        None => addresses::public(rng, v6),
    };
    let (src, dst) = (address(&rule.src), address(&rule.dst));
    let protocol = rule.protocol.unwrap_or(if rng.percent(70) { TCP } else { UDP });
    if !matches!(protocol, TCP | UDP) || src.is_ipv6() != dst.is_ipv6() {
        return None;
    }
    let mut port = |list: &[PortRange], default: (u32, u32)| {
        let (first, last) = list.first().map_or(default, |r| (u32::from(r.first), u32::from(r.last)));
        rng.between(first, last) as u16
    };
    let (sport, dport) = (port(&rule.src_ports, (1024, 65_535)), port(&rule.dst_ports, (1, 65_535)));
    Some(Tuple { src, dst, protocol, sport, dport })
}

#[cfg(test)]
mod tests {
    use super::*;
    use marchproxy_engine::table::rules::scan;

    const ALL: [Profile; 3] = [Profile::Acl, Profile::Fw, Profile::Ipc];

    #[test]
    fn the_seed_decides_everything() {
        for profile in ALL {
            assert_eq!(generate(profile, 300, 5, &[]), generate(profile, 300, 5, &[]));
            assert_ne!(generate(profile, 300, 5, &[]), generate(profile, 300, 6, &[]));
        }
        assert_ne!(generate(Profile::Acl, 300, 5, &[]), generate(Profile::Fw, 300, 5, &[]));
    }

    #[test]
    fn canonical_and_as_many_as_asked() {
        for count in [0, 1, 7, 8, 100, 2000] {
            let rules = generate(Profile::Ipc, count, 1, &[]);
            assert_eq!(rules.len(), count);
            assert!(rules.is_sorted_by_key(|r| r.priority));
        }
    }

    #[test]
    fn a_packet_meets_five_to_seventy_rules() {
        for profile in ALL {
            for count in [1000, 5000] {
                let rules = generate(profile, count, 11, &[]);
                let mut rng = Rng::new(1, "overlap");
                let (mut packets, mut matches) = (0, 0);
                while packets < 300 {
                    let Some(flow) = rng.pick(&rules).and_then(|r| flow_of(&r.matches, &mut Rng::new(packets, "f")))
                    else {
                        continue;
                    };
                    packets += 1;
                    let key = flow.key(0);
                    matches += rules.iter().filter(|r| scan(std::slice::from_ref(r), &key).is_some()).count() as u64;
                }
                let mean = matches as f64 / packets as f64;
                assert!((5.0..70.0).contains(&mean), "{profile:?} with {count} rules: {mean} matches a packet");
            }
        }
    }

    #[test]
    fn flows_match_the_rule_they_come_from_and_destinations_stay_in_the_given_networks() {
        let networks = [addresses::prefix([8, 0, 0, 0], 8), addresses::prefix("2a00::".parse::<IpAddr>().unwrap(), 16)];
        let rules = generate(Profile::Acl, 500, 2, &networks);
        let mut rng = Rng::new(2, "flows");
        for rule in &rules {
            if let Some(flow) = flow_of(&rule.matches, &mut rng) {
                assert_eq!(scan(std::slice::from_ref(rule), &flow.key(0)), Some(0), "{rule:?} {flow:?}");
            }
            assert!(rule.matches.dst.iter().all(|dst| networks.iter().any(|n| n.contains(dst.addr))));
        }
    }
}
