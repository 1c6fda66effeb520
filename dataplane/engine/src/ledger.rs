//! The ledger: the only place where packets are transmitted, dropped, consumed or passed to another thread, and so the only
//! place that counts them.

use std::sync::Arc;

use arrayvec::ArrayVec;
use rtrb::{Consumer, Producer};

use crate::io::{PacketBuf, PacketPool, PacketVec, RxQueue, TxQueue};
use crate::observe::{End, Lens};
use crate::ports::PortSlot;
use crate::qos::{PER_TURN, Scheduler, Tag, of_frame};
use crate::reason::{ConsumeReason, DropReason, PuntReason};
use crate::received::Received;
use crate::snapshot::Snapshot;
use crate::stats::{MAX_PORTS, ThreadStats, Totals};
use crate::table::fragments::Known;

/// What a backend provides, as one bundle of types.
pub trait Backend: 'static {
    /// Its packets.
    type Buf: PacketBuf;
    /// Its receive queues.
    type Rx: RxQueue<Buf = Self::Buf>;
    /// Its transmit queues.
    type Tx: TxQueue<Buf = Self::Buf>;
    /// Where packets come from that the engine makes.
    type Pool: PacketPool<Buf = Self::Buf>;
}

/// A packet on its way to the slow path.
#[derive(Debug)]
pub struct Punted<B> {
    /// The packet: as received, except for [`PuntReason::Neighbour`] and [`PuntReason::Fragment`], where it is finished but for the
    /// destination MAC.
    pub packet: B,
    /// Why.
    pub reason: PuntReason,
    /// Where it was received (all reasons but `Neighbour` and `Fragment`) or must leave (these).
    pub port: PortSlot,
    /// VLAN there, [`crate::ports::UNTAGGED`] for none.
    pub vlan: u16,
    /// The next hop (`Neighbour`, `Fragment`).
    pub next_hop: u128,
    /// The egress MTU (`MtuExceeded`, `Fragment`).
    pub mtu: u16,
    /// What the packet was like when it was received (`Neighbour`).
    pub received: Option<Received>,
}

/// A finished packet from the slow path, to be transmitted by a worker.
#[derive(Debug)]
pub struct Injected<B> {
    /// The complete frame.
    pub packet: B,
    /// The egress port.
    pub port: PortSlot,
}

/// A packet on its way to another worker, as received or finished.
#[derive(Debug)]
pub struct HandedOff<B> {
    /// The packet.
    pub packet: B,
    /// Where it was received; where it leaves, if it is finished.
    pub port: PortSlot,
    /// What for.
    pub errand: Errand,
}

/// Why a packet goes to another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// That one owns its session.
    Session,
    /// It is a fragment, and that one sees all of its packet.
    Reassembly,
    /// That one owns its session, and this is what the first fragment says.
    Resolved(Known),
    /// It is finished, and that one owns the queues of the port it leaves by.
    Queue(Tag),
}

impl Errand {
    /// Both are for the same, whatever first fragments say.
    pub fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// A transmit queue and the packets that wait for the end of the turn (or for room in the driver).
struct TxPort<K: Backend> {
    queue: K::Tx,
    pending: PacketVec<K::Buf>,
    /// Octets of `pending`.
    octets: u64,
    /// What waits before that, where the port is shaped and this worker owns its queues.
    queues: Option<Box<Scheduler<K::Buf>>>,
}

/// One worker's ledger.
pub struct Ledger<K: Backend> {
    stats: Arc<ThreadStats>,
    totals: Totals,
    tx: [Option<TxPort<K>>; MAX_PORTS],
    /// The ports that have a queue, so that a turn need not look at all.
    attached: ArrayVec<PortSlot, MAX_PORTS>,
    punts: Producer<Punted<K::Buf>>,
    injects: Consumer<Injected<K::Buf>>,
    /// By worker; `None` for oneself.
    peers: Vec<Option<Producer<HandedOff<K::Buf>>>>,
    /// Whoever looks at packets.
    lens: Option<Box<Lens>>,
    /// The ports whose queues this worker owns.
    queued: ArrayVec<PortSlot, MAX_PORTS>,
    /// The shaped ports of the generation, a bit for each.
    shaped: u64,
    /// When the turn began.
    now: u64,
}

impl<K: Backend> Ledger<K> {
    /// A ledger without ports.
    pub fn new(stats: Arc<ThreadStats>, punts: Producer<Punted<K::Buf>>, injects: Consumer<Injected<K::Buf>>) -> Self {
        Self {
            stats,
            totals: Totals::default(),
            tx: std::array::from_fn(|_| None),
            attached: ArrayVec::new(),
            punts,
            injects,
            peers: Vec::new(),
            lens: None,
            queued: ArrayVec::new(),
            shaped: 0,
            now: 0,
        }
    }

    /// Connects it to the other workers, by their number.
    #[must_use]
    pub fn with_peers(mut self, peers: Vec<Option<Producer<HandedOff<K::Buf>>>>) -> Self {
        self.peers = peers;
        self
    }

    /// Who looks at packets, if anybody does.
    #[inline]
    pub(crate) fn lens_mut(&mut self) -> Option<&mut Lens> {
        self.lens.as_deref_mut()
    }

    /// Somebody else looks at packets from now on, or nobody; returns who did.
    pub(crate) fn exchange_lens(&mut self, lens: Option<Box<Lens>>) -> Option<Box<Lens>> {
        std::mem::replace(&mut self.lens, lens)
    }

    /// The counters it writes.
    pub fn stats(&self) -> &ThreadStats {
        &self.stats
    }

    /// Gives it a port's transmit queue.
    pub fn attach(&mut self, port: PortSlot, queue: K::Tx) {
        if let Some(slot) = self.tx.get_mut(port.index()) {
            *slot = Some(TxPort { queue, pending: PacketVec::new(), octets: 0, queues: None });
            self.queued.retain(|other| *other != port);
            self.attached.retain(|other| *other != port);
            self.attached.push(port);
        }
    }

    /// Takes a port's transmit queue back; what still waits there is dropped.
    pub fn detach(&mut self, port: PortSlot) -> Option<K::Tx> {
        let mut taken = self.tx.get_mut(port.index())?.take()?;
        self.attached.retain(|other| *other != port);
        self.queued.retain(|other| *other != port);
        if let Some(mut queues) = taken.queues.take() {
            queues.release(&mut |packet| self.drop(packet, DropReason::TxPortGone));
        }
        flush(&mut taken, port, &self.stats, &mut self.totals);
        for packet in taken.pending.drain(..) {
            self.drop(packet, DropReason::TxPortGone);
        }
        Some(taken.queue)
    }

    /// Counts packets that a receive queue handed over.
    #[inline]
    pub fn received(&mut self, port: PortSlot, packets: &[K::Buf]) {
        self.totals.rx += packets.len() as u64;
        if let Some(counters) = self.stats.ports.get(port.index()) {
            counters.rx.packets.add(packets.len() as u64);
            counters.rx.bytes.add(packets.iter().map(|p| p.octets() as u64).sum());
        }
    }

    /// Ends a packet under a reason.
    #[inline]
    pub fn drop(&mut self, packet: K::Buf, reason: DropReason) {
        drop(packet);
        self.totals.dropped += 1;
        self.stats.drops[reason.index()].add(1);
    }

    /// Ends a packet that all stages let pass, and for which there was no room or way behind them.
    #[cold]
    fn drop_late(&mut self, packet: K::Buf, reason: DropReason, out: Option<PortSlot>) {
        if let Some(lens) = &mut self.lens {
            lens.aside(packet.data(), None, End::Dropped(reason), out);
        }
        self.drop(packet, reason);
    }

    /// Ends a packet that was meant for us.
    pub fn consume(&mut self, packet: K::Buf, reason: ConsumeReason) {
        drop(packet);
        self.totals.consumed += 1;
        self.stats.consumed[reason.index()].add(1);
    }

    /// Queues a finished frame on a port; it leaves at the end of the turn at the latest, or waits if the driver is full.
    #[inline]
    pub fn transmit(&mut self, packet: K::Buf, port: PortSlot) {
        let Some(Some(tx)) = self.tx.get_mut(port.index()) else {
            self.drop_late(packet, DropReason::TxPortGone, Some(port));
            return;
        };
        if tx.pending.is_full() {
            flush(tx, port, &self.stats, &mut self.totals);
        }
        let octets = packet.octets() as u64;
        match tx.pending.try_push(packet) {
            Ok(()) => tx.octets += octets,
            Err(full) => self.drop_late(full.element(), DropReason::TxQueueFull, Some(port)),
        }
    }

    /// Begins a turn at `now`; `shaped` has a bit for each port whose packets wait in queues.
    #[inline]
    pub fn begin_turn(&mut self, now: u64, shaped: u64) {
        (self.now, self.shaped) = (now, shaped);
    }

    /// Puts a finished frame into the queues of a shaped port, or hands it to the worker that owns them. Until that one has them it is sent
    /// as if the port were not shaped.
    #[inline(never)]
    pub fn queue(&mut self, packet: K::Buf, port: PortSlot, tag: Tag) {
        if let Some(Some(TxPort { queues: Some(queues), .. })) = self.tx.get_mut(port.index()) {
            if let Err(packet) = queues.push(packet, tag, self.now) {
                self.drop_late(packet, DropReason::QueueFull, Some(port));
            }
            return;
        }
        let owner = queue_owner(port, self.peers.len());
        if let Some(Some(_)) = self.peers.get(owner) {
            self.hand_off(HandedOff { packet, port, errand: Errand::Queue(tag) }, owner);
        } else {
            self.transmit(packet, port);
        }
    }

    /// Gives it the queues of a port, or takes them away: what waits there is sent as far as the driver takes it. Returns those before,
    /// empty; or those given, where it has no such port.
    pub fn exchange_queues(
        &mut self,
        port: PortSlot,
        queues: Option<Box<Scheduler<K::Buf>>>,
    ) -> Option<Box<Scheduler<K::Buf>>> {
        let Some(Some(tx)) = self.tx.get_mut(port.index()) else { return queues };
        self.queued.retain(|other| *other != port);
        if queues.is_some() {
            self.queued.push(port);
        }
        let mut before = std::mem::replace(&mut tx.queues, queues)?;
        before.release(&mut |packet| self.transmit(packet, port));
        Some(before)
    }

    /// Lets go what may go now of all queues that it owns; returns how many packets.
    #[inline]
    pub fn serve(&mut self, snapshot: &Snapshot, generation: u64) -> usize {
        let mut packets = 0;
        for index in 0..self.queued.len() {
            packets += self.serve_port(self.queued[index], snapshot, generation);
        }
        packets
    }

    fn serve_port(&mut self, port: PortSlot, snapshot: &Snapshot, generation: u64) -> usize {
        let Self { tx, totals, stats, lens, now, .. } = self;
        let Some(Some(tx)) = tx.get_mut(port.index()) else { return 0 };
        let Some(mut queues) = tx.queues.take() else { return 0 };
        let mut ended = |packet: K::Buf, reason: DropReason| {
            if let Some(lens) = lens {
                lens.aside(packet.data(), None, End::Dropped(reason), Some(port));
            }
            drop(packet);
            totals.dropped += 1;
            stats.drops[reason.index()].add(1);
        };
        queues.sync(snapshot.shaping.port(port), generation);
        queues.tick(*now);
        let (mut packets, mut sent) = (0, 0);
        // A driver that did not take all of the turn before gets nothing more: what is in it is ahead of P0.
        let mut open = tx.pending.is_empty();
        while open && packets < PER_TURN {
            while !tx.pending.is_full() {
                let Some(packet) = queues.pop(*now, Some(&snapshot.shaping), &mut ended) else {
                    open = false;
                    break;
                };
                tx.octets += packet.octets() as u64;
                tx.pending.push(packet);
                packets += 1;
            }
            if tx.pending.is_full() {
                sent += hand_over(tx, port, stats);
                open &= tx.pending.is_empty();
            }
        }
        tx.queues = Some(queues);
        self.totals.tx += sent;
        packets
    }

    /// Packets in the queues that it owns.
    #[inline]
    pub fn waiting(&self) -> usize {
        self.queued
            .iter()
            .filter_map(|port| self.tx.get(port.index())?.as_ref()?.queues.as_deref())
            .map(Scheduler::held)
            .sum()
    }

    /// Passes a packet to the slow path.
    pub fn punt(&mut self, punted: Punted<K::Buf>) {
        let reason = punted.reason;
        match self.punts.push(punted) {
            Ok(()) => {
                self.totals.given += 1;
                self.stats.punts[reason.index()].add(1);
            }
            Err(rtrb::PushError::Full(punted)) => self.drop_late(punted.packet, DropReason::PuntQueueFull, None),
        }
    }

    /// Passes a packet to another worker.
    pub fn hand_off(&mut self, handed: HandedOff<K::Buf>, worker: usize) {
        let Some(Some(peer)) = self.peers.get_mut(worker) else {
            return self.drop_late(handed.packet, DropReason::HandoffQueueFull, None);
        };
        match peer.push(handed) {
            Ok(()) => {
                self.totals.given += 1;
                self.stats.handed_off.add(1);
            }
            Err(rtrb::PushError::Full(handed)) => self.drop_late(handed.packet, DropReason::HandoffQueueFull, None),
        }
    }

    /// Counts packets taken from another worker's ring.
    pub fn taken(&mut self, packets: usize) {
        self.totals.taken += packets as u64;
    }

    /// Queues what the slow path sent, at most `limit` packets; returns how many.
    pub fn take_injected(&mut self, limit: usize) -> usize {
        for taken in 0..limit {
            let Ok(injected) = self.injects.pop() else { return taken };
            self.totals.taken += 1;
            if let Some(lens) = &mut self.lens {
                lens.aside(injected.packet.data(), None, End::Sent, Some(injected.port));
            }
            if self.shaped >> injected.port.index() & 1 == 1 {
                let class = of_frame(injected.packet.data());
                self.queue(injected.packet, injected.port, Tag { class, ..Tag::NONE });
            } else {
                self.transmit(injected.packet, injected.port);
            }
        }
        limit
    }

    /// Ends a turn: hands waiting frames to the drivers and publishes the totals. `held` packets are elsewhere on this worker.
    pub fn end_turn(&mut self, held: usize) {
        let mut held = held as u64;
        for &port in &self.attached {
            if let Some(Some(tx)) = self.tx.get_mut(port.index())
                && !tx.pending.is_empty()
            {
                flush(tx, port, &self.stats, &mut self.totals);
                held += tx.pending.len() as u64;
            }
        }
        self.totals.held = held;
        self.stats.totals.publish(&self.totals);
    }

    /// Packets waiting for room in a driver.
    pub fn held(&self) -> usize {
        self.tx.iter().flatten().map(|tx| tx.pending.len()).sum()
    }

    /// Gives up what still waits.
    pub fn release(&mut self) {
        for index in 0..self.tx.len() {
            while let Some(packet) = self.tx[index].as_mut().and_then(|tx| tx.pending.pop()) {
                self.drop(packet, DropReason::Shutdown);
            }
            if let Some(tx) = &mut self.tx[index] {
                tx.octets = 0;
                if let Some(mut queues) = tx.queues.take() {
                    queues.release(&mut |packet| self.drop(packet, DropReason::Shutdown));
                }
            }
        }
        self.queued.clear();
        while let Ok(injected) = self.injects.pop() {
            self.totals.taken += 1;
            self.drop(injected.packet, DropReason::Shutdown);
        }
        self.end_turn(0);
    }
}

/// The worker that owns the queues of a port.
pub fn queue_owner(port: PortSlot, workers: usize) -> usize {
    port.index() % workers.max(1)
}

fn flush<K: Backend>(tx: &mut TxPort<K>, port: PortSlot, stats: &ThreadStats, totals: &mut Totals) {
    totals.tx += hand_over(tx, port, stats);
}

/// Gives the driver what waits for it; returns how many it took.
fn hand_over<K: Backend>(tx: &mut TxPort<K>, port: PortSlot, stats: &ThreadStats) -> u64 {
    let sent = tx.queue.tx_burst(&mut tx.pending) as u64;
    let left = tx.pending.iter().map(|p| p.octets() as u64).sum();
    if let Some(counters) = stats.ports.get(port.index()) {
        counters.tx.packets.add(sent);
        counters.tx.bytes.add(tx.octets - left);
    }
    tx.octets = left;
    sent
}
