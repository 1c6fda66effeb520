//! The report of `scale` as a page with plots.

use std::fmt::Write;

use super::report::{Amount, Report};
use super::text;
use crate::Error;
use crate::html::Page;
use crate::html::plot::{Axis, Plot, Scale, Series, short};

/// Points of a law's line.
const LINE: usize = 40;

/// The page.
pub fn render(report: &Report) -> Result<String, Error> {
    let mut page = Page::new(
        "How the cost of a packet grows",
        &format!(
            "Engine cycles per packet on the memory backend, {} measurements of each size in turn.",
            report.repeats
        ),
    );
    if report.interrupted {
        page.warning("Interrupted: these are the figures up to then.");
    }
    if report.noisy {
        page.warning(&crate::machine::too_noisy(&report.noise));
    }
    let tiles = report.amounts.iter().filter_map(|amount| {
        let growth = amount.growth?;
        let what =
            format!("{} {} to {}", amount.what.option(), short(growth.span.0 as f64), short(growth.span.1 as f64));
        let unit = if growth.holds { "" } else { "above the limit" };
        Some((what, format!("\u{d7}{:.2}", growth.factor), unit.to_owned()))
    });
    page.tiles(&tiles.collect::<Vec<_>>());
    page.heading("By amount");
    page.figures(&report.amounts.iter().map(|amount| plot(amount).render()).collect::<Result<Vec<_>, _>>()?);
    page.heading("Figures");
    let mut rows = Vec::new();
    for amount in &report.amounts {
        for point in &amount.points {
            let mut row = vec![amount.what.option().into(), amount.scenario.label().into(), point.n.to_string()];
            match text::row(point) {
                Ok(figures) => row.extend(figures),
                Err(words) => row.extend([vec![String::new(); 6], vec![format!("refused: {words}")]].concat()),
            }
            rows.push(row);
        }
    }
    page.table(
        &[
            "Amount",
            "Scenario",
            "Size",
            "Cycles/packet",
            "Spread",
            "In steps of calibration",
            "IO cycles",
            "Mpps",
            "Tables, MB",
            "",
        ],
        &rows,
    );
    page.heading("Growth");
    for amount in &report.amounts {
        let growth = amount.growth.as_ref().map_or_else(|| "fewer than two sizes were measured".into(), text::growth);
        page.text(&format!("{}: {growth}.", amount.what.option()));
    }
    page.heading("How it was measured");
    let options = if report.options.is_empty() { "none".into() } else { report.options.join(" ") };
    page.facts(&[
        ("Measurement", "marchproxy-perf run, a process for each, one repeat".to_owned()),
        ("Options", options),
        ("Repeats", format!("{}: all sizes in turn, then again", report.repeats)),
    ]);
    page.machine(&report.machine);
    let json = serde_json::to_string_pretty(report).map_err(|_| Error::Harness("the report is no JSON"))?;
    page.details("All numbers as JSON", &json);
    Ok(page.finish())
}

fn plot(amount: &Amount) -> Plot {
    let points: Vec<_> =
        amount.points.iter().filter_map(|point| Some((point.n as f64, point.cycles_per_packet?))).collect();
    let mut caption = amount.growth.as_ref().map_or_else(String::new, text::growth);
    let refused = amount.points.iter().filter(|point| point.refused.is_some()).count();
    if refused > 0 {
        let _ = write!(caption, " {refused} sizes were refused: see the table.");
    }
    let mut series = vec![Series { name: "measured".into(), points: points.clone(), computed: false, colour: 0 }];
    if let Some((law, (first, last))) = amount.growth.and_then(|growth| Some((growth.fit?.law, growth.span))) {
        let ratio = (last as f64 / first as f64).powf(1.0 / LINE as f64);
        let line = (0..=LINE).map(|at| first as f64 * ratio.powi(at as i32)).map(|n| (n, law.at(n)));
        series.push(Series { name: law.to_string(), points: line.collect(), computed: true, colour: 1 });
    }
    let marks = amount.points.iter().map(|point| (point.n as f64, short(point.n as f64))).collect();
    Plot {
        title: format!("Cost by {} ({})", amount.what.option(), amount.scenario.label()),
        caption,
        x: Axis::new(amount.what.option(), Scale::Log).with_marks(marks),
        y: Axis::new("cycles per packet", Scale::Linear),
        series,
    }
}
