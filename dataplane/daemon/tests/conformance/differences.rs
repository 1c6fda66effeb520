//! What a tier does otherwise than the memory backend, and why. A case that is listed must differ; one that is not must not.

/// Tier, case (`*`: anything in its place), reason.
pub const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("af_xdp", "lldp", NOT_IP),
    ("af_xdp", "802.3 length", NOT_IP),
    ("af_xdp", "tagged twice", NOT_IP),
    ("af_xdp", "v4 to 224.0.0.1", GROUP),
    ("af_xdp", "v4 to 239.1.1.1", GROUP),
    ("af_xdp", "v4 to 255.255.255.255", GROUP),
    ("af_xdp", "v6 to ff0e::1", GROUP),
    ("af_xdp", "v6 to fe80::9", LINK_LOCAL),
    ("af_xdp", "v4 to the broadcast MAC", OTHER_MAC),
    ("af_xdp", "v6 to the broadcast MAC", OTHER_MAC),
    ("af_xdp", "v4 to a group's MAC", OTHER_MAC),
    ("af_xdp", "v6 to a group's MAC", OTHER_MAC),
    ("af_xdp", "v4 to somebody else's MAC", OTHER_MAC),
    ("af_xdp", "v6 to somebody else's MAC", OTHER_MAC),
    ("af_xdp", "for another station", OTHER_MAC),
    ("af_xdp", "v4 tagged, vlan of nobody", OTHER_VLAN),
    ("af_xdp", "v6 tagged, vlan of nobody", OTHER_VLAN),
    ("af_xdp", "v4 cut to 1*", SHORT),
    ("af_xdp", "v4 cut to 2*", SHORT),
    ("af_xdp", "v4 cut to 30", SHORT),
    ("af_xdp", "v4 cut to 31", SHORT),
    ("af_xdp", "v4 cut to 32", SHORT),
    ("af_xdp", "v4 cut to 33", SHORT),
    ("af_xdp", "v6 cut to 1*", SHORT),
    ("af_xdp", "v6 cut to 2*", SHORT),
    ("af_xdp", "v6 cut to 3*", SHORT),
    ("af_xdp", "v6 cut to 4*", SHORT),
    ("af_xdp", "v6 cut to 50", SHORT),
    ("af_xdp", "v6 cut to 51", SHORT),
    ("af_xdp", "v6 cut to 52", SHORT),
    ("af_xdp", "v6 cut to 53", SHORT),
    ("dpdk", "v4 *fragment", DEFRAGMENTED),
    ("dpdk", "v4 fragment, *", DEFRAGMENTED),
    ("dpdk", "v4 long fragment, *", DEFRAGMENTED),
];

// With AF_XDP a frame is the engine's or the kernel's; elsewhere the engine sees it, too, and drops it by name.
const NOT_IP: &str = "what is neither ARP nor IP is left to the kernel";
const GROUP: &str = "packets to groups and to all are left to the kernel";
const LINK_LOCAL: &str = "link-local addresses other than the port's own are left to the kernel";
const OTHER_MAC: &str = "what is forwarded is addressed to the port; the rest is left to the kernel";
const OTHER_VLAN: &str = "VLANs without an interface of ours are left to the kernel";
const SHORT: &str = "a frame that does not say for which address it is is left to the kernel";
/// `PACKET_FANOUT_FLAG_DEFRAG`, which the driver always sets.
const DEFRAGMENTED: &str =
    "DPDK's net_af_packet has the kernel put IPv4 fragments together, and gets whole packets only";

/// The entry of a case.
pub fn of(tier: &str, case: &str) -> Option<usize> {
    DIFFERENCES.iter().position(|(on, name, _)| {
        *on == tier
            && match name.split_once('*') {
                Some((start, end)) => {
                    case.len() >= start.len() + end.len() && case.starts_with(start) && case.ends_with(end)
                }
                None => case == *name,
            }
    })
}
