//! A warmed worker allocates nothing per packet, whatever kind of packet comes.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{CLIENT, SERVER, introduce_everybody, ip, tables};
use marchproxy_engine::memory::MemoryBuf;
use marchproxy_engine::packet::Packet;
use marchproxy_engine::tables::{
    FlagMatch, FragmentMatch, PortRange, RuleAction, RuleMatch, RuleSpec, RuleTables, RuleWay,
};
use marchproxy_engine::testkit::{Node, port_mac};

/// New sessions, known sessions, replies, plain forwarding, denied and malformed packets, both families.
fn frames(round: u16) -> Vec<(&'static str, Vec<u8>)> {
    let (lan, wan) = (port_mac(0), port_mac(1));
    let mut frames = Vec::new();
    for (client, vip, server) in
        [("192.0.2.7", "203.0.113.10", "10.0.20.11"), ("2001:db8::7", "2001:db8:1::10", "fd00:20::11")]
    {
        for n in 0..20u16 {
            let to = |dst: &str, port: u16| Packet::eth(CLIENT, wan).ip(ip(client), ip(dst)).tcp(1000 + n, port);
            frames.push(("wan", to(vip, 80).flags(16).build()));
            frames.push((
                "wan",
                Packet::eth(CLIENT, wan).ip(ip(client), ip(vip)).tcp(2000 + round * 32 + n, 80).flags(2).build(),
            ));
            frames.push(("wan", to(server, 443).flags(16).build()));
            frames.push(("wan", to(server, 23).flags(2).build()));
            frames.push(("wan", to(server, 443).truncate(40).build()));
            let back = Packet::eth(SERVER, lan).vlan(20).ip(ip(server), ip(client));
            frames.push(("lan", back.tcp(8080, 1000 + n).flags(16).build()));
        }
    }
    frames
}

/// The same network under rules that use everything rules can.
fn rare() -> RuleTables {
    let rule = |name: &str, action, matches| RuleSpec { name: name.into(), action, matches, ..Default::default() };
    let telnet = RuleMatch {
        protocol: Some(6),
        dst_ports: vec![PortRange { first: 23, last: 23 }],
        tcp_flags: Some(FlagMatch { value: 2, mask: 2 }),
        ..RuleMatch::default()
    };
    let seen = RuleMatch { dscp: (0..64).collect(), ..RuleMatch::default() };
    let whole = RuleMatch { fragment: Some(FragmentMatch::No), ..RuleMatch::default() };
    RuleTables {
        rules: vec![
            RuleSpec { log_sample: 2, ..rule("seen", RuleAction::Count, seen) },
            RuleSpec { log_sample: 1, ..rule("telnet", RuleAction::Reject, telnet) },
            RuleSpec { log_sample: 3, way: Some(RuleWay::Table(0)), ..rule("whole", RuleAction::Permit, whole) },
        ],
        ..tables()
    }
}

#[test]
fn a_warmed_worker_allocates_nothing() {
    allocates_nothing(&tables());
}

#[test]
fn nor_does_it_under_rules_that_do_everything() {
    allocates_nothing(&rare());
}

fn allocates_nothing(tables: &RuleTables) {
    let mut node = Node::new(tables).unwrap();
    introduce_everybody(&mut node, 1);
    // Twice: once to fill the circulation of buffers, once to see that it stays filled.
    let mut taken: Vec<MemoryBuf> = Vec::with_capacity(4096);
    for round in 0..2 {
        let rx_before = node.totals().rx;
        for (port, frame) in frames(round) {
            node.receive(port, &frame);
        }
        let (lan, wan) = (node.wire("lan").unwrap().clone(), node.wire("wan").unwrap().clone());
        let measured = allocation_counter::measure(|| {
            for _ in 0..32 {
                node.worker.turn(1_000_000_000 + u64::from(round));
            }
        });
        lan.take_into(&mut taken);
        wan.take_into(&mut taken);
        let moved = node.totals().rx - rx_before;
        assert_eq!(moved, 240);
        assert!(taken.len() >= 120, "only {} packets left", taken.len());
        if round > 0 {
            assert_eq!((measured.count_total, measured.bytes_total), (0, 0), "for {moved} packets");
        }
        taken.clear();
    }
    assert_eq!(node.totals().residue(), 0);
}

#[test]
fn the_counter_counts() {
    let measured = allocation_counter::measure(|| drop(std::hint::black_box(vec![0u8; 100])));
    assert_eq!(measured.count_total, 1);
}
