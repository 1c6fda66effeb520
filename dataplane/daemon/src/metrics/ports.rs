//! Ports and their queues.

use std::collections::BTreeMap;

use marchproxy_metrics::{Class, Family, Kind, Sample, Value, family, sample};
use marchproxy_proto::v1;

use super::{Observation, PORT};

const NAMES: &[&str] = &["port", "device"];
const QUEUE_NAMES: &[&str] = &["port", "worker"];
const QUEUE: &Class =
    &Class { name: "port and worker, which has a pair of queues of its own there", bound: "64 per worker" };
const TIER: &Class = &Class { name: "tier and direction", bound: "10" };
const WHEN: &str = "once tables with ports run";

pub(super) const FAMILIES: &[Family<Observation>] = &[
    family("port_up", Kind::Gauge, "", PORT, NAMES, "1 while the link is up.", |o| ports(o, |p| p.link_up)).when(WHEN),
    family("port_receive_packets", Kind::Counter, "packets", PORT, NAMES, "Frames received.", |o| {
        ports(o, |p| p.rx_packets)
    })
    .when(WHEN),
    family("port_receive_bytes", Kind::Counter, "bytes", PORT, NAMES, "Octets of frames received.", |o| {
        ports(o, |p| p.rx_bytes)
    })
    .when(WHEN),
    family("port_transmit_packets", Kind::Counter, "packets", PORT, NAMES, "Frames the driver accepted.", |o| {
        ports(o, |p| p.tx_packets)
    })
    .when(WHEN),
    family("port_transmit_bytes", Kind::Counter, "bytes", PORT, NAMES, "Octets of frames the driver accepted.", |o| {
        ports(o, |p| p.tx_bytes)
    })
    .when(WHEN),
    family(
        "port_tier",
        Kind::Info,
        "",
        PORT,
        &["port", "device", "tier"],
        "The way the port's packets come.",
        |o: &Observation| {
            let one = |p: &v1::PortStats| sample(vec![p.name.clone(), p.device.clone(), p.tier.clone()], 1_u64);
            o.stats.ports.iter().map(one).collect()
        },
    )
    .when(WHEN),
    family(
        "tier_packets",
        Kind::Counter,
        "packets",
        TIER,
        &["tier", "direction"],
        "Frames by the way they came or went, over the ports there are; `xdp`: those that ended in the XDP program.",
        |o| tiers(o, |p| [p.rx_packets - p.xdp_dropped_packets, p.tx_packets], |p| p.xdp_dropped_packets),
    )
    .when(WHEN),
    family(
        "tier_bytes",
        Kind::Counter,
        "bytes",
        TIER,
        &["tier", "direction"],
        "Octets of frames by the way they came or went.",
        |o| tiers(o, |p| [p.rx_bytes - p.xdp_dropped_bytes, p.tx_bytes], |p| p.xdp_dropped_bytes),
    )
    .when(WHEN),
    family(
        "port_device_receive_missed_packets",
        Kind::Counter,
        "packets",
        PORT,
        NAMES,
        "Frames the device dropped before we saw them.",
        |o| ports(o, |p| p.device_rx_missed),
    )
    .when(WHEN),
    family("port_device_receive_errors", Kind::Counter, "", PORT, NAMES, "Frames the device found broken.", |o| {
        ports(o, |p| p.device_rx_errors)
    })
    .when(WHEN),
    family(
        "port_device_transmit_errors",
        Kind::Counter,
        "",
        PORT,
        NAMES,
        "Frames the device accepted and failed to send.",
        |o| ports(o, |p| p.device_tx_errors),
    )
    .when(WHEN),
    family(
        "queue_receive_packets",
        Kind::Counter,
        "packets",
        QUEUE,
        QUEUE_NAMES,
        "Frames a worker received from its queue of the port.",
        |o| queues(o, |q| q.rx_packets),
    )
    .when(WHEN),
    family("queue_receive_bytes", Kind::Counter, "bytes", QUEUE, QUEUE_NAMES, "Octets in those frames.", |o| {
        queues(o, |q| q.rx_bytes)
    })
    .when(WHEN),
    family(
        "queue_transmit_packets",
        Kind::Counter,
        "packets",
        QUEUE,
        QUEUE_NAMES,
        "Frames of a worker that its queue of the port accepted.",
        |o| queues(o, |q| q.tx_packets),
    )
    .when(WHEN),
    family("queue_transmit_bytes", Kind::Counter, "bytes", QUEUE, QUEUE_NAMES, "Octets in those frames.", |o| {
        queues(o, |q| q.tx_bytes)
    })
    .when(WHEN),
];

/// Received and transmitted, summed over the ports of each tier.
fn tiers(
    o: &Observation,
    value: impl Fn(&v1::PortStats) -> [u64; 2],
    early: impl Fn(&v1::PortStats) -> u64,
) -> Vec<Sample> {
    let mut sums: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    for port in &o.stats.ports {
        let [rx, tx] = value(port);
        let sum = sums.entry(&port.tier).or_default();
        *sum = [sum[0] + rx, sum[1] + tx];
        if port.tier.starts_with("af_xdp") {
            sums.entry("xdp").or_default()[0] += early(port);
        }
    }
    let both = |(tier, [rx, tx]): (&str, [u64; 2])| {
        [("receive", rx), ("transmit", tx)].map(|(way, count)| sample(vec![tier.to_owned(), way.into()], count))
    };
    sums.into_iter().flat_map(both).collect()
}

fn ports<V: Into<Value>>(o: &Observation, value: impl Fn(&v1::PortStats) -> V) -> Vec<Sample> {
    o.stats.ports.iter().map(|port| sample(vec![port.name.clone(), port.device.clone()], value(port))).collect()
}

fn queues(o: &Observation, value: impl Fn(&v1::QueueStats) -> u64) -> Vec<Sample> {
    let of_port = |port: &v1::PortStats| {
        let one = |queue: &v1::QueueStats| sample(vec![port.name.clone(), queue.worker.to_string()], value(queue));
        port.queues.iter().map(one).collect::<Vec<_>>()
    };
    o.stats.ports.iter().flat_map(of_port).collect()
}
