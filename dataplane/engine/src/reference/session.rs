//! Section 5: sessions and their TCP states.

use std::net::IpAddr;

use super::layer4::{Fragment, Ip, TCP, Tuple, UDP};
use super::limits::Counted;
use super::rule::{Ruled, Sight};
use crate::tables::{Class, ServiceMode};

const SECOND: u64 = 1_000_000_000;

/// How far a session is; it decides how long it may idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// TCP: a SYN was seen, the handshake is not finished.
    Opening,
    /// TCP: taken over in mid-stream, nothing of the backend seen.
    Adopted,
    /// TCP: open.
    Established,
    /// TCP: one side sent FIN.
    Closing,
    /// TCP: both sides sent FIN.
    TimeWait,
    /// TCP: the last packet was an RST.
    Reset,
    /// UDP.
    Udp,
    /// ICMP echo.
    Icmp,
}

impl SessionState {
    /// Longest idle time in nanoseconds: RFC 5382 REQ-5, RFC 7857 s2.2, RFC 4787 REQ-5, RFC 5508 REQ-1.
    pub const fn timeout(self) -> u64 {
        SECOND
            * match self {
                Self::Opening | Self::TimeWait => 30,
                Self::Adopted | Self::Closing | Self::Reset => 240,
                Self::Established => 7440,
                Self::Udp => 300,
                Self::Icmp => 60,
            }
    }
}

/// Which way a packet of a session travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to backend.
    Forward,
    /// Backend to client.
    Reverse,
}

/// A flow bound to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// (client, service address, client port, service port).
    pub forward: Tuple,
    /// (backend, client, backend port, client port), in full NAT to address and port of the pool; no key in direct modes.
    pub reverse: Tuple,
    /// TCP: a SYN opened it, and its handshake is not finished.
    pub handshake: bool,
    /// TCP: the last packet was an RST.
    pub reset: bool,
    /// A packet of the backend was seen.
    pub answered: bool,
    /// FIN seen from client, from backend.
    pub fins: [bool; 2],
    /// Time of the last packet.
    pub last_seen: u64,
    /// Configuration that it was last decided under.
    pub generation: u64,
    /// Port and VLAN on which the client came in.
    pub client: (usize, Option<u16>),
    /// What its first packet showed to rules.
    pub sight: Sight,
    /// What rules said about it.
    pub ruled: Ruled,
    /// Mark of its service.
    pub service_mark: Option<u8>,
    /// The service's class.
    pub service_class: Option<Class>,
    /// Mode of its service.
    pub mode: ServiceMode,
    /// Its policer, an index into the tables of its generation.
    pub policer: Option<usize>,
    /// Whose limits it counts for.
    pub counted: Option<Counted>,
}

impl Session {
    /// Backend address and port; the port is 0 for ICMP.
    pub fn backend(&self) -> (IpAddr, u16) {
        (self.reverse.src, self.reverse.sport)
    }

    /// How far it is.
    pub fn state(&self) -> SessionState {
        match (self.forward.protocol, self.fins) {
            (UDP, _) => SessionState::Udp,
            (TCP, _) if self.reset => SessionState::Reset,
            (TCP, [true, true]) => SessionState::TimeWait,
            (TCP, [true, false] | [false, true]) => SessionState::Closing,
            (TCP, _) if self.handshake => SessionState::Opening,
            (TCP, _) if self.answered => SessionState::Established,
            (TCP, _) => SessionState::Adopted,
            _ => SessionState::Icmp,
        }
    }

    /// Whether a client's SYN would begin a connection: there is none yet, or no more.
    pub fn is_vacant(&self) -> bool {
        match self.state() {
            SessionState::Opening | SessionState::TimeWait | SessionState::Reset => true,
            SessionState::Closing => self.mode.is_direct(),
            _ => false,
        }
    }

    /// Whether it still exists at `now`.
    pub fn lives(&self, now: u64) -> bool {
        now.saturating_sub(self.last_seen) <= self.state().timeout()
    }

    /// Whether it may be evicted at `now`.
    pub fn is_evictable(&self, now: u64) -> bool {
        let idle = now.saturating_sub(self.last_seen);
        match self.state() {
            SessionState::Opening | SessionState::TimeWait => true,
            SessionState::Closing | SessionState::Reset | SessionState::Adopted => idle > SECOND,
            SessionState::Udp | SessionState::Icmp => idle > if self.answered { 10 * SECOND } else { SECOND },
            SessionState::Established => idle > 60 * SECOND,
        }
    }

    /// A packet of the session was seen.
    pub fn touch(&mut self, now: u64, direction: Direction, ip: &TcpFlags) {
        self.last_seen = now;
        let forward = direction == Direction::Forward;
        if self.forward.protocol == TCP {
            if ip.rst {
                self.reset = true;
                return;
            }
            if forward && ip.syn && !ip.ack && self.is_vacant() && self.state() != SessionState::Opening {
                (self.handshake, self.answered, self.fins) = (true, false, [false; 2]);
            }
            self.reset = false;
        }
        // In direct modes nobody here would ever see an answer.
        self.answered |= !forward || self.mode.is_direct();
        if ip.fin {
            self.fins[usize::from(!forward)] = true;
        }
        if forward && ip.ack && !ip.syn && self.state() == SessionState::Opening && self.answered {
            self.handshake = false;
        }
    }
}

/// The flags that sessions look at; all false for other protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags {
    /// Synchronise.
    pub syn: bool,
    /// Acknowledgement.
    pub ack: bool,
    /// No more data.
    pub fin: bool,
    /// Reset.
    pub rst: bool,
}

impl TcpFlags {
    pub(super) fn of(ip: &Ip) -> Self {
        // The first fragment has them, and tells them once.
        if ip.protocol != TCP || ip.fragment == Fragment::Later {
            return Self::default();
        }
        let flags = ip.body()[13];
        Self { fin: flags & 1 != 0, syn: flags & 2 != 0, rst: flags & 4 != 0, ack: flags & 16 != 0 }
    }
}

/// All sessions, in order of creation.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    pub all: Vec<Session>,
    /// Choices that were none.
    pub objections: Vec<String>,
}

impl Sessions {
    /// Forgets what has idled too long.
    pub fn expire(&mut self, now: u64) {
        self.all.retain(|session| session.lives(now));
    }

    /// Ends the session that the pipeline chose to evict, by its client's tuple.
    pub fn evict(&mut self, now: u64, victim: &Tuple) {
        match self.all.iter().position(|session| session.forward == *victim) {
            Some(index) if self.all[index].is_evictable(now) => {
                self.all.remove(index);
            }
            Some(index) => self.objections.push(format!("evicted {:?}", self.all[index])),
            None => self.objections.push(format!("evicted {victim:?}, which is no session")),
        }
    }

    /// The session that a tuple belongs to. Both directions share one space of keys.
    pub fn find(&self, tuple: &Tuple) -> Option<(usize, Direction)> {
        self.all.iter().enumerate().find_map(|(index, session)| {
            if session.forward == *tuple {
                Some((index, Direction::Forward))
            } else if session.reverse == *tuple && !session.mode.is_direct() {
                Some((index, Direction::Reverse))
            } else {
                None
            }
        })
    }
}
