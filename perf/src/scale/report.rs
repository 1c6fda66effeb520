//! What `scale` reports.

use serde::Serialize;

use super::What;
use super::fit::{self, Fit};
use super::point::Figures;
use crate::calibrate::median;
use crate::machine::Machine;
use crate::scenario::Scenario;

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where packets came from.
    pub backend: &'static str,
    /// What grew.
    pub amounts: Vec<Amount>,
    /// Measurements of each size.
    pub repeats: usize,
    /// Options of every `run`.
    pub options: Vec<String>,
    /// The machine.
    pub machine: Machine,
    /// Whether the figures are to be doubted.
    pub noisy: bool,
    /// Why.
    pub noise: Vec<String>,
    /// Ended early.
    pub interrupted: bool,
}

/// One amount over its span.
#[derive(Clone, Debug, Serialize)]
pub struct Amount {
    /// Which.
    pub what: What,
    /// Where.
    pub scenario: Scenario,
    /// By size.
    pub points: Vec<Point>,
    /// How the cost grew; `None` with fewer than two measured sizes.
    pub growth: Option<Growth>,
}

/// One size.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// The size.
    pub n: usize,
    /// Engine cycles per packet, median over the repeats; `None` where nothing was measured.
    pub cycles_per_packet: Option<f64>,
    /// Each measurement.
    pub figures: Vec<Figures>,
    /// Why the size is not measured, in the words of `run`.
    pub refused: Option<String>,
}

impl Point {
    /// A size without figures.
    pub fn new(n: usize) -> Self {
        Self { n, cycles_per_packet: None, figures: Vec::new(), refused: None }
    }

    /// Adds a measurement.
    pub fn add(&mut self, figures: Figures) {
        self.figures.push(figures);
        self.cycles_per_packet = Some(self.median(|figures| figures.cycles_per_packet));
    }

    /// The middle of a figure over the measurements.
    pub fn median(&self, of: impl Fn(&Figures) -> f64) -> f64 {
        median(self.figures.iter().map(of))
    }

    /// Largest minus smallest measurement in percent of the median; `None` with fewer than two.
    pub fn spread_percent(&self) -> Option<f64> {
        let cycles = || self.figures.iter().map(|figures| figures.cycles_per_packet);
        let middle = self.cycles_per_packet.filter(|_| self.figures.len() > 1)?;
        Some((cycles().fold(f64::MIN, f64::max) - cycles().fold(f64::MAX, f64::min)) * 100.0 / middle)
    }
}

/// Growth over the span.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Growth {
    /// Smallest and largest size measured.
    pub span: (usize, usize),
    /// Cost at the largest through cost at the smallest.
    pub factor: f64,
    /// The same with each cost in steps of its own calibration.
    pub calibrated_factor: f64,
    /// Rate at the largest through rate at the smallest: what more workers are for.
    pub rate_factor: f64,
    /// What the factor may be.
    pub limit: f64,
    /// Whether it is.
    pub holds: bool,
    /// The law that fits best; `None` with fewer than three sizes.
    pub fit: Option<Fit>,
}

impl Growth {
    /// Of the points that were measured.
    pub fn of(points: &[Point], limit: f64) -> Option<Self> {
        let measured: Vec<_> = points.iter().filter_map(|point| Some((point, point.cycles_per_packet?))).collect();
        let (&(first, least), &(last, most)) = (measured.first()?, measured.last()?);
        if first.n == last.n {
            return None;
        }
        let calibrated =
            |point: &Point| point.median(|f| f.cycles_per_packet / f.calibration_cycles.max(f64::MIN_POSITIVE));
        let factor = most / least.max(f64::MIN_POSITIVE);
        let costs: Vec<_> = measured.iter().map(|(point, cycles)| (point.n as f64, *cycles)).collect();
        Some(Self {
            span: (first.n, last.n),
            factor,
            calibrated_factor: calibrated(last) / calibrated(first).max(f64::MIN_POSITIVE),
            rate_factor: last.median(|f| f.mpps) / first.median(|f| f.mpps).max(f64::MIN_POSITIVE),
            limit,
            holds: factor <= limit,
            fit: fit::fit(&costs),
        })
    }
}
