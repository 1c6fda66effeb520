//! The measured node: one worker and the slow path on the timed memory backend, the wires of its ports, the stations around it, and the
//! buffers that circulate like the descriptors of a network card.

use std::sync::Arc;

use marchproxy_cpu::tsc;
use marchproxy_engine::burst::BURST;
use marchproxy_engine::io::{Mac, PacketBuf};
use marchproxy_engine::memory::{MemoryBuf, MemoryPool, Wire};
use marchproxy_engine::ports::PortSlot;
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

/// Virtual time of the first turn.
pub const START: u64 = 1_000_000_000;

/// Rounds of workers and slow path until nothing moves: a bound against a node that talks to itself for ever. The slow path takes 64 packets
/// a round, a whole batch may be for it, and a neighbour needs three rounds.
pub const ROUNDS: usize = BUFFERS / 64 + 64;

/// What the node's tables must hold.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Sessions.
    pub sessions: usize,
    /// Virtual nanoseconds from one turn of the worker with full bursts to the next.
    pub step: u64,
}

impl Capacity {
    /// Virtual nanoseconds of a turn with bursts of this size: a second holds as many packets whatever it is.
    pub fn step(&self, burst: usize) -> u64 {
        (self.step * burst as u64 / BURST as u64).max(1)
    }
}

/// What one batch cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch {
    /// Turns that moved packets.
    pub turns: u64,
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
    /// Readings of the clock inside them.
    pub io_readings: u64,
    /// Nanoseconds of CPU time of the thread.
    pub cpu_ns: u64,
    /// Instructions, where the machine counts them.
    pub instructions: Option<u64>,
}

/// The node.
pub struct Rig {
    node: Node<Timed>,
    meter: Arc<Meter>,
    ends: Ends,
    now: u64,
    /// Virtual nanoseconds from turn to turn, and the least of them.
    step: u64,
    least_step: u64,
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
        let meter = Arc::new(Meter::with_room(2 * BUFFERS));
        let mut ends = Ends::new(1, seed);
        let node =
            Node::new(tables, capacity.sessions, MemoryPool, |slot| Ok(ends.open(slot, &meter)))?.with_burst(burst);
        let step = capacity.step(burst);
        Ok(Self { node, meter, ends, now: START, step, least_step: step })
    }

    /// Sends frames a few at a time, all of them, with the slow path and the stations around doing their part: neighbours get resolved,
    /// sessions made.
    pub fn warm<'a>(
        &mut self,
        frames: impl IntoIterator<Item = &'a Template>,
        mut done: impl FnMut(u64) -> bool,
    ) -> bool {
        gently(frames, &mut done, |frames| {
            for template in frames {
                self.ends.put(template);
            }
            self.settle();
        })
    }

    /// Fills `count` buffers from the load and runs them through the worker: filling is not measured, the turns are.
    pub fn batch(&mut self, load: &mut Load, count: usize, rng: &mut Rng, probe: &mut Probe) -> Batch {
        self.ends.fill(load, count, rng);
        self.meter.take_passages(|_, _| {});
        let before = Batch::reading(&self.meter);
        probe.start();
        let (start, mut turns) = (tsc(), 0);
        while self.turn() > 0 {
            turns += 1;
        }
        let ticks = tsc().saturating_sub(start);
        let (cpu_ns, instructions) = probe.stop();
        let queues = Batch::reading(&self.meter).since(&before);
        self.ends.collect(|_| None);
        Batch { turns, ticks, cpu_ns, instructions, ..queues }
    }

    /// Lets a turn take `step` nanoseconds of virtual time, but no less than it took in the beginning.
    pub fn slow_down(&mut self, step: f64) {
        self.step = (step as u64).max(self.least_step);
    }

    /// Hands the times that packets of the last batch were inside the node to `record`: ticks, and how many packets.
    pub fn passages(&self, record: impl FnMut(u64, u64)) {
        self.meter.take_passages(record);
    }

    /// Fills `count` buffers from the load and leaves them on the wires.
    pub fn fill(&mut self, load: &mut Load, count: usize, rng: &mut Rng) {
        self.ends.fill(load, count, rng);
    }

    /// Runs what is on the wires through the worker and returns how many packets it was. The turns are [`Self::counted_turns`], so that a
    /// program which counts instructions can tell them from everything else.
    pub fn counted_batch(&mut self) -> u64 {
        let before = Batch::reading(&self.meter);
        self.counted_turns();
        let queues = Batch::reading(&self.meter).since(&before);
        self.meter.take_passages(|_, _| {});
        self.ends.collect(|_| None);
        queues.packets
    }

    /// The turns of a batch and nothing else, under a name that callgrind finds ([`crate::gate::count`]).
    #[inline(never)]
    fn counted_turns(&mut self) {
        while self.turn() > 0 {}
    }

    /// Lets the slow path and the stations around work until nothing moves any more.
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS {
            while self.turn() > 0 {}
            let taken = self.node.slow.turn(self.now);
            let injected = self.turn();
            if !self.ends.collect(neighbourhood::answer) && taken == 0 && injected == 0 {
                return;
            }
        }
    }

    /// Takes it apart, for those who run its worker and its slow path on threads of their own.
    pub fn into_parts(self) -> Parts {
        let Self { node, ends: Ends { wires, stock, .. }, now, step, .. } = self;
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

    #[inline]
    fn turn(&mut self) -> usize {
        self.now += self.step;
        self.node.worker.turn(self.now).packets
    }
}

/// Sends frames a few at a time, all of them, until `done` says to stop; whether all were sent.
pub fn gently<'a>(
    frames: impl IntoIterator<Item = &'a Template>,
    done: &mut dyn FnMut(u64) -> bool,
    mut send: impl FnMut(&[&'a Template]),
) -> bool {
    let mut frames = frames.into_iter();
    loop {
        let some: Vec<_> = frames.by_ref().take(GENTLE).collect();
        send(&some);
        if some.is_empty() {
            return true;
        }
        if !done(some.len() as u64) {
            return false;
        }
    }
}

/// The other ends of one worker's queues, and its free buffers.
pub struct Ends {
    wires: Vec<Wire>,
    /// Slots of a wire.
    slots: usize,
    /// Free buffers; those of dropped packets come back to their thread by themselves.
    pub stock: Vec<MemoryBuf>,
}

impl Ends {
    /// With [`BUFFERS`] buffers, and wires that hold those of as many `workers`.
    pub fn new(workers: usize, seed: u64) -> Self {
        // Buffers in an order that has nothing to do with their addresses, as in a ring that has been in use for a while.
        let mut stock = MemoryBuf::pool(BUFFERS);
        Rng::new(seed, "buffers").shuffle(&mut stock);
        Self { wires: Vec::new(), slots: WIRE * workers, stock }
    }

    /// A port's queues.
    pub fn open(&mut self, slot: PortSlot, meter: &Arc<Meter>) -> OpenPort<Timed> {
        let (wire, rx, tx) = Wire::new(self.slots);
        self.wires.push(wire);
        let rx = TimedRx { queue: rx, meter: meter.clone() };
        let tx = TimedTx { queue: tx, meter: meter.clone() };
        OpenPort { rx, tx, mac: port_mac(slot.index()) }
    }

    /// Puts `count` packets of the load on the wires.
    pub fn fill(&mut self, load: &mut Load, count: usize, rng: &mut Rng) {
        for _ in 0..count {
            let Some(template) = load.draw(rng) else { break };
            self.put(template);
        }
    }

    /// Puts a packet on its wire.
    #[inline]
    pub fn put(&mut self, template: &Template) {
        let mut buffer = self.stock.pop().unwrap_or_else(MemoryBuf::empty);
        template.fill(&mut buffer);
        if let Some(wire) = self.wires.get(usize::from(template.port)) {
            wire.put(buffer);
        }
    }

    /// Takes what the node sent back into the stock; `answer` may have something to say to each frame. Whether it had.
    pub fn collect(&mut self, answer: impl Fn(&[u8]) -> Option<Vec<u8>>) -> bool {
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
        self.stock.truncate(BUFFERS * self.slots / WIRE);
        answered
    }
}

impl Batch {
    /// What queues counted so far.
    pub fn reading(meter: &Meter) -> Self {
        Self {
            packets: meter.received.value(),
            octets: meter.octets.value(),
            io_ticks: meter.ticks.value(),
            io_calls: meter.calls.value(),
            io_readings: meter.readings.value(),
            ..Self::default()
        }
    }

    /// What queues counted since an earlier reading.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            packets: self.packets - before.packets,
            octets: self.octets - before.octets,
            io_ticks: self.io_ticks - before.io_ticks,
            io_calls: self.io_calls - before.io_calls,
            io_readings: self.io_readings - before.io_readings,
            ..Self::default()
        }
    }

    /// Packets per second of CPU time.
    pub fn per_cpu_second(&self) -> f64 {
        self.packets as f64 * 1e9 / self.cpu_ns.max(1) as f64
    }

    /// Adds another batch.
    pub fn add(&mut self, other: &Self) {
        self.turns += other.turns;
        self.packets += other.packets;
        self.octets += other.octets;
        self.ticks += other.ticks;
        self.io_ticks += other.io_ticks;
        self.io_calls += other.io_calls;
        self.io_readings += other.io_readings;
        self.cpu_ns += other.cpu_ns;
        self.instructions = other.instructions.map(|n| n + self.instructions.unwrap_or(0));
    }
}
