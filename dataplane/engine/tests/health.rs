//! Health checks against simulated backends, on a clock of their own: what is asked, when a backend is out and back, what that does to
//! new sessions, and that nothing is lost on the way.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::{CLIENT, SERVER, backend, introduce_everybody, ip, service, tables};
use marchproxy_engine::flow::to_ip;
use marchproxy_engine::packet::{Check, Packet, checksums, describe};
use marchproxy_engine::reason::{ConsumeReason, DropReason};
use marchproxy_engine::slow::{HealthInfo, HealthState, Outcome};
use marchproxy_engine::tables::*;
use marchproxy_engine::testkit::{Node, Size, port_mac};
use marchproxy_engine::wire::{be16, be32, be128};

const MS: u64 = 1_000_000;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// What a backend does with what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Answers,
    /// HTTP with this status; TCP as it should be.
    Status(u16),
    /// Takes connections and says this.
    Says(&'static str),
    Silent,
    Refuses,
    /// Answers this many milliseconds late.
    Late(u64),
}

struct Lab {
    node: Node,
    now: u64,
    hosts: BTreeMap<IpAddr, Host>,
    /// Frames on their way to the node, by time.
    flying: Vec<(u64, Vec<u8>)>,
    /// Everything the backends got from the node's own addresses: time, from, to, what.
    got: Vec<(u64, IpAddr, IpAddr, String)>,
    clients: u16,
}

const BACKENDS: [&str; 4] = ["10.0.20.11", "10.0.20.12", "fd00:20::11", "fd00:20::12"];

fn checked(health: HealthSpec) -> RuleTables {
    let mut tables = tables();
    tables.services[0].health = Some(health);
    tables
}

fn quick(kind: HealthKind) -> HealthSpec {
    HealthSpec { kind, interval_ms: 200, timeout_ms: 100, rise: 2, fall: 3, ..HealthSpec::default() }
}

fn http() -> HealthKind {
    HealthKind::Http { path: "/ok".into(), host: String::new(), status: (200, 399) }
}

impl Lab {
    fn new(tables: &RuleTables) -> Self {
        let mut node = Node::new(tables).unwrap().with_checks();
        let now = 1_000_000_000;
        introduce_everybody(&mut node, now);
        let hosts = BACKENDS.iter().map(|address| (ip(address), Host::Answers)).collect();
        Self { node, now, hosts, flying: Vec::new(), got: Vec::new(), clients: 0 }
    }

    fn set(&mut self, address: &str, host: Host) {
        self.hosts.insert(ip(address), host);
    }

    /// Time passes, a millisecond at a time.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += MS;
            let (due, later) = std::mem::take(&mut self.flying).into_iter().partition(|(at, _)| *at <= self.now);
            self.flying = later;
            let due: Vec<(u64, Vec<u8>)> = due;
            for (_, frame) in due {
                self.node.receive("lan", &frame);
            }
            // What answers cause is answered within the same millisecond.
            for _ in 0..8 {
                self.node.run(self.now);
                let sent = self.node.sent();
                for (_, frame) in sent.iter().filter(|(port, _)| port == "lan") {
                    self.answer(frame);
                }
                if sent.is_empty() {
                    break;
                }
            }
            assert_eq!(self.node.totals().residue(), 0);
        }
    }

    /// Runs until `done`, at most `ms`; returns how long it took.
    fn until(&mut self, ms: u64, done: impl Fn(&Lab) -> bool) -> u64 {
        (0..ms)
            .find(|_| {
                let is_done = done(self);
                if !is_done {
                    self.run(1);
                }
                is_done
            })
            .unwrap_or_else(|| panic!("not within {ms} ms: {:?}", self.states()))
    }

    /// What a backend does with a frame from the node.
    fn answer(&mut self, frame: &[u8]) {
        let reply = Packet::eth(SERVER, port_mac(0)).vlan(20);
        let (ethertype, l3) = (be16(frame, 16), &frame[18..]);
        if ethertype == 0x0806 {
            let frame = reply.arp_reply(be32(l3, 24), be32(l3, 14)).build();
            return self.node.receive("lan", &frame);
        }
        let v6 = ethertype == 0x86dd;
        let (src, dst, protocol, l4) = if v6 {
            (IpAddr::from(be128(l3, 8).to_be_bytes()), IpAddr::from(be128(l3, 24).to_be_bytes()), l3[6], &l3[40..])
        } else {
            (
                to_ip(marchproxy_engine::flow::v4(be32(l3, 12))),
                to_ip(marchproxy_engine::flow::v4(be32(l3, 16))),
                l3[9],
                &l3[20..],
            )
        };
        if protocol == 58 && l4[0] == 135 {
            let target = std::net::Ipv6Addr::from(be128(l4, 8));
            let frame =
                reply.ipv6(target, be128(l3, 8)).neighbour_advertisement(target, 0x60).target_link_layer(SERVER);
            return self.node.receive("lan", &frame.build());
        }
        if ![ip("10.0.20.1"), ip("fd00:20::1")].contains(&src) {
            return;
        }
        let sums = checksums(frame);
        assert!(sums.l3 != Check::Bad && sums.l4 == Check::Good, "{}", describe(frame));
        self.got.push((self.now, src, dst, describe(frame)));
        let host = self.hosts[&dst];
        let at = if let Host::Late(ms) = host { self.now + ms * MS } else { self.now };
        let ip_reply = reply.ip(dst, src);
        let answers = match (protocol, host) {
            (_, Host::Silent) => vec![],
            (1 | 58, _) => vec![ip_reply.echo_reply(be16(l4, 4), be16(l4, 6)).payload(&l4[8..])],
            _ => tcp_answers(&ip_reply, l4, host),
        };
        for answer in answers {
            self.flying.push((at, answer.build()));
        }
        let due: Vec<_> = self.flying.extract_if(.., |(at, _)| *at <= self.now).collect();
        for (_, frame) in due {
            self.node.receive("lan", &frame);
        }
    }

    /// How all backends stand, by name.
    fn states(&self) -> BTreeMap<String, (HealthState, bool)> {
        self.node.slow.health().map(|h| (h.backend.to_string(), (h.state, h.out))).collect()
    }

    fn info(&self, backend: &str) -> HealthInfo {
        self.node.slow.health().find(|h| &*h.backend == backend).unwrap()
    }

    fn out(&self, backend: &str) -> bool {
        self.info(backend).out
    }

    /// The backends that new sessions of this many clients get.
    fn backends_of(&mut self, clients: u16, service: &str) -> BTreeMap<IpAddr, usize> {
        let from = if ip(service).is_ipv4() { "192.0.2.7" } else { "2001:db8::7" };
        let mut counts = BTreeMap::new();
        for _ in 0..clients {
            self.clients += 1;
            let packet = Packet::eth(CLIENT, port_mac(1)).ip(ip(from), ip(service)).tcp(self.clients, 80).flags(SYN);
            self.node.receive("wan", &packet.build());
            self.node.worker.turn(self.now);
            self.node.worker.turn(self.now);
            for (_, frame) in self.node.sent().iter().filter(|(port, _)| port == "lan") {
                let l3 = &frame[18..];
                let to = if l3[0] >> 4 == 6 {
                    IpAddr::from(be128(l3, 24).to_be_bytes())
                } else {
                    to_ip(marchproxy_engine::flow::v4(be32(l3, 16)))
                };
                *counts.entry(to).or_insert(0) += 1;
            }
        }
        counts
    }
}

fn tcp_answers(reply: &Packet, l4: &[u8], host: Host) -> Vec<Packet> {
    let (sport, dport, seq, ack, flags) = (be16(l4, 0), be16(l4, 2), be32(l4, 4), be32(l4, 8), l4[13]);
    let data = &l4[usize::from(l4[12] >> 4) * 4..];
    let reply = reply.clone().tcp(dport, sport);
    if flags & RST != 0 {
        return vec![];
    }
    if flags & SYN != 0 {
        return vec![match host {
            Host::Refuses => reply.seq(0, seq.wrapping_add(1)).flags(RST | ACK),
            _ => reply.seq(7000, seq.wrapping_add(1)).flags(SYN | ACK),
        }];
    }
    if data.is_empty() {
        return vec![];
    }
    assert!(data.starts_with(b"GET /ok HTTP/1.0\r\nHost: "), "{:?}", String::from_utf8_lossy(data));
    let text = match host {
        Host::Status(status) => format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n"),
        Host::Says(text) => text.to_owned(),
        _ => "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
    };
    let next = seq.wrapping_add(data.len() as u32);
    // In two pieces, the status line cut.
    let (first, second) = text.split_at(text.len().min(5));
    let piece = |at: usize, text: &str| reply.clone().seq(ack + at as u32, next).flags(ACK | 8).payload(text);
    vec![piece(0, first), piece(5, second)]
}

#[test]
fn all_kinds_find_healthy_backends_healthy() {
    for kind in [HealthKind::Icmp, HealthKind::Tcp, http()] {
        let mut lab = Lab::new(&checked(quick(kind.clone())));
        assert!(lab.states().is_empty() || lab.states().values().all(|s| *s == (HealthState::Unknown, false)));
        lab.run(5000);
        let all = lab.states();
        assert_eq!(all.len(), 4);
        assert!(all.values().all(|s| *s == (HealthState::Up, false)), "{kind:?}: {all:?}");
        for info in lab.node.slow.health() {
            assert!((24..=25).contains(&info.checks), "{kind:?}: {} checks in 25 intervals", info.checks);
            assert_eq!((info.failures, info.last.unwrap().0), (0, Outcome::Good));
            assert!(info.rtt.unwrap() < MS);
        }
        // Each check came from the interface's own address of the family, and TCP was reset.
        let own: Vec<_> = lab.got.iter().map(|(_, from, to, _)| (from.is_ipv4(), to.is_ipv4())).collect();
        assert!(own.iter().all(|(from, to)| from == to));
        assert_eq!(lab.node.drops(DropReason::LocalUnreachable), 0);
        assert!(lab.node.slow.stats().consumed[ConsumeReason::Health.index()].value() >= 96);
        assert!(!lab.node.slow.take_lost());
    }
}

#[test]
fn the_first_checks_do_not_come_at_once() {
    let mut lab = Lab::new(&checked(quick(HealthKind::Icmp)));
    lab.run(200);
    let firsts: std::collections::BTreeSet<u64> = lab.got.iter().map(|(at, ..)| *at).collect();
    assert!(lab.got.len() == 4 && firsts.len() >= 3, "{:?}", lab.got);
}

#[test]
fn what_went_wrong_is_told() {
    let cases = [
        (HealthKind::Icmp, Host::Silent, Outcome::Timeout),
        (HealthKind::Tcp, Host::Silent, Outcome::Timeout),
        (HealthKind::Tcp, Host::Refuses, Outcome::Refused),
        (HealthKind::Tcp, Host::Late(150), Outcome::Timeout),
        (http(), Host::Silent, Outcome::Timeout),
        (http(), Host::Refuses, Outcome::Refused),
        (http(), Host::Status(404), Outcome::Status(404)),
        (http(), Host::Status(199), Outcome::Status(199)),
        (http(), Host::Says("220 mail.example ESMTP\r\n"), Outcome::NoHttp),
    ];
    for (number, (kind, host, outcome)) in cases.into_iter().enumerate() {
        let rebalance = number % 2 == 0;
        let mut tables = checked(quick(kind.clone()));
        for service in tables.services.iter_mut().filter(|_| rebalance) {
            service.on_backend_loss = BackendLoss::Rebalance;
        }
        let mut lab = Lab::new(&tables);
        lab.set("10.0.20.11", host);
        lab.set("fd00:20::11", host);
        lab.run(1000);
        for name in ["a", "c"] {
            let info = lab.info(name);
            assert_eq!(info.last.unwrap().0, outcome, "{kind:?} {host:?}");
            assert_eq!((info.state, info.out), (HealthState::Down, true), "{kind:?} {host:?}");
        }
        assert_eq!(lab.info("b").state, HealthState::Up);
        // Only sessions that may move have to be decided anew.
        assert_eq!(lab.node.slow.take_lost(), rebalance);
    }
}

#[test]
fn a_dead_backend_gets_no_new_session_within_fall_intervals() {
    for (kind, death) in [
        (HealthKind::Icmp, Host::Silent),
        (HealthKind::Tcp, Host::Silent),
        (HealthKind::Tcp, Host::Refuses),
        (http(), Host::Status(503)),
    ] {
        // Whenever between two checks it dies.
        for moment in (0..200).step_by(33) {
            let mut lab = Lab::new(&checked(quick(kind.clone())));
            lab.run(1000 + moment);
            assert!(lab.backends_of(100, "203.0.113.10").contains_key(&ip("10.0.20.11")));
            lab.set("10.0.20.11", death);
            lab.set("fd00:20::12", death);
            let took = lab.until(3 * 200 + 100, |lab| lab.out("a") && lab.out("d"));
            assert!(took <= 3 * 200 + 2, "{kind:?}: {took} ms");
            assert_eq!(lab.backends_of(100, "203.0.113.10"), BTreeMap::from([(ip("10.0.20.12"), 100)]));
            assert_eq!(lab.backends_of(100, "2001:db8:1::10"), BTreeMap::from([(ip("fd00:20::11"), 100)]));
        }
    }
}

#[test]
fn it_comes_back_after_rise_successes() {
    let mut lab = Lab::new(&checked(quick(HealthKind::Tcp)));
    lab.set("10.0.20.11", Host::Silent);
    lab.run(1000);
    assert!(lab.out("a"));
    lab.set("10.0.20.11", Host::Answers);
    let took = lab.until(600, |lab| !lab.out("a"));
    assert!((200..=400).contains(&took), "two checks at an interval of 200 ms: {took} ms");
    assert_eq!(lab.info("a").state, HealthState::Up);
    assert!(lab.backends_of(100, "203.0.113.10")[&ip("10.0.20.11")] > 20);
}

#[test]
fn one_that_flaps_is_held_down_longer_each_time() {
    let mut lab = Lab::new(&checked(quick(HealthKind::Tcp)));
    lab.run(1000);
    let mut away = Vec::new();
    for _ in 0..5 {
        lab.set("10.0.20.11", Host::Refuses);
        lab.until(700, |lab| lab.out("a"));
        lab.set("10.0.20.11", Host::Answers);
        away.push(lab.until(60_000, |lab| !lab.out("a")));
    }
    // rise * interval = 400 ms, doubled each time from the second on.
    for (at, longest) in [(0, 400), (1, 1000), (2, 1800), (3, 3400), (4, 6600)] {
        assert!(away[at] <= longest && away[at] + 400 >= longest - 200, "{away:?}");
    }
    assert_eq!(lab.info("a").flaps, 4);
}

#[test]
fn in_a_panic_all_are_used() {
    let mut lab = Lab::new(&checked(HealthSpec { panic_below_percent: 50, ..quick(HealthKind::Tcp) }));
    lab.run(1000);
    lab.set("10.0.20.11", Host::Silent);
    lab.run(1000);
    assert!(lab.out("a") && !lab.info("a").panic, "half of them is enough");
    lab.set("10.0.20.12", Host::Silent);
    lab.run(1000);
    let states = lab.states();
    assert_eq!((states["a"], states["b"]), ((HealthState::Down, false), (HealthState::Down, false)));
    assert!(lab.info("a").panic && !lab.info("c").panic, "IPv6 backends are a group of their own");
    assert_eq!(lab.backends_of(100, "203.0.113.10").len(), 2);
    lab.set("10.0.20.12", Host::Answers);
    lab.run(1000);
    assert!(lab.out("a") && !lab.out("b"));
}

#[test]
fn without_a_panic_threshold_nobody_is_left() {
    let mut lab = Lab::new(&checked(quick(HealthKind::Icmp)));
    for host in BACKENDS {
        lab.set(host, Host::Silent);
    }
    lab.run(1000);
    assert!(lab.backends_of(10, "203.0.113.10").is_empty());
    assert_eq!(lab.node.drops(DropReason::NoBackend), 10);
}

#[test]
fn only_flows_of_the_lost_backend_move() {
    let backends: Vec<_> = (0..20).map(|n| backend(&format!("b{n:02}"), &format!("10.0.20.{}", 100 + n))).collect();
    let mut tables = checked(quick(HealthKind::Icmp));
    tables.services[0] = ServiceSpec {
        health: Some(quick(HealthKind::Icmp)),
        ..service("web", &["203.0.113.10"], ServiceProtocol::Tcp, backends)
    };
    let node = Node::new(&tables).unwrap();
    let pick = |sport: u16| {
        let key = marchproxy_engine::flow::FlowKey {
            src: marchproxy_engine::flow::v4(0xc000_0207),
            dst: marchproxy_engine::flow::v4(0xcb00_710a),
            protocol: 6,
            sport,
            dport: 80,
        };
        node.publisher.current().services.named("web").unwrap().pick(&key).unwrap().name.clone()
    };
    let before: Vec<_> = (0..5000).map(pick).collect();
    node.leave_out("web", &["b07"]);
    for (port, was) in before.iter().enumerate() {
        let now = pick(port as u16);
        assert!(if was == "b07" { now != "b07" } else { now == *was });
    }
}

#[test]
fn a_push_keeps_what_is_known() {
    let mut tables = checked(quick(HealthKind::Tcp));
    let mut lab = Lab::new(&tables);
    lab.set("10.0.20.11", Host::Silent);
    lab.run(1000);
    assert!(lab.out("a"));
    let checks = lab.info("a").checks;
    tables.services[0].mark = Some(10);
    lab.node.push(&tables).unwrap();
    // Before the slow path has looked at it, the worker already leaves it out.
    lab.node.worker.turn(lab.now);
    assert_eq!(lab.backends_of(50, "203.0.113.10"), BTreeMap::from([(ip("10.0.20.12"), 50)]));
    lab.run(1000);
    assert!(lab.out("a") && lab.info("a").checks > checks);
    // Another port is another question.
    tables.services[0].backends[0].port = Some(8081);
    lab.node.push(&tables).unwrap();
    lab.run(1);
    assert!(!lab.out("a") && lab.info("a").checks == 0);
    // Nor is anything out that nobody checks any more.
    lab.run(1000);
    assert!(lab.out("a"));
    tables.services[0].health = None;
    lab.node.push(&tables).unwrap();
    lab.run(1);
    assert!(lab.states().is_empty());
    assert_eq!(lab.backends_of(50, "203.0.113.10").len(), 2);
}

#[test]
fn a_late_segment_is_reset() {
    let mut lab = Lab::new(&checked(quick(HealthKind::Tcp)));
    lab.set("10.0.20.11", Host::Late(150));
    lab.run(1000);
    let resets = lab.got.iter().filter(|(_, _, to, what)| *to == ip("10.0.20.11") && what.contains('R'));
    assert!(resets.count() >= 4, "{:?}", lab.got);
    // A stranger's segment is what it always was.
    let stranger = Packet::eth(SERVER, port_mac(0)).vlan(20).ip(ip("10.0.20.11"), ip("10.0.20.1"));
    lab.node.receive("lan", &stranger.tcp(9999, 61_500).flags(SYN | ACK).build());
    lab.run(1);
    assert_eq!(lab.node.drops(DropReason::LocalUnreachable), 1);
}

#[test]
fn draining_backends_are_checked_and_down_ones_are_not() {
    let mut tables = checked(quick(HealthKind::Tcp));
    tables.services[0].backends[0].state = BackendState::Draining;
    tables.services[0].backends[1].state = BackendState::Down;
    let mut lab = Lab::new(&tables);
    lab.run(1000);
    assert_eq!(lab.states().keys().collect::<Vec<_>>(), ["a", "c", "d"]);
    assert!(lab.backends_of(10, "203.0.113.10").is_empty());
}

#[test]
fn no_way_is_a_failure_and_no_packet() {
    let mut tables = checked(quick(HealthKind::Icmp));
    tables.services[0].backends[0].address = ip("198.51.100.99");
    let mut lab = Lab::new(&tables);
    lab.run(1000);
    let info = lab.info("a");
    assert_eq!((info.last.unwrap().0, info.out), (Outcome::NoRoute, true));
}

/// 10,000 backends: the work of a turn stays bounded, and none is late by much.
#[test]
fn many_backends_share_the_turns() {
    let address = |n: u32| format!("10.1.{}.{}", n / 250, n % 250 + 1);
    let backends: Vec<_> = (0..10_000).map(|n| backend(&format!("b{n:05}"), &address(n))).collect();
    let mut tables = tables();
    tables.interfaces[0].addresses.push(common::cidr("10.1.0.1/16"));
    tables.routes.push(RouteSpec {
        table: 0,
        prefix: common::cidr("10.1.0.0/16"),
        action: RouteAction::Via(vec![NextHopSpec { address: ip("10.0.20.11"), interface: 0, weight: 1 }]),
    });
    tables.services = vec![ServiceSpec {
        health: Some(HealthSpec { kind: HealthKind::Tcp, ..HealthSpec::default() }),
        ..service("web", &["203.0.113.10"], ServiceProtocol::Tcp, backends)
    }];
    let mut node = Node::with_size(&tables, Size { counters: 1 << 14, ..Size::default() }).unwrap().with_checks();
    let mut now = 1_000_000_000;
    for (port, frame) in common::introductions() {
        node.receive(port, &frame);
    }
    node.run(now);
    node.sent();
    let (mut originated, mut most) = (node.totals().originated, 0);
    let mut run = |node: &mut Node, ms: u64| {
        for _ in 0..ms {
            now += MS;
            for _ in 0..4 {
                node.slow.turn(now);
                let before = std::mem::replace(&mut originated, node.totals().originated);
                most = most.max(originated - before);
                node.worker.turn(now);
            }
            node.sent();
        }
    };
    run(&mut node, 2000);
    let begun = node.slow.health().filter(|h| h.state != HealthState::Up).count();
    assert_eq!(begun, 10_000, "nobody answers");
    run(&mut node, 4000);
    let late = node.slow.health().find(|h| !h.out || h.checks < 2);
    assert!(late.is_none(), "every one was asked in time: {late:?}");
    assert!(most <= 256, "{most} packets in one turn");
    assert_eq!(node.drops(DropReason::InjectQueueFull), 0);
    assert_eq!(node.totals().residue(), 0);
}
