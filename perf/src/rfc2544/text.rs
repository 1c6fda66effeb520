//! A benchmark's report for people.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::report::{Case, Limit, Report};
use super::trial::Trial;
use crate::machine::too_noisy;

/// The report as text.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, report);
    out
}

/// Where packets were lost, in words.
pub fn losses(lost: &BTreeMap<&'static str, u64>) -> String {
    let each: Vec<_> = lost.iter().map(|(what, n)| format!("{what} {n}")).collect();
    if each.is_empty() { "-".into() } else { each.join(", ") }
}

/// What a figure has to be read with, short.
pub fn marks(trial: &Trial) -> String {
    let invalid = trial.invalid.iter().map(|_| "invalid");
    let disturbed = (!trial.disturbed.is_empty()).then_some("disturbed");
    invalid.chain(disturbed).collect::<Vec<_>>().join(", ")
}

/// How much there was of everything.
pub fn amounts(report: &Report) -> String {
    let p = &report.parameters;
    let amounts = [
        ("flows", p.flows),
        ("routes", p.routes),
        ("rules", p.rules),
        ("services", p.services),
        ("backends each", p.backends),
        ("sessions", p.sessions),
    ];
    let amounts: Vec<_> = amounts.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")).collect();
    format!("{}, seed {}", amounts.join(", "), p.seed)
}

/// How it was measured.
pub fn method(report: &Report) -> String {
    let s = &report.settings;
    let short = if s.trial_seconds < 60.0 { " (RFC 2544 s24 asks for 60 s: --trial 60)" } else { "" };
    format!(
        "trials of {} s{short}, {} s while searching; resolution {} %; rings of {} descriptors; tester on core {}, device on core {}",
        s.trial_seconds,
        s.search_seconds,
        s.resolution_percent,
        s.descriptors,
        report.cores.tester,
        report.cores.device
    )
}

/// The machine in one line.
pub fn machine(report: &Report) -> String {
    let m = &report.machine;
    format!(
        "{}, {} cores, clock {} MHz, load {:.2}, steal {}, device interrupted {} times, governor {}, {}Linux {}",
        m.cpu,
        m.cores,
        m.tsc_mhz,
        m.load,
        crate::machine::percent(m.steal),
        m.involuntary_switches,
        m.governor.as_deref().unwrap_or("none"),
        if m.hypervisor { "virtual, " } else { "" },
        m.kernel,
    )
}

fn write(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(out, "{} ({}), {}", report.methodology, report.scenario.label(), amounts(report))?;
    writeln!(out, "{}", method(report))?;
    for case in &report.cases {
        write_case(out, case)?;
    }
    writeln!(out, "\nresidue  {} (packets without account, all trials)", report.residue)?;
    writeln!(out, "machine  {}", machine(report))?;
    if report.interrupted {
        writeln!(out, "\nInterrupted: these are the figures up to then.")?;
    }
    if report.noisy {
        writeln!(out, "\n{}", too_noisy(&report.noise))?;
    }
    Ok(())
}

fn write_case(out: &mut String, case: &Case) -> fmt::Result {
    writeln!(
        out,
        "\n{} octets, {} ({} frames, {:.1} octets on average), at most {:.3} Mpps ({}); {} trials, {} of them again",
        case.packet,
        case.family.label(),
        case.frames,
        case.frame_octets,
        case.maximum_mpps,
        match case.maximum_by {
            Limit::Line => "the line's rate",
            _ => "what the tester can",
        },
        case.trials,
        case.repeated,
    )?;
    for found in &case.throughput {
        let mark = match (&found.confirmed, found.doubtful) {
            (None, _) => " no rate held in full length",
            (_, true) => " the device was interrupted above: it may do better",
            (Some(_), false) => "",
        };
        writeln!(
            out,
            "  throughput, {:>5} % lost  {:>8.3} Mpps {:>8.3} Gbit/s, limited by the {}{mark}",
            found.loss_percent,
            found.mpps,
            found.gbit_per_s,
            found.limited_by.label()
        )?;
    }
    if !case.latency.is_empty() {
        writeln!(
            out,
            "  latency, us    {:>8} {:>8} {:>8} {:>8} {:>8} {:>9}   offered",
            "mean", "p50", "p90", "p99", "p99.9", "max"
        )?;
        let row = |out: &mut String, name: String, l: &super::trial::Latency, rest: String| {
            writeln!(
                out,
                "  {name:<14} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>9.2}   {rest}",
                l.mean_us, l.p50_us, l.p90_us, l.p99_us, l.p99_9_us, l.max_us
            )
        };
        row(out, "rings alone".into(), &case.loopback, format!("{:.3} Mpps", case.maximum_mpps / 2.0))?;
        for step in &case.latency {
            let rest = format!("{:.3} Mpps  {}", step.trial.offered_mpps, marks(&step.trial));
            row(out, format!("load {:>3} %", step.load_percent), &step.trial.latency, rest)?;
        }
    }
    if let Some(bursts) = &case.back_to_back {
        let (first, last) = (bursts.each.iter().min().unwrap_or(&0), bursts.each.iter().max().unwrap_or(&0));
        let torn = if bursts.torn > 0 { format!("; {} lengths only with pauses", bursts.torn) } else { String::new() };
        let end = if bursts.endless { "or more: no burst was too long" } else { "frames" };
        writeln!(
            out,
            "  back-to-back   {} {end} at {:.3} Mpps (mean {:.0}, {first} to {last} in {}); buffer {:.1} us{torn}",
            bursts.frames,
            bursts.mpps,
            bursts.mean,
            bursts.each.len(),
            bursts.buffer_us
        )?;
    }
    if !case.frame_loss.is_empty() {
        writeln!(out, "  frame loss     {:>9} {:>9}   where", "Mpps", "lost")?;
        for point in &case.frame_loss {
            let trial = &point.trial;
            writeln!(
                out,
                "  rate {:>3} %     {:>9.3} {:>7.3} %   {} {}",
                point.rate_percent,
                trial.offered_mpps,
                trial.loss_percent,
                losses(&trial.lost),
                marks(trial)
            )?;
        }
    }
    Ok(())
}
