//! The node on devices: they bring the traffic, the harness forwards it, as testpmd does. One worker, in the engine's own loop, on
//! real time; the neighbours are set beforehand and the sessions made with frames that never leave this process.

mod forwarder;
mod interfaces;
mod measure;
#[cfg(feature = "dpdk")]
mod ports;
mod queue;

use marchproxy_engine::io::Mac;
use marchproxy_engine::ledger::Backend;
use marchproxy_engine::stats::PortCounters;

use crate::Error;
use crate::backend::Stamp;
use crate::report::PortReport;

pub use forwarder::{Forwarder, Slice};
pub use interfaces::Interfaces;
pub use measure::run;
#[cfg(feature = "dpdk")]
pub use ports::{Environment, Opened};

/// A receive and a transmit queue.
pub type Queues<K> = (<K as Backend>::Rx, <K as Backend>::Tx);

/// A port of the node, whatever drives it.
pub trait LivePort {
    /// What does.
    type Kind: Backend<Buf: Stamp>;

    /// Its address, as the node knows it.
    fn mac(&self) -> Mac;
    /// Its queues; they come back by being dropped.
    fn queues(&mut self) -> Result<Queues<Self::Kind>, Error>;
    /// For reports, under the node's `name` for it; `node` is what the node counted.
    fn report(&self, name: String, node: &PortCounters) -> PortReport;
    /// Counts from zero.
    fn reset_stats(&mut self, node: &PortCounters);
}
