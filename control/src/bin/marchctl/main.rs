//! `marchctl`: the operator's command line over gRPC.
#![forbid(unsafe_code)]

mod args;
mod ask;
mod backends;
mod connect;
mod diff;
mod document;
mod failure;
mod json;
mod nodes;
mod objects;
mod observe;
mod out;
mod pcapng;
mod policers;
mod preview;
mod queues;
mod settings;
mod stats;
mod table;
mod tiers;
mod top;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::args::{Cli, Command};
use crate::failure::Failure;
use crate::out::Out;

fn main() -> ExitCode {
    if let Some(page) = marchproxy_manual::asked(Cli::command, 1) {
        print!("{page}");
        return ExitCode::SUCCESS;
    }
    ExitCode::from(run(std::env::args_os()))
}

/// Runs one command line and answers with the exit code: 0 done, 1 refused, 2 not reachable, 3 partly.
fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(usage) => {
            // Help and version are answers, everything else is input that is refused.
            let refused = usage.use_stderr();
            let _ = usage.print();
            return u8::from(refused);
        }
    };
    let mut out = Out::new();
    match execute(cli, &mut out) {
        Ok(()) => 0,
        Err(failure) => {
            out.flush();
            eprintln!("marchctl: {failure}");
            failure.exit_code()
        }
    }
}

fn execute(cli: Cli, out: &mut Out) -> Result<(), Failure> {
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "marchctl", &mut script);
        out.text(&String::from_utf8_lossy(&script));
        return Ok(());
    }
    let settings = settings::Effective::resolve(&cli.global)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|why| Failure::refused(format!("cannot start: {why}")))?;
    runtime.block_on(dispatch(cli.command, &settings, out))
}

async fn dispatch(command: Command, settings: &settings::Effective, out: &mut Out) -> Result<(), Failure> {
    match command {
        Command::Apply(args) => document::apply(args, settings, out).await,
        Command::Validate(args) => document::validate(&args, settings, out).await,
        Command::Diff(args) => diff::diff(args, settings, out).await,
        Command::Get(args) => document::get(args, settings, out).await,
        Command::History(args) => document::history(args, settings, out).await,
        Command::Rollback(args) => document::rollback(args, settings, out).await,
        Command::Confirm(args) => document::confirm(&args, settings, out).await,
        Command::Watch(args) => document::watch(args, settings, out).await,
        Command::Why(args) => ask::why(args, settings, out).await,
        Command::Trace(args) => observe::trace(args, settings, out).await,
        Command::Capture(args) => observe::capture(args, settings, out).await,
        Command::Stats(args) => stats::stats(args, settings, out).await,
        Command::Top(args) => top::top(args, settings, out).await,
        Command::Node { command } => nodes::node(command, settings, out).await,
        Command::Operator { command } => nodes::operator(command, settings, out).await,
        Command::Enrol(args) => nodes::enrol(args, settings, out).await,
        Command::Interface { command } => objects::run("interface", command, settings, out).await,
        Command::Route { command } => objects::run("route", command, settings, out).await,
        Command::Rule { command } => objects::run("rule", command, settings, out).await,
        Command::Service { command } => objects::run("service", command, settings, out).await,
        Command::Policer { command } => policers::policer(command, settings, out).await,
        Command::Qos { command } => queues::qos(command, settings, out).await,
        Command::DscpMap { command } => objects::run("dscp_map", command, settings, out).await,
        Command::Session { command } => ask::session(command, settings, out).await,
        Command::Backend { command } => backends::backend(command, settings, out).await,
        Command::Tier { command } => tiers::tier(command, settings, out).await,
        Command::Neighbour { command } => ask::neighbour(command, settings, out).await,
        Command::Completions { .. } => Ok(()),
    }
}
