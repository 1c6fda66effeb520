//! `scale`: how the cost grows with the amount of something.

use std::path::PathBuf;

use clap::Args;

use crate::Error;
use crate::cli::Done;
use crate::html;
use crate::load::Size;
use crate::progress::Progress;
use crate::scale::point::Runner;
use crate::scale::{self, What, Work, page, text};
use crate::scenario::Scenario;
use crate::seeded::rules::Profile;

/// Growth of a packet's cost, from the smallest size of a span to the largest, that is allowed.
const LIMIT: f64 = 2.0;

/// Options of `scale`.
#[derive(Debug, Args)]
pub struct Scale {
    /// What grows [default: all]
    #[arg(value_parser = parse_what, default_value = "all", hide_default_value = true,
        value_name = "flows|routes|rules|sessions|services|workers|all")]
    what: Chosen,
    /// Scenario to show it in [default: forward; rules in rules; sessions and services in balance]
    #[arg(long, value_enum)]
    scenario: Option<Scenario>,
    /// Sizes over the span
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(2..=100))]
    points: u16,
    /// First size instead of the span's
    #[arg(long, value_name = "N")]
    from: Option<usize>,
    /// Last size instead of the span's
    #[arg(long, value_name = "N")]
    to: Option<usize>,
    /// Measurements of each size: all sizes in turn, then again
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    repeat: u16,
    /// Seconds of a measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, conflicts_with = "packets")]
    duration: f64,
    /// Packets of a measurement, instead of a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    packets: Option<u64>,
    /// Frame size with FCS, as in `run`
    #[arg(long, value_name = "SIZE", default_value = "64")]
    packet: Size,
    /// Kind of rule list, where there are rules
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Core to run on, but for several workers [default: the last one allowed]
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Write a page with plots, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One amount or all.
#[derive(Clone, Debug)]
struct Chosen(Vec<What>);

fn parse_what(text: &str) -> Result<Chosen, String> {
    if text == "all" {
        return Ok(Chosen(What::ALL.to_vec()));
    }
    let names = || What::ALL.map(What::option).join(", ");
    let what = What::ALL.into_iter().find(|what| what.option() == text);
    what.map(|what| Chosen(vec![what])).ok_or_else(|| format!("allowed {} or all", names()))
}

impl Scale {
    /// Does what was asked for.
    pub fn run(&self, progress: &Progress) -> Result<Done, Error> {
        let work = self.work()?;
        if let Some(path) = &self.html {
            html::check(path)?;
        }
        let report = scale::run(&work, &Runner::own()?, progress)?;
        if let Some(path) = &self.html {
            html::save(path, &page::render(&report)?)?;
        }
        let text = if self.json {
            serde_json::to_string_pretty(&report).map_err(|_| Error::Harness("the report is no JSON"))?
        } else {
            text::render(&report)
        };
        // A size refused is a result; an amount of which nothing could be measured is not.
        let unknown = report.amounts.iter().filter(|a| a.points.iter().all(|p| p.figures.is_empty())).count();
        let code = match unknown {
            0 => 0,
            all if all == report.amounts.len() => 1,
            _ => 3,
        };
        Ok(Done { text, code })
    }

    fn work(&self) -> Result<Work, Error> {
        let amounts: Vec<_> =
            self.what.0.iter().map(|what| (*what, self.scenario.unwrap_or(what.scenario()))).collect();
        if let Some((what, scenario)) = amounts.iter().find(|(what, scenario)| !what.is_in(*scenario)) {
            return Err(Error::Option {
                option: "scenario",
                found: scenario.label().into(),
                allowed: format!("a scenario with {}", what.option()),
            });
        }
        if amounts.len() > 1
            && let Some(found) = self.from.or(self.to)
        {
            let option = if self.from.is_some() { "from" } else { "to" };
            let allowed = "only with one amount: each has a span of its own".into();
            return Err(Error::Option { option, found: found.to_string(), allowed });
        }
        let mut options = vec!["--packet".to_owned(), self.packet.to_string(), "--seed".into(), self.seed.to_string()];
        options.extend(match self.packets {
            Some(packets) => ["--packets".to_owned(), packets.to_string()],
            None => ["--duration".to_owned(), self.duration.to_string()],
        });
        let profile = self.profile.map(|profile| format!("{profile:?}").to_lowercase());
        if let Some(found) = profile.clone().filter(|_| !amounts.iter().any(|(_, scenario)| scenario.has_rules())) {
            let allowed = "nothing: there are no rules in what is measured here".into();
            return Err(Error::Option { option: "profile", found, allowed });
        }
        if let (Some(core), [(What::Workers, _)]) = (self.core, &amounts[..]) {
            let allowed = "nothing: each worker has a core of its own, the last ones allowed".into();
            return Err(Error::Option { option: "core", found: core.to_string(), allowed });
        }
        Ok(Work {
            amounts,
            points: usize::from(self.points),
            span: (self.from, self.to),
            repeats: usize::from(self.repeat),
            options,
            of_rules: profile.map_or_else(Vec::new, |profile| vec!["--profile".into(), profile]),
            of_one_worker: self.core.map_or_else(Vec::new, |core| vec!["--core".into(), core.to_string()]),
            limit: LIMIT,
        })
    }
}
