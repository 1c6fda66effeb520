//! `why`: runs a described packet through a snapshot, without sending it, and says which object decided what. It calls the same look-ups as
//! the stages, in the same order.

mod police;

use std::fmt::Write;

use crate::burst::{Egress, Fate, NO_MARK, NONE, Rewrite};
use crate::flow::{FlowKey, is_v4, to_ip};
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::{Detour, Route, Snapshot};
use crate::stage::{direct, route, urpf};
use crate::table::rules::{Rule, RuleKey, Sight};
use crate::table::services::Service;
use crate::table::sessions::State;
use crate::tables::{RuleAction, ServiceMode, Urpf};
use crate::wire::{TCP, UDP};
use crate::worker::Listed;

/// A packet to ask about.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Index of the receiving interface.
    pub interface: u32,
    /// Its tuple; for echo requests the source port is the identifier.
    pub key: FlowKey,
    /// L3 length in octets.
    pub length: u16,
    /// TTL or hop limit on arrival.
    pub ttl: u8,
    /// VLAN, DSCP, TCP flags, fragment.
    pub sight: Sight,
    /// The generation that answers.
    pub generation: u64,
    /// The live session of the tuple, if the caller found one.
    pub session: Option<Live>,
}

/// A live session and the packet's place in it.
#[derive(Clone, Copy, Debug)]
pub struct Live {
    /// The session.
    pub listed: Listed,
    /// Whether the packet comes from the backend.
    pub reply: bool,
    /// Time of the worker that has it.
    pub now: u64,
}

/// One decision on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The stage that decided.
    pub stage: &'static str,
    /// The object that decided, e.g. `rule no-telnet`.
    pub object: String,
    /// What it decided.
    pub detail: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// How it came to that.
    pub steps: Vec<Step>,
    /// The same in words that two generations can be compared by.
    pub decided: Decided,
}

/// What was decided about a packet, as far as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Decided {
    /// What rules said: `rule NAME`, `default`, or `no rules`.
    pub rule: String,
    /// SERVICE/BACKEND, empty when no service has it.
    pub backend: String,
    /// DSCP that rule or service set.
    pub mark: Option<u8>,
    /// The policer that meters it.
    pub policer: String,
    /// Where it leaves: interface and next hop.
    pub out: String,
}

impl Decided {
    fn of(steps: &[Step], set: Set) -> Self {
        let last =
            |stage: &str, kind: &str| steps.iter().rfind(|step| step.stage == stage && step.object.starts_with(kind));
        let name = |step: Option<&Step>, kind: &str| {
            step.and_then(|step| step.object.strip_prefix(kind)).unwrap_or_default().to_owned()
        };
        let (service, backend) = (last("service", "service "), last("service", "backend "));
        Self {
            // Rules that only count stand before the one that decides.
            rule: last("rule", "").map(|step| step.object.clone()).unwrap_or_default(),
            backend: backend
                .map(|_| format!("{}/{}", name(service, "service "), name(backend, "backend ")))
                .unwrap_or_default(),
            mark: set.mark,
            policer: set.policer,
            out: last("route", "interface ")
                .map(|step| format!("{}, {}", name(Some(step), "interface "), step.detail))
                .unwrap_or_default(),
        }
    }
}

/// What rule and service set, the rule first.
#[derive(Default)]
struct Set {
    mark: Option<u8>,
    policer: String,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is forwarded (after its next hop's MAC address is known, and unless a policer is out of tokens).
    Forwarded,
    /// It is dropped.
    Dropped(DropReason),
    /// It goes to the slow path.
    Punted(PuntReason),
}

impl Verdict {
    /// The name shown to people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Dropped(_) => "dropped",
            Self::Punted(_) => "punted",
        }
    }

    /// The reason of a drop or punt.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Forwarded => "",
            Self::Dropped(reason) => reason.label(),
            Self::Punted(reason) => reason.label(),
        }
    }
}

impl From<Fate> for Verdict {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Drop(reason) => Self::Dropped(reason),
            Fate::Punt(reason) => Self::Punted(reason),
            Fate::Active | Fate::Transmit | Fate::Queue | Fate::HandOff(_) | Fate::Reassemble(_) => Self::Forwarded,
        }
    }
}

/// Answers a question.
pub fn why(snapshot: &Snapshot, question: &Question) -> Answer {
    let (mut steps, mut set) = (Vec::new(), Set::default());
    let verdict = match judge(snapshot, question, &mut steps, &mut set) {
        Ok(()) => Verdict::Forwarded,
        Err(fate) => fate.into(),
    };
    let decided = Decided::of(&steps, set);
    Answer { verdict, steps, decided }
}

fn judge(snapshot: &Snapshot, question: &Question, steps: &mut Vec<Step>, set: &mut Set) -> Result<(), Fate> {
    let mut step = |stage, object: String, detail: String| steps.push(Step { stage, object, detail });
    let key = &question.key;
    let Some(interface) = snapshot.interface(question.interface) else {
        step("parse", "interface".into(), "no such interface".into());
        return Err(Fate::Drop(DropReason::VlanUnknown));
    };
    step("parse", format!("interface {}", interface.name), "received here".into());
    if !urpf::reached(snapshot, question.interface, key.src, interface.urpf) {
        let mode = if interface.urpf == Urpf::Strict { "strict" } else { "loose" };
        step("urpf", format!("interface {}", interface.name), format!("{mode}: no such way to {}", to_ip(key.src)));
        return Err(Fate::Drop(DropReason::Urpf));
    }
    if snapshot.is_own(key.dst) {
        step("parse", format!("address {}", to_ip(key.dst)), "is an address of this node".into());
        return Err(Fate::Punt(PuntReason::Local));
    }
    let Course { destination, mode, rule, policer, service } = match &question.session {
        Some(live) => established(snapshot, live, question, &mut step)?,
        None => new_flow(snapshot, question, &mut step)?,
    };
    *set = Set {
        mark: rule.and_then(|rule| rule.mark).or_else(|| service?.mark),
        policer: snapshot.policer_name(policer).unwrap_or_default().to_owned(),
    };
    // Packets to a backend that answers by itself go the backend's way.
    let rule = rule.filter(|_| !mode.is_direct());
    let egress = if let Some(Detour::NextHop { egress, .. }) = way(snapshot, rule, key) {
        step("route", format!("rule {}", rule.map_or("", |r| &r.name)), "next hop set".into());
        *egress
    } else {
        routed(snapshot, question, rule, destination, &mut step)?
    };
    let Some(out) = snapshot.interface(egress.interface) else { return Err(Fate::Drop(DropReason::TxPortGone)) };
    step("route", format!("interface {}", out.name), format!("next hop {}", to_ip(egress.next_hop)));
    let rewrite = Rewrite::from(mode);
    if rewrite == Rewrite::Station && egress.next_hop != destination {
        step("route", "next hop".into(), "dsr_mac wants the backend itself as a neighbour".into());
        return Err(Fate::Drop(DropReason::BackendNotOnLink));
    }
    if rewrite.is_tunnel() {
        let source = direct::source(out, !is_v4(destination));
        step("route", format!("tunnel {}", mode.label()), format!("{} > {}", to_ip(source), to_ip(destination)));
    }
    if question.ttl <= 1 {
        step("route", "ttl".into(), format!("{} on arrival", question.ttl));
        return Err(Fate::Punt(PuntReason::TtlExceeded));
    }
    let overhead = direct::overhead(rewrite, destination);
    if usize::from(question.length) + usize::from(overhead) > usize::from(out.mtu) {
        let (then, reason) = match (overhead, is_v4(key.dst)) {
            (0, true) => (": cut into fragments (with DF: mtu_exceeded)".to_owned(), Fate::Punt(PuntReason::Fragment)),
            (0, false) => (String::new(), Fate::Punt(PuntReason::MtuExceeded)),
            (_, true) => (
                format!(" and {overhead} of the tunnel (with DF: mtu_exceeded by ICMP)"),
                Fate::Drop(DropReason::MtuExceeded),
            ),
            (_, false) => (format!(" and {overhead} of the tunnel"), Fate::Punt(PuntReason::MtuExceeded)),
        };
        step("route", format!("mtu {}", out.mtu), format!("packet of {} octets{then}", question.length));
        return Err(reason);
    }
    police::police(snapshot, question, policer, &mut step);
    Ok(())
}

/// Where a packet goes, and how.
struct Course<'a> {
    destination: u128,
    mode: ServiceMode,
    rule: Option<&'a Rule>,
    /// Of rule or service.
    policer: u32,
    /// What has set something for it; not for replies.
    service: Option<&'a Service>,
}

type Steps<'a> = &'a mut dyn FnMut(&'static str, String, String);

/// The way that a rule sets for a packet of this family.
fn way<'a>(snapshot: &'a Snapshot, rule: Option<&Rule>, key: &FlowKey) -> Option<&'a Detour> {
    let way = snapshot.detour(rule?.way)?;
    match way {
        Detour::NextHop { v6, .. } if *v6 == is_v4(key.dst) => None,
        way => Some(way),
    }
}

/// By the table of the receiving interface, or the rule's.
fn routed(
    snapshot: &Snapshot,
    question: &Question,
    rule: Option<&Rule>,
    destination: u128,
    step: Steps<'_>,
) -> Result<Egress, Fate> {
    let (found, by) = match way(snapshot, rule, &question.key) {
        Some(&Detour::Table(table)) => (snapshot.route_in(table, destination), ", table set by the rule"),
        _ => (snapshot.route(question.interface, destination), ""),
    };
    let kind = match found {
        None => "no route".to_owned(),
        Some(Route::Connected { .. }) => "connected".into(),
        Some(Route::Via(range)) => format!("one of {} next hops", range.count),
        Some(Route::Blackhole) => "blackhole".into(),
        Some(Route::Reject) => "reject".into(),
    };
    step("route", format!("destination {}", to_ip(destination)), format!("{kind}{by}"));
    route::follow(snapshot, found, destination, &question.key)
}

/// What rules say about a packet; `established`: it belongs to a session already.
fn ruled<'a>(
    snapshot: &'a Snapshot,
    key: &RuleKey,
    established: bool,
    step: Steps<'_>,
) -> Result<Option<&'a Rule>, Fate> {
    let index = snapshot.rules.first_match(key).unwrap_or(NONE);
    for counted in snapshot.rules.counted(snapshot.rules.counting(key, index)) {
        step("rule", format!("rule {}", counted.name), "count".into());
    }
    let Some(rule) = snapshot.rules.get(index) else {
        if snapshot.rules.decide() {
            step("rule", "default".into(), "deny: no rule matched".into());
            return Err(Fate::Drop(DropReason::RuleDeny));
        }
        step("rule", "no rules".into(), "permit".into());
        return Ok(None);
    };
    let refused = match rule.action {
        RuleAction::Permit | RuleAction::Count => None,
        RuleAction::Deny => Some(Fate::Drop(DropReason::RuleDeny)),
        RuleAction::Reject => Some(Fate::Punt(PuntReason::RuleReject)),
    };
    let spared = established && rule.new_only && refused.is_some();
    let mut details = rule_details(snapshot, rule);
    if spared {
        details.push_str(": the session goes on");
    }
    step("rule", format!("rule {}", rule.name), details);
    match refused {
        Some(_) if spared => Ok(None),
        Some(fate) => Err(fate),
        None => Ok(Some(rule)),
    }
}

fn rule_details(snapshot: &Snapshot, rule: &Rule) -> String {
    let mut details = rule.action.label().to_owned();
    if rule.new_only {
        details.push_str(", new sessions only");
    }
    if let Some(mark) = rule.mark {
        let _ = write!(details, ", {}", police::mark(snapshot, mark));
    }
    if let Some(class) = rule.class {
        let _ = write!(details, ", class {}", class.label());
    }
    if let Some(policer) = snapshot.policer_name(rule.policer) {
        let _ = write!(details, ", policer {policer}");
    }
    match snapshot.detour(rule.way) {
        Some(Detour::NextHop { egress, .. }) => {
            let _ = write!(details, ", next hop {}", to_ip(egress.next_hop));
        }
        Some(Detour::Table(_)) => details.push_str(", another table"),
        None => {}
    }
    if rule.log_sample > 0 {
        let _ = write!(details, ", one of {} recorded", rule.log_sample);
    }
    details
}

/// A packet of a session: what rules say is what they said, or will say when the first packet of this generation comes.
fn established<'a>(
    snapshot: &'a Snapshot,
    live: &Live,
    question: &Question,
    step: Steps<'_>,
) -> Result<Course<'a>, Fate> {
    let Live { listed: Listed { session, decision, origin, source, .. }, reply, now } = live;
    let old = decision.generation != question.generation;
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let mut details = format!(
        "{}, state {}, age {:.1} s, idle {:.1} s, decided by generation {}",
        if *reply { "reply" } else { "client's packet" },
        session.state().label(),
        seconds(now.saturating_sub(origin.created)),
        seconds(session.idle(*now)),
        decision.generation,
    );
    if old {
        let _ = write!(details, ": re-decided at its next packet by generation {}", question.generation);
    }
    let end = |address, port| endpoint(address, port, session.state());
    step("session", format!("session of {}", end(session.client(), session.client_port())), details);
    let interface = snapshot.interface_at(origin.client_place(), origin.client_vlan).unwrap_or(NONE);
    let (flow, sight) = (session.forward_key(), origin.sight(session.protocol()));
    let key = RuleKey { flow, has_ports: matches!(flow.protocol, TCP | UDP), interface, sight };
    let rule = ruled(snapshot, &key, true, step)?;
    let service = if old {
        snapshot.services.lookup(session.service(), session.protocol(), session.service_port())
    } else {
        snapshot.services.iter().find(|service| service.counter == decision.service)
    };
    let Some(service) = service else {
        let gone = "its service is gone: the session ends, the packet stands alone";
        step("service", format!("address {}", to_ip(session.service())), gone.into());
        return new_flow(snapshot, question, step);
    };
    step("service", format!("service {}", service.name), service_details(snapshot, service, rule));
    let backend = service.backend_at(session.backend(), session.backend_port(), session.service_port());
    let name = backend.map_or("gone from the service, kept", |backend| backend.name.as_str());
    let bound = format!("{}, bound to the session", end(session.backend(), session.backend_port()));
    step("service", format!("backend {name}"), bound);
    let policer = if old { policer_of(service, rule) } else { decision.policer };
    if !old && decision.mark != NO_MARK {
        step("mark", police::mark(snapshot, decision.mark), "of rule or service".into());
    }
    if let Some(source) = source {
        step("session", "full_nat".into(), format!("source {} port {}", to_ip(source.address), source.port));
    }
    if !service.mode.is_direct() {
        let (which, target, port) = if *reply {
            ("source", session.service(), session.service_port())
        } else {
            ("destination", session.backend(), session.backend_port())
        };
        step("session", format!("rewrite {which}"), end(target, port));
    }
    // What rules set goes with the client's packets only. A session whose service changed its mode ends with its next packet, so the mode is
    // the service's.
    let mode = service.mode;
    Ok(match (reply, source) {
        (false, _) => Course { destination: session.backend(), mode, rule, policer, service: Some(service) },
        (true, Some(_)) => Course { destination: session.client(), mode, rule: None, policer: NONE, service: None },
        (true, None) => {
            Course { destination: question.key.dst, mode: ServiceMode::Nat, rule: None, policer: NONE, service: None }
        }
    })
}

/// Echo sessions have no ports.
fn endpoint(address: u128, port: u16, state: State) -> String {
    match to_ip(address) {
        ip if state == State::Icmp => ip.to_string(),
        ip => std::net::SocketAddr::new(ip, port).to_string(),
    }
}

fn new_flow<'a>(snapshot: &'a Snapshot, question: &Question, step: Steps<'_>) -> Result<Course<'a>, Fate> {
    let Question { key, sight, interface, .. } = question;
    let has_ports = matches!(key.protocol, TCP | UDP) && !sight.is_later();
    let rule_key = RuleKey { flow: *key, has_ports, interface: *interface, sight: *sight };
    let rule = ruled(snapshot, &rule_key, false, step)?;
    if !snapshot.services.is_address(key.dst) {
        let policer = rule.map_or(NONE, |rule| rule.policer);
        return Ok(Course { destination: key.dst, mode: ServiceMode::Nat, rule, policer, service: None });
    }
    let Some(service) = snapshot.services.lookup(key.dst, key.protocol, key.dport) else {
        step(
            "service",
            format!("address {}", to_ip(key.dst)),
            format!("no service for protocol {} port {}", key.protocol, key.dport),
        );
        return Err(Fate::Punt(PuntReason::Local));
    };
    let details = service_details(snapshot, service, rule);
    step("service", format!("service {}", service.name), details);
    told(snapshot, service, step);
    let Some(backend) = service.pick(key) else {
        let family = if is_v4(key.dst) { "IPv4" } else { "IPv6" };
        step("service", format!("service {}", service.name), format!("no {family} backend is up"));
        return Err(Fate::Drop(DropReason::NoBackend));
    };
    let port = backend.port.unwrap_or(key.dport);
    let pool = service.pool(key).len();
    let pool = if pool > 0 { format!(", source of one of {pool} addresses") } else { String::new() };
    let session = if service.stateless { "no session" } else { "new session" };
    step(
        "service",
        format!("backend {}", backend.name),
        format!("{} port {port}, {}{pool}, {session}", to_ip(backend.address), service.mode.label()),
    );
    Ok(Course {
        destination: backend.address,
        mode: service.mode,
        rule,
        policer: policer_of(service, rule),
        service: Some(service),
    })
}

/// The rule's, else the service's.
fn policer_of(service: &Service, rule: Option<&Rule>) -> u32 {
    rule.map(|rule| rule.policer).filter(|&policer| policer != NONE).or(service.policer).unwrap_or(NONE)
}

/// Whether a flow collector hears of the sessions of a service.
fn told(snapshot: &Snapshot, service: &Service, step: Steps<'_>) {
    if let Some(flows) = snapshot.flows.filter(|_| service.flows && !service.stateless) {
        let share = format!("one of {} sessions is told to the flow collector", flows.one_of);
        step("flows", format!("service {}", service.name), share);
    }
}

fn service_details(snapshot: &Snapshot, service: &Service, rule: Option<&Rule>) -> String {
    let own = rule.is_none_or(|rule| rule.policer == NONE);
    let policer = service.policer.filter(|_| own).and_then(|p| snapshot.policer_name(p));
    let policer = policer.map_or(String::new(), |name| format!(", policer {name}"));
    let mut mark = service.mark.map_or(String::new(), |mark| format!(", {}", police::mark(snapshot, mark)));
    if let Some(class) = service.class {
        let _ = write!(mark, ", class {}", class.label());
    }
    let limits = if service.limits.is_some() { ", if its limits allow" } else { "" };
    let out = service.backends().filter(|backend| backend.is_out()).count();
    let out = if out == 0 { String::new() } else { format!(", {out} of {} backends out", service.backends().len()) };
    format!("matched{policer}{mark}{limits}{out}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::from_ip;
    use crate::tables::{
        Cidr, FlagMatch, InterfaceSpec, PolicerAction, PolicerSpec, PortSpec, RuleMatch, RuleSpec, RuleTables, RuleWay,
    };

    fn cidr(text: &str) -> Cidr {
        let (addr, len) = text.split_once('/').unwrap();
        Cidr { addr: addr.parse().unwrap(), len: len.parse().unwrap() }
    }

    /// Two interfaces in a table each, and these rules.
    fn snapshot(rules: Vec<RuleSpec>) -> Snapshot {
        let interface = |name: &str, port, table, address| InterfaceSpec {
            name: name.into(),
            port,
            table,
            addresses: vec![cidr(address)],
            ..Default::default()
        };
        let port = |name: &str| PortSpec { name: name.into(), device: String::new(), mtu: 1500 };
        let policer = PolicerSpec {
            name: "slow".into(),
            cir: 1,
            cbs: 1500,
            ebs: 0,
            on_green: PolicerAction::Pass,
            on_yellow: PolicerAction::Pass,
            on_red: PolicerAction::Drop,
            ..Default::default()
        };
        let tables = RuleTables {
            ports: vec![port("a"), port("b")],
            interfaces: vec![interface("a0", 0, 0, "10.0.0.1/24"), interface("b0", 1, 7, "192.0.2.1/24")],
            rules,
            policers: vec![policer],
            ..RuleTables::default()
        };
        crate::build(&tables, None, &crate::Budget::default()).unwrap()
    }

    /// The verdict and the steps behind the first, for a TCP packet with these flags from a0 to 192.0.2.9.
    fn told(rules: Vec<RuleSpec>, flags: u8) -> (String, Vec<String>) {
        let ip = |text: &str| from_ip(text.parse().unwrap());
        let key = FlowKey { src: ip("10.0.0.9"), dst: ip("192.0.2.9"), protocol: TCP, sport: 1, dport: 80 };
        let sight = Sight::new(0, 0, Some(flags));
        let answer = why(
            &snapshot(rules),
            &Question { interface: 0, key, length: 64, ttl: 64, sight, generation: 1, session: None },
        );
        let steps = answer.steps.into_iter().skip(1).map(|s| format!("{}: {}", s.object, s.detail)).collect();
        (format!("{} {}", answer.verdict.label(), answer.verdict.reason()).trim().to_owned(), steps)
    }

    #[test]
    fn it_names_what_counts_what_decides_and_what_that_sets() {
        let rule = |name: &str, action| RuleSpec { name: name.into(), action, ..Default::default() };
        let (counts, permits) = (rule("seen", RuleAction::Count), rule("go", RuleAction::Permit));
        let syn = RuleMatch {
            protocol: Some(TCP),
            tcp_flags: Some(FlagMatch { value: 2, mask: 0x12 }),
            ..RuleMatch::default()
        };
        let rejects = RuleSpec { matches: syn, new_only: true, log_sample: 9, ..rule("no-syn", RuleAction::Reject) };
        let (verdict, steps) = told(vec![counts.clone(), rejects.clone(), permits.clone()], 2);
        assert_eq!(verdict, "punted rule_reject");
        assert_eq!(steps, ["rule seen: count", "rule no-syn: reject, new sessions only, one of 9 recorded"]);

        // Its own table has no route there, the other's interface is connected.
        let (verdict, steps) = told(vec![counts, rejects, permits.clone()], 16);
        assert_eq!(verdict, "punted no_route");
        assert_eq!(steps[1..], ["rule go: permit", "destination 192.0.2.9: no route"]);
        let table = RuleSpec { way: Some(RuleWay::Table(7)), policer: Some(0), ..permits.clone() };
        let (verdict, steps) = told(vec![table], 2);
        assert_eq!(verdict, "forwarded");
        let expected = [
            "rule go: permit, policer slow, another table",
            "destination 192.0.2.9: connected, table set by the rule",
            "interface b0: next hop 192.0.2.9",
            "policer slow: the flow's: arrives green; green pass, yellow pass, red drop",
        ];
        assert_eq!(steps, expected);
        let way = Some(RuleWay::NextHop { address: "192.0.2.8".parse().unwrap(), interface: 1 });
        let (verdict, steps) = told(vec![RuleSpec { way, ..permits }], 2);
        assert_eq!(verdict, "forwarded");
        let expected =
            ["rule go: permit, next hop 192.0.2.8", "rule go: next hop set", "interface b0: next hop 192.0.2.8"];
        assert_eq!(steps, expected);
    }
}
