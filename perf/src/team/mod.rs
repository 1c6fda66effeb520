//! Several workers, each on a core of its own with queues, sessions, counters and buffers of its own, and rings between them in which they
//! hand packets over.

pub mod hands;
pub mod measure;
pub mod rig;
