//! Where DPDK's tables are: its environment on pages like those our own heap has, and what a contest needs to be laid out.

use std::time::Instant;

use marchproxy_dpdk::Eal;
use marchproxy_dpdk::table::TableError;

use super::duel::{Duel, rate};
use super::{Plan, Tables, acl, fib, hash, lpm, meter, sched};
use crate::calibrate::median;
use crate::compare::row::spread_percent;
use crate::compare::turns::Outcome;
use crate::compare::{Alone, Build, Contest, Missing};
use crate::progress::Progress;
use crate::{Error, process};

/// Why there is no contest.
pub enum Stop {
    /// Somebody pressed Ctrl-C.
    Interrupted,
    /// DPDK can't.
    Peer(String),
    /// We can't, or the answers differ.
    Ours(Error),
}

impl From<TableError> for Stop {
    fn from(error: TableError) -> Self {
        Self::Peer(error.to_string())
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

/// What a library does without a counterpart of ours.
pub struct Solo {
    pub peer: &'static str,
    pub reason: String,
    pub unit: &'static str,
    pub pass: super::duel::Pass,
}

/// What contests are laid out with.
pub struct Ground<'a> {
    pub eal: &'a Eal,
    pub plan: &'a Plan,
    pub progress: &'a Progress,
}

impl Ground<'_> {
    /// Builds theirs; answers it, the seconds, and the octets it took from DPDK's heaps.
    pub fn build<T>(&self, build: impl FnOnce() -> Result<T, Stop>) -> Result<(T, f64, u64), Stop> {
        let (before, start) = (self.eal.allocated_bytes(), Instant::now());
        let table = build()?;
        let seconds = start.elapsed().as_secs_f64();
        Ok((table, seconds, self.eal.allocated_bytes().saturating_sub(before)))
    }

    /// Runs through entries that are added one by one, with a progress bar.
    pub fn fill<T>(
        &self,
        what: &'static str,
        entries: &[T],
        mut add: impl FnMut(usize, &T) -> Result<(), TableError>,
    ) -> Result<(), Stop> {
        const STEP: usize = 1024;
        self.progress.phase(what, entries.len() as u64);
        for (step, chunk) in entries.chunks(STEP).enumerate() {
            for (at, entry) in chunk.iter().enumerate() {
                add(step * STEP + at, entry)?;
            }
            if !self.progress.advance(chunk.len() as u64) {
                return Err(Stop::Interrupted);
            }
        }
        Ok(())
    }
}

/// Both sides' figures in one.
pub fn build(ours: (f64, usize), theirs: (f64, u64)) -> Build {
    Build { ours_seconds: ours.0, theirs_seconds: theirs.0, ours_bytes: ours.1 as u64, theirs_bytes: theirs.1 }
}

impl Tables {
    /// Starts DPDK: on huge pages where enough are free, else both sides are on normal ones. May start the program again, to
    /// get such pages for its heap.
    pub fn start(plan: Plan) -> Result<Self, Error> {
        plan.check()?;
        let needed = megabytes(&plan);
        let free = free_huge_megabytes();
        let huge = free >= needed;
        if huge {
            process::with_huge_heap();
        }
        let prefix = format!("marchproxy-perf-{}", std::process::id());
        let builder = Eal::builder().no_pci().in_memory(true).file_prefix(&prefix);
        // Normal pages are taken when they are touched: what is not needed costs nothing.
        let builder = if huge { builder } else { builder.no_huge().memory_mb(2 * needed as u32) };
        let eal = builder.start().map_err(|error| Error::Peer(error.to_string()))?;
        let rig = if huge {
            "both sides on huge pages (ours as the kernel grants them)".into()
        } else {
            format!(
                "both sides on normal pages: {free} MB of huge pages are free, {needed} MB needed (scripts/hugepages/reserve)"
            )
        };
        let rig = format!("{} keys, bursts of {}, seed {}; {rig}", plan.keys, super::ours::BURST, plan.seed);
        Ok(Self { plan, eal, rig })
    }

    /// Lays out contest after contest, each with its turns before the next one takes memory. An interrupt leaves what there is.
    pub fn measure(&self, progress: &Progress) -> Result<Outcome, Error> {
        let ground = Ground { eal: &self.eal, plan: &self.plan, progress };
        let mut outcome = Outcome::default();
        for &peer in &self.plan.peers {
            match peer {
                "rte_fib" => self.duel(&mut outcome, peer, progress, || fib::v4(&ground))?,
                "rte_fib6" => self.duel(&mut outcome, peer, progress, || fib::v6(&ground))?,
                "rte_lpm" => self.duel(&mut outcome, peer, progress, || lpm::v4(&ground))?,
                "rte_lpm6" => self.duel(&mut outcome, peer, progress, || lpm::v6(&ground))?,
                "rte_hash" => {
                    for v6 in [false, true] {
                        self.duels(&mut outcome, peer, progress, || hash::duels(&ground, v6))?;
                    }
                }
                "rte_acl" => {
                    for &rules in &self.plan.rules {
                        for v6 in [false, true] {
                            self.duel(&mut outcome, peer, progress, || acl::duel(&ground, rules, v6))?;
                        }
                    }
                }
                "rte_meter" => {
                    self.duel(&mut outcome, peer, progress, || meter::single_rate(&ground))?;
                    self.duel(&mut outcome, peer, progress, || meter::two_rates(&ground))?;
                }
                _ => self.solo(&mut outcome, peer, progress, || sched::solo(&ground))?,
            }
        }
        progress.finish();
        Ok(outcome)
    }

    fn duel(
        &self,
        outcome: &mut Outcome,
        peer: &'static str,
        progress: &Progress,
        lay_out: impl FnOnce() -> Result<Duel, Stop>,
    ) -> Result<(), Error> {
        self.duels(outcome, peer, progress, || lay_out().map(|duel| vec![duel]))
    }

    fn duels(
        &self,
        outcome: &mut Outcome,
        peer: &'static str,
        progress: &Progress,
        lay_out: impl FnOnce() -> Result<Vec<Duel>, Stop>,
    ) -> Result<(), Error> {
        let Some(duels) = laid_out(outcome, peer, lay_out)? else { return Ok(()) };
        let mut contests: Vec<Box<dyn Contest>> = duels.into_iter().map(|duel| Box::new(duel) as _).collect();
        let part = self.plan.turns.take("tables", &mut contests, progress)?;
        outcome.rows.extend(part.rows);
        outcome.missing.extend(part.missing);
        outcome.interrupted |= part.interrupted;
        Ok(())
    }

    fn solo(
        &self,
        outcome: &mut Outcome,
        peer: &'static str,
        progress: &Progress,
        lay_out: impl FnOnce() -> Result<Solo, Stop>,
    ) -> Result<(), Error> {
        let Some(mut solo) = laid_out(outcome, peer, lay_out)? else { return Ok(()) };
        progress.phase("measuring", self.plan.turns.repeats as u64);
        let mut rates = Vec::new();
        for _ in 0..self.plan.turns.repeats {
            let rate = rate(&mut solo.pass, self.plan.turns.duration);
            if progress.stopped() {
                outcome.interrupted = true;
                break;
            }
            rates.push(rate);
            progress.advance(1);
        }
        let spread_percent = spread_percent(&rates);
        let alone = (!rates.is_empty()).then(|| Alone { theirs: median(rates), unit: solo.unit, spread_percent });
        outcome.missing.push(Missing { alone, ..Missing::new(solo.peer, solo.reason) });
        Ok(())
    }
}

/// What was laid out, or nothing: the peer is missing then, or somebody pressed Ctrl-C.
fn laid_out<T>(
    outcome: &mut Outcome,
    peer: &'static str,
    lay_out: impl FnOnce() -> Result<T, Stop>,
) -> Result<Option<T>, Error> {
    if outcome.interrupted {
        return Ok(None);
    }
    match lay_out() {
        Ok(contest) => return Ok(Some(contest)),
        Err(Stop::Interrupted) => outcome.interrupted = true,
        Err(Stop::Peer(reason)) => outcome.missing.push(Missing::new(peer, reason)),
        Err(Stop::Ours(error)) => return Err(error),
    }
    Ok(None)
}

/// What DPDK's largest table will need, roughly: two direct tables of 64 MB with what else there is, 2 KB a route (up to three groups of
/// 1 KB for each IPv6 one), 512 octets a session (two keys, in a table half full), 64 KB a rule for its share of the tries.
fn megabytes(plan: &Plan) -> usize {
    let largest = plan.peers.iter().map(|&peer| match peer {
        "rte_hash" => plan.sessions << 9,
        "rte_acl" => plan.rules.iter().max().map_or(0, |rules| rules << 16),
        "rte_meter" | "rte_sched" => 0,
        _ => plan.routes << 11,
    });
    256 + (largest.max().unwrap_or(0) >> 20)
}

fn free_huge_megabytes() -> usize {
    let pages = crate::machine::huge_pages();
    ((pages.free * pages.size_kb) >> 10) as usize
}
