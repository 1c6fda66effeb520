//! Opens a port on a tier, and closes it.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use marchproxy_engine::io::Mac;

use crate::bpf::{self, Link};
use crate::error::Error;
use crate::frame::HEADROOM;
use crate::interface::{Interface, Untouched};
use crate::packet::{Fanout, PacketRx, PacketSocket, PacketTx, Promiscuity};
use crate::pool::{SIZES, Store};
use crate::queue::{Lanes, Rx, RxQueue, Tx, TxQueue};
use crate::split::{self, OnLoss, Theirs};
use crate::xsk::{Umem, XskRx, XskSocket, XskTx};

/// What a frame is longer than its MTU at most: Ethernet header and two tags.
const BEYOND_MTU: usize = 22;
/// Where links stay that outlive the process.
const PINS: &str = "/sys/fs/bpf/marchproxy";

/// How packets come to the engine, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// AF_XDP, the device writes into packet memory.
    ZeroCopy,
    /// AF_XDP, the kernel copies.
    Copy,
    /// af_packet.
    Packet,
}

impl Tier {
    /// `af_xdp_zero_copy`, `af_xdp_copy`, `af_packet`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "af_xdp_zero_copy",
            Self::Copy => "af_xdp_copy",
            Self::Packet => "af_packet",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a port shall be like.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The interface's name.
    pub interface: String,
    /// The port's MTU.
    pub mtu: u16,
    /// Pairs of queues, one per worker.
    pub workers: usize,
    /// Addresses of this host that stay the kernel's.
    pub kernel: Vec<IpAddr>,
    /// What becomes of packets for the engine when this process dies (AF_XDP).
    pub on_loss: OnLoss,
    /// Microseconds for which the driver may be polled instead of waiting for interrupts (AF_XDP); 0: not at all.
    pub busy_poll_us: u32,
}

/// An open port. Its queues must be gone when it is dropped.
#[derive(Debug)]
pub struct Port {
    tier: Tier,
    mac: Mac,
    note: Option<String>,
    /// First to go: from then on nothing is steered to the sockets.
    attached: Option<Attached>,
    theirs: Option<Theirs>,
    _groups: Promiscuity,
    _untouched: Untouched,
    xsks: Vec<Arc<XskSocket>>,
    packets: Vec<Arc<PacketSocket>>,
    interface: Arc<Interface>,
}

/// What a port says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Packets can pass.
    pub link_up: bool,
    /// Not received for want of room.
    pub rx_missed: u64,
    /// Received broken.
    pub rx_errors: u64,
    /// Accepted and not sent.
    pub tx_errors: u64,
}

/// A program in its place.
#[derive(Debug)]
struct Attached {
    link: Link,
    pin: Option<PathBuf>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.link.detach();
        if let Some(pin) = &self.pin {
            let _ = std::fs::remove_file(pin);
        }
    }
}

/// A port and a pair of queues for each worker.
pub type Opened = (Port, Vec<(RxQueue, TxQueue)>);

/// Opens an interface through AF_XDP, with or without zero-copy, with the steering of this crate.
pub fn open_xdp(store: &'static Store, wish: &Wish, zero_copy: bool) -> Result<Opened, Error> {
    let (mut port, pairs) = bind_xdp(store, wish, zero_copy)?;
    let failed = |step| move |source| Error::Kernel { interface: wish.interface.clone(), step, source };
    let sockets = split::Sockets::new(port.xsks.len() as u32).map_err(failed("making the map of sockets"))?;
    for (queue, xsk) in (0..).zip(&port.xsks) {
        sockets.set(queue, &xsk.fd).map_err(failed("entering a socket into the map"))?;
    }
    let theirs = Theirs::new(&wish.kernel).map_err(failed("making the map of the kernel's addresses"))?;
    let program = split::xdp(&theirs, &sockets, wish.on_loss).map_err(failed("loading the XDP program"))?;
    let (attached, note) = attach(&port.interface, &program, wish.on_loss)?;
    (port.attached, port.theirs, port.note) = (Some(attached), Some(theirs), note);
    Ok((port, pairs))
}

/// Binds sockets to all queues of an interface, with or without zero-copy. Whoever calls sends frames to [`Port::sockets`] by a program of
/// their own, and takes that away before the port.
pub fn bind_xdp(store: &'static Store, wish: &Wish, zero_copy: bool) -> Result<Opened, Error> {
    let interface = Arc::new(Interface::find(&wish.interface)?);
    let mac = interface.mac()?;
    interface.check_mtu(wish.mtu)?;
    let most = SIZES[1] - HEADROOM - BEYOND_MTU;
    if usize::from(wish.mtu) > most {
        let (interface, wanted) = (wish.interface.clone(), wish.mtu);
        return Err(Error::MtuOfTier { interface, tier: "af_xdp", wanted, allowed: most as u16 });
    }
    let pool = store.pool(usize::from(wish.mtu) + BEYOND_MTU, HEADROOM)?;
    let untouched = Untouched::new(&interface);
    let mut lanes: Vec<Lanes> = (0..wish.workers).map(|_| Lanes::default()).collect();
    let mut senders: Vec<Option<XskTx>> = (0..wish.workers).map(|_| None).collect();
    let mut xsks: Vec<Arc<XskSocket>> = Vec::new();
    for queue in 0..interface.queues() {
        let umem = xsks.first().map_or(Umem::First { zero_copy }, |first| Umem::Shared(first.fd.as_fd()));
        let (socket, rings) = XskSocket::open(&interface, queue, pool, umem, wish.busy_poll_us)?;
        let socket = Arc::new(socket);
        let worker = queue as usize % wish.workers.max(1);
        if let (Some(lane), Some(sender)) = (lanes.get_mut(worker), senders.get_mut(worker)) {
            lane.queues.push(XskRx::new(socket.clone(), rings.fill, rings.rx));
            sender.get_or_insert_with(|| XskTx::new(socket.clone(), rings.tx, rings.done));
        }
        xsks.push(socket);
    }
    // Workers beyond the device's queues send by packet sockets; what they receive other workers hand to them.
    let mut packets = Vec::new();
    let mut pairs = Vec::new();
    for (mut lane, sender) in lanes.into_iter().zip(senders) {
        let tx = if let Some(xsk) = sender {
            Tx::Xsk(xsk)
        } else {
            let socket = Arc::new(PacketSocket::open(&interface, wish.mtu, false)?);
            packets.push(socket.clone());
            lane.sender = Some(socket.clone());
            Tx::Packet(PacketTx::new(socket))
        };
        pairs.push((RxQueue(Rx::Xsk(lane)), TxQueue(tx)));
    }
    let groups = Promiscuity::all_groups(&interface)?;
    let tier = if xsks.iter().all(|xsk| xsk.is_zero_copy()) && !xsks.is_empty() { Tier::ZeroCopy } else { Tier::Copy };
    let port = Port {
        tier,
        mac,
        note: None,
        attached: None,
        theirs: None,
        _groups: groups,
        _untouched: untouched,
        xsks,
        packets,
        interface,
    };
    Ok((port, pairs))
}

/// Opens an interface through af_packet.
pub fn open_packet(store: &'static Store, wish: &Wish) -> Result<Opened, Error> {
    let interface = Arc::new(Interface::find(&wish.interface)?);
    let mac = interface.mac()?;
    interface.check_mtu(wish.mtu)?;
    let most = SIZES[2] - HEADROOM - BEYOND_MTU;
    if usize::from(wish.mtu) > most {
        let (interface, wanted) = (wish.interface.clone(), wish.mtu);
        return Err(Error::MtuOfTier { interface, tier: "af_packet", wanted, allowed: most as u16 });
    }
    let pool = store.pool(usize::from(wish.mtu) + BEYOND_MTU, HEADROOM)?;
    let untouched = Untouched::new(&interface);
    let failed = |step| move |source| Error::Kernel { interface: wish.interface.clone(), step, source };
    // Before anything is heard, so that no packet is answered twice.
    let theirs = Theirs::new(&wish.kernel).map_err(failed("making the map of the kernel's addresses"))?;
    let (attached, note) = match split::ingress(&theirs)
        .and_then(|program| Link::new(&program, interface.index(), bpf::AT_TCX_INGRESS, 0))
    {
        Ok(link) => (Some(Attached { link, pin: None }), None),
        Err(error) => {
            let note = format!(
                "the kernel sees a copy of every packet, because nothing can be put before it here (tcx, since Linux 6.6: {error}): \
                 see to it that it does not forward (sysctl net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0)"
            );
            (None, Some(note))
        }
    };
    let mut fanout = Fanout::default();
    let mut packets = Vec::new();
    for _ in 0..wish.workers.max(1) {
        let socket = Arc::new(PacketSocket::open(&interface, wish.mtu, true)?);
        if wish.workers > 1 {
            socket.join(&interface, &mut fanout)?;
        }
        packets.push(socket);
    }
    packets.iter().try_for_each(|socket| socket.listen(&interface))?;
    let pair = |socket: &Arc<PacketSocket>| {
        let rx = PacketRx::new(socket.clone(), pool);
        (RxQueue(Rx::Packet(rx)), TxQueue(Tx::Packet(PacketTx::new(socket.clone()))))
    };
    let pairs = packets.iter().map(pair).collect();
    let groups = Promiscuity::all_groups(&interface)?;
    let port = Port {
        tier: Tier::Packet,
        mac,
        note,
        attached,
        theirs: Some(theirs),
        _groups: groups,
        _untouched: untouched,
        xsks: Vec::new(),
        packets,
        interface,
    };
    Ok((port, pairs))
}

/// Puts the program on the interface, native where the driver can, in the place of one that a dead process of ours left there.
fn attach(
    interface: &Interface,
    program: &std::os::fd::OwnedFd,
    loss: OnLoss,
) -> Result<(Attached, Option<String>), Error> {
    let failed = |step| move |source| Error::Kernel { interface: interface.name().into(), step, source };
    let pin = Path::new(PINS).join(format!("xdp-{}", interface.index()));
    if let Ok(left) = Link::pinned(&pin) {
        // An index that was used again, perhaps: then the link leads nowhere and is replaced below.
        if left.replace(program).is_ok() {
            let attached = Attached { link: left, pin: Some(pin) };
            return Ok((attached, Some("taken over from a process that died".into())));
        }
        left.detach();
        let _ = std::fs::remove_file(&pin);
    }
    let place = |mode| Link::new(program, interface.index(), bpf::AT_XDP, mode);
    let (link, note) = match place(bpf::NATIVE) {
        Ok(link) => (link, None),
        Err(error) if is_taken(&error) => return Err(Error::OtherProgram { interface: interface.name().into() }),
        Err(native) => match place(bpf::GENERIC) {
            Ok(link) => {
                (link, Some(format!("the driver does not run XDP itself ({native}): generic XDP, which is slower")))
            }
            Err(error) if is_taken(&error) => {
                return Err(Error::OtherProgram { interface: interface.name().into() });
            }
            Err(error) => return Err(failed("attaching the XDP program")(error)),
        },
    };
    let mut attached = Attached { link, pin: None };
    if loss == OnLoss::Drop {
        std::fs::create_dir_all(PINS).and_then(|()| attached.link.pin(&pin)).map_err(failed(
            "on_daemon_loss: drop: keeping the XDP program in /sys/fs/bpf (mount -t bpf bpf /sys/fs/bpf)",
        ))?;
        attached.pin = Some(pin);
    }
    Ok((attached, note))
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

impl Port {
    /// How its packets come.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The interface's address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// What an operator should know about how it was opened.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The interface below.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// The AF_XDP sockets, by the queue they are bound to.
    pub fn sockets(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        (0..).zip(self.xsks.iter().map(|xsk| xsk.fd.as_fd()))
    }

    /// Other addresses are the kernel's from now on.
    pub fn set_kernel_addresses(&self, addresses: &[IpAddr]) -> Result<(), Error> {
        let Some(theirs) = &self.theirs else { return Ok(()) };
        theirs.replace(addresses).map_err(|source| Error::Kernel {
            interface: self.interface.name().into(),
            step: "telling the program the kernel's addresses",
            source,
        })
    }

    /// Whether packets can pass.
    pub fn link_up(&self) -> bool {
        self.interface.is_up()
    }

    /// How it is; asks the kernel.
    pub fn health(&self) -> Health {
        let xsks = self.xsks.iter().map(|xsk| (xsk.missed(), &xsk.rx_errors, &xsk.tx_errors));
        let packets = self.packets.iter().map(|socket| (socket.missed(), &socket.rx_errors, &socket.tx_errors));
        let mut health = Health { link_up: self.link_up(), ..Health::default() };
        for (missed, rx_errors, tx_errors) in xsks.chain(packets) {
            health.rx_missed += missed;
            health.rx_errors += rx_errors.load(Ordering::Relaxed);
            health.tx_errors += tx_errors.load(Ordering::Relaxed);
        }
        health
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Fields go in order; this one decides whether packets are still being steered here.
        self.attached = None;
    }
}
