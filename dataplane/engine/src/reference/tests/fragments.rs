//! Section 4a, and "Fragmentation".

use super::*;

/// Ends, and the service address between them.
const FAMILIES: [(&str, &str, &str); 2] =
    [("198.51.100.7", "203.0.113.10", "10.0.20.11"), ("2001:db8:9::7", "2001:db8:10::10", "fd00:20::11")];

/// A fragment of a datagram for the DNS service.
fn piece(client: &str, vip: &str, (offset, more, id): (u16, bool, u16), octets: usize) -> Packet {
    let packet = world(client, vip).fragment(offset, more, id);
    if offset == 0 {
        packet.udp(4000, 53).udp_length(32).payload(vec![1; octets - 8])
    } else {
        packet.protocol(17).payload(vec![2; octets])
    }
}

#[test]
fn later_fragments_have_the_session_of_the_first() {
    for (client, vip, backend) in FAMILIES {
        let mut lab = Lab::new();
        let told = lab.step(WAN_PORT, &piece(client, vip, (0, true, 7), 16));
        assert!(told[0] == "transmitted" && told[1].contains(backend) && told[1].contains("fragment 0+"), "{told:?}");
        let told = lab.step(WAN_PORT, &piece(client, vip, (16, false, 7), 16));
        assert!(told[0] == "transmitted" && told[1].contains(&format!("> {backend}")), "{told:?}");
        assert_eq!(lab.node.sessions(lab.now).count(), 1);
        // Its payload is as it was.
        let out =
            lab.node.process(lab.now, WAN_PORT, &piece(client, vip, (0, true, 8), 16).build(), Choices::default());
        assert_eq!(out.fates, [Fate::Transmitted]);
        let later = piece(client, vip, (16, false, 8), 16).build();
        let out = lab.node.process(lab.now, WAN_PORT, &later, Choices::default());
        assert!(out.transmitted[0].1.ends_with(&[2; 16]));
        // The other way, its source becomes the service's.
        let reply = |offset, more| server(backend, client).fragment(offset, more, 9);
        lab.step(LAN_PORT, &reply(0, true).udp(53, 4000).udp_length(16));
        let told = lab.step(LAN_PORT, &reply(8, false).protocol(17).payload([3; 8]));
        assert!(told[1].contains(&format!(" {vip} > {client} ")), "{told:?}");
    }
}

#[test]
fn fragments_that_come_early_wait_and_follow_the_first() {
    for (client, vip, backend) in FAMILIES {
        let mut lab = Lab::new();
        assert_eq!(lab.step(WAN_PORT, &piece(client, vip, (24, false, 7), 8)), ["held"]);
        assert_eq!(lab.step(WAN_PORT, &piece(client, vip, (16, true, 7), 8)), ["held"]);
        let told = lab.step(WAN_PORT, &piece(client, vip, (0, true, 7), 16));
        let offsets = ["fragment 0+ ", "fragment 24 ", "fragment 16+ "];
        assert_eq!((told.len(), told[0].as_str()), (4, "transmitted"));
        for (told, offset) in told[1..].iter().zip(offsets) {
            assert!(told.contains(offset) && told.contains(backend), "{told}");
        }
        assert_eq!(lab.node.held(), 0);
    }
}

#[test]
fn echo_requests_in_fragments() {
    for (client, vip, backend) in FAMILIES {
        let protocol = if client.contains(':') { 58 } else { 1 };
        let mut lab = Lab::new();
        lab.sound = false;
        assert_eq!(lab.step(WAN_PORT, &world(client, vip).fragment(0, true, 5).echo(77, 1))[0], "transmitted");
        let told = lab.step(WAN_PORT, &world(client, vip).fragment(8, false, 5).protocol(protocol).payload([1; 3]));
        assert!(told[1].contains(&format!("> {backend}")), "{told:?}");
        assert_eq!(lab.node.sessions(lab.now).map(|s| s.forward.sport).collect::<Vec<_>>(), [77]);
    }
}

#[test]
fn rules_see_the_ports_of_every_fragment() {
    let ports = vec![PortRange { first: 53, last: 53 }];
    let mut tables = tables();
    tables.rules =
        vec![rule("dns", RuleMatch { protocol: Some(17), dst_ports: ports, ..Default::default() }, RuleAction::Permit)];
    for (from, to) in [("10.0.20.5", "8.8.8.8"), ("fd00:20::5", "2001:db8:8::8")] {
        for (port, fate) in [(53, "transmitted"), (54, "dropped rule_deny")] {
            let mut lab = Lab::with(tables.clone());
            assert_eq!(lab.step(LAN_PORT, &server(from, to).fragment(0, true, 1).udp(1, port))[0], fate);
            let later = server(from, to).fragment(8, false, 1);
            assert_eq!(lab.step(LAN_PORT, &later.clone().protocol(17).payload([0; 5]))[0], fate);
        }
    }
}

#[test]
fn without_rules_and_services_nobody_waits() {
    let mut tables = tables();
    tables.services.clear();
    let mut lab = Lab::with(tables);
    let later = server("10.0.20.5", "8.8.8.8").fragment(8, false, 1).protocol(17).payload([0; 8]);
    assert_eq!(lab.step(LAN_PORT, &later)[0], "transmitted");
    assert_eq!(lab.step(LAN_PORT, &later)[0], "transmitted", "nor is anything remembered");
}

/// What is not the same packet: another identification, source, protocol (IPv4), routing table.
#[test]
fn what_belongs_together() {
    let first = |lab: &mut Lab| lab.step(LAN_PORT, &server("10.0.20.5", "8.8.8.8").fragment(0, true, 1).udp(1, 2));
    let later = |packet: Packet, id| packet.fragment(8, false, id).payload([0; 8]);
    for (packet, id, fate) in [
        (server("10.0.20.5", "8.8.8.8").protocol(17), 1, "transmitted"),
        (server("10.0.20.5", "8.8.8.8").protocol(17), 2, "held"),
        (server("10.0.20.6", "8.8.8.8").protocol(17), 1, "held"),
        (server("10.0.20.5", "8.8.8.8").protocol(47), 1, "held"),
        (Packet::eth(SERVER, LAN).vlan(30).ip(ip("10.0.20.5"), ip("8.8.8.8")).protocol(17), 1, "held"),
        // Another interface of the same table.
        (from_gateway().ip(ip("10.0.20.5"), ip("8.8.8.8")).protocol(17), 1, "transmitted"),
    ] {
        let mut lab = Lab::new();
        assert_eq!(first(&mut lab)[0], "transmitted");
        let port = if packet.build()[..6] == WAN { WAN_PORT } else { LAN_PORT };
        assert_eq!(lab.step(port, &later(packet.clone(), id))[0], fate, "{}", describe(&packet.build()));
    }
    // IPv6 has no protocol in the key: the next header of a later fragment means nothing.
    let mut lab = Lab::new();
    let v6 = |offset, more| server("fd00:20::5", "2001:db8:8::8").fragment(offset, more, 1);
    lab.step(LAN_PORT, &v6(0, true).destination_options().udp(1, 2));
    assert_eq!(lab.step(LAN_PORT, &v6(16, false).protocol(60).payload([0; 8]))[0], "transmitted");
}

#[test]
fn overlaps_condemn_the_packet() {
    for (client, vip, _) in FAMILIES {
        for (offset, more, octets) in [(8, true, 16), (24, true, 16), (16, false, 16), (40, true, 8), (16, true, 24)] {
            let mut lab = Lab::new();
            assert_eq!(lab.step(WAN_PORT, &piece(client, vip, (16, true, 7), 16)), ["held"]);
            assert_eq!(lab.step(WAN_PORT, &piece(client, vip, (32, false, 7), 8)), ["held"]);
            let told = lab.step(WAN_PORT, &piece(client, vip, (offset, more, 7), octets));
            assert_eq!(told, ["dropped fragment_overlap"; 3], "{offset}+{octets}");
            assert_eq!(lab.step(WAN_PORT, &piece(client, vip, (0, true, 7), 16)), ["dropped fragment_overlap"]);
            lab.wait(2 * SECOND + 1);
            assert_eq!(lab.step(WAN_PORT, &piece(client, vip, (0, true, 7), 16))[0], "transmitted", "forgotten");
        }
        // Behind a first fragment that has gone.
        let mut lab = Lab::new();
        lab.step(WAN_PORT, &piece(client, vip, (0, true, 7), 32));
        assert_eq!(lab.step(WAN_PORT, &piece(client, vip, (24, false, 7), 16)), ["dropped fragment_overlap"]);
        assert_eq!(lab.step(WAN_PORT, &piece(client, vip, (32, false, 7), 16)), ["dropped fragment_overlap"]);
    }
}

#[test]
fn duplicates_are_dropped_until_the_packet_is_whole() {
    for (client, vip, _) in FAMILIES {
        let mut lab = Lab::new();
        let [first, middle, last] =
            [((0, true, 7), 16), ((16, true, 7), 8), ((24, false, 7), 8)].map(|(at, n)| piece(client, vip, at, n));
        assert_eq!(lab.step(WAN_PORT, &middle), ["held"]);
        assert_eq!(lab.step(WAN_PORT, &middle), ["dropped fragment_duplicate"]);
        assert_eq!(lab.step(WAN_PORT, &first)[0], "transmitted");
        assert_eq!(lab.step(WAN_PORT, &first), ["dropped fragment_duplicate"]);
        assert_eq!(lab.step(WAN_PORT, &last)[0], "transmitted");
        // The identification is free for the next packet (RFC 4963).
        assert_eq!(lab.step(WAN_PORT, &first)[0], "transmitted");
    }
}

#[test]
fn malformed_and_tiny_fragments() {
    let at = |offset, more| world("198.51.100.7", "203.0.113.10").fragment(offset, more, 7);
    for (packet, fate) in [
        (at(8, false).protocol(17), "dropped fragment_malformed"),
        (at(8, true).protocol(17).payload([0; 9]), "dropped fragment_malformed"),
        (at(65528, false).protocol(17).payload([0; 8]), "dropped fragment_malformed"),
        (at(65528, false).protocol(17).payload([0; 7]), "held"),
        (at(8, false).protocol(6).payload([0; 16]), "dropped fragment_tiny"),
        (at(16, false).protocol(6).payload([0; 16]), "dropped fragment_tiny"),
        (at(24, false).protocol(6).payload([0; 16]), "held"),
        (at(8, false).protocol(17).payload([0; 16]), "held"),
    ] {
        assert_eq!(Lab::new().step(WAN_PORT, &packet), [fate], "{}", describe(&packet.build()));
    }
    // Two fragment headers, each for itself sound.
    let twice = world("2001:db8:9::7", "2001:db8:10::10").fragment(0, true, 7).fragment(0, true, 7).udp(4000, 53);
    assert_eq!(Lab::new().step(WAN_PORT, &twice), ["dropped ipv6_extension_headers"]);
}

#[test]
fn fragments_wait_for_two_seconds() {
    let mut lab = Lab::new();
    let (client, vip, _) = FAMILIES[0];
    assert_eq!(lab.step(WAN_PORT, &piece(client, vip, (16, false, 7), 16)), ["held"]);
    assert!(lab.wait(2 * SECOND).is_empty());
    assert_eq!(lab.wait(1), ["dropped fragment_first_missing"]);
    // What is known is known for as long.
    lab.step(WAN_PORT, &piece(client, vip, (0, true, 7), 16));
    assert_eq!(lab.wait(2 * SECOND), [""; 0]);
    assert_eq!(lab.receive(WAN_PORT, &piece(client, vip, (16, true, 7), 16).build())[0], "transmitted");
    assert_eq!(lab.wait(1), [""; 0]);
    assert_eq!(lab.receive(WAN_PORT, &piece(client, vip, (32, true, 7), 16).build()), ["held"]);
}

#[test]
fn who_waits_longest_gives_way() {
    let mut lab = Lab::new();
    let (client, vip, _) = FAMILIES[0];
    let start = lab.now;
    for id in 0..512 {
        assert_eq!(lab.receive(WAN_PORT, &piece(client, vip, (16, false, id), 16).build()), ["held"]);
    }
    assert_eq!(lab.now, start);
    let more = lab.receive(WAN_PORT, &piece(client, vip, (16, false, 600), 16).build());
    assert_eq!(more, ["dropped fragment_hold_full", "held"]);
    // The first of all has gone, the second is still there.
    assert_eq!(lab.receive(WAN_PORT, &piece(client, vip, (0, true, 0), 16).build()).len(), 2);
    assert_eq!(lab.receive(WAN_PORT, &piece(client, vip, (0, true, 1), 16).build()).len(), 3);
}

#[test]
fn too_many_fragments_of_one_packet() {
    let mut lab = Lab::new();
    let (client, vip, _) = FAMILIES[1];
    for n in 0..64 {
        assert_eq!(lab.step(WAN_PORT, &piece(client, vip, (n * 8, true, 7), 8))[0], "transmitted");
    }
    for n in [64, 65] {
        assert_eq!(lab.step(WAN_PORT, &piece(client, vip, (n * 8, true, 7), 8)), ["dropped fragment_too_many"]);
    }
}

#[test]
fn where_no_service_is() {
    for (client, vip, _) in FAMILIES {
        let mut lab = Lab::new();
        let told = lab.step(WAN_PORT, &world(client, vip).fragment(0, true, 1).udp(4000, 54));
        assert_eq!((told.len(), told[0].as_str()), (2, "dropped local_unreachable"));
        let later = world(client, vip).fragment(8, false, 1).protocol(17).payload([0; 8]);
        assert_eq!(lab.step(WAN_PORT, &later), ["dropped local_unreachable"]);
        assert_eq!(
            lab.step(WAN_PORT, &world(client, vip).fragment(0, true, 2).echo_reply(1, 1)),
            ["dropped local_unreachable"]
        );
    }
}

/// The WAN port takes 1,400 octets.
#[test]
fn long_packets_are_cut() {
    let out = |packet: &Packet| {
        let mut lab = Lab::new();
        lab.node.process(lab.now, LAN_PORT, &packet.build(), Choices::default())
    };
    let long = server("10.0.20.5", "8.8.8.8").ident(0xbeef).tos(0xb8);
    let cut = out(&long.clone().udp(1, 2).payload(vec![7; 1473]));
    assert_eq!((cut.originated, cut.transmitted.len(), &cut.fates[..]), (1, 2, &[Fate::Transmitted][..]));
    let whole = long.clone().udp(1, 2).payload(vec![7; 1473]).ttl(63).reframed(WAN, GATEWAY).build();
    let lengths: Vec<usize> = cut.transmitted.iter().map(|(_, frame)| frame.len() - 14).collect();
    // 1,376 octets are the multiple of eight that fits.
    assert_eq!(lengths, [20 + 1376, 20 + 1481 - 1376]);
    let data: Vec<u8> = cut.transmitted.iter().flat_map(|(_, frame)| frame[34..].to_vec()).collect();
    assert_eq!(data, whole[34..]);
    let told = Lab::new().step(LAN_PORT, &long.clone().udp(1, 2).payload(vec![7; 1473]));
    assert!(told[1].contains("fragment 0+") && told[2].contains("fragment 1376 "), "{told:?}");
    // A fragment that is cut: offsets go on, and more follow behind its last piece, too.
    let part = world("198.51.100.7", "10.0.20.5").fragment(0, true, 5).udp(1, 2).payload(vec![7; 1384]);
    let mut tables = tables();
    tables.ports[0].mtu = 1280;
    let mut lab = Lab::with(tables);
    assert_eq!(lab.step(WAN_PORT, &part)[0], "transmitted");
    let later = world("198.51.100.7", "10.0.20.5").fragment(1392, true, 5).protocol(17).payload(vec![7; 1376]);
    let told = lab.step(WAN_PORT, &later);
    assert!(told[1].contains("fragment 1392+") && told[2].contains("fragment 2648+"), "{told:?}");
}

#[test]
fn options_are_copied_by_their_flag() {
    // No-operation, timestamp (not copied), router alert (copied), end.
    let options = [1, 68, 4, 5, 0, 148, 4, 0, 0, 0, 0, 0];
    let packet = server("10.0.20.5", "8.8.8.8").options(&options).udp(1, 2).payload(vec![7; 1460]);
    let mut lab = Lab::new();
    let out = lab.node.process(lab.now, LAN_PORT, &packet.build(), Choices::default());
    let headers: Vec<&[u8]> =
        out.transmitted.iter().map(|(_, frame)| &frame[34..14 + usize::from(frame[14] & 15) * 4]).collect();
    assert_eq!(headers, [&options[..], &[148, 4, 0, 0]]);
}

/// A packet that is cut costs its policer as much as one that is not.
#[test]
fn a_policer_meters_before_it_is_cut() {
    let mut tables = tables();
    tables.ports[0].mtu = 1280;
    tables.policers = vec![PolicerSpec {
        name: "p".into(),
        cir: 1,
        cbs: 1400,
        ebs: 0,
        on_green: PolicerAction::Pass,
        on_yellow: PolicerAction::Drop,
        on_red: PolicerAction::Drop,
        ..Default::default()
    }];
    tables.services[0].policer = Some(0);
    let mut lab = Lab::with(tables);
    let packet = world("198.51.100.7", "203.0.113.10").udp(1, 53).payload(vec![0; 1372]);
    let told = lab.step(WAN_PORT, &packet);
    assert_eq!((told.len(), told[0].as_str()), (3, "transmitted"), "{told:?}");
    assert_eq!(lab.step(WAN_PORT, &packet), ["dropped policer_drop"]);
}
