//! A report for people.

use std::fmt::Write;

use crate::latency::Summary;
use crate::report::{Devices, Report};

/// The report as text.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, report);
    out
}

fn write(out: &mut String, r: &Report) -> std::fmt::Result {
    let p = &r.parameters;
    let packet = p
        .capture
        .as_ref()
        .map_or_else(|| format!("{} octets", p.packet), |capture| format!("frames of {}", capture.path.display()));
    writeln!(out, "{} on {} backend, {packet}, burst {}, seed {}", r.scenario.label(), r.backend, r.burst, p.seed)?;
    let amounts = [
        (if p.capture.is_some() { "frames" } else { "flows" }, p.flows),
        ("routes", p.routes),
        ("rules", p.rules),
        ("services", p.services),
        ("backends each", p.backends),
        ("sessions", r.live_sessions),
    ];
    let amounts: Vec<_> = amounts.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")).collect();
    writeln!(out, "{}, tables of {:.1} MB", amounts.join(", "), r.table_bytes as f64 / 1e6)?;
    writeln!(out)?;
    let figures = [
        ("engine cycles per packet", format!("{:.1}", r.cycles_per_packet)),
        (
            "  scaled by calibration",
            format!(
                "{:.2} steps of {:.1} (dependent {:.1})",
                r.cycles_per_packet / r.calibration_cycles.max(1.0),
                r.calibration_cycles,
                r.calibration_dependent_cycles
            ),
        ),
        ("IO cycles per packet", format!("{:.1}", r.io_cycles_per_packet)),
        (
            "instructions per packet",
            match (&r.instructions_per_packet, &r.instructions_reason) {
                (Some(n), _) => format!("{n:.0}"),
                (None, reason) => format!("not counted here ({})", reason.as_deref().unwrap_or("unknown")),
            },
        ),
        ("packets per CPU second", format!("{:.2} M", r.packets_per_cpu_second / 1e6)),
        ("rate", format!("{:.2} Mpps, {:.2} Gbit/s", r.mpps, r.gbit_per_s)),
        ("time in the engine", latency(r)),
        ("new sessions per second", churn(r)),
        ("packets measured", r.packets.to_string()),
        ("repeats", repeats(r)),
        ("residue", r.residue.to_string()),
    ];
    for (what, figure) in figures {
        writeln!(out, "{what:26} {figure}")?;
    }
    if let Some(devices) = &r.devices {
        write_devices(out, devices)?;
    }
    writeln!(out)?;
    writeln!(out, "{:10} {:>14} {:>14}", "stage", "cycles/packet", "packets/call")?;
    for stage in &r.stages {
        let cycles = stage.cycles_per_packet.map_or_else(|| "-".into(), |c| format!("{c:.1}"));
        writeln!(out, "{:10} {cycles:>14} {:>14.1}", stage.name, stage.packets_per_call)?;
    }
    writeln!(out)?;
    let shares = |list: &std::collections::BTreeMap<&str, f64>| {
        let shown: Vec<_> = list.iter().filter(|(_, n)| **n > 0.0).map(|(what, n)| format!("{what} {n:.3}")).collect();
        if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
    };
    let counts = |list: &std::collections::BTreeMap<&str, u64>| {
        let shown: Vec<_> = list.iter().map(|(what, n)| format!("{what} {n}")).collect();
        if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
    };
    workers(out, r)?;
    writeln!(out, "table hits per packet  {}", shares(&r.table_hits))?;
    writeln!(out, "shares of packets      {}", shares(&r.mix))?;
    writeln!(out, "drops                  {}", counts(&r.drops))?;
    writeln!(out, "punts                  {}", counts(&r.punts))?;
    let m = &r.machine;
    writeln!(
        out,
        "machine                {}, {} of {}, clock {} MHz, load {:.2}, steal {}, governor {}, Linux {}",
        m.cpu,
        m.core,
        m.cores,
        m.tsc_mhz,
        m.load,
        crate::machine::percent(m.steal),
        m.governor.as_deref().unwrap_or("none"),
        m.kernel,
    )?;
    writeln!(
        out,
        "memory                 {} of {} huge pages free, transparent {} ({} MB here), session table: {}",
        m.hugepages.free,
        m.hugepages.total,
        m.hugepages.transparent,
        m.hugepages.anonymous_kb >> 10,
        m.hugepages.sessions
    )?;
    if r.interrupted {
        writeln!(out, "\nInterrupted: these are the figures up to then.")?;
    }
    if r.noisy {
        writeln!(out, "\n{}", crate::machine::too_noisy(&r.noise))?;
    }
    Ok(())
}

fn write_devices(out: &mut String, devices: &Devices) -> std::fmt::Result {
    let seen = &devices.observed;
    writeln!(out, "{:26} {:.2} Mpps", "came on the wall", seen.packets_per_second / 1e6)?;
    writeln!(out, "{:26} {:.1} % of the time", "worker without packets", seen.idle_percent)?;
    writeln!(out, "{:26} {}", "packet memory", devices.memory)?;
    for p in &devices.ports {
        writeln!(out, "\nport {}, {}, {} -> {}", p.name, p.mac, p.receives_from, p.sends_to)?;
        writeln!(
            out,
            "  rx {} packets, {} octets, missed {}, errors {}, no memory {}",
            p.rx_packets, p.rx_bytes, p.rx_missed, p.rx_errors, p.rx_no_mbuf
        )?;
        writeln!(out, "  tx {} packets, {} octets, errors {}", p.tx_packets, p.tx_bytes, p.tx_errors)?;
    }
    Ok(())
}

fn workers(out: &mut String, r: &Report) -> std::fmt::Result {
    let Some(hand_off) = &r.hand_off else { return Ok(()) };
    writeln!(
        out,
        "{:10} {:>14} {:>14} {:>14} {:>14} {:>10}",
        "core", "packets", "cycles/packet", "handed off", "taken over", "steal"
    )?;
    for w in &r.workers {
        let steal = crate::machine::percent(w.steal);
        let (packets, cycles) = (w.packets, w.cycles_per_packet);
        writeln!(
            out,
            "{:<10} {packets:>14} {cycles:>14.1} {:>14} {:>14} {steal:>10}",
            w.core, w.handed_off, w.taken_over
        )?;
    }
    let cost = match (hand_off.direct_cycles_per_packet, hand_off.cycles_per_handed_packet) {
        (Some(direct), Some(cost)) => {
            format!(", each costs {cost:.1} cycles (without any, a packet takes {direct:.1})")
        }
        _ => String::new(),
    };
    writeln!(out, "handed off             {:.1} % of packets{cost}", hand_off.ratio * 100.0)?;
    writeln!(out)
}

fn churn(r: &Report) -> String {
    let asked =
        r.parameters.churn.map_or_else(String::new, |rate| format!(" of the worker's CPU time, asked for {rate}"));
    format!("{:.0}{asked}", r.churn_per_s)
}

fn latency(r: &Report) -> String {
    let Some(Summary { ticks, ns, .. }) = &r.latency else { return missing_latency(r).into() };
    let row = [
        ("p50", ticks.p50, ns.p50),
        ("p90", ticks.p90, ns.p90),
        ("p99", ticks.p99, ns.p99),
        ("p99.9", ticks.p99_9, ns.p99_9),
        ("max", ticks.max, ns.max),
    ];
    let each: Vec<_> = row.iter().map(|(what, ticks, ns)| format!("{what} {ns:.0} ns ({ticks})")).collect();
    format!("{} (ticks)", each.join(", "))
}

fn missing_latency(r: &Report) -> &'static str {
    if r.devices.is_some() { "not measured on devices (rfc2544 measures end to end)" } else { "none was sent" }
}

fn repeats(r: &Report) -> String {
    let each: Vec<_> = r.repeats.iter().map(|c| format!("{c:.1}")).collect();
    let spread = r.spread_percent.map_or_else(String::new, |s| format!(", spread {s:.1} %"));
    format!("{}{spread}", each.join(" "))
}
