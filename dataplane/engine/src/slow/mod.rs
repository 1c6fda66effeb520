//! The slow path: what is rare, needs timers or answers. ARP, neighbour discovery, the neighbour hold, ICMP (`BEHAVIOUR.md`, "Slow path").
//!
//! One thread owns it. Packets come from the workers over punt rings and leave over inject rings; it never touches a queue.

mod announce;
mod arp;
mod fragment;
mod health;
mod icmp;
mod nd;
mod neighbour;
mod reset;

use std::sync::Arc;

use marchproxy_rcu::Reader;
use rtrb::{Consumer, Producer};

use crate::burst::{Egress, Fate};
use crate::flow::{FlowKey, is_v4, v4};
use crate::io::{PacketBuf, PacketPool};
use crate::ledger::{Backend, Injected, Punted};
use crate::observe::{End, Lens};
use crate::ports::{PortFacts, PortSlot};
use crate::reason::{ConsumeReason, DropReason, PuntReason};
use crate::received::Received;
use crate::snapshot::Snapshot;
use crate::stage::{parse, route};
use crate::stats::{ThreadStats, Totals};
use crate::table::neighbours::NeighbourTable;
use crate::wire::{TCP, be16, be32, be128};

pub use health::{HealthInfo, HealthState, Outcome};
pub use neighbour::{NeighbourInfo, NeighbourState};

/// Punted packets taken from one worker in one turn: bounds the time before the others get theirs.
const PUNTS_PER_TURN: usize = 64;

/// The rings to and from one worker.
pub struct WorkerLink<B> {
    /// What the worker punts.
    pub punts: Consumer<Punted<B>>,
    /// What the worker shall transmit.
    pub injects: Producer<Injected<B>>,
}

/// The slow path of a node.
pub struct SlowPath<K: Backend> {
    reader: Reader<Snapshot>,
    generation: u64,
    neighbours: neighbour::Neighbours<K::Buf>,
    out: Output<K>,
    icmp_bucket: icmp::Bucket,
    /// `None`: services are taken as if they asked for no checks.
    checks: Option<health::Checks>,
    /// None: the node keeps quiet.
    announcements: Option<announce::Announcements>,
}

/// Where packets go from here, and the counters of that.
struct Output<K: Backend> {
    links: Vec<WorkerLink<K::Buf>>,
    pool: K::Pool,
    facts: PortFacts,
    stats: Arc<ThreadStats>,
    totals: Totals,
    /// Whoever looks at packets that end here.
    lens: Option<Box<Lens>>,
    /// Where the packet in hand was received, or must leave.
    place: Option<PortSlot>,
}

/// What a punted packet is about, found again by parsing it under the slow path's generation.
struct Subject {
    worker: usize,
    port: PortSlot,
    head: parse::Head,
    key: FlowKey,
}

impl<K: Backend> SlowPath<K> {
    /// A slow path for as many workers as there are links.
    pub fn new(
        reader: Reader<Snapshot>,
        links: Vec<WorkerLink<K::Buf>>,
        pool: K::Pool,
        table: NeighbourTable,
        facts: PortFacts,
        stats: Arc<ThreadStats>,
    ) -> Self {
        let generation = reader.generation();
        Self {
            reader,
            generation,
            neighbours: neighbour::Neighbours::new(table),
            out: Output { links, pool, facts, stats, totals: Totals::default(), lens: None, place: None },
            icmp_bucket: icmp::Bucket::default(),
            checks: None,
            announcements: None,
        }
    }

    /// Lets it check the health of backends. The seed makes what strangers shall not guess: sequence numbers and echo data.
    #[must_use]
    pub fn with_checks(mut self, seed: u64) -> Self {
        self.checks = Some(health::Checks::new(seed));
        // The first turn takes up the services.
        self.generation = 0;
        self
    }

    /// Makes addresses known when they appear.
    #[must_use]
    pub fn announcing(mut self) -> Self {
        let mut announcements = announce::Announcements::default();
        announcements.look(0, self.reader.current(), &self.out.facts);
        self.announcements = Some(announcements);
        self
    }

    /// One turn: new generation, punted packets, checks, timers. Returns how many packets came and checks were due.
    pub fn turn(&mut self, now: u64) -> usize {
        self.reader.refresh();
        let pushed = self.reader.generation() != self.generation;
        if pushed {
            self.generation = self.reader.generation();
            self.neighbours.retain_interfaces(self.reader.current(), &mut self.out);
            if let Some(checks) = &mut self.checks {
                checks.adopt(now, self.reader.current());
            }
        }
        if let Some(lens) = &mut self.out.lens {
            lens.tick(now);
        }
        let mut taken = 0;
        for worker in 0..self.out.links.len() {
            for _ in 0..PUNTS_PER_TURN {
                let Ok(punted) = self.out.links[worker].punts.pop() else { break };
                self.out.totals.taken += 1;
                taken += 1;
                self.out.place = Some(punted.port);
                self.handle(now, worker, punted);
            }
        }
        self.out.place = None;
        if let Some(checks) = &mut self.checks {
            taken += checks.turn(now, self.reader.current());
        }
        self.send_checks(now);
        for (worker, held) in self.neighbours.timers(now, self.reader.current(), &mut self.out) {
            self.host_unreachable(now, worker, held);
        }
        if let Some(announcements) = &mut self.announcements {
            if pushed || announcements.is_stale(&self.out.facts) {
                announcements.look(now, self.reader.current(), &self.out.facts);
            }
            announcements.turn(now, &mut self.out);
        }
        self.out.totals.held = self.neighbours.held() as u64;
        self.out.stats.totals.publish(&self.out.totals);
        taken
    }

    /// Gives up everything it holds and everything still in its rings.
    pub fn release(&mut self) {
        self.neighbours.release(&mut self.out, DropReason::Shutdown);
        for worker in 0..self.out.links.len() {
            while let Ok(punted) = self.out.links[worker].punts.pop() {
                self.out.totals.taken += 1;
                self.out.drop(punted.packet, DropReason::Shutdown);
            }
        }
        self.out.totals.held = 0;
        self.out.stats.totals.publish(&self.out.totals);
    }

    /// Looks at packets that end here through this lens from now on, or no more; returns the one before.
    pub fn observe(&mut self, mut lens: Option<Box<Lens>>, now: u64) -> Option<Box<Lens>> {
        if let Some(lens) = &mut lens {
            lens.begin_visit(now);
        }
        std::mem::replace(&mut self.out.lens, lens)
    }

    /// The neighbours, in order of creation.
    pub fn neighbours(&self) -> impl Iterator<Item = NeighbourInfo> + '_ {
        self.neighbours.list()
    }

    /// The checked backends, by service and name.
    pub fn health(&self) -> impl Iterator<Item = HealthInfo> + '_ {
        self.checks.iter().flat_map(|checks| checks.list(self.reader.current()))
    }

    /// Whether a backend's checks took it out since the last call: its sessions may be for the service's failure policy.
    pub fn take_lost(&mut self) -> bool {
        self.checks.as_mut().is_some_and(health::Checks::take_lost)
    }

    /// The generation it runs.
    pub fn snapshot(&self) -> &Snapshot {
        self.reader.current()
    }

    /// The counters it writes.
    pub fn stats(&self) -> &Arc<ThreadStats> {
        &self.out.stats
    }

    fn handle(&mut self, now: u64, worker: usize, punted: Punted<K::Buf>) {
        let snapshot = self.reader.current();
        if punted.reason == PuntReason::Neighbour {
            self.neighbours.hold(now, worker, punted, snapshot, &mut self.out);
            return;
        }
        if punted.reason == PuntReason::Fragment {
            return self.fragment(now, worker, punted);
        }
        let (mut head, mut key) = (parse::Head::default(), FlowKey::default());
        let mac = self.out.facts.mac(punted.port);
        let parsed = parse::headers(punted.packet.data(), mac, punted.port, snapshot, &mut head, &mut key);
        let subject = Subject { worker, port: punted.port, head, key };
        match (punted.reason, parsed) {
            (PuntReason::Arp, Err(Fate::Punt(PuntReason::Arp))) => self.arp(now, &subject, punted.packet),
            (PuntReason::Local, Ok(())) => self.local(now, &subject, punted.packet),
            (PuntReason::RuleReject, Ok(())) if reset::is_for(&subject.head) => {
                self.reset(now, &subject, punted.packet);
            }
            (_, Ok(())) => {
                let (error, reason) = icmp::error_for(punted.reason, subject.head.v6, punted.mtu);
                self.icmp_error(now, &subject, punted.packet.data(), error);
                self.out.drop(punted.packet, reason);
            }
            // A push since then took the interface, or made the packet a martian.
            (_, Err(Fate::Drop(reason))) => self.out.drop(punted.packet, reason),
            (_, Err(_)) => self.out.drop(punted.packet, DropReason::VlanUnknown),
        }
    }

    /// Packets for one of our addresses.
    fn local(&mut self, now: u64, subject: &Subject, packet: K::Buf) {
        let head = &subject.head;
        if self.checks.is_some() && !head.fragment && (head.protocol == TCP || head.is_echo_reply()) {
            return self.local_answer(now, subject, packet);
        }
        if head.fragment {
            // To a service address where nothing is: their upper layer is not all here.
            if !head.is_icmp()
                && !head.later_fragment
                && let Some(error) = icmp::local_unreachable(packet.data(), head)
            {
                self.icmp_error(now, subject, packet.data(), error);
            }
            self.out.drop(packet, DropReason::LocalUnreachable);
        } else if head.is_icmp() && !icmp::checksum_holds(packet.data(), head, &subject.key) {
            self.out.drop(packet, DropReason::L4Malformed);
        } else if head.is_icmp() && head.v6 && matches!(head.flags_or_type, 135 | 136) {
            self.nd(now, subject, packet);
        } else if subject.key.src == 0 {
            // The unspecified address is a source in neighbour discovery only.
            self.out.drop(packet, DropReason::MartianSource);
        } else if !head.is_icmp() {
            if let Some(error) = icmp::local_unreachable(packet.data(), head) {
                self.icmp_error(now, subject, packet.data(), error);
            }
            self.out.drop(packet, DropReason::LocalUnreachable);
        } else if head.is_echo_request() {
            let reply = icmp::echo_reply(packet.data(), head, &subject.key);
            self.out.consume(packet, ConsumeReason::Echo);
            self.originate_ip(now, subject, &reply);
        } else if icmp::is_error(head) {
            self.out.drop(packet, DropReason::IcmpErrorUnmatched);
        } else {
            self.out.drop(packet, DropReason::LocalUnreachable);
        }
    }

    /// A TCP segment or an echo reply for one of our addresses, where there are checks.
    fn local_answer(&mut self, now: u64, subject: &Subject, packet: K::Buf) {
        let (head, key) = (&subject.head, &subject.key);
        if !icmp::checksum_holds(packet.data(), head, key) {
            return self.out.drop(packet, DropReason::L4Malformed);
        }
        let frame = packet.data();
        let from = |at: usize| frame.get(at..head.end()).unwrap_or(&[]);
        let taken = match &mut self.checks {
            Some(checks) if head.protocol == TCP => checks.segment(now, key, from(usize::from(head.l3))),
            Some(checks) => checks.echo_reply(now, key, from(usize::from(head.l4))),
            None => health::Taken::No,
        };
        if taken == health::Taken::Yes {
            return self.out.consume(packet, ConsumeReason::Health);
        }
        if key.src != 0
            && let Some(error) = icmp::local_unreachable(packet.data(), head).filter(|_| !head.is_icmp())
        {
            self.icmp_error(now, subject, packet.data(), error);
        }
        let reason = if key.src == 0 { DropReason::MartianSource } else { DropReason::LocalUnreachable };
        self.out.drop(packet, reason);
    }

    /// Sends what the checks want to send.
    fn send_checks(&mut self, now: u64) {
        let Some(checks) = &mut self.checks else { return };
        let mut packets = checks.take_out();
        for packet in packets.drain(..) {
            self.originate_own(now, &packet);
        }
        if let Some(checks) = &mut self.checks {
            checks.give_back(packets);
        }
    }

    /// Sends an IP packet of our own that nothing received has caused.
    fn originate_own(&mut self, now: u64, packet: &[u8]) {
        let Some(buffer) = self.out.make(packet) else { return };
        let key = own_flow(packet);
        let snapshot = self.reader.current();
        let egress = match route_own(snapshot, &key) {
            Ok(egress) => egress,
            Err(reason) => return self.out.drop(buffer, reason),
        };
        let Some(out) = snapshot.interface(egress.interface) else {
            return self.out.drop(buffer, DropReason::TxPortGone);
        };
        if packet.len() > usize::from(out.mtu) {
            return self.out.drop(buffer, DropReason::MtuExceeded);
        }
        let (worker, v6) = (key.dst as usize % self.out.links.len().max(1), !is_v4(key.dst));
        self.neighbours.send(now, worker, buffer, out, egress.next_hop, v6, snapshot, &mut self.out);
    }

    /// A packet waited in vain for its next hop (RFC 1812 s4.3.3.1, 4861 s7.2.2).
    fn host_unreachable(&mut self, now: u64, worker: usize, held: neighbour::Held<K::Buf>) {
        let neighbour::Held { mut packet, received } = held;
        let snapshot = self.reader.current();
        if let Some(received) = received
            && let Received { port, head, key, .. } = received
            && let Some(interface) = snapshot.interface_at(port, head.vlan)
        {
            received.restore(packet.data_mut());
            let subject = Subject { worker, port, head: parse::Head { interface, ..head }, key };
            let (error, _) = icmp::error_for(PuntReason::Neighbour, head.v6, 0);
            self.icmp_error(now, &subject, packet.data(), error);
        }
        self.out.drop(packet, DropReason::NeighbourUnreachable);
    }

    fn icmp_error(&mut self, now: u64, subject: &Subject, frame: &[u8], error: icmp::Error) {
        if subject.head.later_fragment || icmp::is_error(&subject.head) {
            return;
        }
        let snapshot = self.reader.current();
        let mac = self.out.facts.mac(subject.port);
        let Some(source) = icmp::source_address(snapshot, subject.head.interface, subject.head.v6, mac) else { return };
        if !self.icmp_bucket.take(now) {
            self.out.stats.icmp_rate_limited.add(1);
            return;
        }
        let packet = icmp::error_packet(frame, &subject.head, &subject.key, source, error);
        self.originate_ip(now, subject, &packet);
    }

    /// Sends an IP packet of our own, routed as if it had come in where its cause did.
    fn originate_ip(&mut self, now: u64, subject: &Subject, packet: &[u8]) {
        let Some(buffer) = self.out.make(packet) else { return };
        let key = icmp::flow_of(packet);
        let snapshot = self.reader.current();
        let v6 = subject.head.v6;
        let receiving = subject.head.interface;
        let egress = match route::resolve(snapshot, receiving, key.dst, &key) {
            // Link-local destinations are on the link the cause came from; no table knows them.
            _ if parse::is_link_local(key.dst) => {
                Egress { interface: receiving, next_hop: key.dst, ..Egress::default() }
            }
            Ok(egress) => egress,
            Err(Fate::Punt(PuntReason::RouteReject)) => return self.out.drop(buffer, DropReason::RouteReject),
            Err(Fate::Drop(reason)) => return self.out.drop(buffer, reason),
            Err(_) => return self.out.drop(buffer, DropReason::NoRoute),
        };
        let Some(out) = snapshot.interface(egress.interface) else {
            return self.out.drop(buffer, DropReason::TxPortGone);
        };
        if packet.len() > usize::from(out.mtu) {
            return self.out.drop(buffer, DropReason::MtuExceeded);
        }
        self.neighbours.send(now, subject.worker, buffer, out, egress.next_hop, v6, snapshot, &mut self.out);
    }
}

/// The way of a packet of our own that nothing received has caused: by the first routing table, in order of their numbers, that
/// leads anywhere.
fn route_own(snapshot: &Snapshot, key: &FlowKey) -> Result<Egress, DropReason> {
    let mut refused = DropReason::NoRoute;
    // A table without an interface leads nowhere: next hops are on interfaces of the table.
    let seats = (0..snapshot.tables()).filter_map(|table| snapshot.interface_of_table(table));
    for seat in seats {
        match route::resolve(snapshot, seat, key.dst, key) {
            Ok(egress) => return Ok(egress),
            Err(Fate::Drop(reason)) => refused = reason,
            Err(Fate::Punt(PuntReason::RouteReject)) => refused = DropReason::RouteReject,
            Err(_) => {}
        }
    }
    Err(refused)
}

/// What the way of a check's packet is chosen by: destination, protocol and port, so that all of a check go the same way.
fn own_flow(packet: &[u8]) -> FlowKey {
    let v6 = packet.first().is_some_and(|b| b >> 4 == 6);
    let (dst, protocol, l4) =
        if v6 { (be128(packet, 24), packet.get(6), 40) } else { (v4(be32(packet, 16)), packet.get(9), 20) };
    let protocol = protocol.copied().unwrap_or_default();
    // Checks have neither options nor extension headers.
    let dport = if protocol == TCP { be16(packet, l4 + 2) } else { 0 };
    FlowKey { src: 0, dst, protocol, sport: 0, dport }
}

impl<K: Backend> Output<K> {
    /// A packet of our own with this content; counts as originated.
    fn make(&mut self, content: &[u8]) -> Option<K::Buf> {
        let packet = self.buffer(content)?;
        self.totals.originated += 1;
        Some(packet)
    }

    /// A buffer with this content, which is no packet yet.
    fn buffer(&mut self, content: &[u8]) -> Option<K::Buf> {
        let made = self.pool.alloc().filter(|packet| packet.tailroom() >= content.len());
        let Some(mut packet) = made else {
            self.stats.originate_failed.add(1);
            return None;
        };
        // The room was just checked.
        let _ = packet.resize(content.len());
        packet.data_mut().copy_from_slice(content);
        Some(packet)
    }

    fn drop(&mut self, packet: K::Buf, reason: DropReason) {
        self.look(&packet, End::Dropped(reason));
        drop(packet);
        self.totals.dropped += 1;
        self.stats.drops[reason.index()].add(1);
    }

    /// Shows a packet that ends to whoever looks.
    fn look(&mut self, packet: &K::Buf, end: End) {
        if let Some(lens) = &mut self.lens {
            lens.aside(packet.data(), self.place, end, None);
        }
    }

    fn consume(&mut self, packet: K::Buf, reason: ConsumeReason) {
        self.look(&packet, End::Consumed(reason));
        drop(packet);
        self.totals.consumed += 1;
        self.stats.consumed[reason.index()].add(1);
    }

    /// Hands a complete frame to a worker for transmission.
    fn send(&mut self, worker: usize, packet: K::Buf, port: PortSlot) {
        let Some(link) = self.links.get_mut(worker) else {
            return self.drop(packet, DropReason::TxPortGone);
        };
        match link.injects.push(Injected { packet, port }) {
            Ok(()) => self.totals.given += 1,
            Err(rtrb::PushError::Full(injected)) => self.drop(injected.packet, DropReason::InjectQueueFull),
        }
    }
}
