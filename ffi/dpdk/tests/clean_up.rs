//! With nothing left DPDK is cleaned up, silently, and does not come up again.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Mutex;

use marchproxy_dpdk::{EalError, LogLevel};
use marchproxy_engine::io::{RxQueue as _, TxQueue as _};

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn listen(level: LogLevel, line: &str) {
    if level <= LogLevel::Warning {
        SAID.lock().unwrap().push(line.to_owned());
    }
}

#[test]
fn the_last_handle_cleans_up() {
    let eal = common::builder("clean").log_level(LogLevel::Info).on_log(listen).start().unwrap();
    let pool = common::pool(&eal, "clean", 63);
    let (device, port) = common::probe(&eal, "vdev:net_null0");
    let mut port = common::started(port, &pool);
    let mut queues = port.take_queues().unwrap();
    let mut packets = common::burst();
    queues.rx[0].rx_burst(&mut packets, 16);
    drop((eal, pool, device, port));
    assert_eq!(queues.tx[0].tx_burst(&mut packets), 16);
    drop(queues);
    assert_eq!(*SAID.lock().unwrap(), [""; 0]);
    assert!(matches!(common::builder("clean").start(), Err(EalError::AlreadyStarted)));
}
