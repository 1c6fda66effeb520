//! Packet memory: pools of equal buffers on a socket.

use std::ffi::CString;
use std::fmt;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use marchproxy_dpdk_sys as sys;
use marchproxy_engine::io::{MIN_HEADROOM, PacketPool};

use crate::SocketId;
use crate::eal::{Eal, Process, huge_pages_found, sockets};
use crate::errno::Errno;
use crate::heap;
use crate::log::{self, LogLevel, Mark};
use crate::mbuf::Mbuf;

const _: () = assert!(sys::MP_HEADROOM as usize >= MIN_HEADROOM);

/// What a pool is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Packets. All RX and TX descriptors of the ports that use it, what workers and holders hold, and `cache` per worker. A
    /// power of two minus one uses memory best.
    pub count: u32,
    /// Packets each registered thread may keep aside, so that most allocations touch no shared memory: 512 at most, and two
    /// thirds of `count`.
    pub cache: u32,
    /// Bytes for the frame, behind the headroom (which is added): the MTU plus 22 for Ethernet and two VLAN tags at least.
    /// Many NICs use buffers in steps of 1,024.
    pub frame_room: u16,
    /// Where the memory is; `None`: anywhere.
    pub socket: Option<SocketId>,
}

impl PoolConfig {
    /// `count` packets of 2,048 bytes (MTU 1,500 with room to spare) with the usual cache.
    pub fn new(count: u32) -> Self {
        Self { count, cache: 256.min(count / 2), frame_room: 2048, socket: None }
    }
}

/// Why a pool could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A name DPDK can't take.
    #[error("pool {name:?}: a name has 1 to {max} bytes and no zero byte")]
    Name {
        /// The name.
        name: String,
        /// Longest name.
        max: usize,
    },
    /// Two pools of one name.
    #[error("pool {name}: there is a pool of that name")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No packets at all.
    #[error("pool {name}: a pool has at least 1 packet")]
    Empty {
        /// The pool.
        name: String,
    },
    /// The cache is too large.
    #[error("pool {name}: cache {cache}, at most {max} are allowed for {count} packets")]
    Cache {
        /// The pool.
        name: String,
        /// Asked for.
        cache: u32,
        /// Largest allowed.
        max: u32,
        /// Packets of the pool.
        count: u32,
    },
    /// The frame does not fit DPDK's 16-bit buffer length.
    #[error("pool {name}: frame_room {frame_room}, at most {max} are possible beside the headroom")]
    FrameRoom {
        /// The pool.
        name: String,
        /// Asked for.
        frame_room: u16,
        /// Largest possible.
        max: u16,
    },
    /// The socket does not exist.
    #[error("pool {name}: socket {socket} does not exist (sockets: {found})")]
    NoSuchSocket {
        /// The pool.
        name: String,
        /// Asked for.
        socket: SocketId,
        /// The sockets DPDK found.
        found: String,
    },
    /// Not enough memory on the socket.
    #[error(
        "pool {name}: {count} packets need about {needed_mb} MB, found {free_mb} MB in DPDK's heaps and {huge_pages}: \
         reserve more with scripts/hugepages/reserve, or make the pool smaller"
    )]
    NoMemory {
        /// The pool.
        name: String,
        /// Packets asked for.
        count: u32,
        /// Megabytes they need.
        needed_mb: u64,
        /// Megabytes free in DPDK's heaps of that socket.
        free_mb: u64,
        /// The host's hugepages.
        huge_pages: String,
    },
    /// Any other reason.
    #[error("pool {name}: {errno}: {said}")]
    Other {
        /// The pool.
        name: String,
        /// DPDK's error number.
        errno: Errno,
        /// DPDK's log.
        said: String,
    },
}

/// A pool of packets. A handle: clones are the same pool, and ports hold one of theirs.
#[derive(Clone, Debug)]
pub struct Mempool {
    shared: Arc<PoolShared>,
}

#[derive(Debug)]
struct PoolShared {
    raw: NonNull<sys::rte_mempool>,
    name: String,
    config: PoolConfig,
    process: Arc<Process>,
}

// SAFETY: DPDK's pools may be used from every thread at once (ring operations, per-lcore caches); the handle only holds the
// address, and freeing needs the last handle.
unsafe impl Send for PoolShared {}
// SAFETY: as above.
unsafe impl Sync for PoolShared {}

impl Mempool {
    /// Makes a pool; `name` (25 bytes at most) is unique in the process.
    pub fn create(eal: &Eal, name: &str, config: &PoolConfig) -> Result<Self, PoolError> {
        let process = eal.process();
        check(process, name, config)?;
        let text = CString::new(name).map_err(|_| name_error(name))?;
        // SAFETY: EAL runs (the process is held); `text` is zero-terminated and only compared.
        if !unsafe { sys::rte_mempool_lookup(text.as_ptr()) }.is_null() {
            return Err(PoolError::NameTaken { name: name.into() });
        }
        let mark = Mark::now();
        let socket = config.socket.map_or(sys::MP_SOCKET_ANY, |socket| socket.0 as i32);
        let room = sys::MP_HEADROOM as u16 + config.frame_room;
        // SAFETY: EAL runs; `text` is zero-terminated and copied; the numbers are in range (checked above).
        let raw = unsafe { sys::rte_pktmbuf_pool_create(text.as_ptr(), config.count, config.cache, 0, room, socket) };
        let Some(raw) = NonNull::new(raw) else {
            return Err(match Errno::last() {
                Errno::NoMemory => no_memory(process, name, config),
                errno => PoolError::Other { name: name.into(), errno, said: mark.since() },
            });
        };
        let shared = PoolShared { raw, name: name.into(), config: *config, process: process.clone() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What it was made with.
    pub fn config(&self) -> PoolConfig {
        self.shared.config
    }

    /// Packets it has.
    pub fn size(&self) -> u32 {
        self.shared.config.count
    }

    /// Packets that are not in use; walks all caches, so not for workers.
    pub fn available(&self) -> u32 {
        available(self.shared.raw)
    }

    /// Packets held by ports, workers and holders.
    pub fn in_use(&self) -> u32 {
        self.size().saturating_sub(self.available())
    }

    /// One empty packet; `None` when the pool is exhausted. For many, see [`DpdkPool`].
    pub fn alloc(&self) -> Option<Mbuf> {
        let mut packet = null_mut();
        // SAFETY: the pool is alive (self holds it) and was made by rte_pktmbuf_pool_create; `packet` has room for one pointer.
        let result = unsafe { sys::mp_alloc_bulk(self.shared.raw.as_ptr(), &raw mut packet, 1) };
        let packet = NonNull::new(packet).filter(|_| result == 0)?;
        // SAFETY: the pool just gave us this mbuf: nobody else has it, it is one empty segment.
        Some(unsafe { Mbuf::from_raw(packet) })
    }

    pub(crate) fn raw(&self) -> *mut sys::rte_mempool {
        self.shared.raw.as_ptr()
    }
}

impl Drop for PoolShared {
    fn drop(&mut self) {
        let orphan = Orphan { raw: self.raw, name: std::mem::take(&mut self.name), size: self.config.count };
        if !orphan.free_if_complete() {
            log::tell(LogLevel::Warning, &orphan.to_string());
            self.process.adopt(orphan);
        }
    }
}

/// A pool without handles. Packets of it may still be about; they keep it from being freed.
#[derive(Debug)]
pub(crate) struct Orphan {
    raw: NonNull<sys::rte_mempool>,
    name: String,
    size: u32,
}

// SAFETY: as for PoolShared.
unsafe impl Send for Orphan {}

impl Orphan {
    /// Frees the pool if every packet is back; it must not be used afterwards.
    pub(crate) fn free_if_complete(&self) -> bool {
        if available(self.raw) != self.size {
            return false;
        }
        // SAFETY: no handle is left (self is made in the last one's drop), so nobody can allocate; all packets are back, so
        // nobody will free one; EAL still runs. The pool's address is not used again: callers drop self on true.
        unsafe { sys::rte_mempool_free(self.raw.as_ptr()) };
        true
    }
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let out = self.size.saturating_sub(available(self.raw));
        write!(f, "pool {} is kept: {out} of {} packets are still out", self.name, self.size)
    }
}

fn available(pool: NonNull<sys::rte_mempool>) -> u32 {
    // SAFETY: callers hold a pool that is not freed; the function only reads counters.
    unsafe { sys::rte_mempool_avail_count(pool.as_ptr()) }
}

fn check(process: &Process, name: &str, config: &PoolConfig) -> Result<(), PoolError> {
    if name.is_empty() || name.len() > sys::MP_MEMPOOL_NAME_MAX as usize {
        return Err(name_error(name));
    }
    if config.count == 0 {
        return Err(PoolError::Empty { name: name.into() });
    }
    // DPDK flushes a cache at 1.5 times its size, and that must fit the pool.
    let max = (u64::from(config.count) * 2 / 3).min(sys::MP_MEMPOOL_CACHE_MAX as u64) as u32;
    if config.cache > max {
        return Err(PoolError::Cache { name: name.into(), cache: config.cache, max, count: config.count });
    }
    let max = u16::MAX - sys::MP_HEADROOM as u16;
    if config.frame_room > max {
        return Err(PoolError::FrameRoom { name: name.into(), frame_room: config.frame_room, max });
    }
    if let Some(socket) = config.socket {
        let existing = sockets(process);
        if !existing.contains(&socket) {
            let found = existing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(PoolError::NoSuchSocket { name: name.into(), socket, found });
        }
    }
    Ok(())
}

fn name_error(name: &str) -> PoolError {
    PoolError::Name { name: name.into(), max: sys::MP_MEMPOOL_NAME_MAX as usize }
}

fn no_memory(process: &Process, name: &str, config: &PoolConfig) -> PoolError {
    let asked = config.socket.map_or_else(|| sockets(process), |socket| vec![socket]);
    let free: u64 = asked.into_iter().map(|socket| heap::of_socket(process, socket).0).sum();
    // The mbuf itself (two lines), the pool's header and padding (one to two lines), the buffer.
    let each = 128 + 128 + u64::from(sys::MP_HEADROOM as u16) + u64::from(config.frame_room);
    PoolError::NoMemory {
        name: name.into(),
        count: config.count,
        needed_mb: (each * u64::from(config.count)).div_ceil(1 << 20),
        free_mb: free >> 20,
        huge_pages: huge_pages_found(),
    }
}

/// Packets per visit to the pool.
const STASH: usize = 16;

/// A pool as the engine allocates from it: single packets, fetched from DPDK 16 at a time. Those in reserve count as in use;
/// dropping returns them.
#[derive(Debug)]
pub struct DpdkPool {
    stash: [*mut sys::rte_mbuf; STASH],
    held: usize,
    pool: Mempool,
}

// SAFETY: the stashed mbufs belong to this value alone and may be used and freed on any thread.
unsafe impl Send for DpdkPool {}

impl DpdkPool {
    /// Allocates from `pool`.
    pub fn new(pool: &Mempool) -> Self {
        Self { stash: [null_mut(); STASH], held: 0, pool: pool.clone() }
    }

    /// The pool behind it.
    pub fn pool(&self) -> &Mempool {
        &self.pool
    }
}

impl PacketPool for DpdkPool {
    type Buf = Mbuf;

    #[inline]
    fn alloc(&mut self) -> Option<Mbuf> {
        if self.held == 0 {
            // SAFETY: the pool is alive (self holds it); `stash` has room for STASH pointers and holds none that is owned.
            let result = unsafe { sys::mp_alloc_bulk(self.pool.raw(), self.stash.as_mut_ptr(), STASH as u32) };
            if result != 0 {
                // Fewer than a stash are left: take what there is.
                return self.pool.alloc();
            }
            self.held = STASH;
        }
        self.held -= 1;
        let packet = NonNull::new(self.stash[self.held])?;
        // SAFETY: the pool gave us this mbuf (empty, one segment) and the index has moved below it: it leaves the stash once.
        Some(unsafe { Mbuf::from_raw(packet) })
    }
}

impl Drop for DpdkPool {
    fn drop(&mut self) {
        // SAFETY: the first `held` pointers are mbufs that this stash owns; they are not used again. With 0 nothing is read.
        unsafe { sys::rte_pktmbuf_free_bulk(self.stash.as_mut_ptr(), self.held as u32) };
    }
}
