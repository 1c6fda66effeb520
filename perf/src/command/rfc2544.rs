//! `rfc2544`: the benchmarks of RFC 2544.

use std::path::PathBuf;

use clap::Args;
use marchproxy_cpu::TscClock;
use marchproxy_engine::burst::BURST;

use super::amounts::Amounts;
use super::run::Pages;
use crate::Error;
use crate::cli::Done;
use crate::html;
use crate::load::Size;
use crate::process;
use crate::progress::Progress;
use crate::rfc2544::report::{Family, Report, Settings};
use crate::rfc2544::ring::DESCRIPTORS;
use crate::rfc2544::suite::{self, Test, Work};
use crate::rfc2544::{page, text, trial};
use crate::scenario::Scenario;

/// Part of a trial's length that trials of a search get (RFC 2544 s24 allows shorter ones there), and the least of it in seconds.
const SEARCH: (f64, f64) = (0.1, 0.05);

/// Options of `rfc2544`.
#[derive(Debug, Args)]
pub struct Rfc2544 {
    /// Which of the tests
    #[arg(value_enum, default_value_t = Test::All)]
    test: Test,
    /// Tables and traffic
    #[arg(long, value_enum, default_value_t = Scenario::Forward)]
    scenario: Scenario,
    /// Frame sizes with FCS [default: 64,128,256,512,1024,1280,1518,imix; quick: 64,1518]
    #[arg(long, value_name = "SIZES", value_delimiter = ',')]
    packet: Vec<Size>,
    /// Address families, each measured by itself; both is half and half [default: v4,v6; quick and forward6: both]
    #[arg(long, value_enum, value_name = "FAMILIES", value_delimiter = ',')]
    family: Vec<Family>,
    /// Length of a trial; a search uses a tenth of it [default: 2, quick 0.2; RFC 2544 s24 asks for 60]
    #[arg(long, value_name = "SECONDS")]
    trial: Option<f64>,
    /// Shares of packets that throughput may lose, in percent
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_values_t = [0.0, 0.1])]
    loss: Vec<f64>,
    /// Width of a search's last step in percent of the rate [default: 1, quick 5]
    #[arg(long, value_name = "PERCENT")]
    resolution: Option<f64>,
    /// Maximum rate as that of a line [default: what the tester can send]
    #[arg(long, value_name = "GBIT_PER_S")]
    line: Option<f64>,
    /// Searches for the longest burst [default: 10, quick 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: Option<u16>,
    /// Short trials of few sizes: shows that everything works, not what it can
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    amounts: Amounts,
    /// Core of the device under test [default: the last one allowed]
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Core of the tester [default: the first other one]
    #[arg(long, value_name = "N")]
    tester_core: Option<usize>,
    /// Pages of the heap, where buffers and tables are: huge as a driver's, where the kernel grants them, or normal
    #[arg(long, value_enum, default_value_t = Pages::Huge)]
    pages: Pages,
    /// Write a page with plots, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Rfc2544 {
    /// Does what was asked for.
    pub fn run(&self, progress: &Progress) -> Result<Done, Error> {
        if self.pages == Pages::Huge {
            process::with_huge_heap();
        }
        if let Some(path) = &self.html {
            html::check(path)?;
        }
        let report = self.measure(progress)?;
        if let Some(path) = &self.html {
            html::save(path, &page::render(&report)?)?;
        }
        let text = if self.json {
            serde_json::to_string_pretty(&report).map_err(|_| Error::Harness("the report is no JSON"))?
        } else {
            text::render(&report)
        };
        Ok(Done::all(text))
    }

    /// Prepares, measures, reports.
    pub fn measure(&self, progress: &Progress) -> Result<Report, Error> {
        let work = self.work()?;
        let clock = TscClock::calibrate();
        let cores = trial::cores(self.core, self.tester_core, clock.hz())?;
        suite::run(&work, cores, clock, progress)
    }

    fn work(&self) -> Result<Work, Error> {
        let packets = match (&self.packet[..], self.quick) {
            ([], true) => vec![Size::Fixed(64), Size::Fixed(1518)],
            ([], false) => Size::all(),
            (sizes, _) => sizes.to_vec(),
        };
        let families = match &self.family[..] {
            [] if self.quick || self.scenario == Scenario::Forward6 => vec![Family::Both],
            [] => vec![Family::V4, Family::V6],
            families => families.to_vec(),
        };
        let trial_seconds = self.trial.unwrap_or(if self.quick { 0.2 } else { 2.0 });
        let resolution_percent = self.resolution.unwrap_or(if self.quick { 5.0 } else { 1.0 });
        let positive = |option, found: f64, most: f64| {
            if found > 0.0 && found <= most {
                return Ok(());
            }
            Err(Error::Option { option, found: found.to_string(), allowed: format!("above 0, at most {most}") })
        };
        // An hour: what tells more about the device than that, tells it in the same way.
        positive("trial", trial_seconds, 3600.0)?;
        positive("resolution", resolution_percent, 50.0)?;
        positive("line", self.line.unwrap_or(1.0), 10_000.0)?;
        if let Some(loss) = self.loss.iter().find(|loss| !(0.0..100.0).contains(*loss)) {
            let allowed = "percentages from 0 to below 100".into();
            return Err(Error::Option { option: "loss", found: loss.to_string(), allowed });
        }
        let mut loss_percent = self.loss.clone();
        loss_percent.sort_by(f64::total_cmp);
        let params = self.amounts.params(self.scenario, packets.first().copied().unwrap_or(Size::Imix), BURST)?;
        Ok(Work {
            test: self.test,
            scenario: self.scenario,
            params,
            packets,
            families,
            settings: Settings {
                trial_seconds,
                search_seconds: (trial_seconds * SEARCH.0).max(SEARCH.1).min(trial_seconds),
                loss_percent,
                resolution_percent,
                bursts: usize::from(self.repeat.unwrap_or(if self.quick { 2 } else { 10 })),
                line_gbit_per_s: self.line,
                descriptors: DESCRIPTORS,
            },
        })
    }
}
