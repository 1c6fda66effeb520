//! Longest-prefix match in few cache lines. A root is keyed directly by the first bits of the address (IPv4: 16 by index; IPv6: 32 by
//! hash, shorter prefixes aside); below it a *block* answers for the next 16 bits: one line of ranges where few prefixes lie there, a
//! node of 256 entries where many do. So an IPv4 look-up touches the root, which stays in L2, and mostly one line more; an IPv6
//! one a root line and mostly one line more, up to /48.
//!
//! A look-up comes in steps, [`Fib::prefetch`], [`Fib::first`], [`Fib::second`], so that a burst's misses overlap: each step ends where
//! memory latency begins.

mod block;
mod entry;
mod v4;
mod v6;

#[cfg(test)]
mod tests;

use crate::flow::{Addr, is_v4};

use block::Blocks;
use entry::Entry;

/// What the first step of a look-up found: the answer, or where it lies, and under which key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    entry: Entry,
    key: u16,
}

/// One routing table: both families.
#[derive(Debug, Default, Clone)]
pub struct Fib {
    v4: v4::Root,
    v6: v6::Root,
    blocks: Blocks,
}

/// A prefix of a table: network address, length in bits of its own family, value (below 2^30 - 1).
pub type Prefix = (Addr, u8, u32);

impl Fib {
    /// Builds from prefixes in any order, each at most once.
    pub fn build(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for prefix in prefixes {
            if is_v4(prefix.0) { v4.push(prefix) } else { v6.push(prefix) }
        }
        // Networks in order of address, a network before those inside it.
        v4.sort_unstable();
        v6.sort_unstable();
        let mut blocks = Blocks::default();
        Self { v4: v4::Root::build(&v4, &mut blocks), v6: v6::Root::build(&v6, &mut blocks), blocks }
    }

    /// The value of the longest prefix that contains the address.
    #[inline]
    pub fn lookup(&self, addr: Addr) -> Option<u32> {
        self.second(addr, self.first(addr))
    }

    /// Step 0: starts loading the root's line for the address.
    #[inline]
    pub fn prefetch(&self, addr: Addr) {
        if is_v4(addr) { self.prefetch_v4(addr) } else { self.prefetch_v6(addr) }
    }

    /// Step 0 for an address known to be IPv4.
    #[inline]
    pub fn prefetch_v4(&self, addr: Addr) {
        self.v4.prefetch(addr as u32);
    }

    /// Step 0 for an address known to be IPv6.
    #[inline]
    pub fn prefetch_v6(&self, addr: Addr) {
        self.v6.prefetch(addr);
    }

    /// Step 1: reads the root and starts loading the line that the answer lies in.
    #[inline]
    pub fn first(&self, addr: Addr) -> Found {
        if is_v4(addr) { self.first_v4(addr) } else { self.first_v6(addr) }
    }

    /// Step 1 for an address known to be IPv4.
    #[inline]
    pub fn first_v4(&self, addr: Addr) -> Found {
        self.found(self.v4.get(addr as u32), addr as u16)
    }

    /// Step 1 for an address known to be IPv6.
    #[inline]
    pub fn first_v6(&self, addr: Addr) -> Found {
        self.found(self.v6.get(addr), (addr >> v6::BLOCK_SHIFT) as u16)
    }

    #[inline]
    fn found(&self, entry: Entry, key: u16) -> Found {
        self.blocks.prefetch(entry, key);
        Found { entry, key }
    }

    /// Step 2: the value.
    #[inline]
    pub fn second(&self, addr: Addr, found: Found) -> Option<u32> {
        if is_v4(addr) { self.second_v4(found) } else { self.second_v6(addr, found) }
    }

    /// Step 2 for an address known to be IPv4.
    #[inline(always)]
    pub fn second_v4(&self, found: Found) -> Option<u32> {
        self.blocks.get(found.entry, found.key).value()
    }

    /// Step 2 for an address known to be IPv6.
    #[inline(always)]
    pub fn second_v6(&self, addr: Addr, found: Found) -> Option<u32> {
        let entry = self.blocks.get(found.entry, found.key);
        if entry.is_answer() { entry.value() } else { self.v6.deeper(entry, addr).value() }
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes() + self.blocks.bytes()
    }
}
