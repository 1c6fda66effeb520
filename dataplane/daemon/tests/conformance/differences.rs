//! What a tier does otherwise than the memory backend, and why. A case that is listed must differ; one that is not must not.

/// Tier, case (`*` at its end: all that begin so), reason.
pub const DIFFERENCES: &[(&str, &str, &str)] = &[];

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
