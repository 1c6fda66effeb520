//! A node as the harness measures it, on any backend: workers, slow path, tables and the seats they take. What the ports are and what
//! arrives on them is the caller's.

use std::sync::Arc;

use marchproxy_cpu::{MemoryOptions, MemoryReport, Pages};
use marchproxy_engine::io::Mac;
use marchproxy_engine::ledger::{Backend, HandedOff, Ledger};
use marchproxy_engine::pipeline::Pipeline;
use marchproxy_engine::ports::{PortFacts, PortSlot};
use marchproxy_engine::slow::{SlowPath, WorkerLink};
use marchproxy_engine::snapshot::Snapshot;
use marchproxy_engine::stats::{ThreadStats, Totals};
use marchproxy_engine::table::neighbours::NeighbourTable;
use marchproxy_engine::table::sessions::{Sessions, Slabs};
use marchproxy_engine::tables::RuleTables;
use marchproxy_engine::worker::{Command, Worker};
use marchproxy_engine::{Budget, build};
use marchproxy_rcu::Publisher;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::Error;

/// Slots of the rings between worker and slow path: twice the buffers in circulation.
pub const RINGS: usize = 2 * crate::rig::BUFFERS;

/// Slots of a ring from one worker to another, as many as the daemon gives it.
const HAND_OFFS: usize = 1024;

/// A port as a backend opened it.
pub struct OpenPort<K: Backend> {
    /// Its receive queue.
    pub rx: K::Rx,
    /// Its transmit queue.
    pub tx: K::Tx,
    /// Its address.
    pub mac: Mac,
}

/// One worker, its slow path, and what they share.
pub struct Node<K: Backend> {
    /// The worker.
    pub worker: Worker<K>,
    /// The slow path.
    pub slow: SlowPath<K>,
    /// The publishing side of the tables.
    pub publisher: Publisher<Snapshot>,
    /// Resolved next hops.
    pub neighbours: NeighbourTable,
    /// The budget its tables were built under.
    pub budget: Budget,
    /// What the session table's memory is.
    pub memory: String,
}

/// Several workers, their slow path, and what they share.
pub struct Team<K: Backend> {
    /// The workers, by their number.
    pub workers: Vec<Worker<K>>,
    /// The slow path.
    pub slow: SlowPath<K>,
    /// The publishing side of the tables.
    pub publisher: Publisher<Snapshot>,
    /// Resolved next hops.
    pub neighbours: NeighbourTable,
    /// The budget its tables were built under.
    pub budget: Budget,
    /// What the session tables' memory is.
    pub memory: String,
}

/// A worker's ends of the hand-off rings: to each other worker by number, and from each.
struct HandOffs<K: Backend> {
    peers: Vec<Option<Producer<HandedOff<K::Buf>>>>,
    inbox: Vec<Consumer<HandedOff<K::Buf>>>,
}

/// A ring from every worker to every other.
fn hand_offs<K: Backend>(count: usize) -> Vec<HandOffs<K>> {
    let mut all: Vec<_> = (0..count).map(|_| HandOffs { peers: Vec::new(), inbox: Vec::new() }).collect();
    for from in 0..count {
        for to in 0..count {
            let (put, take) = (from != to).then(|| RingBuffer::new(HAND_OFFS)).unzip();
            all[from].peers.push(put);
            all[to].inbox.extend(take);
        }
    }
    all
}

impl<K: Backend> Team<K> {
    /// `count` workers that run `tables`, each with room for `sessions` sessions. `open` is asked for each worker's queues of each port, in
    /// name order. Fails with the engine's reason when it refuses the tables.
    pub fn new(
        tables: &RuleTables,
        count: usize,
        sessions: usize,
        pool: K::Pool,
        mut open: impl FnMut(usize, PortSlot) -> Result<OpenPort<K>, Error>,
    ) -> Result<Self, Error> {
        let counters = tables.rules.len()
            + tables.services.iter().map(|s| s.backends.len() + 1).sum::<usize>()
            // All packets, the yellow and the red ones.
            + 3 * tables.policers.len();
        let budget = Budget { counters: counters as u32, workers: count, ..Budget::default() };
        let snapshot = build(tables, None, &budget)?;
        let (publisher, mut readers) = marchproxy_rcu::channel(snapshot, count + 1);
        let Some(slow_reader) = readers.pop() else { return Err(Error::Harness("a reader was asked for")) };
        let (facts, neighbours) = (PortFacts::default(), NeighbourTable::default());
        let (mut workers, mut links, mut memory) = (Vec::new(), Vec::new(), String::new());
        for (number, (reader, rings)) in readers.into_iter().zip(hand_offs::<K>(count)).enumerate() {
            let (punts_in, punts) = RingBuffer::new(RINGS);
            let (injects, injects_out) = RingBuffer::new(RINGS);
            let (mut commands, commands_out) = RingBuffer::new(tables.ports.len().max(1));
            // The worker asks for room for an answer before it takes a command; adding ports gives none.
            let (replies, _) = RingBuffer::new(1);
            let (sessions, pages) = session_table(sessions)?;
            memory = pages;
            let stats = Arc::new(ThreadStats::new(counters));
            let policers = budget.policers as usize;
            let pipeline = Pipeline::new(sessions, policers, neighbours.clone(), facts.clone(), stats.clone())
                .with_seat(number, count);
            let mut ports = 0;
            for (slot, _) in publisher.current().ports() {
                let OpenPort { rx, tx, mac } = open(number, slot)?;
                facts.set_mac(slot, mac);
                commands
                    .push(Command::AddPort { port: slot, rx, tx })
                    .map_err(|_| Error::Harness("the ring has a place for every port"))?;
                ports += 1;
            }
            let ledger = Ledger::new(stats, punts_in, injects_out).with_peers(rings.peers);
            let mut worker = Worker::new(reader, pipeline, ledger, commands_out, replies).with_inbox(rings.inbox);
            // One command a turn.
            for _ in 0..ports {
                worker.turn(0);
            }
            workers.push(worker);
            links.push(WorkerLink { punts, injects });
        }
        let slow_stats = Arc::new(ThreadStats::new(0));
        let slow = SlowPath::new(slow_reader, links, pool, neighbours.clone(), facts, slow_stats);
        Ok(Self { workers, slow, publisher, neighbours, budget, memory })
    }
}

impl<K: Backend> Node<K> {
    /// A node that runs `tables`, with room for `sessions` sessions. `open` is asked for each port, in name order. Fails with the
    /// engine's reason when it refuses the tables.
    pub fn new(
        tables: &RuleTables,
        sessions: usize,
        pool: K::Pool,
        mut open: impl FnMut(PortSlot) -> Result<OpenPort<K>, Error>,
    ) -> Result<Self, Error> {
        let mut team = Team::new(tables, 1, sessions, pool, |_, slot| open(slot))?;
        let Some(worker) = team.workers.pop() else { return Err(Error::Harness("one worker was asked for")) };
        let Team { slow, publisher, neighbours, budget, memory, .. } = team;
        Ok(Self { worker, slow, publisher, neighbours, budget, memory })
    }

    /// Lets the worker ask for this many packets at once.
    #[must_use]
    pub fn with_burst(self, packets: usize) -> Self {
        Self { worker: self.worker.with_burst(packets), ..self }
    }

    /// Conservation terms of worker and slow path together.
    pub fn totals(&self) -> Totals {
        self.worker.stats().totals.read().plus(&self.slow.stats().totals.read())
    }
}

/// The session table as the daemon makes it: shared memory, huge pages where there are any.
pub fn session_table(count: usize) -> Result<(Sessions, String), Error> {
    // No load uses the secret's strength, and a fixed one keeps runs comparable.
    const SECRET: u64 = 0x5eed;
    let options = MemoryOptions { huge: true, numa_node: None };
    let slabs = Slabs::memfd("perf-sessions", count.max(1), options)?;
    let pages = |report: &MemoryReport| match report.pages {
        Pages::Huge(bytes) => format!("huge pages of {} KiB", bytes >> 10),
        Pages::Normal => "normal pages".into(),
        Pages::Heap => "heap".to_owned(),
    };
    let reports = slabs.reports();
    let memory = match reports.each_ref().map(pages) {
        [entries, origins, buckets] if entries == origins && entries == buckets => entries,
        [entries, origins, buckets] => format!("entries {entries}, their origins {origins}, buckets {buckets}"),
    };
    Ok((Sessions::new(slabs, SECRET), memory))
}
