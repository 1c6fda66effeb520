use std::net::IpAddr;

use marchproxy_engine::tables::{
    BackendState, FlagMatch, FragmentMatch, PolicerAction, PortRange, RouteAction, RuleAction, RuleMatch, RuleWay,
    ServiceProtocol, Urpf,
};
use marchproxy_proto::tables;
use proptest::prelude::*;

use super::*;
use crate::model;

fn compiled(text: &str, node: &str) -> RuleTables {
    let (model, _) = model::validate(&model::parse(text).unwrap()).unwrap();
    compile(&model, node)
}

const TWO_NODES: &str = r#"
api_version: marchproxy/v1
nodes:
  - name: b
    ports: [{name: wan, device: "vdev:z"}, {name: lan, device: "vdev:y", mtu: 9000}]
  - name: a
    ports: [{name: wan, device: "vdev:x"}]
interfaces:
  - {name: wan-b, node: b, port: wan, addresses: [192.0.2.2/24, 10.7.0.1/24]}
  - {name: lan-b, node: b, port: lan, vlan: 5, addresses: [10.0.0.1/24], table: red, urpf: strict, trust_dscp: false}
  - {name: wan-a, node: a, port: wan, addresses: [192.0.3.1/24], table: blue}
  - {name: up-a, node: a, port: wan, vlan: 9, addresses: [192.0.2.1/24]}
routes:
  - {prefix: 10.9.0.0/16, table: red, reject: true}
  - {prefix: 10.8.0.0/16, node: a, blackhole: true}
  - {prefix: 0.0.0.0/0, via: [{next_hop: 192.0.2.254, weight: 3}, {next_hop: 10.7.0.9}]}
  - {prefix: 10.6.0.0/16, table: blue, via: [{next_hop: 192.0.3.9}]}
rules:
  - {name: z, priority: 5, action: permit}
  - {name: b-only, priority: 5, match: {in: lan-b}, action: deny}
  - {name: first, priority: 1, match: {src: [10.1.0.0/16, 10.0.0.0/16, 10.1.0.0/16], protocol: udp, dst_ports: [81, 80, "70-79"]}, action: permit, mark: EF}
services:
  - name: web
    address: [203.0.113.2, 203.0.113.1]
    protocol: udp
    ports: [81, 80]
    source_affinity_s: 60
    qos: gold
    backends:
      - {name: y, address: 10.0.0.9, port: 8080, weight: 7}
      - {name: x, address: 10.7.0.8, state: draining}
      - {name: w, address: 10.7.0.7, state: down}
  - {name: ping, address: 203.0.113.1, protocol: icmp, backends: [{name: w, address: 10.7.0.7, state: down}]}
policers:
  - {name: q, kind: srtcm, cir_kbps: 5, cbs_bytes: 3000}
  - {name: p, kind: srtcm, cir_kbps: 6, ebs_bytes: 3000, on_yellow: {mark: 12}, on_red: pass}
qos:
  - {name: gold, policer: q, priority: {dscp: AF41}}
"#;

fn names<T>(list: &[T], name: impl Fn(&T) -> &String) -> Vec<&str> {
    list.iter().map(|object| name(object).as_str()).collect()
}

#[test]
fn flows_name_services_by_their_new_places() {
    // In the document: web, ping; by name: ping, web.
    let flows = |fields: &str| {
        let text = TWO_NODES.replacen("  - name: b\n", &format!("  - name: b\n    flows: {{{fields}}}\n"), 1);
        assert_ne!(text, TWO_NODES);
        assert_eq!(compiled(&text, "a").flows, None);
        compiled(&text, "b").flows.unwrap()
    };
    let all = flows("collector: '192.0.2.50:4739'");
    assert_eq!((all.services.len(), all.one_of, all.message_octets, all.active_timeout_s), (0, 1, 1232, 60));
    assert_eq!(flows("collector: '192.0.2.50:4739', services: [web]").services, [1]);
    assert_eq!(flows("collector: '192.0.2.50:4739', services: [web, ping]").services, [0, 1]);
}

#[test]
fn ports_and_interfaces_of_the_node_in_order_of_names() {
    let tables = compiled(TWO_NODES, "b");
    assert_eq!(names(&tables.ports, |port| &port.name), ["lan", "wan"]);
    assert_eq!(tables.ports.iter().map(|port| port.mtu).collect::<Vec<_>>(), [9000, 1500]);
    assert_eq!(names(&tables.interfaces, |interface| &interface.name), ["lan-b", "wan-b"]);
    let lan = &tables.interfaces[0];
    // blue 1, red 2, on every node.
    assert_eq!((lan.port, lan.vlan, lan.table, lan.trust_dscp), (0, Some(5), 2, false));
    assert_eq!(lan.urpf, Urpf::Strict);
    let wan = &tables.interfaces[1];
    assert_eq!((wan.port, wan.vlan, wan.table, wan.trust_dscp), (1, None, 0, true));
    assert_eq!(wan.addresses[0].to_string(), "192.0.2.2/24", "addresses stay in the document's order");
    assert_eq!(compiled(TWO_NODES, "a").interfaces[1].table, 1);
    assert_eq!(compiled(TWO_NODES, "unknown"), RuleTables::default());
}

#[test]
fn routes_are_where_their_next_hops_are() {
    let routes = |node| {
        let tables = compiled(TWO_NODES, node);
        let route = |route: &marchproxy_engine::tables::RouteSpec| {
            let hops = match &route.action {
                RouteAction::Via(hops) => hops
                    .iter()
                    .map(|hop| format!("{} {} {}", hop.address, tables.interfaces[hop.interface].name, hop.weight))
                    .collect::<Vec<_>>()
                    .join(", "),
                other => format!("{other:?}"),
            };
            format!("{} {}: {hops}", route.table, route.prefix)
        };
        tables.routes.iter().map(route).collect::<Vec<_>>()
    };
    assert_eq!(routes("b"), ["0 0.0.0.0/0: 10.7.0.9 wan-b 1, 192.0.2.254 wan-b 3", "2 10.9.0.0/16: Reject"]);
    assert_eq!(
        routes("a"),
        [
            "0 0.0.0.0/0: 192.0.2.254 up-a 3",
            "0 10.8.0.0/16: Blackhole",
            "1 10.6.0.0/16: 192.0.3.9 wan-a 1",
            "2 10.9.0.0/16: Reject"
        ]
    );
}

#[test]
fn rules_by_priority_then_name_without_those_of_other_nodes() {
    let tables = compiled(TWO_NODES, "b");
    assert_eq!(names(&tables.rules, |rule| &rule.name), ["first", "b-only", "z"]);
    assert_eq!(tables.rules[1].matches.in_interface, Some(0));
    let first = &tables.rules[0];
    assert_eq!(first.matches.src.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/16", "10.1.0.0/16"]);
    assert_eq!(first.matches.dst_ports, [PortRange { first: 70, last: 81 }]);
    assert_eq!((first.matches.protocol, first.mark), (Some(17), Some(46)));
    assert_eq!(names(&compiled(TWO_NODES, "a").rules, |rule| &rule.name), ["first", "z"]);
}

#[test]
fn what_rules_set_is_the_nodes_own() {
    let sets = "{name: z, priority: 5, action: permit}\n  - {name: far, priority: 6, action: permit, next_hop: 192.0.3.9}
  - {name: red, priority: 7, match: {protocol: tcp, tcp_flags: [syn, '!ack'], vlan: 5, dscp: [EF, CS1], fragment: no}, action: permit, table: red, policer: q, log_sample: 9}
  - {name: tell, priority: 8, action: reject, new_only: true}";
    let text = TWO_NODES.replace("{name: z, priority: 5, action: permit}", sets);
    let tables = compiled(&text, "b");
    assert_eq!(names(&tables.rules, |rule| &rule.name), ["first", "b-only", "z", "red", "tell"], "far is not near b");
    let red = &tables.rules[3];
    let RuleMatch { tcp_flags, vlan, dscp, fragment, .. } = &red.matches;
    assert_eq!(*tcp_flags, Some(FlagMatch { value: 2, mask: 0x12 }));
    assert_eq!((*vlan, &dscp[..], *fragment), (Some(5), &[8, 46][..], Some(FragmentMatch::No)));
    assert_eq!((red.way, red.policer, red.log_sample), (Some(RuleWay::Table(2)), Some(1), 9));
    assert_eq!((tables.rules[4].action, tables.rules[4].new_only), (RuleAction::Reject, true));
    let tables = compiled(&text, "a");
    let far = tables.rules.iter().find(|rule| rule.name == "far").unwrap();
    let wan = tables.interfaces.iter().position(|interface| interface.name == "wan-a").unwrap();
    assert_eq!(far.way, Some(RuleWay::NextHop { address: IpAddr::from([192, 0, 3, 9]), interface: wan }));
}

#[test]
fn a_node_whose_rules_are_all_elsewhere_denies() {
    let text = "{api_version: marchproxy/v1, nodes: [{name: a, ports: [{name: p, device: 'vdev:a'}]}, {name: b}], \
                interfaces: [{name: i, node: a, port: p}], \
                rules: [{name: r, priority: 1, match: {in: i}, action: permit}]}";
    let tables = compiled(text, "b");
    assert_eq!(tables.rules.len(), 1);
    assert_eq!(tables.rules[0].action, marchproxy_engine::tables::RuleAction::Deny);
    assert_eq!(tables.rules[0].matches, marchproxy_engine::tables::RuleMatch::default());
}

#[test]
fn services_with_policer_mark_and_backends() {
    let tables = compiled(TWO_NODES, "a");
    assert_eq!(names(&tables.policers, |policer| &policer.name), ["p", "q"]);
    let p = &tables.policers[0];
    assert_eq!(
        (p.on_green, p.on_yellow, p.on_red),
        (PolicerAction::Pass, PolicerAction::Mark(12), PolicerAction::Pass)
    );
    assert_eq!(tables.policers[1].on_red, PolicerAction::Drop);

    assert_eq!(names(&tables.services, |service| &service.name), ["ping", "web"]);
    let (ping, web) = (&tables.services[0], &tables.services[1]);
    assert_eq!(
        (ping.protocol, ping.ports.len(), ping.backends[0].state),
        (ServiceProtocol::Icmp, 0, BackendState::Down)
    );
    assert_eq!((web.policer, web.mark, web.source_affinity), (Some(1), Some(34), true));
    assert_eq!(web.addresses, ["203.0.113.1", "203.0.113.2"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    assert_eq!(web.ports, [PortRange { first: 80, last: 81 }]);
    let backends: Vec<_> = web.backends.iter().map(|b| (b.name.as_str(), b.port, b.weight, b.state)).collect();
    assert_eq!(
        backends,
        [
            ("w", None, 1, BackendState::Down),
            ("x", None, 1, BackendState::Draining),
            ("y", Some(8080), 7, BackendState::Up)
        ]
    );
}

#[test]
fn the_samples_survive_the_wire() {
    for text in [
        include_str!("../../../deploy/examples/reference.yaml"),
        include_str!("../../../deploy/examples/quickstart.yaml"),
    ] {
        let tables = compiled(text, "edge-1");
        assert!(!tables.services.is_empty());
        assert_eq!(tables::decode(&tables::encode(&tables).unwrap()).unwrap(), tables);
    }
}

fn shuffled(text: &str) -> impl Strategy<Value = marchproxy_proto::v1::Document> {
    let document = model::parse(text).unwrap();
    (
        (
            Just(document.nodes).prop_shuffle(),
            Just(document.interfaces).prop_shuffle(),
            Just(document.routes).prop_shuffle(),
        ),
        (Just(document.rules).prop_shuffle(), Just(document.services).prop_shuffle()),
        (
            Just(document.policers).prop_shuffle(),
            Just(document.qos).prop_shuffle(),
            Just(document.dscp_maps).prop_shuffle(),
        ),
    )
        .prop_map(|((nodes, interfaces, routes), (rules, services), (policers, qos, dscp_maps))| {
            marchproxy_proto::v1::Document {
                api_version: model::API_VERSION.to_owned(),
                cluster: String::new(),
                nodes,
                interfaces,
                routes,
                rules,
                services,
                policers,
                qos,
                dscp_maps,
            }
        })
}

proptest! {
    #[test]
    fn the_order_of_objects_does_not_count(document in shuffled(TWO_NODES)) {
        let (model, _) = model::validate(&document).unwrap();
        for node in ["a", "b"] {
            let tables = compile(&model, node);
            prop_assert_eq!(&tables, &compiled(TWO_NODES, node));
            prop_assert_eq!(&tables::decode(&tables::encode(&tables).unwrap()).unwrap(), &tables);
        }
        prop_assert_eq!(model::content_hash(&document), model::content_hash(&model::parse(TWO_NODES).unwrap()));
    }
}
