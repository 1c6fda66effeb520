//! The mappings of this crate: packet memory, and the rings a socket shares with the kernel.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{NonNull, null_mut};

/// 2 MB, the huge page that every x86-64 and aarch64 kernel (4 KB granule) offers.
const HUGE_PAGE: usize = 2 << 20;

/// An address range that is ours until the drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a Mapping is an address range that belongs to the process and not to a thread; it gives out raw pointers only.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing changes a Mapping before its drop.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed memory, all of it present. Huge pages where they are wished for and there are enough; says whether they are.
    pub(crate) fn memory(bytes: usize, huge: bool) -> io::Result<(Self, bool)> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        if huge {
            let whole = bytes.next_multiple_of(HUGE_PAGE);
            if let Ok(mapping) = Self::map(whole, flags | libc::MAP_HUGETLB, -1, 0) {
                return Ok((mapping, true));
            }
        }
        Self::map(bytes, flags, -1, 0).map(|mapping| (mapping, false))
    }

    /// A ring of a socket.
    pub(crate) fn of_socket(fd: BorrowedFd<'_>, bytes: usize, offset: u64) -> io::Result<Self> {
        Self::map(bytes, libc::MAP_SHARED | libc::MAP_POPULATE, fd.as_raw_fd(), offset as libc::off_t)
    }

    fn map(bytes: usize, flags: libc::c_int, fd: libc::c_int, offset: libc::off_t) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: no address is asked for, so no mapping of ours is replaced; a failure is looked at below.
        let address = unsafe { libc::mmap(null_mut(), bytes, access, flags, fd, offset) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(address.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, bytes })
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is what mmap returned; whoever took pointers into it lives no longer than its owner (each user keeps
        // the owner alive). A failure leaks the range, which is harmless.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
