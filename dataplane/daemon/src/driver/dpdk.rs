//! The DPDK backend: EAL, packet pools per frame size, ports.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use marchproxy_dpdk::{
    Device as Attached, DeviceSpec, DpdkPool, Eal, LogLevel, Mbuf, Mempool, PoolConfig, Port, PortConfig, Queues,
    RegisteredThread, RxQueue, SocketId, Started, TxQueue,
};
use marchproxy_engine::io::Mac;
use marchproxy_engine::ledger::Backend;
use marchproxy_engine::tables::PortSpec;

use super::{Choice, Device, Driver, OpenPort, Opened, PortHealth, dpdk_rung};
use crate::config::{HugepageMode, Memory};
use crate::kernel::{free_hugepages_mb, total_hugepages_mb};

/// Frames up to this size fit the ordinary pool: MTU 1,500 and tags, with room to spare.
const ORDINARY: u16 = 2048;
/// Frames of MTU 9,216 and tags, in the steps of 1,024 that many NICs want.
const JUMBO: u16 = 10 * 1024;
/// mbuf header, headroom and mempool header of each packet.
const PER_PACKET: u64 = 128 + 128 + 64;
/// A power of two minus one uses mempool memory best; below the first nothing works, the second is 150 MB a pool.
const PACKETS: std::ops::RangeInclusive<u32> = 11..=16;

/// DPDK's types.
#[derive(Debug)]
pub struct Dpdk;

impl Backend for Dpdk {
    type Buf = Mbuf;
    type Rx = RxQueue;
    type Tx = TxQueue;
    type Pool = DpdkPool;
}

/// DPDK, started.
#[derive(Debug)]
pub struct DpdkDriver {
    eal: Arc<Eal>,
    /// Packets may be anywhere but are wanted here.
    socket: Option<SocketId>,
    mem_mb: u64,
    pools: Mutex<BTreeMap<u16, Mempool>>,
    ordinary: Mempool,
}

/// A started port.
#[derive(Debug)]
pub struct DpdkPort {
    port: Port<Started>,
    mac: Mac,
    /// Goes after its port.
    _device: Attached,
}

impl DpdkDriver {
    /// Starts EAL on the calling thread. `housekeeping` are the cores for DPDK's own threads, `node` the workers' NUMA node.
    pub fn start(memory: &Memory, housekeeping: &[usize], node: Option<u32>) -> Result<Self, String> {
        let mut eal = Eal::builder()
            .file_prefix(&memory.file_prefix)
            .memory_mb(u32::try_from(memory.mem_mb).unwrap_or(u32::MAX))
            .housekeeping_cores(housekeeping)
            .on_log(log);
        if !huge_pages(memory)? {
            eal = eal.no_huge();
        }
        for argument in &memory.eal_args {
            eal = eal.argument(argument);
        }
        let eal = Arc::new(eal.start().map_err(|error| error.to_string())?);
        let socket = node.map(SocketId).filter(|socket| eal.sockets().contains(socket));
        let ordinary = pool(&eal, ORDINARY, memory.mem_mb, socket)?;
        let pools = Mutex::new(BTreeMap::from([(ORDINARY, ordinary.clone())]));
        Ok(Self { eal, socket, mem_mb: memory.mem_mb, pools, ordinary })
    }

    fn pool_for(&self, mtu: u16) -> Result<Mempool, String> {
        // Ethernet header and two tags.
        let room = if u32::from(mtu) + 22 <= u32::from(ORDINARY) { ORDINARY } else { JUMBO };
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&room) {
            return Ok(pool.clone());
        }
        let made = pool(&self.eal, room, self.mem_mb, self.socket)?;
        pools.insert(room, made.clone());
        Ok(made)
    }
}

/// Whether to take huge pages; refuses when they are required and too few.
fn huge_pages(memory: &Memory) -> Result<bool, String> {
    let (free, total, wanted) = (free_hugepages_mb(), total_hugepages_mb(), memory.mem_mb);
    let enough = free >= wanted;
    let found = format!("{free} MB of {total} MB in huge pages are free, memory.mem_mb is {wanted}");
    match memory.hugepages {
        HugepageMode::Off => Ok(false),
        _ if enough => Ok(true),
        HugepageMode::Auto => {
            tracing::warn!(
                "memory: {found}: using normal pages, about half as fast; reserve more with scripts/hugepages/reserve {wanted}"
            );
            Ok(false)
        }
        HugepageMode::Required => Err(format!(
            "memory.hugepages: required, but {found}; reserve more with scripts/hugepages/reserve {wanted}, or allow \
             hugepages = \"auto\""
        )),
    }
}

/// Half of the memory for packets of this size: two sizes at most, and EAL needs a little for itself.
fn packets(room: u16, mem_mb: u64) -> u32 {
    let fit = (mem_mb << 20) * 4 / 10 / (u64::from(room) + PER_PACKET);
    let log = fit.max(1).ilog2().clamp(*PACKETS.start(), *PACKETS.end());
    (1 << log) - 1
}

fn pool(eal: &Eal, room: u16, mem_mb: u64, socket: Option<SocketId>) -> Result<Mempool, String> {
    let count = packets(room, mem_mb);
    let config = PoolConfig { frame_room: room, socket, ..PoolConfig::new(count) };
    Mempool::create(eal, &format!("mp_{room}"), &config).map_err(|error| error.to_string())
}

fn log(level: LogLevel, line: &str) {
    match level {
        // Said at every start about page sizes that nobody reserved; whether there is enough memory was checked before.
        LogLevel::Warning if line.contains("hugepages reported on node") => tracing::debug!("dpdk: {line}"),
        LogLevel::Critical | LogLevel::Error => tracing::error!("dpdk: {line}"),
        LogLevel::Warning => tracing::warn!("dpdk: {line}"),
        LogLevel::Notice | LogLevel::Info => tracing::info!("dpdk: {line}"),
        LogLevel::Debug => tracing::debug!("dpdk: {line}"),
    }
}

impl Driver for DpdkDriver {
    type Backend = Dpdk;
    type Port = DpdkPort;
    type Guard = RegisteredThread;

    fn name(&self) -> &'static str {
        "dpdk"
    }

    fn enter_thread(&self) -> Result<RegisteredThread, String> {
        self.eal.register_thread().map_err(|error| error.to_string())
    }

    fn pool(&self) -> Result<DpdkPool, String> {
        Ok(DpdkPool::new(&self.ordinary))
    }

    fn queue_places(&self) -> u32 {
        packets(ORDINARY, self.mem_mb) / 4
    }

    fn open(&self, spec: &PortSpec, device: &Device, queues: u16) -> Result<Opened<Self>, String> {
        let refuse = |reason: String| format!("port {}: device {:?}: {reason}", spec.name, spec.device);
        let pool = self.pool_for(spec.mtu).map_err(refuse)?;
        let device: DeviceSpec = with_queues(device, queues)?.parse().map_err(|error| refuse(format!("{error}")))?;
        let mut attached = Attached::probe(&self.eal, &device).map_err(|error| refuse(error.to_string()))?;
        let mut ports = attached.take_ports();
        let port = ports.pop().filter(|_| ports.is_empty()).ok_or_else(|| {
            refuse(format!("it has {} Ethernet ports, allowed: one; name the function of the port", ports.len() + 1))
        })?;
        let info = port.info();
        let most = info.max_rx_queues.min(info.max_tx_queues);
        if most < queues {
            return Err(refuse(format!(
                "driver {} has {most} pair(s) of queues, {queues} workers need one each: name fewer cores in `workers`",
                info.driver
            )));
        }
        let config = PortConfig { rx_queues: queues, tx_queues: queues, mtu: spec.mtu, ..PortConfig::default() };
        let port = port.configure(&config, &pool).map_err(|error| refuse(error.to_string()))?;
        let mut port = port.start().map_err(|error| refuse(error.to_string()))?;
        let mac = port.mac().map_err(|error| refuse(error.to_string()))?;
        let Queues { rx, tx } = port.take_queues().map_err(|error| refuse(error.to_string()))?;
        Ok(Opened { port: DpdkPort { port, mac, _device: attached }, queues: rx.into_iter().zip(tx).collect() })
    }
}

/// The device with as many queues as there are workers, where the driver wants to be told so and the document does not.
fn with_queues(device: &Device, queues: u16) -> Result<String, String> {
    Ok(match device {
        Device::Pci(address) => format!("pci:{address}"),
        Device::Auto { interface } => format!("pci:{}", dpdk_rung(interface)?),
        Device::AfXdp { .. } | Device::AfPacket { .. } => {
            return Err(format!("device \"{device}\": this node runs on DPDK"));
        }
        Device::Vdev { arguments, name, .. }
            if queues > 1 && name.starts_with("net_af_packet") && !arguments.contains("qpairs=") =>
        {
            format!("vdev:{arguments},qpairs={queues}")
        }
        Device::Vdev { arguments, .. } => format!("vdev:{arguments}"),
    })
}

impl OpenPort for DpdkPort {
    fn mac(&self) -> Mac {
        self.mac
    }

    fn link_up(&self) -> bool {
        self.port.link().is_ok_and(|link| link.up)
    }

    fn health(&self) -> PortHealth {
        let stats = self.port.stats().unwrap_or_default();
        PortHealth {
            link_up: self.link_up(),
            rx_missed: stats.rx_missed + stats.rx_no_mbuf,
            rx_errors: stats.rx_errors,
            tx_errors: stats.tx_errors,
        }
    }

    fn choice(&self) -> Choice {
        Choice { tier: "dpdk", ..Choice::default() }
    }
}
