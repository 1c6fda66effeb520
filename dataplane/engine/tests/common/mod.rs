//! What several tests of the engine share: a small dual-stack network with one service.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part; tests may unwrap")]

use std::net::IpAddr;

use marchproxy_engine::io::Mac;
use marchproxy_engine::packet::Packet;
use marchproxy_engine::tables::*;
use marchproxy_engine::testkit::{Node, port_mac};

pub const CLIENT: Mac = [2, 0, 0, 0, 0, 0x11];
pub const SERVER: Mac = [2, 0, 0, 0, 0, 0x22];

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn cidr(text: &str) -> Cidr {
    let (addr, len) = text.split_once('/').unwrap();
    Cidr { addr: addr.parse().unwrap(), len: len.parse().unwrap() }
}

pub fn port(name: &str) -> PortSpec {
    PortSpec { name: name.into(), device: String::new(), mtu: 1500 }
}

pub fn interface(name: &str, port: usize, vlan: Option<u16>, addresses: &[&str]) -> InterfaceSpec {
    let addresses = addresses.iter().map(|a| cidr(a)).collect();
    InterfaceSpec { name: name.into(), port, vlan, addresses, table: 0, trust_dscp: true, ..Default::default() }
}

pub fn backend(name: &str, address: &str) -> BackendSpec {
    BackendSpec { name: name.into(), address: ip(address), port: Some(8080), weight: 1, ..Default::default() }
}

pub fn service(name: &str, addresses: &[&str], protocol: ServiceProtocol, backends: Vec<BackendSpec>) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        protocol,
        ports: vec![PortRange { first: 80, last: 80 }],
        source_affinity: false,
        backends,
        policer: None,
        mark: None,
        ..Default::default()
    }
}

pub fn rule(name: &str, priority: u32, dst_port: Option<u16>, action: RuleAction, mark: Option<u8>) -> RuleSpec {
    let dst_ports = dst_port.map(|p| PortRange { first: p, last: p }).into_iter().collect();
    let matches = RuleMatch { protocol: dst_port.map(|_| 6), dst_ports, ..RuleMatch::default() };
    RuleSpec { name: name.into(), priority, matches, action, mark, ..Default::default() }
}

/// Client side on `wan` (untagged), two backends a family on `lan` VLAN 20; telnet denied, the rest marked AF11 (10).
pub fn tables() -> RuleTables {
    let backends = vec![
        backend("a", "10.0.20.11"),
        backend("b", "10.0.20.12"),
        backend("c", "fd00:20::11"),
        backend("d", "fd00:20::12"),
    ];
    RuleTables {
        ports: vec![port("lan"), port("wan")],
        interfaces: vec![
            interface("lan20", 0, Some(20), &["10.0.20.1/24", "fd00:20::1/64"]),
            interface("wan0", 1, None, &["192.0.2.1/24", "2001:db8::1/64"]),
        ],
        rules: vec![
            rule("no-telnet", 1, Some(23), RuleAction::Deny, None),
            rule("rest", 2, None, RuleAction::Permit, Some(10)),
        ],
        services: vec![service("web", &["203.0.113.10", "2001:db8:1::10"], ServiceProtocol::Tcp, backends)],
        ..RuleTables::default()
    }
}

/// Frames with which a neighbour makes itself known to the node.
pub fn introduction(neighbour: &str, mac: Mac, own: &str, node_mac: Mac, vlan: Option<u16>) -> Vec<u8> {
    let packet = Packet::eth(mac, node_mac);
    let packet = if let Some(vlan) = vlan { packet.vlan(vlan) } else { packet };
    match (ip(neighbour), ip(own)) {
        (IpAddr::V4(neighbour), IpAddr::V4(own)) => packet.arp_request(neighbour, own).build(),
        (IpAddr::V6(neighbour), IpAddr::V6(own)) => {
            packet.ipv6(neighbour, own).neighbour_solicitation(own).source_link_layer(mac).build()
        }
        _ => unreachable!("families differ"),
    }
}

/// Introductions of the client and all backends of [`tables`], by port name.
pub fn introductions() -> Vec<(&'static str, Vec<u8>)> {
    let (lan, wan) = (port_mac(0), port_mac(1));
    let mut all = vec![
        ("wan", introduction("192.0.2.7", CLIENT, "192.0.2.1", wan, None)),
        ("wan", introduction("2001:db8::7", CLIENT, "2001:db8::1", wan, None)),
    ];
    for last in ["11", "12"] {
        all.push(("lan", introduction(&format!("10.0.20.{last}"), SERVER, "10.0.20.1", lan, Some(20))));
        all.push(("lan", introduction(&format!("fd00:20::{last}"), SERVER, "fd00:20::1", lan, Some(20))));
    }
    all
}

/// Lets the client and all backends of [`tables`] make themselves known.
pub fn introduce_everybody(node: &mut Node, now: u64) {
    for (port, frame) in introductions() {
        node.receive(port, &frame);
    }
    node.run(now);
    assert_eq!(node.sent().len(), 6, "everybody is answered");
}
