//! Egress queues of shaped ports (`BEHAVIOUR.md` 11): packets wait here until port, service and class let them go.
//!
//! One worker owns a port's [`Scheduler`]; nothing in it is shared but the [`QueueCounters`], which it alone writes. All memory is there
//! from the start, packets keep their places over pushes, and what a generation says ([`Shaping`]) is looked up when a queue is touched.

mod account;
mod bucket;
mod class;
mod codel;
mod counters;
pub mod ecn;
mod places;
mod scheduler;
mod shaping;
#[cfg(test)]
mod tests;
mod wheel;

pub use bucket::Bucket;
pub use class::{Tag, of_frame};
pub use counters::{QueueCounters, QueueDrop, SOJOURN_BOUNDS, WaitCounters};
pub use scheduler::{PER_TURN, Scheduler};
pub use shaping::{PortShaping, Profile, Shaping};

/// Queues of one service: one for each class.
pub const CLASSES: usize = 4;
