//! The command line.

use clap::{Parser, Subcommand};

use crate::Error;
use crate::command::compare::Compare;
use crate::command::gate::Gate;
use crate::command::generate::Generate;
use crate::command::interactive::Interactive;
use crate::command::reconf::Reconf;
use crate::command::rfc2544::Rfc2544;
use crate::command::run::Run;
use crate::command::scale::Scale;
use crate::process;
use crate::progress::Progress;

/// The testpmd-style performance harness of MarchProxy.
#[derive(Debug, Parser)]
#[command(
    name = "marchproxy-perf",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Examples:\n  marchproxy-perf run forward --routes 500000\n  marchproxy-perf -i --backend vdev:net_pcap"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    interactive: Interactive,
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
                      marchproxy-perf compare rules --rules 10000 --profile fw\n  \
                      marchproxy-perf compare forward --only l3fwd-lpm l3fwd-fib --json\n  \
                      marchproxy-perf compare tables --routes 500000 --duration 0.5\n  \
                      marchproxy-perf compare tables --only rte_acl --rules 10000 --json")]
    Compare(Compare),
    /// Write rules, routes, flows or packets that follow from a seed
    ///
    /// Rules and routes are documents for `marchctl`; flows and packets are a scenario's. Exit codes: 0 written, 1 refused or failed, 2 wrong
    /// usage.
    #[command(
        name = "gen",
        after_help = "Examples:\n  marchproxy-perf gen rules --profile fw --count 5000 --seed 7 -o rules.yaml\n  \
                      marchproxy-perf gen routes --count 500000 --json -o routes.json\n  \
                      marchproxy-perf gen flows balance --sessions 1000 --count 20\n  \
                      marchproxy-perf gen pcap full --packet imix -o full.pcap"
    )]
    Generate(Generate),
    /// Measure how a packet's cost grows with flows, routes, rules, sessions, services or workers
    ///
    /// Each size is a `run` of its own, all sizes in turn. Sizes the engine refuses are shown with its words. Exit codes: 0 measured (also
    /// when interrupted or too noisy, which the report says), 1 refused or failed, 2 wrong usage, 3 of one amount nothing was measured.
    #[command(after_help = "Examples:\n  marchproxy-perf scale --html growth.html\n  \
                      marchproxy-perf scale routes --points 4 --repeat 5\n  \
                      marchproxy-perf scale flows --scenario full --from 1024 --to 262144 --json")]
    Scale(Scale),
    /// Push changes of rules under load: packets lost, time the worker was held up, time until a push has settled
    ///
    /// 1, 10, 100 ... rules change at once while packets arrive by the clock. Exit codes: 0 measured, 1 refused or failed, 2 wrong
    /// usage, 3 measured without the control plane's part (this program was built without `--features control`).
    #[command(
        after_help = "Examples:\n  marchproxy-perf reconf\n  marchproxy-perf reconf --rules 1000 --flows 4096 --pushes 100 --json\n  \
                      marchproxy-perf reconf --profile fw --rate 500000"
    )]
    Reconf(Reconf),
    /// Count instructions per packet and compare with the checked-in figures
    ///
    /// Counted by callgrind, to the instruction the same on every run. Exit codes: 0 nothing grew by more than 3 %, 1 something did or has
    /// no figure, or nothing could be counted, 2 wrong usage, 3 the file is of another compiler or build and nothing
    /// grew by more than 15 % (more than that is 1), or interrupted.
    #[command(
        after_help = "Examples:\n  marchproxy-perf gate\n  marchproxy-perf gate --scenario rules --scenario full --json\n  \
                      marchproxy-perf gate --update && git add perf/gate.json"
    )]
    Gate(Gate),
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
            Some(Command::Run(run)) => run.run(&progress).map(Done::all),
            Some(Command::Rfc2544(rfc2544)) => rfc2544.run(&progress),
            Some(Command::Compare(compare)) => compare.run(&progress),
            Some(Command::Generate(generate)) => generate.run(&progress).map(Done::all),
            Some(Command::Scale(scale)) => scale.run(&progress),
            Some(Command::Reconf(reconf)) => reconf.run(&progress),
            Some(Command::Gate(gate)) => gate.run(&progress),
            // A script goes on after a refused command and ends with 1. Without -i the parser wants a command.
            None => self.interactive.run(&progress).map(|all| Done { text: String::new(), code: u8::from(!all) }),
        }
    }
}

/// Reads arguments as the program does, for tests.
pub fn parse<I: IntoIterator<Item = &'static str>>(arguments: I) -> Result<Run, String> {
    let words = std::iter::once("marchproxy-perf").chain(arguments);
    let command = Cli::try_parse_from(words).map_err(|error| error.to_string())?.command;
    if let Some(Command::Run(run)) = command { Ok(run) } else { Err("no run".into()) }
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
    }
}
