//! Section 3: extension headers, fragments, and the TCP, UDP and ICMP headers.

use std::net::IpAddr;

use super::layer3::Header;
use crate::reason::DropReason;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// The longest chain of extension headers that is walked.
const MAX_EXTENSION_HEADERS: usize = 8;

/// A packet as received, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ip {
    /// The whole packet from the IP header on, without padding.
    pub bytes: Vec<u8>,
    pub src: IpAddr,
    pub dst: IpAddr,
    /// The upper layer's number.
    pub protocol: u8,
    /// Where the upper layer begins.
    pub upper: usize,
    pub fragment: Fragment,
    /// Where it belongs, if it is a fragment.
    pub piece: Option<Piece>,
    /// What the first fragment says, if this is a later one and that is known.
    pub told: Option<Told>,
}

/// What a fragment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub id: u32,
    /// IPv4's protocol, or the fragment header's next header.
    pub next: u8,
    /// Octets.
    pub offset: usize,
    pub more: bool,
    /// Octets behind the fragment header.
    pub len: usize,
}

/// What a first fragment says of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub tuple: Tuple,
    pub ports: Option<(u16, u16)>,
    pub message: Option<Message>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    /// Whole (or atomic, RFC 6946).
    No,
    /// Offset 0: has the upper layer's header.
    First,
    /// Has none.
    Later,
}

/// Addresses, protocol and ports of a packet. ICMP echo requests have (identifier, 0), replies (0, identifier); packets without
/// ports zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Upper-layer protocol.
    pub protocol: u8,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// What an ICMP message is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    EchoRequest,
    EchoReply,
    Error,
    Solicitation,
    Advertisement,
    Other,
}

impl Ip {
    pub fn is_v6(&self) -> bool {
        self.src.is_ipv6()
    }

    /// Upper-layer header and what follows.
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.upper..]
    }

    /// The kind of ICMP message; none of another protocol, of the other family's ICMP, and of later fragments.
    pub fn message(&self) -> Option<Message> {
        let icmp = if self.is_v6() { ICMPV6 } else { ICMP };
        if self.protocol != icmp || self.fragment == Fragment::Later {
            return None;
        }
        Some(match (self.is_v6(), self.body()[0]) {
            (false, 8) | (true, 128) => Message::EchoRequest,
            (false, 0) | (true, 129) => Message::EchoReply,
            (false, 3 | 4 | 5 | 11 | 12) | (true, 0..=127) => Message::Error,
            (true, 135) => Message::Solicitation,
            (true, 136) => Message::Advertisement,
            _ => Message::Other,
        })
    }

    /// What the fragments behind this first one are told.
    pub fn tell(&self) -> Told {
        Told { tuple: self.tuple(), ports: self.ports(), message: self.message() }
    }

    /// The kind of message that the whole packet is, as far as that is known.
    pub fn whole_message(&self) -> Option<Message> {
        self.told.map_or(self.message(), |told| told.message)
    }

    /// For hashing and sessions.
    pub fn tuple(&self) -> Tuple {
        if let Some(told) = self.told {
            return told.tuple;
        }
        let (sport, dport) = self.ports().unwrap_or_else(|| match self.message() {
            Some(Message::EchoRequest) => (self.word(4), 0),
            Some(Message::EchoReply) => (0, self.word(4)),
            _ => (0, 0),
        });
        Tuple { src: self.src, dst: self.dst, protocol: self.protocol, sport, dport }
    }

    /// Of TCP and UDP only, fragments included if the first is known: what rules call ports.
    pub fn ports(&self) -> Option<(u16, u16)> {
        if let Some(told) = self.told {
            return told.ports;
        }
        let has = matches!(self.protocol, TCP | UDP) && self.fragment != Fragment::Later;
        has.then(|| (self.word(0), self.word(2)))
    }

    /// Whether a session may exist for it.
    pub fn can_have_session(&self) -> bool {
        self.ports().is_some() || matches!(self.whole_message(), Some(Message::EchoRequest | Message::EchoReply))
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.body()[at], self.body()[at + 1]])
    }
}

pub(super) fn parse(header: Header) -> Result<Ip, DropReason> {
    let Header { bytes, src, dst } = header;
    let (protocol, upper, fragment, piece) = if src.is_ipv4() { ipv4(&bytes) } else { ipv6(&bytes)? };
    let ip = Ip { bytes, src, dst, protocol, upper, fragment, piece, told: None };
    match fragment {
        Fragment::First if ip.body().len() < shortest_header(&ip) => Err(DropReason::FragmentTiny),
        Fragment::Later => Ok(ip),
        Fragment::No | Fragment::First if is_well_formed(&ip) => Ok(ip),
        Fragment::No | Fragment::First => Err(DropReason::L4Malformed),
    }
}

type Found = (u8, usize, Fragment, Option<Piece>);

fn ipv4(bytes: &[u8]) -> Found {
    let flags = u16::from_be_bytes([bytes[6], bytes[7]]);
    let (offset, more) = (flags & 0x1fff, flags & 0x2000 != 0);
    let header = usize::from(bytes[0] & 15) * 4;
    let id = u32::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    let piece = Piece { id, next: bytes[9], offset: usize::from(offset) * 8, more, len: bytes.len() - header };
    let fragment = fragment(offset, more);
    (bytes[9], header, fragment, (fragment != Fragment::No).then_some(piece))
}

fn shortest_header(ip: &Ip) -> usize {
    match (ip.protocol, ip.is_v6()) {
        (TCP, _) => 20,
        (UDP, _) | (ICMP, false) | (ICMPV6, true) => 8,
        _ => 0,
    }
}

fn fragment(offset: u16, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::No,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}

/// RFC 8200 s4.
fn ipv6(bytes: &[u8]) -> Result<Found, DropReason> {
    let bad = DropReason::Ipv6ExtensionHeaders;
    let mut number = bytes[6];
    let mut at = 40;
    let mut first = None;
    for walked in 0.. {
        if !matches!(number, 0 | 43 | 44 | 60) {
            break;
        }
        if walked == MAX_EXTENSION_HEADERS || number == 0 && walked > 0 {
            return Err(bad);
        }
        let start = bytes.get(at..at + 8).ok_or(bad)?;
        let len = if number == 44 { 8 } else { (usize::from(start[1]) + 1) * 8 };
        if at + len > bytes.len() {
            return Err(bad);
        }
        // Type 0 routing headers are deprecated (RFC 5095).
        if number == 43 && start[2] == 0 && start[3] != 0 {
            return Err(bad);
        }
        if number == 44 {
            // RFC 8200 s4.1: there is one at most. Whole packets in a fragment header are let pass.
            if first.is_some() {
                return Err(bad);
            }
            let word = u16::from_be_bytes([start[2], start[3]]);
            let piece = Piece {
                id: u32::from_be_bytes([start[4], start[5], start[6], start[7]]),
                next: start[0],
                offset: usize::from(word >> 3) * 8,
                more: word & 1 == 1,
                len: bytes.len() - at - 8,
            };
            match fragment(word >> 3, word & 1 == 1) {
                Fragment::No => {}
                Fragment::First => first = Some(piece),
                Fragment::Later => return Ok((start[0], at + 8, Fragment::Later, Some(piece))),
            }
        }
        number = start[0];
        at += len;
    }
    Ok((number, at, if first.is_some() { Fragment::First } else { Fragment::No }, first))
}

/// Source, destination, upper-layer protocol and where that begins in a packet that is quoted and may be cut. Nothing for what is
/// no IP header, a bad chain, and a later fragment.
pub(super) fn quoted_upper(bytes: &[u8], v6: bool) -> Option<(IpAddr, IpAddr, u8, usize)> {
    let version = bytes.first()? >> 4;
    if v6 {
        let header = bytes.get(..40).filter(|_| version == 6)?;
        let address = |at: usize| IpAddr::from(std::array::from_fn::<u8, 16, _>(|i| header[at + i]));
        let (protocol, upper, fragment, _) = ipv6(bytes).ok()?;
        return (fragment != Fragment::Later).then_some((address(8), address(24), protocol, upper));
    }
    let header = bytes.get(..20).filter(|header| version == 4 && header[0] & 15 >= 5)?;
    let address = |at: usize| IpAddr::from(std::array::from_fn::<u8, 4, _>(|i| header[at + i]));
    bytes.get(..usize::from(header[0] & 15) * 4)?;
    let (protocol, upper, fragment, _) = ipv4(bytes);
    (fragment != Fragment::Later).then_some((address(12), address(16), protocol, upper))
}

fn is_well_formed(ip: &Ip) -> bool {
    let body = ip.body();
    let whole = ip.fragment == Fragment::No;
    match (ip.protocol, ip.is_v6()) {
        (TCP, _) => {
            body.len() >= 20 && {
                let header = usize::from(body[12] >> 4) * 4;
                header >= 20 && (!whole || header <= body.len())
            }
        }
        (UDP, _) => {
            body.len() >= 8 && {
                let length = usize::from(u16::from_be_bytes([body[4], body[5]]));
                !whole || (8..=body.len()).contains(&length)
            }
        }
        (ICMP, false) | (ICMPV6, true) => body.len() >= 8,
        _ => true,
    }
}
