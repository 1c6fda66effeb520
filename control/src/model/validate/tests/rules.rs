use super::*;

#[test]
fn actions_and_marks() {
    check(&[
        (
            "action: deny",
            "action: allow",
            &["rule rest: rules[1].action is \"allow\"; allowed: permit, deny, reject, count"],
        ),
        (", action: deny", "", &["rule rest: rules[1].action is missing; allowed: permit, deny, reject, count"]),
        (
            "permit, mark: AF41",
            "permit, mark: AF44",
            &["rule web: rules[0].mark is \"AF44\"; \
               allowed: CS0 to CS7, AF11 to AF43, EF, VA, LE, BE, DF, or a number of 0 to 63, keep, or map:DSCP_MAP"],
        ),
        ("permit, mark: AF41", "permit, mark: 46", &[]),
    ]);
    check_warnings(&[
        ("action: deny", "action: deny, mark: EF", &["rules[1].mark: has no effect: the rule denies"]),
        (
            "action: deny",
            "action: count, policer: slow, table: blue",
            &["rules[1].policer: has no effect: the rule counts", "rules[1].table: has no effect: the rule counts"],
        ),
        ("action: deny", "action: reject", &[]),
    ]);
}

#[test]
fn what_a_rule_sets() {
    check(&[
        ("permit, mark: AF41", "permit, policer: slow, log_sample: 1000", &[]),
        (
            "permit, mark: AF41",
            "permit, policer: fast",
            &["rule web: rules[0].policer is \"fast\"; allowed: the name of a policer: slow"],
        ),
        (
            "permit, mark: AF41",
            "permit, log_sample: 0",
            &["rule web: rules[0].log_sample is 0; allowed: 1 to 1000000000"],
        ),
        ("permit, mark: AF41", "permit, table: blue", &[]),
        (
            "permit, mark: AF41",
            "permit, table: red",
            &["rule web: rules[0].table is \"red\"; \
               allowed: a routing table that an interface or a route names: blue, main"],
        ),
        (
            "permit, mark: AF41",
            "permit, table: blue, next_hop: 192.0.2.254",
            &["rule web: rules[0].table is \"blue\" with next_hop; allowed: one of them"],
        ),
        ("permit, mark: AF41", "permit, next_hop: 10.0.30.9", &[]),
        (
            "permit, mark: AF41",
            "permit, next_hop: 10.99.0.1",
            &["rule web: rules[0].next_hop is 10.99.0.1; \
               allowed: an address in a connected prefix of an interface: this one leads nowhere"],
        ),
        (
            "permit, mark: AF41",
            "permit, next_hop: 192.0.2.1",
            &["rule web: rules[0].next_hop is 192.0.2.1; \
               allowed: the address of another router, not that of interface wan0"],
        ),
        (
            "permit, mark: AF41",
            "permit, next_hop: 10.0.30.255",
            &["rule web: rules[0].next_hop is 10.0.30.255; \
               allowed: an address of a host, not the broadcast address of 10.0.30.0/24"],
        ),
        (
            "permit, mark: AF41",
            "permit, next_hop: \"2001:db8::9\"",
            &["rule web: rules[0].next_hop is 2001:db8::9; allowed: an IPv4 address, as the rule's prefixes are"],
        ),
        (
            "permit, mark: AF41",
            "permit, new_only: true",
            &["rule web: rules[0].new_only is true with action permit; allowed: with action deny or reject only"],
        ),
        ("action: deny", "action: deny, new_only: true", &[]),
    ]);
    check_warnings(&[(
        "action: deny",
        "action: permit, next_hop: 10.0.30.9",
        &["rules[1].next_hop: is for the IPv4 packets of the rule; IPv6 ones go by their routes"],
    )]);
}

#[test]
fn closer_matches() {
    check(&[
        (
            "protocol: tcp, dst_ports",
            "protocol: tcp, tcp_flags: [syn, \"!ack\"], dscp: [EF, 10], fragment: no, dst_ports",
            &[],
        ),
        (
            "protocol: tcp, dst_ports",
            "protocol: tcp, tcp_flags: [SYN], dst_ports",
            &["rule web: rules[0].match.tcp_flags[0] is \"SYN\"; \
               allowed: fin, syn, rst, psh, ack, urg, ece, cwr, each with ! where it must be unset"],
        ),
        (
            "protocol: tcp, dst_ports",
            "protocol: tcp, tcp_flags: [syn, \"!syn\"], dst_ports",
            &["rule web: rules[0].match.tcp_flags is a flag that is set and unset; allowed: each flag once"],
        ),
        (
            "protocol: tcp, dst_ports",
            "protocol: udp, tcp_flags: syn, dst_ports",
            &["rule web: rules[0].match.tcp_flags is given with protocol udp; allowed: flags with protocol tcp only"],
        ),
        (
            "protocol: tcp, dst_ports",
            "protocol: tcp, tcp_flags: syn, fragment: later, dst_ports",
            &["rule web: rules[0].match.fragment is \"later\" with tcp_flags; \
               allowed: no, yes or first: later fragments have no TCP header, or no packet matches"],
        ),
        (
            "protocol: tcp, dst_ports",
            "protocol: tcp, fragment: some, dst_ports",
            &["rule web: rules[0].match.fragment is \"some\"; allowed: no, yes, first, later"],
        ),
        (
            "protocol: tcp, dst_ports",
            "protocol: tcp, dscp: 64, dst_ports",
            &["rule web: rules[0].match.dscp[0] is \"64\"; \
               allowed: CS0 to CS7, AF11 to AF43, EF, VA, LE, BE, DF, or a number of 0 to 63"],
        ),
        (
            "protocol: tcp, dst_ports",
            "protocol: tcp, vlan: 4095, dst_ports",
            &["rule web: rules[0].match.vlan is \"4095\"; allowed: 1 to 4094, or untagged"],
        ),
        ("protocol: tcp, dst_ports", "protocol: tcp, vlan: untagged, dst_ports", &[]),
        (
            "protocol: tcp, dst_ports",
            "protocol: tcp, vlan: 20, dst_ports",
            &["rule web: rules[0].match.vlan is \"20\" with in: wan0; \
               allowed: untagged, as the interface has it, or no packet matches"],
        ),
    ]);
}

#[test]
fn matches() {
    check(&[
        (
            "src: [198.51.100.0/24]",
            "src: [198.51.100.1/24]",
            &["rule web: rules[0].match.src[0] is \"198.51.100.1/24\"; \
               allowed: no bits set behind the prefix length: 198.51.100.0/24"],
        ),
        (
            "dst: [203.0.113.10]",
            "dst: [203.0.113.10, example.org]",
            &["rule web: rules[0].match.dst[1] is \"example.org\"; \
               allowed: ADDRESS/LENGTH, as in 192.0.2.0/24 or 2001:db8::/32"],
        ),
        (
            "protocol: tcp, dst_ports",
            "protocol: tpc, dst_ports",
            &["rule web: rules[0].match.protocol is \"tpc\"; \
               allowed: tcp, udp, icmp, icmpv6 or a protocol number of 0 to 255"],
        ),
        (
            "protocol: tcp, dst_ports",
            "protocol: 256, dst_ports",
            &["rule web: rules[0].match.protocol is \"256\"; allowed: a protocol number of 0 to 255"],
        ),
        (
            "dst_ports: [80, \"90-99\"], in",
            "dst_ports: [\"99-90\"], in",
            &["rule web: rules[0].match.dst_ports[0] is \"99-90\"; \
               allowed: PORT or FIRST-LAST with 0 <= FIRST <= LAST <= 65535"],
        ),
        (
            "protocol: tcp, dst_ports",
            "protocol: icmp, dst_ports",
            &[
                "rule web: rules[0].match.dst_ports is given with protocol icmp; allowed: ports with protocol tcp or udp only",
            ],
        ),
        (
            "protocol: tcp, dst_ports",
            "src_ports: 1024, dst_ports",
            &[
                "rule web: rules[0].match.src_ports is given without protocol; allowed: ports with protocol tcp or udp only",
                "rule web: rules[0].match.dst_ports is given without protocol; allowed: ports with protocol tcp or udp only",
            ],
        ),
        ("protocol: tcp, dst_ports", "protocol: 17, dst_ports", &[]),
        (
            "in: wan0",
            "in: wan9",
            &["rule web: rules[0].match.in is \"wan9\"; allowed: the name of an interface: far0, lan20, lan30, wan0"],
        ),
    ]);
}

#[test]
fn rules_that_no_packet_can_match() {
    check(&[
        (
            "dst: [203.0.113.10]",
            "dst: [\"2001:db8::/32\"]",
            &["rule web: rules[0].match.dst is of another family than match.src; \
               allowed: a family that both have, or no packet matches"],
        ),
        ("dst: [203.0.113.10]", "dst: [203.0.113.10, \"2001:db8::/32\"]", &[]),
        (
            "action: deny",
            "action: deny, match: {protocol: icmp, dst: '2001:db8::/32'}",
            &["rule rest: rules[1].match.protocol is \"icmp\" with IPv6 prefixes; allowed: icmpv6 for IPv6"],
        ),
        (
            "action: deny",
            "action: deny, match: {protocol: icmpv6, dst: 10.0.0.0/8}",
            &["rule rest: rules[1].match.protocol is \"icmpv6\" with IPv4 prefixes; allowed: icmp for IPv4"],
        ),
    ]);
}
