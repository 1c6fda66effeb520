//! One AF_XDP socket on one queue.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::ring::{ADDRESS, DESCRIPTOR, Ring};
use crate::error::Error;
use crate::interface::Interface;
use crate::packet::{option_of, read_option};
use crate::pool::Pool;

/// Descriptors of the rings. What is in a transmit ring, with its completions, bounds the packets that wait in the kernel.
const RX: u32 = 1024;
const TX: u32 = 512;
/// The kernel lets a queue's former user go a little later than it says.
const BUSY_TRIES: u32 = 100;
const BUSY_WAIT: Duration = Duration::from_millis(10);
/// A device may write into zero-copy frames for that long after its socket was closed: the kernel takes the queue down from a work item.
const SETTLE: Duration = Duration::from_millis(50);

const SO_BUSY_POLL: libc::c_int = 46;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;
/// The most a driver's poll does at once.
const BUSY_BUDGET: libc::c_int = 64;

/// How a socket comes to packet memory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Umem<'a> {
    /// The port's first socket registers it and says how its frames are filled.
    First {
        /// The device writes into the frames itself, or the kernel copies.
        zero_copy: bool,
    },
    /// The port's others use the first one's, on the same terms.
    Shared(BorrowedFd<'a>),
}

/// A bound socket. Receive and transmit side of one worker share it.
#[derive(Debug)]
pub(crate) struct XskSocket {
    pub(crate) fd: OwnedFd,
    pub(crate) pool: &'static Pool,
    /// Goes after the descriptor.
    lent: Lent,
    /// Drives the device by being asked, without interrupts.
    pub(crate) busy_poll: bool,
    /// Packets lie in the transmit ring that the kernel did not take.
    pub(crate) owed: AtomicBool,
    pub(crate) down: AtomicBool,
    pub(crate) rx_errors: AtomicU64,
    pub(crate) tx_errors: AtomicU64,
}

/// The frames that a socket has. They are taken back when it is closed: its rings are unmapped by then (both sides drop them before
/// their share of the socket), and nothing keeps it open.
#[derive(Debug)]
struct Lent {
    pool: &'static Pool,
    /// What frames are noted under that the kernel has for receiving; for sending it is one more.
    side: u32,
    zero_copy: bool,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.zero_copy {
            std::thread::sleep(SETTLE);
        }
        self.pool.recall(self.side);
        self.pool.recall(self.side + 1);
    }
}

/// The receive side's rings, and the transmit side's.
pub(crate) struct Rings {
    pub(crate) fill: Ring,
    pub(crate) rx: Ring,
    pub(crate) tx: Ring,
    pub(crate) done: Ring,
}

impl XskSocket {
    pub(crate) fn open(
        interface: &Interface,
        queue: u32,
        pool: &'static Pool,
        umem: Umem<'_>,
        busy_poll_us: u32,
    ) -> Result<(Self, Rings), Error> {
        static SIDES: AtomicU32 = AtomicU32::new(1);
        let name = interface.name();
        // SAFETY: the call takes no pointers.
        let raw = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if raw < 0 {
            return Err(Error::last(name, "opening an AF_XDP socket"));
        }
        // SAFETY: `raw` was opened just now and nobody else holds it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        if let Umem::First { .. } = umem {
            let (start, len) = pool.span();
            let chunk_size = pool.size() as u32;
            let register = libc::xdp_umem_reg {
                addr: start as u64,
                len: len as u64,
                chunk_size,
                headroom: 0,
                flags: 0,
                tx_metadata_len: 0,
            };
            option_of(&fd, name, "registering packet memory", libc::SOL_XDP, libc::XDP_UMEM_REG, &register)?;
        }
        for (what, option, size) in [
            ("XDP_UMEM_FILL_RING", libc::XDP_UMEM_FILL_RING, RX),
            ("XDP_UMEM_COMPLETION_RING", libc::XDP_UMEM_COMPLETION_RING, TX),
            ("XDP_RX_RING", libc::XDP_RX_RING, RX),
            ("XDP_TX_RING", libc::XDP_TX_RING, TX),
        ] {
            option_of(&fd, name, what, libc::SOL_XDP, option, &size)?;
        }
        let rings =
            rings(&fd).map_err(|source| Error::Kernel { interface: name.into(), step: "mapping the rings", source })?;
        let busy_poll = busy_poll_us > 0 && set_busy_poll(&fd, name, busy_poll_us).is_ok();
        bind(&fd, interface, queue, umem)?;
        let mut options = libc::xdp_options { flags: 0 };
        let known = read_option(&fd, libc::SOL_XDP, libc::XDP_OPTIONS, &mut options).is_ok();
        let socket = Self {
            fd,
            pool,
            lent: Lent {
                pool,
                side: SIDES.fetch_add(2, Ordering::Relaxed),
                zero_copy: known && options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0,
            },
            busy_poll,
            owed: AtomicBool::new(false),
            down: AtomicBool::new(false),
            rx_errors: AtomicU64::new(0),
            tx_errors: AtomicU64::new(0),
        };
        Ok((socket, rings))
    }

    pub(crate) fn is_zero_copy(&self) -> bool {
        self.lent.zero_copy
    }

    pub(crate) fn rx_side(&self) -> u32 {
        self.lent.side
    }

    pub(crate) fn tx_side(&self) -> u32 {
        self.lent.side + 1
    }

    /// Lets the kernel send what is in the transmit ring, or a part of it. Never blocks; false when there is no use in trying again now.
    pub(crate) fn kick(&self) -> bool {
        // SAFETY: no buffer and no address are given.
        let sent = unsafe { libc::sendto(self.fd.as_raw_fd(), null(), 0, libc::MSG_DONTWAIT, null(), 0) };
        let error = if sent < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 };
        self.down.store(matches!(error, libc::ENETDOWN | libc::ENXIO | libc::ENODEV), Ordering::Relaxed);
        error == 0
    }

    /// Lets the driver look at its queue. Never blocks.
    pub(crate) fn wake_receiver(&self) {
        // SAFETY: no buffer and no address are given.
        unsafe { libc::recvfrom(self.fd.as_raw_fd(), null_mut(), 0, libc::MSG_DONTWAIT, null_mut(), null_mut()) };
    }

    /// Packets there was no room for, since the start.
    pub(crate) fn missed(&self) -> u64 {
        let mut stats = libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        let _ = read_option(&self.fd, libc::SOL_XDP, libc::XDP_STATISTICS, &mut stats);
        // A full receive ring and a frame too small count as dropped; a fill ring found empty is only a hint of it.
        stats.rx_dropped + stats.rx_ring_full
    }
}

fn rings(fd: &OwnedFd) -> io::Result<Rings> {
    let none = || libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
    let mut offsets = libc::xdp_mmap_offsets { rx: none(), tx: none(), fr: none(), cr: none() };
    read_option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    Ok(Rings {
        fill: Ring::map(fd, offsets.fr, libc::XDP_UMEM_PGOFF_FILL_RING, RX, ADDRESS)?,
        rx: Ring::map(fd, offsets.rx, libc::XDP_PGOFF_RX_RING as u64, RX, DESCRIPTOR)?,
        tx: Ring::map(fd, offsets.tx, libc::XDP_PGOFF_TX_RING as u64, TX, DESCRIPTOR)?,
        done: Ring::map(fd, offsets.cr, libc::XDP_UMEM_PGOFF_COMPLETION_RING, TX, ADDRESS)?,
    })
}

fn set_busy_poll(fd: &OwnedFd, name: &str, micros: u32) -> Result<(), Error> {
    let micros = micros as libc::c_int;
    let set = |what, option, value: libc::c_int| option_of(fd, name, what, libc::SOL_SOCKET, option, &value);
    set("SO_PREFER_BUSY_POLL", libc::SO_PREFER_BUSY_POLL, 1)?;
    set("SO_BUSY_POLL", SO_BUSY_POLL, micros)?;
    set("SO_BUSY_POLL_BUDGET", SO_BUSY_POLL_BUDGET, BUSY_BUDGET)
}

fn bind(fd: &OwnedFd, interface: &Interface, queue: u32, umem: Umem<'_>) -> Result<(), Error> {
    let (flags, shared) = match umem {
        Umem::First { zero_copy } => {
            let how = if zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
            (how | libc::XDP_USE_NEED_WAKEUP, 0)
        }
        Umem::Shared(first) => (libc::XDP_SHARED_UMEM, first.as_raw_fd() as u32),
    };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: interface.index(),
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared,
    };
    let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    for attempt in 0.. {
        // SAFETY: `address` is a sockaddr_xdp of that length, borrowed for the call.
        let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
        if result == 0 {
            break;
        }
        let source = io::Error::last_os_error();
        if source.raw_os_error() != Some(libc::EBUSY) || attempt == BUSY_TRIES {
            let step = match umem {
                Umem::First { zero_copy: true } => "binding AF_XDP with zero-copy",
                _ => "binding AF_XDP with copies",
            };
            return Err(Error::Kernel { interface: interface.name().into(), step, source });
        }
        std::thread::sleep(BUSY_WAIT);
    }
    Ok(())
}
