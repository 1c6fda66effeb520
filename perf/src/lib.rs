//! The testpmd-style performance harness: what a packet costs in the engine, under loads that mean something.
//!
//! [`scenario`] lays out tables and traffic, [`rig`] is the measured node, [`measure`] runs it, [`report`] says what came out.
#![forbid(unsafe_code)]

pub mod backend;
pub mod calibrate;
pub mod capture;
pub mod churn;
pub mod cli;
pub mod command;
pub mod compare;
pub mod console;
pub mod generate;
pub mod latency;
#[cfg(feature = "dpdk")]
pub mod live;
pub mod load;
pub mod machine;
pub mod measure;
pub mod neighbourhood;
pub mod node;
pub mod pcap;
pub mod probe;
pub mod process;
pub mod progress;
pub mod report;
pub mod rig;
pub mod scenario;
pub mod seeded;
pub mod source;
pub mod table;
pub mod team;

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option that makes no sense here.
    #[error("--{option}: found {found}, allowed {allowed}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What was given.
        found: String,
        /// What would do.
        allowed: String,
    },
    /// The engine refuses the tables.
    #[error("the engine refuses these tables: {0}")]
    Build(#[from] marchproxy_engine::BuildError),
    /// No memory for the session table.
    #[error("no memory for the session table: {0}")]
    Memory(#[from] marchproxy_cpu::MemoryError),
    /// The generated rules permit (or deny) too little for the flows asked for.
    #[error("only {found} of {wanted} {what} could be drawn from these rules; try more rules, another seed or profile")]
    Flows {
        /// Which flows.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many were asked for.
        wanted: usize,
    },
    /// A capture that cannot be replayed.
    #[error("capture file {file}: frame {frame}: found {found}, allowed {allowed}")]
    Capture {
        /// Its path.
        file: String,
        /// The frame's number from 1; 0 when it is about the file.
        frame: usize,
        /// What it is.
        found: String,
        /// What would do.
        allowed: String,
    },
    /// Sessions that should exist do not.
    #[error("only {found} of {wanted} sessions could be made; the node dropped: {drops}")]
    Sessions {
        /// How many there are.
        found: usize,
        /// How many were asked for.
        wanted: usize,
        /// By reason.
        drops: String,
    },
    /// A command of the console that can't be.
    #[error("{command}: found {found}, allowed {allowed}")]
    Command {
        /// What was typed.
        command: String,
        /// What is in the way.
        found: String,
        /// What would do.
        allowed: String,
    },
    /// DPDK or a device refuses, in its own words.
    #[error("{0}")]
    Device(String),
    /// Devices that bring nothing.
    #[error("no packet came from {devices} within {seconds} s; is something sending to it?")]
    Silent {
        /// Which.
        devices: String,
        /// How long was waited.
        seconds: f64,
    },
    /// Interrupted before anything was measured.
    #[error("interrupted before anything was measured")]
    Interrupted,
    /// The machine refuses something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// A program that we are compared with does not do what it should.
    #[error("{0}")]
    Peer(String),
    /// Two tables of the same content answer differently.
    #[error("{peer} and our table disagree about {key}: {peer} says {theirs}, ours says {ours}")]
    Differs {
        /// Which.
        peer: &'static str,
        /// What was looked up.
        key: String,
        /// The answers.
        theirs: String,
        /// The answers.
        ours: String,
    },
    /// A mistake in the harness itself.
    #[error("the harness is wrong: {0}")]
    Harness(&'static str),
}
