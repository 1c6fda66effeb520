//! The data-plane daemon: ports, pinned workers, agent, slow path.
//!
//! Threads: workers (pinned, one per core), slow path, builder, and the agent with everything asynchronous. [`runtime::Runtime`] is the
//! seam between the agent and the rest, [`driver::Driver`] the one between the rest and a packet backend.
#![forbid(unsafe_code)]

pub mod agent;
pub mod backends;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod driver;
pub mod flows;
pub mod groups;
pub mod health;
pub mod host;
pub mod http;
pub mod kernel;
pub mod last_good;
pub mod local;
pub mod metrics;
pub mod node;
pub mod pulse;
pub mod runtime;
pub mod samples;
pub mod topology;
