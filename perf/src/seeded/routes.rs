//! Routes shaped like the Internet's tables: prefix lengths by their share there, IPv6 clustered under allocations.

use std::collections::HashSet;

use marchproxy_engine::tables::Cidr;

use super::{Rng, addresses};

/// (share in per mille, length): IPv4 as in the default-free zone of 2024 (CIDR report; rounded).
const V4_LENGTHS: [(u32, u8); 13] = [
    (600, 24),
    (105, 23),
    (115, 22),
    (54, 21),
    (45, 20),
    (26, 19),
    (14, 18),
    (9, 17),
    (14, 16),
    (5, 15),
    (5, 14),
    (4, 13),
    (4, 12),
];

/// The same for IPv6. (Short prefixes repeat within an allocation and are drawn again, so long ones gain a little.)
const V6_LENGTHS: [(u32, u8); 9] =
    [(480, 48), (20, 47), (30, 46), (80, 44), (90, 40), (50, 36), (25, 33), (125, 32), (100, 29)];

/// IPv6 routes per allocation of a /32, as in the default-free zone.
const PER_ALLOCATION: usize = 5;

/// Distinct prefixes of one family, sorted.
pub fn prefixes(count: usize, v6: bool, rng: &mut Rng) -> Vec<Cidr> {
    let allocations: Vec<_> = if v6 {
        (0..=count / PER_ALLOCATION).map(|_| addresses::public_v6(rng).to_bits() >> 96).collect()
    } else {
        Vec::new()
    };
    let mut seen = HashSet::with_capacity(count);
    while seen.len() < count {
        let prefix = if v6 {
            let allocation = rng.pick(&allocations).copied().unwrap_or_default();
            let address = std::net::Ipv6Addr::from_bits(allocation << 96 | rng.wide() >> 32);
            addresses::prefix(address, rng.weighted(&V6_LENGTHS).unwrap_or(48))
        } else {
            addresses::prefix(addresses::public_v4(rng), rng.weighted(&V4_LENGTHS).unwrap_or(24))
        };
        seen.insert(prefix);
    }
    let mut prefixes: Vec<_> = seen.into_iter().collect();
    prefixes.sort_unstable();
    prefixes
}

/// `count` prefixes, half of each family (all IPv6 with `only_v6`), IPv4 first, each family sorted.
pub fn generate(count: usize, only_v6: bool, seed: u64) -> Vec<Cidr> {
    let v4 = if only_v6 { 0 } else { count / 2 };
    let mut all = prefixes(v4, false, &mut Rng::new(seed, "routes v4"));
    all.extend(prefixes(count - v4, true, &mut Rng::new(seed, "routes v6")));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_everything() {
        assert_eq!(generate(500, false, 9), generate(500, false, 9));
        assert_ne!(generate(500, false, 9), generate(500, false, 10));
    }

    #[test]
    fn as_many_as_asked_half_of_each_family_without_repetition() {
        for (count, only_v6, v4) in [(16, false, 8), (1001, false, 500), (16, true, 0), (0, false, 0), (1, false, 0)] {
            let routes = generate(count, only_v6, 1);
            assert_eq!(routes.len(), count);
            assert_eq!(routes.iter().filter(|p| p.addr.is_ipv4()).count(), v4);
            assert!(routes.is_sorted(), "canonical order");
            assert_eq!(routes.iter().collect::<HashSet<_>>().len(), count);
        }
    }

    #[test]
    fn lengths_follow_their_shares() {
        let routes = generate(20_000, false, 1);
        let share = |len: u8, v4: bool| {
            routes.iter().filter(|p| p.len == len && p.addr.is_ipv4() == v4).count() as f64 / 10_000.0
        };
        assert!((share(24, true) - 0.6).abs() < 0.02, "{}", share(24, true));
        assert!((share(48, false) - 0.5).abs() < 0.04, "{}", share(48, false));
    }
}
