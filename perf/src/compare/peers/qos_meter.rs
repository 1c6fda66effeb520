//! DPDK's qos_meter example: one srTCM for each of 256 flows, the last octet of the destination address, and nothing else.

use std::path::PathBuf;
use std::time::Duration;

use super::Peer;
use crate::Error;
use crate::compare::dpdk::{Program, Worker};
use crate::compare::examples::{Edit, build};
use crate::compare::rig::Rig;
use crate::progress::Progress;
use crate::scenario::Plan;

/// Takes the place of the size of its pool, by an edit below.
const BUFFERS: &str = "MARCHPROXY_BUFFERS";

/// No virtual device checks checksums; the pool must hold the capture files; rates and bursts are those of our policers, 100 Gbit/s and
/// 16 MB, so that nothing is dropped; and the octet that carries the colour is one that is 0 (green) in our frames.
const EDITS: [Edit; 6] = [
    Edit { file: "main.c", from: ".offloads = RTE_ETH_RX_OFFLOAD_CHECKSUM", to: ".offloads = 0" },
    Edit { file: "main.c", from: "NB_MBUF             8192", to: "NB_MBUF atoi(getenv(\"MARCHPROXY_BUFFERS\"))" },
    Edit { file: "main.c", from: "1000000 * 46", to: "12500000000" },
    Edit { file: "main.c", from: "1500000 * 46", to: "12500000000" },
    Edit { file: "main.c", from: "bs = 2048", to: "bs = 16000000" },
    Edit { file: "main.c", from: "APP_PKT_COLOR_POS               5", to: "APP_PKT_COLOR_POS 4" },
];

/// qos_meter.
#[derive(Default)]
pub struct QosMeter {
    program: PathBuf,
}

impl Peer for QosMeter {
    fn name(&self) -> &'static str {
        "qos-meter"
    }

    fn prepare(&mut self, rig: &Rig, _: &Plan, progress: &Progress) -> Result<(), Error> {
        self.program = build("qos_meter", &EDITS, rig.folder(), progress)?;
        Ok(())
    }

    fn rate(&mut self, rig: &Rig, duration: Duration, progress: &Progress) -> Result<f64, Error> {
        let program = Program {
            name: self.name(),
            path: &self.program,
            worker: Worker::Main,
            megabytes: rig.buffer_megabytes() + 64,
            arguments: ["-p", "3"].map(String::from).to_vec(),
            environment: vec![(BUFFERS, rig.buffers().to_string())],
        };
        Ok(program.rate(rig, duration, progress)?.per_cpu_second)
    }

    fn note(&self) -> String {
        "a lower bound: it meters every packet of one direction by an octet of its address; no session, no NAT, no route".into()
    }
}
