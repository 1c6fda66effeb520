//! Memory of this process and of the machine, as the kernel tells it.

use std::fs::read_to_string;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use marchproxy_metrics::{Class, Family, Kind, Sample, family, one, sample};

use super::{NODE, Observation};

/// The kernel walks the page tables to make `numa_maps`: asked for at most this often.
const NUMA_EVERY: Duration = Duration::from_mins(1);

const NUMA: &Class = &Class { name: "NUMA node", bound: "NUMA nodes of the machine" };
const POOL: &Class = &Class { name: "NUMA node and page size", bound: "3 per NUMA node" };

/// Octets by NUMA node.
pub type ByNode = Vec<(u32, u64)>;

/// What the kernel says. What it does not say (no NUMA, a container's `/proc`) is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryFacts {
    /// Octets of the process in memory, huge pages apart.
    pub resident: Option<u64>,
    /// NUMA node, octets of the process there, huge pages included.
    pub nodes: ByNode,
    /// NUMA node, octets of a page, pages, free pages.
    pub hugepages: Vec<(u32, u64, u64, u64)>,
}

pub(super) const FAMILIES: &[Family<Observation>] = &[
    family(
        "memory_resident_bytes",
        Kind::Gauge,
        "bytes",
        NODE,
        &[],
        "The process' memory in normal pages.",
        |o: &Observation| o.memory.resident.map(one).unwrap_or_default(),
    )
    .when("where /proc is readable"),
    family(
        "memory_numa_bytes",
        Kind::Gauge,
        "bytes",
        NUMA,
        &["numa_node"],
        "The process' memory by NUMA node, huge pages included; at most a minute old.",
        |o: &Observation| o.memory.nodes.iter().map(|(node, octets)| sample(vec![node.to_string()], *octets)).collect(),
    )
    .when("where the kernel has NUMA"),
    family(
        "memory_remote_bytes",
        Kind::Gauge,
        "bytes",
        NODE,
        &[],
        "Of that, on NUMA nodes where no worker runs: every use of it crosses sockets.",
        remote,
    )
    .when("where the kernel has NUMA"),
    family("hugepages", Kind::Gauge, "", POOL, &["numa_node", "size_bytes"], "Huge pages of the machine.", |o| {
        hugepages(o, |pages, _| pages)
    })
    .when("where the kernel has huge pages"),
    family("hugepages_free", Kind::Gauge, "", POOL, &["numa_node", "size_bytes"], "Huge pages nobody has.", |o| {
        hugepages(o, |_, free| free)
    })
    .when("where the kernel has huge pages"),
];

fn remote(o: &Observation) -> Vec<Sample> {
    if o.memory.nodes.is_empty() {
        return Vec::new();
    }
    let home = |node: u32| o.stats.workers.iter().any(|worker| worker.numa_node.unwrap_or(node) == node);
    one(o.memory.nodes.iter().filter(|(node, _)| !home(*node)).map(|(_, octets)| octets).sum::<u64>())
}

fn hugepages(o: &Observation, value: impl Fn(u64, u64) -> u64) -> Vec<Sample> {
    let pool = |(node, size, pages, free): &(u32, u64, u64, u64)| {
        sample(vec![node.to_string(), size.to_string()], value(*pages, *free))
    };
    o.memory.hugepages.iter().map(pool).collect()
}

impl MemoryFacts {
    /// Asks the kernel.
    pub fn read() -> Self {
        let status = read_to_string("/proc/self/status").unwrap_or_default();
        Self { resident: resident(&status), nodes: numa(), hugepages: pools(Path::new("/sys/devices/system/node")) }
    }
}

/// `VmRSS` of `/proc/self/status`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// The process' memory by node, not older than [`NUMA_EVERY`].
fn numa() -> ByNode {
    static LAST: Mutex<Option<(Instant, ByNode)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match &*last {
        Some((at, nodes)) if at.elapsed() < NUMA_EVERY => nodes.clone(),
        _ => {
            let nodes = numa_maps(&read_to_string("/proc/self/numa_maps").unwrap_or_default());
            *last = Some((Instant::now(), nodes.clone()));
            nodes
        }
    }
}

/// Sums `/proc/self/numa_maps`: per mapping `N0=17`, pages of a node, and their size in `kernelpagesize_kB=4`.
fn numa_maps(text: &str) -> ByNode {
    let mut nodes = std::collections::BTreeMap::<u32, u64>::new();
    for line in text.lines() {
        let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.parse::<u64>().ok());
        let size = field("kernelpagesize_kB=").unwrap_or(4) << 10;
        for word in line.split(' ') {
            let pages = word.strip_prefix('N').and_then(|rest| rest.split_once('='));
            if let Some((Ok(node), Ok(pages))) = pages.map(|(node, pages)| (node.parse(), pages.parse::<u64>())) {
                *nodes.entry(node).or_default() += pages * size;
            }
        }
    }
    nodes.into_iter().collect()
}

/// Huge pages by node and size.
fn pools(root: &Path) -> Vec<(u32, u64, u64, u64)> {
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let mut pools = Vec::new();
    for name in names(root) {
        let Some(node) = name.strip_prefix("node").and_then(|number| number.parse().ok()) else { continue };
        let dir = root.join(&name).join("hugepages");
        for pool in names(&dir) {
            let size = pool.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB"));
            let Some(kib) = size.and_then(|size| size.parse::<u64>().ok()) else { continue };
            let number = |file| read_to_string(dir.join(&pool).join(file)).ok()?.trim().parse().ok();
            if let (Some(pages), Some(free)) = (number("nr_hugepages"), number("free_hugepages")) {
                pools.push((node, kib << 10, pages, free));
            }
        }
    }
    pools.sort_unstable();
    pools
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_understood() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    1234 kB\nThreads: 1\n"), Some(1234 << 10));
        let maps = "55d0 default file=/bin/x mapped=9 N0=8 N1=1 kernelpagesize_kB=4\n\
                    7f00 bind:1 file=/memfd huge dirty=3 N1=3 kernelpagesize_kB=2048\n7f10 default\n";
        assert_eq!(numa_maps(maps), [(0, 8 << 12), (1, (1 << 12) + (3 << 21))]);
        let dir = tempfile::tempdir().unwrap();
        let pool = dir.path().join("node1/hugepages/hugepages-2048kB");
        std::fs::create_dir_all(&pool).unwrap();
        std::fs::write(pool.join("nr_hugepages"), "8\n").unwrap();
        std::fs::write(pool.join("free_hugepages"), "3\n").unwrap();
        assert_eq!(pools(dir.path()), [(1, 2 << 20, 8, 3)]);
    }
}
