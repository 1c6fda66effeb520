//! The measured node: one worker and the slow path on the timed memory backend, the wires of its ports, the stations around it, and the
//! buffers that circulate like the descriptors of a network card.

use std::sync::Arc;

use marchproxy_cpu::tsc;
use marchproxy_engine::burst::BURST;
use marchproxy_engine::io::{Mac, PacketBuf};
use marchproxy_engine::memory::{MemoryBuf, MemoryPool, Wire};
use marchproxy_engine::snapshot::Snapshot;
use marchproxy_engine::stats::{ThreadStats, Totals};
use marchproxy_engine::table::neighbours::NeighbourTable;
use marchproxy_engine::table::sessions::Sessions;
use marchproxy_engine::tables::RuleTables;
use marchproxy_engine::testkit::port_mac;

use crate::Error;
use crate::backend::{Meter, Timed, TimedRx, TimedTx};
use crate::load::{Load, Template};
use crate::neighbourhood;
use crate::node::{Node, OpenPort};
use crate::probe::Probe;
use crate::seeded::Rng;

/// Buffers in circulation: the descriptors of eight rings of 1,024, and more than L2 holds.
pub const BUFFERS: usize = 8192;

/// Packets sent at once while tables are filled: fewer than may wait for one neighbour.
const GENTLE: usize = 32;

/// Slots of each wire.
const WIRE: usize = BUFFERS * 2;

/// What the node's tables must hold.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Sessions.
    pub sessions: usize,
    /// Virtual nanoseconds from one turn of the worker with full bursts to the next.
    pub step: u64,
}

/// What one batch cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch {
    /// Packets received by the worker.
    pub packets: u64,
    /// Octets of their frames.
    pub octets: u64,
    /// Ticks of the turns.
    pub ticks: u64,
    /// Of these, inside receive and transmit calls.
    pub io_ticks: u64,
    /// Calls to the queues.
    pub io_calls: u64,
    /// Nanoseconds of CPU time of the thread.
    pub cpu_ns: u64,
    /// Instructions, where the machine counts them.
    pub instructions: Option<u64>,
}

/// The node.
pub struct Rig {
    node: Node<Timed>,
    meter: Arc<Meter>,
    wires: Vec<Wire>,
    stock: Vec<MemoryBuf>,
    now: u64,
    step: u64,
}

/// A rig taken apart.
pub struct Parts {
    /// Worker, slow path and publisher.
    pub node: Node<Timed>,
    /// The wires, by port.
    pub wires: Vec<Wire>,
    /// Free buffers.
    pub stock: Vec<MemoryBuf>,
    /// Virtual time in nanoseconds.
    pub now: u64,
    /// Virtual nanoseconds from one turn of the worker to the next.
    pub step: u64,
}

/// The MAC address of the port at an index of the tables' ports (which are in name order, as slots of a new node are).
pub fn mac(port: u8) -> Mac {
    port_mac(usize::from(port))
}

impl Rig {
    /// A node that runs `tables` and takes `burst` packets at once. Fails with the engine's reason when it refuses them.
    pub fn new(tables: &RuleTables, capacity: Capacity, burst: usize, seed: u64) -> Result<Self, Error> {
        let meter = Arc::new(Meter::default());
        let mut wires = Vec::new();
        let node = Node::new(tables, capacity.sessions, MemoryPool, |slot| {
            let (wire, rx, tx) = Wire::new(WIRE);
            wires.push(wire);
            let rx = TimedRx { queue: rx, meter: meter.clone() };
            let tx = TimedTx { queue: tx, meter: meter.clone() };
            Ok(OpenPort { rx, tx, mac: port_mac(slot.index()) })
        })?
        .with_burst(burst);
        // Buffers in an order that has nothing to do with their addresses, as in a ring that has been in use for a while.
        let mut stock = MemoryBuf::pool(BUFFERS);
        Rng::new(seed, "buffers").shuffle(&mut stock);
        // As many packets in a second of virtual time whatever the burst.
        let step = (capacity.step * burst as u64 / BURST as u64).max(1);
        Ok(Self { node, meter, wires, stock, now: 1_000_000_000, step })
    }

    /// Sends frames a few at a time, all of them, with the slow path and the stations around doing their part: neighbours get resolved,
    /// sessions made.
    pub fn warm<'a>(
        &mut self,
        frames: impl IntoIterator<Item = &'a Template>,
        mut done: impl FnMut(u64) -> bool,
    ) -> bool {
        let mut frames = frames.into_iter();
        loop {
            let mut count = 0;
            for template in frames.by_ref().take(GENTLE) {
                let mut buffer = self.buffer();
                template.fill(&mut buffer);
                self.deliver(template.port, buffer);
                count += 1;
            }
            self.settle();
            if count == 0 {
                return true;
            }
            if !done(count) {
                return false;
            }
        }
    }

    /// Fills `count` buffers from the load and runs them through the worker: filling is not measured, the turns are.
    pub fn batch(&mut self, load: &mut Load, count: usize, rng: &mut Rng, probe: &mut Probe) -> Batch {
        self.fill(load, count, rng);
        let before = self.reading();
        probe.start();
        let start = tsc();
        while self.turn() > 0 {}
        let ticks = tsc().saturating_sub(start);
        let (cpu_ns, instructions) = probe.stop();
        let after = self.reading();
        self.collect(|_| None);
        Batch {
            packets: after.packets - before.packets,
            octets: after.octets - before.octets,
            ticks,
            io_ticks: after.io_ticks - before.io_ticks,
            io_calls: after.io_calls - before.io_calls,
            cpu_ns,
            instructions,
        }
    }

    /// Fills `count` buffers from the load and leaves them on the wires.
    pub fn fill(&mut self, load: &mut Load, count: usize, rng: &mut Rng) {
        for _ in 0..count {
            let mut buffer = self.buffer();
            let Some(template) = load.draw(rng) else { break };
            template.fill(&mut buffer);
            let port = template.port;
            self.deliver(port, buffer);
        }
    }

    /// Runs what is on the wires through the worker and returns how many packets it was. The turns are [`Self::counted_turns`], so that a
    /// program which counts instructions can tell them from everything else.
    pub fn counted_batch(&mut self) -> u64 {
        let before = self.reading().packets;
        self.counted_turns();
        let after = self.reading().packets;
        self.collect(|_| None);
        after - before
    }

    /// The turns of a batch and nothing else, under a name that callgrind finds ([`crate::gate::count`]).
    #[inline(never)]
    fn counted_turns(&mut self) {
        while self.turn() > 0 {}
    }

    /// Lets the slow path and the stations around work until nothing moves any more.
    pub fn settle(&mut self) {
        // A bound against a node that talks to itself for ever; a neighbour needs three rounds.
        for _ in 0..64 {
            while self.turn() > 0 {}
            let taken = self.node.slow.turn(self.now);
            let injected = self.turn();
            if !self.collect(neighbourhood::answer) && taken == 0 && injected == 0 {
                return;
            }
        }
    }

    /// Takes it apart, for those who run its worker and its slow path on threads of their own.
    pub fn into_parts(self) -> Parts {
        let Self { node, wires, stock, now, step, .. } = self;
        Parts { node, wires, stock, now, step }
    }

    /// Counters of the worker.
    pub fn stats(&self) -> &ThreadStats {
        self.node.worker.stats()
    }

    /// Counters of the slow path.
    pub fn slow_stats(&self) -> &ThreadStats {
        self.node.slow.stats()
    }

    /// The tables in force.
    pub fn snapshot(&self) -> &Snapshot {
        self.node.slow.snapshot()
    }

    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.node.worker.pipeline().sessions
    }

    /// Resolved next hops.
    pub fn neighbours(&self) -> &NeighbourTable {
        &self.node.neighbours
    }

    /// Conservation terms of worker and slow path together.
    pub fn totals(&self) -> Totals {
        self.node.totals()
    }

    /// Virtual time in nanoseconds.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// What the session table's memory is.
    pub fn memory(&self) -> &str {
        &self.node.memory
    }

    fn reading(&self) -> Batch {
        let meter = &self.meter;
        Batch {
            packets: meter.received.value(),
            octets: meter.octets.value(),
            io_ticks: meter.ticks.value(),
            io_calls: meter.calls.value(),
            ..Batch::default()
        }
    }

    #[inline]
    fn turn(&mut self) -> usize {
        self.now += self.step;
        self.node.worker.turn(self.now).packets
    }

    /// A free buffer; those of dropped packets come back by themselves.
    fn buffer(&mut self) -> MemoryBuf {
        self.stock.pop().unwrap_or_else(MemoryBuf::empty)
    }

    fn deliver(&self, port: u8, buffer: MemoryBuf) {
        if let Some(wire) = self.wires.get(usize::from(port)) {
            wire.put(buffer);
        }
    }

    /// Takes what the node sent back into the stock; `answer` may have something to say to each frame. Whether it had.
    fn collect(&mut self, answer: impl Fn(&[u8]) -> Option<Vec<u8>>) -> bool {
        let mut answered = false;
        for wire in &self.wires {
            let first = self.stock.len();
            wire.take_into(&mut self.stock);
            for sent in self.stock.iter().skip(first) {
                if let Some(reply) = answer(sent.data()) {
                    wire.put(MemoryBuf::new(&reply));
                    answered = true;
                }
            }
        }
        self.stock.truncate(BUFFERS);
        answered
    }
}
