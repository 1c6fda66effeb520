//! Named objects: services, backends and their health, policers, and rules where they are asked for.

use std::collections::HashMap;

use marchproxy_engine::snapshot::ObjectKind;
use marchproxy_engine::table::policer::Colour;
use marchproxy_metrics::{Class, Family, Kind, Sample, Value, family, one, sample};
use marchproxy_proto::v1;

use super::{MOST_OBJECTS, NODE, Observation};

const SERVICE: &Class = &Class { name: "service", bound: "20,000" };
const BACKEND: &Class = &Class { name: "backend of a service", bound: "20,000" };
const STATE: &Class = &Class { name: "backend of a service and state", bound: "80,000" };
const POLICER: &Class = &Class { name: "policer", bound: "20,000" };
const COLOUR: &Class = &Class { name: "policer and colour", bound: "60,000" };
const RULE: &Class = &Class { name: "rule", bound: "0, or 20,000 with `metrics_rules = true`" };
const BACKEND_NAMES: &[&str] = &["service", "backend"];

const SERVICES: &str = "with services";
const CHECKED: &str = "for backends that are checked";
const POLICERS: &str = "with policers";
const RULES: &str = "with `metrics_rules = true` in dataplane.toml";

/// Kinds of objects that are counted.
pub(super) const KINDS: [&str; 4] = ["service", "backend", "policer", "rule"];

pub(super) const FAMILIES: &[Family<Observation>] = &[
    family(
        "service_packets",
        Kind::Counter,
        "packets",
        SERVICE,
        &["service"],
        "Packets of the service's sessions towards backends.",
        |o| objects(o, "service", |c| c.packets),
    )
    .when(SERVICES),
    family("service_bytes", Kind::Counter, "bytes", SERVICE, &["service"], "Octets of L3 in those packets.", |o| {
        objects(o, "service", |c| c.bytes)
    })
    .when(SERVICES),
    family(
        "service_dropped_packets",
        Kind::Counter,
        "packets",
        SERVICE,
        &["service"],
        "Packets the service dropped: no backend, limits.",
        |o| objects(o, "service", |c| c.dropped),
    )
    .when(SERVICES),
    family("backend_packets", Kind::Counter, "packets", BACKEND, BACKEND_NAMES, "Packets given to the backend.", |o| {
        objects(o, "backend", |c| c.packets)
    })
    .when(SERVICES),
    family("backend_bytes", Kind::Counter, "bytes", BACKEND, BACKEND_NAMES, "Octets of L3 in those packets.", |o| {
        objects(o, "backend", |c| c.bytes)
    })
    .when(SERVICES),
    family(
        "backend_takes_sessions",
        Kind::Gauge,
        "",
        BACKEND,
        BACKEND_NAMES,
        "1 while the backend gets new sessions.",
        |o| backends(o).map(|b| sample(names(b), b.takes_sessions)).collect(),
    )
    .when(SERVICES),
    family(
        "backend_health",
        Kind::Gauge,
        "",
        STATE,
        &["service", "backend", "state"],
        "1 for the state a checked backend is in: unknown, up, down, or held down after flapping.",
        |o| {
            let all = checked(o).flat_map(|(names, health)| {
                let one =
                    move |state: &str| sample([names.clone(), vec![state.into()]].concat(), health.state == state);
                ["unknown", "up", "down", "held"].map(one)
            });
            all.collect()
        },
    )
    .when(CHECKED),
    family(
        "backend_health_seconds",
        Kind::Gauge,
        "seconds",
        BACKEND,
        BACKEND_NAMES,
        "How long the backend has been in its state.",
        |o| health(o, |h| h.since_s),
    )
    .when(CHECKED),
    family(
        "backend_last_check",
        Kind::Info,
        "",
        BACKEND,
        &["service", "backend", "kind", "result", "status"],
        "What the last check found: ok, or why not; the status where HTTP answered with another than expected.",
        last_check,
    )
    .when("for backends that were checked"),
    family(
        "backend_check_rtt_seconds",
        Kind::Gauge,
        "seconds",
        BACKEND,
        BACKEND_NAMES,
        "What the last good check took.",
        |o| checked(o).filter_map(|(names, health)| Some(sample(names, health.rtt_s?))).collect(),
    )
    .when("for backends that were once found well"),
    family("backend_checks", Kind::Counter, "", BACKEND, BACKEND_NAMES, "Health checks that ended.", |o| {
        health(o, |h| h.checks)
    })
    .when(CHECKED),
    family("backend_check_failures", Kind::Counter, "", BACKEND, BACKEND_NAMES, "Health checks that failed.", |o| {
        health(o, |h| h.failures)
    })
    .when(CHECKED),
    family(
        "backend_flaps",
        Kind::Gauge,
        "",
        BACKEND,
        BACKEND_NAMES,
        "Times in a row that it fell soon after it had come back.",
        |o| health(o, |h| h.flaps),
    )
    .when(CHECKED),
    family(
        "backend_panic",
        Kind::Gauge,
        "",
        BACKEND,
        BACKEND_NAMES,
        "1 while too few backends of the service and family are healthy, so that all are used.",
        |o| health(o, |h| h.panic),
    )
    .when(CHECKED),
    family(
        "policer_packets",
        Kind::Counter,
        "packets",
        COLOUR,
        &["policer", "colour"],
        "Packets of each colour by policer.",
        |o| colours(o, |c| c.packets),
    )
    .when(POLICERS),
    family(
        "policer_bytes",
        Kind::Counter,
        "bytes",
        COLOUR,
        &["policer", "colour"],
        "Octets of L3 in those packets.",
        |o| colours(o, |c| c.bytes),
    )
    .when(POLICERS),
    family(
        "policer_sources_placeless_packets",
        Kind::Counter,
        "packets",
        NODE,
        &[],
        "Packets of sources that had no place for buckets of their own: they share their policer's.",
        |o| one(o.stats.policer_sources_placeless),
    ),
    family(
        "policer_dropped_packets",
        Kind::Counter,
        "packets",
        POLICER,
        &["policer"],
        "Packets the policer dropped.",
        |o| objects(o, "policer", |c| c.dropped),
    )
    .when(POLICERS),
    family("rule_packets", Kind::Counter, "packets", RULE, &["rule"], "Packets the rule matched.", |o| {
        rules(o, |c| c.packets)
    })
    .when(RULES),
    family("rule_bytes", Kind::Counter, "bytes", RULE, &["rule"], "Octets of L3 in those packets.", |o| {
        rules(o, |c| c.bytes)
    })
    .when(RULES),
    family("rule_dropped_packets", Kind::Counter, "packets", RULE, &["rule"], "Packets the rule denied.", |o| {
        rules(o, |c| c.dropped)
    })
    .when(RULES),
];

/// Objects of a kind without series.
pub(super) fn left_out(o: &Observation, kind: &str) -> u64 {
    let all = o.stats.objects.iter().filter(|object| object.kind == kind).count();
    let shown = if kind == "rule" && !o.rules { 0 } else { MOST_OBJECTS };
    all.saturating_sub(shown) as u64
}

fn objects(o: &Observation, kind: &str, value: impl Fn(&v1::ObjectCount) -> u64) -> Vec<Sample> {
    let shown = o.stats.objects.iter().filter(|object| object.kind == kind).take(MOST_OBJECTS);
    // SERVICE/BACKEND: two labels, so that queries can sum over one of them.
    let labels = |name: &str| match name.split_once('/') {
        Some((service, backend)) if kind == "backend" => vec![service.to_owned(), backend.to_owned()],
        _ => vec![name.to_owned()],
    };
    shown.map(|object| sample(labels(&object.name), value(object))).collect()
}

/// By policer and colour; green is what is left.
fn colours(o: &Observation, value: impl Fn(&v1::ObjectCount) -> u64) -> Vec<Sample> {
    let of_kind = |kind: &'static str| o.stats.objects.iter().filter(move |object| object.kind == kind);
    let worse: HashMap<&str, u64> =
        of_kind(ObjectKind::Colour.label()).map(|object| (object.name.as_str(), value(object))).collect();
    let by_colour = |policer: &v1::ObjectCount| {
        let of = |colour: Colour| worse.get(format!("{}/{}", policer.name, colour.label()).as_str()).copied();
        let [yellow, red] = [Colour::Yellow, Colour::Red].map(|colour| of(colour).unwrap_or_default());
        let all = [value(policer).saturating_sub(yellow + red), yellow, red];
        let one = |(colour, value): (Colour, u64)| sample(vec![policer.name.clone(), colour.label().to_owned()], value);
        Colour::ALL.into_iter().zip(all).map(one).collect::<Vec<_>>()
    };
    of_kind(ObjectKind::Policer.label()).take(MOST_OBJECTS).flat_map(by_colour).collect()
}

fn rules(o: &Observation, value: impl Fn(&v1::ObjectCount) -> u64) -> Vec<Sample> {
    if o.rules { objects(o, "rule", value) } else { Vec::new() }
}

fn backends(o: &Observation) -> impl Iterator<Item = &v1::BackendStatus> {
    o.backends.iter().take(MOST_OBJECTS)
}

fn names(backend: &v1::BackendStatus) -> Vec<String> {
    vec![backend.service.clone(), backend.name.clone()]
}

/// The backends that are checked, with their labels.
fn checked(o: &Observation) -> impl Iterator<Item = (Vec<String>, &v1::BackendHealth)> {
    backends(o).filter_map(|b| Some((names(b), b.health.as_ref()?)))
}

fn health<V: Into<Value>>(o: &Observation, value: impl Fn(&v1::BackendHealth) -> V) -> Vec<Sample> {
    checked(o).map(|(names, health)| sample(names, value(health))).collect()
}

fn last_check(o: &Observation) -> Vec<Sample> {
    let one = |(names, health): (Vec<String>, &v1::BackendHealth)| {
        let status = if health.last_status == 0 { String::new() } else { health.last_status.to_string() };
        sample([names, vec![health.kind.clone(), health.last_result.clone(), status]].concat(), 1_u64)
    };
    checked(o).filter(|(_, health)| !health.last_result.is_empty()).map(one).collect()
}
