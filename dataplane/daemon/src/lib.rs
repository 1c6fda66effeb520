//! The data-plane daemon: ports, pinned workers, agent, slow path.
#![forbid(unsafe_code)]

pub mod config;
pub mod driver;
pub mod kernel;
pub mod topology;
