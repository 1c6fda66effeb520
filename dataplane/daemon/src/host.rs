//! This host, as the daemon finds it before anything starts: last good tables, machine, worker cores.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use marchproxy_cpu::current_affinity;
use marchproxy_engine::tables::RuleTables;

use crate::config::{Config, CoreChoice};
use crate::driver::Device;
use crate::groups::decode;
use crate::last_good::{LastGood, LastGoodError, Store};
use crate::topology::{
    ChoiceError, Decision, Machine, PortPlace, TopologyError, Wish, choose, host_nics, node_of_device,
};

/// What was found.
#[derive(Debug)]
pub struct Host {
    /// The machine.
    pub machine: Machine,
    /// Which cores become workers.
    pub decision: Decision,
    /// What the decision was based on, for people.
    pub ports_from: &'static str,
    /// The tables on disk, or why they are not used.
    pub last_good: Result<Option<LastGood>, LastGoodError>,
    /// The tables, decoded.
    pub tables: Option<RuleTables>,
}

/// Why there can be no workers.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The machine is unknown.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The kernel does not say where we may run.
    #[error("workers: the kernel does not say which cores this process may run on: {0}")]
    Affinity(#[from] io::Error),
    /// The cores are refused.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
}

/// Looks at the host.
pub fn look(config: &Config) -> Result<Host, HostError> {
    let last_good = Store::new(&config.state_dir, &config.cluster, &config.node).load();
    let tables = last_good.as_ref().ok().and_then(Option::as_ref).and_then(|stored| decode(&stored.groups).ok());
    let known: Vec<PortPlace> = tables.iter().flat_map(|tables| &tables.ports).filter_map(port_place).collect();
    // Ports come from control, which may be away; the NICs of the host are the best guess until the first tables.
    let (ports, ports_from) = match (known.is_empty(), &config.workers) {
        (false, _) => (known, "the ports of the last good tables"),
        (true, CoreChoice::Auto) => (host_nics(), "the NICs of this host (no tables yet)"),
        // Refusing a named core because of a NIC nobody said we use would be wrong; ports are checked when they come.
        (true, CoreChoice::List(_)) => (Vec::new(), "no port (no tables yet)"),
    };
    let machine = Machine::discover()?;
    let allowed = current_affinity()?;
    let wish =
        Wish { cores: &config.workers, force_remote: config.force_remote_cores, allowed: &allowed, ports: &ports };
    let decision = choose(&machine, &wish)?;
    Ok(Host { machine, decision, ports_from, last_good, tables })
}

fn port_place(spec: &marchproxy_engine::tables::PortSpec) -> Option<PortPlace> {
    let device: Device = spec.device.parse().ok()?;
    Some(PortPlace { label: format!("port {} ({})", spec.name, spec.device), node: node_of_device(&device) })
}

impl Host {
    /// The `topology:` lines.
    pub fn topology_lines(&self) -> Vec<String> {
        let numbers = |cores: &[usize]| cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mut lines = vec![format!("topology: {}", self.machine.summary())];
        for (number, worker) in self.decision.workers.iter().enumerate() {
            let node = worker.node.map_or_else(|| "unknown".into(), |node| node.to_string());
            let siblings = self.machine.siblings(worker.cpu);
            let siblings =
                if siblings.is_empty() { String::new() } else { format!(", SMT sibling(s) {}", numbers(&siblings)) };
            lines.push(format!(
                "topology: worker {number} on core {}, socket {}, NUMA node {node}{siblings}",
                worker.cpu, worker.socket
            ));
        }
        lines.push(format!("topology: other threads on core(s) {}", numbers(&self.decision.others)));
        lines.push(format!("topology: chosen by {}", self.ports_from));
        lines.extend(self.decision.remarks.iter().map(|remark| format!("topology: note: {remark}")));
        lines
    }
}

/// Keeps a second daemon out of the state directory; released when dropped, also by a crash.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

/// Why the state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another daemon has it.
    #[error(
        "state_dir {path}: another marchproxy-dataplane (pid {pid}) uses it; stop that, or give this one another --state-dir"
    )]
    Taken {
        /// The directory.
        path: PathBuf,
        /// The other's process id, as far as it said.
        pid: String,
    },
    /// The kernel refused.
    #[error("state_dir {path}: {source}")]
    Kernel {
        /// The directory.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl StateLock {
    /// Makes the directory if need be, and takes it.
    pub fn take(directory: &Path) -> Result<Self, StateError> {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        let kernel = |source| StateError::Kernel { path: directory.into(), source };
        // Keys lie here.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(kernel)?;
        let path = directory.join("lock");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(kernel)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let pid = std::fs::read_to_string(&path).unwrap_or_default();
                return Err(StateError::Taken { path: directory.into(), pid: pid.trim().into() });
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(kernel(source)),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(kernel)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_has_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let lock = StateLock::take(&state).unwrap();
        let error = StateLock::take(&state).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(lock);
        StateLock::take(&state).unwrap();
    }
}
