//! A node as the harness measures it, on any backend: worker, slow path, tables and the seats they take. What the ports are and what
//! arrives on them is the caller's.

use std::sync::Arc;

use marchproxy_cpu::{MemoryOptions, MemoryReport, Pages};
use marchproxy_engine::io::Mac;
use marchproxy_engine::ledger::{Backend, Ledger};
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

use crate::Error;

/// Slots of the rings between worker and slow path: twice the buffers in circulation.
pub const RINGS: usize = 2 * crate::rig::BUFFERS;

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

impl<K: Backend> Node<K> {
    /// A node that runs `tables`, with room for `sessions` sessions. `open` is asked for each port, in name order. Fails with the
    /// engine's reason when it refuses the tables.
    pub fn new(
        tables: &RuleTables,
        sessions: usize,
        pool: K::Pool,
        mut open: impl FnMut(PortSlot) -> Result<OpenPort<K>, Error>,
    ) -> Result<Self, Error> {
        let counters = tables.rules.len()
            + tables.services.iter().map(|s| s.backends.len() + 1).sum::<usize>()
            + tables.policers.len();
        let budget = Budget { counters: counters as u32, ..Budget::default() };
        let snapshot = build(tables, None, &budget)?;
        let (publisher, mut readers) = marchproxy_rcu::channel(snapshot, 2);
        let (Some(slow_reader), Some(reader)) = (readers.pop(), readers.pop()) else {
            return Err(Error::Harness("two readers were asked for"));
        };
        let (punts_in, punts) = rtrb::RingBuffer::new(RINGS);
        let (injects, injects_out) = rtrb::RingBuffer::new(RINGS);
        let (mut commands, commands_out) = rtrb::RingBuffer::new(tables.ports.len().max(1));
        // The worker asks for room for an answer before it takes a command; adding ports gives none.
        let (replies, _) = rtrb::RingBuffer::new(1);
        let (facts, neighbours) = (PortFacts::default(), NeighbourTable::default());
        let (sessions, memory) = session_table(sessions)?;
        let stats = Arc::new(ThreadStats::new(counters));
        let pipeline =
            Pipeline::new(sessions, budget.policers as usize, neighbours.clone(), facts.clone(), stats.clone());
        let mut ports = 0;
        for (slot, _) in publisher.current().ports() {
            let OpenPort { rx, tx, mac } = open(slot)?;
            facts.set_mac(slot, mac);
            commands
                .push(Command::AddPort { port: slot, rx, tx })
                .map_err(|_| Error::Harness("the ring has a place for every port"))?;
            ports += 1;
        }
        let mut worker =
            Worker::new(reader, pipeline, Ledger::new(stats, punts_in, injects_out), commands_out, replies);
        let links = vec![WorkerLink { punts, injects }];
        let slow_stats = Arc::new(ThreadStats::new(0));
        let slow = SlowPath::new(slow_reader, links, pool, neighbours.clone(), facts, slow_stats);
        // One command a turn.
        for _ in 0..ports {
            worker.turn(0);
        }
        Ok(Self { worker, slow, publisher, neighbours, budget, memory })
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
