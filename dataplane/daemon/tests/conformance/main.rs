//! One set of packets, every tier: a whole node (threads, rings, slow path) gets the same frames on the memory backend, on DPDK, through
//! AF_XDP and through af_packet, and what comes out and what is counted is the same, octet by octet, but for what `differences` lists.
//!
//! It takes root, for a network namespace of its own; without, it says so and tests nothing.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../../../engine/tests/kernel/cases.rs"]
mod cases;
mod differences;
mod extra;
#[path = "../../../engine/tests/kernel/network.rs"]
#[allow(dead_code, reason = "the kernel's comparison uses all of it")]
mod network;
mod wires;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use marchproxy_dataplane::config::{HugepageMode, Idle, Memory, SocketsConfig};
#[cfg(feature = "dpdk")]
use marchproxy_dataplane::driver::DpdkDriver;
use marchproxy_dataplane::driver::{Driver, SocketsDriver};
use marchproxy_dataplane::node::{Node, Place, Settings};
use marchproxy_dataplane::runtime::{Push, Runtime};
use marchproxy_dataplane::topology::WorkerCore;
use marchproxy_engine::Budget;
use marchproxy_engine::packet::{Packet, describe};
use marchproxy_engine::testkit::port_mac;
use marchproxy_proto::v1;

use cases::Case;
use differences::DIFFERENCES;
use network::{NEIGHBOURS, OWN};
use wires::{InMemory, Outside, Veths};

/// How long a node may take for a packet. It takes a millisecond; this is for machines that stand still.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between packets: enough for the rate of ICMP errors to stay out of the comparison.
const STEP: Duration = Duration::from_millis(10);
/// For that long a node asks no neighbour whether it is still there.
const FRESH: Duration = Duration::from_secs(10);
/// What markers end with, before their number.
const MARK: &[u8] = b"behind it all";

/// What became of a case: the frames by port, and what every counter grew by.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    sent: Vec<(String, Vec<u8>)>,
    counted: BTreeMap<String, i64>,
}

#[test]
fn every_tier_does_the_same() {
    // A thread of its own: it moves to another namespace and does not come back.
    std::thread::spawn(compare).join().unwrap();
}

fn compare() {
    let veths = match Veths::new() {
        Ok(veths) => veths,
        Err(reason) => {
            eprintln!("skipped: no veth pairs to compare on: {reason}");
            return;
        }
    };
    let mut all = cases::cases();
    all.extend(extra::cases());
    let memory = InMemory::new();
    let expected = outcomes("memory", memory.driver(), &memory, &all, |port| format!("vdev:net_ring_{port}0"));
    let options = || Memory {
        hugepages: HugepageMode::Off,
        mem_mb: 64,
        file_prefix: format!("mp-conformance-{}", std::process::id()),
        eal_args: vec!["--no-pci".into()],
    };
    let sockets = || SocketsDriver::start(&options(), SocketsConfig::default(), 1).unwrap();
    let mut wrong = Vec::new();
    let mut met = [false; DIFFERENCES.len()];
    let mut judge = |tier: &str, found: Vec<Outcome>| {
        for ((case, expected), found) in all.iter().zip(&expected).zip(found) {
            match (differences::of(tier, &case.name), *expected == found) {
                (None, true) => {}
                (Some(known), true) => {
                    let (_, pattern, reason) = DIFFERENCES[known];
                    wrong.push(format!("{tier}: {}: listed under {pattern:?} ({reason}), and the same", case.name));
                }
                (Some(known), false) => met[known] = true,
                (None, false) => wrong.push(format!(
                    "{tier}: {}: {}\n  memory {}\n  {tier} {}",
                    case.name,
                    describe(&case.frame),
                    shown(expected),
                    shown(&found)
                )),
            }
        }
    };
    judge("af_packet", outcomes("af_packet", sockets(), &veths, &all, |port| format!("af_packet:{port}0")));
    judge("af_xdp", outcomes("af_xdp", sockets(), &veths, &all, |port| format!("af_xdp:{port}0")));
    assert!(!wires::has_xdp("wan0"), "af_xdp: the program is left behind");
    #[cfg(feature = "dpdk")]
    {
        let dpdk = DpdkDriver::start(&options(), &marchproxy_cpu::current_affinity().unwrap(), None).unwrap();
        let device = |port: &str| {
            let number = NEIGHBOURS.iter().position(|n| n.port == port).unwrap();
            format!("vdev:net_af_packet{number},iface={port}0,blocksz=4096,framesz=2048,framecnt=512")
        };
        judge("dpdk", outcomes("dpdk", dpdk, &veths, &all, device));
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    // What no longer differs leaves the list. Without DPDK its entries can't be met.
    let stale: Vec<_> = DIFFERENCES
        .iter()
        .zip(met)
        .filter(|((tier, ..), met)| !met && (cfg!(feature = "dpdk") || *tier != "dpdk"))
        .map(|(entry, _)| (entry.0, entry.1))
        .collect();
    assert!(stale.is_empty(), "listed and not met: {stale:?}");
}

fn shown(outcome: &Outcome) -> String {
    let frame = |(port, frame): &(String, Vec<u8>)| format!("{port}: {} {frame:02x?}", describe(frame));
    let sent: Vec<_> = outcome.sent.iter().map(frame).collect();
    format!("sent [{}], counted {:?}", sent.join(", "), outcome.counted)
}

/// Runs all cases through a node on this driver.
fn outcomes<D: Driver>(
    tier: &str,
    driver: D,
    outside: &impl Outside,
    cases: &[Case],
    device: impl Fn(&str) -> String,
) -> Vec<Outcome> {
    let cpu = marchproxy_cpu::current_affinity().unwrap()[0];
    let settings = Settings {
        cores: vec![WorkerCore { cpu, socket: 0, node: None }],
        place: Place::default(),
        sessions: 4096,
        hugepages: HugepageMode::Off,
        idle: Idle::Sleep,
        budget: Budget { counters: 1024, policers: 64, ..Budget::default() },
    };
    let node = Node::start(driver, &settings).unwrap();
    let mut tables = extra::tables();
    for port in &mut tables.ports {
        port.device = device(&port.name);
    }
    let push = Push {
        version: 1,
        content_hash: vec![1],
        tables: Some(tables),
        allow_port_restart: false,
        received: Instant::now(),
    };
    node.apply(push).blocking_recv().unwrap().unwrap();
    let mut rig = Rig { tier, node: &node, outside, markers: 0, introduced: Instant::now(), sent: BTreeMap::new() };
    rig.introduce();
    let found = cases.iter().map(|case| rig.step(case)).collect();
    let places: Vec<(String, String)> = node.tiers().rules.into_iter().map(|rule| (rule.rule, rule.tier)).collect();
    let early = if tier == "af_xdp" { "xdp" } else { "user_space" };
    let wanted = [("no-telnet", early), ("rest", "user_space")].map(|(rule, tier)| (rule.to_owned(), tier.to_owned()));
    assert_eq!(places, wanted, "{tier}");
    let terms = node.stop();
    assert_eq!((terms.residue, terms.held), (0, 0), "{tier}: {terms:?}");
    found
}

struct Rig<'a, D: Driver, O> {
    tier: &'a str,
    node: &'a Node<D>,
    outside: &'a O,
    markers: u16,
    introduced: Instant,
    /// Frames that came out of each port since the start.
    sent: BTreeMap<String, u64>,
}

impl<D: Driver, O: Outside> Rig<'_, D, O> {
    /// The node learns its neighbours, or that they are still there.
    fn introduce(&mut self) {
        self.introduced = Instant::now();
        for (index, (neighbour, (v4, v6))) in NEIGHBOURS.iter().zip(OWN).enumerate() {
            let packet = || Packet::eth(neighbour.mac, port_mac(index));
            let (from, to): (Ipv4Addr, Ipv4Addr) = (neighbour.v4.parse().unwrap(), v4.parse().unwrap());
            self.outside.put(neighbour.port, &packet().arp_request(from, to).build());
            let (from, to): (Ipv6Addr, Ipv6Addr) = (neighbour.v6.parse().unwrap(), v6.parse().unwrap());
            let solicitation = packet().ip(from.into(), to.into()).neighbour_solicitation(to);
            self.outside.put(neighbour.port, &solicitation.source_link_layer(neighbour.mac).build());
        }
        let start = Instant::now();
        let mut answers = 0;
        while answers < 2 * NEIGHBOURS.len() {
            answers += self.collect().iter().filter(|(_, frame)| frame[0] & 1 == 0).count();
            assert!(start.elapsed() < PATIENCE, "{}: {answers} answers", self.tier);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A frame, and what became of it. A packet of ours follows: when that has come out, the frame before it was received, if ever.
    fn step(&mut self, case: &Case) -> Outcome {
        if self.introduced.elapsed() > FRESH {
            self.introduce();
            self.settle(&case.name, |_| ());
        }
        let start = Instant::now();
        let before = counters(&self.node.stats());
        self.outside.put("wan", &case.frame);
        self.markers += 1;
        let (from, to) = (&NEIGHBOURS[0], &NEIGHBOURS[1]);
        let marker = Packet::eth(from.mac, port_mac(0)).ip(address(from.v4), address(to.v4)).udp(9, 9);
        let marker = marker.payload(MARK).payload(self.markers.to_be_bytes()).build();
        self.outside.put("wan", &marker);
        let end = &marker[marker.len() - MARK.len() - 2..];
        let mut outcome = Outcome::default();
        let mut over = false;
        let mut keep = |(port, frame): (String, Vec<u8>)| {
            if frame.ends_with(end) && port == to.port {
                over = true;
            } else if frame[0] & 1 == 0 {
                // To groups goes only what the node says of its own accord.
                outcome.sent.push((port, frame));
            }
            over
        };
        let mut came = false;
        while !came {
            for sent in self.collect() {
                came |= keep(sent);
            }
            assert!(start.elapsed() < PATIENCE, "{}: {}: the marker does not come out", self.tier, case.name);
            std::thread::sleep(Duration::from_micros(200));
        }
        self.settle(&case.name, |sent| {
            keep(sent);
        });
        // Fragments stay in order, ports have none.
        outcome.sent.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, count) in counters(&self.node.stats()) {
            let grown = count - before.get(&name).copied().unwrap_or(0);
            if grown != 0 {
                outcome.counted.insert(name, grown);
            }
        }
        std::thread::sleep(STEP.saturating_sub(start.elapsed()));
        outcome
    }

    /// Waits until nothing is on its way inside any more, the slow path's answers included, and all that was sent has come out.
    ///
    /// Of one look at the node the ports are read before the terms of its law: so what is sent in between is in neither. Hence two looks: when
    /// the first one's terms say that nothing is inside, the second one's ports have all there will be.
    fn settle(&mut self, case: &str, mut keep: impl FnMut((String, Vec<u8>))) {
        let start = Instant::now();
        let (mut idle, mut terms) = (false, v1::Conservation::default());
        loop {
            self.collect().into_iter().for_each(&mut keep);
            let stats = self.node.stats();
            let now = stats.conservation.unwrap_or_default();
            let out = |port: &v1::PortStats| self.sent.get(&port.name).copied().unwrap_or(0) == port.tx_packets;
            if idle && now == terms && stats.ports.iter().all(out) {
                return;
            }
            (idle, terms) = (now.held == 0 && now.residue == 0, now);
            assert!(start.elapsed() < PATIENCE, "{}: {case}: does not come to rest: {now:?}", self.tier);
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn collect(&mut self) -> Vec<(String, Vec<u8>)> {
        let frames = self.outside.take();
        for (port, _) in &frames {
            *self.sent.entry(port.clone()).or_default() += 1;
        }
        frames
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What is counted, but for what the node says of its own accord: frames sent and made.
fn counters(stats: &v1::StatsResponse) -> BTreeMap<String, i64> {
    let mut all = BTreeMap::new();
    for (kind, reasons) in [
        ("drop", &stats.drops),
        ("punt", &stats.punts),
        ("consumed", &stats.consumed),
        ("session look-up", &stats.session_lookups),
        ("session end", &stats.sessions_ended),
    ] {
        all.extend(reasons.iter().map(|reason| (format!("{kind} {}", reason.reason), reason.packets as i64)));
    }
    for port in &stats.ports {
        all.insert(format!("{} rx packets", port.name), port.rx_packets as i64);
        all.insert(format!("{} rx bytes", port.name), port.rx_bytes as i64);
        all.insert(format!("{} device errors", port.name), (port.device_rx_errors + port.device_tx_errors) as i64);
    }
    for object in &stats.objects {
        all.insert(format!("{} {} packets", object.kind, object.name), object.packets as i64);
        all.insert(format!("{} {} bytes", object.kind, object.name), object.bytes as i64);
    }
    all
}
