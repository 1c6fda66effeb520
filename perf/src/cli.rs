//! The command line.

use clap::{Parser, Subcommand};

use crate::Error;
use crate::command::compare::Compare;
use crate::command::rfc2544::Rfc2544;
use crate::command::run::Run;
use crate::command::scale::Scale;
use crate::process;
use crate::progress::Progress;

/// The testpmd-style performance harness of MarchProxy.
#[derive(Debug, Parser)]
#[command(name = "marchproxy-perf", version, after_help = "Example: marchproxy-perf run forward --routes 500000")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure what a packet costs in a scenario
    ///
    /// Pinned workers, one unless asked for more; the frames are cold when the engine first touches them. Exit codes: 0 measured (also when interrupted or too
    /// noisy, which the report says), 1 refused or failed, 2 wrong usage.
    #[command(after_help = "Examples:\n  marchproxy-perf run forward --routes 500000 --packet imix\n  \
                      marchproxy-perf run balance --sessions 1000000 --flows 65536 --json\n  \
                      marchproxy-perf run rules --rules 10000 --profile fw --repeat 5\n  \
                      marchproxy-perf run balance --churn 100000\n  \
                      marchproxy-perf run balance --workers 2\n  \
                      marchproxy-perf run rules --packet pcap:site.pcap\n  \
                      marchproxy-perf run full --packets 1000000")]
    Run(Run),
    /// Benchmark a scenario by RFC 2544: throughput, latency, back-to-back frames, frame loss
    ///
    /// Tester and device under test run on a core each. Exit codes: 0 measured (also when interrupted or too noisy, which the report
    /// says), 1 refused or failed, 2 wrong usage.
    #[command(after_help = "Examples:\n  marchproxy-perf rfc2544 --html forward.html\n  \
                      marchproxy-perf rfc2544 throughput --scenario balance --packet 64,imix --family both --json\n  \
                      marchproxy-perf rfc2544 latency --packet 64 --trial 60\n  \
                      marchproxy-perf rfc2544 --quick")]
    Rfc2544(Rfc2544),
    /// Do the same work as others, in turn within one run, and print the ratio of the rates
    ///
    /// Exit codes: 0 all peers measured (also when interrupted or too noisy, which the report says), 1 refused or failed, 2 wrong usage,
    /// 3 a peer is missing; it is named with the reason.
    #[command(after_help = "Examples:\n  marchproxy-perf compare forward --routes 10000 --repeat 5\n  \
                      marchproxy-perf compare forward --json\n  \
                      marchproxy-perf compare tables --routes 500000 --duration 0.5\n  \
                      marchproxy-perf compare tables --only rte_acl --rules 10000 --json")]
    Compare(Compare),
    /// Measure how a packet's cost grows with flows, routes, rules, sessions, services or workers
    ///
    /// Each size is a `run` of its own, all sizes in turn. Sizes the engine refuses are shown with its words. Exit codes: 0 measured (also
    /// when interrupted or too noisy, which the report says), 1 refused or failed, 2 wrong usage, 3 of one amount nothing was measured.
    #[command(after_help = "Examples:\n  marchproxy-perf scale --html growth.html\n  \
                      marchproxy-perf scale routes --points 4 --repeat 5\n  \
                      marchproxy-perf scale flows --scenario full --from 1024 --to 262144 --json")]
    Scale(Scale),
}

/// What a command leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What to print.
    pub text: String,
    /// Exit code: 0, or 3 when only a part of what was asked for could be done.
    pub code: u8,
}

impl Done {
    /// All of it.
    pub fn all(text: String) -> Self {
        Self { text, code: 0 }
    }
}

impl Cli {
    /// Does what was asked for.
    pub fn run(&self) -> Result<Done, Error> {
        let progress = Progress::new(process::stop_on_interrupt()?);
        match &self.command {
            Command::Run(run) => run.run(&progress).map(Done::all),
            Command::Rfc2544(rfc2544) => rfc2544.run(&progress),
            Command::Compare(compare) => compare.run(&progress),
            Command::Scale(scale) => scale.run(&progress),
        }
    }
}

/// Reads arguments as the program does, for tests.
pub fn parse<I: IntoIterator<Item = &'static str>>(arguments: I) -> Result<Run, String> {
    let words = std::iter::once("marchproxy-perf").chain(arguments);
    match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
        Command::Run(run) => Ok(run),
        other => Err(format!("not `run`: {other:?}")),
    }
}
