//! `BEHAVIOUR.md` clause by clause: packets in, packets and reasons out.

mod addresses;
mod announce;
mod direct;
mod forwarding;
mod fragments;
mod frames;
mod full_nat;
mod icmp;
mod limits;
mod marks;
mod neighbours;
mod random;
mod related;
mod rules;
mod sessions;
mod urpf;

use std::net::IpAddr;

use super::*;
use crate::packet::{Check, Packet, checksums, describe};
use crate::tables::*;

/// Ports and the hosts behind them.
const LAN: Mac = [2, 0, 0, 0, 0, 0x01];
const WAN: Mac = [2, 0, 0, 0, 0, 0x02];
const SERVER: Mac = [2, 0, 0, 0, 0, 0x11];
const GATEWAY: Mac = [2, 0, 0, 0, 0, 0x22];
const CLIENT: Mac = [2, 0, 0, 0, 0, 0x33];
const NAMES: [(Mac, &str); 6] =
    [(LAN, "LAN"), (WAN, "WAN"), (SERVER, "SERVER"), (GATEWAY, "GATEWAY"), (CLIENT, "CLIENT"), ([0xff; 6], "ALL")];

const LAN_PORT: usize = 0;
const WAN_PORT: usize = 1;

const SECOND: u64 = 1_000_000_000;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn cidr(text: &str) -> Cidr {
    let (addr, len) = text.split_once('/').unwrap();
    Cidr { addr: ip(addr), len: len.parse().unwrap() }
}

fn interface(name: &str, port: usize, vlan: Option<u16>, table: u32, addresses: &[&str]) -> InterfaceSpec {
    let addresses = addresses.iter().map(|text| cidr(text)).collect();
    InterfaceSpec { name: name.into(), port, vlan, addresses, table, trust_dscp: true, ..Default::default() }
}

fn via(table: u32, prefix: &str, hops: &[(&str, usize, u16)]) -> RouteSpec {
    let hop =
        |&(address, interface, weight): &(&str, usize, u16)| NextHopSpec { address: ip(address), interface, weight };
    RouteSpec { table, prefix: cidr(prefix), action: RouteAction::Via(hops.iter().map(hop).collect()) }
}

fn backend(name: &str, address: &str, port: Option<u16>) -> BackendSpec {
    BackendSpec { name: name.into(), address: ip(address), port, weight: 1, ..Default::default() }
}

fn service(name: &str, protocol: ServiceProtocol, port: Option<u16>, backends: Vec<BackendSpec>) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        addresses: vec![ip("203.0.113.10"), ip("2001:db8:10::10")],
        protocol,
        ports: port.map(|port| PortRange { first: port, last: port }).into_iter().collect(),
        source_affinity: false,
        backends,
        policer: None,
        mark: None,
        ..Default::default()
    }
}

fn rule(name: &str, matches: RuleMatch, action: RuleAction) -> RuleSpec {
    RuleSpec { name: name.into(), priority: 10, matches, action, mark: None, ..Default::default() }
}

/// Two ports: servers on VLAN 20 of the first, the world on the second. No rules.
fn tables() -> RuleTables {
    let port = |name: &str, mtu| PortSpec { name: name.into(), device: String::new(), mtu };
    RuleTables {
        ports: vec![port("lan", 1500), port("wan", 1400)],
        interfaces: vec![
            interface("lan20", 0, Some(20), 0, &["10.0.20.1/24", "fd00:20::1/64"]),
            interface("blue", 0, Some(30), 7, &["10.0.30.1/24"]),
            interface("wan0", 1, None, 0, &["192.0.2.1/24", "2001:db8::1/64"]),
        ],
        routes: vec![
            via(0, "0.0.0.0/0", &[("192.0.2.254", 2, 1)]),
            via(0, "::/0", &[("2001:db8::fe", 2, 1)]),
            RouteSpec { table: 0, prefix: cidr("10.8.0.0/16"), action: RouteAction::Reject },
            RouteSpec { table: 0, prefix: cidr("10.9.0.0/16"), action: RouteAction::Blackhole },
            RouteSpec { table: 0, prefix: cidr("fd08::/16"), action: RouteAction::Reject },
            RouteSpec { table: 0, prefix: cidr("fd09::/16"), action: RouteAction::Blackhole },
        ],
        services: vec![
            service(
                "dns",
                ServiceProtocol::Udp,
                Some(53),
                vec![backend("a", "10.0.20.11", None), backend("b", "fd00:20::11", None)],
            ),
            service(
                "ping",
                ServiceProtocol::Icmp,
                None,
                vec![backend("a", "10.0.20.11", None), backend("b", "fd00:20::11", None)],
            ),
            service(
                "web",
                ServiceProtocol::Tcp,
                Some(80),
                vec![backend("a", "10.0.20.11", Some(8080)), backend("b", "fd00:20::11", Some(8080))],
            ),
        ],
        ..RuleTables::default()
    }
}

/// A node and a clock; every step checks conservation and the checksums of what is sent.
struct Lab {
    node: Reference,
    now: u64,
    /// Whether everything that is sent must have right L4 checksums.
    sound: bool,
}

impl Lab {
    fn new() -> Self {
        Self::with(tables())
    }

    /// A node that knows nobody.
    fn bare(tables: RuleTables) -> Self {
        Self { node: Reference::new(tables, vec![LAN, WAN]), now: SECOND, sound: true }
    }

    /// A node that knows its servers and its gateway.
    fn with(tables: RuleTables) -> Self {
        let mut lab = Self::bare(tables);
        for host in ["10.0.20.11", "10.0.20.12", "10.0.20.5"] {
            lab.step(LAN_PORT, &from_server().arp_request(v4(host), v4("10.0.20.1")));
        }
        for host in ["fd00:20::11", "fd00:20::12", "fd00:20::5"] {
            let ask = from_server().ip(ip(host), ip("fd00:20::1")).neighbour_solicitation(v6("fd00:20::1"));
            lab.step(LAN_PORT, &ask.source_link_layer(SERVER));
        }
        lab.step(WAN_PORT, &from_gateway().arp_request([192, 0, 2, 254], [192, 0, 2, 1]));
        let ask = from_gateway().ip(ip("2001:db8::fe"), ip("2001:db8::1")).neighbour_solicitation(v6("2001:db8::1"));
        lab.step(WAN_PORT, &ask.source_link_layer(GATEWAY));
        lab
    }

    /// One packet, a millisecond after the last: its fate, then every frame sent.
    fn step(&mut self, port: usize, packet: &Packet) -> Vec<String> {
        self.now += 1_000_000;
        self.receive(port, &packet.build())
    }

    fn receive(&mut self, port: usize, frame: &[u8]) -> Vec<String> {
        let held = self.node.held();
        let out = self.node.process(self.now, port, frame, Choices::default());
        self.told(&out, 1, held)
    }

    /// The timers after this many nanoseconds more.
    fn wait(&mut self, ns: u64) -> Vec<String> {
        self.now += ns;
        let held = self.node.held();
        let out = self.node.tick(self.now);
        self.told(&out, 0, held)
    }

    fn push(&mut self, tables: RuleTables) -> Vec<String> {
        let held = self.node.held();
        let out = self.node.replace(tables);
        self.told(&out, 0, held)
    }

    fn told(&self, out: &Outcome, received: usize, held: usize) -> Vec<String> {
        assert_conserved(out, received, held, self.node.held());
        assert_eq!(out.fates.len(), received);
        let drops = out.dropped.iter().map(|reason| format!("dropped {}", reason.label()));
        let fates = out.fates.iter().filter_map(|fate| match fate {
            Fate::Transmitted => Some("transmitted".into()),
            Fate::Dropped(_) => None,
            Fate::Consumed(reason) => Some(format!("consumed {}", reason.label())),
            Fate::Held => Some("held".into()),
        });
        let sent = out.transmitted.iter().map(|(port, frame)| {
            let checks = checksums(frame);
            let line = describe(frame);
            assert_ne!(checks.l3, Check::Bad, "{line}");
            assert!(!self.sound || checks.l4 != Check::Bad, "{line}");
            let line = NAMES
                .iter()
                .fold(line, |line, (mac, name)| line.replace(&mac.map(|octet| format!("{octet:02x}")).join(":"), name));
            format!("{}: {line}", self.node.tables().ports[*port].name)
        });
        drops.chain(fates).chain(sent).collect()
    }
}

fn assert_conserved(out: &Outcome, received: usize, held_before: usize, held_after: usize) {
    let inputs = received + out.originated as usize + held_before;
    assert_eq!(inputs, out.transmitted.len() + out.dropped.len() + out.consumed.len() + held_after, "{out:?}");
}

/// One case of a table: what it shows, where the packet comes in, the packet, everything that happens.
type Case = (&'static str, usize, Packet, &'static [&'static str]);

/// Runs every case on a fresh node.
fn run(cases: Vec<Case>) {
    for (title, port, packet, expected) in cases {
        assert_eq!(Lab::new().step(port, &packet), expected, "{title}");
    }
}

fn v4(text: &str) -> std::net::Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> std::net::Ipv6Addr {
    text.parse().unwrap()
}

/// A frame of a server on VLAN 20 to us.
fn from_server() -> Packet {
    Packet::eth(SERVER, LAN).vlan(20)
}

/// A frame of the gateway to us.
fn from_gateway() -> Packet {
    Packet::eth(GATEWAY, WAN)
}

/// IP over a frame of a server.
fn server(src: &str, dst: &str) -> Packet {
    from_server().ip(ip(src), ip(dst))
}

/// IP over a frame of the gateway.
fn world(src: &str, dst: &str) -> Packet {
    from_gateway().ip(ip(src), ip(dst))
}
