//! `why`: runs a described packet through a snapshot, without sending it, and says which object decided what. It calls the same look-ups as
//! the stages, in the same order.

use crate::burst::{Fate, NONE};
use crate::flow::{FlowKey, is_v4, to_ip};
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::{Route, Snapshot};
use crate::stage::{route, urpf};
use crate::table::rules::RuleKey;
use crate::table::services::Service;
use crate::table::sessions::Session;
use crate::tables::{RuleAction, Urpf};
use crate::wire::{TCP, UDP};

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
    /// The live session of the tuple, if the caller found one, and whether the packet is a reply in it.
    pub session: Option<(Session, bool)>,
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
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
            Fate::Active | Fate::Transmit | Fate::HandOff(_) => Self::Forwarded,
        }
    }
}

/// Answers a question.
pub fn why(snapshot: &Snapshot, question: &Question) -> Answer {
    let mut steps = Vec::new();
    let verdict = match judge(snapshot, question, &mut steps) {
        Ok(()) => Verdict::Forwarded,
        Err(fate) => fate.into(),
    };
    Answer { verdict, steps }
}

fn judge(snapshot: &Snapshot, question: &Question, steps: &mut Vec<Step>) -> Result<(), Fate> {
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
    let destination = match question.session {
        Some((session, reply)) => {
            step(
                "session",
                format!("session {}", to_ip(session.client())),
                format!(
                    "{} to backend {}:{}, {}",
                    if reply { "reply" } else { "established" },
                    to_ip(session.backend()),
                    session.backend_port(),
                    session.state().label()
                ),
            );
            if reply { key.dst } else { session.backend() }
        }
        None => new_flow(snapshot, question, &mut step)?,
    };
    let found = snapshot.route(question.interface, destination);
    let kind = match found {
        None => "no route".to_owned(),
        Some(Route::Connected { .. }) => "connected".into(),
        Some(Route::Via { count, .. }) => format!("one of {count} next hops"),
        Some(Route::Blackhole) => "blackhole".into(),
        Some(Route::Reject) => "reject".into(),
    };
    step("route", format!("destination {}", to_ip(destination)), kind);
    let egress = route::resolve(snapshot, question.interface, destination, key)?;
    let Some(out) = snapshot.interface(egress.interface) else { return Err(Fate::Drop(DropReason::TxPortGone)) };
    step("route", format!("interface {}", out.name), format!("next hop {}", to_ip(egress.next_hop)));
    if question.ttl <= 1 {
        step("route", "ttl".into(), format!("{} on arrival", question.ttl));
        return Err(Fate::Punt(PuntReason::TtlExceeded));
    }
    if question.length > out.mtu {
        step("route", format!("mtu {}", out.mtu), format!("packet of {} octets", question.length));
        return Err(Fate::Punt(PuntReason::MtuExceeded));
    }
    Ok(())
}

fn new_flow(
    snapshot: &Snapshot,
    question: &Question,
    step: &mut impl FnMut(&'static str, String, String),
) -> Result<u128, Fate> {
    let key = &question.key;
    let has_ports = matches!(key.protocol, TCP | UDP);
    let rule_key = RuleKey { flow: *key, has_ports, interface: question.interface };
    let rule = snapshot.rules.get(snapshot.rules.first_match(&rule_key).unwrap_or(NONE));
    match rule {
        Some(rule) => {
            let mark = rule.mark.map_or(String::new(), |dscp| format!(", mark dscp {dscp}"));
            let action = if rule.action == RuleAction::Permit { "permit" } else { "deny" };
            step("rule", format!("rule {}", rule.name), format!("{action}{mark}"));
            if rule.action == RuleAction::Deny {
                return Err(Fate::Drop(DropReason::RuleDeny));
            }
        }
        None if snapshot.rules.is_empty() => step("rule", "no rules".into(), "permit".into()),
        None => {
            step("rule", "default".into(), "deny: no rule matched".into());
            return Err(Fate::Drop(DropReason::RuleDeny));
        }
    }
    if !snapshot.services.is_address(key.dst) {
        return Ok(key.dst);
    }
    let Some(service) = snapshot.services.lookup(key.dst, key.protocol, key.dport) else {
        step(
            "service",
            format!("address {}", to_ip(key.dst)),
            format!("no service for protocol {} port {}", key.protocol, key.dport),
        );
        return Err(Fate::Punt(PuntReason::Local));
    };
    let details = service_details(snapshot, service);
    step("service", format!("service {}", service.name), details);
    let Some(backend) = service.pick(key) else {
        let family = if is_v4(key.dst) { "IPv4" } else { "IPv6" };
        step("service", format!("service {}", service.name), format!("no {family} backend is up"));
        return Err(Fate::Drop(DropReason::NoBackend));
    };
    let port = backend.port.unwrap_or(key.dport);
    step(
        "service",
        format!("backend {}", backend.name),
        format!("{} port {port}, new session", to_ip(backend.address)),
    );
    Ok(backend.address)
}

fn service_details(snapshot: &Snapshot, service: &Service) -> String {
    let policer = service.policer.and_then(|p| snapshot.policer_name(p));
    let policer = policer.map_or(String::new(), |name| format!(", policer {name}"));
    let mark = service.mark.map_or(String::new(), |dscp| format!(", mark dscp {dscp}"));
    format!("matched{policer}{mark}")
}
