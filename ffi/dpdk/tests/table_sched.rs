//! rte_sched: order of classes, weights of queues, and that no packet is lost.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use marchproxy_dpdk::table::{Class, Place, Sched, SchedConfig};
use marchproxy_dpdk::{Eal, Mbuf, Mempool, PacketBuf, PacketVec};

/// Fast enough that only order and weights decide: 100 Gbit/s.
const CONFIG: SchedConfig = SchedConfig {
    bytes_per_second: 12_500_000_000,
    mtu: 1522,
    overhead: 24,
    pipes: 64,
    queue_len: 64,
    strict_classes: 3,
    weights: [1, 1, 2, 4],
};

#[test]
fn sched() {
    let eal = common::builder("table-sched").start().unwrap();
    let pool = common::pool(&eal, "sched", 2047);
    strict_classes(&eal, &pool);
    weights(&eal, &pool);
    full_queues(&eal, &pool);
    refusals(&eal, &pool);
    assert_eq!(pool.available(), pool.size(), "no packet stayed behind");
}

/// A packet of 64 octets that says where it waited.
fn packet(pool: &Mempool, label: u8) -> Mbuf {
    common::packet(pool, &[label; 64])
}

/// Everything that is in it, in order.
fn drain(sched: &mut Sched) -> Vec<u8> {
    let mut labels = Vec::new();
    let end = Instant::now() + Duration::from_secs(10);
    while !sched.is_empty() {
        assert!(Instant::now() < end, "{} packets stay in", sched.len());
        let mut out = PacketVec::new();
        sched.dequeue(&mut out, 32);
        labels.extend(out.iter().map(|packet| packet.data()[0]));
    }
    labels
}

fn strict_classes(eal: &Eal, pool: &Mempool) {
    let mut sched = Sched::create(eal, &CONFIG).unwrap();
    let order = [Class::BestEffort(0), Class::Strict(2), Class::Strict(0), Class::Strict(1)];
    for round in 0..10 {
        let (mut packets, mut places) = (PacketVec::new(), Vec::new());
        for (label, class) in [3, 2, 0, 1].into_iter().zip(order) {
            packets.push(packet(pool, label * 16 + round));
            places.push(Place::new(5, class));
        }
        assert_eq!(sched.enqueue(&mut packets, &places).unwrap(), 4);
    }
    assert_eq!((sched.len(), pool.in_use()), (40, 40));
    let labels = drain(&mut sched);
    assert!(labels.is_sorted(), "class after class, each in order: {labels:x?}");
    assert_eq!(labels.len(), 40);
}

fn weights(eal: &Eal, pool: &Mempool) {
    let mut sched = Sched::create(eal, &CONFIG).unwrap();
    for _ in 0..64 {
        let mut packets: PacketVec<Mbuf> = (0..4).map(|queue| packet(pool, queue)).collect();
        let places: Vec<_> = (0..4).map(|queue| Place::new(0, Class::BestEffort(queue))).collect();
        assert_eq!(sched.enqueue(&mut packets, &places).unwrap(), 4);
    }
    // As long as all queues have packets, each gets its part of 8: the first half of the heaviest's 64 packets.
    let labels = drain(&mut sched);
    let part = |queue: u8| labels[..64].iter().fold(0, |n, &label| n + usize::from(label == queue));
    let parts = [part(0), part(1), part(2), part(3)];
    assert_eq!(labels.len(), 256);
    assert!(parts[3] > parts[2] && parts[2] > parts[0].max(parts[1]) && parts[0] > 0 && parts[1] > 0, "{parts:?}");
}

fn full_queues(eal: &Eal, pool: &Mempool) {
    let mut sched = Sched::create(eal, &CONFIG).unwrap();
    let place = [Place::new(63, Class::Strict(1)); 32];
    let mut queued = 0;
    for _ in 0..4 {
        let mut packets: PacketVec<Mbuf> = (0..32).map(|_| packet(pool, 1)).collect();
        queued += sched.enqueue(&mut packets, &place).unwrap();
        assert!(packets.is_empty());
    }
    // A queue of 64 takes 64; the others are back in the pool.
    assert_eq!((queued, sched.len(), pool.in_use()), (64, 64, 64));
    drop(sched);
    assert_eq!(pool.in_use(), 0, "packets of a dropped scheduler go back");
}

fn refusals(eal: &Eal, pool: &Mempool) {
    let said = |config: SchedConfig| Sched::create(eal, &config).unwrap_err().to_string();
    assert!(said(SchedConfig { pipes: 3, ..CONFIG }).contains("pipes 3, allowed powers of two"));
    assert!(said(SchedConfig { queue_len: 0, ..CONFIG }).contains("queue_len 0"));
    assert!(said(SchedConfig { weights: [1, 0, 1, 1], ..CONFIG }).contains("weights 0"));
    assert!(said(SchedConfig { strict_classes: 13, ..CONFIG }).contains("strict_classes 13"));
    let mut sched = Sched::create(eal, &CONFIG).unwrap();
    for place in
        [Place::new(64, Class::Strict(0)), Place::new(0, Class::Strict(3)), Place::new(0, Class::BestEffort(4))]
    {
        let mut packets: PacketVec<Mbuf> = [packet(pool, 0)].into_iter().collect();
        assert!(sched.enqueue(&mut packets, &[place]).is_err(), "{place:?}");
        assert_eq!(packets.len(), 1, "still the caller's");
    }
    let mut packets: PacketVec<Mbuf> = [packet(pool, 0)].into_iter().collect();
    assert!(sched.enqueue(&mut packets, &[]).unwrap_err().to_string().contains("one for each of 1 packets"));
    assert_eq!((packets.len(), sched.len()), (1, 0));
}
