//! What must hold for any document, good or bad.

use marchproxy_proto::v1::{
    Backend, Bandwidth, Changes, ColourAction, Document, DscpMap, Flows, Health, Interface, Limits, Match, NextHop,
    Node, ObjectRef, Policer, Port, PortShaper, Priority, Qos, Route, Rule, Service, SourceLimits, SourcePrefixes,
};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;

use super::*;

/// Words that parsers of YAML like to take for something else, and any others.
fn word() -> impl Strategy<Value = String> {
    const TRICKY: [&str; 26] = [
        "no",
        "yes",
        "on",
        "off",
        "true",
        "null",
        "~",
        "010",
        "10",
        "+1",
        "1_0",
        "1e3",
        "0x1f",
        ".inf",
        "1:30",
        "- a",
        "a: b",
        "a #b",
        "*a",
        "&a",
        "!a",
        "%a",
        "@a",
        "'",
        "\"",
        "2001:db8::/32",
    ];
    prop_oneof![
        2 => proptest::sample::select(TRICKY.as_slice()).prop_map(str::to_owned),
        2 => "[a-z0-9./:-]{0,8}",
        1 => "\\PC{1,6}",
    ]
}

fn seconds() -> impl Strategy<Value = Option<f64>> {
    of(prop_oneof![(0..5000_u32).prop_map(f64::from), 0.001..5000.0])
}

fn colour() -> impl Strategy<Value = Option<ColourAction>> {
    let kind = proptest::sample::select(["mark", "class"].as_slice());
    let mark = (kind, word()).prop_map(|(kind, mark)| ColourAction { kind: kind.to_owned(), mark });
    let other = proptest::sample::select(["pass", "drop", "explode"].as_slice())
        .prop_map(|kind| ColourAction { kind: kind.to_owned(), mark: String::new() });
    of(prop_oneof![mark, other])
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let shaper =
        (any::<u64>(), of(any::<u32>()), of(any::<u32>())).prop_map(|(rate_mbps, overhead_bytes, p2_weight)| {
            PortShaper { rate_mbps, overhead_bytes, p2_weight, ..PortShaper::default() }
        });
    let shaper = of(shaper);
    let port = (word(), word(), of(any::<u32>()), shaper).prop_map(|(name, device, mtu, shaper)| Port {
        name,
        device,
        mtu,
        shaper,
    });
    vec((word(), btree_map(word(), word(), 0..3), vec(port, 0..3), of(flows())), 0..3).prop_map(|nodes| {
        nodes.into_iter().map(|(name, labels, ports, flows)| Node { name, labels, ports, flows }).collect()
    })
}

fn flows() -> impl Strategy<Value = Flows> {
    let numbers = (of(any::<u32>()), of(any::<u32>()), of(any::<u32>()), of(any::<u32>()), of(any::<u32>()));
    (word(), numbers, of(any::<bool>()), vec(word(), 0..3)).prop_map(|(collector, numbers, nat_events, services)| {
        let (domain, one_of, active_timeout_s, template_refresh_s, message_bytes) = numbers;
        Flows { collector, domain, one_of, active_timeout_s, template_refresh_s, message_bytes, nat_events, services }
    })
}

fn interfaces() -> impl Strategy<Value = Vec<Interface>> {
    let fields =
        ((word(), word(), word()), of(any::<u32>()), vec(word(), 0..3), (word(), word(), word()), of(any::<bool>()));
    vec(
        fields.prop_map(|((name, node, port), vlan, addresses, (urpf, table, policer), trust_dscp)| Interface {
            policer,
            name,
            node,
            port,
            vlan,
            addresses,
            urpf,
            table,
            trust_dscp,
        }),
        0..3,
    )
}

fn routes() -> impl Strategy<Value = Vec<Route>> {
    let hop = (word(), of(any::<u32>())).prop_map(|(next_hop, weight)| NextHop { next_hop, weight });
    let fields = (word(), word(), vec(hop, 0..3), any::<bool>(), any::<bool>(), word());
    vec(
        fields.prop_map(|(prefix, table, via, blackhole, reject, node)| Route {
            prefix,
            table,
            via,
            blackhole,
            reject,
            node,
        }),
        0..3,
    )
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let list = || vec(word(), 0..3);
    let closer = (list(), word(), list(), word());
    let matches = (list(), list(), word(), list(), list(), word(), closer).prop_map(
        |(src, dst, protocol, src_ports, dst_ports, r#in, (tcp_flags, vlan, dscp, fragment))| Match {
            src,
            dst,
            protocol,
            src_ports,
            dst_ports,
            r#in,
            tcp_flags,
            vlan,
            dscp,
            fragment,
        },
    );
    let more = (word(), word(), word(), of(any::<u32>()), any::<bool>(), word());
    let fields = (word(), any::<u32>(), of(matches), word(), word(), more);
    vec(
        fields.prop_map(|(name, priority, r#match, action, mark, more)| {
            let (policer, next_hop, table, log_sample, new_only, class) = more;
            Rule { name, priority, r#match, action, mark, policer, next_hop, table, log_sample, new_only, class }
        }),
        0..4,
    )
}

fn services() -> impl Strategy<Value = Vec<Service>> {
    let http = (of(any::<u32>()), word(), word(), word());
    let health = (word(), seconds(), seconds(), of(any::<u32>()), of(any::<u32>()), http).prop_map(
        |(kind, interval_s, timeout_s, rise, panic_below_percent, (port, path, host, expect_status))| Health {
            kind,
            interval_s,
            timeout_s,
            rise,
            fall: None,
            panic_below_percent,
            port,
            path,
            host,
            expect_status,
        },
    );
    let backend = (word(), word(), of(any::<u32>()), of(any::<u32>()), word())
        .prop_map(|(name, address, port, weight, state)| Backend { name, address, port, weight, state });
    let fields = (
        (word(), vec(word(), 0..3), word(), vec(word(), 0..3), (word(), word(), word(), vec(word(), 0..3))),
        of(any::<u32>()),
        of(health),
        vec(backend, 0..3),
        word(),
        of(limits()),
    );
    vec(
        fields.prop_map(
            |(
                (name, address, protocol, ports, (mode, sessions, on_backend_loss, source_pool)),
                source_affinity_s,
                health,
                backends,
                qos,
                limits,
            )| Service {
                name,
                address,
                protocol,
                ports,
                mode,
                source_affinity_s,
                health,
                backends,
                qos,
                limits,
                sessions,
                on_backend_loss,
                source_pool,
            },
        ),
        0..3,
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    let number = || of(any::<u32>());
    let per_source = (number(), number(), number(), number(), number()).prop_map(
        |(new_per_s, half_open, sessions, prefix_v4, prefix_v6)| SourceLimits {
            new_per_s,
            half_open,
            sessions,
            prefix_v4,
            prefix_v6,
        },
    );
    (number(), number(), number(), of(per_source)).prop_map(|(new_per_s, half_open, sessions, per_source)| Limits {
        new_per_s,
        half_open,
        sessions,
        per_source,
    })
}

fn policers() -> impl Strategy<Value = Vec<Policer>> {
    let number = || prop_oneof![Just(0), any::<u64>()];
    let sources = (of(any::<u32>()), of(any::<u32>()));
    let sources = of(sources.prop_map(|(prefix_v4, prefix_v6)| SourcePrefixes { prefix_v4, prefix_v6 }));
    let octets = proptest::array::uniform6(number());
    let fields = ((word(), word()), (octets.clone(), octets), (any::<bool>(), sources), colour(), colour(), colour());
    vec(
        fields.prop_map(
            |((name, kind), (octets, packets), (colour_aware, per_source), on_green, on_yellow, on_red)| {
                let [cir_kbps, cbs_bytes, ebs_bytes, pir_kbps, pbs_bytes, eir_kbps] = octets;
                let [cir_pps, cbs_packets, ebs_packets, pir_pps, pbs_packets, eir_pps] = packets;
                Policer {
                    name,
                    kind,
                    cir_kbps,
                    cbs_bytes,
                    ebs_bytes,
                    colour_aware,
                    on_green,
                    on_yellow,
                    on_red,
                    pir_kbps,
                    pbs_bytes,
                    eir_kbps,
                    cir_pps,
                    cbs_packets,
                    ebs_packets,
                    pir_pps,
                    pbs_packets,
                    eir_pps,
                    per_source,
                }
            },
        ),
        0..3,
    )
}

fn qos() -> impl Strategy<Value = Vec<Qos>> {
    let bandwidth = (of(any::<u64>()), of(any::<u64>())).prop_map(|(ingress_mbps, burst_size_kb)| Bandwidth {
        ingress_mbps,
        egress_mbps: None,
        burst_size_kb,
        queue_packets: None,
        queue_kb: None,
    });
    let priority = (word(), of(any::<u32>()), seconds(), word())
        .prop_map(|(class, weight, max_latency_ms, dscp)| Priority { class, weight, max_latency_ms, dscp });
    let fields = (word(), of(bandwidth), of(priority), word());
    vec(
        fields.prop_map(|(name, bandwidth, priority, policer)| Qos { name, bandwidth, priority, aqm: None, policer }),
        0..3,
    )
}

fn dscp_maps() -> impl Strategy<Value = Vec<DscpMap>> {
    vec((word(), btree_map(word(), word(), 0..3)).prop_map(|(name, map)| DscpMap { name, map }), 0..3)
}

fn document() -> impl Strategy<Value = Document> {
    ((word(), word()), nodes(), interfaces(), routes(), rules(), services(), policers(), (qos(), dscp_maps())).prop_map(
        |((api_version, cluster), nodes, interfaces, routes, rules, services, policers, (qos, dscp_maps))| Document {
            api_version,
            cluster,
            nodes,
            interfaces,
            routes,
            rules,
            services,
            policers,
            qos,
            dscp_maps,
        },
    )
}

/// A list of rules with names of their own.
fn rule_set() -> impl Strategy<Value = Document> {
    btree_map("[a-d][0-9]", 0..3_u32, 0..12).prop_map(|rules| Document {
        api_version: API_VERSION.to_owned(),
        rules: rules.into_iter().map(|(name, priority)| Rule { name, priority, ..Rule::default() }).collect(),
        ..Document::default()
    })
}

proptest! {
    #[test]
    fn documents_survive_yaml_and_json(document in document()) {
        let yaml = to_yaml(&document).unwrap();
        prop_assert_eq!(parse(&yaml).map_err(|error| format!("{error}\n{yaml}")), Ok(document.clone()));
        prop_assert_eq!(parse(&to_json(&document).unwrap()), Ok(document.clone()));
    }

    #[test]
    fn objects_put_together_are_the_document(document in document()) {
        let mut again = Document { api_version: document.api_version.clone(), ..Document::default() };
        for object in objects(&document) {
            insert(&mut again, object.kind, &object.body).unwrap();
        }
        prop_assert_eq!(objects(&again), objects(&document));
        prop_assert_eq!(content_hash(&again), content_hash(&document));
    }

    #[test]
    fn validation_answers_whatever_it_is_given(document in document()) {
        if let Err(violations) = validate(&document) {
            prop_assert!(!violations.is_empty());
            for violation in violations {
                prop_assert!(!violation.field.is_empty() && !violation.allowed.is_empty(), "{}", violation);
            }
        }
    }

    #[test]
    fn text_never_panics(text in "\\PC{0,60}") {
        let _ = parse(&text);
        let _ = parse(&format!("rules: {text}"));
        let _ = parse(&format!("{{\"rules\": {text}}}"));
    }

    #[test]
    fn a_diff_made_into_changes_leads_from_one_document_to_the_other(before in rule_set(), after in rule_set()) {
        let mut changes = Changes { upsert: Some(Document::default()), delete: Vec::new() };
        for object in diff(&before, &after).objects {
            let kind: Kind = object.kind.parse().unwrap();
            if object.change == "removed" {
                changes.delete.push(ObjectRef { kind: object.kind, name: object.name });
            } else {
                insert(changes.upsert.as_mut().unwrap(), kind, &object.after).unwrap();
            }
        }
        let merged = merge(&before, &changes).unwrap();
        prop_assert_eq!(content_hash(&merged), content_hash(&after));
    }
}
