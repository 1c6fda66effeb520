//! Which instructions this CPU offers beyond the baseline: what run-time dispatch looks at and what measurements are
//! labelled with.

/// Names of the instruction-set extensions that matter to us and that this CPU has, in the compiler's spelling. Sorted.
pub fn features() -> Vec<&'static str> {
    all().into_iter().filter_map(|(name, present)| present.then_some(name)).collect()
}

/// Whether this CPU has the extension `name`; false for names that are not in our list.
pub fn has_feature(name: &str) -> bool {
    all().into_iter().any(|(known, present)| present && known == name)
}

macro_rules! table {
    ($detect:ident: $($name:tt),+ $(,)?) => {
        [$(($name, std::arch::$detect!($name))),+]
    };
}

#[cfg(target_arch = "x86_64")]
fn all() -> [(&'static str, bool); 19] {
    table!(is_x86_feature_detected:
        "aes", "avx", "avx2", "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vbmi", "avx512vl", "avx512vpopcntdq",
        "bmi1", "bmi2", "gfni", "lzcnt", "pclmulqdq", "popcnt", "sse4.2", "vaes", "vpclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn all() -> [(&'static str, bool); 6] {
    table!(is_aarch64_feature_detected: "aes", "crc", "lse", "neon", "sve", "sve2")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn all() -> [(&'static str, bool); 0] {
    []
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_agrees_with_the_question() {
        let found = features();
        assert!(found.is_sorted());
        assert!(found.iter().all(|name| has_feature(name)));
        assert!(!has_feature("no such extension"));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_baseline_is_there() {
        // The workspace is compiled for x86-64-v3; a test that runs at all runs on such a CPU.
        assert!(has_feature("avx2") && has_feature("bmi2"));
    }
}
