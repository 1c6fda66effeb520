//! Shapers of ports, and what profiles say about queues on them.

use marchproxy_engine::qos::PortShaping;
use marchproxy_engine::tables::{Class, PolicerAction, PolicerSpec, QueueSpec, ShaperSpec};
use marchproxy_proto::v1::{self, Document};

use super::super::report::{At, Report};
use super::super::types::{Node, Service};
use super::marks;
use super::nodes::MAX_MBPS;
use super::policers::{MAX_BURST, Profile};

/// The longest wait that may be allowed: packets older than that are of no use to anybody.
const MAX_LATENCY_MS: f64 = 10_000.0;

/// What RFC 8289 s4.2 recommends, in microseconds.
const CODEL_TARGET: u32 = 5000;

/// A policer's burst where none is said: 10 ms' worth, at least so many octets.
const LEAST_BURST: u64 = 64 << 10;

/// 100 Gbit/s, as far as policers go, in Mbit/s.
const MAX_POLICED: u64 = 100_000;

/// The shaper of a port.
pub(super) fn shaper(shaper: &v1::PortShaper, at: &At<'_>, report: &mut Report) -> ShaperSpec {
    let usual = ShaperSpec::default();
    let rate = report.within(at, "shaper.rate_mbps", shaper.rate_mbps, 1..=MAX_MBPS, "Mbit/s");
    let mut number = |field: &str, found: Option<u32>, usual: u32, allowed, unit| {
        report.within(at, field, found.unwrap_or(usual), allowed, unit).unwrap_or(usual)
    };
    let [first, second, third] = usual.weights.map(u32::from);
    ShaperSpec {
        rate_kbps: rate.unwrap_or(1) * 1000,
        overhead: number("shaper.overhead_bytes", shaper.overhead_bytes, usual.overhead.into(), 0..=255, "octets")
            as u8,
        p0_percent: number("shaper.p0_percent", shaper.p0_percent, usual.p0_percent.into(), 1..=100, "percent") as u8,
        weights: [
            number("shaper.p1_weight", shaper.p1_weight, first, 1..=1000, "") as u16,
            number("shaper.p2_weight", shaper.p2_weight, second, 1..=1000, "") as u16,
            number("shaper.p3_weight", shaper.p3_weight, third, 1..=1000, "") as u16,
        ],
        ..usual
    }
}

/// What profiles have to fit to.
pub(super) struct Shaped {
    /// Rate of the fastest shaped port in Mbit/s, if there is one.
    fastest: Option<u64>,
    /// The most that a frame counts.
    longest: u64,
}

impl Shaped {
    pub(super) fn new(nodes: &[Node]) -> Self {
        let ports = nodes.iter().flat_map(|node| &node.ports);
        let shaped = ports.filter_map(|port| Some((port.shaper?, port.mtu)));
        let longest = shaped.clone().map(|(shaper, mtu)| PortShaping::new(&shaper, mtu).longest).max();
        let usual = PortShaping::new(&ShaperSpec::default(), 1500).longest;
        Self {
            fastest: shaped.map(|(shaper, _)| shaper.rate_kbps / 1000).max(),
            longest: longest.unwrap_or(usual).into(),
        }
    }
}

/// How packets of a profile's services wait.
pub(super) fn queue(qos: &v1::Qos, shaped: &Shaped, at: &At<'_>, report: &mut Report) -> (Option<Class>, QueueSpec) {
    let mut queue = QueueSpec::default();
    if let Some(of) = &qos.bandwidth {
        bandwidth(of, shaped, &mut queue, at, report);
    }
    let class = qos.priority.as_ref().and_then(|of| priority(of, &mut queue, at, report));
    if let Some(aqm) = &qos.aqm {
        report.choice(at, "aqm.kind", &aqm.kind, None, &[("codel", ())]);
        let target = aqm.target_us.unwrap_or(CODEL_TARGET);
        queue.target_us = report.within(at, "aqm.target_us", target, 1..=1_000_000, "microseconds").unwrap_or(target);
        queue.ecn = aqm.ecn.unwrap_or(true);
    }
    // A burst may be a policer's.
    if shaped.fastest.is_none() && (QueueSpec { burst_bytes: 0, ..queue }) != QueueSpec::default() {
        let field = if queue.rate_kbps != 0 { "bandwidth.egress_mbps" } else { "name" };
        report.warn(at, field, "rate, queues, weight, latency and aqm count on ports with a shaper; no port has one");
    }
    (class, queue)
}

fn bandwidth(bandwidth: &v1::Bandwidth, shaped: &Shaped, queue: &mut QueueSpec, at: &At<'_>, report: &mut Report) {
    let least = shaped.longest.div_ceil(1024);
    if let Some(rate) = bandwidth.egress_mbps {
        let (most, unit) = match shaped.fastest {
            None => (MAX_MBPS, "Mbit/s"),
            Some(fastest) => (fastest, "Mbit/s, the rate of the fastest shaped port"),
        };
        queue.rate_kbps = report.within(at, "bandwidth.egress_mbps", rate, 1..=most, unit).unwrap_or(1) * 1000;
    }
    if let Some(burst) = bandwidth.burst_size_kb {
        let unit = "KiB: a burst holds at least one full frame";
        let burst = report.within(at, "bandwidth.burst_size_kb", burst, least..=MAX_BURST / 1024, unit);
        queue.burst_bytes = burst.unwrap_or(least) * 1024;
    }
    if let Some(packets) = bandwidth.queue_packets {
        let packets = report.within(at, "bandwidth.queue_packets", packets, 1..=65_535, "packets");
        queue.most_packets = packets.unwrap_or(1);
    }
    if let Some(size) = bandwidth.queue_kb {
        let size = report.within(at, "bandwidth.queue_kb", size.into(), least..=MAX_BURST / 1024, "KiB");
        queue.most_bytes = (size.unwrap_or(least) * 1024) as u32;
    }
}

fn priority(priority: &v1::Priority, queue: &mut QueueSpec, at: &At<'_>, report: &mut Report) -> Option<Class> {
    if let Some(weight) = priority.weight {
        queue.weight = report.within(at, "priority.weight", weight, 1..=1000, "").unwrap_or(1) as u16;
    }
    if let Some(latency) = priority.max_latency_ms {
        if latency > 0.0 && latency <= MAX_LATENCY_MS {
            queue.deadline_us = (latency * 1000.0).round().max(1.0) as u32;
        } else {
            report.refuse(at, "priority.max_latency_ms", latency, "more than 0, up to 10000 milliseconds");
        }
    }
    marks::class(report, at, "priority.class", &priority.class)
}

/// What polices a profile's services in the clients' direction: rate in kbit/s and burst in octets.
pub(super) fn ingress(qos: &v1::Qos, at: &At<'_>, report: &mut Report) -> Option<(u64, u64)> {
    let bandwidth = qos.bandwidth.as_ref()?;
    let rate = bandwidth.ingress_mbps?;
    let rate = report.within(at, "bandwidth.ingress_mbps", rate, 1..=MAX_POLICED, "Mbit/s")? * 1000;
    if !qos.policer.is_empty() {
        let message = format!("not enforced beside policer {}: one policer meters a packet", qos.policer);
        report.warn(at, "bandwidth.ingress_mbps", message);
        return None;
    }
    let burst = bandwidth.burst_size_kb.map_or((rate * 10 / 8).max(LEAST_BURST), |size| size.saturating_mul(1024));
    Some((rate, burst))
}

/// Profiles that limit what clients send give each of their services a policer.
pub(super) fn police(
    document: &Document,
    profiles: &[Profile],
    services: &mut [Service],
    policers: &mut Vec<PolicerSpec>,
) {
    // Both lists are the document's, without holes.
    for (service, of_document) in services.iter_mut().zip(&document.services) {
        let profile = document.qos.iter().position(|qos| qos.name == of_document.qos);
        let Some((cir, cbs)) = profile.and_then(|at| profiles.get(at)?.ingress) else { continue };
        service.policer = Some(policers.len());
        policers.push(PolicerSpec {
            // No name in a document has a slash.
            name: format!("ingress/{}", service.name),
            cir,
            cbs,
            on_red: PolicerAction::Drop,
            ..PolicerSpec::default()
        });
    }
}
