//! Runs a warm node over its load for a while, several times, and keeps what each batch cost and what the node counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use marchproxy_engine::reason::{DropReason, PuntReason};
use marchproxy_engine::stats::{Counter, STAGES, ThreadStats};

use crate::calibrate::{clock_cost, median};
use crate::churn::Alone;
use crate::latency::Latency;
use crate::probe::Probe;
use crate::progress::Progress;
use crate::rig::{BUFFERS, Batch, Rig};
use crate::scenario::{Bench, CounterSlots};
use crate::seeded::Rng;
use crate::team::measure::TeamOutcome;
use crate::{Error, churn};

/// Batches before the first measured one: caches and predictors get to know the load.
pub const WARM_UP: usize = 4;

/// Virtual time after which every session gets a packet again: less than half of the shortest timeout of an established one (7,440 s).
pub const KEEP_ALIVE: u64 = 3_000_000_000_000;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Wall time of one repeat.
    pub duration: Duration,
    /// Packets of one repeat, instead of the time.
    pub packets: Option<u64>,
    /// Repeats.
    pub repeats: usize,
}

impl Limits {
    /// Packets of the next batch of a repeat that has taken so long and measured so many; 0 at its end.
    pub fn left(&self, elapsed: Duration, packets: u64, batch: usize) -> usize {
        match self.packets {
            Some(limit) => limit.saturating_sub(packets).min(batch as u64) as usize,
            None if elapsed < self.duration => batch,
            None => 0,
        }
    }
}

/// One repeat.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Sums over its batches.
    pub sum: Batch,
    /// Engine ticks per packet of each batch.
    pub engine: Vec<f64>,
    /// IO ticks per packet of each batch.
    pub io: Vec<f64>,
    /// What the node counted.
    pub counts: Counts,
}

impl Window {
    /// The middle batch's engine ticks per packet.
    pub fn cycles(&self) -> f64 {
        median(self.engine.iter().copied())
    }
}

/// What came out.
pub struct Outcome {
    /// The repeats.
    pub windows: Vec<Window>,
    /// How long packets were inside.
    pub latency: Latency,
    /// Somebody pressed Ctrl-C.
    pub interrupted: bool,
    /// Packets lost (positive) or invented; 0 always.
    pub residue: i64,
    /// Packets that still wait inside at the end: later fragments without their first one.
    pub held: u64,
    /// More about several workers.
    pub team: Option<TeamOutcome>,
}

/// The node's counters that a report shows.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Drops by reason.
    pub drops: [u64; DropReason::COUNT],
    /// Punts by reason.
    pub punts: [u64; PuntReason::COUNT],
    /// Per stage: calls, packets, sampled ticks, sampled packets.
    pub stages: [[u64; 4]; STAGES.len()],
    /// Sessions made.
    pub created: u64,
    /// Packets that a rule matched, those of sessions included.
    pub rules: u64,
    /// Of these, by the rules that only fragments and ICMP match.
    pub odd: u64,
    /// Packets of services, both directions.
    pub services: u64,
    /// Packets metered.
    pub policers: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            drops: [0; DropReason::COUNT],
            punts: [0; PuntReason::COUNT],
            stages: [[0; 4]; STAGES.len()],
            created: 0,
            rules: 0,
            odd: 0,
            services: 0,
            policers: 0,
        }
    }
}

impl Counts {
    /// The counters now.
    pub fn read(rig: &Rig, slots: &CounterSlots) -> Self {
        Self::of(rig.stats(), rig.slow_stats(), slots)
    }

    /// The counters of a worker and its slow path now.
    pub fn of(stats: &ThreadStats, slow: &ThreadStats, slots: &CounterSlots) -> Self {
        let both = |of: &dyn Fn(&ThreadStats) -> u64| of(stats) + of(slow);
        let matched = |slots: &[u32]| {
            let objects = slots.iter().filter_map(|&slot| stats.object(slot));
            objects.map(|object| object.matched.packets.value()).sum()
        };
        Self {
            drops: std::array::from_fn(|i| both(&|s| s.drops[i].value())),
            punts: std::array::from_fn(|i| stats.punts[i].value()),
            stages: std::array::from_fn(|i| {
                let stage = &stats.stages[i];
                [&stage.calls, &stage.packets, &stage.sampled_ticks, &stage.sampled_packets].map(Counter::value)
            }),
            created: stats.sessions_created.value(),
            rules: matched(&slots.rules),
            odd: matched(&slots.odd_rules),
            services: matched(&slots.services),
            policers: matched(&slots.policers),
        }
    }

    /// Adds what was counted between two readings.
    pub fn add(&mut self, before: &Self, after: &Self) {
        let each = |sums: &mut [u64], before: &[u64], after: &[u64]| {
            for ((sum, before), after) in sums.iter_mut().zip(before).zip(after) {
                *sum += after - before;
            }
        };
        each(&mut self.drops, &before.drops, &after.drops);
        each(&mut self.punts, &before.punts, &after.punts);
        each(self.stages.as_flattened_mut(), before.stages.as_flattened(), after.stages.as_flattened());
        self.created += after.created - before.created;
        self.rules += after.rules - before.rules;
        self.odd += after.odd - before.odd;
        self.services += after.services - before.services;
        self.policers += after.policers - before.policers;
    }

    /// Adds another sum.
    pub fn join(&mut self, other: &Self) {
        self.add(&Self::default(), other);
    }
}

/// All drops of the node so far, by name.
pub fn drops(rig: &Rig) -> BTreeMap<&'static str, u64> {
    named(&Counts::read(rig, &CounterSlots::default()).drops)
}

/// Counters that are not zero, by the name of their reason.
pub fn named(drops: &[u64; DropReason::COUNT]) -> BTreeMap<&'static str, u64> {
    DropReason::ALL.iter().map(|r| (r.label(), drops[r.index()])).filter(|(_, n)| *n > 0).collect()
}

/// Measures. An interrupt ends it early with what there is.
pub fn run(
    bench: &mut Bench,
    limits: &Limits,
    seed: u64,
    probe: &mut Probe,
    progress: &Progress,
) -> Result<Outcome, Error> {
    let mut rng = Rng::new(seed, "replay");
    let clock = clock_cost();
    let mut latency = Latency::new()?;
    let mut alive = bench.rig.now();
    for _ in 0..WARM_UP {
        bench.rig.batch(&mut bench.load, BUFFERS, &mut rng, probe);
    }
    bench.rig.settle();
    if let Some(rate) = bench.churn {
        churn::calibrate(&mut Alone { bench, rng: &mut rng, probe }, rate, progress)?;
    }
    let per_repeat = limits.packets.unwrap_or(limits.duration.as_millis() as u64);
    progress.phase("measuring", per_repeat * limits.repeats as u64);
    let mut windows = Vec::with_capacity(limits.repeats);
    while windows.len() < limits.repeats && !progress.stopped() {
        let mut window = Window::default();
        let start = Instant::now();
        let mut before = Counts::read(&bench.rig, &bench.slots);
        let mut shown = 0;
        while !progress.stopped() {
            let left = limits.left(start.elapsed(), window.sum.packets, BUFFERS);
            if left == 0 {
                break;
            }
            let batch = bench.rig.batch(&mut bench.load, left, &mut rng, probe);
            if batch.packets == 0 {
                return Err(Error::Harness("the load sends nothing"));
            }
            window.keep(&batch, clock);
            bench.rig.passages(|ticks, packets| latency.record(ticks.saturating_sub(clock), packets));
            bench.rig.settle();
            if bench.rig.now() - alive > KEEP_ALIVE {
                let after = Counts::read(&bench.rig, &bench.slots);
                window.counts.add(&before, &after);
                bench.rig.warm(&bench.keep_alive, |_| true);
                (alive, before) = (bench.rig.now(), Counts::read(&bench.rig, &bench.slots));
            }
            let at = limits.packets.map_or(start.elapsed().as_millis() as u64, |_| window.sum.packets);
            progress.advance(at.min(per_repeat) - shown);
            shown = at.min(per_repeat);
        }
        window.counts.add(&before, &Counts::read(&bench.rig, &bench.slots));
        if window.sum.packets > 0 {
            windows.push(window);
        }
    }
    if windows.is_empty() {
        return Err(Error::Interrupted);
    }
    bench.rig.settle();
    let totals = bench.rig.totals();
    let (residue, held) = (totals.residue(), totals.held);
    Ok(Outcome { windows, latency, interrupted: progress.stopped(), residue, held, team: None })
}

impl Window {
    /// Adds a batch. Each stretch between two readings of the clock contains one reading: that is taken off.
    pub fn keep(&mut self, batch: &Batch, clock: u64) {
        let packets = batch.packets as f64;
        let io = batch.io_ticks.saturating_sub(clock * (batch.io_calls + batch.io_readings));
        let engine = batch.ticks.saturating_sub(batch.io_ticks).saturating_sub(clock * (batch.io_calls + 1));
        self.engine.push(engine as f64 / packets);
        self.io.push(io as f64 / packets);
        self.sum.add(batch);
    }
}
