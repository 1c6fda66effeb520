//! balance: applies sessions and rules, and gives new flows of services a backend (`BEHAVIOUR.md` 5 to 7), strictly in lane order.
//!
//! Reads `head`, `key`, `hit`, `rule`. Writes `verdict`, `target`, `port`, `way`. Ends lanes that a rule denies or rejects, or that
//! get no session.

use crate::burst::{Burst, Columns, Fate, Mask, NO_MARK, NONE, Rewrite, Verdict};
use crate::class::Choice;
use crate::flow::{Addr, FlowKey};
use crate::io::PacketBuf;
use crate::reason::{DropReason, LookupResult, PuntReason, SessionEnd};
use crate::sampling::Sampling;
use crate::snapshot::Snapshot;
use crate::stage::parse::Head;
use crate::stage::{related, rule};
use crate::stats::ThreadStats;
use crate::table::rules::{Rule, RuleKey};
use crate::table::services::{Backend, Service};
use crate::table::sessions::{
    Admission, Decision, Direction, Hit, MODE, MODE_BITS, NewSession, Refused, ServiceLimits, Sessions, tcp,
};
use crate::tables::{BackendLoss, Class, RuleAction, ServiceMode};
use crate::wire::{TCP, UDP};

/// What the stage works on besides the burst.
pub struct Context<'a> {
    /// The generation in force.
    pub snapshot: &'a Snapshot,
    /// Its number.
    pub generation: u64,
    /// The worker's sessions.
    pub sessions: &'a mut Sessions,
    /// The worker's counters of samples.
    pub sampling: &'a mut Sampling,
    /// The worker's counters.
    pub stats: &'a ThreadStats,
    /// Nanoseconds.
    pub now: u64,
    /// Packets of sessions so far, by direction.
    pub hits: [u32; 2],
    /// Lanes whose session ended with their service, so that they may have a new one.
    pub anew: Mask,
}

/// Runs the stage.
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, context: &mut Context<'_>) {
    if context.snapshot.only_routes() && context.sessions.is_empty() {
        burst.columns.verdict.fill(Verdict::default());
        return;
    }
    let looked_up = context.sessions.changes();
    let (place, errors) = (burst.port, burst.errors);
    if context.snapshot.diverts() {
        burst.columns.way.fill(NONE);
    }
    for lane in burst.active.lanes() {
        if errors.contains(lane) && related::process(burst, lane, context) {
            burst.columns.service[lane.index()] = NONE;
            continue;
        }
        let index = lane.index();
        let (packets, columns) = burst.parts();
        let packet = packets.get(index);
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
                Applied::Refused(fate) => Err(fate),
                Applied::Gone => {
                    context.anew.insert(lane);
                    columns.rule[index] =
                        rule::classify(context.snapshot, &columns.head[index], &columns.key[index], packet);
                    judge(columns, index, packet, context, place)
                }
            }
        } else {
            if !judged {
                columns.rule[index] =
                    rule::classify(context.snapshot, &columns.head[index], &columns.key[index], packet);
            }
            judge(columns, index, packet, context, place)
        };
        let judged = !columns.verdict[index].is_default();
        burst.judged.insert_if(lane, judged);
        if let Err(fate) = outcome {
            burst.settle(lane, fate);
        }
    }
    for (result, hits) in [LookupResult::HitForward, LookupResult::HitReverse].into_iter().zip(context.hits) {
        context.stats.lookups[result.index()].add(u64::from(hits));
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
    /// A rule of this generation denies or rejects it; the session ended.
    Refused(Fate),
    /// Its service, or what the service wants of it, is gone; the session ended and the packet stands alone.
    Gone,
}

#[inline]
fn apply_session(hit: Hit, columns: &mut Columns, lane: usize, context: &mut Context<'_>) -> Applied {
    let Some(mut decision) = context.sessions.decision(hit.entry()) else { return Applied::Gone };
    if decision.generation != context.generation {
        match redecide(hit, columns, lane, context) {
            Ok(()) => {}
            Err(ended) => return ended,
        }
        let Some(anew) = context.sessions.decision(hit.entry()) else { return Applied::Gone };
        decision = anew;
    }
    let head = &columns.head[lane];
    if tcp::begins(head.flags_or_type) && begins_elsewhere(hit, decision.mode(), context) {
        context.sessions.remove(hit, SessionEnd::BackendLost);
        return Applied::Gone;
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
    let more = (decision.more != NONE) | (decision.counting != 0);
    let mode = decision.mode & MODE;
    let is_nat = mode == ServiceMode::Nat as u8;
    let rewrite =
        if is_nat { [Rewrite::Destination, Rewrite::Source][direction as usize] } else { decision.mode().into() };
    columns.verdict[lane] = Verdict { policer, mark: decision.mark, rewrite, colour: None, class: decision.class() };
    columns.service[lane] = decision.service;
    if let Some(session) = context.sessions.get(hit) {
        (columns.target[lane], columns.port[lane]) = session.target(direction);
    }
    let flags = head.flags_or_type;
    if is_nat {
        context.sessions.touch(hit, context.now, flags);
    } else {
        unusual(mode, hit, columns, lane, context);
    }
    context.hits[direction as usize] += 1;
    if more && let Some(&Decision { more, counting, .. }) = context.sessions.decision(hit.entry()) {
        do_more(more, counting, direction == Direction::Forward, columns, lane, context);
    }
    Applied::Done
}

/// Whether a client that asks for a new connection has to get another backend than its session's, which takes none now.
#[cold]
fn begins_elsewhere(hit: Hit, mode: ServiceMode, context: &Context<'_>) -> bool {
    let Some(session) = context.sessions.get(hit) else { return false };
    if hit.direction() != Direction::Forward || !session.is_vacant(mode) {
        return false;
    }
    let service = context.snapshot.services.lookup(session.service(), session.protocol(), session.service_port());
    let backend = service.and_then(|s| s.backend_at(session.backend(), session.backend_port(), session.service_port()));
    !backend.is_some_and(Backend::is_eligible)
}

/// What few rules ask for besides: count, sample, send another way (`forward`: the client's packets only).
#[cold]
fn do_more(rule: u32, counting: u16, forward: bool, columns: &mut Columns, lane: usize, context: &mut Context<'_>) {
    let (head, key) = (&columns.head[lane], &columns.key[lane]);
    for counted in context.snapshot.rules.counted(counting) {
        if let Some(object) = context.stats.object(counted.counter) {
            object.matched.count(usize::from(head.l3_len));
        }
        sample(counted, head, key, context);
    }
    let Some(rule) = context.snapshot.rules.get(rule) else { return };
    sample(rule, head, key, context);
    if forward {
        columns.way[lane] = rule.way;
    }
}

fn sample(rule: &Rule, head: &Head, key: &FlowKey, context: &mut Context<'_>) {
    if rule.log_sample > 0 {
        context.sampling.count((context.snapshot, context.generation), rule, head, key, context.stats);
    }
}

/// What is decided about a session under this generation, without a packet of it having passed.
#[cold]
pub(super) fn current_decision(
    hit: Hit,
    columns: &mut Columns,
    lane: usize,
    context: &mut Context<'_>,
) -> Result<Decision, Applied> {
    if context.sessions.decision(hit.entry()).is_none_or(|d| d.generation != context.generation) {
        redecide(hit, columns, lane, context)?;
    }
    context.sessions.decision(hit.entry()).copied().ok_or(Applied::Gone)
}

/// What a packet of a session asks for whose service does not simply rewrite one end.
#[inline(never)]
fn unusual(mode: u8, hit: Hit, columns: &mut Columns, lane: usize, context: &mut Context<'_>) {
    let flags = columns.head[lane].flags_or_type;
    if mode != ServiceMode::FullNat as u8 {
        return context.sessions.touch_one_way(hit, context.now, flags);
    }
    context.sessions.touch(hit, context.now, flags);
    let Some([to, from]) = both_ends(context.sessions, hit) else { return };
    (columns.target[lane], columns.port[lane]) = to;
    (columns.source[lane], columns.source_port[lane]) = from;
}

/// What destination and source become of packets of a full NAT's session.
pub(super) fn both_ends(sessions: &Sessions, hit: Hit) -> Option<[(Addr, u16); 2]> {
    let (session, source) = (sessions.get(hit)?, sessions.source(hit.entry())?);
    Some(match hit.direction() {
        Direction::Forward => [session.target(Direction::Forward), (source.address, source.port)],
        Direction::Reverse => [(session.client(), session.client_port()), session.target(Direction::Reverse)],
    })
}

/// First touch after a push: rules and service anew, binding kept. `Err` when the session ends.
#[cold]
fn redecide(hit: Hit, columns: &mut Columns, lane: usize, context: &mut Context<'_>) -> Result<(), Applied> {
    let decided = decide_again(hit, context);
    match &decided {
        Ok(decision) => context.sessions.decide(hit, decision),
        Err(Ended::Refused(..)) => context.sessions.remove(hit, SessionEnd::RuleDeny),
        Err(Ended::Gone) => context.sessions.remove(hit, SessionEnd::ServiceGone),
    }
    decided.map(|_| ()).map_err(|ended| match ended {
        Ended::Gone => Applied::Gone,
        Ended::Refused(rule, counting) => Applied::Refused(refuse(rule, counting, columns, lane, context)),
    })
}

/// Why a session did not outlive a push.
enum Ended {
    /// By this rule, and these count its last packet.
    Refused(u32, u16),
    /// Its service is gone.
    Gone,
}

fn decide_again(hit: Hit, context: &Context<'_>) -> Result<Decision, Ended> {
    let (snapshot, sessions) = (context.snapshot, &*context.sessions);
    let (Some(session), Some(origin)) = (sessions.get(hit), sessions.origin(hit.entry())) else {
        return Err(Ended::Gone);
    };
    let interface = snapshot.interface_at(origin.client_place(), origin.client_vlan).unwrap_or(NONE);
    let (flow, sight) = (session.forward_key(), origin.sight(session.protocol()));
    let key = RuleKey { flow, has_ports: matches!(flow.protocol, TCP | UDP), interface, sight };
    let rule = snapshot.rules.first_match(&key).unwrap_or(NONE);
    let counting = if snapshot.rules.count() { snapshot.rules.counting(&key, rule) } else { 0 };
    let ruled = match permitted(snapshot, rule) {
        Some(ruled) => ruled,
        None if snapshot.rules.get(rule).is_some_and(|rule| rule.new_only) => Ruled::NOTHING,
        None => return Err(Ended::Refused(rule, counting)),
    };
    let service = snapshot.services.lookup(session.service(), session.protocol(), session.service_port());
    let service = service.ok_or(Ended::Gone)?;
    let before = sessions.decision(hit.entry()).map(Decision::mode);
    if service.stateless || before != Some(service.mode) {
        return Err(Ended::Gone);
    }
    let backend = service.backend_at(session.backend(), session.backend_port(), session.service_port());
    if service.on_backend_loss == BackendLoss::Rebalance && backend.is_none_or(Backend::is_lost) {
        return Err(Ended::Gone);
    }
    Ok(decide(context.generation, service, backend, Ruled { counting, ..ruled }))
}

/// What rules say about a packet that may go on.
#[derive(Clone, Copy)]
struct Ruled {
    /// Counter slot of the rule.
    counter: u32,
    mark: Option<u8>,
    policer: u32,
    class: Option<Class>,
    /// See [`Decision::more`].
    more: u32,
    /// See [`Decision::counting`].
    counting: u16,
}

impl Ruled {
    /// No rule says anything.
    const NOTHING: Self = Self { counter: NONE, mark: None, policer: NONE, class: None, more: NONE, counting: 0 };
}

fn decide(generation: u64, service: &Service, backend: Option<&Backend>, ruled: Ruled) -> Decision {
    let Ruled { counter: rule, mark, policer, class, more, counting } = ruled;
    Decision {
        generation,
        rule,
        service: service.counter,
        backend: backend.map_or(NONE, |b| b.counter),
        policer: if policer == NONE { service.policer.unwrap_or(NONE) } else { policer },
        more,
        counting,
        mark: mark.or(service.mark).unwrap_or(NO_MARK),
        mode: service.mode as u8 | Choice::of(class.or(service.class)).code() << MODE_BITS,
        ..Decision::default()
    }
}

/// What the rule that permits says, or `None` when the packet may not go on. Rules that count are not looked at.
#[inline]
fn permitted(snapshot: &Snapshot, index: u32) -> Option<Ruled> {
    if !snapshot.rules.decide() {
        return Some(Ruled::NOTHING);
    }
    // No rule matched: the default at the end of every rule list is deny.
    let rule = snapshot.rules.get(index).filter(|rule| rule.action == RuleAction::Permit)?;
    let Rule { counter, mark, policer, class, .. } = *rule;
    Some(Ruled { counter, mark, policer, class, more: if rule.does_more() { index } else { NONE }, counting: 0 })
}

/// Counts a packet that a rule, or the lack of one, refuses; says what becomes of it.
#[cold]
fn refuse(rule: u32, counting: u16, columns: &mut Columns, lane: usize, context: &mut Context<'_>) -> Fate {
    do_more(rule, counting, false, columns, lane, context);
    let Some(rule) = context.snapshot.rules.get(rule) else { return Fate::Drop(DropReason::RuleDeny) };
    if let Some(object) = context.stats.object(rule.counter) {
        object.matched.count(usize::from(columns.head[lane].l3_len));
        object.dropped.add(1);
    }
    if rule.action == RuleAction::Reject {
        Fate::Punt(PuntReason::RuleReject)
    } else {
        Fate::Drop(DropReason::RuleDeny)
    }
}

/// The rules that count a packet.
#[cold]
fn counting<B: PacketBuf>(columns: &Columns, lane: usize, packet: Option<&B>, context: &Context<'_>) -> u16 {
    let head = &columns.head[lane];
    let key = rule::rule_key(head, &columns.key[lane], rule::sight(head, packet));
    let decided = if context.snapshot.rules.decide() { columns.rule[lane] } else { NONE };
    context.snapshot.rules.counting(&key, decided)
}

/// A packet without a session: rules, then the service's backend or plain forwarding.
fn judge<B: PacketBuf>(
    columns: &mut Columns,
    lane: usize,
    packet: Option<&B>,
    context: &mut Context<'_>,
    place: crate::ports::PortSlot,
) -> Result<(), Fate> {
    let counted = if context.snapshot.rules.count() { counting(columns, lane, packet, context) } else { 0 };
    let Some(mut ruled) = permitted(context.snapshot, columns.rule[lane]) else {
        return Err(refuse(columns.rule[lane], counted, columns, lane, context));
    };
    ruled.counting = counted;
    if (ruled.more != NONE) | (counted != 0) {
        do_more(ruled.more, counted, true, columns, lane, context);
    }
    let (head, key) = (&columns.head[lane], &columns.key[lane]);
    let len = usize::from(head.l3_len);
    if let Some(object) = context.stats.object(ruled.counter) {
        object.matched.count(len);
    }
    let mark = ruled.mark.unwrap_or(NO_MARK);
    columns.verdict[lane] =
        Verdict { mark, policer: ruled.policer, class: Choice::of(ruled.class), ..Verdict::default() };
    columns.service[lane] = NONE;
    if !context.snapshot.services.is_address(key.dst) {
        return Ok(());
    }
    let eligible = head.has_ports() || head.is_echo_request();
    let service = if eligible { context.snapshot.services.lookup(key.dst, key.protocol, key.dport) } else { None };
    count_miss(context.stats, service.is_some(), head, key);
    let Some(service) = service else { return Err(Fate::Punt(PuntReason::Local)) };
    if let Some(object) = context.stats.object(service.counter) {
        object.matched.count(len);
    }
    let Some(backend) = service.pick(key) else { return Err(Fate::Drop(DropReason::NoBackend)) };
    if let Some(object) = context.stats.object(backend.counter) {
        object.matched.count(len);
    }
    let decision = decide(context.generation, service, Some(backend), ruled);
    let Decision { policer, mark, .. } = decision;
    let class = decision.class();
    columns.verdict[lane] = Verdict { policer, mark, rewrite: service.mode.into(), colour: None, class };
    columns.service[lane] = service.counter;
    (columns.target[lane], columns.port[lane]) = (backend.address, backend.port.unwrap_or(key.dport));
    if service.stateless {
        return Ok(());
    }
    let flags = if head.has_ports() { head.flags_or_type } else { 0 };
    let admission = match &service.limits {
        None => Admission::default(),
        Some(limits) => admit(limits, key, flags, service.counter, context)?,
    };
    let mut source = None;
    if service.mode == ServiceMode::FullNat {
        let taken = context.sessions.take_port(key, service.pool(key));
        let taken = taken.ok_or(Fate::Drop(DropReason::NatPortsExhausted))?;
        (columns.source[lane], columns.source_port[lane]) = (taken.address, taken.port);
        source = Some(taken);
    }
    let new = NewSession {
        source,
        key: *key,
        backend: backend.address,
        backend_port: columns.port[lane],
        flags,
        dscp: rule::dscp(head, packet),
        place: (place, head.vlan),
        now: context.now,
        decision,
        admission,
        told: if service.flows { head.l3_len } else { 0 },
    };
    context.sessions.create(&new).map_err(|refused| {
        if let Some(source) = source {
            context.sessions.give_port_back(source, key.protocol);
        }
        Fate::Drop(match refused {
            Refused::Conflict => DropReason::NatConflict,
            Refused::Full => DropReason::SessionTableFull,
        })
    })?;
    context.stats.sessions_created.add(1);
    Ok(())
}

/// Whether the limits of a service let a first packet make its session.
fn admit(
    limits: &ServiceLimits,
    key: &FlowKey,
    flags: u8,
    counter: u32,
    context: &mut Context<'_>,
) -> Result<Admission, Fate> {
    let opens = key.protocol == TCP && flags & (tcp::SYN | tcp::ACK | tcp::FIN | tcp::RST) == tcp::SYN;
    context.sessions.admit(limits, key.src, opens, context.now).map_err(|reason| {
        if let Some(object) = context.stats.object(counter) {
            object.dropped.add(1);
        }
        Fate::Drop(reason)
    })
}

/// Of a packet to a service address.
fn count_miss(stats: &ThreadStats, has_service: bool, head: &Head, key: &FlowKey) {
    let begins = key.protocol != TCP || head.flags_or_type & (tcp::SYN | tcp::ACK) == tcp::SYN;
    let result = match (has_service, begins) {
        (false, _) => LookupResult::MissNoService,
        (true, true) => LookupResult::MissNew,
        (true, false) => LookupResult::MissMidstream,
    };
    stats.lookups[result.index()].add(1);
}
