//! Whole programs against ours: one set of tables and frames, one rig, and a contest for each peer that can be had.

use std::time::Duration;

use super::dpdk::UNIT;
use super::ours::Ours;
use super::peers::{self, Peer};
use super::rig::{PACKETS, Rig};
use super::{Contest, Contests, Missing};
use crate::Error;
use crate::load::Template;
use crate::progress::Progress;
use crate::rig::mac;
use crate::scenario::{self, Params, Plan, Scenario};
use crate::seeded::Rng;

/// The most frames of a capture file: programs keep each in a buffer of 2 KB.
const MOST: usize = 65_536;

/// What both sides work on.
pub struct Ground {
    scenario: Scenario,
    rig: Rig,
    plan: Plan,
    ours: Ours,
}

/// The scenario's defaults, as large as every peer can take them: a frame for each flow, and sessions that l3fwd can read from a file.
pub fn defaults(scenario: Scenario) -> Params {
    let defaults = scenario.defaults();
    let sessions = if scenario.has_services() { 100_000 } else { 0 };
    Params { flows: PACKETS, sessions, ..defaults }
}

impl Ground {
    /// Lays out tables and frames, and writes the capture files. `cores` are the worker's and everybody else's.
    pub fn new(scenario: Scenario, params: &Params, cores: [usize; 2], progress: &Progress) -> Result<Self, Error> {
        if params.flows > MOST {
            let allowed = format!("at most {MOST}: each flow has a frame in the capture file");
            return Err(Error::Option { option: "flows", found: params.flows.to_string(), allowed });
        }
        let plan = scenario::traffic(scenario, params, progress)?;
        let rig = Rig::new(cores, frames(&plan, params.seed))?;
        Ok(Self { scenario, rig, plan, ours: Ours::new(scenario, params) })
    }

    /// A contest with each of the wanted peers, and those that cannot be had.
    pub fn contests<'a>(
        &'a self,
        wanted: &[&str],
        progress: &'a Progress,
    ) -> Result<(Contests<'a>, Vec<Missing>), Error> {
        let mut contests: Contests<'a> = Vec::new();
        let mut missing = Vec::new();
        for mut peer in peers::of(self.scenario) {
            if !wanted.contains(&peer.name()) {
                continue;
            }
            progress.phase("preparing the others", 0);
            match peer.prepare(&self.rig, &self.plan, progress) {
                Ok(()) => contests.push(Box::new(Against { peer, ground: self, progress })),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => missing.push(Missing::new(peer.name(), error.to_string())),
            }
        }
        Ok((contests, missing))
    }

    /// How often our worker was interrupted so far, and in how many seconds of measuring.
    pub fn switches(&self) -> (u64, f64) {
        self.ours.switches()
    }

    /// The rig in words.
    pub fn describe(&self) -> String {
        self.rig.describe()
    }
}

/// Each lasting flow's frame once, in random order, by the port it arrives on: servers' side, clients' side.
fn frames(plan: &Plan, seed: u64) -> [Vec<Vec<u8>>; 2] {
    let mut templates: Vec<&Template> = plan.load.lasting().collect();
    Rng::new(seed, "capture").shuffle(&mut templates);
    [0u8, 1].map(|port| {
        let on_port = templates.iter().filter(|template| template.port == port);
        on_port.map(|template| template.frame(mac(port))).collect()
    })
}

/// Us against one of them.
struct Against<'a> {
    peer: Box<dyn Peer>,
    ground: &'a Ground,
    progress: &'a Progress,
}

impl Contest for Against<'_> {
    fn peer(&self) -> &str {
        self.peer.name()
    }

    fn unit(&self) -> &'static str {
        UNIT
    }

    fn note(&self) -> String {
        self.peer.note()
    }

    fn elsewhere(&self) -> f64 {
        self.peer.elsewhere()
    }

    fn ours(&mut self, duration: Duration) -> Result<f64, Error> {
        self.ground.ours.rate(&self.ground.rig, duration, self.progress)
    }

    fn theirs(&mut self, duration: Duration) -> Result<f64, Error> {
        self.peer.rate(&self.ground.rig, duration, self.progress)
    }
}
