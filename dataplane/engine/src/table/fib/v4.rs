//! IPv4: the first 16 bits index the root, a block has the rest.

use marchproxy_cpu::prefetch_slice;

use super::Prefix;
use super::block::{Blocks, Inside};
use super::entry::Entry;

/// 256 KiB, or nothing for a table without IPv4 routes.
#[derive(Debug, Default, Clone)]
pub struct Root(Box<[Entry]>);

impl Root {
    /// From sorted prefixes.
    pub fn build(prefixes: &[Prefix], blocks: &mut Blocks) -> Self {
        if prefixes.is_empty() {
            return Self::default();
        }
        let mut root = vec![Entry::NONE; 1 << 16].into_boxed_slice();
        // In the order of addresses, outer ones first: inner ones overwrite.
        for &(addr, len, value) in prefixes.iter().filter(|p| p.1 <= 16) {
            let first = (addr as u32 >> 16) as usize;
            root[first..first + (1 << (16 - len))].fill(Entry::answer(value));
        }
        let long: Vec<_> = prefixes.iter().filter(|p| p.1 > 16).collect();
        for chunk in long.chunk_by(|a, b| (a.0 ^ b.0) >> 16 == 0) {
            let inside: Vec<Inside> =
                chunk.iter().map(|&&(addr, len, value)| (addr as u16, len - 16, Entry::answer(value))).collect();
            let place = &mut root[(chunk[0].0 as u32 >> 16) as usize];
            *place = blocks.add(*place, &inside);
        }
        Self(root)
    }

    /// Starts loading the address's entry.
    #[inline]
    pub fn prefetch(&self, addr: u32) {
        prefetch_slice(&self.0, (addr >> 16) as usize);
    }

    /// The address's entry.
    #[inline]
    pub fn get(&self, addr: u32) -> Entry {
        self.0.get((addr >> 16) as usize).copied().unwrap_or_default()
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}
