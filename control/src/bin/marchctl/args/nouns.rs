//! What is asked about objects by their noun: `marchctl NOUN list|show` and the like.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `node ...`
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// What runs where
    #[command(after_help = "Example:\n  marchctl node list")]
    List,
    /// One node and its certificates
    #[command(after_help = "Example:\n  marchctl node show edge-1")]
    Show {
        /// Which node
        name: String,
    },
    /// Make a one-time enrolment file for a node's daemon
    #[command(
        after_help = "Example:\n  marchctl node token edge-1 --advertise https://control.example.net:18000 --out edge-1.json"
    )]
    Token(Token),
    /// Refuse all certificates of a node from now on, and end its stream
    #[command(after_help = "Example:\n  marchctl node revoke edge-1")]
    Revoke(Revoke),
}

/// `operator ...`
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Certificates of operators
    #[command(after_help = "Example:\n  marchctl operator list")]
    List,
    /// Make a one-time enrolment file for an operator
    #[command(after_help = "Example:\n  marchctl operator token alice --out alice.json")]
    Token(Token),
    /// Refuse all certificates of an operator from now on
    #[command(after_help = "Example:\n  marchctl operator revoke alice")]
    Revoke(Revoke),
}

/// `... token`
#[derive(Debug, Args)]
pub struct Token {
    /// The name the certificate will carry
    pub name: String,
    /// How control is reached from there [default: as you reach it]
    #[arg(long, value_name = "URL")]
    pub advertise: Option<String>,
    /// How long the token is good for, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 3600)]
    pub valid: u32,
    /// Write the file here (mode 600) instead of printing it
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `... revoke`
#[derive(Debug, Args)]
pub struct Revoke {
    /// Whose certificates
    pub name: String,
    /// Only the certificate with this serial number
    #[arg(long, value_name = "HEX")]
    pub serial: Option<String>,
}

/// `enrol`
#[derive(Debug, Args)]
pub struct Enrol {
    /// The enrolment file of `marchctl operator token`
    pub file: PathBuf,
    /// Where certificate, key, authority and marchctl.toml are kept [default: ~/.config/marchproxy]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `rule|service|... ...`
#[derive(Debug, Subcommand)]
pub enum ObjectCommand {
    /// One line for each
    #[command(after_help = "Examples:\n  marchctl rule list\n  marchctl service list --json")]
    List,
    /// One, as it stands in the document
    #[command(after_help = "Examples:\n  marchctl service show web\n  marchctl route show \"blue 10.9.0.0/16\"")]
    Show {
        /// Which; routes are named PREFIX or "TABLE PREFIX"
        name: String,
    },
}

/// `policer ...`
#[derive(Debug, Subcommand)]
pub enum PolicerCommand {
    /// One line for each
    #[command(after_help = "Examples:\n  marchctl policer list\n  marchctl policer list --json")]
    List {
        /// Which node's packets, where there are several nodes
        #[arg(long, default_value = "")]
        node: String,
    },
    /// One, as it stands in the document, with packets by colour and the rate over a second
    #[command(after_help = "Example:\n  marchctl policer show per-service-10m")]
    Show {
        /// Which.
        name: String,
        /// Which node's packets, where there are several nodes
        #[arg(long, default_value = "")]
        node: String,
    },
}

/// `qos ...`
#[derive(Debug, Subcommand)]
pub enum QosCommand {
    /// One line for each, and for each queue that packets came to: what waits, went, was dropped or marked
    #[command(after_help = "Examples:\n  marchctl qos list\n  marchctl qos list --json")]
    List {
        /// Which node's queues, where there are several nodes
        #[arg(long, default_value = "")]
        node: String,
    },
    /// One, or a service: rates over a second, how long packets wait, drops and marks by cause
    #[command(after_help = "Examples:\n  marchctl qos show voice\n  marchctl qos show web --node edge-1")]
    Show {
        /// A QoS object, or a service
        name: String,
        /// Which node's queues, where there are several nodes
        #[arg(long, default_value = "")]
        node: String,
    },
}

/// `session ...`
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// The newest ones
    #[command(after_help = "Example:\n  marchctl session list --service web --limit 20")]
    List {
        /// Of this service only
        #[arg(long, default_value = "")]
        service: String,
        /// How many at most
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Which node, where there are several
        #[arg(long, default_value = "")]
        node: String,
    },
}

/// `backend ...`
#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// One line for each
    #[command(after_help = "Examples:\n  marchctl backend list\n  marchctl backend list --service web --json")]
    List {
        /// Of this service only
        #[arg(long, default_value = "")]
        service: String,
        /// Which node, where there are several
        #[arg(long, default_value = "")]
        node: String,
    },
    /// One, with all that is known of its health
    #[command(after_help = "Example:\n  marchctl backend show web/a")]
    Show {
        /// Which, as SERVICE/BACKEND
        name: String,
        /// Which node, where there are several
        #[arg(long, default_value = "")]
        node: String,
    },
}

/// `neighbour ...`
#[derive(Debug, Subcommand)]
pub enum NeighbourCommand {
    /// All of them
    #[command(after_help = "Example:\n  marchctl neighbour list")]
    List {
        /// Which node, where there are several
        #[arg(long, default_value = "")]
        node: String,
    },
}

/// `tier ...`
#[derive(Debug, Subcommand)]
pub enum TierCommand {
    /// All ports, with their packets and octets
    #[command(after_help = "Example:\n  marchctl tier list")]
    List {
        /// Which node, where there are several
        #[arg(long, default_value = "")]
        node: String,
    },
    /// One port, and why its way is no better one
    #[command(after_help = "Example:\n  marchctl tier show wan")]
    Show {
        /// The port
        name: String,
        /// Which node, where there are several
        #[arg(long, default_value = "")]
        node: String,
    },
}
