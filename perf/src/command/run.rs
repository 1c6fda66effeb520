//! `run`: what a packet costs in a scenario.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use marchproxy_cpu::TscClock;
use marchproxy_engine::burst::BURST;
use marchproxy_engine::reason::DropReason;

use crate::Error;
use crate::calibrate::{Calibration, Steps};
use crate::capture::Capture;
use crate::command::amounts::Amounts;
use crate::live::{self, Forwarder, Interfaces, LivePort};
use crate::load::Size;
use crate::machine::Watch;
use crate::measure::{self, Limits};
use crate::probe::Probe;
use crate::process;
use crate::progress::Progress;
use crate::report::Devices;
use crate::report::{Context, Report, spread};
use crate::scenario::{self, Params, Scenario};
use crate::source::{self, DeviceOptions, Source};
use crate::{table, team};

/// Options of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// What to measure
    scenario: Scenario,
    /// Where packets come from: memory, vdev:NAME[,ARGUMENTS] or pci:ADDRESS; twice for a device towards servers and one towards
    /// clients, once for both sides on one device. A net_pcap without rx_pcap= replays packets of the scenario
    #[arg(long, value_name = "BACKEND", default_value = "memory")]
    backend: Vec<Source>,
    /// Frame size with FCS: 64, 128, 256, 512, 1024, 1280, 1518 or imix (7:4:1 of 64, 570, 1518); or the frames of a capture
    #[arg(long, value_name = "SIZE|pcap:FILE", default_value = "64")]
    packet: Packet,
    #[command(flatten)]
    amounts: Amounts,
    /// New sessions per second of the worker's CPU time [default: none; full 5 % of the packets; balance, police and full]
    #[arg(long, value_name = "NEW_FLOWS_PER_S", value_parser = clap::value_parser!(u64).range(1..))]
    churn: Option<u64>,
    /// Seconds per repeat
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, conflicts_with = "packets")]
    duration: f64,
    /// Packets per repeat, instead of a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    packets: Option<u64>,
    /// Measured windows
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Packets asked for in a receive call, 1 to 32; the engine is built for full ones
    #[arg(long, value_name = "N", default_value_t = BURST as u8, value_parser = clap::value_parser!(u8).range(1..=BURST as i64))]
    burst: u8,
    /// Workers, each on a core of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    workers: u8,
    /// Cores to run on, one for each worker [default: the last ones allowed]
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    core: Vec<usize>,
    /// Pages of the heap, where buffers and tables are: huge as a driver's, where the kernel grants them, or normal
    #[arg(long, value_enum, default_value_t = Pages::Huge)]
    pages: Pages,
    #[command(flatten)]
    device: DeviceOptions,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is sent.
#[derive(Clone, Debug)]
enum Packet {
    /// Made, of a size.
    Made(Size),
    /// From a capture file.
    Capture(PathBuf),
}

impl FromStr for Packet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("pcap:") {
            Some("") => Err("pcap: wants a file".into()),
            Some(file) => Ok(Self::Capture(file.into())),
            None => text.parse().map(Self::Made).map_err(|error| format!("{error}, or pcap:FILE")),
        }
    }
}

/// Pages of the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pages {
    /// Transparent huge pages
    Huge,
    /// The CPU's normal ones
    Normal,
}

impl Run {
    /// Does what was asked for and returns what to print.
    pub fn run(&self, progress: &Progress) -> Result<String, Error> {
        if self.pages == Pages::Huge {
            process::with_huge_heap();
        }
        let report = self.measure(progress)?;
        if self.json {
            return serde_json::to_string_pretty(&report).map_err(|_| Error::Harness("the report is no JSON"));
        }
        Ok(table::render(&report))
    }

    /// Prepares, measures, reports.
    pub fn measure(&self, progress: &Progress) -> Result<Report, Error> {
        let params = self.params()?;
        let duration = Duration::try_from_secs_f64(self.duration).ok().filter(|d| !d.is_zero()).ok_or_else(|| {
            let allowed = "a positive number of seconds".into();
            Error::Option { option: "duration", found: self.duration.to_string(), allowed }
        })?;
        let limits = Limits { duration, packets: self.packets, repeats: usize::from(self.repeat) };
        match source::devices(&self.backend)?.as_slice() {
            [] => self.on_memory(params, &limits, progress),
            devices if source::are_interfaces(devices) => self.on_interfaces(params, &limits, devices, progress),
            #[cfg(feature = "dpdk")]
            devices => self.on_devices(params, &limits, devices, progress),
            #[cfg(not(feature = "dpdk"))]
            devices => Err(source::no_devices(devices)),
        }
    }

    fn on_memory(&self, params: Params, limits: &Limits, progress: &Progress) -> Result<Report, Error> {
        self.device.refuse()?;
        let cores = process::cores(&self.core, usize::from(self.workers))?;
        // Whatever is not measured, and a single worker.
        process::pin(cores.first().copied())?;
        let tsc_hz = TscClock::calibrate().hz();
        if cores.len() > 1 {
            return self.measure_team(&params, limits, cores, tsc_hz, progress);
        }
        let mut bench = scenario::prepare(self.scenario, &params, progress)?;
        progress.phase("calibrating", 0);
        let calibration = Calibration::default();
        let mut steps = Steps::default();
        calibration.measure(&mut steps);
        let mut probe = Probe::open();
        let watch = Watch::over(cores);
        let outcome = measure::run(&mut bench, limits, params.seed, &mut probe, progress)?;
        let (machine, noise) = watch.finish(tsc_hz, bench.rig.memory(), spread(&outcome));
        calibration.measure(&mut steps);
        progress.finish();
        let context = Context {
            scenario: self.scenario,
            backend: Source::Memory.to_string(),
            devices: None,
            params,
            calibration: steps,
            instructions_reason: probe.missing().map(str::to_owned),
            live_sessions: bench.rig.sessions().len(),
            table_bytes: bench.rig.snapshot().bytes(),
            tsc_hz,
        };
        Ok(Report::new(context, &outcome, machine, noise))
    }

    #[cfg(feature = "dpdk")]
    fn on_devices(
        &self,
        params: Params,
        limits: &Limits,
        devices: &[String],
        progress: &Progress,
    ) -> Result<Report, Error> {
        use crate::live::Environment;

        self.refuse_on_devices()?;
        let asked = process::cores(&self.core, 1)?.first().copied();
        let others = process::cores_but(asked)?;
        let core = process::pin(asked)?;
        let clock = TscClock::calibrate();
        let mut plan = scenario::traffic(self.scenario, &params, progress)?;
        let env = Environment::start(&self.device, devices.len(), &others)?;
        let ports = env.open(devices, &mut plan, self.device.file_packets(), params.seed)?;
        let forwarder = Forwarder::new(env.pools(), ports, &plan, &params, clock, progress)?;
        self.on_ports(forwarder, params, limits, devices, &env.memory, (core, clock), progress)
    }

    /// What is asked for and would change nothing.
    fn refuse_on_devices(&self) -> Result<(), Error> {
        let given = [
            ("churn", self.churn.map(|rate| rate.to_string())),
            ("workers", (self.workers > 1).then(|| self.workers.to_string())),
        ];
        for (option, found) in given {
            if let Some(found) = found {
                let allowed = "nothing: on devices one worker takes what they send".into();
                return Err(Error::Option { option, found, allowed });
            }
        }
        Ok(())
    }

    fn on_interfaces(
        &self,
        params: Params,
        limits: &Limits,
        devices: &[String],
        progress: &Progress,
    ) -> Result<Report, Error> {
        self.refuse_on_devices()?;
        let core = process::pin(process::cores(&self.core, 1)?.first().copied())?;
        let clock = TscClock::calibrate();
        let plan = scenario::traffic(self.scenario, &params, progress)?;
        let interfaces = Interfaces::start(&self.device)?;
        let mtu = plan.tables.ports.iter().map(|port| port.mtu).max().unwrap_or(1500);
        let ports = interfaces.open(devices, mtu)?;
        let forwarder = Forwarder::new(interfaces.pools()?, ports, &plan, &params, clock, progress)?;
        self.on_ports(forwarder, params, limits, devices, &interfaces.memory, (core, clock), progress)
    }

    #[allow(clippy::too_many_arguments, reason = "what both kinds of ports have found out")]
    fn on_ports<P: LivePort>(
        &self,
        mut forwarder: Forwarder<P>,
        params: Params,
        limits: &Limits,
        devices: &[String],
        memory: &str,
        (core, clock): (usize, TscClock),
        progress: &Progress,
    ) -> Result<Report, Error> {
        let calibration = Calibration::default();
        let mut steps = Steps::default();
        calibration.measure(&mut steps);
        let mut probe = Probe::open();
        let watch = Watch::start(core);
        let (outcome, observed) = live::run(&mut forwarder, limits, &devices.join(" and "), &mut probe, progress)?;
        let (machine, noise) = watch.finish(clock.hz(), forwarder.memory(), spread(&outcome));
        let ports = forwarder.port_reports();
        calibration.measure(&mut steps);
        progress.finish();
        let idle = observed.idle_percent > 0.0;
        let reason = probe.missing().map(str::to_owned);
        let context = Context {
            scenario: self.scenario,
            backend: devices.join(" and "),
            devices: Some(Devices { memory: memory.to_owned(), observed, ports }),
            params,
            calibration: steps,
            instructions_reason: reason.or_else(|| idle.then(|| "the worker also polled in vain".into())),
            live_sessions: forwarder.sessions().len(),
            table_bytes: forwarder.snapshot().bytes(),
            tsc_hz: clock.hz(),
        };
        Ok(Report::new(context, &outcome, machine, noise))
    }

    fn measure_team(
        &self,
        params: &Params,
        limits: &Limits,
        cores: Vec<usize>,
        tsc_hz: u64,
        progress: &Progress,
    ) -> Result<Report, Error> {
        let mut bench = team::measure::prepare(self.scenario, params, &cores, progress)?;
        progress.phase("calibrating", 0);
        let calibration = Calibration::default();
        let mut steps = Steps::default();
        calibration.measure(&mut steps);
        let mut watch = Watch::over(cores);
        let outcome = team::measure::run(&mut bench, limits, progress)?;
        let switches = outcome.team.iter().flat_map(|team| &team.members).map(|member| member.switches).max();
        watch.interrupted(switches.unwrap_or_default());
        let (machine, mut noise) = watch.finish(tsc_hz, bench.rig.memory(), spread(&outcome));
        let full = DropReason::HandoffQueueFull.index();
        let lost: u64 = outcome.windows.iter().map(|window| window.counts.drops[full]).sum();
        if lost > 0 {
            noise.push(format!(
                "{lost} packets found the ring to their worker full, as when a worker is stopped for a while"
            ));
        }
        calibration.measure(&mut steps);
        progress.finish();
        let context = Context {
            scenario: self.scenario,
            backend: Source::Memory.to_string(),
            devices: None,
            params: params.clone(),
            calibration: steps,
            instructions_reason: Some("not with several workers: waiting for one another would count".into()),
            live_sessions: bench.rig.sessions().iter().map(|table| table.len()).sum(),
            table_bytes: bench.rig.snapshot().bytes(),
            tsc_hz,
        };
        Ok(Report::new(context, &outcome, machine, noise))
    }

    /// The amounts, and what they do not know of. Options that would change nothing are refused there as here.
    fn params(&self) -> Result<Params, Error> {
        if let Some(found) = self.churn.filter(|_| !self.scenario.has_services()) {
            // A flow that is forwarded leaves nothing behind, so its first packet costs what all others cost.
            let scenario = self.scenario.label();
            let allowed =
                format!("nothing: scenario {scenario} keeps no state of flows, new ones cost what old ones do");
            return Err(Error::Option { option: "churn", found: found.to_string(), allowed });
        }
        let (size, capture) = match &self.packet {
            Packet::Made(size) => (*size, None),
            Packet::Capture(file) => (Size::Captured, Some(Capture::read(file)?)),
        };
        let params = self.amounts.params(self.scenario, size, usize::from(self.burst))?;
        let flows = match &capture {
            Some(capture) => capture.frames(),
            None => params.flows,
        };
        if let (Some(found), Some(_)) = (self.amounts.flows(), &capture) {
            let allowed = "nothing: the flows are the capture's".into();
            return Err(Error::Option { option: "flows", found: found.to_string(), allowed });
        }
        Ok(Params { churn: self.churn, flows, capture, ..params })
    }
}
