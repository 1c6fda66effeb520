//! The file as it is written. Unknown fields are refused, so that a typing error never silently means a default.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use super::{ConfigError, DEFAULT_FILE};

/// `/etc/marchproxy/dataplane.toml`; `deploy/examples/dataplane.toml` documents every field.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// This node's name in the document.
    pub node: Option<String>,
    /// Cluster; `default` unless said.
    pub cluster: Option<String>,
    /// Worker cores.
    pub workers: Option<CoreChoice>,
    /// Allow worker cores on other sockets than the ports'.
    pub force_remote_cores: Option<bool>,
    /// Sessions per node.
    pub sessions: Option<u64>,
    /// `busy` or `sleep`.
    pub idle: Option<Idle>,
    /// ADDRESS:PORT of metrics and health.
    pub metrics: Option<String>,
    /// Rules have series of their own.
    pub metrics_rules: Option<bool>,
    /// Local socket.
    pub socket: Option<PathBuf>,
    /// State directory.
    pub state_dir: Option<PathBuf>,
    /// Log level.
    pub log: Option<LogLevel>,
    /// No TLS towards control.
    pub insecure: Option<bool>,
    /// Control.
    #[serde(default)]
    pub control: ControlSection,
    /// Memory and EAL.
    #[serde(default)]
    pub memory: MemorySection,
    /// Which backend may drive ports.
    pub backend: Option<BackendChoice>,
    /// AF_XDP and af_packet.
    #[serde(default)]
    pub sockets: SocketsConfig,
}

/// Which backend may drive the ports of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// The one that the ports of the document ask for.
    #[default]
    Auto,
    /// DPDK alone.
    Dpdk,
    /// AF_XDP and af_packet alone: DPDK is never started.
    Sockets,
}

/// `[sockets]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SocketsConfig {
    /// Microseconds for which AF_XDP's driver may be polled instead of waiting for interrupts; 0: not at all.
    pub busy_poll_us: u32,
    /// What becomes of packets for the engine when this process dies without having stopped (AF_XDP).
    pub on_daemon_loss: OnDaemonLoss,
    /// Take interfaces with a default route or somebody logged in.
    pub force_management: bool,
    /// Rules may be decided in the XDP program of AF_XDP ports.
    pub xdp: bool,
}

impl Default for SocketsConfig {
    fn default() -> Self {
        Self { busy_poll_us: 0, on_daemon_loss: OnDaemonLoss::Pass, force_management: false, xdp: true }
    }
}

/// What becomes of packets for the engine when there is no engine any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDaemonLoss {
    /// They go to the kernel, as if there had never been one.
    #[default]
    Pass,
    /// They end until the daemon is back.
    Drop,
}

/// `[control]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlSection {
    /// HOST:PORT.
    pub address: Option<String>,
    /// Name in control's certificate.
    pub server_name: Option<String>,
    /// Enrolment file.
    pub enrolment: Option<PathBuf>,
    /// Certificate.
    pub certificate: Option<PathBuf>,
    /// Key.
    pub key: Option<PathBuf>,
    /// CA.
    pub ca: Option<PathBuf>,
}

/// `[memory]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemorySection {
    /// Hugepage mode.
    pub hugepages: Option<HugepageMode>,
    /// Megabytes for packet buffers.
    pub mem_mb: Option<u64>,
    /// EAL file prefix.
    pub file_prefix: Option<String>,
    /// More EAL arguments.
    pub eal_args: Option<Vec<String>>,
}

/// What a worker does while there are no packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Polls without pause: lowest latency, one core at 100 % per worker.
    Busy,
    /// Spins a little, then sleeps up to 100 us between polls.
    #[default]
    Sleep,
}

/// Whether packet memory comes from huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum HugepageMode {
    /// Huge pages when enough are free, else normal ones with a warning.
    #[default]
    Auto,
    /// Huge pages or no start.
    Required,
    /// Normal pages.
    Off,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what is not as it should be.
    Warn,
    /// And what happened.
    #[default]
    Info,
    /// And why.
    Debug,
    /// And everything else.
    Trace,
}

/// Worker cores: chosen here, or named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CoreChoice {
    /// All cores but one on the ports' socket.
    #[default]
    Auto,
    /// Exactly these.
    List(Vec<usize>),
}

const CORES_ALLOWED: &str = "\"auto\" or a list of core numbers such as [2, 3]";

impl<'de> Deserialize<'de> for CoreChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Choice;
        impl<'de> Visitor<'de> for Choice {
            type Value = CoreChoice;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(CORES_ALLOWED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<CoreChoice, E> {
                if text == "auto" {
                    Ok(CoreChoice::Auto)
                } else {
                    Err(E::custom(format!("found {text:?}, allowed: {CORES_ALLOWED}")))
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<CoreChoice, A::Error> {
                let mut cores = Vec::new();
                while let Some(core) = seq.next_element()? {
                    cores.push(core);
                }
                Ok(CoreChoice::List(cores))
            }
        }
        deserializer.deserialize_any(Choice)
    }
}

impl std::str::FromStr for CoreChoice {
    type Err = String;

    /// `auto`, or cores and ranges: `2,4-6`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let refuse = || format!("found {text:?}, allowed: auto, or cores and ranges such as 2,4-6");
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) =
                (first.parse().map_err(|_| refuse())?, last.parse().map_err(|_| refuse())?);
            if first > last || last > 4095 {
                return Err(refuse());
            }
            cores.extend(first..=last);
        }
        Ok(Self::List(cores))
    }
}

impl File {
    /// The file's name and content. Without `path` the default file is read, if it is there.
    pub fn read(path: Option<&Path>) -> Result<(String, Self), ConfigError> {
        let name = path.unwrap_or(Path::new(DEFAULT_FILE)).display().to_string();
        match std::fs::read_to_string(&name) {
            Ok(text) => Self::parse(&name, &text).map(|file| (name, file)),
            Err(source) if path.is_none() && source.kind() == std::io::ErrorKind::NotFound => {
                Ok((format!("{name} (absent)"), Self::default()))
            }
            Err(source) => Err(ConfigError::Read { file: name, source }),
        }
    }

    /// Parses the text of the file called `name`.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        let refuse = |error: &toml::de::Error, field: String| ConfigError::Parse {
            file: name.to_owned(),
            place: error.span().map_or_else(String::new, |span| {
                let line = 1 + text.get(..span.start).unwrap_or(text).matches('\n').count();
                format!(":{line}")
            }),
            field,
            message: error.message().trim().replace('\n', "; "),
        };
        let document = toml::Deserializer::parse(text).map_err(|error| refuse(&error, String::new()))?;
        serde_path_to_error::deserialize(document).map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." { String::new() } else { format!("{path}: ") };
            refuse(error.inner(), field)
        })
    }
}
