//! The one hash of the engine: Maglev rings, flow placement and next-hop choice. Every node, worker and tier computes the same
//! values, so neither function nor seeds may change without a version step of the whole cluster.
//!
//! The mixing step is the folded 64x64 -> 128 bit multiplication of wyhash (Wang Yi, public domain): one `mul` and one `xor` per word.

use std::net::IpAddr;

/// Seed under which flows look up a slot of a Maglev ring ("MaglevF1").
pub const MAGLEV_FLOW_SEED: u64 = 0x4D61_676C_6576_4631;
/// Seed under which flows choose among several next hops ("ECMPHash").
pub const ECMP_SEED: u64 = 0x4543_4D50_4861_7368;
/// Slots over which the flows of a route with several next hops spread: with eight hops shares are then within about 10 % of the weights.
pub const ECMP_SLOTS: usize = 1024;
/// Seed of a next hop's identity ("ECMPHops").
pub const ECMP_HOP_SEED: u64 = 0x4543_4D50_486F_7073;
/// Seed of the entropy of tunnels ("TunnelFl").
pub const TUNNEL_SEED: u64 = 0x5475_6E6E_656C_466C;
/// Seed of a backend's first ring position ("RingOffs").
pub const RING_OFFSET_SEED: u64 = 0x5269_6E67_4F66_6673;
/// Seed of a backend's step through the ring ("RingSkip").
pub const RING_SKIP_SEED: u64 = 0x5269_6E67_536B_6970;
/// Maglev: who serves the slots of a backend that is out.
pub const RING_OUT_SEED: u64 = 0x5269_6E67_2D4F_7574;

/// High and low half of the 128-bit product, folded.
#[inline]
pub const fn mix(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    (product >> 64) as u64 ^ product as u64
}

/// Hash of a sequence of words under a seed. The length counts: `[1]` and `[1, 0]` differ.
#[inline]
pub fn hash(seed: u64, words: &[u64]) -> u64 {
    let mut h = seed ^ 0x9E37_79B9_7F4A_7C15;
    for &word in words {
        h = mix(h ^ word, 0xD6E8_FEB8_6659_FD93);
    }
    mix(h ^ (words.len() as u64), 0xA076_1D64_78BD_642F)
}

/// The words of a flow, as [`hash`] takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowWords {
    words: [u64; 5],
    len: usize,
}

impl FlowWords {
    /// The words in use: 2 for IPv4, 5 for IPv6.
    #[inline]
    pub fn as_slice(&self) -> &[u64] {
        &self.words[..self.len]
    }
}

/// Words of a tuple: IPv4 `[src << 32 | dst, meta]`, IPv6 `[src high, src low, dst high, dst low, meta]`, where
/// `meta = (1 << 40 if IPv6) | protocol << 32 | sport << 16 | dport`. Both addresses must be of one family; a mixed pair (which no
/// packet has) is widened to IPv6 as ::a.b.c.d.
#[inline]
pub fn flow_words(src: IpAddr, dst: IpAddr, protocol: u8, sport: u16, dport: u16) -> FlowWords {
    let meta = (protocol as u64) << 32 | (sport as u64) << 16 | dport as u64;
    if let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) {
        let pair = (src.to_bits() as u64) << 32 | dst.to_bits() as u64;
        return FlowWords { words: [pair, meta, 0, 0, 0], len: 2 };
    }
    let (src, dst) = (wide(src), wide(dst));
    FlowWords { words: [(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64, 1 << 40 | meta], len: 5 }
}

/// What a next hop's claims are made of.
pub fn hop_identity(address: IpAddr) -> u64 {
    hash(ECMP_HOP_SEED, backend_words(address, None).as_slice())
}

/// A next hop's claim to a slot: -log2 of a random number of 64 bits below 1, in units of 2^-20, so exponentially distributed. Then the
/// least of claim / weight falls to a hop in proportion to its weight, and without a hop the others' order is what it was (weighted
/// rendezvous hashing, Schindelhauer and Schomaker 2005). In integers, so that every machine agrees.
pub fn hop_claim(identity: u64, slot: usize) -> u64 {
    const BITS: u32 = 20;
    let random = hash(identity, &[slot as u64]) | 1;
    let whole = random.ilog2();
    // The mantissa, 1.63; each squaring gives one more bit of its logarithm.
    let mut mantissa = random << (63 - whole);
    let mut log = u64::from(whole);
    for _ in 0..BITS {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let carry = (square >> 64) as u64;
        mantissa = (square >> carry) as u64;
        log = log << 1 | carry;
    }
    (64 << BITS) - log
}

/// Words that identify a backend in a ring: IPv4 `[address, port or 0]`, IPv6 `[high, low, port or 0]`.
#[inline]
pub fn backend_words(address: IpAddr, port: Option<u16>) -> FlowWords {
    let port = u64::from(port.unwrap_or(0));
    match address {
        IpAddr::V4(a) => FlowWords { words: [a.to_bits() as u64, port, 0, 0, 0], len: 2 },
        IpAddr::V6(a) => {
            let bits = a.to_bits();
            FlowWords { words: [(bits >> 64) as u64, bits as u64, port, 0, 0], len: 3 }
        }
    }
}

#[inline]
fn wide(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => a.to_bits() as u128,
        IpAddr::V6(a) => a.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn claims_are_logarithms() {
        for slot in 0..2000 {
            let identity = hop_identity(IpAddr::from([192, 0, 2, 7]));
            let random = (hash(identity, &[slot as u64]) | 1) as f64 / 2f64.powi(64);
            let claim = hop_claim(identity, slot) as f64 / f64::from(1 << 20);
            assert!((claim + random.log2()).abs() < 1e-5, "slot {slot}: {claim} of {random}");
        }
    }

    use super::*;

    const HASH_EMPTY: u64 = 0x6705_27F2_8686_2C69;
    const HASH_ONE: u64 = 0xF91E_BE47_AC38_3D69;
    const HASH_ONE_ZERO: u64 = 0xE5A3_1965_8BDC_68C6;
    const HASH_FLOW: u64 = 0xDB90_6470_171A_45C5;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn mix_is_the_folded_product() {
        assert_eq!(mix(0, 5), 0);
        assert_eq!(mix(3, 5), 15);
        assert_eq!(mix(1 << 63, 2), 1);
        assert_eq!(mix(u64::MAX, u64::MAX), 0xFFFF_FFFF_FFFF_FFFE ^ 1);
    }

    #[test]
    fn words_have_the_documented_layout() {
        let v4 = flow_words(ip("10.0.0.1"), ip("192.0.2.7"), 6, 0x1234, 80);
        assert_eq!(v4.as_slice(), [0x0A00_0001_C000_0207, 0x0006_1234_0050]);
        let v6 = flow_words(ip("2001:db8::1"), ip("2001:db8:1::2"), 17, 1, 2);
        assert_eq!(v6.as_slice(), [0x2001_0db8_0000_0000, 1, 0x2001_0db8_0001_0000, 2, 0x0111_0001_0002]);
        assert_eq!(backend_words(ip("10.0.0.1"), None).as_slice(), [0x0A00_0001, 0]);
        assert_eq!(backend_words(ip("::5"), Some(80)).as_slice(), [0, 5, 80]);
    }

    /// Values computed independently (Python integers): the function is part of the cluster's contract.
    #[test]
    fn known_values() {
        assert_eq!(hash(0, &[]), HASH_EMPTY);
        assert_eq!(hash(MAGLEV_FLOW_SEED, &[1]), HASH_ONE);
        assert_eq!(hash(MAGLEV_FLOW_SEED, &[1, 0]), HASH_ONE_ZERO);
        let flow = flow_words(ip("10.0.0.1"), ip("192.0.2.7"), 6, 0x1234, 80);
        assert_eq!(hash(ECMP_SEED, flow.as_slice()), HASH_FLOW);
    }
}
