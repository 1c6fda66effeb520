//! A device's queues behind a gate. While it is shut the worker receives the harness's frames, and what it sends goes nowhere: so
//! sessions come to be before the first packet of the device is looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use marchproxy_dpdk::{DpdkPool, Mbuf, RxQueue, TxQueue};
use marchproxy_engine::io::{self, PacketVec};
use marchproxy_engine::ledger::Backend;
use rtrb::Consumer;

use crate::backend::{Stamp, TimedRx, TimedTx};

/// DPDK's packets and pools, timed queues.
#[derive(Debug)]
pub struct Live;

impl Backend for Live {
    type Buf = Mbuf;
    type Rx = TimedRx<GatedRx>;
    type Tx = TimedTx<GatedTx>;
    type Pool = DpdkPool;
}

// An mbuf keeps no time here: latency over devices is what `rfc2544` measures from end to end.
impl Stamp for Mbuf {}

/// Whether packets pass to and from devices. Written by the thread that prepares, before and after it measures.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// Opens or shuts it.
    pub fn set(&self, open: bool) {
        self.0.store(open, Ordering::Relaxed);
    }

    /// One load of a line that nobody writes meanwhile.
    #[inline]
    fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A receive queue.
pub struct GatedRx {
    /// The device's.
    pub queue: RxQueue,
    /// The harness's frames.
    pub feed: Consumer<Mbuf>,
    /// Which of them.
    pub gate: Gate,
}

impl io::RxQueue for GatedRx {
    type Buf = Mbuf;

    #[inline]
    fn rx_burst(&mut self, into: &mut PacketVec<Mbuf>, room: usize) -> usize {
        if self.gate.is_open() {
            return self.queue.rx_burst(into, room);
        }
        let before = into.len();
        while into.len() < before + room && into.remaining_capacity() > 0 {
            let Ok(packet) = self.feed.pop() else { break };
            into.push(packet);
        }
        into.len() - before
    }
}

/// A transmit queue.
pub struct GatedTx {
    /// The device's.
    pub queue: TxQueue,
    /// Whether it is used.
    pub gate: Gate,
}

impl io::TxQueue for GatedTx {
    type Buf = Mbuf;

    #[inline]
    fn tx_burst(&mut self, packets: &mut PacketVec<Mbuf>) -> usize {
        if self.gate.is_open() {
            return self.queue.tx_burst(packets);
        }
        packets.drain(..).count()
    }
}
