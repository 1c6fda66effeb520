//! The report of `scale` for people.

use std::fmt::{self, Write};

use super::report::{Amount, Growth, Point, Report};
use crate::machine::too_noisy;

/// The report as text.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, report);
    out
}

/// Growth in a sentence.
pub fn growth(growth: &Growth) -> String {
    let verdict = if growth.holds { "within" } else { "above" };
    let (first, last) = growth.span;
    let fit = growth.fit.map_or_else(
        || "too few sizes for a law".into(),
        |fit| {
            format!(
                "law {} (leaves {:.1} % unexplained, the other kind {:.1} %)",
                fit.law, fit.residual_percent, fit.other_residual_percent
            )
        },
    );
    format!(
        "x{:.2} from {first} to {last}, {verdict} the limit of x{}; scaled by calibration x{:.2}; rate x{:.2}; {fit}",
        growth.factor, growth.limit, growth.calibrated_factor, growth.rate_factor
    )
}

/// A size's row: cycles, spread, IO, rate, tables; or the words of refusal.
pub fn row(point: &Point) -> Result<[String; 6], String> {
    let Some(cycles) = point.cycles_per_packet else {
        return Err(point.refused.clone().unwrap_or_else(|| "not measured".into()));
    };
    Ok([
        format!("{cycles:.1}"),
        point.spread_percent().map_or_else(|| "-".into(), |spread| format!("{spread:.1} %")),
        format!("{:.2}", point.median(|f| f.cycles_per_packet / f.calibration_cycles.max(f64::MIN_POSITIVE))),
        format!("{:.1}", point.median(|f| f.io_cycles_per_packet)),
        format!("{:.3}", point.median(|f| f.mpps)),
        format!("{:.2}", point.median(|f| f.table_bytes as f64) / 1e6),
    ])
}

fn write(out: &mut String, report: &Report) -> fmt::Result {
    for amount in &report.amounts {
        write_amount(out, amount)?;
    }
    let m = &report.machine;
    // Where nothing was measured there is nothing to say about where.
    let measured = report.amounts.iter().flat_map(|amount| &amount.points).any(|point| !point.figures.is_empty());
    if !measured {
        return Ok(());
    }
    writeln!(
        out,
        "machine  {}, {} of {}, clock {} MHz, load {:.2}, governor {}, Linux {}; {} measurements of each size in turn",
        m.cpu,
        m.core,
        m.cores,
        m.tsc_mhz,
        m.load,
        m.governor.as_deref().unwrap_or("none"),
        m.kernel,
        report.repeats
    )?;
    if report.interrupted {
        writeln!(out, "\nInterrupted: these are the figures up to then.")?;
    }
    if report.noisy {
        writeln!(out, "\n{}", too_noisy(&report.noise))?;
    }
    Ok(())
}

fn write_amount(out: &mut String, amount: &Amount) -> fmt::Result {
    writeln!(
        out,
        "{:>9} in {:8} {:>14} {:>8} {:>10} {:>10} {:>9} {:>11}",
        amount.what.option(),
        amount.scenario.label(),
        "cycles/packet",
        "spread",
        "in steps",
        "IO cycles",
        "Mpps",
        "tables, MB"
    )?;
    for point in &amount.points {
        match row(point) {
            Ok([cycles, spread, steps, io, mpps, tables]) => writeln!(
                out,
                "{:>9} {:11} {cycles:>14} {spread:>8} {steps:>10} {io:>10} {mpps:>9} {tables:>11}",
                point.n, ""
            )?,
            Err(words) => writeln!(out, "{:>9} refused: {words}", point.n)?,
        }
    }
    match &amount.growth {
        Some(found) => writeln!(out, "   growth {}\n", growth(found)),
        None => writeln!(out, "   growth unknown: fewer than two sizes were measured\n"),
    }
}
