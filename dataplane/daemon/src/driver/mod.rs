//! Devices: how the document names them, and the backends that drive them.

mod device;
#[cfg(feature = "dpdk")]
mod dpdk;
mod early;
mod rungs;
mod sockets;

use marchproxy_engine::io::Mac;
use marchproxy_engine::ledger::Backend;
use marchproxy_engine::tables::{PortSpec, RuleTables};

#[cfg(test)]
pub(crate) use device::ports;
pub use device::{Device, DeviceError, Kind, checked_devices};
#[cfg(feature = "dpdk")]
pub use dpdk::DpdkDriver;
pub use early::{EarlyCounts, EarlyPort, RulePlace};
pub use rungs::{Choice, PassedOver, dpdk_rung};
pub use sockets::SocketsDriver;

/// A packet backend as the daemon uses it: opens devices, gives every worker its queues.
pub trait Driver: Send + Sync + 'static {
    /// The types it gives the engine.
    type Backend: Backend;
    /// An open device.
    type Port: OpenPort;
    /// Held by a thread that moves packets, for as long as it does. Need not be `Send`.
    type Guard;

    /// The name shown to people: `dpdk`.
    fn name(&self) -> &'static str;
    /// Called by every worker and the slow path on their own (pinned) thread.
    fn enter_thread(&self) -> Result<Self::Guard, String>;
    /// Packets for the slow path.
    fn pool(&self) -> Result<<Self::Backend as Backend>::Pool, String>;
    /// Packets that may wait in the queues of one shaped port: a share of the buffers there are, so that enough are left to receive with.
    fn queue_places(&self) -> u32 {
        1 << 12
    }
    /// Opens a device with `queues` pairs of queues. The error names device and reason; nothing is left open then.
    fn open(&self, spec: &PortSpec, device: &Device, queues: u16) -> Result<Opened<Self>, String>;
    /// Puts tables into force in front of the engine, on ports by name, where a driver has something there; without tables those of the last
    /// time. On an error the ones before stay.
    fn publish(&self, _: Option<&RuleTables>, _: &[(&str, &Self::Port)]) -> Result<(), String> {
        Ok(())
    }
    /// Whether rules are decided in front of the engine, too: a change of them is then made there as well, from whole tables.
    fn decides_early(&self) -> bool {
        false
    }
    /// Whether the host changed so that the tables of the last time have to be put into force once more.
    fn is_stale(&self) -> bool {
        false
    }
    /// Somebody looks at packets, or does no more: meanwhile the engine gets all of them.
    fn watch(&self, _: bool) {}
    /// What ended in front of the engine since the driver started.
    fn early_counts(&self) -> EarlyCounts {
        EarlyCounts::default()
    }
    /// Where rules are decided; none where the engine decides all.
    fn rule_places(&self) -> Vec<RulePlace> {
        Vec::new()
    }
}

/// A device that was just opened.
pub struct Opened<D: Driver + ?Sized> {
    /// The handle by which it is closed.
    pub port: D::Port,
    /// One pair per worker.
    pub queues: Vec<QueuePair<D>>,
}

/// A worker's queues of one port.
pub type QueuePair<D> = (<<D as Driver>::Backend as Backend>::Rx, <<D as Driver>::Backend as Backend>::Tx);

/// An open device. It closes when dropped; its queues must be gone by then.
pub trait OpenPort: Send + 'static {
    /// Its address.
    fn mac(&self) -> Mac;
    /// Whether packets can pass. Asked many times a second: a driver whose health costs more than that answers by itself.
    fn link_up(&self) -> bool {
        self.health().link_up
    }
    /// What it says of itself; may ask the hardware.
    fn health(&self) -> PortHealth;
    /// What its packets met in front of the engine.
    fn early(&self) -> EarlyPort {
        EarlyPort::default()
    }
    /// The way its packets come, and why no better one.
    fn choice(&self) -> Choice {
        Choice::default()
    }
}

/// What a device says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortHealth {
    /// Whether packets can pass.
    pub link_up: bool,
    /// Dropped before we saw them: no free descriptor, no free buffer.
    pub rx_missed: u64,
    /// Received broken.
    pub rx_errors: u64,
    /// Accepted and not sent.
    pub tx_errors: u64,
}
