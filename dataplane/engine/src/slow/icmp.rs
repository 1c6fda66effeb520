//! ICMP and ICMPv6 that this node sends: echo replies and errors (RFC 792, 1812 s4.3, 4443).

use crate::flow::{Addr, FlowKey, is_v4, v4};
use crate::io::Mac;
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::Snapshot;
use crate::stage::parse::{Head, link_local};
use crate::wire::{self, ICMP, ICMPV6, be32, be128, checksum, pseudo_header, put};

/// TTL and hop limit of what we send.
const TTL: u8 = 64;
/// Largest IPv4 error in octets (RFC 1812 s4.3.2.3).
const MAX_V4_ERROR: usize = 576;
/// Largest IPv6 error in octets: the minimum MTU (RFC 4443 s2.4 (c)).
const MAX_V6_ERROR: usize = 1280;
/// TOS of IPv4 errors: precedence internetwork control (RFC 1812 s4.3.2.5).
const ERROR_TOS: u8 = 0xc0;

/// The number that says that nothing follows (RFC 8200 s4.7).
const NO_NEXT_HEADER: u8 = 59;
/// The number of IPv6's fragment header, whose second octet is no length.
const FRAGMENT: u8 = 44;

/// Type, code and the second word of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Error {
    kind: u8,
    code: u8,
    rest: u32,
}

/// A bucket of 100 tokens, one more per millisecond: RFC 1812 s4.3.2.8, RFC 4443 s2.4 (f).
pub(super) struct Bucket {
    tokens: u64,
    refilled: u64,
}

const BUCKET: u64 = 100;
const TOKEN: u64 = 1_000_000;

impl Default for Bucket {
    fn default() -> Self {
        Self { tokens: BUCKET, refilled: 0 }
    }
}

impl Bucket {
    pub(super) fn take(&mut self, now: u64) -> bool {
        let full = now.saturating_sub(self.refilled) / TOKEN;
        self.tokens = self.tokens.saturating_add(full).min(BUCKET);
        self.refilled += full * TOKEN;
        self.tokens > 0 && {
            self.tokens -= 1;
            true
        }
    }
}

/// The error a punt calls for and the reason its packet is dropped under.
pub(super) fn error_for(punt: PuntReason, v6: bool, mtu: u16) -> (Error, DropReason) {
    let (v4_error, v6_error, reason) = match punt {
        PuntReason::TtlExceeded => ((11, 0), (3, 0), DropReason::TtlExceeded),
        PuntReason::RouteReject => ((3, 13), (1, 1), DropReason::RouteReject),
        PuntReason::RuleReject => ((3, 13), (1, 1), DropReason::RuleReject),
        PuntReason::MtuExceeded => ((3, 4), (2, 0), DropReason::MtuExceeded),
        PuntReason::Neighbour => ((3, 1), (1, 3), DropReason::NeighbourUnreachable),
        PuntReason::NoRoute | PuntReason::Arp | PuntReason::Local | PuntReason::Fragment => {
            ((3, 0), (1, 0), DropReason::NoRoute)
        }
    };
    let (kind, code) = if v6 { v6_error } else { v4_error };
    let rest = if punt == PuntReason::MtuExceeded { u32::from(mtu) } else { 0 };
    (Error { kind, code, rest }, reason)
}

/// The error for a packet to an address of ours where nothing listens.
pub(super) fn local_unreachable(frame: &[u8], head: &Head) -> Option<Error> {
    let ports = head.has_ports();
    match (ports, head.v6) {
        (true, false) => Some(Error { kind: 3, code: 3, rest: 0 }),
        (true, true) => Some(Error { kind: 1, code: 4, rest: 0 }),
        (false, false) => Some(Error { kind: 3, code: 2, rest: 0 }),
        (false, true) if head.protocol == NO_NEXT_HEADER => None,
        (false, true) => Some(Error { kind: 4, code: 1, rest: naming_octet(frame, head) }),
    }
}

/// Where an IPv6 packet names its upper-layer protocol: its own header, or the last extension header before that.
fn naming_octet(frame: &[u8], head: &Head) -> u32 {
    let packet = frame.get(usize::from(head.l3)..).unwrap_or(&[]);
    let (mut naming, mut at) = (6, 40);
    let upper = usize::from(head.l4) - usize::from(head.l3);
    while at < upper {
        let fragment = packet.get(naming) == Some(&FRAGMENT);
        naming = at;
        at += if fragment { 8 } else { (packet.get(at + 1).map_or(0, |&len| usize::from(len)) + 1) * 8 };
    }
    naming as u32
}

/// Whether the packet is an ICMP error, about which no error is ever sent.
pub(super) fn is_error(head: &Head) -> bool {
    head.has_l4()
        && head.is_icmp()
        && if head.v6 { head.flags_or_type < 128 } else { matches!(head.flags_or_type, 3 | 4 | 5 | 11 | 12) }
}

/// Whether the checksum of an ICMP or TCP packet holds.
pub(super) fn checksum_holds(frame: &[u8], head: &Head, key: &FlowKey) -> bool {
    let body = frame.get(usize::from(head.l4)..head.end()).unwrap_or(&[]);
    // Only ICMP over IPv4 covers no addresses.
    let covers = head.v6 || !head.is_icmp();
    wire::checksum_holds(body, covers.then_some((key.src, key.dst, head.protocol)))
}

/// The reply to an echo request, from L3 on.
pub(super) fn echo_reply(frame: &[u8], head: &Head, key: &FlowKey) -> Vec<u8> {
    let (l3, end) = (usize::from(head.l3), usize::from(head.l3) + usize::from(head.l3_len));
    let mut body = frame.get(usize::from(head.l4)..end).unwrap_or(&[]).to_vec();
    put(&mut body, 0, &[if head.v6 { 129 } else { 0 }, 0]);
    let class = |at: usize| frame.get(l3 + at).copied().unwrap_or(0);
    let tos = if head.v6 { class(0) << 4 | class(1) >> 4 } else { class(1) };
    packet(key.dst, key.src, tos, body)
}

/// An echo request of our own, from L3 on.
pub(super) fn echo_request(source: Addr, to: Addr, identifier: u16, sequence: u16, data: &[u8]) -> Vec<u8> {
    let mut body = vec![if is_v4(to) { 8 } else { 128 }, 0, 0, 0];
    body.extend(identifier.to_be_bytes());
    body.extend(sequence.to_be_bytes());
    body.extend(data);
    packet(source, to, 0, body)
}

/// An error about `frame`, from L3 on.
pub(super) fn error_packet(frame: &[u8], head: &Head, key: &FlowKey, source: Addr, error: Error) -> Vec<u8> {
    let room = if head.v6 { MAX_V6_ERROR - 40 - 8 } else { MAX_V4_ERROR - 20 - 8 };
    let (from, end) = (usize::from(head.l3), usize::from(head.l3) + usize::from(head.l3_len));
    let quoted = frame.get(from..end.min(from + room)).unwrap_or(&[]);
    let mut body = vec![error.kind, error.code, 0, 0];
    body.extend(error.rest.to_be_bytes());
    body.extend(quoted);
    packet(source, key.src, if head.v6 { 0 } else { ERROR_TOS }, body)
}

/// The address errors come from: of the receiving interface, else of any, else (IPv6) the link-local one.
pub(super) fn source_address(snapshot: &Snapshot, interface: u32, v6: bool, mac: Mac) -> Option<Addr> {
    let receiving = snapshot.interface(interface).into_iter();
    receiving
        .chain(snapshot.interfaces())
        .flat_map(|i| i.addresses.iter().map(|a| a.0))
        .find(|&a| is_v4(a) != v6)
        .or_else(|| v6.then(|| link_local(mac)))
}

/// The tuple of a packet of ours, ports 0.
pub(super) fn flow_of(packet: &[u8]) -> FlowKey {
    let number = |at: usize| packet.get(at).copied().unwrap_or(0);
    let (src, dst, protocol) = if number(0) >> 4 == 6 {
        (be128(packet, 8), be128(packet, 24), number(6))
    } else {
        (v4(be32(packet, 12)), v4(be32(packet, 16)), number(9))
    };
    FlowKey { src, dst, protocol, sport: 0, dport: 0 }
}

/// An IP packet around an ICMP body whose checksum field is filled in here.
fn packet(src: Addr, dst: Addr, tos: u8, mut body: Vec<u8>) -> Vec<u8> {
    put(&mut body, 2, &[0, 0]);
    let v6 = !is_v4(src);
    let pseudo = if v6 { pseudo_header(src, dst, true, ICMPV6, body.len()) } else { 0 };
    let body_sum = checksum(&body, pseudo);
    put(&mut body, 2, &body_sum.to_be_bytes());
    around(src, dst, tos, if v6 { ICMPV6 } else { ICMP }, &body)
}

/// An IP packet of ours around a finished body.
pub(super) fn around(src: Addr, dst: Addr, tos: u8, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(40 + body.len());
    if is_v4(src) {
        packet.extend([0x45, tos]);
        packet.extend((20 + body.len() as u16).to_be_bytes());
        // Atomic datagrams: identification 0 and DF (RFC 6864 s4.1).
        packet.extend([0, 0, 0x40, 0, TTL, protocol, 0, 0]);
        packet.extend((src as u32).to_be_bytes());
        packet.extend((dst as u32).to_be_bytes());
        let header_sum = checksum(&packet, 0);
        put(&mut packet, 10, &header_sum.to_be_bytes());
    } else {
        packet.extend((0x6000_0000 | u32::from(tos) << 20).to_be_bytes());
        packet.extend((body.len() as u16).to_be_bytes());
        packet.extend([protocol, TTL]);
        packet.extend(src.to_be_bytes());
        packet.extend(dst.to_be_bytes());
    }
    packet.extend(body);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{fold, sum};

    #[test]
    fn errors_are_limited_to_a_burst_and_a_rate() {
        let mut bucket = Bucket::default();
        let burst = (0..200).filter(|_| bucket.take(5_000_000)).count();
        assert_eq!(burst, 100);
        let second: usize = (1..=1000u64).map(|ms| (0..10).filter(|_| bucket.take((5 + ms) * 1_000_000)).count()).sum();
        assert_eq!(second, 1000);
        assert!(!bucket.take(0), "a clock that runs backwards adds nothing");
    }

    #[test]
    fn packets_have_valid_checksums() {
        let v6 = packet(1 << 120 | 1, 1 << 120 | 2, 0, vec![128, 0, 9, 9, 1, 2, 3]);
        let body = &v6[40..];
        assert_eq!(fold(sum(body) + pseudo_header(1 << 120 | 1, 1 << 120 | 2, true, ICMPV6, body.len())), 0xffff);
        let v4_packet = packet(v4(0x0a00_0001), v4(0x0a00_0002), 0xc0, vec![8, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(fold(sum(&v4_packet[..20])), 0xffff);
        assert_eq!(fold(sum(&v4_packet[20..])), 0xffff);
        assert_eq!(flow_of(&v4_packet).dst, v4(0x0a00_0002));
    }
}
