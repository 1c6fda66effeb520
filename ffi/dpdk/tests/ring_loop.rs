//! What is sent comes back: on net_ring, whose transmit ring is its receive ring, and whose ring can be full.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

mod common;

use marchproxy_dpdk::{Mbuf, PacketBuf, RxQueue, TxQueue};
use marchproxy_engine::io::{RxQueue as _, TxQueue as _};

#[test]
fn a_full_ring_gives_the_unsent_tail_back() {
    let eal = common::builder("ring").start().unwrap();
    let pool = common::pool(&eal, "ring", 2047);
    let (device, port) = common::probe(&eal, "vdev:net_ring0");
    let mut port = common::started(port, &pool);
    assert!(port.link().unwrap().up);
    let mut queues = port.take_queues().unwrap();
    let (rx, tx) = (&mut queues.rx[0], &mut queues.tx[0]);

    let (accepted, tail) = fill(&pool, tx);
    assert!(tail[0] == accepted && tail.len() < 64, "{accepted} accepted, then {tail:?}");
    assert_eq!(pool.in_use(), accepted);
    empty(rx, accepted);
    assert_eq!(pool.available(), pool.size());

    // The ring has turned: the same again, so nothing was lost or doubled.
    assert_eq!(fill(&pool, tx), (accepted, tail));
    empty(rx, accepted);
    assert_eq!(rx.repairs().dropped(), 0);
    assert_eq!(tx.reclaim(), None);

    drop(queues);
    drop(port.stop().unwrap());
    device.remove().unwrap();
    assert_eq!(pool.available(), pool.size());
}

/// Sends numbered frames until the ring is full. Returns how many it took, and the numbers of the tail that came back, after
/// checking their order and content.
fn fill(pool: &marchproxy_dpdk::Mempool, tx: &mut TxQueue) -> (u32, Vec<u32>) {
    let mut packets = common::burst();
    let mut next = 0;
    let mut accepted = 0;
    loop {
        // 37 a burst, so that the ring is full in the middle of one.
        for number in next..next + 37 {
            packets.push(common::packet(pool, &content(number)));
        }
        next += 37;
        accepted += tx.tx_burst(&mut packets) as u32;
        if !packets.is_empty() {
            break;
        }
    }
    let tail: Vec<u32> = packets.iter().map(number).collect();
    assert_eq!(tail, (accepted..next).collect::<Vec<_>>());
    for packet in &packets {
        assert_eq!(packet.data(), content(number(packet)));
    }
    // Still full: nothing is taken, nothing changes.
    assert_eq!(tx.tx_burst(&mut packets), 0);
    assert_eq!(packets.iter().map(number).collect::<Vec<_>>(), tail);
    (accepted, tail)
}

/// Receives `count` frames with odd room and checks them.
fn empty(rx: &mut RxQueue, count: u32) {
    let mut packets = common::burst();
    let mut expected = 0;
    while rx.rx_burst(&mut packets, 29) > 0 {
        for packet in packets.drain(..) {
            assert_eq!(packet.data(), content(expected));
            assert_eq!(packet.headroom(), 128);
            expected += 1;
        }
    }
    assert_eq!(expected, count);
}

fn content(number: u32) -> Vec<u8> {
    common::frame(number, 60 + number as usize % 1441)
}

fn number(packet: &Mbuf) -> u32 {
    u32::from_be_bytes(packet.data()[..4].try_into().unwrap())
}
