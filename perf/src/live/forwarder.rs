//! A node on open ports, warm: neighbours set, sessions made. [`Forwarder::slice`] lets its worker run for a while.

use std::net::IpAddr;
use std::sync::Arc;

use marchproxy_cpu::{TscClock, tsc};
use marchproxy_engine::flow::from_ip;
use marchproxy_engine::io::{Mac, PacketBuf, PacketPool};
use marchproxy_engine::ledger::Backend;
use marchproxy_engine::ports::{PortSlot, UNTAGGED};
use marchproxy_engine::snapshot::Snapshot;
use marchproxy_engine::stats::ThreadStats;
use marchproxy_engine::table::neighbours::{NeighbourKey, NeighbourTable};
use marchproxy_engine::table::sessions::Sessions;
use marchproxy_engine::tables::{InterfaceSpec, RouteAction, RuleTables};
use rtrb::Producer;

use super::LivePort;
use super::queue::{Gate, GatedRx, GatedTx, Live};
use crate::Error;
use crate::backend::{Meter, TimedRx, TimedTx};
use crate::load::Template;
use crate::measure::{Counts, named};
use crate::neighbourhood::mac_of;
use crate::node::{Node, OpenPort};
use crate::probe::Probe;
use crate::progress::Progress;
use crate::report::PortReport;
use crate::rig::{BUFFERS, Batch};
use crate::scenario::{CounterSlots, Params, Plan};

/// Frames of the harness on their way at once: a burst.
const FEED: usize = 32;

/// Turns after which a slice ends even if nothing comes: a fraction of a millisecond.
const TURNS: usize = 4096;

/// The engine's time when the forwarder is made; 0 would stand for "never" here and there.
const EPOCH: u64 = 1_000_000_000;

/// What a slice cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slice {
    /// Turns that had packets; their ticks, queue calls and share of CPU time.
    pub busy: Batch,
    /// Ticks of turns that had none.
    pub idle_ticks: u64,
}

/// A warm node on devices.
pub struct Forwarder<P: LivePort> {
    node: Node<Live<P::Kind>>,
    meter: Arc<Meter>,
    gate: Gate,
    clock: TscClock,
    clock_cost: u64,
    slots: CounterSlots,
    ports: Vec<P>,
}

/// Packets of a backend.
type BufOf<P> = <<P as LivePort>::Kind as Backend>::Buf;
/// Where they come from.
type PoolOf<P> = <<P as LivePort>::Kind as Backend>::Pool;

impl<P: LivePort> Forwarder<P> {
    /// A node that runs the plan's tables on `ports`: both sides on one port where there is only one. Sessions come from the plan's first
    /// frames, for which there is a pool of their own.
    pub fn new(
        [own, mut harness]: [PoolOf<P>; 2],
        mut ports: Vec<P>,
        plan: &Plan,
        params: &Params,
        clock: TscClock,
        progress: &Progress,
    ) -> Result<Self, Error> {
        let tables = if ports.len() == 1 { on_one_port(plan.tables.clone()) } else { plan.tables.clone() };
        let (meter, gate) = (Arc::new(Meter::default()), Gate::default());
        let mut feeds = Vec::new();
        progress.phase("building the snapshot", 0);
        let node = Node::<Live<P::Kind>>::new(&tables, plan.capacity.sessions, own, |slot| {
            let port = ports.get_mut(slot.index()).ok_or(Error::Harness("more ports in the tables than devices"))?;
            let (rx, tx) = port.queues()?;
            let (feed, fed) = rtrb::RingBuffer::new(FEED);
            feeds.push(feed);
            let rx = TimedRx { queue: GatedRx { queue: rx, feed: fed, gate: gate.clone() }, meter: meter.clone() };
            let tx = TimedTx { queue: GatedTx { queue: tx, gate: gate.clone() }, meter: meter.clone() };
            Ok(OpenPort { rx, tx, mac: port.mac() })
        })?;
        let node = node.with_burst(params.burst);
        resolve(&tables, &node.neighbours)?;
        let slots = CounterSlots::of(node.slow.snapshot());
        let clock_cost = crate::calibrate::clock_cost();
        let mut forwarder = Self { node, meter, gate, clock, clock_cost, slots, ports };
        progress.phase("making sessions", plan.first.len() as u64);
        forwarder.feed(&plan.first, &mut harness, &mut feeds, progress)?;
        let found = forwarder.sessions().len();
        if found < params.sessions {
            let drops = named(&forwarder.counts().drops);
            let drops = drops.iter().map(|(why, n)| format!("{why} {n}")).collect::<Vec<_>>().join(", ");
            return Err(Error::Sessions { found, wanted: params.sessions, drops });
        }
        forwarder.gate.set(true);
        Ok(forwarder)
    }

    /// Lets the worker run until it had `packets`, or for a few thousand turns; then the slow path, which is not measured.
    pub fn slice(&mut self, packets: u64, probe: &mut Probe) -> Slice {
        let meter = self.meter.clone();
        let received = meter.received.value();
        let octets = meter.octets.value();
        let mut busy = Batch::default();
        let (mut idle_ticks, mut turns) = (0, 0);
        probe.start();
        let mut at = tsc();
        for _ in 0..TURNS {
            let (io_ticks, io_calls) = (meter.ticks.value(), meter.calls.value());
            let done = self.node.worker.turn(EPOCH + self.clock.nanos(at)).packets;
            let end = tsc();
            if done > 0 {
                busy.ticks += end.saturating_sub(at);
                busy.io_ticks += meter.ticks.value() - io_ticks;
                busy.io_calls += meter.calls.value() - io_calls;
                turns += 1;
            } else {
                idle_ticks += end.saturating_sub(at);
            }
            at = end;
            if meter.received.value() - received >= packets {
                break;
            }
        }
        let (cpu_ns, instructions) = probe.stop();
        // Each turn holds one reading of the clock more than a batch has, whose loop holds one in all.
        busy.ticks = busy.ticks.saturating_sub(self.clock_cost * u64::saturating_sub(turns, 1));
        busy.packets = meter.received.value() - received;
        busy.octets = meter.octets.value() - octets;
        // A thread that polls uses its core all the time; what counts is the time with packets.
        busy.cpu_ns =
            (u128::from(cpu_ns) * u128::from(busy.ticks) / u128::from((busy.ticks + idle_ticks).max(1))) as u64;
        // Instructions can't be told apart like that.
        busy.instructions = instructions.filter(|_| idle_ticks == 0);
        self.node.slow.turn(self.now());
        Slice { busy, idle_ticks }
    }

    /// Lets packets from the slow path go, and the slow path finish what was punted.
    pub fn settle(&mut self) {
        // A bound against a node that talks to itself for ever.
        for _ in 0..64 {
            let now = self.now();
            if self.node.slow.turn(now) == 0 {
                return;
            }
            self.node.worker.turn(now);
        }
    }

    /// Shuts the devices out, for [`settle`](Self::settle) or a pause, or lets them in again.
    pub fn open(&self, open: bool) {
        self.gate.set(open);
    }

    /// Packets in a slice for a figure that stands on its own.
    pub const SLICE: u64 = BUFFERS as u64;

    /// Ticks that one reading of the clock takes.
    pub fn clock_cost(&self) -> u64 {
        self.clock_cost
    }

    /// The node's counters.
    pub fn counts(&self) -> Counts {
        Counts::of(self.node.worker.stats(), self.node.slow.stats(), &self.slots)
    }

    /// Counters of the worker.
    pub fn stats(&self) -> &ThreadStats {
        self.node.worker.stats()
    }

    /// Packets lost (positive) or invented; 0 always.
    pub fn residue(&self) -> i64 {
        self.node.totals().residue()
    }

    /// Packets that wait inside.
    pub fn held(&self) -> u64 {
        self.node.totals().held
    }

    /// The tables in force.
    pub fn snapshot(&self) -> &Snapshot {
        self.node.slow.snapshot()
    }

    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.node.worker.pipeline().sessions
    }

    /// What the session table's memory is.
    pub fn memory(&self) -> &str {
        &self.node.memory
    }

    /// The ports.
    pub fn ports(&self) -> &[P] {
        &self.ports
    }

    /// Makes ports count from zero.
    pub fn reset_stats(&mut self) {
        let stats = self.node.worker.stats();
        for (port, counters) in self.ports.iter_mut().zip(&stats.ports) {
            port.reset_stats(counters);
        }
    }

    /// The ports and what their devices counted.
    pub fn port_reports(&self) -> Vec<PortReport> {
        let names = self.snapshot().ports().map(|(_, port)| port.name.clone());
        let counters = &self.stats().ports;
        names.zip(&self.ports).zip(counters).map(|((name, port), counters)| port.report(name, counters)).collect()
    }

    fn now(&self) -> u64 {
        EPOCH + self.clock.nanos(tsc())
    }

    /// Runs the harness's frames through the worker.
    fn feed(
        &mut self,
        frames: &[Template],
        pool: &mut PoolOf<P>,
        feeds: &mut [Producer<BufOf<P>>],
        progress: &Progress,
    ) -> Result<(), Error> {
        for frames in frames.chunks(FEED) {
            for template in frames {
                let port = usize::from(template.port).min(self.ports.len() - 1);
                // The ring has a place for each frame of a chunk.
                let _ = feeds[port].push(packet(template, self.ports[port].mac(), pool)?);
            }
            while self.node.worker.turn(self.now()).packets > 0 {}
            self.settle();
            if !progress.advance(frames.len() as u64) {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }
}

/// The same network with both sides behind one port: one interface has the addresses of all.
fn on_one_port(mut tables: RuleTables) -> RuleTables {
    tables.ports.truncate(1);
    let rest = tables.interfaces.split_off(1);
    for interface in &mut tables.interfaces {
        interface.addresses.extend(rest.iter().flat_map(|other| other.addresses.iter().copied()));
        interface.addresses.sort_unstable();
    }
    for route in &mut tables.routes {
        if let RouteAction::Via(hops) = &mut route.action {
            for hop in hops {
                hop.interface = 0;
            }
        }
    }
    for rule in &mut tables.rules {
        rule.matches.in_interface = rule.matches.in_interface.map(|_| 0);
    }
    tables
}

/// A frame in a packet of the pool.
fn packet<A: PacketPool>(template: &Template, mac: Mac, pool: &mut A) -> Result<A::Buf, Error> {
    let frame = template.frame(mac);
    let mut packet = pool.alloc().ok_or(Error::Harness("the pool is empty before anything runs"))?;
    if !packet.resize(frame.len()) {
        return Err(Error::Harness("a frame does not fit a packet"));
    }
    packet.data_mut().copy_from_slice(&frame);
    Ok(packet)
}

/// Sets the address of every station that packets are sent to, so that nothing waits for an answer.
fn resolve(tables: &RuleTables, neighbours: &NeighbourTable) -> Result<(), Error> {
    let on = |interface: &InterfaceSpec, address: IpAddr| NeighbourKey {
        port: PortSlot::from_index(interface.port),
        vlan: interface.vlan.unwrap_or(UNTAGGED),
        address: from_ip(address),
    };
    let hops = tables.routes.iter().filter_map(|route| match &route.action {
        RouteAction::Via(hops) => Some(hops),
        _ => None,
    });
    let gateways =
        hops.flatten().filter_map(|hop| tables.interfaces.get(hop.interface).map(|interface| (interface, hop.address)));
    let backends = tables.services.iter().flat_map(|service| &service.backends).filter_map(|backend| {
        let connected = |interface: &&InterfaceSpec| interface.addresses.iter().any(|a| a.contains(backend.address));
        tables.interfaces.iter().find(connected).map(|interface| (interface, backend.address))
    });
    for (interface, address) in gateways.chain(backends) {
        if !neighbours.set(&on(interface, address), mac_of(address)) {
            return Err(Error::Harness("the neighbour table has no room for every station"));
        }
    }
    Ok(())
}
