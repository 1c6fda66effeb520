//! `/metrics` of control: one table of families, from which the exporter and `docs/metrics.md` are made.

use std::collections::BTreeMap;

use marchproxy_metrics::{Class, Dictionary, Format, Kind, Sample, Value, family, one, sample};
use marchproxy_proto::v1;

use super::meters::{ApplyResult, MOST_CLUSTERS, Meters};
use super::state::{Control, now};

/// Nodes and certificates that have series, all clusters together.
const MOST: usize = 20_000;

/// What one scrape sees.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Newest stored version by cluster.
    pub versions: BTreeMap<String, u64>,
    /// The nodes of all clusters.
    pub nodes: Vec<v1::NodeInfo>,
    /// Cluster, role, name, and the seconds that the newest certificate is still valid.
    pub certificates: BTreeMap<(String, String, String), f64>,
    /// Why the database does not answer.
    pub store_error: Option<String>,
    /// What control counted.
    pub meters: Meters,
}

impl Observation {
    /// Looks, at the database too.
    pub async fn of(control: &Control) -> Self {
        let mut observation = Self { meters: control.meters.clone(), ..Self::default() };
        observation.store_error = control.store.history("default", 1).await.err().map(|why| why.to_string());
        for cluster in control.hub.clusters().into_iter().take(MOST_CLUSTERS) {
            observation.versions.insert(cluster.clone(), control.hub.version(&cluster));
            observation.nodes.extend(control.hub.nodes(&cluster).into_values());
            match control.store.certificates(&cluster).await {
                Ok(rows) => {
                    for row in rows.into_iter().filter(|row| row.revoked_at.is_none()) {
                        let left = (row.not_after - now()) as f64 / 1e6;
                        let newest = observation.certificates.entry((row.cluster, row.role, row.name)).or_insert(left);
                        *newest = newest.max(left);
                    }
                }
                Err(why) => observation.store_error = Some(why.to_string()),
            }
        }
        observation
    }
}

const CONTROL: &Class = &Class { name: "control", bound: "1" };
const CLUSTER: &Class = &Class { name: "cluster", bound: "1,000" };
const RESULT: &Class = &Class { name: "cluster and result", bound: "4,000" };
const NODE: &Class = &Class { name: "node", bound: "20,000" };
const CERTIFICATE: &Class = &Class { name: "owner of a certificate", bound: "20,000" };
const NODE_NAMES: &[&str] = &["cluster", "node"];
const WHEN: &str = "once a cluster is known";
const NODES: &str = "once a node is in the document or attached";

/// Every family. A new metric is an entry here, and nothing else.
pub const DICTIONARY: Dictionary<Observation> = &[&[
    family("control_build", Kind::Info, "", CONTROL, &["version"], "Release.", |_| {
        vec![sample(vec![env!("CARGO_PKG_VERSION").into()], 1_u64)]
    }),
    family("control_uptime_seconds", Kind::Gauge, "seconds", CONTROL, &[], "Since control started.", |o| {
        one(o.meters.started.elapsed().as_secs_f64())
    }),
    family("control_ready", Kind::Gauge, "", CONTROL, &[], "1 when the database answers.", |o| {
        one(o.store_error.is_none())
    }),
    family(
        "control_version",
        Kind::Gauge,
        "",
        CLUSTER,
        &["cluster"],
        "The newest stored version.",
        |o: &Observation| o.versions.iter().map(|(cluster, version)| sample(vec![cluster.clone()], *version)).collect(),
    )
    .when(WHEN),
    family(
        "control_applies",
        Kind::Counter,
        "",
        RESULT,
        &["cluster", "result"],
        "Applies and rollbacks: stored, unchanged, validated only, or refused.",
        applies,
    )
    .when("after the first Apply"),
    family(
        "control_apply_store_seconds",
        Kind::Histogram,
        "seconds",
        CONTROL,
        &[],
        "Apply: from the call to the stored version, checks and dry run included.",
        |o| one(&o.meters.store),
    ),
    family(
        "control_apply_settle_seconds",
        Kind::Histogram,
        "seconds",
        CONTROL,
        &[],
        "Apply: from the stored version to the last connected node's answer.",
        |o| one(&o.meters.settle),
    ),
    family(
        "control_node_connected",
        Kind::Gauge,
        "",
        NODE,
        NODE_NAMES,
        "1 while the node has a stream to this control.",
        |o| nodes(o, |node| node.connected),
    )
    .when(NODES),
    family(
        "control_node_version",
        Kind::Gauge,
        "",
        NODE,
        NODE_NAMES,
        "The version the node runs, as it said last.",
        |o| nodes(o, |node| node.version),
    )
    .when(NODES),
    family(
        "control_node_behind",
        Kind::Gauge,
        "",
        NODE,
        NODE_NAMES,
        "1 while the node runs another version than the newest one that means it.",
        |o| nodes(o, |node| node.wanted_version != 0 && node.version != node.wanted_version),
    )
    .when(NODES),
    family(
        "control_certificate_remaining_seconds",
        Kind::Gauge,
        "seconds",
        CERTIFICATE,
        &["cluster", "role", "name"],
        "How long the newest certificate of a node or operator is still valid.",
        certificates,
    )
    .when(WHEN),
]];

fn applies(o: &Observation) -> Vec<Sample> {
    let results = |(cluster, counts): (String, [u64; 4])| {
        let one =
            move |result: ApplyResult| sample(vec![cluster.clone(), result.label().into()], counts[result as usize]);
        ApplyResult::ALL.map(one)
    };
    o.meters.applies().into_iter().flat_map(results).collect()
}

fn nodes<V: Into<Value>>(o: &Observation, value: impl Fn(&v1::NodeInfo) -> V) -> Vec<Sample> {
    o.nodes.iter().take(MOST).map(|node| sample(vec![node.cluster.clone(), node.name.clone()], value(node))).collect()
}

fn certificates(o: &Observation) -> Vec<Sample> {
    let one = |((cluster, role, name), left): (&(String, String, String), &f64)| {
        sample(vec![cluster.clone(), role.clone(), name.clone()], *left)
    };
    o.certificates.iter().take(MOST).map(one).collect()
}

/// The text of one scrape.
pub fn render(observation: Observation, format: Format) -> String {
    marchproxy_metrics::render(DICTIONARY, observation, format)
}

/// The dictionary of all metrics, as Markdown.
pub fn dictionary() -> String {
    marchproxy_metrics::dictionary(DICTIONARY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_of_the_dictionary_is_exported_as_it_says() {
        let node = v1::NodeInfo {
            cluster: "default".into(),
            name: "edge-1".into(),
            connected: true,
            version: 6,
            wanted_version: 7,
            ..v1::NodeInfo::default()
        };
        let mut observation = Observation { nodes: vec![node], ..Observation::default() };
        observation.versions.insert("default".into(), 7);
        observation.certificates.insert(("default".into(), "node".into(), "edge-1".into()), 60.5);
        observation.meters.applied("default", ApplyResult::Refused);
        let page = render(observation, Format::OpenMetrics);
        let wrong = marchproxy_metrics::check(DICTIONARY, &page, true);
        assert!(wrong.is_empty(), "{wrong:#?}");
        for line in [
            "marchproxy_control_ready 1",
            "marchproxy_control_version{cluster=\"default\"} 7",
            "marchproxy_control_applies_total{cluster=\"default\",result=\"refused\"} 1",
            "marchproxy_control_node_behind{cluster=\"default\",node=\"edge-1\"} 1",
            "marchproxy_control_certificate_remaining_seconds{cluster=\"default\",role=\"node\",name=\"edge-1\"} 60.5",
        ] {
            assert!(page.lines().any(|found| found == line), "no line {line:?} in\n{page}");
        }
        let wrong = marchproxy_metrics::check(DICTIONARY, &render(Observation::default(), Format::OpenMetrics), false);
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn the_reference_says_what_the_code_says() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        marchproxy_metrics::Section { file: &file, name: "control" }.hold(&dictionary()).unwrap();
    }
}
