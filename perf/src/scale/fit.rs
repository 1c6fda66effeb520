//! How a cost grows: the logarithm or the power that measured points lie on, by least squares over the logarithm of the size.

use serde::Serialize;

/// Points below which every law fits.
const LEAST: usize = 3;

/// A law of growth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "law")]
pub enum Law {
    /// a + b log2 n: so much more with each doubling.
    Logarithm {
        /// At n = 1.
        a: f64,
        /// For each doubling.
        b: f64,
    },
    /// c n^k: so many times more with each doubling.
    Power {
        /// At n = 1.
        c: f64,
        /// The exponent.
        k: f64,
    },
}

impl Law {
    /// The cost at a size.
    pub fn at(self, n: f64) -> f64 {
        match self {
            Self::Logarithm { a, b } => b.mul_add(n.log2(), a),
            Self::Power { c, k } => c * n.powf(k),
        }
    }
}

impl std::fmt::Display for Law {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Logarithm { a, b } if *b < 0.0 => write!(f, "{a:.1} - {:.2} log2 n", -b),
            Self::Logarithm { a, b } => write!(f, "{a:.1} + {b:.2} log2 n"),
            Self::Power { c, k } => write!(f, "{c:.1} n^{k:.3}"),
        }
    }
}

/// The better of both laws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// Which.
    #[serde(flatten)]
    pub law: Law,
    /// Root of the mean square of what it leaves unexplained, in percent of the mean cost.
    pub residual_percent: f64,
    /// The same of the other law.
    pub other_residual_percent: f64,
}

/// Fits both laws to `(size, cost)` and takes the one that leaves less. `None` with fewer than three sizes.
pub fn fit(points: &[(f64, f64)]) -> Option<Fit> {
    let points: Vec<_> = points.iter().copied().filter(|(n, cost)| *n >= 1.0 && *cost > 0.0).collect();
    let mut sizes: Vec<_> = points.iter().map(|(n, _)| n.to_bits()).collect();
    sizes.sort_unstable();
    sizes.dedup();
    if sizes.len() < LEAST {
        return None;
    }
    let (a, b) = line(points.iter().map(|(n, cost)| (n.log2(), *cost)));
    let (c, k) = line(points.iter().map(|(n, cost)| (n.ln(), cost.ln())));
    let residual = |law: Law| {
        let mean = points.iter().map(|(_, cost)| cost).sum::<f64>() / points.len() as f64;
        let square = points.iter().map(|(n, cost)| (law.at(*n) - cost).powi(2)).sum::<f64>() / points.len() as f64;
        square.sqrt() * 100.0 / mean
    };
    let (logarithm, power) = (Law::Logarithm { a, b }, Law::Power { c: c.exp(), k });
    let both = (residual(logarithm), residual(power));
    Some(if both.0 <= both.1 {
        Fit { law: logarithm, residual_percent: both.0, other_residual_percent: both.1 }
    } else {
        Fit { law: power, residual_percent: both.1, other_residual_percent: both.0 }
    })
}

/// Intercept and slope of the straight line with the least squares; the mean and no slope where all x are alike.
fn line(points: impl Iterator<Item = (f64, f64)> + Clone) -> (f64, f64) {
    let count = points.clone().count().max(1) as f64;
    let (x, y) = points.clone().fold((0.0, 0.0), |sum, point| (sum.0 + point.0 / count, sum.1 + point.1 / count));
    let (mixed, square) = points.fold((0.0, 0.0), |sum, point| {
        let dx = point.0 - x;
        (dx.mul_add(point.1 - y, sum.0), dx.mul_add(dx, sum.1))
    });
    let slope = if square > 0.0 { mixed / square } else { 0.0 };
    (slope.mul_add(-x, y), slope)
}

/// `count` sizes from `first` to `last`, each as many times the one before; both ends exact, those between round numbers unless the
/// ends are powers of two.
pub fn sizes(first: usize, last: usize, count: usize) -> Vec<usize> {
    if count < 2 || first >= last {
        return vec![first];
    }
    let exact = first.is_power_of_two() && last.is_power_of_two();
    let ratio = (last as f64 / first as f64).powf(1.0 / (count - 1) as f64);
    let mut sizes: Vec<usize> = (0..count)
        .map(|at| {
            let size = first as f64 * ratio.powi(at as i32);
            let unit = if exact { 1.0 } else { 10f64.powf(size.log10().floor() - 1.0).max(1.0) };
            if at == 0 { first } else { (((size / unit).round() * unit) as usize).clamp(first, last) }
        })
        .collect();
    if let Some(end) = sizes.last_mut() {
        *end = last;
    }
    sizes.dedup();
    sizes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZES: [f64; 6] = [500.0, 2000.0, 8000.0, 32_000.0, 125_000.0, 500_000.0];

    proptest! {
        #[test]
        fn a_logarithm_is_found_again(a in 50.0..2000.0f64, b in 5.0..200.0f64) {
            let law = Law::Logarithm { a, b };
            let found = fit(&SIZES.map(|n| (n, law.at(n)))).unwrap();
            prop_assert!(found.residual_percent < 1e-6 && found.other_residual_percent > found.residual_percent, "{:?}", found);
            let Law::Logarithm { a: a2, b: b2 } = found.law else { return Err(TestCaseError::fail("a power")) };
            prop_assert!((a - a2).abs() < 1e-6 * a && (b - b2).abs() < 1e-6 * b);
        }

        #[test]
        fn a_power_is_found_again(c in 1.0..1000.0f64, k in 0.2..1.2f64) {
            let law = Law::Power { c, k };
            let found = fit(&SIZES.map(|n| (n, law.at(n)))).unwrap();
            let Law::Power { c: c2, k: k2 } = found.law else { return Err(TestCaseError::fail("a logarithm")) };
            prop_assert!((c - c2).abs() < 1e-6 * c && (k - k2).abs() < 1e-6);
        }

        #[test]
        fn noise_moves_the_law_no_further_than_itself(b in 10.0..100.0f64, noise in prop::array::uniform6(-0.02..0.02f64)) {
            let law = Law::Logarithm { a: 500.0, b };
            let mut points = SIZES.map(|n| (n, law.at(n)));
            for (point, noise) in points.iter_mut().zip(noise) {
                point.1 *= 1.0 + noise;
            }
            let found = fit(&points).unwrap();
            prop_assert!(found.residual_percent <= found.other_residual_percent && found.residual_percent < 3.0);
            for (n, _) in points {
                prop_assert!((found.law.at(n) / law.at(n) - 1.0).abs() < 0.08, "{:?}", found);
            }
        }

        #[test]
        fn sizes_rise_between_exact_ends(first in 1usize..1000, times in 2usize..5000, count in 2usize..12) {
            let sizes = sizes(first, first * times, count);
            prop_assert!(sizes.len() <= count && sizes.is_sorted());
            prop_assert_eq!((sizes[0], *sizes.last().unwrap()), (first, first * times));
        }
    }

    #[test]
    fn few_points_have_no_law() {
        assert_eq!(fit(&[(1.0, 5.0), (2.0, 6.0)]), None);
        assert_eq!(fit(&[(4.0, 5.0), (4.0, 6.0), (4.0, 7.0)]), None);
        let flat = fit(&[(1.0, 5.0), (10.0, 5.0), (100.0, 5.0)]).unwrap();
        assert_eq!(flat.law.to_string(), "5.0 + 0.00 log2 n");
    }

    #[test]
    fn spans_of_the_contract() {
        assert_eq!(sizes(64, 65_536, 6), [64, 256, 1024, 4096, 16_384, 65_536]);
        assert_eq!(sizes(500, 500_000, 4), [500, 5000, 50_000, 500_000]);
        assert_eq!(sizes(1, 2, 6), [1, 2]);
        assert_eq!(sizes(7, 7, 6), [7]);
    }
}
