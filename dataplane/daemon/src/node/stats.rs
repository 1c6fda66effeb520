//! What the node counts, put together for `stats` and the metrics.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use marchproxy_engine::flow::{Addr, to_ip};
use marchproxy_engine::reason::{ConsumeReason, DropReason, LookupResult, PuntReason, SessionEnd};
use marchproxy_engine::snapshot::ObjectKind;
use marchproxy_engine::stats::{STAGES, ThreadStats, Totals};
use marchproxy_engine::table::sessions::FIRST_PORT;
use marchproxy_proto::v1;

use super::Shared;
use super::ports::{Look, format_mac};
use super::worker::WorkerShared;
use crate::driver::{Driver, EarlyCounts, PassedOver};
use crate::groups::hex;

/// Busy ratios are over at least this long, so that several askers do not shorten each other's windows.
const WINDOW: Duration = Duration::from_secs(1);

/// Busy and all ticks of every worker at two moments.
#[derive(Debug)]
pub(super) struct BusyWindow(Mutex<(Sample, Sample)>);

#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    ticks: Vec<(u64, u64)>,
}

impl BusyWindow {
    pub(super) fn new(workers: usize) -> Self {
        let sample = Sample { at: Instant::now(), ticks: vec![(0, 0); workers] };
        Self(Mutex::new((sample.clone(), sample)))
    }

    /// Ratio per worker over the last second or two.
    fn ratios(&self, workers: &[WorkerShared]) -> Vec<f64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.1.at.elapsed() >= WINDOW {
            let ticks = workers.iter().map(ticks).collect();
            window.0 = std::mem::replace(&mut window.1, Sample { at: Instant::now(), ticks });
        }
        let ratio = |(worker, before): (&WorkerShared, &(u64, u64))| {
            let (busy, all) = ticks(worker);
            let all = all.saturating_sub(before.1);
            if all == 0 { 0.0 } else { busy.saturating_sub(before.0) as f64 / all as f64 }
        };
        workers.iter().zip(&window.0.ticks).map(ratio).collect()
    }
}

fn ticks(worker: &WorkerShared) -> (u64, u64) {
    (worker.stats.busy_ticks.value(), worker.stats.all_ticks.value())
}

impl<D: Driver> Shared<D> {
    /// Everything. `held` counts the packets inside rings between the node's threads.
    pub(super) fn stats(&self) -> v1::StatsResponse {
        let threads = self.threads();
        let early = self.early();
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        v1::StatsResponse {
            node: String::new(),
            version: running.version,
            generation: running.generation,
            content_hash: hex(&running.content_hash),
            at: Some(SystemTime::now().into()),
            ports: self.port_stats(),
            workers: self.worker_stats(),
            drops: counted(
                DropReason::ALL,
                |reason| {
                    let early = early.drops.get(&reason).map_or(0, |(packets, _)| *packets);
                    early + sum(&threads, |stats| stats.drops[reason.index()].value())
                },
                |reason| (reason.label(), reason.class().label(), reason.describe()),
            ),
            punts: counted(
                PuntReason::ALL,
                |reason| sum(&threads, |stats| stats.punts[reason.index()].value()),
                |reason| (reason.label(), "", reason.describe()),
            ),
            consumed: counted(
                ConsumeReason::ALL,
                |reason| sum(&threads, |stats| stats.consumed[reason.index()].value()),
                |reason| (reason.label(), "", reason.describe()),
            ),
            session_lookups: counted(
                LookupResult::ALL,
                |result| sum(&threads, |stats| stats.lookups[result.index()].value()),
                |result| (result.label(), "", result.describe()),
            ),
            sessions_ended: counted(
                SessionEnd::ALL,
                |end| sum(&threads, |stats| stats.sessions_ended[end.index()].value()),
                |end| (end.label(), "", end.describe()),
            ),
            sources_untracked: threads.iter().map(|stats| stats.sources_untracked.value()).sum(),
            policer_sources_placeless: threads.iter().map(|s| s.policer_sources_placeless.value()).sum(),
            objects: self.object_counts(&early),
            conservation: Some(self.terms(&early)),
            nat_pools: self.nat_pools(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            icmp_errors_translated: threads.iter().map(|stats| stats.icmp_errors_translated.value()).sum(),
            icmp_errors_limited: threads.iter().map(|stats| stats.icmp_rate_limited.value()).sum(),
            originate_failed: threads.iter().map(|stats| stats.originate_failed.value()).sum(),
            flows: self.flow_stats(),
        }
    }

    /// What ended in front of the engine since this node runs.
    fn early(&self) -> EarlyCounts {
        let EarlyCounts { mut drops, mut rules } = self.driver.early_counts();
        let less = |now: &mut (u64, u64), before: &(u64, u64)| {
            *now = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
        };
        for (reason, before) in &self.early_before.drops {
            drops.entry(*reason).and_modify(|now| less(now, before));
        }
        for (rule, before) in &self.early_before.rules {
            rules.entry(rule.clone()).and_modify(|now| less(now, before));
        }
        EarlyCounts { drops, rules }
    }

    /// The law's terms. Each thread's are read whole, so the residue is exact while packets move.
    pub(super) fn conservation(&self) -> v1::Conservation {
        self.terms(&self.early())
    }

    /// What ends in front of the engine is received and dropped in one.
    fn terms(&self, early: &EarlyCounts) -> v1::Conservation {
        let threads = self.threads();
        let early: u64 = early.drops.values().map(|(packets, _)| packets).sum();
        let sum = threads.iter().fold(Totals::default(), |sum, stats| sum.plus(&stats.totals.read()));
        v1::Conservation {
            rx: sum.rx + early,
            originated: sum.originated,
            tx: sum.tx,
            drops: sum.dropped + early,
            consumed: sum.consumed,
            held: (sum.held + sum.given).saturating_sub(sum.taken),
            residue: sum.residue(),
        }
    }

    /// The ports of every address that full NAT has or had, all workers together.
    fn nat_pools(&self) -> Vec<v1::NatPool> {
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        observer.refresh();
        let addresses = observer.current().pools();
        let pool = |&address: &Addr| {
            let halves = [(address >> 64) as u64, address as u64];
            ["tcp", "udp"].into_iter().enumerate().map(move |(kind, protocol)| {
                let counters = self.workers.iter().flat_map(|worker| &worker.stats.pools);
                let ours = counters.filter(|pool| [pool.address[0].value(), pool.address[1].value()] == halves);
                v1::NatPool {
                    address: to_ip(address).to_string(),
                    protocol: protocol.into(),
                    in_use: ours.map(|pool| pool.used[kind].value()).sum(),
                    capacity: u64::from(u16::MAX - FIRST_PORT) + 1,
                }
            })
        };
        addresses.iter().flat_map(pool).collect()
    }

    /// The way of every port's packets.
    pub(super) fn port_tiers(&self) -> Vec<v1::PortTier> {
        let of = |look: Look| {
            let (stats, look_early) = (self.one_port(&look), look.early);
            let over = |over: PassedOver| v1::PassedOverTier { tier: over.tier.into(), reason: over.reason };
            v1::PortTier {
                port: stats.name,
                device: stats.device,
                tier: stats.tier,
                note: look.choice.note,
                passed_over: look.choice.passed_over.into_iter().map(over).collect(),
                link_up: stats.link_up,
                rx_packets: stats.rx_packets,
                rx_bytes: stats.rx_bytes,
                tx_packets: stats.tx_packets,
                tx_bytes: stats.tx_bytes,
                xdp_dropped_packets: stats.xdp_dropped_packets,
                xdp_dropped_bytes: stats.xdp_dropped_bytes,
                kernel_packets: look_early.kernel.0,
                kernel_bytes: look_early.kernel.1,
            }
        };
        self.ports.looks().into_iter().map(of).collect()
    }

    /// Where every rule is decided, and why.
    pub(super) fn rule_tiers(&self) -> Vec<v1::RuleTier> {
        let (places, early) = (self.driver.rule_places(), self.early());
        let objects = self.objects.list();
        let rules = objects.iter().filter(|object| object.kind == ObjectKind::Rule);
        let of = |object: &super::objects::Object| {
            let place = places.iter().find(|place| place.rule == object.name);
            let (packets, bytes) = early.rules.get(&object.name).copied().unwrap_or_default();
            v1::RuleTier {
                rule: object.name.clone(),
                tier: if place.is_some_and(|place| place.early) { "xdp" } else { "user_space" }.into(),
                reason: place.map_or_else(|| "no port of this node has the XDP program".into(), |p| p.reason.clone()),
                xdp_packets: packets,
                xdp_bytes: bytes,
            }
        };
        rules.map(of).collect()
    }

    fn port_stats(&self) -> Vec<v1::PortStats> {
        self.ports.looks().iter().map(|look| self.one_port(look)).collect()
    }

    fn one_port(&self, Look { place, mac, health, choice, early }: &Look) -> v1::PortStats {
        let mut stats = v1::PortStats {
            name: place.spec.name.clone(),
            device: place.spec.device.clone(),
            link_up: health.link_up,
            mac: format_mac(*mac),
            device_rx_missed: health.rx_missed,
            device_rx_errors: health.rx_errors,
            device_tx_errors: health.tx_errors,
            tier: choice.tier.into(),
            rx_packets: early.dropped.0,
            rx_bytes: early.dropped.1,
            xdp_dropped_packets: early.dropped.0,
            xdp_dropped_bytes: early.dropped.1,
            ..v1::PortStats::default()
        };
        for (number, worker) in self.workers.iter().enumerate() {
            let Some(counters) = worker.stats.ports.get(place.slot.index()) else { continue };
            let queue = v1::QueueStats {
                worker: number as u32,
                rx_packets: counters.rx.packets.value(),
                rx_bytes: counters.rx.bytes.value(),
                tx_packets: counters.tx.packets.value(),
                tx_bytes: counters.tx.bytes.value(),
            };
            stats.rx_packets += queue.rx_packets;
            stats.rx_bytes += queue.rx_bytes;
            stats.tx_packets += queue.tx_packets;
            stats.tx_bytes += queue.tx_bytes;
            stats.queues.push(queue);
        }
        stats
    }

    fn worker_stats(&self) -> Vec<v1::WorkerStats> {
        let ratios = self.busy.ratios(&self.workers);
        let worker = |(number, (worker, busy_ratio)): (usize, (&WorkerShared, f64))| v1::WorkerStats {
            worker: number as u32,
            core: worker.core.cpu as u32,
            generation: worker.generation.load(Ordering::Acquire),
            busy_ratio,
            sessions: worker.stats.sessions.value(),
            stages: stages(&worker.stats),
            handed_off: worker.stats.handed_off.value(),
            samples: worker.stats.samples.value(),
            samples_lost: worker.stats.samples_lost.value(),
            sessions_created: worker.stats.sessions_created.value(),
            fragmented: worker.stats.fragmented.value(),
            fragments_held: worker.stats.fragments_held.value(),
            fragments_released: worker.stats.fragments_released.value(),
            sessions_capacity: worker.sessions,
            busy_cycles: worker.stats.busy_ticks.value(),
            cycles: worker.stats.all_ticks.value(),
            numa_node: worker.core.node,
        };
        self.workers.iter().zip(ratios).enumerate().map(worker).collect()
    }

    fn object_counts(&self, early: &EarlyCounts) -> Vec<v1::ObjectCount> {
        let threads: Vec<_> = self.workers.iter().map(|worker| worker.stats.clone()).collect();
        let count = |object: &super::objects::Object| {
            let counts = object.counts(&threads);
            let early = early.rules.get(&object.name).filter(|_| object.kind == ObjectKind::Rule);
            let (packets, bytes) = early.copied().unwrap_or_default();
            v1::ObjectCount {
                kind: object.kind.label().into(),
                name: object.name.clone(),
                packets: counts.packets + packets,
                bytes: counts.bytes + bytes,
                dropped: counts.dropped + packets,
            }
        };
        self.objects.list().iter().map(count).collect()
    }
}

fn stages(stats: &ThreadStats) -> Vec<v1::StageStats> {
    let stage = |(name, counters): (&&str, &marchproxy_engine::stats::StageCounters)| {
        let (cycles, packets) = (counters.sampled_ticks.value(), counters.sampled_packets.value());
        v1::StageStats {
            name: (*name).into(),
            calls: counters.calls.value(),
            packets: counters.packets.value(),
            cycles_per_packet: if packets == 0 { 0.0 } else { cycles as f64 / packets as f64 },
            sampled_cycles: cycles,
            sampled_packets: packets,
        }
    };
    STAGES.iter().zip(&stats.stages).map(stage).collect()
}

fn sum(threads: &[Arc<ThreadStats>], count: impl Fn(&ThreadStats) -> u64) -> u64 {
    threads.iter().map(|stats| count(stats)).sum()
}

/// The reasons that happened.
fn counted<R: Copy>(
    all: &[R],
    count: impl Fn(R) -> u64,
    words: impl Fn(R) -> (&'static str, &'static str, &'static str),
) -> Vec<v1::ReasonCount> {
    let one = |&reason: &R| {
        let packets = count(reason);
        let (label, class, description) = words(reason);
        let count =
            v1::ReasonCount { reason: label.into(), class: class.into(), packets, description: description.into() };
        (packets > 0).then_some(count)
    };
    all.iter().filter_map(one).collect()
}
