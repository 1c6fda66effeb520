//! `compare`: the same work done by others, in turn within one run.

use std::time::Duration;

use clap::{Args, ValueEnum};
use marchproxy_cpu::TscClock;
use marchproxy_engine::burst::BURST;

use crate::Error;
use crate::cli::Done;
use crate::command::amounts::Amounts;
use crate::compare::programs::{self, Ground};
use crate::compare::tables::{self, Plan, Tables};
use crate::compare::turns::Outcome;
use crate::compare::{Comparison, Turns, peers};
use crate::load::Size;
use crate::machine::Watch;
use crate::process;
use crate::progress::Progress;
use crate::scenario::Scenario;
use crate::seeded::rules::Profile;

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct Compare {
    /// What both sides do
    work: Work,
    /// Distinct flows, each with a frame in the capture file; with services, active sessions [default: 8192; all but tables]
    #[arg(long, value_name = "N")]
    flows: Option<usize>,
    /// Routes, half of each family [default: 16, tables 100000]
    #[arg(long, value_name = "N")]
    routes: Option<usize>,
    /// Rules of both families [default: 1000, tables 1000 and 10000; rules and tables]
    #[arg(long, value_name = "N")]
    rules: Option<usize>,
    /// Kind of rule list [default: acl; rules]
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// Live sessions [default: 100000; balance and police]; of each family [default: 1000000; tables]
    #[arg(long, value_name = "N")]
    sessions: Option<usize>,
    /// Keys that are looked up over and over [default: 65536; tables]
    #[arg(long, value_name = "N")]
    keys: Option<usize>,
    /// Frame size with FCS: 64, 128, 256, 512, 1024, 1280, 1518 or imix (7:4:1 of 64, 570, 1518) [default: 64; all but tables]
    #[arg(long, value_name = "SIZE")]
    packet: Option<Size>,
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
    /// Longest prefix, TTL, checksum, MAC addresses: testpmd, l3fwd, Open vSwitch on DPDK, the kernel
    Forward,
    /// Established sessions of services: l3fwd's exact match as a lower bound
    Balance,
    /// Forwarding under rules: l3fwd's access lists
    Rules,
    /// Sessions under policers: qos_meter as a lower bound
    Police,
    /// Look-ups: routes, sessions, rules, policers against DPDK's libraries
    Tables,
}

impl Work {
    /// The name on the command line and in reports.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Balance => "balance",
            Self::Rules => "rules",
            Self::Police => "police",
            Self::Tables => "tables",
        }
    }

    /// The scenario that whole programs are measured in.
    const fn scenario(self) -> Option<Scenario> {
        match self {
            Self::Forward => Some(Scenario::Forward),
            Self::Balance => Some(Scenario::Balance),
            Self::Rules => Some(Scenario::Rules),
            Self::Police => Some(Scenario::Police),
            Self::Tables => None,
        }
    }

    /// The peers there are for it, in the order they are shown.
    fn peers(self) -> Vec<&'static str> {
        self.scenario().map_or_else(
            || tables::PEERS.to_vec(),
            |scenario| peers::of(scenario).iter().map(|peer| peer.name()).collect(),
        )
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
        match self.work.scenario() {
            Some(scenario) => self.programs(scenario, &wanted, turns, progress),
            None => self.tables(wanted, turns, progress),
        }
    }

    /// Whole programs, each in a process of its own.
    fn programs(&self, scenario: Scenario, wanted: &[&str], turns: Turns, progress: &Progress) -> Result<Done, Error> {
        if let Some(keys) = self.keys {
            let allowed = format!("nothing: compare {} has --flows", self.work.label());
            return Err(Error::Option { option: "keys", found: keys.to_string(), allowed });
        }
        let amounts = Amounts {
            flows: self.flows,
            routes: self.routes,
            rules: self.rules,
            profile: self.profile,
            sessions: self.sessions,
            seed: self.seed,
            ..Amounts::default()
        };
        let packet = self.packet.unwrap_or(Size::Fixed(64));
        let params = amounts.over(&programs::defaults(scenario), scenario, packet, BURST)?;
        // This program only waits and stays unbound: ours refuses a core that is not among those it inherits.
        let core = process::cores(self.core.as_slice(), 1)?.first().copied().unwrap_or_default();
        let other = process::cores_but(Some(core))?.first().copied().unwrap_or(core);
        let ground = Ground::new(scenario, &params, [core, other], progress)?;
        let (mut contests, mut missing) = ground.contests(wanted, progress)?;
        let tsc_hz = TscClock::calibrate().hz();
        let mut watch = Watch::start(core);
        let outcome = turns.take(self.work.label(), &mut contests, progress)?;
        // This thread only waits. Our worker counts for itself; who disturbs the others shows in the CPU time of everybody else.
        let (switches, seconds) = ground.switches();
        watch.interrupted_during(switches, seconds);
        watch.spent_elsewhere(contests.iter().map(|contest| contest.elsewhere()).sum());
        let (machine, noise) = watch.finish(tsc_hz, "in processes of their own", Comparison::spread(&outcome.rows));
        missing.extend(outcome.missing);
        let (work, rig, interrupted) = (self.work.label(), ground.describe(), outcome.interrupted);
        let noisy = !noise.is_empty();
        Comparison { work, rows: outcome.rows, missing, rig, machine, noisy, noise, interrupted }.done(self.json)
    }

    /// The peers asked for.
    fn wanted(&self) -> Result<Vec<&'static str>, Error> {
        let mut all = self.work.peers();
        if let Some(unknown) = self.only.iter().find(|name| !all.contains(&name.as_str())) {
            let allowed = format!("{} (for compare {})", all.join(", "), self.work.label());
            return Err(Error::Option { option: "only", found: unknown.clone(), allowed });
        }
        all.retain(|name| self.only.is_empty() || self.only.iter().any(|only| only == name));
        Ok(all)
    }

    /// Tables are in this process, so there is nothing to lay out but their content.
    fn tables(&self, peers: Vec<&'static str>, turns: Turns, progress: &Progress) -> Result<Done, Error> {
        let given = [
            ("flows", self.flows.map(|flows| flows.to_string())),
            ("profile", self.profile.map(|profile| format!("{profile:?}").to_lowercase())),
            ("packet", self.packet.map(|packet| packet.to_string())),
        ];
        if let Some((option, Some(found))) = given.into_iter().find(|(_, found)| found.is_some()) {
            return Err(Error::Option { option, found, allowed: "nothing: compare tables has --keys".into() });
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
}
