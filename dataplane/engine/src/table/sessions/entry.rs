//! What the table keeps of a session: one line that every packet touches, one that only its beginning and its end do.

use bytemuck::{Pod, Zeroable};

use super::decisions::Decision;
use super::ports::Source;
use super::tallies::{Admission, Counted};
use crate::flow::{Addr, FlowKey, is_v4};
use crate::ports::PortSlot;
use crate::reason::SessionEnd;
use crate::table::rules::Sight;
use crate::tables::ServiceMode;
use crate::wire::TCP;

/// Nanoseconds per second.
pub(super) const SECOND: u64 = 1_000_000_000;

/// One session, the line that packets touch.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Session {
    /// Service, client, backend. In this order destination and source of a packet are neighbours in either direction, and both directions are
    /// compared by the same instructions: which one comes next nobody can predict.
    addresses: [Addr; 3],
    /// Ports of the same; the echo identifier stands for the client's, 0 for the others.
    ports: [u16; 3],
    /// Place of its decision among the shared ones; beyond their number: it has one of its own.
    pub(super) decision: u16,
    /// Nanoseconds of the last packet, shifted by [`STATUS_BITS`], and below them the status.
    clock: u64,
}

const _: () = assert!(size_of::<Session>() == 64);

/// Bits of [`Session::clock`] below the time: three of code, then RST seen, the backend answered, and two of FINs seen. 56 bits of nanoseconds last two
/// years; differences are taken modulo that, so a node may run longer than this.
const STATUS_BITS: u32 = 8;
const STATUS: u64 = (1 << STATUS_BITS) - 1;

// Codes of a status; the protocol follows from it.
const FREE: u8 = 0;
const UDP: u8 = 1;
const ECHO: u8 = 2;
const ECHO_V6: u8 = 3;
const OPENING: u8 = 4;
const OPEN: u8 = 5;
const CLOSING: u8 = 6;
const TIME_WAIT: u8 = 7;
const CODE: u8 = 7;
/// The last packet was an RST. The code beside it is kept: it counts again when the session goes on.
const RESET: u8 = 1 << 3;
const ANSWERED_SHIFT: u32 = 4;
const ANSWERED: u8 = 1 << ANSWERED_SHIFT;
const FINS_SHIFT: u32 = 5;

/// The part of a status that says where the session stands.
const STANDING: u8 = CODE | RESET | ANSWERED;

/// Protocol number by code, an octet each.
const PROTOCOLS: u64 = u64::from_le_bytes([0, 17, 1, 58, 6, 6, 6, 6]);

/// By [`STANDING`].
const STATES: [State; 32] = {
    let mut states = [State::TimeWait; 32];
    let mut standing = 0;
    while standing < 32 {
        states[standing] = match (standing as u8 & CODE, standing as u8 & RESET != 0, standing as u8 & ANSWERED != 0) {
            (UDP, ..) => State::Udp,
            (ECHO | ECHO_V6, ..) => State::Icmp,
            (FREE, ..) => State::TimeWait,
            (_, true, _) => State::Reset,
            (OPENING, ..) => State::Opening,
            (OPEN, _, false) => State::Adopted,
            (OPEN, ..) => State::Established,
            (CLOSING, ..) => State::Closing,
            _ => State::TimeWait,
        };
        standing += 1;
    }
    states
};

/// Timeouts by [`STANDING`], shifted like the clock. A free entry is idle at once.
const TIMEOUTS: [i64; 32] = {
    let mut shifted = [0; 32];
    let mut standing = 0;
    while standing < 32 {
        if standing as u8 & CODE != FREE {
            shifted[standing] = (STATES[standing].timeout() << STATUS_BITS) as i64;
        }
        standing += 1;
    }
    shifted
};

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// UDP.
    Udp,
    /// ICMP echo.
    Icmp,
    /// TCP, client's SYN seen, handshake not finished.
    Opening,
    /// TCP, taken over in mid-stream, nothing of the backend seen yet.
    Adopted,
    /// TCP, open.
    Established,
    /// TCP, one side sent FIN.
    Closing,
    /// TCP, both sides sent FIN.
    TimeWait,
    /// TCP, the last packet was an RST.
    Reset,
}

impl State {
    /// The name shown to people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Opening => "opening",
            Self::Adopted => "adopted",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::TimeWait => "time_wait",
            Self::Reset => "reset",
        }
    }

    /// Idle time after which the session is gone, in nanoseconds. RFC 4787 REQ-5, RFC 5508 REQ-1, RFC 5382 REQ-5, RFC 7857 s2.2.
    pub const fn timeout(self) -> u64 {
        SECOND
            * match self {
                Self::Udp => 300,
                Self::Icmp => 60,
                Self::Opening | Self::TimeWait => 30,
                Self::Established => 7440,
                Self::Adopted | Self::Closing | Self::Reset => 240,
            }
    }

    /// What the search for a session to give up needs to know of it beforehand.
    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Opening => Kind::HalfOpen,
            Self::Closing | Self::TimeWait | Self::Reset => Kind::Ending,
            Self::Udp | Self::Icmp | Self::Adopted | Self::Established => Kind::Open,
        }
    }
}

/// Sessions by how likely they can be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Handshake not finished.
    HalfOpen = 0,
    /// On its way out.
    Ending = 1,
    /// All others.
    Open = 2,
}

/// What a session is worth when another one needs its place, least first (`BEHAVIOUR.md` 5, eviction).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worth {
    /// Idle too long: nobody's.
    Expired,
    /// May be evicted, counted under this.
    Evictable(SessionEnd),
    /// May not.
    Needed,
}

/// Idle time after which a session that ends or was never answered may be evicted.
const EVICT_UNPROVEN: u64 = SECOND;
/// After which an answered one without a connection may.
const EVICT_ANSWERED: u64 = 10 * SECOND;
/// After which an established one may.
const EVICT_ESTABLISHED: u64 = 60 * SECOND;

/// TCP flag bits.
pub mod tcp {
    /// Finish.
    pub const FIN: u8 = 1;
    /// Synchronise.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Acknowledge.
    pub const ACK: u8 = 16;

    /// Whether these flags ask for a new connection. No type of an ICMP echo looks like them.
    #[inline]
    pub const fn begins(flags: u8) -> bool {
        flags & (SYN | ACK | RST) == SYN
    }
}

/// Which way a packet of a session goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to backend.
    Forward,
    /// Backend to client.
    Reverse,
}

/// What a new session starts from.
#[derive(Clone, Copy, Debug)]
pub struct NewSession {
    /// The client's tuple towards the service.
    pub key: FlowKey,
    /// Backend address.
    pub backend: Addr,
    /// Backend port.
    pub backend_port: u16,
    /// What the backend sees in place of the client's address and port (full NAT).
    pub source: Option<Source>,
    /// TCP flags of the first packet.
    pub flags: u8,
    /// DSCP of the first packet.
    pub dscp: u8,
    /// Where the client is.
    pub place: (PortSlot, u16),
    /// Now.
    pub now: u64,
    /// What was decided about it.
    pub decision: Decision,
    /// Where it is counted; `Default` is nowhere.
    pub admission: Admission,
    /// Octets of the first packet, where a flow collector is to be told of the session; else 0.
    pub told: u16,
}

impl NewSession {
    /// The tuple of the backend's packets.
    #[inline]
    pub fn reverse_key(&self) -> FlowKey {
        let (dst, dport) = self.source.map_or((self.key.src, self.key.sport), |source| (source.address, source.port));
        FlowKey { src: self.backend, dst, protocol: self.key.protocol, sport: self.backend_port, dport }
    }
}

impl Session {
    /// A session as its first packet makes it.
    pub(super) fn new(new: &NewSession, decision: u16) -> Self {
        let key = &new.key;
        let mut session = Self {
            addresses: [key.dst, key.src, new.backend],
            ports: [key.dport, key.sport, new.backend_port],
            decision,
            clock: new.now << STATUS_BITS | u64::from(first_code(key, new.flags)),
        };
        // The first packet's FIN counts, too.
        session.touch(new.now, Direction::Forward, new.flags);
        session
    }

    /// Client address.
    #[inline]
    pub fn client(&self) -> Addr {
        self.addresses[1]
    }

    /// Service address.
    #[inline]
    pub fn service(&self) -> Addr {
        self.addresses[0]
    }

    /// Backend address.
    #[inline]
    pub fn backend(&self) -> Addr {
        self.addresses[2]
    }

    /// Client port, or the echo identifier.
    #[inline]
    pub fn client_port(&self) -> u16 {
        self.ports[1]
    }

    /// Service port; 0 for echo.
    #[inline]
    pub fn service_port(&self) -> u16 {
        self.ports[0]
    }

    /// Backend port; 0 for echo.
    #[inline]
    pub fn backend_port(&self) -> u16 {
        self.ports[2]
    }

    /// Protocol number.
    #[inline]
    pub fn protocol(&self) -> u8 {
        (PROTOCOLS >> (u32::from(self.code()) * 8)) as u8
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        STATES[self.standing()]
    }

    /// Whether a client that asks for a new connection would get one: there is none yet, or no more.
    pub fn is_vacant(&self, mode: ServiceMode) -> bool {
        match self.state() {
            State::Opening | State::TimeWait | State::Reset => true,
            State::Closing => mode.is_direct(),
            _ => false,
        }
    }

    /// Whether a packet of the backend was seen.
    pub fn is_answered(&self) -> bool {
        self.clock as u8 & ANSWERED != 0
    }

    /// Nanoseconds of the last packet, modulo 2^56.
    #[inline]
    pub fn last_seen(&self) -> u64 {
        self.clock >> STATUS_BITS
    }

    /// Nanoseconds since the last packet; 0 when time went back.
    #[inline]
    pub fn idle(&self, now: u64) -> u64 {
        self.shifted_idle(now).max(0) as u64 >> STATUS_BITS
    }

    /// Whether it has been idle too long.
    #[inline]
    pub fn expired(&self, now: u64) -> bool {
        self.shifted_idle(now) > TIMEOUTS[self.standing()]
    }

    /// Whether a session lives in the entry.
    #[inline]
    pub fn is_used(&self) -> bool {
        self.code() != FREE
    }

    /// The tuple of the client's packets.
    #[inline]
    pub fn forward_key(&self) -> FlowKey {
        self.key(0)
    }

    /// The tuple of the backend's packets, unless they go to a pool: see [`Sessions::reverse_key`](super::Sessions::reverse_key).
    #[inline]
    pub fn reverse_key(&self) -> FlowKey {
        self.key(1)
    }

    /// What a packet's rewritten end becomes: the backend for the client's packets, the service for the backend's.
    #[inline]
    pub fn target(&self, direction: Direction) -> (Addr, u16) {
        let at = 2 - 2 * direction as usize;
        (self.addresses[at], self.ports[at])
    }

    #[inline]
    pub(super) fn free(&mut self) {
        self.clock = 0;
    }

    /// Whether a tuple is the session's in a direction.
    #[inline]
    pub(super) fn is(&self, key: &FlowKey, direction: Direction) -> bool {
        let at = direction as usize;
        let addresses = (self.addresses[at + 1] ^ key.src) | (self.addresses[at] ^ key.dst);
        let ports = (self.ports[at + 1] ^ key.sport) | (self.ports[at] ^ key.dport);
        // One comparison, one branch.
        addresses | Addr::from(ports) | Addr::from(self.protocol() ^ key.protocol) == 0
    }

    /// A packet of the session passed. Where that changes its state: whether it was half-open before.
    #[inline]
    pub(super) fn touch(&mut self, now: u64, direction: Direction, flags: u8) -> Option<bool> {
        let before = self.clock as u8;
        let status = before | (direction as u8) << ANSWERED_SHIFT;
        self.clock = now << STATUS_BITS | u64::from(status);
        // Nearly all packets: no TCP, or an open session going on.
        if status & CODE < OPENING || (status & (CODE | RESET) == OPEN && flags & (tcp::FIN | tcp::RST) == 0) {
            return None;
        }
        let next = next_status(before, direction, flags);
        self.clock = now << STATUS_BITS | u64::from(next);
        (next != before).then_some(before & (CODE | RESET) == OPENING)
    }

    /// Whether the handshake is not finished.
    #[inline]
    pub(super) fn is_half_open(&self) -> bool {
        self.clock as u8 & (CODE | RESET) == OPENING
    }

    /// What it is worth when another session needs its place.
    pub(super) fn worth(&self, now: u64) -> Worth {
        if self.expired(now) {
            return Worth::Expired;
        }
        let (idle, answered) = (self.idle(now), self.is_answered());
        Worth::Evictable(match self.state() {
            State::Opening => SessionEnd::EvictedHalfOpen,
            State::TimeWait => SessionEnd::EvictedClosed,
            State::Closing | State::Reset if idle > EVICT_UNPROVEN => SessionEnd::EvictedClosed,
            State::Adopted if idle > EVICT_UNPROVEN => SessionEnd::EvictedOneWay,
            State::Udp | State::Icmp if !answered && idle > EVICT_UNPROVEN => SessionEnd::EvictedOneWay,
            State::Udp | State::Icmp if idle > EVICT_ANSWERED => SessionEnd::EvictedIdle,
            State::Established if idle > EVICT_ESTABLISHED => SessionEnd::EvictedIdle,
            _ => return Worth::Needed,
        })
    }

    /// A session of which only the client's packets are seen begins anew with a SYN also after the client's FIN: the other one never comes.
    pub(super) fn reopen(&mut self, flags: u8) {
        if self.code() == CLOSING && flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
            self.clock |= u64::from(TIME_WAIT);
        }
    }

    /// The backend of such a session counts as having answered: nobody here will see it.
    pub(super) fn presume_answered(&mut self) {
        self.clock |= u64::from(ANSWERED);
    }

    #[inline]
    fn key(&self, at: usize) -> FlowKey {
        FlowKey {
            src: self.addresses[at + 1],
            dst: self.addresses[at],
            protocol: self.protocol(),
            sport: self.ports[at + 1],
            dport: self.ports[at],
        }
    }

    #[inline]
    fn code(&self) -> u8 {
        self.clock as u8 & CODE
    }

    #[inline]
    fn standing(&self) -> usize {
        usize::from(self.clock as u8 & STANDING)
    }

    #[inline]
    fn shifted_idle(&self, now: u64) -> i64 {
        (now << STATUS_BITS).wrapping_sub(self.clock & !STATUS) as i64
    }
}

fn first_code(key: &FlowKey, flags: u8) -> u8 {
    match key.protocol {
        6 if flags & (tcp::SYN | tcp::ACK) == tcp::SYN => OPENING,
        6 => OPEN,
        17 => UDP,
        _ if is_v4(key.src) => ECHO,
        _ => ECHO_V6,
    }
}

fn next_status(status: u8, direction: Direction, flags: u8) -> u8 {
    if flags & tcp::RST != 0 {
        return status | RESET;
    }
    let (mut code, mut answered, mut fins) = (status & CODE, status & ANSWERED, status >> FINS_SHIFT);
    let forward = direction == Direction::Forward;
    if forward && flags & (tcp::SYN | tcp::ACK) == tcp::SYN && (code == TIME_WAIT || status & RESET != 0) {
        (code, answered, fins) = (OPENING, 0, 0);
    }
    if !forward {
        answered = ANSWERED;
    }
    if flags & tcp::FIN != 0 {
        fins |= if forward { 1 } else { 2 };
        code = if fins == 3 { TIME_WAIT } else { CLOSING };
    }
    if forward && flags & (tcp::SYN | tcp::ACK) == tcp::ACK && code == OPENING && answered != 0 {
        code = OPEN;
    }
    code | answered | fins << FINS_SHIFT
}

/// The rest of a session: read and written when it begins, ends, is decided anew or listed.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Origin {
    /// The decision, where no shared place was left for it.
    pub(super) decision: Decision,
    /// Nanoseconds of the first packet.
    pub created: u64,
    /// Odd: the session is being written. Grows with each use of the entry.
    sequence: u32,
    /// Where the session is counted, see [`Counted`].
    service_tally: u32,
    source_tally: u32,
    /// VLAN the client's packets came on.
    pub client_vlan: u16,
    source_port: u16,
    client_place: u8,
    /// TCP flags of the first packet.
    flags: u8,
    /// DSCP of the first packet.
    dscp: u8,
    /// Place of the source's address among the pools, and 1; 0: none (full NAT).
    source_place: u8,
    padding: [u8; 4],
}

const _: () = assert!(size_of::<Origin>() == 64);

impl Origin {
    /// The port the client is behind.
    pub fn client_place(&self) -> PortSlot {
        PortSlot::from_index(usize::from(self.client_place))
    }

    /// What the first packet showed to rules, its tuple and interface aside.
    pub fn sight(&self, protocol: u8) -> Sight {
        Sight::new(self.client_vlan, self.dscp, (protocol == TCP).then_some(self.flags))
    }

    /// Place of a pool's address, and the port that the backend sees in place of the client's (full NAT).
    #[inline]
    pub(super) fn source(&self) -> Option<(u8, u16)> {
        Some((self.source_place.checked_sub(1)?, self.source_port))
    }

    /// Whether the session was written whole.
    pub fn is_whole(&self) -> bool {
        self.sequence.is_multiple_of(2)
    }

    /// Until [`end`](Self::end) the entry is half written.
    pub(super) fn begin(&mut self) {
        self.sequence |= 1;
    }

    pub(super) fn counted(&self) -> Counted {
        Counted { service: self.service_tally, source: self.source_tally }
    }

    pub(super) fn end(&mut self, new: &NewSession, counted: Counted) {
        (self.service_tally, self.source_tally) = (counted.service, counted.source);
        self.created = new.now;
        self.client_vlan = new.place.1;
        self.client_place = new.place.0.index() as u8;
        (self.flags, self.dscp) = (new.flags, new.dscp);
        (self.source_place, self.source_port) = new.source.map_or((0, 0), |source| (source.place + 1, source.port));
        self.sequence = self.sequence.wrapping_add(1);
    }
}
