//! Section 2: the IPv4 and IPv6 headers and the addresses in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::layer2::{Frame, Kind};
use super::node::Node;
use crate::reason::DropReason;

/// A packet whose fixed header is sound.
#[derive(Clone, Debug)]
pub(super) struct Header {
    /// From the first octet of the header; padding is cut off.
    pub bytes: Vec<u8>,
    pub src: IpAddr,
    pub dst: IpAddr,
}

pub(super) fn parse(node: &Node, frame: &Frame) -> Result<Header, DropReason> {
    let header = if frame.kind == Kind::V4 { ipv4(&frame.payload)? } else { ipv6(&frame.payload)? };
    if is_martian_source(node, header.src) {
        return Err(DropReason::MartianSource);
    }
    if is_martian_destination(header.dst) {
        return Err(DropReason::MartianDestination);
    }
    if is_ipv4_multicast_or_broadcast(node, header.dst) {
        return Err(DropReason::Multicast);
    }
    if header.src.is_ipv4() && !options_acceptable(&header.bytes) {
        return Err(DropReason::IpOptions);
    }
    Ok(header)
}

/// RFC 791 s3.1, RFC 1812 s5.2.2.
fn ipv4(bytes: &[u8]) -> Result<Header, DropReason> {
    if bytes.len() < 20 || bytes[0] >> 4 != 4 {
        return Err(DropReason::IpMalformed);
    }
    let header_len = usize::from(bytes[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    if header_len < 20 || total < header_len {
        return Err(DropReason::IpMalformed);
    }
    if total > bytes.len() {
        return Err(DropReason::IpTruncated);
    }
    if super::checksum::sum(&bytes[..header_len]) != 0xffff {
        return Err(DropReason::IpChecksum);
    }
    let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]).into();
    Ok(Header { bytes: bytes[..total].to_vec(), src: address(12), dst: address(16) })
}

/// RFC 8200 s3.
fn ipv6(bytes: &[u8]) -> Result<Header, DropReason> {
    if bytes.len() < 40 || bytes[0] >> 4 != 6 {
        return Err(DropReason::IpMalformed);
    }
    let total = 40 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    if total > bytes.len() {
        return Err(DropReason::IpTruncated);
    }
    let address = |at: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| bytes[at + i])).into();
    Ok(Header { bytes: bytes[..total].to_vec(), src: address(8), dst: address(24) })
}

/// RFC 1812 s5.3.7, RFC 6890. `::` and fe80::/10 may be sources on the link and are judged later.
fn is_martian_source(node: &Node, ip: IpAddr) -> bool {
    let never = match ip {
        IpAddr::V4(a) => is_v4_martian(a) || a.octets()[0] >= 224,
        IpAddr::V6(a) => a.octets()[0] == 0xff || a == Ipv6Addr::LOCALHOST || is_mapped(a),
    };
    never || node.is_interface_address(ip)
}

/// RFC 1812 s5.3.7, RFC 4291 s2.5.2 and s2.5.3.
fn is_martian_destination(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => is_v4_martian(a) || a.octets()[0] >= 240 && a != Ipv4Addr::BROADCAST,
        IpAddr::V6(a) => a == Ipv6Addr::UNSPECIFIED || a == Ipv6Addr::LOCALHOST || is_mapped(a),
    }
}

/// 0.0.0.0/8, 127/8 and 169.254/16: neither sources nor destinations of forwarded packets.
fn is_v4_martian(a: Ipv4Addr) -> bool {
    matches!(a.octets(), [0 | 127, ..] | [169, 254, ..])
}

/// ::ffff:0:0/96.
fn is_mapped(a: Ipv6Addr) -> bool {
    a.to_ipv4_mapped().is_some()
}

fn is_ipv4_multicast_or_broadcast(node: &Node, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => a.is_multicast() || a == Ipv4Addr::BROADCAST || node.is_directed_broadcast(ip),
        IpAddr::V6(_) => false,
    }
}

/// RFC 1812 s5.2.4.1: source routes and record route are refused, as is a list that does not parse.
fn options_acceptable(bytes: &[u8]) -> bool {
    let mut rest = &bytes[20..usize::from(bytes[0] & 15) * 4];
    while let Some(&kind) = rest.first() {
        match kind {
            0 => return true,
            1 => rest = &rest[1..],
            7 | 131 | 137 => return false,
            _ => match rest.get(1) {
                Some(&len) if len >= 2 && usize::from(len) <= rest.len() => rest = &rest[usize::from(len)..],
                _ => return false,
            },
        }
    }
    true
}
