//! DPDK as safe Rust: all of its unsafe code is here and in `marchproxy-dpdk-sys`.
//!
//! In the order a program uses it:
//! 1. [`Eal::builder`] starts DPDK, once per process.
//! 2. [`Device::probe`] attaches a device (`vdev:NAME,ARGS` or `pci:ADDRESS`) and gives its [`Port`]s.
//! 3. [`Mempool::create`] makes packet memory on a socket; [`DpdkPool`] allocates from it for the engine.
//! 4. [`Port<Stopped>::configure`](Port::configure), [`start`](Port::start) and [`take_queues`](Port::take_queues) lead to
//!    [`RxQueue`] and [`TxQueue`], one owner each; every worker thread calls [`Eal::register_thread`] first.
//! 5. Workers return their queues by dropping them; then [`stop`](Port::stop) succeeds.
//!
//! [`table`] has DPDK's look-up tables, meters and scheduler, for comparison with our own.
//!
//! Everything may be dropped in any order: queues keep their port, ports their device and pools, and all of them EAL. A pool
//! that still has packets out is not freed, and EAL is then not torn down: leaking is safe, a dangling packet is not.

mod device;
mod eal;
mod errno;
mod ethdev;
mod heap;
mod link;
mod log;
mod mbuf;
mod mempool;
mod pci;
mod port;
mod port_config;
mod queue;
mod rss;
mod stats;
pub mod table;

pub use device::{Device, DeviceError, DeviceSpec, SpecError};
pub use eal::{Eal, EalBuilder, EalError, RegisteredThread, dpdk_version};
pub use errno::Errno;
pub use link::Link;
pub use log::LogLevel;
pub use mbuf::Mbuf;
pub use mempool::{DpdkPool, Mempool, PoolConfig, PoolError};
pub use port::{Configured, Port, PortInfo, Queues, Rejected, Started, State, Stopped};
pub use port_config::{PortConfig, PortError};
pub use queue::{RxQueue, RxRepairs, TxQueue};
pub use rss::{Rss, symmetric_key};
pub use stats::{PortStats, Xstat};

// The traits under which all of this is used, so that a caller needs one import.
pub use marchproxy_engine::io::{ChecksumState, PacketBuf, PacketPool, PacketVec};

use std::fmt;

/// A port's number inside this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub(crate) u16);

/// A receive or transmit queue's number on its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueIndex(pub u16);

/// A CPU socket (NUMA node), as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u32);

impl PortId {
    /// The number, for logs and metrics.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for QueueIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
