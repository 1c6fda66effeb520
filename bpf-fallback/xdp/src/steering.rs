//! One interface with the program attached.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use bytemuck::{bytes_of, pod_read_unaligned};
use libbpf_rs::{MapCore, MapFlags, MapHandle, Xdp as Query, XdpFlags};
use marchproxy_engine::reason::DropReason;

use crate::abi::{self, Count, MAX_QUEUES};
use crate::addresses::PortFacts;
use crate::error::XdpError;
use crate::maps::{Program, failed, put};
use crate::sys::{self, Tested};
use crate::xdp::Xdp;

/// Where the program of an interface that outlives the process is kept, below [`Options::bpf_fs`].
const PINS: &str = "marchproxy";

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel makes a packet of its own.
    Native,
    /// Behind the driver, on the kernel's packets: on every interface, and slower.
    Generic,
}

impl Mode {
    /// The name shown to people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Which mode is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeWish {
    /// Native, else generic.
    #[default]
    Best,
    /// This one or none.
    Only(Mode),
}

/// What becomes of our packets when the process is gone without having detached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDaemonLoss {
    /// The program goes, too: the kernel gets everything.
    #[default]
    Pass,
    /// The program stays and drops what is ours; the kernel's own packets pass.
    Drop,
}

/// How to attach.
#[derive(Clone, Debug)]
pub struct Options {
    /// Native or generic.
    pub mode: ModeWish,
    /// When the process is lost.
    pub on_daemon_loss: OnDaemonLoss,
    /// A mounted BPF file system, for programs that outlive the process.
    pub bpf_fs: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self { mode: ModeWish::Best, on_daemon_loss: OnDaemonLoss::Pass, bpf_fs: "/sys/fs/bpf".into() }
    }
}

/// What the program counts beside drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Left to the kernel.
    ToKernel,
    /// Given to a socket.
    ToEngine,
    /// Ours, but no socket listened: left to the kernel.
    UnclaimedPass,
    /// Ours, but no socket listened: dropped.
    UnclaimedDrop,
    /// Sent on from the program.
    Sent,
}

/// An interface whose frames are steered. Dropping it detaches the program and leaves nothing behind.
pub struct Steering {
    ifindex: u32,
    mode: Mode,
    program: OwnedFd,
    port: MapHandle,
    sockets: MapHandle,
    counters: MapHandle,
    fallback: u32,
    pin: Option<PathBuf>,
    link: Option<OwnedFd>,
}

impl Steering {
    /// Attaches the program to an interface of this network namespace. It passes everything to the kernel until it is
    /// [configured](Self::configure). A program of ours that a lost process left there is taken over in one step; another one is
    /// left alone and named in the error.
    pub fn attach(xdp: &Xdp, ifindex: u32, options: &Options) -> Result<Self, XdpError> {
        if !sys::has_interface(ifindex) {
            return Err(XdpError::NoInterface { ifindex });
        }
        let mut steering = Self::detached(xdp, ifindex, options.on_daemon_loss)?;
        let pin = pin_path(&options.bpf_fs, ifindex);
        let (link, mode) = match adopt(&pin, ifindex, steering.program.as_fd()) {
            Some(link) => (link, attached_mode(ifindex).unwrap_or(Mode::Native)),
            None => create(ifindex, options.mode, steering.program.as_fd())?,
        };
        if options.on_daemon_loss == OnDaemonLoss::Drop {
            keep(&link, &pin, ifindex, &options.bpf_fs)?;
            steering.pin = Some(pin);
        }
        (steering.mode, steering.link) = (mode, Some(link));
        Ok(steering)
    }

    /// The program with its own maps, attached to nothing: for test runs.
    pub fn detached(xdp: &Xdp, ifindex: u32, on_daemon_loss: OnDaemonLoss) -> Result<Self, XdpError> {
        let mut loaded = xdp.program(Program::Interface)?;
        let (port, sockets) = (loaded.take("port")?, loaded.take("sockets")?);
        let counters = loaded.take("counters")?;
        let fallback = match on_daemon_loss {
            OnDaemonLoss::Pass => abi::XDP_PASS,
            OnDaemonLoss::Drop => abi::XDP_DROP,
        };
        let (mode, pin, link) = (Mode::Native, None, None);
        Ok(Self { ifindex, mode, program: loaded.program, port, sockets, counters, fallback, pin, link })
    }

    /// The interface.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// How it is attached.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What is ours on this port, from one packet to the next; what a push changes about it goes with [`Xdp::publish`].
    pub fn configure(&self, facts: &PortFacts) -> Result<(), XdpError> {
        (0..abi::GENERATIONS).try_for_each(|slot| self.configure_for(slot, facts))
    }

    pub(crate) fn configure_for(&self, slot: u32, facts: &PortFacts) -> Result<(), XdpError> {
        put("port", &self.port, &slot, bytes_of(&facts.entry(self.fallback)))
    }

    /// Gives a queue's frames to an AF_XDP socket that is bound to it.
    pub fn register(&self, queue: u32, socket: BorrowedFd) -> Result<(), XdpError> {
        if queue >= MAX_QUEUES {
            return Err(XdpError::NoSuchQueue { queue });
        }
        put("sockets", &self.sockets, &queue, &socket.as_raw_fd().to_ne_bytes())
    }

    /// Takes a queue's socket out again; one that is closed goes by itself.
    pub fn unregister(&self, queue: u32) -> Result<(), XdpError> {
        if self.sockets.delete(&queue.to_ne_bytes()).is_ok() {
            return Ok(());
        }
        match failed("sockets") {
            XdpError::Table { source, .. } if source.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            error => Err(error),
        }
    }

    /// Packets and octets that went somewhere, over all cores.
    pub fn count(&self, counter: Counter) -> Result<(u64, u64), XdpError> {
        sum_of("counters", &self.counters, abi::REASONS.len() as u32 + counter as u32)
    }

    /// Packets and octets that were dropped, by reason; those that were none are left out. What ends here is counted nowhere else, so this is
    /// also what the program adds to the node's received packets.
    pub fn drops(&self) -> Result<Vec<(DropReason, u64, u64)>, XdpError> {
        let count = |(index, &reason)| {
            let (packets, octets) = sum_of("counters", &self.counters, index)?;
            Ok((reason, packets, octets))
        };
        let drops: Result<Vec<_>, XdpError> = (0u32..).zip(&abi::REASONS).map(count).collect();
        Ok(drops?.into_iter().filter(|(_, packets, _)| *packets > 0).collect())
    }

    /// Takes the program off the interface. Its counts stay, and can be read for the last time.
    pub fn detach(&self) {
        if let Some(link) = &self.link {
            // Fails when the interface is gone, and the program with it.
            let _ = sys::detach(link.as_fd());
        }
    }

    /// Goes without taking away what [`OnDaemonLoss`] keeps, as a lost process does: a successor takes over from there.
    pub fn leave(mut self) {
        // Closing it detaches what is not pinned.
        (self.pin, self.link) = (None, None);
    }

    /// Runs the program on a frame as if it had come in, so many times; no interface is touched.
    pub fn test_run(&self, frame: &[u8], repeat: u32) -> Result<Tested, XdpError> {
        sys::test_run(self.program.as_fd(), frame, repeat).map_err(|source| XdpError::TestRun { source })
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        self.detach();
        self.link = None;
        if let Some(pin) = self.pin.take() {
            // One that is gone already is what we want.
            let _ = std::fs::remove_file(&pin);
            // Fails while other interfaces have theirs there.
            let _ = pin.parent().map(std::fs::remove_dir);
        }
    }
}

impl std::fmt::Debug for Steering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ifindex, mode, pin, .. } = self;
        f.debug_struct("Steering")
            .field("ifindex", ifindex)
            .field("mode", mode)
            .field("pin", pin)
            .finish_non_exhaustive()
    }
}

/// A count over all cores.
pub(crate) fn sum_of(table: &'static str, map: &MapHandle, index: u32) -> Result<(u64, u64), XdpError> {
    let per_core = map.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY);
    let per_core = per_core.map_err(|_| failed(table))?.unwrap_or_default();
    let counts = per_core.iter().map(|bytes| pod_read_unaligned::<Count>(&bytes[..size_of::<Count>()]));
    Ok(counts.fold((0, 0), |(packets, octets), count| (packets + count.packets, octets + count.octets)))
}

/// Interface numbers are those of a network namespace, file systems may be seen by several.
fn pin_path(bpf_fs: &Path, ifindex: u32) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let namespace = std::fs::metadata("/proc/self/ns/net").map_or(0, |meta| meta.ino());
    bpf_fs.join(PINS).join(format!("net-{namespace}-if-{ifindex}"))
}

/// The link that a lost process left behind, with our program now; one whose interface is gone is removed.
fn adopt(pin: &Path, ifindex: u32, program: BorrowedFd) -> Option<OwnedFd> {
    let link = sys::open_pinned(pin).ok()?;
    let alive = sys::link_ifindex(link.as_fd()).is_ok_and(|attached| attached == ifindex);
    let adopted = alive && sys::update_link(link.as_fd(), program).is_ok();
    // Pinned again only if that is wanted now.
    let _ = std::fs::remove_file(pin);
    adopted.then_some(link)
}

fn create(ifindex: u32, wish: ModeWish, program: BorrowedFd) -> Result<(OwnedFd, Mode), XdpError> {
    let modes: &[Mode] = match wish {
        ModeWish::Best => &[Mode::Native, Mode::Generic],
        ModeWish::Only(Mode::Native) => &[Mode::Native],
        ModeWish::Only(Mode::Generic) => &[Mode::Generic],
    };
    let mut tried = Vec::new();
    for &mode in modes {
        let flags = match mode {
            Mode::Native => XdpFlags::DRV_MODE,
            Mode::Generic => XdpFlags::SKB_MODE,
        };
        let error = match sys::link_xdp(program, ifindex, flags.bits()) {
            Ok(link) => return Ok((link, mode)),
            Err(error) => error,
        };
        match error.raw_os_error() {
            // Gone since we looked.
            Some(libc::EINVAL | libc::ENODEV) if !sys::has_interface(ifindex) => {
                return Err(XdpError::NoInterface { ifindex });
            }
            Some(libc::EPERM) => return Err(XdpError::NotAllowed { reason: error.to_string() }),
            // Another program, in this mode or in another one.
            Some(libc::EBUSY | libc::EEXIST) => {
                if let Some(busy) = occupant(ifindex) {
                    return Err(busy);
                }
            }
            _ => {}
        }
        tried.push(format!("{}: {error}", mode.label()));
    }
    Err(XdpError::NotAttached { ifindex, tried: tried.join(", ") })
}

fn keep(link: &OwnedFd, pin: &Path, ifindex: u32, bpf_fs: &Path) -> Result<(), XdpError> {
    let failed = |source| XdpError::NotPinned { ifindex, at: bpf_fs.to_owned(), source };
    let directory = pin.parent().unwrap_or(bpf_fs);
    let made = std::fs::create_dir_all(directory);
    let pinned = made.and_then(|()| sys::pin(link.as_fd(), pin));
    if pinned.is_err() {
        // In a directory of another file system we leave nothing.
        let _ = std::fs::remove_dir(directory);
    }
    pinned.map_err(failed)
}

/// `XDP_ATTACHED_*`, as the kernel answers it.
const MODES: [(u8, &str); 4] = [(1, "native mode"), (2, "generic mode"), (3, "in the NIC"), (4, "several modes")];

fn query(ifindex: u32) -> Option<libbpf_rs::libbpf_sys::bpf_xdp_query_opts> {
    // The program of the query object is not looked at.
    let nothing = std::fs::File::open("/dev/null").ok()?;
    Query::new(nothing.as_fd()).query(i32::try_from(ifindex).ok()?, XdpFlags::NONE).ok()
}

fn attached_mode(ifindex: u32) -> Option<Mode> {
    match query(ifindex)?.attach_mode {
        1 => Some(Mode::Native),
        2 => Some(Mode::Generic),
        _ => None,
    }
}

fn occupant(ifindex: u32) -> Option<XdpError> {
    let found = query(ifindex)?;
    let ids = [found.prog_id, found.drv_prog_id, found.skb_prog_id, found.hw_prog_id];
    let id = ids.into_iter().find(|&id| id != 0)?;
    let program = sys::program_name(id).unwrap_or_else(|_| "unknown".into());
    let mode = MODES.iter().find(|(mode, _)| *mode == found.attach_mode).map_or("unknown mode", |(_, name)| *name);
    Some(XdpError::Busy { ifindex, program, id, mode })
}
