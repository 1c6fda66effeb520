//! What a comparison reports, and its exit code.

use serde::Serialize;

use crate::Error;
use crate::calibrate::median;
use crate::cli::Done;
use crate::machine::Machine;

/// Exit code when a peer is missing: a part of what was asked for could not be done.
const PARTLY: u8 = 3;

/// One peer at one work.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Who we are compared with.
    pub peer: String,
    /// At what.
    pub work: String,
    /// Our rate: the median over turns.
    pub ours: f64,
    /// The peer's, likewise.
    pub theirs: f64,
    /// Our rate divided by theirs: the median of the turns' ratios, above 1 where we are faster.
    pub ratio: f64,
    /// What both rates count.
    pub unit: &'static str,
    /// Largest minus smallest ratio in percent of the median; `None` after one turn.
    pub spread_percent: Option<f64>,
    /// The ratio of each turn.
    pub ratios: Vec<f64>,
    /// Where the two sides do not do quite the same, and what else must be known to read the row.
    pub note: String,
    /// What it took to build each side's table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
}

/// What it took to build a table.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Build {
    /// Our seconds.
    pub ours_seconds: f64,
    /// Theirs.
    pub theirs_seconds: f64,
    /// Octets our table takes.
    pub ours_bytes: u64,
    /// Octets theirs takes from DPDK's heaps.
    pub theirs_bytes: u64,
}

impl Row {
    /// From the rates of each turn, ours and theirs; `None` when there was no turn with two rates.
    pub fn new(peer: &str, work: &str, unit: &'static str, note: String, turns: &[[f64; 2]]) -> Option<Self> {
        let turns: Vec<_> = turns.iter().filter(|turn| turn.iter().all(|rate| *rate > 0.0)).collect();
        let ratios: Vec<f64> = turns.iter().map(|[ours, theirs]| ours / theirs).collect();
        if ratios.is_empty() {
            return None;
        }
        let ratio = median(ratios.iter().copied());
        let spread_percent = spread_percent(&ratios);
        Some(Self {
            peer: peer.to_owned(),
            work: work.to_owned(),
            ours: median(turns.iter().map(|turn| turn[0])),
            theirs: median(turns.iter().map(|turn| turn[1])),
            ratio,
            unit,
            spread_percent,
            ratios,
            note,
            build: None,
        })
    }
}

/// Largest minus smallest in percent of the median; `None` of fewer than two.
pub fn spread_percent(values: &[f64]) -> Option<f64> {
    let largest = values.iter().copied().fold(f64::MIN, f64::max);
    let smallest = values.iter().copied().fold(f64::MAX, f64::min);
    (values.len() > 1).then(|| (largest - smallest) * 100.0 / median(values.iter().copied()).max(f64::MIN_POSITIVE))
}

/// A peer without a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Missing {
    /// Which.
    pub peer: String,
    /// Why, and what would bring it.
    pub reason: String,
    /// Where it is we who have nothing to compare with: what the peer does alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alone: Option<Alone>,
}

/// A peer's rate without one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Alone {
    /// The median over turns.
    pub theirs: f64,
    /// What it counts.
    pub unit: &'static str,
    /// Largest minus smallest in percent of the median; `None` after one turn.
    pub spread_percent: Option<f64>,
}

impl Missing {
    /// A peer that could not be had.
    pub fn new(peer: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { peer: peer.into(), reason: reason.into(), alone: None }
    }
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What was done.
    pub work: &'static str,
    /// Peers that were measured.
    pub rows: Vec<Row>,
    /// Peers that were not.
    pub missing: Vec<Missing>,
    /// What both sides ran on: memory, packets, tables.
    pub rig: String,
    /// The machine.
    pub machine: Machine,
    /// Whether the figures are to be doubted.
    pub noisy: bool,
    /// Why.
    pub noise: Vec<String>,
    /// Ended early.
    pub interrupted: bool,
}

impl Comparison {
    /// The largest spread of a row: what the machine's quietness is judged by.
    pub fn spread(rows: &[Row]) -> Option<f64> {
        rows.iter().filter_map(|row| row.spread_percent).reduce(f64::max)
    }

    /// What to print, and the exit code: 3 when a peer is missing. Without any row there is nothing to print after an interrupt.
    pub fn done(&self, json: bool) -> Result<Done, Error> {
        if self.interrupted && self.rows.is_empty() {
            return Err(Error::Interrupted);
        }
        let text = if json {
            serde_json::to_string_pretty(self).map_err(|_| Error::Harness("the comparison is no JSON"))?
        } else {
            super::table::render(self)
        };
        Ok(Done { text, code: if self.missing.is_empty() { 0 } else { PARTLY } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Watch;

    fn comparison(rows: Vec<Row>, missing: Vec<Missing>) -> Comparison {
        let (machine, _) = Watch::start(0).finish(1_000_000_000, "heap", None);
        Comparison {
            work: "forward",
            rows,
            missing,
            rig: "8192 packets".into(),
            machine,
            noisy: false,
            noise: Vec::new(),
            interrupted: false,
        }
    }

    fn row(turns: &[[f64; 2]]) -> Option<Row> {
        Row::new("l3fwd-lpm", "forward", "packets/CPU-s", "same routes".into(), turns)
    }

    #[test]
    fn the_ratio_is_the_median_of_the_turns_and_not_of_the_rates() {
        // The machine became twice as slow after the first turn; the ratio knows nothing of it.
        let row = row(&[[20.0, 10.0], [10.0, 5.0], [11.0, 5.0]]).unwrap();
        assert!((row.ratio - 2.0).abs() < 1e-9, "{row:?}");
        assert!((row.ours - 11.0).abs() < 1e-9 && (row.theirs - 5.0).abs() < 1e-9, "{row:?}");
        assert!((row.spread_percent.unwrap() - 10.0).abs() < 1e-9, "{row:?}");
        assert_eq!(row.ratios.len(), 3);
    }

    #[test]
    fn turns_without_two_rates_do_not_count() {
        assert!(row(&[]).is_none());
        assert!(row(&[[5.0, 0.0]]).is_none());
        let row = row(&[[5.0, 0.0], [3.0, 6.0]]).unwrap();
        assert!((row.ratio - 0.5).abs() < 1e-9 && row.spread_percent.is_none(), "{row:?}");
    }

    #[test]
    fn json_and_exit_code_are_those_of_the_contract() {
        let missing = Missing::new("ovs-dpdk", "ovs-vswitchd is not installed: scripts/setup --peers");
        let done = comparison(row(&[[4.0, 2.0]]).into_iter().collect(), vec![missing]).done(true).unwrap();
        assert_eq!(done.code, 3);
        let json: serde_json::Value = serde_json::from_str(&done.text).unwrap();
        let first = &json["rows"][0];
        assert_eq!((first["peer"].as_str(), first["work"].as_str()), (Some("l3fwd-lpm"), Some("forward")));
        assert_eq!(
            [&first["ours"], &first["theirs"], &first["ratio"]].map(serde_json::Value::as_f64),
            [4.0, 2.0, 2.0].map(Some)
        );
        assert!(first["spread_percent"].is_null() && first["unit"].is_string() && first["note"].is_string());
        assert_eq!(json["missing"][0]["peer"], "ovs-dpdk");
        assert!(json["machine"]["cpu"].is_string() && json["rig"].is_string());

        assert_eq!(comparison(row(&[[4.0, 2.0]]).into_iter().collect(), Vec::new()).done(true).unwrap().code, 0);
    }

    #[test]
    fn an_interrupt_before_the_first_turn_leaves_nothing_to_print() {
        let mut early = comparison(Vec::new(), Vec::new());
        early.interrupted = true;
        assert!(matches!(early.done(false), Err(Error::Interrupted)));
        early.rows.extend(row(&[[4.0, 2.0]]));
        assert!(early.done(false).unwrap().text.contains("Interrupted"));
    }
}
