//! Putting a node together: tables on the right memory, rings between the threads, threads on the right cores.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use marchproxy_cpu::{MemoryError, MemoryOptions, MemoryReport, Pages, TscClock};
use marchproxy_engine::ledger::{Backend, HandedOff, Ledger};
use marchproxy_engine::pipeline::Pipeline;
use marchproxy_engine::ports::PortFacts;
use marchproxy_engine::slow::{SlowPath, WorkerLink};
use marchproxy_engine::stats::{MAX_PORTS, ThreadStats};
use marchproxy_engine::table::neighbours::NeighbourTable;
use marchproxy_engine::table::sessions::{Sessions, Slabs};
use marchproxy_engine::worker::Worker;
use marchproxy_engine::{Budget, Snapshot, Successor};
use rtrb::{Consumer, Producer, RingBuffer};

use super::builder::{Builder, Job};
use super::line::Line;
use super::objects::Objects;
use super::ports::Ports;
use super::stats::BusyWindow;
use super::worker::{Orders, StopSigns, WorkerShared, start_slow_path, start_worker};
use super::{Node, Place, Shared, Threads, export, samples};
use crate::config::{HugepageMode, Idle};
use crate::driver::Driver;
use crate::runtime::Running;
use crate::topology::WorkerCore;

/// Packets between a worker and the slow path, each way: a burst of unresolved neighbours fits.
const RING: usize = 1024;
/// Every port may come or go in one push.
const COMMANDS: usize = MAX_PORTS;
/// A thread that does not come up in this time never will.
const COME_UP: Duration = Duration::from_secs(5);

/// What a node is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One worker on each.
    pub cores: Vec<WorkerCore>,
    /// The machine around them.
    pub place: Place,
    /// Sessions of the node, divided among the workers.
    pub sessions: usize,
    /// Memory of the session tables.
    pub hugepages: HugepageMode,
    /// What workers do without packets.
    pub idle: Idle,
    /// What a snapshot may cost.
    pub budget: Budget,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No memory for a session table.
    #[error("sessions: {0}")]
    Memory(#[from] MemoryError),
    /// A thread could not be started.
    #[error("{thread}: {source}")]
    Thread {
        /// Which.
        thread: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// A thread could not take its place.
    #[error("{0}")]
    Place(String),
    /// The system gave no random numbers.
    #[error("the system gives no random numbers for keyed hashes and sequence numbers")]
    Random,
}

/// A worker's ends of the hand-off rings: to each other worker by number, and from each.
struct Seat<K: Backend> {
    peers: Vec<Option<Producer<HandedOff<K::Buf>>>>,
    inbox: Vec<Consumer<HandedOff<K::Buf>>>,
}

/// A ring from every worker to every other.
fn seats<K: Backend>(count: usize) -> Vec<Seat<K>> {
    let mut seats: Vec<Seat<K>> = (0..count).map(|_| Seat { peers: Vec::new(), inbox: Vec::new() }).collect();
    for from in 0..count {
        for to in 0..count {
            let ring = (from != to).then(|| RingBuffer::new(RING));
            let (put, take) = ring.unzip();
            seats[from].peers.push(put);
            seats[to].inbox.extend(take);
        }
    }
    seats
}

struct Built<K: Backend> {
    worker: Worker<K>,
    shared: WorkerShared,
    line: Line<K>,
    link: WorkerLink<K::Buf>,
}

impl<D: Driver> Node<D> {
    /// Starts all threads; the node runs the empty configuration (every packet is dropped) until the first push.
    pub fn start(driver: D, settings: &Settings) -> Result<Self, StartError> {
        Self::start_with(Arc::new(driver), settings)
    }

    /// The same with a driver that others know, too.
    pub fn start_with(driver: Arc<D>, settings: &Settings) -> Result<Self, StartError> {
        let count = settings.cores.len();
        // The workers', the slow path's and the observer's.
        let (publisher, mut readers) = marchproxy_rcu::channel(Snapshot::default(), count + 2);
        let (facts, neighbours) = (PortFacts::default(), NeighbourTable::default());
        let mut spare = readers.split_off(count);
        let (Some(observer), Some(slow_reader)) = (spare.pop(), spare.pop()) else { return Err(StartError::Random) };
        let mut built = Vec::with_capacity(count);
        let mut samples = Vec::with_capacity(count);
        let seats = seats::<D::Backend>(count);
        for (number, ((reader, &core), seat)) in readers.into_iter().zip(&settings.cores).zip(seats).enumerate() {
            let stats = Arc::new(ThreadStats::new(settings.budget.counters as usize));
            let sessions = sessions(number, core, settings)?;
            let policers = settings.budget.policers as usize;
            let (samples_in, samples_out) = RingBuffer::new(samples::RING);
            samples.push(samples_out);
            let pipeline = Pipeline::new(sessions, policers, neighbours.clone(), facts.clone(), stats.clone())
                .with_seat(number, count)
                .with_samples(samples_in);
            let (punts_in, punts) = RingBuffer::new(RING);
            let (injects, injects_out) = RingBuffer::new(RING);
            let (commands, commands_out) = RingBuffer::new(COMMANDS);
            let (replies_in, replies) = RingBuffer::new(COMMANDS);
            let ledger = Ledger::new(stats.clone(), punts_in, injects_out).with_peers(seat.peers);
            built.push(Built::<D::Backend> {
                worker: Worker::new(reader, pipeline, ledger, commands_out, replies_in).with_inbox(seat.inbox),
                shared: WorkerShared {
                    core,
                    stats,
                    sessions: entries(settings) as u64,
                    generation: Arc::new(AtomicU64::new(1)),
                },
                line: Line::new(commands, replies),
                link: WorkerLink { punts, injects },
            });
        }
        let (mut workers, mut shared, mut lines, mut links) = (vec![], vec![], vec![], vec![]);
        for Built { worker, shared: of_worker, line, link } in built {
            workers.push(worker);
            shared.push(of_worker);
            lines.push(line);
            links.push(link);
        }
        let slow_stats = Arc::new(ThreadStats::new(0));
        let pool = driver.pool().map_err(StartError::Place)?;
        let slow = SlowPath::new(slow_reader, links, pool, neighbours, facts.clone(), slow_stats.clone())
            .with_checks(secret()?)
            .announcing();
        let lines: Arc<[Line<D::Backend>]> = lines.into();
        let clock = TscClock::calibrate();
        let (flows, exporter) = export::Flows::new(entries(settings), settings.hugepages != HugepageMode::Off);
        let (slow_path, questions) = mpsc::channel();
        let shared = Arc::new(Shared {
            ports: Ports::new(driver.clone(), facts, lines.clone()),
            driver: driver.clone(),
            place: settings.place.clone(),
            busy: BusyWindow::new(count),
            workers: shared,
            slow_stats,
            lines,
            objects: Objects::default(),
            samples: Mutex::new(samples),
            flows,
            running: Mutex::new(Running { generation: 1, ..Running::default() }),
            observer: Mutex::new(observer),
            slow_path: Mutex::new(slow_path),
            watched: Mutex::new(()),
            early_before: driver.early_counts(),
            started: Instant::now(),
        });

        let (jobs, inbox) = mpsc::channel();
        let loss: mpsc::Sender<Job> = jobs.clone();
        let budget = Budget { workers: count, ..settings.budget };
        let successor = Successor::default();
        let builder =
            Builder { staged: None, builds: 0, publisher, shared: shared.clone(), budget, down: 0, successor };
        let builder = spawn("builder", move || builder.run(&inbox))?;
        let exporting = exporter.totals(shared.workers.iter().map(|worker| worker.stats.clone()).collect());
        let flows = spawn("flows", move || exporting.run(clock))?;
        let (up, came_up) = mpsc::channel();
        let (released, releases) = mpsc::channel();
        let signs = Arc::new(StopSigns::default());
        let orders = Orders { driver, clock, idle: settings.idle, signs: signs.clone(), up, released };
        let failed = |thread: &str, source| StartError::Thread { thread: thread.into(), source };
        // A builder that is gone has nothing to decide any more.
        let lost = move || drop(loss.send(Job::BackendLost));
        let slow_path = start_slow_path::<D>(slow, shared.slow_stats.clone(), questions, lost, orders.clone())
            .map_err(|error| failed("slow path", error))?;
        let mut handles = Vec::with_capacity(count);
        for (number, (worker, of_worker)) in workers.into_iter().zip(&shared.workers).enumerate() {
            let handle = start_worker(number, worker, of_worker.clone(), orders.clone());
            handles.push(handle.map_err(|error| failed(&format!("worker {number}"), error))?);
        }
        drop(orders);
        let threads = Threads { workers: handles, slow_path, builder, flows, released: releases };
        let node = Self { shared, jobs: Mutex::new(jobs), signs, threads: Mutex::new(Some(threads)) };
        for _ in 0..=count {
            let up = came_up.recv_timeout(COME_UP);
            let up = up.unwrap_or_else(|_| Err(format!("a thread did not come up within {} s", COME_UP.as_secs())));
            if let Err(reason) = up {
                node.stop();
                return Err(StartError::Place(reason));
            }
        }
        Ok(node)
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(|source| StartError::Thread { thread: name.into(), source })
}

/// Sessions of one worker.
fn entries(settings: &Settings) -> usize {
    (settings.sessions / settings.cores.len().max(1)).max(1)
}

/// A worker's session table: shared memory in huge pages of its node, so that a successor process can adopt it.
fn sessions(worker: usize, core: WorkerCore, settings: &Settings) -> Result<Sessions, StartError> {
    let options = MemoryOptions { huge: settings.hugepages != HugepageMode::Off, numa_node: core.node };
    let slabs = Slabs::memfd(&format!("marchproxy-sessions-{worker}"), entries(settings), options)?;
    for report in slabs.reports() {
        tell(worker, &report);
        if settings.hugepages == HugepageMode::Required && !matches!(report.pages, Pages::Huge(_)) {
            let shortfall = report.shortfall.unwrap_or_default();
            return Err(StartError::Place(format!("memory.hugepages: required, but {shortfall}")));
        }
    }
    Ok(Sessions::new(slabs, secret()?))
}

/// What strangers shall not guess.
fn secret() -> Result<u64, StartError> {
    let mut secret = [0; 8];
    rand::fill(&mut secret).map_err(|_| StartError::Random)?;
    Ok(u64::from_ne_bytes(secret))
}

fn tell(worker: usize, report: &MemoryReport) {
    let pages = match report.pages {
        Pages::Heap => "heap".to_owned(),
        Pages::Normal => "normal pages".to_owned(),
        Pages::Huge(size) => format!("pages of {} MB", size >> 20),
    };
    let node = report.node.map_or_else(String::new, |node| format!(" of NUMA node {node}"));
    tracing::debug!("worker {worker}: {} MB of session memory in {pages}{node}", report.bytes >> 20);
    if let Some(shortfall) = &report.shortfall {
        tracing::warn!("worker {worker}: {shortfall}");
    }
}
