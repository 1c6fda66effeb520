//! `compare`: the same work done by others, in turn within one run.

use std::time::Duration;

use clap::{Args, ValueEnum};
use marchproxy_cpu::TscClock;

use crate::Error;
use crate::cli::Done;
use crate::compare::tables::{self, Plan, Tables};
use crate::compare::turns::Outcome;
use crate::compare::{Comparison, Contest, Missing, Turns};
use crate::machine::Watch;
use crate::process;
use crate::progress::Progress;

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct Compare {
    /// What both sides do
    work: Work,
    /// Distinct flows the packets are drawn from [default: 65536]
    #[arg(long, value_name = "N")]
    flows: Option<usize>,
    /// Routes, half of each family [default: 16, tables 100000]
    #[arg(long, value_name = "N")]
    routes: Option<usize>,
    /// Rules of both families [default: 1000 and 10000; tables]
    #[arg(long, value_name = "N")]
    rules: Option<usize>,
    /// Sessions of each family [default: 1000000; tables]
    #[arg(long, value_name = "N")]
    sessions: Option<usize>,
    /// Keys that are looked up over and over [default: 65536; tables]
    #[arg(long, value_name = "N")]
    keys: Option<usize>,
    /// Turns of each peer
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Seconds that one side is measured in one turn
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    duration: f64,
    /// Only these peers
    #[arg(long, value_name = "PEER", num_args = 1..)]
    only: Vec<String>,
    /// Seed of routes, rules and flows
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Core that both sides run on [default: the last one allowed]
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// Longest prefix, TTL, checksum, MAC addresses
    Forward,
    /// Look-ups: routes, sessions, rules, policers against DPDK's libraries
    Tables,
}

/// A work laid out: who can be measured, who cannot, on what.
struct Field<'a> {
    contests: Vec<Box<dyn Contest + 'a>>,
    missing: Vec<Missing>,
    rig: String,
}

impl Work {
    /// The name on the command line and in reports.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Tables => "tables",
        }
    }

    /// The peers there are for it, in the order they are shown.
    fn peers(self) -> &'static [&'static str] {
        match self {
            Self::Forward => &["testpmd-io"],
            Self::Tables => tables::PEERS,
        }
    }
}

impl Compare {
    /// Does what was asked for.
    pub fn run(&self, progress: &Progress) -> Result<Done, Error> {
        let wanted = self.wanted()?;
        let duration = Duration::try_from_secs_f64(self.duration).ok().filter(|d| !d.is_zero()).ok_or_else(|| {
            let allowed = "a positive number of seconds".into();
            Error::Option { option: "duration", found: self.duration.to_string(), allowed }
        })?;
        let turns = Turns { repeats: usize::from(self.repeat), duration };
        if self.work == Work::Tables {
            return self.tables(wanted, turns, progress);
        }
        let core = process::pin(self.core)?;
        let tsc_hz = TscClock::calibrate().hz();
        let mut field = match self.work {
            Work::Forward => self.forward(&wanted)?,
            Work::Tables => return Err(Error::Harness("tables take their turns by themselves")),
        };
        let watch = Watch::start(core);
        let Outcome { rows, missing, interrupted } = turns.take(self.work.label(), &mut field.contests, progress)?;
        let (machine, noise) = watch.finish(tsc_hz, &field.rig, Comparison::spread(&rows));
        field.missing.extend(missing);
        let comparison = Comparison {
            work: self.work.label(),
            rows,
            missing: field.missing,
            rig: field.rig,
            machine,
            noisy: !noise.is_empty(),
            noise,
            interrupted,
        };
        comparison.done(self.json)
    }

    /// The peers asked for.
    fn wanted(&self) -> Result<Vec<&'static str>, Error> {
        let all = self.work.peers();
        if let Some(unknown) = self.only.iter().find(|name| !all.contains(&name.as_str())) {
            let allowed = format!("{} (for compare {})", all.join(", "), self.work.label());
            return Err(Error::Option { option: "only", found: unknown.clone(), allowed });
        }
        let asked = |name: &&str| self.only.is_empty() || self.only.iter().any(|only| only == name);
        Ok(all.iter().copied().filter(asked).collect())
    }

    /// Tables are in this process, so there is nothing to lay out but their content.
    fn tables(&self, peers: Vec<&'static str>, turns: Turns, progress: &Progress) -> Result<Done, Error> {
        if let Some(flows) = self.flows {
            let allowed = "nothing: compare tables has --keys".into();
            return Err(Error::Option { option: "flows", found: flows.to_string(), allowed });
        }
        let tables = Tables::start(Plan {
            routes: self.routes.unwrap_or(Plan::ROUTES),
            rules: self.rules.map_or_else(|| Plan::RULES.to_vec(), |rules| vec![rules]),
            sessions: self.sessions.unwrap_or(Plan::SESSIONS),
            keys: self.keys.unwrap_or(Plan::KEYS),
            seed: self.seed,
            peers,
            turns,
        })?;
        // DPDK's own thread was started before and stays off this core's back.
        let core = process::pin(self.core)?;
        let tsc_hz = TscClock::calibrate().hz();
        let watch = Watch::start(core);
        let Outcome { rows, missing, interrupted } = tables.measure(progress)?;
        let (machine, noise) = watch.finish(tsc_hz, "heap", Comparison::spread(&rows));
        let (work, rig) = (self.work.label(), tables.rig.clone());
        Comparison { work, rows, missing, rig, machine, noisy: !noise.is_empty(), noise, interrupted }.done(self.json)
    }

    /// Whole programs that forward need our own on the same devices.
    fn forward(&self, wanted: &[&str]) -> Result<Field<'static>, Error> {
        let allowed = format!("a build whose `run` knows `--backend vdev:...` (asked for: {})", wanted.join(", "));
        Err(Error::Option { option: "work", found: self.work.label().into(), allowed })
    }
}
