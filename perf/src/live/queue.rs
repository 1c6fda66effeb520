//! A device's queues behind a gate. While it is shut the worker receives the harness's frames, and what it sends goes nowhere: so
//! sessions come to be before the first packet of the device is looked at.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use marchproxy_engine::io::{self, PacketVec};
use marchproxy_engine::ledger::Backend;
use rtrb::Consumer;

use crate::backend::{Stamp, TimedRx, TimedTx};

/// A backend's packets and pools, timed queues.
#[derive(Debug)]
pub struct Live<K>(PhantomData<K>);

impl<K: Backend<Buf: Stamp>> Backend for Live<K> {
    type Buf = K::Buf;
    type Rx = TimedRx<GatedRx<K::Rx>>;
    type Tx = TimedTx<GatedTx<K::Tx>>;
    type Pool = K::Pool;
}

// Packets of devices keep no time here: latency over devices is what `rfc2544` measures from end to end.
#[cfg(feature = "dpdk")]
impl Stamp for marchproxy_dpdk::Mbuf {}
impl Stamp for marchproxy_sockets::Frame {}

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
pub struct GatedRx<Q: io::RxQueue> {
    /// The device's.
    pub queue: Q,
    /// The harness's frames.
    pub feed: Consumer<Q::Buf>,
    /// Which of them.
    pub gate: Gate,
}

impl<Q: io::RxQueue> io::RxQueue for GatedRx<Q> {
    type Buf = Q::Buf;

    #[inline]
    fn rx_burst(&mut self, into: &mut PacketVec<Q::Buf>, room: usize) -> usize {
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
pub struct GatedTx<Q> {
    /// The device's.
    pub queue: Q,
    /// Whether it is used.
    pub gate: Gate,
}

impl<Q: io::TxQueue> io::TxQueue for GatedTx<Q> {
    type Buf = Q::Buf;

    #[inline]
    fn tx_burst(&mut self, packets: &mut PacketVec<Q::Buf>) -> usize {
        if self.gate.is_open() {
            return self.queue.tx_burst(packets);
        }
        packets.drain(..).count()
    }
}
