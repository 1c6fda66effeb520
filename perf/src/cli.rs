//! The command line.

use clap::{Parser, Subcommand};

use crate::Error;
use crate::command::compare::Compare;
use crate::command::gate::Gate;
use crate::command::reconf::Reconf;
use crate::command::run::Run;
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
    /// One worker, pinned; the frames are cold when the engine first touches them. Exit codes: 0 measured (also when interrupted or too
    /// noisy, which the report says), 1 refused or failed, 2 wrong usage.
    #[command(after_help = "Examples:\n  marchproxy-perf run forward --routes 500000 --packet imix\n  \
                      marchproxy-perf run balance --sessions 1000000 --flows 65536 --json\n  \
                      marchproxy-perf run rules --rules 10000 --profile fw --repeat 5\n  \
                      marchproxy-perf run full --packets 1000000")]
    Run(Run),
    /// Do the same work as others, in turn within one run, and print the ratio of the rates
    ///
    /// Exit codes: 0 all peers measured (also when interrupted or too noisy, which the report says), 1 refused or failed, 2 wrong usage,
    /// 3 a peer is missing; it is named with the reason.
    #[command(after_help = "Examples:\n  marchproxy-perf compare forward --routes 10000 --repeat 5\n  \
                      marchproxy-perf compare forward --json\n  \
                      marchproxy-perf compare tables --routes 500000 --duration 0.5\n  \
                      marchproxy-perf compare tables --only rte_acl --rules 10000 --json")]
    Compare(Compare),
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
    /// no figure, or nothing could be counted, 2 wrong usage, 3 compared but not judged (the file is of another compiler or build), or
    /// interrupted.
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
            Command::Run(run) => run.run(&progress).map(Done::all),
            Command::Compare(compare) => compare.run(&progress),
            Command::Reconf(reconf) => reconf.run(&progress),
            Command::Gate(gate) => gate.run(&progress),
        }
    }
}

/// Reads arguments as the program does, for tests.
pub fn parse<I: IntoIterator<Item = &'static str>>(arguments: I) -> Result<Run, String> {
    let words = std::iter::once("marchproxy-perf").chain(arguments);
    let Command::Run(run) = Cli::try_parse_from(words).map_err(|error| error.to_string())?.command else {
        return Err("this is not `run`".into());
    };
    Ok(run)
}
