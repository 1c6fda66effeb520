//! Queues with a stopwatch: the time a worker spends inside receive and transmit calls is counted apart, so that what is left of a
//! turn is the engine's own.

use std::hint::black_box;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Readings of the clock inside calls, beside those at their ends.
    pub readings: Counter,
    /// How long packets were inside. The lock is never waited for: whoever reads does so when the worker stands still.
    passages: Mutex<Vec<Passage>>,
}

/// Packets of one receive call that left in one transmit call.
#[derive(Clone, Copy, Debug)]
struct Passage {
    /// Ticks in between; `None` of packets that the node made.
    ticks: Option<u64>,
    packets: u64,
}

impl Meter {
    /// A meter with room for the passages of `packets` packets, so that none is moved while it measures.
    pub fn with_room(packets: usize) -> Self {
        Self { passages: Mutex::new(Vec::with_capacity(packets)), ..Self::default() }
    }

    /// Hands every passage since the last time to `record` (ticks, packets) and forgets it.
    pub fn take_passages(&self, mut record: impl FnMut(u64, u64)) {
        for Passage { ticks, packets } in self.passages().drain(..) {
            if let Some(ticks) = ticks {
                record(ticks, packets);
            }
        }
    }

    fn passages(&self) -> MutexGuard<'_, Vec<Passage>> {
        self.passages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that packets with these stamps leave now.
    fn leave(&self, now: u64, stamps: impl Iterator<Item = u64>) {
        let mut passages = self.passages();
        let mut last = None;
        for stamp in stamps {
            if last == Some(stamp)
                && let Some(passage) = passages.last_mut()
            {
                passage.packets += 1;
                continue;
            }
            last = Some(stamp);
            // The counters of two cores may differ by a few ticks.
            let ticks = (stamp > 0).then(|| now.saturating_sub(stamp));
            passages.push(Passage { ticks, packets: 1 });
        }
    }

    /// Takes back the last `packets` packets: the queue had no room for them.
    #[cold]
    fn stay(&self, mut packets: u64) {
        let mut passages = self.passages();
        while packets > 0
            && let Some(mut passage) = passages.pop()
        {
            let back = passage.packets.min(packets);
            packets -= back;
            passage.packets -= back;
            if passage.packets > 0 {
                passages.push(passage);
            }
        }
    }
}

/// A packet that may keep the time of its receive call.
pub trait Stamp: PacketBuf {
    /// Whether it does; without, nobody knows how long packets were inside.
    const KEPT: bool = false;

    /// The time, 0 for none.
    #[inline]
    fn stamp(&self) -> u64 {
        0
    }

    /// Sets it.
    #[inline]
    fn set_stamp(&mut self, _: u64) {}
}

impl Stamp for MemoryBuf {
    const KEPT: bool = true;

    #[inline]
    fn stamp(&self) -> u64 {
        MemoryBuf::stamp(self)
    }

    #[inline]
    fn set_stamp(&mut self, stamp: u64) {
        MemoryBuf::set_stamp(self, stamp);
    }
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

impl<Q: RxQueue<Buf: Stamp>> RxQueue for TimedRx<Q> {
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
        if Q::Buf::KEPT && received > 0 {
            // What follows up to the end of the call counts as inside, a store per packet into that warm line.
            let stamp = tsc();
            for packet in into.iter_mut().skip(before) {
                packet.set_stamp(stamp);
            }
            self.meter.readings.add(1);
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

impl<Q: TxQueue<Buf: Stamp>> TxQueue for TimedTx<Q> {
    type Buf = Q::Buf;

    #[inline(never)]
    fn tx_burst(&mut self, packets: &mut PacketVec<Q::Buf>) -> usize {
        let (start, offered) = (tsc(), packets.len());
        if Q::Buf::KEPT {
            self.meter.leave(start, packets.iter().map(Stamp::stamp));
        }
        let sent = self.queue.tx_burst(packets);
        if Q::Buf::KEPT && sent < offered {
            self.meter.stay((offered - sent) as u64);
        }
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
        assert_eq!(meter.readings.value(), 1);
    }

    #[test]
    fn packets_are_timed_from_call_to_call() {
        let meter = Arc::new(Meter::with_room(16));
        let (wire, rx, tx) = Wire::new(7);
        let (mut rx, mut tx) =
            (TimedRx { queue: rx, meter: meter.clone() }, TimedTx { queue: tx, meter: meter.clone() });
        wire.put_all((0..8).map(|_| MemoryBuf::new(&[0; 60])));
        let mut packets = PacketVec::new();
        rx.rx_burst(&mut packets, 4);
        let pause = tsc();
        while tsc() - pause < 100_000 {}
        rx.rx_burst(&mut packets, 4);
        // One of the node's own between them.
        packets.insert(4, MemoryBuf::empty());
        assert_eq!(tx.tx_burst(&mut packets), 7, "the ring holds no more");
        let taken = || {
            let mut passages = Vec::new();
            meter.take_passages(|ticks, packets| passages.push((ticks, packets)));
            passages
        };
        let passages = taken();
        assert_eq!(passages.iter().map(|p| p.1).collect::<Vec<_>>(), [4, 2], "{passages:?}");
        assert!(passages[0].0 >= passages[1].0 + 100_000, "{passages:?}");
        wire.take();
        assert_eq!(tx.tx_burst(&mut packets), 2);
        let passages = taken();
        assert_eq!(passages.iter().map(|p| p.1).collect::<Vec<_>>(), [2], "{passages:?}");
        assert_eq!(taken(), []);
    }
}
