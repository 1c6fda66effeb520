use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;

const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

fn v4() -> Packet {
    Packet::eth(A, B).ipv4([10, 0, 0, 1], [192, 0, 2, 7])
}

fn v6() -> Packet {
    Packet::eth(A, B).ipv6(ip6("2001:db8::1"), ip6("2001:db8::2"))
}

fn ip6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// The example of RFC 1071 s3, and odd lengths.
#[test]
fn checksums_follow_rfc_1071() {
    assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    assert_eq!(checksum(&[&[0x12, 0x34], &[0x56]]), !0x6834);
    assert_eq!(checksum(&[]), 0xffff);
}

/// A header seen on the wire (the well-known example 4500 0073 ... b861 c0a8 0001 c0a8 00c7).
#[test]
fn an_ipv4_header_as_on_the_wire() {
    let frame = Packet::eth(A, B)
        .ipv4([192, 168, 0, 1], [192, 168, 0, 199])
        .dont_fragment()
        .protocol(17)
        .payload([0; 95])
        .build();
    let expected = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
        0x00, 0xc7,
    ];
    assert_eq!(frame[..6], B);
    assert_eq!(frame[6..12], A);
    assert_eq!(frame[12..14], [8, 0]);
    assert_eq!(frame[14..34], expected);
    assert_eq!(frame.len(), 14 + 20 + 95);
}

#[test]
fn lengths_and_checksums_are_right_by_default() {
    for base in [v4(), v6()] {
        for packet in [
            base.clone().tcp(1, 2).payload(b"odd"),
            base.clone().tcp(1, 2).tcp_options(&[2, 4, 5, 180, 1]),
            base.clone().udp(1, 2).payload(b"odd"),
            base.clone().echo(7, 8).payload(b"ping"),
            base.clone().echo_reply(7, 8),
            base.clone().vlan(20).udp(1, 2),
            base.clone().udp(1, 2).padding(20),
        ] {
            let l3 = if base.is_v6() { Check::Absent } else { Check::Good };
            assert_eq!(checksums(&packet.build()), Checks { l3, l4: Check::Good }, "{}", describe(&packet.build()));
        }
    }
}

#[test]
fn checksums_break_on_request() {
    for base in [v4(), v6()] {
        for packet in [base.clone().tcp(1, 2), base.clone().udp(1, 2), base.clone().echo(1, 2)] {
            assert_eq!(checksums(&packet.bad_l4_checksum().build()).l4, Check::Bad);
        }
    }
    assert_eq!(checksums(&v4().udp(1, 2).bad_ip_checksum().build()), Checks { l3: Check::Bad, l4: Check::Good });
    assert_eq!(checksums(&v4().udp(1, 2).l4_checksum(0).build()).l4, Check::Absent);
    assert_eq!(checksums(&v6().udp(1, 2).l4_checksum(0).build()).l4, Check::Bad);
    assert_eq!(checksums(&v4().fragment(0, true, 9).udp(1, 2).build()).l4, Check::Absent);
}

/// No right checksum of a UDP packet is sent as zero (RFC 768).
#[test]
fn a_computed_zero_becomes_all_ones() {
    let probe = v4().udp(1, 2).payload([0, 0]).build();
    let sum = [probe[40], probe[41]];
    let frame = v4().udp(1, 2).payload(sum).build();
    assert_eq!(frame[40..42], [0xff, 0xff]);
    assert_eq!(checksums(&frame).l4, Check::Good);
}

#[test]
fn lengths_break_on_request() {
    let frame = v4().udp(1, 2).udp_length(9).ip_length(60).ihl(6).ip_version(5).build();
    assert_eq!(frame[14], 0x56);
    assert_eq!(frame[16..18], [0, 60]);
    assert_eq!(frame[38..40], [0, 9]);
    assert_eq!(v6().udp(1, 2).ip_length(3).build()[18..20], [0, 3]);
    assert_eq!(v4().tcp(1, 2).data_offset(4).build()[46], 0x40);
    assert_eq!(v4().tcp(1, 2).truncate(30).build().len(), 30);
    assert_eq!(v4().tcp(1, 2).padding(6).build().len(), 60);
}

#[test]
fn ipv6_extension_headers_chain() {
    let frame = v6().hop_by_hop().routing(4, 0).fragment(1480, true, 0xbeef).destination_options().udp(1, 2).build();
    let next_headers = [frame[20], frame[54], frame[62], frame[70], frame[78]];
    assert_eq!(next_headers, [0, 43, 44, 60, 17]);
    assert_eq!(frame[70..78], [60, 0, 0x05, 0xc9, 0, 0, 0xbe, 0xef]);
    assert_eq!(frame[18..20], [0, 40]);
    let whole = v6().hop_by_hop().destination_options().tcp(1, 2).build();
    assert_eq!(checksums(&whole).l4, Check::Good);
}

#[test]
fn ipv4_fragments_and_options() {
    let frame = v4().options(&[148, 4, 0, 0, 1]).fragment(16, true, 7).protocol(17).payload([0; 16]).build();
    assert_eq!(frame[14], 0x47);
    assert_eq!(frame[18..22], [0, 7, 0x20, 2]);
    assert_eq!(frame[34..42], [148, 4, 0, 0, 1, 0, 0, 0]);
    assert_eq!(checksums(&frame), Checks { l3: Check::Good, l4: Check::Absent });
}

#[test]
fn frames_read_as_one_line() {
    let (a, b) = ("02:00:00:00:00:0a", "02:00:00:00:00:0b");
    let host = Ipv4Addr::new(10, 0, 0, 1);
    let cases = [
        (
            v4().tcp(1, 80).flags(SYN | ACK).seq(5, 6).ttl(3),
            "10.0.0.1:1 > 192.0.2.7:80 tcp SA seq 5 ack 6 ttl 3 data 0",
        ),
        (v4().tcp(1, 80).flags(0), "10.0.0.1:1 > 192.0.2.7:80 tcp none seq 0 ack 0 ttl 64 data 0"),
        (
            v6().udp(1, 53).payload(b"abc").dscp(46).ecn(1),
            "[2001:db8::1]:1 > [2001:db8::2]:53 udp ttl 64 dscp 46 ecn 1 data 3",
        ),
        (
            v4().fragment(0, true, 1).udp(1, 2).dont_fragment(),
            "10.0.0.1:1 > 192.0.2.7:2 udp fragment 0+ ttl 64 df data 0",
        ),
        (
            v6().fragment(8, false, 1).protocol(6).payload([0; 9]),
            "2001:db8::1 > 2001:db8::2 protocol 6 fragment 8 ttl 64 extensions [44] data 9",
        ),
        (
            v4().options(&[7, 4, 4, 0]).icmp_echo(1, 2),
            "10.0.0.1 > 192.0.2.7 icmp echo request id 1 seq 2 ttl 64 options 4 data 0",
        ),
        (v4().icmp(3, 4, [0, 0, 5, 220]), "10.0.0.1 > 192.0.2.7 icmp 3/4 mtu 1500 ttl 64 data 0"),
        (v6().icmpv6(2, 0, [0, 0, 5, 0]), "2001:db8::1 > 2001:db8::2 icmp6 2/0 mtu 1280 ttl 64 data 0"),
        (v6().icmpv6_echo_reply(1, 2), "2001:db8::1 > 2001:db8::2 icmp6 echo reply id 1 seq 2 ttl 64 data 0"),
        (
            v6().neighbour_solicitation(ip6("2001:db8::2")).source_link_layer(A),
            "2001:db8::1 > 2001:db8::2 icmp6 who-has 2001:db8::2 source 02:00:00:00:00:0a ttl 255 data 24",
        ),
        (
            v6().neighbour_advertisement(ip6("2001:db8::1"), 0x60).target_link_layer(A),
            "2001:db8::1 > 2001:db8::2 icmp6 2001:db8::1 is-at flags 0x60 target 02:00:00:00:00:0a ttl 255 data 24",
        ),
        (Packet::eth(A, B).arp_request(host, [10, 0, 0, 2]), "arp who-has 10.0.0.2 tell 10.0.0.1 at 02:00:00:00:00:0a"),
        (
            Packet::eth(A, B).arp_reply(host, [10, 0, 0, 2]).arp_types(6, 0x0800, [6, 4]),
            "arp 10.0.0.1 is-at 02:00:00:00:00:0a to 10.0.0.2 at 02:00:00:00:00:0b not-ethernet-ipv4",
        ),
        (
            v4().udp(1, 2).bad_ip_checksum().bad_l4_checksum(),
            "10.0.0.1:1 > 192.0.2.7:2 udp ttl 64 data 0 bad-ip-checksum bad-l4-checksum",
        ),
        (v4().udp(1, 2).payload([0; 9]).truncate(48), "10.0.0.1:1 > 192.0.2.7:2 udp ttl 64 data 6 missing 3"),
        (Packet::eth(A, B).ethertype(0x88cc).payload([0; 3]), "ethertype 0x88cc data 3"),
        (
            v4().protocol(47).payload([0; 3]).vlan(5).tag(0x8100, 0x6007),
            "vlan 5 vlan 7 pcp/dei 0x6 10.0.0.1 > 192.0.2.7 protocol 47 ttl 64 data 3",
        ),
        (v4().ip_version(6), "ethertype 0x0800 data 20"),
    ];
    for (packet, expected) in cases {
        assert_eq!(describe(&packet.build()), format!("{a} > {b} {expected}"));
    }
    assert_eq!(describe(&[0; 13]), "runt of 13 octets");
}

/// Nothing a test can get hold of makes the readers panic: every cut of every kind of frame.
#[test]
fn reading_never_panics() {
    for base in [v4(), v6()] {
        for packet in [
            base.clone().tcp(1, 2).tcp_options(&[1; 8]),
            base.clone().udp(1, 2).payload(b"odd"),
            base.clone().hop_by_hop().echo(1, 2),
            base.clone().neighbour_solicitation(ip6("::1")).source_link_layer(A),
            Packet::eth(A, B).vlan(7).arp_request([0; 4], [0; 4]),
        ] {
            let frame = packet.build();
            for len in 0..frame.len() {
                assert!(!describe(&frame[..len]).is_empty());
                let mut flipped = frame.clone();
                flipped[len] ^= 0xff;
                assert!(!describe(&flipped).is_empty());
            }
        }
    }
}
