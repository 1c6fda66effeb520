//! A whole node on the memory backend in one thread: one worker and the slow path, driven step by step. Tests, examples and the
//! harness use it.

use std::sync::Arc;

use marchproxy_rcu::Publisher;

use crate::build::{Budget, BuildError, build};
use crate::io::{Mac, PacketBuf};
use crate::ledger::Ledger;
use crate::memory::{Memory, MemoryBuf, MemoryPool, Wire};
use crate::pipeline::Pipeline;
use crate::ports::{PortFacts, PortSlot};
use crate::qos::{QueueCounters, Scheduler};
use crate::reason::DropReason;
use crate::sampling::Sample;
use crate::slow::{SlowPath, WorkerLink};
use crate::snapshot::Snapshot;
use crate::stats::{ThreadStats, Totals};
use crate::table::neighbours::NeighbourTable;
use crate::table::sessions::Sessions;
use crate::tables::RuleTables;
use crate::worker::{Command, Worker};

/// How large a node's tables are.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Session table entries.
    pub sessions: usize,
    /// Counter slots.
    pub counters: u32,
    /// Slots of each wire.
    pub wire: usize,
    /// Packets that fit into the queues of a shaped port.
    pub places: u32,
    /// Whether addresses are announced when they appear.
    pub announcing: bool,
}

impl Default for Size {
    fn default() -> Self {
        Self { sessions: 4096, counters: 1 << 12, wire: 1 << 14, places: 1 << 12, announcing: false }
    }
}

/// The MAC address the testkit gives to the port at a slot.
pub const fn port_mac(index: usize) -> Mac {
    [0x02, 0x4d, 0x50, 0, 0, index as u8 + 1]
}

/// A node.
pub struct Node {
    /// The publishing side.
    pub publisher: Publisher<Snapshot>,
    /// The worker.
    pub worker: Worker<Memory>,
    /// The slow path.
    pub slow: SlowPath<Memory>,
    /// Where to give the worker orders.
    pub commands: rtrb::Producer<Command<Memory>>,
    /// Where the worker answers.
    pub replies: rtrb::Consumer<crate::worker::Reply<Memory>>,
    /// What rules recorded.
    pub samples: rtrb::Consumer<Sample>,
    facts: PortFacts,
    wires: Vec<(PortSlot, Wire)>,
    queues: Vec<(PortSlot, Arc<QueueCounters>)>,
    budget: Budget,
    size: Size,
    /// Ports whose link is down.
    down: Vec<String>,
}

impl Node {
    /// A node that runs `tables`.
    pub fn new(tables: &RuleTables) -> Result<Self, BuildError> {
        Self::with_size(tables, Size::default())
    }

    /// A node that runs `tables`, with these table sizes.
    pub fn with_size(tables: &RuleTables, size: Size) -> Result<Self, BuildError> {
        let (punts_in, punts) = rtrb::RingBuffer::new(1024);
        let (injects, injects_out) = rtrb::RingBuffer::new(1024);
        let (commands, commands_out) = rtrb::RingBuffer::new(64);
        let (replies_in, replies) = rtrb::RingBuffer::new(64);
        let (publisher, mut readers) = marchproxy_rcu::channel(Snapshot::default(), 2);
        let (Some(slow_reader), Some(reader)) = (readers.pop(), readers.pop()) else {
            unreachable!("two were asked for")
        };
        let (facts, neighbours) = (PortFacts::default(), NeighbourTable::default());
        let budget = Budget { counters: size.counters, policers: 1 << 10, queues: 255, ..Budget::default() };
        let stats = Arc::new(ThreadStats::new(size.counters as usize));
        let sessions = Sessions::heap(size.sessions, 0x5eed);
        let (samples_in, samples) = rtrb::RingBuffer::new(4096);
        let pipeline =
            Pipeline::new(sessions, 1 << 10, neighbours.clone(), facts.clone(), stats.clone()).with_samples(samples_in);
        let ledger = Ledger::new(stats, punts_in, injects_out);
        let worker = Worker::new(reader, pipeline, ledger, commands_out, replies_in);
        let slow_stats = Arc::new(ThreadStats::new(0));
        let links = vec![WorkerLink { punts, injects }];
        let slow = SlowPath::new(slow_reader, links, MemoryPool, neighbours, facts.clone(), slow_stats);
        let slow = if size.announcing { slow.announcing() } else { slow };
        let (wires, queues) = (Vec::new(), Vec::new());
        let mut node = Self {
            publisher,
            worker,
            slow,
            commands,
            replies,
            samples,
            facts,
            wires,
            queues,
            budget,
            size,
            down: Vec::new(),
        };
        node.push(tables)?;
        Ok(node)
    }

    /// Lets it check the health of backends.
    #[must_use]
    pub fn with_checks(mut self) -> Self {
        self.slow = self.slow.with_checks(0x5eed);
        self
    }

    /// Publishes new tables; new ports get wires. The worker sees them at its next turn.
    pub fn push(&mut self, tables: &RuleTables) -> Result<u64, BuildError> {
        let snapshot = build(tables, Some(self.publisher.current()), &self.budget)?;
        for (slot, _) in snapshot.ports() {
            if self.wires.iter().any(|(known, _)| *known == slot) {
                continue;
            }
            let (wire, rx, tx) = Wire::new(self.size.wire);
            self.facts.set_mac(slot, port_mac(slot.index()));
            // The ring has room for every port there can be.
            let _ = self.commands.push(Command::AddPort { port: slot, rx, tx });
            self.wires.push((slot, wire));
        }
        for (slot, _) in snapshot.shaping.ports() {
            if !self.queues.iter().any(|(known, _)| *known == slot) {
                let queues = Scheduler::new(self.size.places, 255);
                self.queues.push((slot, queues.counters()));
                let _ = self.commands.push(Command::Queues(slot, Some(Box::new(queues))));
            }
        }
        snapshot.set_links_down(self.down_in(&snapshot));
        let generation = self.publisher.publish(snapshot);
        self.publisher.reclaim();
        Ok(generation)
    }

    /// The links of these ports are down, and of no others.
    pub fn set_links_down(&mut self, ports: &[&str]) {
        self.down = ports.iter().map(|&port| port.to_owned()).collect();
        let snapshot = self.publisher.current();
        snapshot.set_links_down(self.down_in(snapshot));
    }

    fn down_in(&self, snapshot: &Snapshot) -> u64 {
        let down = snapshot.ports().filter(|(_, port)| self.down.contains(&port.name));
        down.fold(0, |all, (slot, _)| all | 1 << slot.index())
    }

    /// The wire of a port.
    pub fn wire(&self, name: &str) -> Option<&Wire> {
        let (slot, _) = self.publisher.current().ports().find(|(_, spec)| spec.name == name)?;
        self.wires.iter().find(|(known, _)| *known == slot).map(|(_, wire)| wire)
    }

    /// What the queues of a shaped port count.
    pub fn queues(&self, name: &str) -> Option<&QueueCounters> {
        let (slot, _) = self.publisher.current().ports().find(|(_, spec)| spec.name == name)?;
        self.queues.iter().find(|(known, _)| *known == slot).map(|(_, counters)| &**counters)
    }

    /// The MAC address of a port.
    pub fn mac(&self, name: &str) -> Option<Mac> {
        let (slot, _) = self.publisher.current().ports().find(|(_, spec)| spec.name == name)?;
        Some(port_mac(slot.index()))
    }

    /// Does what checks do when these backends of a service are out, and no others of it.
    pub fn leave_out(&self, service: &str, backends: &[&str]) {
        if let Some(service) = self.publisher.current().services.named(service) {
            let out: Vec<bool> = service.backends().map(|b| backends.contains(&b.name.as_str())).collect();
            service.leave_out(&out);
        }
    }

    /// The same tables under the next number.
    pub fn republish(&mut self) {
        self.publisher.republish();
    }

    /// Puts a frame on a port's wire.
    pub fn receive(&self, port: &str, frame: &[u8]) {
        if let Some(wire) = self.wire(port) {
            wire.put(MemoryBuf::new(frame));
        }
    }

    /// Runs worker and slow path at one moment until nothing moves any more (bounded).
    pub fn run(&mut self, now: u64) {
        // Ports and queues are added one command a turn.
        for _ in 0..self.wires.len() + self.queues.len() {
            self.worker.turn(now);
        }
        for _ in 0..10_000 {
            let moved = self.worker.turn(now).packets + self.slow.turn(now);
            if moved == 0 && self.worker.turn(now).packets == 0 {
                return;
            }
        }
    }

    /// What was sent since the last call: port name and frame, in order per port.
    pub fn sent(&self) -> Vec<(String, Vec<u8>)> {
        let mut sent = Vec::new();
        for (slot, spec) in self.publisher.current().ports() {
            for (_, wire) in self.wires.iter().filter(|(known, _)| *known == slot) {
                sent.extend(wire.take().iter().map(|p| (spec.name.clone(), p.data().to_vec())));
            }
        }
        sent
    }

    /// Conservation terms of the node.
    pub fn totals(&self) -> Totals {
        self.worker.stats().totals.read().plus(&self.slow.stats().totals.read())
    }

    /// Drops under a reason, worker and slow path together.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.worker.stats().drops[reason.index()].value() + self.slow.stats().drops[reason.index()].value()
    }
}
