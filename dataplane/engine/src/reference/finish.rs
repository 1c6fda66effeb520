//! Section 10: what is written into a forwarded packet.

use std::net::IpAddr;

use super::address_octets;
use super::checksum::update;
use super::layer4::{Fragment, ICMPV6, Ip, TCP, UDP};
use crate::tables::ServiceMode;

/// The translation of a session; ports are written for TCP and UDP only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rewrite {
    Nothing,
    Destination(IpAddr, u16),
    Source(IpAddr, u16),
    /// Destination, then source.
    Both((IpAddr, u16), (IpAddr, u16)),
    /// Unchanged to the backend, in this direct mode.
    Direct(ServiceMode, IpAddr),
}

impl Rewrite {
    /// Where the packet goes after rewriting.
    pub fn destination(self, ip: &Ip) -> IpAddr {
        match self {
            Self::Destination(address, _) | Self::Both((address, _), _) | Self::Direct(_, address) => address,
            Self::Nothing | Self::Source(..) => ip.dst,
        }
    }
}

/// The packet as it leaves, from the IP header on. `dscp` of `None` leaves the codepoint alone; `experienced` sets
/// congestion experienced (RFC 3168 s5).
pub(super) fn finish(ip: &Ip, rewrite: Rewrite, dscp: Option<u8>, experienced: bool) -> Vec<u8> {
    let mut bytes = ip.bytes.clone();
    translate(&mut bytes, ip, rewrite);
    let tos = tos(ip);
    let tos = dscp.map_or(tos, |dscp| dscp << 2 | tos & 3);
    let tos = if experienced { tos | 3 } else { tos };
    if ip.is_v6() {
        bytes[0] = bytes[0] & 0xf0 | tos >> 4;
        bytes[1] = tos << 4 | bytes[1] & 0x0f;
        bytes[7] -= 1;
    } else {
        bytes[1] = tos;
        bytes[8] -= 1;
        let header = usize::from(bytes[0] & 15) * 4;
        // The checksum field is the same on both sides, so it adds nothing.
        let sum = update(u16::from_be_bytes([bytes[10], bytes[11]]), &ip.bytes[..header], &bytes[..header]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// TOS or traffic class.
pub(super) fn tos(ip: &Ip) -> u8 {
    if ip.is_v6() { ip.bytes[0] << 4 | ip.bytes[1] >> 4 } else { ip.bytes[1] }
}

fn translate(bytes: &mut [u8], ip: &Ip, rewrite: Rewrite) {
    let (src_at, dst_at) = if ip.is_v6() { (8, 24) } else { (12, 16) };
    let (address, port, address_at, port_at) = match rewrite {
        Rewrite::Nothing | Rewrite::Direct(..) => return,
        Rewrite::Both(to, from) => {
            translate(bytes, ip, Rewrite::Destination(to.0, to.1));
            translate(bytes, ip, Rewrite::Source(from.0, from.1));
            return;
        }
        Rewrite::Source(address, port) => (address, port, src_at, ip.upper),
        Rewrite::Destination(address, port) => (address, port, dst_at, ip.upper + 2),
    };
    let octets = address_octets(address);
    let mut old = bytes[address_at..address_at + octets.len()].to_vec();
    let mut new = octets.clone();
    bytes[address_at..address_at + octets.len()].copy_from_slice(&octets);
    if ip.fragment == Fragment::Later {
        return;
    }
    if matches!(ip.protocol, TCP | UDP) {
        old.extend_from_slice(&bytes[port_at..port_at + 2]);
        new.extend_from_slice(&port.to_be_bytes());
        bytes[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
    }
    update_transport(bytes, ip.upper, ip.protocol, ip.is_v6(), &old, &new);
}

/// The checksum of the upper layer that begins at `upper`, when words under it become others. In a quote it may be cut off.
pub(super) fn update_transport(bytes: &mut [u8], upper: usize, protocol: u8, v6: bool, old: &[u8], new: &[u8]) {
    let checksum_at = upper
        + match protocol {
            TCP => 16,
            UDP => 6,
            ICMPV6 => 2,
            // ICMP over IPv4 sums no pseudo header.
            _ => return,
        };
    if checksum_at + 2 > bytes.len() {
        return;
    }
    let before = u16::from_be_bytes([bytes[checksum_at], bytes[checksum_at + 1]]);
    if protocol == UDP && !v6 && before == 0 {
        return;
    }
    let after = match update(before, old, new) {
        // RFC 768: zero would mean that there is none.
        0 if protocol == UDP => 0xffff,
        sum => sum,
    };
    bytes[checksum_at..checksum_at + 2].copy_from_slice(&after.to_be_bytes());
}
