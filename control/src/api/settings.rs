//! `/etc/marchproxy/control.toml`: what is local to the host control runs on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// Where the settings are looked for unless said otherwise.
pub const DEFAULT_FILE: &str = "/etc/marchproxy/control.toml";

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {path}: {why}; give the right path with --config, or none to use the defaults")]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        why: std::io::Error,
    },
    /// The file says something that is not understood; the cause names line, field and what is allowed.
    #[error("{path}: {why}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What the parser found.
        why: toml::de::Error,
    },
    /// A value out of bounds.
    #[error("{field}: found {found}; allowed: {allowed}")]
    Value {
        /// Which field.
        field: &'static str,
        /// What was found.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// All settings; every field has a default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub http: SocketAddr,
    /// Keys, certificates, and the SQLite database.
    pub state_dir: PathBuf,
    /// `sqlite:///PATH`; unset: `control.db` in the state directory.
    pub database: Option<String>,
    /// Names and addresses under which nodes and operators reach control, for its certificate. `localhost`, the loopback
    /// addresses, the host's name and the address listened on are always in it.
    pub server_names: Vec<String>,
    /// Log filter: `error`, `warn`, `info`, `debug`, `trace`, or per module as in `RUST_LOG`.
    pub log: String,
    /// Plaintext, no certificates, everybody may do everything. For labs.
    pub insecure: bool,
    /// How long certificates of nodes and operators live, in days.
    pub certificate_days: u32,
    /// How long an Apply waits for the nodes, in seconds.
    pub settle_timeout_s: u32,
    /// How long a node may take from an offer to its answer, in seconds.
    pub push_timeout_s: u32,
    /// After how many seconds without a word a node's stream is given up.
    pub heartbeat_timeout_s: u32,
    /// How long a node may take to answer a relayed question, in seconds.
    pub ask_timeout_s: u32,
    /// How often the database is looked at for versions stored by another control, and certificates of live streams for
    /// revocation, in seconds.
    pub poll_s: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            listen: SocketAddr::from(([0, 0, 0, 0], 18000)),
            http: SocketAddr::from(([0, 0, 0, 0], 8000)),
            state_dir: PathBuf::from("/var/lib/marchproxy/control"),
            database: None,
            server_names: Vec::new(),
            log: "info".to_owned(),
            insecure: false,
            certificate_days: 825,
            settle_timeout_s: 10,
            push_timeout_s: 60,
            heartbeat_timeout_s: 15,
            ask_timeout_s: 5,
            poll_s: 1,
        }
    }
}

impl Settings {
    /// Reads a file. Without a path: the default file where it exists, the defaults where not.
    pub fn read(path: Option<&Path>) -> Result<Settings, SettingsError> {
        let file = match path {
            Some(path) => path,
            None if Path::new(DEFAULT_FILE).exists() => Path::new(DEFAULT_FILE),
            None => return Ok(Settings::default()),
        };
        let text = std::fs::read_to_string(file).map_err(|why| SettingsError::Read { path: file.to_owned(), why })?;
        let settings: Settings =
            toml::from_str(&text).map_err(|why| SettingsError::Parse { path: file.to_owned(), why })?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let positive = [
            ("certificate_days", self.certificate_days, 36_500, "1 to 36500 days"),
            ("settle_timeout_s", self.settle_timeout_s, 3_600, "1 to 3600 seconds"),
            ("push_timeout_s", self.push_timeout_s, 3_600, "1 to 3600 seconds"),
            ("heartbeat_timeout_s", self.heartbeat_timeout_s, 3_600, "1 to 3600 seconds"),
            ("ask_timeout_s", self.ask_timeout_s, 3_600, "1 to 3600 seconds"),
            ("poll_s", self.poll_s, 3_600, "1 to 3600 seconds"),
        ];
        for (field, found, most, allowed) in positive {
            if found == 0 || found > most {
                return Err(SettingsError::Value { field, found: found.to_string(), allowed });
            }
        }
        Ok(())
    }

    /// The database's URL.
    pub fn database_url(&self) -> String {
        self.database.clone().unwrap_or_else(|| format!("sqlite://{}", self.state_dir.join("control.db").display()))
    }

    /// All names of the server's certificate.
    pub fn all_server_names(&self) -> Vec<String> {
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        if let Ok(host) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
            names.push(host.trim().to_owned());
        }
        if !self.listen.ip().is_unspecified() {
            names.push(self.listen.ip().to_string());
        }
        names.extend(self.server_names.iter().cloned());
        names.retain(|name| !name.is_empty());
        names.sort();
        names.dedup();
        names
    }

    /// What the hub needs of them.
    pub fn timings(&self) -> Timings {
        let seconds = |s: u32| Duration::from_secs(u64::from(s));
        Timings {
            settle: seconds(self.settle_timeout_s),
            push: seconds(self.push_timeout_s),
            heartbeat: seconds(self.heartbeat_timeout_s),
            ask: seconds(self.ask_timeout_s),
            poll: seconds(self.poll_s),
        }
    }
}

/// How long control waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Apply, for all nodes to answer.
    pub settle: Duration,
    /// One node, from offer to ack or nack.
    pub push: Duration,
    /// One node, any message.
    pub heartbeat: Duration,
    /// One node, answer to a relayed question.
    pub ask: Duration,
    /// Between two looks at the database.
    pub poll: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_documents_every_field_and_says_the_defaults() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/control.toml");
        let text = std::fs::read_to_string(example).unwrap();
        let said: Settings = toml::from_str(&text).unwrap();
        // The one field without a default that could be written down.
        assert!(text.contains("# database = "), "database is documented");
        assert_eq!(said, Settings::default());
        for field in [
            "listen",
            "http",
            "state_dir",
            "server_names",
            "log",
            "insecure",
            "certificate_days",
            "settle_timeout_s",
            "push_timeout_s",
            "heartbeat_timeout_s",
            "ask_timeout_s",
            "poll_s",
        ] {
            assert!(text.lines().any(|line| line.starts_with(&format!("{field} = "))), "{field} is documented");
        }
    }

    #[test]
    fn unknown_fields_and_absurd_values_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.toml");
        for (text, named) in [
            ("lisen = \"127.0.0.1:1\"", "lisen"),
            ("listen = \"here\"", "listen"),
            ("poll_s = 0", "poll_s"),
            ("certificate_days = 99999", "certificate_days"),
        ] {
            std::fs::write(&path, text).unwrap();
            let why = Settings::read(Some(&path)).unwrap_err().to_string();
            assert!(why.contains(named), "{text}: {why}");
        }
        let why = Settings::read(Some(&dir.path().join("none.toml"))).unwrap_err().to_string();
        assert!(why.contains("--config"), "{why}");
    }
}
