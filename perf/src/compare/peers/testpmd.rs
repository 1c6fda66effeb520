//! DPDK's testpmd in four modes of forwarding: what a program costs that looks nothing up.

use std::path::PathBuf;
use std::time::Duration;

use super::{Peer, REMEDY};
use crate::Error;
use crate::compare::child::find;
use crate::compare::dpdk::{Program, Worker};
use crate::compare::rig::Rig;
use crate::progress::Progress;
use crate::scenario::Plan;

/// A mode of testpmd.
pub struct Testpmd {
    name: &'static str,
    mode: &'static str,
    does: &'static str,
    path: PathBuf,
}

impl Testpmd {
    /// The modes that make sense here.
    pub fn all() -> [Self; 4] {
        let mode = |name, mode, does| Self { name, mode, does, path: PathBuf::new() };
        [
            mode("testpmd-io", "io", "touches no packet: the cost of the rig"),
            mode("testpmd-macswap", "macswap", "swaps the MAC addresses"),
            mode("testpmd-5tswap", "5tswap", "swaps MAC addresses, IP addresses and ports"),
            mode("testpmd-csum", "csum", "parses the headers and writes all checksums anew, in software"),
        ]
    }
}

impl Peer for Testpmd {
    fn name(&self) -> &'static str {
        self.name
    }

    fn prepare(&mut self, _: &Rig, _: &Plan, _: &Progress) -> Result<(), Error> {
        self.path =
            find("dpdk-testpmd").ok_or_else(|| Error::Peer(format!("dpdk-testpmd is not installed; {REMEDY}")))?;
        Ok(())
    }

    fn rate(&mut self, rig: &Rig, duration: Duration, progress: &Progress) -> Result<f64, Error> {
        let arguments = [
            format!("--forward-mode={}", self.mode),
            format!("--total-num-mbufs={}", rig.buffers()),
            // One core looks after the program, the other one forwards.
            "--nb-cores=1".into(),
            "--burst=32".into(),
        ];
        let program = Program {
            name: self.name,
            path: &self.path,
            worker: Worker::Second,
            megabytes: rig.buffer_megabytes() + 64,
            arguments: arguments.to_vec(),
            environment: Vec::new(),
        };
        Ok(program.rate(rig, duration, progress)?.per_cpu_second)
    }

    fn note(&self) -> String {
        format!("{}; no route, no rule, no TTL", self.does)
    }
}
