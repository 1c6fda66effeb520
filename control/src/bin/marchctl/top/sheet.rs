//! What two looks come to, as rows of values: the same for a screen, for lines and for JSON.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Instant;

use marchproxy_proto::v1;

use super::View;
use super::fleet::{Fleet, Node};
use super::source::Look;
use crate::out::Tone;
use crate::stats::rates::{Rates, grown};
use crate::table::{scaled, short, span, thousands};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// How many.
    Count(u64),
    /// Per second.
    Rate(f64),
    /// 0 to 1.
    Share(f64),
    /// A small number with a fraction.
    Number(f64),
    /// Seconds; `None` is never.
    Span(Option<u64>),
}

impl Cell {
    /// As people read it.
    pub fn show(&self) -> String {
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Count(count) => thousands(*count),
            Cell::Rate(rate) => scaled(*rate),
            Cell::Share(share) => format!("{:.0} %", share * 100.0),
            Cell::Number(number) => format!("{number:.1}"),
            Cell::Span(seconds) => seconds.map(span).unwrap_or_default(),
        }
    }

    /// As programs read it.
    pub fn json(&self) -> serde_json::Value {
        match self {
            Cell::Text(text) => text.clone().into(),
            Cell::Count(count) => (*count).into(),
            Cell::Rate(number) | Cell::Share(number) | Cell::Number(number) => (*number).into(),
            Cell::Span(seconds) => (*seconds).into(),
        }
    }

    /// Which comes first when sorted upwards.
    pub fn order(&self, other: &Cell) -> Ordering {
        match (self, other) {
            (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
            (Cell::Count(a), Cell::Count(b)) => a.cmp(b),
            (Cell::Span(a), Cell::Span(b)) => a.cmp(b),
            (Cell::Rate(a) | Cell::Share(a) | Cell::Number(a), Cell::Rate(b) | Cell::Share(b) | Cell::Number(b)) => {
                a.total_cmp(b)
            }
            _ => Ordering::Equal,
        }
    }
}

/// A value and what its colour says.
pub type Toned = (Cell, Option<Tone>);

/// Headings (`>`: to the right) with their names in JSON, and rows.
#[derive(Clone, Debug)]
pub struct Sheet {
    /// Heading and JSON name of each column.
    pub columns: &'static [(&'static str, &'static str)],
    /// A value for each column.
    pub rows: Vec<Vec<Toned>>,
    /// The column that rows are sorted by, and whether downwards, unless somebody wants it otherwise.
    pub sorted: (usize, bool),
}

impl Sheet {
    /// The rows sorted by a column; equal ones stay in their order.
    #[must_use]
    pub fn sort(mut self, (column, down): (usize, bool)) -> Sheet {
        let column = column.min(self.columns.len().saturating_sub(1));
        self.rows.sort_by(|a, b| {
            let order = match (a.get(column), b.get(column)) {
                (Some((a, _)), Some((b, _))) => a.order(b),
                _ => Ordering::Equal,
            };
            if down { order.reverse() } else { order }
        });
        self.sorted = (column, down);
        self
    }
}

fn plain(cell: Cell) -> Toned {
    (cell, None)
}

fn text(text: impl Into<String>) -> Toned {
    plain(Cell::Text(text.into()))
}

/// The sheet of a view; the overview has none of its own.
pub fn of_node(view: View, node: &Node) -> Option<Sheet> {
    let (before, now) = node.looks()?;
    match view {
        View::Overview | View::Nodes => None,
        View::Ports => Some(ports(before, now)),
        View::Services => Some(services(before, now)),
        View::Backends => Some(backends(before, now)),
        View::Drops => Some(drops(before, now)),
        View::Stages => Some(stages(before, now)),
        View::Workers => Some(workers(before, now)),
    }
}

/// All nodes.
pub fn nodes(fleet: &Fleet, at: Instant) -> Sheet {
    let columns = &[
        ("NODE", "node"),
        ("STATE", "state"),
        (">STALE", "stale_s"),
        (">VERSION", "version"),
        (">GENERATION", "generation"),
        ("TABLES", "tables"),
        (">UP", "up_s"),
        (">RX PKT/S", "rx_packets_per_s"),
        (">TX PKT/S", "tx_packets_per_s"),
        (">DROP/S", "drops_per_s"),
        (">BUSIEST", "busiest"),
        (">SESSIONS", "sessions"),
        ("TROUBLE", "trouble"),
    ];
    let row = |node: &Node| {
        let (word, tone, findings) = node.verdict();
        let nothing = Look::default();
        let (before, now) = node.looks().unwrap_or((&nothing, &nothing));
        let rates = Rates::between(&before.stats, &now.stats);
        let rate = |term: fn(&v1::Conservation) -> u64| {
            let of = |look: &Look| look.stats.conservation.as_ref().map_or(0, term);
            plain(Cell::Rate(rates.of(of(before), of(now))))
        };
        let busiest = now.stats.workers.iter().map(|worker| worker.busy_ratio).fold(0.0, f64::max);
        vec![
            text(&node.name),
            (Cell::Text(word.to_owned()), Some(tone)),
            (Cell::Span(node.stale(at).map(|stale| stale.as_secs())), Some(Tone::Bad)),
            plain(Cell::Count(now.stats.version)),
            plain(Cell::Count(now.stats.generation)),
            text(short(&now.stats.content_hash)),
            plain(Cell::Span(Some(now.stats.uptime_ms / 1000))),
            rate(|c| c.rx),
            rate(|c| c.tx),
            rate(|c| c.drops),
            busy(busiest),
            plain(Cell::Count(now.stats.workers.iter().map(|worker| worker.sessions).sum())),
            text(findings.into_iter().next().map(|(_, finding)| finding).unwrap_or_default()),
        ]
    };
    Sheet { columns, rows: fleet.nodes.iter().map(row).collect(), sorted: (0, false) }
}

fn busy(ratio: f64) -> Toned {
    (Cell::Share(ratio), (ratio > 0.9).then_some(Tone::Warn))
}

fn ports(before: &Look, now: &Look) -> Sheet {
    let columns = &[
        ("PORT", "port"),
        ("LINK", "link"),
        (">RX PKT/S", "rx_packets_per_s"),
        (">RX BIT/S", "rx_bits_per_s"),
        (">TX PKT/S", "tx_packets_per_s"),
        (">TX BIT/S", "tx_bits_per_s"),
        (">MISSED/S", "missed_per_s"),
        (">ERRORS/S", "errors_per_s"),
        ("DEVICE", "device"),
    ];
    let rates = Rates::between(&before.stats, &now.stats);
    let nothing = v1::PortStats::default();
    let row = |port: &v1::PortStats| {
        let old = before.stats.ports.iter().find(|old| old.name == port.name).unwrap_or(&nothing);
        let rate = |field: fn(&v1::PortStats) -> u64| rates.of(field(old), field(port));
        let alarm = |rate: f64| (Cell::Rate(rate), (rate > 0.0).then_some(Tone::Bad));
        let link = if port.link_up { ("up", Tone::Good) } else { ("down", Tone::Bad) };
        vec![
            text(&port.name),
            (Cell::Text(link.0.to_owned()), Some(link.1)),
            plain(Cell::Rate(rate(|p| p.rx_packets))),
            plain(Cell::Rate(rate(|p| p.rx_bytes) * 8.0)),
            plain(Cell::Rate(rate(|p| p.tx_packets))),
            plain(Cell::Rate(rate(|p| p.tx_bytes) * 8.0)),
            alarm(rate(|p| p.device_rx_missed)),
            alarm(rate(|p| p.device_rx_errors + p.device_tx_errors)),
            text(&port.device),
        ]
    };
    Sheet { columns, rows: now.stats.ports.iter().map(row).collect(), sorted: (0, false) }
}

/// Traffic of objects of a kind, by name: packets and bits a second, dropped a second.
fn traffic<'a>(kind: &'a str, before: &'a Look, now: &'a Look) -> BTreeMap<&'a str, [f64; 3]> {
    let rates = Rates::between(&before.stats, &now.stats);
    let of = |look: &'a Look| look.stats.objects.iter().filter(move |object| object.kind == kind);
    let old: BTreeMap<&str, &v1::ObjectCount> = of(before).map(|object| (object.name.as_str(), object)).collect();
    let rate = |object: &'a v1::ObjectCount| {
        let past = |field: fn(&v1::ObjectCount) -> u64| old.get(object.name.as_str()).map_or(0, |old| field(old));
        let packets = rates.of(past(|o| o.packets), object.packets);
        let bits = rates.of(past(|o| o.bytes), object.bytes) * 8.0;
        (object.name.as_str(), [packets, bits, rates.of(past(|o| o.dropped), object.dropped)])
    };
    of(now).map(rate).collect()
}

fn services(before: &Look, now: &Look) -> Sheet {
    let columns = &[
        ("SERVICE", "service"),
        (">PKT/S", "packets_per_s"),
        (">BIT/S", "bits_per_s"),
        (">DROP/S", "drops_per_s"),
        (">BACKENDS", "backends"),
        (">TAKE SESSIONS", "taking_sessions"),
    ];
    let rows = traffic("service", before, now).into_iter().map(|(name, [packets, bits, dropped])| {
        let of_service = || now.backends.iter().filter(|backend| backend.service == name);
        let (all, able) = (of_service().count(), of_service().filter(|backend| backend.takes_sessions).count());
        let tone = match able {
            0 => Some(Tone::Bad),
            able if able < all => Some(Tone::Warn),
            _ => None,
        };
        vec![
            text(name),
            plain(Cell::Rate(packets)),
            plain(Cell::Rate(bits)),
            (Cell::Rate(dropped), (dropped > 0.0).then_some(Tone::Warn)),
            plain(Cell::Count(all as u64)),
            (Cell::Count(able as u64), tone),
        ]
    });
    Sheet { columns, rows: rows.collect(), sorted: (1, true) }
}

fn backends(before: &Look, now: &Look) -> Sheet {
    let columns = &[
        ("BACKEND", "backend"),
        ("ADDRESS", "address"),
        ("STATE", "state"),
        ("HEALTH", "health"),
        (">SINCE", "since_s"),
        ("LAST CHECK", "last_check"),
        (">RTT MS", "rtt_ms"),
        (">PKT/S", "packets_per_s"),
        (">BIT/S", "bits_per_s"),
    ];
    let traffic = traffic("backend", before, now);
    let row = |backend: &v1::BackendStatus| {
        let name = format!("{}/{}", backend.service, backend.name);
        let [packets, bits, _] = traffic.get(name.as_str()).copied().unwrap_or_default();
        let health = backend.health.as_ref();
        let word = health.map_or("not checked", |health| if health.panic { "panic" } else { &health.state });
        let tone = match word {
            "up" => Tone::Good,
            "not checked" | "unknown" => Tone::Faint,
            "held" => Tone::Warn,
            _ => Tone::Bad,
        };
        let address = match backend.port {
            Some(port) if backend.address.contains(':') => format!("[{}]:{port}", backend.address),
            Some(port) => format!("{}:{port}", backend.address),
            None => backend.address.clone(),
        };
        vec![
            text(name),
            text(address),
            (Cell::Text(backend.state.clone()), (backend.state != "up").then_some(Tone::Warn)),
            (Cell::Text(word.to_owned()), Some(tone)),
            plain(Cell::Span(health.map(|health| health.since_s.max(0.0) as u64))),
            text(health.map(|health| health.last_result.clone()).unwrap_or_default()),
            plain(Cell::Number(health.and_then(|health| health.rtt_s).unwrap_or_default() * 1e3)),
            plain(Cell::Rate(packets)),
            plain(Cell::Rate(bits)),
        ]
    };
    Sheet { columns, rows: now.backends.iter().map(row).collect(), sorted: (0, false) }
}

fn drops(before: &Look, now: &Look) -> Sheet {
    let columns = &[
        ("DROPPED BECAUSE", "reason"),
        ("CLASS", "class"),
        (">PKT/S", "packets_per_s"),
        (">LAST", "packets_last"),
        (">PACKETS", "packets"),
        ("MEANING", "meaning"),
    ];
    let rates = Rates::between(&before.stats, &now.stats);
    let old: BTreeMap<&str, u64> = before.stats.drops.iter().map(|drop| (drop.reason.as_str(), drop.packets)).collect();
    let row = |drop: &v1::ReasonCount| {
        let past = old.get(drop.reason.as_str()).copied().unwrap_or(0);
        let tone = match drop.class.as_str() {
            "error" => Some(Tone::Bad),
            "congestion" => Some(Tone::Warn),
            _ => None,
        };
        vec![
            text(&drop.reason),
            (Cell::Text(drop.class.clone()), tone),
            plain(Cell::Rate(rates.of(past, drop.packets))),
            plain(Cell::Count(grown(past, drop.packets))),
            plain(Cell::Count(drop.packets)),
            (Cell::Text(drop.description.clone()), Some(Tone::Faint)),
        ]
    };
    Sheet { columns, rows: now.stats.drops.iter().map(row).collect(), sorted: (2, true) }
}

/// A worker's state at the look before.
fn earlier(before: &Look, worker: u32) -> Option<&v1::WorkerStats> {
    before.stats.workers.iter().find(|old| old.worker == worker)
}

/// Packets of a call since the look before; of all calls where there was none since.
fn per_call(old: Option<&v1::StageStats>, stage: &v1::StageStats) -> f64 {
    let calls = grown(old.map_or(0, |old| old.calls), stage.calls);
    let packets = grown(old.map_or(0, |old| old.packets), stage.packets);
    if calls > 0 { packets as f64 / calls as f64 } else { stage.packets as f64 / stage.calls.max(1) as f64 }
}

fn stages(before: &Look, now: &Look) -> Sheet {
    let columns = &[
        (">WORKER", "worker"),
        ("STAGE", "stage"),
        (">CYCLES/PKT", "cycles_per_packet"),
        (">PKT/CALL", "packets_per_call"),
        (">PKT/S", "packets_per_s"),
    ];
    let rates = Rates::between(&before.stats, &now.stats);
    let mut rows = Vec::new();
    for worker in &now.stats.workers {
        for stage in &worker.stages {
            let old = earlier(before, worker.worker).and_then(|old| old.stages.iter().find(|s| s.name == stage.name));
            rows.push(vec![
                plain(Cell::Count(u64::from(worker.worker))),
                text(&stage.name),
                plain(Cell::Number(stage.cycles_per_packet)),
                plain(Cell::Number(per_call(old, stage))),
                plain(Cell::Rate(rates.of(old.map_or(0, |old| old.packets), stage.packets))),
            ]);
        }
    }
    // In the order of the pipeline: sorting by worker keeps it.
    Sheet { columns, rows, sorted: (0, false) }
}

fn workers(before: &Look, now: &Look) -> Sheet {
    let columns = &[
        (">WORKER", "worker"),
        (">CORE", "core"),
        (">BUSY", "busy"),
        (">GENERATION", "generation"),
        (">SESSIONS", "sessions"),
        (">NEW/S", "new_sessions_per_s"),
        (">HANDED/S", "handed_off_per_s"),
        (">PKT/CALL", "packets_per_call"),
        (">CYCLES/PKT", "cycles_per_packet"),
    ];
    let rates = Rates::between(&before.stats, &now.stats);
    let nothing = v1::WorkerStats::default();
    let row = |worker: &v1::WorkerStats| {
        let old = earlier(before, worker.worker).unwrap_or(&nothing);
        // The last stage sees every packet, others only some: each counts by its share.
        let whole = worker.stages.last();
        let calls = whole.map_or(0.0, |stage| per_call(old.stages.last(), stage));
        let all = whole.map_or(0, |stage| stage.packets).max(1) as f64;
        let cycles = worker.stages.iter().map(|s| s.cycles_per_packet * s.packets as f64 / all).sum();
        let behind = worker.generation != now.stats.generation;
        vec![
            plain(Cell::Count(u64::from(worker.worker))),
            plain(Cell::Count(u64::from(worker.core))),
            busy(worker.busy_ratio),
            (Cell::Count(worker.generation), behind.then_some(Tone::Warn)),
            plain(Cell::Count(worker.sessions)),
            plain(Cell::Rate(rates.of(old.sessions_created, worker.sessions_created))),
            plain(Cell::Rate(rates.of(old.handed_off, worker.handed_off))),
            plain(Cell::Number(calls)),
            plain(Cell::Number(cycles)),
        ]
    };
    Sheet { columns, rows: now.stats.workers.iter().map(row).collect(), sorted: (0, false) }
}
