//! Checksums: summed (RFC 1071) and updated (RFC 1624).

use std::net::IpAddr;

/// One's complement sum of 16-bit words; an odd last octet is the high half of a word.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    let total =
        bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0))).sum();
    fold(total)
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// A checksum from scratch.
pub(super) fn compute(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// RFC 1624 eqn 3, HC' = ~(~HC + ~m + m'), over all words of `old` and `new` (same even length) in one sum that is folded at the
/// end. Whatever was wrong about HC stays exactly as wrong.
///
/// Words that did not change add 0xffff, the other zero of one's complement. That is why a field takes part as a whole: then the sum
/// is never +0 before it is inverted, and any way of adding the same words gives the same bits.
pub(super) fn update(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    let words =
        |bytes: &[u8]| -> Vec<u16> { bytes.chunks_exact(2).map(|w| u16::from_be_bytes([w[0], w[1]])).collect() };
    let mut total = u64::from(!checksum);
    for (m, m_new) in words(old).into_iter().zip(words(new)) {
        total += u64::from(!m) + u64::from(m_new);
    }
    !fold(total)
}

/// Source, destination, length and protocol as TCP, UDP and ICMPv6 sum them (RFC 8200 s8.1). ICMP over IPv4 sums none.
pub(super) fn pseudo_header_v6(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut bytes = super::address_octets(src);
    bytes.extend(super::address_octets(dst));
    bytes.extend((len as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}
