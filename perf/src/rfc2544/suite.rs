//! The tests of RFC 2544 s26 over families and packet sizes: throughput, latency, frame loss, back-to-back frames.

use std::time::Duration;

use marchproxy_cpu::{TscClock, tsc};
use marchproxy_engine::testkit::port_mac;
use rtrb::RingBuffer;

use super::device::{Loopback, NodeDevice};
use super::report::{Bursts, Case, Family, Limit, LoadStep, LossPoint, Report, Settings, Step, Throughput};
use super::ring::{DESCRIPTORS, StampedPool, wire};
use super::search::{self, Length, Verdict};
use super::tester::{Ask, Tester};
use super::trial::{Bed, Bench, Cores, Trial};
use crate::Error;
use crate::calibrate::median;
use crate::load::{Load, Size, Template, WIRE_OVERHEAD};
use crate::machine::Watch;
use crate::node::{Node, OpenPort};
use crate::progress::Progress;
use crate::rig::BUFFERS;
use crate::scenario::{self, Params, Plan, STEADY, Scenario};
use crate::seeded::Rng;
use crate::warm::Surroundings;

/// Loads at which latency is measured, in percent of the throughput.
const LOADS: [u32; 6] = [10, 50, 80, 90, 95, 99];

/// Times a trial is made before an invalid or disturbed one counts.
const ATTEMPTS: usize = 3;

/// The same for bursts.
const BURST_ATTEMPTS: usize = 10;

/// Part of what the tester can send at all that it is asked for at most: the rest keeps it on time.
const HEADROOM: f64 = 0.9;

/// Trials that find out what the tester can.
const LOOPBACKS: usize = 3;

/// Seconds of each of them.
const LOOPBACK: f64 = 0.1;

/// Frames of the first burst, half a ring; and how exactly the longest one is found.
const FIRST_BURST: u64 = DESCRIPTORS as u64 / 2;
const BURST_RESOLUTION: u64 = 16;

/// Node time from one packet of every session to the next: less than the shortest timeout of an established one (7,440 s).
const KEEP_ALIVE: u64 = 7_000_000_000_000;

/// Which tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Test {
    /// The highest rate without loss, and with little (s26.1)
    Throughput,
    /// End-to-end latency at shares of the throughput (s26.2)
    Latency,
    /// The longest burst without loss (s26.4)
    BackToBack,
    /// Loss from the maximum rate down (s26.3)
    FrameLoss,
    /// All of them
    All,
}

impl Test {
    fn wants(self, test: Test) -> bool {
        self == Self::All || self == test
    }
}

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Work {
    /// Tests.
    pub test: Test,
    /// Tables and traffic.
    pub scenario: Scenario,
    /// How much of everything; the packet size is that of the cases.
    pub params: Params,
    /// Packet sizes.
    pub packets: Vec<Size>,
    /// Families.
    pub families: Vec<Family>,
    /// How.
    pub settings: Settings,
}

/// Measures. An interrupt ends it with what there is.
pub fn run(work: &Work, cores: Cores, clock: TscClock, progress: &Progress) -> Result<Report, Error> {
    crate::process::pin(Some(cores.tester))?;
    let (mut lab, first) = Lab::new(work, cores, clock, progress)?;
    let mut cases = Vec::new();
    let mut watch = Watch::over(vec![cores.device]);
    'all: for &family in &work.families {
        for &packet in &work.packets {
            let mut case = None;
            let outcome = lab.case(work, packet, family, &first, &mut case, progress);
            cases.extend(case);
            match outcome {
                Ok(()) => {}
                Err(Error::Interrupted) => break 'all,
                Err(error) => return Err(error),
            }
        }
    }
    progress.finish();
    if cases.is_empty() {
        return Err(Error::Interrupted);
    }
    let memory = lab.bed.device.node().memory.clone();
    watch.interrupted(lab.bed.switches);
    let (machine, mut noise) = watch.finish(cores.hz, &memory, None);
    noise.extend(doubts(&cases));
    Ok(Report {
        methodology: "RFC 2544 s26, RFC 1242, RFC 9004",
        scenario: work.scenario,
        backend: "memory",
        settings: work.settings.clone(),
        parameters: work.params.clone(),
        cores,
        cases,
        residue: 0,
        machine,
        noisy: !noise.is_empty(),
        noise,
        interrupted: progress.stopped(),
    })
}

/// What the trials themselves say against their figures.
fn doubts(cases: &[Case]) -> Vec<String> {
    let all = || cases.iter().flat_map(|case| &case.throughput);
    let (doubtful, count) = (all().filter(|t| t.doubtful).count(), all().count());
    let invalid = all().flat_map(|t| &t.steps).filter(|step| step.verdict == Verdict::Invalid).count();
    let mut doubts = Vec::new();
    if doubtful > 0 {
        doubts.push(format!(
            "{doubtful} of {count} throughputs end at a trial whose device was interrupted {ATTEMPTS} times in a row"
        ));
    }
    if invalid > 0 {
        doubts.push(format!("the tester did not keep the rate in {invalid} trials"));
    }
    doubts
}

/// Both beds, and the time the sessions were last refreshed.
struct Lab {
    bed: Bed,
    bench: Bench,
    refreshed: u64,
    rng: Rng,
}

/// A case while it is measured.
struct Bound<'a> {
    lab: &'a mut Lab,
    load: Load,
    settings: &'a Settings,
    keep_alive: &'a [Template],
    progress: &'a Progress,
    trials: usize,
    repeated: usize,
}

impl Lab {
    /// Builds and fills the node; also returns the frames that keep its sessions alive.
    fn new(work: &Work, cores: Cores, clock: TscClock, progress: &Progress) -> Result<(Self, Vec<Template>), Error> {
        progress.phase("laying out tables and flows", 0);
        let Plan { tables, first, capacity, .. } = scenario::plan(work.scenario, &work.params)?;
        progress.phase("building the snapshot", 0);
        let mut sides = Vec::new();
        let node = Node::new(&tables, capacity.sessions, StampedPool, |slot| {
            let ((rx, tx), side) = wire();
            sides.push(side);
            Ok(OpenPort { rx, tx, mac: port_mac(slot.index()) })
        })?;
        let (home, returned) = RingBuffer::new(BUFFERS);
        let seed = work.params.seed;
        let mut bed = Bed {
            device: NodeDevice::new(node, clock, capacity.step / STEADY, home),
            tester: Tester::new(sides, returned, seed)?,
            cores,
            switches: 0,
        };
        progress.phase("making sessions", first.len() as u64);
        if !bed.warm(&first, |n| progress.advance(n)) {
            return Err(Error::Interrupted);
        }
        let ((lan, lan_side), (wan, wan_side)) = (wire(), wire());
        // The loop drops nothing: no buffer comes back that way.
        let (_, none) = RingBuffer::new(1);
        let bench = Bench {
            device: Loopback::new([lan, wan]),
            tester: Tester::new(vec![lan_side, wan_side], none, seed)?,
            cores,
        };
        let refreshed = bed.device.now(tsc());
        Ok((Self { bed, bench, refreshed, rng: Rng::new(seed, "replay") }, first))
    }

    /// Measures one case into `into`, which has what there is when it ends early.
    fn case(
        &mut self,
        work: &Work,
        packet: Size,
        family: Family,
        keep_alive: &[Template],
        into: &mut Option<Case>,
        progress: &Progress,
    ) -> Result<(), Error> {
        let title = |what: &str| format!("{packet} {}: {what}", family.label());
        progress.phase(title("flows"), 0);
        let load = self.load(work, packet, family)?;
        let frames = load.lasting().count();
        progress.phase(title("sending every flow once"), frames as u64);
        if !self.bed.warm(load.lasting(), |n| progress.advance(n)) {
            return Err(Error::Interrupted);
        }
        let mut bound =
            Bound { lab: self, load, settings: &work.settings, keep_alive, progress, trials: 0, repeated: 0 };
        progress.phase(title("the tester alone"), 0);
        let case = into.insert(bound.alone(packet, family, frames)?);
        let outcome = bound.tests(work.test, case, &title);
        (case.trials, case.repeated) = (bound.trials, bound.repeated);
        outcome
    }

    /// The traffic of a case.
    fn load(&mut self, work: &Work, packet: Size, family: Family) -> Result<Load, Error> {
        // A family is half of the flows: as many as asked for are drawn from twice as many.
        let most = if work.scenario.has_services() { work.params.sessions } else { usize::MAX };
        let flows = if family == Family::Both { work.params.flows } else { (work.params.flows * 2).min(most) };
        let params = Params { packet, flows, ..work.params.clone() };
        let mut load = scenario::plan(work.scenario, &params)?.load;
        let now = self.bed.device.now(tsc());
        let sessions = &self.bed.device.node().worker.pipeline().sessions;
        let drops = self.bed.device.named_drops();
        scenario::establish(work.scenario, &params, &mut load, &[sessions], now, &drops)?;
        let load = if family == Family::Both { load } else { load.only(family == Family::V6) };
        if load.is_empty() {
            return Err(Error::Option {
                option: "family",
                found: family.label().into(),
                allowed: format!("a family that scenario {} has flows of", work.scenario.label()),
            });
        }
        Ok(load)
    }
}

impl Bound<'_> {
    /// What the tester can by itself, as an empty case.
    fn alone(&mut self, packet: Size, family: Family, frames: usize) -> Result<Case, Error> {
        let duration = Duration::from_secs_f64(LOOPBACK);
        // Noise makes it slower, never faster.
        let mut best = 0.0f64;
        for _ in 0..LOOPBACKS {
            best = best.max(self.loopback(Ask { rate: None, duration, count: None })?.offered_mpps);
        }
        let able = best * HEADROOM * 1e6;
        let ask = Ask { rate: Some(able / 2.0), duration, count: None };
        let mut half = self.loopback(ask)?;
        for _ in 1..ATTEMPTS {
            if half.invalid.is_none() && half.disturbed.is_empty() {
                break;
            }
            half = self.loopback(ask)?;
        }
        let octets = half.frame_octets;
        let line = self.settings.line_gbit_per_s.map(|gbit| gbit * 1e9 / 8.0 / (octets + WIRE_OVERHEAD as f64));
        let (maximum, maximum_by) = match line {
            Some(line) if line < able => (line, Limit::Line),
            _ => (able, Limit::Tester),
        };
        Ok(Case {
            packet,
            family,
            frames,
            frame_octets: octets,
            maximum_mpps: maximum / 1e6,
            maximum_by,
            loopback: half.latency,
            throughput: Vec::new(),
            latency: Vec::new(),
            back_to_back: None,
            frame_loss: Vec::new(),
            trials: 0,
            repeated: 0,
        })
    }

    fn tests(&mut self, test: Test, case: &mut Case, title: &dyn Fn(&str) -> String) -> Result<(), Error> {
        // Latency is measured at shares of the throughput, and a burst's buffer is computed from it.
        if !test.wants(Test::FrameLoss) || test == Test::All {
            for &allowed in &self.settings.loss_percent {
                if test != Test::Throughput && test != Test::All && !case.throughput.is_empty() {
                    break;
                }
                let expected = (1.0 / self.settings.resolution_percent * 100.0).log2().ceil() as u64 + 2;
                self.progress.phase(title(&format!("throughput, {allowed} % lost")), expected);
                let known = case.throughput.iter().filter(|t| t.loss_percent <= allowed).map(|t| t.mpps * 1e6);
                let known = known.fold(0.0, f64::max);
                let found = self.throughput(case, allowed, known)?;
                case.throughput.push(found);
            }
        }
        if test.wants(Test::Latency)
            && let Some(base) = case.throughput.first().map(|t| t.mpps * 1e6).filter(|rate| *rate > 0.0)
        {
            self.progress.phase(title("latency"), LOADS.len() as u64);
            for load_percent in LOADS {
                let ask = self.full(base * f64::from(load_percent) / 100.0);
                let (trial, _) = self.attempt(ask, 100.0, true)?;
                case.latency.push(LoadStep { load_percent, trial });
                self.progress.advance(1);
            }
        }
        if test.wants(Test::BackToBack) {
            self.progress.phase(title("back-to-back"), self.settings.bursts as u64);
            case.back_to_back = Some(self.bursts(case)?);
        }
        if test.wants(Test::FrameLoss) {
            self.progress.phase(title("frame loss"), 10);
            let maximum = case.maximum_mpps * 1e6;
            search::loss_curve(|rate_percent| {
                let ask = self.full(maximum * f64::from(rate_percent) / 100.0);
                let (trial, _) = self.attempt(ask, 0.0, false)?;
                // Where the tester did not keep the rate, nothing is known.
                let lossy = trial.loss_percent > 0.0 || trial.invalid.is_some();
                case.frame_loss.push(LossPoint { rate_percent, trial });
                self.progress.advance(1);
                Ok::<_, Error>(lossy)
            })?;
        }
        Ok(())
    }

    fn throughput(&mut self, case: &Case, allowed: f64, known: f64) -> Result<Throughput, Error> {
        let (mut steps, mut confirmed, mut doubtful) = (Vec::new(), None, false);
        let resolution = self.settings.resolution_percent / 100.0;
        let found = search::throughput(known, case.maximum_mpps * 1e6, resolution, |rate, length| {
            let ask = match length {
                Length::Full => self.full(rate),
                Length::Short => Ask {
                    rate: Some(rate),
                    duration: Duration::from_secs_f64(self.settings.search_seconds),
                    count: None,
                },
            };
            let (trial, verdict) = self.attempt(ask, allowed, false)?;
            steps.push(Step { mpps: rate / 1e6, loss_percent: trial.loss_percent, verdict });
            match verdict {
                // The last one that was lost is the one just above the result.
                Verdict::Lost => doubtful = !trial.disturbed.is_empty(),
                Verdict::Held if length == Length::Full => confirmed = Some(trial),
                Verdict::Held | Verdict::Invalid => {}
            }
            self.progress.advance(1);
            Ok::<_, Error>(verdict)
        })?;
        let limited_by = match found.above {
            None => case.maximum_by,
            Some((_, Verdict::Invalid)) => Limit::Tester,
            Some(_) => Limit::Device,
        };
        let mpps = found.rate / 1e6;
        Ok(Throughput {
            loss_percent: allowed,
            mpps,
            gbit_per_s: confirmed.as_ref().map_or(0.0, |trial| trial.gbit(mpps)),
            limited_by,
            confirmed,
            doubtful: doubtful && limited_by == Limit::Device,
            steps,
        })
    }

    fn bursts(&mut self, case: &Case) -> Result<Bursts, Error> {
        let maximum = case.maximum_mpps * 1e6;
        // RFC 2544 s26.4 sends for two seconds at least where nothing is lost.
        let most = (maximum * self.settings.trial_seconds.min(2.0)) as u64;
        // A clock at the tester's limit would come late for one packet and another.
        let rate = (case.maximum_by == Limit::Line).then_some(maximum);
        let (mut each, mut endless, mut torn) = (Vec::new(), false, 0);
        let mut rates = Vec::new();
        while each.len() < self.settings.bursts && !endless {
            let (frames, all) = search::longest(FIRST_BURST, most, BURST_RESOLUTION, |frames| {
                let ask = Ask { rate, duration: Duration::from_secs(10), count: Some(frames) };
                let (trial, verdict) = self.attempt(ask, 0.0, false)?;
                torn += usize::from(verdict == Verdict::Invalid);
                rates.push(trial.offered_mpps);
                Ok::<_, Error>(verdict == Verdict::Held)
            })?;
            each.push(frames);
            // A device that takes the maximum rate for ever has no longest burst; once shown is enough.
            endless = all;
            self.progress.advance(1);
        }
        let mean = each.iter().sum::<u64>() as f64 / each.len().max(1) as f64;
        let (mpps, throughput) = (median(rates), case.throughput.first().map_or(0.0, |t| t.mpps));
        Ok(Bursts {
            mpps,
            frames: median(each.iter().map(|&frames| frames as f64)) as u64,
            mean,
            each,
            endless,
            torn,
            buffer_us: mean / mpps.max(f64::MIN_POSITIVE) * (1.0 - (throughput / mpps.max(f64::MIN_POSITIVE)).min(1.0)),
            resolution: BURST_RESOLUTION,
        })
    }

    fn full(&self, rate: f64) -> Ask {
        Ask { rate: Some(rate), duration: Duration::from_secs_f64(self.settings.trial_seconds), count: None }
    }

    /// A trial and what it says. Noise can make a device lose packets and never keeps it from losing some, so a trial that held counts at
    /// once, and one that was disturbed is made again. `quiet` wants it undisturbed in any case.
    fn attempt(&mut self, ask: Ask, allowed: f64, quiet: bool) -> Result<(Trial, Verdict), Error> {
        let mut attempts = 0;
        loop {
            self.refresh(ask)?;
            let Lab { bed, rng, .. } = &mut *self.lab;
            let trial = bed.trial(&mut self.load, rng, ask, self.progress)?;
            self.trials += 1;
            attempts += 1;
            if self.progress.stopped() {
                return Err(Error::Interrupted);
            }
            let verdict = trial.verdict(allowed);
            let undisturbed = trial.disturbed.is_empty() && trial.invalid.is_none();
            let good = undisturbed || (verdict == Verdict::Held && !quiet);
            // Bursts are short, and one without a pause is hard to get on a busy machine.
            let most = if ask.count.is_some() { BURST_ATTEMPTS } else { ATTEMPTS };
            if good || attempts == most {
                return Ok((trial, verdict));
            }
            self.repeated += 1;
        }
    }

    fn loopback(&mut self, ask: Ask) -> Result<Trial, Error> {
        let Lab { bench, rng, .. } = &mut *self.lab;
        let trial = bench.trial(&mut self.load, rng, ask, self.progress)?;
        if self.progress.stopped() { Err(Error::Interrupted) } else { Ok(trial) }
    }

    /// Sends every session a packet when that would be due before the trial's end.
    fn refresh(&mut self, ask: Ask) -> Result<(), Error> {
        let bed = &mut self.lab.bed;
        let ticks = (ask.duration.as_secs_f64() * bed.cores.hz as f64) as u64;
        let (now, end) = (bed.device.now(tsc()), bed.device.now(tsc() + ticks));
        // A burst ends long before its time, and half of the span is enough for all that is short.
        if end - self.lab.refreshed > KEEP_ALIVE && now - self.lab.refreshed > KEEP_ALIVE / 2 {
            if !bed.warm(self.keep_alive, |_| !self.progress.stopped()) {
                return Err(Error::Interrupted);
            }
            self.lab.refreshed = now;
        }
        Ok(())
    }
}
