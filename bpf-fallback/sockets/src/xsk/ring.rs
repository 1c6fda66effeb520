//! One of a socket's four rings: descriptors between two free-running counters, one written by each side.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use crate::memory::Mapping;
use crate::view::View;

/// Octets of an entry of the fill and completion rings, and of the other two.
pub(crate) const ADDRESS: usize = 8;
pub(crate) const DESCRIPTOR: usize = 16;

#[derive(Debug)]
pub(crate) struct Ring {
    view: View,
    producer: usize,
    consumer: usize,
    flags: usize,
    entries: usize,
    stride: usize,
    size: u32,
    /// Our counter, and the kernel's when we last looked.
    ours: u32,
    theirs: u32,
}

impl Ring {
    pub(crate) fn map(
        fd: &OwnedFd,
        offsets: libc::xdp_ring_offset,
        page: u64,
        size: u32,
        stride: usize,
    ) -> std::io::Result<Self> {
        let entries = offsets.desc as usize;
        let mapping = Mapping::of_socket(fd.as_fd(), entries + size as usize * stride, page)?;
        Ok(Self {
            view: View::new(mapping),
            producer: offsets.producer as usize,
            consumer: offsets.consumer as usize,
            flags: offsets.flags as usize,
            entries,
            stride,
            size,
            ours: 0,
            theirs: 0,
        })
    }

    fn entry(&self, counter: u32) -> usize {
        self.entries + (counter & (self.size - 1)) as usize * self.stride
    }

    /// As producer: entries that can be written, looking at the kernel's counter only when fewer than `wanted` are known.
    #[inline]
    pub(crate) fn room(&mut self, wanted: u32) -> u32 {
        if self.size.saturating_sub(self.ours.wrapping_sub(self.theirs)) < wanted {
            self.theirs = self.view.word(self.consumer).map_or(self.theirs, |word| word.load(Ordering::Acquire));
        }
        self.size.saturating_sub(self.ours.wrapping_sub(self.theirs))
    }

    /// Writes the next entry of a fill ring. There must be room.
    #[inline]
    pub(crate) fn put_address(&mut self, address: u64) {
        self.view.set_long(self.entry(self.ours), address);
        self.ours = self.ours.wrapping_add(1);
    }

    /// Writes the next entry of a transmit ring. There must be room.
    #[inline]
    pub(crate) fn put(&mut self, address: u64, length: u32) {
        let entry = self.entry(self.ours);
        self.view.set_long(entry, address);
        self.view.set(entry + ADDRESS, length);
        self.view.set(entry + ADDRESS + 4, 0);
        self.ours = self.ours.wrapping_add(1);
    }

    /// Shows the kernel what was written.
    #[inline]
    pub(crate) fn submit(&self) {
        if let Some(word) = self.view.word(self.producer) {
            word.store(self.ours, Ordering::Release);
        }
    }

    /// As producer: whether the kernel took all that was shown to it.
    pub(crate) fn is_taken(&mut self) -> bool {
        self.room(self.size) == self.size
    }

    /// As consumer: entries that can be read, looking at the kernel's counter only when fewer than `wanted` are known.
    #[inline]
    pub(crate) fn ready(&mut self, wanted: u32) -> u32 {
        if self.theirs.wrapping_sub(self.ours) < wanted {
            self.theirs = self.view.word(self.producer).map_or(self.theirs, |word| word.load(Ordering::Acquire));
        }
        self.theirs.wrapping_sub(self.ours).min(self.size)
    }

    /// Reads the next entry of a completion ring. There must be one.
    #[inline]
    pub(crate) fn take_address(&mut self) -> u64 {
        let address = self.view.get_long(self.entry(self.ours));
        self.ours = self.ours.wrapping_add(1);
        address
    }

    /// Reads the next entry of a receive ring: address and length. There must be one.
    #[inline]
    pub(crate) fn take(&mut self) -> (u64, u32) {
        let entry = self.entry(self.ours);
        self.ours = self.ours.wrapping_add(1);
        (self.view.get_long(entry), self.view.get(entry + ADDRESS))
    }

    /// Gives the kernel back what was read.
    #[inline]
    pub(crate) fn release(&self) {
        if let Some(word) = self.view.word(self.consumer) {
            word.store(self.ours, Ordering::Release);
        }
    }

    /// Whether the kernel sleeps until it is called.
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.view.get(self.flags) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}
