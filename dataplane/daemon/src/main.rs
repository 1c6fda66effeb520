//! `marchproxy-dataplane`: see `--help`, and `dataplane/README.md`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use marchproxy_dataplane::cli::Arguments;
use marchproxy_dataplane::config::{Config, LogLevel};
use marchproxy_dataplane::doctor::{self, Level};
use marchproxy_dataplane::{daemon, metrics};
use tracing::level_filters::LevelFilter;

/// The node can't start as it is configured, or as the host is.
const REFUSED: u8 = 1;

fn main() -> ExitCode {
    if let Some(page) = marchproxy_manual::asked(Arguments::command, 8) {
        print!("{page}");
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    if arguments.metrics_dictionary {
        print!("{}", metrics::dictionary());
        return ExitCode::SUCCESS;
    }
    let config = match Config::load(arguments.config.as_deref(), &arguments.overrides()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("marchproxy-dataplane: {error}");
            return ExitCode::from(REFUSED);
        }
    };
    if arguments.check {
        return report(&config);
    }
    log_to_stderr(config.log);
    end_when_a_packet_thread_dies();
    match daemon::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(REFUSED)
        }
    }
}

fn report(config: &Config) -> ExitCode {
    let findings = doctor::check(config);
    for finding in &findings {
        println!("{finding}");
    }
    let refused = findings.iter().any(|finding| finding.level == Level::Fail);
    println!("{}", if refused { "the node would not start" } else { "the node would start" });
    ExitCode::from(if refused { REFUSED } else { 0 })
}

/// A node without one of its workers would lose a part of the packets for ever, quietly. So the whole process ends, and comes
/// back on its last good tables when systemd restarts it.
fn end_when_a_packet_thread_dies() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        tracing::error!("thread {name}: {panic}; please report this");
        if name.starts_with("worker-") || name == "slow-path" || name == "builder" {
            std::process::abort();
        }
    }));
}

fn log_to_stderr(level: LogLevel) {
    let filter = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(filter)
        .with_target(false)
        .with_ansi(terminal)
        .init();
}
