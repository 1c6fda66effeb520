//! IPv6: the first 32 bits (what registries allocate) are looked up by hash, a block has the next 16, nodes the rest. Prefixes shorter than
//! /32 stand in a small trie that is asked when the hash knows nothing.

use marchproxy_cpu::prefetch_slice;

use super::Prefix;
use super::block::{Blocks, Inside, Node};
use super::entry::{Entry, Kind};
use crate::flow::Addr;
use crate::hash::mix;

/// Bits behind a block's 16.
pub const BLOCK_SHIFT: u32 = 80;

/// Keys a bucket holds.
const KEYS: usize = 8;

/// One line: the first 32 bits of eight addresses and their entries; unused places are key 0 and `NONE`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Bucket {
    keys: [u32; KEYS],
    entries: [Entry; KEYS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    const EMPTY: Self = Self { keys: [0; KEYS], entries: [Entry::NONE; KEYS] };

    /// `NONE` when the key is not there. Unused places come behind used ones, so a key that looks like one is found first.
    #[inline]
    fn get(&self, key: u32) -> Entry {
        let equal = self.keys.iter().enumerate().fold(0u32, |set, (at, &k)| set | u32::from(k == key) << at);
        self.entries.get(equal.trailing_zeros() as usize).copied().unwrap_or(Entry::NONE)
    }
}

/// The root of a table's IPv6 side.
#[derive(Debug, Default, Clone)]
pub struct Root {
    /// A power of two of them, or none.
    buckets: Box<[Bucket]>,
    seed: u64,
    /// Prefixes up to /31: by 16 bits, then two nodes of 8.
    short: Box<[Entry]>,
    short_nodes: Vec<Node>,
    /// Beyond /48, by 8 bits a node.
    deep: Vec<Node>,
}

impl Root {
    /// From sorted prefixes.
    pub fn build(prefixes: &[Prefix], blocks: &mut Blocks) -> Self {
        if prefixes.is_empty() {
            return Self::default();
        }
        let mut root = Self { short: vec![Entry::NONE; 1 << 16].into_boxed_slice(), ..Self::default() };
        for &(addr, len, value) in prefixes.iter().filter(|p| p.1 < 32) {
            root.insert_short((addr >> 96) as u32, len, Entry::answer(value));
        }
        let long: Vec<_> = prefixes.iter().copied().filter(|p| p.1 >= 32).collect();
        let mut keys = Vec::new();
        for chunk in long.chunk_by(|a, b| (a.0 ^ b.0) >> 96 == 0) {
            let key = (chunk[0].0 >> 96) as u32;
            let mut outside = root.get_short(key);
            let mut inside = chunk;
            if let [(_, 32, value), rest @ ..] = chunk {
                (outside, inside) = (Entry::answer(*value), rest);
            }
            let entry = root.block(outside, inside, blocks);
            // A chunk has a route, so this is none of `NONE`.
            keys.push((key, entry));
        }
        root.hash_keys(&keys);
        root
    }

    /// A block for prefixes of /33 and longer under one /32.
    fn block(&mut self, outside: Entry, prefixes: &[Prefix], blocks: &mut Blocks) -> Entry {
        let mut inside: Vec<Inside> = Vec::new();
        // The prefixes up to /48 around the current address, outermost first.
        let mut around: Vec<(Addr, u8, Entry)> = Vec::new();
        for group in prefixes.chunk_by(|a, b| a.1 > 48 && b.1 > 48 && (a.0 ^ b.0) >> BLOCK_SHIFT == 0) {
            let (first, len, value) = group[0];
            while around.last().is_some_and(|a| (a.0 ^ first) >> (128 - a.1) != 0) {
                around.pop();
            }
            let key = (first >> BLOCK_SHIFT) as u16;
            let entry = if len > 48 {
                let below = around.last().map_or(outside, |a| a.2);
                // The /48 itself, if there is one, stands before and is what lies below.
                if inside.last().is_some_and(|i| i.0 == key && i.1 == 16) {
                    inside.pop();
                }
                let node = self.deep.len();
                self.deep.push(Node([below; 256]));
                for &(addr, len, value) in group {
                    self.insert_deep(node, addr, len, Entry::answer(value));
                }
                Entry::at(Kind::Deep, node)
            } else {
                around.push((first, len, Entry::answer(value)));
                Entry::answer(value)
            };
            inside.push((key, len.min(48) - 32, entry));
        }
        blocks.add(outside, &inside)
    }

    /// Prefixes come outer ones first.
    fn insert_deep(&mut self, mut node: usize, addr: Addr, len: u8, entry: Entry) {
        let mut depth = 48;
        loop {
            let octet = (addr >> (120 - depth)) as u8 as usize;
            if len <= depth + 8 {
                self.deep[node].0[octet..octet + (1 << (depth + 8 - len))].fill(entry);
                return;
            }
            let next = self.deep[node].0[octet];
            node = if next.is(Kind::Deep) {
                next.index()
            } else {
                self.deep.push(Node([next; 256]));
                let new = self.deep.len() - 1;
                self.deep[node].0[octet] = Entry::at(Kind::Deep, new);
                new
            };
            depth += 8;
        }
    }

    fn insert_short(&mut self, high: u32, len: u8, entry: Entry) {
        let first = (high >> 16) as usize;
        if len <= 16 {
            self.short[first..first + (1 << (16 - len))].fill(entry);
            return;
        }
        let mut node = child(&mut self.short_nodes, &mut self.short[first]);
        let octet = (high >> 8) as u8 as usize;
        if len > 24 {
            let mut place = self.short_nodes[node].0[octet];
            let next = child(&mut self.short_nodes, &mut place);
            self.short_nodes[node].0[octet] = place;
            node = next;
            let octet = high as u8 as usize;
            self.short_nodes[node].0[octet..octet + (1 << (32 - len))].fill(entry);
        } else {
            self.short_nodes[node].0[octet..octet + (1 << (24 - len))].fill(entry);
        }
    }

    #[inline]
    fn get_short(&self, high: u32) -> Entry {
        let mut entry = self.short.get((high >> 16) as usize).copied().unwrap_or_default();
        for octet in [high >> 8, high] {
            if !entry.is(Kind::Node) {
                break;
            }
            entry = self.short_nodes.get(entry.index()).map_or(Entry::NONE, |node| node.0[octet as u8 as usize]);
        }
        entry
    }

    /// Half full at most; with more keys in a bucket than it holds another seed is tried, then more room.
    fn hash_keys(&mut self, keys: &[(u32, Entry)]) {
        /// Seeds tried before the table doubles: at this load one of them does.
        const SEEDS: u64 = 4;
        let mut count = (keys.len() * 2 / KEYS).next_power_of_two();
        while !keys.is_empty() {
            for seed in 0..SEEDS {
                self.seed = mix(seed + 1, 0x9E37_79B9_7F4A_7C15);
                self.buckets = vec![Bucket::EMPTY; count].into_boxed_slice();
                if keys.iter().all(|&(key, entry)| self.insert_key(key, entry)) {
                    return;
                }
            }
            count *= 2;
        }
    }

    fn insert_key(&mut self, key: u32, entry: Entry) -> bool {
        let at = self.bucket_of(key);
        let bucket = &mut self.buckets[at];
        let Some(free) = bucket.entries.iter().position(|&e| e == Entry::NONE) else { return false };
        (bucket.keys[free], bucket.entries[free]) = (key, entry);
        true
    }

    #[inline]
    fn bucket_of(&self, key: u32) -> usize {
        mix(u64::from(key) ^ self.seed, 0xD6E8_FEB8_6659_FD93) as usize & self.buckets.len().wrapping_sub(1)
    }

    /// Starts loading the bucket of the address.
    #[inline]
    pub fn prefetch(&self, addr: Addr) {
        prefetch_slice(&self.buckets, self.bucket_of((addr >> 96) as u32));
    }

    /// The entry for the address's first half.
    #[inline]
    pub fn get(&self, addr: Addr) -> Entry {
        let key = (addr >> 96) as u32;
        let entry = self.buckets.get(self.bucket_of(key)).map_or(Entry::NONE, |bucket| bucket.get(key));
        if entry == Entry::NONE { self.get_short(key) } else { entry }
    }

    /// Behind a block: prefixes longer than /48.
    #[cold]
    pub fn deeper(&self, mut entry: Entry, addr: Addr) -> Entry {
        let mut shift = BLOCK_SHIFT;
        while entry.is(Kind::Deep) && shift >= 8 {
            shift -= 8;
            entry = self.deep.get(entry.index()).map_or(Entry::NONE, |node| node.0[(addr >> shift) as u8 as usize]);
        }
        entry
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.buckets)
            + size_of_val(&*self.short)
            + (self.short_nodes.len() + self.deep.len()) * size_of::<Node>()
    }
}

/// The node an entry leads to, made if it is not there yet; it inherits what the entry said.
fn child(nodes: &mut Vec<Node>, entry: &mut Entry) -> usize {
    if !entry.is(Kind::Node) {
        nodes.push(Node([*entry; 256]));
        *entry = Entry::at(Kind::Node, nodes.len() - 1);
    }
    entry.index()
}
