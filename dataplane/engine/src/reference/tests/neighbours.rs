//! ARP, neighbour discovery, the hold and its timers.

use super::*;
use crate::reason::DropReason;

/// A packet for a server that nobody knows yet.
fn to(host: &str) -> Packet {
    let src = if host.contains(':') { "2001:db8:9::7" } else { "198.51.100.7" };
    world(src, host).udp(1, 2)
}

fn answer4(host: &str, mac: Mac) -> Packet {
    Packet::eth(mac, LAN).vlan(20).arp_reply(v4(host), v4("10.0.20.1"))
}

fn answer6(host: &str, mac: Mac, flags: u8) -> Packet {
    Packet::eth(mac, LAN)
        .vlan(20)
        .ip(ip(host), ip("fd00:20::1"))
        .neighbour_advertisement(v6(host), flags)
        .target_link_layer(mac)
}

const ASKED4: &str = "lan: LAN > ALL vlan 20 arp who-has 10.0.20.77 tell 10.0.20.1 at LAN";
const ASKED6: &str = "lan: LAN > 33:33:ff:00:00:77 vlan 20 fd00:20::1 > ff02::1:ff00:77 icmp6 who-has fd00:20::77 source LAN ttl 255 data 24";
const SENT4: &str = "lan: LAN > CLIENT vlan 20 198.51.100.7:1 > 10.0.20.77:2 udp ttl 63 data 0";
const SENT6: &str = "lan: LAN > CLIENT vlan 20 [2001:db8:9::7]:1 > [fd00:20::77]:2 udp ttl 63 data 0";

#[test]
fn packets_wait_for_an_answer() {
    for (host, asked, answer, sent, consumed) in [
        ("10.0.20.77", ASKED4, answer4("10.0.20.77", CLIENT), SENT4, "consumed arp"),
        ("fd00:20::77", ASKED6, answer6("fd00:20::77", CLIENT, 0x60), SENT6, "consumed nd"),
    ] {
        let mut lab = Lab::new();
        assert_eq!(lab.step(WAN_PORT, &to(host)), ["held", asked]);
        assert_eq!(lab.step(WAN_PORT, &to(host)), ["held"]);
        assert_eq!(lab.step(LAN_PORT, &answer), [consumed, sent, sent]);
        assert_eq!(lab.step(WAN_PORT, &to(host)), ["transmitted", sent]);
    }
}

#[test]
fn nobody_answers() {
    for (host, asked) in [("10.0.20.77", ASKED4), ("fd00:20::77", ASKED6)] {
        let mut lab = Lab::bare(tables());
        assert_eq!(lab.step(WAN_PORT, &to(host)), ["held", asked]);
        lab.step(WAN_PORT, &to(host));
        assert!(lab.wait(SECOND - 1_000_001).is_empty());
        assert_eq!(lab.wait(1), [asked]);
        assert_eq!(lab.wait(SECOND), [asked]);
        assert!(lab.wait(SECOND - 1).is_empty());
        // Both senders are told, by way of the gateway, which nobody knows in this lab either.
        let gateway = if host.contains(':') {
            "wan: WAN > 33:33:ff:00:00:fe 2001:db8::1 > ff02::1:ff00:fe icmp6 who-has 2001:db8::fe source WAN ttl 255 data 24"
        } else {
            "wan: WAN > ALL arp who-has 192.0.2.254 tell 192.0.2.1 at WAN"
        };
        assert_eq!(lab.wait(1), ["dropped neighbour_unreachable", "dropped neighbour_unreachable", gateway]);
        assert_eq!(lab.node.held(), 2);
        lab.node.neighbours.all.clear();
        assert!(lab.node.neighbours().is_empty());
        assert_eq!(lab.step(WAN_PORT, &to(host)), ["held", asked], "a new packet asks anew");
    }
}

/// A turn that comes late does one thing, and counts from there.
#[test]
fn late_timers() {
    let mut lab = Lab::bare(tables());
    lab.step(WAN_PORT, &to("10.0.20.77"));
    assert_eq!(lab.wait(10 * SECOND), [ASKED4]);
    assert!(lab.wait(SECOND - 1).is_empty());
    assert_eq!(lab.wait(1), [ASKED4]);
    assert!(lab.wait(9 * SECOND)[0].starts_with("dropped neighbour_unreachable"));
}

/// RFC 1812 s4.3.3.1, 4443 s3.1: the sender hears about the packet that it sent, not about what became of it here.
#[test]
fn senders_hear_that_a_host_does_not_answer() {
    for (client, vip, backend) in
        [("198.51.100.7", "203.0.113.10", "10.0.20.11"), ("2001:db8:9::7", "2001:db8:10::10", "fd00:20::11")]
    {
        let mut lab = Lab::new();
        lab.node.neighbours.all.retain(|n| n.address != ip(backend));
        let sent = world(client, vip).tcp(4000, 80).flags(2).tos(0x2e).payload([5; 3]).build();
        assert_eq!(lab.receive(WAN_PORT, &sent)[0], "held");
        lab.wait(SECOND);
        lab.wait(SECOND);
        lab.now += SECOND;
        let out = lab.node.tick(lab.now);
        assert_eq!(out.dropped, [DropReason::NeighbourUnreachable]);
        let (port, error) = &out.transmitted[0];
        let line = describe(error);
        let name = if client.contains(':') { "icmp6 1/3" } else { "icmp 3/1" };
        assert!(*port == WAN_PORT && line.contains(&format!("> {client} {name}")), "{line}");
        let quote = if client.contains(':') { 14 + 48 } else { 14 + 28 };
        assert_eq!(error[quote..], sent[14..], "{line}");
    }
}

/// A tunnel's headers and its lower MSS are nothing that the sender would recognise.
#[test]
fn senders_of_tunnelled_packets_hear_of_their_own() {
    for (client, vip) in [("198.51.100.7", "203.0.113.10"), ("2001:db8:9::7", "2001:db8:10::10")] {
        for (mode, backend) in
            [(ServiceMode::DsrIpip, "10.0.20.11"), (ServiceMode::DsrGue, "fd00:20::11"), (ServiceMode::DsrMac, "both")]
        {
            let mut tables = tables();
            tables.services[2].mode = mode;
            if backend != "both" {
                tables.services[2].backends.retain(|b| b.address == ip(backend));
            }
            let mut lab = Lab::with(tables);
            lab.node
                .neighbours
                .all
                .retain(|n| !n.address.to_string().ends_with("20.11") && n.address != ip("fd00:20::11"));
            let sent = world(client, vip).tcp(4000, 80).flags(2).tcp_options(&[2, 4, 5, 180]).build();
            assert_eq!(lab.receive(WAN_PORT, &sent)[0], "held");
            lab.wait(SECOND);
            lab.wait(SECOND);
            lab.now += SECOND;
            let out = lab.node.tick(lab.now);
            let (_, error) = &out.transmitted[0];
            let quote = if client.contains(':') { 14 + 48 } else { 14 + 28 };
            assert_eq!(error[quote..], sent[14..], "{mode:?} {}", describe(error));
        }
    }
}

#[test]
fn known_neighbours_are_probed() {
    let probe4 = "lan: LAN > CLIENT vlan 20 arp who-has 10.0.20.77 tell 10.0.20.1 at LAN";
    let probe6 =
        "lan: LAN > CLIENT vlan 20 fd00:20::1 > fd00:20::77 icmp6 who-has fd00:20::77 source LAN ttl 255 data 24";
    for (host, probe, sent, answer) in [
        ("10.0.20.77", probe4, SENT4, answer4("10.0.20.77", CLIENT)),
        ("fd00:20::77", probe6, SENT6, answer6("fd00:20::77", CLIENT, 0x40)),
    ] {
        let mut lab = Lab::bare(tables());
        lab.step(WAN_PORT, &to(host));
        lab.step(LAN_PORT, &answer);
        assert!(lab.wait(30 * SECOND - 1).is_empty());
        assert_eq!(lab.wait(1), [probe]);
        assert_eq!(lab.step(WAN_PORT, &to(host)), ["transmitted", sent], "it stays in use");
        assert_eq!(lab.wait(SECOND), [probe]);
        lab.step(LAN_PORT, &answer);
        assert!(lab.wait(30 * SECOND - 1).is_empty(), "an answer starts it again");
        assert_eq!(lab.wait(1), [probe]);
        assert_eq!(lab.wait(SECOND), [probe]);
        assert_eq!(lab.wait(SECOND), [probe]);
        assert_eq!(lab.node.neighbours().len(), 1);
        assert!(lab.wait(SECOND).is_empty());
        assert!(lab.node.neighbours().is_empty());
    }
}

#[test]
fn the_hold_is_finite() {
    let mut lab = Lab::bare(tables());
    for host in 0..16 {
        for packet in 0..65 {
            let expected = if packet < 64 { "held" } else { "dropped neighbour_hold_full" };
            assert_eq!(lab.step(WAN_PORT, &to(&format!("10.0.20.{}", 100 + host)))[0], expected);
        }
    }
    assert_eq!(lab.node.held(), 1024);
    assert_eq!(lab.step(WAN_PORT, &to("10.0.20.99")), ["dropped neighbour_hold_full"]);
    assert_eq!(lab.node.neighbours().len(), 16);
}

#[test]
fn the_table_is_finite() {
    let mut wide = tables();
    wide.interfaces[0].addresses[0] = cidr("10.0.20.1/16");
    let mut lab = Lab::bare(wide);
    let host = |n: u32| std::net::Ipv4Addr::from_bits(0x0a00_8000 + n);
    for n in 0..4096 {
        lab.step(LAN_PORT, &from_server().arp_request(host(n), v4("10.0.20.1")));
    }
    assert_eq!(lab.node.neighbours().len(), 4096);
    assert_eq!(lab.step(WAN_PORT, &to("10.0.20.99")), ["dropped neighbour_hold_full"]);
    let told = lab.step(LAN_PORT, &from_server().arp_request(host(9999), v4("10.0.20.1")));
    assert_eq!(told[0], "consumed arp", "answered, not learned");
    assert_eq!(lab.node.neighbours().len(), 4096);
}

#[test]
fn arp_packets() {
    let ask = |sender: &str, target: &str| from_server().arp_request(v4(sender), v4(target));
    run(vec![
        (
            "for our address",
            LAN_PORT,
            ask("10.0.20.9", "10.0.20.1").padding(18),
            &["consumed arp", "lan: LAN > SERVER vlan 20 arp 10.0.20.1 is-at LAN to 10.0.20.9 at SERVER"],
        ),
        (
            "a probe (RFC 5227)",
            LAN_PORT,
            ask("0.0.0.0", "10.0.20.1"),
            &["consumed arp", "lan: LAN > SERVER vlan 20 arp 10.0.20.1 is-at LAN to 0.0.0.0 at SERVER"],
        ),
        (
            "the answer goes to the sender in the packet",
            LAN_PORT,
            ask("10.0.20.9", "10.0.20.1").arp_sender_mac(CLIENT),
            &["consumed arp", "lan: LAN > CLIENT vlan 20 arp 10.0.20.1 is-at LAN to 10.0.20.9 at CLIENT"],
        ),
        ("for another interface's address", LAN_PORT, ask("10.0.20.9", "192.0.2.1"), &["dropped neighbour_ignored"]),
        ("for a stranger, from one", LAN_PORT, ask("10.0.20.9", "10.0.20.8"), &["dropped neighbour_ignored"]),
        ("for a stranger, from one we know", LAN_PORT, ask("10.0.20.5", "10.0.20.8"), &["consumed arp"]),
        (
            "for a service beyond our prefixes",
            LAN_PORT,
            ask("10.0.20.9", "203.0.113.10"),
            &["dropped neighbour_ignored"],
        ),
        ("from our address", LAN_PORT, ask("10.0.20.1", "10.0.20.1"), &["dropped neighbour_ignored"]),
        ("from our address elsewhere", LAN_PORT, ask("192.0.2.1", "10.0.20.1"), &["dropped neighbour_ignored"]),
        ("from a service", LAN_PORT, ask("203.0.113.10", "10.0.20.1"), &["dropped neighbour_ignored"]),
        ("a reply nobody asked for", LAN_PORT, answer4("10.0.20.9", SERVER), &["dropped neighbour_ignored"]),
        ("27 octets", LAN_PORT, ask("10.0.20.9", "10.0.20.1").truncate(18 + 27), &["dropped arp_malformed"]),
        (
            "hardware 6",
            LAN_PORT,
            ask("10.0.20.9", "10.0.20.1").arp_types(6, 0x0800, [6, 4]),
            &["dropped arp_malformed"],
        ),
        (
            "protocol IPv6",
            LAN_PORT,
            ask("10.0.20.9", "10.0.20.1").arp_types(1, 0x86dd, [6, 4]),
            &["dropped arp_malformed"],
        ),
        ("lengths", LAN_PORT, ask("10.0.20.9", "10.0.20.1").arp_types(1, 0x0800, [6, 16]), &["dropped arp_malformed"]),
        (
            "operation 3",
            LAN_PORT,
            from_server().arp(3, SERVER, v4("10.0.20.9"), [0; 6], v4("10.0.20.1")),
            &["dropped arp_malformed"],
        ),
        ("from nobody", LAN_PORT, ask("10.0.20.9", "10.0.20.1").arp_sender_mac([0; 6]), &["dropped arp_malformed"]),
        ("from a group", LAN_PORT, ask("10.0.20.9", "10.0.20.1").arp_sender_mac([0xff; 6]), &["dropped arp_malformed"]),
    ]);
}

/// What is learned, and from whom.
#[test]
fn learning() {
    let mut lab = Lab::bare(tables());
    lab.step(LAN_PORT, &from_server().arp_request(v4("10.0.30.9"), v4("10.0.20.1")));
    lab.step(LAN_PORT, &from_server().arp_request([0; 4], v4("10.0.20.1")));
    assert!(lab.node.neighbours().is_empty(), "only addresses on the link");
    // A request teaches and releases, then it is answered.
    assert_eq!(lab.step(WAN_PORT, &to("10.0.20.77")), ["held", ASKED4]);
    let ask = Packet::eth(CLIENT, LAN).vlan(20).arp_request(v4("10.0.20.77"), v4("10.0.20.1"));
    assert_eq!(
        lab.step(LAN_PORT, &ask),
        ["consumed arp", SENT4, "lan: LAN > CLIENT vlan 20 arp 10.0.20.1 is-at LAN to 10.0.20.77 at CLIENT",]
    );
    // A later word moves it.
    lab.step(LAN_PORT, &answer4("10.0.20.77", SERVER));
    assert!(lab.step(WAN_PORT, &to("10.0.20.77"))[1].contains("> SERVER"));
}

/// A service address on the link is ours to answer for.
#[test]
fn service_addresses_on_the_link() {
    let mut tables = tables();
    tables.services[0].addresses = vec![ip("10.0.20.200"), ip("fd00:20::200")];
    let mut lab = Lab::with(tables);
    assert_eq!(lab.step(LAN_PORT, &from_server().arp_request(v4("10.0.20.5"), v4("10.0.20.200")))[0], "consumed arp");
    let ask = server("fd00:20::5", "ff02::1:ff00:200").neighbour_solicitation(v6("fd00:20::200"));
    assert_eq!(lab.step(LAN_PORT, &ask)[0], "consumed nd");
    let ask = world("2001:db8::fe", "ff02::1:ff00:200").neighbour_solicitation(v6("fd00:20::200"));
    assert_eq!(lab.step(WAN_PORT, &ask), ["dropped neighbour_ignored"]);
}

#[test]
fn solicitations() {
    let ours = v6("fd00:20::1");
    let ask = |src: &str| Packet::eth(SERVER, [0x33, 0x33, 0xff, 0, 0, 1]).vlan(20).ip(ip(src), ip("ff02::1:ff00:1"));
    let answer = "lan: LAN > SERVER vlan 20 fd00:20::1 > fd00:20::9 icmp6 fd00:20::1 is-at flags 0xe0 target LAN ttl 255 data 24";
    let ignored: &[&str] = &["dropped neighbour_ignored"];
    let cases: Vec<(&str, Packet, Vec<&str>)> = vec![
        (
            "with option",
            ask("fd00:20::9").neighbour_solicitation(ours).source_link_layer(SERVER),
            vec!["consumed nd", answer],
        ),
        (
            "the frame's source is answered",
            ask("fd00:20::9").neighbour_solicitation(ours).source_link_layer(CLIENT),
            vec!["consumed nd", answer],
        ),
        ("without option", ask("fd00:20::9").neighbour_solicitation(ours), vec!["consumed nd", answer]),
        ("to us alone", server("fd00:20::9", "fd00:20::1").neighbour_solicitation(ours), vec!["consumed nd", answer]),
        (
            "unknown options",
            ask("fd00:20::9").neighbour_solicitation(ours).nd_option(14, &[0; 14]),
            vec!["consumed nd", answer],
        ),
        (
            "for the link-local address",
            server("fd00:20::9", "fe80::ff:fe00:1").neighbour_solicitation(v6("fe80::ff:fe00:1")),
            vec![
                "consumed nd",
                "lan: LAN > SERVER vlan 20 fe80::ff:fe00:1 > fd00:20::9 icmp6 fe80::ff:fe00:1 is-at flags 0xe0 target LAN ttl 255 data 24",
            ],
        ),
        (
            "duplicate address detection",
            ask("::").neighbour_solicitation(ours),
            vec![
                "consumed nd",
                "lan: LAN > 33:33:00:00:00:01 vlan 20 fd00:20::1 > ff02::1 icmp6 fd00:20::1 is-at flags 0xa0 target LAN ttl 255 data 24",
            ],
        ),
        ("unspecified with option", ask("::").neighbour_solicitation(ours).source_link_layer(SERVER), ignored.into()),
        (
            "unspecified with useless option",
            ask("::").neighbour_solicitation(ours).source_link_layer([0; 6]),
            ignored.into(),
        ),
        ("unspecified to us alone", server("::", "fd00:20::1").neighbour_solicitation(ours), ignored.into()),
        ("for a stranger", ask("fd00:20::9").neighbour_solicitation(v6("fd00:20::8")), ignored.into()),
        (
            "for another interface's address",
            ask("fd00:20::9").neighbour_solicitation(v6("2001:db8::1")),
            ignored.into(),
        ),
        ("for a group", ask("fd00:20::9").neighbour_solicitation(v6("ff02::1")), ignored.into()),
        ("hop limit 254", ask("fd00:20::9").neighbour_solicitation(ours).ttl(254), ignored.into()),
        ("code 1", ask("fd00:20::9").ttl(255).icmpv6(135, 1, [0; 4]).payload(ours.octets()), ignored.into()),
        ("23 octets", ask("fd00:20::9").ttl(255).icmpv6(135, 0, [0; 4]).payload(&ours.octets()[..15]), ignored.into()),
        (
            "option of length 0",
            ask("fd00:20::9").neighbour_solicitation(ours).payload([1, 0, 0, 0, 0, 0, 0, 0]),
            ignored.into(),
        ),
        (
            "option beyond the packet",
            ask("fd00:20::9").neighbour_solicitation(ours).payload([14, 2, 0, 0, 0, 0, 0, 0]),
            ignored.into(),
        ),
        ("half an option", ask("fd00:20::9").neighbour_solicitation(ours).payload([14]), ignored.into()),
        (
            "wrong checksum",
            ask("fd00:20::9").neighbour_solicitation(ours).bad_l4_checksum(),
            vec!["dropped l4_malformed"],
        ),
    ];
    for (title, packet, expected) in cases {
        assert_eq!(Lab::new().step(LAN_PORT, &packet), expected, "{title}");
    }
}

#[test]
fn what_solicitations_teach() {
    let taught = |src: &str, options: &dyn Fn(Packet) -> Packet| {
        let mut lab = Lab::bare(tables());
        let ask = Packet::eth(SERVER, LAN)
            .vlan(20)
            .ip(ip(src), ip("ff02::1:ff00:1"))
            .neighbour_solicitation(v6("fd00:20::1"));
        lab.step(LAN_PORT, &options(ask));
        lab.node.neighbours().first().map(|n| (n.address, n.mac))
    };
    let client = |p: Packet| p.source_link_layer(CLIENT);
    assert_eq!(taught("fd00:20::9", &client), Some((ip("fd00:20::9"), Some(CLIENT))));
    assert_eq!(taught("fe80::9", &client), Some((ip("fe80::9"), Some(CLIENT))));
    assert_eq!(taught("2001:db8:7::9", &client), None, "not on the link");
    assert_eq!(taught("fe80::ff:fe00:1", &client), None, "our own address");
    assert_eq!(taught("fd00:20::9", &|p| p), None);
    assert_eq!(taught("fd00:20::9", &|p| p.target_link_layer(CLIENT)), None);
    assert_eq!(taught("fd00:20::9", &|p| p.source_link_layer([0; 6])), None);
    assert_eq!(taught("fd00:20::9", &|p| p.source_link_layer([0xff; 6])), None);
    assert_eq!(taught("fd00:20::9", &|p| p.nd_option(1, &[2; 14])), None, "Ethernet addresses fill one unit");
    let second = |p: Packet| p.source_link_layer([0; 6]).source_link_layer(CLIENT).source_link_layer(SERVER);
    assert_eq!(taught("fd00:20::9", &second), Some((ip("fd00:20::9"), Some(CLIENT))), "the first usable one");
}

#[test]
fn advertisements() {
    let host = "fd00:20::5";
    // Against the entry of SERVER that the lab made: flags, MAC, fate, MAC afterwards.
    for (flags, mac, fate, known) in [
        (0x20, CLIENT, "consumed nd", CLIENT),
        (0x60, CLIENT, "consumed nd", CLIENT),
        (0x40, CLIENT, "dropped neighbour_ignored", SERVER),
        (0x40, SERVER, "consumed nd", SERVER),
        (0x00, SERVER, "consumed nd", SERVER),
    ] {
        let mut lab = Lab::new();
        assert_eq!(lab.step(LAN_PORT, &answer6(host, mac, flags)), [fate], "flags {flags:#x}");
        let entry = lab.node.neighbours().iter().find(|n| n.address == ip(host));
        assert_eq!(entry.and_then(|n| n.mac), Some(known));
    }
    let bare = server(host, "fd00:20::1").neighbour_advertisement(v6(host), 0x60);
    let ignored = ["dropped neighbour_ignored"];
    assert_eq!(Lab::new().step(LAN_PORT, &bare), ignored, "no option");
    assert_eq!(Lab::new().step(LAN_PORT, &bare.clone().source_link_layer(SERVER)), ignored, "the wrong option");
    assert_eq!(Lab::new().step(LAN_PORT, &bare.target_link_layer([1; 6])), ignored, "a group's MAC");
    assert_eq!(Lab::new().step(LAN_PORT, &answer6("fd00:20::9", SERVER, 0x60)), ignored, "nobody asked");
    let mut lab = Lab::bare(tables());
    lab.step(WAN_PORT, &to("fd00:20::77"));
    assert_eq!(lab.step(LAN_PORT, &answer6("fd00:20::77", CLIENT, 0)), ["consumed nd", SENT6], "incomplete takes any");
}

/// Requests come from the address nearest to the neighbour.
#[test]
fn who_asks() {
    let mut tables = tables();
    tables.interfaces[0].addresses = vec![cidr("10.0.40.1/24"), cidr("10.0.20.1/24")];
    tables.routes.extend([via(0, "10.7.0.0/16", &[("10.0.99.9", 0, 1)]), via(0, "fd07::/16", &[("fe80::9", 0, 1)])]);
    let mut lab = Lab::bare(tables.clone());
    assert!(lab.step(WAN_PORT, &to("10.0.20.77"))[1].contains("tell 10.0.20.1 "));
    assert!(lab.step(WAN_PORT, &to("10.7.0.1"))[1].contains("who-has 10.0.99.9 tell 10.0.40.1 "), "else the first");
    assert!(lab.step(WAN_PORT, &to("fd07::1"))[1].contains("fe80::ff:fe00:1 > ff02::1:ff00:9"), "else the link-local");
    tables.interfaces[0].addresses.clear();
    let mut lab = Lab::bare(tables);
    assert_eq!(lab.step(WAN_PORT, &to("10.7.0.1")), ["held"], "nobody can ask");
    assert!(lab.wait(SECOND).is_empty());
    assert!(lab.wait(SECOND).is_empty());
    assert_eq!(lab.wait(SECOND)[0], "dropped neighbour_unreachable");
}

#[test]
fn a_push_takes_neighbours_with_their_interface() {
    let mut lab = Lab::new();
    let before = lab.node.neighbours().len();
    lab.step(WAN_PORT, &to("10.0.20.77"));
    lab.step(WAN_PORT, &to("10.0.20.77"));
    let mut renamed = tables();
    renamed.interfaces[0].name = "servers".into();
    assert!(lab.push(renamed).is_empty());
    assert_eq!(lab.node.neighbours().len(), before + 1);
    let mut moved = tables();
    moved.interfaces[0].vlan = Some(21);
    assert_eq!(lab.push(moved), ["dropped neighbour_unreachable", "dropped neighbour_unreachable"]);
    assert_eq!(lab.node.neighbours().len(), 2, "the gateway stays");
}

/// Packets of one burst go through the fast part first.
#[test]
fn a_burst_is_answered_in_order() {
    let mut lab = Lab::bare(tables());
    let (first, answer) = (to("10.0.20.77").build(), answer4("10.0.20.77", CLIENT).build());
    let arrival = |port, frame| Arrival { port, frame, choices: Choices::default() };
    let out = lab.node.burst(
        lab.now,
        &[arrival(LAN_PORT, &answer), arrival(WAN_PORT, &first), arrival(LAN_PORT, &answer), arrival(WAN_PORT, &first)],
    );
    let ignored = Fate::Dropped(DropReason::NeighbourIgnored);
    assert_eq!(out.fates[..2], [ignored, Fate::Held]);
    assert_eq!(out.fates[3], Fate::Transmitted, "known by the time it reaches the slow path");
    assert_eq!(out.transmitted.len(), 3);
    assert_conserved(&out, 4, 0, lab.node.held());
}
