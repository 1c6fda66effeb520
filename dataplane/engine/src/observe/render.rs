//! Records in words, one line for each column that says something. A verdict that stages learn to write shows up here with a function of its own in
//! [`COLUMNS`]. Not for workers: everything here allocates.

use std::collections::HashMap;

use super::{End, Kind, Record, Seen, Stages};
use crate::burst::{CE, NO_MARK, NONE, Rewrite};
use crate::flow::to_ip;
use crate::ports::{PortSlot, UNTAGGED};
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::{Detour, ObjectKind, Snapshot};
use crate::tables::{Class, RuleAction};
use crate::why::Step;
use crate::wire::{ICMP, ICMPV6, TCP, UDP};

/// The names of one generation: records hold numbers, and their meaning may change with the next push.
#[derive(Debug, Default)]
pub struct Names {
    generation: u64,
    ports: Vec<(PortSlot, String)>,
    interfaces: Vec<String>,
    /// By number.
    rules: HashMap<u32, (String, RuleAction)>,
    /// Number in `rules` by counter.
    counted: HashMap<u32, u32>,
    policers: Vec<String>,
    ways: Vec<String>,
    services: HashMap<u32, String>,
    backends: HashMap<u32, String>,
}

impl Names {
    /// Of a snapshot.
    pub fn of(snapshot: &Snapshot, generation: u64) -> Self {
        let (mut services, mut backends) = (HashMap::new(), HashMap::new());
        for (kind, name, counter) in snapshot.objects() {
            match kind {
                ObjectKind::Service => drop(services.insert(counter, name)),
                ObjectKind::Backend => drop(backends.insert(counter, name)),
                ObjectKind::Rule | ObjectKind::Policer | ObjectKind::Colour => {}
            }
        }
        Self {
            generation,
            ports: snapshot.ports().map(|(slot, spec)| (slot, spec.name.clone())).collect(),
            interfaces: snapshot.interfaces().iter().map(|interface| interface.name.clone()).collect(),
            rules: snapshot.rules.with_numbers().map(|(n, rule)| (n, (rule.name.clone(), rule.action))).collect(),
            counted: snapshot.rules.with_numbers().map(|(number, rule)| (rule.counter, number)).collect(),
            policers: (0..).map_while(|index| snapshot.policer_name(index).map(str::to_owned)).collect(),
            ways: (0..).map_while(|index| snapshot.detour(index).map(way_of)).collect(),
            services,
            backends,
        }
    }

    /// Which generation's.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The name of a port.
    pub fn port(&self, port: PortSlot) -> &str {
        self.ports.iter().find(|(slot, _)| *slot == port).map_or("?", |(_, name)| name)
    }

    /// The ports by name.
    pub fn ports(&self) -> impl Iterator<Item = &str> {
        self.ports.iter().map(|(_, name)| name.as_str())
    }

    /// The name of an interface; empty when there is none.
    pub fn interface(&self, index: u32) -> &str {
        self.interfaces.get(index as usize).map_or("", String::as_str)
    }
}

/// What a column says of a packet, if it says anything.
type Column = fn(&Record, &Stages, &Names) -> Option<Step>;

/// The columns in the order of the stages.
const COLUMNS: [Column; 12] =
    [parsed, session, rule, way, service, backend, rewrite, rewrite_source, route, policer, mark, class];

/// What the stages decided, stage by stage. `names` must be of the record's generation.
pub fn steps(record: &Record, names: &Names) -> Vec<Step> {
    let Some(stages) = &record.stages else { return Vec::new() };
    COLUMNS.iter().filter_map(|column| column(record, stages, names)).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "columns say something or nothing")]
fn step(stage: &'static str, object: impl Into<String>, detail: impl Into<String>) -> Option<Step> {
    Some(Step { stage, object: object.into(), detail: detail.into() })
}

fn parsed(_: &Record, stages: &Stages, names: &Names) -> Option<Step> {
    let head = &stages.head;
    if head.interface == NONE {
        return None;
    }
    let mut detail = if head.protocol == 0 && head.ttl == 0 {
        "no IP header".to_owned()
    } else {
        format!("{} octets, ttl {}", head.l3_len, head.ttl)
    };
    for (flag, words) in [
        (head.fragment && !head.later_fragment, ", first fragment"),
        (head.later_fragment, ", later fragment"),
        (head.dont_fragment && !head.v6, ", DF"),
        (stages.handed, ", handed over by another worker"),
    ] {
        detail.push_str(if flag { words } else { "" });
    }
    step("parse", format!("interface {}", names.interface(head.interface)), detail)
}

fn session(record: &Record, stages: &Stages, _: &Names) -> Option<Step> {
    let Some((listed, reply)) = &stages.session else {
        let ended = stages.hit.then_some("ended by this packet");
        return ended.and_then(|detail| step("session", "session", detail));
    };
    let session = &listed.session;
    let how = match (stages.hit, reply) {
        (false, _) if listed.origin.created == record.now => "made by this packet",
        (_, false) => "client's packet",
        (_, true) => "reply",
    };
    step(
        "session",
        format!("session of {}", endpoint(session.client(), session.client_port())),
        format!("{how}, state {}, decided by generation {}", session.state().label(), listed.decision.generation),
    )
}

fn rule(record: &Record, stages: &Stages, names: &Names) -> Option<Step> {
    let by_session = stages.session.map(|(listed, _)| listed.decision.rule).filter(|_| stages.hit);
    let found = match by_session {
        Some(counter) => names.counted.get(&counter).and_then(|number| names.rules.get(number)),
        None => names.rules.get(&stages.rule),
    };
    match found {
        Some((name, action)) => {
            let action = action.label();
            let by = if by_session.is_some() { ", by the session" } else { "" };
            step("rule", format!("rule {name}"), format!("{action}{by}"))
        }
        None if record.end == End::Dropped(DropReason::RuleDeny) => step("rule", "default", "deny: no rule matched"),
        None => None,
    }
}

fn way(_: &Record, stages: &Stages, names: &Names) -> Option<Step> {
    let way = names.ways.get(stages.way as usize)?;
    step("rule", way, "set by the rule")
}

fn way_of(detour: &Detour) -> String {
    match detour {
        Detour::NextHop { egress, .. } => format!("next hop {}", to_ip(egress.next_hop)),
        Detour::Table(_) => "another table".into(),
    }
}

fn service(_: &Record, stages: &Stages, names: &Names) -> Option<Step> {
    let counter = stages.session.map_or(stages.service, |(listed, _)| listed.decision.service);
    let name = names.services.get(&counter)?;
    step("service", format!("service {name}"), if stages.hit { "by the session" } else { "by its destination" })
}

fn backend(_: &Record, stages: &Stages, names: &Names) -> Option<Step> {
    let (listed, _) = stages.session.as_ref()?;
    let session = &listed.session;
    let name = names.backends.get(&listed.decision.backend).map_or("gone from the service", |name| name.as_str());
    step("service", format!("backend {name}"), endpoint(session.backend(), session.backend_port()))
}

fn rewrite(_: &Record, stages: &Stages, _: &Names) -> Option<Step> {
    let (key, (address, port)) = (&stages.key, stages.target);
    let (end, before) = match stages.verdict.rewrite {
        Rewrite::None => return None,
        Rewrite::Destination | Rewrite::Both => ("destination", endpoint(key.dst, key.dport)),
        Rewrite::Source => ("source", endpoint(key.src, key.sport)),
        Rewrite::Station => return step("rewrite", "nothing", format!("to the neighbour {}", to_ip(address))),
        Rewrite::Ipip => return step("rewrite", "tunnel", format!("IP in IP to {}", to_ip(address))),
        Rewrite::Gue => return step("rewrite", "tunnel", format!("UDP to {}", to_ip(address))),
    };
    step("rewrite", end, format!("{before} becomes {}", endpoint(address, port)))
}

/// The other end, where both change.
fn rewrite_source(_: &Record, stages: &Stages, _: &Names) -> Option<Step> {
    let (key, (address, port)) = (&stages.key, stages.source);
    let before = endpoint(key.src, key.sport);
    (stages.verdict.rewrite == Rewrite::Both).then_some(())?;
    step("rewrite", "source", format!("{before} becomes {}", endpoint(address, port)))
}

fn route(record: &Record, stages: &Stages, names: &Names) -> Option<Step> {
    let egress = &stages.egress;
    let (port, _) = record.out?;
    let detail = format!("next hop {} on port {}", to_ip(egress.next_hop), names.port(port));
    step("route", format!("interface {}", names.interface(egress.interface)), detail)
}

fn policer(_: &Record, stages: &Stages, names: &Names) -> Option<Step> {
    let name = names.policers.get(stages.verdict.policer as usize)?;
    step("police", format!("policer {name}"), stages.verdict.colour?.label())
}

fn mark(_: &Record, stages: &Stages, _: &Names) -> Option<Step> {
    let mark = stages.verdict.mark;
    match mark {
        NO_MARK => None,
        mark if mark >= 2 * CE => step("mark", "dscp", "not reached"),
        mark => step("mark", format!("dscp {}", mark % CE), if mark & CE == 0 { "" } else { "congestion experienced" }),
    }
}

fn class(_: &Record, stages: &Stages, _: &Names) -> Option<Step> {
    let class = Class::ALL.get(usize::from(stages.class?))?;
    step("class", class.label(), if stages.verdict.class.is_some() { "" } else { "by its codepoint" })
}

/// What became of it, in a line.
pub fn end(record: &Record, names: &Names) -> String {
    let port = record.out.map_or("?", |(port, _)| names.port(port));
    match record.end {
        End::Sent => format!("sent on port {port}"),
        End::Dropped(reason) => format!("dropped: {}", reason.label()),
        End::Punted(PuntReason::Neighbour) => format!("waits for its next hop's MAC address on port {port}"),
        End::Punted(reason) => format!("to the slow path: {}", reason.label()),
        End::HandedOff(worker) => format!("to worker {worker}, which has its sessions"),
        End::Consumed(reason) => format!("consumed: {}", reason.label()),
    }
}

/// The frame in a line.
pub fn frame(seen: &Seen) -> String {
    let key = &seen.key;
    let tag = if seen.vlan == UNTAGGED { String::new() } else { format!("vlan {} ", seen.vlan) };
    match seen.kind {
        Kind::Other => format!("{tag}neither IP nor ARP"),
        Kind::Arp => format!("{tag}arp {} > {}", to_ip(key.src), to_ip(key.dst)),
        Kind::V4 | Kind::V6 if seen.has_ports => format!(
            "{tag}{} > {} {}{}",
            endpoint(key.src, key.sport),
            endpoint(key.dst, key.dport),
            protocol(key.protocol),
            if key.protocol == TCP { flags(seen.flags_or_type) } else { String::new() }
        ),
        Kind::V4 | Kind::V6 => format!("{tag}{} > {} {}", to_ip(key.src), to_ip(key.dst), protocol(key.protocol)),
    }
}

fn flags(flags: u8) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set: Vec<&str> =
        names.into_iter().enumerate().filter(|(bit, _)| flags >> bit & 1 == 1).map(|(_, n)| n).collect();
    format!(" {}", set.join(","))
}

/// The name of a protocol, or its number.
pub fn protocol(number: u8) -> String {
    match number {
        ICMP => "icmp".into(),
        ICMPV6 => "icmpv6".into(),
        TCP => "tcp".into(),
        UDP => "udp".into(),
        other => format!("protocol {other}"),
    }
}

fn endpoint(address: u128, port: u16) -> String {
    std::net::SocketAddr::new(to_ip(address), port).to_string()
}
