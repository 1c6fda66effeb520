//! balance: applies sessions and rules, and gives new flows of services a backend (`BEHAVIOUR.md` 5 to 7), strictly in lane order.
//!
//! Reads `head`, `key`, `hash`, `hit`, `rule`. Writes `verdict`, `target`, `port`. Ends lanes that a rule denies or that get no
//! session.

use crate::burst::{Burst, Columns, Fate, NO_MARK, NONE, Rewrite, Verdict};
use crate::io::PacketBuf;
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::Snapshot;
use crate::stage::rule;
use crate::stats::ThreadStats;
use crate::table::rules::RuleKey;
use crate::table::services::Service;
use crate::table::sessions::{Direction, Hit, NewSession, Refused, Session, Sessions};
use crate::tables::RuleAction;

/// What the stage works on besides the burst.
pub struct Context<'a> {
    /// The generation in force.
    pub snapshot: &'a Snapshot,
    /// Its number.
    pub generation: u64,
    /// The worker's sessions.
    pub sessions: &'a mut Sessions,
    /// The worker's counters.
    pub stats: &'a ThreadStats,
    /// Nanoseconds.
    pub now: u64,
}

/// Runs the stage.
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, context: &mut Context<'_>) {
    let looked_up = context.sessions.changes();
    let place = burst.port;
    for lane in burst.active.lanes() {
        let index = lane.index();
        let columns = &mut *burst.columns;
        let mut judged = true;
        if context.sessions.changes() != looked_up && columns.head[index].has_session() {
            // An earlier packet of the burst made or ended a session: the look-up may no longer hold.
            let (before, key) = (columns.hit[index], &columns.key[index]);
            columns.hit[index] = context.sessions.find(key, columns.hash[index], context.now);
            judged = !before.is_some();
        }
        let hit = columns.hit[index];
        let outcome = if hit.is_some() {
            match apply_session(hit, columns, index, context) {
                Applied::Done => Ok(()),
                Applied::Denied => Err(Fate::Drop(DropReason::RuleDeny)),
                Applied::Gone => {
                    columns.rule[index] = rule::classify(context.snapshot, &columns.head[index], &columns.key[index]);
                    judge(columns, index, context, place)
                }
            }
        } else {
            if !judged {
                columns.rule[index] = rule::classify(context.snapshot, &columns.head[index], &columns.key[index]);
            }
            judge(columns, index, context, place)
        };
        if let Err(fate) = outcome {
            burst.settle(lane, fate);
        }
    }
}

enum Applied {
    /// The session decided.
    Done,
    /// A rule of this generation denies it; the session ended.
    Denied,
    /// Its service is gone; the session ended and the packet stands alone.
    Gone,
}

fn apply_session(hit: Hit, columns: &mut Columns, lane: usize, context: &mut Context<'_>) -> Applied {
    let head = &columns.head[lane];
    let Some(session) = context.sessions.get_mut(hit) else { return Applied::Gone };
    if session.generation != context.generation
        && let Some(ended) = redecide(session, head.has_ports(), context.snapshot, context.generation, context.stats)
    {
        context.sessions.remove(hit);
        return ended;
    }
    let direction = hit.direction();
    let flags = if session.protocol == 6 { head.flags_or_type } else { 0 };
    session.touch(context.now, direction, flags);
    let len = usize::from(head.l3_len);
    for counter in [session.rule_counter, session.service_counter, session.backend_counter] {
        if let Some(object) = context.stats.object(counter) {
            object.matched.count(len);
        }
    }
    let forward = direction == Direction::Forward;
    columns.verdict[lane] = Verdict {
        policer: if forward { session.policer } else { NONE },
        mark: session.mark,
        rewrite: if forward { Rewrite::Destination } else { Rewrite::Source },
    };
    (columns.target[lane], columns.port[lane]) =
        if forward { (session.backend, session.backend_port) } else { (session.service, session.service_port) };
    Applied::Done
}

/// First touch after a push: rules and service anew, binding kept. `Some` when the session ends.
#[cold]
fn redecide(
    session: &mut Session,
    has_ports: bool,
    snapshot: &Snapshot,
    generation: u64,
    stats: &ThreadStats,
) -> Option<Applied> {
    let interface = snapshot.interface_at(session.client_place(), session.client_vlan).unwrap_or(NONE);
    let key = RuleKey { flow: session.forward_key(), has_ports, interface };
    let rule = snapshot.rules.first_match(&key).unwrap_or(NONE);
    let Some((counter, mark)) = permitted(snapshot, rule, stats) else { return Some(Applied::Denied) };
    let service = snapshot.services.lookup(session.service, session.protocol, session.service_port);
    let Some(service) = service else { return Some(Applied::Gone) };
    decide(session, service, counter, mark);
    session.generation = generation;
    None
}

fn decide(session: &mut Session, service: &Service, rule_counter: u32, rule_mark: Option<u8>) {
    let backend = service.backend_at(session.backend, session.backend_port, session.service_port);
    session.policer = service.policer.unwrap_or(NONE);
    session.mark = rule_mark.or(service.mark).unwrap_or(NO_MARK);
    session.rule_counter = rule_counter;
    session.service_counter = service.counter;
    session.backend_counter = backend.map_or(NONE, |b| b.counter);
}

/// The counter and mark of the rule that permits, or `None` when the packet is denied (and counted as such).
#[inline]
fn permitted(snapshot: &Snapshot, rule: u32, stats: &ThreadStats) -> Option<(u32, Option<u8>)> {
    if snapshot.rules.is_empty() {
        return Some((NONE, None));
    }
    // No rule matched: the default at the end of every rule list is deny.
    let rule = snapshot.rules.get(rule)?;
    match rule.action {
        RuleAction::Permit => Some((rule.counter, rule.mark)),
        RuleAction::Deny => {
            if let Some(object) = stats.object(rule.counter) {
                object.dropped.add(1);
            }
            None
        }
    }
}

/// A packet without a session: rules, then the service's backend or plain forwarding.
fn judge(
    columns: &mut Columns,
    lane: usize,
    context: &mut Context<'_>,
    place: crate::ports::PortSlot,
) -> Result<(), Fate> {
    let (head, key) = (&columns.head[lane], &columns.key[lane]);
    let len = usize::from(head.l3_len);
    let rule = permitted(context.snapshot, columns.rule[lane], context.stats);
    let Some((rule_counter, rule_mark)) = rule else {
        count_denied(context, columns.rule[lane], len);
        return Err(Fate::Drop(DropReason::RuleDeny));
    };
    if let Some(object) = context.stats.object(rule_counter) {
        object.matched.count(len);
    }
    let mark = rule_mark.unwrap_or(NO_MARK);
    columns.verdict[lane] = Verdict { mark, ..Verdict::default() };
    columns.target[lane] = key.dst;
    if !context.snapshot.services.is_address(key.dst) {
        return Ok(());
    }
    if head.fragment {
        return Err(Fate::Drop(DropReason::FragmentUnsupported));
    }
    let eligible = head.has_ports() || head.is_echo_request();
    let service = if eligible { context.snapshot.services.lookup(key.dst, key.protocol, key.dport) } else { None };
    let Some(service) = service else { return Err(Fate::Punt(PuntReason::Local)) };
    if let Some(object) = context.stats.object(service.counter) {
        object.matched.count(len);
    }
    let Some(backend) = service.pick(key) else { return Err(Fate::Drop(DropReason::NoBackend)) };
    if let Some(object) = context.stats.object(backend.counter) {
        object.matched.count(len);
    }
    let new = NewSession {
        key: *key,
        backend: backend.address,
        backend_port: backend.port.unwrap_or(key.dport),
        flags: if head.has_ports() { head.flags_or_type } else { 0 },
        place: (place, head.vlan),
        now: context.now,
    };
    let hit = context.sessions.create(&new).map_err(|refused| {
        Fate::Drop(match refused {
            Refused::Conflict => DropReason::NatConflict,
            Refused::Full => DropReason::SessionTableFull,
        })
    })?;
    context.stats.sessions_created.add(1);
    if let Some(session) = context.sessions.get_mut(hit) {
        decide(session, service, rule_counter, rule_mark);
        session.generation = context.generation;
        columns.verdict[lane] = Verdict { policer: session.policer, mark: session.mark, rewrite: Rewrite::Destination };
    }
    (columns.target[lane], columns.port[lane]) = (new.backend, new.backend_port);
    Ok(())
}

#[cold]
fn count_denied(context: &Context<'_>, rule: u32, len: usize) {
    if let Some(object) = context.snapshot.rules.get(rule).and_then(|r| context.stats.object(r.counter)) {
        object.matched.count(len);
    }
}
