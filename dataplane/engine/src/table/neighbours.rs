//! Resolved neighbours: written by the slow path, read by every worker without a lock.
//!
//! An entry is four words: address (two), where (port slot and VLAN), and state with the MAC address. The writer clears the state
//! word before it changes the others and sets it last; a reader that sees the same valid state before and after reading the
//! key read a whole entry. The state carries a version, so that a reused entry never looks unchanged.

use std::sync::atomic::{Ordering, fence};

use marchproxy_cpu::SharedWords;

use crate::flow::Addr;
use crate::hash::hash;
use crate::io::Mac;
use crate::ports::{PortSlot, mac_to_word, word_to_mac};

/// Most neighbours a node knows.
pub const MAX_NEIGHBOURS: usize = 4096;
/// Entries: four times the neighbours keeps walks short.
const SLOTS: usize = MAX_NEIGHBOURS * 4;
const WORDS: usize = 4;
/// Longest walk; reached only by adversarial address choice, and then the neighbour is refused.
const MAX_PROBES: usize = 32;

const VALID: u64 = 1;
const TOMBSTONE: u64 = 2;

/// A layer-2 segment of this node and an address on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeighbourKey {
    /// Egress port.
    pub port: PortSlot,
    /// VLAN there, or [`crate::ports::UNTAGGED`].
    pub vlan: u16,
    /// The neighbour's address.
    pub address: Addr,
}

impl NeighbourKey {
    #[inline]
    fn place(&self) -> u64 {
        (self.port.index() as u64) << 16 | u64::from(self.vlan)
    }

    /// Its hash; precomputed for gateways.
    #[inline]
    pub fn hash(&self) -> u64 {
        hash(self.place(), &[(self.address >> 64) as u64, self.address as u64])
    }
}

/// The shared table. Clones are handles to the same memory.
#[derive(Clone, Debug)]
pub struct NeighbourTable {
    words: SharedWords,
}

impl Default for NeighbourTable {
    fn default() -> Self {
        Self { words: SharedWords::heap(SLOTS * WORDS) }
    }
}

impl NeighbourTable {
    /// The MAC address of a neighbour. `hash` is the key's.
    pub fn lookup(&self, key: &NeighbourKey, hash: u64) -> Option<Mac> {
        self.lookup_word(key, hash).map(word_to_mac)
    }

    /// The same as a word: the low 48 bits, first octet most significant.
    #[inline]
    pub fn lookup_word(&self, key: &NeighbourKey, hash: u64) -> Option<u64> {
        for probe in 0..MAX_PROBES {
            let base = slot(hash, probe);
            let entry = self.words.get(base..base + WORDS)?;
            let state = entry[3].load(Ordering::Acquire);
            if state == 0 {
                return None;
            }
            if state & VALID == 0 {
                continue;
            }
            let (high, low) = (entry[0].load(Ordering::Relaxed), entry[1].load(Ordering::Relaxed));
            let place = entry[2].load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            let torn = entry[3].load(Ordering::Relaxed) ^ state;
            let other =
                (high ^ (key.address >> 64) as u64) | (low ^ key.address as u64) | (place ^ key.place()) & 0xff_ffff;
            if torn | other == 0 {
                return Some(state >> 16);
            }
        }
        None
    }

    /// Starts loading the entry's line.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        marchproxy_cpu::prefetch_slice(&self.words, slot(hash, 0));
    }

    /// Sets a neighbour's MAC address. Slow path only. False when its walk is full.
    pub fn set(&self, key: &NeighbourKey, mac: Mac) -> bool {
        let hash = key.hash();
        let mut free = None;
        for probe in 0..MAX_PROBES {
            let base = slot(hash, probe);
            let state = self.words[base + 3].load(Ordering::Relaxed);
            if state & VALID != 0 {
                if self.holds(base, key) {
                    self.write(base, key, mac);
                    return true;
                }
            } else {
                free = free.or(Some(base));
                if state == 0 {
                    break;
                }
            }
        }
        if let Some(base) = free {
            self.write(base, key, mac);
        }
        free.is_some()
    }

    /// Forgets a neighbour. Slow path only.
    pub fn remove(&self, key: &NeighbourKey) {
        let hash = key.hash();
        for probe in 0..MAX_PROBES {
            let base = slot(hash, probe);
            let state = self.words[base + 3].load(Ordering::Relaxed);
            if state == 0 {
                return;
            }
            if state & VALID != 0 && self.holds(base, key) {
                self.words[base + 3].store(TOMBSTONE, Ordering::Release);
                return;
            }
        }
    }

    fn holds(&self, base: usize, key: &NeighbourKey) -> bool {
        self.words[base].load(Ordering::Relaxed) == (key.address >> 64) as u64
            && self.words[base + 1].load(Ordering::Relaxed) == key.address as u64
            && self.words[base + 2].load(Ordering::Relaxed) & 0xff_ffff == key.place()
    }

    fn write(&self, base: usize, key: &NeighbourKey, mac: Mac) {
        let [high, low, place, state] = std::array::from_fn(|i| &self.words[base + i]);
        // The version lives above the place, 40 bits wide.
        let version = (place.load(Ordering::Relaxed) >> 24).wrapping_add(1);
        state.store(TOMBSTONE, Ordering::Relaxed);
        fence(Ordering::Release);
        high.store((key.address >> 64) as u64, Ordering::Relaxed);
        low.store(key.address as u64, Ordering::Relaxed);
        place.store(version << 24 | key.place(), Ordering::Relaxed);
        state.store(mac_to_word(mac) << 16 | (version & 0x3fff) << 2 | VALID, Ordering::Release);
    }
}

#[inline]
fn slot(hash: u64, probe: usize) -> usize {
    (hash as usize + probe) % SLOTS * WORDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn key(n: u128) -> NeighbourKey {
        NeighbourKey { port: PortSlot::from_index(1), vlan: 20, address: n }
    }

    #[test]
    fn set_change_remove() {
        let table = NeighbourTable::default();
        for n in 0..MAX_NEIGHBOURS as u128 {
            assert!(table.set(&key(n), [2, 0, 0, 0, (n >> 8) as u8, n as u8]));
        }
        for n in 0..MAX_NEIGHBOURS as u128 {
            assert_eq!(table.lookup(&key(n), key(n).hash()), Some([2, 0, 0, 0, (n >> 8) as u8, n as u8]));
        }
        table.set(&key(7), [6; 6]);
        assert_eq!(table.lookup(&key(7), key(7).hash()), Some([6; 6]));
        let other_vlan = NeighbourKey { vlan: 21, ..key(7) };
        assert_eq!(table.lookup(&other_vlan, other_vlan.hash()), None);
        table.remove(&key(7));
        assert_eq!(table.lookup(&key(7), key(7).hash()), None);
        assert!(table.set(&key(7), [8; 6]));
        assert_eq!(table.lookup(&key(7), key(7).hash()), Some([8; 6]));
    }

    #[test]
    fn readers_never_see_another_neighbours_mac() {
        let table = NeighbourTable::default();
        let stop = AtomicBool::new(false);
        // Two keys with the same walk take turns in the table.
        let (a, b) = (key(1), (2..1 << 20).map(key).find(|b| slot(b.hash(), 0) == slot(key(1).hash(), 0)).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(mac) = table.lookup(&a, a.hash()) {
                        assert_eq!(mac, [0xa; 6]);
                    }
                    if let Some(mac) = table.lookup(&b, b.hash()) {
                        assert_eq!(mac, [0xb; 6]);
                    }
                }
            });
            for _ in 0..100_000 {
                table.set(&a, [0xa; 6]);
                table.remove(&a);
                table.set(&b, [0xb; 6]);
                table.remove(&b);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
