//! The node: workers, slow path, builder and what they share. To the agent it is a [`Runtime`].

mod backends;
mod builder;
mod export;
mod idle;
mod line;
mod objects;
mod observe;
mod plan;
mod ports;
mod preview;
mod query;
mod queues;
mod samples;
mod start;
mod stats;
mod worker;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use marchproxy_engine::Snapshot;
use marchproxy_engine::sampling::Sample;
use marchproxy_engine::stats::ThreadStats;
use marchproxy_engine::tables::RuleTables;
use marchproxy_proto::v1;
use marchproxy_rcu::Reader;
use rtrb::Consumer;
use tokio::sync::oneshot;

use self::builder::Job;
use self::line::Line;
use self::objects::Objects;
use self::ports::Ports;
use self::stats::BusyWindow;
use self::worker::{SlowQuestion, StopSigns, WorkerShared};
use crate::driver::{Driver, EarlyCounts};
use crate::runtime::{Applied, Change, Outlet, Push, Running, Runtime, Stop};
use crate::topology::Machine;

pub use start::{Settings, StartError};

/// How long a thread may take to give up what it holds.
const RELEASE: Duration = Duration::from_secs(2);

/// Where the workers are, for ports that come later.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The machine.
    pub machine: Machine,
    /// The cores were named by the configuration.
    pub named: bool,
    /// Remote cores are allowed.
    pub force_remote: bool,
}

/// What the node's threads share.
pub(crate) struct Shared<D: Driver> {
    driver: Arc<D>,
    place: Place,
    workers: Vec<WorkerShared>,
    slow_stats: Arc<ThreadStats>,
    lines: Arc<[Line<D::Backend>]>,
    ports: Ports<D>,
    objects: Objects,
    /// What rules sampled, by worker.
    samples: Mutex<Vec<Consumer<Sample>>>,
    /// Flows on their way to a collector.
    flows: export::Flows,
    /// Written by the builder.
    running: Mutex<Running>,
    /// A reader for questions; the builder moves it on, so that it never keeps an old generation alive.
    observer: Mutex<Reader<Snapshot>>,
    slow_path: Mutex<mpsc::Sender<SlowQuestion>>,
    /// Held while somebody looks at packets: one at a time.
    watched: Mutex<()>,
    /// What ended in front of the engine before this node: a driver may serve one after the other.
    early_before: EarlyCounts,
    busy: BusyWindow,
    started: Instant,
}

impl<D: Driver> Shared<D> {
    fn threads(&self) -> Vec<Arc<ThreadStats>> {
        self.workers.iter().map(|worker| worker.stats.clone()).chain([self.slow_stats.clone()]).collect()
    }
}

/// The threads, for the end.
struct Threads {
    workers: Vec<JoinHandle<()>>,
    slow_path: JoinHandle<()>,
    builder: JoinHandle<()>,
    flows: JoinHandle<()>,
    released: mpsc::Receiver<()>,
}

/// A running node.
pub struct Node<D: Driver> {
    shared: Arc<Shared<D>>,
    jobs: Mutex<mpsc::Sender<Job>>,
    signs: Arc<StopSigns>,
    threads: Mutex<Option<Threads>>,
}

impl<D: Driver> Node<D> {
    /// Stops receiving, gives up what is held, sends what can be sent, closes the ports. Returns the last conservation terms.
    /// A second call only returns them.
    pub fn stop(&self) -> v1::Conservation {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(threads) = threads {
            self.stop_threads(threads);
            self.shared.ports.close_all();
        }
        self.shared.conservation()
    }

    /// A builder that is gone drops the sender in the job, and the receiver says so.
    fn ask_builder(&self, job: Job) {
        let _ = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).send(job);
    }

    fn stop_threads(&self, threads: Threads) {
        let _ = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).send(Job::Stop);
        join(threads.builder, "builder");
        self.signs.workers.store(true, Ordering::Release);
        let deadline = Instant::now() + RELEASE;
        for _ in &threads.workers {
            let left = deadline.saturating_duration_since(Instant::now());
            if threads.released.recv_timeout(left).is_err() {
                tracing::error!("a worker did not give up its ports within {} s", RELEASE.as_secs());
            }
        }
        tracing::debug!("the workers gave their ports up");
        self.signs.slow_path.store(true, Ordering::Release);
        join(threads.slow_path, "slow path");
        tracing::debug!("the slow path gave up what it held");
        self.signs.all.store(true, Ordering::Release);
        for worker in threads.workers {
            join(worker, "worker");
        }
        // Behind the workers: their last records are in the rings.
        self.shared.flows.stop();
        join(threads.flows, "flows");
    }
}

fn join(thread: JoinHandle<()>, name: &str) {
    if thread.join().is_err() {
        tracing::error!("the {name} thread ended in a panic; please report this");
    }
}

impl<D: Driver> Stop for Node<D> {
    fn stop(&self) -> v1::Conservation {
        Node::stop(self)
    }
}

impl<D: Driver> Runtime for Node<D> {
    fn backend(&self) -> &'static str {
        self.shared.driver.name()
    }

    fn workers(&self) -> u32 {
        self.shared.workers.len() as u32
    }

    fn running(&self) -> Running {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn apply(&self, push: Push) -> oneshot::Receiver<Result<Applied, String>> {
        let (sender, receiver) = oneshot::channel();
        self.ask_builder(Job::Push(Box::new(push), sender));
        receiver
    }

    fn stage(&self, push: Push) -> oneshot::Receiver<Result<u64, String>> {
        let (sender, receiver) = oneshot::channel();
        self.ask_builder(Job::Stage(Box::new(push), sender));
        receiver
    }

    fn change(&self, change: Change) -> oneshot::Receiver<Result<Option<Applied>, String>> {
        let (sender, receiver) = oneshot::channel();
        self.ask_builder(Job::Change(Box::new(change), sender));
        receiver
    }

    fn unstage(&self) {
        self.ask_builder(Job::Unstage);
    }

    fn preview(&self, tables: RuleTables, span: Duration) -> Result<v1::PreviewResponse, String> {
        let (sender, receiver) = oneshot::channel();
        self.ask_builder(Job::Candidate(Box::new(tables), sender));
        let start = Instant::now();
        let candidate = receiver.blocking_recv().unwrap_or_else(|_| Err("the node is stopping".into()))?;
        let build_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(v1::PreviewResponse { build_us, ..self.shared.preview(&candidate, span)? })
    }

    fn turns(&self) -> Vec<(String, u64)> {
        let worker =
            |(number, worker): (usize, &WorkerShared)| (format!("worker {number}"), worker.stats.all_ticks.value());
        let slow_path = ("slow path".to_owned(), self.shared.slow_stats.all_ticks.value());
        self.shared.workers.iter().enumerate().map(worker).chain([slow_path]).collect()
    }

    fn stats(&self) -> v1::StatsResponse {
        self.shared.stats()
    }

    fn why(&self, request: &v1::WhyRequest) -> Result<v1::WhyResponse, String> {
        self.shared.why(request)
    }

    fn trace(&self, request: &v1::TraceRequest, outlet: &Outlet) -> Result<(), String> {
        self.shared.trace(request, outlet)
    }

    fn capture(&self, request: &v1::CaptureRequest, outlet: &Outlet) -> Result<(), String> {
        self.shared.capture(request, outlet)
    }

    fn sessions(&self, request: &v1::SessionsRequest) -> Result<v1::SessionsResponse, String> {
        self.shared.sessions(request)
    }

    fn samples(&self, limit: usize) -> Vec<String> {
        self.shared.samples(limit)
    }

    fn neighbours(&self, request: &v1::NeighboursRequest) -> Result<v1::NeighboursResponse, String> {
        self.shared.neighbours(request)
    }

    fn tiers(&self) -> v1::TiersResponse {
        v1::TiersResponse {
            backend: self.backend().into(),
            ports: self.shared.port_tiers(),
            rules: self.shared.rule_tiers(),
        }
    }

    fn qos(&self, request: &v1::QosRequest) -> v1::QosResponse {
        self.shared.qos(request)
    }

    fn backends(&self, request: &v1::BackendsRequest) -> Result<v1::BackendsResponse, String> {
        self.shared.backends(request)
    }
}
