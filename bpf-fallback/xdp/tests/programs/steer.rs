//! Whose a frame is.

use std::os::fd::AsFd;

use marchproxy_engine::packet::Packet;
use marchproxy_xdp::{Counter, OnDaemonLoss, PortFacts, Steering};

use crate::support::{ALL, MAC, OTHER, PEER, ip, publish, socket_of_queue, tables, xdp};

const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

fn arp(target: [u8; 4]) -> Packet {
    Packet::eth(PEER, ALL).arp_request([192, 0, 2, 77], target)
}

fn solicit(to: &str, target: &str) -> Packet {
    let to: std::net::Ipv6Addr = to.parse().unwrap();
    let source: std::net::Ipv6Addr = "2001:db8::77".parse().unwrap();
    Packet::eth(PEER, [0x33, 0x33, 0xff, 0, 0, 1])
        .ipv6(source, to)
        .ttl(255)
        .neighbour_solicitation(target.parse::<std::net::Ipv6Addr>().unwrap())
}

/// A station says where it is.
fn gratuitous(address: [u8; 4]) -> Packet {
    Packet::eth(PEER, ALL).arp_request(address, address)
}

fn advertise(to: &str, target: &str) -> Packet {
    let [to, target]: [std::net::Ipv6Addr; 2] = [to, target].map(|text| text.parse().unwrap());
    Packet::eth(PEER, [0x33, 0x33, 0, 0, 0, 1]).ipv6(target, to).ttl(255).neighbour_advertisement(target, 0x20)
}

fn v4(dst: [u8; 4]) -> Packet {
    Packet::eth(PEER, MAC).ipv4([198, 51, 100, 1], dst).udp(1000, 53)
}

fn v6(dst: &str) -> Packet {
    let source: std::net::Ipv6Addr = "2001:db8:9::1".parse().unwrap();
    Packet::eth(PEER, MAC).ipv6(source, dst.parse::<std::net::Ipv6Addr>().unwrap()).udp(1000, 53)
}

#[test]
fn frames_go_to_whom_they_are_for() {
    let Some(xdp) = xdp() else { return };
    let kernel = [ip("192.0.2.2"), ip("2001:db8::2"), ip("10.0.20.1")];
    let steering = Steering::detached(&xdp, 1, OnDaemonLoss::Pass).unwrap();
    let socket = socket_of_queue();
    steering.register(0, socket.as_fd()).unwrap();

    let unconfigured = steering.test_run(&v4([192, 0, 2, 1]).build(), 1).unwrap();
    assert_eq!(unconfigured.verdict, PASS, "before it is configured everything is the kernel's");
    let facts = PortFacts::new(&tables(), 0, MAC, &kernel);
    publish(&xdp, &tables(), &kernel, &[(0, &steering, &facts)]);

    let own_link_local = "fe80::ff:fe00:1";
    let to_all = |packet: Packet| packet.reframed(PEER, ALL);
    let to_other = |packet: Packet| packet.reframed(PEER, OTHER);
    let table: Vec<(&str, Vec<u8>, u32)> = vec![
        ("ARP for an address of ours", arp([192, 0, 2, 1]).build(), REDIRECT),
        ("ARP for a service", arp([203, 0, 113, 10]).build(), REDIRECT),
        ("ARP for a source pool", arp([192, 0, 2, 99]).build(), REDIRECT),
        ("ARP for the kernel", arp([192, 0, 2, 2]).build(), PASS),
        ("ARP for a stranger", arp([192, 0, 2, 3]).build(), PASS),
        ("ARP cut short", arp([192, 0, 2, 1]).truncate(40).build(), PASS),
        ("ARP on our VLAN", arp([192, 0, 2, 1]).vlan(20).build(), REDIRECT),
        ("ARP on another VLAN", arp([192, 0, 2, 1]).vlan(21).build(), PASS),
        ("ARP with a priority tag", arp([192, 0, 2, 1]).vlan(0).build(), REDIRECT),
        ("a neighbour's gratuitous ARP", gratuitous([192, 0, 2, 77]).build(), REDIRECT),
        ("a neighbour's gratuitous ARP on our VLAN", gratuitous([10, 0, 20, 77]).vlan(20).build(), REDIRECT),
        ("gratuitous ARP on another VLAN", gratuitous([10, 0, 21, 77]).vlan(21).build(), PASS),
        ("gratuitous ARP about the kernel's address", gratuitous([192, 0, 2, 2]).build(), PASS),
        ("a neighbour's advertisement to all nodes", advertise("ff02::1", "2001:db8::77").build(), REDIRECT),
        ("an advertisement about the kernel's address", advertise("ff02::1", "2001:db8::2").build(), PASS),
        ("solicitation for us", solicit("ff02::1:ff00:1", "2001:db8::1").build(), REDIRECT),
        ("solicitation for our link-local", solicit("ff02::1:ff00:1", own_link_local).build(), REDIRECT),
        ("solicitation for the kernel", solicit("ff02::1:ff00:2", "2001:db8::2").build(), PASS),
        ("solicitation in the same group for a stranger", solicit("ff02::1:ff00:1", "2001:db8::aa00:1").build(), PASS),
        ("solicitation to our address itself", solicit("2001:db8::1", "2001:db8::1").build(), REDIRECT),
        ("to our address", v4([192, 0, 2, 1]).build(), REDIRECT),
        ("to our address, to all stations", to_all(v4([192, 0, 2, 1])).build(), REDIRECT),
        ("to a service", v4([203, 0, 113, 10]).build(), REDIRECT),
        ("to the kernel", v4([192, 0, 2, 2]).build(), PASS),
        ("routed", v4([8, 8, 8, 8]).build(), REDIRECT),
        ("routed, on our VLAN", v4([8, 8, 8, 8]).vlan(20).build(), REDIRECT),
        ("routed, on another VLAN", v4([8, 8, 8, 8]).vlan(21).build(), PASS),
        ("routed, but to another station", to_other(v4([8, 8, 8, 8])).build(), PASS),
        ("routed, but to all stations", to_all(v4([8, 8, 8, 8])).build(), PASS),
        ("an address of both is ours", v4([10, 0, 20, 1]).build(), REDIRECT),
        ("multicast", v4([224, 0, 0, 5]).build(), PASS),
        ("broadcast", v4([255, 255, 255, 255]).build(), PASS),
        ("IPv4 cut short", v4([192, 0, 2, 1]).truncate(33).build(), PASS),
        ("to our IPv6 address", v6("2001:db8::1").build(), REDIRECT),
        ("to an IPv6 service", v6("2001:db8:1::10").build(), REDIRECT),
        ("to the kernel's IPv6 address", v6("2001:db8::2").build(), PASS),
        ("routed IPv6", v6("2001:db8:5::5").build(), REDIRECT),
        ("to our link-local address", v6(own_link_local).build(), REDIRECT),
        ("to another link-local address", v6("fe80::1").build(), PASS),
        ("IPv6 multicast", v6("ff02::5").build(), PASS),
        ("IPv6 cut short", v6("2001:db8::1").truncate(53).build(), PASS),
        ("LLDP", Packet::eth(PEER, [1, 0x80, 0xc2, 0, 0, 0xe]).ethertype(0x88cc).payload([0; 60]).build(), PASS),
        ("shorter than its header", vec![0; 14], PASS),
    ];
    let mut expected = [0u64; 2];
    for (what, frame, verdict) in &table {
        let tested = steering.test_run(frame, 1).unwrap();
        assert_eq!(tested.verdict, *verdict, "{what}");
        assert_eq!(&tested.frame, frame, "{what} is left as it is");
        expected[usize::from(*verdict == REDIRECT)] += 1;
    }
    assert_eq!(steering.count(Counter::ToKernel).unwrap().0, expected[0] + 1);
    assert_eq!(steering.count(Counter::ToEngine).unwrap().0, expected[1]);

    let with_link_local = [kernel.as_slice(), &[ip(own_link_local)]].concat();
    steering.configure(&PortFacts::new(&tables(), 0, MAC, &with_link_local)).unwrap();
    assert_eq!(steering.test_run(&v6(own_link_local).build(), 1).unwrap().verdict, PASS, "the kernel's link-local");
}

#[test]
fn without_a_socket_the_choice_decides() {
    let Some(xdp) = xdp() else { return };
    publish(&xdp, &tables(), &[], &[]);
    let wanted =
        [(OnDaemonLoss::Pass, PASS, Counter::UnclaimedPass), (OnDaemonLoss::Drop, DROP, Counter::UnclaimedDrop)];
    for (choice, verdict, counter) in wanted {
        let steering = Steering::detached(&xdp, 1, choice).unwrap();
        steering.configure(&PortFacts::new(&tables(), 0, MAC, &[])).unwrap();
        let frame = v4([192, 0, 2, 1]).build();
        assert_eq!(steering.test_run(&frame, 1).unwrap().verdict, verdict);
        assert_eq!(steering.count(counter).unwrap(), (1, frame.len() as u64));
        let socket = socket_of_queue();
        steering.register(0, socket.as_fd()).unwrap();
        assert_eq!(steering.test_run(&frame, 1).unwrap().verdict, REDIRECT);
        steering.unregister(0).unwrap();
        steering.unregister(0).unwrap();
        assert_eq!(steering.test_run(&frame, 1).unwrap().verdict, verdict);
        assert!(steering.register(64, socket.as_fd()).unwrap_err().to_string().contains("queues 0..=63"));
    }
}

/// Tables change between two packets, as often as one likes.
#[test]
fn addresses_are_exchanged_as_a_whole() {
    let Some(xdp) = xdp() else { return };
    let steering = Steering::detached(&xdp, 1, OnDaemonLoss::Drop).unwrap();
    let facts = PortFacts { mac: MAC, vlans: vec![0], ..Default::default() };
    steering.configure(&facts).unwrap();
    for round in 0..5 {
        let mut next = tables();
        next.interfaces[0].addresses[0] = crate::support::cidr(&format!("192.0.2.{}/24", 100 + round));
        publish(&xdp, &next, &[], &[]);
        for last in 0..5 {
            let verdict = if last == round { DROP } else { PASS };
            assert_eq!(steering.test_run(&v4([192, 0, 2, 100 + last]).build(), 1).unwrap().verdict, verdict);
        }
    }
}
