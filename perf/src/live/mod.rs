//! The node on devices: they bring the traffic, the harness forwards it, as testpmd does. One worker, in the engine's own loop, on
//! real time; the neighbours are set beforehand and the sessions made with frames that never leave this process.

mod forwarder;
mod measure;
mod ports;
mod queue;

pub use forwarder::{Forwarder, Slice};
pub use measure::run;
pub use ports::Environment;
