//! The pipeline does what the reference does: byte for byte, fate for fate, state for state.
#![allow(clippy::unwrap_used, reason = "tests")]

mod generators;

use std::collections::BTreeMap;
use std::net::IpAddr;

use generators::answers::{again, answer, ends, is_announcement};
use generators::packets::passing;
use generators::pools::PORTS;
use generators::steps::{Event, Incoming, Step, histories};
use generators::tables::{Change, Model, models, plain_routers};
use marchproxy_engine::burst::BURST;
use marchproxy_engine::flow::{FlowKey, to_ip};
use marchproxy_engine::packet::{SYN, describe};
use marchproxy_engine::reason::{ConsumeReason, DropReason, SessionEnd};
use marchproxy_engine::reference::{Arrival, Choices, Outcome, Reference, Tuple};
use marchproxy_engine::snapshot::ObjectKind;
use marchproxy_engine::table::sessions::{FlowSettings, Flows};
use marchproxy_engine::tables::{RuleAction, ServiceMode};
use marchproxy_engine::testkit::{Node, Size, port_mac};
use marchproxy_engine::worker::Command;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::{FileFailurePersistence, TestCaseResult, TestRunner};

/// Frames that may still be answered or come again.
const REMEMBERED: usize = 24;

/// Adds what one more call did.
fn add(sum: &mut Outcome, more: Outcome) {
    sum.fates.extend(more.fates);
    sum.transmitted.extend(more.transmitted);
    sum.originated += more.originated;
    sum.dropped.extend(more.dropped);
    sum.consumed.extend(more.consumed);
    sum.counted.extend(more.counted);
    sum.sampled.extend(more.sampled);
    sum.objections.extend(more.objections);
}

/// Both implementations, fed the same.
struct Twins {
    model: Model,
    node: Node,
    reference: Reference,
    now: u64,
    /// Reference's side of the counters.
    drops: [u64; DropReason::COUNT],
    consumed: [u64; ConsumeReason::COUNT],
    originated: u64,
    /// Packets under each rule before the step.
    counted: BTreeMap<String, u64>,
    samples: u64,
    resets: u64,
    /// Packets that a rule with a way counted, sessions that a new-only rule spared, as often as looked.
    detours: u64,
    spared: u64,
    recent: Vec<(usize, Vec<u8>)>,
    /// Frames that may come again.
    heard: Vec<(usize, Vec<u8>)>,
    /// What happened so far, for people.
    story: Vec<String>,
}

impl Twins {
    fn new(model: Model, size: Size) -> Self {
        let tables = model.tables();
        let mut node = Node::with_size(&tables, Size { announcing: true, ..size }).unwrap();
        let macs = (0..PORTS.len()).map(port_mac).collect();
        let reference = Reference::new(tables, macs).announcing();
        // Half of the nodes tell of their sessions, most of which find no room: nobody may notice.
        if node.publisher.current().services.iter().count().is_multiple_of(2) {
            let settings = FlowSettings { one_of: 1, active_timeout: 1_000_000_000, nat_events: true };
            let (records, _) = rtrb::RingBuffer::new(4);
            let flows = Flows::new(node.worker.pipeline().sessions.capacity(), settings, records);
            node.commands.push(Command::Flows(Some(flows))).unwrap();
        }
        // Takes up the ports, of which there are fewer than turns.
        for _ in PORTS {
            node.worker.turn(0);
        }
        let mut twins = Self {
            model,
            node,
            reference,
            now: 1_000_000_000,
            drops: [0; DropReason::COUNT],
            consumed: [0; ConsumeReason::COUNT],
            originated: 0,
            counted: BTreeMap::new(),
            samples: 0,
            resets: 0,
            detours: 0,
            spared: 0,
            recent: Vec::new(),
            heard: Vec::new(),
            story: Vec::new(),
        };
        twins.counted = twins.rule_counts();
        twins.turn();
        let first = twins.reference.tick(twins.now);
        twins.compare(&first).unwrap_or_else(|failure| panic!("{failure}"));
        twins
    }

    fn step(&mut self, step: Step) -> TestCaseResult {
        self.now += step.pause;
        let mut expected = match step.event {
            Event::Wait => {
                self.story.push(format!("{}: wait", self.now));
                self.turn();
                Outcome::default()
            }
            Event::Health(service, out) => {
                let services = self.reference.tables().services.clone();
                if let Some(service) = services.get(service.index(services.len().max(1)))
                    && service.health.is_some()
                {
                    let is_out = |&(n, _): &(usize, _)| out >> n & 1 == 1;
                    let all = service.backends.iter().enumerate().filter(is_out);
                    let out: Vec<&str> = all.map(|(_, backend)| backend.name.as_str()).collect();
                    self.leave_out(&service.name, &out);
                }
                self.turn();
                Outcome::default()
            }
            Event::Anew(which) => {
                let arrival = self.begins_anew(which);
                self.turn();
                self.receive(arrival.as_slice())
            }
            Event::Links(down) => {
                let down: Vec<&str> =
                    PORTS.iter().enumerate().filter(|(n, _)| down >> n & 1 == 1).map(|(_, port)| *port).collect();
                self.story.push(format!("{}: links of {down:?} are down", self.now));
                self.node.set_links_down(&down);
                self.reference.set_links_down(&down);
                self.turn();
                Outcome::default()
            }
            Event::Push(change) => {
                self.model.apply(change);
                let tables = self.model.tables();
                self.story.push(format!("{}: push {tables:#?}", self.now));
                self.node.push(&tables).unwrap();
                self.turn();
                // A slot may have gone to another rule.
                self.counted = self.rule_counts();
                self.reference.replace(tables)
            }
            Event::Receive(incoming) => {
                let mut arrivals: Vec<_> = incoming.into_iter().filter_map(|i| self.arrival(i)).collect();
                // The worker polls its ports in order.
                arrivals.sort_by_key(|(port, _)| *port);
                self.heard.extend(arrivals.iter().cloned());
                self.receive(&arrivals)
            }
            Event::Flood(arrival, times) => self.receive(&vec![(arrival.port, arrival.frame); times]),
            Event::Storm(arrivals) => {
                self.receive(&arrivals.into_iter().map(|a| (a.port, a.frame)).collect::<Vec<_>>())
            }
        };
        add(&mut expected, self.reference.tick(self.now));
        self.compare(&expected)
    }

    fn leave_out(&mut self, service: &str, out: &[&str]) {
        self.story.push(format!("{}: of service {service} are out {out:?}", self.now));
        self.node.leave_out(service, out);
        self.reference.leave_out(service, out);
        self.node.republish();
        self.reference.republish();
    }

    /// Takes a session's backend out of service, where that is checked; a SYN of its client, if one of its frames was heard not long ago.
    fn begins_anew(&mut self, which: Index) -> Option<(usize, Vec<u8>)> {
        let sessions: Vec<_> = self.reference.sessions(self.now).filter(|s| s.forward.protocol == 6).cloned().collect();
        let session = sessions.get(which.index(sessions.len().max(1)))?;
        let (client, address) = (session.forward.src, session.forward.dst);
        let services = self.reference.tables().services.clone();
        if let Some(service) = services.iter().find(|s| s.health.is_some() && s.addresses.contains(&address)) {
            let out = service.backends.iter().filter(|backend| backend.address == session.backend().0);
            self.leave_out(&service.name, &out.map(|backend| backend.name.as_str()).collect::<Vec<_>>());
        }
        let (port, frame) = self.heard.iter().rfind(|(_, frame)| ends(frame) == Some([client, address]))?;
        Some((*port, again(frame, SYN)))
    }

    fn arrival(&self, incoming: Incoming) -> Option<(usize, Vec<u8>)> {
        match incoming {
            Incoming::Fresh(arrival) => Some((arrival.port, arrival.frame)),
            Incoming::Answer { to, station, flags } => {
                let (port, frame) = self.recent.get(to.index(self.recent.len().max(1)))?;
                Some((*port, answer(frame, station, flags)?))
            }
            Incoming::Complaint { about, complaint } => {
                let all = self.recent.iter().filter_map(|(port, frame)| Some((*port, complaint.about(frame)?)));
                let (of_sessions, others): (Vec<_>, Vec<_>) = all.partition(|(_, (_, ends))| self.is_of_session(*ends));
                // Most frames are of no session.
                let all = if of_sessions.is_empty() { others } else { of_sessions };
                let (port, (error, _)) = all.get(about.index(all.len().max(1)))?;
                Some((*port, error.clone()))
            }
            Incoming::Again { what, flags } => {
                let (port, frame) = self.heard.get(what.index(self.heard.len().max(1)))?;
                Some((*port, again(frame, flags)))
            }
        }
    }

    /// Whether there is a session with packets from the one to the other.
    fn is_of_session(&self, [src, dst]: [IpAddr; 2]) -> bool {
        let sessions = self.reference.sessions(self.now);
        sessions.into_iter().any(|s| [&s.forward, &s.reverse].iter().any(|tuple| [tuple.dst, tuple.src] == [src, dst]))
    }

    /// Frames in bursts of at most [`BURST`] per port: a turn of the worker, then one of the slow path.
    fn receive(&mut self, arrivals: &[(usize, Vec<u8>)]) -> Outcome {
        let mut expected = Outcome::default();
        // Time passes also where there was nothing to answer.
        self.settle();
        add(&mut expected, self.reference.tick(self.now));
        for burst in arrivals.chunks(BURST) {
            for (port, frame) in burst {
                self.story.push(format!("{}: {} < {}", self.now, PORTS[*port], describe(frame)));
                self.node.receive(PORTS[*port], frame);
            }
            let refused = self.node.drops(DropReason::SessionTableFull);
            let before = self.evictions();
            self.turn();
            let session_refused = self.node.drops(DropReason::SessionTableFull) > refused;
            let evicted = (self.evictions() > before).then(|| self.victim()).flatten();
            let burst: Vec<_> = burst
                .iter()
                .map(|(port, frame)| {
                    let choices = Choices { session_refused, evicted, ..Choices::default() };
                    Arrival { port: *port, frame, choices }
                })
                .collect();
            self.reference.expect_sources(self.nat_sources());
            add(&mut expected, self.reference.burst(self.now, &burst));
            add(&mut expected, self.reference.tick(self.now));
        }
        expected
    }

    /// What backends see in place of the clients of sessions, whatever began them.
    fn nat_sources(&self) -> Vec<(Tuple, (IpAddr, u16))> {
        if self.reference.tables().services.iter().all(|s| s.mode != ServiceMode::FullNat) {
            return Vec::new();
        }
        let sessions = &self.node.worker.pipeline().sessions;
        let live = (0..sessions.capacity()).filter_map(|entry| {
            let session = sessions.at(entry).filter(|s| s.is_used() && !s.expired(self.now))?;
            let (source, key) = (sessions.source(entry)?, session.forward_key());
            let FlowKey { protocol, sport, dport, .. } = key;
            let forward = Tuple { src: to_ip(key.src), dst: to_ip(key.dst), protocol, sport, dport };
            Some((forward, (to_ip(source.address), source.port)))
        });
        live.collect()
    }

    /// Turns until the search for idle sessions has been everywhere: what expired is then gone, and no longer counts for limits.
    fn settle(&mut self) {
        for _ in 0..self.node.worker.pipeline().sessions.capacity().div_ceil(16) + 3 {
            self.turn();
        }
    }

    fn turn(&mut self) {
        // Fragments whose time is up are given up some at a time.
        let mut dropped = None;
        while dropped != Some(self.node.totals().dropped) {
            dropped = Some(self.node.totals().dropped);
            self.node.worker.turn(self.now);
        }
        self.node.slow.turn(self.now);
        // What the slow path sent leaves with the worker's next turns.
        while self.node.worker.turn(self.now).packets > 0 {}
    }

    fn evictions(&self) -> u64 {
        self.node.worker.pipeline().sessions.ended()[SessionEnd::EvictedHalfOpen.index()..].iter().sum()
    }

    fn victim(&self) -> Option<Tuple> {
        let key = self.node.worker.pipeline().sessions.victim()?;
        let (src, dst) = (to_ip(key.src), to_ip(key.dst));
        Some(Tuple { src, dst, protocol: key.protocol, sport: key.sport, dport: key.dport })
    }

    fn compare(&mut self, expected: &Outcome) -> TestCaseResult {
        for (count, reason) in self.drops.iter_mut().zip(DropReason::ALL) {
            *count += expected.dropped.iter().filter(|r| *r == reason).count() as u64;
        }
        for (count, reason) in self.consumed.iter_mut().zip(ConsumeReason::ALL) {
            *count += expected.consumed.iter().filter(|r| *r == reason).count() as u64;
        }
        self.originated += expected.originated;
        if !expected.objections.is_empty() {
            return self.fail(&format!("the pipeline chose what it may not: {:#?}", expected.objections));
        }

        let sent = self.node.sent();
        for (index, name) in PORTS.iter().enumerate() {
            let ours: Vec<_> = sent.iter().filter(|(port, _)| port == name).map(|(_, frame)| frame).collect();
            let theirs: Vec<_> =
                expected.transmitted.iter().filter(|(port, _)| *port == index).map(|(_, f)| f).collect();
            let same = ours.iter().zip(&theirs).take_while(|(ours, theirs)| ours == theirs).count();
            if ours.len() != same || theirs.len() != same {
                let show = |frames: &[&Vec<u8>]| {
                    let next = frames.iter().skip(same).take(3);
                    next.map(|f| format!("{}\n    {f:02x?}", describe(f))).collect::<Vec<_>>().join("\n")
                };
                let (mine, other) = (show(&ours), show(&theirs));
                let counts = format!("{} and {} frames on {name}, {same} the same", ours.len(), theirs.len());
                return self.fail(&format!("{counts}; then the pipeline's\n{mine}\nand the reference's\n{other}"));
            }
        }
        let drops = DropReason::ALL.iter().map(|r| (r.label(), self.node.drops(*r), self.drops[r.index()]));
        let (worker, slow) = (self.node.worker.stats(), self.node.slow.stats());
        let consumed = ConsumeReason::ALL.iter().map(|r| {
            let ours = worker.consumed[r.index()].value() + slow.consumed[r.index()].value();
            (r.label(), ours, self.consumed[r.index()])
        });
        let totals = self.node.totals();
        let terms = [
            ("originated", totals.originated, self.originated),
            ("held", totals.held, self.reference.held() as u64),
            ("residue", totals.residue().unsigned_abs(), 0),
        ];
        let differing: Vec<_> = drops.chain(consumed).chain(terms).filter(|(_, ours, theirs)| ours != theirs).collect();
        if !differing.is_empty() {
            return self.fail(&format!("counter, pipeline, reference: {differing:?}"));
        }
        let (ours, theirs) = self.sessions();
        if ours != theirs {
            return self.fail(&format!("sessions {ours:#?}\nexpected {theirs:#?}"));
        }
        let (ours, theirs) = self.neighbours();
        if ours != theirs {
            return self.fail(&format!("neighbours {ours:#?}\nexpected {theirs:#?}"));
        }
        let counted = self.rule_counts();
        let mut theirs = std::mem::replace(&mut self.counted, counted);
        for name in &expected.counted {
            *theirs.entry(name.clone()).or_default() += 1;
        }
        if self.counted != theirs {
            return self.fail(&format!("packets by rule {:?}\nexpected {theirs:?}", self.counted));
        }
        let ours = std::iter::from_fn(|| self.node.samples.pop().ok());
        let ours: Vec<_> =
            ours.map(|s| (s.rule.to_string(), to_ip(s.key.src), to_ip(s.key.dst), s.key.sport, s.key.dport)).collect();
        let theirs: Vec<_> =
            expected.sampled.iter().map(|(rule, t)| (rule.clone(), t.src, t.dst, t.sport, t.dport)).collect();
        if ours != theirs {
            return self.fail(&format!("samples {ours:#?}\nexpected {theirs:#?}"));
        }
        self.samples += ours.len() as u64;
        let rules = &self.reference.tables().rules;
        let sets_way = |name: &&String| rules.iter().any(|r| r.name == **name && r.way.is_some());
        self.detours += expected.counted.iter().filter(sets_way).count() as u64;
        let undecided = self.reference.sessions(self.now).filter(|s| s.ruled.rule.is_none());
        let current = undecided.filter(|s| s.generation == self.reference.generation());
        if rules.iter().any(|r| r.action != RuleAction::Count) {
            self.spared += current.count() as u64;
        }
        // What is forwarded has another TTL.
        let reset = |frame: &[u8]| describe(frame).contains(" tcp R") && describe(frame).contains(" ttl 64 ");
        self.resets += expected.transmitted.iter().filter(|(_, frame)| reset(frame)).count() as u64;
        self.recent.extend(expected.transmitted.iter().filter(|(_, frame)| !is_announcement(frame)).cloned());
        self.heard.drain(..self.heard.len().saturating_sub(REMEMBERED));
        self.recent.drain(..self.recent.len().saturating_sub(REMEMBERED));
        Ok(())
    }

    fn rule_counts(&self) -> BTreeMap<String, u64> {
        let objects = self.node.publisher.current().objects();
        let rules = objects.filter(|(kind, ..)| *kind == ObjectKind::Rule);
        let packets = |slot| self.node.worker.stats().object(slot).map_or(0, |o| o.matched.packets.value());
        rules.map(|(_, name, slot)| (name, packets(slot))).collect()
    }

    fn sessions(&self) -> (Vec<String>, Vec<String>) {
        let table = &self.node.worker.pipeline().sessions;
        let mut ours: Vec<String> = (0..table.capacity())
            .filter_map(|at| Some((table.at(at).filter(|s| !s.expired(self.now))?, table.reverse_key(at)?)))
            .map(|(s, reverse)| {
                let [forward, reverse] = [s.forward_key(), reverse]
                    .map(|k| format!("{} {} > {} {} ({})", to_ip(k.src), k.sport, to_ip(k.dst), k.dport, k.protocol));
                format!("{forward} | {reverse} | {:?} seen {}", s.state(), s.last_seen())
            })
            .collect();
        let mut theirs: Vec<String> = self
            .reference
            .sessions(self.now)
            .map(|s| {
                let [forward, reverse] = [s.forward, s.reverse]
                    .map(|k| format!("{} {} > {} {} ({})", k.src, k.sport, k.dst, k.dport, k.protocol));
                format!("{forward} | {reverse} | {:?} seen {}", s.state(), s.last_seen)
            })
            .collect();
        ours.sort_unstable();
        theirs.sort_unstable();
        (ours, theirs)
    }

    fn neighbours(&self) -> (Vec<String>, Vec<String>) {
        let ours = self.node.slow.neighbours().map(|n| {
            format!("{} {} {} {:x?} held {}", n.key.port.index(), n.key.vlan, to_ip(n.key.address), n.mac, n.held)
        });
        let theirs =
            self.reference.neighbours().iter().map(|n| {
                format!("{} {} {} {:x?} held {}", n.port, n.vlan.unwrap_or(0), n.address, n.mac, n.held.len())
            });
        (ours.collect(), theirs.collect())
    }

    fn fail(&self, what: &str) -> TestCaseResult {
        let counted = DropReason::ALL.iter().map(|r| (r.label(), self.node.drops(*r), self.drops[r.index()]));
        let drops: Vec<_> = counted.filter(|(_, ours, theirs)| ours + theirs > 0).collect();
        let what = format!("{what}\ndrops of both {drops:?}");
        let tables = self.reference.tables();
        Err(TestCaseError::fail(format!("{what}\n--- after\n{}\n--- under {tables:#?}", self.story.join("\n"))))
    }
}

/// Failures are kept beside this file.
fn config() -> ProptestConfig {
    let failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("regressions")) as _);
    ProptestConfig { failure_persistence, max_shrink_iters: 4096, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_pipeline_is_the_reference(model in models(), steps in histories(100, 12)) {
        let mut twins = Twins::new(model, Size { sessions: 1024, ..Size::default() });
        for step in steps {
            twins.step(step)?;
        }
    }

    /// A table that is soon full: what is worth less makes room, what does not fit is refused, and everything else goes on.
    #[test]
    fn also_with_a_full_session_table(model in models(), steps in histories(100, 1), sessions in 1usize..5) {
        let mut twins = Twins::new(model, Size { sessions, ..Size::default() });
        for step in steps {
            twins.step(step)?;
        }
    }
}

/// Plain routers take the short way, and it leads to the same.
#[test]
fn also_on_plain_routers() {
    let mut runner = TestRunner::deterministic();
    let burst = prop::collection::vec(passing().prop_map(Incoming::Fresh), 1..12).prop_map(Event::Receive);
    let strategy = (plain_routers(), histories(100, 12), prop::collection::vec(burst, 100));
    let mut express = 0;
    for history in 0..200 {
        let (model, steps, bursts) = strategy.new_tree(&mut runner).unwrap().current();
        let mut twins = Twins::new(model, Size::default());
        // Other routes leave it one, as do all other changes now and then.
        let plain = |step: &Step| !matches!(&step.event, Event::Push(change) if !matches!(change, Change::Routes(_)));
        for (step, event) in steps.into_iter().zip(bursts).filter(|(step, _)| history % 4 == 0 || plain(step)) {
            for step in [step, Step { pause: 0, event }] {
                twins.step(step).unwrap_or_else(|failure| panic!("{failure}"));
            }
        }
        express += twins.node.worker.stats().stages[0].packets.value();
    }
    assert!(express > 1000, "{express} packets");
}

/// The generators are worth something only if they reach every place: all reasons that traffic can cause, all session states.
#[test]
fn every_fate_is_reached() {
    let mut runner = TestRunner::deterministic();
    let mut drops = [0; DropReason::COUNT];
    let mut consumed = [0; ConsumeReason::COUNT];
    let (mut states, mut modes) = (BTreeMap::new(), BTreeMap::new());
    let (mut created, mut translated) = (0, 0);
    let mut reached = [0; 4];
    let mut ended = [0; SessionEnd::COUNT];
    for (burst, sessions) in [(12, 1024), (1, 4), (1, 1)] {
        let strategy = (models(), histories(100, burst));
        for _ in 0..450 {
            let (model, steps) = strategy.new_tree(&mut runner).unwrap().current();
            let mut twins = Twins::new(model, Size { sessions, ..Size::default() });
            for step in steps {
                twins.step(step).unwrap_or_else(|failure| panic!("{failure}"));
                for session in twins.reference.sessions(twins.now) {
                    *states.entry(format!("{:?}", session.state())).or_insert(0) += 1;
                    *modes.entry(session.mode.label()).or_insert(0) += 1;
                }
            }
            let what = [twins.samples, twins.resets, twins.detours, twins.spared];
            reached.iter_mut().zip(what).for_each(|(sum, n)| *sum += n);
            created += twins.node.worker.stats().sessions_created.value();
            translated += twins.node.worker.stats().icmp_errors_translated.value();
            ended.iter_mut().zip(twins.node.worker.pipeline().sessions.ended()).for_each(|(sum, n)| *sum += n);
            drops.iter_mut().zip(twins.drops).for_each(|(sum, n)| *sum += n);
            consumed.iter_mut().zip(twins.consumed).for_each(|(sum, n)| *sum += n);
        }
    }
    // The testkit has no unknown ports, and its queues do not fill.
    let unreachable = |reason| {
        use DropReason as R;
        matches!(
            reason,
            R::PortNotConfigured
                | R::PuntQueueFull
                | R::InjectQueueFull
                | R::HandoffQueueFull
                // 64,512 sessions of one pool address: see the tests of the table and of the reference.
                | R::NatPortsExhausted
                | R::TxQueueFull
                | R::TxPortGone
                | R::NoHeadroom
                | R::FragmentTableFull
                | R::FragmentNoBuffer
                | R::Shutdown
                // No port is shaped here: see the tests of shaped nodes.
                | R::QueueFull
                | R::QueueDeadline
                | R::QueueAqm
        )
    };
    let seen: Vec<_> = DropReason::ALL.iter().map(|r| (r.label(), drops[r.index()])).collect();
    let never: Vec<_> = DropReason::ALL.iter().filter(|r| drops[r.index()] == 0 && !unreachable(**r)).collect();
    assert!(never.is_empty(), "never: {never:?} of {seen:?}");
    // Checks are not what is compared here.
    let never = ConsumeReason::ALL.iter().filter(|r| consumed[r.index()] == 0 && **r != ConsumeReason::Health);
    assert_eq!(never.count(), 0, "{consumed:?}");
    assert_eq!(states.len(), 8, "{states:?}");
    assert!(ended.iter().all(|n| *n > 0), "{ended:?}");
    assert_eq!(modes.len(), 5, "{modes:?}");
    assert!(created > 1000, "{created} sessions in all");
    assert!(translated > 100, "{translated} errors translated");
    assert!(reached.iter().all(|n| *n > 20), "samples, resets, ways, spared sessions: {reached:?}");
}
