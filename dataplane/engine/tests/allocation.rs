//! A warmed worker allocates nothing per packet, whatever kind of packet comes.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{CLIENT, SERVER, introduce_everybody, ip, tables};
use marchproxy_engine::memory::MemoryBuf;
use marchproxy_engine::observe::{Lens, Order, Point, language};
use marchproxy_engine::packet::Packet;
use marchproxy_engine::table::sessions::{FlowSettings, Flows};
use marchproxy_engine::tables::{
    FlagMatch, FlowsSpec, FragmentMatch, PortRange, QueueSpec, RuleAction, RuleMatch, RuleSpec, RuleTables, RuleWay,
    ShaperSpec,
};
use marchproxy_engine::testkit::{Node, port_mac};
use marchproxy_engine::worker::{Command, Reply};

/// New sessions, known sessions, replies, plain forwarding, denied and malformed packets, fragments in any order, both families.
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
            let part = |offset| Packet::eth(CLIENT, wan).ip(ip(client), ip(vip)).fragment(offset, true, round * 32 + n);
            frames.push(("wan", part(24).protocol(6).payload([0; 8]).build()));
            if n < 10 {
                frames.push(("wan", part(0).tcp(1000 + n, 80).flags(16).payload([0; 4]).build()));
            }
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
    two_rounds(&mut node, |_| {});
}

#[test]
fn nor_does_it_with_queues() {
    let queue = QueueSpec { rate_kbps: 50_000_000, target_us: 5, ecn: true, ..QueueSpec::default() };
    let mut tables = tables();
    tables.services[0].queue = queue;
    let shaper = |port| ShaperSpec { port, rate_kbps: 100_000_000, ..ShaperSpec::default() };
    allocates_nothing(&RuleTables { shapers: vec![shaper(0), shaper(1)], ..tables });
}

#[test]
fn nor_does_one_that_is_looked_at() {
    for point in [Point::Trace, Point::Rx, Point::PostNat, Point::Tx, Point::Drop] {
        let mut node = Node::new(&tables()).unwrap();
        introduce_everybody(&mut node, 1);
        // Room for some packets only: those that are missed cost nothing either.
        let filter = language::parse("tcp and not sport 1003 or reason l4_malformed", None).unwrap();
        let order = Order { filter, point, snaplen: 64, wanted: 1 << 20, span: 1 << 60 };
        node.commands.push(Command::Observe(Some(Lens::new(order, 32, 32 * 60)))).unwrap();
        node.worker.turn(2);
        node.replies.pop().unwrap();
        two_rounds(&mut node, |node| {
            node.commands.push(Command::Observe(None)).unwrap();
            node.worker.turn(3);
            let Ok(Reply::Observed(Some(mut lens))) = node.replies.pop() else { panic!("no lens") };
            assert!(lens.records.len() >= 15 && lens.missed > 0, "{point:?}: {} {}", lens.records.len(), lens.missed);
            lens.renew(1 << 20, 1 << 60);
            node.commands.push(Command::Observe(Some(lens))).unwrap();
            node.worker.turn(3);
            node.replies.pop().unwrap();
        });
    }
}

#[test]
fn nor_does_one_that_tells_of_sessions() {
    let spec = FlowsSpec {
        collector: "192.0.2.50:4739".parse().unwrap(),
        domain: 0,
        one_of: 2,
        active_timeout_s: 1,
        template_refresh_s: 60,
        message_octets: 1232,
        nat_events: true,
        services: vec![],
    };
    let mut node = Node::new(&RuleTables { flows: Some(spec), ..tables() }).unwrap();
    introduce_everybody(&mut node, 1);
    // Room for some records only: those that are lost cost nothing either.
    let (records, ring) = rtrb::RingBuffer::new(8);
    let settings = FlowSettings { one_of: 2, active_timeout: 1, nat_events: true };
    node.commands.push(Command::Flows(Some(Flows::new(4096, settings, records)))).unwrap();
    node.worker.turn(2);
    node.replies.pop().unwrap();
    two_rounds(&mut node, |_| {});
    assert_eq!(ring.slots(), 8);
    assert!(node.worker.stats().flow_records_lost.value() > 0);
}

fn two_rounds(node: &mut Node, after: impl Fn(&mut Node)) {
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
        assert_eq!(moved, 300);
        assert!(taken.len() >= 120, "only {} packets left", taken.len());
        if round > 0 {
            assert_eq!((measured.count_total, measured.bytes_total), (0, 0), "for {moved} packets");
        }
        taken.clear();
        after(node);
    }
    assert_eq!((node.totals().residue(), node.totals().held), (0, 40));
}

#[test]
fn the_counter_counts() {
    let measured = allocation_counter::measure(|| drop(std::hint::black_box(vec![0u8; 100])));
    assert_eq!(measured.count_total, 1);
}
