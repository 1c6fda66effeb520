//! Section 5, ICMP errors: what they quote, and the quote without NAT (RFC 5508 s4, RFC 7690).

use std::net::IpAddr;

use super::finish::{Rewrite, update_transport};
use super::forward::{Decision, Refusal};
use super::layer4::{Fragment, ICMP, ICMPV6, Ip, TCP, Tuple, UDP, quoted_upper};
use super::outcome::Outcome;
use super::{Reference, address_octets, checksum, icmp};
use crate::reason::DropReason;

/// The packet an error quotes.
struct Quote {
    /// Reversed.
    tuple: Tuple,
    /// Where its IP header and its upper layer begin in the error.
    at: usize,
    upper: usize,
}

impl Reference {
    /// The error without NAT, and what is decided about it; nothing if it is about no session.
    pub(super) fn related(&mut self, ip: &Ip, out: &mut Outcome) -> Result<Option<(Ip, Decision)>, Refusal> {
        let Some(quote) = quote(ip) else { return Ok(None) };
        let Some((index, direction)) = self.sessions.find(&quote.tuple) else { return Ok(None) };
        sound(ip, &quote)?;
        if !self.current(index, ip.tuple(), out)? {
            return Ok(None);
        }
        // Marks are the session's; what counts, samples, polices or diverts its packets is not asked.
        let decision = Decision { policer: None, way: None, ..Decision::of(&self.sessions.all[index], direction) };
        Ok(Some((translated(ip, &quote, decision.rewrite), decision)))
    }
}

fn quote(ip: &Ip) -> Option<Quote> {
    let kind = *ip.body().first()?;
    let (is_error, icmp) = match ip.src {
        IpAddr::V4(_) => (matches!(kind, 3 | 11 | 12), ICMP),
        IpAddr::V6(_) => (kind < 128, ICMPV6),
    };
    if ip.protocol != icmp || ip.fragment != Fragment::No || !is_error {
        return None;
    }
    let at = ip.upper + 8;
    let quoted = &ip.bytes[at..];
    let (src, dst, protocol, upper) = quoted_upper(quoted, ip.is_v6())?;
    let segment = quoted.get(upper..).filter(|segment| segment.len() >= 8)?;
    let word = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let (sport, dport) = match (protocol, ip.is_v6(), segment[0]) {
        (TCP | UDP, ..) => (word(0), word(2)),
        (ICMP, false, 8) | (ICMPV6, true, 128) => (word(4), 0),
        (ICMP, false, 0) | (ICMPV6, true, 129) => (0, word(4)),
        _ => return None,
    };
    let tuple = Tuple { src: dst, dst: src, protocol, sport: dport, dport: sport };
    (src == ip.dst).then_some(Quote { tuple, at, upper: at + upper })
}

/// RFC 5508 REQ-3.
fn sound(ip: &Ip, quote: &Quote) -> Result<(), DropReason> {
    let header_holds = ip.is_v6() || checksum::sum(&ip.bytes[quote.at..quote.upper]) == 0xffff;
    if icmp::checksum_holds(ip) && header_holds { Ok(()) } else { Err(DropReason::L4Malformed) }
}

/// An end of the quoted packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

/// The error as it would be if nothing had been translated, but for its own addresses.
fn translated(ip: &Ip, quote: &Quote, rewrite: Rewrite) -> Ip {
    let mut new = ip.clone();
    // The quoted packet went the other way: its source is where the error goes.
    match rewrite {
        Rewrite::Nothing | Rewrite::Direct(..) => {}
        Rewrite::Destination(address, port) => replace(&mut new, quote, End::Source, address, port),
        Rewrite::Source(address, port) => replace(&mut new, quote, End::Destination, address, port),
        Rewrite::Both(to, from) => {
            replace(&mut new, quote, End::Source, to.0, to.1);
            replace(&mut new, quote, End::Destination, from.0, from.1);
        }
    }
    // The message's own sum covers all of the quote; what is the same on both sides adds nothing.
    let sum_at = ip.upper + 2;
    let before = u16::from_be_bytes([ip.bytes[sum_at], ip.bytes[sum_at + 1]]);
    let after = checksum::update(before, &ip.bytes[quote.at..], &new.bytes[quote.at..]);
    new.bytes[sum_at..sum_at + 2].copy_from_slice(&after.to_be_bytes());
    new
}

/// Address and port of one end in the quote, and its checksums.
fn replace(ip: &mut Ip, quote: &Quote, end: End, address: IpAddr, port: u16) {
    let v6 = ip.is_v6();
    let bytes = &mut ip.bytes;
    let octets = address_octets(address);
    let address_at = quote.at
        + match (v6, end) {
            (false, End::Source) => 12,
            (false, End::Destination) => 16,
            (true, End::Source) => 8,
            (true, End::Destination) => 24,
        };
    let address_end = address_at + octets.len();
    let mut old = bytes[address_at..address_end].to_vec();
    let mut summed = octets.clone();
    bytes[address_at..address_end].copy_from_slice(&octets);
    if !v6 {
        let field = quote.at + 10..quote.at + 12;
        let before = u16::from_be_bytes([bytes[field.start], bytes[field.start + 1]]);
        bytes[field].copy_from_slice(&checksum::update(before, &old, &summed).to_be_bytes());
    }
    let protocol = quote.tuple.protocol;
    if matches!(protocol, TCP | UDP) {
        let port_at = if end == End::Source { quote.upper } else { quote.upper + 2 };
        old.extend_from_slice(&bytes[port_at..port_at + 2]);
        summed.extend_from_slice(&port.to_be_bytes());
        bytes[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
    }
    update_transport(bytes, quote.upper, protocol, v6, &old, &summed);
}
