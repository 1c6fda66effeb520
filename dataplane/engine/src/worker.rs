//! The worker loop of one core: poll every port, run the pipeline, transmit. It owns its ports' queues, its sessions and its buckets
//! and shares nothing that is written per packet.

use arrayvec::ArrayVec;
use marchproxy_rcu::Reader;
use rtrb::{Consumer, Producer};

use crate::burst::{BURST, Burst};
use crate::flow::FlowKey;
use crate::io::RxQueue;
use crate::ledger::{Backend, Errand, HandedOff, Ledger};
use crate::observe::Lens;
use crate::pipeline::Pipeline;
use crate::ports::PortSlot;
use crate::qos::Scheduler;
use crate::reason::DropReason;
use crate::snapshot::Snapshot;
use crate::stage::fragment::Arrival;
use crate::stats::{MAX_PORTS, ThreadStats};
use crate::table::fragments::{Fragments, Known};
use crate::table::sessions::{Decision, Flows, Origin, Session, Sessions, Source};

/// Packets taken from the inject ring in one turn.
const INJECTS_PER_TURN: usize = 64;

/// Session entries looked at per turn for a [`Command::Sessions`]: about 10 us of a turn at worst.
const SESSION_SCAN: usize = 256;

/// What a worker is asked to do between bursts.
pub enum Command<K: Backend> {
    /// Poll this port from now on.
    AddPort {
        /// Its slot.
        port: PortSlot,
        /// Its receive queue.
        rx: K::Rx,
        /// Its transmit queue.
        tx: K::Tx,
    },
    /// Stop using this port and give its queues back.
    RemovePort(PortSlot),
    /// Fill a page of the session list.
    Sessions(Box<SessionPage>),
    /// Look at packets through this lens, or no more; the one before comes back.
    Observe(Option<Box<Lens>>),
    /// Own the queues of this port, or no more; those before come back.
    Queues(PortSlot, Option<Box<Scheduler<K::Buf>>>),
    /// Tell of sessions by this, or no more; the one before comes back.
    Flows(Option<Box<Flows>>),
}

/// A worker's answer.
pub enum Reply<K: Backend> {
    /// The queues of a removed port; `None` when it had none.
    Port(PortSlot, Option<(K::Rx, K::Tx)>),
    /// A filled page.
    Sessions(Box<SessionPage>),
    /// The lens that was used until now, and what it saw.
    Observed(Option<Box<Lens>>),
    /// The queues that a port had until now, empty.
    Queues(Option<Box<Scheduler<K::Buf>>>),
    /// What was used to tell of sessions until now.
    Flows(Option<Box<Flows>>),
}

/// A page of the session list; the asker provides the memory.
pub struct SessionPage {
    /// Only the session of this tuple (either direction).
    pub only: Option<FlowKey>,
    /// Where to go on; the number of entries when done.
    pub cursor: usize,
    /// Whether the end was reached.
    pub done: bool,
    /// Live sessions; filled up to its capacity.
    pub sessions: Vec<Listed>,
    /// Time of the answer in the worker's nanoseconds.
    pub now: u64,
}

/// A session of the list.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// Itself.
    pub session: Session,
    /// What was decided about it when it last had a packet.
    pub decision: Decision,
    /// How it began.
    pub origin: Origin,
    /// What the backend sees in place of the client (full NAT).
    pub source: Option<Source>,
}

impl SessionPage {
    /// An empty page for up to `room` sessions.
    pub fn new(room: usize, only: Option<FlowKey>) -> Box<Self> {
        Box::new(Self { only, cursor: 0, done: false, sessions: Vec::with_capacity(room), now: 0 })
    }
}

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Packets received, injected, or let go by a queue.
    pub packets: usize,
    /// Whether packets wait in queues for their time.
    pub waiting: bool,
}

/// One worker.
pub struct Worker<K: Backend> {
    reader: Reader<Snapshot>,
    pipeline: Pipeline,
    ledger: Ledger<K>,
    ports: Vec<(PortSlot, K::Rx)>,
    burst: Burst<K::Buf>,
    /// Packets that come in fragments.
    fragments: Fragments<K::Buf>,
    commands: Consumer<Command<K>>,
    replies: Producer<Reply<K>>,
    page: Option<Box<SessionPage>>,
    /// What the other workers hand over.
    inbox: Vec<Consumer<HandedOff<K::Buf>>>,
    /// Packets asked for at once, of a queue or of another worker's ring: 1 to [`BURST`].
    room: usize,
}

impl<K: Backend> Worker<K> {
    /// A worker without ports.
    pub fn new(
        reader: Reader<Snapshot>,
        pipeline: Pipeline,
        ledger: Ledger<K>,
        commands: Consumer<Command<K>>,
        replies: Producer<Reply<K>>,
    ) -> Self {
        // The hash of any tuple under the sessions' secret is as secret.
        let secret = pipeline.sessions.hash(&FlowKey::default());
        Self {
            fragments: Fragments::new(secret),
            reader,
            pipeline,
            ledger,
            ports: Vec::with_capacity(MAX_PORTS),
            burst: Burst::default(),
            commands,
            replies,
            page: None,
            inbox: Vec::new(),
            room: BURST,
        }
    }

    /// Connects it to the rings in which other workers hand packets over.
    #[must_use]
    pub fn with_inbox(mut self, inbox: Vec<Consumer<HandedOff<K::Buf>>>) -> Self {
        self.inbox = inbox;
        self
    }

    /// Asks for at most this many packets at once; less than 1 counts as 1, more than [`BURST`] as that. The stages are laid out for
    /// full bursts: smaller ones are for measuring what a burst is worth.
    #[must_use]
    pub fn with_burst(mut self, packets: usize) -> Self {
        self.room = packets.clamp(1, BURST);
        self
    }

    /// One turn at `now` nanoseconds: newest generation, commands, injected packets, for every port a burst from each worker that hands
    /// packets over, one burst from every port.
    pub fn turn(&mut self, now: u64) -> Turn {
        self.reader.refresh();
        if !self.commands.is_empty() || self.page.is_some() {
            self.between_bursts(now);
        }
        self.ledger.begin_turn(now, self.reader.current().shaping.shaped());
        if let Some(lens) = self.ledger.lens_mut() {
            lens.tick(now);
        }
        let mut packets = self.ledger.take_injected(INJECTS_PER_TURN);
        for index in 0..self.inbox.len() {
            // As many bursts from each worker as it hands over in a turn, one of each port: with fewer a busy worker's rings would only grow.
            for _ in 0..self.ports.len().max(1) {
                let taken = self.take_handed_off(index, now);
                packets += taken;
                if taken == 0 {
                    break;
                }
            }
        }
        for index in 0..self.ports.len() {
            packets += self.poll(index, now);
        }
        packets += self.ledger.serve(self.reader.current(), self.reader.generation());
        self.pipeline.upkeep(self.reader.current(), now);
        if self.fragments.is_stirred() {
            self.forget_fragments(now);
        }
        let waiting = self.ledger.waiting();
        self.ledger.end_turn(self.fragments.held() + waiting);
        Turn { packets, waiting: waiting > 0 }
    }

    /// The generation it runs.
    pub fn generation(&self) -> u64 {
        self.reader.generation()
    }

    /// The pipeline's state, for tests and harness.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The counters it writes.
    pub fn stats(&self) -> &ThreadStats {
        self.ledger.stats()
    }

    /// Gives up what it holds; afterwards nothing is in flight here. Returns the queues of all ports.
    pub fn release(&mut self) -> Vec<(PortSlot, K::Rx, Option<K::Tx>)> {
        for ring in &mut self.inbox {
            while let Ok(handed) = ring.pop() {
                self.ledger.taken(1);
                self.ledger.drop(handed.packet, DropReason::Shutdown);
            }
        }
        self.pipeline.sessions.tell_all();
        self.pipeline.show_flows();
        self.fragments.release(&mut |packet, reason| self.ledger.drop(packet, reason));
        self.ledger.release();
        let queues = self.ports.drain(..).map(|(port, rx)| (port, rx, self.ledger.detach(port))).collect();
        self.ledger.end_turn(0);
        queues
    }

    fn poll(&mut self, index: usize, now: u64) -> usize {
        let Some((port, rx)) = self.ports.get_mut(index) else { return 0 };
        let port = *port;
        let received = rx.rx_burst(self.burst.receive(), self.room);
        if received == 0 {
            return 0;
        }
        self.ledger.received(port, self.burst.receive());
        self.process(port, now, Arrival::Device);
        received
    }

    /// One burst of packets that another worker received on one port.
    fn take_handed_off(&mut self, index: usize, now: u64) -> usize {
        let Some(ring) = self.inbox.get_mut(index) else { return 0 };
        let Ok(&HandedOff { port, errand, .. }) = ring.peek() else { return 0 };
        if let Errand::Queue(_) = errand {
            return self.take_queued(index, port);
        }
        let received = self.burst.receive();
        let mut known = ArrayVec::<Known, BURST>::new();
        while received.len() < self.room
            && ring.peek().is_ok_and(|next| next.port == port && next.errand.is_like(errand))
        {
            let Ok(handed) = ring.pop() else { break };
            received.push(handed.packet);
            if let Errand::Resolved(said) = handed.errand {
                known.push(said);
            }
        }
        let taken = received.len();
        self.ledger.taken(taken);
        let arrival = match errand {
            Errand::Session => Arrival::Session,
            Errand::Reassembly => Arrival::Reassembly,
            Errand::Resolved(_) => Arrival::Resolved(&known),
            // Taken above.
            Errand::Queue(_) => return taken,
        };
        self.process(port, now, arrival);
        taken
    }

    /// Finished packets for the queues of a port.
    #[cold]
    fn take_queued(&mut self, index: usize, port: PortSlot) -> usize {
        let Some(ring) = self.inbox.get_mut(index) else { return 0 };
        let mut taken = 0;
        while taken < self.room
            && let Ok(&HandedOff { port: next, errand: Errand::Queue(tag), .. }) = ring.peek()
            && next == port
            && let Ok(handed) = ring.pop()
        {
            self.ledger.taken(1);
            self.ledger.queue(handed.packet, port, tag);
            taken += 1;
        }
        taken
    }

    /// The burst that was received, and then what had waited for its fragments.
    #[inline]
    fn process(&mut self, port: PortSlot, now: u64, arrival: Arrival<'_>) {
        let rest = self.burst.begin(port);
        self.run(now, arrival);
        // A queue that gave more than it was asked for: the rest must not be lost.
        for packet in rest.into_iter().flatten() {
            self.ledger.drop(packet, DropReason::PortNotConfigured);
        }
        if self.fragments.is_ready() {
            self.run_released(now);
        }
    }

    #[inline]
    fn run(&mut self, now: u64, arrival: Arrival<'_>) {
        let (snapshot, generation) = (self.reader.current(), self.reader.generation());
        let (burst, fragments) = (&mut self.burst, &mut self.fragments);
        self.pipeline.process(burst, snapshot, generation, now, arrival, fragments, &mut self.ledger);
    }

    /// Packets in fragments whose time is up, and the counters of those there are.
    #[cold]
    fn forget_fragments(&mut self, now: u64) {
        self.fragments.expire(now, &mut |packet, reason| self.ledger.drop(packet, reason));
        self.fragments.settle_down();
        let stats = self.ledger.stats();
        stats.fragmented.set(self.fragments.len() as u64);
        stats.fragments_held.set(self.fragments.held() as u64);
    }

    /// Later fragments whose first one came, in order, burst by burst. They release no others, so this ends.
    #[cold]
    fn run_released(&mut self, now: u64) {
        let mut known = ArrayVec::<Known, BURST>::new();
        while let Some(port) = self.fragments.next_port() {
            let packets = self.burst.receive();
            while known.len() < BURST && self.fragments.next_port() == Some(port) {
                let Some(released) = self.fragments.take() else { break };
                packets.push(released.packet);
                known.push(released.known);
            }
            self.ledger.stats().fragments_released.add(known.len() as u64);
            // Never more than BURST of them, so there is no rest.
            let _ = self.burst.begin(port);
            self.run(now, Arrival::Released(&known));
            known.clear();
        }
    }

    #[cold]
    fn between_bursts(&mut self, now: u64) {
        if let Some(page) = self.page.take() {
            self.fill_page(page, now);
        }
        // One command a turn, and only while its answer has room.
        if self.replies.slots() == 0 || self.page.is_some() {
            return;
        }
        match self.commands.pop() {
            Ok(Command::AddPort { port, rx, tx }) => {
                self.ledger.attach(port, tx);
                self.ports.push((port, rx));
            }
            Ok(Command::RemovePort(port)) => {
                let rx = self.ports.iter().position(|(p, _)| *p == port).map(|at| self.ports.remove(at).1);
                let queues = rx.zip(self.ledger.detach(port));
                // Room was checked above.
                let _ = self.replies.push(Reply::Port(port, queues));
            }
            Ok(Command::Sessions(page)) => self.fill_page(page, now),
            Ok(Command::Observe(mut lens)) => {
                if let Some(lens) = &mut lens {
                    lens.begin_visit(now);
                }
                let mut before = self.ledger.exchange_lens(lens);
                if let Some(before) = &mut before {
                    before.tick(now);
                }
                let _ = self.replies.push(Reply::Observed(before));
            }
            Ok(Command::Queues(port, queues)) => {
                let before = self.ledger.exchange_queues(port, queues);
                let _ = self.replies.push(Reply::Queues(before));
            }
            Ok(Command::Flows(flows)) => {
                let before = self.pipeline.sessions.exchange_flows(flows);
                self.pipeline.show_flows();
                let _ = self.replies.push(Reply::Flows(before));
            }
            Err(_) => {}
        }
    }

    fn fill_page(&mut self, mut page: Box<SessionPage>, now: u64) {
        let sessions = &self.pipeline.sessions;
        let mut done = false;
        if let Some(key) = page.only {
            let hit = sessions.find(&key, sessions.hash(&key), now);
            if page.sessions.capacity() > 0 {
                page.sessions.extend(listed(sessions, hit.entry(), now));
            }
            done = true;
        } else {
            for _ in 0..SESSION_SCAN {
                if page.cursor >= sessions.capacity() || page.sessions.len() == page.sessions.capacity() {
                    done = true;
                    break;
                }
                page.sessions.extend(listed(sessions, page.cursor, now));
                page.cursor += 1;
            }
        }
        page.done = page.only.is_some() || page.cursor >= sessions.capacity();
        page.now = now;
        if done || page.done {
            let _ = self.replies.push(Reply::Sessions(page));
        } else {
            self.page = Some(page);
        }
    }
}

/// The live session of an entry, if there is one.
pub(crate) fn listed(sessions: &Sessions, entry: usize, now: u64) -> Option<Listed> {
    let session = *sessions.at(entry).filter(|s| !s.expired(now))?;
    Some(Listed {
        session,
        decision: *sessions.decision(entry)?,
        origin: *sessions.origin(entry)?,
        source: sessions.source(entry),
    })
}
