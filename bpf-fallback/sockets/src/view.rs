//! Looks into memory shared with the kernel, within its bounds.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::memory::Mapping;

/// A mapping as words and octets. What is outside of it reads as nothing and is not written.
#[derive(Debug)]
pub(crate) struct View {
    mapping: Mapping,
}

impl View {
    pub(crate) fn new(mapping: Mapping) -> Self {
        Self { mapping }
    }

    fn within(&self, at: usize, len: usize, align: usize) -> Option<*mut u8> {
        let fits = at.checked_add(len).is_some_and(|end| end <= self.mapping.bytes()) && at.is_multiple_of(align);
        fits.then(|| self.mapping.start().wrapping_add(at))
    }

    /// A word that both sides write.
    #[inline]
    pub(crate) fn word(&self, at: usize) -> Option<&AtomicU32> {
        let address = self.within(at, 4, 4)?;
        // SAFETY: inside the mapping, which starts on a page, and aligned; alive as long as self; both sides use it atomically.
        Some(unsafe { AtomicU32::from_ptr(address.cast()) })
    }

    /// A word as it is now.
    #[inline]
    pub(crate) fn get(&self, at: usize) -> u32 {
        self.word(at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Half a word as it is now.
    #[inline]
    pub(crate) fn half(&self, at: usize) -> u16 {
        self.within(at, 2, 2).map_or(0, |address| {
            // SAFETY: as for word, of two octets.
            unsafe { AtomicU16::from_ptr(address.cast()) }.load(Ordering::Relaxed)
        })
    }

    fn long(&self, at: usize) -> Option<&AtomicU64> {
        let address = self.within(at, 8, 8)?;
        // SAFETY: as for word, of eight octets.
        Some(unsafe { AtomicU64::from_ptr(address.cast()) })
    }

    /// Two words as they are now.
    #[inline]
    pub(crate) fn get_long(&self, at: usize) -> u64 {
        self.long(at).map_or(0, |long| long.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn set_long(&self, at: usize, value: u64) {
        if let Some(long) = self.long(at) {
            long.store(value, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(crate) fn set(&self, at: usize, value: u32) {
        if let Some(word) = self.word(at) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Copies octets out; false, and nothing done, when they are not all inside.
    #[inline]
    pub(crate) fn copy_out(&self, at: usize, into: &mut [u8]) -> bool {
        let Some(from) = self.within(at, into.len(), 1) else { return false };
        // SAFETY: the source is inside the mapping and handed over by the kernel (the caller saw its status), the destination is
        // borrowed exclusively and is not the mapping, which is never lent out as a slice.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        true
    }

    /// Copies octets in; false, and nothing done, when they do not fit.
    #[inline]
    pub(crate) fn copy_in(&self, at: usize, from: &[u8]) -> bool {
        let Some(to) = self.within(at, from.len(), 1) else { return false };
        // SAFETY: the destination is inside the mapping and ours until its status says otherwise; the source is borrowed and is not
        // the mapping.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        true
    }
}
