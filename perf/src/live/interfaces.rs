//! Interfaces that stay the kernel's, by AF_XDP or af_packet. What is for the kernel's own addresses stays the kernel's, too.

use std::net::IpAddr;

use marchproxy_engine::io::Mac;
use marchproxy_engine::stats::PortCounters;
use marchproxy_sockets::{
    Error as SocketsError, FramePool, OnLoss, Opened, Port, RxQueue, Seated, Sockets, Store, TxQueue, Wish,
    open_packet, open_xdp,
};
use nix::ifaddrs::getifaddrs;

use super::LivePort;
use crate::Error;
use crate::machine::free_hugepages_mb;
use crate::report::PortReport;
use crate::source::DeviceOptions;

/// As many packets as rings of two ports hold, and as much again.
const MEMORY_MB: u32 = 64;

/// Packet memory, and this thread's seat in it.
pub struct Interfaces {
    store: &'static Store,
    _seat: Seated,
    /// What that memory is.
    pub memory: String,
}

/// An open interface.
pub struct Opening {
    port: Port,
    queues: Option<(RxQueue, TxQueue)>,
    device: String,
    /// What the node had counted when the port began to.
    before: [u64; 4],
}

impl Interfaces {
    /// Takes packet memory for the calling thread, the only one that may use it.
    pub fn start(options: &DeviceOptions) -> Result<Self, Error> {
        if let Some(found) = options.file_packets {
            let (option, allowed) = ("file-packets", "nothing: interfaces replay no file".into());
            return Err(Error::Option { option, found: found.to_string(), allowed });
        }
        let (megabytes, free) = (options.mem_mb.unwrap_or(MEMORY_MB), free_hugepages_mb());
        let store = Store::leak(megabytes as usize, !options.no_huge, 1);
        let seat = store.enter().map_err(refused)?;
        FramePool::new(store).map_err(refused)?;
        let pages = match store.is_huge() {
            Some(true) => "huge pages".to_owned(),
            _ => format!("normal pages ({free} MB of huge ones free)"),
        };
        Ok(Self { store, _seat: seat, memory: format!("packets in {megabytes} MB of {pages}, Linux sockets") })
    }

    /// The packets, for the node and for the harness.
    pub fn pools(&self) -> Result<[FramePool; 2], Error> {
        Ok([FramePool::new(self.store).map_err(refused)?, FramePool::new(self.store).map_err(refused)?])
    }

    /// Opens `af_xdp:IF` and `af_packet:IF`. The former with zero-copy where the driver has it.
    pub fn open(&self, devices: &[String], mtu: u16) -> Result<Vec<Opening>, Error> {
        let kernel = addresses()?;
        let open = |device: &String| {
            let (tier, interface) = device.split_once(':').unwrap_or_default();
            let (interface, kernel) = (interface.to_owned(), kernel.clone());
            let wish = Wish { interface, mtu, workers: 1, kernel, on_loss: OnLoss::Pass, busy_poll_us: 0 };
            let opened = if tier == "af_packet" { open_packet(self.store, &wish) } else { self.best_xdp(&wish) };
            let (port, mut queues) = opened.map_err(|error| Error::Device(format!("device {device}: {error}")))?;
            let device = format!("{} ({})", wish.interface, port.tier());
            if let Some(note) = port.note() {
                eprintln!("{device}: {note}");
            }
            Ok(Opening { port, queues: queues.pop(), device, before: [0; 4] })
        };
        devices.iter().map(open).collect()
    }

    fn best_xdp(&self, wish: &Wish) -> Result<Opened, SocketsError> {
        open_xdp(self.store, wish, true).or_else(|_| open_xdp(self.store, wish, false))
    }
}

impl LivePort for Opening {
    type Kind = Sockets;

    fn mac(&self) -> Mac {
        self.port.mac()
    }

    fn queues(&mut self) -> Result<(RxQueue, TxQueue), Error> {
        self.queues.take().ok_or(Error::Harness("the queues of an interface are taken once"))
    }

    fn report(&self, name: String, node: &PortCounters) -> PortReport {
        let health = self.port.health();
        let [rx_packets, rx_bytes, tx_packets, tx_bytes] =
            std::array::from_fn(|at| counts(node)[at].saturating_sub(self.before[at]));
        PortReport {
            name,
            receives_from: self.device.clone(),
            sends_to: self.device.clone(),
            mac: self.port.mac().map(|byte| format!("{byte:02x}")).join(":"),
            rx_packets,
            rx_bytes,
            rx_missed: health.rx_missed,
            rx_errors: health.rx_errors,
            // Frames that found none to be received into are among the missed.
            rx_no_mbuf: 0,
            tx_packets,
            tx_bytes,
            tx_errors: health.tx_errors,
        }
    }

    /// The kernel's counts of what was missed go on from when the port was opened.
    fn reset_stats(&mut self, node: &PortCounters) {
        self.before = counts(node);
    }
}

fn counts(node: &PortCounters) -> [u64; 4] {
    let PortCounters { rx, tx } = node;
    [rx.packets.value(), rx.bytes.value(), tx.packets.value(), tx.bytes.value()]
}

/// The addresses of this network namespace's interfaces.
fn addresses() -> Result<Vec<IpAddr>, Error> {
    let all = getifaddrs().map_err(|errno| Error::System {
        what: "the kernel's addresses".into(),
        source: std::io::Error::from(errno),
    })?;
    let address = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or(address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    Ok(all.filter_map(|interface| interface.address.and_then(address)).collect())
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Device(error.to_string())
}
