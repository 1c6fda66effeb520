//! Nodes, ports, interfaces, routes.

use super::*;

#[test]
fn ports() {
    check(&[
        (
            "mtu: 1500",
            "mtu: 575",
            &["node edge-1, port wan: nodes[0].ports[0].mtu is 575; allowed: 576 to 9216 octets of L3"],
        ),
        (
            "mtu: 1500",
            "mtu: 9217",
            &["node edge-1, port wan: nodes[0].ports[0].mtu is 9217; allowed: 576 to 9216 octets of L3"],
        ),
        (
            "mtu: 1500",
            "mtu: 1279",
            &["interface wan0: interfaces[0].addresses is with IPv6 on port wan, whose mtu is 1279; \
               allowed: IPv6 on ports with an mtu of 1280 or more"],
        ),
        ("mtu: 1500", "mtu: 1280", &[]),
        (
            "mtu: 1500",
            "shaper: {rate_mbps: 0}",
            &["node edge-1, port wan: nodes[0].ports[0].shaper.rate_mbps is 0; allowed: 1 to 400000 Mbit/s"],
        ),
        (
            "mtu: 1500",
            "shaper: {rate_mbps: 1, overhead_bytes: 256, p0_percent: 0, p2_weight: 0}",
            &[
                "node edge-1, port wan: nodes[0].ports[0].shaper.overhead_bytes is 256; allowed: 0 to 255 octets",
                "node edge-1, port wan: nodes[0].ports[0].shaper.p0_percent is 0; allowed: 1 to 100 percent",
                "node edge-1, port wan: nodes[0].ports[0].shaper.p2_weight is 0; allowed: 1 to 1000",
            ],
        ),
    ]);
    check_warnings(&[(
        "mtu: 1500",
        "shaper: {rate_mbps: 10000, overhead_bytes: 20, p0_percent: 30, p3_weight: 1}",
        &[],
    )]);
}

#[test]
fn devices() {
    const ANY: &str = "auto:IF, pci:DDDD:BB:DD.F, vdev:NAME[,ARGS], af_xdp:IF or af_packet:IF";
    const PCI: &str = "pci:DDDD:BB:DD.F in hexadecimal, as in pci:0000:03:00.0";
    const VDEV: &str = "vdev:NAME[,ARGS] without spaces, as in vdev:net_af_packet0,iface=eth1";
    let cases = [
        ("", "missing", ANY),
        ("eth1", "\"eth1\"", ANY),
        ("tap:eth1", "\"tap:eth1\"", ANY),
        ("pci:03:00.0", "\"pci:03:00.0\"", PCI),
        ("pci:0000:03:00.8", "\"pci:0000:03:00.8\"", PCI),
        ("pci:0000:0g:00.0", "\"pci:0000:0g:00.0\"", PCI),
        ("vdev:", "\"vdev:\"", VDEV),
        ("vdev:net_tap0,iface=a b", "\"vdev:net_tap0,iface=a b\"", VDEV),
        (
            "af_xdp:a/b",
            "\"af_xdp:a/b\"",
            "af_xdp:IF with the name of a Linux interface, 1 to 15 characters without / : and spaces",
        ),
        (
            "auto:0123456789abcdef",
            "\"auto:0123456789abcdef\"",
            "auto:IF with the name of a Linux interface, 1 to 15 characters without / : and spaces",
        ),
    ];
    for (device, found, allowed) in cases {
        let expected = format!("node edge-1, port lan: nodes[0].ports[1].device is {found}; allowed: {allowed}");
        assert_eq!(refused("pci:0000:03:00.0", device), [expected]);
    }
    for device in ["vdev:net_null0", "pci:00ff:AF:1f.7", "auto:eth0.20", "af_xdp:veth-a", "af_packet:x"] {
        assert_eq!(refused("pci:0000:03:00.0", device), [""; 0]);
    }
}

#[test]
fn a_device_belongs_to_one_port() {
    check(&[
        (
            "pci:0000:03:00.0",
            "vdev:net_af_packet0,iface=eth2",
            &["node edge-1, port lan: nodes[0].ports[1].device is \"vdev:net_af_packet0,iface=eth2\", \
               whose virtual device net_af_packet0 port wan has already; allowed: a device of its own for each port"],
        ),
        (
            "pci:0000:03:00.0",
            "af_packet:eth1",
            &[
                "node edge-1, port lan: nodes[0].ports[1].device is \"af_packet:eth1\", whose interface eth1 port wan has already; \
               allowed: a device of its own for each port",
            ],
        ),
    ]);
}

#[test]
fn interfaces() {
    check(&[
        (
            "node: edge-2, port: wan",
            "port: wan",
            &["interface far0: interfaces[3].node is missing; allowed: the name of a node, since there are 2"],
        ),
        (
            "node: edge-2, port: wan",
            "node: edge-3, port: wan",
            &["interface far0: interfaces[3].node is \"edge-3\"; allowed: the name of a node: edge-1, edge-2"],
        ),
        (
            "node: edge-2, port: wan",
            "node: edge-2, port: lan",
            &["interface far0: interfaces[3].port is \"lan\"; allowed: a port of node edge-2: wan"],
        ),
        ("vlan: 20", "vlan: 0", &["interface lan20: interfaces[1].vlan is 0; allowed: 1 to 4094"]),
        ("vlan: 20", "vlan: 4095", &["interface lan20: interfaces[1].vlan is 4095; allowed: 1 to 4094"]),
        (
            "vlan: 30",
            "vlan: 20",
            &["interface lan30: interfaces[2].vlan is 20, which interface lan20 has on port lan already; \
               allowed: one interface for each port and vlan"],
        ),
        (
            "node: edge-1, port: lan, vlan: 30",
            "node: edge-1, port: wan",
            &["interface lan30: interfaces[2].port is \"wan\", which interface wan0 has untagged already; \
               allowed: one interface for each port and vlan"],
        ),
        (
            "table: blue}\n  - {name: far0",
            "table: b/c}\n  - {name: far0",
            &["interface lan30: interfaces[2].table is \"b/c\"; \
               allowed: 1 to 63 of a-z A-Z 0-9 . _ - beginning with a letter or digit"],
        ),
        (
            "10.0.30.1/24]",
            "10.0.30.1/24], urpf: sometimes",
            &["interface lan30: interfaces[2].urpf is \"sometimes\"; allowed: off, loose, strict"],
        ),
    ]);
    check_warnings(&[
        ("10.0.30.1/24]", "10.0.30.1/24], urpf: strict", &[]),
        ("10.0.30.1/24]", "10.0.30.1/24], urpf: off", &[]),
    ]);
}

#[test]
fn a_node_need_not_be_named_where_there_is_one() {
    let text = "{api_version: marchproxy/v1, nodes: [{name: n, ports: [{name: p, device: 'vdev:a'}]}], \
                interfaces: [{name: i, port: p}]}";
    assert!(validate(&parse(text).unwrap()).is_ok());
    let text = "{api_version: marchproxy/v1, interfaces: [{name: i, port: p}]}";
    let found = validate(&parse(text).unwrap()).unwrap_err();
    assert_eq!(
        found[0].to_string(),
        "interface i: interfaces[0].node is missing; allowed: the name of a node, and there is no node"
    );
}

#[test]
fn addresses() {
    let cases = [
        ("10.0.30.1", "\"10.0.30.1\"", "ADDRESS/LENGTH, as in 192.0.2.0/24 or 2001:db8::/32"),
        ("10.0.30.1/33", "\"10.0.30.1/33\"", "a prefix length of 0 to 32"),
        ("10.0.30.1/0", "\"10.0.30.1/0\"", "a prefix length of 1 or more: not everything is connected"),
        ("10.0.30.0/24", "\"10.0.30.0/24\"", "an address of a host, not the network address of 10.0.30.0/24"),
        ("10.0.30.255/24", "\"10.0.30.255/24\"", "an address of a host, not the broadcast address of 10.0.30.0/24"),
        (
            "\"fd00:30::/64\"",
            "\"fd00:30::/64\"",
            "an address of a host, not the subnet-router anycast address of fd00:30::/64",
        ),
        ("127.0.0.1/8", "\"127.0.0.1/8\"", "a unicast address that is routed, not a loopback address"),
        ("224.0.0.1/24", "\"224.0.0.1/24\"", "a unicast address that is routed, not a multicast address"),
        ("\"fe80::1/64\"", "\"fe80::1/64\"", "a unicast address that is routed, not a link-local address"),
        ("0.0.0.0/24", "\"0.0.0.0/24\"", "a unicast address that is routed, not one of 0.0.0.0/8 (this network)"),
    ];
    for (address, found, allowed) in cases {
        let expected = format!("interface lan30: interfaces[2].addresses[0] is {found}; allowed: {allowed}");
        assert_eq!(refused("10.0.30.1/24", address), [expected]);
    }
    for address in ["10.0.30.0/31", "10.0.30.0/32", "\"fd00:30::/127\"", "\"fd00:30::/128\""] {
        assert_eq!(refused("10.0.30.1/24", address), [""; 0], "{address}");
    }
}

#[test]
fn prefixes_do_not_overlap() {
    check(&[
        (
            "10.0.30.1/24",
            "10.0.20.1/24",
            &["interface lan30: interfaces[2].addresses is 10.0.20.1, an address of interface lan20 already; \
               allowed: each address once on a node"],
        ),
        // In another table it may; in the same it may not, wherever it is written.
        ("10.0.30.1/24", "10.0.20.2/24", &[]),
        (
            "10.0.30.1/24], table: blue",
            "10.0.20.130/25]",
            &[
                "interface lan30: interfaces[2].addresses is 10.0.20.130/25, which overlaps 10.0.20.1/24 of interface lan20; \
               allowed: prefixes of table main that do not overlap",
            ],
        ),
        (
            "10.0.30.1/24], table: blue",
            "10.0.0.1/8]",
            &[
                "interface lan20: interfaces[1].addresses is 10.0.20.1/24, which overlaps 10.0.0.1/8 of interface lan30; \
               allowed: prefixes of table main that do not overlap",
            ],
        ),
    ]);
}

#[test]
fn routes() {
    let route = "{prefix: 0.0.0.0/0, via: [{next_hop: 192.0.2.254, weight: 2}]}";
    check(&[
        (
            "prefix: 10.9.0.0/16",
            "prefix: 10.9.1.0/16",
            &["route 10.9.1.0/16: routes[1].prefix is \"10.9.1.0/16\"; \
               allowed: no bits set behind the prefix length: 10.9.0.0/16"],
        ),
        (
            "prefix: 10.9.0.0/16",
            "prefix: 10.9.0.0",
            &["route 10.9.0.0: routes[1].prefix is \"10.9.0.0\"; \
               allowed: ADDRESS/LENGTH, as in 192.0.2.0/24 or 2001:db8::/32"],
        ),
        (
            "blackhole: true",
            "reject: false",
            &[
                "route 10.9.0.0/16: routes[1].via is missing; allowed: exactly one of via, blackhole: true, reject: true",
            ],
        ),
        (
            "blackhole: true",
            "blackhole: true, reject: true",
            &["route 10.9.0.0/16: routes[1].blackhole is given with reject; \
               allowed: exactly one of via, blackhole: true, reject: true"],
        ),
        (
            "routes:\n",
            "routes:\n  - {prefix: 10.9.0.0/16, table: blue, reject: true}\n",
            &["route 10.9.0.0/16: routes[2].prefix is 10.9.0.0/16, the prefix of routes[0] already; \
               allowed: one route for a prefix in table blue"],
        ),
        ("routes:\n", "routes:\n  - {prefix: 10.9.0.0/16, reject: true}\n", &[]),
        (
            "prefix: 10.9.0.0/16, table: blue",
            "prefix: 10.9.0.0/16, node: edge-9",
            &["route 10.9.0.0/16: routes[1].node is \"edge-9\"; allowed: the name of a node: edge-1, edge-2"],
        ),
        (route, "{prefix: 0.0.0.0/0, node: edge-2, via: [{next_hop: 192.0.2.254}]}", &[]),
    ]);
    check_warnings(&[(
        "{prefix: 10.9.0.0/16, table: blue",
        "{prefix: 10.9.0.0/16, table: green",
        &["routes[1].table: no interface with an address is in table green, so the route has no effect"],
    )]);
}

#[test]
fn next_hops() {
    let hop = "next_hop: 192.0.2.254, weight: 2";
    let cases = [
        (
            "next_hop: 172.16.0.1",
            "next_hop is 172.16.0.1; allowed: an address in a connected prefix of table main: this one leads nowhere",
        ),
        // Connected, but in table blue.
        (
            "next_hop: 10.0.30.9",
            "next_hop is 10.0.30.9; allowed: an address in a connected prefix of table main: this one leads nowhere",
        ),
        (
            "next_hop: 10.0.20.1",
            "next_hop is 10.0.20.1; allowed: the address of another router, not that of interface lan20",
        ),
        (
            "next_hop: 203.0.113.10",
            "next_hop is 203.0.113.10; allowed: the address of another router, not that of a service",
        ),
        (
            "next_hop: 192.0.2.255",
            "next_hop is 192.0.2.255; allowed: an address of a host, not the broadcast address of 192.0.2.0/24",
        ),
        ("next_hop: \"2001:db8::fe\"", "next_hop is \"2001:db8::fe\"; allowed: an IPv4 address, as the prefix is"),
        ("next_hop: gateway", "next_hop is \"gateway\"; allowed: an IPv4 or IPv6 address without prefix length"),
        ("next_hop: 192.0.2.254, weight: 0", "weight is 0; allowed: 1 to 65535"),
        ("next_hop: 192.0.2.254, weight: 65536", "weight is 65536; allowed: 1 to 65535"),
    ];
    for (replace, expected) in cases {
        let expected = format!("route 0.0.0.0/0: routes[0].via[0].{expected}");
        assert_eq!(refused(hop, replace), [expected], "{replace}");
    }
    check(&[
        (
            "weight: 2}]",
            "weight: 2}, {next_hop: 192.0.2.254}]",
            &["route 0.0.0.0/0: routes[0].via[1].next_hop is 192.0.2.254, there twice; \
               allowed: each next hop once; a weight gives it more"],
        ),
        ("weight: 2}]", "weight: 2}, {next_hop: 10.0.20.9}]", &[]),
        (
            "{prefix: 0.0.0.0/0, via: [{next_hop: 192.0.2.254, weight: 2}]}",
            "{prefix: 0.0.0.0/0, node: edge-2, via: [{next_hop: 10.0.20.9}]}",
            &["route 0.0.0.0/0: routes[0].via[0].next_hop is 10.0.20.9; \
               allowed: an address in a connected prefix of table main of this node: this one leads nowhere"],
        ),
    ]);
}

#[test]
fn flows() {
    const COLLECTOR: &str = "ADDRESS:PORT with a unicast address, as in 192.0.2.50:4739 or [2001:db8::50]:4739";
    let node = "  - name: edge-2\n";
    let with = |fields: &str| format!("{node}    flows: {{{fields}}}\n");
    for good in [
        "collector: '192.0.2.50:4739'",
        "collector: '[2001:db8::50]:2055', domain: 7, one_of: 10, active_timeout_s: 30, template_refresh_s: 5, \
         message_bytes: 8952, nat_events: true, services: [web, ping]",
    ] {
        assert_eq!(refused(node, &with(good)), [""; 0], "{good}");
    }
    let field = |field: &str, rest: &str| format!("node edge-2: nodes[1].flows.{field} is {rest}");
    for (bad, expected) in [
        ("one_of: 1", field("collector", &format!("missing; allowed: {COLLECTOR}"))),
        ("collector: host.example:4739", field("collector", &format!("\"host.example:4739\"; allowed: {COLLECTOR}"))),
        ("collector: '224.0.0.1:4739'", field("collector", &format!("\"224.0.0.1:4739\"; allowed: {COLLECTOR}"))),
        ("collector: '255.255.255.255:1'", field("collector", &format!("\"255.255.255.255:1\"; allowed: {COLLECTOR}"))),
        ("collector: '[fe80::1]:1'", field("collector", &format!("\"[fe80::1]:1\"; allowed: {COLLECTOR}"))),
        ("collector: '192.0.2.50:0'", field("collector", &format!("\"192.0.2.50:0\"; allowed: {COLLECTOR}"))),
        ("collector: '192.0.2.50:1', one_of: 0", field("one_of", "0; allowed: 1 to 1000000 sessions")),
        ("collector: '192.0.2.50:1', active_timeout_s: 0", field("active_timeout_s", "0; allowed: 1 to 3600 seconds")),
        ("collector: '192.0.2.50:1', message_bytes: 511", field("message_bytes", "511; allowed: 512 to 8952 octets")),
        (
            "collector: '192.0.2.50:1', services: [web, mail]",
            field("services[1]", "\"mail\"; allowed: the name of a service: ping, web"),
        ),
    ] {
        assert_eq!(refused(node, &with(bad)), [expected], "{bad}");
    }
}
