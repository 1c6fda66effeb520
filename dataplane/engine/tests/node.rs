//! A node on the memory backend does its work end to end: forward, resolve, balance, answer, police, and lose nothing.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use marchproxy_engine::io::Mac;
use marchproxy_engine::packet::{Packet, describe};
use marchproxy_engine::reason::DropReason;
use marchproxy_engine::tables::*;
use marchproxy_engine::testkit::{Node, port_mac};

const CLIENT: Mac = [2, 0, 0, 0, 0, 0x11];
const SERVER: Mac = [2, 0, 0, 0, 0, 0x22];

fn cidr(text: &str) -> Cidr {
    let (addr, len) = text.split_once('/').unwrap();
    Cidr { addr: addr.parse().unwrap(), len: len.parse().unwrap() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn interface(name: &str, port: usize, vlan: Option<u16>, addresses: &[&str]) -> InterfaceSpec {
    InterfaceSpec {
        name: name.into(),
        port,
        vlan,
        addresses: addresses.iter().map(|a| cidr(a)).collect(),
        table: 0,
        trust_dscp: true,
    }
}

fn tables() -> RuleTables {
    let port = |name: &str| PortSpec { name: name.into(), device: String::new(), mtu: 1500 };
    let backend = |name: &str, address: &str| BackendSpec {
        name: name.into(),
        address: ip(address),
        port: Some(8080),
        weight: 1,
        draining: false,
    };
    RuleTables {
        ports: vec![port("lan"), port("wan")],
        interfaces: vec![
            interface("lan20", 0, Some(20), &["10.0.20.1/24", "fd00:20::1/64"]),
            interface("wan0", 1, None, &["192.0.2.1/24", "2001:db8::1/64"]),
        ],
        rules: vec![
            RuleSpec {
                name: "no-telnet".into(),
                priority: 1,
                matches: RuleMatch {
                    protocol: Some(6),
                    dst_ports: vec![PortRange { first: 23, last: 23 }],
                    ..RuleMatch::default()
                },
                action: RuleAction::Deny,
                mark: None,
            },
            RuleSpec {
                name: "rest".into(),
                priority: 2,
                matches: RuleMatch::default(),
                action: RuleAction::Permit,
                mark: Some(10),
            },
        ],
        services: vec![ServiceSpec {
            name: "web".into(),
            addresses: vec![ip("203.0.113.10"), ip("2001:db8:1::10")],
            protocol: ServiceProtocol::Tcp,
            ports: vec![PortRange { first: 80, last: 80 }],
            source_affinity: false,
            backends: vec![backend("a", "10.0.20.11"), backend("b", "fd00:20::12")],
            policer: None,
            mark: None,
        }],
        ..RuleTables::default()
    }
}

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

#[test]
fn balances_both_ways_after_resolving() {
    for (client, vip, backend, gateway) in [
        ("192.0.2.7", "203.0.113.10", "10.0.20.11", "192.0.2.1"),
        ("2001:db8::7", "2001:db8:1::10", "fd00:20::12", "2001:db8::1"),
    ] {
        let mut lab = Lab::new();
        let (lan, wan) = (port_mac(0), port_mac(1));
        let _ = gateway;
        let syn = Packet::eth(CLIENT, wan).ip(ip(client), ip(vip)).tcp(40_000, 80).flags(2).build();
        let sent = lab.step("wan", &syn);
        assert_eq!(sent.len(), 1, "{:?}", shown(&sent));
        assert_eq!(sent[0].0, "lan", "the backend is asked for first: {:?}", shown(&sent));
        let answer = match (ip(backend), ip("10.0.20.1"), ip("fd00:20::1")) {
            (IpAddr::V4(b), IpAddr::V4(own), _) => Packet::eth(SERVER, lan).vlan(20).arp_reply(b, own).build(),
            (IpAddr::V6(b), _, IpAddr::V6(own)) => Packet::eth(SERVER, lan)
                .vlan(20)
                .ipv6(b, own)
                .neighbour_advertisement(b, 0x60)
                .nd_option(2, &SERVER)
                .build(),
            _ => unreachable!(),
        };
        let sent = lab.step("lan", &answer);
        assert_eq!(sent.len(), 1, "the held packet leaves: {:?}", shown(&sent));
        let text = describe(&sent[0].1);
        assert!(text.contains(backend) && text.contains("8080"), "{text}");
        let reply = Packet::eth(SERVER, lan).vlan(20).ip(ip(backend), ip(client)).tcp(8080, 40_000).flags(0x12).build();
        let sent = lab.step("lan", &reply);
        assert_eq!(sent[0].0, "wan", "{:?}", shown(&sent));
        let client_answer = match (ip(client), ip("192.0.2.1"), ip("2001:db8::1")) {
            (IpAddr::V4(c), IpAddr::V4(own), _) => Packet::eth(CLIENT, wan).arp_reply(c, own).build(),
            (IpAddr::V6(c), _, IpAddr::V6(own)) => {
                Packet::eth(CLIENT, wan).ipv6(c, own).neighbour_advertisement(c, 0x60).nd_option(2, &CLIENT).build()
            }
            _ => unreachable!(),
        };
        let sent = lab.step("wan", &client_answer);
        let text = describe(&sent[0].1);
        assert!(text.contains(vip) && text.contains("80"), "{text}");
    }
}

#[test]
fn a_denied_port_is_counted() {
    let mut lab = Lab::new();
    let telnet = Packet::eth(CLIENT, port_mac(1)).ip(ip("192.0.2.7"), ip("10.0.20.9")).tcp(40_000, 23).flags(2).build();
    assert!(lab.step("wan", &telnet).is_empty());
    assert_eq!(lab.node.drops(DropReason::RuleDeny), 1);
}
