//! ICMP errors (RFC 792, 1812, 4443), echo, and packets made here in general.

use std::net::IpAddr;

use super::layer2::{Frame, Kind, enframe};
use super::layer4::{Fragment, ICMP, ICMPV6, Ip, Message, TCP, Tuple, UDP};
use super::neighbour::Held;
use super::outcome::{Fate, Outcome};
use super::route::{Route, lookup};
use super::{Reference, address_octets, checksum, finish, node};
use crate::reason::{ConsumeReason, DropReason};

/// ICMP errors that may be sent at once, and one more per millisecond.
const ERROR_BURST: u64 = 100;
const MILLISECOND: u64 = 1_000_000;
/// RFC 1812 s4.3.2.3 and RFC 4443 s2.4 (c): longest error packet.
const MAX_ERROR_V4: usize = 576;
const MAX_ERROR_V6: usize = 1280;

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    TtlExceeded,
    NoRoute,
    Rejected,
    HostUnreachable,
    /// A rule says so.
    Prohibited,
    /// With the egress MTU.
    TooBig(u16),
    PortClosed,
    ProtocolUnknown,
}

impl Cause {
    /// The name under which the offending packet ends.
    fn drop_reason(self) -> DropReason {
        match self {
            Self::TtlExceeded => DropReason::TtlExceeded,
            Self::NoRoute => DropReason::NoRoute,
            Self::Rejected => DropReason::RouteReject,
            Self::HostUnreachable => DropReason::NeighbourUnreachable,
            Self::Prohibited => DropReason::RuleReject,
            Self::TooBig(_) => DropReason::MtuExceeded,
            Self::PortClosed | Self::ProtocolUnknown => DropReason::LocalUnreachable,
        }
    }

    /// Type and code.
    #[expect(clippy::match_same_arms, reason = "one line per message")]
    fn message(self, v6: bool) -> (u8, u8) {
        match (self, v6) {
            (Self::TtlExceeded, false) => (11, 0),
            (Self::TtlExceeded, true) => (3, 0),
            (Self::NoRoute, false) => (3, 0),
            (Self::NoRoute, true) => (1, 0),
            (Self::Rejected | Self::Prohibited, false) => (3, 13),
            (Self::Rejected | Self::Prohibited, true) => (1, 1),
            (Self::HostUnreachable, false) => (3, 1),
            (Self::HostUnreachable, true) => (1, 3),
            (Self::TooBig(_), false) => (3, 4),
            (Self::TooBig(_), true) => (2, 0),
            (Self::PortClosed, false) => (3, 3),
            (Self::PortClosed, true) => (1, 4),
            (Self::ProtocolUnknown, false) => (3, 2),
            (Self::ProtocolUnknown, true) => (4, 1),
        }
    }
}

/// The bucket of ICMP errors: full at time 0, a token at every full millisecond of the clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorRate {
    tokens: u64,
    millisecond: u64,
}

impl Default for ErrorRate {
    fn default() -> Self {
        Self { tokens: ERROR_BURST, millisecond: 0 }
    }
}

impl ErrorRate {
    pub(super) fn take(&mut self, now: u64) -> bool {
        let millisecond = self.millisecond.max(now / MILLISECOND);
        self.tokens = (self.tokens + (millisecond - self.millisecond)).min(ERROR_BURST);
        self.millisecond = millisecond;
        let allowed = self.tokens > 0;
        self.tokens -= u64::from(allowed);
        allowed
    }
}

impl Reference {
    /// Drops a packet and tells its sender, where that is proper.
    pub(super) fn refuse(&mut self, now: u64, interface: usize, ip: &Ip, cause: Cause, out: &mut Outcome) -> Fate {
        let fate = Fate::Dropped(cause.drop_reason());
        // RFC 1122 s3.2.2, RFC 4443 s2.4 (e): never about errors, nor about fragments without the header that names the flow.
        if ip.fragment == Fragment::Later || ip.message() == Some(Message::Error) {
            return fate;
        }
        let v6 = ip.is_v6();
        let (kind, code) = cause.message(v6);
        let Some(source) = self.node.error_source(interface, v6) else { return fate };
        if !self.errors.take(now) {
            return fate;
        }
        let rest = match cause {
            Cause::TooBig(mtu) => u32::from(mtu),
            Cause::ProtocolUnknown if v6 => pointer(ip),
            _ => 0,
        };
        let room = if v6 { MAX_ERROR_V6 - 48 } else { MAX_ERROR_V4 - 28 };
        let mut body = vec![kind, code, 0, 0];
        body.extend(rest.to_be_bytes());
        body.extend(&ip.bytes[..ip.bytes.len().min(room)]);
        // RFC 1812 s4.3.2.5: precedence 6.
        let packet = icmp_packet(source, ip.src, if v6 { 0 } else { 0xc0 }, body);
        self.originate(now, interface, source, ip.src, &packet, out);
        fate
    }

    /// A packet for one of our addresses, or neighbour discovery for a group.
    pub(super) fn local(&mut self, now: u64, frame: &Frame, ip: &Ip, out: &mut Outcome) -> Fate {
        let message = ip.message();
        // Fragments come here where a service address has no service for them. What is not all here cannot be looked at.
        if ip.fragment != Fragment::No {
            return match message {
                Some(_) => Fate::Dropped(DropReason::LocalUnreachable),
                None => self.unserved(now, frame, ip, out),
            };
        }
        if message.is_some() && !checksum_holds(ip) {
            return Fate::Dropped(DropReason::L4Malformed);
        }
        if let Some(message @ (Message::Solicitation | Message::Advertisement)) = message {
            return self.nd(now, frame, ip, message, out);
        }
        // Only neighbour discovery may come from the unspecified address; there is nobody to answer.
        if ip.src.is_unspecified() {
            return Fate::Dropped(DropReason::MartianSource);
        }
        match message {
            Some(Message::EchoRequest) => {
                let mut body = ip.body().to_vec();
                body[..4].copy_from_slice(&[if ip.is_v6() { 129 } else { 0 }, 0, 0, 0]);
                let packet = icmp_packet(ip.dst, ip.src, finish::tos(ip), body);
                self.originate(now, frame.interface, ip.dst, ip.src, &packet, out);
                Fate::Consumed(ConsumeReason::Echo)
            }
            Some(Message::Error) => Fate::Dropped(DropReason::IcmpErrorUnmatched),
            // RFC 1122 s3.2.2: ICMP of unknown type is silently discarded.
            Some(_) => Fate::Dropped(DropReason::LocalUnreachable),
            None => self.unserved(now, frame, ip, out),
        }
    }

    /// Not ICMP, and nobody listens.
    fn unserved(&mut self, now: u64, frame: &Frame, ip: &Ip, out: &mut Outcome) -> Fate {
        match ip.protocol {
            TCP | UDP => self.refuse(now, frame.interface, ip, Cause::PortClosed, out),
            // Nothing follows, and nothing is wrong about that.
            59 if ip.is_v6() => Fate::Dropped(DropReason::LocalUnreachable),
            _ => self.refuse(now, frame.interface, ip, Cause::ProtocolUnknown, out),
        }
    }

    /// Routes a packet made here like one received on `interface`.
    pub(super) fn originate(
        &mut self,
        now: u64,
        interface: usize,
        src: IpAddr,
        dst: IpAddr,
        packet: &[u8],
        out: &mut Outcome,
    ) {
        out.originated += 1;
        let fate = self.send(now, interface, src, dst, packet, out);
        out.count(fate);
    }

    fn send(&mut self, now: u64, interface: usize, src: IpAddr, dst: IpAddr, packet: &[u8], out: &mut Outcome) -> Fate {
        let protocol = if src.is_ipv6() { packet[6] } else { packet[9] };
        let flow = Tuple { src, dst, protocol, sport: 0, dport: 0 };
        let route = if node::is_link_local(dst) {
            Route::Via { interface, next_hop: dst }
        } else {
            lookup(&self.node, self.node.interface(interface).table, dst, &flow)
        };
        let (egress, next_hop) = match route {
            Route::Via { interface, next_hop } => (interface, next_hop),
            Route::None => return Fate::Dropped(DropReason::NoRoute),
            Route::Blackhole => return Fate::Dropped(DropReason::RouteBlackhole),
            Route::Reject => return Fate::Dropped(DropReason::RouteReject),
        };
        if packet.len() > self.node.mtu(egress) {
            return Fate::Dropped(DropReason::MtuExceeded);
        }
        let kind = if src.is_ipv6() { Kind::V6 } else { Kind::V4 };
        let frame = enframe(&self.node, egress, [0; 6], kind, packet);
        self.neighbours.deliver(now, &self.node, egress, next_hop, Held { frame, received: None }, out)
    }
}

/// RFC 4443 s3.4: offset of the octet that names the upper layer.
fn pointer(ip: &Ip) -> u32 {
    let mut headers = vec![(ip.bytes[6], 6)];
    let mut at = 40;
    while let Some(&(number @ (0 | 43 | 44 | 60), _)) = headers.last() {
        headers.push((ip.bytes[at], at));
        at += if number == 44 { 8 } else { 8 * (1 + usize::from(ip.bytes[at + 1])) };
    }
    headers.last().map_or(6, |(_, named_at)| *named_at as u32)
}

/// The checksum of ICMP, or of ICMPv6 with its pseudo header.
pub(super) fn checksum_holds(ip: &Ip) -> bool {
    let mut covered = Vec::new();
    if ip.is_v6() {
        covered = checksum::pseudo_header_v6(ip.src, ip.dst, ICMPV6, ip.body().len());
    }
    covered.extend(ip.body());
    checksum::sum(&covered) == 0xffff
}

/// An ICMP packet of the addresses' family; `body` has its checksum still zero.
fn icmp_packet(src: IpAddr, dst: IpAddr, tos: u8, body: Vec<u8>) -> Vec<u8> {
    if src.is_ipv6() { packet_v6(src, dst, tos, 64, ICMPV6, body) } else { packet_v4(src, dst, tos, body) }
}

/// Identification 0, DF (RFC 6864), TTL 64, no options.
fn packet_v4(src: IpAddr, dst: IpAddr, tos: u8, mut body: Vec<u8>) -> Vec<u8> {
    let sum = checksum::compute(&body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x45, tos];
    packet.extend(((20 + body.len()) as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, ICMP, 0, 0]);
    packet.extend(address_octets(src));
    packet.extend(address_octets(dst));
    let sum = checksum::compute(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(body);
    packet
}

/// Flow label 0, no extension headers.
pub(super) fn packet_v6(src: IpAddr, dst: IpAddr, class: u8, hops: u8, next: u8, mut body: Vec<u8>) -> Vec<u8> {
    let mut covered = checksum::pseudo_header_v6(src, dst, next, body.len());
    covered.extend(&body);
    let sum = checksum::compute(&covered);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x60 | class >> 4, class << 4, 0, 0];
    packet.extend((body.len() as u16).to_be_bytes());
    packet.extend([next, hops]);
    packet.extend(address_octets(src));
    packet.extend(address_octets(dst));
    packet.extend(body);
    packet
}
