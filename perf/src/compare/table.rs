//! A comparison for people.

use std::fmt::Write;

use super::Comparison;

/// The comparison as text.
pub fn render(comparison: &Comparison) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, comparison);
    out
}

fn write(out: &mut String, c: &Comparison) -> std::fmt::Result {
    writeln!(out, "{} against others, in turn; ratio = our rate / theirs", c.work)?;
    writeln!(out, "{}\n", c.rig)?;
    if !c.rows.is_empty() {
        let width = c.rows.iter().map(|row| row.peer.len()).max().unwrap_or(0).max("peer".len());
        writeln!(out, "{:width$} {:>12} {:>12} {:>8} {:>8}  unit", "peer", "ours", "theirs", "ratio", "spread")?;
        for row in &c.rows {
            let spread = row.spread_percent.map_or_else(|| "-".into(), |s| format!("{s:.1} %"));
            writeln!(
                out,
                "{:width$} {:>12} {:>12} {:>8.3} {spread:>8}  {}",
                row.peer,
                million(row.ours),
                million(row.theirs),
                row.ratio,
                row.unit
            )?;
        }
        writeln!(out)?;
        for row in c.rows.iter().filter(|row| !row.note.is_empty()) {
            writeln!(out, "{}: {}", row.peer, row.note)?;
        }
    }
    for missing in &c.missing {
        writeln!(out, "missing {}: {}", missing.peer, missing.reason)?;
    }
    let m = &c.machine;
    writeln!(
        out,
        "machine: {}, core {} of {}, clock {} MHz, load {:.2}, steal {}, Linux {}",
        m.cpu,
        m.core,
        m.cores,
        m.tsc_mhz,
        m.load,
        m.steal.map_or_else(|| "unknown".into(), |s| format!("{s:.1} %")),
        m.kernel,
    )?;
    if c.interrupted {
        writeln!(out, "\nInterrupted: these are the figures up to then.")?;
    }
    if c.noisy {
        writeln!(
            out,
            "\nToo noisy for a figure: {}. Stop other work on this machine and run again.",
            c.noise.join("; ")
        )?;
    }
    Ok(())
}

fn million(rate: f64) -> String {
    format!("{:.3} M", rate / 1e6)
}
