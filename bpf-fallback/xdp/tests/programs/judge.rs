//! What ends in XDP, by a table of packets.

use marchproxy_engine::packet::{FIN, Packet, SYN};
use marchproxy_engine::reason::DropReason;
use marchproxy_engine::tables::{
    BackendSpec, Cidr, FragmentMatch, PortRange, RuleAction, RuleMatch, RuleSpec, RuleTables, Urpf,
};
use marchproxy_xdp::{Counter, OnDaemonLoss, PortFacts, Steering, Xdp};

use crate::support::{ALL, MAC, OTHER, PEER, cidr, ip, publish, tables, xdp};

fn rule(name: &str, action: RuleAction, src: &[&str], dst: &[&str]) -> RuleSpec {
    let prefixes = |texts: &[&str]| -> Vec<Cidr> { texts.iter().map(|text| cidr(text)).collect() };
    let matches = RuleMatch { src: prefixes(src), dst: prefixes(dst), ..Default::default() };
    RuleSpec { name: name.into(), action, matches, ..Default::default() }
}

/// Rules of every kind; the last permits.
fn ruled() -> RuleTables {
    let mut rules = vec![
        rule("friend", RuleAction::Permit, &["198.51.100.8/32"], &[]),
        rule("block", RuleAction::Deny, &["198.51.100.0/24", "2001:db8:bad::/48", "10.0.20.0/24"], &[]),
        rule("telnet", RuleAction::Deny, &[], &["203.0.113.0/24"]),
        rule("low", RuleAction::Deny, &[], &[]),
        rule("flags", RuleAction::Deny, &[], &[]),
        rule("reject", RuleAction::Reject, &["192.0.2.64/26"], &[]),
        rule("rest", RuleAction::Permit, &[], &[]),
    ];
    rules[2].matches.protocol = Some(6);
    rules[2].matches.dst_ports = vec![PortRange { first: 23, last: 23 }, PortRange { first: 2000, last: 2999 }];
    rules[3].matches.src_ports = vec![PortRange { first: 0, last: 6 }];
    rules[4].matches.protocol = Some(6);
    rules[4].matches.src = vec![cidr("203.0.113.64/26")];
    rules[4].matches.tcp_flags = Some(marchproxy_engine::tables::FlagMatch { value: 3, mask: 3 });
    let mut tables = RuleTables { rules, ..tables() };
    tables.interfaces[1].urpf = Urpf::Loose;
    let backend = BackendSpec { name: "a".into(), address: ip("198.51.100.77"), ..Default::default() };
    tables.services[0].backends = vec![backend];
    tables
}

fn node(xdp: &Xdp, tables: &RuleTables) -> Steering {
    let steering = Steering::detached(xdp, 1, OnDaemonLoss::Pass).unwrap();
    let facts = PortFacts::new(tables, 0, MAC, &[]);
    publish(xdp, tables, &[], &[(0, &steering, &facts)]);
    steering
}

fn to_us() -> Packet {
    Packet::eth(PEER, MAC)
}

fn v4(src: &str, dst: &str) -> Packet {
    to_us().ip(ip(src), ip(dst))
}

#[test]
fn what_the_engine_would_drop_ends_and_nothing_else() {
    use DropReason as R;
    let Some(xdp) = xdp() else { return };
    let steering = node(&xdp, &ruled());
    let (client, vip) = ("192.0.2.7", "203.0.113.10");
    let udp = |src: &str, dst: &str| v4(src, dst).udp(1000, 53).payload(b"query");
    let tcp = |src: &str, dst: &str, port| v4(src, dst).tcp(1000, port).flags(SYN);
    let table: Vec<(&str, Packet, Option<R>)> = vec![
        ("a packet like others", udp(client, vip), None),
        ("from a group", udp(client, vip).reframed([3, 0, 0, 0, 0, 1], MAC), Some(R::L2BadSource)),
        ("from nobody", udp(client, vip).reframed([0; 6], MAC), Some(R::L2BadSource)),
        ("from ourselves", udp(client, vip).reframed(MAC, ALL), Some(R::L2BadSource)),
        ("to another station", udp("127.0.0.1", vip).reframed(PEER, OTHER), None),
        ("version 5", udp(client, vip).ip_version(5), Some(R::IpMalformed)),
        ("header of 16 octets", udp(client, vip).ihl(4), Some(R::IpMalformed)),
        ("header longer than the packet", udp(client, vip).ihl(15), Some(R::IpMalformed)),
        ("cut off", udp(client, vip).truncate(44), Some(R::IpTruncated)),
        ("wrong checksum", udp(client, vip).bad_ip_checksum(), Some(R::IpChecksum)),
        ("options are the engine's", udp(client, vip).options(&[1; 4]), None),
        ("from loopback", udp("127.0.0.1", vip), Some(R::MartianSource)),
        ("from a group address", udp("224.0.0.1", vip), Some(R::MartianSource)),
        ("from an address of ours", udp("192.0.2.1", vip), None),
        ("to loopback", udp(client, "127.0.0.1"), Some(R::MartianDestination)),
        ("to class E", udp(client, "240.0.0.1"), Some(R::MartianDestination)),
        ("padding is no harm", udp(client, vip).padding(9), None),
        ("UDP length beyond the packet", udp(client, vip).udp_length(100), Some(R::L4Malformed)),
        ("UDP length of 7", udp(client, vip).udp_length(7), Some(R::L4Malformed)),
        ("TCP header of 16 octets", tcp(client, vip, 80).data_offset(4), Some(R::L4Malformed)),
        ("TCP header beyond the packet", tcp(client, vip, 80).data_offset(9), Some(R::L4Malformed)),
        ("malformed IPv6", v4("2001:db8:9::1", "2001:db8:1::10").udp(1, 53).ip_version(4), Some(R::IpMalformed)),
        ("IPv6 cut off", v4("2001:db8:9::1", "2001:db8:1::10").udp(1, 53).truncate(60), Some(R::IpTruncated)),
        ("from ::1", v4("::1", "2001:db8:1::10").udp(1, 53), Some(R::MartianSource)),
        ("to ::ffff:1.2.3.4", v4("2001:db8:9::1", "::ffff:1.2.3.4").udp(1, 53), Some(R::MartianDestination)),
        ("blocked source", udp("198.51.100.1", vip), Some(R::RuleDeny)),
        ("blocked source, forwarded", udp("198.51.100.1", "8.8.8.8"), Some(R::RuleDeny)),
        ("blocked IPv6 source", v4("2001:db8:bad::5", "2001:db8:1::10").udp(1000, 53), Some(R::RuleDeny)),
        ("blocked source, IP in IP", v4("198.51.100.1", vip).protocol(4).payload([0; 40]), Some(R::RuleDeny)),
        ("blocked source, echo", v4("198.51.100.1", vip).icmp_echo(1, 1), Some(R::RuleDeny)),
        ("a friend among them", udp("198.51.100.8", vip), None),
        ("a reply of a backend", udp("198.51.100.77", "192.0.2.9"), None),
        ("blocked source to our own address", udp("198.51.100.1", "192.0.2.1"), None),
        ("blocked source to a directed broadcast", udp("198.51.100.1", "192.0.2.255"), None),
        ("blocked source in a group frame", udp("198.51.100.1", vip).reframed(PEER, ALL), None),
        ("blocked source, fragment", udp("198.51.100.1", vip).fragment(0, true, 7), None),
        ("blocked source, ICMP error", v4("198.51.100.1", vip).icmp(3, 1, [0; 4]).payload([0; 28]), None),
        ("blocked source on an interface that checks sources", udp("198.51.100.1", vip).vlan(20), None),
        ("telnet to a service", tcp(client, vip, 23), Some(R::RuleDeny)),
        ("telnet, a FIN", v4(client, vip).tcp(1000, 23).flags(FIN), Some(R::RuleDeny)),
        ("the end of a range", tcp(client, vip, 2999), Some(R::RuleDeny)),
        ("behind the range", tcp(client, vip, 3000), None),
        ("the same over UDP", v4(client, vip).udp(1000, 23), None),
        ("a low source port", v4(client, vip).udp(6, 53), Some(R::RuleDeny)),
        ("no port is no low port", v4(client, vip).icmp_echo(1, 1), None),
        ("flags are the engine's", v4("203.0.113.65", vip).tcp(1000, 80).flags(SYN | FIN), None),
        ("rejects are the engine's", udp("192.0.2.65", vip), None),
    ];
    for (what, packet, reason) in &table {
        let frame = packet.build();
        let before = steering.drops().unwrap();
        let tested = steering.test_run(&frame, 1).unwrap();
        let mut after = steering.drops().unwrap();
        for (reason, packets, octets) in before {
            let now = after.iter_mut().find(|(now, _, _)| *now == reason).unwrap();
            (now.1, now.2) = (now.1 - packets, now.2 - octets);
        }
        after.retain(|(_, packets, _)| *packets > 0);
        let wanted: Vec<_> = reason.iter().map(|reason| (*reason, 1, frame.len() as u64)).collect();
        assert_eq!(after, wanted, "{what}");
        assert_eq!(tested.verdict == 1, reason.is_some(), "{what}");
    }
    // Every frame is counted once.
    let drops: u64 = steering.drops().unwrap().iter().map(|(_, packets, _)| packets).sum();
    let others: u64 = [Counter::ToKernel, Counter::ToEngine, Counter::UnclaimedPass, Counter::UnclaimedDrop]
        .iter()
        .map(|counter| steering.count(*counter).unwrap().0)
        .sum();
    assert_eq!(drops + others, table.len() as u64);
    let rules = xdp.rules().unwrap();
    assert_eq!((rules["block"].0, rules["telnet"].0, rules["low"].0, rules["friend"].0), (5, 3, 1, 0));
    // Over a push they stay, until the rule goes.
    let mut next = ruled();
    next.rules.remove(2);
    publish(&xdp, &next, &[], &[]);
    let rules = xdp.rules().unwrap();
    assert_eq!((rules["block"].0, rules.get("telnet")), (5, None));
    steering.test_run(&udp("198.51.100.1", vip).build(), 1).unwrap();
    assert_eq!(xdp.rules().unwrap()["block"].0, 6);
}

#[test]
fn what_no_rule_matches_is_denied_where_all_are_known() {
    let Some(xdp) = xdp() else { return };
    let mut tables = ruled();
    tables.rules.pop();
    let steering = node(&xdp, &tables);
    let frame = v4("192.0.2.7", "203.0.113.10").udp(1000, 53).build();
    assert_eq!(steering.test_run(&frame, 1).unwrap().verdict, 1);
    // With too many, what is not known may match.
    let many = (0..80u8).map(|n| rule(&format!("m{n}"), RuleAction::Permit, &[&format!("203.0.{n}.0/24")], &[]));
    tables.rules.extend(many);
    let plan = publish(&xdp, &tables, &[], &[]);
    assert!(!plan.denies_the_rest);
    assert_ne!(steering.test_run(&frame, 1).unwrap().verdict, 1);
    let blocked = v4("198.51.100.1", "203.0.113.10").udp(1000, 53).build();
    assert_eq!(steering.test_run(&blocked, 1).unwrap().verdict, 1, "those that fit still are");
}

/// Sessions outlive the generation they began under: who was a backend may still reply.
#[test]
fn former_backends_are_remembered() {
    let Some(xdp) = xdp() else { return };
    let mut tables = ruled();
    let steering = node(&xdp, &tables);
    tables.services.clear();
    publish(&xdp, &tables, &[], &[]);
    let reply = v4("198.51.100.77", "192.0.2.9").udp(53, 1000).build();
    assert_ne!(steering.test_run(&reply, 1).unwrap().verdict, 1);
}

/// Fragments' own rules never match whole packets; those of whole packets are rules like others.
#[test]
fn whole_packets_and_fragments() {
    let Some(xdp) = xdp() else { return };
    for (fragment, verdict) in [(FragmentMatch::No, true), (FragmentMatch::Yes, false)] {
        let mut tables = tables();
        let mut deny = rule("deny", RuleAction::Deny, &[], &[]);
        deny.matches.fragment = Some(fragment);
        tables.rules = vec![deny, rule("rest", RuleAction::Permit, &[], &[])];
        let steering = node(&xdp, &tables);
        let frame = v4("192.0.2.7", "203.0.113.10").udp(1000, 53).build();
        assert_eq!(steering.test_run(&frame, 1).unwrap().verdict == 1, verdict, "{fragment:?}");
    }
}

#[test]
fn while_somebody_looks_nothing_ends_here() {
    const DROP: u32 = 1;
    let Some(xdp) = xdp() else { return };
    let steering = node(&xdp, &ruled());
    let verdict = |steering: &Steering| {
        let telnet = v4("192.0.2.7", "203.0.113.10").tcp(1000, 23).flags(SYN).build();
        steering.test_run(&telnet, 1).unwrap().verdict
    };
    assert_eq!(verdict(&steering), DROP);
    xdp.watch(true).unwrap();
    assert_ne!(verdict(&steering), DROP);
    // A push meanwhile changes nothing about that.
    let facts = PortFacts::new(&ruled(), 0, MAC, &[]);
    publish(&xdp, &ruled(), &[], &[(0, &steering, &facts)]);
    assert_ne!(verdict(&steering), DROP);
    xdp.watch(false).unwrap();
    assert_eq!(verdict(&steering), DROP);
    assert_eq!(steering.drops().unwrap(), [(DropReason::RuleDeny, 2, 108)]);
}
