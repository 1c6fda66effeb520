//! From what was written to what holds: defaults, the command line, and the bounds of every field.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::{BackendChoice, Config, ConfigError, Control, CoreChoice, File, Memory, Overrides, SocketsConfig};

/// 1 M sessions take about 192 MB; a router for an office and for a rack both live with it.
const DEFAULT_SESSIONS: u64 = 1 << 20;
/// Session indices are 32 bits wide.
const MAX_SESSIONS: u64 = 1 << 31;
/// Two ports' queues at default depth, and bursts in flight.
const DEFAULT_MEM_MB: u64 = 256;
const COMMAND_LINE: &str = "command line";

/// One value with where it came from.
struct Given<T> {
    value: T,
    origin: String,
}

/// Picks command line before file before default, remembering which.
struct Picker<'a> {
    file: &'a str,
}

impl Picker<'_> {
    fn pick<T>(&self, line: Option<T>, file: Option<T>, default: impl FnOnce() -> T) -> Given<T> {
        match (line, file) {
            (Some(value), _) => Given { value, origin: COMMAND_LINE.into() },
            (None, Some(value)) => Given { value, origin: self.file.into() },
            (None, None) => Given { value: default(), origin: self.file.into() },
        }
    }
}

impl<T> Given<T> {
    fn refuse(&self, field: &'static str, found: impl std::fmt::Debug, allowed: impl Into<String>) -> ConfigError {
        ConfigError::Value { origin: self.origin.clone(), field, found: format!("{found:?}"), allowed: allowed.into() }
    }
}

impl Config {
    /// Checks every field; `name` is the file's, for messages.
    pub fn resolve(name: &str, file: File, overrides: &Overrides) -> Result<Self, ConfigError> {
        let from = Picker { file: name };
        let insecure = overrides.insecure || file.insecure.unwrap_or(false);
        let state_dir =
            from.pick(overrides.state_dir.clone(), file.state_dir, || PathBuf::from("/var/lib/marchproxy/dataplane"));
        let state_dir = absolute("state_dir", state_dir)?;
        let socket =
            from.pick(overrides.socket.clone(), file.socket, || PathBuf::from("/run/marchproxy/dataplane.sock"));
        let socket = absolute("socket", socket)?;

        let node = from.pick(overrides.node.clone(), file.node, String::new);
        let cluster = from.pick(overrides.cluster.clone(), file.cluster, || "default".into());
        let address = from.pick(overrides.control.clone(), file.control.address, || "127.0.0.1:18000".into());
        let enrolment = from.pick(overrides.enrolment.clone(), file.control.enrolment, || {
            PathBuf::from("/etc/marchproxy/enrolment.json")
        });
        let (address, host) = control_address(&address)?;
        let in_state = |path: Option<PathBuf>, name: &str| path.unwrap_or_else(|| state_dir.join(name));

        Ok(Self {
            node: checked_name("node", node)?,
            cluster: checked_name("cluster", cluster)?,
            control: Control {
                address,
                server_name: file.control.server_name.unwrap_or(host),
                enrolment: enrolment.value,
                certificate: in_state(file.control.certificate, "node.crt"),
                key: in_state(file.control.key, "node.key"),
                ca: in_state(file.control.ca, "ca.crt"),
            },
            workers: cores(from.pick(overrides.workers.clone(), file.workers, CoreChoice::default))?,
            force_remote_cores: overrides.force_remote_cores || file.force_remote_cores.unwrap_or(false),
            sessions: sessions(&from.pick(overrides.sessions, file.sessions, || DEFAULT_SESSIONS))?,
            idle: overrides.idle.or(file.idle).unwrap_or_default(),
            memory: Memory {
                hugepages: overrides.hugepages.or(file.memory.hugepages).unwrap_or_default(),
                mem_mb: mem_mb(&from.pick(overrides.mem_mb, file.memory.mem_mb, || DEFAULT_MEM_MB))?,
                file_prefix: prefix(
                    from.pick(overrides.file_prefix.clone(), file.memory.file_prefix, || "marchproxy".into()),
                )?,
                eal_args: file
                    .memory
                    .eal_args
                    .unwrap_or_default()
                    .into_iter()
                    .chain(overrides.eal_args.iter().cloned())
                    .collect(),
            },
            backend: backend(&from.pick(overrides.backend, file.backend, BackendChoice::default))?,
            sockets: sockets(&from.pick(None, Some(file.sockets), SocketsConfig::default))?,
            metrics: listen(&from.pick(overrides.metrics.clone(), file.metrics, || "0.0.0.0:8082".into()))?,
            metrics_rules: file.metrics_rules.unwrap_or(false),
            socket,
            state_dir,
            log: overrides.log.or(file.log).unwrap_or_default(),
            insecure,
        })
    }
}

fn checked_name(field: &'static str, given: Given<String>) -> Result<String, ConfigError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=63).contains(&given.value.len()) && given.value.bytes().all(good) {
        return Ok(given.value);
    }
    let allowed = match field {
        "node" => "the node's name in the document: 1 to 63 letters, digits, '-', '_', '.'",
        _ => "1 to 63 letters, digits, '-', '_', '.'",
    };
    Err(given.refuse(field, &given.value, allowed))
}

fn absolute(field: &'static str, given: Given<PathBuf>) -> Result<PathBuf, ConfigError> {
    if given.value.is_absolute() {
        return Ok(given.value);
    }
    Err(given.refuse(field, &given.value, "an absolute path"))
}

/// HOST:PORT and HOST; a scheme in front is understood and dropped: `insecure` alone decides about TLS.
fn control_address(given: &Given<String>) -> Result<(String, String), ConfigError> {
    let refuse = || {
        given.refuse("control.address", &given.value, "HOST:PORT, e.g. control.example:18000 or [2001:db8::1]:18000")
    };
    let text = given.value.as_str();
    let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
    let port: u16 = port.parse().map_err(|_| refuse())?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = match bare {
        Some(bare) => matches!(bare.parse(), Ok(IpAddr::V6(_))),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')),
    };
    if port == 0 || !good {
        return Err(refuse());
    }
    Ok((format!("{host}:{port}"), bare.unwrap_or(host).to_owned()))
}

fn cores(given: Given<CoreChoice>) -> Result<CoreChoice, ConfigError> {
    if given.value == CoreChoice::List(Vec::new()) {
        return Err(given.refuse("workers", "[]", "\"auto\" or at least one core"));
    }
    Ok(given.value)
}

fn sessions(given: &Given<u64>) -> Result<usize, ConfigError> {
    if (1024..=MAX_SESSIONS).contains(&given.value) {
        return Ok(given.value as usize);
    }
    Err(given.refuse("sessions", given.value, format!("1024 to {MAX_SESSIONS}")))
}

fn mem_mb(given: &Given<u64>) -> Result<u64, ConfigError> {
    if (32..=1 << 20).contains(&given.value) {
        return Ok(given.value);
    }
    Err(given.refuse("memory.mem_mb", given.value, "32 to 1048576 megabytes"))
}

fn backend(given: &Given<BackendChoice>) -> Result<BackendChoice, ConfigError> {
    if given.value == BackendChoice::Dpdk && !cfg!(feature = "dpdk") {
        return Err(given.refuse("backend", "dpdk", "auto or sockets: this build has no DPDK"));
    }
    Ok(given.value)
}

/// A second: what the kernel would do for longer is no polling any more.
const MAX_BUSY_POLL_US: u32 = 1_000_000;

fn sockets(given: &Given<SocketsConfig>) -> Result<SocketsConfig, ConfigError> {
    if given.value.busy_poll_us <= MAX_BUSY_POLL_US {
        return Ok(given.value);
    }
    Err(given.refuse("sockets.busy_poll_us", given.value.busy_poll_us, format!("0 to {MAX_BUSY_POLL_US}")))
}

fn prefix(given: Given<String>) -> Result<String, ConfigError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if (1..=32).contains(&given.value.len()) && given.value.bytes().all(good) {
        return Ok(given.value);
    }
    Err(given.refuse("memory.file_prefix", &given.value, "1 to 32 letters, digits, '-', '_'"))
}

fn listen(given: &Given<String>) -> Result<SocketAddr, ConfigError> {
    given
        .value
        .parse()
        .map_err(|_| given.refuse("metrics", &given.value, "ADDRESS:PORT, e.g. 127.0.0.1:8082 or [::]:8082"))
}

#[cfg(test)]
mod tests {
    use super::super::{HugepageMode, Idle};
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        Config::resolve("t.toml", File::parse("t.toml", text)?, &Overrides::default())
    }

    #[test]
    fn a_node_name_is_all_it_takes() {
        let config = load("node = \"edge-1\"").unwrap();
        assert_eq!(config.cluster, "default");
        assert_eq!(config.control.address, "127.0.0.1:18000");
        assert_eq!(config.control.key, PathBuf::from("/var/lib/marchproxy/dataplane/node.key"));
        assert_eq!(config.workers, CoreChoice::Auto);
        assert_eq!(config.sessions, 1 << 20);
        assert_eq!(config.idle, Idle::Sleep);
        assert_eq!(config.memory.hugepages, HugepageMode::Auto);
        assert_eq!(config.metrics.port(), 8082);
    }

    #[test]
    fn the_documented_example_is_every_default() {
        let text = include_str!("../../../../deploy/examples/dataplane.toml");
        assert_eq!(load(text).unwrap(), load("node = \"edge-1\"").unwrap());
        let fields = "node cluster workers force_remote_cores sessions idle metrics socket state_dir log insecure address \
                      server_name enrolment certificate key ca hugepages mem_mb file_prefix eal_args";
        for field in fields.split_whitespace() {
            assert!(text.lines().any(|line| line.starts_with(&format!("{field} = "))), "{field} is not documented");
        }
    }

    #[test]
    fn errors_name_file_field_found_and_allowed() {
        let table: &[(&str, &str, &[&str])] = &[
            ("no node", "", &["t.toml: node: found \"\"", "the node's name in the document"]),
            ("unknown field", "node = \"a\"\nworker = 1", &["t.toml:2", "unknown field `worker`", "`workers`"]),
            (
                "unknown nested field",
                "node = \"a\"\n[memory]\nmb = 1",
                &["t.toml:3", "memory", "unknown field `mb`", "`mem_mb`"],
            ),
            ("wrong type", "node = \"a\"\nsessions = \"many\"", &["t.toml:2", "sessions: ", "string \"many\"", "u64"]),
            ("negative", "node = \"a\"\nsessions = -1", &["t.toml:2", "sessions", "-1"]),
            ("too few sessions", "node = \"a\"\nsessions = 10", &["t.toml: sessions: found 10", "1024 to"]),
            ("idle", "node = \"a\"\nidle = \"nap\"", &["t.toml:2", "idle", "`nap`", "`busy`", "`sleep`"]),
            (
                "hugepages",
                "node = \"a\"\n[memory]\nhugepages = \"maybe\"",
                &["memory.hugepages", "`maybe`", "`required`"],
            ),
            (
                "workers word",
                "node = \"a\"\nworkers = \"all\"",
                &["t.toml:2", "workers", "\"all\"", "\"auto\" or a list"],
            ),
            ("workers number", "node = \"a\"\nworkers = 3", &["workers", "integer `3`", "\"auto\" or a list"]),
            ("workers negative", "node = \"a\"\nworkers = [-3]", &["workers[0]", "-3"]),
            ("workers empty", "node = \"a\"\nworkers = []", &["workers", "at least one core"]),
            ("node name", "node = \"a b\"", &["node: found \"a b\"", "letters"]),
            ("cluster name", "node = \"a\"\ncluster = \"\"", &["cluster: found \"\"", "letters"]),
            (
                "control address",
                "node = \"a\"\n[control]\naddress = \"here\"",
                &["control.address: found \"here\"", "HOST:PORT"],
            ),
            ("control port", "node = \"a\"\n[control]\naddress = \"h:99999\"", &["control.address", "HOST:PORT"]),
            (
                "bare v6",
                "node = \"a\"\n[control]\naddress = \"2001:db8::1:18000\"",
                &["control.address", "[2001:db8::1]:18000"],
            ),
            ("metrics", "node = \"a\"\nmetrics = \"8082\"", &["metrics: found \"8082\"", "ADDRESS:PORT"]),
            ("relative state", "node = \"a\"\nstate_dir = \"state\"", &["state_dir: found \"state\"", "absolute path"]),
            ("relative socket", "node = \"a\"\nsocket = \"x.sock\"", &["socket: found \"x.sock\"", "absolute path"]),
            ("little memory", "node = \"a\"\n[memory]\nmem_mb = 1", &["memory.mem_mb: found 1", "32 to"]),
            (
                "prefix",
                "node = \"a\"\n[memory]\nfile_prefix = \"a/b\"",
                &["memory.file_prefix: found \"a/b\"", "letters"],
            ),
            ("log", "node = \"a\"\nlog = \"loud\"", &["log", "`loud`", "`info`"]),
            ("not toml", "node = ", &["t.toml:1"]),
            ("twice", "node = \"a\"\nnode = \"b\"", &["t.toml:2", "duplicate key"]),
        ];
        for (name, text, wanted) in table {
            let error = load(text).expect_err(name).to_string();
            for part in *wanted {
                assert!(error.contains(part), "{name}: {error:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn the_command_line_wins_and_is_named_in_errors() {
        let file = || File::parse("t.toml", "node = \"a\"\nsessions = 4096\n[memory]\neal_args = [\"--x\"]").unwrap();
        let overrides = Overrides {
            node: Some("b".into()),
            workers: Some("0,2-3".parse().unwrap()),
            eal_args: vec!["--y".into()],
            insecure: true,
            ..Overrides::default()
        };
        let config = Config::resolve("t.toml", file(), &overrides).unwrap();
        assert_eq!((config.node.as_str(), config.sessions, config.insecure), ("b", 4096, true));
        assert_eq!(config.workers, CoreChoice::List(vec![0, 2, 3]));
        assert_eq!(config.memory.eal_args, ["--x", "--y"]);
        let overrides = Overrides { sessions: Some(3), ..Overrides::default() };
        let error = Config::resolve("t.toml", file(), &overrides).unwrap_err().to_string();
        assert!(error.starts_with("command line: sessions: found 3"), "{error}");
    }

    #[test]
    fn a_missing_default_file_is_fine_and_a_missing_named_one_is_not() {
        let error = File::read(Some("/nowhere/x.toml".as_ref())).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/x.toml: "), "{error}");
    }

    #[test]
    fn control_addresses_with_and_without_scheme() {
        for (text, address, name) in [
            ("control:18000", "control:18000", "control"),
            ("https://10.0.0.1:18000", "10.0.0.1:18000", "10.0.0.1"),
            ("[2001:db8::1]:18000", "[2001:db8::1]:18000", "2001:db8::1"),
        ] {
            let config = load(&format!("node = \"a\"\n[control]\naddress = \"{text}\"")).unwrap();
            assert_eq!((config.control.address.as_str(), config.control.server_name.as_str()), (address, name));
        }
    }

    #[test]
    fn core_lists_on_the_command_line() {
        for bad in ["", "x", "3-1", "1,,2", "-1", "0-99999"] {
            assert!(bad.parse::<CoreChoice>().is_err(), "{bad:?}");
        }
        assert_eq!("auto".parse::<CoreChoice>(), Ok(CoreChoice::Auto));
    }
}
