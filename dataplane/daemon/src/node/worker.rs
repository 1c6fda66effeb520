//! The threads that move packets: one pinned worker per core, one unpinned slow path.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use marchproxy_cpu::{TscClock, pin_current_thread, prefer_memory_of, tsc};
use marchproxy_engine::observe::Lens;
use marchproxy_engine::slow::{HealthInfo, NeighbourInfo, SlowPath};
use marchproxy_engine::stats::ThreadStats;
use marchproxy_engine::worker::Worker;

use super::idle::{Backoff, precise_sleeps};
use crate::config::Idle;
use crate::driver::Driver;
use crate::topology::WorkerCore;

/// When the threads stop. In this order nothing is left in a ring: workers give up their ports, then the slow path everything it
/// holds, then the workers what it sent them last.
#[derive(Debug, Default)]
pub(super) struct StopSigns {
    pub(super) workers: AtomicBool,
    pub(super) slow_path: AtomicBool,
    pub(super) all: AtomicBool,
}

/// What a worker's thread shares with the others.
#[derive(Clone, Debug)]
pub(super) struct WorkerShared {
    pub(super) core: WorkerCore,
    pub(super) stats: Arc<ThreadStats>,
    /// Sessions it has room for.
    pub(super) sessions: u64,
    /// The generation it runs; written by the worker once per turn.
    pub(super) generation: Arc<AtomicU64>,
}

/// What every thread is told.
pub(super) struct Orders<D: Driver> {
    pub(super) driver: Arc<D>,
    pub(super) clock: TscClock,
    pub(super) idle: Idle,
    pub(super) signs: Arc<StopSigns>,
    /// Whether the thread came up.
    pub(super) up: mpsc::Sender<Result<(), String>>,
    /// Whether it gave up its ports.
    pub(super) released: mpsc::Sender<()>,
}

impl<D: Driver> Clone for Orders<D> {
    fn clone(&self) -> Self {
        Self {
            driver: self.driver.clone(),
            clock: self.clock,
            idle: self.idle,
            signs: self.signs.clone(),
            up: self.up.clone(),
            released: self.released.clone(),
        }
    }
}

/// Starts worker `number` on its core.
pub(super) fn start_worker<D: Driver>(
    number: usize,
    mut worker: Worker<D::Backend>,
    shared: WorkerShared,
    orders: Orders<D>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        let core = shared.core;
        let entered = pin_current_thread(core.cpu)
            .map_err(|error| format!("worker {number}: core {}: {error}", core.cpu))
            .and_then(|()| {
                // A machine without NUMA, or a container without the right: memory is where the thread first touches it.
                let _ = prefer_memory_of(core.node);
                orders.driver.enter_thread().map_err(|error| format!("worker {number}: {error}"))
            });
        let guard = match entered {
            Ok(guard) => guard,
            Err(error) => {
                let _ = orders.up.send(Err(error));
                return;
            }
        };
        precise_sleeps();
        let _ = orders.up.send(Ok(()));
        work(&mut worker, &shared, &orders);
        drop(worker.release());
        let _ = orders.released.send(());
        while !orders.signs.all.load(Ordering::Acquire) {
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        worker.release();
        drop(worker);
        drop(guard);
    })
}

fn work<D: Driver>(worker: &mut Worker<D::Backend>, shared: &WorkerShared, orders: &Orders<D>) {
    let mut backoff = Backoff::worker(orders.idle);
    let (mut last, mut busy) = (tsc(), false);
    while !orders.signs.workers.load(Ordering::Acquire) {
        // The one clock reading of a turn: it ends the last one, sleep included, and dates this one.
        let now = tsc();
        let ticks = now.saturating_sub(last);
        last = now;
        shared.stats.all_ticks.add(ticks);
        if busy {
            shared.stats.busy_ticks.add(ticks);
        }
        let turn = worker.turn(orders.clock.nanos(now));
        shared.generation.store(worker.generation(), Ordering::Release);
        busy = turn.packets > 0;
        // What waits in a queue may be due any moment.
        let nap = backoff.after(turn.packets + usize::from(turn.waiting));
        if !nap.is_zero() {
            std::thread::sleep(nap);
        } else if !busy {
            std::hint::spin_loop();
        }
    }
}

/// A question to the slow path; what tells of times comes with its clock's.
pub(super) enum SlowQuestion {
    /// Its neighbours.
    Neighbours(mpsc::Sender<(Vec<NeighbourInfo>, u64)>),
    /// The backends it checks.
    Health(mpsc::Sender<(Vec<HealthInfo>, u64)>),
    /// Look at packets that end there through this lens, or no more; the answer is the one before.
    Observe(Option<Box<Lens>>, mpsc::Sender<Option<Box<Lens>>>),
}

/// Between two calls for sessions of lost backends to be decided anew: what falls together is called once.
const LOSSES_APART: u64 = 20_000_000;

/// Starts the slow path.
pub(super) fn start_slow_path<D: Driver>(
    mut slow: SlowPath<D::Backend>,
    stats: Arc<ThreadStats>,
    questions: mpsc::Receiver<SlowQuestion>,
    lost: impl Fn() + Send + 'static,
    orders: Orders<D>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("slow-path".into()).spawn(move || {
        let guard = match orders.driver.enter_thread() {
            Ok(guard) => guard,
            Err(error) => {
                let _ = orders.up.send(Err(format!("slow path: {error}")));
                return;
            }
        };
        precise_sleeps();
        let _ = orders.up.send(Ok(()));
        let mut backoff = Backoff::slow_path(orders.idle);
        let mut call_from = 0;
        while !orders.signs.slow_path.load(Ordering::Acquire) {
            let ticks = tsc();
            // It only has to move: whoever asks whether the thread is alive looks for that.
            stats.all_ticks.set(ticks);
            let now = orders.clock.nanos(ticks);
            let packets = slow.turn(now);
            while let Ok(question) = questions.try_recv() {
                // Whoever gave up waiting is not told.
                match question {
                    SlowQuestion::Neighbours(asker) => drop(asker.send((slow.neighbours().collect(), now))),
                    SlowQuestion::Health(asker) => drop(asker.send((slow.health().collect(), now))),
                    SlowQuestion::Observe(lens, asker) => drop(asker.send(slow.observe(lens, now))),
                }
            }
            if now >= call_from && slow.take_lost() {
                call_from = now + LOSSES_APART;
                lost();
            }
            let nap = backoff.after(packets);
            if !nap.is_zero() {
                std::thread::sleep(nap);
            }
        }
        slow.release();
        drop(slow);
        drop(guard);
    })
}
