//! Queues with a stopwatch: the time a worker spends inside receive and transmit calls is counted apart, so that what is left of a
//! turn is the engine's own.

use std::hint::black_box;
use std::sync::Arc;

use marchproxy_cpu::tsc;
use marchproxy_engine::io::{PacketBuf, PacketVec, RxQueue, TxQueue};
use marchproxy_engine::ledger::Backend;
use marchproxy_engine::memory::{MemoryBuf, MemoryPool, MemoryRx, MemoryTx};
use marchproxy_engine::stats::Counter;

/// What the queues of one worker measure. Written by the worker's thread only.
#[derive(Debug, Default)]
pub struct Meter {
    /// Ticks inside calls.
    pub ticks: Counter,
    /// Calls.
    pub calls: Counter,
    /// Packets handed to the worker.
    pub received: Counter,
    /// Packets taken from the worker.
    pub sent: Counter,
    /// Octets of the frames handed to the worker.
    pub octets: Counter,
}

/// The memory backend, timed.
#[derive(Debug)]
pub struct Timed;

impl Backend for Timed {
    type Buf = MemoryBuf;
    type Rx = TimedRx<MemoryRx>;
    type Tx = TimedTx<MemoryTx>;
    type Pool = MemoryPool;
}

/// A receive queue.
pub struct TimedRx<Q> {
    /// The queue.
    pub queue: Q,
    /// Where it counts.
    pub meter: Arc<Meter>,
}

impl<Q: RxQueue> RxQueue for TimedRx<Q> {
    type Buf = Q::Buf;

    // Calls of their own, once per burst: then a count of instructions can tell IO from engine, as the stopwatch does.
    #[inline(never)]
    fn rx_burst(&mut self, into: &mut PacketVec<Q::Buf>, room: usize) -> usize {
        let (start, before) = (tsc(), into.len());
        let received = self.queue.rx_burst(into, room);
        // A driver has just written each packet's length and offset when it hands the packet over, so that line is warm. The frame
        // itself stays as the device left it.
        let mut octets = 0;
        for packet in into.iter().skip(before) {
            octets += black_box(packet).data().len() as u64;
        }
        self.meter.received.add(received as u64);
        self.meter.octets.add(octets);
        self.meter.calls.add(1);
        self.meter.ticks.add(tsc().saturating_sub(start));
        received
    }
}

/// A transmit queue.
pub struct TimedTx<Q> {
    /// The queue.
    pub queue: Q,
    /// Where it counts.
    pub meter: Arc<Meter>,
}

impl<Q: TxQueue> TxQueue for TimedTx<Q> {
    type Buf = Q::Buf;

    #[inline(never)]
    fn tx_burst(&mut self, packets: &mut PacketVec<Q::Buf>) -> usize {
        let start = tsc();
        let sent = self.queue.tx_burst(packets);
        self.meter.sent.add(sent as u64);
        self.meter.calls.add(1);
        self.meter.ticks.add(tsc().saturating_sub(start));
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marchproxy_engine::memory::Wire;

    #[test]
    fn calls_and_packets_are_counted() {
        let meter = Arc::new(Meter::default());
        let (wire, rx, tx) = Wire::new(8);
        let (mut rx, mut tx) =
            (TimedRx { queue: rx, meter: meter.clone() }, TimedTx { queue: tx, meter: meter.clone() });
        wire.put_all((0..5).map(|n| MemoryBuf::new(&[0; 60][..60 - n])));
        let mut packets = PacketVec::new();
        assert_eq!(rx.rx_burst(&mut packets, 3), 3);
        assert_eq!(tx.tx_burst(&mut packets), 3);
        assert_eq!((meter.received.value(), meter.sent.value(), meter.calls.value()), (3, 3, 2));
        assert_eq!(meter.octets.value(), 60 + 59 + 58);
        assert!(meter.ticks.value() > 0);
    }
}
