//! What is reported: the JSON of the contract and some more, and the same for people.

use std::collections::BTreeMap;

use marchproxy_engine::reason::PuntReason;
use marchproxy_engine::stats::STAGES;
use serde::Serialize;

use crate::calibrate::{Steps, median};
use crate::latency::Summary;
use crate::load::{FCS, WIRE_OVERHEAD};
use crate::machine::{Cores, Machine};
use crate::measure::{Counts, Outcome, named};
use crate::rig::Batch;
use crate::scenario::{Params, Scenario};
use crate::team::measure::TeamOutcome;

/// One run. Cycles are ticks of the time stamp counter.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was measured.
    pub scenario: Scenario,
    /// Where packets came from.
    pub backend: String,
    /// Packets measured.
    pub packets: u64,
    /// Engine cycles per packet: the median over batches of 8,192 packets.
    pub cycles_per_packet: f64,
    /// Cycles per packet inside receive and transmit calls, likewise.
    pub io_cycles_per_packet: f64,
    /// Instructions per packet, engine and IO; `None` where the machine does not count them.
    pub instructions_per_packet: Option<f64>,
    /// Why there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions_reason: Option<String>,
    /// Packets per second of CPU time of the worker.
    pub packets_per_cpu_second: f64,
    /// Cycles per step of the fixed loop over random cache lines, addresses known beforehand: what a look-up costs that is prefetched or
    /// overlaps with others. See [`crate::calibrate::Calibration`].
    pub calibration_cycles: f64,
    /// The same lines, each address read from the line before: the latency of a look-up that waits.
    pub calibration_dependent_cycles: f64,
    /// Per stage, from every sixteenth burst or so.
    pub stages: Vec<Stage>,
    /// Drops by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// From the return of the receive call to the transmit call, per packet sent; `None` when none was. Time on a wire or in a queue is not
    /// in it.
    pub latency: Option<Summary>,
    /// Packets lost (positive) or invented (negative).
    pub residue: i64,
    /// Packets that still wait inside at the end: later fragments without their first one.
    pub held: u64,
    /// The machine.
    pub machine: Machine,
    /// Million packets per second of engine and IO.
    pub mpps: f64,
    /// The same in gigabit per second on the wire: frame, FCS, preamble and gap.
    pub gbit_per_s: f64,
    /// Mean engine cycles per packet: above the median, interruptions included.
    pub mean_cycles_per_packet: f64,
    /// Engine cycles per packet of each repeat.
    pub repeats: Vec<f64>,
    /// Largest minus smallest repeat in percent of the median; `None` with one repeat.
    pub spread_percent: Option<f64>,
    /// Whether the figures are to be doubted.
    pub noisy: bool,
    /// Why.
    pub noise: Vec<String>,
    /// Table entries found per packet.
    pub table_hits: BTreeMap<&'static str, f64>,
    /// Shares of packets by what became of them.
    pub mix: BTreeMap<&'static str, f64>,
    /// Packets passed to the slow path by reason.
    pub punts: BTreeMap<&'static str, u64>,
    /// The devices; none on the memory backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Devices>,
    /// Sessions made per second of CPU time of the worker.
    pub churn_per_s: f64,
    /// Sessions in the table at the end.
    pub live_sessions: usize,
    /// Octets of the snapshot's tables.
    pub table_bytes: usize,
    /// Packets asked for in a receive call.
    pub burst: usize,
    /// How much of everything there was.
    pub parameters: Params,
    /// Each worker, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<Worker>,
    /// Packets that went from worker to worker, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hand_off: Option<HandOff>,
    /// Ended early.
    pub interrupted: bool,
}

/// One of several workers.
#[derive(Clone, Debug, Serialize)]
pub struct Worker {
    /// Its core.
    pub core: usize,
    /// Packets from its own queues.
    pub packets: u64,
    /// Engine cycles per packet of those, the work on packets taken over from others included: the median over batches.
    pub cycles_per_packet: f64,
    /// Cycles per packet inside receive and transmit calls, likewise.
    pub io_cycles_per_packet: f64,
    /// Packets from its own queues per second of its CPU time, waiting for others left out.
    pub packets_per_cpu_second: f64,
    /// Packets it handed to others.
    pub handed_off: u64,
    /// Packets it took over from others.
    pub taken_over: u64,
    /// Percent of its core's time that the hypervisor gave away; `None` when the kernel does not say.
    pub steal: Option<f64>,
    /// Times another thread interrupted it.
    pub involuntary_switches: u64,
}

/// What handing packets to the owners of their sessions costs.
#[derive(Clone, Debug, Serialize)]
pub struct HandOff {
    /// Share of packets handed over.
    pub ratio: f64,
    /// Engine cycles per packet when each packet comes to the owner of its session, measured in turn with the others; `None` where no packet
    /// has one.
    pub direct_cycles_per_packet: Option<f64>,
    /// Engine cycles that a handed-off packet costs more than one that comes to the right worker: the difference over the ratio.
    pub cycles_per_handed_packet: Option<f64>,
}

/// One stage.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// Cycles per packet that went through it; `None` when no burst was sampled.
    pub cycles_per_packet: Option<f64>,
    /// Packets per call.
    pub packets_per_call: f64,
}

/// Devices, and what they did.
#[derive(Clone, Debug, Serialize)]
pub struct Devices {
    /// What holds the packets.
    pub memory: String,
    /// What was seen beside the costs.
    #[serde(flatten)]
    pub observed: Observed,
    /// Each port.
    pub ports: Vec<PortReport>,
}

/// What came from devices.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Observed {
    /// Percent of the worker's time in which no packet was there.
    pub idle_percent: f64,
    /// Packets that came per second of time on the wall.
    pub packets_per_second: f64,
}

/// One port, as its devices count it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PortReport {
    /// The node's name for it.
    pub name: String,
    /// The device it receives from, and its driver.
    pub receives_from: String,
    /// The device it sends to, and its driver.
    pub sends_to: String,
    /// Its address, as the node knows it.
    pub mac: String,
    /// Packets received.
    pub rx_packets: u64,
    /// Octets received.
    pub rx_bytes: u64,
    /// Packets that the device had no descriptor for.
    pub rx_missed: u64,
    /// Packets received broken.
    pub rx_errors: u64,
    /// Receives that failed because there was no memory for packets.
    pub rx_no_mbuf: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Octets sent.
    pub tx_bytes: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
}

/// What a report needs beside the outcome.
pub struct Context {
    /// What was measured.
    pub scenario: Scenario,
    /// Where packets came from.
    pub backend: String,
    /// The devices, if there were any.
    pub devices: Option<Devices>,
    /// How much of everything.
    pub params: Params,
    /// The calibration.
    pub calibration: Steps,
    /// Why there are no instructions.
    pub instructions_reason: Option<String>,
    /// Sessions in the table at the end.
    pub live_sessions: usize,
    /// Octets of the snapshot's tables.
    pub table_bytes: usize,
    /// Clock rate.
    pub tsc_hz: u64,
}

/// Largest minus smallest repeat, in percent of the median.
pub fn spread(outcome: &Outcome) -> Option<f64> {
    let repeats: Vec<f64> = outcome.windows.iter().map(crate::measure::Window::cycles).collect();
    let largest = repeats.iter().copied().fold(f64::MIN, f64::max);
    let smallest = repeats.iter().copied().fold(f64::MAX, f64::min);
    (repeats.len() > 1).then(|| (largest - smallest) * 100.0 / median(repeats).max(1.0))
}

impl Report {
    /// From an outcome.
    pub fn new(context: Context, outcome: &Outcome, machine: Machine, noise: Vec<String>) -> Self {
        let mut sum = Batch::default();
        let mut counts = Counts::default();
        for window in &outcome.windows {
            sum.add(&window.sum);
            counts.join(&window.counts);
        }
        let packets = sum.packets.max(1) as f64;
        let engine = || outcome.windows.iter().flat_map(|w| w.engine.iter().copied());
        let cycles = median(engine());
        let io = median(outcome.windows.iter().flat_map(|w| w.io.iter().copied()));
        let workers = workers(outcome, &machine);
        let per_second = context.tsc_hz as f64 / (cycles + io).max(f64::MIN_POSITIVE);
        // Several workers: each at its own rate, together their sum.
        let of_worker = |w: &Worker| context.tsc_hz as f64 / (w.cycles_per_packet + w.io_cycles_per_packet);
        let busy = workers.iter().filter(|w| w.packets > 0);
        let per_second = if workers.is_empty() { per_second } else { busy.map(of_worker).sum() };
        let wire_octets = sum.octets as f64 / packets + (FCS + WIRE_OVERHEAD) as f64;
        Self {
            scenario: context.scenario,
            backend: context.backend,
            packets: sum.packets,
            cycles_per_packet: cycles,
            io_cycles_per_packet: io,
            instructions_per_packet: sum.instructions.map(|n| n as f64 / packets),
            instructions_reason: context.instructions_reason,
            packets_per_cpu_second: packets * 1e9 / (sum.cpu_ns.max(1) as f64),
            calibration_cycles: median(context.calibration.independent),
            calibration_dependent_cycles: median(context.calibration.dependent),
            stages: stages(&counts),
            drops: named(&counts.drops),
            latency: outcome.latency.summary(context.tsc_hz),
            residue: outcome.residue,
            held: outcome.held,
            machine,
            mpps: per_second / 1e6,
            gbit_per_s: per_second * wire_octets * 8.0 / 1e9,
            mean_cycles_per_packet: engine().sum::<f64>() / (engine().count().max(1) as f64),
            repeats: outcome.windows.iter().map(crate::measure::Window::cycles).collect(),
            spread_percent: spread(outcome),
            noisy: !noise.is_empty(),
            noise,
            table_hits: table_hits(&counts, packets),
            mix: mix(&counts, packets),
            punts: PuntReason::ALL
                .iter()
                .map(|reason| (reason.label(), counts.punts[reason.index()]))
                .filter(|(_, n)| *n > 0)
                .collect(),
            devices: context.devices,
            // Workers make new flows side by side.
            churn_per_s: counts.created as f64 * 1e9 / (sum.cpu_ns.max(1) as f64) * workers.len().max(1) as f64,
            hand_off: outcome.team.as_ref().map(|team| hand_off(team, cycles, sum.packets)),
            workers,
            live_sessions: context.live_sessions,
            table_bytes: context.table_bytes,
            burst: context.params.burst,
            parameters: context.params,
            interrupted: outcome.interrupted,
        }
    }
}

fn workers(outcome: &Outcome, machine: &Machine) -> Vec<Worker> {
    let (Some(team), Cores::Several(cores)) = (&outcome.team, &machine.core) else { return Vec::new() };
    let members = team.members.iter().zip(cores).zip(&machine.steal_per_core);
    members
        .map(|((member, &core), &steal)| Worker {
            core,
            packets: member.window.sum.packets,
            cycles_per_packet: member.window.cycles(),
            io_cycles_per_packet: median(member.window.io.iter().copied()),
            packets_per_cpu_second: member.window.sum.per_cpu_second(),
            handed_off: member.handed_off,
            taken_over: member.taken,
            steal,
            involuntary_switches: member.switches,
        })
        .collect()
}

fn hand_off(team: &TeamOutcome, cycles: f64, packets: u64) -> HandOff {
    let handed: u64 = team.members.iter().map(|member| member.handed_off).sum();
    let ratio = handed as f64 / packets.max(1) as f64;
    let direct = (!team.direct.is_empty()).then(|| median(team.direct.iter().copied()));
    HandOff {
        ratio,
        direct_cycles_per_packet: direct,
        cycles_per_handed_packet: direct.filter(|_| handed > 0).map(|direct| (cycles - direct) / ratio),
    }
}

fn stages(counts: &Counts) -> Vec<Stage> {
    STAGES
        .iter()
        .zip(counts.stages)
        .map(|(&name, [calls, packets, ticks, sampled])| Stage {
            name,
            cycles_per_packet: (sampled > 0).then(|| ticks as f64 / sampled as f64),
            packets_per_call: packets as f64 / calls.max(1) as f64,
        })
        .collect()
}

/// Packets of sessions that were there before.
fn session_hits(counts: &Counts) -> u64 {
    counts.services.saturating_sub(counts.created)
}

/// Packets that reached a stage by name.
fn through(counts: &Counts, name: &str) -> u64 {
    STAGES.iter().position(|&stage| stage == name).map_or(0, |at| counts.stages[at][1])
}

/// A packet of a session counts for its rule, too, without a look-up.
fn table_hits(counts: &Counts, packets: f64) -> BTreeMap<&'static str, f64> {
    let rules = if counts.rules > 0 { counts.rules.saturating_sub(session_hits(counts)) } else { 0 };
    [
        ("session", session_hits(counts)),
        ("rule", rules),
        ("service", counts.created),
        ("route", through(counts, "finish") + through(counts, "express")),
        ("neighbour", through(counts, "finish") + through(counts, "express")),
        ("policer", counts.policers),
    ]
    .into_iter()
    .map(|(table, hits)| (table, hits as f64 / packets))
    .collect()
}

fn mix(counts: &Counts, packets: f64) -> BTreeMap<&'static str, f64> {
    let denied = counts.drops[marchproxy_engine::reason::DropReason::RuleDeny.index()];
    let (established, first, odd) = (session_hits(counts), counts.created, counts.odd);
    let forwarded = (through(counts, "route") + through(counts, "express")).saturating_sub(established + first + odd);
    [
        ("established", established),
        ("first", first),
        ("fragments_and_icmp", odd),
        ("denied", denied),
        ("forwarded", forwarded),
    ]
    .into_iter()
    .map(|(class, n)| (class, n as f64 / packets))
    .collect()
}
