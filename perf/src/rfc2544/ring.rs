//! Wires between two threads: lock-free rings of one producer and one consumer with as many descriptors as a network card's, and packets
//! that carry the time they were sent at beside the frame.

use marchproxy_engine::io::{ChecksumState, MAX_BURST, PacketBuf, PacketPool, PacketVec, RxQueue, TxQueue};
use marchproxy_engine::ledger::Backend;
use marchproxy_engine::memory::MemoryBuf;
use rtrb::{Consumer, Producer, RingBuffer};

/// Descriptors of a ring, as drivers have them by default.
pub const DESCRIPTORS: usize = 1024;

/// A packet and when the tester sent it.
pub struct Stamped {
    frame: MemoryBuf,
    /// Time stamp counter; 0 for what the node makes itself.
    pub sent: u64,
}

impl Stamped {
    /// A packet that was not sent yet.
    pub fn new(frame: MemoryBuf) -> Self {
        Self { frame, sent: 0 }
    }

    /// The frame.
    pub fn into_frame(self) -> MemoryBuf {
        self.frame
    }
}

impl PacketBuf for Stamped {
    #[inline]
    fn data(&self) -> &[u8] {
        self.frame.data()
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        self.frame.data_mut()
    }

    fn headroom(&self) -> usize {
        self.frame.headroom()
    }

    fn tailroom(&self) -> usize {
        self.frame.tailroom()
    }

    #[inline]
    fn prepend(&mut self, n: usize) -> bool {
        self.frame.prepend(n)
    }

    #[inline]
    fn trim_front(&mut self, n: usize) {
        self.frame.trim_front(n);
    }

    #[inline]
    fn resize(&mut self, len: usize) -> bool {
        self.frame.resize(len)
    }

    fn checksum(&self) -> ChecksumState {
        self.frame.checksum()
    }

    #[inline]
    fn prefetch(&self) {
        self.frame.prefetch();
    }
}

/// The backend of the device under test.
#[derive(Debug)]
pub struct Ring;

impl Backend for Ring {
    type Buf = Stamped;
    type Rx = RingRx;
    type Tx = RingTx;
    type Pool = StampedPool;
}

/// What a node makes itself.
#[derive(Debug, Default)]
pub struct StampedPool;

impl PacketPool for StampedPool {
    type Buf = Stamped;

    fn alloc(&mut self) -> Option<Stamped> {
        Some(Stamped::new(MemoryBuf::empty()))
    }
}

/// Both rings of a port as its device sees them, and as the tester does.
pub fn wire() -> ((RingRx, RingTx), Side) {
    let (to_device, incoming) = RingBuffer::new(DESCRIPTORS);
    let (outgoing, from_device) = RingBuffer::new(DESCRIPTORS);
    ((RingRx(incoming), RingTx(outgoing)), Side { to_device, from_device })
}

/// The tester's end of a port.
pub struct Side {
    to_device: Producer<Stamped>,
    from_device: Consumer<Stamped>,
}

impl Side {
    /// Sends packets, stamped `now`, from the front; returns how many had room. The rest stays.
    #[inline]
    pub fn send(&mut self, packets: &mut PacketVec<Stamped>, now: u64) -> usize {
        let count = packets.len().min(self.to_device.slots());
        let Ok(chunk) = self.to_device.write_chunk_uninit(count) else { return 0 };
        chunk.fill_from_iter(packets.drain(..count).map(|packet| Stamped { sent: now, ..packet }))
    }

    /// Takes what the device sent, at most a burst.
    #[inline]
    pub fn take(&mut self, into: &mut PacketVec<Stamped>) -> usize {
        take(&mut self.from_device, into, MAX_BURST)
    }

    /// Whether nothing is left that the device has not taken.
    pub fn delivered(&self) -> bool {
        self.to_device.slots() == DESCRIPTORS
    }
}

#[inline]
fn take(ring: &mut Consumer<Stamped>, into: &mut PacketVec<Stamped>, room: usize) -> usize {
    let count = ring.slots().min(room).min(into.remaining_capacity());
    let Ok(chunk) = ring.read_chunk(count) else { return 0 };
    into.extend(chunk);
    count
}

/// Receive side of a device's port.
pub struct RingRx(Consumer<Stamped>);

impl RxQueue for RingRx {
    type Buf = Stamped;

    #[inline]
    fn rx_burst(&mut self, into: &mut PacketVec<Stamped>, room: usize) -> usize {
        take(&mut self.0, into, room)
    }
}

/// Transmit side of a device's port.
pub struct RingTx(Producer<Stamped>);

impl TxQueue for RingTx {
    type Buf = Stamped;

    #[inline]
    fn tx_burst(&mut self, packets: &mut PacketVec<Stamped>) -> usize {
        let count = packets.len().min(self.0.slots());
        let Ok(chunk) = self.0.write_chunk_uninit(count) else { return 0 };
        chunk.fill_from_iter(packets.drain(..count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(count: u8) -> PacketVec<Stamped> {
        (0..count).map(|n| Stamped::new(MemoryBuf::new(&[n]))).collect()
    }

    #[test]
    fn stamps_travel_with_their_frames() {
        let ((mut rx, mut tx), mut side) = wire();
        assert_eq!(side.send(&mut packets(3), 77), 3);
        assert!(!side.delivered());
        let mut received = PacketVec::new();
        assert_eq!(rx.rx_burst(&mut received, 2), 2);
        assert_eq!(rx.rx_burst(&mut received, 32), 1);
        assert!(side.delivered());
        assert_eq!(received.iter().map(|p| (p.sent, p.data()[0])).collect::<Vec<_>>(), [(77, 0), (77, 1), (77, 2)]);
        assert_eq!(tx.tx_burst(&mut received), 3);
        let mut back = PacketVec::new();
        assert_eq!(side.take(&mut back), 3);
        assert_eq!(back[2].sent, 77);
    }

    #[test]
    fn a_full_ring_leaves_the_rest() {
        let ((mut rx, _tx), mut side) = wire();
        for _ in 0..DESCRIPTORS / 32 {
            assert_eq!(side.send(&mut packets(32), 1), 32);
        }
        let mut late = packets(4);
        assert_eq!((side.send(&mut late, 1), late.len()), (0, 4));
        let mut received = PacketVec::new();
        assert_eq!(rx.rx_burst(&mut received, 3), 3);
        assert_eq!((side.send(&mut late, 1), late.len()), (3, 1));
    }
}
