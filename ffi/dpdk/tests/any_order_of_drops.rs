//! Everything may be dropped in any order; what packets still need is kept.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Mutex;

use marchproxy_dpdk::{EalError, LogLevel, PacketBuf};
use marchproxy_engine::io::RxQueue as _;

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn listen(_: LogLevel, line: &str) {
    SAID.lock().unwrap().push(line.to_owned());
}

fn said(text: &str) -> bool {
    SAID.lock().unwrap().iter().any(|line| line.contains(text))
}

#[test]
fn packets_outlive_everything() {
    let eal = common::builder("drops").on_log(listen).start().unwrap();
    let before = marchproxy_cpu::current_affinity().unwrap();
    let pool = common::pool(&eal, "drops", 63);
    let (device, port) = common::probe(&eal, "vdev:net_null0");
    let mut port = common::started(port, &pool);
    let mut queues = port.take_queues().unwrap();

    drop((eal, pool, device, port));
    let mut packets = common::burst();
    assert_eq!(queues.rx[0].rx_burst(&mut packets, 8), 8);
    let (mut first, mut second) = (packets.pop().unwrap(), packets.pop().unwrap());
    drop((packets, queues));
    assert!(said("pool drops is kept: 2 of 63 packets are still out"), "{:?}", SAID.lock());
    assert!(said("DPDK is not cleaned up"));

    // Their memory is still there.
    for packet in [&mut first, &mut second] {
        assert!(packet.resize(1500));
        packet.data_mut().fill(0xa5);
        assert!(packet.data().iter().all(|byte| *byte == 0xa5));
    }
    drop((first, second));
    assert!(matches!(common::builder("drops").start(), Err(EalError::AlreadyStarted)));
    assert_eq!(marchproxy_cpu::current_affinity().unwrap(), before);
}
