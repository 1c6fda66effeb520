//! One packet socket with its rings.

use std::io;
use std::mem::size_of;
use std::os::fd::AsFd;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::Error;
use crate::interface::Interface;
use crate::memory::Mapping;
use crate::view::View;

/// Small enough to fill soon, large enough for the longest frame.
pub(crate) const BLOCK: usize = 64 << 10;
/// 4 MB: 40 ms of small packets at a million a second.
pub(crate) const RX_BLOCKS: usize = 64;
/// Packets in the kernel's hands at most.
pub(crate) const TX_SLOTS: usize = 512;
/// A block that does not fill is handed over after this.
const RETIRE_MS: u32 = 1;

/// What happens to a socket's packets while it is being set up.
const IGNORE_ALL: [libc::sock_filter; 1] = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 }];

/// A bound socket. Receive and transmit side of one worker share it.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    pub(crate) fd: OwnedFd,
    /// Receive blocks, then transmit slots.
    pub(crate) rings: View,
    /// Octets of a transmit slot.
    pub(crate) slot: usize,
    /// Where the slots begin; 0 when there are no receive blocks.
    pub(crate) slots_at: usize,
    /// Sent packets lie in the ring that the kernel was not told of, or didn't take.
    pub(crate) owed: AtomicBool,
    /// The interface refuses packets.
    pub(crate) down: AtomicBool,
    /// Received, but not whole.
    pub(crate) rx_errors: AtomicU64,
    /// Accepted and refused by the kernel.
    pub(crate) tx_errors: AtomicU64,
    missed: AtomicU64,
}

/// The sockets of one port divide its packets among them by flow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fanout {
    group: Option<u16>,
}

impl PacketSocket {
    /// A socket that hears nothing yet: [`listen`](Self::listen) when all of the port's are there. `receives` is false for a socket
    /// that only sends.
    pub(crate) fn open(interface: &Interface, mtu: u16, receives: bool) -> Result<Self, Error> {
        let name = interface.name();
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: the call takes no pointers. Protocol 0: nothing is received before it is bound.
        let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if raw < 0 {
            return Err(Error::last(name, "opening a packet socket"));
        }
        // SAFETY: `raw` was opened just now and nobody else holds it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let version = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
        let set = |what, option, value: libc::c_int| option_of(&fd, name, what, libc::SOL_PACKET, option, &value);
        set("TPACKET_V3", libc::PACKET_VERSION, version)?;
        // A frame the driver finds malformed is skipped, not waited at.
        set("PACKET_LOSS", libc::PACKET_LOSS, 1)?;
        // Two tags beyond the MTU, and the slot's header.
        let slot = (usize::from(mtu) + 22 + TX_DATA).next_power_of_two();
        let blocks = if receives { RX_BLOCKS } else { 0 };
        if receives {
            set("PACKET_IGNORE_OUTGOING", libc::PACKET_IGNORE_OUTGOING, 1)?;
            let filter = libc::sock_fprog { len: 1, filter: IGNORE_ALL.as_ptr().cast_mut() };
            option_of(&fd, name, "a filter", libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)?;
            let ring = ring(RX_BLOCKS * BLOCK, 2048, RETIRE_MS);
            option_of(&fd, name, "PACKET_RX_RING", libc::SOL_PACKET, libc::PACKET_RX_RING, &ring)?;
        }
        option_of(
            &fd,
            name,
            "PACKET_TX_RING",
            libc::SOL_PACKET,
            libc::PACKET_TX_RING,
            &ring(TX_SLOTS * slot, slot, 0),
        )?;
        let rings = Mapping::of_socket(fd.as_fd(), blocks * BLOCK + TX_SLOTS * slot, 0)
            .map_err(|source| Error::Kernel { interface: name.into(), step: "mapping the rings", source })?;
        let socket = Self {
            fd,
            rings: View::new(rings),
            slot,
            slots_at: blocks * BLOCK,
            owed: AtomicBool::new(false),
            down: AtomicBool::new(false),
            rx_errors: AtomicU64::new(0),
            tx_errors: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        };
        let protocol = if receives { libc::ETH_P_ALL as u16 } else { 0 };
        socket.bind(interface, protocol)?;
        Ok(socket)
    }

    fn bind(&self, interface: &Interface, protocol: u16) -> Result<(), Error> {
        // SAFETY: a sockaddr_ll is numbers: all zero is a valid one.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = interface.index() as libc::c_int;
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `address` is a sockaddr_ll of that length, borrowed for the call.
        let result = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), len) };
        if result < 0 { Err(Error::last(interface.name(), "binding a packet socket")) } else { Ok(()) }
    }

    /// Joins the port's other sockets; the first one makes the group.
    pub(crate) fn join(&self, interface: &Interface, fanout: &mut Fanout) -> Result<(), Error> {
        // Not PACKET_FANOUT_FLAG_DEFRAG: the engine wants fragments as they came.
        let word = match fanout.group {
            Some(group) => libc::PACKET_FANOUT_HASH << 16 | u32::from(group),
            None => (libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_UNIQUEID) << 16,
        };
        option_of(&self.fd, interface.name(), "PACKET_FANOUT", libc::SOL_PACKET, libc::PACKET_FANOUT, &word)?;
        if fanout.group.is_none() {
            let mut word = 0u32;
            read_option(&self.fd, libc::SOL_PACKET, libc::PACKET_FANOUT, &mut word).map_err(|source| {
                Error::Kernel { interface: interface.name().into(), step: "PACKET_FANOUT", source }
            })?;
            fanout.group = Some(word as u16);
        }
        Ok(())
    }

    /// From now on it hears.
    pub(crate) fn listen(&self, interface: &Interface) -> Result<(), Error> {
        let none: libc::c_int = 0;
        option_of(&self.fd, interface.name(), "a filter", libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &none)
    }

    /// Tells the kernel that there are packets to send. Never blocks.
    pub(crate) fn kick(&self) {
        // SAFETY: no buffer and no address are given.
        let sent = unsafe { libc::sendto(self.fd.as_raw_fd(), null(), 0, libc::MSG_DONTWAIT, null(), 0) };
        let error = if sent < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 };
        self.down.store(matches!(error, libc::ENETDOWN | libc::ENXIO | libc::ENODEV), Ordering::Relaxed);
        self.owed.store(error != 0, Ordering::Relaxed);
    }

    /// Packets the kernel had no room for, since the start.
    pub(crate) fn missed(&self) -> u64 {
        let mut stats = libc::tpacket_stats_v3 { tp_packets: 0, tp_drops: 0, tp_freeze_q_cnt: 0 };
        // Reading sets the kernel's counters to zero.
        if read_option(&self.fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut stats).is_ok() {
            self.missed.fetch_add(u64::from(stats.tp_drops), Ordering::Relaxed);
        }
        self.missed.load(Ordering::Relaxed)
    }
}

/// Where a slot's frame begins: `TPACKET_ALIGN(sizeof(tpacket3_hdr))`.
pub(crate) const TX_DATA: usize = libc::TPACKET3_HDRLEN - size_of::<libc::sockaddr_ll>();

fn ring(bytes: usize, frame: usize, retire: u32) -> libc::tpacket_req3 {
    libc::tpacket_req3 {
        tp_block_size: BLOCK as u32,
        tp_block_nr: (bytes / BLOCK) as u32,
        tp_frame_size: frame as u32,
        tp_frame_nr: (bytes / frame) as u32,
        tp_retire_blk_tov: retire,
        tp_sizeof_priv: 0,
        tp_feature_req_word: 0,
    }
}

/// Lets all groups through the interface's filter for as long as it lives: neighbour discovery asks groups that the kernel knows
/// nothing of. The interface's own address is all else that is wanted.
#[derive(Debug)]
pub(crate) struct Promiscuity {
    _fd: OwnedFd,
}

impl Promiscuity {
    pub(crate) fn all_groups(interface: &Interface) -> Result<Self, Error> {
        // SAFETY: the call takes no pointers.
        let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if raw < 0 {
            return Err(Error::last(interface.name(), "opening a packet socket"));
        }
        // SAFETY: `raw` was opened just now and nobody else holds it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let wish = libc::packet_mreq {
            mr_ifindex: interface.index() as libc::c_int,
            mr_type: libc::PACKET_MR_ALLMULTI as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        let option = libc::PACKET_ADD_MEMBERSHIP;
        option_of(&fd, interface.name(), "PACKET_MR_ALLMULTI", libc::SOL_PACKET, option, &wish)?;
        Ok(Self { _fd: fd })
    }
}

/// Sets an option whose value is a `T`.
pub(crate) fn option_of<T>(
    fd: &OwnedFd,
    interface: &str,
    step: &'static str,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> Result<(), Error> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is readable for `len` octets during the call; pointers inside (a filter's) point to constants.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const *value).cast(), len) };
    if result < 0 { Err(Error::last(interface, step)) } else { Ok(()) }
}

/// Reads an option whose value is numbers only. The kernel may fill in less, never more.
pub(crate) fn read_option<T>(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is writable for `len` octets during the call.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut *value).cast(), &raw mut len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
