//! A benchmark's report as a page with plots.

use super::report::{Case, Family, Limit, Report};
use super::text;
use super::trial::{Latency, Trial};
use crate::Error;
use crate::html::Page;
use crate::html::plot::{Axis, Plot, Scale, Series};
use crate::load::Size;

/// The page.
pub fn render(report: &Report) -> Result<String, Error> {
    let title = format!("RFC 2544: {}", report.scenario.label());
    let mut page =
        Page::new(&title, &format!("{} on the memory backend. {}.", text::amounts(report), report.methodology));
    if report.interrupted {
        page.warning("Interrupted: these are the figures up to then.");
    }
    if report.noisy {
        page.warning(&crate::machine::too_noisy(&report.noise));
    }
    page.tiles(&tiles(report));
    let shown = |cases: &dyn Fn(&Case) -> bool| report.cases.iter().any(cases);
    if shown(&|case| !case.throughput.is_empty()) {
        page.heading("Throughput");
        page.text("The highest rate at which the device forwards every packet, or loses no more than the share named.");
        page.figures(&[throughput_plot(report, false).render()?, throughput_plot(report, true).render()?]);
        throughput_table(&mut page, report);
    }
    if shown(&|case| !case.latency.is_empty()) {
        page.heading("Latency");
        page.text(
            "End to end by load, every packet timed: from the tester's ring into the device to its look into the ring behind. What \
             tester and rings take by themselves is the row \u{201c}rings alone\u{201d}.",
        );
        let plots: Result<Vec<_>, _> = report
            .cases
            .iter()
            .filter(|case| !case.latency.is_empty())
            .map(|case| latency_plot(case).render())
            .collect();
        page.figures(&plots?);
        latency_table(&mut page, report);
    }
    if shown(&|case| case.back_to_back.is_some()) {
        page.heading("Back-to-back frames");
        page.text("The longest burst at the maximum rate that the device takes without loss.");
        bursts_table(&mut page, report);
    }
    if shown(&|case| !case.frame_loss.is_empty()) {
        page.heading("Frame loss");
        page.text("Share of packets lost, from the maximum rate down until two trials in a row lost none.");
        let plots: Result<Vec<_>, _> =
            families(report).into_iter().map(|family| loss_plot(report, family).render()).collect();
        page.figures(&plots?);
        loss_table(&mut page, report);
    }
    page.heading("How it was measured");
    page.facts(&[
        ("Trials", text::method(report)),
        ("Amounts", text::amounts(report)),
        ("Cases", report.cases.iter().map(|case| case.trials).sum::<usize>().to_string() + " trials in all"),
        ("Residue", format!("{} packets without account, over all trials", report.residue)),
    ]);
    page.machine(&report.machine);
    let json = serde_json::to_string_pretty(report).map_err(|_| Error::Harness("the report is no JSON"))?;
    page.details("All numbers as JSON", &json);
    Ok(page.finish())
}

/// Figures of the first case of each family.
fn tiles(report: &Report) -> Vec<(String, String, String)> {
    let mut tiles = Vec::new();
    for family in families(report) {
        let Some(case) = report.cases.iter().find(|case| case.family == family) else { continue };
        let of = format!("{} octets, {}", case.packet, family.label());
        if let Some(found) = case.throughput.first() {
            tiles.push((format!("throughput, {of}"), format!("{:.2}", found.mpps), "Mpps".into()));
        }
        if let Some(step) = case.latency.iter().find(|step| step.load_percent == 50) {
            tiles.push((
                format!("p99 latency at half of it, {of}"),
                format!("{:.1}", step.trial.latency.p99_us),
                "\u{b5}s".into(),
            ));
        }
        if let Some(bursts) = &case.back_to_back {
            let value = if bursts.endless { format!("> {}", bursts.frames) } else { bursts.frames.to_string() };
            tiles.push((format!("longest burst, {of}"), value, "frames".into()));
        }
    }
    tiles
}

fn families(report: &Report) -> Vec<Family> {
    let mut families: Vec<Family> = report.cases.iter().map(|case| case.family).collect();
    families.dedup();
    families
}

/// Packet sizes side by side, evenly: they are few, and the mix is none.
fn sizes(report: &Report) -> Vec<Size> {
    let mut sizes = Vec::new();
    for case in &report.cases {
        if !sizes.contains(&case.packet) {
            sizes.push(case.packet);
        }
    }
    sizes
}

fn throughput_plot(report: &Report, gbit: bool) -> Plot {
    let sizes = sizes(report);
    let place = |size| sizes.iter().position(|s| *s == size).unwrap_or(0) as f64;
    let marks = sizes.iter().map(|size| (place(*size), size.to_string())).collect();
    let mut series = Vec::new();
    for family in families(report) {
        for (at, loss) in report.settings.loss_percent.iter().enumerate() {
            let cases = report.cases.iter().filter(|case| case.family == family);
            let points: Vec<_> = cases
                .filter_map(|case| {
                    let found = case.throughput.get(at)?;
                    Some((place(case.packet), if gbit { found.gbit_per_s } else { found.mpps }))
                })
                .collect();
            if !points.is_empty() {
                let name = format!("{}, {}", family.label(), allowed(*loss));
                series.push(Series { name, points, computed: false, colour: series.len() as u8 });
            }
        }
    }
    let unit = if gbit { "Gbit/s on the wire" } else { "Mpps" };
    let limited = report.cases.iter().any(|case| case.throughput.iter().any(|t| t.limited_by != Limit::Device));
    Plot {
        title: format!("Throughput by packet size, {unit}"),
        caption: if limited {
            "Some values are limited by tester or line, not by the device: see the table."
        } else {
            ""
        }
        .into(),
        x: Axis::new("packet size, octets with FCS", Scale::Linear).with_marks(marks),
        y: Axis::new(unit, Scale::Linear),
        series,
    }
}

fn allowed(loss: f64) -> String {
    if loss > 0.0 { format!("{loss} % lost") } else { "no loss".into() }
}

fn latency_plot(case: &Case) -> Plot {
    let names = ["p50", "p90", "p99", "p99.9", "max"];
    let figures = |l: &Latency| [l.p50_us, l.p90_us, l.p99_us, l.p99_9_us, l.max_us];
    let series = names.iter().enumerate().map(|(at, name)| Series {
        name: (*name).into(),
        points: case.latency.iter().map(|s| (f64::from(s.load_percent), figures(&s.trial.latency)[at])).collect(),
        computed: false,
        colour: at as u8,
    });
    let marks = [0, 10, 50, 80, 90, 99].map(|percent| (f64::from(percent), percent.to_string()));
    Plot {
        title: format!("Latency, {} octets, {}", case.packet, case.family.label()),
        caption: format!("100 % is {:.3} Mpps.", case.throughput.first().map_or(0.0, |t| t.mpps)),
        x: Axis::new("load, % of throughput", Scale::Linear).with_marks(marks.to_vec()),
        y: Axis::new("microseconds", Scale::Log),
        series: series.collect(),
    }
}

fn loss_plot(report: &Report, family: Family) -> Plot {
    let cases = report.cases.iter().filter(|case| case.family == family && !case.frame_loss.is_empty());
    let series = cases.enumerate().map(|(colour, case)| Series {
        name: format!("{} octets", case.packet),
        points: case.frame_loss.iter().map(|point| (f64::from(point.rate_percent), point.trial.loss_percent)).collect(),
        computed: false,
        colour: colour as u8,
    });
    let marks = (0..=5).map(|n| (f64::from(n * 20), (n * 20).to_string())).collect();
    Plot {
        title: format!("Frame loss, {}", family.label()),
        caption: "Each size has a maximum rate of its own: see the table.".into(),
        x: Axis::new("offered, % of the maximum rate", Scale::Linear).with_marks(marks),
        y: Axis::new("lost, %", Scale::Linear),
        series: series.collect(),
    }
}

fn throughput_table(page: &mut Page, report: &Report) {
    let mut rows = Vec::new();
    for case in &report.cases {
        for found in &case.throughput {
            let mark = if found.doubtful { ", doubtful: interrupted" } else { "" };
            rows.push(vec![
                case.packet.to_string(),
                case.family.label().into(),
                format!("{:.1}", case.frame_octets),
                allowed(found.loss_percent),
                format!("{:.3}", found.mpps),
                format!("{:.3}", found.gbit_per_s),
                format!("{:.3}", case.maximum_mpps),
                found.limited_by.label().to_owned() + mark,
                found.steps.len().to_string(),
            ]);
        }
    }
    let head = ["Size", "Family", "Mean octets", "Loss", "Mpps", "Gbit/s", "Maximum, Mpps", "Limited by", "Trials"];
    page.table(&head, &rows);
}

fn latency_table(page: &mut Page, report: &Report) {
    let row = |case: &Case, load: String, mpps: f64, l: &Latency, marks: String| {
        let mut row = vec![case.packet.to_string(), case.family.label().into(), load, format!("{mpps:.3}")];
        let figures = [l.min_us, l.mean_us, l.p50_us, l.p90_us, l.p99_us, l.p99_9_us, l.max_us];
        row.extend(figures.iter().map(|us| format!("{us:.2}")));
        row.push(marks);
        row
    };
    let mut rows = Vec::new();
    for case in report.cases.iter().filter(|case| !case.latency.is_empty()) {
        rows.push(row(case, "rings alone".into(), case.maximum_mpps / 2.0, &case.loopback, String::new()));
        for step in &case.latency {
            let trial = &step.trial;
            let load = format!("{} %", step.load_percent);
            rows.push(row(case, load, trial.offered_mpps, &trial.latency, text::marks(trial)));
        }
    }
    let head = ["Size", "Family", "Load", "Mpps", "Min, \u{b5}s", "Mean", "p50", "p90", "p99", "p99.9", "Max", "Marks"];
    page.table(&head, &rows);
}

fn bursts_table(page: &mut Page, report: &Report) {
    let rows: Vec<_> = report
        .cases
        .iter()
        .filter_map(|case| {
            let bursts = case.back_to_back.as_ref()?;
            let each: Vec<_> = bursts.each.iter().map(u64::to_string).collect();
            Some(vec![
                case.packet.to_string(),
                case.family.label().into(),
                format!("{:.3}", bursts.mpps),
                bursts.frames.to_string() + if bursts.endless { " or more" } else { "" },
                format!("{:.0}", bursts.mean),
                format!("{:.1}", bursts.buffer_us),
                each.join(" "),
                if bursts.torn > 0 { format!("{} lengths only with pauses", bursts.torn) } else { String::new() },
            ])
        })
        .collect();
    page.table(&["Size", "Family", "Rate, Mpps", "Frames, median", "Mean", "Buffer, \u{b5}s", "Each", "Marks"], &rows);
}

fn loss_table(page: &mut Page, report: &Report) {
    let row = |case: &Case, percent: u32, trial: &Trial| {
        vec![
            case.packet.to_string(),
            case.family.label().into(),
            format!("{percent} %"),
            trial.asked_mpps.map_or_else(String::new, |mpps| format!("{mpps:.3}")),
            format!("{:.3}", trial.offered_mpps),
            format!("{:.4} %", trial.loss_percent),
            text::losses(&trial.lost),
            text::marks(trial),
        ]
    };
    let points = report.cases.iter().flat_map(|case| case.frame_loss.iter().map(move |point| (case, point)));
    let rows: Vec<_> = points.map(|(case, point)| row(case, point.rate_percent, &point.trial)).collect();
    page.table(&["Size", "Family", "Rate", "Asked, Mpps", "Offered", "Lost", "Where", "Marks"], &rows);
}
