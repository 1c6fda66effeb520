//! What the console prints, in testpmd's manner.

use std::fmt::Write;
use std::time::Duration;

use super::subject::Reading;
use crate::measure::{Counts, named};
use crate::report::PortReport;
use crate::scenario::Scenario;

/// `show port stats all`: since `from`, rates since `before`, `elapsed` ago.
pub fn ports(now: &Reading, from: &Reading, before: &Reading, elapsed: Duration) -> String {
    let mut out = String::new();
    for (index, port) in now.ports.iter().enumerate() {
        let none = PortReport::default();
        let (from, before) = (from.ports.get(index).unwrap_or(&none), before.ports.get(index).unwrap_or(&none));
        let rate = |count: fn(&PortReport) -> u64| {
            count(port).saturating_sub(count(before)) as f64 / elapsed.as_secs_f64().max(1e-9)
        };
        let since = |count: fn(&PortReport) -> u64| count(port).saturating_sub(count(from));
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "port {index} ({}), {} -> {}\n  RX-packets: {:<14} RX-missed: {:<10} RX-bytes: {}\n  RX-errors:  {:<14} \
             RX-nombuf: {}\n  TX-packets: {:<14} TX-errors: {:<10} TX-bytes: {}\n  Rx-pps: {:.0}  Rx-bps: {:.0}  Tx-pps: \
             {:.0}  Tx-bps: {:.0}",
            port.name,
            port.receives_from,
            port.sends_to,
            since(|p| p.rx_packets),
            since(|p| p.rx_missed),
            since(|p| p.rx_bytes),
            since(|p| p.rx_errors),
            since(|p| p.rx_no_mbuf),
            since(|p| p.tx_packets),
            since(|p| p.tx_errors),
            since(|p| p.tx_bytes),
            rate(|p| p.rx_packets),
            rate(|p| p.rx_bytes) * 8.0,
            rate(|p| p.tx_packets),
            rate(|p| p.tx_bytes) * 8.0,
        );
    }
    out
}

/// `show fwd stats all`, and what `stop` prints: since `from`.
pub fn forward(now: &Reading, from: &Reading) -> String {
    let mut out = String::new();
    let (mut all_rx, mut all_tx) = (0, 0);
    for (index, (name, rx, tx)) in now.node.iter().enumerate() {
        let (_, rx_from, tx_from) = from.node.get(index).cloned().unwrap_or_default();
        let (rx, tx) = (rx.saturating_sub(rx_from), tx.saturating_sub(tx_from));
        (all_rx, all_tx) = (all_rx + rx, all_tx + tx);
        let _ = writeln!(out, "forward statistics of port {index} ({name})\n  RX-packets: {rx:<14} TX-packets: {tx}");
    }
    let mut counts = Counts::default();
    counts.add(&from.counts, &now.counts);
    let drops = named(&counts.drops);
    let dropped: u64 = drops.values().sum();
    let why: Vec<_> = drops.iter().map(|(why, n)| format!("{why} {n}")).collect();
    let punts: u64 = counts.punts.iter().sum();
    let _ =
        writeln!(out, "accumulated forward statistics of all ports\n  RX-packets: {all_rx:<14} TX-packets: {all_tx}");
    let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join(", ")) };
    let _ = writeln!(out, "  dropped:    {dropped}{why}\n  punted:     {punts:<14} residue: {}", now.residue);
    let packets = now.sum.packets.saturating_sub(from.sum.packets);
    if packets > 0 {
        let per = |ticks: u64| ticks as f64 / packets as f64;
        let io = now.sum.io_ticks.saturating_sub(from.sum.io_ticks);
        let all = now.sum.ticks.saturating_sub(from.sum.ticks);
        let _ = writeln!(out, "  cycles/packet: engine {:.1}, IO {:.1}", per(all.saturating_sub(io)), per(io));
    }
    out
}

/// `show config`.
pub fn config(now: &Reading, scenario: Scenario, burst: usize, running: bool, core: usize) -> String {
    let mut out = format!(
        "{} forwarding, {}\ncore {core}, burst {burst}, {} sessions, tables of {:.1} MB\n",
        scenario.label(),
        if running { "started" } else { "stopped" },
        now.sessions,
        now.table_bytes as f64 / 1e6
    );
    for (index, port) in now.ports.iter().enumerate() {
        let mac = if port.mac.is_empty() { String::new() } else { format!(", {}", port.mac) };
        let _ = writeln!(out, "port {index} ({}){mac}: {} -> {}", port.name, port.receives_from, port.sends_to);
    }
    out
}
