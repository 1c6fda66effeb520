//! Whether an address may be one of a set: one bit test, so that the exact answer is looked for only where it may be yes.

use crate::flow::Addr;

/// Bits per address: a stranger is taken for a member in one of 64 cases at most.
const BITS_PER_ADDRESS: usize = 64;
/// Words of the smallest filter, 512 octets.
const LEAST: usize = 64;
/// Words of the largest one, 1 MiB.
const MOST: usize = 1 << 17;

/// A bit per hash value of the members.
#[derive(Debug, Clone)]
pub struct AddressFilter {
    /// A power of two of them.
    words: Box<[u64]>,
    /// Leaves the number of bits that index `words`' bits.
    shift: u32,
}

impl Default for AddressFilter {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl AddressFilter {
    /// From its members.
    pub fn new(members: &[Addr]) -> Self {
        let words = (members.len() * BITS_PER_ADDRESS).div_ceil(64).next_power_of_two().clamp(LEAST, MOST);
        let mut filter = Self { words: vec![0; words].into_boxed_slice(), shift: 64 - (words * 64).trailing_zeros() };
        for &member in members {
            let at = filter.place(member);
            filter.words[at >> 6] |= 1 << (at & 63);
        }
        filter
    }

    /// False: certainly not a member.
    #[inline]
    pub fn may_hold(&self, addr: Addr) -> bool {
        let at = self.place(addr);
        self.words.get(at >> 6).is_some_and(|word| word >> (at & 63) & 1 == 1)
    }

    #[inline]
    fn place(&self, addr: Addr) -> usize {
        let folded = (addr >> 64) as u64 ^ addr as u64;
        (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::v4;

    #[test]
    fn members_are_always_found_and_strangers_rarely() {
        for count in [0, 1, 5, 1000, 100_000] {
            let members: Vec<Addr> =
                (0..count).map(|n| if n % 2 == 0 { v4(n << 3) } else { 0xfd << 120 | u128::from(n) }).collect();
            let filter = AddressFilter::new(&members);
            assert!(members.iter().all(|&m| filter.may_hold(m)));
            let strangers = (0..10_000).filter(|&n| filter.may_hold((0x2001 << 112) | (n * 0x1_0001))).count();
            assert!(strangers < 10_000 / 20, "{count} members: {strangers} of 10000");
        }
    }
}
