//! Header fields by their RFC names: reading and writing big-endian values in frames, and checksums.

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// Octets of an untagged Ethernet header.
pub const ETHERNET: usize = 14;
/// Octets of an 802.1Q tag.
pub const TAG: usize = 4;

/// ICMP.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMPV6: u8 = 58;

/// Two octets at `at`; 0 beyond the end.
#[inline]
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

/// Four octets at `at`; 0 beyond the end.
#[inline]
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// Sixteen octets at `at`; 0 beyond the end.
#[inline]
pub fn be128(bytes: &[u8], at: usize) -> u128 {
    bytes.get(at..at + 16).and_then(|b| b.try_into().ok()).map_or(0, u128::from_be_bytes)
}

/// Writes at `at`; does nothing when that does not fit.
#[inline]
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(target) = bytes.get_mut(at..at + value.len()) {
        target.copy_from_slice(value);
    }
}

/// Sum of the 16-bit words of `bytes` (an odd octet is padded with zero), not folded.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total: u64 = 0;
    for word in words {
        let word = u32::from_be_bytes(*word);
        total += u64::from(word >> 16) + u64::from(word & 0xffff);
    }
    let (pairs, odd) = rest.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_be_bytes(*pair));
    }
    if let [last] = odd {
        total += u64::from(*last) << 8;
    }
    total
}

/// Folds carries until 16 bits are left (RFC 1071). A sum added to itself with its halves exchanged has the folded one, end-around
/// carry included, in its upper half.
#[inline]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The Internet checksum of `bytes`, plus words already summed (pseudo header).
#[inline]
pub fn checksum(bytes: &[u8], extra: u64) -> u16 {
    !fold(sum(bytes) + extra)
}

/// Whether the checksum inside `bytes` holds; `pseudo` gives addresses and protocol of the pseudo header, of either family: what IPv4
/// addresses have in common cancels out.
pub fn checksum_holds(bytes: &[u8], pseudo: Option<(u128, u128, u8)>) -> bool {
    let pseudo = pseudo.map_or(0, |(src, dst, protocol)| pseudo_header(src, dst, true, protocol, bytes.len()));
    fold(sum(bytes) + pseudo) == 0xffff
}

/// Sum of the words of a pseudo header (RFC 768, 793, 8200 s8.1).
pub fn pseudo_header(src: u128, dst: u128, v6: bool, protocol: u8, len: usize) -> u64 {
    let words = |a: u128| if v6 { sum(&a.to_be_bytes()) } else { sum(&(a as u32).to_be_bytes()) };
    words(src) + words(dst) + u64::from(protocol) + (len as u64 >> 16) + (len as u64 & 0xffff)
}

/// Changes to 16-bit words under a checksum, collected: RFC 1624 eqn. 3, `HC' = ~(~HC + sum(~m) + sum(m'))`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change(u64);

impl Change {
    /// The TTL goes down by one: `!m + (m - 0x100)` for its word `m`, whatever else is in it.
    pub const ONE_HOP: Change = Change(0xffff - 0x0100);

    /// One word changes.
    #[inline]
    pub fn word(&mut self, old: u16, new: u16) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    /// An address of either family changes. 2^16 is 1 modulo 65,535, so words can be added two at a time; what IPv4 addresses have in common
    /// with each other cancels out.
    #[inline]
    pub fn address(&mut self, old: u128, new: u128) {
        let words = |half: u64| (half >> 32) + (half & 0xffff_ffff);
        self.0 += words(!(old >> 64) as u64) + words(!old as u64) + words((new >> 64) as u64) + words(new as u64);
    }

    /// Everything that changes in `other` changes here, too.
    #[inline]
    pub fn join(&mut self, other: Change) {
        self.0 += other.0;
    }

    /// The updated checksum.
    #[inline]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn incremental_equals_recomputed(mut bytes in prop::collection::vec(any::<u8>(), 40..41), new: u128, port: u16) {
            // Eqn. 3 and recomputation agree up to the two forms of zero; a header never sums to all zero.
            bytes[0] |= 1;
            let before = checksum(&bytes, 0);
            let mut change = Change::default();
            change.address(be128(&bytes, 8), new);
            change.word(be16(&bytes, 30), port);
            put(&mut bytes, 8, &new.to_be_bytes());
            put(&mut bytes, 30, &port.to_be_bytes());
            prop_assert_eq!(change.apply(before), checksum(&bytes, 0));
        }
    }

    #[test]
    fn rfc_1624_example() {
        // RFC 1624 s4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000, not 0xFFFF.
        let mut change = Change::default();
        change.word(0x5555, 0x3285);
        assert_eq!(change.apply(0xDD2F), 0x0000);
    }

    #[test]
    fn rfc_1071_example_and_odd_lengths() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        assert_eq!(checksum(&[0x01], 0), !0x0100);
        assert_eq!(be16(&[1], 0), 0);
    }
}
