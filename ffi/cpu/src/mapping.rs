//! One shared mapping over memfd_create: zeroed, whole pages, all of them present, so that workers never fault.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

use crate::memory::{MemoryError, MemoryOptions, MemoryReport, Pages};
use crate::numa::{self, NumaOutcome};

/// 2 MB: the size every x86-64 and aarch64 kernel (4 KB granule) offers.
const HUGE_PAGE: usize = 2 << 20;

/// Memory shared through a file descriptor; unmapped and closed on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    fd: OwnedFd,
    report: MemoryReport,
}

// SAFETY: a Mapping is an address range and a descriptor, both owned by the process and not by a thread; it gives out its
// start only as a raw pointer.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared Mapping has no operation that changes it.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// At least `bytes` (more than 0) of zeroed memory.
    pub(crate) fn create(name: &str, bytes: usize, options: MemoryOptions) -> Result<Self, MemoryError> {
        let online = numa::online_nodes();
        if let Some(node) = options.numa_node.filter(|node| !online.contains(node)) {
            return Err(MemoryError::NoSuchNode { name: name.into(), node, online });
        }
        let mut shortfall = None;
        if options.huge {
            match Self::map(name, bytes, Pages::Huge(HUGE_PAGE)) {
                Ok(mapping) => return mapping.place(name, options.numa_node, shortfall),
                Err(MemoryError::Kernel { source, .. }) => {
                    let needed = bytes.div_ceil(HUGE_PAGE);
                    let free = free_huge_pages().map_or_else(|| "no".into(), |pages| pages.to_string());
                    shortfall = Some(format!(
                        "{name}: normal pages instead of huge ones: {needed} pages of 2 MB needed, {free} free ({source}); \
                         reserve more with scripts/hugepages/reserve"
                    ));
                }
                Err(other) => return Err(other),
            }
        }
        check_available(name, bytes)?;
        Self::map(name, bytes, Pages::Normal)?.place(name, options.numa_node, shortfall)
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn report(&self) -> &MemoryReport {
        &self.report
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn map(name: &str, wanted: usize, pages: Pages) -> Result<Self, MemoryError> {
        let (flags, unit) = match pages {
            Pages::Huge(size) => (libc::MFD_CLOEXEC | libc::MFD_HUGETLB | libc::MFD_HUGE_2MB, size),
            Pages::Normal | Pages::Heap => (libc::MFD_CLOEXEC, page_size()),
        };
        let too_large = || MemoryError::TooLarge { name: name.into(), len: wanted, entry: 1 };
        let bytes = wanted.checked_next_multiple_of(unit).ok_or_else(too_large)?;
        let failed = |step| MemoryError::Kernel { name: name.into(), step, bytes, source: io::Error::last_os_error() };
        let label =
            CString::new(name).ok().filter(|_| name.len() <= 249).ok_or(MemoryError::Name { name: name.into() })?;
        let size = libc::off_t::try_from(bytes).map_err(|_| too_large())?;

        // SAFETY: `label` is a zero-terminated string that lives until the call returns.
        let raw = unsafe { libc::memfd_create(label.as_ptr(), flags) };
        if raw < 0 {
            return Err(failed("memfd_create"));
        }
        // SAFETY: `raw` was returned by memfd_create just now, is open, and nobody else holds it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: `fd` is an open descriptor of a file that nothing maps yet.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), size) } != 0 {
            return Err(failed("ftruncate"));
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: no address is asked for, so no existing mapping is replaced; `fd` is open, `bytes` is its size and not zero.
        let address = unsafe { libc::mmap(null_mut(), bytes, access, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED {
            return Err(failed("mmap"));
        }
        let start = NonNull::new(address.cast()).ok_or_else(|| failed("mmap"))?;
        let report = MemoryReport { pages, bytes, node: None, shortfall: None };
        Ok(Self { start, bytes, fd, report })
    }

    /// Chooses the node, then makes every page present: a page fault is a stall of milliseconds for a worker, and a huge
    /// page missing at first touch is SIGBUS.
    fn place(mut self, name: &str, node: Option<u32>, shortfall: Option<String>) -> Result<Self, MemoryError> {
        self.report.shortfall = shortfall;
        let failed = |step, source, bytes| MemoryError::Kernel { name: name.into(), step, bytes, source };
        if let Some(node) = node {
            match numa::bind(self.start, self.bytes, node) {
                Ok(NumaOutcome::Applied) => {}
                Ok(NumaOutcome::NoNuma) => self.report.add_shortfall("the kernel has no NUMA"),
                Err(source) => return Err(failed("mbind", source, self.bytes)),
            }
        }
        // SAFETY: the range is exactly our mapping, writable and page-aligned; populating changes no content.
        let result = unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, libc::MADV_POPULATE_WRITE) };
        if result != 0 {
            let source = io::Error::last_os_error();
            // Kernels before 5.14 do not know the advice; they fault pages in as they are touched.
            if source.raw_os_error() != Some(libc::EINVAL) {
                return Err(failed("populating", source, self.bytes));
            }
        }
        self.report.node = numa::node_of(self.start);
        if let (Some(asked), Some(found)) = (node, self.report.node)
            && asked != found
        {
            self.report.add_shortfall(&format!("{name}: node {asked} had no room, memory is on node {found}"));
        }
        Ok(self)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and bytes are what mmap returned; the owner (slab or words) hands out references that borrow from it,
        // so none is alive any more. A failure leaks the mapping and is harmless.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

impl MemoryReport {
    fn add_shortfall(&mut self, text: &str) {
        let all = self.shortfall.get_or_insert_default();
        if !all.is_empty() {
            all.push_str("; ");
        }
        all.push_str(text);
    }
}

fn page_size() -> usize {
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

fn free_huge_pages() -> Option<usize> {
    std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").ok()?.trim().parse().ok()
}

/// Shared memory is not charged until touched: without this, asking for too much is answered by the out-of-memory killer.
fn check_available(name: &str, bytes: usize) -> Result<(), MemoryError> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    match kilobytes {
        Some(kilobytes) if bytes / 1024 >= kilobytes => Err(MemoryError::NotEnough {
            name: name.into(),
            needed_mb: bytes.div_ceil(1 << 20),
            available_mb: kilobytes / 1024,
        }),
        _ => Ok(()),
    }
}
