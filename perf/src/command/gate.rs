//! `gate`: does a packet cost more instructions than it did?

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::{Args, ValueEnum};

use crate::Error;
use crate::cli::Done;
use crate::gate::baseline::{Baseline, Build, Entry};
use crate::gate::verdict::{Judgement, LIMIT, LIMIT_ACROSS, Row, Verdict};
use crate::gate::{callgrind, count};
use crate::progress::Progress;
use crate::scenario::Scenario;

/// Options of `gate`.
#[derive(Debug, Args)]
pub struct Gate {
    /// Write what was counted into the file instead of comparing
    #[arg(long)]
    update: bool,
    /// Only this scenario; may be repeated [default: all]
    #[arg(long, value_enum, value_name = "SCENARIO")]
    scenario: Vec<Scenario>,
    /// The file with the figures
    #[arg(long, value_name = "PATH", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/gate.json"), hide_default_value = true)]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Run the counted part of this scenario and nothing else: what the gate starts under callgrind
    #[arg(long, hide = true, value_name = "SCENARIO", exclusive = true)]
    count: Option<Scenario>,
}

impl Gate {
    /// Does what was asked for.
    pub fn run(&self, progress: &Progress) -> Result<Done, Error> {
        if let Some(scenario) = self.count {
            return json(&count::run(scenario, progress)?).map(Done::all);
        }
        if Build::here().target == "x86-64-v4" {
            let (found, allowed) = ("a build with AVX-512".into(), "x86-64-v3: callgrind knows no more".into());
            return Err(Error::Option { option: "count", found, allowed });
        }
        let before = Baseline::read(&self.file)?;
        let counted = self.count_all(progress)?;
        let known: Vec<_> = Scenario::value_variants().iter().map(|s| s.label()).collect();
        let verdict = Verdict::new(before.as_ref(), &counted, &known, progress.stopped());
        if self.update {
            if verdict.interrupted {
                return Err(Error::Interrupted);
            }
            Baseline::update(before, &counted, self.scenario.is_empty())?.write(&self.file)?;
        }
        let text = if self.json { json(&verdict)? } else { self.render(&verdict) };
        Ok(Done { text, code: if self.update { 0 } else { verdict.code() } })
    }

    /// As many at once as there are cores: how many instructions it takes does not depend on who else is there.
    fn count_all(&self, progress: &Progress) -> Result<BTreeMap<String, Entry>, Error> {
        let mut wanted = self.scenario.clone();
        if wanted.is_empty() {
            wanted = Scenario::value_variants().to_vec();
        }
        let scratch = tempfile::Builder::new().prefix("marchproxy-gate-").tempdir();
        let scratch = scratch.map_err(|source| Error::System { what: "a scratch directory".into(), source })?;
        progress.phase("counting instructions", wanted.len() as u64);
        let (next, counted) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let seats = std::thread::available_parallelism().map_or(1, Into::into).min(wanted.len());
        std::thread::scope(|scope| {
            for _ in 0..seats {
                scope.spawn(|| {
                    while let Some(&scenario) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = one(scenario, scratch.path(), progress);
                        let failed = result.is_err();
                        if let Ok(mut counted) = counted.lock() {
                            counted.push((scenario.label().to_owned(), result));
                        }
                        if failed || !progress.advance(1) {
                            break;
                        }
                    }
                });
            }
        });
        progress.finish();
        let counted = counted.into_inner().map_err(|_| Error::Harness("a thread of the gate ended early"))?;
        let (done, failed): (Vec<_>, Vec<_>) = counted.into_iter().partition(|(_, result)| result.is_ok());
        match failed.into_iter().find_map(|(_, result)| result.err()) {
            Some(Error::Interrupted) if !done.is_empty() => {}
            Some(error) => return Err(error),
            None => {}
        }
        Ok(done.into_iter().filter_map(|(name, result)| Some((name, result.ok()?))).collect())
    }

    fn render(&self, verdict: &Verdict) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = write(&mut out, verdict, self.update);
        let _ = match (self.update, verdict.code()) {
            (true, _) => {
                writeln!(out, "\nWrote {}; it belongs into the commit that changes the figures.", self.file.display())
            }
            (false, 1) => writeln!(
                out,
                "\nRefused. If it is worth it, say so in the commit: `marchproxy-perf gate --update` writes the file, commit it along.{}",
                if verdict.comparable { String::new() } else { format!("\n{}", across(verdict)) }
            ),
            (false, 3) if !verdict.comparable => {
                writeln!(
                    out,
                    "\nCompared across compilers: nothing grew by more than {LIMIT_ACROSS} %.\n{}",
                    across(verdict)
                )
            }
            (false, _) => writeln!(out, "\nNothing grew by more than {LIMIT} %."),
        };
        out
    }
}

/// What to do about figures of another build.
fn across(verdict: &Verdict) -> String {
    let file = verdict.file_build.as_ref().unwrap_or(&verdict.build);
    format!(
        "The file's figures are of {file}, these of {}: another build makes other instructions of the same source, so the limit is \
         {LIMIT_ACROSS} % instead of {LIMIT} %. For the closer one build the commit before yours as now, run \
         `marchproxy-perf gate --update` there, and commit the file by itself.",
        verdict.build
    )
}

fn one(scenario: Scenario, scratch: &std::path::Path, progress: &Progress) -> Result<Entry, Error> {
    let parameters =
        serde_json::to_value(count::params(scenario)).map_err(|_| Error::Harness("parameters are no JSON"))?;
    let (counted, profile) = callgrind::count(scenario, scratch, progress)?;
    if counted.packets != count::PACKETS as u64 || counted.residue != 0 {
        let why = format!("{} packets instead of {}, residue {}", counted.packets, count::PACKETS, counted.residue);
        return Err(Error::Callgrind { scenario: scenario.label(), why });
    }
    Ok(Entry::new(counted, &profile, parameters))
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, Error> {
    serde_json::to_string_pretty(value).map_err(|_| Error::Harness("the report is no JSON"))
}

fn write(out: &mut String, verdict: &Verdict, update: bool) -> std::fmt::Result {
    writeln!(out, "Instructions per packet, {}", verdict.build)?;
    match &verdict.file_build {
        None => writeln!(out, "There is no file to compare with.")?,
        Some(file) if !verdict.comparable => writeln!(out, "The file's figures: {file}")?,
        Some(_) => {}
    }
    writeln!(out, "\n{:12} {:>10} {:>10} {:>8} {:>8}", "scenario", "file", "now", "change", "IO now")?;
    for row in &verdict.scenarios {
        let old = row.old.map_or_else(|| "-".into(), |old| format!("{old:.1}"));
        let percent = row.percent.map_or_else(|| "-".into(), |percent| format!("{percent:+.2} %"));
        let line =
            format!("{:12} {old:>10} {:>10.1} {percent:>8} {:>8.1}  {}", row.scenario, row.new, row.io, word(row));
        writeln!(out, "{}", line.trim_end())?;
    }
    // Writing the file anew is no occasion to list everything in it.
    let listed = |row: &&Row| !row.parts.is_empty() && (row.judgement == Judgement::Grew || !update);
    for row in verdict.scenarios.iter().filter(listed) {
        let what = if row.judgement == Judgement::Grew { "grew here" } else { "is dearest here" };
        writeln!(out, "\n{} {what}:", row.scenario)?;
        for part in &row.parts {
            let old = part.old.map_or_else(|| "-".into(), |old| format!("{old:.1}"));
            writeln!(out, "{old:>10} {:>10.1}  {}", part.new, part.part)?;
        }
    }
    if !verdict.gone.is_empty() {
        let gone = verdict.gone.join(", ");
        writeln!(
            out,
            "\nThe file has figures of scenarios that do not exist any more: {gone}. A whole --update drops them."
        )?;
    }
    if verdict.interrupted {
        writeln!(out, "\nInterrupted: these are the scenarios counted up to then.")?;
    }
    Ok(())
}

fn word(row: &Row) -> &'static str {
    match row.judgement {
        Judgement::Same => "",
        Judgement::Grew => "GREW",
        Judgement::Shrank => "shrank: let the file follow (--update), or the gain can be lost unseen",
        Judgement::New => "NOT IN THE FILE",
        Judgement::OtherLoad => "OTHER TABLES OR PACKETS than the file's",
    }
}
