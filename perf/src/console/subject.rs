//! What the console's worker runs: a node on memory, or one on devices, seen alike.

use marchproxy_engine::snapshot::Snapshot;
use marchproxy_engine::stats::ThreadStats;

use crate::Error;
use crate::command::amounts::Amounts;
use crate::load::Size;
use crate::measure::{Counts, KEEP_ALIVE};
use crate::probe::Probe;
use crate::progress::Progress;
use crate::report::PortReport;
use crate::rig::{BUFFERS, Batch};
use crate::scenario::{self, Bench, Scenario};
use crate::seeded::Rng;
use crate::source::DeviceOptions;

/// Where packets come from, and how much of everything there is.
#[derive(Clone)]
pub struct Source {
    /// Devices; none for memory.
    pub devices: Vec<String>,
    /// Their options.
    pub options: DeviceOptions,
    /// Amounts, as far as they were given.
    pub amounts: Amounts,
    /// Frame sizes.
    pub packet: Size,
    /// DPDK, where there are devices.
    #[cfg(feature = "dpdk")]
    pub env: Option<std::sync::Arc<crate::live::Environment>>,
}

/// All counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Each port, as its device counts; on memory as the node does.
    pub ports: Vec<PortReport>,
    /// Each port as the node counts: packets received and sent.
    pub node: Vec<(String, u64, u64)>,
    /// The node's other counters.
    pub counts: Counts,
    /// Time of turns that had packets.
    pub sum: Batch,
    /// Packets lost (positive) or invented; 0 always.
    pub residue: i64,
    /// Sessions in the table.
    pub sessions: usize,
    /// Octets of the tables.
    pub table_bytes: usize,
}

/// A node that runs.
pub enum Subject {
    /// On memory.
    Memory(Box<Memory>),
    /// On devices.
    #[cfg(feature = "dpdk")]
    Live(Box<Live>),
}

/// A node on memory.
pub struct Memory {
    bench: Bench,
    rng: Rng,
    alive: u64,
    sum: Batch,
}

/// A node on devices.
#[cfg(feature = "dpdk")]
pub struct Live {
    forwarder: crate::live::Forwarder<crate::live::Opened>,
    sum: Batch,
}

impl Subject {
    /// Prepares a scenario.
    pub fn new(source: &Source, scenario: Scenario, burst: usize, progress: &Progress) -> Result<Self, Error> {
        let params = source.amounts.params(scenario, source.packet, burst)?;
        #[cfg(feature = "dpdk")]
        if let Some(env) = &source.env {
            let mut plan = scenario::traffic(scenario, &params, progress)?;
            let ports = env.open(&source.devices, &mut plan, source.options.file_packets(), params.seed)?;
            let clock = marchproxy_cpu::TscClock::calibrate();
            let forwarder = crate::live::Forwarder::new(env.pools(), ports, &plan, &params, clock, progress)?;
            // Nothing moves before `start`.
            forwarder.open(false);
            return Ok(Self::Live(Box::new(Live { forwarder, sum: Batch::default() })));
        }
        let bench = scenario::prepare(scenario, &params, progress)?;
        let (rng, alive) = (Rng::new(params.seed, "replay"), bench.rig.now());
        Ok(Self::Memory(Box::new(Memory { bench, rng, alive, sum: Batch::default() })))
    }

    /// Lets it run for a few thousand packets, or a fraction of a millisecond.
    pub fn slice(&mut self, probe: &mut Probe) {
        match self {
            Self::Memory(memory) => memory.slice(probe),
            #[cfg(feature = "dpdk")]
            Self::Live(live) => {
                let slice = live.forwarder.slice(crate::live::Forwarder::<crate::live::Opened>::SLICE, probe);
                add(&mut live.sum, &slice.busy);
            }
        }
    }

    /// Lets packets of devices in.
    pub fn start(&mut self) {
        match self {
            Self::Memory(memory) => memory.bench.rig.settle(),
            #[cfg(feature = "dpdk")]
            Self::Live(live) => live.forwarder.open(true),
        }
    }

    /// Keeps packets of devices out and finishes what is under way.
    pub fn stop(&mut self) {
        match self {
            Self::Memory(memory) => memory.bench.rig.settle(),
            #[cfg(feature = "dpdk")]
            Self::Live(live) => {
                live.forwarder.open(false);
                live.forwarder.settle();
            }
        }
    }

    /// All counters.
    pub fn read(&self) -> Reading {
        match self {
            Self::Memory(memory) => {
                let Bench { rig, slots, .. } = &memory.bench;
                Reading {
                    ports: on_memory(rig.stats(), rig.snapshot()),
                    counts: Counts::read(rig, slots),
                    sum: memory.sum,
                    residue: rig.totals().residue(),
                    sessions: rig.sessions().len(),
                    table_bytes: rig.snapshot().bytes(),
                    ..reading_of(rig.stats(), rig.snapshot())
                }
            }
            #[cfg(feature = "dpdk")]
            Self::Live(live) => {
                let forwarder = &live.forwarder;
                Reading {
                    ports: forwarder.port_reports(),
                    counts: forwarder.counts(),
                    sum: live.sum,
                    residue: forwarder.residue(),
                    sessions: forwarder.sessions().len(),
                    table_bytes: forwarder.snapshot().bytes(),
                    ..reading_of(forwarder.stats(), forwarder.snapshot())
                }
            }
        }
    }
}

impl Memory {
    fn slice(&mut self, probe: &mut Probe) {
        let Bench { rig, load, keep_alive, .. } = &mut self.bench;
        let batch = rig.batch(load, BUFFERS, &mut self.rng, probe);
        add(&mut self.sum, &batch);
        rig.settle();
        if rig.now() - self.alive > KEEP_ALIVE {
            rig.warm(&*keep_alive, |_| true);
            self.alive = rig.now();
        }
    }
}

fn add(sum: &mut Batch, batch: &Batch) {
    sum.packets += batch.packets;
    sum.octets += batch.octets;
    sum.ticks += batch.ticks;
    sum.io_ticks += batch.io_ticks;
    sum.io_calls += batch.io_calls;
}

fn reading_of(stats: &ThreadStats, snapshot: &Snapshot) -> Reading {
    let node = snapshot.ports().map(|(slot, port)| {
        let counters = &stats.ports[slot.index()];
        (port.name.clone(), counters.rx.packets.value(), counters.tx.packets.value())
    });
    Reading { node: node.collect(), ..Reading::default() }
}

fn on_memory(stats: &ThreadStats, snapshot: &Snapshot) -> Vec<PortReport> {
    let report = |(slot, port): (marchproxy_engine::ports::PortSlot, &marchproxy_engine::tables::PortSpec)| {
        let counters = &stats.ports[slot.index()];
        PortReport {
            name: port.name.clone(),
            receives_from: "memory".into(),
            sends_to: "memory".into(),
            rx_packets: counters.rx.packets.value(),
            rx_bytes: counters.rx.bytes.value(),
            tx_packets: counters.tx.packets.value(),
            tx_bytes: counters.tx.bytes.value(),
            ..PortReport::default()
        }
    };
    snapshot.ports().map(report).collect()
}
