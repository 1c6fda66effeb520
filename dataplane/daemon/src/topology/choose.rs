//! The decision: which cores become workers. Pure, so that a table of made-up machines tests it.
//!
//! Left to itself it takes one CPU of every physical core of the ports' socket but the lowest, which stays for the kernel, the
//! agent, the builder and the slow path. A core named in the configuration is taken as it is, or refused with the reason.

use std::collections::BTreeMap;

use super::machine::{Machine, list};
use crate::config::CoreChoice;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// From the configuration.
    pub cores: &'a CoreChoice,
    /// Take cores of other sockets than the ports' too.
    pub force_remote: bool,
    /// The CPUs this process was started on (`taskset`, systemd's CPUAffinity); binds the automatic choice only.
    pub allowed: &'a [usize],
    /// The ports as far as they are known.
    pub ports: &'a [PortPlace],
}

/// A port (or NIC) and the NUMA node it hangs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlace {
    /// For people: `port wan (pci:0000:03:00.0)`.
    pub label: String,
    /// `None` for virtual devices, and where firmware does not say.
    pub node: Option<u32>,
}

/// A core that becomes a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerCore {
    /// The kernel's CPU number.
    pub cpu: usize,
    /// Its socket.
    pub socket: usize,
    /// Its NUMA node.
    pub node: Option<u32>,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// In order of worker number.
    pub workers: Vec<WorkerCore>,
    /// Where every other thread belongs; never empty.
    pub others: Vec<usize>,
    /// What an operator should know.
    pub remarks: Vec<String>,
}

/// Why a choice was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// No such CPU.
    #[error("workers: core {core} does not exist on this machine, allowed: {known}")]
    Unknown {
        /// The core.
        core: usize,
        /// Those that exist.
        known: String,
    },
    /// The CPU exists but can't be used.
    #[error("workers: core {core} is offline or closed to this process by its cgroup, allowed: {known}")]
    Offline {
        /// The core.
        core: usize,
        /// Those that can be used.
        known: String,
    },
    /// Named twice.
    #[error("workers: core {core} is named twice; a core carries one worker")]
    Duplicate {
        /// The core.
        core: usize,
    },
    /// The core is on another socket than every port.
    #[error(
        "workers: core {core} is on socket {socket}, but {port} is on socket {home}: every packet would cross the sockets; \
         allowed: {local}, or set force_remote_cores = true"
    )]
    Remote {
        /// The core.
        core: usize,
        /// Its socket.
        socket: usize,
        /// A port elsewhere.
        port: String,
        /// That port's socket.
        home: usize,
        /// The cores of the ports' sockets.
        local: String,
    },
    /// The affinity this process was started with leaves nothing.
    #[error("workers: none of the cores this process may run on ({allowed}) is usable")]
    Nothing {
        /// The affinity.
        allowed: String,
    },
}

/// Decides.
pub fn choose(machine: &Machine, wish: &Wish<'_>) -> Result<Decision, ChoiceError> {
    let homes = homes(machine, wish.ports);
    let mut remarks = Vec::new();
    let cores = match wish.cores {
        CoreChoice::Auto => automatic(machine, wish, &homes, &mut remarks)?,
        CoreChoice::List(cores) => {
            named(machine, wish, &homes, cores, &mut remarks)?;
            cores.clone()
        }
    };
    let place = |cpu: usize| machine.cpu(cpu).map(|c| WorkerCore { cpu, socket: c.socket, node: c.node });
    let workers: Vec<WorkerCore> = cores.iter().copied().filter_map(place).collect();
    Ok(Decision { others: others(machine, &cores), workers, remarks })
}

/// Ports per socket, with the first port's label.
fn homes(machine: &Machine, ports: &[PortPlace]) -> BTreeMap<usize, (usize, String)> {
    let mut homes = BTreeMap::new();
    for port in ports {
        if let Some(socket) = port.node.and_then(|node| machine.socket_of_node(node)) {
            homes.entry(socket).or_insert_with(|| (0, port.label.clone())).0 += 1;
        }
    }
    homes
}

fn automatic(
    machine: &Machine,
    wish: &Wish<'_>,
    homes: &BTreeMap<usize, (usize, String)>,
    remarks: &mut Vec<String>,
) -> Result<Vec<usize>, ChoiceError> {
    let usable: Vec<_> = machine.cpus.iter().filter(|cpu| wish.allowed.contains(&cpu.number)).collect();
    let nothing = || ChoiceError::Nothing { allowed: list(wish.allowed) };
    let first = usable.first().ok_or_else(nothing)?;
    // Most ports win, then the lowest socket.
    let wanted = homes.iter().max_by_key(|(socket, (ports, _))| (*ports, std::cmp::Reverse(**socket)));
    let home = match wanted {
        Some((&socket, _)) if usable.iter().any(|cpu| cpu.socket == socket) => socket,
        Some((&socket, (_, label))) => {
            remarks.push(format!("{label} is on socket {socket}, where this process may use no core"));
            first.socket
        }
        None => first.socket,
    };
    for (socket, (ports, label)) in homes.iter().filter(|(socket, _)| **socket != home) {
        remarks.push(format!(
            "{label} and {} more on socket {socket} are remote to the workers on socket {home}",
            ports - 1
        ));
    }
    // One CPU per physical core: an SMT sibling shares its caches and ports of execution and would only slow the worker.
    let mut cores: BTreeMap<usize, usize> = BTreeMap::new();
    for cpu in usable.iter().filter(|cpu| cpu.socket == home) {
        cores.entry(cpu.core).or_insert(cpu.number);
    }
    let mut chosen: Vec<usize> = cores.into_values().collect();
    chosen.sort_unstable();
    if chosen.len() > 1 {
        chosen.remove(0);
    }
    Ok(chosen)
}

fn named(
    machine: &Machine,
    wish: &Wish<'_>,
    homes: &BTreeMap<usize, (usize, String)>,
    cores: &[usize],
    remarks: &mut Vec<String>,
) -> Result<(), ChoiceError> {
    let numbers = |keep: &dyn Fn(usize) -> bool| {
        let numbers: Vec<usize> = machine.cpus.iter().filter(|c| keep(c.socket)).map(|cpu| cpu.number).collect();
        list(&numbers)
    };
    for (position, &core) in cores.iter().enumerate() {
        let before = cores.get(..position).unwrap_or_default();
        if before.contains(&core) {
            return Err(ChoiceError::Duplicate { core });
        }
        let Some(cpu) = machine.cpu(core) else {
            let known = numbers(&|_| true);
            return Err(if machine.offline.contains(&core) {
                ChoiceError::Offline { core, known }
            } else {
                ChoiceError::Unknown { core, known }
            });
        };
        if let Some((&home, (_, port))) = homes.first_key_value()
            && !homes.contains_key(&cpu.socket)
        {
            if !wish.force_remote {
                let local = numbers(&|socket| homes.contains_key(&socket));
                return Err(ChoiceError::Remote { core, socket: cpu.socket, port: port.clone(), home, local });
            }
            remarks.push(format!("core {core} on socket {} is remote to {port} on socket {home} (forced)", cpu.socket));
        }
        if let Some(sibling) = machine.siblings(core).into_iter().find(|sibling| before.contains(sibling)) {
            remarks.push(format!("cores {sibling} and {core} are SMT siblings: both workers share one physical core"));
        }
    }
    Ok(())
}

/// CPUs without a worker; better those whose siblings carry none either. With none left the first worker core is shared.
fn others(machine: &Machine, workers: &[usize]) -> Vec<usize> {
    let free: Vec<usize> = machine.cpus.iter().map(|cpu| cpu.number).filter(|cpu| !workers.contains(cpu)).collect();
    let quiet = |cpu: &usize| !machine.siblings(*cpu).iter().any(|sibling| workers.contains(sibling));
    let calm: Vec<usize> = free.iter().copied().filter(quiet).collect();
    match (calm.is_empty(), free.is_empty()) {
        (false, _) => calm,
        (true, false) => free,
        (true, true) => workers.iter().copied().take(1).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::{Caches, Cpu};
    use super::*;

    /// `sockets` x `cores` x `threads`, numbered as Linux does: all first threads, then all second ones.
    fn machine(sockets: usize, cores: usize, threads: usize) -> Machine {
        let mut cpus = Vec::new();
        for thread in 0..threads {
            for socket in 0..sockets {
                for core in 0..cores {
                    let physical = socket * cores + core;
                    cpus.push(Cpu {
                        number: thread * sockets * cores + physical,
                        core: physical,
                        socket,
                        node: Some(socket as u32),
                        caches: Caches::default(),
                    });
                }
            }
        }
        Machine { cpus, offline: vec![90] }
    }

    fn port(node: Option<u32>) -> PortPlace {
        PortPlace { label: "port wan (pci:0000:03:00.0)".into(), node }
    }

    struct Case {
        name: &'static str,
        machine: Machine,
        cores: CoreChoice,
        force: bool,
        allowed: Option<Vec<usize>>,
        ports: Vec<PortPlace>,
        wanted: Result<(Vec<usize>, Vec<usize>), &'static str>,
    }

    fn case(name: &'static str, machine: Machine) -> Case {
        Case { name, machine, cores: CoreChoice::Auto, force: false, allowed: None, ports: vec![], wanted: Err("") }
    }

    #[test]
    fn the_table() {
        let two = || machine(2, 4, 1);
        let named = |cores: &[usize]| CoreChoice::List(cores.to_vec());
        let table = [
            Case { wanted: Ok((vec![0], vec![0])), ..case("one core carries everything", machine(1, 1, 1)) },
            Case { wanted: Ok((vec![1], vec![0])), ..case("two cores: the second works", machine(1, 2, 1)) },
            Case { wanted: Ok((vec![1, 2, 3], vec![0, 4, 5, 6, 7])), ..case("no port known: first socket", two()) },
            Case {
                ports: vec![port(Some(1))],
                wanted: Ok((vec![5, 6, 7], vec![0, 1, 2, 3, 4])),
                ..case("all but one on the port's socket", two())
            },
            Case {
                ports: vec![port(Some(0)), port(Some(1)), port(Some(1))],
                wanted: Ok((vec![5, 6, 7], vec![0, 1, 2, 3, 4])),
                ..case("most ports win", two())
            },
            Case {
                ports: vec![port(Some(1)), port(Some(0))],
                wanted: Ok((vec![1, 2, 3], vec![0, 4, 5, 6, 7])),
                ..case("a tie goes to the lower socket", two())
            },
            Case {
                ports: vec![port(None)],
                wanted: Ok((vec![1, 2, 3], vec![0, 4, 5, 6, 7])),
                ..case("a virtual port binds nothing", two())
            },
            Case {
                ports: vec![port(Some(1))],
                wanted: Ok((vec![1], vec![0])),
                ..case("both cores of a second socket, one each", machine(2, 1, 1))
            },
            Case {
                wanted: Ok((vec![1], vec![0, 2])),
                ..case("SMT: one worker per core, the sibling of the free core is free", machine(1, 2, 2))
            },
            Case {
                allowed: Some(vec![2, 3]),
                wanted: Ok((vec![3], vec![0, 1, 2, 4, 5, 6, 7])),
                ..case("affinity binds the automatic choice", two())
            },
            Case {
                allowed: Some(vec![0, 1]),
                ports: vec![port(Some(1))],
                wanted: Ok((vec![1], vec![0, 2, 3, 4, 5, 6, 7])),
                ..case("affinity forbids the port's socket", two())
            },
            Case { allowed: Some(vec![]), wanted: Err("none of the cores"), ..case("affinity leaves nothing", two()) },
            Case {
                cores: named(&[5, 7]),
                ports: vec![port(Some(1))],
                wanted: Ok((vec![5, 7], vec![0, 1, 2, 3, 4, 6])),
                ..case("named local cores", two())
            },
            Case {
                cores: named(&[5, 2]),
                ports: vec![port(Some(1))],
                wanted: Err("core 2 is on socket 0, but port wan (pci:0000:03:00.0) is on socket 1"),
                ..case("a remote core is refused", two())
            },
            Case {
                cores: named(&[5, 2]),
                ports: vec![port(Some(1))],
                force: true,
                wanted: Ok((vec![5, 2], vec![0, 1, 3, 4, 6, 7])),
                ..case("unless forced", two())
            },
            Case {
                cores: named(&[0, 4]),
                ports: vec![port(Some(0)), port(Some(1))],
                wanted: Ok((vec![0, 4], vec![1, 2, 3, 5, 6, 7])),
                ..case("ports on both sockets: cores on both", two())
            },
            Case {
                cores: named(&[8]),
                wanted: Err("core 8 does not exist on this machine, allowed: 0, 1, 2"),
                ..case("unknown", two())
            },
            Case { cores: named(&[90]), wanted: Err("core 90 is offline"), ..case("offline", two()) },
            Case { cores: named(&[1, 1]), wanted: Err("core 1 is named twice"), ..case("duplicate", two()) },
            Case {
                cores: named(&[0, 1]),
                wanted: Ok((vec![0, 1], vec![0])),
                ..case("all cores named: the rest shares the first", machine(1, 2, 1))
            },
        ];
        for case in table {
            let all: Vec<usize> = case.machine.cpus.iter().map(|cpu| cpu.number).collect();
            let allowed = case.allowed.unwrap_or(all);
            let wish = Wish { cores: &case.cores, force_remote: case.force, allowed: &allowed, ports: &case.ports };
            let found = choose(&case.machine, &wish);
            match (case.wanted, found) {
                (Ok((workers, others)), Ok(found)) => {
                    let cores: Vec<usize> = found.workers.iter().map(|w| w.cpu).collect();
                    assert_eq!((cores, found.others), (workers, others), "{}", case.name);
                }
                (Err(part), Err(error)) => assert!(error.to_string().contains(part), "{}: {error}", case.name),
                (_, found) => panic!("{}: {found:?}", case.name),
            }
        }
    }

    #[test]
    fn what_an_operator_should_know_is_said() {
        let machine = machine(2, 2, 2);
        let all: Vec<usize> = (0..8).collect();
        let ports = [port(Some(0)), port(Some(1))];
        let wish = Wish { cores: &CoreChoice::Auto, force_remote: false, allowed: &all, ports: &ports };
        assert!(choose(&machine, &wish).unwrap().remarks[0].contains("on socket 1 are remote"));
        let cores = CoreChoice::List(vec![1, 5]);
        let wish = Wish { cores: &cores, ports: &[], ..wish };
        assert!(choose(&machine, &wish).unwrap().remarks[0].contains("cores 1 and 5 are SMT siblings"));
    }
}
