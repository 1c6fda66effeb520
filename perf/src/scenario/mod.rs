//! Scenarios: which tables the node runs, what is sent, and what must be there before the first packet is measured.

mod flows;
mod full;
mod services;
pub mod topology;

use std::collections::BTreeMap;

use marchproxy_engine::burst::BURST;
use marchproxy_engine::snapshot::{ObjectKind, Snapshot};
use marchproxy_engine::table::sessions::Sessions;
use marchproxy_engine::tables::{RuleAction, RuleMatch, RuleSpec, RuleTables};
use serde::Serialize;

use crate::capture::Capture;
use crate::load::{Load, Size, Template};
use crate::progress::Progress;
use crate::rig::{Capacity, Rig};
use crate::seeded::rules::Profile;
use crate::seeded::{Rng, routes, rules};
use crate::{Error, churn};

pub use topology::{WAN, station};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// Longest prefix, TTL, checksum, MAC addresses; IPv4 and IPv6 half and half
    Forward,
    /// The same, IPv6 only
    Forward6,
    /// Established sessions of services, mode nat, packets of both directions
    Balance,
    /// Forwarding under rules, no sessions
    Rules,
    /// Balance with a policer on every service
    Police,
    /// Forward under one rule that marks
    Mark,
    /// Everything: 70 % established sessions, 20 % forwarded, 5 % first packets, 3 % fragments and ICMP, 2 % denied
    Full,
    /// SYNs of ever new clients to services, into a table that is full of them: each packet makes a session and evicts one
    #[value(name = "new_sessions")]
    #[serde(rename = "new_sessions")]
    NewSessions,
}

/// How much of everything; only what the scenario has counts.
#[derive(Clone, Debug, Serialize)]
pub struct Params {
    /// Frame sizes.
    pub packet: Size,
    /// Packets asked for in a receive call.
    #[serde(skip)]
    pub burst: usize,
    /// Distinct flows the packets are drawn from; where there are sessions, those of them that are active.
    pub flows: usize,
    /// Routes beside the connected ones.
    pub routes: usize,
    /// Rules.
    pub rules: usize,
    /// Services.
    pub services: usize,
    /// Backends of each service.
    pub backends: usize,
    /// Live sessions.
    pub sessions: usize,
    /// Kind of rule list.
    pub profile: Profile,
    /// New flows per second of the worker's CPU time, where that is not the scenario's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub churn: Option<u64>,
    /// What is sent instead of the scenario's packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<Capture>,
    /// Seed of everything random.
    pub seed: u64,
}

impl Scenario {
    /// The name on the command line and in reports.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Forward6 => "forward6",
            Self::Balance => "balance",
            Self::Rules => "rules",
            Self::Police => "police",
            Self::Mark => "mark",
            Self::Full => "full",
            Self::NewSessions => "new_sessions",
        }
    }

    /// Whether services and sessions are part of it.
    pub const fn has_services(self) -> bool {
        matches!(self, Self::Balance | Self::Police | Self::Full | Self::NewSessions)
    }

    /// Whether the number of rules can be chosen.
    pub const fn has_rules(self) -> bool {
        matches!(self, Self::Rules | Self::Full)
    }

    /// What is measured unless options say otherwise.
    pub const fn defaults(self) -> Params {
        let services = match self {
            Self::Full => 64,
            _ if self.has_services() => 16,
            _ => 0,
        };
        Params {
            packet: Size::Fixed(64),
            burst: BURST,
            flows: if matches!(self, Self::NewSessions) { services::NEWCOMERS } else { 65_536 },
            routes: if matches!(self, Self::Full) { 100_000 } else { 16 },
            rules: if self.has_rules() { 1000 } else { matches!(self, Self::Mark) as usize },
            services,
            backends: if services > 0 { 16 } else { 0 },
            sessions: if services > 0 { 1_000_000 } else { 0 },
            profile: Profile::Acl,
            churn: None,
            capture: None,
            seed: 1,
        }
    }
}

/// A node that is warm, and what to send it.
pub struct Bench {
    /// The node.
    pub rig: Rig,
    /// The traffic.
    pub load: Load,
    /// Frames that keep every session alive; sent again when much virtual time has passed.
    pub keep_alive: Vec<Template>,
    /// Where its tables count.
    pub slots: CounterSlots,
    /// New flows per CPU second to make.
    pub churn: Option<u64>,
}

/// Counter slots of the snapshot's objects, by kind.
#[derive(Clone, Debug, Default)]
pub struct CounterSlots {
    /// Rules.
    pub rules: Vec<u32>,
    /// Of these, the ones that only fragments and ICMP match (full).
    pub odd_rules: Vec<u32>,
    /// Services.
    pub services: Vec<u32>,
    /// Policers.
    pub policers: Vec<u32>,
}

/// Tables and frames, before anything runs.
pub struct Plan {
    /// What the node runs.
    pub tables: RuleTables,
    /// Sent once before measuring; sessions come to be.
    pub first: Vec<Template>,
    /// The traffic, without what depends on the sessions then: see [`establish`].
    pub load: Load,
    /// What the node must hold.
    pub capacity: Capacity,
}

/// Nanoseconds between turns where only the rate of packets matters: 32 packets at 10 Mpps.
pub const STEADY: u64 = 3200;

/// Lays out tables and traffic; the same parameters give the same, whatever the size of the packets.
pub fn plan(scenario: Scenario, params: &Params) -> Result<Plan, Error> {
    check(scenario, params)?;
    // Where a capture is sent, the scenario's own flows are made for nothing.
    let flows = if params.capture.is_some() { 1 } else { params.flows };
    let laid_out = Params { flows, ..params.clone() };
    let mut plan = match scenario {
        Scenario::Forward | Scenario::Forward6 | Scenario::Mark => forward(scenario, &laid_out),
        Scenario::Rules => flows::under_rules(&laid_out)?,
        Scenario::Balance | Scenario::Police => services::plan(scenario, &laid_out),
        Scenario::Full => full::plan(&laid_out)?,
        Scenario::NewSessions => services::flood(&laid_out),
    };
    if let Some(capture) = &params.capture {
        plan.load = capture.load();
    }
    if params.churn.is_some() && !plan.load.has_fresh() {
        let rng = &mut Rng::new(params.seed, "newcomers");
        plan.load.add_fresh(1, services::newcomers(params, rng));
        plan.capacity.sessions += churn::ROOM;
    }
    Ok(plan)
}

/// Adds the packets of established sessions where the scenario has any, whichever table they are in. `now` is the node's time, `drops` what it dropped so far.
pub fn establish(
    scenario: Scenario,
    params: &Params,
    load: &mut Load,
    sessions: &[&Sessions],
    now: u64,
    drops: &BTreeMap<&'static str, u64>,
) -> Result<(), Error> {
    if !scenario.has_services() || scenario == Scenario::NewSessions || params.capture.is_some() {
        return Ok(());
    }
    let share = if scenario == Scenario::Full { full::ESTABLISHED } else { 1000 };
    services::establish(sessions, now, params, share, load, drops)
}

/// Builds the node and warms it up.
pub fn prepare(scenario: Scenario, params: &Params, progress: &Progress) -> Result<Bench, Error> {
    prepare_with_tables(scenario, params, progress).map(|(bench, _)| bench)
}

/// The same, with the tables the node runs.
pub fn prepare_with_tables(
    scenario: Scenario,
    params: &Params,
    progress: &Progress,
) -> Result<(Bench, RuleTables), Error> {
    progress.phase("laying out tables and flows", 0);
    let mut plan = plan(scenario, params)?;
    let mut rig = with_sessions(scenario, params, &mut plan, progress)?;
    let count = plan.load.lasting().count();
    warm(&mut rig, progress, "sending every flow once", &mut plan.load.lasting(), count)?;
    let slots = CounterSlots::of(rig.snapshot());
    Ok((Bench { rig, load: plan.load, keep_alive: plan.first, slots, churn: params.churn }, plan.tables))
}

/// Tables and all the traffic, for a node of somebody else's: replies of services are those that the tables lead to.
pub fn traffic(scenario: Scenario, params: &Params, progress: &Progress) -> Result<Plan, Error> {
    progress.phase("laying out tables and flows", 0);
    let mut plan = plan(scenario, params)?;
    if scenario.has_services() {
        with_sessions(scenario, params, &mut plan, progress)?;
    }
    Ok(plan)
}

/// The node with its sessions made, and their packets added to the load.
fn with_sessions(scenario: Scenario, params: &Params, plan: &mut Plan, progress: &Progress) -> Result<Rig, Error> {
    progress.phase("building the snapshot", 0);
    let mut rig = Rig::new(&plan.tables, plan.capacity, params.burst, params.seed)?;
    warm(&mut rig, progress, "making sessions", &mut plan.first.iter(), plan.first.len())?;
    establish(scenario, params, &mut plan.load, &[rig.sessions()], rig.now(), &crate::measure::drops(&rig))?;
    Ok(rig)
}

fn warm(
    rig: &mut Rig,
    progress: &Progress,
    what: &'static str,
    frames: &mut dyn Iterator<Item = &Template>,
    count: usize,
) -> Result<(), Error> {
    progress.phase(what, count as u64);
    if rig.warm(frames, |n| progress.advance(n)) { Ok(()) } else { Err(Error::Interrupted) }
}

impl CounterSlots {
    /// Those of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut slots = Self::default();
        for (kind, name, slot) in snapshot.objects() {
            match kind {
                ObjectKind::Rule => {
                    slots.rules.push(slot);
                    if full::ODD_RULES.contains(&name.as_str()) {
                        slots.odd_rules.push(slot);
                    }
                }
                ObjectKind::Service => slots.services.push(slot),
                ObjectKind::Policer => slots.policers.push(slot),
                ObjectKind::Backend | ObjectKind::Colour => {}
            }
        }
        slots
    }
}

/// Limits of the harness's own network, and of the engine's tables where they would fail late.
fn check(scenario: Scenario, params: &Params) -> Result<(), Error> {
    let limits = [
        ("flows", params.flows, 1, 4_000_000),
        ("routes", params.routes, 1, 4_000_000),
        ("rules", params.rules, usize::from(scenario.has_rules()) * 8, 10_000_000),
        ("services", params.services, usize::from(scenario.has_services()), 4096),
        ("backends", params.backends, usize::from(scenario.has_services()) * 2, 4000),
        ("sessions", params.sessions, usize::from(scenario.has_services()), 8_000_000),
    ];
    for (option, found, least, most) in limits {
        if !(least..=most).contains(&found) {
            let allowed = format!("{least} to {most} in scenario {}", scenario.label());
            return Err(Error::Option { option, found: found.to_string(), allowed });
        }
    }
    // Each backend is a neighbour, and the engine knows 4,096 of them.
    let neighbours = params.services * params.backends;
    if neighbours > 4000 {
        return Err(Error::Option {
            option: "backends",
            found: format!("{} services with {} each", params.services, params.backends),
            allowed: "at most 4000 backends in all (each is a neighbour, the engine knows 4096)".into(),
        });
    }
    if scenario.has_services() && params.capture.is_none() && params.flows > params.sessions {
        return Err(Error::Option {
            option: "flows",
            found: params.flows.to_string(),
            allowed: format!("at most --sessions ({}): the active flows are sessions", params.sessions),
        });
    }
    Ok(())
}

fn forward(scenario: Scenario, params: &Params) -> Plan {
    let only_v6 = scenario == Scenario::Forward6;
    let prefixes = routes::generate(params.routes, only_v6, params.seed);
    let mut tables = topology::tables(&prefixes, false);
    if scenario == Scenario::Mark {
        tables.rules.push(RuleSpec {
            name: "mark".into(),
            priority: 1,
            matches: RuleMatch::default(),
            action: RuleAction::Permit,
            mark: Some(46),
            ..Default::default()
        });
    }
    let mut rng = Rng::new(params.seed, "flows");
    let mut load = Load::default();
    load.add(1000, flows::routed(&prefixes, params, only_v6, &mut rng));
    Plan { tables, first: Vec::new(), load, capacity: Capacity { sessions: 1024, step: STEADY } }
}

impl Plan {
    /// The generated rules.
    fn rules(params: &Params, networks: &[marchproxy_engine::tables::Cidr]) -> Vec<RuleSpec> {
        rules::generate(params.profile, params.rules, params.seed, networks)
    }
}
