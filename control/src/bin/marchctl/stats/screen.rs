//! The screen, from two looks at a node.

use std::collections::BTreeMap;

use marchproxy_proto::v1;

use super::health;
use super::rates::Rates;
use crate::out::{Paint, Tone};
use crate::table::{Table, scaled, short, span, thousands};

/// One screen of text.
pub fn render(before: &v1::StatsResponse, now: &v1::StatsResponse, paint: Paint) -> String {
    let rates = Rates::between(before, now);
    let mut text = head(before, now, paint);
    for block in [
        ports(before, now, rates, paint),
        workers(now, paint),
        reasons(["DROPPED BECAUSE", PACKETS, PER_SECOND], &before.drops, &now.drops, rates, paint),
        reasons(["TO THE SLOW PATH", PACKETS, PER_SECOND], &before.punts, &now.punts, rates, paint),
        reasons(["FOR US", PACKETS, PER_SECOND], &before.consumed, &now.consumed, rates, paint),
        reasons(["SESSION LOOK-UP", PACKETS, PER_SECOND], &before.session_lookups, &now.session_lookups, rates, paint),
        reasons(["ENDED BECAUSE", ">SESSIONS", ">PER S"], &before.sessions_ended, &now.sessions_ended, rates, paint),
        nat_pools(now, paint),
        flows(now, paint),
        objects(before, now, rates, paint),
    ] {
        if !block.is_empty() {
            text.push('\n');
            text.push_str(&block);
        }
    }
    text
}

fn head(before: &v1::StatsResponse, now: &v1::StatsResponse, paint: Paint) -> String {
    let findings = health::findings(before, now);
    let verdict = match findings.iter().map(|(tone, _)| *tone).find(|tone| *tone == Tone::Bad) {
        _ if findings.is_empty() => paint.on(Tone::Good, "healthy"),
        Some(_) => paint.on(Tone::Bad, "in trouble"),
        None => paint.on(Tone::Warn, "worth a look"),
    };
    let mut text = format!(
        "{}  {verdict}  version {}  generation {}  tables {}  up {}\n",
        paint.on(Tone::Strong, &now.node),
        now.version,
        now.generation,
        short(&now.content_hash),
        span(now.uptime_ms / 1_000)
    );
    for (tone, finding) in findings {
        text.extend(["  ", &paint.on(tone, "!"), " ", &finding, "\n"]);
    }
    if let Some(c) = &now.conservation {
        text.extend(["  ", &law(c), "\n"]);
    }
    text
}

/// The law of conservation with its terms.
pub fn law(c: &v1::Conservation) -> String {
    format!(
        "rx {} + originated {} = tx {} + dropped {} + for us {} + held {}, residue {}",
        thousands(c.rx),
        thousands(c.originated),
        thousands(c.tx),
        thousands(c.drops),
        thousands(c.consumed),
        thousands(c.held),
        c.residue
    )
}

fn ports(before: &v1::StatsResponse, now: &v1::StatsResponse, rates: Rates, paint: Paint) -> String {
    let mut table = Table::new(&[
        "PORT",
        "LINK",
        ">RX PKT/S",
        ">RX BIT/S",
        ">TX PKT/S",
        ">TX BIT/S",
        ">MISSED",
        ">ERRORS",
        "DEVICE",
    ]);
    let nothing = v1::PortStats::default();
    for port in &now.ports {
        let old = before.ports.iter().find(|old| old.name == port.name).unwrap_or(&nothing);
        let link = if port.link_up { ("up", Tone::Good) } else { ("down", Tone::Bad) };
        let errors = port.device_rx_errors + port.device_tx_errors;
        let alarm = |count: u64| (thousands(count), (count > 0).then_some(Tone::Warn));
        let rate = |before: u64, now: u64, unit: f64| (scaled(rates.of(before, now) * unit), None);
        table.toned([
            (port.name.clone(), None),
            (link.0.to_owned(), Some(link.1)),
            rate(old.rx_packets, port.rx_packets, 1.0),
            rate(old.rx_bytes, port.rx_bytes, 8.0),
            rate(old.tx_packets, port.tx_packets, 1.0),
            rate(old.tx_bytes, port.tx_bytes, 8.0),
            alarm(port.device_rx_missed),
            alarm(errors),
            (port.device.clone(), None),
        ]);
    }
    if table.is_empty() { String::new() } else { table.render(paint) }
}

fn workers(now: &v1::StatsResponse, paint: Paint) -> String {
    let mut table = Table::new(&[
        ">WORKER",
        ">CORE",
        ">BUSY",
        ">GENERATION",
        ">SESSIONS",
        ">PKT/CALL",
        "CYCLES PER PACKET BY STAGE",
    ]);
    for worker in &now.workers {
        let busy = worker.busy_ratio * 100.0;
        let stages: Vec<String> = worker
            .stages
            .iter()
            .filter(|stage| stage.packets > 0)
            .map(|stage| format!("{} {:.0}", stage.name, stage.cycles_per_packet))
            .collect();
        // The last stage sees every packet of a call.
        let whole = worker.stages.last().filter(|stage| stage.calls > 0);
        let per_call = whole.map_or(0.0, |stage| stage.packets as f64 / stage.calls as f64);
        table.toned([
            (worker.worker.to_string(), None),
            (worker.core.to_string(), None),
            (format!("{busy:.0} %"), (busy > 90.0).then_some(Tone::Warn)),
            (worker.generation.to_string(), (worker.generation != now.generation).then_some(Tone::Warn)),
            (thousands(worker.sessions), None),
            (format!("{per_call:.1}"), None),
            (stages.join("  "), None),
        ]);
    }
    if table.is_empty() { String::new() } else { table.render(paint) }
}

const PACKETS: &str = ">PACKETS";
const PER_SECOND: &str = ">PKT/S";

fn reasons(
    [title, unit, per_second]: [&'static str; 3],
    before: &[v1::ReasonCount],
    now: &[v1::ReasonCount],
    rates: Rates,
    paint: Paint,
) -> String {
    let old: BTreeMap<&str, u64> = before.iter().map(|count| (count.reason.as_str(), count.packets)).collect();
    let rate = |count: &v1::ReasonCount| rates.of(old.get(count.reason.as_str()).copied().unwrap_or(0), count.packets);
    let mut counts: Vec<&v1::ReasonCount> = now.iter().filter(|count| count.packets > 0).collect();
    counts.sort_by(|a, b| rate(b).total_cmp(&rate(a)).then(b.packets.cmp(&a.packets)));
    let mut table = Table::new(&[title, "CLASS", unit, per_second, "MEANING"]);
    for count in counts {
        let tone = match count.class.as_str() {
            "error" => Some(Tone::Bad),
            "congestion" => Some(Tone::Warn),
            _ => None,
        };
        table.toned([
            (count.reason.clone(), None),
            (count.class.clone(), tone),
            (thousands(count.packets), None),
            (scaled(rate(count)), None),
            (count.description.clone(), Some(Tone::Faint)),
        ]);
    }
    if table.is_empty() { String::new() } else { table.render(paint) }
}

fn nat_pools(now: &v1::StatsResponse, paint: Paint) -> String {
    let mut table = Table::new(&["SOURCE POOL", "PROTOCOL", ">PORTS IN USE", ">OF", ">SHARE"]);
    for pool in now.nat_pools.iter().filter(|pool| pool.in_use > 0) {
        let short = health::is_short(pool).then_some(Tone::Warn);
        table.toned([
            (pool.address.clone(), None),
            (pool.protocol.clone(), None),
            (thousands(pool.in_use), None),
            (thousands(pool.capacity), None),
            (format!("{} %", pool.in_use * 100 / pool.capacity.max(1)), short),
        ]);
    }
    if table.is_empty() { String::new() } else { table.render(paint) }
}

fn flows(now: &v1::StatsResponse, paint: Paint) -> String {
    let Some(flows) = &now.flows else { return String::new() };
    let mut table = Table::new(&[
        "FLOWS TO",
        ">ONE OF",
        ">SESSIONS",
        ">PASSED OVER",
        ">RECORDS",
        ">LOST",
        ">SENT",
        ">UNSENT",
        "TROUBLE",
    ]);
    let alarm = |count: u64| (thousands(count), (count > 0).then_some(Tone::Warn));
    let to = if flows.collector.is_empty() { "nobody now" } else { &flows.collector };
    table.toned([
        (to.to_owned(), None),
        (flows.one_of.to_string(), None),
        (thousands(flows.sessions_selected), None),
        (thousands(flows.sessions_passed_over), None),
        (thousands(flows.records), None),
        alarm(flows.records_lost),
        (thousands(flows.sent_records), None),
        alarm(flows.unsent_records),
        (flows.trouble.clone(), Some(Tone::Warn)),
    ]);
    table.render(paint)
}

/// Rows of objects on one screen; `--json` has all of them.
const OBJECTS: usize = 20;

fn objects(before: &v1::StatsResponse, now: &v1::StatsResponse, rates: Rates, paint: Paint) -> String {
    let old: BTreeMap<(&str, &str), &v1::ObjectCount> =
        before.objects.iter().map(|count| ((count.kind.as_str(), count.name.as_str()), count)).collect();
    let past = |count: &v1::ObjectCount, field: fn(&v1::ObjectCount) -> u64| {
        old.get(&(count.kind.as_str(), count.name.as_str())).map_or(0, |count| field(count))
    };
    let rate = |count: &v1::ObjectCount| rates.of(past(count, |c| c.packets), count.packets);
    let mut counts: Vec<&v1::ObjectCount> = now.objects.iter().filter(|count| count.packets > 0).collect();
    counts.sort_by(|a, b| rate(b).total_cmp(&rate(a)).then(b.packets.cmp(&a.packets)));
    let left_out = counts.len().saturating_sub(OBJECTS);
    let mut table = Table::new(&["OBJECT", "NAME", ">PACKETS", ">PKT/S", ">BIT/S", ">DROPPED", ">DROP/S"]);
    for count in counts.into_iter().take(OBJECTS) {
        table.row([
            count.kind.clone(),
            count.name.clone(),
            thousands(count.packets),
            scaled(rate(count)),
            scaled(rates.of(past(count, |c| c.bytes), count.bytes) * 8.0),
            thousands(count.dropped),
            scaled(rates.of(past(count, |c| c.dropped), count.dropped)),
        ]);
    }
    if table.is_empty() {
        return String::new();
    }
    let more = if left_out == 0 { String::new() } else { format!("and {left_out} more, see --json\n") };
    table.render(paint) + &more
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(uptime_ms: u64, packets: u64) -> v1::StatsResponse {
        v1::StatsResponse {
            node: "edge-1".into(),
            version: 12,
            generation: 5,
            content_hash: "0123456789abcdef".into(),
            uptime_ms,
            ports: vec![v1::PortStats {
                name: "wan".into(),
                device: "auto:eth1".into(),
                link_up: true,
                rx_packets: packets,
                rx_bytes: packets * 100,
                ..v1::PortStats::default()
            }],
            workers: vec![v1::WorkerStats {
                generation: 5,
                busy_ratio: 0.25,
                sessions: 1234,
                stages: vec![v1::StageStats {
                    name: "parse".into(),
                    calls: 10,
                    packets: 320,
                    cycles_per_packet: 12.4,
                    ..v1::StageStats::default()
                }],
                ..v1::WorkerStats::default()
            }],
            sessions_ended: vec![v1::ReasonCount {
                reason: "expired".into(),
                packets: packets / 5,
                description: "idle for too long".into(),
                ..v1::ReasonCount::default()
            }],
            drops: vec![v1::ReasonCount {
                reason: "rule_denied".into(),
                class: "policy".into(),
                packets: packets / 2,
                description: "a rule says deny".into(),
            }],
            objects: vec![v1::ObjectCount {
                kind: "rule".into(),
                name: "no-telnet".into(),
                packets,
                ..v1::ObjectCount::default()
            }],
            conservation: Some(v1::Conservation { rx: packets, drops: packets, ..v1::Conservation::default() }),
            ..v1::StatsResponse::default()
        }
    }

    #[test]
    fn the_first_screen_answers() {
        let screen = render(&look(10_000, 1_000), &look(12_000, 5_000), Paint::PLAIN);
        for part in [
            "edge-1  healthy  version 12  generation 5  tables 0123456789ab  up 12 s",
            "residue 0",
            "wan   up      2.00 k    1.60 M",
            "parse 12",
            "rule_denied      policy    2,500  1.00 k  a rule says deny",
            "rule    no-telnet    5,000  2.00 k",
            "ENDED BECAUSE",
            "idle for too long",
            "25 %",
        ] {
            assert!(screen.contains(part), "{part:?} is not in\n{screen}");
        }
    }

    #[test]
    fn trouble_is_said_first() {
        let (before, mut now) = (look(10_000, 1_000), look(12_000, 5_000));
        now.ports[0].link_up = false;
        now.ports[0].device_rx_missed = 7;
        now.workers[0].generation = 4;
        now.sessions_ended[0].reason = "evicted_idle".into();
        now.conservation = Some(v1::Conservation { residue: -3, ..v1::Conservation::default() });
        let screen = render(&before, &now, Paint::PLAIN);
        for part in [
            "in trouble",
            "-3 packets unaccounted",
            "no link",
            "lost 7 packets",
            "table is full: 1,000 evicted",
            "runs generation 4, published is 5",
        ] {
            assert!(screen.contains(part), "{part:?} is not in\n{screen}");
        }
    }

    #[test]
    fn a_restart_between_two_looks_gives_no_absurd_rates() {
        let screen = render(&look(90_000, 5_000), &look(1_000, 10), Paint::PLAIN);
        assert!(screen.contains("wan"), "{screen}");
        assert!(screen.contains("wan   up          10    8.00 k"), "{screen}");
    }
}
