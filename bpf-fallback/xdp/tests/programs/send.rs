//! What goes on in XDP leaves as the engine's reference would send it: the same octets, out of the same port.

use std::net::IpAddr;

use marchproxy_engine::flow::from_ip;
use marchproxy_engine::io::Mac;
use marchproxy_engine::packet::{ACK, Packet, SYN, describe};
use marchproxy_engine::reference::{Choices, Fate, Reference};
use marchproxy_engine::table::neighbours::NeighbourTable;
use marchproxy_engine::tables::{
    BackendSpec, InterfaceSpec, MARK_KEEP, NextHopSpec, PortRange, PortSpec, RouteAction, RouteSpec, RuleAction,
    RuleMatch, RuleSpec, RuleTables, ServiceMode, ServiceProtocol, ServiceSpec, ShaperSpec,
};
use marchproxy_engine::{Budget, Snapshot, build};
use marchproxy_xdp::{Balanced, Counter, OnDaemonLoss, PortFacts, Push, Sending, Steering, Xdp};

use crate::support::{PEER, cidr, ip, xdp};

const TX: u32 = 3;
const REDIRECT: u32 = 4;
/// A test run comes in on interface 1; the other port is said to be another one.
const IFINDEXES: [u32; 2] = [1, 2];
const MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 0x11]];

/// Who is known, by interface.
const NEIGHBOURS: [(usize, &str, Mac); 7] = [
    (0, "192.0.2.254", [2, 0, 0, 1, 0, 1]),
    (0, "2001:db8::fe", [2, 0, 0, 1, 0, 2]),
    (1, "10.0.20.11", [2, 0, 0, 1, 0, 3]),
    (1, "fd00:20::11", [2, 0, 0, 1, 0, 4]),
    (2, "10.0.30.1", [2, 0, 0, 1, 0, 5]),
    (2, "10.0.30.12", [2, 0, 0, 1, 0, 6]),
    (2, "fd00:30::12", [2, 0, 0, 1, 0, 7]),
];

/// Two ports, one with a tag; services in all direct modes and both families; routes of all kinds.
pub fn tables() -> RuleTables {
    let interface = |name: &str, port, vlan, addresses: &[&str], trust_dscp| InterfaceSpec {
        name: name.into(),
        port,
        vlan,
        addresses: addresses.iter().map(|text| cidr(text)).collect(),
        trust_dscp,
        ..Default::default()
    };
    let port = |name: &str, mtu| PortSpec { name: name.into(), device: String::new(), mtu };
    let backend = |name: &str, address: &str, weight| BackendSpec {
        name: name.into(),
        address: ip(address),
        weight,
        ..Default::default()
    };
    let far = [backend("a", "10.9.0.1", 1), backend("b", "10.0.20.11", 3), backend("c", "2001:db8:9::1", 1)];
    let near = [
        backend("a", "10.0.20.11", 1),
        backend("b", "10.0.30.12", 2),
        backend("c", "fd00:20::11", 1),
        backend("d", "fd00:30::12", 1),
    ];
    let service = |name: &str, last: u8, protocol, mode, backends: &[BackendSpec]| ServiceSpec {
        name: name.into(),
        addresses: vec![ip(&format!("203.0.113.{last}")), ip(&format!("2001:db8:1::{last}"))],
        protocol,
        ports: if protocol == ServiceProtocol::Icmp { vec![] } else { vec![PortRange { first: 80, last: 82 }] },
        mode,
        stateless: true,
        backends: backends.to_vec(),
        ..Default::default()
    };
    let (tcp, udp) = (ServiceProtocol::Tcp, ServiceProtocol::Udp);
    let mut services = vec![
        service("echo", 10, ServiceProtocol::Icmp, ServiceMode::DsrGue, &far),
        service("gue", 10, udp, ServiceMode::DsrGue, &far),
        service("gue-tcp", 10, tcp, ServiceMode::DsrGue, &far),
        service("ipip", 11, udp, ServiceMode::DsrIpip, &far),
        service("ipip-tcp", 11, tcp, ServiceMode::DsrIpip, &far),
        service("mac", 12, udp, ServiceMode::DsrMac, &near),
        service("mac-tcp", 12, tcp, ServiceMode::DsrMac, &near),
        service("with-sessions", 13, udp, ServiceMode::DsrMac, &near),
    ];
    services[1].mark = Some(46);
    services[5].source_affinity = true;
    services[7].stateless = false;
    let via = |address: &str, interface| NextHopSpec { address: ip(address), interface, weight: 1 };
    let route = |prefix: &str, action| RouteSpec { table: 0, prefix: cidr(prefix), action };
    let mut routes = vec![
        route("0.0.0.0/0", RouteAction::Via(vec![via("192.0.2.254", 0)])),
        route("::/0", RouteAction::Via(vec![via("2001:db8::fe", 0)])),
        route("10.9.0.0/16", RouteAction::Via(vec![via("10.0.30.1", 2)])),
        route("198.18.0.0/16", RouteAction::Via(vec![via("10.0.30.1", 2), via("192.0.2.254", 0)])),
        route("198.51.100.0/24", RouteAction::Blackhole),
        route("2001:db8:bad::/48", RouteAction::Blackhole),
        route("192.88.99.0/24", RouteAction::Reject),
    ];
    routes.sort_by_key(|route| (route.table, route.prefix));
    RuleTables {
        ports: vec![port("p", 1500), port("q", 1400)],
        interfaces: vec![
            interface("a", 0, None, &["192.0.2.1/24", "2001:db8::1/64"], false),
            interface("b", 0, Some(20), &["10.0.20.1/24", "fd00:20::1/64"], true),
            interface("c", 1, Some(30), &["10.0.30.9/24", "fd00:30::9/64"], false),
        ],
        routes,
        services,
        ..Default::default()
    }
}

pub struct Rig {
    pub xdp: Xdp,
    pub steering: Vec<Steering>,
    snapshot: Snapshot,
    pub neighbours: NeighbourTable,
    reference: Reference,
    facts: Vec<PortFacts>,
}

impl Rig {
    pub fn new(xdp: Xdp, tables: &RuleTables) -> Self {
        let snapshot = build(tables, None, &Budget::default()).unwrap();
        let steering: Vec<_> =
            IFINDEXES.iter().map(|&ifindex| Steering::detached(&xdp, ifindex, OnDaemonLoss::Pass).unwrap()).collect();
        let facts = (0..2).map(|port| PortFacts::new(tables, port, MACS[port], &[])).collect();
        let mut reference = Reference::new(tables.clone(), MACS.to_vec());
        let neighbours = NeighbourTable::default();
        for (interface, address, mac) in NEIGHBOURS {
            let spec = &tables.interfaces[interface];
            let v6 = ip(address).is_ipv6();
            let own = spec.addresses.iter().find(|cidr| cidr.addr.is_ipv6() == v6).unwrap().addr;
            let packet = Packet::eth(mac, if v6 { MACS[spec.port] } else { [0xff; 6] });
            let packet = spec.vlan.into_iter().fold(packet, Packet::vlan);
            let asks = match (ip(address), own) {
                (IpAddr::V4(who), IpAddr::V4(own)) => packet.arp_request(who, own),
                (IpAddr::V6(who), IpAddr::V6(own)) => {
                    packet.ipv6(who, own).ttl(255).neighbour_solicitation(own).source_link_layer(mac)
                }
                _ => unreachable!(),
            };
            let outcome = reference.process(1, spec.port, &asks.build(), Choices::default());
            assert!(matches!(outcome.fate(), Some(Fate::Consumed(_))), "{address}: {:?}", outcome.fate());
            let key = snapshot.interface(interface as u32).unwrap().neighbour(from_ip(ip(address)));
            neighbours.set(&key, mac);
        }
        Self { xdp, steering, snapshot, neighbours, reference, facts }
    }

    pub fn publish(&self) -> marchproxy_xdp::Plan {
        let ports: Vec<_> = self.steering.iter().zip(&self.facts).enumerate().map(|(n, (s, f))| (n, s, f)).collect();
        let sending = Some(self.sending());
        self.xdp.publish(&Push { tables: self.reference.tables(), kernel: &[], ports: &ports, sending }).unwrap()
    }

    pub fn sending(&self) -> Sending<'_> {
        Sending { snapshot: &self.snapshot, neighbours: &self.neighbours }
    }

    /// Runs a frame through both. True: it went on in XDP, as the reference says.
    fn agree(&mut self, frame: &[u8], what: &str) -> bool {
        let outcome = self.reference.process(2, 0, frame, Choices::default());
        let tested = self.steering[0].test_run(frame, 1).unwrap();
        let out = match tested.verdict {
            TX => 0,
            REDIRECT => 1,
            1 => {
                assert!(matches!(outcome.fate(), Some(Fate::Dropped(_))), "{what}: {}", describe(frame));
                return false;
            }
            _ => {
                assert_eq!(tested.frame, frame, "{what}: what is left is as it was");
                return false;
            }
        };
        let [(port, wanted)] = outcome.transmitted.as_slice() else {
            panic!("{what}: {} ended as {:?}, in XDP as {}", describe(frame), outcome.fate(), describe(&tested.frame))
        };
        let both = || format!("{what}: {}\n{}\n{}", describe(frame), describe(wanted), describe(&tested.frame));
        assert_eq!((out, &tested.frame), (*port, wanted), "{}", both());
        true
    }
}

fn client() -> Packet {
    Packet::eth(PEER, MACS[0])
}

#[test]
fn services_and_routes_say_where_they_are() {
    let Some(xdp) = xdp() else { return };
    let mut tables = tables();
    tables.services[3].policer = Some(0);
    tables.policers =
        vec![marchproxy_engine::tables::PolicerSpec { name: "p".into(), cir: 1, cbs: 1500, ..Default::default() }];
    tables.services[1].ports = vec![PortRange::ALL];
    tables.services[4].mark = Some(MARK_KEEP);
    let rig = Rig::new(xdp, &tables);
    let plan = rig.publish();
    let places: Vec<String> = plan.services.iter().map(Balanced::to_string).collect();
    assert_eq!(places[0], "xdp");
    assert_eq!(places[1], "user space: it has more than 64 ports");
    assert_eq!(places[3], "user space: it has a policer");
    assert_eq!(places[4], "user space: its mark depends on the packet");
    assert_eq!(places[7], "user space: it has sessions");
    assert_eq!(plan.forwards_nothing, None);
}

#[test]
fn what_waits_in_queues_is_left() {
    let Some(xdp) = xdp() else { return };
    let mut tables = tables();
    tables.shapers = vec![ShaperSpec { port: 1, rate_kbps: 1_000_000, ..Default::default() }];
    let mut rig = Rig::new(xdp, &tables);
    let plan = rig.publish();
    // Every service has a backend there.
    let wanted = "user space: packets wait at the port of a backend, which is shaped";
    assert!(plan.services[..7].iter().all(|place| place.to_string() == wanted), "{:?}", plan.services);
    let to = |dst: &str| client().ip(ip("8.8.8.8"), ip(dst)).ttl(64).udp(1000, 53).build();
    assert!(!rig.agree(&to("10.9.1.1"), "by the shaped port"));
    assert!(rig.agree(&to("9.9.9.9"), "by the other one"));
}

#[test]
fn what_goes_on_leaves_as_the_engine_sends_it() {
    let Some(xdp) = xdp() else { return };
    let mut rig = Rig::new(xdp, &tables());
    rig.publish();
    let v4 = |dst: &str| client().ip(ip("8.8.8.8"), ip(dst)).ttl(64);
    let v6 = |dst: &str| client().ip(ip("2001:db8:8::8"), ip(dst)).ttl(64);
    let table: Vec<(&str, Packet, bool)> = vec![
        ("GUE", v4("203.0.113.10").udp(1000, 80).payload([7; 100]), true),
        ("GUE over IPv6 or IPv4", v6("2001:db8:1::10").udp(1000, 80).payload([7; 99]), true),
        ("GUE with a tag", v4("203.0.113.10").vlan(20).dscp(10).udp(1000, 81).payload([7; 100]), true),
        ("GUE, echo", v4("203.0.113.10").echo(77, 1).payload([7; 10]), true),
        ("GUE, echo over IPv6", v6("2001:db8:1::10").echo(77, 1), true),
        ("echo reply is no service's", v4("203.0.113.10").echo_reply(77, 1), false),
        ("GUE, TCP", v4("203.0.113.10").tcp(1000, 80).flags(ACK).payload([1; 9]), true),
        ("GUE, SYN", v4("203.0.113.10").tcp(1000, 80).flags(SYN), false),
        ("IP in IP", v4("203.0.113.11").udp(1000, 80).payload([7; 100]), true),
        ("IPv6 in IP", v6("2001:db8:1::11").udp(1000, 80).payload([7; 100]), true),
        ("IP in IP, padded", v4("203.0.113.11").tcp(1000, 80).flags(ACK).padding(6), true),
        ("by MAC", v4("203.0.113.12").udp(1000, 80).payload([7; 100]), true),
        ("by MAC, IPv6", v6("2001:db8:1::12").udp(1000, 80), true),
        ("by MAC, SYN", v4("203.0.113.12").tcp(1000, 80).flags(SYN), true),
        ("TTL of 1", v4("203.0.113.12").ttl(1).udp(1000, 80), false),
        ("TTL of 2", v4("203.0.113.12").ttl(2).udp(1000, 80), true),
        ("another port", v4("203.0.113.12").udp(1000, 79), false),
        ("a service with sessions", v4("203.0.113.13").udp(1000, 80), false),
        (
            "longer than the tunnel lets pass",
            v4("203.0.113.10").dont_fragment().udp(1000, 80).payload([7; 1450]),
            false,
        ),
        ("by the default route", v4("9.9.9.9").udp(1000, 53), true),
        ("by the default route, IPv6", v6("2001:db8:7::7").udp(1000, 53), true),
        ("to the other port", v4("10.9.1.1").dscp(8).tcp(5, 6), true),
        ("to the other port, trusted", v4("10.9.1.1").vlan(20).dscp(8).ecn(1).tcp(5, 6), true),
        ("by one of several", v4("198.18.0.1").udp(1000, 53), false),
        ("rejected", v4("192.88.99.1").udp(1000, 53), false),
        ("to a neighbour", v4("192.0.2.254").udp(1000, 53), false),
        ("nobody known there", v4("192.0.2.33").udp(1000, 53), false),
    ];
    let sent = table.iter().filter(|(_, _, goes_on)| *goes_on).count() as u64;
    for (what, packet, goes_on) in table {
        assert_eq!(rig.agree(&packet.build(), what), goes_on, "{what}");
    }
    for dst in ["198.51.100.1", "2001:db8:bad::1"] {
        let packet = if dst.contains(':') { v6(dst) } else { v4(dst) };
        assert_eq!(rig.steering[0].test_run(&packet.udp(1, 2).build(), 1).unwrap().verdict, 1, "blackhole {dst}");
    }
    let (packets, _) = rig.steering[0].count(Counter::Sent).unwrap();
    assert_eq!(packets, sent);
}

/// A small generator; which numbers come is of no matter, that they come again is.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = marchproxy_engine::hash::mix(self.0 ^ 0x9E37_79B9_7F4A_7C15, 0xD6E8_FEB8_6659_FD93).wrapping_add(1);
        (self.0 >> 16) as usize % n
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

#[test]
fn random_packets_leave_as_the_engine_sends_them() {
    let Some(xdp) = xdp() else { return };
    let mut tables = tables();
    let permit = |name: &str, src: &str| RuleSpec {
        name: name.into(),
        matches: RuleMatch { src: vec![cidr(src)], ..Default::default() },
        ..Default::default()
    };
    tables.rules = vec![
        RuleSpec { action: RuleAction::Deny, ..permit("bad", "8.8.4.0/24") },
        permit("some", "8.0.0.0/8"),
        RuleSpec { mark: Some(12), ..permit("marked", "9.0.0.0/8") },
        permit("six", "2001:db8::/32"),
    ];
    let mut rig = Rig::new(xdp, &tables);
    rig.publish();
    let mut numbers = Numbers(7);
    let mut sent = 0;
    let wanted = std::env::var("MARCHPROXY_XDP_PACKETS").ok().and_then(|text| text.parse().ok()).unwrap_or(3000);
    for _ in 0..wanted {
        let v6 = numbers.below(3) == 0;
        let (src, dst) = if v6 {
            let src = numbers.of(&["2001:db8:8::8", "2001:db8:8::9", "2001:dc8::1", "fe80::1", "::1"]);
            (
                src,
                numbers.of(&["2001:db8:1::10", "2001:db8:1::11", "2001:db8:1::12", "2001:db8:7::7", "2001:db8:bad::1"]),
            )
        } else {
            let src = numbers.of(&["8.8.8.8", "8.8.8.9", "8.8.4.4", "9.9.9.9", "7.7.7.7", "127.0.0.1", "10.0.20.11"]);
            let dst = numbers.of(&[
                "203.0.113.10",
                "203.0.113.11",
                "203.0.113.12",
                "203.0.113.13",
                "9.9.9.10",
                "10.9.3.3",
                "198.51.100.9",
            ]);
            (src, dst)
        };
        let (sport, dport) = (numbers.below(50) as u16, *numbers.of(&[&80u16, &81, &82, &83]));
        let ttl = *numbers.of(&[&1u8, &2, &64, &255]);
        let packet = client().ip(ip(src), ip(dst)).ttl(ttl).tos(numbers.below(256) as u8);
        let packet = match numbers.below(4) {
            0 => packet.tcp(sport, dport).flags(*numbers.of(&[&ACK, &SYN, &0x18u8])),
            1 => packet.echo(sport, dport),
            2 => packet.protocol(47),
            _ => packet.udp(sport, dport),
        };
        let len = *numbers.of(&[&0usize, &1, &2, &64, &1300, &1341, &1420, &1452, &1472]);
        let payload: Vec<u8> = (0..len).map(|_| numbers.below(256) as u8).collect();
        let packet = packet.payload(payload).padding(*numbers.of(&[&0usize, &0, &1, &7]));
        let packet = if numbers.below(2) == 0 { packet.vlan(20) } else { packet };
        sent += u32::from(rig.agree(&packet.build(), "random"));
    }
    assert!(sent * 20 > wanted, "only {sent} of {wanted} went on in XDP");
}

#[test]
fn neighbours_and_rings_change_without_a_push() {
    let Some(xdp) = xdp() else { return };
    let mut tables = tables();
    tables.services[5].health = Some(marchproxy_engine::tables::HealthSpec::default());
    let mut rig = Rig::new(xdp, &tables);
    rig.publish();
    let flows: Vec<Vec<u8>> = (0..40u16)
        .map(|n| client().ip(ip(&format!("8.8.8.{n}")), ip("203.0.113.12")).ttl(9).udp(1000 + n, 80).build())
        .collect();
    let all = |rig: &mut Rig, what: &str| flows.iter().filter(|frame| rig.agree(frame, what)).count();
    assert_eq!(all(&mut rig, "all are in"), 40);
    rig.snapshot.services.named("mac").unwrap().leave_out(&[true, false, true, false]);
    rig.reference.leave_out("mac", &["a", "c"]);
    rig.xdp.refresh(&rig.sending()).unwrap();
    assert_eq!(all(&mut rig, "two are out"), 40);

    let key = rig.snapshot.interface(2).unwrap().neighbour(from_ip(ip("10.0.30.12")));
    rig.neighbours.remove(&key);
    rig.xdp.refresh(&rig.sending()).unwrap();
    let verdict = |rig: &Rig| rig.steering[0].test_run(&flows[0], 1).unwrap();
    assert_eq!(verdict(&rig).verdict, 2, "the engine asks for the neighbour");
    for mac in [[2, 0, 0, 9, 9, 9], [2, 0, 0, 8, 8, 8]] {
        rig.neighbours.set(&key, mac);
        rig.xdp.refresh(&rig.sending()).unwrap();
        let tested = verdict(&rig);
        assert_eq!((tested.verdict, &tested.frame[..6]), (REDIRECT, mac.as_slice()));
    }
}
