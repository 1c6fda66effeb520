//! Memory policy. The three system calls are declared here by number: libnuma's published crate does not build, and the
//! policy calls are all we need of it. A kernel without NUMA is not an error: there is nothing to choose then.

use std::io;
use std::ptr::{NonNull, null};

/// Memory-policy modes of `linux/mempolicy.h`.
const MPOL_DEFAULT: libc::c_long = 0;
const MPOL_PREFERRED: libc::c_long = 1;
/// `get_mempolicy`: answer with the node of an address.
const MPOL_F_NODE_OF_ADDRESS: libc::c_long = 1 | 2;
/// Move pages that are already there, when only we map them.
const MPOL_MF_MOVE: libc::c_long = 2;

/// Nodes a mask can name. The kernel's own limit (MAX_NUMNODES) is 1024 on x86-64.
const MASK_NODES: u32 = 1024;
type NodeMask = [libc::c_ulong; (MASK_NODES / libc::c_ulong::BITS) as usize];

/// What became of a wish for memory of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumaOutcome {
    /// The kernel took the policy.
    Applied,
    /// The kernel has no NUMA: all memory is equally near.
    NoNuma,
}

/// Makes new pages of the calling thread come from `node` while it has free memory, `None`: from wherever the thread runs.
pub fn prefer_memory_of(node: Option<u32>) -> io::Result<NumaOutcome> {
    let (mode, mask) = match node {
        Some(node) => (MPOL_PREFERRED, Some(mask_of(node)?)),
        None => (MPOL_DEFAULT, None),
    };
    let (pointer, bits) = mask_argument(mask.as_ref());
    // SAFETY: set_mempolicy reads `bits` bits at `pointer`, which is null with 0 bits or `mask`, alive until the call returns;
    // it changes where this thread's future pages are taken from and nothing in existing memory.
    outcome(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) })
}

/// Makes the pages of `len` bytes at `start` come from `node` while it has free memory; pages that are there already move.
/// Preferred rather than bound: with huge pages a bound mapping dies of SIGBUS where a preferred one takes the neighbour's.
pub(crate) fn bind(start: NonNull<u8>, len: usize, node: u32) -> io::Result<NumaOutcome> {
    let mask = mask_of(node)?;
    let (pointer, bits) = mask_argument(Some(&mask));
    // SAFETY: mbind reads `bits` bits at `pointer` (`mask`, alive until the call returns); the range is only a name for pages:
    // an address that is not mapped is an error (EFAULT), and moving a page keeps its content and address.
    outcome(unsafe { libc::syscall(libc::SYS_mbind, start.as_ptr(), len, MPOL_PREFERRED, pointer, bits, MPOL_MF_MOVE) })
}

/// The node that holds the page at `address`; `None` when the kernel has no NUMA.
pub(crate) fn node_of(address: NonNull<u8>) -> Option<u32> {
    let mut node: libc::c_int = -1;
    // SAFETY: with this flag get_mempolicy writes one int at `node` (exclusively borrowed) and no mask (null, 0 bits); it only
    // looks at `address`, an unmapped one is an error (EFAULT).
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut node,
            null::<libc::c_ulong>(),
            0 as libc::c_ulong,
            address.as_ptr(),
            MPOL_F_NODE_OF_ADDRESS,
        )
    };
    if result == 0 { u32::try_from(node).ok() } else { None }
}

/// The nodes that are online; `[0]` when the kernel has no NUMA.
pub fn online_nodes() -> Vec<u32> {
    let list = std::fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
    let nodes = parse_list(list.trim());
    if nodes.is_empty() { vec![0] } else { nodes }
}

/// The node of a core; `None` when the core does not exist or the kernel has no NUMA.
pub fn node_of_core(core: usize) -> Option<u32> {
    let entries = std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{core}")).ok()?;
    entries.flatten().find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

/// The kernel's list format: `0-2,5`.
fn parse_list(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

fn mask_of(node: u32) -> io::Result<NodeMask> {
    if node >= MASK_NODES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("node {node}: the limit is {MASK_NODES}")));
    }
    let mut mask = NodeMask::default();
    mask[(node / libc::c_ulong::BITS) as usize] = 1 << (node % libc::c_ulong::BITS);
    Ok(mask)
}

/// Pointer and number of bits as the kernel wants them: it reads one bit less than it is told.
fn mask_argument(mask: Option<&NodeMask>) -> (*const libc::c_ulong, libc::c_ulong) {
    mask.map_or((null(), 0), |mask| (mask.as_ptr(), libc::c_ulong::from(MASK_NODES) + 1))
}

fn outcome(result: libc::c_long) -> io::Result<NumaOutcome> {
    if result == 0 {
        return Ok(NumaOutcome::Applied);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOSYS) { Ok(NumaOutcome::NoNuma) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel_are_read() {
        assert_eq!(parse_list("0"), [0]);
        assert_eq!(parse_list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(parse_list(""), [0; 0]);
    }

    #[test]
    fn an_online_node_is_taken_and_a_missing_one_refused() {
        std::thread::spawn(|| {
            let node = online_nodes()[0];
            match prefer_memory_of(Some(node)).unwrap() {
                NumaOutcome::Applied => {
                    assert!(prefer_memory_of(Some(MASK_NODES - 1)).is_err());
                    assert_eq!(prefer_memory_of(None).unwrap(), NumaOutcome::Applied);
                }
                NumaOutcome::NoNuma => assert_eq!(online_nodes(), [0]),
            }
            assert_eq!(prefer_memory_of(Some(MASK_NODES)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        })
        .join()
        .unwrap();
    }
}
