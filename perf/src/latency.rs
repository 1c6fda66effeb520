//! How long packets are inside the engine: from the return of the receive call that handed one over to the transmit call that carries it.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Error;

/// Digits a recorded time keeps.
const DIGITS: u8 = 3;

/// Times of packets, in ticks of the time stamp counter.
pub struct Latency(Histogram<u64>);

/// What is reported.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Packets that were timed: those that were sent.
    pub packets: u64,
    /// In ticks.
    pub ticks: Percentiles<u64>,
    /// In nanoseconds.
    pub ns: Percentiles<f64>,
}

/// The share of packets that took at most so long.
#[derive(Clone, Debug, Serialize)]
pub struct Percentiles<T> {
    /// Half.
    pub p50: T,
    /// Nine of ten.
    pub p90: T,
    /// 99 of a hundred.
    pub p99: T,
    /// 999 of a thousand.
    pub p99_9: T,
    /// All.
    pub max: T,
}

impl Latency {
    /// No times yet.
    pub fn new() -> Result<Self, Error> {
        Histogram::new(DIGITS).map(Self).map_err(|_| Error::Harness("a histogram has one to five digits"))
    }

    /// Adds `packets` packets that took `ticks`.
    pub fn record(&mut self, ticks: u64, packets: u64) {
        // It grows with what it is told, and no time is beyond 64 bits.
        let _ = self.0.record_n(ticks, packets);
    }

    /// What came of it at a clock rate; `None` when no packet was timed.
    pub fn summary(&self, tsc_hz: u64) -> Option<Summary> {
        let at = |quantile| self.0.value_at_quantile(quantile);
        let ticks = Percentiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max: self.0.max() };
        let ns = |ticks: u64| ticks as f64 * 1e9 / tsc_hz.max(1) as f64;
        let Percentiles { p50, p90, p99, p99_9, max } = ticks;
        let ns = Percentiles { p50: ns(p50), p90: ns(p90), p99: ns(p99), p99_9: ns(p99_9), max: ns(max) };
        (!self.0.is_empty()).then(|| Summary { packets: self.0.len(), ticks, ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_packets() {
        let mut latency = Latency::new().unwrap();
        assert!(latency.summary(1_000_000_000).is_none());
        for ticks in 1..=1000 {
            latency.record(ticks * 10, 32);
        }
        let summary = latency.summary(2_000_000_000).unwrap();
        assert_eq!(summary.packets, 32_000);
        for (found, wanted) in [
            (summary.ticks.p50, 5000.0),
            (summary.ticks.p90, 9000.0),
            (summary.ticks.p99, 9900.0),
            (summary.ticks.p99_9, 9990.0),
            (summary.ticks.max, 10_000.0),
        ] {
            assert!((found as f64 - wanted).abs() <= wanted / 500.0, "{found}, wanted {wanted}");
        }
        assert!((summary.ns.p50 - 2500.0).abs() < 10.0, "{summary:?}");
    }
}
