//! What ends in XDP ends in the engine, too: for the same reason, under the same rule. Histories as the engine's own comparison has them run through
//! its reference, and each frame through the program with the same tables before.

use std::collections::BTreeMap;

use marchproxy_engine::packet::describe;
use marchproxy_engine::reason::DropReason;
use marchproxy_engine::reference::{Choices, Fate, Reference};
use marchproxy_engine::tables::{RuleAction, RuleTables, ServiceMode};
use marchproxy_engine::testkit::port_mac;
use marchproxy_xdp::{OnDaemonLoss, PortFacts, Steering, Xdp};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::generators::answers::{again, answer};
use crate::generators::pools::PORTS;
use crate::generators::steps::{Event, Incoming, Step, histories};
use crate::generators::tables::{Model, models};
use crate::support::{publish, xdp};

/// Frames that may still be answered or come again.
const REMEMBERED: usize = 24;
/// `MARCHPROXY_XDP_CASES` runs more of them.
const CASES: u32 = 60;

struct Twins<'a> {
    xdp: &'a Xdp,
    ports: &'a [Steering],
    model: Model,
    reference: Reference,
    now: u64,
    sent: Vec<(usize, Vec<u8>)>,
    heard: Vec<(usize, Vec<u8>)>,
    /// Frames that ended in XDP, by reason, so far and in all cases.
    ended: &'a mut BTreeMap<&'static str, u64>,
}

/// Full NAT's ports are the pipeline's choice, and there is none here. And every other permission is a denial, as denials are what XDP decides.
fn tables(model: &Model) -> RuleTables {
    let mut tables = model.tables();
    for rule in tables.rules.iter_mut().skip(1).step_by(2).filter(|rule| rule.action == RuleAction::Permit) {
        rule.action = RuleAction::Deny;
    }
    for service in tables.services.iter_mut().filter(|service| service.mode == ServiceMode::FullNat) {
        service.mode = ServiceMode::Nat;
        service.source_pool.clear();
    }
    tables
}

impl Twins<'_> {
    fn publish(&self) {
        let tables = self.reference.tables();
        let facts: Vec<PortFacts> =
            (0..PORTS.len()).map(|port| PortFacts::new(tables, port, port_mac(port), &[])).collect();
        let ports: Vec<_> = self.ports.iter().zip(&facts).enumerate().map(|(n, (s, f))| (n, s, f)).collect();
        publish(self.xdp, tables, &[], &ports);
    }

    fn step(&mut self, step: Step) {
        self.now += step.pause;
        match step.event {
            Event::Push(change) => {
                self.model.apply(change);
                self.reference.replace(tables(&self.model));
                self.publish();
            }
            Event::Receive(incoming) => {
                for incoming in incoming {
                    if let Some((port, frame)) = self.arrival(incoming) {
                        self.heard.push((port, frame.clone()));
                        self.receive(port, &frame);
                    }
                }
            }
            Event::Flood(arrival, _) => self.receive(arrival.port, &arrival.frame),
            // Links decide only between several next hops, and those are the engine's.
            Event::Storm(_) | Event::Health(..) | Event::Anew(_) | Event::Links(_) | Event::Wait => {}
        }
        self.reference.tick(self.now);
        for frames in [&mut self.sent, &mut self.heard] {
            let old = frames.len().saturating_sub(REMEMBERED);
            frames.drain(..old);
        }
    }

    fn arrival(&self, incoming: Incoming) -> Option<(usize, Vec<u8>)> {
        match incoming {
            Incoming::Fresh(arrival) => Some((arrival.port, arrival.frame)),
            Incoming::Answer { to, station, flags } => {
                let (port, frame) = self.sent.get(to.index(self.sent.len().max(1)))?;
                Some((*port, answer(frame, station, flags)?))
            }
            Incoming::Complaint { about, complaint } => {
                let (port, frame) = self.sent.get(about.index(self.sent.len().max(1)))?;
                Some((*port, complaint.about(frame)?.0))
            }
            Incoming::Again { what, flags } => {
                let (port, frame) = self.heard.get(what.index(self.heard.len().max(1)))?;
                Some((*port, again(frame, flags)))
            }
        }
    }

    fn receive(&mut self, port: usize, frame: &[u8]) {
        let outcome = self.reference.process(self.now, port, frame, Choices::default());
        self.sent.extend(outcome.transmitted.iter().cloned());
        // The kernel tests no frame that is shorter than its Ethernet header.
        if frame.len() < 14 {
            return;
        }
        let steering = &self.ports[port];
        let (before, rules) = (steering.drops().unwrap(), self.xdp.rules().unwrap());
        if steering.test_run(frame, 1).unwrap().verdict != 1 {
            return;
        }
        let after = steering.drops().unwrap();
        let reasons: Vec<DropReason> =
            after.into_iter().filter(|drop| !before.contains(drop)).map(|(reason, _, _)| reason).collect();
        let what = || format!("port {port}, {}\n{:#?}", describe(frame), self.reference.tables());
        assert_eq!(reasons.len(), 1, "one reason for {}", what());
        assert_eq!(outcome.fate(), Some(Fate::Dropped(reasons[0])), "{}", what());
        let mut counted: Vec<String> = self
            .xdp
            .rules()
            .unwrap()
            .into_iter()
            .filter(|(name, n)| rules.get(name) != Some(n))
            .map(|(name, _)| name)
            .collect();
        counted.sort_unstable();
        assert_eq!(outcome.counted, counted, "{}", what());
        let kind = if counted.is_empty() && reasons[0] == DropReason::RuleDeny {
            "no rule matched"
        } else {
            reasons[0].label()
        };
        *self.ended.entry(kind).or_default() += 1;
    }
}

#[test]
fn what_ends_here_would_end_in_the_engine() {
    let Some(xdp) = xdp() else { return };
    let ports: Vec<Steering> = PORTS.iter().map(|_| Steering::detached(&xdp, 1, OnDaemonLoss::Pass).unwrap()).collect();
    let mut ended = BTreeMap::new();
    let config = Config { failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let cases = std::env::var("MARCHPROXY_XDP_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES);
    for _ in 0..cases {
        let (model, steps) = (models(), histories(60, 8)).new_tree(&mut runner).unwrap().current();
        let macs = (0..PORTS.len()).map(port_mac).collect();
        let reference = Reference::new(tables(&model), macs);
        let (sent, heard) = (Vec::new(), Vec::new());
        let mut twins =
            Twins { xdp: &xdp, ports: &ports, model, reference, now: 1_000_000_000, sent, heard, ended: &mut ended };
        twins.publish();
        for step in steps {
            twins.step(step);
        }
    }
    eprintln!("ended in XDP: {ended:?}");
    for kind in
        ["rule_deny", "no rule matched", "martian_source", "martian_destination", "l4_malformed", "ip_malformed"]
    {
        assert!(ended.contains_key(kind), "{kind} was never met: {ended:?}");
    }
}
