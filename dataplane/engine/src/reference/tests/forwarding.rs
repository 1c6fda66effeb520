//! Sections 6, 8, 9 and 10: rules, routes, TTL, MTU, policing and marks.

use super::*;

fn udp4() -> Packet {
    server("10.0.20.5", "8.8.8.8").udp(1, 2)
}

/// The fate under these rules.
fn under(rules: Vec<RuleSpec>, packet: &Packet) -> String {
    Lab::with(RuleTables { rules, ..tables() }).step(LAN_PORT, packet)[0].clone()
}

#[test]
fn rules_match_on_all_their_parts() {
    let range = |first, last| vec![PortRange { first, last }];
    let any = RuleMatch::default;
    let tcp = |sport, dport| server("10.0.20.5", "8.8.8.8").tcp(sport, dport);
    let tcp6 = |sport, dport| server("fd00:20::5", "2001:db8:8::8").tcp(sport, dport);
    let first = || server("10.0.20.5", "8.8.8.8").fragment(0, true, 1).tcp(1, 2).payload([0; 4]);
    for (title, matches, packet, matched) in [
        ("everything", any(), udp4(), true),
        ("source", RuleMatch { src: vec![cidr("10.0.0.0/8")], ..any() }, udp4(), true),
        ("another source", RuleMatch { src: vec![cidr("10.1.0.0/16")], ..any() }, udp4(), false),
        ("one of several", RuleMatch { src: vec![cidr("10.1.0.0/16"), cidr("10.0.20.5/32")], ..any() }, udp4(), true),
        ("destination", RuleMatch { dst: vec![cidr("8.8.8.8/32")], ..any() }, udp4(), true),
        ("the other family", RuleMatch { dst: vec![cidr("::/0")], ..any() }, udp4(), false),
        ("all of the family", RuleMatch { dst: vec![cidr("0.0.0.0/0")], ..any() }, udp4(), true),
        ("IPv6", RuleMatch { src: vec![cidr("fd00:20::/64")], ..any() }, tcp6(1, 2), true),
        ("protocol", RuleMatch { protocol: Some(6), ..any() }, tcp(1, 2), true),
        ("another protocol", RuleMatch { protocol: Some(17), ..any() }, tcp(1, 2), false),
        ("behind extension headers", RuleMatch { protocol: Some(6), ..any() }, tcp6(1, 2).hop_by_hop(), true),
        ("source port", RuleMatch { src_ports: range(1, 1), ..any() }, tcp(1, 2), true),
        ("another source port", RuleMatch { src_ports: range(2, 9), ..any() }, tcp(1, 2), false),
        ("destination port", RuleMatch { dst_ports: range(2, 9), ..any() }, tcp(1, 9), true),
        ("another destination port", RuleMatch { dst_ports: range(2, 9), ..any() }, tcp(1, 10), false),
        ("port 0", RuleMatch { dst_ports: range(0, 0), ..any() }, tcp(0, 0), true),
        (
            "ICMP has no ports",
            RuleMatch { dst_ports: range(0, 65535), ..any() },
            server("10.0.20.5", "8.8.8.8").echo(0, 0),
            false,
        ),
        ("first fragments have ports", RuleMatch { dst_ports: range(2, 2), ..any() }, first(), true),
        ("interface", RuleMatch { in_interface: Some(0), ..any() }, udp4(), true),
        ("another interface", RuleMatch { in_interface: Some(1), ..any() }, udp4(), false),
    ] {
        let expected = if matched { "transmitted" } else { "dropped rule_deny" };
        assert_eq!(under(vec![rule("r", matches.clone(), RuleAction::Permit)], &packet), expected, "permit {title}");
        let open = rule("s", RuleMatch::default(), RuleAction::Permit);
        let expected = if matched { "dropped rule_deny" } else { "transmitted" };
        assert_eq!(under(vec![rule("r", matches, RuleAction::Deny), open], &packet), expected, "deny {title}");
    }
}

#[test]
fn the_first_rule_decides() {
    let all = |name, action| rule(name, RuleMatch::default(), action);
    assert_eq!(under(vec![], &udp4()), "transmitted");
    assert_eq!(under(vec![all("a", RuleAction::Permit), all("b", RuleAction::Deny)], &udp4()), "transmitted");
    assert_eq!(under(vec![all("a", RuleAction::Deny), all("b", RuleAction::Permit)], &udp4()), "dropped rule_deny");
    // Our own addresses are not asked about, services are.
    let deny = vec![all("a", RuleAction::Deny)];
    assert_eq!(under(deny.clone(), &server("10.0.20.5", "10.0.20.1").echo(1, 1)), "consumed echo");
    assert_eq!(under(deny, &server("10.0.20.5", "203.0.113.10").udp(1, 53)), "dropped rule_deny");
}

#[test]
fn routes() {
    let told = |dst: &str| {
        let src = if dst.contains(':') { "fd00:20::5" } else { "10.0.20.5" };
        Lab::new().step(LAN_PORT, &server(src, dst).udp(1, 2))
    };
    assert_eq!(told("10.9.1.1"), ["dropped route_blackhole"]);
    assert_eq!(told("fd09::1"), ["dropped route_blackhole"]);
    assert_eq!(
        told("10.8.1.1"),
        [
            "dropped route_reject",
            "lan: LAN > SERVER vlan 20 10.0.20.1 > 10.0.20.5 icmp 3/13 ttl 64 dscp 48 ecn 0 df data 28",
        ]
    );
    assert_eq!(
        told("fd08::1"),
        ["dropped route_reject", "lan: LAN > SERVER vlan 20 fd00:20::1 > fd00:20::5 icmp6 1/1 ttl 64 data 48",]
    );
    assert!(told("10.0.20.12")[1].starts_with("lan: LAN > SERVER vlan 20"), "connected, back out");
    assert!(told("8.8.8.8")[1].starts_with("wan: WAN > GATEWAY"), "default");

    // Without a default: unreachable.
    let mut tables = tables();
    tables.routes.clear();
    let mut lab = Lab::with(tables.clone());
    assert_eq!(
        lab.step(LAN_PORT, &udp4()),
        [
            "dropped no_route",
            "lan: LAN > SERVER vlan 20 10.0.20.1 > 10.0.20.5 icmp 3/0 ttl 64 dscp 48 ecn 0 df data 28",
        ]
    );
    assert_eq!(
        lab.step(LAN_PORT, &server("fd00:20::5", "2001:db8:8::8").udp(1, 2)),
        ["dropped no_route", "lan: LAN > SERVER vlan 20 fd00:20::1 > fd00:20::5 icmp6 1/0 ttl 64 data 48",]
    );

    // Of the same prefix the configured route counts, of two prefixes the longer.
    tables.routes = vec![
        RouteSpec { table: 0, prefix: cidr("192.0.2.0/24"), action: RouteAction::Blackhole },
        RouteSpec { table: 0, prefix: cidr("192.0.2.128/25"), action: RouteAction::Reject },
    ];
    let mut lab = Lab::with(tables);
    assert_eq!(lab.step(LAN_PORT, &server("10.0.20.5", "192.0.2.9").udp(1, 2))[0], "dropped route_blackhole");
    assert_eq!(lab.step(LAN_PORT, &server("10.0.20.5", "192.0.2.200").udp(1, 2))[0], "dropped route_reject");
}

#[test]
fn tables_belong_to_interfaces() {
    let mut tables = tables();
    tables.routes.push(RouteSpec { table: 7, prefix: cidr("8.8.8.8/32"), action: RouteAction::Blackhole });
    let mut lab = Lab::with(tables);
    let blue = |dst| Packet::eth(SERVER, LAN).vlan(30).ip(ip("10.0.30.5"), ip(dst)).udp(1, 2);
    assert_eq!(lab.step(LAN_PORT, &blue("8.8.8.8")), ["dropped route_blackhole"]);
    assert_eq!(lab.step(LAN_PORT, &blue("8.8.8.9"))[0], "dropped no_route", "its table has no default route");
    assert_eq!(lab.step(LAN_PORT, &blue("10.0.20.5"))[0], "dropped no_route", "nor the other's connected prefix");
    assert_eq!(lab.step(LAN_PORT, &blue("10.0.30.9"))[0], "held", "its own it has");
}

/// Shares follow weights, and a flow stays on its way.
#[test]
fn several_next_hops() {
    let mut tables = tables();
    tables.routes[0] = via(0, "0.0.0.0/0", &[("192.0.2.253", 2, 1), ("192.0.2.254", 2, 3)]);
    let mut lab = Lab::with(tables);
    lab.step(WAN_PORT, &Packet::eth(CLIENT, WAN).arp_request([192, 0, 2, 253], [192, 0, 2, 1]));
    let mut light = 0;
    for port in 0..1000 {
        let packet = server("10.0.20.5", "8.8.8.8").udp(port, 53);
        let told = lab.step(LAN_PORT, &packet);
        assert_eq!(told, lab.step(LAN_PORT, &packet));
        light += usize::from(told[1].starts_with("wan: WAN > CLIENT"));
    }
    assert!((200..300).contains(&light), "{light} of 1000 with a quarter of the weight");
    // Fragments go where their packet goes; what looks like ports in a later one is data.
    for id in 0..32 {
        let fragment = |offset, more| server("10.0.20.5", "8.8.8.8").fragment(offset, more, id);
        let way = |told: Vec<String>| told[1].split(' ').nth(3).map(str::to_owned);
        let first = way(lab.step(LAN_PORT, &fragment(0, true).udp(id, 53)));
        assert_eq!(way(lab.step(LAN_PORT, &fragment(8, false).protocol(17).payload([id as u8; 8]))), first);
    }
}

#[test]
fn ttl() {
    for (ttl, fate) in
        [(0, "dropped ttl_exceeded"), (1, "dropped ttl_exceeded"), (2, "transmitted"), (255, "transmitted")]
    {
        for base in [server("10.0.20.5", "8.8.8.8"), server("fd00:20::5", "2001:db8:8::8")] {
            assert_eq!(Lab::new().step(LAN_PORT, &base.udp(1, 2).ttl(ttl))[0], fate, "TTL {ttl}");
        }
    }
    // For ourselves it does not matter, and a route comes first.
    assert_eq!(Lab::new().step(LAN_PORT, &server("10.0.20.5", "10.0.20.1").echo(1, 1).ttl(1))[0], "consumed echo");
    assert_eq!(
        Lab::new().step(LAN_PORT, &server("10.0.20.5", "10.9.0.1").udp(1, 1).ttl(1)),
        ["dropped route_blackhole"]
    );
}

/// The WAN port takes 1,400 octets.
#[test]
fn mtu() {
    let told = |packet: Packet| Lab::new().step(LAN_PORT, &packet);
    let v4 = |len: usize| server("10.0.20.5", "8.8.8.8").udp(1, 2).payload(vec![0; len - 28]);
    let v6 = |len: usize| server("fd00:20::5", "2001:db8:8::8").udp(1, 2).payload(vec![0; len - 48]);
    assert_eq!(told(v4(1400))[0], "transmitted");
    assert_eq!(told(v4(1400).padding(50))[0], "transmitted", "padding does not count");
    assert_eq!(
        told(v4(1401).dont_fragment()),
        [
            "dropped mtu_exceeded",
            "lan: LAN > SERVER vlan 20 10.0.20.1 > 10.0.20.5 icmp 3/4 mtu 1400 ttl 64 dscp 48 ecn 0 df data 548",
        ]
    );
    assert_eq!(told(v6(1400))[0], "transmitted");
    assert_eq!(
        told(v6(1401)),
        [
            "dropped mtu_exceeded",
            "lan: LAN > SERVER vlan 20 fd00:20::1 > fd00:20::5 icmp6 2/0 mtu 1400 ttl 64 data 1232",
        ]
    );
    assert_eq!(told(v4(1401).dont_fragment().ttl(1))[0], "dropped ttl_exceeded", "TTL comes first");
}

#[test]
fn marks() {
    let policer = PolicerSpec {
        name: "p".into(),
        cir: 1,
        cbs: 1 << 20,
        ebs: 0,
        on_green: PolicerAction::Mark(1),
        on_yellow: PolicerAction::Drop,
        on_red: PolicerAction::Drop,
        ..Default::default()
    };
    let mut permit = rule("p", RuleMatch::default(), RuleAction::Permit);
    permit.mark = Some(2);
    // Policer's, rule's, service's mark; trusting; DSCP of a service packet and of another, received with 46 and ECN 1.
    for (police, mark_rule, mark_service, trust, service_dscp, other_dscp) in [
        (true, true, true, false, 1, 2),
        (false, true, true, false, 2, 2),
        (false, false, true, false, 3, 0),
        (false, false, false, false, 0, 0),
        (false, false, false, true, 46, 46),
        (false, false, true, true, 3, 46),
    ] {
        let mut tables = tables();
        tables.interfaces[2].trust_dscp = trust;
        tables.policers = vec![policer.clone()];
        tables.services[0].policer = police.then_some(0);
        tables.services[0].mark = mark_service.then_some(3);
        tables.rules = if mark_rule { vec![permit.clone()] } else { vec![] };
        let mut lab = Lab::with(tables);
        for (packet, dscp) in [
            (world("198.51.100.7", "203.0.113.10").udp(1, 53), service_dscp),
            (world("2001:db8:9::7", "2001:db8:10::10").udp(1, 53), service_dscp),
            (world("198.51.100.7", "10.0.20.5").udp(1, 53), other_dscp),
            (world("2001:db8:9::7", "fd00:20::5").udp(1, 53).flow_label(0xabcde), other_dscp),
        ] {
            let told = lab.step(WAN_PORT, &packet.dscp(46).ecn(1));
            assert!(told[1].contains(&format!("dscp {dscp} ecn 1")), "{dscp}: {told:?}");
        }
    }
}

/// Only what must change changes.
#[test]
fn bytes_of_a_forwarded_packet() {
    for base in [
        server("10.0.20.5", "8.8.8.8").options(&[148, 4, 0, 0]).ident(0xbeef).tcp(1, 2).tcp_options(&[2, 4, 5, 180]),
        server("fd00:20::5", "2001:db8:8::8").flow_label(0xabcde).hop_by_hop().tcp(1, 2),
    ] {
        let packet = base.dscp(46).payload(b"some data").padding(7);
        let mut lab = Lab::new();
        let out = lab.node.process(lab.now, LAN_PORT, &packet.clone().build(), Choices::default());
        let expected = packet.ttl(63).padding(0).reframed(WAN, GATEWAY);
        assert_eq!(out.transmitted, [(WAN_PORT, expected.build())]);
    }
}

/// RFC 2992 s2: what a next hop that goes disturbs. Here only its own flows.
#[test]
fn a_lost_next_hop_moves_its_own_flows_only() {
    let other = tables().interfaces.iter().position(|i| i.port == WAN_PORT).unwrap();
    let this = tables().interfaces.iter().position(|i| i.port == LAN_PORT).unwrap();
    let hops = [("10.0.20.5", this, 1), ("10.0.20.11", this, 3), ("10.0.20.12", other, 2)];
    let names = tables().ports;
    let chosen = |hops: &[(&str, usize, u16)], down: &[usize], port: u16| {
        let mut tables = tables();
        tables.routes.push(via(0, "10.50.0.0/16", hops));
        let flow = Tuple { src: ip("198.51.100.7"), dst: ip("10.50.0.1"), protocol: 17, sport: port, dport: 9 };
        let down = down.iter().map(|&port| names[port].name.clone()).collect();
        let node = node::Node { tables, macs: Vec::new(), generation: 1, down };
        match route::lookup(&node, 0, ip("10.50.0.1"), &flow) {
            route::Route::Via { next_hop, .. } => next_hop,
            other => panic!("{other:?}"),
        }
    };
    let mut moved = 0;
    for port in 0..2000 {
        let (before, after) = (chosen(&hops, &[], port), chosen(&hops[..2], &[], port));
        assert_eq!(chosen(&hops, &[WAN_PORT], port), after, "a dead link is like no hop");
        assert_eq!(chosen(&hops, &[WAN_PORT, LAN_PORT], port), before, "without any link all are as good");
        if before == ip(hops[2].0) {
            moved += 1;
        } else {
            assert_eq!(before, after, "port {port}");
        }
    }
    assert!((560..780).contains(&moved), "{moved} of 2000 flows had the hop of a third of the weight");
}
