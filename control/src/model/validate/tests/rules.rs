use super::*;

#[test]
fn actions_and_marks() {
    check(&[
        ("action: deny", "action: allow", &["rule rest: rules[1].action is \"allow\"; allowed: permit, deny"]),
        (", action: deny", "", &["rule rest: rules[1].action is missing; allowed: permit, deny"]),
        (
            "permit, mark: AF41",
            "permit, mark: AF44",
            &["rule web: rules[0].mark is \"AF44\"; \
               allowed: CS0 to CS7, AF11 to AF43, EF, VA, LE, BE, DF, or a number of 0 to 63"],
        ),
        ("permit, mark: AF41", "permit, mark: 46", &[]),
    ]);
    check_warnings(&[("action: deny", "action: deny, mark: EF", &["rules[1].mark: has no effect: the rule denies"])]);
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
