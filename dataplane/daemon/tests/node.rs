//! The whole node, every thread of it, on the engine's memory backend: pushes, devices that fail, questions, the end.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod flows;
mod looking;
mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use marchproxy_dataplane::agent::SharedState;
use marchproxy_dataplane::config::{HugepageMode, Idle, Memory as PacketMemory, SocketsConfig};
use marchproxy_dataplane::driver::{Device, Driver, OpenPort, Opened, PortHealth, SocketsDriver};
use marchproxy_dataplane::metrics::{DICTIONARY, Observation, render};
use marchproxy_dataplane::node::{Node, Place, Settings, StartError};
use marchproxy_dataplane::pulse::Pulse;
use marchproxy_dataplane::runtime::{Applied, Change, Push, Runtime};
use marchproxy_dataplane::topology::WorkerCore;
use marchproxy_engine::Budget;
use marchproxy_engine::io::{Mac, PacketBuf};
use marchproxy_engine::memory::{Memory, MemoryBuf, MemoryPool, Wire};
use marchproxy_engine::packet::Packet;
use marchproxy_engine::tables::{
    BackendSpec, Cidr, HealthKind, HealthSpec, InterfaceSpec, PortRange, PortSpec, RuleAction, RuleChanges, RuleMatch,
    RuleSpec, RuleTables, ServiceProtocol, ServiceSpec,
};
use marchproxy_metrics::Format;
use marchproxy_proto::v1;

const OURS: Mac = [2, 0, 0, 0, 0, 1];
const THEIRS: Mac = [2, 0, 0, 0, 0, 2];

/// A host full of wires.
#[derive(Default)]
struct World {
    wires: Mutex<BTreeMap<String, Vec<Wire>>>,
    broken: Mutex<BTreeSet<String>>,
    /// Devices without a link.
    unplugged: Mutex<BTreeSet<String>>,
    open: Mutex<BTreeSet<String>>,
}

struct Wires(Arc<World>);

struct WirePort {
    world: Arc<World>,
    device: String,
}

impl Drop for WirePort {
    fn drop(&mut self) {
        assert!(self.world.open.lock().unwrap().remove(&self.device));
    }
}

impl OpenPort for WirePort {
    fn mac(&self) -> Mac {
        OURS
    }
    fn health(&self) -> PortHealth {
        let link_up = !self.world.unplugged.lock().unwrap().contains(&self.device);
        PortHealth { link_up, rx_missed: 3, ..PortHealth::default() }
    }
}

impl Driver for Wires {
    type Backend = Memory;
    type Port = WirePort;
    type Guard = ();

    fn name(&self) -> &'static str {
        "wires"
    }
    fn enter_thread(&self) -> Result<(), String> {
        if self.0.broken.lock().unwrap().contains("threads") { Err("no more threads".into()) } else { Ok(()) }
    }
    fn pool(&self) -> Result<MemoryPool, String> {
        Ok(MemoryPool)
    }
    fn open(&self, spec: &PortSpec, _: &Device, queues: u16) -> Result<Opened<Self>, String> {
        if self.0.broken.lock().unwrap().contains(&spec.device) {
            return Err(format!("port {}: device {:?}: its driver failed", spec.name, spec.device));
        }
        assert!(self.0.open.lock().unwrap().insert(spec.device.clone()), "{} opened twice", spec.device);
        let (mut wires, mut pairs) = (Vec::new(), Vec::new());
        for _ in 0..queues {
            let (wire, rx, tx) = Wire::new(1024);
            wires.push(wire);
            pairs.push((rx, tx));
        }
        self.0.wires.lock().unwrap().insert(spec.device.clone(), wires);
        let port = WirePort { world: self.0.clone(), device: spec.device.clone() };
        Ok(Opened { port, queues: pairs })
    }
}

fn settings(workers: usize) -> Settings {
    let cores = marchproxy_cpu::current_affinity().unwrap();
    let core = |number: usize| WorkerCore { cpu: cores[number % cores.len()], socket: 0, node: None };
    Settings {
        cores: (0..workers).map(core).collect(),
        place: Place::default(),
        sessions: 4096,
        hugepages: HugepageMode::Off,
        idle: Idle::Sleep,
        budget: Budget { counters: 1024, policers: 64, ..Budget::default() },
    }
}

struct Rig {
    node: Arc<Node<Wires>>,
    world: Arc<World>,
    version: u64,
}

impl Rig {
    fn new(workers: usize) -> Self {
        let world = Arc::new(World::default());
        let node = Arc::new(Node::start(Wires(world.clone()), &settings(workers)).unwrap());
        Self { node, world, version: 0 }
    }

    fn push_with(&mut self, tables: &RuleTables, allow_port_restart: bool) -> Result<Applied, String> {
        self.version += 1;
        let content_hash = vec![self.version as u8];
        let push = Push {
            version: self.version,
            content_hash,
            tables: Some(tables.clone()),
            allow_port_restart,
            received: Instant::now(),
        };
        self.node.apply(push).blocking_recv().unwrap()
    }

    fn push(&mut self, tables: &RuleTables) -> Result<Applied, String> {
        self.push_with(tables, false)
    }

    fn open(&self) -> Vec<String> {
        self.world.open.lock().unwrap().iter().cloned().collect()
    }

    fn put(&self, device: &str, frame: &[u8]) {
        self.world.wires.lock().unwrap()[device][0].put(MemoryBuf::new(frame));
    }

    /// The next frame that leaves a device, announcements aside.
    fn take(&self, device: &str) -> Vec<u8> {
        let start = Instant::now();
        let mut frames = Vec::new();
        while frames.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(5), "nothing leaves {device}: {:?}", self.node.stats());
            for wire in &self.world.wires.lock().unwrap()[device] {
                frames.extend(wire.take().into_iter().filter(|frame| !is_announcement(frame.data())));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        assert_eq!(frames.len(), 1);
        frames[0].data().to_vec()
    }

    fn eventually(&self, what: &str, check: impl Fn(&v1::StatsResponse) -> bool) {
        let start = Instant::now();
        while !check(&self.node.stats()) {
            assert!(start.elapsed() < Duration::from_secs(5), "never {what}: {:?}", self.node.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) {
        let terms = self.node.stop();
        assert_eq!((terms.residue, terms.held), (0, 0), "{terms:?}");
        assert!(self.open().is_empty(), "devices stay open");
    }
}

/// ARP from and for the same address.
fn is_announcement(frame: &[u8]) -> bool {
    frame.len() >= 42 && frame[12..14] == [0x08, 0x06] && frame[28..32] == frame[38..42]
}

fn port(name: &str, device: &str) -> PortSpec {
    PortSpec { name: name.into(), device: device.into(), mtu: 1500 }
}

fn cidr(text: &str) -> Cidr {
    let (addr, len) = text.split_once('/').unwrap();
    Cidr { addr: addr.parse().unwrap(), len: len.parse().unwrap() }
}

fn interface(name: &str, port: usize, address: &str) -> InterfaceSpec {
    let addresses = vec![cidr(address)];
    InterfaceSpec { name: name.into(), port, vlan: None, addresses, table: 0, trust_dscp: true, ..Default::default() }
}

fn tables() -> RuleTables {
    RuleTables {
        ports: vec![port("lan", "vdev:net_null0"), port("wan", "vdev:net_null1")],
        interfaces: vec![interface("lan0", 0, "198.18.1.1/24"), interface("wan0", 1, "198.18.2.1/24")],
        ..RuleTables::default()
    }
}

fn deny_all(name: &str) -> RuleSpec {
    RuleSpec {
        name: name.into(),
        priority: 1,
        matches: RuleMatch::default(),
        action: RuleAction::Deny,
        mark: None,
        ..Default::default()
    }
}

/// The peer at 198.18.2.2 makes itself known.
fn introduce(rig: &Rig) {
    let request = Packet::eth(THEIRS, [255; 6]).arp_request([198, 18, 2, 2], [198, 18, 2, 1]).build();
    rig.put("vdev:net_null1", &request);
    let answer = rig.take("vdev:net_null1");
    assert_eq!((&answer[..6], &answer[6..12]), (&THEIRS[..], &OURS[..]));
}

#[test]
fn packets_pass_through_all_threads_and_every_one_is_accounted_for() {
    let mut rig = Rig::new(1);
    assert_eq!(rig.push(&tables()).unwrap().generation, 2);
    assert!(rig.node.running().settled);
    introduce(&rig);
    let udp = Packet::eth(THEIRS, OURS).ipv4([198, 18, 1, 9], [198, 18, 2, 2]).udp(1, 2).build();
    rig.put("vdev:net_null0", &udp);
    assert_eq!(rig.take("vdev:net_null1")[..6], THEIRS);

    // A rule counts under its name.
    rig.push(&RuleTables { rules: vec![deny_all("nothing")], ..tables() }).unwrap();
    rig.put("vdev:net_null0", &udp);
    rig.eventually("denied", |stats| stats.drops.iter().any(|drop| drop.reason == "rule_deny" && drop.packets == 1));
    let stats = rig.node.stats();
    let rule = stats.objects.iter().find(|object| object.kind == "rule").unwrap();
    assert_eq!((rule.name.as_str(), rule.dropped), ("nothing", 1));
    let lan = stats.ports.iter().find(|port| port.name == "lan").unwrap();
    assert_eq!(
        (lan.rx_packets, lan.mac.as_str(), lan.link_up, lan.device_rx_missed),
        (2, "02:00:00:00:00:01", true, 3)
    );
    assert_eq!((stats.workers[0].generation, stats.generation), (3, 3));
    assert_eq!(stats.conservation.unwrap().residue, 0);

    let neighbours = rig.node.neighbours(&v1::NeighboursRequest::default()).unwrap().neighbours;
    assert_eq!(neighbours.len(), 1);
    assert_eq!((neighbours[0].interface.as_str(), neighbours[0].mac.as_str()), ("wan0", "02:00:00:00:00:02"));
    assert_eq!((neighbours[0].address.as_str(), neighbours[0].state.as_str()), ("198.18.2.2", "reachable"));
    rig.end();
}

#[test]
fn what_is_staged_is_ready_and_goes_with_whatever_else_runs() {
    let mut rig = Rig::new(1);
    rig.push(&tables()).unwrap();
    let wider = RuleTables { ports: [tables().ports, vec![port("dmz", "vdev:net_null2")]].concat(), ..tables() };
    let stage = |rig: &Rig, content: u8, tables: &RuleTables| {
        let push = Push {
            version: 0,
            content_hash: vec![content],
            tables: Some(tables.clone()),
            allow_port_restart: false,
            received: Instant::now(),
        };
        rig.node.stage(push).blocking_recv().unwrap()
    };
    // Content hashes of this rig are its versions: the next push finds what is ready for it.
    let build_us = stage(&rig, 2, &wider).unwrap();
    assert_eq!((rig.open().len(), rig.node.running().generation), (3, 2));
    let applied = rig.push(&wider).unwrap();
    assert_eq!((applied.build_us, applied.generation, rig.open().len()), (build_us, 3, 3));
    // Not wanted: its device closes.
    let widest = RuleTables { ports: [wider.ports.clone(), vec![port("far", "vdev:net_null3")]].concat(), ..tables() };
    stage(&rig, 9, &widest).unwrap();
    assert_eq!(rig.open().len(), 4);
    rig.node.unstage();
    rig.eventually("closed", |_| rig.open().len() == 3);
    // Made from tables that don't run any more, it is made again.
    stage(&rig, 4, &widest).unwrap();
    rig.push(&RuleTables { rules: vec![deny_all("nothing")], ..wider }).unwrap();
    assert_eq!(rig.open().len(), 3);
    rig.push(&widest).unwrap();
    assert_eq!(rig.open().len(), 4);
    // What can't be ready is refused now, and nothing has changed.
    rig.world.broken.lock().unwrap().insert("vdev:net_null4".into());
    let more = RuleTables { ports: [widest.ports, vec![port("bad", "vdev:net_null4")]].concat(), ..tables() };
    assert!(stage(&rig, 5, &more).unwrap_err().contains("its driver failed"));
    assert_eq!((rig.open().len(), rig.node.running().version), (4, 4));
    rig.end();
}

fn web() -> ServiceSpec {
    let backend = BackendSpec {
        name: "a".into(),
        address: "198.18.2.2".parse().unwrap(),
        port: Some(8080),
        weight: 1,
        ..Default::default()
    };
    ServiceSpec {
        name: "web".into(),
        addresses: vec!["203.0.113.10".parse().unwrap()],
        protocol: ServiceProtocol::Tcp,
        ports: vec![PortRange { first: 80, last: 80 }],
        source_affinity: false,
        backends: vec![backend],
        policer: None,
        mark: None,
        ..Default::default()
    }
}

#[test]
fn a_service_makes_sessions_that_can_be_listed_and_asked_about() {
    let mut rig = Rig::new(1);
    rig.push(&RuleTables { services: vec![web()], ..tables() }).unwrap();
    introduce(&rig);
    let ask = |dst: &str| v1::WhyRequest {
        r#in: "lan0".into(),
        src: "198.18.1.9".into(),
        dst: dst.into(),
        protocol: "tcp".into(),
        src_port: 40_000,
        dst_port: 80,
        ..v1::WhyRequest::default()
    };
    let before = rig.node.why(&ask("203.0.113.10")).unwrap();
    assert!(before.steps.iter().any(|step| step.object == "service web"), "{before:?}");

    let syn = Packet::eth(THEIRS, OURS).ipv4([198, 18, 1, 9], [203, 0, 113, 10]).tcp(40_000, 80).flags(2).build();
    rig.put("vdev:net_null0", &syn);
    rig.take("vdev:net_null1");
    let list = rig.node.sessions(&v1::SessionsRequest::default()).unwrap();
    assert_eq!(list.total, 1);
    let session = &list.sessions[0];
    assert_eq!((session.client.as_str(), session.service.as_str()), ("198.18.1.9:40000", "web"));
    assert_eq!((session.backend.as_str(), session.state.as_str()), ("a (198.18.2.2:8080)", "opening"));
    let other = v1::SessionsRequest { service: "mail".into(), ..v1::SessionsRequest::default() };
    assert!(rig.node.sessions(&other).unwrap_err().contains("service: found \"mail\""));

    metrics_say_so(&rig);
    let after = rig.node.why(&ask("203.0.113.10")).unwrap();
    assert_eq!(after.verdict, "forwarded");
    assert!(after.steps.iter().any(|step| step.stage == "session"), "{after:?}");
    for (request, wanted) in [
        (v1::WhyRequest { src: "x".into(), ..ask("198.18.2.2") }, "src: found \"x\""),
        (ask("2001:db8::1"), "dst: found 2001:db8::1, allowed: an address of the family of src"),
        (v1::WhyRequest { protocol: "sctp?".into(), ..ask("198.18.2.2") }, "protocol: found \"sctp?\""),
        (v1::WhyRequest { dst_port: 70_000, ..ask("198.18.2.2") }, "dst_port: found 70000"),
        (v1::WhyRequest { ttl: 256, ..ask("198.18.2.2") }, "ttl: found 256, allowed: 1 to 255"),
        (v1::WhyRequest { r#in: "dmz".into(), ..ask("198.18.2.2") }, "in: found \"dmz\", allowed: lan0, wan0"),
    ] {
        let error = rig.node.why(&request).unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
    rig.end();
}

/// What the real exporter says is what its dictionary says, and what happened.
fn metrics_say_so(rig: &Rig) {
    rig.eventually("counted", |stats| stats.objects.iter().any(|object| object.name == "web/a" && object.packets == 1));
    let observation = Observation::of(&*rig.node, &SharedState::default(), &Pulse::default(), false);
    let page = render(observation, Format::OpenMetrics);
    let wrong = marchproxy_metrics::check(DICTIONARY, &page, false);
    assert!(wrong.is_empty(), "{wrong:#?}");
    for line in [
        "marchproxy_ready 1",
        "marchproxy_backend_packets_total{service=\"web\",backend=\"a\"} 1",
        "marchproxy_queue_receive_packets_total{port=\"lan\",worker=\"0\"} 1",
        "marchproxy_conservation_residue_packets 0",
    ] {
        assert!(page.lines().any(|found| found == line), "no line {line:?} in\n{page}");
    }
}

/// Answers what leaves for 198.18.2.2: echo requests, if it is alive. Returns how many there were.
fn answer_echoes(rig: &Rig, alive: bool) -> usize {
    let device = "vdev:net_null1";
    let frames: Vec<_> = rig.world.wires.lock().unwrap()[device].iter().flat_map(Wire::take).collect();
    let echoes = frames.iter().map(PacketBuf::data).filter(|frame| frame[23] == 1 && frame[34] == 8);
    let mut seen = 0;
    for frame in echoes {
        assert_eq!((&frame[26..30], &frame[30..34]), (&[198, 18, 2, 1][..], &[198, 18, 2, 2][..]));
        let [id, sequence] = [38, 40].map(|at| u16::from_be_bytes([frame[at], frame[at + 1]]));
        let reply = Packet::eth(THEIRS, OURS).ipv4([198, 18, 2, 2], [198, 18, 2, 1]).icmp_echo_reply(id, sequence);
        if alive {
            rig.put(device, &reply.payload(&frame[42..]).build());
        }
        seen += 1;
    }
    seen
}

#[test]
fn a_backend_that_falls_silent_takes_no_new_sessions() {
    let mut rig = Rig::new(2);
    let (interval_ms, timeout_ms) = (200, 100);
    let health =
        HealthSpec { kind: HealthKind::Icmp, interval_ms, timeout_ms, rise: 1, fall: 2, ..HealthSpec::default() };
    let backend = BackendSpec { name: "a".into(), address: "198.18.2.2".parse().unwrap(), ..BackendSpec::default() };
    let service = ServiceSpec {
        name: "web".into(),
        addresses: vec!["203.0.113.10".parse().unwrap()],
        ports: vec![PortRange { first: 80, last: 80 }],
        backends: vec![backend],
        health: Some(health),
        ..ServiceSpec::default()
    };
    rig.push(&RuleTables { services: vec![service], ..tables() }).unwrap();
    introduce(&rig);
    let ask = |rig: &Rig| rig.node.backends(&v1::BackendsRequest::default()).unwrap().backends.remove(0);
    let until = |rig: &Rig, alive: bool, state: &str| {
        let start = Instant::now();
        loop {
            answer_echoes(rig, alive);
            let backend = ask(rig);
            if backend.health.as_ref().is_some_and(|health| health.state == state) {
                return (backend, start.elapsed());
            }
            assert!(start.elapsed() < Duration::from_secs(10), "never {state}: {backend:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let (up, _) = until(&rig, true, "up");
    let health = up.health.unwrap();
    assert_eq!((up.service.as_str(), up.name.as_str(), up.takes_sessions), ("web", "a", true));
    assert_eq!((health.kind.as_str(), health.last_result.as_str(), health.failures), ("icmp", "ok", 0));
    assert!(health.rtt_s.unwrap() > 0.0 && health.checks > 0);

    let (_, took) = until(&rig, false, "down");
    // A machine that is busy with other tests may be late; the bound itself is held on the engine's own clock.
    assert!(took < Duration::from_secs(5), "{took:?}");
    let start = Instant::now();
    while ask(&rig).takes_sessions {
        assert!(start.elapsed() < Duration::from_secs(5), "stays in the ring");
    }
    let syn = Packet::eth(THEIRS, OURS).ipv4([198, 18, 1, 9], [203, 0, 113, 10]).tcp(40_000, 80).flags(2).build();
    rig.put("vdev:net_null0", &syn);
    rig.eventually("without a backend", |stats| stats.drops.iter().any(|drop| drop.reason == "no_backend"));
    let down = ask(&rig).health.unwrap();
    assert_eq!(down.last_result, "timeout");

    until(&rig, true, "up");
    let other = v1::BackendsRequest { service: "mail".into(), ..Default::default() };
    assert!(rig.node.backends(&other).unwrap_err().contains("service: found \"mail\""));
    rig.end();
}

#[test]
fn a_refused_push_changes_nothing() {
    let mut rig = Rig::new(2);
    rig.push(&tables()).unwrap();
    let both = ["vdev:net_null0", "vdev:net_null1"];
    let with = |more: PortSpec| RuleTables { ports: [tables().ports, vec![more]].concat(), ..tables() };
    let mut jumbo = tables();
    jumbo.ports[1].mtu = 9000;
    let mut elsewhere = tables();
    elsewhere.ports[1].device = "vdev:net_null7".into();
    let mut renamed = tables();
    renamed.ports[1].name = "zwan".into();
    let own_loopback = RuleTables { interfaces: vec![interface("lan0", 0, "127.0.0.1/8")], ..tables() };
    let mut invalid = tables();
    invalid.interfaces[0].port = 9;
    rig.world.broken.lock().unwrap().insert("vdev:net_null5".into());
    let two_more = RuleTables {
        ports: [tables().ports, vec![port("x", "vdev:net_null4"), port("y", "vdev:net_null5")]].concat(),
        ..tables()
    };
    for (tables, wanted) in [
        (with(port("x", "eth9")), "port x: device \"eth9\" is not a device"),
        (with(port("x", "af_xdp:eth9")), "all ports of a node share one backend"),
        (
            with(port("x", "vdev:net_af_packet0,iface=nope9")),
            "port x: device \"vdev:net_af_packet0,iface=nope9\": interface \"nope9\" does not exist",
        ),
        (with(port("x", "vdev:net_null1")), "port x: device \"vdev:net_null1\" is port wan's already"),
        (two_more, "port y: device \"vdev:net_null5\": its driver failed"),
        (jumbo, "port wan: mtu: found 9000, runs with 1500"),
        (elsewhere, "port wan: device: found \"vdev:net_null7\""),
        (renamed, "port zwan: device \"vdev:net_null1\" runs as port wan"),
        (own_loopback, "interface lan0: address 127.0.0.1 is configured in the kernel on lo"),
        (invalid, "interface lan0: port: found 9"),
    ] {
        let error = rig.push(&tables).unwrap_err();
        assert!(error.contains(wanted), "{error:?} lacks {wanted:?}");
        assert_eq!((rig.node.running().version, rig.node.running().generation), (1, 2));
        assert_eq!(rig.open(), both, "after {wanted}");
    }
    introduce(&rig);
    rig.end();
}

#[test]
fn ports_come_go_and_restart_when_they_may() {
    let mut rig = Rig::new(2);
    rig.push(&tables()).unwrap();
    let mut only_lan = tables();
    only_lan.ports.pop();
    only_lan.interfaces.pop();
    rig.push(&only_lan).unwrap();
    assert_eq!(rig.open(), ["vdev:net_null0"]);
    rig.push(&tables()).unwrap();
    assert_eq!(rig.open().len(), 2);
    introduce(&rig);

    let mut moved = tables();
    moved.ports[1].device = "vdev:net_null9".into();
    // The successor fails: the port that stopped for it runs again.
    rig.world.broken.lock().unwrap().insert("vdev:net_null9".into());
    assert!(rig.push_with(&moved, true).unwrap_err().contains("its driver failed"));
    assert_eq!(rig.open(), ["vdev:net_null0", "vdev:net_null1"]);
    introduce(&rig);
    rig.world.broken.lock().unwrap().clear();
    rig.push_with(&moved, true).unwrap();
    assert_eq!(rig.open(), ["vdev:net_null0", "vdev:net_null9"]);
    rig.end();
}

/// A change of some rules of a long list: made in the second copy of the tables, and the packets show it.
#[test]
fn a_change_of_rules_runs_without_a_build() {
    let world = Arc::new(World::default());
    let settings = Settings { budget: Budget::default(), ..settings(1) };
    let mut rig = Rig { node: Arc::new(Node::start(Wires(world.clone()), &settings).unwrap()), world, version: 0 };
    let rule = |name: u32| RuleSpec {
        matches: RuleMatch {
            dst: vec![cidr(&format!("10.{}.{}.0/24", name / 250, name % 250))],
            ..RuleMatch::default()
        },
        priority: 10 + name,
        ..deny_all(&format!("r{name:04}"))
    };
    let permit = RuleSpec { priority: 100_000, action: RuleAction::Permit, ..deny_all("rest") };
    let rules: Vec<_> = (0..2500).map(rule).chain([permit]).collect();
    let tables = RuleTables { rules, ..tables() };
    rig.push(&tables).unwrap();
    introduce(&rig);
    let udp = Packet::eth(THEIRS, OURS).ipv4([198, 18, 1, 9], [198, 18, 2, 2]).udp(1, 2).build();
    let change = |rig: &Rig, base: u64, rules: RuleChanges| {
        let (version, received) = (base + 1, Instant::now());
        let change = Change { version, content_hash: vec![version as u8], base: vec![base as u8], rules, received };
        rig.node.change(change).blocking_recv().unwrap().unwrap()
    };
    let all = RuleSpec { priority: 3, ..deny_all("all") };
    for round in 0..3 {
        rig.put("vdev:net_null0", &udp);
        assert_eq!(rig.take("vdev:net_null1")[..6], THEIRS, "permitted");
        let deny = RuleChanges { put: vec![all.clone()], ..RuleChanges::default() };
        let applied = change(&rig, 1 + 2 * round, deny).expect("a plain change");
        assert_eq!((applied.generation, rig.node.running().version), (3 + 2 * round, 2 + 2 * round));
        rig.put("vdev:net_null0", &udp);
        rig.eventually("denied", |stats| {
            let counts = stats.objects.iter().any(|object| object.name == "all" && object.dropped == 1);
            counts && stats.drops.iter().any(|drop| drop.reason == "rule_deny" && drop.packets == round + 1)
        });
        let permit = RuleChanges { gone: vec![(3, "all".into())], ..RuleChanges::default() };
        assert!(change(&rig, 2 + 2 * round, permit).is_some());
        assert!(rig.node.stats().objects.iter().all(|object| object.name != "all"));
    }
    assert!(change(&rig, 3, RuleChanges::default()).is_none(), "these tables do not run");
    let counting = RuleSpec { action: RuleAction::Count, ..all };
    let counting = RuleChanges { put: vec![counting], ..RuleChanges::default() };
    assert!(change(&rig, 7, counting).is_none(), "left to a build");
    assert_eq!(rig.node.running().version, 7, "and nothing changed");
    rig.end();
}

#[test]
fn the_same_content_gets_a_new_number_and_no_new_generation() {
    let mut rig = Rig::new(1);
    rig.push(&tables()).unwrap();
    let push =
        Push { version: 9, content_hash: vec![1], tables: None, allow_port_restart: false, received: Instant::now() };
    let applied = rig.node.apply(push).blocking_recv().unwrap().unwrap();
    assert_eq!((applied.generation, rig.node.running().version), (2, 9));
    rig.end();
}

#[test]
fn a_thousand_pushes_settle_on_sleeping_workers_and_free_what_they_replace() {
    let mut rig = Rig::new(2);
    let variants = [tables(), RuleTables { rules: vec![deny_all("r")], ..tables() }];
    let mut times = Vec::new();
    for number in 0..1000 {
        times.push(rig.push(&variants[number % 2]).unwrap().settle_us);
    }
    times.sort_unstable();
    assert!(times[500] < 10_000, "median settle {} us", times[500]);
    assert_eq!(rig.node.stats().workers.iter().map(|w| w.generation).collect::<Vec<_>>(), [1001, 1001]);
    rig.end();
}

#[test]
fn what_is_held_at_the_end_is_dropped_under_shutdown() {
    let mut rig = Rig::new(1);
    rig.push(&tables()).unwrap();
    // Nobody answers for 198.18.2.77: the packet waits for its neighbour.
    let udp = Packet::eth(THEIRS, OURS).ipv4([198, 18, 1, 9], [198, 18, 2, 77]).udp(1, 2).build();
    rig.put("vdev:net_null0", &udp);
    // Our own packets, which are held on their way, too: two announcements, and the question for the neighbour.
    let own_left = |terms: v1::Conservation| (terms.originated, terms.tx) == (3, 3);
    rig.eventually("held", |stats| stats.conservation.is_some_and(|terms| terms.held == 1 && own_left(terms)));
    let start = Instant::now();
    let terms = rig.node.stop();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!((terms.residue, terms.held, terms.rx), (0, 0, 1));
    let drops = rig.node.stats().drops;
    assert!(drops.iter().any(|drop| drop.reason == "shutdown" && drop.packets == 1), "{terms:?} {drops:?}");
    let late =
        Push { version: 2, content_hash: vec![], tables: None, allow_port_restart: false, received: Instant::now() };
    assert!(rig.node.apply(late).blocking_recv().is_err(), "a stopped node takes nothing");
    assert_eq!(rig.node.stop(), terms);
}

#[test]
fn idle_workers_sleep_and_busy_cycles_are_honest() {
    let mut rig = Rig::new(1);
    rig.push(&tables()).unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    rig.node.stats();
    std::thread::sleep(Duration::from_millis(300));
    let stats = rig.node.stats();
    assert!(stats.workers[0].busy_ratio < 0.05, "{}", stats.workers[0].busy_ratio);
    rig.end();
}

#[test]
fn on_sockets_what_needs_another_backend_or_is_not_there_is_refused_by_name() {
    let (file_prefix, eal_args) = (String::new(), Vec::new());
    let memory = PacketMemory { hugepages: HugepageMode::Off, mem_mb: 32, file_prefix, eal_args };
    let driver = SocketsDriver::start(&memory, SocketsConfig::default(), 1).unwrap();
    let node = Node::start(driver, &settings(1)).unwrap();
    let push = |tables: RuleTables| Push {
        version: 1,
        content_hash: vec![1],
        tables: Some(tables),
        allow_port_restart: false,
        received: Instant::now(),
    };
    let error = node.apply(push(tables())).blocking_recv().unwrap().unwrap_err();
    assert!(error.starts_with("port lan: device \"vdev:net_null0\" needs the dpdk backend"), "{error}");
    for device in ["auto:nope9", "af_xdp:nope9", "af_packet:nope9"] {
        let mut missing = tables();
        missing.ports[0].device = device.into();
        missing.ports[1].device = "af_packet:nope8".into();
        let error = node.apply(push(missing)).blocking_recv().unwrap().unwrap_err();
        assert!(error.contains("interface \"nope9\" does not exist"), "{error}");
    }
    assert_eq!(node.running().version, 0);
    node.apply(push(RuleTables::default())).blocking_recv().unwrap().unwrap();
    assert_eq!(node.stop().residue, 0);
}

#[test]
fn a_core_that_does_not_exist_or_a_thread_that_fails_ends_the_start() {
    let mut wrong = settings(1);
    wrong.cores[0].cpu = 4000;
    let error = Node::start(Wires(Arc::default()), &wrong).err().unwrap();
    assert!(matches!(&error, StartError::Place(reason) if reason.contains("worker 0: core 4000")), "{error}");
    let world = Arc::new(World::default());
    world.broken.lock().unwrap().insert("threads".into());
    let error = Node::start(Wires(world), &settings(1)).err().unwrap().to_string();
    assert!(error.contains("no more threads"), "{error}");
}
