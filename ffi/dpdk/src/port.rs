//! Ports. C's order of calls is typestate: [`Port<Stopped>`] → [`Port<Configured>`] → [`Port<Started>`] and back.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use marchproxy_dpdk_sys as sys;
use marchproxy_engine::io::Mac;

use crate::device::DeviceShared;
use crate::errno::Errno;
use crate::ethdev::{configure, describe, device_info, optional, set_mac, set_promiscuous, set_up_rx, set_up_tx};
use crate::link::{self, Link};
use crate::log::{self, LogLevel, Mark};
use crate::mempool::Mempool;
use crate::port_config::{PortConfig, PortError, check};
use crate::queue::{Lease, RxQueue, TxQueue};
use crate::rss::{self, Rss};
use crate::stats::{self, PortStats, Xstat};
use crate::{PortId, QueueIndex, SocketId};

/// A port in state `S`. Transitions consume it; a refused one gives it back in [`Rejected`].
#[derive(Debug)]
pub struct Port<S: State> {
    shared: Arc<PortShared>,
    state: S,
}

/// Attached, not set up.
#[derive(Debug)]
pub struct Stopped(());

/// Set up, not running.
#[derive(Debug)]
pub struct Configured {
    setup: Box<Setup>,
}

/// Running.
#[derive(Debug)]
pub struct Started {
    setup: Box<Setup>,
    lease: Arc<Lease>,
}

/// The states of a port.
pub trait State: sealed::Sealed {}
impl State for Stopped {}
impl State for Configured {}
impl State for Started {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Stopped {}
    impl Sealed for super::Configured {}
    impl Sealed for super::Started {}
}

/// A refused transition: the reason, and what it was asked of, unchanged.
#[derive(Debug)]
pub struct Rejected<T, E> {
    /// What the transition was asked of.
    pub kept: T,
    /// Why it was refused.
    pub error: E,
}

impl<T, E: fmt::Display> fmt::Display for Rejected<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T: fmt::Debug, E: std::error::Error> std::error::Error for Rejected<T, E> {}

/// A started port's queues, in order of their numbers.
#[derive(Debug)]
pub struct Queues {
    /// Receive queues.
    pub rx: Vec<RxQueue>,
    /// Transmit queues.
    pub tx: Vec<TxQueue>,
}

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// The device's name or PCI address.
    pub name: String,
    /// DPDK's driver.
    pub driver: String,
    /// The socket it is plugged into; `None` for virtual devices and hosts with one.
    pub socket: Option<SocketId>,
    /// Most receive queues.
    pub max_rx_queues: u16,
    /// Most transmit queues.
    pub max_tx_queues: u16,
    /// Smallest MTU.
    pub min_mtu: u16,
    /// Largest MTU.
    pub max_mtu: u16,
    /// Entries of the RSS redirection table; 0 when it has none.
    pub rss_table: u16,
    /// Whether its driver claims to report link changes. Poll [`Port::link`] all the same: net_tap claims it and never does.
    pub link_events: bool,
}

/// What was settled with the driver.
#[derive(Clone, Debug)]
struct Setup {
    rx_queues: u16,
    tx_queues: u16,
    rx_descriptors: u16,
    tx_descriptors: u16,
    rss: Rss,
}

/// What all states share; with the last handle the port stops and closes.
#[derive(Debug)]
pub(crate) struct PortShared {
    pub(crate) id: PortId,
    info: PortInfo,
    /// ethdev's control calls are not made for several threads at once.
    control: Mutex<Control>,
    /// Goes last: the port closes before its device.
    _device: Arc<DeviceShared>,
}

#[derive(Debug, Default)]
struct Control {
    /// Pools that the driver fills receive queues from: they must outlive its use of them.
    pools: Vec<Mempool>,
    running: bool,
}

impl Port<Stopped> {
    pub(crate) fn adopt(device: &Arc<DeviceShared>, id: PortId) -> Self {
        link::watch(id);
        let info = describe(id, device.name());
        let shared = PortShared { id, info, control: Mutex::default(), _device: device.clone() };
        Self { shared: Arc::new(shared), state: Stopped(()) }
    }

    /// Sets the port up, its receive queues filled from `pool` (best on the port's own socket). More than one receive queue
    /// asks for symmetric RSS.
    pub fn configure(self, config: &PortConfig, pool: &Mempool) -> Result<Port<Configured>, Rejected<Self, PortError>> {
        match self.shared.set_up(config, pool) {
            Ok(setup) => Ok(Port { shared: self.shared, state: Configured { setup } }),
            Err(error) => Err(Rejected { kept: self, error }),
        }
    }
}

impl Port<Configured> {
    /// Starts receiving and sending.
    pub fn start(self) -> Result<Port<Started>, Rejected<Self, PortError>> {
        match self.shared.start() {
            Ok(()) => {
                let lease = Arc::new(Lease { port: self.shared.clone() });
                Ok(Port { shared: self.shared, state: Started { setup: self.state.setup, lease } })
            }
            Err(error) => Err(Rejected { kept: self, error }),
        }
    }

    /// Back to where another set-up is possible.
    pub fn reset(self) -> Port<Stopped> {
        Port { shared: self.shared, state: Stopped(()) }
    }

    /// What spreads packets over the receive queues.
    pub fn rss(&self) -> &Rss {
        &self.state.setup.rss
    }

    /// Descriptors per receive and per transmit queue after the driver's rounding.
    pub fn descriptors(&self) -> (u16, u16) {
        (self.state.setup.rx_descriptors, self.state.setup.tx_descriptors)
    }
}

impl Port<Started> {
    /// The queues, each to be given to one worker. Refused while queues of an earlier call are out.
    pub fn take_queues(&mut self) -> Result<Queues, PortError> {
        if Arc::get_mut(&mut self.state.lease).is_none() {
            return Err(self.queues_out());
        }
        let (setup, lease) = (&self.state.setup, &self.state.lease);
        Ok(Queues {
            rx: (0..setup.rx_queues).map(|index| RxQueue::new(lease, QueueIndex(index))).collect(),
            tx: (0..setup.tx_queues).map(|index| TxQueue::new(lease, QueueIndex(index))).collect(),
        })
    }

    /// Stops receiving and sending. All queues must have been dropped.
    pub fn stop(mut self) -> Result<Port<Configured>, Rejected<Self, PortError>> {
        if Arc::get_mut(&mut self.state.lease).is_none() {
            let error = self.queues_out();
            return Err(Rejected { kept: self, error });
        }
        match self.shared.stop() {
            Ok(()) => Ok(Port { shared: self.shared, state: Configured { setup: self.state.setup } }),
            Err(error) => Err(Rejected { kept: self, error }),
        }
    }

    /// What spreads packets over the receive queues.
    pub fn rss(&self) -> &Rss {
        &self.state.setup.rss
    }

    /// Descriptors per receive and per transmit queue after the driver's rounding.
    pub fn descriptors(&self) -> (u16, u16) {
        (self.state.setup.rx_descriptors, self.state.setup.tx_descriptors)
    }

    /// Sets the redirection table: entry *i* gets the hashes whose low bits are *i*. As long as
    /// [`PortInfo::rss_table`] says.
    pub fn set_rss_table(&self, table: &[QueueIndex]) -> Result<(), PortError> {
        let (size, queues) = (self.shared.info.rss_table, self.state.setup.rx_queues);
        if table.len() != size as usize || table.iter().any(|queue| queue.0 >= queues) {
            let port = self.shared.info.name.clone();
            return Err(PortError::Table { port, asked: table.len(), size, queues });
        }
        self.shared.ask("setting the redirection table", |id| rss::set_table(id, table))
    }

    /// The redirection table.
    pub fn rss_table(&self) -> Result<Vec<QueueIndex>, PortError> {
        let size = self.shared.info.rss_table;
        self.shared.ask("reading the redirection table", |id| rss::table(id, size))
    }

    fn queues_out(&self) -> PortError {
        PortError::QueuesOut { port: self.shared.info.name.clone(), out: Arc::strong_count(&self.state.lease) - 1 }
    }
}

impl<S: State> Port<S> {
    /// The port's number.
    pub fn id(&self) -> PortId {
        self.shared.id
    }

    /// What the device says of itself.
    pub fn info(&self) -> &PortInfo {
        &self.shared.info
    }

    /// Its address.
    pub fn mac(&self) -> Result<Mac, PortError> {
        self.shared.ask("reading the MAC address", |id| {
            let mut mac = sys::rte_ether_addr::default();
            // SAFETY: the port is attached; `mac` has room for the answer.
            Errno::check(unsafe { sys::rte_eth_macaddr_get(id.0, &raw mut mac) })?;
            Ok(mac.addr_bytes)
        })
    }

    /// Gives it another address. Some devices only take it while stopped.
    pub fn set_mac(&self, mac: Mac) -> Result<(), PortError> {
        self.shared.ask("setting the MAC address", |id| set_mac(id, mac))
    }

    /// The MTU in force.
    pub fn mtu(&self) -> Result<u16, PortError> {
        self.shared.ask("reading the MTU", |id| {
            let mut mtu = 0;
            // SAFETY: the port is attached; `mtu` has room for the answer.
            Errno::check(unsafe { sys::rte_eth_dev_get_mtu(id.0, &raw mut mtu) })?;
            Ok(mtu)
        })
    }

    /// Whether it takes frames for other addresses.
    pub fn is_promiscuous(&self) -> Result<bool, PortError> {
        self.shared.ask("reading promiscuous mode", |id| {
            // SAFETY: the port is attached.
            match unsafe { sys::rte_eth_promiscuous_get(id.0) } {
                error @ ..0 => Err(Errno::from_raw(error)),
                mode => Ok(mode == 1),
            }
        })
    }

    /// Whether it shall take frames for other addresses.
    pub fn set_promiscuous(&self, on: bool) -> Result<(), PortError> {
        self.shared.ask("setting promiscuous mode", |id| set_promiscuous(id, on))
    }

    /// The link now.
    pub fn link(&self) -> Result<Link, PortError> {
        self.shared.ask("reading the link", link::link)
    }

    /// How often the device has reported a change of its link; one load, made for polling. Stays 0 unless
    /// [`PortInfo::link_events`].
    pub fn link_changes(&self) -> u32 {
        link::changes(self.shared.id)
    }

    /// Whether the device was unplugged.
    pub fn is_removed(&self) -> bool {
        link::removed(self.shared.id)
    }

    /// Basic counters.
    pub fn stats(&self) -> Result<PortStats, PortError> {
        self.shared.ask("reading statistics", stats::stats)
    }

    /// Sets the basic counters to zero.
    pub fn reset_stats(&self) -> Result<(), PortError> {
        self.shared.ask("resetting statistics", stats::reset)
    }

    /// All counters of the driver, by name.
    pub fn xstats(&self) -> Result<Vec<Xstat>, PortError> {
        self.shared.ask("reading extended statistics", stats::xstats)
    }
}

impl PortShared {
    fn set_up(&self, config: &PortConfig, pool: &Mempool) -> Result<Box<Setup>, PortError> {
        check(&self.info, config, pool)?;
        let mut control = self.control();
        // Before the driver hears of it, and beside the old one: the driver lets go of that queue by queue.
        control.pools.push(pool.clone());

        let info = self.step("reading the device's limits", || device_info(self.id))?;
        let rss = self.step("configuring", || configure(self.id, &info, config))?;
        let (mut rx_descriptors, mut tx_descriptors) = (config.rx_descriptors, config.tx_descriptors);
        self.step("choosing descriptors", || {
            // SAFETY: the port is attached; both numbers may be read and written.
            Errno::check(unsafe {
                sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.id.0, &raw mut rx_descriptors, &raw mut tx_descriptors)
            })
        })?;
        for queue in 0..config.rx_queues {
            self.step("setting up a receive queue", || set_up_rx(self.id, queue, rx_descriptors, &info, pool))?;
        }
        for queue in 0..config.tx_queues {
            self.step("setting up a transmit queue", || set_up_tx(self.id, queue, tx_descriptors, &info))?;
        }
        // Now that every receive queue has the new pool, the old ones are free to go.
        let old = control.pools.len() - 1;
        control.pools.drain(..old);

        // SAFETY: the port is attached and configured.
        self.step("setting the MTU", || optional(unsafe { sys::rte_eth_dev_set_mtu(self.id.0, config.mtu) }))?;
        if let Some(mac) = config.mac {
            self.step("setting the MAC address", || set_mac(self.id, mac))?;
        }
        let (rx_queues, tx_queues) = (config.rx_queues, config.tx_queues);
        self.step("setting promiscuous mode", || match set_promiscuous(self.id, config.promiscuous) {
            // A device without the switch takes everything anyway.
            Err(Errno::NotSupported) => Ok(()),
            other => other,
        })?;
        Ok(Box::new(Setup { rx_queues, tx_queues, rx_descriptors, tx_descriptors, rss }))
    }

    fn start(&self) -> Result<(), PortError> {
        let mut control = self.control();
        // SAFETY: the port is attached and all its queues are set up (it was Configured).
        self.step("starting", || Errno::check(unsafe { sys::rte_eth_dev_start(self.id.0) }))?;
        control.running = true;
        Ok(())
    }

    fn stop(&self) -> Result<(), PortError> {
        let mut control = self.control();
        // SAFETY: the port is attached; no queue of it is out, so nobody receives or sends.
        self.step("stopping", || Errno::check(unsafe { sys::rte_eth_dev_stop(self.id.0) }))?;
        control.running = false;
        Ok(())
    }

    /// One control call, alone.
    fn ask<T>(&self, step: &'static str, call: impl FnOnce(PortId) -> Result<T, Errno>) -> Result<T, PortError> {
        let _alone = self.control();
        self.step(step, || call(self.id))
    }

    /// Names what was asked for when the driver refuses, and quotes its log.
    fn step<T>(&self, step: &'static str, call: impl FnOnce() -> Result<T, Errno>) -> Result<T, PortError> {
        let mark = Mark::now();
        call().map_err(|errno| PortError::Driver { port: self.info.name.clone(), step, errno, said: mark.since() })
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PortShared {
    fn drop(&mut self) {
        link::unwatch(self.id);
        let running = self.control().running;
        if running && let Err(error) = self.stop() {
            log::tell(LogLevel::Warning, &error.to_string());
        }
        // SAFETY: the port is attached, stopped, and this was its last handle: nobody uses it any more. Its queues' packets go
        // back to their pools, which are still held.
        let closed = self.step("closing", || Errno::check(unsafe { sys::rte_eth_dev_close(self.id.0) }));
        if let Err(error) = closed {
            log::tell(LogLevel::Warning, &error.to_string());
        }
    }
}
