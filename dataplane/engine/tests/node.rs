//! A node on the memory backend does its work end to end: resolve, balance both ways, deny, and lose nothing.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
mod shaped;

use std::net::IpAddr;

use common::{CLIENT, SERVER, ip, tables};
use marchproxy_engine::packet::{Packet, describe};
use marchproxy_engine::reason::DropReason;
use marchproxy_engine::table::sessions::{FlowEnd, FlowEvent, FlowRecord, FlowSettings, Flows};
use marchproxy_engine::tables::{FlowsSpec, RuleTables};
use marchproxy_engine::testkit::{Node, port_mac};
use marchproxy_engine::worker::{Command, Reply};

struct Lab {
    node: Node,
    now: u64,
}

impl Lab {
    fn new() -> Self {
        Self { node: Node::new(&tables()).unwrap(), now: 1_000_000_000 }
    }

    fn step(&mut self, port: &str, frame: impl AsRef<[u8]>) -> Vec<(String, Vec<u8>)> {
        self.now += 1_000_000;
        self.node.receive(port, frame.as_ref());
        self.node.run(self.now);
        assert_eq!(self.node.totals().residue(), 0);
        self.node.sent()
    }
}

fn shown(sent: &[(String, Vec<u8>)]) -> Vec<String> {
    sent.iter().map(|(port, frame)| format!("{port}: {}", describe(frame))).collect()
}

/// The answer to a request for `neighbour`'s MAC address.
fn answer(neighbour: IpAddr, own: IpAddr, mac: [u8; 6], node_mac: [u8; 6], vlan: Option<u16>) -> Vec<u8> {
    let packet = Packet::eth(mac, node_mac);
    let packet = if let Some(vlan) = vlan { packet.vlan(vlan) } else { packet };
    match (neighbour, own) {
        (IpAddr::V4(n), IpAddr::V4(own)) => packet.arp_reply(n, own).build(),
        (IpAddr::V6(n), IpAddr::V6(own)) => {
            packet.ipv6(n, own).neighbour_advertisement(n, 0x60).target_link_layer(mac).build()
        }
        _ => unreachable!("families differ"),
    }
}

#[test]
fn balances_both_ways_after_resolving() {
    for (client, vip, backends, own_lan, own_wan) in [
        ("192.0.2.7", "203.0.113.10", "10.0.20.1", "10.0.20.1", "192.0.2.1"),
        ("2001:db8::7", "2001:db8:1::10", "fd00:20::1", "fd00:20::1", "2001:db8::1"),
    ] {
        let mut lab = Lab::new();
        let (lan, wan) = (port_mac(0), port_mac(1));
        let syn = Packet::eth(CLIENT, wan).ip(ip(client), ip(vip)).tcp(40_000, 80).flags(2).build();
        let sent = lab.step("wan", &syn);
        assert_eq!(sent.len(), 1, "{:?}", shown(&sent));
        assert_eq!(sent[0].0, "lan", "the backend is asked for first: {:?}", shown(&sent));
        let asked = describe(&sent[0].1);
        let backend = ip(&format!("{backends}{}", if asked.contains(&format!("{backends}1")) { 1 } else { 2 }));
        let sent = lab.step("lan", answer(backend, ip(own_lan), SERVER, lan, Some(20)));
        assert_eq!(sent.len(), 1, "the held packet leaves: {:?}", shown(&sent));
        let text = describe(&sent[0].1);
        assert!(text.contains(&backend.to_string()) && text.contains("8080"), "{text}");
        let reply = Packet::eth(SERVER, lan).vlan(20).ip(backend, ip(client)).tcp(8080, 40_000).flags(0x12).build();
        let sent = lab.step("lan", &reply);
        assert_eq!(sent[0].0, "wan", "{:?}", shown(&sent));
        let sent = lab.step("wan", answer(ip(client), ip(own_wan), CLIENT, wan, None));
        let text = describe(&sent[0].1);
        assert!(text.contains(vip) && !text.contains("8080"), "{text}");
    }
}

/// Fragments whose first one never comes take what is set aside for them; whole packets and packets in fragments go on.
#[test]
fn a_flood_of_fragments_harms_nobody_else() {
    let mut lab = Lab::new();
    common::introduce_everybody(&mut lab.node, lab.now);
    let wan = port_mac(1);
    for (client, vip) in [("192.0.2.7", "203.0.113.10"), ("2001:db8::7", "2001:db8:1::10")] {
        for round in 0..100u16 {
            for n in 0..100 {
                let server = if client.contains(':') { "fd00:20::11" } else { "10.0.20.11" };
                let flood = Packet::eth(CLIENT, wan).ip(ip(client), ip(server));
                let flood = flood.fragment(1480, false, round * 100 + n).protocol(17).payload([0; 32]);
                lab.node.receive("wan", &flood.build());
            }
            let part =
                |offset, more| Packet::eth(CLIENT, wan).ip(ip(client), ip(vip)).fragment(offset, more, 60_000 + round);
            lab.node.receive("wan", &part(24, false).protocol(6).payload([1; 9]).build());
            let first = part(0, true).tcp(1000 + round, 80).flags(2).payload([0; 4]).build();
            let whole = Packet::eth(CLIENT, wan).ip(ip(client), ip(vip)).tcp(3000 + round, 80).flags(2).build();
            lab.node.receive("wan", &first);
            assert_eq!(lab.step("wan", &whole).len(), 3, "the packet in two fragments and the whole one");
            assert!(lab.node.totals().held <= 512);
        }
    }
    // One place was left by the last packet that became whole.
    assert_eq!(lab.node.totals().held, 511);
    assert_eq!(lab.node.drops(DropReason::FragmentHoldFull), 20_000 - 511);
    lab.now += 3_000_000_000;
    lab.node.run(lab.now);
    for _ in 0..20 {
        lab.node.worker.turn(lab.now);
    }
    assert_eq!((lab.node.totals().held, lab.node.totals().residue()), (0, 0));
    assert_eq!(lab.node.drops(DropReason::FragmentFirstMissing), 511);
}

#[test]
fn a_denied_port_is_counted() {
    let mut lab = Lab::new();
    let telnet = Packet::eth(CLIENT, port_mac(1)).ip(ip("192.0.2.7"), ip("10.0.20.9")).tcp(40_000, 23).flags(2).build();
    assert!(lab.step("wan", &telnet).is_empty());
    assert_eq!(lab.node.drops(DropReason::RuleDeny), 1);
}

const SECOND: u64 = 1_000_000_000;

/// The tables of the lab with an export of one of so many sessions.
fn with_flows(one_of: u32, nat_events: bool) -> RuleTables {
    let spec = FlowsSpec {
        collector: "192.0.2.50:4739".parse().unwrap(),
        domain: 0,
        one_of,
        active_timeout_s: 60,
        template_refresh_s: 60,
        message_octets: 1232,
        nat_events,
        services: vec![0],
    };
    RuleTables { flows: Some(spec), ..tables() }
}

/// A lab that tells of sessions; its ring has room for so many records.
fn telling(one_of: u32, nat_events: bool, room: usize) -> (Lab, rtrb::Consumer<FlowRecord>) {
    let mut lab = Lab { node: Node::new(&with_flows(one_of, nat_events)).unwrap(), now: SECOND };
    common::introduce_everybody(&mut lab.node, lab.now);
    let (records, ring) = rtrb::RingBuffer::new(room);
    let settings = FlowSettings { one_of, active_timeout: 60 * SECOND, nat_events };
    lab.node.commands.push(Command::Flows(Some(Flows::new(4096, settings, records)))).unwrap();
    lab.node.run(lab.now);
    assert!(matches!(lab.node.replies.pop(), Ok(Reply::Flows(None))));
    (lab, ring)
}

fn drained(ring: &mut rtrb::Consumer<FlowRecord>) -> Vec<FlowRecord> {
    std::iter::from_fn(|| ring.pop().ok()).collect()
}

/// Enough turns for every entry to be looked at.
fn wait(lab: &mut Lab, seconds: u64) {
    lab.now += seconds * SECOND;
    for _ in 0..600 {
        lab.node.worker.turn(lab.now);
    }
}

#[test]
fn sessions_are_told_when_they_begin_go_on_and_end() {
    for (client, vip, family) in
        [("192.0.2.7", "203.0.113.10", "10.0.20.1"), ("2001:db8::7", "2001:db8:1::10", "fd00:20::1")]
    {
        let (mut lab, mut ring) = telling(1, true, 64);
        let to = |flags, payload: &'static [u8]| {
            Packet::eth(CLIENT, port_mac(1))
                .ip(ip(client), ip(vip))
                .tcp(40_000, 80)
                .flags(flags)
                .payload(payload)
                .build()
        };
        let sent = lab.step("wan", to(2, b""));
        let began = lab.now;
        let text = describe(&sent[0].1);
        let backend = if text.contains(&format!("{family}1")) { format!("{family}1") } else { format!("{family}2") };
        let back = |flags| {
            let packet = Packet::eth(SERVER, port_mac(0)).vlan(20).ip(ip(&backend), ip(client));
            packet.tcp(8080, 40_000).flags(flags).build()
        };
        lab.step("lan", back(0x12));
        lab.step("wan", to(16, b"some words"));
        // Without a session, and of none: a stranger's, and a packet that passes by.
        lab.step("wan", Packet::eth(CLIENT, port_mac(1)).ip(ip(client), ip(&backend)).tcp(9, 443).flags(16).build());
        let records = drained(&mut ring);
        assert_eq!(records.len(), 1, "{records:?}");
        let FlowRecord { event, key, backend: (to_address, port), first, packets, .. } = records[0];
        assert_eq!((event, first, packets), (FlowEvent::Began, [began; 2], [0, 0]));
        assert_eq!((key.sport, key.dport, port), (40_000, 80, 8080));
        assert_eq!(marchproxy_engine::flow::to_ip(to_address), ip(&backend));

        wait(&mut lab, 59);
        assert_eq!(drained(&mut ring), []);
        wait(&mut lab, 2);
        let records = drained(&mut ring);
        assert_eq!(records.len(), 1, "{records:?}");
        let header = if client.contains(':') { 60 } else { 40 };
        assert_eq!((records[0].event, records[0].packets), (FlowEvent::Active, [2, 1]));
        assert_eq!(records[0].octets, [2 * header + 10, header]);
        let reply = began + 1_000_000;
        assert_eq!((records[0].first, records[0].last), ([began, reply], [began + 2_000_000, reply]));

        // Another timeout holds from the next turn on, also for sessions that are there.
        let mut sooner = with_flows(1, true);
        sooner.flows.as_mut().unwrap().active_timeout_s = 5;
        lab.node.push(&sooner).unwrap();
        lab.step("wan", to(16, b""));
        wait(&mut lab, 6);
        let records = drained(&mut ring);
        assert_eq!(records.iter().map(|r| (r.event, r.packets)).collect::<Vec<_>>(), [(FlowEvent::Active, [1, 0])]);

        // Nothing new to tell; then both sides close it.
        wait(&mut lab, 61);
        assert_eq!(drained(&mut ring), []);
        lab.step("wan", to(17, b""));
        let closing = lab.now;
        lab.step("lan", back(17));
        wait(&mut lab, 31);
        let records = drained(&mut ring);
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!((records[0].event, records[0].packets), (FlowEvent::Ended(FlowEnd::Closed), [1, 1]));
        assert_eq!(
            (records[0].first, records[0].last),
            ([closing, closing + 1_000_000], [closing, closing + 1_000_000])
        );
        let stats = lab.node.worker.stats();
        assert_eq!(
            (stats.flows_selected.value(), stats.flow_records.value(), stats.flow_records_lost.value()),
            (1, 4, 0)
        );

        // One that is never answered, and one that the end of the node ends.
        lab.step("wan", to(2, b""));
        wait(&mut lab, 31);
        let ends: Vec<_> = drained(&mut ring).iter().map(|record| record.event).collect();
        assert_eq!(ends, [FlowEvent::Began, FlowEvent::Ended(FlowEnd::Idle)]);
        lab.step("wan", to(2, b""));
        lab.node.worker.release();
        let ends: Vec<_> = drained(&mut ring).iter().map(|record| record.event).collect();
        assert_eq!(ends, [FlowEvent::Began, FlowEvent::Ended(FlowEnd::Forced)]);
    }
}

#[test]
fn one_of_so_many_sessions_is_told_and_a_full_ring_is_counted() {
    let (mut lab, mut ring) = telling(3, true, 2);
    let syn =
        |port: u16| Packet::eth(CLIENT, port_mac(1)).ip(ip("192.0.2.7"), ip("203.0.113.10")).tcp(port, 80).flags(2);
    for port in 1000..1010 {
        lab.step("wan", syn(port).build());
    }
    // Its sessions are decided anew by tables without the service: the packet begins nothing.
    lab.node.push(&RuleTables { services: vec![], flows: None, ..tables() }).unwrap();
    lab.step("wan", syn(1000).build());
    let ports: Vec<_> = drained(&mut ring).iter().map(|record| record.key.sport).collect();
    assert_eq!(ports, [1000, 1003], "the rest found no room");
    lab.node.worker.turn(lab.now);
    let stats = lab.node.worker.stats();
    assert_eq!((stats.flows_selected.value(), stats.flows_passed_over.value()), (4, 6));
    assert_eq!((stats.flow_records.value(), stats.flow_records_lost.value()), (5, 3), "four began, one ended");
    // Whoever asked takes it back.
    lab.node.commands.push(Command::Flows(None)).unwrap();
    lab.node.run(lab.now);
    assert!(matches!(lab.node.replies.pop(), Ok(Reply::Flows(Some(_)))));
    assert!(ring.is_abandoned() || ring.is_empty());
}

#[test]
fn a_session_made_in_the_place_of_another_is_counted_once() {
    let (mut lab, mut ring) = telling(1, false, 64);
    let syn = Packet::eth(CLIENT, port_mac(1)).ip(ip("192.0.2.7"), ip("203.0.113.10")).tcp(1000, 80).flags(2);
    lab.step("wan", syn.clone().build());
    // Another mode: the session ends with its next packet, which makes a new one.
    let mut changed = with_flows(1, false);
    changed.services[0].on_backend_loss = marchproxy_engine::tables::BackendLoss::Rebalance;
    changed.services[0].backends.iter_mut().for_each(|b| b.state = marchproxy_engine::tables::BackendState::Down);
    let spare = common::backend("e", "10.0.20.12");
    changed.services[0].backends.push(spare);
    changed.services[0].backends.iter_mut().for_each(|b| b.port = Some(8081));
    lab.node.push(&changed).unwrap();
    lab.step("wan", syn.build());
    let ended = drained(&mut ring);
    assert_eq!((ended.len(), ended[0].packets), (1, [1, 0]), "{ended:?}");
    lab.node.worker.release();
    let ended = drained(&mut ring);
    assert_eq!((ended.len(), ended[0].packets, ended[0].backend.1), (1, [1, 0], 8081), "{ended:?}");
}
