//! Runs a warm node with several workers: in turn as a device spreads packets, and as they would come if each reached its owner at once.
//! The difference is what handing over costs.

use std::time::Instant;

use super::hands::{Hands, Share};
use super::rig::{Part, TeamRig};
use crate::calibrate::clock_cost;
use crate::churn::{self, Churned};
use crate::latency::Latency;
use crate::load::{Load, Template};
use crate::measure::{KEEP_ALIVE, Limits, Outcome, WARM_UP, Window};
use crate::progress::Progress;
use crate::rig::{BUFFERS, Batch};
use crate::scenario::{self, CounterSlots, Params, Scenario};
use crate::seeded::Rng;
use crate::{Error, measure};

/// A node that is warm, and what to send it.
pub struct TeamBench {
    /// The node.
    pub rig: TeamRig,
    hands: Hands,
    /// Traffic as the device's hash spreads it, by worker.
    spread: Vec<Part>,
    /// The same at the owners of its sessions; empty where there are none.
    direct: Vec<Part>,
    keep_alive: Vec<Template>,
    slots: CounterSlots,
    churn: Option<u64>,
}

/// What is known about single workers and about handing over, beside the outcome of all.
#[derive(Clone, Debug, Default)]
pub struct TeamOutcome {
    /// By number.
    pub members: Vec<Member>,
    /// Engine cycles per packet without handing over, of each repeat; empty where no packet has an owner.
    pub direct: Vec<f64>,
}

/// One worker's part.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// What its batches cost.
    pub window: Window,
    /// Packets handed to others.
    pub handed_off: u64,
    /// Packets taken over from others.
    pub taken: u64,
    /// Times another thread interrupted it.
    pub switches: u64,
}

/// How packets reach the workers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Spread,
    Direct,
}

/// Builds the node and warms it up.
pub fn prepare(scenario: Scenario, params: &Params, cores: &[usize], progress: &Progress) -> Result<TeamBench, Error> {
    progress.phase("laying out tables and flows", 0);
    let mut plan = scenario::plan(scenario, params)?;
    progress.phase("building the snapshot", 0);
    let mut rig = TeamRig::new(&plan, params, cores.len())?;
    let warm = |rig: &mut TeamRig, what, frames: &mut dyn Iterator<Item = &Template>, count: usize| {
        progress.phase(what, count as u64);
        if rig.warm(frames, |n| progress.advance(n)) { Ok(()) } else { Err(Error::Interrupted) }
    };
    warm(&mut rig, "making sessions", &mut plan.first.iter(), plan.first.len())?;
    let drops = measure::named(&rig.counts(&CounterSlots::default()).drops);
    scenario::establish(scenario, params, &mut plan.load, &rig.sessions(), rig.now(), &drops)?;
    let count = plan.load.lasting().count();
    warm(&mut rig, "sending every flow once", &mut plan.load.lasting(), count)?;
    let slots = CounterSlots::of(rig.snapshot());
    let parts = |loads: Vec<Load>, label| {
        let part = |(n, load)| Part { load, rng: Rng::new(params.seed + n as u64, label) };
        loads.into_iter().enumerate().map(part).collect()
    };
    let spread = parts(rig.spread(&plan.load), "replay");
    let direct = if scenario.has_services() { parts(rig.direct(&plan.load), "replay") } else { Vec::new() };
    let hands = Hands::new(cores)?;
    Ok(TeamBench { rig, hands, spread, direct, keep_alive: plan.first, slots, churn: params.churn })
}

impl TeamBench {
    /// One batch of `packets` packets in all, spread as the parts' weights say.
    fn batch(&mut self, way: Way, packets: usize) -> Result<Vec<Share>, Error> {
        let parts = if way == Way::Spread { &mut self.spread } else { &mut self.direct };
        let all: u128 = parts.iter().map(|part| part.load.weight() as u128).sum();
        let (mut sum, mut given) = (0, 0);
        let counts: Vec<_> = parts
            .iter()
            .map(|part| {
                sum += part.load.weight() as u128;
                // Rounded so that all of them are exactly what was asked for.
                let upto = (packets as u128 * sum / all.max(1)) as usize;
                let count = upto - given;
                given = upto;
                count
            })
            .collect();
        self.hands.batch(&mut self.rig.seats, parts, &counts, self.rig.step)
    }

    fn keep_alive(&mut self) {
        self.rig.warm(&self.keep_alive, |_| true);
    }
}

/// Measures. An interrupt ends it early with what there is.
pub fn run(bench: &mut TeamBench, limits: &Limits, progress: &Progress) -> Result<Outcome, Error> {
    let clock = clock_cost();
    let workers = bench.rig.seats.len();
    let ways: &[Way] = if bench.direct.is_empty() { &[Way::Spread] } else { &[Way::Spread, Way::Direct] };
    for _ in 0..WARM_UP {
        for &way in ways {
            bench.batch(way, BUFFERS * workers)?;
            bench.rig.settle();
        }
    }
    if let Some(rate) = bench.churn {
        churn::calibrate(bench, rate, progress)?;
    }
    let per_window = limits.packets.unwrap_or(limits.duration.as_millis() as u64);
    progress.phase("measuring", per_window * (limits.repeats * ways.len()) as u64);
    let mut latency = Latency::new()?;
    let mut team = TeamOutcome { members: vec![Member::default(); workers], direct: Vec::new() };
    let mut windows = Vec::with_capacity(limits.repeats);
    let mut alive = bench.rig.now();
    while windows.len() < limits.repeats && !progress.stopped() {
        for &way in ways {
            let mut window = Window::default();
            let (start, mut shown) = (Instant::now(), 0);
            while !progress.stopped() {
                let left = limits.left(start.elapsed(), window.sum.packets, BUFFERS * workers);
                if left == 0 {
                    break;
                }
                let before = bench.rig.counts(&bench.slots);
                let shares = bench.batch(way, left)?;
                let mut whole = Batch::default();
                for share in &shares {
                    whole.add(&share.batch);
                }
                if whole.packets == 0 {
                    return Err(Error::Harness("the load sends nothing"));
                }
                window.keep(&whole, clock);
                if way == Way::Spread {
                    for seat in &bench.rig.seats {
                        seat.meter.take_passages(|ticks, packets| {
                            latency.record(ticks.saturating_sub(clock), packets);
                        });
                    }
                    for (member, share) in team.members.iter_mut().zip(&shares) {
                        member.keep(share, clock);
                    }
                }
                bench.rig.settle();
                window.counts.add(&before, &bench.rig.counts(&bench.slots));
                if bench.rig.now() - alive > KEEP_ALIVE {
                    bench.keep_alive();
                    alive = bench.rig.now();
                }
                let at = limits.packets.map_or(start.elapsed().as_millis() as u64, |_| window.sum.packets);
                progress.advance(at.min(per_window) - shown);
                shown = at.min(per_window);
            }
            match way {
                _ if window.sum.packets == 0 => {}
                Way::Spread => windows.push(window),
                Way::Direct => team.direct.push(window.cycles()),
            }
        }
    }
    if windows.is_empty() {
        return Err(Error::Interrupted);
    }
    bench.rig.settle();
    let totals = bench.rig.totals();
    let (residue, held) = (totals.residue(), totals.held);
    Ok(Outcome { windows, latency, interrupted: progress.stopped(), residue, held, team: Some(team) })
}

impl Member {
    fn keep(&mut self, share: &Share, clock: u64) {
        // A worker whose queues got nothing only helps others.
        if share.batch.packets > 0 {
            self.window.keep(&share.batch, clock);
        }
        self.handed_off += share.handed_off;
        self.taken += share.taken;
        self.switches += share.switches;
    }
}

impl Churned for TeamBench {
    fn set_share(&mut self, share: f64) {
        for part in self.spread.iter_mut().chain(&mut self.direct) {
            part.load.set_fresh_share(share);
        }
    }

    fn try_batches(&mut self, batches: usize) -> Result<(Batch, f64), Error> {
        let mut members = vec![Batch::default(); self.rig.seats.len()];
        for _ in 0..batches {
            let shares = self.batch(Way::Spread, BUFFERS * members.len())?;
            for (member, share) in members.iter_mut().zip(&shares) {
                member.add(&share.batch);
            }
            self.rig.settle();
        }
        let mut sum = Batch::default();
        for member in &members {
            sum.add(member);
        }
        Ok((sum, members.iter().map(Batch::per_cpu_second).sum()))
    }

    fn slow_down(&mut self, step: f64) {
        self.rig.slow_down(step);
    }
}
