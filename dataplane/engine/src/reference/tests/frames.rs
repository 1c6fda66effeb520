//! Sections 1 to 3: what a frame must look like.

use super::*;
use crate::packet::{SYN, describe};

const SENT: &[&str] = &["transmitted", "wan: WAN > GATEWAY 10.0.20.5:1 > 8.8.8.8:2 udp ttl 63 data 0"];

fn udp4() -> Packet {
    server("10.0.20.5", "8.8.8.8").udp(1, 2)
}

fn udp6() -> Packet {
    server("fd00:20::5", "2001:db8:8::8").udp(1, 2)
}

#[test]
fn layer_2() {
    let raw = |dst, src| Packet::eth(src, dst).vlan(20).ip(ip("10.0.20.5"), ip("8.8.8.8")).udp(1, 2);
    run(vec![
        ("no Ethernet header", LAN_PORT, udp4().truncate(13), &["dropped l2_truncated"]),
        ("no room for the tag", LAN_PORT, udp4().truncate(17), &["dropped l2_truncated"]),
        ("another station's", LAN_PORT, raw([2, 0, 0, 0, 0, 9], SERVER), &["dropped l2_not_for_us"]),
        ("the other port's", LAN_PORT, raw(WAN, SERVER), &["dropped l2_not_for_us"]),
        ("broadcast", LAN_PORT, raw([0xff; 6], SERVER), &["dropped multicast"]),
        ("from a group", LAN_PORT, raw(LAN, [3, 0, 0, 0, 0, 1]), &["dropped l2_bad_source"]),
        ("from nobody", LAN_PORT, raw(LAN, [0; 6]), &["dropped l2_bad_source"]),
        ("from ourselves", LAN_PORT, raw(LAN, LAN), &["dropped l2_bad_source"]),
        ("destination before source", LAN_PORT, raw([2, 0, 0, 0, 0, 9], [0; 6]), &["dropped l2_not_for_us"]),
        ("unknown VLAN", LAN_PORT, Packet::eth(SERVER, LAN).vlan(21), &["dropped vlan_unknown"]),
        ("no untagged interface", LAN_PORT, Packet::eth(SERVER, LAN).ethertype(0x0800), &["dropped vlan_unknown"]),
        ("VLAN before EtherType", LAN_PORT, Packet::eth(SERVER, LAN).vlan(9).ethertype(9), &["dropped vlan_unknown"]),
        ("unknown EtherType", LAN_PORT, from_server().ethertype(0x88cc), &["dropped ethertype_unknown"]),
        ("a second tag", LAN_PORT, udp4().vlan(20), &["dropped ethertype_unknown"]),
        ("an 802.1ad tag", WAN_PORT, from_gateway().tag(0x88a8, 5), &["dropped ethertype_unknown"]),
        (
            "priority does not matter",
            LAN_PORT,
            Packet::eth(SERVER, LAN).tag(0x8100, 0xf014).ip(ip("10.0.20.5"), ip("8.8.8.8")).udp(1, 2),
            SENT,
        ),
        (
            "VLAN 0 is untagged",
            WAN_PORT,
            Packet::eth(GATEWAY, WAN).tag(0x8100, 0xe000).ip(ip("8.8.8.8"), ip("10.0.20.5")).udp(1, 2),
            &["transmitted", "lan: LAN > SERVER vlan 20 8.8.8.8:1 > 10.0.20.5:2 udp ttl 63 data 0"],
        ),
        ("a port nobody configured", 2, udp4(), &["dropped port_not_configured"]),
    ]);
    let mut empty = Lab::bare(RuleTables::default());
    assert_eq!(empty.step(0, &udp4()), ["dropped port_not_configured"]);
}

#[test]
fn ipv4_header() {
    run(vec![
        ("whole", LAN_PORT, udp4(), SENT),
        ("padding is cut off", LAN_PORT, udp4().padding(18), SENT),
        ("cut in the header", LAN_PORT, udp4().truncate(18 + 19), &["dropped ip_malformed"]),
        ("version 6", LAN_PORT, udp4().ip_version(6), &["dropped ip_malformed"]),
        ("version 5", LAN_PORT, udp4().ip_version(5), &["dropped ip_malformed"]),
        ("IHL 4", LAN_PORT, udp4().ihl(4), &["dropped ip_malformed"]),
        ("total length below the header's", LAN_PORT, udp4().ip_length(19), &["dropped ip_malformed"]),
        ("total length below the options'", LAN_PORT, udp4().ihl(8).ip_length(28), &["dropped ip_malformed"]),
        ("one octet short", LAN_PORT, udp4().payload([7]).truncate(18 + 28), &["dropped ip_truncated"]),
        ("malformed before truncated", LAN_PORT, udp4().ihl(3).ip_length(900), &["dropped ip_malformed"]),
        ("truncated before checksum", LAN_PORT, udp4().bad_ip_checksum().ip_length(900), &["dropped ip_truncated"]),
        ("checksum", LAN_PORT, udp4().bad_ip_checksum(), &["dropped ip_checksum"]),
        (
            "checksum before addresses",
            LAN_PORT,
            server("127.0.0.1", "8.8.8.8").bad_ip_checksum(),
            &["dropped ip_checksum"],
        ),
    ]);
}

#[test]
fn ipv4_options() {
    let sent: &[&str] = &["transmitted", "wan: WAN > GATEWAY 10.0.20.5:1 > 8.8.8.8:2 udp ttl 63 options 4 data 0"];
    let refused: &[&str] = &["dropped ip_options"];
    run(vec![
        ("router alert", LAN_PORT, udp4().options(&[148, 4, 0, 0]), sent),
        ("no operations", LAN_PORT, udp4().options(&[1, 1, 1, 1]), sent),
        ("behind the end", LAN_PORT, udp4().options(&[0, 131, 9, 9]), sent),
        ("loose source route", LAN_PORT, udp4().options(&[131, 3, 4, 0]), refused),
        ("strict source route", LAN_PORT, udp4().options(&[1, 137, 3, 4]), refused),
        ("record route", LAN_PORT, udp4().options(&[7, 3, 4, 0]), refused),
        ("length 0", LAN_PORT, udp4().options(&[148, 0, 0, 0]), refused),
        ("length 1", LAN_PORT, udp4().options(&[148, 1, 0, 0]), refused),
        ("length beyond the header", LAN_PORT, udp4().options(&[148, 5, 0, 0]), refused),
        ("no length", LAN_PORT, udp4().options(&[1, 1, 1, 148]), refused),
        (
            "destination before options",
            LAN_PORT,
            server("10.0.20.5", "224.0.0.1").options(&[7, 3, 4, 0]),
            &["dropped multicast"],
        ),
    ]);
}

#[test]
fn ipv6_header_and_extensions() {
    let gone = "wan: WAN > GATEWAY [fd00:20::5]:1 > [2001:db8:8::8]:2 udp ttl 63";
    let bad: &[&str] = &["dropped ipv6_extension_headers"];
    run(vec![
        (
            "whole",
            LAN_PORT,
            udp6().padding(9),
            &["transmitted", "wan: WAN > GATEWAY [fd00:20::5]:1 > [2001:db8:8::8]:2 udp ttl 63 data 0"],
        ),
        ("cut in the header", LAN_PORT, udp6().truncate(18 + 39), &["dropped ip_malformed"]),
        ("version 4", LAN_PORT, udp6().ip_version(4), &["dropped ip_malformed"]),
        ("payload beyond the frame", LAN_PORT, udp6().ip_length(9), &["dropped ip_truncated"]),
        ("hop-by-hop behind another", LAN_PORT, udp6().destination_options().hop_by_hop(), bad),
        ("two hop-by-hop", LAN_PORT, udp6().hop_by_hop().hop_by_hop(), bad),
        ("routing type 0 under way", LAN_PORT, udp6().routing(0, 1), bad),
        ("header cut", LAN_PORT, udp6().destination_options().ip_length(7), bad),
        ("header longer than the packet", LAN_PORT, udp6().extension(60, &[2, 1, 4, 0, 0, 0, 0]), bad),
        ("nothing behind the last", LAN_PORT, udp6().destination_options().ip_length(8), &["dropped l4_malformed"]),
    ]);
    for (title, packet, extensions) in [
        ("hop-by-hop first", udp6().hop_by_hop(), "[0]"),
        ("routing type 0 that arrived", udp6().routing(0, 0), "[43]"),
        ("another routing type", udp6().routing(4, 3), "[43]"),
        ("an atomic fragment", udp6().fragment(0, false, 7), "[44]"),
        ("eight", (0..8).fold(udp6(), |p, _| p.destination_options()), "[60, 60, 60, 60, 60, 60, 60, 60]"),
    ] {
        let expected = ["transmitted".to_string(), format!("{gone} extensions {extensions} data 0")];
        let told = Lab::new().step(LAN_PORT, &packet);
        assert_eq!(told.join("|").replace(" fragment 0", ""), expected.join("|"), "{title}");
    }
    let nine = (0..9).fold(udp6(), |p, _| p.destination_options());
    assert_eq!(Lab::new().step(LAN_PORT, &nine), bad, "nine");
}

#[test]
fn layer_4_lengths() {
    let malformed: &[&str] = &["dropped l4_malformed"];
    for base in [server("10.0.20.5", "8.8.8.8"), server("fd00:20::5", "2001:db8:8::8")] {
        let cut = |packet: &Packet, l4: usize| {
            let v6 = packet.build()[16] == 0x86;
            packet.clone().ip_length(if v6 { l4 as u16 } else { 20 + l4 as u16 })
        };
        let tcp = base.clone().tcp(1, 2).flags(SYN);
        let udp = base.clone().udp(1, 2);
        let echo = base.clone().echo(1, 2);
        for (title, packet) in [
            ("19 octets of TCP", cut(&tcp, 19)),
            ("data offset 4", tcp.clone().data_offset(4)),
            ("data offset beyond the packet", tcp.clone().data_offset(6)),
            ("7 octets of UDP", cut(&udp, 7)),
            ("UDP length 7", udp.clone().udp_length(7)),
            ("UDP length beyond the packet", udp.clone().udp_length(9)),
            ("7 octets of ICMP", cut(&echo, 7)),
        ] {
            assert_eq!(Lab::new().step(LAN_PORT, &packet), malformed, "{title}: {}", describe(&packet.build()));
        }
        for packet in [
            tcp.clone().data_offset(5),
            udp.clone().payload([1; 4]).udp_length(8).l4_checksum(9),
            base.clone().tcp(1, 2).bad_l4_checksum(),
            base.clone().protocol(47),
        ] {
            let mut lab = Lab::new();
            lab.sound = false;
            assert_eq!(lab.step(LAN_PORT, &packet)[0], "transmitted", "{}", describe(&packet.build()));
        }
    }
}

/// Of a first fragment's upper layer only the header's own length matters, and a header that is cut is an attack.
#[test]
fn layer_4_of_fragments() {
    for base in [server("10.0.20.5", "8.8.8.8"), server("fd00:20::5", "2001:db8:8::8")] {
        let first = base.clone().fragment(0, true, 5);
        for (packet, fate) in [
            (first.clone().tcp(1, 2).payload([0; 4]).data_offset(15), "transmitted"),
            (first.clone().tcp(1, 2).data_offset(4), "dropped l4_malformed"),
            (first.clone().udp(1, 2).udp_length(9000), "transmitted"),
            (first.clone().protocol(17).payload([0; 7]), "dropped fragment_tiny"),
            (first.clone().protocol(6).payload([0; 16]), "dropped fragment_tiny"),
            (first.clone().protocol(47), "dropped fragment_malformed"),
        ] {
            assert_eq!(Lab::new().step(LAN_PORT, &packet)[0], fate, "{}", describe(&packet.build()));
        }
    }
}

/// ICMP's number over the other family is a protocol like any other.
#[test]
fn icmp_of_the_other_family() {
    for packet in [
        server("10.0.20.5", "8.8.8.8").protocol(58).payload([128, 0]),
        server("fd00:20::5", "2001:db8:8::8").protocol(1).payload([8, 0]),
    ] {
        assert_eq!(Lab::new().step(LAN_PORT, &packet)[0], "transmitted");
    }
}
