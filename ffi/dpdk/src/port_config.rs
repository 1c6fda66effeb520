//! What a port is asked for, and why it was refused.

use marchproxy_engine::io::Mac;

use crate::errno::Errno;
use crate::mempool::Mempool;
use crate::port::PortInfo;

/// How a port is to be set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Receive queues, one per worker that polls the port.
    pub rx_queues: u16,
    /// Transmit queues, one per worker that sends on the port.
    pub tx_queues: u16,
    /// Descriptors per receive queue; rounded to what the driver allows.
    pub rx_descriptors: u16,
    /// Descriptors per transmit queue; rounded to what the driver allows.
    pub tx_descriptors: u16,
    /// Largest L3 packet in bytes, both ways.
    pub mtu: u16,
    /// Take frames for other addresses too.
    pub promiscuous: bool,
    /// Another address than the device's own.
    pub mac: Option<Mac>,
    /// Let the device check L4 checksums where it can. Off by default: nothing needs it, and virtual devices then hand over
    /// checksums that are only half computed ([`Partial`](marchproxy_engine::io::ChecksumState::Partial)).
    pub rx_checksum: bool,
}

impl Default for PortConfig {
    /// One queue each way, 1,024 descriptors, MTU 1,500.
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: 1500,
            promiscuous: false,
            mac: None,
            rx_checksum: false,
        }
    }
}

/// Why a port refused.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Too many queues, or none.
    #[error("port {port}: {asked} {direction} queues, 1 to {max} are possible")]
    Queues {
        /// The port.
        port: String,
        /// `receive` or `transmit`.
        direction: &'static str,
        /// Asked for.
        asked: u16,
        /// Largest possible.
        max: u16,
    },
    /// The device can't do the MTU.
    #[error("port {port}: MTU {mtu}, {min} to {max} are possible")]
    Mtu {
        /// The port.
        port: String,
        /// Asked for.
        mtu: u16,
        /// Smallest possible.
        min: u16,
        /// Largest possible.
        max: u16,
    },
    /// A frame of that MTU does not fit one buffer of the pool.
    #[error(
        "port {port}: MTU {mtu} makes frames of {needed} bytes, buffers of pool {pool} hold {room}: make the pool with more \
         frame_room or the MTU at most {largest}"
    )]
    MtuBeyondBuffer {
        /// The port.
        port: String,
        /// Asked for.
        mtu: u16,
        /// Bytes of the largest frame.
        needed: u32,
        /// The pool.
        pool: String,
        /// Bytes a buffer holds.
        room: u16,
        /// Largest MTU that fits.
        largest: u32,
    },
    /// The redirection table has another size, or names a queue that is not there.
    #[error(
        "port {port}: a redirection table of {asked} entries over {queues} queues; the device's has {size} entries"
    )]
    Table {
        /// The port.
        port: String,
        /// Entries given.
        asked: usize,
        /// Entries of the device.
        size: u16,
        /// Receive queues.
        queues: u16,
    },
    /// Queues are still with workers.
    #[error("port {port}: {out} of its queues are still with workers; they must be dropped first")]
    QueuesOut {
        /// The port.
        port: String,
        /// How many.
        out: usize,
    },
    /// The driver refused a step.
    #[error("port {port}: {step}: {errno}: {said}")]
    Driver {
        /// The port.
        port: String,
        /// What was asked for.
        step: &'static str,
        /// DPDK's error number.
        errno: Errno,
        /// DPDK's log.
        said: String,
    },
}

/// Ethernet header and two VLAN tags; the FCS is not in the buffer.
const L2_BYTES: u32 = 14 + 2 * 4;

/// Refuses what the device or the pool can't do, before anything is changed.
pub(crate) fn check(info: &PortInfo, config: &PortConfig, pool: &Mempool) -> Result<(), PortError> {
    let port = || info.name.clone();
    for (direction, asked, max) in
        [("receive", config.rx_queues, info.max_rx_queues), ("transmit", config.tx_queues, info.max_tx_queues)]
    {
        if asked == 0 || asked > max {
            return Err(PortError::Queues { port: port(), direction, asked, max });
        }
    }
    if config.mtu < info.min_mtu || config.mtu > info.max_mtu {
        return Err(PortError::Mtu { port: port(), mtu: config.mtu, min: info.min_mtu, max: info.max_mtu });
    }
    let needed = u32::from(config.mtu) + L2_BYTES;
    let room = pool.config().frame_room;
    if needed > u32::from(room) {
        return Err(PortError::MtuBeyondBuffer {
            port: port(),
            mtu: config.mtu,
            needed,
            pool: pool.name().into(),
            room,
            largest: u32::from(room).saturating_sub(L2_BYTES),
        });
    }
    Ok(())
}
