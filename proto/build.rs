//! Generates messages and services from `marchproxy/v1/*.proto`.
//!
//! The messages of a document carry serde's derives, so that the YAML and JSON people write are read straight into them. How a
//! field may be spelled stands in `src/forms.rs`; which field has which form stands here.

use std::path::PathBuf;

use prost::Message;
use tonic_prost_build::Builder;

const FILES: [&str; 6] = [
    "marchproxy/v1/document.proto",
    "marchproxy/v1/config.proto",
    "marchproxy/v1/node.proto",
    "marchproxy/v1/operate.proto",
    "marchproxy/v1/enrol.proto",
    "marchproxy/v1/tables.proto",
];

/// Messages that people write. `ColourAction` is missing on purpose: its form is written by hand.
const WRITTEN: [&str; 25] = [
    "Document",
    "Node",
    "Flows",
    "Port",
    "PortShaper",
    "Interface",
    "Route",
    "NextHop",
    "Rule",
    "Match",
    "Service",
    "Health",
    "Limits",
    "SourceLimits",
    "Backend",
    "Policer",
    "SourcePrefixes",
    "DscpMap",
    "Qos",
    "Bandwidth",
    "Priority",
    "Aqm",
    "ObjectRef",
    "Changes",
    "Warning",
];

const WORD: &str = r#"#[serde(skip_serializing_if = "String::is_empty")]"#;
const WORD_OR_NUMBER: &str =
    r#"#[serde(skip_serializing_if = "String::is_empty", with = "crate::forms::word_or_number")]"#;
const WORDS: &str = r#"#[serde(skip_serializing_if = "Vec::is_empty", with = "crate::forms::words")]"#;
const WORDS_OR_NUMBERS: &str =
    r#"#[serde(skip_serializing_if = "Vec::is_empty", with = "crate::forms::words_or_numbers")]"#;
const LIST: &str = r#"#[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::forms::list")]"#;
const LABELS: &str =
    r#"#[serde(skip_serializing_if = "crate::forms::no_labels", deserialize_with = "crate::forms::labels")]"#;
const MAYBE: &str = r#"#[serde(skip_serializing_if = "Option::is_none")]"#;
const DECIMAL: &str = r#"#[serde(skip_serializing_if = "Option::is_none", serialize_with = "crate::forms::decimal")]"#;
const FLAG: &str = r#"#[serde(skip_serializing_if = "crate::forms::is_false")]"#;
const ZERO: &str = r#"#[serde(skip_serializing_if = "crate::forms::is_zero")]"#;

/// The form of every field of [`WRITTEN`] that is not a plain required value.
const FIELDS: &[(&str, &[&str])] = &[
    (
        WORD,
        &[
            "Document.api_version",
            "Document.cluster",
            "Node.name",
            "Flows.collector",
            "Port.name",
            "Port.device",
            "Interface.name",
            "Interface.node",
            "Interface.port",
            "Interface.urpf",
            "Interface.table",
            "Interface.policer",
            "Route.prefix",
            "Route.table",
            "Route.node",
            "NextHop.next_hop",
            "Rule.name",
            "Rule.action",
            "Rule.policer",
            "Rule.next_hop",
            "Rule.table",
            "Rule.class",
            "Match.fragment",
            "Match.in",
            "Service.name",
            "Service.protocol",
            "Service.mode",
            "Service.sessions",
            "Service.on_backend_loss",
            "Service.qos",
            "Health.kind",
            "Health.path",
            "Health.host",
            "Backend.name",
            "Backend.address",
            "Backend.state",
            "Policer.name",
            "Policer.kind",
            "DscpMap.name",
            "Qos.name",
            "Qos.policer",
            "Priority.class",
            "Aqm.kind",
            "ObjectRef.kind",
            "ObjectRef.name",
        ],
    ),
    (WORD_OR_NUMBER, &["Rule.mark", "Match.protocol", "Match.vlan", "Health.expect_status", "Priority.dscp"]),
    (
        WORDS,
        &[
            "Interface.addresses",
            "Match.src",
            "Match.dst",
            "Match.tcp_flags",
            "Service.address",
            "Service.source_pool",
            "Flows.services",
        ],
    ),
    (WORDS_OR_NUMBERS, &["Match.src_ports", "Match.dst_ports", "Match.dscp", "Service.ports"]),
    (
        LIST,
        &[
            "Document.nodes",
            "Document.interfaces",
            "Document.routes",
            "Document.rules",
            "Document.services",
            "Document.policers",
            "Document.qos",
            "Document.dscp_maps",
            "Node.ports",
            "Route.via",
            "Service.backends",
            "Changes.delete",
        ],
    ),
    (LABELS, &["Node.labels", "DscpMap.map"]),
    (
        MAYBE,
        &[
            "Node.flows",
            "Flows.domain",
            "Flows.one_of",
            "Flows.active_timeout_s",
            "Flows.template_refresh_s",
            "Flows.message_bytes",
            "Flows.nat_events",
            "Port.mtu",
            "Port.shaper",
            "PortShaper.overhead_bytes",
            "PortShaper.p0_percent",
            "PortShaper.p1_weight",
            "PortShaper.p2_weight",
            "PortShaper.p3_weight",
            "Interface.vlan",
            "Interface.trust_dscp",
            "NextHop.weight",
            "Rule.match",
            "Rule.log_sample",
            "Service.source_affinity_s",
            "Service.health",
            "Service.limits",
            "Limits.new_per_s",
            "Limits.half_open",
            "Limits.sessions",
            "Limits.per_source",
            "SourceLimits.new_per_s",
            "SourceLimits.half_open",
            "SourceLimits.sessions",
            "SourceLimits.prefix_v4",
            "SourceLimits.prefix_v6",
            "Health.rise",
            "Health.fall",
            "Health.panic_below_percent",
            "Health.port",
            "Backend.port",
            "Backend.weight",
            "Policer.on_green",
            "Policer.on_yellow",
            "Policer.on_red",
            "Policer.per_source",
            "SourcePrefixes.prefix_v4",
            "SourcePrefixes.prefix_v6",
            "Qos.bandwidth",
            "Qos.priority",
            "Qos.aqm",
            "Bandwidth.ingress_mbps",
            "Bandwidth.egress_mbps",
            "Bandwidth.burst_size_kb",
            "Bandwidth.queue_packets",
            "Bandwidth.queue_kb",
            "Priority.weight",
            "Aqm.target_us",
            "Aqm.ecn",
            "Changes.upsert",
        ],
    ),
    (DECIMAL, &["Health.interval_s", "Health.timeout_s", "Priority.max_latency_ms"]),
    (FLAG, &["Route.blackhole", "Route.reject", "Rule.new_only", "Policer.colour_aware"]),
    (
        ZERO,
        &[
            "Policer.cir_kbps",
            "Policer.cbs_bytes",
            "Policer.ebs_bytes",
            "Policer.pir_kbps",
            "Policer.pbs_bytes",
            "Policer.eir_kbps",
            "Policer.cir_pps",
            "Policer.cbs_packets",
            "Policer.ebs_packets",
            "Policer.pir_pps",
            "Policer.pbs_packets",
            "Policer.eir_pps",
        ],
    ),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=marchproxy");
    println!("cargo:rerun-if-changed=build.rs");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("marchproxy.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    // Sorted maps: equal documents are equal texts.
    forms(tonic_prost_build::configure().btree_map(".")).compile_fds(descriptors)?;
    Ok(())
}

fn forms(mut builder: Builder) -> Builder {
    for message in WRITTEN {
        let path = format!(".marchproxy.v1.{message}");
        builder = builder
            .type_attribute(&path, "#[derive(serde::Serialize, serde::Deserialize)]")
            .type_attribute(&path, "#[serde(default, deny_unknown_fields)]");
    }
    for (form, fields) in FIELDS {
        for field in *fields {
            builder = builder.field_attribute(format!(".marchproxy.v1.{field}"), form);
        }
    }
    builder
}
