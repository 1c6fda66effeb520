//! The node as a whole: what runs, what pushes did, what control says.

use marchproxy_metrics::{Class, Family, Kind, family, one, sample};

use super::{MOST_OBJECTS, NODE, Observation, services};
use crate::agent::LastGoodState;
use crate::health::is_ready;

const THREAD: &Class = &Class { name: "packet thread", bound: "workers and one" };
const KIND: &Class = &Class { name: "kind of object", bound: "4" };
const RESULT: &Class = &Class { name: "result", bound: "2" };

pub(super) const FAMILIES: &[Family<Observation>] = &[
    family("build", Kind::Info, "", NODE, &["version", "backend"], "Release and packet backend.", |o| {
        vec![sample(vec![env!("CARGO_PKG_VERSION").into(), o.backend.into()], 1_u64)]
    }),
    family("uptime_seconds", Kind::Gauge, "seconds", NODE, &[], "Since the daemon started.", |o| {
        one(o.stats.uptime_ms as f64 / 1000.0)
    }),
    family(
        "ready",
        Kind::Gauge,
        "",
        NODE,
        &[],
        "1 when tables of a version run on every worker, every port is up and every packet thread is alive.",
        |o| one(is_ready(&o.running, &o.stats.ports, &o.beats)),
    ),
    family(
        "thread_heartbeat_age_seconds",
        Kind::Gauge,
        "seconds",
        THREAD,
        &["thread"],
        "Since the thread was seen to go round its loop; /healthz fails at 5.",
        |o: &Observation| {
            o.beats.iter().map(|beat| sample(vec![beat.thread.clone()], beat.age.as_secs_f64())).collect()
        },
    )
    .when("once threads run"),
    family("generation", Kind::Gauge, "", NODE, &[], "The node's own publish counter.", |o| one(o.running.generation)),
    family(
        "tables_version",
        Kind::Gauge,
        "",
        NODE,
        &[],
        "Control's number of the tables that run; 0 before the first.",
        |o| one(o.running.version),
    ),
    family(
        "tables_unconfirmed_version",
        Kind::Gauge,
        "",
        NODE,
        &[],
        "The version that runs until somebody confirms it; 0 when there is none.",
        |o| one(o.agent.unconfirmed),
    ),
    family(
        "tables_reverts",
        Kind::Counter,
        "",
        NODE,
        &[],
        "Returns to the former tables because nobody confirmed a version in time.",
        |o| one(o.agent.reverts),
    ),
    family("control_connected", Kind::Gauge, "", NODE, &[], "1 while the stream to control is up.", |o| {
        one(o.agent.connected)
    }),
    family("control_connections", Kind::Counter, "", NODE, &[], "Streams to control opened since the start.", |o| {
        one(o.agent.connections)
    }),
    family("pushes", Kind::Counter, "", RESULT, &["result"], "Pushes by result: accepted or refused.", |o| {
        vec![sample(vec!["accepted".into()], o.agent.accepted), sample(vec!["refused".into()], o.agent.refused)]
    }),
    family(
        "push_build_seconds",
        Kind::Histogram,
        "seconds",
        NODE,
        &[],
        "Time to build a pushed snapshot, off the workers.",
        |o| one(&o.timings.build),
    ),
    family(
        "push_settle_seconds",
        Kind::Histogram,
        "seconds",
        NODE,
        &[],
        "From the offer of tables to the last worker running them.",
        |o| one(&o.timings.settle),
    ),
    family(
        "last_good_refused",
        Kind::Gauge,
        "",
        NODE,
        &[],
        "1 when the last good tables on disk were refused at the start.",
        |o| one(matches!(o.agent.last_good, LastGoodState::Refused { .. })),
    ),
    family(
        "last_good_unsaved",
        Kind::Gauge,
        "",
        NODE,
        &[],
        "1 when the running tables could not be written to disk.",
        |o| one(!o.agent.save_error.is_empty()),
    ),
    family(
        "metrics_left_out",
        Kind::Gauge,
        "",
        KIND,
        &["kind"],
        "Objects without series of their own: those beyond 20,000 of a kind, and rules unless metrics_rules is true.",
        |o| {
            const { assert!(MOST_OBJECTS == 20_000) };
            services::KINDS.map(|kind| sample(vec![kind.into()], services::left_out(o, kind))).into()
        },
    ),
];
