//! Searches over a device that only answers "held" or "lost": throughput, the longest burst, the frame-loss curve. Pure functions; what a
//! trial is, the caller knows.

/// Steps of a search at most: enough for a resolution of one in a billion, and an end where a device answers at random.
const STEPS: usize = 32;

/// Full-length trials at ever lower rates before a throughput is given up.
const CONFIRMATIONS: usize = 12;

/// How a trial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No more was lost than allowed.
    Held,
    /// More was lost.
    Lost,
    /// The tester did not offer the load: nothing is known about the device.
    Invalid,
}

/// How long a trial lasts (RFC 2544 s24: a search may use shorter ones, the result is determined with full ones).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// For the search.
    Short,
    /// For the result.
    Full,
}

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// The highest rate that held in a full trial; 0 when none did.
    pub rate: f64,
    /// The lowest rate above it that did not, and why; `None` when the highest rate there is held.
    pub above: Option<(f64, Verdict)>,
}

/// The highest rate up to `most` that holds, by bisection to within `resolution` (a share of the rate found), confirmed in full length.
/// `known` is a rate that is known to hold; 0 knows nothing.
pub fn throughput<E>(
    known: f64,
    most: f64,
    resolution: f64,
    mut trial: impl FnMut(f64, Length) -> Result<Verdict, E>,
) -> Result<Found, E> {
    let (mut low, mut high, mut above) = (known.min(most), most, None);
    match trial(most, Length::Short)? {
        Verdict::Held => low = most,
        verdict => above = Some((most, verdict)),
    }
    for _ in 0..STEPS {
        if high - low <= resolution * high {
            break;
        }
        let middle = low.midpoint(high);
        match trial(middle, Length::Short)? {
            Verdict::Held => low = middle,
            verdict => {
                high = middle;
                above = Some((middle, verdict));
            }
        }
    }
    // What a short trial let pass a long one may not. Each time the step down doubles.
    let mut step = resolution;
    for _ in 0..CONFIRMATIONS {
        if low <= 0.0 {
            break;
        }
        match trial(low, Length::Full)? {
            Verdict::Held => return Ok(Found { rate: low, above }),
            verdict => above = Some((low, verdict)),
        }
        low *= (1.0 - step).max(0.0);
        step = (step * 2.0).min(0.5);
    }
    Ok(Found { rate: 0.0, above })
}

/// The longest burst that holds, in frames: doubling from `first`, then bisection to within `resolution` frames, never more than `most`.
/// The second value tells whether `most` held.
pub fn longest<E>(
    first: u64,
    most: u64,
    resolution: u64,
    mut holds: impl FnMut(u64) -> Result<bool, E>,
) -> Result<(u64, bool), E> {
    let (mut low, mut high) = (0, first.clamp(1, most.max(1)));
    while holds(high)? {
        if high >= most {
            return Ok((high, true));
        }
        (low, high) = (high, (high * 2).min(most));
    }
    while high - low > resolution.max(1) {
        let middle = low.midpoint(high);
        if holds(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok((low, false))
}

/// The frame-loss curve (RFC 2544 s26.3): from 100 % down in steps of 10 % until two trials in a row lost nothing. `trial` is asked for
/// each percentage and says whether it lost something.
pub fn loss_curve<E>(mut trial: impl FnMut(u32) -> Result<bool, E>) -> Result<(), E> {
    let mut clean = 0;
    for percent in (1..=10).rev().map(|tenth| tenth * 10) {
        clean = if trial(percent)? { 0 } else { clean + 1 };
        if clean == 2 {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// A device that holds `capacity`, tested by a tester that manages `tester`.
    fn device(capacity: f64, tester: f64) -> impl FnMut(f64, Length) -> Result<Verdict, Infallible> {
        move |rate, _| {
            Ok(if rate > tester {
                Verdict::Invalid
            } else if rate > capacity {
                Verdict::Lost
            } else {
                Verdict::Held
            })
        }
    }

    proptest! {
        #[test]
        fn the_capacity_is_found_to_within_the_resolution(
            capacity in 1e4..1e8f64, most in 1e4..1e8f64, resolution in 0.0005..0.05f64, known in 0.0..1.0f64,
        ) {
            let mut trials = 0;
            let mut ask = device(capacity, f64::MAX);
            let Ok(found) = throughput(capacity * known, most, resolution, |rate, length| {
                trials += 1;
                ask(rate, length)
            });
            prop_assert!(trials <= STEPS + 2);
            if capacity >= most {
                prop_assert_eq!(found, Found { rate: most, above: None });
            } else {
                prop_assert!(found.rate <= capacity, "{:?}", found);
                let (above, verdict) = found.above.unwrap();
                prop_assert_eq!(verdict, Verdict::Lost);
                prop_assert!(above > capacity && above - found.rate <= resolution * above * 1.0001, "{:?}", found);
            }
        }

        #[test]
        fn a_tester_that_cannot_is_named(capacity in 1e6..1e7f64, share in 0.1..0.9f64) {
            let Ok(found) = throughput(0.0, 2e7, 0.01, device(capacity, capacity * share));
            prop_assert_eq!(found.above.unwrap().1, Verdict::Invalid);
            prop_assert!(found.rate <= capacity * share && found.rate >= capacity * share * 0.98);
        }

        #[test]
        fn what_only_short_trials_let_pass_is_no_result(long in 1e5..1e6f64, more in 1.0..1.3f64) {
            let mut full = Vec::new();
            let Ok(found) = throughput(0.0, 1e7, 0.01, |rate, length| {
                let limit = if length == Length::Full { long } else { long * more };
                if length == Length::Full {
                    full.push(rate);
                }
                Ok::<_, Infallible>(if rate > limit { Verdict::Lost } else { Verdict::Held })
            });
            prop_assert!(found.rate > 0.0 && found.rate <= long, "{:?}", found);
            prop_assert_eq!(full.last().copied(), Some(found.rate));
        }

        #[test]
        fn the_longest_burst_is_found(buffer in 0u64..5_000_000, most in 1u64..5_000_000, resolution in 1u64..64) {
            let mut trials = 0;
            let Ok((burst, all)) = longest(1024, most, resolution, |frames| {
                trials += 1;
                Ok::<_, Infallible>(frames <= buffer)
            });
            prop_assert!(trials < 64);
            prop_assert_eq!(all, buffer >= most);
            if all {
                prop_assert_eq!(burst, most);
            } else {
                prop_assert!(burst <= buffer && buffer - burst < resolution.max(1), "{} of {}", burst, buffer);
            }
        }

        #[test]
        fn devices_that_answer_at_random_end_the_search(answers in prop::collection::vec(any::<bool>(), 200)) {
            let mut next = answers.iter().copied().cycle();
            let Ok(found) = throughput(0.0, 1e7, 1e-9, |_, _| {
                Ok::<_, Infallible>(if next.next().unwrap() { Verdict::Held } else { Verdict::Lost })
            });
            prop_assert!((0.0..=1e7).contains(&found.rate));
        }
    }

    #[test]
    fn a_device_that_loses_always_has_no_throughput() {
        let Ok(found) = throughput(0.0, 1e6, 0.01, |_, _| Ok::<_, Infallible>(Verdict::Lost));
        assert!(found.rate.abs() < f64::EPSILON && found.above.is_some());
        assert_eq!(longest(16, 100, 1, |_| Ok::<_, Infallible>(false)), Ok((0, false)));
    }

    #[test]
    fn the_curve_ends_after_two_trials_without_loss() {
        let asked = |lossy: &dyn Fn(u32) -> bool| {
            let mut asked = Vec::new();
            let Ok(()) = loss_curve(|percent| {
                asked.push(percent);
                Ok::<_, Infallible>(lossy(percent))
            });
            asked
        };
        assert_eq!(asked(&|_| false), [100, 90]);
        assert_eq!(asked(&|percent| percent > 70), [100, 90, 80, 70, 60]);
        // A clean trial between lossy ones does not count.
        assert_eq!(asked(&|percent| percent > 50 && percent != 80), [100, 90, 80, 70, 60, 50, 40]);
        assert_eq!(asked(&|_| true), [100, 90, 80, 70, 60, 50, 40, 30, 20, 10]);
    }
}
