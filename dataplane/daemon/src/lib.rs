//! The data-plane daemon: ports, pinned workers, agent, slow path.
#![forbid(unsafe_code)]

pub mod agent;
pub mod config;
pub mod driver;
pub mod groups;
pub mod http;
pub mod kernel;
pub mod last_good;
pub mod local;
pub mod metrics;
pub mod runtime;
pub mod topology;
