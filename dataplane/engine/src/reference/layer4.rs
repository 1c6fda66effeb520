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

    /// For hashing and sessions.
    pub fn tuple(&self) -> Tuple {
        let (sport, dport) = self.ports().unwrap_or_else(|| match self.message() {
            Some(Message::EchoRequest) => (self.word(4), 0),
            Some(Message::EchoReply) => (0, self.word(4)),
            _ => (0, 0),
        });
        Tuple { src: self.src, dst: self.dst, protocol: self.protocol, sport, dport }
    }

    /// Of TCP and UDP only, first fragments included: what rules call ports.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let has = matches!(self.protocol, TCP | UDP) && self.fragment != Fragment::Later;
        has.then(|| (self.word(0), self.word(2)))
    }

    /// Whether a session may exist for it.
    pub fn can_have_session(&self) -> bool {
        let kind = matches!(self.protocol, TCP | UDP)
            || matches!(self.message(), Some(Message::EchoRequest | Message::EchoReply));
        kind && self.fragment == Fragment::No
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.body()[at], self.body()[at + 1]])
    }
}

pub(super) fn parse(header: Header) -> Result<Ip, DropReason> {
    let Header { bytes, src, dst } = header;
    let (protocol, upper, fragment) = if src.is_ipv4() { ipv4(&bytes) } else { ipv6(&bytes)? };
    let ip = Ip { bytes, src, dst, protocol, upper, fragment };
    if fragment == Fragment::Later || is_well_formed(&ip) { Ok(ip) } else { Err(DropReason::L4Malformed) }
}

fn ipv4(bytes: &[u8]) -> (u8, usize, Fragment) {
    let flags = u16::from_be_bytes([bytes[6], bytes[7]]);
    let (offset, more) = (flags & 0x1fff, flags & 0x2000 != 0);
    (bytes[9], usize::from(bytes[0] & 15) * 4, fragment(offset, more))
}

fn fragment(offset: u16, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::No,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}

/// RFC 8200 s4.
fn ipv6(bytes: &[u8]) -> Result<(u8, usize, Fragment), DropReason> {
    let bad = DropReason::Ipv6ExtensionHeaders;
    let mut number = bytes[6];
    let mut at = 40;
    let mut seen = Fragment::No;
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
            let word = u16::from_be_bytes([start[2], start[3]]);
            match fragment(word >> 3, word & 1 == 1) {
                Fragment::No => {}
                Fragment::First => seen = Fragment::First,
                Fragment::Later => return Ok((start[0], at + 8, Fragment::Later)),
            }
        }
        number = start[0];
        at += len;
    }
    Ok((number, at, seen))
}

/// Source, destination, upper-layer protocol and where that begins in a packet that is quoted and may be cut. Nothing for what is
/// no IP header, a bad chain, and a later fragment.
pub(super) fn quoted_upper(bytes: &[u8], v6: bool) -> Option<(IpAddr, IpAddr, u8, usize)> {
    let version = bytes.first()? >> 4;
    if v6 {
        let header = bytes.get(..40).filter(|_| version == 6)?;
        let address = |at: usize| IpAddr::from(std::array::from_fn::<u8, 16, _>(|i| header[at + i]));
        let (protocol, upper, fragment) = ipv6(bytes).ok()?;
        return (fragment != Fragment::Later).then_some((address(8), address(24), protocol, upper));
    }
    let header = bytes.get(..20).filter(|header| version == 4 && header[0] & 15 >= 5)?;
    let address = |at: usize| IpAddr::from(std::array::from_fn::<u8, 4, _>(|i| header[at + i]));
    let (protocol, upper, fragment) = ipv4(header);
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
