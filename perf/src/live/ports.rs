//! DPDK, its packet pool, and ports made of one device, or of one to receive from and one to send to.

use std::path::PathBuf;

use marchproxy_dpdk::{
    Device, DeviceSpec, DpdkPool, Eal, Mbuf, Mempool, PoolConfig, Port, PortConfig, PortStats, RegisteredThread,
    RxQueue, Started, TxQueue, dpdk_version,
};
use marchproxy_engine::io::Mac;
use marchproxy_engine::ledger::Backend;
use marchproxy_engine::stats::PortCounters;
use marchproxy_engine::testkit::port_mac;
use tempfile::NamedTempFile;

use super::LivePort;
use crate::Error;
use crate::machine::free_hugepages_mb;
use crate::pcap;
use crate::report::PortReport;
use crate::scenario::Plan;
use crate::seeded::Rng;
use crate::source::DeviceOptions;

/// Octets of a packet's memory: frame, headroom, mbuf, and the pool's own.
const PER_PACKET: u64 = 2048 + 128 + 128 + 128;
/// The same on normal pages: a packet does not cross from one to the next.
const PER_PACKET_NORMAL: u64 = 4096;
/// Descriptors both ways of two ports, bursts, caches, and packets with the slow path.
const IN_FLIGHT: u32 = 6144;
/// What DPDK itself takes beside the packets.
const OWN_MB: u32 = 48;

/// Drivers that have no wire: a port on them has the address that generated frames are sent to. Others have their own.
const WITHOUT_WIRE: [&str; 3] = ["net_pcap", "net_null", "net_ring"];

/// DPDK, started, with memory for packets.
pub struct Environment {
    eal: Eal,
    pool: Mempool,
    /// What that memory is.
    pub memory: String,
}

impl Environment {
    /// Starts DPDK, once per process, its own threads on `cores`, with room for `devices` devices.
    pub fn start(options: &DeviceOptions, devices: usize, cores: &[usize]) -> Result<Self, Error> {
        // Each completed net_pcap keeps its whole file in packets of the pool.
        let wanted = options.file_packets().saturating_mul(devices as u32).saturating_add(IN_FLIGHT);
        // A power of two less one uses a pool's memory best.
        let packets = wanted.checked_next_power_of_two().unwrap_or(u32::MAX) - 1;
        let needed = |each: u64| options.mem_mb.unwrap_or(((u64::from(packets) * each) >> 20) as u32 + OWN_MB);
        let free = free_hugepages_mb();
        let huge = !options.no_huge && free >= u64::from(needed(PER_PACKET));
        let megabytes = needed(if huge { PER_PACKET } else { PER_PACKET_NORMAL });
        let prefix = format!("marchproxy-perf-{}", std::process::id());
        let mut eal = Eal::builder().file_prefix(&prefix).memory_mb(megabytes).housekeeping_cores(cores).on_log(log);
        if !huge {
            eal = eal.no_huge();
        }
        let eal = eal.start().map_err(refused)?;
        let pool = Mempool::create(&eal, "perf", &PoolConfig::new(packets)).map_err(refused)?;
        let pages = if huge { "huge pages".into() } else { format!("normal pages ({free} MB of huge ones free)") };
        let memory = format!("{packets} packets in {megabytes} MB of {pages}, {}", dpdk_version());
        Ok(Self { eal, pool, memory })
    }

    /// Makes DPDK know the calling thread; not needed on the one that started it.
    pub fn enter(&self) -> Result<RegisteredThread, Error> {
        self.eal.register_thread().map_err(refused)
    }

    /// The packets, for the node and for the harness.
    pub fn pools(&self) -> [DpdkPool; 2] {
        [(); 2].map(|()| DpdkPool::new(&self.pool))
    }

    /// Opens ports on `devices`. A net_pcap that is given nothing to receive from gets `packets` frames of the plan's load in a file.
    pub fn open(&self, devices: &[String], plan: &mut Plan, packets: u32, seed: u64) -> Result<Vec<Opened>, Error> {
        let specs: Vec<DeviceSpec> =
            devices.iter().map(|device| device.parse().map_err(refused)).collect::<Result<_, _>>()?;
        let files =
            if specs.iter().any(is_incomplete) { replay(plan, specs.len(), packets, seed)? } else { Vec::new() };
        let open =
            |(index, spec): (usize, &DeviceSpec)| self.port(index, spec, files.get(index).and_then(Option::as_ref));
        specs.iter().enumerate().map(open).collect()
    }

    fn port(&self, index: usize, spec: &DeviceSpec, file: Option<&NamedTempFile>) -> Result<Opened, Error> {
        let spec = complete(spec, file.map(|file| PathBuf::from(file.path())));
        let receive = self.start_device(&spec)?;
        let transmit = if sends_nowhere(&spec) {
            let sink = DeviceSpec::Vdev { name: format!("net_null_tx{index}"), args: "no-rx=1".into() };
            Some(self.start_device(&sink)?)
        } else {
            None
        };
        let without_wire = WITHOUT_WIRE.contains(&receive.driver.as_str()) && !arguments(&spec).contains("iface=");
        let mac = if without_wire { port_mac(index) } else { receive.port.mac().map_err(refused)? };
        Ok(Opened { receive, transmit, mac })
    }

    fn start_device(&self, spec: &DeviceSpec) -> Result<LiveDevice, Error> {
        let mut device = Device::probe(&self.eal, spec).map_err(refused)?;
        let mut ports = device.take_ports();
        let port = ports.pop().filter(|_| ports.is_empty()).ok_or_else(|| {
            Error::Device(format!("device {spec}: it has {} Ethernet ports, allowed: one", ports.len() + 1))
        })?;
        let driver = port.info().driver.clone();
        // As testpmd: a generator need not know our address. The engine looks at it all the same.
        let config = PortConfig { promiscuous: true, ..PortConfig::default() };
        let port = port.configure(&config, &self.pool).map_err(|rejected| refused(rejected.error))?;
        let port = port.start().map_err(|rejected| refused(rejected.error))?;
        Ok(LiveDevice { name: device.name().to_owned(), driver, port, _device: device })
    }
}

/// DPDK's packets, queues and pools.
#[derive(Debug)]
pub struct Kind;

impl Backend for Kind {
    type Buf = Mbuf;
    type Rx = RxQueue;
    type Tx = TxQueue;
    type Pool = DpdkPool;
}

/// A started device.
pub struct LiveDevice {
    /// Its name or address.
    pub name: String,
    /// DPDK's driver.
    pub driver: String,
    port: Port<Started>,
    /// Goes after its port.
    _device: Device,
}

/// A port of the node.
pub struct Opened {
    /// Where its packets come from.
    pub receive: LiveDevice,
    /// Where they are sent, when that is another device.
    pub transmit: Option<LiveDevice>,
    /// Its address, as the node knows it.
    pub mac: Mac,
}

impl Opened {
    /// What the devices counted: the receiving one's received, the sending one's sent packets.
    pub fn stats(&self) -> PortStats {
        let received = self.receive.port.stats().unwrap_or_default();
        let sent = self.transmit.as_ref().map_or(received, |device| device.port.stats().unwrap_or_default());
        PortStats { tx_packets: sent.tx_packets, tx_bytes: sent.tx_bytes, tx_errors: sent.tx_errors, ..received }
    }

    /// Whether there is a link, and how fast it is in Mbit/s, as far as the driver says.
    pub fn link(&self) -> (bool, Option<u32>) {
        self.receive.port.link().map_or((false, None), |link| (link.up, link.mbps))
    }
}

impl LivePort for Opened {
    type Kind = Kind;

    fn mac(&self) -> Mac {
        self.mac
    }

    fn queues(&mut self) -> Result<(RxQueue, TxQueue), Error> {
        let receive = self.receive.port.take_queues().map_err(refused)?;
        let transmit = self.transmit.as_mut().map(|device| device.port.take_queues()).transpose().map_err(refused)?;
        let (mut rx, mut tx) = (receive.rx, transmit.map_or(receive.tx, |queues| queues.tx));
        match (rx.pop(), tx.pop()) {
            (Some(rx), Some(tx)) => Ok((rx, tx)),
            _ => Err(Error::Harness("a started port has a queue each way")),
        }
    }

    fn report(&self, name: String, _: &PortCounters) -> PortReport {
        let stats = self.stats();
        let device = |device: &LiveDevice| format!("{} ({})", device.name, device.driver);
        PortReport {
            name,
            receives_from: device(&self.receive),
            sends_to: device(self.transmit.as_ref().unwrap_or(&self.receive)),
            mac: self.mac.map(|byte| format!("{byte:02x}")).join(":"),
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            rx_missed: stats.rx_missed,
            rx_errors: stats.rx_errors,
            rx_no_mbuf: stats.rx_no_mbuf,
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            tx_errors: stats.tx_errors,
        }
    }

    fn reset_stats(&mut self, _: &PortCounters) {
        for device in [Some(&self.receive), self.transmit.as_ref()].into_iter().flatten() {
            // A driver that can't goes on counting; nothing else depends on it.
            let _ = device.port.reset_stats();
        }
    }
}

fn arguments(spec: &DeviceSpec) -> &str {
    let (DeviceSpec::Vdev { args, .. } | DeviceSpec::Pci { args, .. }) = spec;
    args
}

fn is_pcap(spec: &DeviceSpec) -> bool {
    matches!(spec, DeviceSpec::Vdev { name, .. } if name.starts_with("net_pcap"))
}

/// A net_pcap that was given nothing to receive from.
fn is_incomplete(spec: &DeviceSpec) -> bool {
    // `iface=` is both ways, `rx_iface_in=` a kind of `rx_iface=`.
    is_pcap(spec) && !arguments(spec).split(',').any(|a| a.starts_with("rx_") || a.starts_with("iface="))
}

/// A net_pcap that was given nothing to send to.
fn sends_nowhere(spec: &DeviceSpec) -> bool {
    is_pcap(spec) && !arguments(spec).split(',').any(|a| a.starts_with("tx_") || a.starts_with("iface="))
}

/// The device with the file to replay, where it lacks one.
fn complete(spec: &DeviceSpec, file: Option<PathBuf>) -> DeviceSpec {
    match (spec, file) {
        (DeviceSpec::Vdev { name, args }, Some(file)) if is_incomplete(spec) => {
            let comma = if args.is_empty() { "" } else { "," };
            let args = format!("{args}{comma}rx_pcap={},infinite_rx=1", file.display());
            DeviceSpec::Vdev { name: name.clone(), args }
        }
        _ => spec.clone(),
    }
}

/// Draws frames and sorts them into a file for each port; none where nothing arrives. The driver reads them while it is started.
fn replay(plan: &mut Plan, ports: usize, packets: u32, seed: u64) -> Result<Vec<Option<NamedTempFile>>, Error> {
    let mut frames = vec![Vec::new(); ports];
    let mut rng = Rng::new(seed, "replay");
    for _ in 0..packets {
        let template = plan.load.draw(&mut rng).ok_or(Error::Harness("the load sends nothing"))?;
        let port = usize::from(template.port).min(ports - 1);
        frames[port].push(template.frame(port_mac(port)));
    }
    let write = |frames: Vec<Vec<u8>>| {
        if frames.is_empty() {
            return Ok(None);
        }
        let system = |source| Error::System { what: "a temporary file for packets".into(), source };
        let file = tempfile::Builder::new().prefix("marchproxy-perf-").suffix(".pcap").tempfile().map_err(system)?;
        pcap::write_file(file.path(), frames)?;
        Ok(Some(file))
    };
    frames.into_iter().map(write).collect()
}

fn log(level: marchproxy_dpdk::LogLevel, line: &str) {
    // Said at every start about page sizes that nobody reserved; whether there is enough memory is checked before.
    if level <= marchproxy_dpdk::LogLevel::Warning && !line.contains("hugepages reported on node") {
        eprintln!("dpdk: {line}");
    }
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Device(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_pcap_device_lacks_is_added() {
        for (text, receives, sends) in [
            ("vdev:net_pcap", false, false),
            ("vdev:net_pcap0,rx_pcap=a,infinite_rx=1", true, false),
            ("vdev:net_pcap0,tx_pcap=b", false, true),
            ("vdev:net_pcap0,iface=eth0", true, true),
            ("vdev:net_pcap0,rx_iface_in=eth0,tx_iface=eth1", true, true),
            ("vdev:net_null0", true, true),
            ("pci:0000:03:00.0", true, true),
        ] {
            let spec: DeviceSpec = text.parse().unwrap();
            assert_eq!((is_incomplete(&spec), sends_nowhere(&spec)), (!receives, !sends), "{text}");
            let completed = complete(&spec, Some("f.pcap".into())).to_string();
            assert_eq!(completed.contains("rx_pcap=f.pcap,infinite_rx=1"), !receives, "{completed}");
        }
        let both = complete(&"vdev:net_pcap0,tx_pcap=b".parse().unwrap(), Some("f".into()));
        assert_eq!(both.to_string(), "vdev:net_pcap0,tx_pcap=b,rx_pcap=f,infinite_rx=1");
    }
}
