//! One trial: device on one core, tester on another; sending, draining, and only then reading counters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use marchproxy_cpu::tsc;
use marchproxy_engine::reason::DropReason;
use serde::Serialize;

use super::device::{Device, Interruptions, Loopback, NodeDevice, drive, is_loss};
use super::search::Verdict;
use super::tester::{Ask, Tally, Tester};
use crate::load::{FCS, Load, Template, WIRE_OVERHEAD};
use crate::progress::Progress;
use crate::seeded::Rng;
use crate::warm::Surroundings;
use crate::{Error, measure};

/// Share of the asked packets that the tester must really have offered.
const KEPT: f64 = 0.999;

/// Longest pause inside a burst, in seconds: the device would forward some of it meanwhile.
const GAP: f64 = 25e-6;

/// Longest turn, in seconds, that is still the device's own: a turn takes microseconds, a pause longer than this was taken from it.
const PAUSE: f64 = 200e-6;

/// Cores of the two threads, and the rate of their counter.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cores {
    /// Of the tester.
    pub tester: usize,
    /// Of the device under test.
    pub device: usize,
    /// Ticks a second of the time stamp counter.
    #[serde(skip)]
    pub hz: u64,
}

/// What came out of a trial.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// Rate asked for, million packets per second; `None` for as fast as the tester can.
    pub asked_mpps: Option<f64>,
    /// Rate offered.
    pub offered_mpps: f64,
    /// Packets that came back, per second of sending.
    pub received_mpps: f64,
    /// Time of sending.
    pub seconds: f64,
    /// Packets sent.
    pub offered: u64,
    /// Packets received.
    pub received: u64,
    /// Mean octets of a frame with FCS.
    pub frame_octets: f64,
    /// Packets lost in percent of those offered; what a rule denies is not lost.
    pub loss_percent: f64,
    /// Where they were lost.
    pub lost: BTreeMap<&'static str, u64>,
    /// What the device dropped because it was told to.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub denied: BTreeMap<&'static str, u64>,
    /// Packets nobody can account for; 0 always.
    pub residue: i64,
    /// End-to-end latency.
    pub latency: Latency,
    /// Why the load was not what was asked for: such a trial says nothing about the device.
    pub invalid: Option<String>,
    /// What was taken from the device's thread: losses may come from that.
    pub disturbed: Vec<String>,
    /// Involuntary context switches of the device's thread.
    pub device_switches: u64,
    /// The longest time between two turns of the device, in microseconds.
    pub longest_turn_us: f64,
    /// The longest time the tester did not look at its clock, in microseconds.
    pub longest_pause_us: f64,
}

/// Latency in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Packets.
    pub packets: u64,
    /// Least.
    pub min_us: f64,
    /// Mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90 % of the packets were faster.
    pub p90_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p99_9_us: f64,
    /// The slowest one.
    pub max_us: f64,
}

impl Latency {
    fn of(tally: &Tally, hz: u64) -> Self {
        let micros = |ticks: f64| ticks * 1e6 / hz as f64;
        let at = |quantile| micros(tally.latency.value_at_quantile(quantile) as f64);
        if tally.latency.is_empty() {
            return Self::default();
        }
        Self {
            packets: tally.latency.len(),
            min_us: micros(tally.latency.min() as f64),
            mean_us: micros(tally.latency.mean()),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            max_us: micros(tally.latency.max() as f64),
        }
    }
}

impl Trial {
    /// Gigabit per second on the wire at the rate offered: frame, preamble and gap.
    pub fn gbit(&self, mpps: f64) -> f64 {
        mpps * (self.frame_octets + WIRE_OVERHEAD as f64) * 8.0 / 1e3
    }

    fn new(ask: Ask, tally: &Tally, interruptions: Interruptions, cores: Cores) -> Self {
        let seconds = (tally.ticks as f64 / cores.hz as f64).max(f64::MIN_POSITIVE);
        let mpps = |packets: u64| packets as f64 / seconds / 1e6;
        let millis = |ticks: u64| ticks as f64 * 1e3 / cores.hz as f64;
        let scheduled = tally.offered + tally.slipped;
        let kept = tally.offered as f64 / scheduled.max(1) as f64;
        let slow = kept < KEPT && ask.rate.is_some();
        let torn = ask.count.is_some() && tally.longest_pause as f64 > GAP * cores.hz as f64;
        let invalid = if tally.backwards > 0 {
            Some(format!("{} packets came before they were sent: the cores' counters differ", tally.backwards))
        } else if torn {
            Some(format!("the tester paused for {:.2} ms in the burst", millis(tally.longest_pause)))
        } else {
            slow.then(|| {
                format!(
                    "the tester offered {:.1} % of the load asked for (longest pause {:.2} ms)",
                    kept * 100.0,
                    millis(tally.longest_pause)
                )
            })
        };
        let mut disturbed = Vec::new();
        if interruptions.switches > 0 {
            disturbed.push(format!("other threads took the device's core {} times", interruptions.switches));
        }
        if interruptions.stolen > 0 {
            disturbed.push(format!("the hypervisor took {} ms", interruptions.stolen * 10));
        }
        if interruptions.longest_turn as f64 > PAUSE * cores.hz as f64 {
            disturbed.push(format!("the device stood still for {:.2} ms", millis(interruptions.longest_turn)));
        }
        Self {
            asked_mpps: ask.rate.map(|rate| rate / 1e6),
            offered_mpps: mpps(tally.offered),
            received_mpps: mpps(tally.received),
            seconds,
            offered: tally.offered,
            received: tally.received,
            frame_octets: tally.octets as f64 / tally.offered.max(1) as f64 + FCS as f64,
            loss_percent: 0.0,
            lost: BTreeMap::new(),
            denied: BTreeMap::new(),
            residue: 0,
            latency: Latency::of(tally, cores.hz),
            invalid,
            disturbed,
            device_switches: interruptions.switches,
            longest_turn_us: millis(interruptions.longest_turn) * 1e3,
            longest_pause_us: millis(tally.longest_pause) * 1e3,
        }
    }

    /// Adds what became of the packets that did not come back. `drops` is what the device dropped meanwhile.
    fn account(&mut self, missed: u64, drops: &[u64; DropReason::COUNT]) {
        let (mut losses, mut denied) = ([0; DropReason::COUNT], [0; DropReason::COUNT]);
        for reason in DropReason::ALL {
            let side = if is_loss(*reason) { &mut losses } else { &mut denied };
            side[reason.index()] = drops[reason.index()];
        }
        let meant: u64 = denied.iter().sum();
        self.lost = measure::named(&losses);
        self.denied = measure::named(&denied);
        if missed > 0 {
            self.lost.insert(MISSED, missed);
        }
        let lost = self.offered.saturating_sub(self.received + meant);
        self.loss_percent = lost as f64 * 100.0 / self.offered.max(1) as f64;
    }
}

impl Trial {
    /// What the trial says about its load. A tester that came late offered less than asked for, and a device that loses packets even
    /// then is too slow; but not when what filled up is the ring that the tester should have emptied.
    pub fn verdict(&self, allowed: f64) -> Verdict {
        let own_fault = self.invalid.is_some() && self.lost.contains_key(DropReason::TxQueueFull.label());
        match self.loss_percent > allowed {
            true if own_fault => Verdict::Invalid,
            true => Verdict::Lost,
            false if self.invalid.is_some() => Verdict::Invalid,
            false => Verdict::Held,
        }
    }
}

/// The name of a loss at the device's receive ring.
pub const MISSED: &str = "rx_missed";

/// Runs device and tester side by side.
fn side_by_side(
    device: &mut impl Device,
    tester: &mut Tester,
    load: &mut Load,
    rng: &mut Rng,
    ask: Ask,
    cores: Cores,
    progress: &Progress,
) -> Result<Interruptions, Error> {
    let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| drive(device, cores.device, cores.hz, &ready, &stop));
        while !ready.load(Ordering::Acquire) && !thread.is_finished() {
            std::thread::yield_now();
        }
        let generated = tester.generate(load, rng, ask, cores.hz, progress);
        // RFC 2544 s26.1 waits two seconds for frames on their way; here it can be seen whether there are any.
        let end = tsc() + 2 * cores.hz;
        let mut quiet = tsc();
        while tsc() < end && (!tester.delivered() || tsc() < quiet + cores.hz / 500) {
            if tester.drain() {
                quiet = tsc();
            }
        }
        stop.store(true, Ordering::Relaxed);
        while !thread.is_finished() {
            tester.drain();
        }
        // What its last turn sent, after we had looked for the last time. Nobody adds to it any more.
        while tester.drain() {}
        let driven = thread.join().map_err(|_| Error::Harness("the device's thread panicked"))?;
        generated?;
        driven
    })
}

/// The node under test and its tester.
pub struct Bed {
    /// The node.
    pub device: NodeDevice,
    /// What sends and receives.
    pub tester: Tester,
    /// Where both run.
    pub cores: Cores,
    /// Involuntary switches of the device's thread in all trials.
    pub switches: u64,
}

impl Bed {
    /// One trial.
    pub fn trial(&mut self, load: &mut Load, rng: &mut Rng, ask: Ask, progress: &Progress) -> Result<Trial, Error> {
        let before = self.device.drops();
        let interruptions = side_by_side(&mut self.device, &mut self.tester, load, rng, ask, self.cores, progress)?;
        let tally = self.tester.tally();
        let (missed, mut trial) = (tally.missed, Trial::new(ask, tally, interruptions, self.cores));
        // Requests the slow path made at the very end may still be on the wires.
        self.settle();
        let after = self.device.drops();
        trial.account(missed, &std::array::from_fn(|i| after[i] - before[i]));
        trial.residue = self.device.residue(self.tester.pushed, self.tester.pulled);
        self.switches += interruptions.switches;
        if trial.residue != 0 {
            return Err(Error::Residue { packets: trial.residue });
        }
        Ok(trial)
    }
}

impl Surroundings for Bed {
    fn send(&mut self, template: &Template) {
        self.tester.send_unmeasured(template);
    }

    fn turn(&mut self) -> usize {
        self.device.turn(tsc())
    }

    fn slow_turn(&mut self) -> usize {
        self.device.rest(tsc())
    }

    fn answer(&mut self) -> bool {
        self.tester.drain()
    }
}

/// The tester alone: what it can offer, and what rings and tester add to every latency.
pub struct Bench {
    /// Swaps addresses only.
    pub device: Loopback,
    /// What sends and receives.
    pub tester: Tester,
    /// Where both run.
    pub cores: Cores,
}

impl Bench {
    /// One trial.
    pub fn trial(&mut self, load: &mut Load, rng: &mut Rng, ask: Ask, progress: &Progress) -> Result<Trial, Error> {
        let interruptions = side_by_side(&mut self.device, &mut self.tester, load, rng, ask, self.cores, progress)?;
        let tally = self.tester.tally();
        let (missed, mut trial) = (tally.missed, Trial::new(ask, tally, interruptions, self.cores));
        trial.account(missed, &[0; DropReason::COUNT]);
        trial.residue = self.tester.pushed as i64 - self.tester.pulled as i64;
        if trial.residue != 0 {
            return Err(Error::Residue { packets: trial.residue });
        }
        Ok(trial)
    }
}

/// The core each thread gets: the device's, and another one of those allowed.
pub fn cores(device: Option<usize>, tester: Option<usize>, hz: u64) -> Result<Cores, Error> {
    let allowed = marchproxy_cpu::current_affinity()
        .map_err(|source| Error::System { what: "which cores are allowed".into(), source })?;
    choose(&allowed, device, tester).map(|(device, tester)| Cores { tester, device, hz })
}

fn choose(allowed: &[usize], device: Option<usize>, tester: Option<usize>) -> Result<(usize, usize), Error> {
    for (option, core) in [("core", device), ("tester-core", tester)] {
        if let Some(core) = core.filter(|core| !allowed.contains(core)) {
            return Err(Error::Option { option, found: core.to_string(), allowed: format!("one of {allowed:?}") });
        }
    }
    let other = |taken: Option<usize>| allowed.iter().copied().rfind(|core| Some(*core) != taken);
    let device = device.or_else(|| other(tester));
    let tester = tester.or_else(|| allowed.iter().copied().find(|core| Some(*core) != device));
    match (device, tester) {
        (Some(device), Some(tester)) if device != tester => Ok((device, tester)),
        (Some(device), Some(_)) => Err(Error::Option {
            option: "tester-core",
            found: device.to_string(),
            allowed: "another core than the device's: on one core the tester would stop the device while it sends"
                .into(),
        }),
        _ => Err(Error::OneCore { allowed: allowed.to_vec() }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A trial of 1,000 packets of which some came back.
    fn trial(received: u64, slipped: u64, drops: &[(DropReason, u64)], missed: u64) -> Trial {
        let mut tally = Tally::new().unwrap();
        (tally.offered, tally.received, tally.slipped, tally.missed) = (1000, received, slipped, missed);
        (tally.octets, tally.ticks) = (60_000, 1_000_000);
        let ask = Ask { rate: Some(1e6), duration: Duration::from_millis(1), count: None };
        let cores = Cores { tester: 0, device: 1, hz: 1_000_000_000 };
        let mut trial = Trial::new(ask, &tally, Interruptions::default(), cores);
        let mut counts = [0; DropReason::COUNT];
        for (reason, count) in drops {
            counts[reason.index()] = *count;
        }
        trial.account(missed, &counts);
        trial
    }

    #[test]
    fn losses_are_named_and_verdicts_of_policy_are_none() {
        let clean = trial(1000, 0, &[], 0);
        assert_eq!((clean.verdict(0.0), clean.lost.len()), (Verdict::Held, 0));
        assert!((clean.offered_mpps - 1.0).abs() < 1e-9 && (clean.frame_octets - 64.0).abs() < 1e-9);
        assert!((clean.gbit(1.0) - 0.672).abs() < 1e-9);
        let denied = trial(980, 0, &[(DropReason::RuleDeny, 20)], 0);
        assert_eq!(denied.verdict(0.0), Verdict::Held);
        assert_eq!(denied.denied["rule_deny"], 20);
        let lossy = trial(970, 0, &[(DropReason::SessionTableFull, 10), (DropReason::RuleDeny, 15)], 5);
        assert!((lossy.loss_percent - 1.5).abs() < 1e-9);
        assert_eq!(lossy.lost.into_iter().collect::<Vec<_>>(), [("rx_missed", 5), ("session_table_full", 10)]);
    }

    #[test]
    fn a_late_tester_makes_no_verdict_but_that_of_a_device_too_slow_even_then() {
        assert_eq!(trial(1000, 1, &[], 0).verdict(0.0), Verdict::Held);
        let late = trial(1000, 100, &[], 0);
        assert_eq!(late.verdict(0.0), Verdict::Invalid);
        assert!(late.invalid.unwrap().contains("90.9 %"));
        assert_eq!(trial(900, 100, &[], 100).verdict(0.1), Verdict::Lost);
        assert_eq!(trial(900, 100, &[(DropReason::TxQueueFull, 100)], 0).verdict(0.1), Verdict::Invalid);
        assert_eq!(trial(900, 0, &[(DropReason::TxQueueFull, 100)], 0).verdict(0.1), Verdict::Lost);
    }

    #[test]
    fn two_cores_are_chosen_or_the_reason_is_said() {
        assert_eq!(choose(&[0, 1, 4], None, None).unwrap(), (4, 0));
        assert_eq!(choose(&[0, 1], Some(0), None).unwrap(), (0, 1));
        assert_eq!(choose(&[0, 1], None, Some(1)).unwrap(), (0, 1));
        let refused = |device, tester| choose(&[0, 1], device, tester).unwrap_err().to_string();
        assert!(refused(Some(7), None).contains("--core: found 7"));
        assert!(refused(Some(1), Some(1)).contains("--tester-core"));
        let one = choose(&[3], None, None).unwrap_err().to_string();
        assert!(one.contains("[3]") && one.contains("two cores"), "{one}");
    }
}
