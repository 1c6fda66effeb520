//! Internet checksums the slow way (RFC 1071), and whether those of a frame hold.

use std::net::IpAddr;

use super::dissect::{Network, dissect};

/// The internet checksum over the parts as if they were one: the one's complement of the one's complement sum of 16-bit words, an
/// odd last octet counting as the high half of a word (RFC 1071 s1). Summing data that includes a right checksum gives 0.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let octets: Vec<u8> = parts.concat();
    let mut sum: u32 = 0;
    for word in octets.chunks(2) {
        sum += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The pseudo header of TCP, UDP and ICMPv6 over IPv4 (RFC 768, 9293) or IPv6 (RFC 8200 s8.1).
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in [src, dst] {
        match address {
            IpAddr::V4(a) => bytes.extend(a.octets()),
            IpAddr::V6(a) => bytes.extend(a.octets()),
        }
    }
    if src.is_ipv4() {
        bytes.extend([0, protocol]);
        bytes.extend((len as u16).to_be_bytes());
    } else {
        bytes.extend((len as u32).to_be_bytes());
        bytes.extend([0, 0, 0, protocol]);
    }
    bytes
}

/// Result of looking at one checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// There is none, or not all of what it covers is there (fragments).
    Absent,
    /// It holds.
    Good,
    /// It does not.
    Bad,
}

/// Both checksums of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// The IPv4 header's.
    pub l3: Check,
    /// TCP's, UDP's, ICMP's or ICMPv6's.
    pub l4: Check,
}

/// Recomputes the checksums of a frame.
pub fn checksums(frame: &[u8]) -> Checks {
    let Network::Ip(ip) = dissect(frame).network else { return Checks { l3: Check::Absent, l4: Check::Absent } };
    let l3 = if ip.src.is_ipv4() { good_if(checksum(&[ip.header]) == 0) } else { Check::Absent };
    let covered = if ip.fragment.is_some_and(|f| f.more || f.offset > 0) {
        None
    } else {
        match (ip.protocol, ip.src.is_ipv4()) {
            (6, _) if ip.body.len() >= 20 => Some(ip.body),
            (17, v4) if ip.body.len() >= 8 => udp_covered(ip.body, v4),
            (1, true) | (58, false) if ip.body.len() >= 4 => Some(ip.body),
            _ => None,
        }
    };
    let l4 = covered.map_or(Check::Absent, |body| {
        let pseudo = if ip.protocol == 1 { vec![] } else { pseudo_header(ip.src, ip.dst, ip.protocol, body.len()) };
        good_if(checksum(&[&pseudo, body]) == 0)
    });
    Checks { l3, l4 }
}

/// The octets under a UDP checksum; none where the field is zero over IPv4 (RFC 768).
fn udp_covered(body: &[u8], v4: bool) -> Option<&[u8]> {
    let len = usize::from(u16::from_be_bytes([body[4], body[5]]));
    if v4 && body[6..8] == [0, 0] {
        return None;
    }
    body.get(..len).filter(|_| len >= 8)
}

fn good_if(holds: bool) -> Check {
    if holds { Check::Good } else { Check::Bad }
}
