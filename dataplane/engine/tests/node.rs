//! A node on the memory backend does its work end to end: resolve, balance both ways, deny, and lose nothing.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
mod shaped;

use std::net::IpAddr;

use common::{CLIENT, SERVER, ip, tables};
use marchproxy_engine::packet::{Packet, describe};
use marchproxy_engine::reason::DropReason;
use marchproxy_engine::testkit::{Node, port_mac};

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
