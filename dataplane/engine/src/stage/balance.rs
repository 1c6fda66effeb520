//! balance: applies sessions and rules, and gives new flows of services a backend (`BEHAVIOUR.md` 5 to 7), strictly in lane order.
//!
//! Reads `head`, `key`, `hit`, `rule`. Writes `verdict`, `target`, `port`. Ends lanes that a rule denies or that get no
//! session.

use crate::burst::{Burst, Columns, Fate, NO_MARK, NONE, Rewrite, Verdict};
use crate::flow::FlowKey;
use crate::io::PacketBuf;
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::Snapshot;
use crate::stage::{related, rule};
use crate::stats::ThreadStats;
use crate::table::rules::RuleKey;
use crate::table::services::{Backend, Service};
use crate::table::sessions::{Decision, Hit, NewSession, Refused, Sessions};
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
    if context.snapshot.only_routes() && context.sessions.is_empty() {
        burst.columns.verdict.fill(Verdict::default());
        return;
    }
    let looked_up = context.sessions.changes();
    let (place, errors) = (burst.port, burst.errors);
    for lane in burst.active.lanes() {
        if errors.contains(lane) && related::process(burst, lane, context) {
            continue;
        }
        let index = lane.index();
        let columns = &mut *burst.columns;
        let mut judged = true;
        if context.sessions.changes() != looked_up && columns.head[index].has_session() {
            // An earlier packet of the burst made or ended a session: the look-up may no longer hold.
            let before = columns.hit[index];
            columns.hit[index] = look_up_again(before, &columns.key[index], context);
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
        let judged = !columns.verdict[index].is_default();
        burst.judged.insert_if(lane, judged);
        if let Err(fate) = outcome {
            burst.settle(lane, fate);
        }
    }
}

/// What a look-up finds now. Most hits still hold, and most misses still are of addresses without a session.
fn look_up_again(before: Hit, key: &FlowKey, context: &Context<'_>) -> Hit {
    if context.sessions.holds(before, key) {
        return before;
    }
    let (hash, known) = context.sessions.hash_known(key);
    if known { context.sessions.find(key, hash, context.now) } else { Hit::MISS }
}

/// How a session was applied.
pub(super) enum Applied {
    /// The session decided.
    Done,
    /// A rule of this generation denies it; the session ended.
    Denied,
    /// Its service is gone; the session ended and the packet stands alone.
    Gone,
}

#[inline]
fn apply_session(hit: Hit, columns: &mut Columns, lane: usize, context: &mut Context<'_>) -> Applied {
    let head = &columns.head[lane];
    let Some(mut decision) = context.sessions.decision(hit.entry()) else { return Applied::Gone };
    if decision.generation != context.generation {
        match redecide(hit, head.has_ports(), context) {
            Ok(()) => {}
            Err(ended) => return ended,
        }
        let Some(anew) = context.sessions.decision(hit.entry()) else { return Applied::Gone };
        decision = anew;
    }
    let len = usize::from(head.l3_len);
    for counter in [decision.rule, decision.service, decision.backend] {
        if let Some(object) = context.stats.object(counter) {
            object.matched.count(len);
        }
    }
    // Which direction comes next nobody can predict, so nothing here branches on it: the policer of a reply becomes NONE, all ones.
    let direction = hit.direction();
    const { assert!(NONE == u32::MAX) };
    let policer = decision.policer | (direction as u32).wrapping_neg();
    let rewrite = [Rewrite::Destination, Rewrite::Source][direction as usize];
    columns.verdict[lane] = Verdict { policer, mark: decision.mark, rewrite };
    if let Some(session) = context.sessions.get(hit) {
        (columns.target[lane], columns.port[lane]) = session.target(direction);
    }
    context.sessions.touch(hit, context.now, head.flags_or_type);
    Applied::Done
}

/// What is decided about a session under this generation, without a packet of it having passed.
#[cold]
pub(super) fn current_decision(hit: Hit, has_ports: bool, context: &mut Context<'_>) -> Result<Decision, Applied> {
    if context.sessions.decision(hit.entry()).is_none_or(|d| d.generation != context.generation) {
        redecide(hit, has_ports, context)?;
    }
    context.sessions.decision(hit.entry()).copied().ok_or(Applied::Gone)
}

/// First touch after a push: rules and service anew, binding kept. `Err` when the session ends.
#[cold]
fn redecide(hit: Hit, has_ports: bool, context: &mut Context<'_>) -> Result<(), Applied> {
    let decided = decide_again(hit, has_ports, context);
    match &decided {
        Ok(decision) => context.sessions.decide(hit, decision),
        Err(_) => context.sessions.remove(hit),
    }
    decided.map(|_| ())
}

fn decide_again(hit: Hit, has_ports: bool, context: &Context<'_>) -> Result<Decision, Applied> {
    let (snapshot, sessions) = (context.snapshot, &*context.sessions);
    let (Some(session), Some(origin)) = (sessions.get(hit), sessions.origin(hit.entry())) else {
        return Err(Applied::Gone);
    };
    let interface = snapshot.interface_at(origin.client_place(), origin.client_vlan).unwrap_or(NONE);
    let key = RuleKey { flow: session.forward_key(), has_ports, interface };
    let rule = snapshot.rules.first_match(&key).unwrap_or(NONE);
    let rule = permitted(snapshot, rule, context.stats).ok_or(Applied::Denied)?;
    let service = snapshot.services.lookup(session.service(), session.protocol(), session.service_port());
    let service = service.ok_or(Applied::Gone)?;
    let backend = service.backend_at(session.backend(), session.backend_port(), session.service_port());
    Ok(decide(context.generation, service, backend, rule))
}

fn decide(generation: u64, service: &Service, backend: Option<&Backend>, (rule, mark): (u32, Option<u8>)) -> Decision {
    Decision {
        generation,
        rule,
        service: service.counter,
        backend: backend.map_or(NONE, |b| b.counter),
        policer: service.policer.unwrap_or(NONE),
        mark: mark.or(service.mark).unwrap_or(NO_MARK),
        ..Decision::default()
    }
}

/// The counter and mark of the rule that permits, or `None` when the packet is denied (and counted as such).
#[inline]
pub(super) fn permitted(snapshot: &Snapshot, rule: u32, stats: &ThreadStats) -> Option<(u32, Option<u8>)> {
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
        decision: decide(context.generation, service, Some(backend), (rule_counter, rule_mark)),
    };
    context.sessions.create(&new).map_err(|refused| {
        Fate::Drop(match refused {
            Refused::Conflict => DropReason::NatConflict,
            Refused::Full => DropReason::SessionTableFull,
        })
    })?;
    context.stats.sessions_created.add(1);
    let Decision { policer, mark, .. } = new.decision;
    columns.verdict[lane] = Verdict { policer, mark, rewrite: Rewrite::Destination };
    (columns.target[lane], columns.port[lane]) = (new.backend, new.backend_port);
    Ok(())
}

#[cold]
pub(super) fn count_denied(context: &Context<'_>, rule: u32, len: usize) {
    if let Some(object) = context.snapshot.rules.get(rule).and_then(|r| context.stats.object(r.counter)) {
        object.matched.count(len);
    }
}
