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
pub mod gate;
pub mod generate;
pub mod html;
pub mod latency;
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
pub mod reconf;
pub mod report;
pub mod rfc2544;
pub mod rig;
pub mod scale;
pub mod scenario;
pub mod seeded;
pub mod source;
pub mod table;
pub mod team;
pub mod warm;

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
    /// Tester and device need a core each.
    #[error(
        "tester and device under test need two cores, allowed here: {allowed:?}; on one core the tester would stop the device while it \
         sends. Allow another (taskset, cpuset), or use `run`, which needs one"
    )]
    OneCore {
        /// The cores there are.
        allowed: Vec<usize>,
    },
    /// Packets that nobody can account for.
    #[error(
        "{packets} packets are lost without a reason (negative: invented): counters of tester and device do not add up"
    )]
    Residue {
        /// How many.
        packets: i64,
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
    /// Callgrind did not count.
    #[error("callgrind did not count scenario {scenario}: {why}")]
    Callgrind {
        /// Which scenario.
        scenario: &'static str,
        /// What is known.
        why: String,
    },
    /// Control's store or dry run refuses what the harness pushes.
    #[error("control refuses: {0}")]
    Control(String),
    /// A mistake in the harness itself.
    #[error("the harness is wrong: {0}")]
    Harness(&'static str),
}
