//! A comparison for people.

use std::fmt::Write;

use super::{Comparison, Row};

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
        rows(out, &c.rows)?;
        builds(out, &c.rows)?;
        notes(out, &c.rows)?;
    }
    for missing in &c.missing {
        let alone = missing.alone.map_or_else(String::new, |alone| {
            let spread = alone.spread_percent.map_or_else(String::new, |s| format!(", spread {s:.1} %"));
            format!("; alone it does {} {}{spread}", million(alone.theirs), alone.unit)
        });
        writeln!(out, "missing {}: {}{alone}", missing.peer, missing.reason)?;
    }
    let m = &c.machine;
    writeln!(
        out,
        "machine: {}, {} of {}, clock {} MHz, load {:.2}, steal {}, Linux {}",
        m.cpu,
        m.core,
        m.cores,
        m.tsc_mhz,
        m.load,
        crate::machine::percent(m.steal),
        m.kernel,
    )?;
    if c.interrupted {
        writeln!(out, "\nInterrupted: these are the figures up to then.")?;
    }
    if c.noisy {
        writeln!(out, "\n{}", crate::machine::too_noisy(&c.noise))?;
    }
    Ok(())
}

/// Names of rows: the peer, and the work where it differs among them.
fn names(rows: &[Row]) -> (Vec<String>, usize) {
    let one = rows.iter().all(|row| row.work == rows[0].work);
    let name = |row: &Row| if one { row.peer.clone() } else { format!("{} {}", row.peer, row.work) };
    let names: Vec<_> = rows.iter().map(name).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).max("peer".len());
    (names, width)
}

fn rows(out: &mut String, rows: &[Row]) -> std::fmt::Result {
    let (names, width) = names(rows);
    writeln!(out, "{:width$} {:>12} {:>12} {:>8} {:>8}  unit", "peer", "ours", "theirs", "ratio", "spread")?;
    for (row, name) in rows.iter().zip(names) {
        let spread = row.spread_percent.map_or_else(|| "-".into(), |s| format!("{s:.1} %"));
        let (ours, theirs) = (million(row.ours), million(row.theirs));
        writeln!(out, "{name:width$} {ours:>12} {theirs:>12} {:>8.3} {spread:>8}  {}", row.ratio, row.unit)?;
    }
    writeln!(out)
}

/// Time and memory of tables.
fn builds(out: &mut String, rows: &[Row]) -> std::fmt::Result {
    if rows.iter().all(|row| row.build.is_none()) {
        return Ok(());
    }
    let (names, width) = names(rows);
    writeln!(out, "{:width$} {:>12} {:>12} {:>12} {:>12}", "built in", "ours", "theirs", "ours", "theirs")?;
    for (row, name) in rows.iter().zip(names) {
        let Some(build) = row.build else { continue };
        let seconds = |s: f64| format!("{:.1} ms", s * 1e3);
        let size = |bytes: u64| format!("{:.2} MB", bytes as f64 / 1e6);
        writeln!(
            out,
            "{name:width$} {:>12} {:>12} {:>12} {:>12}",
            seconds(build.ours_seconds),
            seconds(build.theirs_seconds),
            size(build.ours_bytes),
            size(build.theirs_bytes)
        )?;
    }
    writeln!(out)
}

/// What must be known, once where rows share it.
fn notes(out: &mut String, rows: &[Row]) -> std::fmt::Result {
    let mut said: Vec<(&str, &str)> = Vec::new();
    for row in rows.iter().filter(|row| !row.note.is_empty()) {
        let note = (row.peer.as_str(), row.note.as_str());
        if !said.contains(&note) {
            writeln!(out, "{}: {}", note.0, note.1)?;
            said.push(note);
        }
    }
    Ok(())
}

fn million(rate: f64) -> String {
    format!("{:.3} M", rate / 1e6)
}
