//! The whole pipeline by scenario, and single stages: `cargo bench -p marchproxy-perf --bench stages -- stage/`.
//!
//! `pipeline` is what `run` measures, without its yardsticks: an iteration is a batch of 8,192 packets, the time inside receive and transmit
//! calls taken off. `stage` times one stage over bursts of 32 after those before it have run, which are not timed; the packets are as
//! cold for parse as in `run`. `elem/s` are packets.
#![forbid(unsafe_code)]
// What can't be built can't be measured.
#![allow(clippy::unwrap_used)]

use std::cell::{LazyCell, RefCell};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use marchproxy_cpu::{TscClock, tsc};
use marchproxy_engine::burst::{BURST, Burst, Fate, Mask, NONE};
use marchproxy_engine::memory::MemoryBuf;
use marchproxy_engine::ports::{PortFacts, PortSlot};
use marchproxy_engine::sampling::Sampling;
use marchproxy_engine::stage::{balance, finish, parse, route, rule, session};
use marchproxy_engine::stats::ThreadStats;
use marchproxy_engine::table::policer::Policers;
use marchproxy_engine::table::sessions::Sessions;
use marchproxy_perf::calibrate::clock_cost;
use marchproxy_perf::load::Load;
use marchproxy_perf::probe::Probe;
use marchproxy_perf::progress::Progress;
use marchproxy_perf::rig::{BUFFERS, Rig, mac};
use marchproxy_perf::scenario::{self, Bench, Params, Scenario};
use marchproxy_perf::seeded::Rng;

/// Sessions and flows: enough to leave L2, few enough to be made in a second.
const SESSIONS: usize = 65_536;
/// Ports of the harness's own network.
const PORTS: usize = 2;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for bench in [pipeline, stage] {
        bench(&mut criterion);
    }
    criterion.final_summary();
}

fn group<'a>(criterion: &'a mut Criterion, name: &str, packets: usize) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(packets as u64)).sample_size(20).measurement_time(Duration::from_secs(3));
    group
}

fn prepare(scenario: Scenario) -> Bench {
    let defaults = scenario.defaults();
    let params = Params { sessions: defaults.sessions.min(SESSIONS), ..defaults };
    scenario::prepare(scenario, &params, &Progress::hidden()).unwrap()
}

fn time(ticks: u64, hz: u64) -> Duration {
    Duration::from_nanos((u128::from(ticks) * 1_000_000_000 / u128::from(hz.max(1))) as u64)
}

fn pipeline(criterion: &mut Criterion) {
    let mut group = group(criterion, "pipeline", BUFFERS);
    let hz = TscClock::calibrate().hz();
    let scenarios = [
        Scenario::Forward,
        Scenario::Forward6,
        Scenario::Mark,
        Scenario::Rules,
        Scenario::Balance,
        Scenario::Police,
        Scenario::Full,
        Scenario::NewSessions,
    ];
    for scenario in scenarios {
        let bench = LazyCell::new(|| RefCell::new((prepare(scenario), Rng::new(1, "replay"), Probe::open())));
        group.bench_function(scenario.label(), |bencher| {
            let (bench, rng, probe) = &mut *bench.borrow_mut();
            bencher.iter_custom(|batches| {
                let mut ticks = 0;
                for _ in 0..batches {
                    let batch = bench.rig.batch(&mut bench.load, BUFFERS, rng, probe);
                    assert_eq!(batch.packets, BUFFERS as u64, "all packets arrive");
                    ticks += batch.ticks.saturating_sub(batch.io_ticks);
                }
                time(ticks, hz)
            });
        });
    }
}

/// How far a burst goes; the last stage is timed.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Parse,
    Session,
    Rule,
    Route,
    Finish,
}

fn stage(criterion: &mut Criterion) {
    let mut group = group(criterion, "stage", BURST);
    let hz = TscClock::calibrate().hz();
    for (name, stage, scenario) in [
        ("parse", Stage::Parse, Scenario::Forward),
        ("session", Stage::Session, Scenario::Balance),
        ("rule", Stage::Rule, Scenario::Rules),
        ("route", Stage::Route, Scenario::Forward),
        ("finish", Stage::Finish, Scenario::Forward),
    ] {
        let line = LazyCell::new(|| RefCell::new(Line::new(scenario)));
        group.bench_function(name, |bencher| {
            let line = &mut *line.borrow_mut();
            bencher.iter_custom(|bursts| time((0..bursts).map(|_| line.burst(stage)).sum(), hz));
        });
    }
}

/// A worker's pipeline taken apart.
struct Line {
    rig: Rig,
    load: Load,
    rng: Rng,
    /// Filled buffers by port, in an order that has nothing to do with their addresses.
    ready: [Vec<MemoryBuf>; PORTS],
    burst: Burst<MemoryBuf>,
    facts: PortFacts,
    stats: ThreadStats,
    /// No scenario that goes as far as balance has services: there are none.
    sessions: Sessions,
    policers: Policers,
    clock_cost: u64,
}

impl Line {
    fn new(scenario: Scenario) -> Self {
        let Bench { rig, load, .. } = prepare(scenario);
        let facts = PortFacts::default();
        for port in 0..PORTS {
            facts.set_mac(PortSlot::from_index(port), mac(port as u8));
        }
        let counters = rig.snapshot().objects().map(|(_, _, slot)| slot as usize + 1).max().unwrap_or(0);
        // They come back to this thread's stock in this order, as bursts let go of them.
        let mut buffers = MemoryBuf::pool(BUFFERS);
        Rng::new(1, "buffers").shuffle(&mut buffers);
        drop(buffers);
        Self {
            rig,
            load,
            rng: Rng::new(1, "replay"),
            ready: [const { Vec::new() }; PORTS],
            burst: Burst::default(),
            facts,
            stats: ThreadStats::new(counters),
            sessions: Sessions::heap(1, 1),
            policers: Policers::new(0, 0),
            clock_cost: clock_cost(),
        }
    }

    /// Writes as many headers as there are buffers, so that each is cold when its burst comes.
    fn refill(&mut self) {
        let held = self.ready.iter().map(Vec::len).sum();
        for _ in held..BUFFERS {
            let mut buffer = MemoryBuf::empty();
            let template = self.load.draw(&mut self.rng).unwrap();
            template.fill(&mut buffer);
            self.ready[usize::from(template.port)].push(buffer);
        }
    }

    /// Ticks that one stage takes for the next burst, after those before it.
    fn burst(&mut self, stage: Stage) -> u64 {
        // Bursts are of one port.
        let full = |ready: &[Vec<MemoryBuf>; PORTS]| ready.iter().position(|buffers| buffers.len() >= BURST);
        let port = full(&self.ready).unwrap_or_else(|| {
            self.refill();
            full(&self.ready).unwrap()
        });
        let from = self.ready[port].len() - BURST;
        self.burst.receive().extend(self.ready[port].drain(from..));
        self.burst.begin(PortSlot::from_index(port));

        let (clock_cost, snapshot, now, generation) = (self.clock_cost, self.rig.snapshot(), self.rig.now(), 1);
        let (burst, facts, stats, neighbours) = (&mut self.burst, &self.facts, &self.stats, self.rig.neighbours());
        let timed = |process: &mut dyn FnMut()| {
            let start = tsc();
            process();
            tsc().saturating_sub(start).saturating_sub(clock_cost)
        };
        let ticks = timed(&mut || parse::process(burst, snapshot, facts));
        if stage == Stage::Parse {
            assert_eq!(burst.active.len(), BURST, "all packets are sound");
            return ticks;
        }
        let ticks = timed(&mut || session::process(burst, snapshot, self.rig.sessions(), stats, now));
        if stage == Stage::Session {
            assert!(burst.columns.hit.iter().all(|hit| hit.is_some()), "all packets have a session");
            return ticks;
        }
        let ticks = timed(&mut || rule::process(burst, snapshot, stats));
        if stage == Stage::Rule {
            assert!(burst.columns.rule.iter().all(|&rule| rule != NONE), "all packets have a rule");
            return ticks;
        }
        let sessions = &mut self.sessions;
        let sampling = &mut Sampling::new(None);
        let context = balance::Context {
            snapshot,
            generation,
            sessions,
            sampling,
            stats,
            now,
            hits: [0; 2],
            anew: Mask::default(),
        };
        balance::process(burst, &mut { context });
        let ticks = timed(&mut || route::process(burst, snapshot, neighbours));
        if stage == Stage::Route {
            assert_eq!(burst.active.len(), BURST, "all packets have a route");
            return ticks;
        }
        let policers = &mut self.policers;
        let mut context = finish::Context { snapshot, generation, facts, neighbours, policers, stats, now };
        let ticks = timed(&mut || finish::process(burst, &mut context));
        assert!(burst.columns.fate.iter().all(|&fate| fate == Fate::Transmit), "all packets leave");
        ticks
    }
}
