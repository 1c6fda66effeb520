//! The slow path's ICMP: errors, echo, and packets made here.

use super::*;
use crate::packet::SYN;

#[test]
fn expired_packets_are_reported() {
    run(vec![
        (
            "IPv4",
            LAN_PORT,
            server("10.0.20.5", "8.8.8.8").udp(1, 2).ttl(1),
            &[
                "dropped ttl_exceeded",
                "lan: LAN > SERVER vlan 20 10.0.20.1 > 10.0.20.5 icmp 11/0 ttl 64 dscp 48 ecn 0 df data 28",
            ],
        ),
        (
            "IPv6",
            LAN_PORT,
            server("fd00:20::5", "2001:db8:8::8").udp(1, 2).ttl(1),
            &["dropped ttl_exceeded", "lan: LAN > SERVER vlan 20 fd00:20::1 > fd00:20::5 icmp6 3/0 ttl 64 data 48"],
        ),
        (
            "routed like what caused it: to the gateway",
            WAN_PORT,
            world("8.8.8.8", "10.0.20.5").udp(1, 2).ttl(1),
            &[
                "dropped ttl_exceeded",
                "wan: WAN > GATEWAY 192.0.2.1 > 8.8.8.8 icmp 11/0 ttl 64 dscp 48 ecn 0 df data 28",
            ],
        ),
        (
            "no way back: no error about the error",
            LAN_PORT,
            server("10.8.0.1", "8.8.8.8").udp(1, 2).ttl(1),
            &["dropped route_reject", "dropped ttl_exceeded"],
        ),
    ]);
}

/// RFC 792: the packet as it was received, header first.
#[test]
fn errors_quote_what_was_received() {
    // A reply in a session: before translation, with its old TTL and DSCP.
    let mut lab = Lab::new();
    lab.step(WAN_PORT, &world("198.51.100.7", "203.0.113.10").tcp(4000, 80).flags(SYN));
    let reply =
        server("10.0.20.11", "198.51.100.7").dscp(46).tcp(8080, 4000).ttl(1).payload(b"data").padding(4).build();
    let out = lab.node.process(lab.now, LAN_PORT, &reply, Choices::default());
    assert_eq!(out.transmitted.len(), 1);
    let (_, frame) = &out.transmitted[0];
    assert_eq!(frame[18 + 28..], reply[18..reply.len() - 4]);
    assert_eq!(frame[14 + 4 + 4..14 + 4 + 8], [0, 0, 0x40, 0], "identification 0, DF");
}

#[test]
fn errors_are_not_endless() {
    for (packet, total) in [
        (server("10.0.20.5", "8.8.8.8").udp(1, 2).payload([0; 1000]).ttl(1), 576),
        (server("10.0.20.5", "8.8.8.8").udp(1, 2).payload([0; 520]).ttl(1), 576),
        (server("10.0.20.5", "8.8.8.8").udp(1, 2).payload([0; 519]).ttl(1), 575),
        (server("fd00:20::5", "2001:db8:8::8").udp(1, 2).payload([0; 1300]).ttl(1), 1280),
        (server("fd00:20::5", "2001:db8:8::8").udp(1, 2).payload([0; 1183]).ttl(1), 1279),
    ] {
        let mut lab = Lab::new();
        let out = lab.node.process(lab.now, LAN_PORT, &packet.build(), Choices::default());
        assert_eq!(out.transmitted[0].1.len(), 18 + total);
    }
}

#[test]
fn nothing_is_said_about_errors_and_later_fragments() {
    let silent: &[&str] = &["dropped ttl_exceeded"];
    for kind in [3, 4, 5, 11, 12] {
        let error = server("10.0.20.5", "8.8.8.8").icmp(kind, 0, [0; 4]).ttl(1);
        assert_eq!(Lab::new().step(LAN_PORT, &error), silent, "type {kind}");
    }
    for kind in [0, 1, 2, 3, 4, 100, 127] {
        let error = server("fd00:20::5", "2001:db8:8::8").icmpv6(kind, 0, [0; 4]).ttl(1);
        assert_eq!(Lab::new().step(LAN_PORT, &error), silent, "type {kind}");
    }
    for base in [server("10.0.20.5", "8.8.8.8"), server("fd00:20::5", "2001:db8:8::8")] {
        let mut lab = Lab::new();
        assert_eq!(lab.step(LAN_PORT, &base.clone().fragment(0, true, 1).udp(1, 2))[0], "transmitted");
        let later = base.clone().fragment(8, false, 1).protocol(17).payload([0; 8]).ttl(1);
        assert_eq!(lab.step(LAN_PORT, &later), silent);
        for spoken in [base.clone().echo(1, 1).ttl(1), base.fragment(0, true, 1).udp(1, 2).ttl(1)] {
            assert_eq!(Lab::new().step(LAN_PORT, &spoken).len(), 2);
        }
    }
}

/// A hundred at once, then one at every full millisecond of the clock.
#[test]
fn errors_are_rationed() {
    let expired = server("10.0.20.5", "8.8.8.8").udp(1, 2).ttl(1).build();
    let mut lab = Lab::new();
    let mut errors_at = |now: u64, packets: usize| {
        lab.now = now;
        (0..packets).filter(|_| lab.receive(LAN_PORT, &expired).len() == 2).count()
    };
    let ms = 1_000_000;
    assert_eq!(errors_at(5_000 * ms + 999_999, 150), 100);
    assert_eq!(errors_at(5_001 * ms, 5), 1);
    assert_eq!(errors_at(5_001 * ms + 999_999, 5), 0);
    assert_eq!(errors_at(5_004 * ms, 5), 3);
    assert_eq!(errors_at(4_000 * ms, 5), 0);
    assert_eq!(errors_at(9_000 * ms, 150), 100);
}

/// The source is found near the packet first.
#[test]
fn sources_of_errors() {
    let expired4 = || Packet::eth(SERVER, LAN).vlan(30).ip(ip("10.0.30.5"), ip("10.0.30.6")).udp(1, 2).ttl(1);
    let expired6 = || Packet::eth(SERVER, LAN).vlan(30).ip(ip("fd00:30::5"), ip("fd00:30::6")).udp(1, 2).ttl(1);
    let mut tables = tables();
    tables.interfaces[1].addresses = vec![];
    tables
        .routes
        .extend([via(7, "10.0.30.0/24", &[("10.0.20.5", 0, 1)]), via(7, "fd00:30::/64", &[("fd00:20::5", 0, 1)])]);
    let mut lab = Lab::with(tables.clone());
    assert!(
        lab.step(LAN_PORT, &expired4())[1].contains("10.0.20.1 > 10.0.30.5 icmp 11/0"),
        "the first of any interface"
    );
    assert!(lab.step(LAN_PORT, &expired6())[1].contains("fd00:20::1 > fd00:30::5 icmp6 3/0"));
    for interface in &mut tables.interfaces {
        interface.addresses.clear();
    }
    let mut lab = Lab::with(tables);
    assert_eq!(lab.step(LAN_PORT, &expired4()), ["dropped ttl_exceeded"], "no address, no error");
    let told = lab.step(LAN_PORT, &expired6());
    assert_eq!(told[0], "dropped ttl_exceeded");
    assert!(told[1].contains("icmp6 who-has fd00:20::5"), "the link-local address serves: {told:?}");
}

/// RFC 4443 s3.4: the pointer leads to the octet that named what nobody knows.
#[test]
fn unknown_protocols_are_pointed_at() {
    let bare = || server("fd00:20::5", "fd00:20::1");
    for (packet, pointer) in [
        (bare(), 6),
        (bare().destination_options(), 40),
        (bare().hop_by_hop().destination_options(), 48),
        (bare().fragment(0, false, 5).extension(60, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 48),
    ] {
        let mut lab = Lab::new();
        let out = lab.node.process(lab.now, LAN_PORT, &packet.protocol(47).build(), Choices::default());
        let (_, error) = &out.transmitted[0];
        assert_eq!(error[18 + 40..][..2], [4, 1]);
        assert_eq!(error[18 + 44..][..4], u32::to_be_bytes(pointer), "{}", describe(error));
    }
}

#[test]
fn closed_ports_and_unknown_protocols() {
    run(vec![
        (
            "UDP",
            LAN_PORT,
            server("10.0.20.5", "10.0.20.1").udp(1, 2),
            &[
                "dropped local_unreachable",
                "lan: LAN > SERVER vlan 20 10.0.20.1 > 10.0.20.5 icmp 3/3 ttl 64 dscp 48 ecn 0 df data 28",
            ],
        ),
        (
            "TCP over IPv6, from a link-local address",
            LAN_PORT,
            server("fe80::5", "2001:db8::1").tcp(1, 2),
            &[
                "dropped local_unreachable",
                "lan: LAN > 33:33:ff:00:00:05 vlan 20 fd00:20::1 > ff02::1:ff00:5 icmp6 who-has fe80::5 source LAN ttl 255 data 24",
            ],
        ),
        (
            "GRE",
            LAN_PORT,
            server("10.0.20.5", "10.0.20.1").protocol(47),
            &[
                "dropped local_unreachable",
                "lan: LAN > SERVER vlan 20 10.0.20.1 > 10.0.20.5 icmp 3/2 ttl 64 dscp 48 ecn 0 df data 20",
            ],
        ),
        (
            "GRE over IPv6",
            LAN_PORT,
            server("fd00:20::5", "fd00:20::1").protocol(47),
            &[
                "dropped local_unreachable",
                "lan: LAN > SERVER vlan 20 fd00:20::1 > fd00:20::5 icmp6 4/1 ttl 64 data 40",
            ],
        ),
        ("nothing", LAN_PORT, server("fd00:20::5", "fd00:20::1").protocol(59), &["dropped local_unreachable"]),
        (
            "timestamp request",
            LAN_PORT,
            server("10.0.20.5", "10.0.20.1").icmp(13, 0, [0; 4]),
            &["dropped local_unreachable"],
        ),
        (
            "echo reply",
            LAN_PORT,
            server("10.0.20.5", "10.0.20.1").icmp_echo_reply(1, 1),
            &["dropped local_unreachable"],
        ),
        (
            "router solicitation",
            LAN_PORT,
            server("fd00:20::5", "fd00:20::1").icmpv6(133, 0, [0; 4]),
            &["dropped local_unreachable"],
        ),
        (
            "ICMP error",
            LAN_PORT,
            server("10.0.20.5", "10.0.20.1").icmp(3, 1, [0; 4]),
            &["dropped icmp_error_unmatched"],
        ),
        (
            "ICMPv6 error",
            LAN_PORT,
            server("fd00:20::5", "fd00:20::1").icmpv6(1, 0, [0; 4]),
            &["dropped icmp_error_unmatched"],
        ),
        (
            "wrong ICMP checksum",
            LAN_PORT,
            server("10.0.20.5", "10.0.20.1").icmp(3, 1, [0; 4]).bad_l4_checksum(),
            &["dropped l4_malformed"],
        ),
        (
            "wrong ICMPv6 checksum",
            LAN_PORT,
            server("fd00:20::5", "fd00:20::1").echo(1, 1).bad_l4_checksum(),
            &["dropped l4_malformed"],
        ),
    ]);
}

#[test]
fn echo_is_answered() {
    run(vec![
        (
            "IPv4",
            LAN_PORT,
            server("10.0.20.5", "10.0.20.1").tos(0xb9).options(&[1, 1, 1, 1]).ident(7).icmp_echo(3, 4).payload(b"abc"),
            &[
                "consumed echo",
                "lan: LAN > SERVER vlan 20 10.0.20.1 > 10.0.20.5 icmp echo reply id 3 seq 4 ttl 64 dscp 46 ecn 1 df data 3",
            ],
        ),
        (
            "IPv6",
            LAN_PORT,
            server("fd00:20::5", "fd00:20::1")
                .tos(0xb9)
                .flow_label(9)
                .destination_options()
                .icmpv6_echo(3, 4)
                .payload(b"abc"),
            &[
                "consumed echo",
                "lan: LAN > SERVER vlan 20 fd00:20::1 > fd00:20::5 icmp6 echo reply id 3 seq 4 ttl 64 dscp 46 ecn 1 data 3",
            ],
        ),
        (
            "another interface's address",
            WAN_PORT,
            world("8.8.8.8", "10.0.20.1").icmp_echo(3, 4),
            &["consumed echo", "wan: WAN > GATEWAY 10.0.20.1 > 8.8.8.8 icmp echo reply id 3 seq 4 ttl 64 df data 0"],
        ),
        (
            "no way back",
            LAN_PORT,
            server("10.9.0.1", "10.0.20.1").icmp_echo(3, 4),
            &["dropped route_blackhole", "consumed echo"],
        ),
        (
            "too long for the way back",
            LAN_PORT,
            server("8.8.8.8", "10.0.20.1").icmp_echo(3, 4).payload([0; 1380]),
            &["dropped mtu_exceeded", "consumed echo"],
        ),
    ]);
    // A service address without an ICMP service answers for itself.
    let mut tables = tables();
    tables.services.remove(1);
    let mut lab = Lab::with(tables);
    let told = lab.step(WAN_PORT, &world("198.51.100.7", "203.0.113.10").icmp_echo(3, 4));
    assert_eq!(
        told,
        ["consumed echo", "wan: WAN > GATEWAY 203.0.113.10 > 198.51.100.7 icmp echo reply id 3 seq 4 ttl 64 df data 0"]
    );
    // Code 0, whatever was asked.
    let mut lab = Lab::new();
    let odd = server("10.0.20.5", "10.0.20.1").icmp(8, 9, [0, 1, 0, 2]).build();
    let out = lab.node.process(lab.now, LAN_PORT, &odd, Choices::default());
    assert_eq!(out.transmitted[0].1[38..40], [0, 0]);
}

/// Link-local addresses are on the link that the packet came in on.
#[test]
fn link_local_askers_are_answered_on_the_link() {
    let mut lab = Lab::new();
    let ask = server("fe80::5", "fe80::ff:fe00:1");
    lab.step(LAN_PORT, &ask.clone().neighbour_solicitation(v6("fe80::ff:fe00:1")).source_link_layer(SERVER));
    let told = lab.step(LAN_PORT, &ask.echo(1, 2));
    assert_eq!(
        told,
        [
            "consumed echo",
            "lan: LAN > SERVER vlan 20 fe80::ff:fe00:1 > fe80::5 icmp6 echo reply id 1 seq 2 ttl 64 data 0",
        ]
    );
}
