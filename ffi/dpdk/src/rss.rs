//! Receive-side scaling: which queue a flow goes to.

use marchproxy_dpdk_sys as sys;

use crate::errno::Errno;
use crate::{PortId, QueueIndex};

/// What spreads a port's packets over its receive queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rss {
    /// There is one queue: nothing to spread.
    SingleQueue,
    /// The device hashes addresses and ports with [`symmetric_key`].
    Toeplitz {
        /// The key as set.
        key: Vec<u8>,
        /// `RTE_ETH_RSS_*` bits that the device hashes; without TCP and UDP bits it hashes addresses only.
        fields: u64,
        /// Entries of the redirection table; 0 when the device has none.
        table: u16,
    },
    /// The device spreads by rules of its own, or not at all: both directions of a flow may meet different workers.
    Unknown,
}

/// The key of `len` bytes under which both directions of a flow have the same Toeplitz hash: a pattern of period 16 makes the
/// hash invariant under exchange of source and destination, addresses and ports alike (Woo and Park, "Scalable TCP Session
/// Monitoring with Symmetric Receive-side Scaling", 2012).
pub fn symmetric_key(len: usize) -> Vec<u8> {
    [0x6d, 0x5a].into_iter().cycle().take(len).collect()
}

/// Sets all of the redirection table.
pub(crate) fn set_table(port: PortId, table: &[QueueIndex]) -> Result<(), Errno> {
    let mut groups = groups(table.len());
    for (group, queues) in groups.iter_mut().zip(table.chunks(GROUP)) {
        for (entry, queue) in group.reta.iter_mut().zip(queues) {
            *entry = queue.0;
        }
    }
    // SAFETY: the port is attached; `groups` covers `table.len()` entries (the device's own size, checked by the caller).
    Errno::check(unsafe { sys::rte_eth_dev_rss_reta_update(port.0, groups.as_mut_ptr(), table.len() as u16) })
}

/// The redirection table of `len` entries.
pub(crate) fn table(port: PortId, len: u16) -> Result<Vec<QueueIndex>, Errno> {
    let mut groups = groups(len as usize);
    // SAFETY: the port is attached; `groups` covers `len` entries, which the call fills.
    Errno::check(unsafe { sys::rte_eth_dev_rss_reta_query(port.0, groups.as_mut_ptr(), len) })?;
    Ok(groups.iter().flat_map(|group| group.reta).take(len as usize).map(QueueIndex).collect())
}

const GROUP: usize = sys::MP_RETA_GROUP as usize;

/// DPDK's form of a table: groups of 64 with a mask of the entries meant.
fn groups(len: usize) -> Vec<sys::rte_eth_rss_reta_entry64> {
    let mut left = len;
    let mut groups = Vec::new();
    while left > 0 {
        let here = left.min(GROUP);
        let mask = u64::MAX >> (GROUP - here);
        groups.push(sys::rte_eth_rss_reta_entry64 { mask, reta: [0; GROUP] });
        left -= here;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Toeplitz as the NDIS specification writes it.
    fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
        let bit = |bytes: &[u8], index: usize| bytes[index / 8] >> (7 - index % 8) & 1;
        let window = |at: usize| (0..32).fold(0u32, |word, index| word << 1 | u32::from(bit(key, at + index)));
        (0..input.len() * 8).filter(|&at| bit(input, at) == 1).fold(0, |hash, at| hash ^ window(at))
    }

    #[test]
    fn both_directions_hash_alike() {
        let key = symmetric_key(40);
        assert_eq!(key[..4], [0x6d, 0x5a, 0x6d, 0x5a]);
        // Source address, destination address, source port, destination port.
        let there = [192, 0, 2, 1, 198, 51, 100, 7, 0x30, 0x39, 0x01, 0xbb];
        let back = [198, 51, 100, 7, 192, 0, 2, 1, 0x01, 0xbb, 0x30, 0x39];
        assert_eq!(toeplitz(&key, &there), toeplitz(&key, &back));
        assert_ne!(toeplitz(&key, &there), 0);
    }

    #[test]
    fn groups_cover_the_table_and_no_more() {
        let masks = |len| groups(len).iter().map(|group| group.mask).collect::<Vec<_>>();
        assert_eq!(masks(128), [u64::MAX; 2]);
        assert_eq!(masks(65), [u64::MAX, 1]);
        assert!(masks(0).is_empty());
    }
}
