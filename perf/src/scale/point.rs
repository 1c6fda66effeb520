//! One measurement: a `run` in a process of its own.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::Error;
use crate::progress::Progress;

/// Longest time a measurement may take, preparations included.
const PATIENCE: Duration = Duration::from_mins(20);

/// How often a running measurement is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Figures of a measurement, from its JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Engine cycles per packet.
    pub cycles_per_packet: f64,
    /// Cycles per packet in receive and transmit calls.
    pub io_cycles_per_packet: f64,
    /// Cycles per step of the calibration.
    pub calibration_cycles: f64,
    /// Rate.
    pub mpps: f64,
    /// Packets without account.
    pub residue: i64,
    /// Octets of the tables.
    pub table_bytes: u64,
    /// Why the figures are to be doubted.
    pub noise: Vec<String>,
    /// Interruptions of the measured thread.
    #[serde(skip)]
    pub switches: u64,
    /// What the session table's memory was.
    #[serde(skip)]
    pub session_memory: String,
    /// Rate of the counter.
    #[serde(skip)]
    pub tsc_mhz: u64,
    /// Where it ran.
    #[serde(skip)]
    pub cores: Vec<usize>,
}

impl Figures {
    fn of(report: &Value) -> Option<Self> {
        let number = |key: &str| report[key].as_f64();
        let machine = &report["machine"];
        let words = report["noise"].as_array()?.iter().filter_map(Value::as_str);
        Some(Self {
            cycles_per_packet: number("cycles_per_packet")?,
            io_cycles_per_packet: number("io_cycles_per_packet")?,
            calibration_cycles: number("calibration_cycles")?,
            mpps: number("mpps")?,
            residue: report["residue"].as_i64()?,
            table_bytes: report["table_bytes"].as_u64()?,
            noise: words.map(str::to_owned).collect(),
            switches: machine["involuntary_switches"].as_u64().unwrap_or(0),
            session_memory: machine["hugepages"]["sessions"].as_str().unwrap_or("unknown").to_owned(),
            tsc_mhz: machine["tsc_mhz"].as_u64().unwrap_or(0),
            cores: match &machine["core"] {
                Value::Array(cores) => cores.iter().filter_map(Value::as_u64).map(|core| core as usize).collect(),
                core => core.as_u64().map(|core| core as usize).into_iter().collect(),
            },
        })
    }
}

/// What became of a measurement.
#[derive(Clone, Debug)]
pub enum Measured {
    /// It has figures.
    Figures(Figures),
    /// `run` refused, in these words.
    Refused(String),
}

/// Starts measurements.
#[derive(Clone, Debug)]
pub struct Runner {
    program: PathBuf,
}

impl Runner {
    /// With this very program.
    pub fn own() -> Result<Self, Error> {
        let system = |source| Error::System { what: "this program's file".into(), source };
        std::env::current_exe().map(|program| Self { program }).map_err(system)
    }

    /// Runs the program with these arguments and reads what it prints. Ctrl-C reaches it, too, and ends it with what it has.
    pub fn measure(&self, arguments: &[String], progress: &Progress) -> Result<Measured, Error> {
        let system =
            |source| Error::System { what: format!("{} {}", self.program.display(), arguments.join(" ")), source };
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(system)?;
        let start = Instant::now();
        // A report is a few kilobytes and fits the pipe: the program never waits for us to read it.
        let status = loop {
            if let Some(status) = child.try_wait().map_err(system)? {
                break status;
            }
            if start.elapsed() > PATIENCE {
                child.kill().and_then(|()| child.wait()).map_err(system)?;
                return Ok(Measured::Refused(format!("took longer than {} s", PATIENCE.as_secs())));
            }
            std::thread::sleep(LOOK);
        };
        let (mut out, mut words) = (String::new(), String::new());
        if let (Some(stdout), Some(stderr)) = (&mut child.stdout, &mut child.stderr) {
            stdout.read_to_string(&mut out).map_err(system)?;
            stderr.read_to_string(&mut words).map_err(system)?;
        }
        if status.success() {
            let figures = serde_json::from_str(&out).ok().as_ref().and_then(Figures::of);
            return figures.map(Measured::Figures).ok_or(Error::Harness("the report of `run` has another shape"));
        }
        if progress.stopped() {
            return Err(Error::Interrupted);
        }
        // Codes 1 and 2 come with a reason; everything else is a crash.
        match status.code() {
            Some(1 | 2) => Ok(Measured::Refused(reason(&words))),
            _ => Err(system(std::io::Error::other(format!("{status}: {}", words.trim())))),
        }
    }
}

/// The first line, without the program's name.
fn reason(words: &str) -> String {
    let line = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    line.trim_start_matches("marchproxy-perf: ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_the_programs_own() {
        assert_eq!(
            reason("marchproxy-perf: the engine refuses these tables: x\n"),
            "the engine refuses these tables: x"
        );
        assert_eq!(
            reason("\nerror: unexpected argument '--workers' found\n\n  tip"),
            "unexpected argument '--workers' found"
        );
        assert_eq!(reason(""), "no reason given");
    }

    #[test]
    fn a_crash_is_no_refusal() {
        let runner = Runner { program: "/bin/sh".into() };
        let script = |text: &str| runner.measure(&["-c".into(), text.into()], &Progress::hidden());
        assert!(
            matches!(script("echo marchproxy-perf: no >&2; exit 1"), Ok(Measured::Refused(words)) if words == "no")
        );
        assert!(matches!(script("kill -9 $$"), Err(Error::System { .. })));
        assert!(matches!(script("echo '{}'"), Err(Error::Harness(_))));
    }
}
