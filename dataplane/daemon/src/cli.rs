//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::config::{BackendChoice, CoreChoice, HugepageMode, Idle, LogLevel, Overrides};

const EXAMPLE: &str = "\
Example, a lab node without certificates on two veth interfaces (its ports come with the document from control):
  marchproxy-dataplane --node edge-1 --control 127.0.0.1:18000 --insecure --workers 1 --check
  marchproxy-dataplane --node edge-1 --control 127.0.0.1:18000 --insecure --workers 1

Every field of the configuration file is explained in deploy/examples/dataplane.toml.

Exit codes: 0 stopped by SIGTERM or SIGINT, or --check found that the node would start; 1 refused, for the reason in the log; 2 wrong usage; 3 the stop took more \
than 5 s, or was cut short by a second signal.";

/// The MarchProxy data plane: forwards, balances, filters and polices packets by the tables that control pushes.
#[derive(Debug, Parser)]
#[command(name = "marchproxy-dataplane", version, after_help = EXAMPLE, args_override_self = true)]
pub struct Arguments {
    /// Configuration file [default: /etc/marchproxy/dataplane.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check configuration, machine and rights, print what was found, and exit: 0 when the node would start
    #[arg(long)]
    pub check: bool,
    /// Print the dictionary of all metrics as Markdown, and exit
    #[arg(long)]
    pub metrics_dictionary: bool,
    /// This node's name in the document
    #[arg(long)]
    node: Option<String>,
    /// The cluster the node belongs to
    #[arg(long)]
    cluster: Option<String>,
    /// Control's gRPC address
    #[arg(long, value_name = "HOST:PORT")]
    control: Option<String>,
    /// Enrolment file of `marchctl node token`, used when there is no certificate yet
    #[arg(long, value_name = "FILE")]
    enrolment: Option<PathBuf>,
    /// Worker cores: auto, or a list such as 2,4-6
    #[arg(long, value_name = "CORES")]
    workers: Option<CoreChoice>,
    /// Take worker cores on other sockets than the ports' too
    #[arg(long)]
    force_remote_cores: bool,
    /// Sessions the node has room for
    #[arg(long, value_name = "N")]
    sessions: Option<u64>,
    /// What workers do without packets
    #[arg(long)]
    idle: Option<Idle>,
    /// Which backend may drive ports: the one they ask for, DPDK alone, or AF_XDP and af_packet alone
    #[arg(long)]
    backend: Option<BackendChoice>,
    /// Whether packet memory comes from huge pages
    #[arg(long)]
    hugepages: Option<HugepageMode>,
    /// Megabytes for packet buffers
    #[arg(long, value_name = "MB")]
    mem_mb: Option<u64>,
    /// Keeps several DPDK programs on one host apart
    #[arg(long, value_name = "NAME")]
    file_prefix: Option<String>,
    /// One more argument for DPDK's EAL; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    eal_arg: Vec<String>,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<String>,
    /// The local socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Keys, certificates and the last good tables
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How much is logged
    #[arg(long)]
    log: Option<LogLevel>,
    /// No TLS towards control. For labs: everybody on the way reads and changes what this node runs
    #[arg(long)]
    insecure: bool,
}

impl Arguments {
    /// What overrides the file.
    pub fn overrides(&self) -> Overrides {
        Overrides {
            node: self.node.clone(),
            cluster: self.cluster.clone(),
            control: self.control.clone(),
            enrolment: self.enrolment.clone(),
            workers: self.workers.clone(),
            force_remote_cores: self.force_remote_cores,
            sessions: self.sessions,
            idle: self.idle,
            backend: self.backend,
            hugepages: self.hugepages,
            mem_mb: self.mem_mb,
            file_prefix: self.file_prefix.clone(),
            eal_args: self.eal_arg.clone(),
            metrics: self.metrics.clone(),
            socket: self.socket.clone(),
            state_dir: self.state_dir.clone(),
            log: self.log,
            insecure: self.insecure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_manual_is_what_the_command_line_says() {
        Arguments::command().debug_assert();
        let help = Arguments::command().render_long_help().to_string();
        assert!(help.contains("Example") && help.contains("--eal-arg"), "{help}");
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        marchproxy_manual::check(Arguments::command(), &root).unwrap();
    }

    #[test]
    fn flags_arrive() {
        let line =
            "marchproxy-dataplane --node a --workers 1,3-4 --eal-arg --no-pci --eal-arg -v --insecure --idle busy";
        let overrides = Arguments::try_parse_from(line.split(' ')).unwrap().overrides();
        assert_eq!(overrides.workers, Some(CoreChoice::List(vec![1, 3, 4])));
        assert_eq!(overrides.eal_args, ["--no-pci", "-v"]);
        assert_eq!((overrides.idle, overrides.insecure), (Some(Idle::Busy), true));
        let error = Arguments::try_parse_from(["x", "--workers", "all"]).unwrap_err().to_string();
        assert!(error.contains("found \"all\", allowed: auto, or cores and ranges"), "{error}");
    }
}
