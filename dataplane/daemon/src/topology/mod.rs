//! Which cores there are, where they and the NICs sit, and which of them become workers.
//!
//! [`Machine`] is what hwloc found, [`choose`] the pure decision over it, [`locality`] where a port's device sits.

mod choose;
mod locality;
mod machine;

pub use choose::{ChoiceError, Decision, PortPlace, Wish, WorkerCore, choose};
pub use locality::{host_nics, node_of_device};
pub use machine::{Caches, Cpu, Machine, TopologyError};
