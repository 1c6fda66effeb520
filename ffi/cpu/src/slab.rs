//! Flat arrays of plain data whose memory the caller chooses: the heap in tests and harness, huge pages in the daemon.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, slice_from_raw_parts_mut};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytemuck::{Pod, Zeroable};

use crate::mapping::Mapping;
use crate::memory::{MemoryError, MemoryOptions, MemoryReport, Pages};

/// Every slab starts on a cache line, so that an entry of 64 bytes is one line wherever the memory came from.
const ALIGN: usize = 64;

/// A fixed-size array of plain data with one owner.
pub struct Slab<T> {
    start: NonNull<T>,
    len: usize,
    memory: Memory,
    /// The slab owns and drops `T`s.
    entries: PhantomData<T>,
}

// SAFETY: the slab owns its entries and its memory alone, like a Box<[T]>; sending it sends the entries.
unsafe impl<T: Send> Send for Slab<T> {}
// SAFETY: a shared slab gives only shared references to its entries, like a Box<[T]>.
unsafe impl<T: Sync> Sync for Slab<T> {}

impl<T: Zeroable> Slab<T> {
    /// `len` zeroed entries on the heap.
    pub fn heap(len: usize) -> Self {
        let (start, memory) = Memory::heap::<T>(len);
        Self { start, len, memory, entries: PhantomData }
    }
}

impl<T: Pod> Slab<T> {
    /// `len` zeroed entries in shared memory that a successor process can adopt; `name` shows in `/proc/PID/maps`. Every page
    /// is present when this returns.
    pub fn memfd(name: &str, len: usize, options: MemoryOptions) -> Result<Self, MemoryError> {
        let (start, memory) = Memory::memfd::<T>(name, len, options)?;
        Ok(Self { start, len, memory, entries: PhantomData })
    }
}

impl<T> Slab<T> {
    /// What the memory became: the pages, the node, and wishes that were not granted.
    pub fn report(&self) -> MemoryReport {
        self.memory.report()
    }

    /// The descriptor to hand to a successor process; `None` on the heap.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.memory.fd()
    }
}

impl<T> Deref for Slab<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` points to `len` initialised entries (zeroed, and zero is a value of T) in memory that lives as long
        // as self, aligned for T and at most isize::MAX bytes (checked when made); writing needs `&mut self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Slab<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in deref; self is exclusively borrowed and the only way to the entries in this process.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Slab<T> {
    fn drop(&mut self) {
        // SAFETY: `start` points to `len` valid entries that only we own; they are not used again: the memory goes next.
        unsafe { slice_from_raw_parts_mut(self.start.as_ptr(), self.len).drop_in_place() };
    }
}

impl<T> fmt::Debug for Slab<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab").field("len", &self.len).field("memory", &self.memory).finish_non_exhaustive()
    }
}

/// A fixed-size array of words that several threads share.
#[derive(Clone)]
pub struct SharedWords {
    start: NonNull<AtomicU64>,
    len: usize,
    memory: Arc<Memory>,
}

// SAFETY: the words are atomics, the memory behind them is kept alive by the Arc, and neither belongs to a thread.
unsafe impl Send for SharedWords {}
// SAFETY: as above; all access through a shared SharedWords is atomic.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// `len` zeroed words on the heap.
    pub fn heap(len: usize) -> Self {
        let (start, memory) = Memory::heap::<AtomicU64>(len);
        Self { start, len, memory: Arc::new(memory) }
    }

    /// `len` zeroed words in shared memory that other processes can map. Every page is present when this returns.
    pub fn memfd(name: &str, len: usize, options: MemoryOptions) -> Result<Self, MemoryError> {
        let (start, memory) = Memory::memfd::<AtomicU64>(name, len, options)?;
        Ok(Self { start, len, memory: Arc::new(memory) })
    }

    /// What the memory became: the pages, the node, and wishes that were not granted.
    pub fn report(&self) -> MemoryReport {
        self.memory.report()
    }

    /// The descriptor to hand to another process; `None` on the heap.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.memory.fd()
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU64];
    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `start` points to `len` zeroed words in memory that the Arc keeps alive, aligned to ALIGN and at most
        // isize::MAX bytes (checked when made); atomics may be shared and changed through `&`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for SharedWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedWords").field("len", &self.len).field("memory", &self.memory).finish_non_exhaustive()
    }
}

/// Who owns the bytes; freed on drop.
#[derive(Debug)]
enum Memory {
    /// No bytes at all: an empty slab.
    None,
    Heap {
        base: NonNull<u8>,
        layout: Layout,
    },
    Mapped(Mapping),
}

// SAFETY: the heap block is owned by this value alone and may be freed on any thread; Mapping is Send.
unsafe impl Send for Memory {}
// SAFETY: a shared Memory only answers questions about itself.
unsafe impl Sync for Memory {}

impl Memory {
    fn heap<T>(len: usize) -> (NonNull<T>, Self) {
        const { assert!(align_of::<T>() <= ALIGN, "entries want more than a cache line's alignment") };
        let bytes = len.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(ALIGN));
        let layout = bytes.and_then(|bytes| Layout::array::<u8>(bytes).ok());
        let Some(layout) = layout else { panic!("a slab of {len} entries is more than the address space") };
        if len == 0 || size_of::<T>() == 0 {
            return (dangling(), Self::None);
        }
        // One line too much, and the start moved up to a line: asking for the alignment itself would cost calloc's lazily
        // zeroed pages, and big tables would be written once before their first use.
        // SAFETY: the layout's size is at least ALIGN, so not zero.
        let Some(base) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        let offset = base.as_ptr().align_offset(ALIGN);
        // SAFETY: `offset` is below ALIGN (a power of two and byte pointers: always reachable), the block is ALIGN longer than
        // the entries, so start and entries lie inside it.
        let start = unsafe { base.add(offset) }.cast();
        (start, Self::Heap { base, layout })
    }

    fn memfd<T>(name: &str, len: usize, options: MemoryOptions) -> Result<(NonNull<T>, Self), MemoryError> {
        const { assert!(align_of::<T>() <= ALIGN, "entries want more than a cache line's alignment") };
        let entry = size_of::<T>();
        let bytes = len
            .checked_mul(entry)
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or_else(|| MemoryError::TooLarge { name: name.into(), len, entry })?;
        if bytes == 0 {
            return Ok((dangling(), Self::None));
        }
        let mapping = Mapping::create(name, bytes, options)?;
        let start = mapping.start().cast::<T>();
        assert!(start.as_ptr().cast::<u8>().align_offset(ALIGN) == 0, "mmap returned an address inside a page");
        Ok((start, Self::Mapped(mapping)))
    }

    fn report(&self) -> MemoryReport {
        match self {
            Self::Mapped(mapping) => mapping.report().clone(),
            _ => MemoryReport { pages: Pages::Heap, bytes: 0, node: None, shortfall: None },
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Mapped(mapping) => Some(mapping.fd()),
            _ => None,
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Self::Heap { base, layout } = self {
            // SAFETY: `base` came from alloc_zeroed with exactly this layout and is freed once: here.
            unsafe { dealloc(base.as_ptr(), *layout) };
        }
    }
}

/// An aligned address for an array without bytes.
fn dangling<T>() -> NonNull<T> {
    NonNull::dangling()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
    #[repr(C)]
    struct Entry {
        key: u64,
        value: [u32; 6],
    }

    fn is_zeroed_writable_and_aligned(slab: &mut Slab<Entry>) {
        assert!(slab.iter().all(|entry| *entry == Entry::zeroed()));
        assert_eq!(slab.as_ptr().cast::<u8>().align_offset(64), 0);
        let last = slab.len() - 1;
        slab[last].value[5] = 7;
        assert_eq!(slab[last].value[5], 7);
    }

    #[test]
    fn heap_slabs_are_zeroed_and_start_on_a_line() {
        for len in [1, 3, 1000] {
            is_zeroed_writable_and_aligned(&mut Slab::heap(len));
        }
        assert_eq!(Slab::<Entry>::heap(5).report().pages, Pages::Heap);
    }

    #[test]
    fn empty_slabs_are_fine() {
        assert!(Slab::<Entry>::heap(0).is_empty());
        assert!(Slab::<Entry>::memfd("empty", 0, MemoryOptions::default()).unwrap().is_empty());
        assert_eq!(Slab::<()>::heap(9).len(), 9);
        assert!(SharedWords::heap(0).is_empty());
    }

    #[test]
    fn entries_that_own_something_are_dropped() {
        let counted = Arc::new(());
        let mut slab = Slab::<Option<Box<Arc<()>>>>::heap(2);
        slab[1] = Some(Box::new(counted.clone()));
        assert_eq!(Arc::strong_count(&counted), 2);
        drop(slab);
        assert_eq!(Arc::strong_count(&counted), 1);
    }

    #[test]
    fn memfd_slabs_are_zeroed_present_and_shared_by_descriptor() {
        let mut slab = Slab::<Entry>::memfd("sessions", 1000, MemoryOptions::default()).unwrap();
        is_zeroed_writable_and_aligned(&mut slab);
        let report = slab.report();
        assert_eq!((report.pages, report.shortfall), (Pages::Normal, None));
        assert!(report.bytes >= 1000 * size_of::<Entry>());
        assert!(slab.fd().is_some());
    }

    #[test]
    fn huge_pages_are_given_or_the_report_says_why_not() {
        let options = MemoryOptions { huge: true, numa_node: None };
        let mut slab = Slab::<Entry>::memfd("huge", 100_000, options).unwrap();
        is_zeroed_writable_and_aligned(&mut slab);
        let report = slab.report();
        match report.pages {
            Pages::Huge(size) => assert!(report.bytes.is_multiple_of(size) && report.shortfall.is_none()),
            Pages::Normal => assert!(report.shortfall.unwrap().contains("2 MB needed")),
            Pages::Heap => panic!("a memfd slab on the heap"),
        }
    }

    #[test]
    fn more_huge_pages_than_there_are_fall_back() {
        let free =
            std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap_or_default();
        if free.trim().parse().unwrap_or(0) > 64 {
            // Taking gigabytes to prove a fallback would disturb the host; the branch is covered where none are reserved.
            return;
        }
        let options = MemoryOptions { huge: true, numa_node: None };
        let slab = Slab::<Entry>::memfd("fallback", 65 << 16, options).unwrap();
        assert_eq!(slab.report().pages, Pages::Normal);
        assert!(slab.report().shortfall.is_some());
    }

    #[test]
    fn memory_lands_on_the_node_asked_for() {
        let node = crate::online_nodes()[0];
        let options = MemoryOptions { huge: false, numa_node: Some(node) };
        let report = Slab::<Entry>::memfd("node", 10_000, options).unwrap().report();
        match report.node {
            Some(found) => assert_eq!((found, report.shortfall), (node, None)),
            None => assert!(report.shortfall.unwrap().contains("no NUMA")),
        }
    }

    #[test]
    fn impossible_wishes_are_refused_by_name() {
        let plain = MemoryOptions::default();
        let said = |result: Result<Slab<Entry>, MemoryError>| result.unwrap_err().to_string();
        assert!(said(Slab::memfd("many", usize::MAX, plain)).contains("address space"));
        assert!(said(Slab::memfd("big", 1 << 45, plain)).contains("MB are available"));
        assert!(said(Slab::memfd("a\0b", 1, plain)).contains("cannot name"));
        let node = MemoryOptions { huge: false, numa_node: Some(999) };
        assert!(said(Slab::memfd("far", 1, node)).contains("node 999 is not online"));
    }

    #[test]
    fn words_are_shared_between_clones_and_threads() {
        for words in [SharedWords::heap(4), SharedWords::memfd("words", 4, MemoryOptions::default()).unwrap()] {
            assert_eq!(words.as_ptr().cast::<u8>().align_offset(64), 0);
            let other = words.clone();
            std::thread::spawn(move || other[3].store(9, Ordering::Release)).join().unwrap();
            assert_eq!(words[3].load(Ordering::Acquire), 9);
        }
    }
}
