//! Pushes under load, and what they did.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::{Duration, Instant};

use marchproxy_cpu::TscClock;
use marchproxy_engine::build;
use marchproxy_engine::change::Successor;
use marchproxy_engine::slow::SlowPath;
use marchproxy_engine::snapshot::Snapshot;
use marchproxy_rcu::Publisher;
use rtrb::{Consumer, RingBuffer};
use serde::Serialize;

use super::line::{Line, Shared, Taken};
use super::source::{Format, Pushed, Source, Stages, Wish, timed};
use crate::Error;
use crate::backend::Timed;
use crate::machine::{Machine, Watch, switches};
use crate::process;
use crate::progress::Progress;
use crate::rig::Parts;
use crate::scenario::{Bench, Params};
use crate::seeded::Rng;

/// Seconds without a push before the first one: what turns usually take.
const CALM: Duration = Duration::from_secs(2);

/// Turns kept of that time, more than there can be of turns with packets.
const CALM_TURNS: usize = 4_000_000;

/// Packets that tell what the line can do.
const TRIAL: u64 = 500_000;

/// Share of that at which packets arrive unless an option says otherwise.
const SHARE: f64 = 0.5;

/// A worker that has not shown a generation after this long is not going to.
const PATIENCE: Duration = Duration::from_secs(5);

/// An outage up to this many microseconds is none.
const NEGLIGIBLE_US: f64 = 1.0;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Pushes of each row.
    pub pushes: usize,
    /// Packets per second; half of what the worker can do when `None`.
    pub rate: Option<f64>,
    /// Core of the worker.
    pub core: usize,
    /// Whether the document as a whole is pushed from its text, too.
    pub documents: bool,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// By number of changed rules.
    pub rows: Vec<Row>,
    /// Whether a push went through validation, store and dry run; else it began at the node.
    pub store: bool,
    /// Megabytes that one copy of the node's tables takes.
    pub tables_mb: f64,
    /// Packets per second that arrived.
    pub rate_pps: f64,
    /// Microseconds of a turn without a push: the 99.9th percentile.
    pub no_push_p999_us: f64,
    /// How much of everything.
    pub parameters: Params,
    /// The machine.
    pub machine: Machine,
    /// Whether the figures are to be doubted.
    pub noisy: bool,
    /// Why.
    pub noise: Vec<String>,
    /// Ended early.
    pub interrupted: bool,
}

/// Pushes of one size.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// Rules that each push changed.
    pub changed: usize,
    /// The text that each push began with, where it was the whole document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<Format>,
    /// Packets lost in all pushes of the row: those that found their ring full while nobody had interrupted the worker, and drops by the node.
    pub packets_lost: u64,
    /// The worst push: time of the worker's turn that took the tables and of the seven after it, each above the 99.9th percentile of
    /// turns without a push. `None` when the worker was interrupted in each.
    pub outage_us: Option<f64>,
    /// From the wish to the last reader on the new generation.
    pub settle_ms_p50: f64,
    /// The same; with fewer than 100 pushes the longest.
    pub settle_ms_p99: f64,
    /// The longest.
    pub settle_ms_max: f64,
    /// Most memory this process had during the row, in megabytes.
    pub memory_mb: f64,
    /// What it had when the row was done.
    pub steady_mb: f64,
    /// Pushes.
    pub pushes: usize,
    /// Of these, pushes whose window had an interruption of the worker; they count for none of the above but settle and memory.
    pub preempted_pushes: usize,
    /// Packets that found their ring full because of an interruption.
    pub packets_lost_preempted: u64,
    /// Packets that arrived meanwhile.
    pub packets: u64,
    /// Of these pushes, those that built the node's tables as a whole.
    pub whole: usize,
    /// Where the time went, in milliseconds: the median of each part, over the pushes that had it.
    pub stages_ms: BTreeMap<&'static str, f64>,
}

/// The pushing side.
struct Push<'a> {
    publisher: Publisher<Snapshot>,
    slow: SlowPath<Timed>,
    successor: Successor,
    budget: marchproxy_engine::Budget,
    shared: &'a Shared,
    taken: Consumer<Taken>,
    now: u64,
    hz: u64,
}

/// Measures the node of `bench` under pushes from `source`, changing one rule, ten, and so on up to all.
pub fn run(
    bench: Bench,
    source: &mut dyn Source,
    params: Params,
    wanted: Wanted,
    progress: &Progress,
) -> Result<Report, Error> {
    let hz = TscClock::calibrate().hz();
    let Parts { node, wires, stock, now, step } = bench.rig.into_parts();
    let (taken_in, taken) = RingBuffer::new(64);
    let mut line = Line {
        worker: node.worker,
        wires,
        stock,
        load: bench.load,
        rng: Rng::new(params.seed, "replay"),
        now,
        step,
        hz,
        rate: 0.0,
        usual: 0,
        calm_turns: Vec::with_capacity(CALM_TURNS),
        taken: taken_in,
    };
    let shared = &Shared::default();
    let successor = Successor::default();
    let mut push =
        Push { publisher: node.publisher, slow: node.slow, successor, budget: node.budget, shared, taken, now, hz };
    // First alone, to know what is usual; then under pushes.
    progress.phase("what turns take without a push", 0);
    let mut line = std::thread::scope(|scope| {
        let calm = scope.spawn(move || {
            process::pin(Some(wanted.core))?;
            line.rate = wanted.rate.unwrap_or_else(|| line.capacity(TRIAL) * SHARE);
            line.run(shared);
            Ok::<_, Error>(line)
        });
        shared.calm.store(true, Relaxed);
        let start = Instant::now();
        while start.elapsed() < CALM && !progress.stopped() && !calm.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        shared.stop.store(true, Relaxed);
        calm.join().map_err(|_| Error::Harness("the worker's thread ended early"))?
    })?;
    let rate = line.rate;
    line.usual = p999(&mut line.calm_turns);
    let no_push_p999_us = line.usual as f64 * 1e6 / hz as f64;
    if line.usual == 0 {
        return Err(Error::Interrupted);
    }
    shared.stop.store(false, Relaxed);
    shared.calm.store(false, Relaxed);
    let mut wishes: Vec<Wish> = sizes(params.rules).into_iter().map(Wish::Rules).collect();
    if wanted.documents {
        wishes.extend([Format::Yaml, Format::Json].map(Wish::Document));
    }
    progress.phase("pushing", (wishes.len() * wanted.pushes) as u64);
    let mut watch = Watch::over(vec![wanted.core]);
    let (rows, switches, tables_mb) = std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            process::pin(Some(wanted.core))?;
            // The kernel counts for each thread, and this one is new.
            let before = switches();
            line.run(shared);
            Ok::<_, Error>(switches() - before)
        });
        let rows = push.rows(&wishes, params.rules, source, wanted.pushes, progress);
        shared.stop.store(true, Relaxed);
        let switches = worker.join().map_err(|_| Error::Harness("the worker's thread ended early"))??;
        let tables_mb = push.publisher.current().bytes() as f64 / 1e6;
        rows.map(|rows| (rows, switches, tables_mb))
    })?;
    watch.interrupted(switches);
    progress.finish();
    if rows.is_empty() {
        return Err(Error::Interrupted);
    }
    let (machine, noise) = watch.finish(hz, &node.memory, None);
    Ok(Report {
        rows,
        store: cfg!(feature = "control"),
        tables_mb,
        rate_pps: rate,
        no_push_p999_us,
        parameters: params,
        machine,
        noisy: !noise.is_empty(),
        noise,
        interrupted: progress.stopped(),
    })
}

/// 1, 10, 100 and so on, and all of them.
fn sizes(rules: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1usize), |n| n.checked_mul(10)).take_while(|&n| n < rules);
    powers.chain([rules]).collect()
}

fn p999(turns: &mut [u32]) -> u64 {
    turns.sort_unstable();
    turns.get(turns.len() * 999 / 1000).copied().map_or(0, u64::from)
}

impl Push<'_> {
    /// Rows as far as nobody interrupts.
    fn rows(
        &mut self,
        wishes: &[Wish],
        rules: usize,
        source: &mut dyn Source,
        pushes: usize,
        progress: &Progress,
    ) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        for &wish in wishes {
            let row = match wish {
                Wish::Rules(changed) => Row { changed, ..Row::default() },
                Wish::Document(format) => Row { changed: rules, document: Some(format), ..Row::default() },
            };
            let row = self.row(row, wish, source, pushes, progress)?;
            rows.extend(Some(row).filter(|row| row.pushes > 0));
        }
        Ok(rows)
    }

    fn row(
        &mut self,
        mut row: Row,
        wish: Wish,
        source: &mut dyn Source,
        pushes: usize,
        progress: &Progress,
    ) -> Result<Row, Error> {
        let (mut settle, mut excess) = (Vec::new(), Vec::new());
        let mut stage_times: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        forget_peak();
        self.windows_pass(2)?;
        let before = self.counts();
        for _ in 0..pushes {
            if progress.stopped() {
                break;
            }
            source.wish(wish)?;
            let mut stages = Stages::new();
            let received = Instant::now();
            let next = match source.apply(&mut stages)? {
                Pushed::Rules(changes) => timed(&mut stages, "build", || self.successor.next(&changes)),
                Pushed::Whole => None,
            };
            let (next, whole) = if let Some(next) = next {
                (next, None)
            } else {
                let tables = timed(&mut stages, "decode", || source.tables())?;
                let previous = Some(self.publisher.current());
                (timed(&mut stages, "build whole", || build(&tables, previous, &self.budget))?, Some(tables))
            };
            let published = Instant::now();
            let generation = self.publisher.publish(next);
            self.settle(generation)?;
            stages.push(("settle", published.elapsed().as_secs_f64() * 1e3));
            settle.push(received.elapsed().as_secs_f64() * 1e3);
            for (name, ms) in stages {
                stage_times.entry(name).or_default().push(ms);
            }
            let successor = &mut self.successor;
            self.publisher.reclaim_into(|old| successor.give_back(old));
            if let Some(tables) = whole {
                self.successor.prepare(&tables, self.publisher.current(), &self.budget);
                row.whole += 1;
            }
            // The worker says how it took them at the end of its window.
            self.windows_pass(2)?;
            while let Ok(taken) = self.taken.pop() {
                if taken.preempted {
                    row.preempted_pushes += 1;
                } else {
                    excess.push(taken.excess as f64 * 1e6 / self.hz as f64);
                }
            }
            row.pushes += 1;
            progress.advance(1);
        }
        let after = self.counts();
        row.packets_lost = after.lost - before.lost;
        row.packets_lost_preempted = after.lost_preempted - before.lost_preempted;
        row.packets = after.offered - before.offered;
        row.outage_us = excess.into_iter().reduce(f64::max).map(|us| if us <= NEGLIGIBLE_US { 0.0 } else { us });
        settle.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| settle.get(((settle.len() as f64 * share) as usize).min(settle.len().saturating_sub(1)));
        let at = |share| at(share).copied().unwrap_or(0.0);
        (row.settle_ms_p50, row.settle_ms_p99, row.settle_ms_max) = (at(0.5), at(0.99), at(1.0));
        (row.memory_mb, row.steady_mb) = (memory_mb("VmHWM:"), memory_mb("VmRSS:"));
        let median = |mut times: Vec<f64>| {
            times.sort_unstable_by(f64::total_cmp);
            times.get(times.len() / 2).copied().unwrap_or(0.0)
        };
        row.stages_ms = stage_times.into_iter().map(|(name, times)| (name, median(times))).collect();
        Ok(row)
    }

    /// Until every reader runs the generation.
    fn settle(&mut self, generation: u64) -> Result<(), Error> {
        // The slow path is a reader, too. Its time stands still: neighbours do not age here.
        self.slow.turn(self.now);
        let start = Instant::now();
        while !self.publisher.settled(generation) {
            if start.elapsed() > PATIENCE {
                return Err(Error::Harness("the worker does not take the new generation"));
            }
            // A worker's turn takes microseconds, and where there is one core for both it must get it.
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    }

    fn windows_pass(&self, count: u64) -> Result<(), Error> {
        let (until, start) = (self.shared.windows.load(Acquire) + count, Instant::now());
        while self.shared.windows.load(Acquire) < until {
            if start.elapsed() > PATIENCE {
                return Err(Error::Harness("the worker stands still"));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    fn counts(&self) -> Counts {
        Counts {
            lost: self.shared.lost.load(Relaxed) + self.shared.dropped.load(Relaxed),
            lost_preempted: self.shared.lost_preempted.load(Relaxed),
            offered: self.shared.offered.load(Relaxed),
        }
    }
}

struct Counts {
    lost: u64,
    lost_preempted: u64,
    offered: u64,
}

/// Lets the kernel begin anew with the process's largest size (proc(5), clear_refs). Where it does not, the row has that of the whole run.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// `VmRSS:` the size of this process, `VmHWM:` the largest since then.
fn memory_mb(what: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_powers_of_ten_and_all() {
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(10), [1, 10]);
        assert_eq!(sizes(2500), [1, 10, 100, 1000, 2500]);
    }

    #[test]
    fn the_percentile_is_near_the_top() {
        let mut turns: Vec<u32> = (0..10_000).rev().collect();
        assert_eq!((p999(&mut turns), p999(&mut [])), (9990, 0));
    }

    #[test]
    fn the_kernel_says_how_large_we_are() {
        assert!(memory_mb("VmHWM:") >= memory_mb("VmRSS:") && memory_mb("VmRSS:") > 0.1);
    }
}
