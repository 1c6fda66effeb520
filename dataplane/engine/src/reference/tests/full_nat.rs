//! Full NAT (7): the backend sees an address and port of the pool.

use super::*;
use crate::packet::{ACK, SYN};

const POOLS: [&str; 2] = ["10.0.20.200", "fd00:20::200"];

fn full_nat() -> RuleTables {
    let mut tables = tables();
    for service in tables.services.iter_mut().filter(|s| s.protocol != ServiceProtocol::Icmp) {
        service.mode = ServiceMode::FullNat;
        service.source_pool = POOLS.map(ip).to_vec();
    }
    tables
}

/// One packet for whose session the engine chose this source.
fn step(lab: &mut Lab, port: usize, packet: &Packet, source: Option<(&str, u16)>) -> Vec<String> {
    lab.now += 1_000_000;
    let nat_source = source.map(|(address, port)| (ip(address), port));
    let out = lab.node.process(lab.now, port, &packet.build(), Choices { nat_source, ..Choices::default() });
    lab.told(&out, 1, 0)
}

#[test]
fn both_ends_change_both_ways() {
    let mut lab = Lab::with(full_nat());
    let syn = world("198.51.100.7", "203.0.113.10").tcp(4000, 80).flags(SYN);
    assert_eq!(
        step(&mut lab, WAN_PORT, &syn, Some(("10.0.20.200", 2000))),
        ["transmitted", "lan: LAN > SERVER vlan 20 10.0.20.200:2000 > 10.0.20.11:8080 tcp S seq 0 ack 0 ttl 63 data 0"]
    );
    let reply = server("10.0.20.11", "10.0.20.200").tcp(8080, 2000).flags(SYN | ACK);
    assert_eq!(
        step(&mut lab, LAN_PORT, &reply, None),
        ["transmitted", "wan: WAN > GATEWAY 203.0.113.10:80 > 198.51.100.7:4000 tcp SA seq 0 ack 0 ttl 63 data 0"]
    );
    // Another client port, the same pool port for UDP: another protocol has its own.
    let ask = world("2001:db8:9::7", "2001:db8:10::10").udp(4000, 53).payload(vec![1, 2, 3]);
    assert_eq!(
        step(&mut lab, WAN_PORT, &ask, Some(("fd00:20::200", 2000)))[1],
        "lan: LAN > SERVER vlan 20 [fd00:20::200]:2000 > [fd00:20::11]:53 udp ttl 63 data 3"
    );
    let answer = server("fd00:20::11", "fd00:20::200").udp(53, 2000).payload(vec![4]);
    assert_eq!(
        step(&mut lab, LAN_PORT, &answer, None)[1],
        "wan: WAN > GATEWAY [2001:db8:10::10]:53 > [2001:db8:9::7]:4000 udp ttl 63 data 1"
    );
    // The backend's own packets to the client are none of the session.
    let own = server("10.0.20.11", "198.51.100.7").tcp(8080, 4000).flags(ACK);
    assert!(step(&mut lab, LAN_PORT, &own, None)[1].contains("10.0.20.11:8080 > 198.51.100.7:4000"));
}

/// A UDP sender over IPv4 without a checksum stays without.
#[test]
fn no_checksum_stays_none() {
    let mut lab = Lab::with(full_nat());
    let ask = world("198.51.100.7", "203.0.113.10").udp(4000, 53).l4_checksum(0);
    lab.now += 1;
    let choices = Choices { nat_source: Some((ip("10.0.20.200"), 5000)), ..Choices::default() };
    let out = lab.node.process(lab.now, WAN_PORT, &ask.build(), choices);
    assert_eq!(out.transmitted[0].1[18 + 26..18 + 28], [0, 0]);
}

#[test]
fn addresses_of_pools_are_ours_to_answer_for() {
    let mut lab = Lab::with(full_nat());
    let told = lab.step(LAN_PORT, &from_server().arp_request(v4("10.0.20.11"), v4("10.0.20.200")));
    assert_eq!(told[0], "consumed arp");
    let told = lab.step(LAN_PORT, &server("10.0.20.11", "10.0.20.200").tcp(1, 2).flags(SYN));
    assert_eq!(told[0], "dropped local_unreachable");
}

#[test]
#[should_panic(expected = "is not free")]
fn a_port_has_one_session() {
    let mut lab = Lab::with(full_nat());
    for client in [4000, 4001] {
        let syn = world("198.51.100.7", "203.0.113.10").tcp(client, 80).flags(SYN);
        step(&mut lab, WAN_PORT, &syn, Some(("10.0.20.200", 2000)));
    }
}

#[test]
#[should_panic(expected = "a free port that was not taken")]
fn ports_are_not_exhausted_while_one_is_free() {
    let syn = world("198.51.100.7", "203.0.113.10").tcp(4000, 80).flags(SYN);
    step(&mut Lab::with(full_nat()), WAN_PORT, &syn, None);
}
