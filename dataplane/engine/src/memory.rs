//! The memory backend: ports whose wire is a pair of rings in this process. Tests put frames on the wire and take them off; the harness
//! does so with thousands of buffers laid out like a NIC's descriptor ring.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::io::{ChecksumState, MAX_BURST, MIN_HEADROOM, PacketBuf, PacketPool, PacketVec, RxQueue, TxQueue};
use crate::ledger::Backend;

/// Octets of a buffer: headroom and a frame of up to 2 KiB, like a default mbuf.
pub const BUFFER: usize = MIN_HEADROOM + 2048;

/// Buffers a thread keeps for reuse; what comes home beyond that goes to [`SHARED`] in lots of half as many.
const KEEP: usize = 1 << 12;

thread_local! {
    /// Buffers that came back on this thread: allocation happens only until the circulation is warm.
    static HOME: RefCell<Vec<&'static mut Frame>> = const { RefCell::new(Vec::new()) };
    /// Buffers that this thread was given, less those it gave away: as many as are at home or out.
    static OWNED: Cell<isize> = const { Cell::new(0) };
}

fn own(more: isize) {
    // A thread that ends counts no more.
    let _ = OWNED.try_with(|owned| owned.set(owned.get() + more));
}

/// Buffers that one thread has too many of and another may lack: packets may be made on one thread and end on another.
static SHARED: Mutex<Vec<&'static mut Frame>> = Mutex::new(Vec::new());

/// Laid out like an mbuf: behind the headroom a frame begins on a cache line, so that a small one takes one line and what is measured
/// here is what a network card's buffers cost.
#[repr(C, align(64))]
struct Frame {
    bytes: [u8; BUFFER],
    start: u16,
    len: u16,
    /// See [`MemoryBuf::stamp`].
    stamp: u64,
}

const _: () = assert!(MIN_HEADROOM.is_multiple_of(64));

impl Frame {
    const EMPTY: Self = Self { bytes: [0; BUFFER], start: 0, len: 0, stamp: 0 };
}

/// A packet of the memory backend.
pub struct MemoryBuf {
    /// Always there until the drop. Buffers are never given back to the allocator: like a driver's pool, they go round.
    frame: Option<&'static mut Frame>,
}

impl MemoryBuf {
    /// An empty packet.
    pub fn empty() -> Self {
        let frame = HOME.with(|home| home.borrow_mut().pop()).unwrap_or_else(refill);
        (frame.start, frame.len, frame.stamp) = (MIN_HEADROOM as u16, 0, 0);
        Self { frame: Some(frame) }
    }

    /// Empty packets whose buffers lie side by side in memory that is never given back, as a driver's do: one allocation large
    /// enough for huge pages.
    pub fn pool(count: usize) -> Vec<Self> {
        let frames =
            (0..count).map(|_| Frame { start: MIN_HEADROOM as u16, ..Frame::EMPTY }).collect::<Vec<_>>().leak();
        own(count as isize);
        frames.iter_mut().map(|frame| Self { frame: Some(frame) }).collect()
    }

    /// How many of this thread's buffers are packets now, wherever they are. Exact as long as packets end on the thread they were made
    /// on; tests hold it against what a node says it holds.
    pub fn out() -> isize {
        OWNED.with(Cell::get) - HOME.with(|home| home.borrow().len() as isize)
    }

    /// A packet with this content, cut to what a buffer holds.
    pub fn new(content: &[u8]) -> Self {
        let mut packet = Self::empty();
        packet.set(content);
        packet
    }

    /// Replaces the content and restores the headroom.
    pub fn set(&mut self, content: &[u8]) {
        if let Some(frame) = &mut self.frame {
            let len = content.len().min(BUFFER - MIN_HEADROOM);
            (frame.start, frame.len) = (MIN_HEADROOM as u16, len as u16);
            frame.bytes[MIN_HEADROOM..MIN_HEADROOM + len].copy_from_slice(&content[..len]);
        }
    }
}

impl MemoryBuf {
    /// What [`set_stamp`](Self::set_stamp) left; 0 in a new packet.
    #[inline]
    pub fn stamp(&self) -> u64 {
        self.frame.as_ref().map_or(0, |frame| frame.stamp)
    }

    /// Leaves a time beside the packet, as drivers leave theirs in an mbuf, on the cache line that holds its length. The engine never
    /// looks at it; it stays with the packet whatever way that takes.
    #[inline]
    pub fn set_stamp(&mut self, stamp: u64) {
        if let Some(frame) = &mut self.frame {
            frame.stamp = stamp;
        }
    }
}

impl Drop for MemoryBuf {
    fn drop(&mut self) {
        let Some(frame) = self.frame.take() else { return };
        let mut frame = Some(frame);
        // Without a home (thread ending) it goes to the shared ones.
        let _ = HOME.try_with(|home| {
            let mut home = home.borrow_mut();
            if home.len() == KEEP {
                own(-((KEEP - KEEP / 2) as isize));
                shared().extend(home.drain(KEEP / 2..));
            }
            home.extend(frame.take());
        });
        if let Some(frame) = frame {
            shared().push(frame);
        }
    }
}

fn shared() -> MutexGuard<'static, Vec<&'static mut Frame>> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer for a thread that has none: some of the shared ones, or a new one.
#[cold]
fn refill() -> &'static mut Frame {
    let mut shared = shared();
    let from = shared.len().saturating_sub(KEEP / 4);
    let mut lot = shared.split_off(from);
    drop(shared);
    let frame = lot.pop().unwrap_or_else(|| Box::leak(Box::new(Frame::EMPTY)));
    own(lot.len() as isize + 1);
    HOME.with(|home| home.borrow_mut().extend(lot));
    frame
}

impl PacketBuf for MemoryBuf {
    #[inline]
    fn data(&self) -> &[u8] {
        let Some(f) = &self.frame else { return &[] };
        // Always within; an empty frame costs less than a panic that has to be prepared for.
        f.bytes.get(usize::from(f.start)..usize::from(f.start) + usize::from(f.len)).unwrap_or(&[])
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        let Some(f) = &mut self.frame else { return &mut [] };
        f.bytes.get_mut(usize::from(f.start)..usize::from(f.start) + usize::from(f.len)).unwrap_or(&mut [])
    }

    #[inline]
    fn octets(&self) -> usize {
        self.frame.as_ref().map_or(0, |f| usize::from(f.len))
    }

    fn headroom(&self) -> usize {
        self.frame.as_ref().map_or(0, |f| usize::from(f.start))
    }

    fn tailroom(&self) -> usize {
        self.frame.as_ref().map_or(0, |f| BUFFER - usize::from(f.start) - usize::from(f.len))
    }

    #[inline]
    fn prepend(&mut self, n: usize) -> bool {
        match &mut self.frame {
            Some(f) if usize::from(f.start) >= n => {
                f.start -= n as u16;
                f.len += n as u16;
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn trim_front(&mut self, n: usize) {
        if let Some(f) = &mut self.frame {
            let n = n.min(usize::from(f.len)) as u16;
            f.start += n;
            f.len -= n;
        }
    }

    #[inline]
    fn resize(&mut self, len: usize) -> bool {
        match &mut self.frame {
            Some(f) if usize::from(f.start) + len <= BUFFER => {
                f.len = len as u16;
                true
            }
            _ => false,
        }
    }

    fn checksum(&self) -> ChecksumState {
        ChecksumState::Unknown
    }
}

/// Unlimited packets.
#[derive(Debug, Default)]
pub struct MemoryPool;

impl PacketPool for MemoryPool {
    type Buf = MemoryBuf;
    fn alloc(&mut self) -> Option<MemoryBuf> {
        Some(MemoryBuf::empty())
    }
}

/// The backend.
#[derive(Debug)]
pub struct Memory;

impl Backend for Memory {
    type Buf = MemoryBuf;
    type Rx = MemoryRx;
    type Tx = MemoryTx;
    type Pool = MemoryPool;
}

type Ring = Arc<Mutex<VecDeque<MemoryBuf>>>;

fn lock(ring: &Ring) -> MutexGuard<'_, VecDeque<MemoryBuf>> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The outside of a port.
#[derive(Clone)]
pub struct Wire {
    incoming: Ring,
    outgoing: Ring,
}

impl Wire {
    /// A port whose transmit ring takes up to `slots` packets before it is full.
    pub fn new(slots: usize) -> (Wire, MemoryRx, MemoryTx) {
        let wire = Wire {
            incoming: Arc::new(Mutex::new(VecDeque::with_capacity(slots))),
            outgoing: Arc::new(Mutex::new(VecDeque::with_capacity(slots))),
        };
        let (rx, tx) = (MemoryRx(wire.incoming.clone()), MemoryTx { ring: wire.outgoing.clone(), slots });
        (wire, rx, tx)
    }

    /// Puts a packet on the wire towards the engine.
    pub fn put(&self, packet: MemoryBuf) {
        lock(&self.incoming).push_back(packet);
    }

    /// Puts many packets on the wire.
    pub fn put_all(&self, packets: impl IntoIterator<Item = MemoryBuf>) {
        lock(&self.incoming).extend(packets);
    }

    /// Takes what the engine sent.
    pub fn take(&self) -> Vec<MemoryBuf> {
        lock(&self.outgoing).drain(..).collect()
    }

    /// Moves what the engine sent into `into`, without allocating when it has room.
    pub fn take_into(&self, into: &mut Vec<MemoryBuf>) {
        into.extend(lock(&self.outgoing).drain(..));
    }

    /// Packets on the wire towards the engine.
    pub fn waiting(&self) -> usize {
        lock(&self.incoming).len()
    }
}

/// Receive side.
pub struct MemoryRx(Ring);

impl RxQueue for MemoryRx {
    type Buf = MemoryBuf;
    fn rx_burst(&mut self, into: &mut PacketVec<MemoryBuf>, room: usize) -> usize {
        let mut ring = lock(&self.0);
        let n = room.min(MAX_BURST - into.len()).min(ring.len());
        into.extend(ring.drain(..n));
        n
    }
}

/// Transmit side.
pub struct MemoryTx {
    ring: Ring,
    slots: usize,
}

impl TxQueue for MemoryTx {
    type Buf = MemoryBuf;
    fn tx_burst(&mut self, packets: &mut PacketVec<MemoryBuf>) -> usize {
        let mut ring = lock(&self.ring);
        let n = packets.len().min(self.slots.saturating_sub(ring.len()));
        ring.extend(packets.drain(..n));
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_grow_shrink_and_come_home() {
        let mut packet = MemoryBuf::new(&[1, 2, 3, 4]);
        assert_eq!(MemoryBuf::out(), 1);
        assert!(packet.prepend(MIN_HEADROOM));
        assert!(!packet.prepend(1));
        assert_eq!(packet.data().len(), MIN_HEADROOM + 4);
        packet.trim_front(MIN_HEADROOM + 2);
        assert_eq!(packet.data(), [3, 4]);
        packet.set_stamp(7);
        assert!(packet.resize(100) && !packet.resize(BUFFER));
        packet.trim_front(1000);
        assert_eq!((packet.data(), packet.stamp()), (&[][..], 7));
        drop(packet);
        assert_eq!((HOME.with(|home| home.borrow().len()), MemoryBuf::out()), (1, 0));
        let packet = MemoryBuf::new(&[0; 4000]);
        assert_eq!((packet.data().len(), packet.stamp()), (2048, 0), "a used buffer is as good as new");
    }

    #[test]
    fn pooled_buffers_are_like_others() {
        let mut pool = MemoryBuf::pool(3);
        pool[1].set(&[7; 60]);
        assert_eq!((pool[0].data().len(), pool[1].data(), pool[2].headroom()), (0, &[7; 60][..], MIN_HEADROOM));
        assert_eq!(MemoryBuf::out(), 3);
        drop(pool);
        assert_eq!((HOME.with(|home| home.borrow().len()), MemoryBuf::out()), (3, 0));
    }

    #[test]
    fn a_full_ring_gives_the_tail_back_in_order() {
        let (wire, _rx, mut tx) = Wire::new(2);
        let mut packets: PacketVec<_> = (0..4u8).map(|n| MemoryBuf::new(&[n])).collect();
        assert_eq!(tx.tx_burst(&mut packets), 2);
        assert_eq!(packets.iter().map(|p| p.data()[0]).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(wire.take().len(), 2);
    }
}
