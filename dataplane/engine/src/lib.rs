//! The packet engine: packets, tables, stages, ledger, snapshot and worker loop.
//!
//! It knows no DPDK, no async runtime, no clock and no randomness: backends implement [`io`], time and secrets are given.
//! What it does to packets is written down in `BEHAVIOUR.md`; [`reference`] is the slow twin of that text.
#![forbid(unsafe_code)]
// Both measured: calls in the loops of a burst cost more than their bodies, and a branch on what alternates at random more than either.
#![allow(clippy::inline_always, clippy::needless_bitwise_bool)]

pub mod build;
pub mod burst;
pub mod change;
pub mod class;
pub mod flow;
pub mod hash;
pub mod io;
pub mod ledger;
pub mod memory;
pub mod observe;
pub mod packet;
pub mod pipeline;
pub mod ports;
pub mod qos;
pub mod reason;
pub mod received;
pub mod reference;
pub mod sampling;
pub mod slots;
pub mod slow;
pub mod snapshot;
pub mod stage;
pub mod stats;
pub mod table;
pub mod tables;
pub mod testkit;
pub mod why;
pub mod wire;
pub mod worker;

pub use build::{Budget, BuildError, build};
pub use change::Successor;
pub use snapshot::Snapshot;
