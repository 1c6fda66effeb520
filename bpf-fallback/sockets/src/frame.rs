//! One packet in one frame of packet memory.

use std::fmt;
use std::slice;

use marchproxy_engine::io::{ChecksumState, MIN_HEADROOM, PacketBuf, PacketPool};

use crate::pool::{Pool, Store};

/// A packet, exclusively owned; dropping it gives the frame back to the thread it belongs to.
pub struct Frame {
    pool: &'static Pool,
    index: u32,
    start: u16,
    len: u16,
    checksum: ChecksumState,
}

const _: () = assert!(size_of::<Frame>() <= 24);
/// Where packets of ours begin: as much as the kernel leaves before what it receives.
pub(crate) const HEADROOM: usize = 256;
const _: () = assert!(HEADROOM >= MIN_HEADROOM);

impl Frame {
    /// An empty packet of the calling thread's share.
    pub(crate) fn empty(pool: &'static Pool) -> Option<Self> {
        Some(Self::new(pool, pool.take()?, HEADROOM, 0))
    }

    /// A packet in a frame that was taken or reclaimed by the caller, who has it no more. What lies beyond the frame is cut off.
    pub(crate) fn new(pool: &'static Pool, index: u32, start: usize, len: usize) -> Self {
        let start = start.min(pool.size());
        let len = len.min(pool.size() - start);
        Self { pool, index, start: start as u16, len: len as u16, checksum: ChecksumState::Unknown }
    }

    pub(crate) fn set_checksum(&mut self, state: ChecksumState) {
        self.checksum = state;
    }

    /// Whether the packet is in this memory.
    pub(crate) fn is_of(&self, pool: &Pool) -> bool {
        std::ptr::eq(self.pool, pool)
    }

    /// Gives the frame to a side of a socket: where the packet begins, from the memory's first octet, and its length.
    pub(crate) fn lend(self, side: u32) -> (u64, u32) {
        let lent = (self.pool.address(self.index) + u64::from(self.start), u32::from(self.len));
        self.pool.lend(self.index, side);
        std::mem::forget(self);
        lent
    }

    #[inline]
    fn address(&self) -> *mut u8 {
        self.pool.at(self.index).wrapping_add(self.start as usize)
    }
}

impl PacketBuf for Frame {
    #[inline]
    fn data(&self) -> &[u8] {
        // SAFETY: start and len stay within the frame (new, and the changes below), which lies in the pool's mapping: initialised,
        // alive for ever, and ours alone (see `pool`); writing needs `&mut self`.
        unsafe { slice::from_raw_parts(self.address(), self.len as usize) }
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in data; exclusively borrowed.
        unsafe { slice::from_raw_parts_mut(self.address(), self.len as usize) }
    }

    #[inline]
    fn octets(&self) -> usize {
        self.len as usize
    }

    #[inline]
    fn headroom(&self) -> usize {
        self.start as usize
    }

    #[inline]
    fn tailroom(&self) -> usize {
        self.pool.size() - self.start as usize - self.len as usize
    }

    #[inline]
    fn prepend(&mut self, n: usize) -> bool {
        if n > self.start as usize {
            return false;
        }
        self.start -= n as u16;
        self.len += n as u16;
        true
    }

    #[inline]
    fn trim_front(&mut self, n: usize) {
        let n = n.min(self.len as usize) as u16;
        self.start += n;
        self.len -= n;
    }

    #[inline]
    fn resize(&mut self, len: usize) -> bool {
        if len > self.pool.size() - self.start as usize {
            return false;
        }
        self.len = len as u16;
        true
    }

    #[inline]
    fn checksum(&self) -> ChecksumState {
        self.checksum
    }
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        self.pool.give_back(self.index);
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("len", &self.len).field("headroom", &self.start).finish_non_exhaustive()
    }
}

/// Packets that the engine makes.
#[derive(Debug)]
pub struct FramePool {
    pool: &'static Pool,
}

impl FramePool {
    /// Ordinary packets of a store.
    pub fn new(store: &'static Store) -> Result<Self, crate::Error> {
        Ok(Self { pool: store.pool(0, HEADROOM)? })
    }
}

impl PacketPool for FramePool {
    type Buf = Frame;
    fn alloc(&mut self) -> Option<Frame> {
        Frame::empty(self.pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_grow_and_shrink_within_their_bounds_and_come_home() {
        let store = Store::leak(1, false, 1);
        let _seat = store.enter().unwrap();
        let mut pool = FramePool::new(store).unwrap();
        let mut packet = pool.alloc().unwrap();
        assert_eq!((packet.octets(), packet.headroom(), packet.tailroom()), (0, HEADROOM, 2048 - HEADROOM));
        assert!(packet.resize(4) && !packet.resize(2048 - HEADROOM + 1));
        packet.data_mut().copy_from_slice(&[1, 2, 3, 4]);
        assert!(packet.prepend(HEADROOM) && !packet.prepend(1));
        packet.trim_front(HEADROOM + 2);
        assert_eq!(packet.data(), [3, 4]);
        packet.trim_front(100);
        assert_eq!(packet.octets(), 0);
        drop(packet);
        assert_eq!(store.at_home(), store.frames());
        let all: Vec<Frame> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!(all.len(), store.frames());
        drop(all);
        assert_eq!(store.at_home(), store.frames());
    }

    #[test]
    fn what_the_kernel_says_stays_within_the_frame() {
        let store = Store::leak(1, false, 1);
        let _seat = store.enter().unwrap();
        let pool = store.pool(1514, HEADROOM).unwrap();
        let frame = Frame::new(pool, pool.take().unwrap(), 256, 1 << 20);
        assert_eq!((frame.octets(), frame.tailroom()), (2048 - 256, 0));
    }
}
