//! Each case changes one place of a good document and expects exactly these violations, or these warnings.

mod network;
mod policers;
mod rules;
mod services;

use super::super::parse;
use super::*;

const BASE: &str = r#"
api_version: marchproxy/v1
cluster: default
nodes:
  - name: edge-1
    ports:
      - {name: wan, device: "vdev:net_af_packet0,iface=eth1", mtu: 1500}
      - {name: lan, device: "pci:0000:03:00.0"}
  - name: edge-2
    ports:
      - {name: wan, device: "auto:eth1"}
interfaces:
  - {name: wan0, node: edge-1, port: wan, addresses: [192.0.2.1/24, "2001:db8::1/64"]}
  - {name: lan20, node: edge-1, port: lan, vlan: 20, addresses: [10.0.20.1/24, "fd00:20::1/64"]}
  - {name: lan30, node: edge-1, port: lan, vlan: 30, addresses: [10.0.30.1/24], table: blue}
  - {name: far0, node: edge-2, port: wan, addresses: [192.0.2.2/24]}
routes:
  - {prefix: 0.0.0.0/0, via: [{next_hop: 192.0.2.254, weight: 2}]}
  - {prefix: 10.9.0.0/16, table: blue, blackhole: true}
rules:
  - {name: web, priority: 1, match: {src: [198.51.100.0/24], dst: [203.0.113.10], protocol: tcp, dst_ports: [80, "90-99"], in: wan0}, action: permit, mark: AF41}
  - {name: rest, priority: 9, action: deny}
services:
  - name: web
    address: [203.0.113.10, "2001:db8:1::10"]
    protocol: tcp
    ports: [80, "90-99"]
    backends:
      - {name: a, address: 10.0.20.11, port: 8080, weight: 10}
      - {name: b, address: "fd00:20::12", state: draining}
    qos: gold
  - {name: ping, address: 203.0.113.10, protocol: icmp, backends: [{name: a, address: 10.0.20.11}]}
policers:
  - {name: slow, kind: srtcm, cir_kbps: 10000, cbs_bytes: 65536, ebs_bytes: 0, on_green: pass, on_yellow: {mark: AF12}, on_red: drop}
qos:
  - {name: gold, policer: slow, priority: {dscp: AF41}}
"#;

/// The good document with one place changed.
fn changed(find: &str, replace: &str) -> Document {
    assert_eq!(BASE.matches(find).count(), 1, "{find}");
    parse(&BASE.replace(find, replace)).unwrap_or_else(|error| panic!("{replace}: {error}"))
}

fn refused(find: &str, replace: &str) -> Vec<String> {
    match validate(&changed(find, replace)) {
        Ok(_) => Vec::new(),
        Err(violations) => violations.iter().map(ToString::to_string).collect(),
    }
}

/// (what is found in the document, what it is replaced with, the violations)
fn check(cases: &[(&str, &str, &[&str])]) {
    for (find, replace, expected) in cases {
        assert_eq!(refused(find, replace), *expected, "{replace}");
    }
}

/// (what is found in the document, what it is replaced with, the warnings)
fn check_warnings(cases: &[(&str, &str, &[&str])]) {
    for (find, replace, expected) in cases {
        let (_, warnings) = validate(&changed(find, replace)).unwrap_or_else(|found| panic!("{replace}: {found:?}"));
        let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings, *expected, "{replace}");
    }
}

#[test]
fn the_good_document_is_good() {
    let (model, warnings) = validate(&parse(BASE).unwrap()).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(model.cluster(), "default");
    assert_eq!(model.nodes().collect::<Vec<_>>(), ["edge-1", "edge-2"]);
    let (empty, _) = validate(&parse("api_version: marchproxy/v1").unwrap()).unwrap();
    assert_eq!((empty.cluster(), empty.nodes().count()), ("default", 0));
}

#[test]
fn the_sample_documents_are_good() {
    let reference = parse(include_str!("../../../../deploy/examples/reference.yaml")).unwrap();
    let (_, warnings) = validate(&reference).unwrap();
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let expected = [
        "qos[0].bandwidth.ingress_mbps: not enforced beside policer per-service-10m: one policer meters a packet",
        "services[0].backends[0].address: only the default route leads there; a backend is usually nearer than that",
        "services[0].backends[1].address: reached from interfaces of table blue only, not from those of table main",
    ];
    assert_eq!(warnings, expected);

    for text in [
        include_str!("../../../../deploy/examples/quickstart.yaml"),
        include_str!("../../../../deploy/examples/rules.yaml"),
    ] {
        assert_eq!(validate(&parse(text).unwrap()).unwrap().1, []);
    }
}

#[test]
fn header() {
    check(&[
        (
            "api_version: marchproxy/v1",
            "api_version: marchproxy/v2",
            &["document: api_version is \"marchproxy/v2\"; allowed: \"marchproxy/v1\""],
        ),
        ("api_version: marchproxy/v1", "", &["document: api_version is missing; allowed: \"marchproxy/v1\""]),
        (
            "cluster: default",
            "cluster: a b",
            &["document: cluster is \"a b\"; \
               allowed: 1 to 63 of a-z A-Z 0-9 . _ - beginning with a letter or digit"],
        ),
    ]);
}

#[test]
fn all_violations_are_reported_each_once() {
    let mut document = parse(BASE).unwrap();
    document.api_version = "v0".to_owned();
    document.nodes[0].ports[0].mtu = Some(100);
    document.interfaces[1].port = "nope".to_owned();
    document.rules[0].action = "allow".to_owned();
    document.services[0].backends[0].weight = Some(0);
    document.policers[0].cir_kbps = 0;
    let fields: Vec<String> = validate(&document).unwrap_err().into_iter().map(|violation| violation.field).collect();
    let expected = [
        "api_version",
        "nodes[0].ports[0].mtu",
        "interfaces[1].port",
        "rules[0].action",
        "policers[0].cir_kbps",
        "services[0].backends[0].weight",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn names() {
    check(&[
        (
            "- name: edge-2",
            "- name: edge-1",
            &[
                "node edge-1: nodes[1].name is \"edge-1\", the name of node number 1 as well; \
                 allowed: a name of its own for each node",
                "interface far0: interfaces[3].node is \"edge-2\"; allowed: the name of a node: edge-1",
            ],
        ),
        (
            "{name: lan, device",
            "{name: wan, device",
            &[
                "node edge-1, port wan: nodes[0].ports[1].name is \"wan\", the name of port number 1 as well; \
                 allowed: a name of its own for each port",
                "interface lan20: interfaces[1].port is \"lan\"; allowed: a port of node edge-1: wan, wan",
                "interface lan30: interfaces[2].port is \"lan\"; allowed: a port of node edge-1: wan, wan",
            ],
        ),
        (
            "name: rest",
            "name: web",
            &["rule web: rules[1].name is \"web\", the name of rule number 1 as well; \
               allowed: a name of its own for each rule"],
        ),
        (
            "{name: rest, ",
            "{",
            &["rule number 2: rules[1].name is missing; \
               allowed: 1 to 63 of a-z A-Z 0-9 . _ - beginning with a letter or digit"],
        ),
        (
            "name: ping",
            "name: web",
            &["service web: services[1].name is \"web\", the name of service number 1 as well; \
               allowed: a name of its own for each service"],
        ),
        (
            "{name: b, address",
            "{name: a, address",
            &["service web, backend a: services[0].backends[1].name is \"a\", the name of backend number 1 as well; \
               allowed: a name of its own for each backend"],
        ),
        (
            "name: far0",
            "name: wan0",
            &["interface wan0: interfaces[3].name is \"wan0\", the name of interface number 1 as well; \
               allowed: a name of its own for each interface"],
        ),
        (
            "policers:\n",
            "policers:\n  - {name: slow, kind: srtcm, cir_kbps: 1, cbs_bytes: 1500}\n",
            &["policer slow: policers[1].name is \"slow\", the name of policer number 1 as well; \
               allowed: a name of its own for each policer"],
        ),
        (
            "qos:\n",
            "qos:\n  - {name: gold}\n",
            &[
                "qos gold: qos[1].name is \"gold\", the name of qos number 1 as well; allowed: a name of its own for each qos",
            ],
        ),
    ]);
}
