//! New figures against the file's.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::baseline::{Baseline, Build, Entry, LISTED};

/// Percent a scenario may grow; and shrink without a word.
pub const LIMIT: f64 = 3.0;

/// The same where the file's figures come from another build. A compiler's next releases move the figures of unchanged source by some
/// percent either way, so [`LIMIT`] would refuse changes that are not at fault; a stage that does its work twice is still seen.
pub const LIMIT_ACROSS: f64 = 15.0;

/// Parts shown of a scenario that grew.
const SHOWN: usize = 10;

/// Instructions per packet below which the growth of a part is no news.
const TRIFLE: f64 = 0.1;

/// The outcome.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// What this program was built by.
    pub build: Build,
    /// What the file's was; `None` without a file.
    pub file_build: Option<Build>,
    /// Whether the two are one, and figures can be judged closely.
    pub comparable: bool,
    /// Percent a scenario was allowed to grow: [`LIMIT`], or [`LIMIT_ACROSS`] when the builds differ.
    pub limit_percent: f64,
    /// No scenario grew beyond the limit or has no figure to be held against.
    pub passed: bool,
    /// Scenario by scenario.
    pub scenarios: Vec<Row>,
    /// Scenarios of the file that do not exist any more.
    pub gone: Vec<String>,
    /// Ended early.
    pub interrupted: bool,
}

/// One scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub scenario: String,
    /// Engine instructions per packet as the file has them.
    pub old: Option<f64>,
    /// Engine instructions per packet now.
    pub new: f64,
    /// Growth in percent.
    pub percent: Option<f64>,
    /// What that means.
    pub judgement: Judgement,
    /// Harness instructions per packet.
    pub io: f64,
    /// How much of everything there was.
    pub parameters: serde_json::Value,
    /// Where it grew, or when there is nothing to compare with the dearest parts; most first.
    pub parts: Vec<Part>,
}

/// What a comparison says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// Within the limit.
    Same,
    /// More than the limit: refused.
    Grew,
    /// Less by more than the limit: the file should follow.
    Shrank,
    /// The file does not know it: refused.
    New,
    /// The file's figure is of other tables or packets: refused.
    OtherLoad,
}

/// A part of the program.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// `file in function`.
    pub part: String,
    /// Instructions per packet as the file has them; `None` when it was too little to be listed.
    pub old: Option<f64>,
    /// Instructions per packet now.
    pub new: f64,
}

impl Part {
    /// By how much it grew at least.
    fn growth(&self) -> f64 {
        self.new - self.old.unwrap_or(LISTED)
    }
}

impl Verdict {
    /// Judges. `known` are the names of all scenarios.
    pub fn new(file: Option<&Baseline>, counted: &BTreeMap<String, Entry>, known: &[&str], interrupted: bool) -> Self {
        let build = Build::here();
        let comparable = file.is_none_or(|f| f.build == build);
        let limit = if comparable { LIMIT } else { LIMIT_ACROSS };
        let old = |name| file.and_then(|f| f.scenarios.get(name));
        let scenarios: Vec<_> = counted.iter().map(|(name, now)| row(name, old(name), now, limit)).collect();
        let gone: BTreeSet<_> = file.iter().flat_map(|f| f.scenarios.keys().cloned()).collect();
        Self {
            comparable,
            limit_percent: limit,
            file_build: file.map(|f| f.build.clone()),
            build,
            passed: scenarios.iter().all(|row| matches!(row.judgement, Judgement::Same | Judgement::Shrank)),
            scenarios,
            gone: gone.into_iter().filter(|name| !known.contains(&name.as_str())).collect(),
            interrupted,
        }
    }

    /// 0 passed, 1 refused; 3 when nothing was refused, but not all was judged, or only by the wider limit of another build.
    pub fn code(&self) -> u8 {
        match (self.passed, self.comparable && !self.interrupted) {
            (false, _) => 1,
            (true, false) => 3,
            (true, true) => 0,
        }
    }
}

fn row(name: &str, old: Option<&Entry>, now: &Entry, limit: f64) -> Row {
    let percent = old.map(|old| growth(old.instructions_per_packet, now.instructions_per_packet));
    let judgement = match (old, percent) {
        (Some(old), _) if old.parameters != now.parameters || old.packets != now.packets => Judgement::OtherLoad,
        (Some(_), Some(percent)) if percent > limit => Judgement::Grew,
        (Some(_), Some(percent)) if percent < -limit => Judgement::Shrank,
        (Some(_), _) => Judgement::Same,
        (None, _) => Judgement::New,
    };
    let before = old.filter(|_| judgement == Judgement::Grew).map(|old| &old.parts);
    let parts = now.parts.iter().map(|(part, &new)| Part {
        part: part.clone(),
        old: before.and_then(|before| before.get(part).copied()),
        new,
    });
    let mut parts: Vec<_> = match judgement {
        Judgement::Same | Judgement::Shrank => Vec::new(),
        Judgement::Grew => parts.filter(|part| part.growth() > TRIFLE).collect(),
        Judgement::New | Judgement::OtherLoad => parts.collect(),
    };
    parts.sort_by(|a, b| b.growth().total_cmp(&a.growth()));
    parts.truncate(SHOWN);
    Row {
        scenario: name.to_owned(),
        old: old.map(|old| old.instructions_per_packet),
        new: now.instructions_per_packet,
        percent,
        judgement,
        io: now.io_instructions_per_packet,
        parameters: now.parameters.clone(),
        parts,
    }
}

fn growth(old: f64, new: f64) -> f64 {
    (new - old) * 100.0 / old.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(cost: f64, parts: &[(&str, f64)]) -> Entry {
        let parts = parts.iter().map(|(part, cost)| ((*part).to_owned(), *cost)).collect();
        Entry { instructions_per_packet: cost, packets: 4096, parts, ..Entry::default() }
    }

    fn judge(old: Option<&Entry>, now: &Entry) -> (Row, u8) {
        let scenarios = old.map(|old| ("forward".to_owned(), old.clone())).into_iter().collect();
        let file = Baseline { about: String::new(), build: Build::here(), scenarios };
        let counted = BTreeMap::from([("forward".to_owned(), now.clone())]);
        let mut verdict = Verdict::new(Some(&file), &counted, &["forward"], false);
        let code = verdict.code();
        (verdict.scenarios.remove(0), code)
    }

    #[test]
    fn growth_beyond_the_limit_is_refused_and_its_parts_are_named() {
        let old = entry(1000.0, &[("finish", 100.0), ("parse", 300.0), ("route", 50.0)]);
        let now = entry(1031.0, &[("finish", 125.0), ("parse", 290.0), ("route", 50.05), ("checksum", 16.0)]);
        let (row, code) = judge(Some(&old), &now);
        assert_eq!((row.judgement, code), (Judgement::Grew, 1));
        assert!((row.percent.unwrap() - 3.1).abs() < 1e-9);
        let parts: Vec<_> = row.parts.iter().map(|part| (part.part.as_str(), part.old)).collect();
        assert_eq!(parts, [("finish", Some(100.0)), ("checksum", None)]);
    }

    #[test]
    fn the_limit_itself_and_anything_less_passes() {
        for (now, judgement) in [(1030.0, Judgement::Same), (970.0, Judgement::Same), (960.0, Judgement::Shrank)] {
            let (row, code) = judge(Some(&entry(1000.0, &[])), &entry(now, &[("parse", 300.0)]));
            assert_eq!((row.judgement, code, row.parts.len()), (judgement, 0, 0), "{now}");
        }
    }

    #[test]
    fn what_cannot_be_held_against_anything_is_refused() {
        let now = entry(1000.0, &[("parse", 300.0), ("route", 400.0)]);
        let (row, code) = judge(None, &now);
        assert_eq!((row.judgement, code, row.parts[0].part.as_str()), (Judgement::New, 1, "route"));
        let other = Entry { parameters: serde_json::json!({"routes": 5}), ..now.clone() };
        assert_eq!(judge(Some(&other), &now).0.judgement, Judgement::OtherLoad);
    }

    #[test]
    fn an_early_end_is_no_pass() {
        let now = BTreeMap::from([("forward".to_owned(), entry(2000.0, &[]))]);
        let mut file = Baseline {
            about: String::new(),
            build: Build::here(),
            scenarios: BTreeMap::from([("was".into(), entry(1.0, &[]))]),
        };
        file.scenarios.insert("forward".into(), entry(1000.0, &[]));
        let verdict = |file: &Baseline, now: &_| Verdict::new(Some(file), now, &["forward"], true);
        assert_eq!(verdict(&file, &now).code(), 1, "what was counted before the end grew");
        assert_eq!(verdict(&file, &now).gone, ["was"]);
        let none = BTreeMap::new();
        assert_eq!(verdict(&file, &none).code(), 3);
    }

    #[test]
    fn another_compiler_has_a_wider_limit() {
        let other = Build { rustc: "1.0.0".into(), ..Build::here() };
        for (now, judgement, code) in [
            (1150.0, Judgement::Same, 3),
            (1151.0, Judgement::Grew, 1),
            (850.0, Judgement::Same, 3),
            (840.0, Judgement::Shrank, 3),
        ] {
            let scenarios = BTreeMap::from([("forward".to_owned(), entry(1000.0, &[]))]);
            let file = Baseline { about: String::new(), build: other.clone(), scenarios };
            let counted = BTreeMap::from([("forward".to_owned(), entry(now, &[("parse", 300.0)]))]);
            let verdict = Verdict::new(Some(&file), &counted, &["forward"], false);
            assert_eq!((verdict.comparable, verdict.limit_percent), (false, LIMIT_ACROSS));
            assert_eq!((verdict.scenarios[0].judgement, verdict.code()), (judgement, code), "{now}");
        }
    }
}
