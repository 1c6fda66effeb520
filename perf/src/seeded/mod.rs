//! Seeded generators: the same seed gives the same routes, rules and flows on every machine and in every later version, so that
//! figures of different days speak of the same load.

pub mod addresses;
pub mod routes;
pub mod rules;

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). Our own few lines, because a crate's generator may change between versions and a
/// load must not.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for one purpose: different labels give independent streams of one seed.
    pub fn new(seed: u64, label: &str) -> Self {
        let mut rng = Self(seed);
        for byte in label.bytes() {
            rng.0 = rng.0.wrapping_add(u64::from(byte));
            rng.0 = rng.word();
        }
        rng
    }

    /// 64 random bits.
    #[inline]
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// 128 random bits.
    pub fn wide(&mut self) -> u128 {
        u128::from(self.word()) << 64 | u128::from(self.word())
    }

    /// Uniform in `0..n`; 0 for `n` = 0. (Multiply and shift: the bias is below 2^-32 for the sizes here.)
    #[inline]
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.word()) * n as u128) >> 64) as usize
    }

    /// Uniform in `first..=last`.
    pub fn between(&mut self, first: u32, last: u32) -> u32 {
        first + self.below((last.saturating_sub(first) as usize) + 1) as u32
    }

    /// True with this probability in percent.
    pub fn percent(&mut self, share: u32) -> bool {
        self.below(100) < share as usize
    }

    /// One of the items.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// A value drawn by weight; `None` when there is no weight at all.
    pub fn weighted<T: Copy>(&mut self, items: &[(u32, T)]) -> Option<T> {
        let mut point = self.below(items.iter().map(|(w, _)| *w as usize).sum());
        for (weight, item) in items {
            match point.checked_sub(*weight as usize) {
                None => return Some(*item),
                Some(rest) => point = rest,
            }
        }
        None
    }

    /// Fisher and Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_fixed_forever() {
        // The published first outputs of SplitMix64 for seed 1234567.
        let mut rng = Rng(1_234_567);
        assert_eq!([rng.word(), rng.word()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        assert_ne!(Rng::new(1, "routes").word(), Rng::new(1, "rules").word());
        assert_ne!(Rng::new(1, "routes").word(), Rng::new(2, "routes").word());
    }

    #[test]
    fn draws_stay_in_range_and_reach_its_ends() {
        let mut rng = Rng::new(7, "test");
        let drawn: std::collections::BTreeSet<_> = (0..1000).map(|_| rng.between(3, 6)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.pick::<u8>(&[]), None);
        let heavy = (0..1000).filter(|_| rng.weighted(&[(9, true), (1, false)]) == Some(true)).count();
        assert!((850..950).contains(&heavy), "{heavy} of 1000 at weight 9 of 10");
    }

    #[test]
    fn shuffling_keeps_every_item() {
        let mut items: Vec<u32> = (0..100).collect();
        Rng::new(1, "shuffle").shuffle(&mut items);
        assert_ne!(items[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
