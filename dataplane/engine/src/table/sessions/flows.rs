//! What is told about sessions to flow collectors (`BEHAVIOUR.md`, Flows): packets and octets of each direction, where a session began and how it ended.
//!
//! All of it is memory that whoever asks for flows gives the worker and takes back: a table without it does nothing here. What is due goes into a ring
//! that somebody else reads. When the ring is full the record is lost, and that is counted: a worker never waits.

use bytemuck::{Pod, Zeroable};
use marchproxy_cpu::{MemoryError, MemoryOptions, Slab, prefetch_slice};
use rtrb::Producer;

use super::entry::{Direction, SECOND, Session, State};
use super::{Hit, Sessions};
use crate::flow::{Addr, FlowKey};
use crate::reason::SessionEnd;
use crate::tables::{FlowsSpec, ServiceMode};

/// Sessions looked at per turn for the active timeout: a line each, one after the other.
const STEP: usize = 16;

const NANOS_PER_MILLI: u64 = 1_000_000;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSettings {
    /// Of so many sessions one is told of.
    pub one_of: u32,
    /// Nanoseconds after which a session that goes on is told of again.
    pub active_timeout: u64,
    /// Whether beginnings are told of, too (RFC 8158).
    pub nat_events: bool,
}

impl From<&FlowsSpec> for FlowSettings {
    fn from(spec: &FlowsSpec) -> Self {
        Self {
            one_of: spec.one_of.max(1),
            active_timeout: u64::from(spec.active_timeout_s.max(1)) * SECOND,
            nat_events: spec.nat_events,
        }
    }
}

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowEvent {
    /// A session with NAT began.
    Began,
    /// It goes on: its packets since the last time.
    Active,
    /// It ended: its packets since the last time, if there were any.
    Ended(FlowEnd),
}

/// How a flow ended (flowEndReason of RFC 7012).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowEnd {
    /// No packet for its timeout.
    Idle,
    /// Both sides closed it, or one reset it.
    Closed,
    /// A push, or the end of the node.
    Forced,
    /// Its place was needed.
    Evicted,
}

/// A record of a session, complete in itself. Times are the worker's nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// What happened.
    pub event: FlowEvent,
    /// The client's tuple towards the service; of an echo session the source port is the identifier.
    pub key: FlowKey,
    /// Where the client's packets go.
    pub backend: (Addr, u16),
    /// What the backend sees in place of the client (full NAT).
    pub source: Option<(Addr, u16)>,
    /// How packets get there.
    pub mode: ServiceMode,
    /// Packets of client and backend.
    pub packets: [u64; 2],
    /// Octets of their IP packets, as received.
    pub octets: [u64; 2],
    /// The first of these packets, by direction; without any, the session's last packet (its beginning where it began).
    pub first: [u64; 2],
    /// The last of these packets, by direction, in whole milliseconds behind the first.
    pub last: [u64; 2],
}

/// What is counted of a session.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, align(64))]
struct Count {
    packets: [u64; 2],
    octets: [u64; 2],
    /// Time of the first of these packets.
    first: [u64; 2],
    /// Milliseconds from there to the last one: an active timeout is an hour at most, so that they never come to 49 days.
    lasted: [u32; 2],
    /// When it was told of last, or began; 0: nobody wants to know.
    told: u64,
}

const _: () = assert!(size_of::<Count>() == 64);

/// Totals of a worker, for its statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTotals {
    /// Sessions that are told of.
    pub selected: u64,
    /// Sessions of services that are told of which were not one of N.
    pub passed_over: u64,
    /// Records.
    pub records: u64,
    /// Records for which the ring had no room.
    pub lost: u64,
}

/// A worker's part of a flow export: memory and the way out.
pub struct Flows {
    counts: Slab<Count>,
    out: Producer<FlowRecord>,
    settings: FlowSettings,
    /// Sessions since the last selected one.
    since: u32,
    /// The entry whose active timeout is looked at next.
    cursor: usize,
}

impl Flows {
    /// For a table of so many entries; records go into this ring.
    pub fn new(sessions: usize, settings: FlowSettings, out: Producer<FlowRecord>) -> Box<Self> {
        Self::with(Slab::heap(sessions), settings, out)
    }

    /// The same in memory all of which is there from the start, so that the worker never waits for a page.
    pub fn memfd(
        name: &str,
        sessions: usize,
        options: MemoryOptions,
        settings: FlowSettings,
        out: Producer<FlowRecord>,
    ) -> Result<Box<Self>, MemoryError> {
        Ok(Self::with(Slab::memfd(name, sessions, options)?, settings, out))
    }

    fn with(counts: Slab<Count>, settings: FlowSettings, out: Producer<FlowRecord>) -> Box<Self> {
        Box::new(Self { counts, out, settings, since: 0, cursor: 0 })
    }

    /// Octets of it for each session.
    pub const BYTES_PER_SESSION: usize = size_of::<Count>();
}

impl Sessions {
    /// Tells of sessions by this from now on, or no more; the one before comes back. Sessions there are already stay untold.
    pub fn exchange_flows(&mut self, flows: Option<Box<Flows>>) -> Option<Box<Flows>> {
        std::mem::replace(&mut self.flows, flows)
    }

    /// Whether anything is told.
    #[inline]
    pub fn tells_flows(&self) -> bool {
        self.flows.is_some()
    }

    /// What was told since the start.
    pub fn flow_totals(&self) -> FlowTotals {
        self.flow_totals
    }

    /// A session of a service that is told of began with a packet of so many octets.
    #[cold]
    #[inline(never)]
    pub(super) fn flow_began(&mut self, entry: usize, length: u16, now: u64) {
        let Some(flows) = &mut self.flows else { return };
        let settings = flows.settings;
        let selected = flows.since == 0;
        flows.since = if flows.since + 1 >= settings.one_of { 0 } else { flows.since + 1 };
        if !selected {
            self.flow_totals.passed_over += 1;
            return;
        }
        self.flow_totals.selected += 1;
        let Some(count) = flows.counts.get_mut(entry) else { return };
        *count = Count { told: now.max(1), ..Count::default() };
        count.add(Direction::Forward, usize::from(length), now);
        if settings.nat_events {
            self.tell(entry, FlowEvent::Began);
        }
    }

    /// Begins to load what is counted of a session.
    #[inline]
    pub fn prefetch_flow(&self, hit: Hit) {
        if let Some(flows) = &self.flows {
            prefetch_slice(&flows.counts, hit.entry());
        }
    }

    /// A packet with this tuple passed by a session. It is not counted where a later packet of its burst took the session's place.
    #[inline]
    pub fn flow_passed(&mut self, hit: Hit, key: &FlowKey, length: usize, now: u64) {
        if self.holds(hit, key)
            && let Some(count) = self.flows.as_mut().and_then(|flows| flows.counts.get_mut(hit.entry()))
            && count.told != 0
        {
            count.add(hit.direction(), length, now);
        }
    }

    /// The next few sessions: those that were not told of for long are told of. A generation that asks for nothing leaves what was asked for.
    #[cold]
    #[inline(never)]
    pub fn tell_active(&mut self, settings: Option<FlowSettings>, now: u64) {
        if let (Some(flows), Some(settings)) = (&mut self.flows, settings) {
            flows.settings = settings;
        }
        for _ in 0..STEP {
            let Some(flows) = &mut self.flows else { return };
            let entry = flows.cursor;
            flows.cursor = if entry + 1 >= flows.counts.len() { 0 } else { entry + 1 };
            let timeout = flows.settings.active_timeout;
            let Some(count) = flows.counts.get_mut(entry) else { return };
            // Without packets since there is nothing to tell, and the next one begins a new record.
            if count.told != 0 && now.saturating_sub(count.told) >= timeout {
                count.told = now.max(1);
                if count.packets != [0, 0] {
                    self.tell(entry, FlowEvent::Active);
                }
            }
        }
    }

    /// The end of the node: what is known of all sessions is told.
    #[cold]
    pub fn tell_all(&mut self) {
        if self.flows.is_some() {
            for entry in 0..self.capacity() {
                self.flow_ended(entry, FlowEnd::Forced);
            }
        }
    }

    /// The session in an entry is about to end.
    #[cold]
    #[inline(never)]
    pub(super) fn flow_removed(&mut self, entry: usize, why: SessionEnd) {
        let Some(session) = self.at(entry).filter(|session| session.is_used()) else { return };
        let end = match why {
            SessionEnd::Expired => match session.state() {
                State::Closing | State::TimeWait | State::Reset => FlowEnd::Closed,
                _ => FlowEnd::Idle,
            },
            // Its client is about to have another one.
            SessionEnd::BackendLost if session.state() != State::Opening => FlowEnd::Closed,
            SessionEnd::BackendLost | SessionEnd::RuleDeny | SessionEnd::ServiceGone => FlowEnd::Forced,
            SessionEnd::EvictedHalfOpen
            | SessionEnd::EvictedClosed
            | SessionEnd::EvictedOneWay
            | SessionEnd::EvictedIdle => FlowEnd::Evicted,
        };
        self.flow_ended(entry, end);
    }

    fn flow_ended(&mut self, entry: usize, end: FlowEnd) {
        self.tell(entry, FlowEvent::Ended(end));
        if let Some(count) = self.flows.as_mut().and_then(|flows| flows.counts.get_mut(entry)) {
            *count = Count::default();
        }
    }

    /// Puts a record of the session in an entry into the ring.
    fn tell(&mut self, entry: usize, event: FlowEvent) {
        let (Some(&session), Some(&origin)) = (self.at(entry), self.origin(entry)) else { return };
        let (source, mode) = (
            self.source(entry).map(|source| (source.address, source.port)),
            self.decision(entry).map(super::Decision::mode).unwrap_or_default(),
        );
        let Some(flows) = &mut self.flows else { return };
        let Some(count) = flows.counts.get_mut(entry).filter(|count| count.told != 0) else { return };
        let counted = if event == FlowEvent::Began { Count::default() } else { *count };
        let last_seen = last_seen(&session, origin.created);
        let (mut first, mut last) = ([last_seen; 2], [last_seen; 2]);
        for direction in 0..2 {
            if counted.packets[direction] > 0 {
                first[direction] = counted.first[direction];
                last[direction] = first[direction] + u64::from(counted.lasted[direction]) * NANOS_PER_MILLI;
            }
        }
        let record = FlowRecord {
            event,
            key: session.forward_key(),
            backend: (session.backend(), session.backend_port()),
            source,
            mode,
            packets: counted.packets,
            octets: counted.octets,
            first,
            last,
        };
        if event != FlowEvent::Began {
            *count = Count { told: count.told, ..Count::default() };
        }
        self.flow_totals.records += 1;
        self.flow_totals.lost += u64::from(flows.out.push(record).is_err());
    }
}

impl Count {
    #[inline]
    fn add(&mut self, direction: Direction, length: usize, now: u64) {
        let direction = direction as usize;
        if self.packets[direction] == 0 {
            self.first[direction] = now;
        }
        self.packets[direction] += 1;
        self.octets[direction] += length as u64;
        let lasted = now.saturating_sub(self.first[direction]) / NANOS_PER_MILLI;
        self.lasted[direction] = u32::try_from(lasted).unwrap_or(u32::MAX);
    }
}

/// The session's clock keeps 56 bits of the time; its beginning has the rest.
fn last_seen(session: &Session, created: u64) -> u64 {
    const KEPT: u64 = (1 << 56) - 1;
    created.wrapping_add(session.last_seen().wrapping_sub(created) & KEPT)
}
