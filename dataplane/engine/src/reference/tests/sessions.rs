//! Sections 5 and 7: services, their sessions, and what a push does to them.

use super::*;
use crate::packet::{ACK, FIN, RST, SYN};
use crate::reason::DropReason;

/// Client, service address, backend: one row per family.
const FAMILIES: [(&str, &str, &str); 2] =
    [("198.51.100.7", "203.0.113.10", "10.0.20.11"), ("2001:db8:9::7", "2001:db8:10::10", "fd00:20::11")];

fn bracket(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.into() }
}

fn states(lab: &Lab) -> Vec<SessionState> {
    lab.node.sessions(lab.now).map(Session::state).collect()
}

#[test]
fn tcp_and_udp_are_translated_both_ways() {
    for (client, vip, backend) in FAMILIES {
        let (c, v, b) = (bracket(client), bracket(vip), bracket(backend));
        let mut lab = Lab::new();
        assert_eq!(
            lab.step(WAN_PORT, &world(client, vip).tcp(4000, 80).flags(SYN).payload(b"x")),
            [
                "transmitted".to_string(),
                format!("lan: LAN > SERVER vlan 20 {c}:4000 > {b}:8080 tcp S seq 0 ack 0 ttl 63 data 1"),
            ]
        );
        assert_eq!(
            lab.step(LAN_PORT, &server(backend, client).tcp(8080, 4000).flags(SYN | ACK)),
            [
                "transmitted".to_string(),
                format!("wan: WAN > GATEWAY {v}:80 > {c}:4000 tcp SA seq 0 ack 0 ttl 63 data 0"),
            ]
        );
        assert_eq!(
            lab.step(WAN_PORT, &world(client, vip).udp(4000, 53)),
            ["transmitted".to_string(), format!("lan: LAN > SERVER vlan 20 {c}:4000 > {b}:53 udp ttl 63 data 0"),]
        );
        assert_eq!(
            lab.step(LAN_PORT, &server(backend, client).udp(53, 4000)),
            ["transmitted".to_string(), format!("wan: WAN > GATEWAY {v}:53 > {c}:4000 udp ttl 63 data 0"),]
        );
        assert_eq!(states(&lab), [SessionState::Opening, SessionState::Udp]);
        // The same ports of another protocol, and another port of the backend, are no replies.
        let told = lab.step(LAN_PORT, &server(backend, client).tcp(8081, 4000));
        assert!(told[1].contains(&format!("{b}:8081 > {c}:4000")), "{told:?}");
    }
}

#[test]
fn echo_is_translated_both_ways() {
    for (client, vip, backend) in FAMILIES {
        let name = if client.contains(':') { "icmp6" } else { "icmp" };
        let mut lab = Lab::new();
        assert_eq!(
            lab.step(WAN_PORT, &world(client, vip).echo(77, 1).payload(b"ping")),
            [
                "transmitted".to_string(),
                format!("lan: LAN > SERVER vlan 20 {client} > {backend} {name} echo request id 77 seq 1 ttl 63 data 4"),
            ]
        );
        assert_eq!(
            lab.step(LAN_PORT, &server(backend, client).echo_reply(77, 1).payload(b"ping")),
            [
                "transmitted".to_string(),
                format!("wan: WAN > GATEWAY {vip} > {client} {name} echo reply id 77 seq 1 ttl 63 data 4"),
            ]
        );
        assert_eq!(states(&lab), [SessionState::Icmp]);
        // A reply to the service address asks for nothing.
        assert_eq!(lab.step(WAN_PORT, &world(client, vip).echo_reply(78, 1)), ["dropped local_unreachable"]);
    }
}

#[test]
fn what_a_service_does_not_serve() {
    for (client, vip, _) in FAMILIES {
        let told = |packet: Packet| Lab::new().step(WAN_PORT, &packet);
        let code = if client.contains(':') { "icmp6 1/4" } else { "icmp 3/3" };
        let answer = told(world(client, vip).tcp(4000, 81));
        assert_eq!(answer[0], "dropped local_unreachable");
        assert!(answer[1].contains(code), "{answer:?}");
        assert_eq!(told(world(client, vip).protocol(47))[0], "dropped local_unreachable");
    }
}

#[test]
fn a_lost_backend_keeps_its_sessions_or_not() {
    for (policy, state, there, kept) in [
        (BackendLoss::Keep, BackendState::Down, true, true),
        (BackendLoss::Keep, BackendState::Up, false, true),
        (BackendLoss::Rebalance, BackendState::Draining, true, true),
        (BackendLoss::Rebalance, BackendState::Down, true, false),
        (BackendLoss::Rebalance, BackendState::Up, false, false),
    ] {
        let mut lab = Lab::new();
        let packet = world("198.51.100.7", "203.0.113.10").tcp(4000, 80).flags(ACK);
        assert!(lab.step(WAN_PORT, &packet)[1].contains("10.0.20.11:8080"));
        let mut tables = tables();
        let web = &mut tables.services[2];
        web.on_backend_loss = policy;
        web.backends[0].state = state;
        if !there {
            web.backends.remove(0);
        }
        web.backends.insert(0, backend("0", "10.0.20.12", Some(8080)));
        lab.push(tables);
        let expected = if kept { "10.0.20.11:8080" } else { "10.0.20.12:8080" };
        assert!(lab.step(WAN_PORT, &packet)[1].contains(expected), "{policy:?} {state:?} {there}");
        assert_eq!(lab.node.sessions(lab.now).count(), 1);
    }
}

#[test]
fn who_begins_anew_gets_a_backend_that_serves() {
    let from = |flags: u8| world("198.51.100.7", "203.0.113.10").tcp(4000, 80).flags(flags);
    let to = |lab: &mut Lab, flags: u8| {
        let story = lab.step(WAN_PORT, &from(flags))[1].clone();
        ["10.0.20.11:8080", "10.0.20.12:8080"].into_iter().find(|backend| story.contains(backend)).unwrap_or_default()
    };
    // What the session has seen, what comes now, and whether that asks for another backend.
    let cases: [(&[u8], u8, bool); 7] = [
        (&[SYN], SYN, true),
        (&[SYN, RST], SYN, true),
        (&[SYN], ACK, false),
        (&[SYN], SYN | ACK, false),
        (&[SYN], SYN | RST, false),
        (&[ACK], SYN, false),
        (&[SYN, FIN | ACK], SYN, false),
    ];
    for (before, now, moves) in cases {
        for (state, there) in [(BackendState::Draining, true), (BackendState::Down, true), (BackendState::Up, false)] {
            let mut lab = Lab::new();
            for &flags in before {
                assert_eq!(to(&mut lab, flags), "10.0.20.11:8080");
            }
            let mut tables = tables();
            let web = &mut tables.services[2];
            web.backends[0].state = state;
            if !there {
                web.backends.remove(0);
            }
            web.backends.insert(0, backend("0", "10.0.20.12", Some(8080)));
            lab.push(tables);
            let expected = if moves { "10.0.20.12:8080" } else { "10.0.20.11:8080" };
            assert_eq!(to(&mut lab, now), expected, "{before:?} {now} {state:?} {there}");
            assert_eq!(lab.node.sessions(lab.now).count(), 1);
        }
    }
}

#[test]
fn no_backend() {
    let mut tables = tables();
    tables.services[2].backends[0].state = BackendState::Draining;
    let mut lab = Lab::with(tables);
    assert_eq!(lab.step(WAN_PORT, &world("198.51.100.7", "203.0.113.10").tcp(4000, 80)), ["dropped no_backend"]);
    let told = lab.step(WAN_PORT, &world("2001:db8:9::7", "2001:db8:10::10").tcp(4000, 80));
    assert_eq!(told[0], "transmitted", "the other family has one");
}

/// Two service ports, one backend port: the second flow of a client port cannot be told from the first on its way back.
#[test]
fn nat_conflicts() {
    let mut tables = tables();
    tables.services[2].ports = vec![PortRange { first: 80, last: 81 }];
    let mut lab = Lab::with(tables);
    let to = |port| world("198.51.100.7", "203.0.113.10").tcp(4000, port).flags(SYN);
    assert_eq!(lab.step(WAN_PORT, &to(80))[0], "transmitted");
    assert_eq!(lab.step(WAN_PORT, &to(81)), ["dropped nat_conflict"]);
    lab.now += 31 * SECOND;
    assert_eq!(lab.step(WAN_PORT, &to(81))[0], "transmitted", "the first has timed out");
}

#[test]
fn a_full_session_table_is_the_pipelines_word() {
    let mut lab = Lab::new();
    let frame = world("198.51.100.7", "203.0.113.10").udp(4000, 53).build();
    let choices = Choices { session_refused: true, ..Choices::default() };
    let out = lab.node.process(lab.now, WAN_PORT, &frame, choices);
    assert_eq!(out.fate(), Some(Fate::Dropped(DropReason::SessionTableFull)));
    assert_eq!(lab.receive(WAN_PORT, &frame)[0], "transmitted");
    let out = lab.node.process(lab.now, WAN_PORT, &frame, choices);
    assert_eq!(out.fate(), Some(Fate::Transmitted), "nothing was asked of the table");
}

/// Kind by kind: may be evicted only after this long.
#[test]
fn what_may_be_evicted() {
    let to = |port| world("198.51.100.7", "203.0.113.10").tcp(4000, port);
    let from = |port| server("10.0.20.11", "198.51.100.7").tcp(port, 4000);
    let ask = world("198.51.100.7", "203.0.113.10").udp(4000, 53);
    let told = server("10.0.20.11", "198.51.100.7").udp(53, 4000);
    let ping = world("198.51.100.7", "203.0.113.10").echo(4, 4);
    for (title, packets, spared) in [
        ("opening", vec![to(80).flags(SYN), from(8080).flags(SYN | ACK), to(80).flags(SYN)], 0),
        ("time_wait", vec![to(80).flags(FIN), from(8080).flags(FIN)], 0),
        ("closing", vec![to(80).flags(FIN)], SECOND),
        ("reset", vec![to(80).flags(ACK), from(8080).flags(ACK), to(80).flags(RST)], SECOND),
        ("adopted", vec![to(80).flags(ACK)], SECOND),
        ("established", vec![to(80).flags(ACK), from(8080).flags(ACK)], 60 * SECOND),
        ("udp without answer", vec![ask.clone()], SECOND),
        ("udp", vec![ask.clone(), told], 10 * SECOND),
        ("icmp", vec![ping], SECOND),
    ] {
        for (late, allowed) in [(spared, spared == 0), (spared + 1, true)] {
            let mut lab = Lab::new();
            for packet in &packets {
                lab.step(if packet.build()[12] == 0x81 { LAN_PORT } else { WAN_PORT }, packet);
            }
            let victim = lab.node.sessions(lab.now).next().unwrap().forward;
            lab.now += late;
            let choices = Choices { evicted: Some(victim), ..Choices::default() };
            let newcomer = world("198.51.100.8", "203.0.113.10").udp(1, 53).build();
            let out = lab.node.process(lab.now, WAN_PORT, &newcomer, choices);
            assert_eq!(out.objections.is_empty(), allowed, "{title} after {late} ns: {out:?}");
            assert_eq!(out.fate(), Some(Fate::Transmitted));
            assert_eq!(states(&lab).len(), if allowed { 1 } else { 2 }, "{title} after {late} ns");
        }
    }
}

/// A walk through the TCP states: flags, `true` for the client's side, state afterwards.
#[test]
fn tcp_states() {
    use SessionState::{Adopted, Closing, Established, Opening, Reset, TimeWait};
    let walks: [&[(u8, bool, SessionState)]; 14] = [
        &[(SYN, true, Opening), (SYN | ACK, false, Opening), (ACK, true, Established), (SYN, true, Established)],
        // What a client says before the backend answered proves nothing.
        &[(SYN, true, Opening), (ACK, true, Opening), (SYN | ACK, true, Opening), (ACK, true, Opening)],
        &[(SYN, true, Opening), (ACK, false, Opening), (SYN | ACK, true, Opening), (ACK, true, Established)],
        &[(ACK, true, Adopted), (SYN, true, Adopted), (ACK, false, Established)],
        &[(ACK, true, Adopted), (FIN | ACK, true, Closing), (ACK, false, Closing), (FIN, false, TimeWait)],
        &[(ACK, true, Adopted), (FIN, false, Closing), (FIN, false, Closing), (FIN, true, TimeWait)],
        // An RST that was none: the session goes on where it was.
        &[
            (ACK, true, Adopted),
            (ACK, false, Established),
            (RST, true, Reset),
            (RST, false, Reset),
            (ACK, true, Established),
        ],
        &[
            (ACK, true, Adopted),
            (RST, false, Reset),
            (ACK, true, Adopted),
            (RST, true, Reset),
            (SYN | ACK, false, Established),
        ],
        &[(FIN, true, Closing), (RST, true, Reset), (ACK, false, Closing), (RST, true, Reset), (FIN, false, TimeWait)],
        &[(RST, true, Reset), (ACK, true, Adopted), (RST, true, Reset), (SYN, true, Opening), (ACK, true, Opening)],
        // A backend refuses, the client tries again.
        &[
            (SYN, true, Opening),
            (RST | ACK, false, Reset),
            (SYN, true, Opening),
            (SYN | ACK, false, Opening),
            (ACK, true, Established),
        ],
        // A new connection with the old ports.
        &[
            (FIN | ACK, true, Closing),
            (FIN | ACK, false, TimeWait),
            (ACK, true, TimeWait),
            (SYN, true, Opening),
            (FIN, false, Closing),
        ],
        &[(SYN | FIN, true, Closing), (ACK, true, Closing)],
        &[(SYN | RST, true, Reset), (FIN | RST, true, Reset), (ACK, false, Opening)],
    ];
    for (client, vip, backend) in FAMILIES {
        for walk in walks {
            let mut lab = Lab::new();
            for (step, &(flags, forward, expected)) in walk.iter().enumerate() {
                let packet =
                    if forward { world(client, vip).tcp(4000, 80) } else { server(backend, client).tcp(8080, 4000) };
                let port = if forward { WAN_PORT } else { LAN_PORT };
                assert_eq!(lab.step(port, &packet.flags(flags))[0], "transmitted");
                assert_eq!(states(&lab), [expected], "step {step} of {walk:?}");
            }
        }
    }
}

#[test]
fn timeouts() {
    let syn = |flags| world("198.51.100.7", "203.0.113.10").tcp(4000, 80).flags(flags);
    for (packet, seconds) in [
        (syn(SYN), 30),
        (syn(ACK), 240),
        (syn(FIN), 240),
        (syn(RST), 240),
        (world("198.51.100.7", "203.0.113.10").udp(4000, 53), 300),
        (world("198.51.100.7", "203.0.113.10").echo(1, 1), 60),
    ] {
        let mut lab = Lab::new();
        lab.step(WAN_PORT, &packet);
        lab.now += seconds * SECOND;
        assert_eq!(states(&lab).len(), 1, "after {seconds} s");
        lab.now += 1;
        assert_eq!(states(&lab).len(), 0, "after more than {seconds} s");
    }
    let reply = |flags| server("10.0.20.11", "198.51.100.7").tcp(8080, 4000).flags(flags);
    for (flags, seconds) in [(ACK, 7440), (FIN, 30)] {
        let mut lab = Lab::new();
        lab.step(WAN_PORT, &syn(flags));
        lab.step(LAN_PORT, &reply(flags));
        lab.now += seconds * SECOND;
        assert_eq!(states(&lab).len(), 1, "after {seconds} s");
        lab.now += 1;
        assert_eq!(states(&lab).len(), 0, "after more than {seconds} s");
    }
    // Every packet counts, also one that is dropped later and one that is going back.
    let mut lab = Lab::new();
    lab.step(WAN_PORT, &syn(SYN));
    for packet in [syn(SYN).ttl(1), server("10.0.20.11", "198.51.100.7").tcp(8080, 4000).ttl(1)] {
        lab.now += 29 * SECOND;
        lab.step(if packet.build()[12] == 0x81 { LAN_PORT } else { WAN_PORT }, &packet);
    }
    assert_eq!(states(&lab).len(), 1);
}

/// A session keeps its backend over pushes, as long as rules and a service allow it.
#[test]
fn pushes_decide_anew() {
    let forward = || world("198.51.100.7", "203.0.113.10").tcp(4000, 80).flags(ACK);
    let reverse = || server("10.0.20.11", "198.51.100.7").tcp(8080, 4000).flags(ACK);
    let deny = |matches| rule("no", matches, RuleAction::Deny);
    let to_vip = RuleMatch {
        dst: vec![cidr("203.0.113.10/32")],
        dst_ports: vec![PortRange { first: 80, last: 80 }],
        ..RuleMatch::default()
    };
    let open = rule("open", RuleMatch::default(), RuleAction::Permit);

    let started = || {
        let mut lab = Lab::new();
        assert_eq!(lab.step(WAN_PORT, &forward())[0], "transmitted");
        lab
    };
    // Another backend only, or draining: the old one stays.
    let mut lab = started();
    let mut other = tables();
    other.services[2].backends = vec![backend("c", "10.0.20.12", Some(8080))];
    lab.push(other);
    assert!(lab.step(WAN_PORT, &forward())[1].contains("10.0.20.11:8080"));
    assert!(lab.step(LAN_PORT, &reverse())[1].contains("203.0.113.10:80"));
    assert!(lab.step(WAN_PORT, &forward().tcp(4001, 80))[1].contains("10.0.20.12:8080"));

    // A deny for the client-side tuple ends it, whichever side speaks first.
    for (port, packet) in [(WAN_PORT, forward()), (LAN_PORT, reverse())] {
        let mut lab = started();
        lab.push(RuleTables { rules: vec![deny(to_vip.clone()), open.clone()], ..tables() });
        assert_eq!(lab.step(port, &packet), ["dropped rule_deny"]);
        assert_eq!(states(&lab).len(), 0);
    }
    // A deny for the backend's own tuple does not concern replies.
    let mut lab = started();
    let from_backend = RuleMatch { src: vec![cidr("10.0.20.11/32")], ..RuleMatch::default() };
    lab.push(RuleTables { rules: vec![deny(from_backend), open.clone()], ..tables() });
    assert_eq!(lab.step(LAN_PORT, &reverse())[0], "transmitted");

    // No service any more: the packet is judged as if the session had never been.
    let mut lab = started();
    let mut without = tables();
    without.services.remove(2);
    lab.push(without.clone());
    assert_eq!(lab.step(WAN_PORT, &forward())[0], "dropped local_unreachable");
    let mut lab = started();
    lab.push(without);
    let told = lab.step(LAN_PORT, &reverse());
    assert!(told[1].contains("10.0.20.11:8080 > 198.51.100.7:4000"), "{told:?}");

    // The client's interface is found again by port and VLAN; where it is gone, interface rules do not match.
    let from_wan = RuleMatch { in_interface: Some(2), ..RuleMatch::default() };
    let permit_wan = RuleTables { rules: vec![rule("wan", from_wan, RuleAction::Permit)], ..tables() };
    let mut lab = started();
    lab.push(permit_wan.clone());
    assert_eq!(lab.step(LAN_PORT, &reverse())[0], "transmitted");
    let mut lab = started();
    let mut moved = permit_wan;
    moved.interfaces[2].vlan = Some(9);
    lab.push(moved);
    assert_eq!(lab.step(LAN_PORT, &reverse()), ["dropped rule_deny"]);
}

#[test]
fn marks_and_policers_are_taken_anew() {
    let forward = || world("198.51.100.7", "203.0.113.10").udp(4000, 53);
    let mut lab = Lab::new();
    assert!(lab.step(WAN_PORT, &forward())[1].ends_with("udp ttl 63 data 0"));
    let mut marked = tables();
    marked.services[0].mark = Some(20);
    lab.push(marked.clone());
    assert!(lab.step(WAN_PORT, &forward())[1].contains("dscp 20"));
    assert!(lab.step(LAN_PORT, &server("10.0.20.11", "198.51.100.7").udp(53, 4000))[1].contains("dscp 20"));
    marked.services[0].policer = Some(0);
    marked.policers = vec![PolicerSpec {
        name: "tight".into(),
        cir: 1,
        cbs: 28,
        ebs: 0,
        on_green: PolicerAction::Mark(30),
        on_yellow: PolicerAction::Pass,
        on_red: PolicerAction::Drop,
        ..Default::default()
    }];
    lab.push(marked);
    assert!(lab.step(WAN_PORT, &forward())[1].contains("dscp 30"));
    assert_eq!(lab.step(WAN_PORT, &forward()), ["dropped policer_drop"]);
    let told = lab.step(LAN_PORT, &server("10.0.20.11", "198.51.100.7").udp(53, 4000));
    assert!(told[1].contains("dscp 20"), "replies are not metered: {told:?}");
}

/// Source affinity looks at the addresses only.
#[test]
fn source_affinity() {
    let mut tables = tables();
    tables.services[0].backends =
        (1..=8).map(|n| backend(&format!("b{n}"), &format!("10.0.20.{}", 100 + n), None)).collect();
    let picked = |affinity: bool| {
        let mut tables = tables.clone();
        tables.services[0].source_affinity = affinity;
        let mut lab = Lab::with(tables);
        for port in 0..32 {
            lab.step(WAN_PORT, &world("198.51.100.7", "203.0.113.10").udp(port, 53));
        }
        let mut backends: Vec<_> = lab.node.sessions(lab.now).map(|s| s.backend().0).collect();
        backends.sort_unstable();
        backends.dedup();
        backends.len()
    };
    assert_eq!(picked(true), 1);
    assert!(picked(false) > 4);
}

/// RFC 1624: what was wrong stays as wrong, what was absent stays absent.
#[test]
fn translation_keeps_wrong_checksums_wrong() {
    for (client, vip, _) in FAMILIES {
        for packet in [
            world(client, vip).tcp(4000, 80).flags(SYN),
            world(client, vip).udp(4000, 53),
            world(client, vip).echo(5, 5),
        ] {
            let mut lab = Lab::new();
            lab.sound = false;
            let out =
                lab.node.process(lab.now, WAN_PORT, &packet.clone().bad_l4_checksum().build(), Choices::default());
            assert_eq!(checksums(&out.transmitted[0].1).l4, Check::Bad);
            let out = lab.node.process(lab.now, WAN_PORT, &packet.build(), Choices::default());
            assert_eq!(checksums(&out.transmitted[0].1).l4, Check::Good);
        }
    }
    let absent = world("198.51.100.7", "203.0.113.10").udp(4000, 53).l4_checksum(0).build();
    let mut lab = Lab::new();
    let out = lab.node.process(lab.now, WAN_PORT, &absent, Choices::default());
    assert_eq!(checksums(&out.transmitted[0].1).l4, Check::Absent);
}

/// A sum that comes out as zero is sent as all ones (RFC 768).
#[test]
fn a_udp_checksum_never_becomes_zero() {
    for (client, vip, _) in FAMILIES {
        // Some payload makes the translated sum zero; every 16-bit value occurs.
        let mut lab = Lab::new();
        let hit = (0..=u16::MAX).find_map(|word| {
            let packet = world(client, vip).udp(4000, 53).payload(word.to_be_bytes());
            let out = lab.node.process(lab.now, WAN_PORT, &packet.build(), Choices::default());
            let frame = &out.transmitted[0].1;
            let at = frame.len() - 4;
            (frame[at..at + 2] == [0xff, 0xff]).then(|| checksums(frame).l4)
        });
        assert_eq!(hit, Some(Check::Good), "{client}");
    }
}
