//! `run`: what a packet costs in a scenario.

use std::time::Duration;

use clap::{Args, ValueEnum};
use marchproxy_cpu::TscClock;
use marchproxy_engine::burst::BURST;

use crate::Error;
use crate::calibrate::{Calibration, Steps};
use crate::command::amounts::Amounts;
use crate::load::Size;
use crate::machine::Watch;
use crate::measure::{self, Limits};
use crate::probe::Probe;
use crate::process;
use crate::progress::Progress;
use crate::report::{Context, Report, spread};
use crate::scenario::{self, Scenario};
use crate::table;

/// Options of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// What to measure
    scenario: Scenario,
    /// Where packets come from
    #[arg(long, value_enum, default_value_t = Source::Memory)]
    backend: Source,
    /// Frame size with FCS: 64, 128, 256, 512, 1024, 1280, 1518 or imix (7:4:1 of 64, 570, 1518)
    #[arg(long, value_name = "SIZE", default_value = "64")]
    packet: Size,
    #[command(flatten)]
    amounts: Amounts,
    /// Seconds per repeat
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, conflicts_with = "packets")]
    duration: f64,
    /// Packets per repeat, instead of a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    packets: Option<u64>,
    /// Measured windows
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Packets asked for in a receive call, 1 to 32; the engine is built for full ones
    #[arg(long, value_name = "N", default_value_t = BURST as u8, value_parser = clap::value_parser!(u8).range(1..=BURST as i64))]
    burst: u8,
    /// Core to run on [default: the last one allowed]
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Pages of the heap, where buffers and tables are: huge as a driver's, where the kernel grants them, or normal
    #[arg(long, value_enum, default_value_t = Pages::Huge)]
    pages: Pages,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Source {
    /// Rings in this process
    Memory,
}

/// Pages of the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pages {
    /// Transparent huge pages
    Huge,
    /// The CPU's normal ones
    Normal,
}

impl Run {
    /// Does what was asked for and returns what to print.
    pub fn run(&self, progress: &Progress) -> Result<String, Error> {
        if self.pages == Pages::Huge {
            process::with_huge_heap();
        }
        let report = self.measure(progress)?;
        if self.json {
            return serde_json::to_string_pretty(&report).map_err(|_| Error::Harness("the report is no JSON"));
        }
        Ok(table::render(&report))
    }

    /// Prepares, measures, reports.
    pub fn measure(&self, progress: &Progress) -> Result<Report, Error> {
        let params = self.amounts.params(self.scenario, self.packet, usize::from(self.burst))?;
        let duration = Duration::try_from_secs_f64(self.duration).ok().filter(|d| !d.is_zero()).ok_or_else(|| {
            let allowed = "a positive number of seconds".into();
            Error::Option { option: "duration", found: self.duration.to_string(), allowed }
        })?;
        let limits = Limits { duration, packets: self.packets, repeats: usize::from(self.repeat) };
        let core = process::pin(self.core)?;
        let tsc_hz = TscClock::calibrate().hz();
        let mut bench = scenario::prepare(self.scenario, &params, progress)?;
        let calibration = Calibration::default();
        let mut steps = Steps::default();
        calibration.measure(&mut steps);
        let mut probe = Probe::open();
        let watch = Watch::start(core);
        let outcome = measure::run(&mut bench, &limits, params.seed, &mut probe, progress)?;
        let (machine, noise) = watch.finish(tsc_hz, bench.rig.memory(), spread(&outcome));
        calibration.measure(&mut steps);
        progress.finish();
        let context = Context {
            scenario: self.scenario,
            params,
            calibration: steps,
            instructions_reason: probe.missing().map(str::to_owned),
            live_sessions: bench.rig.sessions().len(),
            table_bytes: bench.rig.snapshot().bytes(),
            tsc_hz,
        };
        Ok(Report::new(context, &outcome, machine, noise))
    }
}
