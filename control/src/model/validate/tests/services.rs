use super::*;

const VIPS: &str = "address: [203.0.113.10, \"2001:db8:1::10\"]";

#[test]
fn virtual_addresses() {
    let cases = [
        ("address: []", "address is missing; allowed: one or more addresses"),
        (
            "address: [203.0.113.10/32, \"2001:db8:1::10\"]",
            "address[0] is \"203.0.113.10/32\"; allowed: an IPv4 or IPv6 address without prefix length",
        ),
        (
            "address: [203.0.113.10, 203.0.113.10]",
            "address[1] is 203.0.113.10, there twice; allowed: each address once",
        ),
        (
            "address: [192.0.2.1]",
            "address[0] is 192.0.2.1, the own address of interface wan0; allowed: an address that no interface has",
        ),
        (
            "address: [192.0.2.255]",
            "address[0] is 192.0.2.255, the broadcast address of 192.0.2.0/24; allowed: an address of a host",
        ),
        (
            "address: [239.1.1.1]",
            "address[0] is \"239.1.1.1\"; allowed: a unicast address that is routed, not a multicast address",
        ),
        (
            "address: [127.0.0.1]",
            "address[0] is \"127.0.0.1\"; allowed: a unicast address that is routed, not a loopback address",
        ),
        (
            "address: [\"::\"]",
            "address[0] is \"::\"; allowed: a unicast address that is routed, not the unspecified address",
        ),
    ];
    for (replace, expected) in cases {
        assert_eq!(refused(VIPS, replace), [format!("service web: services[0].{expected}")], "{replace}");
    }
    // Inside a connected prefix it is answered for by ARP.
    assert_eq!(refused(VIPS, "address: [192.0.2.10, \"2001:db8:1::10\"]"), [""; 0]);
}

#[test]
fn overlapping_addresses() {
    let ping = "{name: ping, address: 203.0.113.10, protocol: icmp, backends";
    check(&[
        (
            ping,
            "{name: ping, address: ['203.0.113.9', '203.0.113.10'], protocol: tcp, ports: ['95-200'], backends",
            &["service ping: services[1].address[1] is 203.0.113.10, whose tcp port 95 service web has already; \
               allowed: address, protocol and port in one service only"],
        ),
        (
            ping,
            "{name: ping, address: 203.0.113.10, protocol: tcp, ports: all, backends",
            &["service ping: services[1].address[0] is 203.0.113.10, whose tcp port 80 service web has already; \
               allowed: address, protocol and port in one service only"],
        ),
        (ping, "{name: ping, address: 203.0.113.10, protocol: tcp, ports: ['81-89', 100], backends", &[]),
        (ping, "{name: ping, address: 203.0.113.10, protocol: udp, ports: 80, backends", &[]),
        (
            "services:\n",
            "services:\n  - {name: pong, address: 203.0.113.10, protocol: icmp, backends: [{name: a, address: 10.0.20.12}]}\n",
            &["service ping: services[2].address[0] is 203.0.113.10, whose protocol icmp service pong has already; \
               allowed: address, protocol and port in one service only"],
        ),
    ]);
}

#[test]
fn protocol_ports_mode() {
    let head = "protocol: tcp\n    ports: [80, \"90-99\"]\n";
    check(&[
        (
            head,
            "protocol: sctp\n    ports: [80]\n",
            &["service web: services[0].protocol is \"sctp\"; allowed: tcp, udp, icmp"],
        ),
        (head, "protocol: tcp\n", &["service web: services[0].ports is missing; allowed: ports, FIRST-LAST, or all"]),
        (head, "protocol: tcp\n    ports: all\n", &[]),
        (
            head,
            "protocol: tcp\n    ports: [0, all, 70000]\n",
            &[
                "service web: services[0].ports[0] is \"0\"; \
                 allowed: PORT or FIRST-LAST with 1 <= FIRST <= LAST <= 65535, or all alone",
                "service web: services[0].ports[1] is \"all\"; \
                 allowed: PORT or FIRST-LAST with 1 <= FIRST <= LAST <= 65535, or all alone",
                "service web: services[0].ports[2] is \"70000\"; \
                 allowed: PORT or FIRST-LAST with 1 <= FIRST <= LAST <= 65535, or all alone",
            ],
        ),
        (
            head,
            "protocol: tcp\n    ports: [\"80-90\", 85]\n",
            &["service web: services[0].ports is with 85 in it twice; allowed: ports and ranges that do not overlap"],
        ),
        (
            "protocol: icmp, backends: [{name: a, address: 10.0.20.11}]",
            "protocol: icmp, ports: 80, backends: [{name: a, address: 10.0.20.11, port: 80}]",
            &[
                "service ping: services[1].ports is given with protocol icmp; allowed: none: ICMP has no ports",
                "service ping, backend a: services[1].backends[0].port is 80; allowed: none: ICMP has no ports",
            ],
        ),
        (
            "qos: gold",
            "mode: half_nat",
            &["service web: services[0].mode is \"half_nat\"; allowed: nat, full_nat, dsr_mac, dsr_ipip, dsr_gue"],
        ),
        ("qos: gold", "qos: silver", &["service web: services[0].qos is \"silver\"; allowed: the name of a qos: gold"]),
    ]);
}

#[test]
fn source_pools() {
    let cases: [(&str, &[&str]); 5] = [
        ("mode: full_nat, source_pool: [10.0.20.9, 'fd00:20::9']", &[]),
        (
            "mode: full_nat, source_pool: 10.0.20.9",
            &["source_pool is without an IPv6 address; allowed: addresses of each family that the service has"],
        ),
        (
            "mode: nat, source_pool: [10.0.20.9]",
            &["source_pool is given with mode nat; allowed: none, or mode full_nat"],
        ),
        (
            "mode: full_nat, source_pool: [10.0.20.1, 203.0.113.10, 10.0.20.255]",
            &[
                "source_pool[0] is 10.0.20.1, the own address of interface lan20; allowed: an address that no interface has",
                "source_pool[1] is 203.0.113.10, the address of a service; allowed: an address that only pools have",
                "source_pool[2] is 10.0.20.255, the broadcast address of 10.0.20.0/24; allowed: an address of a host",
            ],
        ),
        (
            "mode: full_nat, source_pool: [10.0.20.11, 'fd00:20::9']",
            &["source_pool is with 10.0.20.11, the address of backend a; allowed: addresses that only pools have"],
        ),
    ];
    for (rest, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|text| format!("service web: services[0].{text}")).collect();
        let lines = rest.replace(", source_pool", "\n    source_pool");
        assert_eq!(refused("qos: gold", &lines), expected, "{rest}");
    }
    let icmp = "protocol: icmp, mode: full_nat, source_pool: 10.0.20.9, backends";
    let expected =
        "service ping: services[1].mode is full_nat with protocol icmp; allowed: another mode: ICMP has no ports";
    assert_eq!(refused("protocol: icmp, backends", icmp), [expected]);
}

#[test]
fn direct_modes() {
    let ping = "protocol: icmp, backends: [{name: a, address: 10.0.20.11}]";
    let service = |rest: &str| format!("protocol: tcp, ports: 81, {rest}");
    let of_ping = |expected: &[&str]| expected.iter().map(|text| format!("service ping{text}")).collect::<Vec<_>>();
    let cases: [(&str, &[&str]); 9] = [
        ("mode: dsr_mac, backends: [{name: a, address: 10.0.20.11, port: 81}]", &[]),
        ("mode: dsr_gue, sessions: none, backends: [{name: a, address: 'fd00:20::12'}]", &[]),
        (
            "mode: dsr_mac, backends: [{name: a, address: 10.0.20.11, port: 8080}]",
            &[", backend a: services[1].backends[0].port is 8080; \
               allowed: none, or the service's only port: mode dsr_mac changes no ports"],
        ),
        (
            "mode: dsr_mac, backends: [{name: a, address: 172.16.0.9}]",
            &[", backend a: services[1].backends[0].address is 172.16.0.9, which is in no connected prefix; \
               allowed: a neighbour: mode dsr_mac sends packets to the backend's MAC address"],
        ),
        (
            "mode: dsr_mac, backends: [{name: a, address: 'fd00:20::12'}]",
            &[": services[1].address[0] is 203.0.113.10 with no backend of its family; \
               allowed: an address with at least one IPv4 backend"],
        ),
        (
            "sessions: none, backends: [{name: a, address: 10.0.20.11}]",
            &[": services[1].sessions is none with mode nat; \
               allowed: tracked, or a dsr mode: what rewrites packets must find their replies"],
        ),
        (
            "sessions: some, backends: [{name: a, address: 10.0.20.11}]",
            &[": services[1].sessions is \"some\"; allowed: tracked, none"],
        ),
        (
            "on_backend_loss: drop, backends: [{name: a, address: 10.0.20.11}]",
            &[": services[1].on_backend_loss is \"drop\"; allowed: keep, rebalance"],
        ),
        ("sessions: tracked, backends: [{name: a, address: 10.0.20.11}]", &[]),
    ];
    for (rest, expected) in cases {
        assert_eq!(refused(ping, &service(rest)), of_ping(expected), "{rest}");
    }
}

#[test]
fn backends() {
    let (a, b) = (
        "{name: a, address: 10.0.20.11, port: 8080, weight: 10}",
        "{name: b, address: \"fd00:20::12\", state: draining}",
    );
    let in_a = |expected: &str| vec![format!("service web, backend a: services[0].backends[0].{expected}")];
    let cases = [
        ("{name: a, address: 10.0.20.11, weight: 0}", "weight is 0; allowed: 1 to 1000"),
        ("{name: a, address: 10.0.20.11, weight: 1001}", "weight is 1001; allowed: 1 to 1000"),
        ("{name: a, address: 10.0.20.11, port: 0}", "port is 0; allowed: 1 to 65535"),
        ("{name: a, address: 10.0.20.11, state: off}", "state is \"off\"; allowed: up, draining, down"),
        (
            "{name: a, address: 10.0.20.1}",
            "address is 10.0.20.1, the own address of interface lan20; allowed: the address of another host",
        ),
        (
            "{name: a, address: 203.0.113.10}",
            "address is 203.0.113.10, the address of a service: packets would go in circles; \
             allowed: the address of another host",
        ),
        (
            "{name: a, address: 10.0.20.255}",
            "address is 10.0.20.255, the broadcast address of 10.0.20.0/24; allowed: the address of another host",
        ),
    ];
    for (replace, expected) in cases {
        assert_eq!(refused(a, replace), in_a(expected), "{replace}");
    }
    check(&[
        (
            b,
            "{name: b, address: 10.0.20.11, port: 8080}",
            &[
                "service web, backend b: services[0].backends[1].address is 10.0.20.11, which backend a has with the same port; \
                 allowed: each address and port once; a weight gives it more",
                "service web: services[0].address[1] is 2001:db8:1::10 with no backend of its family; \
                 allowed: an address with at least one IPv6 backend",
            ],
        ),
        // The same server on another port is another backend; all backends down is a wish.
        (b, "{name: b, address: \"fd00:20::12\"}\n      - {name: c, address: 10.0.20.11, port: 8081}", &[]),
        (b, "{name: b, address: \"fd00:20::12\", state: down}", &[]),
        (
            "backends: [{name: a, address: 10.0.20.11}]",
            "backends: []",
            &["service ping: services[1].address[0] is 203.0.113.10 with no backend of its family; \
               allowed: an address with at least one IPv4 backend"],
        ),
    ]);
    check_warnings(&[(
        "backends: [{name: a, address: 10.0.20.11}]",
        "backends: [{name: a, address: 10.0.20.11}, {name: b, address: 'fd00:20::12'}]",
        &["services[1].backends[1].address: never used: the service has no address of this family"],
    )]);
}

#[test]
fn reachability() {
    let b = "{name: b, address: \"fd00:20::12\", state: draining}";
    let routes = "routes:\n";
    check(&[
        (
            b,
            "{name: b, address: \"fd00:99::1\"}",
            &["service web, backend b: services[0].backends[1].address is fd00:99::1, to which nothing leads; \
               allowed: an address that a connected prefix or a route leads to"],
        ),
        (
            routes,
            "routes:\n  - {prefix: 10.0.20.11/32, blackhole: true}\n",
            &[
                "service web, backend a: services[0].backends[0].address is 10.0.20.11, which the route 10.0.20.11/32 drops; \
                 allowed: an address that a connected prefix or a route leads to",
                "service ping, backend a: services[1].backends[0].address is 10.0.20.11, which the route 10.0.20.11/32 drops; \
                 allowed: an address that a connected prefix or a route leads to",
            ],
        ),
    ]);
    check_warnings(&[
        (
            "backends: [{name: a, address: 10.0.20.11}]",
            "backends: [{name: a, address: 172.16.0.1}]",
            &[
                "services[1].backends[0].address: only the default route leads there; a backend is usually nearer than that",
            ],
        ),
        // Longest prefix, as the engine does it.
        (
            routes,
            "routes:\n  - {prefix: 10.0.20.0/28, via: [{next_hop: 192.0.2.9}]}\n  - {prefix: 10.0.0.0/8, reject: true}\n",
            &[],
        ),
    ]);
}

#[test]
fn health_and_affinity() {
    let with = |health: &str| format!("qos: gold\n    health: {{{health}}}");
    let cases = [
        ("kind: gopher", "health.kind is \"gopher\"; allowed: icmp, tcp, http"),
        ("kind: tcp, interval_s: 0", "health.interval_s is 0; allowed: more than 0, up to 3600 seconds"),
        ("kind: tcp, timeout_s: 4000", "health.timeout_s is 4000; allowed: more than 0, up to 3600 seconds"),
        (
            "kind: tcp, interval_s: 1, timeout_s: 2",
            "health.timeout_s is 2; allowed: at most health.interval_s, which is 1",
        ),
        ("kind: tcp, rise: 0", "health.rise is 0; allowed: 1 to 100 probes"),
        ("kind: tcp, fall: 101", "health.fall is 101; allowed: 1 to 100 probes"),
        ("kind: tcp, panic_below_percent: 101", "health.panic_below_percent is 101; allowed: 0 to 100 percent"),
    ];
    for (health, expected) in cases {
        assert_eq!(refused("qos: gold", &with(health)), [format!("service web: services[0].{expected}")], "{health}");
    }
    check_warnings(&[
        ("qos: gold", "health: {kind: tcp}", &["services[0].health: stored, not enforced by this release"]),
        (
            "qos: gold",
            "source_affinity_s: 300",
            &["services[0].source_affinity_s: enforced as affinity without a timeout by this release, not for 300 s"],
        ),
        ("qos: gold", "source_affinity_s: 0", &[]),
    ]);
}

#[test]
fn limits_of_sessions() {
    let with = |limits: &str| format!("qos: gold\n    limits: {{{limits}}}");
    let cases: [(&str, &[&str]); 7] = [
        ("", &["limits is without a limit; allowed: new_per_s, half_open, sessions or per_source"]),
        (
            "per_source: {prefix_v4: 24}",
            &["limits.per_source is without a limit; allowed: new_per_s, half_open or sessions"],
        ),
        (
            "sessions: 0",
            &["limits.sessions is 0; allowed: 1 or more; without backends, or with a rule, a service takes no session"],
        ),
        (
            "per_source: {new_per_s: 0}",
            &[
                "limits.per_source.new_per_s is 0; allowed: 1 or more; without backends, or with a rule, a service takes no session",
            ],
        ),
        (
            "per_source: {sessions: 9, prefix_v4: 33}",
            &["limits.per_source.prefix_v4 is 33; allowed: 1 to 32 bits of a client's address"],
        ),
        (
            "per_source: {sessions: 9, prefix_v6: 0}",
            &["limits.per_source.prefix_v6 is 0; allowed: 1 to 128 bits of a client's address"],
        ),
        ("new_per_s: 5, half_open: 6, sessions: 7, per_source: {new_per_s: 1, half_open: 1, sessions: 1}", &[]),
    ];
    for (limits, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|text| format!("service web: services[0].{text}")).collect();
        assert_eq!(refused("qos: gold", &with(limits)), expected, "{limits}");
    }
    check_warnings(&[(
        "qos: gold",
        &with("sessions: 5, per_source: {sessions: 6}"),
        &["services[0].limits.per_source.sessions: 6 is more than the whole service may have, which is 5"],
    )]);
}
