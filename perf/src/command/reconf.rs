//! `reconf`: what a push does to packets under way, and how long it takes.

use std::fmt::Write;

use clap::Args;

use crate::Error;
use crate::cli::Done;
use crate::process;
use crate::progress::Progress;
use crate::reconf::run::{Report, Row, Wanted, run};
use crate::reconf::source::{Format, Source};
use crate::scenario::{self, Params, Scenario};
use crate::seeded::rules::Profile;

/// Options of `reconf`.
#[derive(Debug, Args)]
pub struct Reconf {
    /// Rules in force
    #[arg(long, value_name = "N", default_value_t = 5000)]
    rules: usize,
    /// Routes beside the connected ones [default: as the scenario `rules` has them]
    #[arg(long, value_name = "N")]
    routes: Option<usize>,
    /// Push the whole document, too: from YAML, then from JSON
    #[arg(long)]
    documents: bool,
    /// Distinct flows the packets are drawn from
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    flows: usize,
    /// Kind of rule list
    #[arg(long, value_enum, default_value_t = Profile::Acl)]
    profile: Profile,
    /// Pushes of each size
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pushes: u32,
    /// Packets per second that arrive [default: half of what the worker can do here]
    #[arg(long, value_name = "PPS", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Seed of rules, flows and replay
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Core of the worker; the pushing side stays off it [default: the last one allowed]
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Reconf {
    /// Does what was asked for.
    pub fn run(&self, progress: &Progress) -> Result<Done, Error> {
        process::with_huge_heap();
        let report = self.measure(progress)?;
        let text = if self.json {
            serde_json::to_string_pretty(&report).map_err(|_| Error::Harness("the report is no JSON"))?
        } else {
            render(&report)
        };
        Ok(Done { text, code: if report.store { 0 } else { 3 } })
    }

    /// Prepares, pushes, reports.
    pub fn measure(&self, progress: &Progress) -> Result<Report, Error> {
        let core = process::leave_core(self.core)?;
        if self.documents && !cfg!(feature = "control") {
            return Err(Error::Option {
                option: "documents",
                found: "a build without control".to_owned(),
                allowed: "with --features control only".to_owned(),
            });
        }
        let defaults = Scenario::Rules.defaults();
        let params = Params {
            routes: self.routes.unwrap_or(defaults.routes),
            flows: self.flows,
            rules: self.rules,
            profile: self.profile,
            seed: self.seed,
            ..defaults
        };
        let (bench, tables) = scenario::prepare_with_tables(Scenario::Rules, &params, progress)?;
        progress.phase("preparing the first version", 0);
        #[cfg(feature = "control")]
        let source: &mut dyn Source = &mut crate::reconf::stored::Stored::new(&tables)?;
        #[cfg(not(feature = "control"))]
        let source: &mut dyn Source = &mut crate::reconf::source::Direct::new(tables);
        let wanted =
            Wanted { pushes: self.pushes as usize, rate: self.rate.map(f64::from), core, documents: self.documents };
        run(bench, source, params, wanted, progress)
    }
}

fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, report);
    out
}

fn label(row: &Row) -> String {
    match row.document {
        None => row.changed.to_string(),
        Some(Format::Yaml) => "yaml".to_owned(),
        Some(Format::Json) => "json".to_owned(),
    }
}

fn write(out: &mut String, r: &Report) -> std::fmt::Result {
    let p = &r.parameters;
    let way = if r.store { "from the wish through validation, store and dry run" } else { "from the node's tables" };
    writeln!(
        out,
        "{} rules, {} routes: {:.1} MB of tables; {} flows, {:.2} Mpps into rings of 1024 slots; settle counts {way} to the last reader\n",
        p.rules,
        p.routes,
        r.tables_mb,
        p.flows,
        r.rate_pps / 1e6
    )?;
    writeln!(
        out,
        "{:>8} {:>7} {:>7} {:>10} {:>27} {:>10}   {:>24}",
        "changed", "pushes", "lost", "outage us", "settle ms p50 / p99 / max", "peak, MB", "preempted: pushes, lost"
    )?;
    for row in &r.rows {
        let outage = row.outage_us.map_or_else(|| "-".into(), |us| format!("{us:.1}"));
        let settle = format!("{:.2} / {:.2} / {:.2}", row.settle_ms_p50, row.settle_ms_p99, row.settle_ms_max);
        writeln!(
            out,
            "{:>8} {:>7} {:>7} {outage:>10} {settle:>27} {:>10}   {:>24}",
            label(row),
            row.pushes,
            row.packets_lost,
            format!("{:.0}, {:.0}", row.memory_mb, row.steady_mb),
            format!("{}, {}", row.preempted_pushes, row.packets_lost_preempted)
        )?;
    }
    for row in r.rows.iter().filter(|row| !row.stages_ms.is_empty()) {
        let stages: Vec<String> = row.stages_ms.iter().map(|(name, ms)| format!("{name} {ms:.2}")).collect();
        writeln!(out, "{:>8} changed, ms: {}; built as a whole: {}", label(row), stages.join(", "), row.whole)?;
    }
    writeln!(out, "\nA turn of the worker without a push: p99.9 {:.1} us.", r.no_push_p999_us)?;
    if !r.store {
        writeln!(out, "The control plane's part is not in it: build with --features control.")?;
    }
    if r.interrupted {
        writeln!(out, "Interrupted: these are the pushes up to then.")?;
    }
    if r.noisy {
        writeln!(out, "{}", crate::machine::too_noisy(&r.noise))?;
    }
    Ok(())
}
