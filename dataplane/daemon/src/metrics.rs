//! `/metrics`: everything the node counts, as OpenMetrics text. One table names every family; the dictionary is made from it.

use std::fmt::Write as _;

use marchproxy_engine::reason::{ConsumeReason, DropReason, LookupResult, PuntReason, SessionEnd};
use marchproxy_proto::v1;

use crate::agent::{AgentState, LastGoodState};
use crate::runtime::Running;

/// What one scrape sees.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Counters of the node.
    pub stats: v1::StatsResponse,
    /// Backends and their health.
    pub backends: Vec<v1::BackendStatus>,
    /// What runs.
    pub running: Running,
    /// What the agent is at.
    pub agent: AgentState,
    /// The packet backend.
    pub backend: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Info,
}

/// Labels' values and the number.
type Sample = (Vec<String>, f64);

/// One family of metrics.
struct Family {
    /// Without prefix and without `_total`.
    name: &'static str,
    kind: Kind,
    help: &'static str,
    labels: &'static [&'static str],
    samples: fn(&Observation) -> Vec<Sample>,
}

const fn family(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&Observation) -> Vec<Sample>,
) -> Family {
    Family { name, kind, help, labels, samples }
}

const PORT: &[&str] = &["port", "device"];
const PORT_TIER: &[&str] = &["port", "device", "tier"];
const TIER: &[&str] = &["tier", "direction"];
const WORKER: &[&str] = &["worker", "core"];
const STAGE: &[&str] = &["worker", "core", "stage"];
const NAT_POOL: &[&str] = &["address", "protocol"];
const OBJECT: &[&str] = &["kind", "name"];
const BACKEND: &[&str] = &["service", "backend"];

const FAMILIES: &[Family] = &[
    family("build", Kind::Info, &["version", "backend"], "Release and packet backend.", |o| {
        vec![(vec![env!("CARGO_PKG_VERSION").into(), o.backend.into()], 1.0)]
    }),
    family("uptime_seconds", Kind::Gauge, &[], "Since the daemon started.", |o| one(o.stats.uptime_ms as f64 / 1000.0)),
    family("ready", Kind::Gauge, &[], "1 when the node has tables and every worker runs the newest generation.", |o| {
        one(flag(is_ready(&o.running)))
    }),
    family("generation", Kind::Gauge, &[], "The node's own publish counter.", |o| one(o.running.generation as f64)),
    family("tables_version", Kind::Gauge, &[], "Control's number of the tables that run; 0 before the first.", |o| {
        one(o.running.version as f64)
    }),
    family("control_connected", Kind::Gauge, &[], "1 while the stream to control is up.", |o| {
        one(flag(o.agent.connected))
    }),
    family("control_connections", Kind::Counter, &[], "Streams to control opened since the start.", |o| {
        one(o.agent.connections as f64)
    }),
    family("pushes", Kind::Counter, &["result"], "Pushes by result: accepted or refused.", |o| {
        vec![(vec!["accepted".into()], o.agent.accepted as f64), (vec!["refused".into()], o.agent.refused as f64)]
    }),
    family(
        "last_good_refused",
        Kind::Gauge,
        &[],
        "1 when the last good tables on disk were refused at the start.",
        |o| one(flag(matches!(o.agent.last_good, LastGoodState::Refused { .. }))),
    ),
    family("last_good_unsaved", Kind::Gauge, &[], "1 when the running tables could not be written to disk.", |o| {
        one(flag(!o.agent.save_error.is_empty()))
    }),
    family("port_up", Kind::Gauge, PORT, "1 while the link is up.", |o| ports(o, |p| flag(p.link_up))),
    family("port_receive_packets", Kind::Counter, PORT, "Frames received.", |o| ports(o, |p| p.rx_packets as f64)),
    family("port_receive_bytes", Kind::Counter, PORT, "Octets of frames received.", |o| {
        ports(o, |p| p.rx_bytes as f64)
    }),
    family("port_transmit_packets", Kind::Counter, PORT, "Frames the driver accepted.", |o| {
        ports(o, |p| p.tx_packets as f64)
    }),
    family("port_transmit_bytes", Kind::Counter, PORT, "Octets of frames the driver accepted.", |o| {
        ports(o, |p| p.tx_bytes as f64)
    }),
    family("port_tier", Kind::Info, PORT_TIER, "The way the port's packets come.", |o| {
        o.stats.ports.iter().map(|p| (vec![p.name.clone(), p.device.clone(), p.tier.clone()], 1.0)).collect()
    }),
    family(
        "tier_packets",
        Kind::Counter,
        TIER,
        "Frames by the way they came or went, over the ports there are.",
        |o| tiers(o, |p| [p.rx_packets, p.tx_packets]),
    ),
    family("tier_bytes", Kind::Counter, TIER, "Octets of frames by the way they came or went.", |o| {
        tiers(o, |p| [p.rx_bytes, p.tx_bytes])
    }),
    family("port_device_receive_missed", Kind::Counter, PORT, "Frames the device dropped before we saw them.", |o| {
        ports(o, |p| p.device_rx_missed as f64)
    }),
    family("port_device_receive_errors", Kind::Counter, PORT, "Frames the device found broken.", |o| {
        ports(o, |p| p.device_rx_errors as f64)
    }),
    family("port_device_transmit_errors", Kind::Counter, PORT, "Frames the device accepted and failed to send.", |o| {
        ports(o, |p| p.device_tx_errors as f64)
    }),
    family("worker_generation", Kind::Gauge, WORKER, "The generation the worker runs.", |o| {
        workers(o, |w| w.generation as f64)
    }),
    family(
        "worker_busy_ratio",
        Kind::Gauge,
        WORKER,
        "Cycles of turns with packets over all cycles, the last second or two.",
        |o| workers(o, |w| w.busy_ratio),
    ),
    family("worker_sessions", Kind::Gauge, WORKER, "Live sessions.", |o| workers(o, |w| w.sessions as f64)),
    family("worker_sessions_created", Kind::Counter, WORKER, "Sessions created since the start.", |o| {
        workers(o, |w| w.sessions_created as f64)
    }),
    family(
        "worker_handed_off_packets",
        Kind::Counter,
        WORKER,
        "Packets passed to the worker that owns their session, or their fragments.",
        |o| workers(o, |w| w.handed_off as f64),
    ),
    family("worker_rule_samples", Kind::Counter, WORKER, "Packets recorded because a rule has a log_sample.", |o| {
        workers(o, |w| w.samples as f64)
    }),
    family(
        "worker_rule_samples_lost",
        Kind::Counter,
        WORKER,
        "Packets that a log_sample asked for and that were too many to record.",
        |o| workers(o, |w| w.samples_lost as f64),
    ),
    family(
        "worker_fragmented_packets",
        Kind::Gauge,
        WORKER,
        "Packets of which fragments came and others may still come; 4,096 are known at most.",
        |o| workers(o, |w| w.fragmented as f64),
    ),
    family(
        "worker_fragments_held",
        Kind::Gauge,
        WORKER,
        "Fragments that wait for the first of their packet; 512 may.",
        |o| workers(o, |w| w.fragments_held as f64),
    ),
    family(
        "worker_fragments_released",
        Kind::Counter,
        WORKER,
        "Fragments that waited for the first of their packet and went on.",
        |o| workers(o, |w| w.fragments_released as f64),
    ),
    family("nat_ports_in_use", Kind::Gauge, NAT_POOL, "Ports of a source pool's address that sessions have.", |o| {
        nat_pools(o, |p| p.in_use as f64)
    }),
    family("nat_ports", Kind::Gauge, NAT_POOL, "Ports of a source pool's address that sessions may have.", |o| {
        nat_pools(o, |p| p.capacity as f64)
    }),
    family("nat_ports_short", Kind::Gauge, NAT_POOL, "1 when 80 % or more of the ports are in use.", |o| {
        nat_pools(o, |p| flag(p.in_use * 100 >= p.capacity * 80))
    }),
    family("stage_calls", Kind::Counter, STAGE, "Bursts a stage handled.", |o| stages(o, |s| s.calls as f64)),
    family("stage_packets", Kind::Counter, STAGE, "Packets in those bursts.", |o| stages(o, |s| s.packets as f64)),
    family("stage_cycles_per_packet", Kind::Gauge, STAGE, "Sampled cost of a stage.", |o| {
        stages(o, |s| s.cycles_per_packet)
    }),
    family(
        "dropped_packets",
        Kind::Counter,
        &["reason", "class"],
        "Packets dropped, by the one reason each has.",
        drops,
    ),
    family("punted_packets", Kind::Counter, &["reason"], "Packets passed to the slow path.", |o| {
        let all = PuntReason::ALL.iter().map(|reason| reason.label());
        reasons(all, &o.stats.punts)
    }),
    family("consumed_packets", Kind::Counter, &["reason"], "Packets meant for the node itself.", |o| {
        let all = ConsumeReason::ALL.iter().map(|reason| reason.label());
        reasons(all, &o.stats.consumed)
    }),
    family("session_lookups", Kind::Counter, &["result"], "Packets by what the look-up of their session found.", |o| {
        let all = LookupResult::ALL.iter().map(|result| result.label());
        reasons(all, &o.stats.session_lookups)
    }),
    family("sessions_ended", Kind::Counter, &["why"], "Sessions ended, evicted ones by what they were.", |o| {
        let all = SessionEnd::ALL.iter().map(|end| end.label());
        reasons(all, &o.stats.sessions_ended)
    }),
    family(
        "session_sources_untracked",
        Kind::Counter,
        &[],
        "New sessions whose source had no place of its own for its limits: only its service's held.",
        |o| one(o.stats.sources_untracked as f64),
    ),
    family(
        "icmp_errors_translated_packets",
        Kind::Counter,
        &[],
        "ICMP errors about packets of sessions, translated and sent on.",
        |o| one(o.stats.icmp_errors_translated as f64),
    ),
    family(
        "icmp_errors_limited_packets",
        Kind::Counter,
        &[],
        "ICMP errors not sent because of their rate limit.",
        |o| one(o.stats.icmp_errors_limited as f64),
    ),
    family(
        "conservation_packets",
        Kind::Gauge,
        &["term"],
        "Terms of rx + originated = tx + drops + consumed + held.",
        |o| {
            let c = o.stats.conservation.unwrap_or_default();
            [
                ("rx", c.rx),
                ("originated", c.originated),
                ("tx", c.tx),
                ("drops", c.drops),
                ("consumed", c.consumed),
                ("held", c.held),
            ]
            .map(|(term, value)| (vec![term.to_owned()], value as f64))
            .to_vec()
        },
    ),
    family(
        "conservation_residue_packets",
        Kind::Gauge,
        &[],
        "Left minus right side of the law; anything but 0 is a bug.",
        |o| one(o.stats.conservation.unwrap_or_default().residue as f64),
    ),
    family("object_packets", Kind::Counter, OBJECT, "Packets a rule, service, backend or policer matched.", |o| {
        objects(o, |c| c.packets)
    }),
    family("object_bytes", Kind::Counter, OBJECT, "Octets of L3 in those packets.", |o| objects(o, |c| c.bytes)),
    family("object_dropped_packets", Kind::Counter, OBJECT, "Packets the object dropped.", |o| {
        objects(o, |c| c.dropped)
    }),
    family("backend_takes_sessions", Kind::Gauge, BACKEND, "1 while the backend gets new sessions.", |o| {
        let sample = |b: &v1::BackendStatus| (vec![b.service.clone(), b.name.clone()], flag(b.takes_sessions));
        o.backends.iter().map(sample).collect()
    }),
    family(
        "backend_health",
        Kind::Gauge,
        &["service", "backend", "state"],
        "1 for the state a checked backend is in: unknown, up, down, or held down after flapping.",
        |o| {
            let all = checked(o).flat_map(|(names, health)| {
                let sample =
                    move |state: &str| ([names.clone(), vec![state.into()]].concat(), flag(health.state == state));
                ["unknown", "up", "down", "held"].map(sample)
            });
            all.collect()
        },
    ),
    family("backend_health_seconds", Kind::Gauge, BACKEND, "How long the backend has been in its state.", |o| {
        checked(o).map(|(names, health)| (names, health.since_s)).collect()
    }),
    family(
        "backend_last_check",
        Kind::Info,
        &["service", "backend", "kind", "result", "status"],
        "What the last check found: ok, or why not; the status where HTTP answered with another than expected.",
        |o| {
            let sample = |(names, health): (Vec<String>, &v1::BackendHealth)| {
                let status = if health.last_status == 0 { String::new() } else { health.last_status.to_string() };
                ([names, vec![health.kind.clone(), health.last_result.clone(), status]].concat(), 1.0)
            };
            checked(o).filter(|(_, health)| !health.last_result.is_empty()).map(sample).collect()
        },
    ),
    family("backend_check_rtt_seconds", Kind::Gauge, BACKEND, "What the last good check took.", |o| {
        checked(o).filter_map(|(names, health)| Some((names, health.rtt_s?))).collect()
    }),
    family("backend_checks", Kind::Counter, BACKEND, "Health checks that ended.", |o| {
        checked(o).map(|(names, health)| (names, health.checks as f64)).collect()
    }),
    family("backend_check_failures", Kind::Counter, BACKEND, "Health checks that failed.", |o| {
        checked(o).map(|(names, health)| (names, health.failures as f64)).collect()
    }),
    family("backend_flaps", Kind::Gauge, BACKEND, "Times in a row that it fell soon after it had come back.", |o| {
        checked(o).map(|(names, health)| (names, f64::from(health.flaps))).collect()
    }),
    family(
        "backend_panic",
        Kind::Gauge,
        BACKEND,
        "1 while too few backends of the service and family are healthy, so that all are used.",
        |o| checked(o).map(|(names, health)| (names, flag(health.panic))).collect(),
    ),
];

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Tables are there, and every worker runs the newest generation.
pub fn is_ready(running: &Running) -> bool {
    running.version > 0 && running.settled
}

/// OpenMetrics text.
pub fn render(observation: &Observation) -> String {
    let mut text = String::with_capacity(16 << 10);
    for family in FAMILIES {
        let (name, kind) = (family.name, family.kind);
        let (word, suffix) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
            Kind::Info => ("info", "_info"),
        };
        let _ = writeln!(text, "# TYPE marchproxy_{name} {word}\n# HELP marchproxy_{name} {}", family.help);
        for (values, number) in (family.samples)(observation) {
            let _ = write!(text, "marchproxy_{name}{suffix}");
            for (position, (label, value)) in family.labels.iter().zip(&values).enumerate() {
                let _ = write!(text, "{}{label}=\"{}\"", if position == 0 { '{' } else { ',' }, escape(value));
            }
            let _ = writeln!(text, "{} {number}", if family.labels.is_empty() { "" } else { "}" });
        }
    }
    text.push_str("# EOF\n");
    text
}

/// The dictionary of all metrics, as a Markdown table.
pub fn dictionary() -> String {
    let mut text = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for Family { name, kind, help, labels, .. } in FAMILIES {
        let (word, suffix) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
            Kind::Info => ("info", "_info"),
        };
        let _ = writeln!(text, "| `marchproxy_{name}{suffix}` | {word} | {} | {help} |", labels.join(", "));
    }
    text
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn one(value: f64) -> Vec<Sample> {
    vec![(Vec::new(), value)]
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// Received and transmitted, summed over the ports of each tier.
fn tiers(o: &Observation, value: impl Fn(&v1::PortStats) -> [u64; 2]) -> Vec<Sample> {
    let mut sums: std::collections::BTreeMap<&str, [u64; 2]> = std::collections::BTreeMap::new();
    for port in &o.stats.ports {
        let [rx, tx] = value(port);
        let sum = sums.entry(&port.tier).or_default();
        *sum = [sum[0] + rx, sum[1] + tx];
    }
    let both = |(tier, [rx, tx]): (&str, [u64; 2])| {
        [("receive", rx), ("transmit", tx)].map(|(way, count)| (vec![tier.to_owned(), way.into()], count as f64))
    };
    sums.into_iter().flat_map(both).collect()
}

fn ports(o: &Observation, value: impl Fn(&v1::PortStats) -> f64) -> Vec<Sample> {
    o.stats.ports.iter().map(|port| (vec![port.name.clone(), port.device.clone()], value(port))).collect()
}

fn worker(stats: &v1::WorkerStats) -> Vec<String> {
    vec![stats.worker.to_string(), stats.core.to_string()]
}

fn workers(o: &Observation, value: impl Fn(&v1::WorkerStats) -> f64) -> Vec<Sample> {
    o.stats.workers.iter().map(|stats| (worker(stats), value(stats))).collect()
}

fn nat_pools(o: &Observation, value: impl Fn(&v1::NatPool) -> f64) -> Vec<Sample> {
    o.stats.nat_pools.iter().map(|pool| (vec![pool.address.clone(), pool.protocol.clone()], value(pool))).collect()
}

fn stages(o: &Observation, value: impl Fn(&v1::StageStats) -> f64) -> Vec<Sample> {
    let each = |stats: &v1::WorkerStats| {
        let labels = worker(stats);
        let sample = |stage: &v1::StageStats| ([labels.clone(), vec![stage.name.clone()]].concat(), value(stage));
        stats.stages.iter().map(sample).collect::<Vec<_>>()
    };
    o.stats.workers.iter().flat_map(each).collect()
}

fn count(counts: &[v1::ReasonCount], reason: &str) -> f64 {
    counts.iter().find(|count| count.reason == reason).map_or(0.0, |count| count.packets as f64)
}

/// Every reason, also those that never happened: a rate needs its zero.
fn reasons<'a>(all: impl Iterator<Item = &'a str>, counts: &[v1::ReasonCount]) -> Vec<Sample> {
    all.map(|reason| (vec![reason.to_owned()], count(counts, reason))).collect()
}

fn drops(o: &Observation) -> Vec<Sample> {
    let sample = |reason: &DropReason| {
        let labels = vec![reason.label().to_owned(), reason.class().label().to_owned()];
        (labels, count(&o.stats.drops, reason.label()))
    };
    DropReason::ALL.iter().map(sample).collect()
}

/// The backends that are checked, with their labels.
fn checked(o: &Observation) -> impl Iterator<Item = (Vec<String>, &v1::BackendHealth)> {
    o.backends.iter().filter_map(|b| Some((vec![b.service.clone(), b.name.clone()], b.health.as_ref()?)))
}

fn objects(o: &Observation, value: impl Fn(&v1::ObjectCount) -> u64) -> Vec<Sample> {
    let sample = |object: &v1::ObjectCount| (vec![object.kind.clone(), object.name.clone()], value(object) as f64);
    o.stats.objects.iter().map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observation() -> Observation {
        let port = v1::PortStats {
            name: "wan".into(),
            device: "vdev:net_null0,a=\"b\"".into(),
            rx_packets: 5,
            tier: "dpdk".into(),
            ..Default::default()
        };
        let stage = v1::StageStats { name: "parse".into(), calls: 2, packets: 5, cycles_per_packet: 12.5 };
        let worker = v1::WorkerStats { worker: 0, core: 3, generation: 2, stages: vec![stage], ..Default::default() };
        let drop = v1::ReasonCount { reason: "rule_deny".into(), packets: 4, ..Default::default() };
        let stats = v1::StatsResponse {
            ports: vec![port],
            workers: vec![worker],
            drops: vec![drop],
            conservation: Some(v1::Conservation { rx: 5, residue: -1, ..Default::default() }),
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
        let backends = vec![backend, v1::BackendStatus { takes_sessions: true, ..Default::default() }];
        Observation { stats, backends, running, agent: AgentState::default(), backend: "dpdk" }
    }

    #[test]
    fn the_text_says_what_was_counted() {
        let text = render(&observation());
        for line in [
            "# TYPE marchproxy_port_receive_packets counter",
            "marchproxy_port_receive_packets_total{port=\"wan\",device=\"vdev:net_null0,a=\\\"b\\\"\"} 5",
            "marchproxy_port_tier_info{port=\"wan\",device=\"vdev:net_null0,a=\\\"b\\\"\",tier=\"dpdk\"} 1",
            "marchproxy_tier_packets_total{tier=\"dpdk\",direction=\"receive\"} 5",
            "marchproxy_dropped_packets_total{reason=\"rule_deny\",class=\"policy\"} 4",
            "marchproxy_dropped_packets_total{reason=\"tx_queue_full\",class=\"congestion\"} 0",
            "marchproxy_stage_cycles_per_packet{worker=\"0\",core=\"3\",stage=\"parse\"} 12.5",
            "marchproxy_worker_generation{worker=\"0\",core=\"3\"} 2",
            "marchproxy_conservation_residue_packets -1",
            "marchproxy_tables_version 7",
            "marchproxy_ready 1",
            "marchproxy_backend_takes_sessions{service=\"web\",backend=\"a\"} 0",
            "marchproxy_backend_health{service=\"web\",backend=\"a\",state=\"down\"} 1",
            "marchproxy_backend_last_check_info{service=\"web\",backend=\"a\",kind=\"http\",result=\"status\",status=\"503\"} 1",
            "marchproxy_backend_check_rtt_seconds{service=\"web\",backend=\"a\"} 0.25",
            "marchproxy_backend_checks_total{service=\"web\",backend=\"a\"} 9",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert!(!text.contains("\n\n"), "OpenMetrics allows no empty line");
    }

    #[test]
    fn families_are_named_once_and_have_as_many_values_as_labels() {
        let observation = observation();
        let mut names = std::collections::BTreeSet::new();
        for family in FAMILIES {
            assert!(names.insert(family.name), "{} twice", family.name);
            assert!(family.help.ends_with('.') && !family.name.ends_with("_total"), "{}", family.name);
            for (values, _) in (family.samples)(&observation) {
                assert_eq!(values.len(), family.labels.len(), "{}", family.name);
            }
        }
        assert_eq!(dictionary().lines().count(), FAMILIES.len() + 2);
    }
}
