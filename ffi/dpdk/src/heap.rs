//! DPDK's heaps: where pools and tables take their memory from.

use std::mem::MaybeUninit;

use marchproxy_dpdk_sys as sys;

use crate::SocketId;
use crate::eal::{Eal, Process, sockets};

/// Octets of a socket's heap that are free and in use. With hugepages a heap grows when it has to, so that more may be had.
pub(crate) fn of_socket(_running: &Process, socket: SocketId) -> (u64, u64) {
    let mut stats = MaybeUninit::<sys::rte_malloc_socket_stats>::zeroed();
    // SAFETY: EAL runs while a Process is reachable; `stats` has room for the struct, which the call fills when it answers 0.
    let result = unsafe { sys::rte_malloc_get_socket_stats(socket.0 as i32, stats.as_mut_ptr()) };
    // SAFETY: zeroed integers are valid, whether the call filled them or not.
    let stats = unsafe { stats.assume_init() };
    if result == 0 { (stats.heap_freesz_bytes as u64, stats.heap_allocsz_bytes as u64) } else { (0, 0) }
}

/// Octets free in all heaps.
pub(crate) fn free(process: &Process) -> u64 {
    sockets(process).into_iter().map(|socket| of_socket(process, socket).0).sum()
}

impl Eal {
    /// Octets that everything made so far takes from DPDK's heaps: pools, rings, tables.
    pub fn allocated_bytes(&self) -> u64 {
        sockets(self.process()).into_iter().map(|socket| of_socket(self.process(), socket).1).sum()
    }
}
