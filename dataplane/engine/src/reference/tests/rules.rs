//! Section 6 and what rules set: closer conditions, reject, policer, way, samples, counting.

use super::*;
use crate::packet::{ACK, FIN, RST, SYN};
use crate::reason::DropReason;

fn any() -> RuleMatch {
    RuleMatch::default()
}

/// A node under these rules and, at the end, one that permits everything.
fn lab(mut rules: Vec<RuleSpec>) -> Lab {
    rules.push(rule("rest", any(), RuleAction::Permit));
    Lab::with(RuleTables { rules, policers: vec![policer()], ..tables() })
}

/// 1 kbit/s; passes one packet of 28 octets and marks it.
fn policer() -> PolicerSpec {
    PolicerSpec {
        name: "tight".into(),
        cir: 1,
        cbs: 28,
        ebs: 0,
        on_green: PolicerAction::Mark(30),
        on_yellow: PolicerAction::Pass,
        on_red: PolicerAction::Drop,
        ..Default::default()
    }
}

#[test]
fn flags_vlan_dscp_and_fragments() {
    let v4 = || server("10.0.20.5", "8.8.8.8");
    let v6 = || server("fd00:20::5", "2001:db8:8::8");
    let tcp = |flags: u8| v4().tcp(1, 2).flags(flags);
    let flags = |value, mask| RuleMatch { protocol: Some(6), tcp_flags: Some(FlagMatch { value, mask }), ..any() };
    let fragment = |fragment| RuleMatch { fragment: Some(fragment), ..any() };
    // A later fragment follows the first one of its packet.
    let of = |id| v4().fragment(0, true, id).tcp(1, 2).flags(SYN).payload([0; 4]);
    let (first, later) = (|| of(2), || v4().fragment(24, false, 1).protocol(6).payload([0; 20]));
    for (title, matches, packet, matched) in [
        ("SYN without ACK", flags(SYN, SYN | ACK), tcp(SYN), true),
        ("other flags do not count", flags(SYN, SYN | ACK), tcp(SYN | FIN), true),
        ("SYN with ACK", flags(SYN, SYN | ACK), tcp(SYN | ACK), false),
        ("no flags", flags(0, 0xff), tcp(0), true),
        ("IPv6", flags(SYN, SYN | ACK), v6().tcp(1, 2).flags(SYN), true),
        ("a first fragment has flags", flags(SYN, SYN), first(), true),
        ("a later one has none, not even unset ones", flags(0, SYN), later(), false),
        ("VLAN", RuleMatch { vlan: Some(20), ..any() }, tcp(SYN), true),
        ("another VLAN", RuleMatch { vlan: Some(30), ..any() }, tcp(SYN), false),
        ("tagged is not untagged", RuleMatch { vlan: Some(0), ..any() }, tcp(SYN), false),
        ("DSCP", RuleMatch { dscp: vec![10, 46], ..any() }, tcp(SYN).tos(46 << 2), true),
        ("ECN does not count", RuleMatch { dscp: vec![10, 46], ..any() }, v6().udp(1, 2).tos(46 << 2 | 3), true),
        ("another DSCP", RuleMatch { dscp: vec![10, 46], ..any() }, tcp(SYN).tos(44 << 2), false),
        ("a whole packet", fragment(FragmentMatch::No), tcp(SYN), true),
        ("no fragment", fragment(FragmentMatch::Yes), tcp(SYN), false),
        ("no later fragment", fragment(FragmentMatch::Later), first(), false),
        ("a first fragment", fragment(FragmentMatch::First), first(), true),
        ("a fragment", fragment(FragmentMatch::Yes), first(), true),
        ("a later fragment", fragment(FragmentMatch::Later), later(), true),
        ("not the first", fragment(FragmentMatch::First), later(), false),
        ("not whole", fragment(FragmentMatch::No), later(), false),
        ("an atomic fragment is whole", fragment(FragmentMatch::No), v6().fragment(0, false, 1).udp(1, 2), true),
    ] {
        let mut lab = lab(vec![rule("r", matches, RuleAction::Deny)]);
        lab.step(LAN_PORT, &of(1));
        let told = lab.step(LAN_PORT, &packet);
        assert_eq!(told[0], if matched { "dropped rule_deny" } else { "transmitted" }, "{title}");
    }
}

/// RFC 9293 s3.10.7.1.
#[test]
fn rejected_tcp_is_reset() {
    let told = |packet: Packet| lab(vec![rule("r", any(), RuleAction::Reject)]).step(LAN_PORT, &packet);
    let tcp = |flags: u8| server("10.0.20.5", "8.8.8.8").tcp(1, 2).flags(flags).seq(1000, 77);
    let reset = |tail: &str| format!("lan: LAN > SERVER vlan 20 8.8.8.8:2 > 10.0.20.5:1 tcp {tail} ttl 64 df data 0");
    let rejected = || "dropped rule_reject".to_owned();
    assert_eq!(told(tcp(SYN)), [rejected(), reset("RA seq 0 ack 1001")]);
    assert_eq!(told(tcp(SYN | FIN).payload([0; 10])), [rejected(), reset("RA seq 0 ack 1012")]);
    assert_eq!(told(tcp(ACK).payload([0; 10])), [rejected(), reset("R seq 77 ack 0")]);
    assert_eq!(told(tcp(RST)), [rejected()]);
    assert_eq!(told(tcp(SYN).bad_l4_checksum()), [rejected()]);
    let six = told(server("fd00:20::5", "2001:db8:8::8").hop_by_hop().tcp(1, 2).flags(ACK).seq(1, 9));
    let expected = "lan: LAN > SERVER vlan 20 [2001:db8:8::8]:2 > [fd00:20::5]:1 tcp R seq 9 ack 0 ttl 64 data 0";
    assert_eq!(six, [rejected(), expected.to_owned()]);
}

#[test]
fn everything_else_rejected_gets_an_icmp_error() {
    let v4 = || server("10.0.20.5", "8.8.8.8");
    let first = |id| v4().fragment(0, true, id).tcp(1, 2).payload([0; 4]);
    let told = |packet: Packet| {
        let mut lab = lab(vec![rule("r", any(), RuleAction::Reject)]);
        lab.step(LAN_PORT, &first(1));
        lab.step(LAN_PORT, &packet)
    };
    for (packet, error) in [
        (v4().udp(1, 2), Some("icmp 3/13")),
        (v4().protocol(47), Some("icmp 3/13")),
        (first(2), Some("icmp 3/13")),
        (server("fd00:20::5", "2001:db8:8::8").udp(1, 2), Some("icmp6 1/1")),
        (v4().fragment(24, false, 1).protocol(6).payload([0; 20]), None),
        (v4().icmp(3, 1, [0; 4]), None),
    ] {
        let told = told(packet);
        assert_eq!(told[0], "dropped rule_reject");
        assert_eq!(told.len(), 1 + usize::from(error.is_some()), "{told:?}");
        assert!(error.is_none_or(|error| told[1].contains(error)), "{told:?}");
    }
}

#[test]
fn resets_and_errors_share_one_rate() {
    let mut lab = lab(vec![rule("r", any(), RuleAction::Reject)]);
    let tcp = server("10.0.20.5", "8.8.8.8").tcp(1, 2).flags(SYN).build();
    let udp = server("10.0.20.5", "8.8.8.8").udp(1, 2).build();
    let answered = (0..200).filter(|n| lab.receive(LAN_PORT, if n % 2 == 0 { &tcp } else { &udp }).len() > 1).count();
    assert_eq!(answered, 100);
}

#[test]
fn a_rules_policer_takes_the_place_of_the_services() {
    let metered = RuleSpec { policer: Some(0), mark: Some(5), ..rule("r", any(), RuleAction::Permit) };
    let mut plain = lab(vec![metered.clone()]);
    let packet = server("10.0.20.5", "8.8.8.8").udp(1, 2);
    assert!(plain.step(LAN_PORT, &packet)[1].contains("dscp 30"));
    assert_eq!(plain.step(LAN_PORT, &packet), ["dropped policer_drop"]);

    let mut tables = RuleTables { rules: vec![metered], policers: vec![policer()], ..tables() };
    tables.policers.push(PolicerSpec { name: "wide".into(), on_green: PolicerAction::Mark(31), ..policer() });
    tables.services[0].policer = Some(1);
    let mut balanced = Lab::with(tables);
    let request = world("198.51.100.7", "203.0.113.10").udp(4000, 53);
    assert!(balanced.step(WAN_PORT, &request)[1].contains("dscp 30"));
    assert_eq!(balanced.step(WAN_PORT, &request), ["dropped policer_drop"]);
    let reply = server("10.0.20.11", "198.51.100.7").udp(53, 4000);
    assert!(balanced.step(LAN_PORT, &reply)[1].contains("dscp 5"), "replies are marked, not metered");
}

#[test]
fn a_rule_sets_the_way() {
    let set = |way| RuleSpec { way: Some(way), ..rule("r", any(), RuleAction::Permit) };
    let to = |address: &str, interface| RuleWay::NextHop { address: ip(address), interface };
    let world_of = |told: Vec<String>| told[1].split(": ").next().unwrap().to_owned();
    let packet = || server("10.0.20.5", "8.8.8.8").udp(1, 2);
    assert_eq!(world_of(lab(vec![]).step(LAN_PORT, &packet())), "wan");
    assert_eq!(world_of(lab(vec![set(to("10.0.20.12", 0))]).step(LAN_PORT, &packet())), "lan");
    let six = server("fd00:20::5", "2001:db8:8::8").udp(1, 2);
    assert_eq!(world_of(lab(vec![set(to("10.0.20.12", 0))]).step(LAN_PORT, &six)), "wan", "of the other family");
    // Table 7 knows its interface's prefix alone.
    assert_eq!(lab(vec![set(RuleWay::Table(7))]).step(LAN_PORT, &packet())[0], "dropped no_route");
    assert_eq!(lab(vec![set(RuleWay::Table(9))]).step(LAN_PORT, &packet())[0], "dropped no_route");
    assert_eq!(lab(vec![set(to("10.0.20.12", 0))]).step(LAN_PORT, &packet().ttl(1))[0], "dropped ttl_exceeded");

    // Of a session, the client's packets only.
    let mut balanced = lab(vec![set(to("192.0.2.254", 2))]);
    let told = balanced.step(WAN_PORT, &world("198.51.100.7", "203.0.113.10").udp(4000, 53));
    assert!(told[1].starts_with("wan: WAN > GATEWAY 198.51.100.7:4000 > 10.0.20.11:53"), "{told:?}");
    let told = balanced.step(LAN_PORT, &server("10.0.20.11", "198.51.100.7").udp(53, 4000));
    assert!(told[1].starts_with("wan: WAN > GATEWAY 203.0.113.10:53 > 198.51.100.7:4000"), "{told:?}");
}

#[test]
fn rules_that_count_decide_nothing() {
    let count = |name, matches| rule(name, matches, RuleAction::Count);
    let tcp = RuleMatch { protocol: Some(6), ..any() };
    let udp = RuleMatch { protocol: Some(17), ..any() };
    let rules =
        vec![count("all", any()), rule("no-tcp", tcp.clone(), RuleAction::Deny), count("tcp", tcp), count("udp", udp)];
    let mut lab = lab(rules);
    let mut counted = |packet: Packet| {
        let out = lab.node.process(lab.now, LAN_PORT, &packet.build(), Choices::default());
        (out.counted.join(" "), out.dropped)
    };
    let packet = || server("10.0.20.5", "8.8.8.8");
    assert_eq!(counted(packet().udp(1, 2)), ("all udp rest".into(), vec![]));
    assert_eq!(counted(packet().tcp(1, 2)), ("all no-tcp".into(), vec![DropReason::RuleDeny]), "no rule behind");
    let told =
        Lab::with(RuleTables { rules: vec![count("all", any())], ..tables() }).step(LAN_PORT, &packet().udp(1, 2));
    assert_eq!(told[0], "transmitted", "a list that only counts decides nothing");
}

#[test]
fn one_in_so_many_is_recorded() {
    let sampled = RuleSpec { log_sample: 3, ..rule("s", any(), RuleAction::Permit) };
    let tables = RuleTables { rules: vec![sampled], ..tables() };
    let mut lab = Lab::with(tables.clone());
    let sampled = |lab: &mut Lab, port, packet: &Packet| {
        lab.node.process(lab.now, port, &packet.build(), Choices::default()).sampled.len()
    };
    let request = world("198.51.100.7", "203.0.113.10").udp(4000, 53);
    let reply = server("10.0.20.11", "198.51.100.7").udp(53, 4000);
    let seen: Vec<_> =
        (0..4).flat_map(|_| [sampled(&mut lab, WAN_PORT, &request), sampled(&mut lab, LAN_PORT, &reply)]).collect();
    assert_eq!(seen, [1, 0, 0, 1, 0, 0, 1, 0], "both directions count under the rule");
    lab.push(tables);
    assert_eq!(sampled(&mut lab, WAN_PORT, &request), 1, "anew after a push");
}

/// Sessions are decided again by their first packet, whatever comes first after the push.
#[test]
fn sessions_and_pushes() {
    let request = |flags: u8| world("198.51.100.7", "203.0.113.10").tcp(4000, 80).flags(flags).tos(46 << 2);
    let reply = || server("10.0.20.11", "198.51.100.7").tcp(8080, 4000).flags(SYN | ACK);
    let started = || {
        let mut lab = Lab::new();
        assert_eq!(lab.step(WAN_PORT, &request(SYN))[0], "transmitted");
        lab
    };
    let syn = RuleMatch { protocol: Some(6), tcp_flags: Some(FlagMatch { value: SYN, mask: SYN | ACK }), ..any() };
    let dscp = RuleMatch { dscp: vec![46], ..any() };
    let vlan = |vlan| RuleMatch { vlan: Some(vlan), ..any() };
    for (matches, permitted) in [(syn, true), (dscp, true), (vlan(0), true), (vlan(20), false)] {
        let mut lab = started();
        lab.push(RuleTables { rules: vec![rule("p", matches, RuleAction::Permit)], ..tables() });
        let expected = if permitted { "transmitted" } else { "dropped rule_deny" };
        assert_eq!(lab.step(LAN_PORT, &reply())[0], expected);
        assert_eq!(lab.node.sessions(lab.now).count(), usize::from(permitted));
    }

    let no = |action, new_only| {
        let denied = RuleSpec { new_only, ..rule("no", any(), action) };
        RuleTables { rules: vec![denied], ..tables() }
    };
    let mut lab = started();
    lab.push(no(RuleAction::Reject, false));
    let told = lab.step(WAN_PORT, &request(ACK));
    assert_eq!(told[0], "dropped rule_reject");
    assert!(told[1].contains("203.0.113.10:80 > 198.51.100.7:4000 tcp R"), "{told:?}");
    assert_eq!(lab.node.sessions(lab.now).count(), 0);

    for action in [RuleAction::Deny, RuleAction::Reject] {
        let mut lab = started();
        lab.push(no(action, true));
        assert_eq!(lab.step(LAN_PORT, &reply())[0], "transmitted", "the session goes on");
        assert_eq!(lab.step(WAN_PORT, &request(ACK))[0], "transmitted");
        let other = world("198.51.100.7", "203.0.113.10").tcp(4001, 80).flags(SYN);
        assert_eq!(
            lab.step(WAN_PORT, &other)[0],
            format!("dropped rule_{}", action.label()),
            "a new one does not begin"
        );
    }
}
