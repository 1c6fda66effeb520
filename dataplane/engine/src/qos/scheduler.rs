//! The queues of one shaped port and who goes next: the port's shaper, then the classes, in each of them the services, each with its own
//! shaper.
//!
//! P0 goes before all others up to its cap; P1 to P3 share what is left by their weights, and so do the services of a class by theirs (deficit
//! round robin, RFC 7567 s4.3; a queue that took more than its quantum owes the rest to the next round). A service without tokens leaves its
//! lines and waits on the wheel. Each step is constant work, whatever the number of services.

use std::sync::Arc;

use super::account::Account;
use super::bucket::Bucket;
use super::class::Tag;
use super::codel::Codel;
use super::counters::{QueueCounters, QueueDrop};
use super::places::{NIL, Places};
use super::shaping::{DEADLINES, PortShaping, SHORTEST, Shaping};
use super::wheel::Wheel;
use super::{CLASSES, ecn};
use crate::io::PacketBuf;
use crate::reason::DropReason;

/// Services woken and steps taken in one [`pop`](Scheduler::pop) at most.
const WAKES: usize = 256;

/// Packets let go in one turn at most: as many full frames as 100 Gbit/s carry in 60 us, which is more than a turn takes.
pub const PER_TURN: usize = 512;

/// A list of packets: one service's of one class.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Queue {
    head: u32,
    tail: u32,
    /// Behind it in the line of its class.
    next: u32,
    /// What it may still send in this round, in octets; negative: what it owes.
    deficit: i32,
    codel: Codel,
}

const _: () = assert!(size_of::<Queue>() == 64);

/// The queues of one class that have something to send and are not waiting for tokens.
#[derive(Clone, Copy)]
struct Line {
    head: u32,
    tail: u32,
    deficit: i64,
    quantum: i64,
}

/// One shaped port. `B` is a packet.
pub struct Scheduler<B> {
    places: Places<B>,
    accounts: Box<[Account]>,
    /// By slot and class.
    queues: Box<[Queue]>,
    lines: [Line; CLASSES],
    wheel: Wheel,
    port: Bucket,
    /// What P0 may take before the others.
    priority: Bucket,
    /// The class of P1 to P3 whose turn it is.
    turn: usize,
    /// What the generation says about the port; without it packets leave as fast as they may.
    shaping: Option<PortShaping>,
    overhead: u32,
    generation: u64,
    counters: Arc<QueueCounters>,
}

/// What became of the queue at the head of a line.
enum Step<B> {
    /// It sent this.
    Sent(B),
    /// Something changed: look again.
    Again,
    /// Nothing may leave now.
    Wait,
}

impl<B: PacketBuf> Scheduler<B> {
    /// With places for this many packets and accounts for this many services.
    pub fn new(places: u32, services: u16) -> Self {
        let slots = usize::from(services) + 1;
        let empty = Queue { head: NIL, tail: NIL, next: NIL, deficit: 0, codel: Codel::default() };
        Self {
            places: Places::new(places),
            accounts: vec![Account::default(); slots].into_boxed_slice(),
            queues: vec![empty; slots * CLASSES].into_boxed_slice(),
            lines: [Line { head: NIL, tail: NIL, deficit: 0, quantum: 0 }; CLASSES],
            wheel: Wheel::default(),
            port: Bucket::default(),
            priority: Bucket::default(),
            turn: 1,
            shaping: None,
            overhead: 24,
            generation: 0,
            counters: Arc::new(QueueCounters::new(slots)),
        }
    }

    /// What it counts.
    pub fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }

    /// Packets in it.
    #[inline]
    pub fn held(&self) -> usize {
        self.places.taken()
    }

    /// Takes over what a generation says about its port: `None`, that it is not shaped (any more). What it says about services is looked
    /// up when they are touched.
    #[inline]
    pub fn sync(&mut self, shaping: Option<&PortShaping>, generation: u64) {
        if self.generation != generation {
            self.resync(shaping.copied(), generation);
        }
    }

    #[cold]
    fn resync(&mut self, shaping: Option<PortShaping>, generation: u64) {
        self.generation = generation;
        self.shaping = shaping;
        let Some(port) = shaping else {
            (self.port, self.priority) = (Bucket::default(), Bucket::default());
            return;
        };
        self.overhead = port.overhead;
        self.port.set(port.rate_kbps, port.depth);
        self.priority.set(port.priority.0, port.priority.1);
        for (line, quantum) in self.lines.iter_mut().zip(port.quanta) {
            line.quantum = i64::from(quantum);
            line.deficit = line.deficit.min(line.quantum);
        }
    }

    /// Puts a packet into its queue; gives it back when there is no room: the queue has as many packets or octets as it may, or more than
    /// there are places left, so that none can fill them all.
    #[inline]
    pub fn push(&mut self, packet: B, tag: Tag, now: u64) -> Result<(), B> {
        let slot = if usize::from(tag.slot) < self.accounts.len() { usize::from(tag.slot) } else { 0 };
        let at = slot * CLASSES + tag.class as usize;
        let octets = (packet.octets() as u32).max(SHORTEST) + self.overhead;
        let (Some(account), Some(queue), Some(counters)) =
            (self.accounts.get_mut(slot), self.queues.get_mut(at), self.counters.at(at))
        else {
            return Err(packet);
        };
        let full = counters.packets.value() >= u64::from(account.most_packets.min(self.places.left()))
            || counters.octets.value() + u64::from(octets) > u64::from(account.most_octets);
        let place = if full { Err(packet) } else { self.places.put(packet, now, octets) };
        let place = place.inspect_err(|_| counters.dropped[QueueDrop::Full as usize].add(1))?;
        counters.packets.add(1);
        counters.octets.add(u64::from(octets));
        let behind = std::mem::replace(&mut queue.tail, place);
        if behind != NIL {
            self.places.link(behind, place);
            return Ok(());
        }
        queue.head = place;
        queue.codel.ran_empty();
        // What it owes stays; what it did not use is gone.
        if queue.deficit >= 0 {
            queue.deficit = account.quantum as i32;
        }
        let class = 1 << tag.class as u8;
        account.backlog |= class;
        if !account.parked {
            account.lined_up |= class;
            self.line_up(at);
        }
        Ok(())
    }

    /// Lets one packet go, if one may. Packets that end here are given to `ended`. `shaping` is that of the generation of the last
    /// [`sync`](Self::sync).
    #[inline]
    pub fn pop(&mut self, now: u64, shaping: Option<&Shaping>, ended: &mut impl FnMut(B, DropReason)) -> Option<B> {
        // Every step sends, ends, parks or turns a queue; what is left when the bound is reached goes on next time.
        for _ in 0..WAKES {
            let class = self.choose()?;
            match self.step(class, now, shaping, ended) {
                Step::Sent(packet) => return Some(packet),
                Step::Again => {}
                Step::Wait => return None,
            }
        }
        None
    }

    /// What time brought: tokens for the port, services that wait no longer. Once per turn, before packets are let go.
    #[inline]
    pub fn tick(&mut self, now: u64) {
        self.port.refill(now);
        self.priority.refill(now);
        for _ in 0..WAKES {
            let Some(slot) = self.wheel.pop(&mut self.accounts, now) else { return };
            self.wake(slot as usize);
        }
    }

    fn wake(&mut self, slot: usize) {
        let Some(account) = self.accounts.get_mut(slot) else { return };
        account.parked = false;
        let mut back = account.backlog & !account.lined_up;
        account.lined_up |= back;
        while back != 0 {
            self.line_up(slot * CLASSES + back.trailing_zeros() as usize);
            back &= back - 1;
        }
    }

    /// To the end of the line of its class.
    #[inline]
    fn line_up(&mut self, at: usize) {
        let line = &mut self.lines[at % CLASSES];
        let behind = std::mem::replace(&mut line.tail, at as u32);
        match self.queues.get_mut(behind as usize) {
            Some(queue) => queue.next = at as u32,
            None => line.head = at as u32,
        }
        if let Some(queue) = self.queues.get_mut(at) {
            queue.next = NIL;
        }
    }

    /// Takes the first one out of a line.
    #[inline]
    fn step_out(&mut self, class: usize) -> Option<usize> {
        let line = &mut self.lines[class];
        let at = line.head as usize;
        line.head = self.queues.get(at)?.next;
        if line.head == NIL {
            line.tail = NIL;
        }
        Some(at)
    }

    /// The first one of a line goes to its end.
    #[inline]
    fn rotate(&mut self, class: usize) {
        if let Some(at) = self.step_out(class) {
            self.line_up(at);
        }
    }

    /// Octets of the packet at the head of a line.
    #[inline]
    fn first_of(&self, class: usize) -> Option<u32> {
        let queue = self.queues.get(self.lines[class].head as usize)?;
        self.places.get(queue.head).map(|place| place.octets)
    }

    /// The class that sends next; `None` when none has anything to send.
    #[inline]
    fn choose(&mut self) -> Option<usize> {
        let first = self.first_of(0);
        if first.is_some_and(|octets| !self.priority.limits() || self.priority.has(octets)) {
            return Some(0);
        }
        // A quantum is at least one full packet: in two rounds everybody has paid what it owes.
        for _ in 0..3 * (CLASSES - 1) {
            let line = &mut self.lines[self.turn];
            if line.head != NIL {
                if line.deficit > 0 || line.quantum == 0 {
                    return Some(self.turn);
                }
                line.deficit += line.quantum;
            }
            self.turn = if self.turn == CLASSES - 1 { 1 } else { self.turn + 1 };
        }
        // Nobody else wants to: P0 goes beyond its cap.
        first.map(|_| 0)
    }

    /// The queue at the head of a class's line sends, or not.
    #[inline]
    fn step(
        &mut self,
        class: usize,
        now: u64,
        shaping: Option<&Shaping>,
        ended: &mut impl FnMut(B, DropReason),
    ) -> Step<B> {
        let at = self.lines[class].head as usize;
        let slot = at / CLASSES;
        let (Some(queue), Some(account)) = (self.queues.get_mut(at), self.accounts.get_mut(slot)) else {
            return Step::Wait;
        };
        if account.parked {
            account.lined_up &= !(1 << class);
            self.step_out(class);
            return Step::Again;
        }
        if account.generation != self.generation {
            configure((account, &self.counters), slot, shaping, self.shaping.as_ref(), self.generation);
        }
        let Some(place) = self.places.get(queue.head) else { return Step::Wait };
        let (octets, waited) = (place.octets, now.saturating_sub(place.since));
        let limit = if account.deadline == 0 { DEADLINES[class] } else { account.deadline };
        if waited > limit && self.shaping.is_some() {
            self.end(class, QueueDrop::Deadline, ended);
            return Step::Again;
        }
        if self.port.limits() && !self.port.has(octets) {
            return Step::Wait;
        }
        if account.bucket.limits() {
            account.bucket.refill(now);
            if !account.bucket.has(octets) {
                let due = now.saturating_add(account.bucket.wait(octets));
                account.parked = true;
                account.lined_up &= !(1 << class);
                self.step_out(class);
                self.wheel.insert(&mut self.accounts, slot as u32, due);
                return Step::Again;
            }
        }
        if queue.deficit <= 0 {
            queue.deficit = queue.deficit.saturating_add(account.quantum as i32);
            self.rotate(class);
            return Step::Again;
        }
        if account.target != 0 && !self.manage(at, now, (waited, octets)) {
            self.end(class, QueueDrop::Aqm, ended);
            return Step::Again;
        }
        let Some(packet) = self.leave(class) else { return Step::Wait };
        if let Some(counters) = self.counters.at(at) {
            counters.sent(octets, waited);
        }
        self.port.take(octets);
        if class == 0 {
            self.priority.take(octets);
        } else {
            self.lines[class].deficit -= i64::from(octets);
        }
        if let Some(queue) = self.queues.get_mut(at) {
            queue.deficit -= octets as i32;
        }
        if let Some(account) = self.accounts.get_mut(slot) {
            account.bucket.take(octets);
        }
        Step::Sent(packet)
    }

    /// Queue management; false: the packet is to be dropped.
    #[inline]
    fn manage(&mut self, at: usize, now: u64, (waited, octets): (u64, u32)) -> bool {
        let (Some(queue), Some(account)) = (self.queues.get_mut(at), self.accounts.get(at / CLASSES)) else {
            return true;
        };
        let Some(counters) = self.counters.at(at) else { return true };
        let longest = self.shaping.as_ref().map_or(0, |port| port.longest);
        let small = counters.octets.value() <= u64::from(longest) + u64::from(octets);
        if !queue.codel.signals(now, waited, small, (account.target, account.interval)) {
            return true;
        }
        let head = queue.head;
        if account.ecn && self.places.packet_mut(head).is_some_and(|packet| ecn::mark(packet.data_mut())) {
            counters.marked.add(1);
            return true;
        }
        false
    }

    /// Ends the packet at the head of a line.
    #[cold]
    fn end(&mut self, class: usize, why: QueueDrop, ended: &mut impl FnMut(B, DropReason)) {
        let at = self.lines[class].head as usize;
        let Some(packet) = self.leave(class) else { return };
        if let Some(counters) = self.counters.at(at) {
            counters.dropped[why as usize].add(1);
        }
        ended(
            packet,
            match why {
                QueueDrop::Full => DropReason::QueueFull,
                QueueDrop::Deadline => DropReason::QueueDeadline,
                QueueDrop::Aqm => DropReason::QueueAqm,
            },
        );
    }

    /// Takes the packet at the head of a line out; an empty queue leaves the line.
    #[inline]
    fn leave(&mut self, class: usize) -> Option<B> {
        let at = self.lines[class].head as usize;
        let queue = self.queues.get_mut(at)?;
        let head = queue.head;
        let place = self.places.get(head)?;
        let (octets, next) = (place.octets, place.next);
        let packet = self.places.take(head)?;
        queue.head = next;
        if let Some(counters) = self.counters.at(at) {
            counters.packets.set(counters.packets.value().wrapping_sub(1));
            counters.octets.set(counters.octets.value().wrapping_sub(u64::from(octets)));
        }
        if next == NIL {
            queue.tail = NIL;
            if let Some(account) = self.accounts.get_mut(at / CLASSES) {
                account.backlog &= !(1 << class);
                account.lined_up &= !(1 << class);
            }
            self.step_out(class);
        } else {
            self.places.prefetch(next);
        }
        Some(packet)
    }

    /// Gives up what it holds.
    pub fn release(&mut self, ended: &mut impl FnMut(B)) {
        for at in 0..self.queues.len() {
            let counters = self.counters.at(at);
            let mut head = std::mem::replace(&mut self.queues[at].head, NIL);
            self.queues[at].tail = NIL;
            while let Some(place) = self.places.get(head) {
                let next = place.next;
                if let Some(packet) = self.places.take(head) {
                    ended(packet);
                }
                head = next;
            }
            if let Some(counters) = counters {
                counters.packets.set(0);
                counters.octets.set(0);
            }
        }
        for account in &mut self.accounts {
            (account.backlog, account.lined_up) = (0, 0);
        }
        for line in &mut self.lines {
            (line.head, line.tail) = (NIL, NIL);
        }
    }
}

/// What this generation says about a service that is touched for the first time since.
#[cold]
fn configure(
    (account, counters): (&mut Account, &QueueCounters),
    slot: usize,
    shaping: Option<&Shaping>,
    port: Option<&PortShaping>,
    generation: u64,
) {
    if let (Some((shaping, profile)), Some(port)) = (shaping.and_then(|s| Some((s, s.profile(slot as u16)?))), port) {
        if account.incarnation != profile.incarnation {
            counters.begin(slot, profile.incarnation);
        }
        account.configure(profile, shaping.quantum(profile, port.longest), generation);
    } else {
        // The port is not shaped any more: what is left goes.
        account.bucket = Bucket::default();
        (account.generation, account.target, account.deadline) = (generation, 0, 0);
    }
}
