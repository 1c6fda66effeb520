//! Longest-prefix match: a trie over 16 then 8 bits of the address at a time, leaves pushed down, so that a lookup is one load per
//! level: at most 3 for IPv4 and, for prefixes up to /64, 7 for IPv6.

use crate::flow::{Addr, is_v4};

/// No route.
const EMPTY: u32 = 0;
/// The entry names a node instead of a value.
const CHILD: u32 = 1 << 31;

/// One routing table of one family. Values are indexes given by the builder, below 2^31 - 1.
#[derive(Debug, Clone)]
struct Trie {
    /// By the first 16 bits.
    root: Box<[u32]>,
    /// By 8 more bits each.
    nodes: Vec<[u32; 256]>,
}

impl Trie {
    fn new() -> Self {
        Self { root: vec![EMPTY; 1 << 16].into_boxed_slice(), nodes: Vec::new() }
    }

    /// Inserts a prefix given as its bits from the most significant one of 128. Prefixes must come in order of length.
    fn insert(&mut self, bits: u128, len: u8, value: u32) {
        let leaf = value + 1;
        let first = (bits >> 112) as usize;
        if len <= 16 {
            fill(&mut self.root[first..first + (1 << (16 - len))], leaf);
            return;
        }
        let mut node = Self::child(&mut self.nodes, &mut self.root[first]);
        let mut depth = 16;
        loop {
            let byte = (bits >> (120 - depth)) as usize & 0xff;
            if len <= depth + 8 {
                fill(&mut self.nodes[node][byte..byte + (1 << (depth + 8 - len))], leaf);
                return;
            }
            let mut entry = self.nodes[node][byte];
            let next = Self::child(&mut self.nodes, &mut entry);
            self.nodes[node][byte] = entry;
            node = next;
            depth += 8;
        }
    }

    /// The node an entry leads to, made if it is not there yet; it inherits what the entry said.
    fn child(nodes: &mut Vec<[u32; 256]>, entry: &mut u32) -> usize {
        if *entry & CHILD == 0 {
            nodes.push([*entry; 256]);
            *entry = CHILD | (nodes.len() - 1) as u32;
        }
        (*entry & !CHILD) as usize
    }

    #[inline]
    fn lookup(&self, bits: u128) -> Option<u32> {
        let mut entry = self.root[(bits >> 112) as u16 as usize];
        let mut shift = 104;
        while entry & CHILD != 0 {
            entry = self.nodes.get((entry & !CHILD) as usize)?[(bits >> shift) as u8 as usize];
            shift -= 8;
        }
        entry.checked_sub(1)
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.root) + self.nodes.len() * size_of::<[u32; 256]>()
    }
}

/// All leaves of the range that are not nodes become `leaf`. Because prefixes come in order of length, nothing in the range is
/// more specific unless it lies below a node, and nodes are only made by longer prefixes, which come later.
fn fill(range: &mut [u32], leaf: u32) {
    range.fill(leaf);
}

/// One routing table: both families.
#[derive(Debug, Default, Clone)]
pub struct Fib {
    v4: Option<Trie>,
    v6: Option<Trie>,
}

impl Fib {
    /// Builds from (prefix address, prefix length in bits of its own family, value).
    pub fn build(prefixes: impl IntoIterator<Item = (Addr, u8, u32)>) -> Self {
        let mut sorted: Vec<_> = prefixes.into_iter().collect();
        sorted.sort_by_key(|&(_, len, _)| len);
        let mut fib = Self::default();
        for (addr, len, value) in sorted {
            if is_v4(addr) {
                fib.v4.get_or_insert_with(Trie::new).insert(addr << 96, len, value);
            } else {
                fib.v6.get_or_insert_with(Trie::new).insert(addr, len, value);
            }
        }
        fib
    }

    /// The value of the longest prefix that contains the address.
    #[inline]
    pub fn lookup(&self, addr: Addr) -> Option<u32> {
        if is_v4(addr) { self.v4.as_ref()?.lookup(addr << 96) } else { self.v6.as_ref()?.lookup(addr) }
    }

    /// Starts loading the first level's line for the address.
    #[inline]
    pub fn prefetch(&self, addr: Addr) {
        let (trie, bits) = if is_v4(addr) { (&self.v4, addr << 96) } else { (&self.v6, addr) };
        if let Some(trie) = trie {
            marchproxy_cpu::prefetch_slice(&trie.root, (bits >> 112) as u16 as usize);
        }
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        self.v4.iter().chain(&self.v6).map(Trie::bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::v4;
    use proptest::prelude::*;

    /// The slow twin: try every prefix.
    fn scan(prefixes: &[(Addr, u8, u32)], addr: Addr) -> Option<u32> {
        let inside = |&&(prefix, len, _): &&(Addr, u8, u32)| {
            is_v4(prefix) == is_v4(addr)
                && (prefix ^ addr).checked_shr(if is_v4(addr) { 32 } else { 128 } - u32::from(len)).unwrap_or(0) == 0
        };
        prefixes.iter().filter(inside).max_by_key(|p| p.1).map(|p| p.2)
    }

    fn prefix() -> impl Strategy<Value = (Addr, u8)> {
        // Few distinct high bits, so that prefixes nest and lookups hit.
        let v4s = (0u32..4, any::<u16>(), 0u8..=32).prop_map(|(high, low, len)| {
            let word = high << 30 | u32::from(low) << 8 | u32::from(low & 3);
            (v4(word & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)), len)
        });
        let v6s = (0u128..4, any::<u32>(), 0u8..=128).prop_map(|(high, low, len)| {
            let bits = 0x2000 << 112 | high << 100 | u128::from(low) << 56 | u128::from(low & 0xff);
            (bits & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0), len)
        });
        prop_oneof![v4s, v6s]
    }

    proptest! {
        #[test]
        fn equals_the_scan(prefixes in prop::collection::btree_set(prefix(), 0..60), probes in prop::collection::vec(prefix(), 1..40)) {
            let list: Vec<_> = prefixes.iter().enumerate().map(|(i, &(addr, len))| (addr, len, i as u32)).collect();
            let fib = Fib::build(list.iter().copied());
            for addr in probes.iter().map(|p| p.0).chain(list.iter().map(|p| p.0)).flat_map(|a| [a, a ^ 1, a ^ 0x100]) {
                prop_assert_eq!(fib.lookup(addr), scan(&list, addr), "address {:x}", addr);
            }
        }
    }
}
