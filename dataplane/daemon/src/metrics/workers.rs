//! Workers and their stages.

use marchproxy_metrics::{Class, Family, Kind, Sample, Value, family, sample};
use marchproxy_proto::v1;

use super::{Observation, WORKER};

const NAMES: &[&str] = &["worker", "core"];
const STAGE_NAMES: &[&str] = &["worker", "core", "stage"];
const STAGE: &Class = &Class { name: "worker and stage", bound: "stages of the pipeline, per worker" };
const WHEN: &str = "once workers run";

pub(super) const FAMILIES: &[Family<Observation>] = &[
    family("worker_generation", Kind::Gauge, "", WORKER, NAMES, "The generation the worker runs.", |o| {
        workers(o, |w| w.generation)
    })
    .when(WHEN),
    family(
        "worker_busy_ratio",
        Kind::Gauge,
        "ratio",
        WORKER,
        NAMES,
        "Cycles of turns with packets over all cycles, the last second or two.",
        |o| workers(o, |w| w.busy_ratio),
    )
    .when(WHEN),
    family("worker_busy_cycles", Kind::Counter, "cycles", WORKER, NAMES, "Cycles of turns with packets.", |o| {
        workers(o, |w| w.busy_cycles)
    })
    .when(WHEN),
    family("worker_cycles", Kind::Counter, "cycles", WORKER, NAMES, "Cycles of all turns, sleep included.", |o| {
        workers(o, |w| w.cycles)
    })
    .when(WHEN),
    family("worker_sessions", Kind::Gauge, "", WORKER, NAMES, "Live sessions.", |o| workers(o, |w| w.sessions))
        .when(WHEN),
    family("worker_sessions_capacity", Kind::Gauge, "", WORKER, NAMES, "Sessions the worker has room for.", |o| {
        workers(o, |w| w.sessions_capacity)
    })
    .when(WHEN),
    family("worker_sessions_created", Kind::Counter, "", WORKER, NAMES, "Sessions created since the start.", |o| {
        workers(o, |w| w.sessions_created)
    })
    .when(WHEN),
    family(
        "worker_handed_off_packets",
        Kind::Counter,
        "packets",
        WORKER,
        NAMES,
        "Packets passed to the worker that owns their session, or their fragments.",
        |o| workers(o, |w| w.handed_off),
    )
    .when(WHEN),
    family(
        "worker_rule_samples",
        Kind::Counter,
        "",
        WORKER,
        NAMES,
        "Packets recorded because a rule has a log_sample.",
        |o| workers(o, |w| w.samples),
    )
    .when(WHEN),
    family(
        "worker_rule_samples_lost",
        Kind::Counter,
        "",
        WORKER,
        NAMES,
        "Packets that a log_sample asked for and that were too many to record.",
        |o| workers(o, |w| w.samples_lost),
    )
    .when(WHEN),
    family(
        "worker_fragmented_packets",
        Kind::Gauge,
        "packets",
        WORKER,
        NAMES,
        "Packets of which fragments came and others may still come; 4,096 are known at most.",
        |o| workers(o, |w| w.fragmented),
    )
    .when(WHEN),
    family(
        "worker_fragments_held",
        Kind::Gauge,
        "",
        WORKER,
        NAMES,
        "Fragments that wait for the first of their packet; 512 may.",
        |o| workers(o, |w| w.fragments_held),
    )
    .when(WHEN),
    family(
        "worker_fragments_released",
        Kind::Counter,
        "",
        WORKER,
        NAMES,
        "Fragments that waited for the first of their packet and went on.",
        |o| workers(o, |w| w.fragments_released),
    )
    .when(WHEN),
    family("stage_calls", Kind::Counter, "", STAGE, STAGE_NAMES, "Bursts a stage handled.", |o| stages(o, |s| s.calls))
        .when(WHEN),
    family("stage_packets", Kind::Counter, "packets", STAGE, STAGE_NAMES, "Packets in those bursts.", |o| {
        stages(o, |s| s.packets)
    })
    .when(WHEN),
    family(
        "stage_sampled_cycles",
        Kind::Counter,
        "cycles",
        STAGE,
        STAGE_NAMES,
        "Cycles of the bursts whose cost was measured.",
        |o| stages(o, |s| s.sampled_cycles),
    )
    .when(WHEN),
    family(
        "stage_sampled_packets",
        Kind::Counter,
        "packets",
        STAGE,
        STAGE_NAMES,
        "Packets of the bursts whose cost was measured.",
        |o| stages(o, |s| s.sampled_packets),
    )
    .when(WHEN),
];

fn names(stats: &v1::WorkerStats) -> Vec<String> {
    vec![stats.worker.to_string(), stats.core.to_string()]
}

fn workers<V: Into<Value>>(o: &Observation, value: impl Fn(&v1::WorkerStats) -> V) -> Vec<Sample> {
    o.stats.workers.iter().map(|stats| sample(names(stats), value(stats))).collect()
}

fn stages(o: &Observation, value: impl Fn(&v1::StageStats) -> u64) -> Vec<Sample> {
    let each = |stats: &v1::WorkerStats| {
        let labels = names(stats);
        let one = |stage: &v1::StageStats| sample([labels.clone(), vec![stage.name.clone()]].concat(), value(stage));
        stats.stages.iter().map(one).collect::<Vec<_>>()
    };
    o.stats.workers.iter().flat_map(each).collect()
}
