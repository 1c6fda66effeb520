//! Flat arrays of plain data whose memory the caller chooses: the heap in tests and harness, huge pages in the daemon.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytemuck::Zeroable;

/// A fixed-size array of plain data with one owner.
#[derive(Debug)]
pub struct Slab<T> {
    memory: Box<[T]>,
}

impl<T: Zeroable> Slab<T> {
    /// `len` zeroed entries on the heap.
    pub fn heap(len: usize) -> Self {
        Self { memory: bytemuck::zeroed_slice_box(len) }
    }
}

impl<T> Deref for Slab<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        &self.memory
    }
}

impl<T> DerefMut for Slab<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory
    }
}

/// A fixed-size array of words that several threads share.
#[derive(Clone, Debug)]
pub struct SharedWords {
    memory: Arc<[AtomicU64]>,
}

impl SharedWords {
    /// `len` zeroed words on the heap.
    pub fn heap(len: usize) -> Self {
        Self { memory: (0..len).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU64];
    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        &self.memory
    }
}
