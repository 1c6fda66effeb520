//! `marchproxy-perf`: see `marchproxy-perf help`.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use marchproxy_perf::cli::Cli;

fn main() -> ExitCode {
    if let Some(page) = marchproxy_manual::asked(Cli::command, 1) {
        print!("{page}");
        return ExitCode::SUCCESS;
    }
    match Cli::parse().run() {
        Ok(done) => {
            // Nothing to say is no empty line. A reader that has gone away (`| head`) is no failure of ours.
            if !done.text.is_empty() {
                let _ = writeln!(std::io::stdout(), "{}", done.text.trim_end());
            }
            ExitCode::from(done.code)
        }
        Err(error) => {
            eprintln!("marchproxy-perf: {error}");
            ExitCode::FAILURE
        }
    }
}
