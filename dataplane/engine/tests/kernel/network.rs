//! The network that both routers are in: one neighbour and one connected prefix of each family at each port, and every kind of route.

use marchproxy_engine::io::Mac;
use marchproxy_engine::tables::{Cidr, InterfaceSpec, NextHopSpec, PortSpec, RouteAction, RouteSpec, RuleTables};

/// Somebody at the far end of a wire.
pub struct Neighbour {
    /// The router's port.
    pub port: &'static str,
    pub mac: Mac,
    pub v4: &'static str,
    pub v6: &'static str,
}

/// In order of the ports.
pub const NEIGHBOURS: &[Neighbour] = &[
    Neighbour { port: "wan", mac: [2, 0, 0, 0, 0, 0x11], v4: "192.0.2.7", v6: "2001:db8::7" },
    Neighbour { port: "lan", mac: [2, 0, 0, 0, 0, 0x22], v4: "198.51.100.9", v6: "2001:db8:1::9" },
    Neighbour { port: "narrow", mac: [2, 0, 0, 0, 0, 0x33], v4: "203.0.113.9", v6: "2001:db8:2::9" },
];

/// The router's address of each family at each port.
pub const OWN: &[(&str, &str)] =
    &[("192.0.2.1", "2001:db8::1"), ("198.51.100.1", "2001:db8:1::1"), ("203.0.113.1", "2001:db8:2::1")];

/// MTU of the port `narrow`: the least that IPv6 allows.
pub const NARROW: u16 = 1280;

/// The tables of both.
pub fn tables() -> RuleTables {
    let port = |name: &str, mtu| PortSpec { name: name.into(), device: String::new(), mtu };
    let interfaces = NEIGHBOURS.iter().zip(OWN).enumerate().map(|(index, (neighbour, (v4, v6)))| InterfaceSpec {
        name: neighbour.port.into(),
        port: index,
        addresses: vec![cidr(&format!("{v4}/24")), cidr(&format!("{v6}/64"))],
        trust_dscp: true,
        ..Default::default()
    });
    let routes = [("10.0.0.0/8", "fd00::/16"), ("10.1.0.0/16", "fd00:1::/32")].into_iter().zip([1, 2]);
    let routes = routes.flat_map(|((v4, v6), port)| {
        let hop = &NEIGHBOURS[port];
        [via(v4, hop.v4, port), via(v6, hop.v6, port)]
    });
    let others = [
        route("10.2.0.0/16", RouteAction::Blackhole),
        route("fd00:2::/32", RouteAction::Blackhole),
        route("10.3.0.0/16", RouteAction::Reject),
        route("fd00:3::/32", RouteAction::Reject),
        // Many clients: the kernel limits some errors per source, and no namespace can change that.
        via("172.16.0.0/12", NEIGHBOURS[0].v4, 0),
        // More specific than the black hole around it.
        via("10.2.128.0/17", NEIGHBOURS[1].v4, 1),
        via("fd00:2:8000::/33", NEIGHBOURS[1].v6, 1),
    ];
    RuleTables {
        ports: vec![port("wan", 1500), port("lan", 1500), port("narrow", NARROW)],
        interfaces: interfaces.collect(),
        routes: routes.chain(others).collect(),
        ..Default::default()
    }
}

/// As `ip` takes it.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

fn cidr(text: &str) -> Cidr {
    let (addr, len) = text.split_once('/').unwrap();
    Cidr { addr: addr.parse().unwrap(), len: len.parse().unwrap() }
}

fn route(prefix: &str, action: RouteAction) -> RouteSpec {
    RouteSpec { table: 0, prefix: cidr(prefix), action }
}

fn via(prefix: &str, address: &str, interface: usize) -> RouteSpec {
    let hop = NextHopSpec { address: address.parse().unwrap(), interface, weight: 1 };
    route(prefix, RouteAction::Via(vec![hop]))
}
