//! What a benchmark reports. Rates are million packets per second.

use serde::Serialize;

use super::search::Verdict;
use super::trial::{Cores, Latency, Trial};
use crate::load::Size;
use crate::machine::Machine;
use crate::scenario::{Params, Scenario};

/// Which packets a case sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4 only
    V4,
    /// IPv6 only
    V6,
    /// Half and half
    Both,
}

impl Family {
    /// The name in reports.
    pub const fn label(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
            Self::Both => "IPv4 and IPv6",
        }
    }
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the numbers follow.
    pub methodology: &'static str,
    /// What was measured.
    pub scenario: Scenario,
    /// Where packets came from.
    pub backend: &'static str,
    /// How it was measured.
    pub settings: Settings,
    /// How much of everything there was.
    pub parameters: Params,
    /// Where the two threads ran.
    pub cores: Cores,
    /// One case for each family and packet size.
    pub cases: Vec<Case>,
    /// Packets nobody can account for, over all trials; 0 always: a trial where it is not ends the run.
    pub residue: i64,
    /// The machine.
    pub machine: Machine,
    /// Whether the figures are to be doubted.
    pub noisy: bool,
    /// Why.
    pub noise: Vec<String>,
    /// Ended early.
    pub interrupted: bool,
}

/// How trials are made.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// Seconds of a full trial.
    pub trial_seconds: f64,
    /// Seconds of a trial during a search.
    pub search_seconds: f64,
    /// Shares of packets, in percent, that throughput may lose.
    pub loss_percent: Vec<f64>,
    /// Width of the last step of a search in percent of the rate found.
    pub resolution_percent: f64,
    /// Repetitions of the search for the longest burst.
    pub bursts: usize,
    /// The line's rate in Gbit/s that is taken for the maximum, where one was given.
    pub line_gbit_per_s: Option<f64>,
    /// Descriptors of each ring.
    pub descriptors: usize,
}

/// One packet size of one family.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// Size asked for.
    pub packet: Size,
    /// Family.
    pub family: Family,
    /// Distinct frames the packets are drawn from.
    pub frames: usize,
    /// Mean octets of a frame with FCS, as it was sent: headers that do not fit make it longer.
    pub frame_octets: f64,
    /// The highest rate offered.
    pub maximum_mpps: f64,
    /// What sets it.
    pub maximum_by: Limit,
    /// Latency through the rings alone, at half the maximum rate: what tester and rings add to each figure.
    pub loopback: Latency,
    /// By allowed loss.
    pub throughput: Vec<Throughput>,
    /// By load.
    pub latency: Vec<LoadStep>,
    /// The longest burst.
    pub back_to_back: Option<Bursts>,
    /// From the maximum rate down.
    pub frame_loss: Vec<LossPoint>,
    /// Trials, repeated ones included.
    pub trials: usize,
    /// Of these, repeated because the tester did not keep the rate, or the device was interrupted.
    pub repeated: usize,
}

/// What keeps a rate from being higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// The device loses packets above.
    Device,
    /// The tester does not send faster; the device might take more.
    Tester,
    /// The line is full.
    Line,
}

impl Limit {
    /// The name in reports.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Tester => "tester",
            Self::Line => "line",
        }
    }
}

/// The highest rate with at most this loss (RFC 1242 s3.17 for none).
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    /// Percent of the packets that may be lost.
    pub loss_percent: f64,
    /// Rate; 0 when none held.
    pub mpps: f64,
    /// The same in gigabit per second on the wire: frame, preamble and gap.
    pub gbit_per_s: f64,
    /// What keeps it there.
    pub limited_by: Limit,
    /// The trial in full length that confirms it.
    pub confirmed: Option<Trial>,
    /// The trial above it that lost packets was interrupted each time: the device may do better.
    pub doubtful: bool,
    /// The search.
    pub steps: Vec<Step>,
}

/// One step of a search.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Rate asked for.
    pub mpps: f64,
    /// Packets lost in percent.
    pub loss_percent: f64,
    /// How it counted.
    #[serde(serialize_with = "verdict")]
    pub verdict: Verdict,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn verdict<S: serde::Serializer>(verdict: &Verdict, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match verdict {
        Verdict::Held => "held",
        Verdict::Lost => "lost",
        Verdict::Invalid => "invalid",
    })
}

/// Latency at a load (RFC 2544 s26.2; every packet is timed, not one in twenty trials).
#[derive(Clone, Debug, Serialize)]
pub struct LoadStep {
    /// In percent of the throughput without loss.
    pub load_percent: u32,
    /// The trial.
    #[serde(flatten)]
    pub trial: Trial,
}

/// Loss at a rate (RFC 2544 s26.3).
#[derive(Clone, Debug, Serialize)]
pub struct LossPoint {
    /// In percent of the maximum rate.
    pub rate_percent: u32,
    /// The trial.
    #[serde(flatten)]
    pub trial: Trial,
}

/// The longest burst at the maximum rate without loss (RFC 2544 s26.4, RFC 9004).
#[derive(Clone, Debug, Serialize)]
pub struct Bursts {
    /// Rate inside the bursts, median.
    pub mpps: f64,
    /// Median over the repetitions, in frames.
    pub frames: u64,
    /// Mean (RFC 9004 s5.5 reports this one).
    pub mean: f64,
    /// Each repetition.
    pub each: Vec<u64>,
    /// The longest burst tried held: there is no end to measure.
    pub endless: bool,
    /// Lengths that counted as too long because no burst of them could be sent without a pause.
    pub torn: usize,
    /// Time the buffers before the device hold at the maximum rate, without what it forwards meanwhile, in microseconds (RFC 9004 s6.4).
    pub buffer_us: f64,
    /// Frames a burst may be off by.
    pub resolution: u64,
}
