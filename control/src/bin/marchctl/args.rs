//! The grammar of the command line. Every command's help ends with an example; a test walks the tree and looks.

mod nouns;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub use nouns::*;

/// Help with the filters' grammar at its end.
macro_rules! with_filters {
    ($help:literal) => {
        concat!(
            $help,
            "\n\nFilters: conditions side by side, or joined by `and`; `or` between alternatives (binds weaker, no brackets); `not` before a condition.\n  \
             src, dst, host ADDRESS[/LENGTH]   source, destination, one of them\n  \
             sport, dport, port N[-M]          TCP and UDP ports\n  \
             tcp, udp, icmp, icmp6             or proto NUMBER\n  \
             ip, ip6, arp                      what the frame carries\n  \
             vlan N                            its tag, 0 for none\n  \
             in NAME, out NAME                 port or interface it comes, or leaves, by\n  \
             fate NAME                         sent, dropped, punted (to the slow path), handed_off (to another worker)\n  \
             reason NAME                       of a drop or punt, as `stats` names it: rule_deny, no_route, ...\n\
             KEY=VALUE is the same as KEY VALUE. Addresses, ports and tags are those a packet came with, whatever the point; of packets that the node made \
             itself, those they leave with."
        )
    };
}

/// Configure and ask MarchProxy.
#[derive(Debug, Parser)]
#[command(
    name = "marchctl",
    version,
    after_help = "Examples:\n  marchctl apply -f edge.yaml -m \"open port 8080\"\n  marchctl stats --watch 2\n  \
                  marchctl why --src 198.51.100.7 --dst 203.0.113.10 --protocol tcp --dport 80\n\n\
                  Exit codes: 0 done, 1 refused, 2 not reachable, 3 partly (a node refused or timed out).\n\
                  Settings: flags, then MARCHCTL_* variables, then ~/.config/marchproxy/marchctl.toml (or the file in \
                  MARCHCTL_CONFIG) with the fields control, ca, cert, key, cluster, socket."
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// Where control listens [default: https://127.0.0.1:18000]; http:// for a control with --insecure
    #[arg(long, global = true, value_name = "URL", env = "MARCHCTL_CONTROL", help_heading = "Connection")]
    pub control: Option<String>,
    /// The authority's certificate [default: /etc/marchproxy/ca.pem]
    #[arg(long, global = true, value_name = "FILE", env = "MARCHCTL_CA", help_heading = "Connection")]
    pub ca: Option<PathBuf>,
    /// Your certificate [default: /etc/marchproxy/operator.pem]
    #[arg(long, global = true, value_name = "FILE", env = "MARCHCTL_CERT", help_heading = "Connection")]
    pub cert: Option<PathBuf>,
    /// Your key [default: /etc/marchproxy/operator.key]
    #[arg(long, global = true, value_name = "FILE", env = "MARCHCTL_KEY", help_heading = "Connection")]
    pub key: Option<PathBuf>,
    /// Cluster [default: the one of your certificate]
    #[arg(long, global = true, value_name = "NAME", env = "MARCHCTL_CLUSTER", help_heading = "Connection")]
    pub cluster: Option<String>,
    /// Ask the node's local socket instead of control (stats, why, trace, capture, session, neighbour); without it, /run/marchproxy/dataplane.sock
    /// is asked when control cannot be reached
    #[arg(long, global = true, value_name = "PATH", env = "MARCHCTL_SOCKET", help_heading = "Connection")]
    pub socket: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Store a document as the new version and bring it to every node
    #[command(after_help = "Examples:\n  marchctl apply -f edge.yaml -m \"open port 8080\" --expect-version 12\n  \
                            marchctl apply -f edge.yaml --confirm-within 5m   # then: marchctl confirm\n  \
                            marchctl apply -f edge.yaml --together --nodes edge-1,edge-2\n  \
                            generate | marchctl apply -f -")]
    Apply(Apply),
    /// Check a document as apply would, without storing it
    #[command(
        after_help = "Examples:\n  marchctl validate -f edge.yaml\n  marchctl validate -f edge.yaml --local   # without control"
    )]
    Validate(Validate),
    /// Show what a document or version would change
    #[command(after_help = "Examples:\n  marchctl diff -f edge.yaml\n  marchctl diff --from 11 --to 12\n  \
                            marchctl diff -f edge.yaml --live 10s --node edge-1\n\n\
                            --live: nodes build the document's tables beside those that run, look at the first 256 packets of every tenth of a second on each worker, and \
                            judge each flow by both. Flows that would end, begin, or get another backend, mark, policer or way are counted, with the rules that decide. \
                            Nothing is stored or run.")]
    Diff(Diff),
    /// Print the stored document
    #[command(after_help = "Example:\n  marchctl get --version 11 -o json")]
    Get(Get),
    /// List versions, newest first
    #[command(after_help = "Example:\n  marchctl history --limit 20")]
    History(History),
    /// Store an older version's content as the new version and bring it to every node
    #[command(after_help = "Example:\n  marchctl rollback 11 -m \"12 broke the web service\"")]
    Rollback(Rollback),
    /// Keep a version that was applied with --confirm-within
    #[command(after_help = "Examples:\n  marchctl confirm\n  marchctl confirm 13\n\n\
                            Without it, control stores the content of the version before as a new version of the author `system` when the time is over, and every \
                            node returns to its former tables by its own clock, also without control. Other changes are refused meanwhile; `rollback` ends the wait at once.")]
    Confirm(Confirm),
    /// Follow versions as they are stored
    #[command(after_help = "Examples:\n  marchctl watch\n  marchctl watch --resume default/12")]
    Watch(Watch),
    /// Run a described packet through a node's live tables and say what decides its fate
    #[command(
        after_help = "Examples:\n  marchctl why --src 198.51.100.7 --dst 203.0.113.10 --protocol tcp --dport 80 --in wan0\n  \
                      marchctl why --src 198.51.100.7 --sport 4242 --dst 203.0.113.10 --dport 80 --protocol tcp --in wan0\n\n\
                      With both ports the tuple may have a live session: then its age, state and generation are shown, the rule, service, backend, policer and mark \
                      it was given, and, where a push came since its last packet, what its next packet will be given."
    )]
    Why(Why),
    /// Follow live packets through a node's stages and say what each of them decided
    #[command(after_help = with_filters!(
        "Examples:\n  marchctl trace --match \"dst 203.0.113.10 tcp dport 80\" --count 3\n  \
         marchctl trace --match \"fate dropped and not reason rule_deny\" --timeout 60 --node edge-1\n  \
         marchctl trace --match \"in wan0 icmp or in wan0 icmp6\" --json\n\n\
         One trace or capture runs on a node at a time. Packets of a burst share their time, and show their session as the burst left it. \
         Exit code 3: some were missed."
    ))]
    Trace(Trace),
    /// Copy live packets into a pcapng file, with what became of each as its comment
    #[command(after_help = with_filters!(
        "Examples:\n  marchctl capture --at rx --match \"host 198.51.100.7\" -w client.pcapng\n  \
         marchctl capture --at drop --count 100 -w drops.pcapng\n  \
         marchctl capture --at tx --match \"out lan\" -w - | tcpdump -nr -\n\n\
         Points: rx as received; post-nat rewritten by a service, about to leave or to wait for the next hop's MAC address; tx about to leave, ARP, ND \
         and ICMP of the node itself included; drop as it was when it was dropped, by a worker or the slow path. \
         One trace or capture runs on a node at a time. Exit code 3: some were missed."
    ))]
    Capture(Capture),
    /// Is the node healthy, how fast is it, what does it drop and why
    #[command(after_help = "Examples:\n  marchctl stats\n  marchctl stats --node edge-1 --watch 2")]
    Stats(Stats),
    /// The same for all nodes, live on a terminal: health, ports, services, backends, drops, stages, workers
    #[command(
        after_help = "Examples:\n  marchctl top\n  marchctl top --node edge-1 --node edge-2 --view drops\n  marchctl top --once --json\n\n\
                            Keys: 1-8 or Tab switch views, s and r sort, n the next node, p pause, ? all keys, q quit. Where standard output is no terminal, \
                            or TERM is dumb, frames are printed one after the other. A node that does not answer keeps its last figures, marked as stale."
    )]
    Top(Top),
    /// Nodes: what runs where, enrolment
    #[command(after_help = "Example:\n  marchctl node list")]
    Node {
        /// What of them.
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Operators: enrolment, certificates
    #[command(after_help = "Example:\n  marchctl operator token alice --out alice.json")]
    Operator {
        /// What of them.
        #[command(subcommand)]
        command: OperatorCommand,
    },
    /// Trade an operator's enrolment file for a certificate, kept where marchctl finds it
    #[command(after_help = "Example:\n  marchctl enrol alice.json")]
    Enrol(Enrol),
    /// Interfaces of the stored document
    #[command(after_help = "Example:\n  marchctl interface list")]
    Interface {
        /// What of them.
        #[command(subcommand)]
        command: ObjectCommand,
    },
    /// Routes of the stored document
    #[command(after_help = "Example:\n  marchctl route show 0.0.0.0/0")]
    Route {
        /// What of them.
        #[command(subcommand)]
        command: ObjectCommand,
    },
    /// Rules of the stored document, in the order they are looked at
    #[command(after_help = "Example:\n  marchctl rule list")]
    Rule {
        /// What of them.
        #[command(subcommand)]
        command: ObjectCommand,
    },
    /// Services of the stored document
    #[command(after_help = "Example:\n  marchctl service show web")]
    Service {
        /// What of them.
        #[command(subcommand)]
        command: ObjectCommand,
    },
    /// Policers of the stored document, and the colours of a node's packets
    #[command(after_help = "Example:\n  marchctl policer list")]
    Policer {
        /// What of them.
        #[command(subcommand)]
        command: PolicerCommand,
    },
    /// Maps of DSCP codepoints of the stored document
    #[command(after_help = "Example:\n  marchctl dscp-map list")]
    DscpMap {
        /// What of them.
        #[command(subcommand)]
        command: ObjectCommand,
    },
    /// QoS of the stored document, and the queues of a node's shaped ports
    #[command(after_help = "Example:\n  marchctl qos list")]
    Qos {
        /// What of them.
        #[command(subcommand)]
        command: QosCommand,
    },
    /// Live sessions of a node
    #[command(after_help = "Example:\n  marchctl session list --service web")]
    Session {
        /// What of them.
        #[command(subcommand)]
        command: SessionCommand,
    },
    /// Backends of a node's services, and what their health checks say
    #[command(after_help = "Example:\n  marchctl backend list --service web")]
    Backend {
        /// What of them.
        #[command(subcommand)]
        command: BackendCommand,
    },
    /// How packets come to the engine of a node, port by port
    #[command(after_help = "Example:\n  marchctl tier show wan")]
    Tier {
        /// What of them.
        #[command(subcommand)]
        command: TierCommand,
    },
    /// Neighbours (ARP, ND) of a node
    #[command(after_help = "Example:\n  marchctl neighbour list --node edge-1")]
    Neighbour {
        /// What of them.
        #[command(subcommand)]
        command: NeighbourCommand,
    },
    /// Print a shell's completion script
    #[command(after_help = "Example:\n  marchctl completions bash > /etc/bash_completion.d/marchctl")]
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

/// `apply`
#[derive(Debug, Args)]
pub struct Apply {
    /// The document, YAML or JSON; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Refuse unless this is the stored version (0: there is none yet)
    #[arg(long, value_name = "N")]
    pub expect_version: Option<u64>,
    /// Why, for the history
    #[arg(short, long, default_value = "")]
    pub message: String,
    /// A repeated call with the same id answers with the first call's version
    #[arg(long, value_name = "ID", default_value = "")]
    pub request_id: String,
    /// Check only, store nothing
    #[arg(long)]
    pub validate_only: bool,
    /// Let ports stop for a moment where their device or MTU changes
    #[arg(long)]
    pub allow_port_restart: bool,
    /// Undo it unless `marchctl confirm` comes within this time: 90, 90s, 5m, 1h; at most a day
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub confirm_within: Option<u32>,
    /// All nodes or none: each gets ready first, and if one can't nothing is stored
    #[arg(long)]
    pub together: bool,
    /// The nodes that must get ready [default: all of the document]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', requires = "together")]
    pub nodes: Vec<String>,
    /// How long they may take: 10, 10s, 5m
    #[arg(long, value_name = "TIME", value_parser = seconds, requires = "together")]
    pub stage_within: Option<u32>,
}

/// `validate`
#[derive(Debug, Args)]
pub struct Validate {
    /// The document, YAML or JSON; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Here, without asking control
    #[arg(long)]
    pub local: bool,
}

/// `diff`
#[derive(Debug, Args)]
pub struct Diff {
    /// Compare with this document, YAML or JSON; - is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "to", required_unless_present = "to")]
    pub file: Option<PathBuf>,
    /// Version to start from; 0 is the newest
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub from: u64,
    /// Version to compare with
    #[arg(long, value_name = "N")]
    pub to: Option<u64>,
    /// Also judge the traffic that nodes see during this time by both: 5, 10s, 1m; at most a minute
    #[arg(long, value_name = "TIME", value_parser = seconds, requires = "file")]
    pub live: Option<u32>,
    /// Which node's traffic [default: every connected node of the document]
    #[arg(long, value_name = "NAME", requires = "live")]
    pub node: Option<String>,
}

/// How `get` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// As people write it.
    Yaml,
    /// The same in JSON.
    Json,
}

/// `get`
#[derive(Debug, Args)]
pub struct Get {
    /// Which version; 0 is the newest
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub version: u64,
    /// Format
    #[arg(short, long, value_enum, default_value = "yaml")]
    pub output: Format,
}

/// `history`
#[derive(Debug, Args)]
pub struct History {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u32,
}

/// `rollback`
#[derive(Debug, Args)]
pub struct Rollback {
    /// The version whose content is wanted
    pub version: u64,
    /// Why, for the history
    #[arg(short, long, default_value = "")]
    pub message: String,
    /// Refuse unless this is the stored version
    #[arg(long, value_name = "N")]
    pub expect_version: Option<u64>,
    /// A repeated call with the same id answers with the first call's version
    #[arg(long, value_name = "ID", default_value = "")]
    pub request_id: String,
    /// Let ports stop for a moment where their device or MTU changes
    #[arg(long)]
    pub allow_port_restart: bool,
    /// Undo it unless `marchctl confirm` comes within this time: 90, 90s, 5m, 1h; at most a day
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub confirm_within: Option<u32>,
}

/// `confirm`
#[derive(Debug, Args)]
pub struct Confirm {
    /// Which version; without it, the one that waits
    #[arg(default_value_t = 0, hide_default_value = true)]
    pub version: u64,
}

/// `watch`
#[derive(Debug, Args)]
pub struct Watch {
    /// Begin after the event with this token instead of now
    #[arg(long, value_name = "TOKEN", default_value = "")]
    pub resume: String,
}

/// A time as people write it, in seconds.
fn seconds(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) => (number, text.as_bytes()[text.len() - 1]),
        None => (text, b's'),
    };
    let unit = match unit {
        b'h' => 3600,
        b'm' => 60,
        _ => 1,
    };
    let seconds = number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    seconds
        .filter(|seconds| (1..=86_400).contains(seconds))
        .ok_or_else(|| "allowed: 1s to 24h, as in 90, 90s, 5m, 1h".to_owned())
}

/// TCP flags by name, as an octet.
fn flags(text: &str) -> Result<u8, String> {
    let names = text.split(',').filter(|name| !name.is_empty());
    names
        .map(|name| marchproxy_control::model::words::tcp_flag(name).map(|flag| flag.value))
        .try_fold(0, |all, flag| Ok(all | flag?))
}

/// `why`
#[derive(Debug, Args)]
pub struct Why {
    /// Source address
    #[arg(long)]
    pub src: String,
    /// Destination address
    #[arg(long)]
    pub dst: String,
    /// tcp, udp, icmp, icmpv6 or a number
    #[arg(long)]
    pub protocol: String,
    /// Source port
    #[arg(long, default_value_t = 0)]
    pub sport: u16,
    /// Destination port
    #[arg(long, default_value_t = 0)]
    pub dport: u16,
    /// Interface it comes in by
    #[arg(long = "in", value_name = "IFACE", default_value = "")]
    pub interface: String,
    /// TCP flags that are set, with commas; without: syn
    #[arg(long, value_name = "FLAGS", value_parser = flags)]
    pub tcp_flags: Option<u8>,
    /// DSCP, by name or number
    #[arg(long, default_value = "0", value_parser = marchproxy_control::model::words::dscp)]
    pub dscp: u8,
    /// Whether it is a fragment
    #[arg(long, default_value = "no", value_parser = ["no", "first", "later"])]
    pub fragment: String,
    /// Octets of the IP packet
    #[arg(long, default_value_t = 64)]
    pub length: u32,
    /// Time to live, or hop limit
    #[arg(long, default_value_t = 64)]
    pub ttl: u8,
    /// Which node, where there are several
    #[arg(long, default_value = "")]
    pub node: String,
}

/// `trace`
#[derive(Debug, Args)]
pub struct Trace {
    /// Which packets; see below [default: all]
    #[arg(long = "match", value_name = "FILTER", default_value = "", hide_default_value = true)]
    pub filter: String,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub count: u32,
    /// Seconds after which it ends in any case
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub timeout: u32,
    /// Which node, where there are several
    #[arg(long, default_value = "")]
    pub node: String,
}

/// Where `capture` copies packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Point {
    /// As received.
    Rx,
    /// Rewritten by a service.
    PostNat,
    /// About to leave.
    Tx,
    /// Dropped.
    Drop,
}

impl Point {
    /// As the node calls it.
    pub fn label(self) -> &'static str {
        match self {
            Point::Rx => "rx",
            Point::PostNat => "post-nat",
            Point::Tx => "tx",
            Point::Drop => "drop",
        }
    }
}

/// `capture`
#[derive(Debug, Args)]
pub struct Capture {
    /// Where; see below
    #[arg(long, value_enum)]
    pub at: Point,
    /// The file; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub write: PathBuf,
    /// Which packets; see below [default: all]
    #[arg(long = "match", value_name = "FILTER", default_value = "", hide_default_value = true)]
    pub filter: String,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: u32,
    /// Seconds after which it ends in any case
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub timeout: u32,
    /// Octets copied of each packet at most
    #[arg(long, value_name = "OCTETS", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub snaplen: u32,
    /// Which node, where there are several
    #[arg(long, default_value = "")]
    pub node: String,
}

/// `stats`
#[derive(Debug, Args)]
pub struct Stats {
    /// Which node, where there are several
    #[arg(long, default_value = "")]
    pub node: String,
    /// Again and again, every so many seconds
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub watch: Option<u32>,
}

/// `top`
#[derive(Debug, Args)]
pub struct Top {
    /// Which nodes; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    pub node: Vec<String>,
    /// The view to begin with
    #[arg(long, value_enum, default_value = "overview")]
    pub view: crate::top::View,
    /// Seconds between two looks
    #[arg(long, value_name = "SECS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub interval: u32,
    /// Print one frame and end; exit code 3 when some nodes did not answer
    #[arg(long)]
    pub once: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_manual_is_what_the_command_line_says() {
        Cli::command().debug_assert();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        marchproxy_manual::check(Cli::command(), &root).unwrap();
        assert!(marchproxy_manual::entries(Cli::command()).len() > 35);
    }

    #[test]
    fn every_example_is_a_command_line_that_parses() {
        fn examples(command: &clap::Command, found: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            found.extend(help.lines().filter_map(|line| {
                let line = line.trim();
                let from = line.find("marchctl ")?;
                (from == 0 || line[..from].ends_with("| ")).then(|| line[from..].to_owned())
            }));
            command.get_subcommands().for_each(|sub| examples(sub, found));
        }
        let mut found = Vec::new();
        examples(&Cli::command(), &mut found);
        assert!(found.len() > 35, "{}", found.len());
        for line in found {
            let mut words = Vec::new();
            for (at, part) in line.split('#').next().unwrap_or_default().split('"').enumerate() {
                if at % 2 == 1 {
                    words.push(part.to_owned());
                } else {
                    words.extend(
                        part.split_whitespace().take_while(|word| ![">", "|"].contains(word)).map(str::to_owned),
                    );
                }
            }
            Cli::try_parse_from(&words).unwrap_or_else(|why| panic!("{line}: {why}"));
        }
    }
}
