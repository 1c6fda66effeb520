//! What a tier does otherwise than the memory backend, and why. A case that is listed must differ; one that is not must not.

/// Tier, case (`*` at its end: all that begin so), reason.
pub const DIFFERENCES: &[(&str, &str, &str)] =
    &[("af_xdp", "lldp", NOT_IP), ("af_xdp", "802.3 length", NOT_IP), ("af_xdp", "tagged twice", NOT_IP)];

/// With AF_XDP a frame is the engine's or the kernel's; elsewhere the engine sees it, too, and drops it by name.
const NOT_IP: &str = "what is neither ARP nor IP is left to the kernel";

/// The entry of a case.
pub fn of(tier: &str, case: &str) -> Option<usize> {
    DIFFERENCES.iter().position(|(on, name, _)| {
        *on == tier
            && match name.strip_suffix('*') {
                Some(start) => case.starts_with(start),
                None => case == *name,
            }
    })
}
