//! 1,000 pushes of alternating documents under traffic: no packet is lost, and each is treated as exactly one generation would.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{CLIENT, cidr, interface, introduction, ip, port, rule};
use marchproxy_engine::build::{Budget, build};
use marchproxy_engine::burst::Burst;
use marchproxy_engine::io::PacketBuf;
use marchproxy_engine::memory::{MemoryBuf, Wire};
use marchproxy_engine::packet::Packet;
use marchproxy_engine::ports::{PortFacts, PortSlot};
use marchproxy_engine::sampling::Sampling;
use marchproxy_engine::stage::{balance, finish, parse, route};
use marchproxy_engine::stats::ThreadStats;
use marchproxy_engine::table::neighbours::{NeighbourKey, NeighbourTable};
use marchproxy_engine::table::policer::Policers;
use marchproxy_engine::table::sessions::Sessions;
use marchproxy_engine::tables::*;
use marchproxy_engine::testkit::{Node, port_mac};

const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 0x33];

/// Generation A sends everything out of `a` marked 11, generation B out of `b` marked 22.
fn tables(is_a: bool) -> RuleTables {
    let via = |address: &str, interface| RouteSpec {
        table: 0,
        prefix: cidr(if address.contains(':') { "::/0" } else { "0.0.0.0/0" }),
        action: RouteAction::Via(vec![NextHopSpec { address: ip(address), interface, weight: 1 }]),
    };
    let (v4, v6, out) = if is_a { ("10.0.1.2", "fd00:1::2", 0) } else { ("10.0.2.2", "fd00:2::2", 1) };
    RuleTables {
        ports: vec![port("a"), port("b"), port("in")],
        interfaces: vec![
            interface("a0", 0, None, &["10.0.1.1/24", "fd00:1::1/64"]),
            interface("b0", 1, None, &["10.0.2.1/24", "fd00:2::1/64"]),
            interface("in0", 2, None, &["192.0.2.1/24", "2001:db8::1/64"]),
        ],
        routes: vec![via(v4, out), via(v6, out)],
        rules: vec![rule("all", 1, None, RuleAction::Permit, Some(if is_a { 11 } else { 22 }))],
        ..RuleTables::default()
    }
}

/// Which generation's answer a frame on a port is; `None` for a mixture.
fn generation_of(on_a: bool, frame: &[u8]) -> Option<bool> {
    let dscp = if frame[12..14] == [0x86, 0xdd] { (frame[14] << 4 | frame[15] >> 4) >> 2 } else { frame[15] >> 2 };
    match (on_a, dscp) {
        (true, 11) => Some(true),
        (false, 22) => Some(false),
        _ => None,
    }
}

fn packet(n: u32) -> MemoryBuf {
    let eth = Packet::eth(CLIENT, port_mac(2));
    let packet = if n.is_multiple_of(2) {
        eth.ip(ip("192.0.2.7"), (0x0808_0000 + n).to_be_bytes().into())
    } else {
        eth.ip(ip("2001:db8::7"), (0x2001_4860 << 96 | u128::from(n)).to_be_bytes().into())
    };
    MemoryBuf::new(&packet.udp(1000, 2000).payload(n.to_be_bytes()).build())
}

#[test]
fn a_thousand_pushes_lose_and_mix_nothing() {
    const PUSHES: u64 = 1000;
    let mut node = Node::new(&tables(true)).unwrap();
    for (name, index, neighbour, own) in [
        ("a", 0, "10.0.1.2", "10.0.1.1"),
        ("a", 0, "fd00:1::2", "fd00:1::1"),
        ("b", 1, "10.0.2.2", "10.0.2.1"),
        ("b", 1, "fd00:2::2", "fd00:2::1"),
    ] {
        node.receive(name, &introduction(neighbour, GATEWAY, own, port_mac(index), None));
    }
    node.run(1);
    assert_eq!(node.sent().len(), 4);
    let wires: Vec<Wire> = ["a", "b", "in"].iter().map(|name| node.wire(name).unwrap().clone()).collect();
    let (a, b, input) = (&wires[0], &wires[1], &wires[2]);
    let Node { mut publisher, mut worker, mut slow, .. } = node;
    let stop = AtomicBool::new(false);
    let (mut put, mut seen, mut by_generation) = (0u32, 0u32, [0u32; 2]);
    std::thread::scope(|scope| {
        let node = scope.spawn(|| {
            let start = Instant::now();
            let mut idle = 0;
            // Idle turns after the stop, so that nothing stays in a ring.
            while idle < 100 {
                let now = 2 + start.elapsed().as_nanos() as u64;
                let moved = worker.turn(now).packets + slow.turn(now);
                idle = if moved == 0 && stop.load(Ordering::Acquire) { idle + 1 } else { 0 };
            }
            worker.stats().totals.read().plus(&slow.stats().totals.read())
        });
        let mut account = |wire: &Wire, on_a: bool| {
            for packet in wire.take() {
                let generation = generation_of(on_a, packet.data());
                assert!(
                    generation.is_some(),
                    "a packet on port {} was judged by a mixture",
                    if on_a { "a" } else { "b" }
                );
                by_generation[usize::from(generation == Some(true))] += 1;
                seen += 1;
            }
        };
        let deadline = Instant::now() + Duration::from_mins(1);
        let budget = Budget { counters: 1 << 12, policers: 1 << 10, ..Budget::default() };
        for push in 0..PUSHES {
            assert!(Instant::now() < deadline, "pushes did not settle in time");
            let snapshot = build(&tables(!push.is_multiple_of(2)), Some(publisher.current()), &budget).unwrap();
            // Half before, half while it settles: at most 256 a push, so the wires never fill up.
            input.put_all((put..put + 128).map(packet));
            put += 128;
            let generation = publisher.publish(snapshot);
            input.put_all((put..put + 128).map(packet));
            put += 128;
            while !publisher.settled(generation) {
                assert!(Instant::now() < deadline, "push {push} did not settle");
                std::thread::yield_now();
            }
            publisher.reclaim();
            account(a, true);
            account(b, false);
        }
        stop.store(true, Ordering::Release);
        let totals = node.join().unwrap();
        account(a, true);
        account(b, false);
        assert_eq!(totals.residue(), 0);
        assert_eq!(totals.dropped, 0);
    });
    assert_eq!(seen, put, "packets lost");
    assert!(by_generation.iter().all(|&n| n > 100), "both generations worked: {by_generation:?}");
}

/// The swap broken on purpose: rules of one generation, routes of the other. The check above must notice.
#[test]
fn a_torn_swap_would_be_noticed() {
    let budget = Budget::default();
    let (old, new) = (build(&tables(true), None, &budget).unwrap(), build(&tables(false), None, &budget).unwrap());
    let (facts, neighbours) = (PortFacts::default(), NeighbourTable::default());
    for slot in 0..3 {
        facts.set_mac(PortSlot::from_index(slot), port_mac(slot));
    }
    let gateway = marchproxy_engine::flow::from_ip(ip("10.0.2.2"));
    neighbours.set(&NeighbourKey { port: PortSlot::from_index(1), vlan: 0, address: gateway }, GATEWAY);
    let (mut sessions, stats) = (Sessions::heap(16, 1), ThreadStats::new(16));
    let mut burst: Burst<MemoryBuf> = Burst::default();
    burst.receive().push(packet(0));
    burst.begin(PortSlot::from_index(2));
    parse::process(&mut burst, &old, &facts);
    marchproxy_engine::stage::rule::process(&mut burst, &old, &stats);
    let sampling = &mut Sampling::new(None);
    let mut context = balance::Context {
        snapshot: &old,
        generation: 1,
        sessions: &mut sessions,
        sampling,
        stats: &stats,
        now: 1,
        hits: [0; 2],
        anew: marchproxy_engine::burst::Mask::default(),
    };
    balance::process(&mut burst, &mut context);
    route::process(&mut burst, &new, &neighbours);
    let mut context = finish::Context {
        snapshot: &new,
        generation: 2,
        facts: &facts,
        neighbours: &neighbours,
        policers: &mut Policers::new(0, 0),
        stats: &stats,
        now: 1,
    };
    finish::process(&mut burst, &mut context);
    let lane = marchproxy_engine::burst::Mask::first(1).lanes().next().unwrap();
    let frame = burst.packet(lane).unwrap().data();
    assert_eq!(generation_of(false, frame), None, "old mark, new port");
}
