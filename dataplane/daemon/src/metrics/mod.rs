//! `/metrics`: everything the node counts. One table of families per area; the exporter and `docs/metrics.md` are made from them.
//!
//! A scrape reads counters that their threads write anyway. It asks no worker anything, takes no lock a worker takes, and makes its
//! text on a thread of its own.

mod flows;
mod memory;
mod node;
mod packets;
mod ports;
mod queues;
mod services;
mod sessions;
mod workers;

use marchproxy_metrics::{Class, Dictionary, Format, Sample};
use marchproxy_proto::v1;

pub use memory::{ByNode, MemoryFacts};

use crate::agent::{AgentState, SharedState, Timings};
use crate::pulse::{Beat, Pulse};
use crate::runtime::{Running, Runtime};

/// What one scrape sees.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Counters of the node.
    pub stats: v1::StatsResponse,
    /// Queues of shaped ports.
    pub qos: v1::QosResponse,
    /// Backends and their health.
    pub backends: Vec<v1::BackendStatus>,
    /// What runs.
    pub running: Running,
    /// What the agent is at.
    pub agent: AgentState,
    /// How long pushes took.
    pub timings: Timings,
    /// When each packet thread was last seen alive.
    pub beats: Vec<Beat>,
    /// Memory of the process and the machine.
    pub memory: MemoryFacts,
    /// The packet backend.
    pub backend: &'static str,
    /// Rules have series of their own.
    pub rules: bool,
}

impl Observation {
    /// Looks. May block for some milliseconds.
    pub fn of(runtime: &dyn Runtime, agent: &SharedState, pulse: &Pulse, rules: bool) -> Self {
        Self {
            stats: runtime.stats(),
            qos: runtime.qos(&v1::QosRequest::default()),
            // A slow path that does not answer has no backends to show.
            backends: runtime.backends(&v1::BackendsRequest::default()).unwrap_or_default().backends,
            running: runtime.running(),
            agent: agent.read(),
            timings: agent.timings(),
            beats: pulse.look(runtime),
            memory: MemoryFacts::read(),
            backend: runtime.backend(),
            rules,
        }
    }
}

/// Every family, by area. A new metric is a line in one of these tables, and nothing else.
pub const DICTIONARY: Dictionary<Observation> = &[
    node::FAMILIES,
    memory::FAMILIES,
    ports::FAMILIES,
    queues::FAMILIES,
    workers::FAMILIES,
    packets::FAMILIES,
    sessions::FAMILIES,
    flows::FAMILIES,
    services::FAMILIES,
];

/// Objects of a kind that have series; `marchproxy_metrics_left_out` counts the others.
pub const MOST_OBJECTS: usize = 20_000;

const NODE: &Class = &Class { name: "node", bound: "1" };
const PORT: &Class = &Class { name: "port", bound: "64" };
const WORKER: &Class = &Class { name: "worker", bound: "cores of the node" };
const REASON: &Class = &Class { name: "reason", bound: "as many as BEHAVIOUR.md has: fixed in the code" };

/// The text of one scrape.
pub fn render(observation: Observation, format: Format) -> String {
    marchproxy_metrics::render(DICTIONARY, observation, format)
}

/// The dictionary of all metrics, as Markdown.
pub fn dictionary() -> String {
    marchproxy_metrics::dictionary(DICTIONARY)
}

/// Packets under each of `all` reasons, also those that never happened: a rate needs its zero.
fn reasons<'a>(all: impl Iterator<Item = &'a str>, counts: &[v1::ReasonCount]) -> Vec<Sample> {
    all.map(|reason| marchproxy_metrics::sample(vec![reason.to_owned()], count(counts, reason))).collect()
}

fn count(counts: &[v1::ReasonCount], reason: &str) -> u64 {
    counts.iter().find(|count| count.reason == reason).map_or(0, |count| count.packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something of everything.
    fn observation() -> Observation {
        let port = v1::PortStats {
            name: "wan".into(),
            device: "vdev:net_null0,a=\"b\"".into(),
            rx_packets: 5,
            link_up: true,
            tier: "dpdk".into(),
            queues: vec![v1::QueueStats { worker: 0, rx_packets: 5, ..Default::default() }],
            ..Default::default()
        };
        let stage = v1::StageStats { name: "parse".into(), calls: 2, packets: 5, ..Default::default() };
        let worker = v1::WorkerStats { worker: 0, core: 3, generation: 2, stages: vec![stage], ..Default::default() };
        let drop = v1::ReasonCount { reason: "rule_deny".into(), packets: 4, ..Default::default() };
        let object = |kind: &str, name: &str| v1::ObjectCount {
            kind: kind.into(),
            name: name.into(),
            packets: 3,
            ..Default::default()
        };
        let stats = v1::StatsResponse {
            ports: vec![port],
            workers: vec![worker],
            drops: vec![drop],
            conservation: Some(v1::Conservation { rx: 5, residue: -1, ..Default::default() }),
            objects: vec![
                object("rule", "r"),
                object("service", "web"),
                object("backend", "web/a"),
                object("policer", "p"),
            ],
            nat_pools: vec![v1::NatPool {
                address: "192.0.2.9".into(),
                protocol: "tcp".into(),
                in_use: 8,
                capacity: 10,
            }],
            flows: Some(v1::FlowStats { sessions_selected: 6, unsent_records: 2, ..Default::default() }),
            ..Default::default()
        };
        let running = Running { version: 7, generation: 2, settled: true, ..Default::default() };
        let health = v1::BackendHealth {
            state: "down".into(),
            kind: "http".into(),
            last_result: "status".into(),
            last_status: 503,
            rtt_s: Some(0.25),
            checks: 9,
            ..Default::default()
        };
        let backend =
            v1::BackendStatus { service: "web".into(), name: "a".into(), health: Some(health), ..Default::default() };
        let memory = MemoryFacts { resident: Some(4096), nodes: vec![(0, 4096)], hugepages: vec![(0, 2 << 20, 4, 1)] };
        let beats = vec![Beat { thread: "worker 0".into(), age: std::time::Duration::from_millis(1500) }];
        let queue = v1::Queue {
            service: "web".into(),
            class: "P1".into(),
            waiting_packets: 2,
            sent_packets: 3,
            waits: vec![1, 2],
            waited_s: 0.5,
            dropped_aqm: 4,
            ..Default::default()
        };
        let shaped = v1::ShapedPort { port: "wan".into(), rate_kbps: 1000, queues: vec![queue], ..Default::default() };
        let qos = v1::QosResponse { ports: vec![shaped], wait_bounds_s: vec![0.001] };
        let backends = vec![backend, v1::BackendStatus { takes_sessions: true, ..Default::default() }];
        Observation { stats, qos, backends, running, beats, memory, backend: "dpdk", rules: true, ..Default::default() }
    }

    #[test]
    fn the_text_says_what_was_counted() {
        let text = render(observation(), Format::OpenMetrics);
        for line in [
            "# TYPE marchproxy_port_receive_packets counter",
            "marchproxy_port_receive_packets_total{port=\"wan\",device=\"vdev:net_null0,a=\\\"b\\\"\"} 5",
            "marchproxy_queue_receive_packets_total{port=\"wan\",worker=\"0\"} 5",
            "marchproxy_dropped_packets_total{reason=\"rule_deny\",class=\"policy\"} 4",
            "marchproxy_dropped_packets_total{reason=\"tx_queue_full\",class=\"congestion\"} 0",
            "marchproxy_worker_generation{worker=\"0\",core=\"3\"} 2",
            "marchproxy_thread_heartbeat_age_seconds{thread=\"worker 0\"} 1.5",
            "marchproxy_conservation_residue_packets -1",
            "marchproxy_tables_version 7",
            "marchproxy_ready 1",
            "marchproxy_rule_packets_total{rule=\"r\"} 3",
            "marchproxy_backend_packets_total{service=\"web\",backend=\"a\"} 3",
            "marchproxy_backend_takes_sessions{service=\"web\",backend=\"a\"} 0",
            "marchproxy_backend_health{service=\"web\",backend=\"a\",state=\"down\"} 1",
            "marchproxy_backend_last_check_info{service=\"web\",backend=\"a\",kind=\"http\",result=\"status\",status=\"503\"} 1",
            "marchproxy_backend_check_rtt_seconds{service=\"web\",backend=\"a\"} 0.25",
            "marchproxy_backend_checks_total{service=\"web\",backend=\"a\"} 9",
            "marchproxy_shaped_port_rate_bits_per_second{port=\"wan\"} 1000000",
            "marchproxy_qos_waiting_packets{port=\"wan\",service=\"web\",class=\"P1\"} 2",
            "marchproxy_qos_dropped_packets_total{port=\"wan\",service=\"web\",class=\"P1\",cause=\"aqm\"} 4",
            "marchproxy_qos_wait_seconds_bucket{le=\"0.001\",port=\"wan\",service=\"web\",class=\"P1\"} 1",
            "marchproxy_qos_wait_seconds_bucket{le=\"+Inf\",port=\"wan\",service=\"web\",class=\"P1\"} 3",
            "marchproxy_qos_wait_seconds_sum{port=\"wan\",service=\"web\",class=\"P1\"} 0.5",
            "marchproxy_flow_sessions_total{selected=\"yes\"} 6",
            "marchproxy_flow_export_records_total{result=\"unsent\"} 2",
            "marchproxy_nat_ports_in_use{address=\"192.0.2.9\",protocol=\"tcp\"} 8",
            "marchproxy_hugepages_free{numa_node=\"0\",size_bytes=\"2097152\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
        }
    }

    #[test]
    fn every_family_of_the_dictionary_is_exported_as_it_says() {
        let page = render(observation(), Format::OpenMetrics);
        let wrong = marchproxy_metrics::check(DICTIONARY, &page, true);
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn a_node_without_anything_exports_what_is_always_there() {
        let page = render(Observation::default(), Format::OpenMetrics);
        let silent: Vec<_> = marchproxy_metrics::check(DICTIONARY, &page, false);
        assert!(silent.is_empty(), "{silent:#?}");
        assert!(!page.contains("rule_packets_total{"));
    }

    #[test]
    fn the_reference_says_what_the_code_says() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        marchproxy_metrics::Section { file: &file, name: "dataplane" }.hold(&dictionary()).unwrap();
    }

    /// What a scrape of very many services costs: `cargo test --release -p marchproxy-dataplane --lib ten_thousand -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn ten_thousand_services_are_written_within_a_second() {
        let object = |kind: &str, name: String| v1::ObjectCount { kind: kind.into(), name, ..Default::default() };
        let mut observation = observation();
        for number in 0..10_000 {
            observation.stats.objects.push(object("service", format!("service-{number}")));
            for backend in ["a", "b"] {
                observation.stats.objects.push(object("backend", format!("service-{number}/{backend}")));
                let health = v1::BackendHealth {
                    state: "up".into(),
                    last_result: "ok".into(),
                    rtt_s: Some(0.1),
                    ..Default::default()
                };
                observation.backends.push(v1::BackendStatus {
                    service: format!("service-{number}"),
                    name: backend.into(),
                    health: Some(health),
                    ..Default::default()
                });
            }
        }
        let start = std::time::Instant::now();
        let page = render(observation, Format::OpenMetrics);
        println!(
            "{} series, {} octets in {} ms",
            page.lines().filter(|l| !l.starts_with('#')).count(),
            page.len(),
            start.elapsed().as_millis()
        );
        assert!(start.elapsed() < std::time::Duration::from_secs(1));
    }
}
