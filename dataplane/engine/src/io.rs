//! What the engine asks of a packet source: buffers, receive and transmit queues, and a pool for packets it makes itself.
//!
//! A backend (DPDK, AF_XDP, memory) implements these four traits; the engine never sees anything else of it. Calls are at
//! burst granularity so that a foreign-function border is crossed once per burst, not per packet.

use arrayvec::ArrayVec;

/// The largest burst any queue hands over in one call.
pub const MAX_BURST: usize = 64;

/// The vector in which packets travel between queues and the engine.
pub type PacketVec<B> = ArrayVec<B, MAX_BURST>;

/// Ethernet address, in transmission order.
pub type Mac = [u8; 6];

/// What is known about a packet's layer-4 checksum on receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumState {
    /// The device (or a peer on the same host) vouches for it.
    Verified,
    /// Only the pseudo header is summed (a virtual peer left the rest to offload); the backend's `tx` must finish it, or the
    /// engine must before it transmits.
    Partial,
    /// Nobody looked.
    Unknown,
}

/// One packet in one contiguous buffer, exclusively owned; dropping it gives the buffer back to its pool.
///
/// Buffers start with at least [`MIN_HEADROOM`] bytes before the frame. The VLAN tag, if any, is in the frame whatever the
/// driver did with it.
pub trait PacketBuf: Send + Sized + 'static {
    /// The frame from the first byte of the destination MAC address; no FCS.
    fn data(&self) -> &[u8];
    /// The frame, writable.
    fn data_mut(&mut self) -> &mut [u8];
    /// Length of the frame.
    #[inline]
    fn octets(&self) -> usize {
        self.data().len()
    }
    /// Bytes free before the frame.
    fn headroom(&self) -> usize;
    /// Bytes free behind the frame.
    fn tailroom(&self) -> usize;
    /// Moves the start of the frame `n` bytes towards the buffer's start. The new bytes' content is unspecified.
    /// Returns false and changes nothing when `n` exceeds [`headroom`](Self::headroom).
    #[must_use]
    fn prepend(&mut self, n: usize) -> bool;
    /// Cuts `n` bytes from the front; `n` larger than the frame empties it.
    fn trim_front(&mut self, n: usize);
    /// Makes the frame `len` bytes long by cutting or growing its tail. Grown bytes' content is unspecified.
    /// Returns false and changes nothing when the buffer is too small.
    #[must_use]
    fn resize(&mut self, len: usize) -> bool;
    /// What is known about the L4 checksum.
    fn checksum(&self) -> ChecksumState {
        ChecksumState::Unknown
    }
    /// Starts loading the headers: the first two cache lines of the frame (IPv6 with TCP needs both).
    #[inline]
    fn prefetch(&self) {
        let frame = self.data();
        marchproxy_cpu::prefetch_slice(frame, 0);
        marchproxy_cpu::prefetch_slice(frame, 64);
    }
}

/// Headroom every backend guarantees on received and allocated packets: room for the largest encapsulation we add.
pub const MIN_HEADROOM: usize = 128;

/// One receive queue, owned by one worker.
pub trait RxQueue: Send {
    /// The backend's packet type.
    type Buf: PacketBuf;
    /// Appends up to `room` packets (never beyond the vector's capacity) and returns how many came. Never blocks.
    fn rx_burst(&mut self, into: &mut PacketVec<Self::Buf>, room: usize) -> usize;
}

/// One transmit queue, owned by one worker.
pub trait TxQueue: Send {
    /// The backend's packet type.
    type Buf: PacketBuf;
    /// Hands packets to the driver from the front of `packets`. Accepted ones leave the vector and belong to the driver; the
    /// unsent tail stays in order. Returns the number accepted. Never blocks.
    fn tx_burst(&mut self, packets: &mut PacketVec<Self::Buf>) -> usize;
}

/// Where packets come from that the engine originates (ARP, ICMP, ...).
pub trait PacketPool: Send {
    /// The backend's packet type.
    type Buf: PacketBuf;
    /// An empty packet with at least [`MIN_HEADROOM`] before it, or `None` when the pool is exhausted.
    fn alloc(&mut self) -> Option<Self::Buf>;
}
