//! How a slab's memory is asked for, what it became, and why it was refused.

use std::io;

/// Wishes for a memfd-backed slab.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Ask for huge pages. Falls back to normal pages when too few are free; the [`MemoryReport`] says so.
    pub huge: bool,
    /// Prefer memory of this NUMA node.
    pub numa_node: Option<u32>,
}

/// The kind of pages behind a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// The process's own heap.
    Heap,
    /// Shared memory in pages of the CPU's normal size.
    Normal,
    /// Shared memory in huge pages of this many bytes.
    Huge(usize),
}

/// What a slab's memory became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryReport {
    /// The pages it got.
    pub pages: Pages,
    /// Bytes mapped, whole pages; 0 on the heap.
    pub bytes: usize,
    /// The NUMA node that holds the first page; `None` on the heap or when the kernel has no NUMA.
    pub node: Option<u32>,
    /// Wishes that were not granted, and why; fit to be logged.
    pub shortfall: Option<String>,
}

/// Why a mapping could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// `len` entries do not fit the address space.
    #[error("{name}: {len} entries of {entry} bytes are more than the address space")]
    TooLarge {
        /// The slab.
        name: String,
        /// Entries asked for.
        len: usize,
        /// Bytes per entry.
        entry: usize,
    },
    /// The name is longer than memfd allows or holds a zero byte.
    #[error("{name:?} cannot name shared memory: at most 249 bytes, no zero byte")]
    Name {
        /// The name as given.
        name: String,
    },
    /// The host has not that much memory left; taking it would end in the out-of-memory killer.
    #[error(
        "{name}: needs {needed_mb} MB of memory, {available_mb} MB are available: make the table smaller or add memory"
    )]
    NotEnough {
        /// The slab.
        name: String,
        /// Megabytes needed.
        needed_mb: usize,
        /// Megabytes the kernel says are available.
        available_mb: usize,
    },
    /// The NUMA node does not exist.
    #[error("{name}: NUMA node {node} is not online (online: {online:?})")]
    NoSuchNode {
        /// The slab.
        name: String,
        /// The node asked for.
        node: u32,
        /// The nodes that exist.
        online: Vec<u32>,
    },
    /// The kernel refused a step for another reason.
    #[error("{name}: {step} of {bytes} bytes failed: {source}")]
    Kernel {
        /// The slab.
        name: String,
        /// The system call.
        step: &'static str,
        /// Bytes concerned.
        bytes: usize,
        /// The kernel's reason.
        source: io::Error,
    },
}
