//! Ports as the workers know them: a dense slot, and the facts about the device behind it.

use std::sync::atomic::Ordering;

use marchproxy_cpu::SharedWords;

use crate::io::Mac;
use crate::stats::MAX_PORTS;

/// Stands for "no tag" where a VLAN number is expected.
pub const UNTAGGED: u16 = 0;

/// A port's place in the workers' arrays. A port name keeps its slot for as long as it is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortSlot(u8);

impl PortSlot {
    /// The slot at `index`; indexes beyond [`MAX_PORTS`] wrap, callers check before.
    pub const fn from_index(index: usize) -> Self {
        Self((index % MAX_PORTS) as u8)
    }

    /// Position in arrays of [`MAX_PORTS`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// MAC address per port slot: written by the thread that opens devices, read by workers and slow path.
#[derive(Clone, Debug)]
pub struct PortFacts {
    macs: SharedWords,
    /// By slot the number of its last opening; the last word counts openings.
    openings: SharedWords,
}

impl Default for PortFacts {
    fn default() -> Self {
        Self { macs: SharedWords::heap(MAX_PORTS), openings: SharedWords::heap(MAX_PORTS + 1) }
    }
}

impl PortFacts {
    /// Records the MAC address of the device behind a slot, which was just opened.
    pub fn set_mac(&self, port: PortSlot, mac: Mac) {
        self.macs[port.index()].store(mac_to_word(mac), Ordering::Release);
        let number = self.openings() + 1;
        self.openings[port.index()].store(number, Ordering::Relaxed);
        self.openings[MAX_PORTS].store(number, Ordering::Release);
    }

    /// How many devices were opened so far.
    pub fn openings(&self) -> u64 {
        self.openings[MAX_PORTS].load(Ordering::Acquire)
    }

    /// The number of the opening of the device behind a slot, counted over all slots; 0 for none.
    pub fn opened_at(&self, port: PortSlot) -> u64 {
        self.openings[port.index()].load(Ordering::Relaxed)
    }

    /// The MAC address; all zero when no device is there.
    #[inline]
    pub fn mac(&self, port: PortSlot) -> Mac {
        word_to_mac(self.mac_word(port))
    }

    /// The same as a word: the low 48 bits, first octet most significant.
    #[inline]
    pub fn mac_word(&self, port: PortSlot) -> u64 {
        self.macs[port.index()].load(Ordering::Relaxed)
    }
}

/// The six bytes as the low 48 bits, first byte most significant.
#[inline]
pub(crate) const fn mac_to_word(mac: Mac) -> u64 {
    u64::from_be_bytes([0, 0, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]])
}

/// The inverse of [`mac_to_word`]; the upper 16 bits are ignored.
#[inline]
pub(crate) const fn word_to_mac(word: u64) -> Mac {
    let bytes = word.to_be_bytes();
    [bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]
}
