//! What is local to this host: `/etc/marchproxy/dataplane.toml`, overridden by the command line. Everything else is the document.
//!
//! Three types, parsed once: [`file::File`] is what was written, [`Overrides`] what the command line adds, [`Config`] what holds.

mod file;
mod resolve;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use file::{BackendChoice, CoreChoice, File, HugepageMode, Idle, LogLevel, OnDaemonLoss, SocketsConfig};

/// Where the configuration lies unless `--config` names another file.
pub const DEFAULT_FILE: &str = "/etc/marchproxy/dataplane.toml";

/// What the command line says; every field overrides the file's.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Node name.
    pub node: Option<String>,
    /// Cluster.
    pub cluster: Option<String>,
    /// Control's address.
    pub control: Option<String>,
    /// Enrolment file.
    pub enrolment: Option<PathBuf>,
    /// Worker cores.
    pub workers: Option<CoreChoice>,
    /// Allow worker cores on other sockets than the ports'.
    pub force_remote_cores: bool,
    /// Sessions per node.
    pub sessions: Option<u64>,
    /// Idle behaviour.
    pub idle: Option<Idle>,
    /// Which backend may drive ports.
    pub backend: Option<BackendChoice>,
    /// Hugepage mode.
    pub hugepages: Option<HugepageMode>,
    /// Memory for packet buffers.
    pub mem_mb: Option<u64>,
    /// EAL file prefix.
    pub file_prefix: Option<String>,
    /// More EAL arguments, behind the file's.
    pub eal_args: Vec<String>,
    /// Metrics and health.
    pub metrics: Option<String>,
    /// Local socket.
    pub socket: Option<PathBuf>,
    /// State directory.
    pub state_dir: Option<PathBuf>,
    /// Log level.
    pub log: Option<LogLevel>,
    /// No TLS towards control.
    pub insecure: bool,
}

/// The configuration that holds, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's name in the document.
    pub node: String,
    /// The cluster the node belongs to.
    pub cluster: String,
    /// How to reach control.
    pub control: Control,
    /// Worker cores.
    pub workers: CoreChoice,
    /// Allow worker cores on other sockets than the ports'.
    pub force_remote_cores: bool,
    /// Sessions of the whole node, divided among the workers.
    pub sessions: usize,
    /// What workers do without packets.
    pub idle: Idle,
    /// Packet memory.
    pub memory: Memory,
    /// Which backend may drive ports.
    pub backend: BackendChoice,
    /// AF_XDP and af_packet.
    pub sockets: SocketsConfig,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub metrics: SocketAddr,
    /// Rules have series of their own.
    pub metrics_rules: bool,
    /// The local socket of OperateService.
    pub socket: PathBuf,
    /// Keys, certificates and the last good tables.
    pub state_dir: PathBuf,
    /// Log level.
    pub log: LogLevel,
    /// No TLS towards control.
    pub insecure: bool,
}

/// How to reach control, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// HOST:PORT.
    pub address: String,
    /// The name control's certificate must carry.
    pub server_name: String,
    /// Token and CA, written by `marchctl`; read once, when there is no certificate yet.
    pub enrolment: PathBuf,
    /// The node's certificate (PEM).
    pub certificate: PathBuf,
    /// The node's private key (PEM, 0600).
    pub key: PathBuf,
    /// The cluster's CA (PEM).
    pub ca: PathBuf,
}

/// Packet memory and the arguments for DPDK's EAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Whether huge pages are taken.
    pub hugepages: HugepageMode,
    /// Megabytes for packet buffers.
    pub mem_mb: u64,
    /// Keeps several DPDK programs on one host apart.
    pub file_prefix: String,
    /// Handed to EAL behind ours.
    pub eal_args: Vec<String>,
}

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a field that is unknown or of the wrong type.
    #[error("{file}{place}: {field}{message}")]
    Parse {
        /// The file.
        file: String,
        /// `:LINE`, where known.
        place: String,
        /// `FIELD: `, where known.
        field: String,
        /// What was found and what is allowed.
        message: String,
    },
    /// A field's value is not allowed.
    #[error("{origin}: {field}: found {found}, allowed: {allowed}")]
    Value {
        /// The file, or the command line.
        origin: String,
        /// The field.
        field: &'static str,
        /// The value.
        found: String,
        /// What is allowed.
        allowed: String,
    },
}

impl Config {
    /// Reads `path` (the default file may be absent) and applies the command line.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let (name, file) = File::read(path)?;
        Self::resolve(&name, file, overrides)
    }
}
