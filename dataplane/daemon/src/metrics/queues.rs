//! Shaped ports and their queues.

use marchproxy_engine::qos::QueueDrop;
use marchproxy_metrics::{Buckets, Class, Family, Kind, Sample, Value, family, sample};
use marchproxy_proto::v1;

use super::{MOST_OBJECTS, Observation, PORT};

const NAMES: &[&str] = &["port", "service", "class"];
const QUEUE: &Class = &Class { name: "shaped port, service (empty: of none) and class", bound: "20,000" };
const CAUSE: &Class = &Class { name: "queue of a shaped port and cause", bound: "60,000" };
const SHAPED: &str = "for shaped ports";
const USED: &str = "for queues that packets came to";

pub(super) const FAMILIES: &[Family<Observation>] = &[
    family(
        "shaped_port_rate_bits_per_second",
        Kind::Gauge,
        "bits_per_second",
        PORT,
        &["port"],
        "The rate a port is shaped to, frames and what they count more on the wire.",
        |o: &Observation| {
            o.qos.ports.iter().map(|port| sample(vec![port.port.clone()], port.rate_kbps * 1000)).collect()
        },
    )
    .when(SHAPED),
    family("qos_waiting_packets", Kind::Gauge, "packets", QUEUE, NAMES, "Packets that wait.", |o| {
        queues(o, |q| q.waiting_packets)
    })
    .when(USED),
    family(
        "qos_waiting_bytes",
        Kind::Gauge,
        "bytes",
        QUEUE,
        NAMES,
        "Octets that wait, as they count on the wire.",
        |o| queues(o, |q| q.waiting_bytes),
    )
    .when(USED),
    family(
        "qos_last_wait_seconds",
        Kind::Gauge,
        "seconds",
        QUEUE,
        NAMES,
        "How long the packet waited that went last: the length of the queue in time.",
        |o| queues(o, |q| q.last_wait_s),
    )
    .when(USED),
    family("qos_sent_packets", Kind::Counter, "packets", QUEUE, NAMES, "Packets that were let go.", |o| {
        queues(o, |q| q.sent_packets)
    })
    .when(USED),
    family("qos_sent_bytes", Kind::Counter, "bytes", QUEUE, NAMES, "Octets in them, as they count on the wire.", |o| {
        queues(o, |q| q.sent_bytes)
    })
    .when(USED),
    family(
        "qos_wait_seconds",
        Kind::Histogram,
        "seconds",
        QUEUE,
        NAMES,
        "How long packets waited that were let go.",
        |o| queues(o, |q| Buckets { bounds: o.qos.wait_bounds_s.clone(), counts: q.waits.clone(), sum: q.waited_s }),
    )
    .when(USED),
    family(
        "qos_dropped_packets",
        Kind::Counter,
        "packets",
        CAUSE,
        &["port", "service", "class", "cause"],
        "Packets a queue dropped: full, waited beyond the deadline, or queue management where ECN was no choice.",
        |o| {
            let of = |(port, queue): (&str, &v1::Queue)| {
                let counts = [queue.dropped_full, queue.dropped_deadline, queue.dropped_aqm];
                let names = names(port, queue);
                let one = move |(cause, count): (QueueDrop, u64)| {
                    sample([names.clone(), vec![cause.label().to_owned()]].concat(), count)
                };
                QueueDrop::ALL.into_iter().zip(counts).map(one)
            };
            all(o).flat_map(of).collect()
        },
    )
    .when(USED),
    family(
        "qos_marked_packets",
        Kind::Counter,
        "packets",
        QUEUE,
        NAMES,
        "Packets marked CE by queue management.",
        |o| queues(o, |q| q.marked),
    )
    .when(USED),
];

fn all(o: &Observation) -> impl Iterator<Item = (&str, &v1::Queue)> {
    let ports = o.qos.ports.iter();
    ports.flat_map(|port| port.queues.iter().map(|queue| (port.port.as_str(), queue))).take(MOST_OBJECTS)
}

fn names(port: &str, queue: &v1::Queue) -> Vec<String> {
    vec![port.to_owned(), queue.service.clone(), queue.class.clone()]
}

fn queues<V: Into<Value>>(o: &Observation, value: impl Fn(&v1::Queue) -> V) -> Vec<Sample> {
    all(o).map(|(port, queue)| sample(names(port, queue), value(queue))).collect()
}
