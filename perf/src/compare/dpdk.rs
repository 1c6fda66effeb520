//! A DPDK program on the rig: started, awaited, warmed up and measured from outside, by its telemetry and its worker's CPU time. Nothing in
//! the program itself takes part, so all are measured alike.

use std::path::Path;
use std::time::Duration;

use super::child::{self, Child};
use super::cpu::Times;
use super::rig::Rig;
use super::telemetry::{PortStats, SOCKET, Telemetry};
use crate::Error;
use crate::progress::Progress;

/// What all rates of whole programs count.
pub const UNIT: &str = "packets/CPU-s";

/// How long a program may take to send its first packet: large tables are built in this time.
const START: Duration = Duration::from_mins(1);

/// From the first packet to the first one measured.
const WARM_UP: Duration = Duration::from_millis(300);

/// Packets that count as forwarding: more than any program sends by itself.
const FORWARDING: u64 = 100_000;

/// Where the worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    /// In the main thread: l3fwd and the like.
    Main,
    /// In a thread of its own: testpmd.
    Second,
}

/// A program and its options.
pub struct Program<'a> {
    /// For its log and its files.
    pub name: &'a str,
    /// The executable.
    pub path: &'a Path,
    /// Where its worker runs; its core is logical core 0 with `Main`, 1 with `Second`.
    pub worker: Worker,
    /// Packet memory and tables, in MB.
    pub megabytes: usize,
    /// Options after `--`.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub environment: Vec<(&'static str, String)>,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Packets sent per second of the worker's CPU time.
    pub per_cpu_second: f64,
    /// Received packets that were not sent, in percent.
    pub lost_percent: f64,
}

impl Program<'_> {
    /// Starts it, lets it forward for `duration` and ends it.
    pub fn rate(&self, rig: &Rig, duration: Duration, progress: &Progress) -> Result<Rate, Error> {
        let mut environment = self.environment.clone();
        // Where EAL puts its sockets: with the other files, so that nothing stays behind.
        environment.push(("RUNTIME_DIRECTORY", rig.folder().display().to_string()));
        let arguments = self.command_line(rig);
        let child = Child::start_with(self.name, rig.folder(), self.path, &arguments, &environment)?;
        let socket = rig.folder().join("dpdk").join(self.name).join(SOCKET);
        measure(child, &socket, duration, progress)
    }

    fn command_line(&self, rig: &Rig) -> Vec<String> {
        let lcores = match self.worker {
            Worker::Main => format!("0@{}", rig.core()),
            Worker::Second => format!("0@{},1@{}", rig.other(), rig.core()),
        };
        let mut words: Vec<String> = ["--lcores", &lcores, "--file-prefix", self.name].map(String::from).to_vec();
        words.extend(rig.memory(self.megabytes));
        words.extend(rig.devices().into_iter().map(|device| format!("--vdev={device}")));
        words.push("--".into());
        words.extend(self.arguments.iter().cloned());
        words
    }
}

/// Measures a program that has been started: what its ports receive and send.
pub fn measure(mut child: Child, socket: &Path, duration: Duration, progress: &Progress) -> Result<Rate, Error> {
    let telemetry = child.wait_for("telemetry socket", START, progress, || Telemetry::connect(socket).ok())?;
    child.wait_for("packets forwarded", START, progress, || {
        telemetry.both().ok().filter(|stats| stats.opackets > FORWARDING)
    })?;
    child::pause(WARM_UP, progress)?;
    let read = || -> Result<(PortStats, Times), Error> {
        let refused = |source| Error::System { what: format!("telemetry of {}", socket.display()), source };
        Ok((telemetry.both().map_err(refused)?, Times::of(child.pid())))
    };
    let before = read()?;
    child::pause(duration, progress)?;
    let after = read()?;
    child.check()?;
    rate(&before.0, &after.0, after.1.busiest_since(&before.1))
}

fn rate(before: &PortStats, after: &PortStats, seconds: f64) -> Result<Rate, Error> {
    let received = after.ipackets.saturating_sub(before.ipackets);
    let sent = after.opackets.saturating_sub(before.opackets);
    if sent == 0 || seconds <= 0.0 {
        return Err(Error::Peer(format!("{sent} packets forwarded in {seconds:.3} s of CPU time")));
    }
    // The last bursts may be on their way.
    let lost = received.saturating_sub(sent) as f64 * 100.0 / received.max(1) as f64;
    Ok(Rate { per_cpu_second: sent as f64 / seconds, lost_percent: lost })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(ipackets: u64, opackets: u64) -> PortStats {
        PortStats { ipackets, opackets }
    }

    #[test]
    fn rates_are_of_what_was_sent() {
        let rate = rate(&stats(1_000, 900), &stats(3_001_000, 2_700_900), 1.5).unwrap();
        let right = (rate.per_cpu_second - 1_800_000.0).abs() < 1e-6 && (rate.lost_percent - 10.0).abs() < 1e-9;
        assert!(right, "{rate:?}");
    }

    #[test]
    fn a_program_that_forwards_nothing_has_no_rate() {
        let same = stats(5, 5);
        assert!(rate(&same, &same, 1.0).unwrap_err().to_string().contains("0 packets"));
        assert!(rate(&same, &stats(9, 9), 0.0).is_err());
    }

    #[test]
    fn the_command_line_puts_the_worker_on_the_core() {
        let rig = Rig::new([1, 0], [Vec::new(), vec![[0u8; 60]]]).unwrap();
        let mut program = Program {
            name: "l3fwd-lpm",
            path: Path::new("/usr/bin/false"),
            worker: Worker::Main,
            megabytes: 256,
            arguments: vec!["-p".into(), "3".into()],
            environment: Vec::new(),
        };
        let line = program.command_line(&rig).join(" ");
        assert!(line.starts_with("--lcores 0@1 --file-prefix l3fwd-lpm "), "{line}");
        assert!(line.contains("--vdev=net_null0,no-rx=1 --vdev=net_pcap1,rx_pcap="), "{line}");
        assert!(line.ends_with(" -- -p 3"), "{line}");
        program.worker = Worker::Second;
        let line = program.command_line(&rig).join(" ");
        assert!(line.contains(",1@1 "), "{line}");
    }
}
