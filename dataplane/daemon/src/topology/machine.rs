//! The machine as hwloc sees it, reduced to what the choice of cores needs.

use std::collections::BTreeSet;

use hwloc2::{ObjectType, Topology, TopologyObject};

/// Every logical CPU this process may know of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Online CPUs, by number.
    pub cpus: Vec<Cpu>,
    /// CPUs that exist but are offline, or closed to this process by its cgroup.
    pub offline: Vec<usize>,
}

/// One logical CPU: what the kernel, `taskset` and our configuration call a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The kernel's number.
    pub number: usize,
    /// Physical core; SMT siblings share it.
    pub core: usize,
    /// Socket (package).
    pub socket: usize,
    /// NUMA node of its memory.
    pub node: Option<u32>,
    /// Caches in reach.
    pub caches: Caches,
}

/// Sizes of the caches a CPU uses, in bytes; 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caches {
    /// First level, data.
    pub l1: u64,
    /// Second level.
    pub l2: u64,
    /// Third level.
    pub l3: u64,
}

/// Why the topology is not known.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// hwloc failed.
    #[error("topology: hwloc could not read this machine; is /sys mounted?")]
    Unreadable,
    /// hwloc found no CPU.
    #[error("topology: hwloc found no CPU this process may use")]
    Empty,
}

impl Machine {
    /// Asks hwloc. `HWLOC_SYNTHETIC` and `HWLOC_XMLFILE` in the environment give made-up machines, as for every hwloc program.
    pub fn discover() -> Result<Self, TopologyError> {
        let topology = Topology::new().ok_or(TopologyError::Unreadable)?;
        let units = topology.objects_with_type(&ObjectType::PU).map_err(|_| TopologyError::Unreadable)?;
        let mut cpus: Vec<Cpu> = units.iter().map(|unit| cpu(unit)).collect();
        cpus.sort_unstable_by_key(|cpu| cpu.number);
        if cpus.is_empty() {
            return Err(TopologyError::Empty);
        }
        let online: BTreeSet<usize> = cpus.iter().map(|cpu| cpu.number).collect();
        let mut all = BTreeSet::new();
        if let Some(complete) = topology.object_at_root().complete_cpuset() {
            // The set may be infinite where firmware says nothing; 4,096 is above every kernel's NR_CPUS.
            let last = usize::try_from(complete.last()).unwrap_or(0).min(4096) as u32;
            all.extend((0..=last).filter(|&id| complete.is_set(id)).map(|id| id as usize));
        }
        Ok(Self { cpus, offline: all.difference(&online).copied().collect() })
    }

    /// The CPU with this number.
    pub fn cpu(&self, number: usize) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.number == number)
    }

    /// The socket whose cores have `node` as their memory.
    pub fn socket_of_node(&self, node: u32) -> Option<usize> {
        self.cpus.iter().find(|cpu| cpu.node == Some(node)).map(|cpu| cpu.socket)
    }

    /// The other CPUs of the same physical core.
    pub fn siblings(&self, number: usize) -> Vec<usize> {
        let Some(this) = self.cpu(number) else { return Vec::new() };
        let same = |cpu: &&Cpu| cpu.core == this.core && cpu.number != number;
        self.cpus.iter().filter(same).map(|cpu| cpu.number).collect()
    }

    /// One line for people: sockets, cores, CPUs, NUMA nodes, caches.
    pub fn summary(&self) -> String {
        let count = |key: fn(&Cpu) -> usize| self.cpus.iter().map(key).collect::<BTreeSet<_>>().len();
        let nodes: BTreeSet<u32> = self.cpus.iter().filter_map(|cpu| cpu.node).collect();
        let caches = self.cpus.first().map_or_else(Caches::default, |cpu| cpu.caches);
        format!(
            "{} socket(s), {} core(s), {} CPU(s), {} NUMA node(s); L1d {} KB, L2 {} KB, L3 {} MB{}",
            count(|cpu| cpu.socket),
            count(|cpu| cpu.core),
            self.cpus.len(),
            nodes.len().max(1),
            caches.l1 >> 10,
            caches.l2 >> 10,
            caches.l3 >> 20,
            if self.offline.is_empty() { String::new() } else { format!("; offline: {}", list(&self.offline)) },
        )
    }
}

/// `0, 1, 5`.
pub(super) fn list(numbers: &[usize]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn cpu(unit: &TopologyObject) -> Cpu {
    let number = unit.os_index() as usize;
    let node = unit.nodeset().and_then(|set| u32::try_from(set.first()).ok());
    let mut found = Cpu { number, core: number, socket: 0, node, caches: Caches::default() };
    let mut above = unit.parent();
    while let Some(object) = above {
        let cache = || if let Some(cache) = object.cache_attributes() { cache.size() } else { 0 };
        match object.object_type() {
            // The logical index is unique over the machine; the kernel's core numbers restart on each socket.
            ObjectType::Core => found.core = object.logical_index() as usize,
            ObjectType::Package => found.socket = object.os_index() as usize,
            ObjectType::L1Cache => found.caches.l1 = cache(),
            ObjectType::L2Cache => found.caches.l2 = cache(),
            ObjectType::L3Cache => found.caches.l3 = cache(),
            _ => {}
        }
        above = object.parent();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_the_cpu_we_run_on() {
        let machine = Machine::discover().unwrap();
        let ours = marchproxy_cpu::current_affinity().unwrap();
        assert!(ours.iter().all(|&core| machine.cpu(core).is_some()), "{machine:?} lacks one of {ours:?}");
        assert!(machine.summary().contains("socket(s)"));
    }
}
