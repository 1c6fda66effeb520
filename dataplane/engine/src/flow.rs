//! Addresses and flow keys as the tables see them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::hash;

/// An IPv4 address as ::ffff:a.b.c.d, an IPv6 address as itself. The mapping is unambiguous: packets with v4-mapped IPv6
/// addresses are martians.
pub type Addr = u128;

const V4_PREFIX: u128 = 0xffff << 32;

/// The address of an IPv4 word (host order).
#[inline]
pub const fn v4(word: u32) -> Addr {
    V4_PREFIX | word as u128
}

/// Whether it is an IPv4 address.
#[inline]
pub const fn is_v4(addr: Addr) -> bool {
    addr >> 32 == 0xffff
}

/// From the standard library's type.
pub fn from_ip(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(a) => v4(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// To the standard library's type.
pub fn to_ip(addr: Addr) -> IpAddr {
    if is_v4(addr) { Ipv4Addr::from_bits(addr as u32).into() } else { Ipv6Addr::from_bits(addr).into() }
}

/// A packet's tuple. `ports` of ICMP echo are (identifier, 0) for requests and (0, identifier) for replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Upper-layer protocol number.
    pub protocol: u8,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

impl FlowKey {
    /// Hash under a seed, as [`hash::flow_words`] lays the words out.
    #[inline]
    pub fn hash(&self, seed: u64) -> u64 {
        let meta = u64::from(self.protocol) << 32 | u64::from(self.sport) << 16 | u64::from(self.dport);
        if is_v4(self.src) {
            hash::hash(seed, &[(self.src as u64) << 32 | self.dst as u64 & 0xffff_ffff, meta])
        } else {
            let halves = |a: Addr| ((a >> 64) as u64, a as u64);
            let ((sh, sl), (dh, dl)) = (halves(self.src), halves(self.dst));
            hash::hash(seed, &[sh, sl, dh, dl, 1 << 40 | meta])
        }
    }

    /// The same flow seen from the other side.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, protocol: self.protocol, sport: self.dport, dport: self.sport }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_agree_with_the_published_word_layout() {
        for (src, dst) in [("10.0.0.1", "192.0.2.7"), ("2001:db8::1", "2001:db8:1::2")] {
            let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
            let key = FlowKey { src: from_ip(src), dst: from_ip(dst), protocol: 6, sport: 1234, dport: 80 };
            let words = hash::flow_words(src, dst, 6, 1234, 80);
            assert_eq!(key.hash(7), hash::hash(7, words.as_slice()));
            assert_eq!((to_ip(key.src), to_ip(key.dst)), (src, dst));
        }
    }
}
