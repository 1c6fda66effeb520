//! The machine under the figures: its fingerprint, and whether it was quiet enough for them.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

/// Share of time, in percent, that the hypervisor may take away before figures are doubted.
const STEAL_LIMIT: f64 = 1.0;
/// Involuntary context switches of the measured thread per second that are still quiet.
const SWITCHES_LIMIT: f64 = 20.0;
/// Spread over repeats, in percent, that is still one figure.
pub const SPREAD_LIMIT: f64 = 10.0;

/// What a figure has to be read with.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model name.
    pub cpu: String,
    /// Instruction set extensions that matter to the engine.
    pub flags: Vec<&'static str>,
    /// Cores online.
    pub cores: usize,
    /// The core the worker was pinned to; with several workers a list of theirs.
    pub core: Cores,
    /// Rate of the clock all cycles here are counted in.
    pub tsc_mhz: u64,
    /// Huge pages.
    pub hugepages: HugePages,
    /// Frequency governor of the core; `None` where the kernel has no say (most virtual machines).
    pub governor: Option<String>,
    /// Load average over one minute at the end.
    pub load: f64,
    /// Percent of the core's time that the hypervisor gave to others during the run, of several cores the most; `None` when the kernel does
    /// not say.
    pub steal: Option<f64>,
    /// The same of each core, in the order of `core`.
    pub steal_per_core: Vec<Option<f64>>,
    /// Times the measured thread (of several the most interrupted one) was interrupted by another during the run.
    pub involuntary_switches: u64,
    /// Whether it is a virtual machine.
    pub hypervisor: bool,
    /// Kernel release.
    pub kernel: String,
}

/// Huge pages of the machine and of this process.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HugePages {
    /// Reserved.
    pub total: u64,
    /// Of these free.
    pub free: u64,
    /// Size of one in KiB.
    pub size_kb: u64,
    /// Transparent huge pages: the kernel's mode.
    pub transparent: String,
    /// Transparent huge pages that this process has, in KiB.
    pub anonymous_kb: u64,
    /// What the session table got.
    pub sessions: String,
}

/// The cores of workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Cores {
    /// One worker's.
    One(usize),
    /// Those of several, by worker.
    Several(Vec<usize>),
}

impl std::fmt::Display for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(core) => write!(f, "core {core}"),
            Self::Several(cores) => {
                let cores: Vec<_> = cores.iter().map(ToString::to_string).collect();
                write!(f, "cores {}", cores.join(", "))
            }
        }
    }
}

/// Watches a run from start to end.
pub struct Watch {
    cores: Vec<usize>,
    steal: Vec<Option<(u64, u64)>>,
    switches: u64,
    /// What the workers' own threads counted.
    counted: Option<u64>,
    start: std::time::Instant,
}

impl Watch {
    /// Starts on the calling thread, pinned to `core`.
    pub fn start(core: usize) -> Self {
        Self::over(vec![core])
    }

    /// Starts over the cores of several threads, which count for themselves how often they were interrupted.
    pub fn over(cores: Vec<usize>) -> Self {
        let stat = read("/proc/stat");
        let steal = cores.iter().map(|&core| steal_of(&stat, core)).collect();
        Self { cores, steal, switches: switches(), counted: None, start: std::time::Instant::now() }
    }

    /// How often the most interrupted of several threads was.
    pub fn interrupted(&mut self, switches: u64) {
        self.counted = Some(switches);
    }

    /// The fingerprint at the end of the run, and every reason to doubt its figures. `spread` is that of the repeats in percent.
    pub fn finish(&self, tsc_hz: u64, sessions: &str, spread: Option<f64>) -> (Machine, Vec<String>) {
        let stat = read("/proc/stat");
        let stolen = |(&core, &before): (&usize, &Option<(u64, u64)>)| match (before, steal_of(&stat, core)) {
            (Some((stolen, all)), Some((stolen_now, all_now))) if all_now > all => {
                Some((stolen_now - stolen) as f64 * 100.0 / (all_now - all) as f64)
            }
            _ => None,
        };
        let steal_per_core: Vec<_> = self.cores.iter().zip(&self.steal).map(stolen).collect();
        let core = match self.cores[..] {
            [core] => Cores::One(core),
            _ => Cores::Several(self.cores.clone()),
        };
        let mut governors: Vec<_> = self.cores.iter().filter_map(|&core| governor(core)).collect();
        governors.dedup();
        let info = read("/proc/cpuinfo");
        let machine = Machine {
            cpu: field(&info, "model name").unwrap_or("unknown").to_owned(),
            flags: marchproxy_cpu::features(),
            cores: std::thread::available_parallelism().map_or(1, Into::into).max(info.matches("processor\t").count()),
            core,
            tsc_mhz: tsc_hz / 1_000_000,
            hugepages: HugePages { sessions: sessions.to_owned(), ..huge_pages() },
            governor: (!governors.is_empty()).then(|| governors.join(", ")),
            load: read("/proc/loadavg").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0),
            steal: steal_per_core.iter().flatten().copied().reduce(f64::max),
            steal_per_core,
            involuntary_switches: self.counted.unwrap_or_else(|| switches().saturating_sub(self.switches)),
            hypervisor: field(&info, "flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        };
        let doubts = doubts(&machine, self.start.elapsed().as_secs_f64(), spread);
        (machine, doubts)
    }
}

/// Huge pages of the machine and of this process right now.
pub fn huge_pages() -> HugePages {
    let memory = read("/proc/meminfo");
    HugePages {
        total: number(&memory, "HugePages_Total"),
        free: number(&memory, "HugePages_Free"),
        size_kb: number(&memory, "Hugepagesize"),
        transparent: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
        anonymous_kb: number(&read("/proc/self/smaps_rollup"), "AnonHugePages"),
        sessions: String::new(),
    }
}

fn doubts(machine: &Machine, seconds: f64, spread: Option<f64>) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(steal) = machine.steal.filter(|&s| s > STEAL_LIMIT) {
        doubts.push(format!("the hypervisor took {steal:.1} % of the core's time (limit {STEAL_LIMIT} %)"));
    }
    let switches = machine.involuntary_switches as f64 / seconds.max(0.1);
    if switches > SWITCHES_LIMIT {
        doubts.push(format!(
            "other threads interrupted the worker {switches:.0} times a second (limit {SWITCHES_LIMIT})"
        ));
    }
    // Nobody interrupts the worker then, but caches and memory are shared.
    if machine.load > machine.cores as f64 {
        doubts.push(format!(
            "load {:.1} on {} cores: others use the same caches and memory",
            machine.load, machine.cores
        ));
    }
    if let Some(spread) = spread.filter(|&s| s > SPREAD_LIMIT) {
        doubts.push(format!("the repeats spread by {spread:.1} % (limit {SPREAD_LIMIT} %)"));
    }
    doubts
}

/// Megabytes of huge pages that nobody has.
pub fn free_hugepages_mb() -> u64 {
    let memory = read("/proc/meminfo");
    (number(&memory, "HugePages_Free") * number(&memory, "Hugepagesize")) >> 10
}

/// The frequency governor of a core.
fn governor(core: usize) -> Option<String> {
    let path = format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first line `name ... : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn number(text: &str, name: &str) -> u64 {
    field(text, name).and_then(|value| value.split(' ').next()?.parse().ok()).unwrap_or(0)
}

/// The word in brackets.
fn chosen(text: &str) -> String {
    text.split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or_else(|| "none".into(), |(word, _)| word.into())
}

/// Clock ticks (10 ms) that the hypervisor took from a core so far; `None` where the kernel does not say.
pub fn stolen(core: usize) -> Option<u64> {
    steal_of(&read("/proc/stat"), core).map(|(stolen, _)| stolen)
}

/// Stolen and all clock ticks of a core (proc(5), /proc/stat).
fn steal_of(stat: &str, core: usize) -> Option<(u64, u64)> {
    let name = format!("cpu{core}");
    let line = stat.lines().find(|line| line.split(' ').next() == Some(&name))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest times are part of user and nice.
    Some((*ticks.get(7)?, ticks.iter().take(8).sum()))
}

/// Times the calling thread was interrupted by another so far.
pub fn switches() -> u64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_files_are_understood() {
        let stat = "cpu  9 9 9\ncpu0 10 0 5 80 1 0 1 3 0 0\ncpu1 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(steal_of(stat, 0), Some((3, 100)));
        assert_eq!(steal_of(stat, 7), None);
        assert_eq!(field("model name\t: AMD EPYC\n", "model name"), Some("AMD EPYC"));
        assert_eq!(number("HugePages_Total:     512\n", "HugePages_Total"), 512);
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
    }

    #[test]
    fn noise_is_named() {
        let (mut machine, _) = Watch::start(0).finish(1_000_000_000, "heap", None);
        (machine.steal, machine.involuntary_switches, machine.load, machine.cores) = (Some(0.1), 3, 1.5, 2);
        assert!(doubts(&machine, 1.0, Some(2.0)).is_empty());
        (machine.steal, machine.involuntary_switches, machine.load) = (Some(5.0), 300, 4.0);
        let reasons = doubts(&machine, 1.0, Some(20.0));
        assert_eq!(reasons.len(), 4, "{reasons:?}");
        assert!(reasons[3].contains("20.0 %"));
    }
}
