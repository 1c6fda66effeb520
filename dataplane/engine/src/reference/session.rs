//! Section 5: sessions and their TCP states.

use std::net::IpAddr;

use super::layer4::{Fragment, Ip, TCP, Tuple, UDP};

const SECOND: u64 = 1_000_000_000;

/// How far a session is; it decides how long it may idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// TCP: a SYN was seen, nothing of the client since.
    Opening,
    /// TCP: open, or taken over in mid-stream.
    Established,
    /// TCP: one side sent FIN.
    Closing,
    /// TCP: both sides sent FIN, or one RST.
    Closed,
    /// UDP.
    Udp,
    /// ICMP echo.
    Icmp,
}

impl SessionState {
    /// Longest idle time in nanoseconds: RFC 5382 REQ-5, RFC 4787 REQ-5, RFC 5508 REQ-1.
    pub const fn timeout(self) -> u64 {
        SECOND
            * match self {
                Self::Opening | Self::Closed => 30,
                Self::Established => 7440,
                Self::Closing => 240,
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
    /// (backend, client, backend port, client port).
    pub reverse: Tuple,
    /// How far it is.
    pub state: SessionState,
    /// FIN seen from client, from backend.
    pub fins: [bool; 2],
    /// Time of the last packet.
    pub last_seen: u64,
    /// Configuration that it was last decided under.
    pub generation: u64,
    /// Port and VLAN on which the client came in.
    pub client: (usize, Option<u16>),
    /// Mark of the rule that permits it.
    pub rule_mark: Option<u8>,
    /// Mark of its service.
    pub service_mark: Option<u8>,
    /// Policer of its service, an index into the tables of its generation.
    pub policer: Option<usize>,
}

impl Session {
    /// Backend address and port; the port is 0 for ICMP.
    pub fn backend(&self) -> (IpAddr, u16) {
        (self.reverse.src, self.reverse.sport)
    }

    /// Whether it still exists at `now`.
    pub fn lives(&self, now: u64) -> bool {
        now.saturating_sub(self.last_seen) <= self.state.timeout()
    }

    /// A packet of the session was seen.
    pub fn touch(&mut self, now: u64, direction: Direction, ip: &TcpFlags) {
        self.last_seen = now;
        if self.forward.protocol != TCP {
            return;
        }
        if ip.rst {
            self.state = SessionState::Closed;
            return;
        }
        let forward = direction == Direction::Forward;
        if forward && ip.syn && !ip.ack && self.state == SessionState::Closed {
            self.state = SessionState::Opening;
            self.fins = [false; 2];
        }
        if ip.fin {
            self.fins[usize::from(!forward)] = true;
            self.state = if self.fins == [true; 2] { SessionState::Closed } else { SessionState::Closing };
        }
        if forward && ip.ack && !ip.syn && self.state == SessionState::Opening {
            self.state = SessionState::Established;
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

/// State before the first packet is looked at in detail.
pub(super) fn initial_state(protocol: u8, flags: TcpFlags) -> SessionState {
    match protocol {
        TCP if flags.rst => SessionState::Closed,
        TCP if flags.syn && !flags.ack => SessionState::Opening,
        TCP => SessionState::Established,
        UDP => SessionState::Udp,
        _ => SessionState::Icmp,
    }
}

/// All sessions, in order of creation.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    pub all: Vec<Session>,
}

impl Sessions {
    /// Forgets what has idled too long.
    pub fn expire(&mut self, now: u64) {
        self.all.retain(|session| session.lives(now));
    }

    /// The session that a tuple belongs to. Both directions share one space of keys.
    pub fn find(&self, tuple: &Tuple) -> Option<(usize, Direction)> {
        self.all.iter().enumerate().find_map(|(index, session)| {
            if session.forward == *tuple {
                Some((index, Direction::Forward))
            } else if session.reverse == *tuple {
                Some((index, Direction::Reverse))
            } else {
                None
            }
        })
    }
}
