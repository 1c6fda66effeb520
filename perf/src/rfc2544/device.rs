//! What is under test, on a core of its own: the node, or a loop that only swaps addresses and shows what the tester itself can do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use marchproxy_cpu::{TscClock, tsc};
use marchproxy_engine::io::{PacketBuf, PacketVec, RxQueue, TxQueue};
use marchproxy_engine::memory::MemoryBuf;
use marchproxy_engine::reason::{DropClass, DropReason};
use rtrb::Producer;

use super::ring::{Ring, RingRx, RingTx, Stamped};
use crate::node::Node;
use crate::{Error, machine, measure, process};

/// Between two turns of the slow path, which in the daemon has a thread of its own.
const SLOW_EVERY: f64 = 100e-6;

/// Time a device gets to finish what it has, after the last packet.
const ENDING: f64 = 1.0;

/// Something that receives and sends.
pub trait Device: Send {
    /// Moves packets at a time of the counter; how many.
    fn turn(&mut self, ticks: u64) -> usize;
    /// What is due now and then.
    fn rest(&mut self, ticks: u64) -> usize;
    /// Packets it holds.
    fn held(&self) -> u64;
}

/// What happened to the device's thread in one trial.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interruptions {
    /// Times another thread took its core.
    pub switches: u64,
    /// Clock ticks (10 ms) the hypervisor took, where the kernel says.
    pub stolen: u64,
    /// The longest time from one turn to the next, in ticks of the counter.
    pub longest_turn: u64,
}

/// Polls the device on `core` until `stop`, and then until nothing moves any more.
pub fn drive(
    device: &mut impl Device,
    core: usize,
    hz: u64,
    ready: &AtomicBool,
    stop: &AtomicBool,
) -> Result<Interruptions, Error> {
    process::pin(Some(core))?;
    let (switches, stolen) = (machine::switches(), machine::stolen(core));
    ready.store(true, Ordering::Release);
    let every = (SLOW_EVERY * hz as f64) as u64;
    let (mut last, mut longest_turn) = (tsc(), 0);
    let mut slow_due = last;
    while !stop.load(Ordering::Relaxed) {
        let now = tsc();
        longest_turn = longest_turn.max(now.saturating_sub(last));
        last = now;
        device.turn(now);
        if now >= slow_due {
            device.rest(now);
            slow_due = now + every;
        }
    }
    let end = tsc() + (ENDING * hz as f64) as u64;
    while device.turn(tsc()) + device.rest(tsc()) > 0 || (device.held() > 0 && tsc() < end) {}
    Ok(Interruptions {
        switches: machine::switches().saturating_sub(switches),
        stolen: machine::stolen(core).zip(stolen).map_or(0, |(now, before)| now.saturating_sub(before)),
        longest_turn,
    })
}

/// The node under test.
pub struct NodeDevice {
    node: Node<Ring>,
    clock: TscClock,
    /// Times faster than real time that the node's clock goes.
    speed: u64,
    home: Producer<MemoryBuf>,
    returned: u64,
}

impl NodeDevice {
    /// A node whose clock goes `speed` times as fast as `clock`, and gives buffers of packets that end in it back to `home`.
    pub fn new(node: Node<Ring>, clock: TscClock, speed: u64, home: Producer<MemoryBuf>) -> Self {
        Self { node, clock, speed, home, returned: 0 }
    }

    /// The node.
    pub fn node(&self) -> &Node<Ring> {
        &self.node
    }

    /// The node's time in nanoseconds. Never 0, which is "never" in some tables.
    pub fn now(&self, ticks: u64) -> u64 {
        1_000_000_000 + self.clock.nanos(ticks) * self.speed
    }

    /// Drops so far, by class (policy or not) and reason.
    pub fn drops(&self) -> [u64; DropReason::COUNT] {
        let (worker, slow) = (self.node.worker.stats(), self.node.slow.stats());
        std::array::from_fn(|i| worker.drops[i].value() + slow.drops[i].value())
    }

    /// The same by name.
    pub fn named_drops(&self) -> BTreeMap<&'static str, u64> {
        measure::named(&self.drops())
    }

    /// Packets that tests and wires do not agree about: 0, or somebody lost or invented some. Only while nothing moves.
    pub fn residue(&self, pushed: u64, pulled: u64) -> i64 {
        let totals = self.node.worker.stats().totals.read();
        self.node.totals().residue() + (pushed as i64 - totals.rx as i64) + (totals.tx as i64 - pulled as i64)
    }
}

/// Whether a dropped packet was meant to be: a rule's verdict is no loss.
pub fn is_loss(reason: DropReason) -> bool {
    reason.class() != DropClass::Policy
}

impl Device for NodeDevice {
    #[inline]
    fn turn(&mut self, ticks: u64) -> usize {
        self.node.worker.turn(self.now(ticks)).packets
    }

    fn rest(&mut self, ticks: u64) -> usize {
        let taken = self.node.slow.turn(self.now(ticks));
        let totals = self.node.totals();
        // A dropped packet's buffer waits on this thread; the tester needs it.
        while self.returned < totals.dropped + totals.consumed && self.home.push(MemoryBuf::empty()).is_ok() {
            self.returned += 1;
        }
        taken
    }

    fn held(&self) -> u64 {
        self.node.worker.stats().totals.read().held
    }
}

/// Sends everything out of the other port with its MAC addresses swapped: the least that touches each frame, because frames that stay in
/// the tester's cache would let it seem faster than it is before any device.
pub struct Loopback {
    ports: [(RingRx, RingTx); 2],
    /// What could not be sent yet, by the port it leaves by.
    waiting: [PacketVec<Stamped>; 2],
}

impl Loopback {
    /// Between these two ports.
    pub fn new(ports: [(RingRx, RingTx); 2]) -> Self {
        Self { ports, waiting: [PacketVec::new(), PacketVec::new()] }
    }
}

impl Device for Loopback {
    #[inline]
    fn turn(&mut self, _ticks: u64) -> usize {
        let [lan, wan] = &mut self.ports;
        let mut moved = 0;
        for ((from, to), waiting) in
            [(&mut lan.0, &mut wan.1), (&mut wan.0, &mut lan.1)].into_iter().zip(&mut self.waiting)
        {
            if waiting.is_empty() {
                moved += from.rx_burst(waiting, 32);
                for frame in waiting.iter_mut().filter_map(|packet| packet.data_mut().first_chunk_mut::<12>()) {
                    frame.rotate_left(6);
                }
            }
            to.tx_burst(waiting);
        }
        moved
    }

    fn rest(&mut self, _ticks: u64) -> usize {
        0
    }

    fn held(&self) -> u64 {
        self.waiting.iter().map(|waiting| waiting.len() as u64).sum()
    }
}
