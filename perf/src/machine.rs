//! The machine under the figures: its fingerprint, and whether it was quiet enough for them.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

/// Share of time, in percent, that the hypervisor may take away before figures are doubted.
const STEAL_LIMIT: f64 = 1.0;
/// Involuntary context switches of the measured thread per second that are still quiet.
const SWITCHES_LIMIT: f64 = 20.0;
/// CPU time of others, in percent of one core, that is still quiet.
const OTHERS_LIMIT: f64 = 25.0;
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
    /// Load average over one minute at the end. For information: it counts this program's own threads, and work that ended before.
    pub load: f64,
    /// CPU time that other processes used during the run, in percent of one core; `None` when the kernel does not say.
    pub others: Option<f64>,
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
    /// The kernel's account of all cores when it started.
    stat: String,
    switches: u64,
    /// What the workers' own threads counted.
    counted: Option<u64>,
    /// In which time, where it is not all of it.
    counted_seconds: Option<f64>,
    /// CPU time of the measurement that is in no process of ours.
    elsewhere: f64,
    /// CPU time used when it started.
    used: Option<Used>,
    start: std::time::Instant,
}

impl Watch {
    /// Starts on the calling thread, pinned to `core`.
    pub fn start(core: usize) -> Self {
        Self::over(vec![core])
    }

    /// Starts over the cores of several threads, which count for themselves how often they were interrupted.
    pub fn over(cores: Vec<usize>) -> Self {
        Self {
            cores,
            stat: read("/proc/stat"),
            switches: switches(),
            counted: None,
            counted_seconds: None,
            elsewhere: 0.0,
            used: Used::now(),
            start: std::time::Instant::now(),
        }
    }

    /// Where the measured threads turned out to be.
    pub fn ran_on(&mut self, cores: Vec<usize>) {
        self.cores = cores;
    }

    /// Seconds of CPU time that were spent for the measurement, but by none of this process's children: the kernel's own threads.
    pub fn spent_elsewhere(&mut self, seconds: f64) {
        self.elsewhere += seconds;
    }

    /// How often the most interrupted of several threads was.
    pub fn interrupted(&mut self, switches: u64) {
        self.counted = Some(switches);
    }

    /// The same of threads that ran for a part of the time only, in seconds.
    pub fn interrupted_during(&mut self, switches: u64, seconds: f64) {
        (self.counted, self.counted_seconds) = (Some(switches), Some(seconds));
    }

    /// The fingerprint at the end of the run, and every reason to doubt its figures. `spread` is that of the repeats in percent.
    pub fn finish(&self, tsc_hz: u64, sessions: &str, spread: Option<f64>) -> (Machine, Vec<String>) {
        let stat = read("/proc/stat");
        let stolen = |&core: &usize| match (steal_of(&self.stat, core), steal_of(&stat, core)) {
            (Some((stolen, all)), Some((stolen_now, all_now))) if all_now > all => {
                Some((stolen_now - stolen) as f64 * 100.0 / (all_now - all) as f64)
            }
            _ => None,
        };
        let steal_per_core: Vec<_> = self.cores.iter().map(stolen).collect();
        let core = match self.cores[..] {
            [core] => Cores::One(core),
            _ => Cores::Several(self.cores.clone()),
        };
        let mut governors: Vec<_> = self.cores.iter().filter_map(|&core| governor(core)).collect();
        governors.dedup();
        let info = read("/proc/cpuinfo");
        let seconds = self.start.elapsed().as_secs_f64();
        let others = self.used.zip(Used::now()).map(|(before, now)| {
            let now = Used { own: now.own + self.elsewhere, ..now };
            now.others_since(&before, seconds)
        });
        let machine = Machine {
            cpu: field(&info, "model name").unwrap_or("unknown").to_owned(),
            flags: marchproxy_cpu::features(),
            cores: std::thread::available_parallelism().map_or(1, Into::into).max(info.matches("processor\t").count()),
            core,
            tsc_mhz: tsc_hz / 1_000_000,
            hugepages: HugePages { sessions: sessions.to_owned(), ..huge_pages() },
            governor: (!governors.is_empty()).then(|| governors.join(", ")),
            load: read("/proc/loadavg").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0),
            others,
            steal: steal_per_core.iter().flatten().copied().reduce(f64::max),
            steal_per_core,
            involuntary_switches: self.counted.unwrap_or_else(|| switches().saturating_sub(self.switches)),
            hypervisor: field(&info, "flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        };
        let doubts = doubts(&machine, self.counted_seconds.unwrap_or(seconds), spread);
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

/// A share of time that the kernel may not tell, for people.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "unknown".into(), |share| format!("{share:.1} %"))
}

/// What a report for people says about the reasons to doubt it.
pub fn too_noisy(reasons: &[String]) -> String {
    format!("Too noisy for a figure: {}. Stop other work on this machine and run again.", reasons.join("; "))
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
    if let Some(others) = machine.others.filter(|&percent| percent > OTHERS_LIMIT) {
        doubts.push(format!(
            "others used {others:.0} % of a core (limit {OTHERS_LIMIT} %): they use the same caches and memory"
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

/// Clock ticks in a second, as the kernel counts them for programs (USER_HZ).
const TICKS: f64 = 100.0;

/// CPU time used so far, in seconds.
#[derive(Clone, Copy, Debug)]
struct Used {
    /// By everybody.
    all: f64,
    /// By this process and those it started.
    own: f64,
}

impl Used {
    fn now() -> Option<Self> {
        let all = busy_of(&read("/proc/stat"))? as f64 / TICKS;
        let mut own = living() as f64 / TICKS;
        for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
            let usage = getrusage(who).ok()?;
            for time in [usage.user_time(), usage.system_time()] {
                own += time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
            }
        }
        Some(Self { all, own })
    }

    /// What others used in `seconds`, in percent of one core.
    fn others_since(&self, before: &Self, seconds: f64) -> f64 {
        let others = (self.all - before.all) - (self.own - before.own);
        // Ticks are 10 ms each and rounded per core: a short run may look as if nobody had used less than nothing.
        others.max(0.0) * 100.0 / seconds.max(0.1)
    }
}

/// Ticks that all cores were busy (proc(5), /proc/stat): user, nice, system, irq, softirq.
fn busy_of(stat: &str) -> Option<u64> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    Some(ticks.get(..3)?.iter().chain(ticks.get(5..7)?).sum())
}

/// Ticks that the living children of this process used, and theirs.
fn living() -> u64 {
    let stat = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("stat")).ok();
    let stats: Vec<String> = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(stat).collect();
    living_of(std::process::id(), &stats)
}

/// The same of a process, from everybody's stat files.
fn living_of(process: u32, stats: &[String]) -> u64 {
    let others: Vec<_> = stats.iter().filter_map(|stat| family(stat)).collect();
    let (mut ours, mut next, mut ticks) = (vec![process], 0, 0);
    while let Some(&parent) = ours.get(next) {
        for (pid, _, used) in others.iter().filter(|(_, of, _)| *of == parent) {
            // Files are read one after the other, and a number may have been given again meanwhile: nobody counts twice.
            if !ours.contains(pid) {
                ours.push(*pid);
                ticks += used;
            }
        }
        next += 1;
    }
    ticks
}

/// Process, parent and ticks out of a stat file.
fn family(stat: &str) -> Option<(u32, u32, u64)> {
    let pid = stat.split(' ').next()?.parse().ok()?;
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    Some((pid, parent, ticks_of(stat)?))
}

/// User and system ticks of a process and of its children that ended (proc(5), /proc/PID/stat, fields 14 to 17). Its name, in brackets,
/// may have spaces and brackets of its own.
fn ticks_of(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: Vec<u64> = rest.split_whitespace().skip(11).take(4).map_while(|n| n.parse().ok()).collect();
    (ticks.len() == 4).then(|| ticks.iter().sum())
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
        // A busy machine is no reason when it is this program that is busy.
        (machine.steal, machine.involuntary_switches, machine.others) = (Some(0.1), 3, Some(20.0));
        (machine.load, machine.cores) = (9.0, 2);
        assert!(doubts(&machine, 1.0, Some(2.0)).is_empty());
        (machine.steal, machine.involuntary_switches, machine.others) = (Some(5.0), 300, Some(90.0));
        let reasons = doubts(&machine, 1.0, Some(20.0));
        assert_eq!(reasons.len(), 4, "{reasons:?}");
        assert!(reasons[2].contains("others used 90 % of a core"), "{reasons:?}");
        assert!(reasons[3].contains("20.0 %"));
    }

    #[test]
    fn busy_time_is_that_of_others() {
        let stat = "cpu  10 20 30 400 500 6 7 800 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(busy_of(stat), Some(73));
        assert_eq!(busy_of("intr 5\n"), None);
        let child = "42 (a (b) c) S 7 42 42 0 -1 4194304 100 0 0 0 11 12 13 14 20 0 1 0 5 1000 10";
        assert_eq!((ticks_of(child), ticks_of("42 (a) S 1")), (Some(50), None));
        let stats = [child, "7 (us) S 1 0 0 0 0 0 0 0 0 0 0 1 1 1 1", "43 (d) R 42 0 0 0 0 0 0 0 0 0 0 5 1 0 0"]
            .map(String::from);
        assert_eq!((living_of(7, &stats), living_of(42, &stats), living_of(43, &stats)), (56, 6, 0));
        let (before, after) = (Used { all: 100.0, own: 10.0 }, Used { all: 105.0, own: 14.0 });
        assert!((after.others_since(&before, 2.0) - 50.0).abs() < 1e-9);
        assert!(before.others_since(&after, 2.0).abs() < 1e-9, "never less than nothing");
    }

    #[test]
    fn own_threads_and_children_are_not_others() {
        let before = Used::now().unwrap();
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; read end"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Until the child's work shows, or much too long.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while living() == 0 && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let used = living();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(used > 0);
        assert!(Used::now().unwrap().own > before.own, "what it used stays ours when it has ended");
    }
}
