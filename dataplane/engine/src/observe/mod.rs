//! observe: looks at live packets for `trace` and `capture`.
//!
//! A [`Lens`] is memory that the asker provides and a worker borrows: packets that its filter wants are recorded in it, and the asker exchanges it
//! for an empty one some dozen times a second. Without a lens the pipeline looks at one word a burst. With one, every packet's headers are
//! read once more and compared; nothing is allocated, and what finds no room is counted as missed. A lens blinds itself when its time is up,
//! whatever became of the asker.

pub mod filter;
pub mod language;
pub mod render;
mod seen;

use std::ops::Range;

use crate::burst::{BURST, Burst, Columns, Egress, Fate, Lane, Mask, NO_MARK, NONE, Rewrite, Verdict};
use crate::flow::FlowKey;
use crate::io::PacketBuf;
use crate::ports::PortSlot;
use crate::reason::{ConsumeReason, DropReason, PuntReason};
use crate::snapshot::Snapshot;
use crate::stage::parse::Head;
use crate::table::sessions::{Hit, Sessions};
use crate::worker::{Listed, listed};

use filter::{Alive, Filter};
pub use seen::{Kind, Seen};

/// Where packets are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Every stage's decision, once the last one is made; no octets.
    Trace,
    /// As received.
    Rx,
    /// Rewritten by a service, about to leave or to wait for the next hop's MAC address.
    PostNat,
    /// About to leave, those of the slow path included.
    Tx,
    /// Dropped, as they were then.
    Drop,
}

impl Point {
    /// The points of a capture.
    pub const CAPTURE: [Self; 4] = [Self::Rx, Self::PostNat, Self::Tx, Self::Drop];

    /// The name shown to people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Rx => "rx",
            Self::PostNat => "post-nat",
            Self::Tx => "tx",
            Self::Drop => "drop",
        }
    }
}

/// What became of a packet where it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Leaves on a port.
    Sent,
    /// Ended.
    Dropped(DropReason),
    /// Went to the slow path.
    Punted(PuntReason),
    /// Went to another worker.
    HandedOff(u8),
    /// Was meant for this node.
    Consumed(ConsumeReason),
}

impl End {
    /// As people ask for it; nobody asks for what only the slow path knows.
    pub const fn fate(self) -> Option<filter::Fate> {
        match self {
            Self::Sent => Some(filter::Fate::Sent),
            Self::Dropped(_) => Some(filter::Fate::Dropped),
            Self::Punted(_) => Some(filter::Fate::Punted),
            Self::HandedOff(_) => Some(filter::Fate::HandedOff),
            Self::Consumed(_) => None,
        }
    }

    /// The name shown to people.
    pub fn label(self) -> &'static str {
        self.fate().map_or("consumed", filter::Fate::label)
    }

    /// The reason's name and what it means.
    pub const fn reason(self) -> (&'static str, &'static str) {
        match self {
            Self::Dropped(reason) => (reason.label(), reason.describe()),
            Self::Punted(reason) => (reason.label(), reason.describe()),
            Self::Consumed(reason) => (reason.label(), reason.describe()),
            Self::Sent | Self::HandedOff(_) => ("", ""),
        }
    }
}

impl From<Fate> for End {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Transmit | Fate::Queue => Self::Sent,
            Fate::Drop(reason) => Self::Dropped(reason),
            Fate::Punt(reason) => Self::Punted(reason),
            Fate::HandOff(worker) | Fate::Reassemble(worker) => Self::HandedOff(worker),
            // As `Burst::drain` does with it.
            Fate::Active => Self::Dropped(DropReason::PortNotConfigured),
        }
    }
}

/// One packet that was looked at.
#[derive(Clone, Debug)]
pub struct Record {
    /// Nanoseconds of the turn it came in.
    pub now: u64,
    /// What the frame showed when it was first looked at.
    pub seen: Seen,
    /// Octets of the frame, as it was received in traces and captures of reception, as it was then in others.
    pub length: u32,
    /// Where its copy stands in [`Lens::octets`]; empty for traces.
    pub copy: Range<usize>,
    /// What became of it.
    pub end: End,
    /// Port and VLAN it leaves by.
    pub out: Option<(PortSlot, u16)>,
    /// What the stages decided; `None` where none of them had it (slow path, full queues).
    pub stages: Option<Stages>,
}

/// The columns of a packet. What no stage reached is as [`Columns`] are at the start.
#[derive(Clone, Debug)]
pub struct Stages {
    /// The generation that judged it.
    pub generation: u64,
    /// Another worker had received it.
    pub handed: bool,
    /// What the headers say.
    pub head: Head,
    /// The tuple as received.
    pub key: FlowKey,
    /// Whether its tuple had a session when it came.
    pub hit: bool,
    /// Its session as the burst left it, and whether the packet is a reply in it.
    pub session: Option<(Listed, bool)>,
    /// First matching rule, or [`NONE`].
    pub rule: u32,
    /// The way that the rule set, or [`NONE`].
    pub way: u32,
    /// Counter of the service at its destination, or [`NONE`].
    pub service: u32,
    /// Policer, mark, colour, rewriting.
    pub verdict: Verdict,
    /// Class, where somebody asks for it.
    pub class: Option<u8>,
    /// Address and port that the rewriting puts in.
    pub target: (u128, u16),
    /// Address and port that it puts in at the source, where it changes both ends.
    pub source: (u128, u16),
    /// Next hop; its interface is [`NONE`] before a route is found.
    pub egress: Egress,
}

/// A packet on its way through the stages.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    alive: Alive,
    seen: Seen,
    length: u32,
    copied: (usize, usize),
    lost: bool,
}

/// What the stages worked with.
pub(crate) struct Context<'a> {
    pub snapshot: &'a Snapshot,
    pub generation: u64,
    pub sessions: &'a Sessions,
    pub handed: bool,
}

/// What a lens looks for.
#[derive(Clone, Debug)]
pub struct Order {
    /// Which packets.
    pub filter: Filter,
    /// Where.
    pub point: Point,
    /// Octets copied of each at most.
    pub snaplen: usize,
    /// Packets wanted; when they are there, no further one is looked at.
    pub wanted: usize,
    /// Nanoseconds until it blinds itself.
    pub span: u64,
}

/// Memory for what a worker or the slow path sees.
#[derive(Debug)]
pub struct Lens {
    order: Order,
    /// Time of the thread that has it.
    pub now: u64,
    until: u64,
    /// What was seen, up to its capacity.
    pub records: Vec<Record>,
    /// Copies of frames, up to its capacity.
    pub octets: Vec<u8>,
    /// Packets that were wanted and found no room.
    pub missed: u64,
    waiting: Box<[Waiting; BURST]>,
    looking: Mask,
    /// End of the copies that are kept.
    kept: usize,
}

impl Lens {
    /// With room for so many packets and so many octets of copies.
    pub fn new(order: Order, records: usize, octets: usize) -> Box<Self> {
        Box::new(Self {
            order,
            now: 0,
            until: 0,
            records: Vec::with_capacity(records),
            octets: Vec::with_capacity(octets),
            missed: 0,
            waiting: Box::new([Waiting::default(); BURST]),
            looking: Mask::default(),
            kept: 0,
        })
    }

    /// Makes it as new for another visit.
    pub fn renew(&mut self, wanted: usize, span: u64) {
        (self.order.wanted, self.order.span) = (wanted, span);
        self.records.clear();
        self.octets.clear();
        (self.missed, self.kept, self.looking) = (0, 0, Mask::default());
    }

    /// The octets that were copied of a packet.
    pub fn copy(&self, record: &Record) -> &[u8] {
        self.octets.get(record.copy.clone()).unwrap_or(&[])
    }

    /// The thread that will use it begins now.
    pub(crate) fn begin_visit(&mut self, now: u64) {
        (self.now, self.until) = (now, now.saturating_add(self.order.span));
    }

    /// A turn begins.
    pub(crate) fn tick(&mut self, now: u64) {
        self.now = now;
    }

    fn blind(&self) -> bool {
        self.now >= self.until || self.records.len() >= self.order.wanted
    }

    /// A burst begins, no stage has touched it: takes note of the packets that the filter may want, and puts the columns back to the start, so that at
    /// the end they say how far each packet came.
    #[cold]
    pub(crate) fn begin<B: PacketBuf>(&mut self, burst: &mut Burst<B>) {
        self.looking = Mask::default();
        if self.blind() {
            return;
        }
        for lane in Mask::first(burst.len()).lanes() {
            let Some(packet) = burst.packet(lane) else { continue };
            let frame = packet.data();
            let seen = Seen::of(frame, Some(burst.port));
            let alive = self.order.filter.begin(&seen);
            if alive == 0 {
                continue;
            }
            let mut waiting = Waiting { alive, seen, length: frame.len() as u32, ..Waiting::default() };
            if self.order.point == Point::Rx {
                let cut = frame.get(..self.order.snaplen).unwrap_or(frame);
                waiting.lost = !room(&self.octets, cut.len());
                if !waiting.lost {
                    waiting.copied = (self.octets.len(), cut.len());
                    self.octets.extend_from_slice(cut);
                }
            }
            self.waiting[lane.index()] = waiting;
            self.looking.insert(lane);
            forget(&mut burst.columns, lane);
        }
    }

    /// A lane's packet was taken out of the burst, and those behind it moved up.
    #[cold]
    pub(crate) fn close(&mut self, lane: Lane) {
        self.waiting.copy_within(lane.index() + 1.., lane.index());
        self.looking.close(lane);
    }

    /// The stages are done and every packet has its fate; nothing has left yet.
    #[cold]
    pub(crate) fn end<B: PacketBuf>(&mut self, burst: &Burst<B>, context: &Context<'_>) {
        for lane in std::mem::take(&mut self.looking).lanes() {
            let waiting = self.waiting[lane.index()];
            let columns = &*burst.columns;
            let end = End::from(columns.fate[lane.index()]);
            let out = leaves(columns, lane, context.snapshot);
            if !self.is_at(end, columns.verdict[lane.index()], context.handed)
                || !self.order.filter.end(waiting.alive, end, out)
            {
                continue;
            }
            let frame = burst.packet(lane).map_or(&[][..], PacketBuf::data);
            let Some(copy) = self.copy_of(&waiting, frame) else {
                self.missed += u64::from(!self.blind());
                continue;
            };
            let stages = Some(stages(columns, lane, context, self.now));
            let received = matches!(self.order.point, Point::Trace | Point::Rx);
            let (seen, length) = (waiting.seen, if received { waiting.length } else { frame.len() as u32 });
            self.records.push(Record { now: self.now, seen, length, copy, end, out, stages });
        }
        self.octets.truncate(self.kept);
    }

    /// A packet that no stage's column tells of: of the slow path, or for which a queue had no room.
    #[cold]
    pub(crate) fn aside(&mut self, frame: &[u8], from: Option<PortSlot>, end: End, out: Option<PortSlot>) {
        let wanted = match self.order.point {
            // Of the slow path only: a worker's trace is written when the stages are done.
            Point::Trace => from.is_some(),
            Point::Tx => end == End::Sent,
            Point::Drop => matches!(end, End::Dropped(_)),
            Point::Rx | Point::PostNat => false,
        };
        if !wanted || self.blind() {
            return;
        }
        let seen = Seen::of(frame, from);
        let alive = self.order.filter.begin(&seen);
        let out = out.map(|port| (port, seen.vlan));
        if alive == 0 || !self.order.filter.end(alive, end, out) {
            return;
        }
        let waiting = Waiting { alive, seen, length: frame.len() as u32, ..Waiting::default() };
        let Some(copy) = self.copy_of(&waiting, frame) else {
            self.missed += 1;
            return;
        };
        let (now, length) = (self.now, waiting.length);
        self.records.push(Record { now, seen, length, copy, end, out, stages: None });
    }

    fn is_at(&self, end: End, verdict: Verdict, handed: bool) -> bool {
        let leaves = matches!(end, End::Sent | End::Punted(PuntReason::Neighbour));
        match self.order.point {
            // Whoever gets it tells the rest.
            Point::Trace => !matches!(end, End::HandedOff(_)),
            Point::Rx => !handed,
            Point::PostNat => leaves && verdict.rewrite != Rewrite::None,
            Point::Tx => end == End::Sent,
            Point::Drop => matches!(end, End::Dropped(_)),
        }
    }

    /// Where the copy stands; `None` when there is no room for it or its record.
    fn copy_of(&mut self, waiting: &Waiting, frame: &[u8]) -> Option<Range<usize>> {
        if waiting.lost || self.blind() || self.records.len() == self.records.capacity() {
            return None;
        }
        let from = self.kept;
        match self.order.point {
            Point::Trace => {}
            Point::Rx => {
                // Copies that nobody wanted in the end lie in between: those behind them move down.
                let (start, len) = waiting.copied;
                self.octets.copy_within(start..start + len, from);
                self.kept += len;
            }
            Point::PostNat | Point::Tx | Point::Drop => {
                let cut = frame.get(..self.order.snaplen).unwrap_or(frame);
                if !room(&self.octets, cut.len()) {
                    return None;
                }
                self.octets.extend_from_slice(cut);
                self.kept += cut.len();
            }
        }
        Some(from..self.kept)
    }
}

fn room(octets: &Vec<u8>, more: usize) -> bool {
    octets.capacity() - octets.len() >= more
}

/// The columns as if no stage had ever written them: what is left of another burst must not look like a decision.
fn forget(columns: &mut Columns, lane: Lane) {
    let lane = lane.index();
    columns.head[lane] = Head::default();
    columns.key[lane] = FlowKey::default();
    columns.hit[lane] = Hit::MISS;
    columns.rule[lane] = NONE;
    columns.way[lane] = NONE;
    columns.verdict[lane] = Verdict { mark: NO_MARK, ..Verdict::default() };
    columns.egress[lane] = Egress { interface: NONE, ..Egress::default() };
    columns.fate[lane] = Fate::Active;
}

fn leaves(columns: &Columns, lane: Lane, snapshot: &Snapshot) -> Option<(PortSlot, u16)> {
    let out = snapshot.interface(columns.egress[lane.index()].interface)?;
    Some((out.port, out.vlan))
}

fn stages(columns: &Columns, lane: Lane, context: &Context<'_>, now: u64) -> Stages {
    let Context { snapshot, sessions, .. } = *context;
    let lane = lane.index();
    let (head, key, verdict) = (columns.head[lane], columns.key[lane], columns.verdict[lane]);
    // What the headers say counts once parse was through with them.
    let session = (head.has_session() && key != FlowKey::default())
        .then(|| sessions.find(&key, sessions.hash(&key), now))
        .and_then(|hit| listed(sessions, hit.entry(), now).filter(|_| hit.is_some()))
        .map(|listed| (listed, listed.session.forward_key() != key));
    let service = snapshot.services.lookup(key.dst, key.protocol, key.dport);
    Stages {
        generation: context.generation,
        handed: context.handed,
        head,
        key,
        hit: columns.hit[lane].is_some(),
        session,
        rule: columns.rule[lane],
        way: columns.way[lane],
        service: service.map_or(NONE, |service| service.counter),
        verdict,
        class: (snapshot.classes && columns.fate[lane] == Fate::Transmit).then_some(columns.class[lane]),
        target: (columns.target[lane], columns.port[lane]),
        source: (columns.source[lane], columns.source_port[lane]),
        egress: columns.egress[lane],
    }
}
