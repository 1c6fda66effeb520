//! rte_meter against RFC 2697 and RFC 2698 in plain integers, at the rates as DPDK rounds them.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

mod common;

use common::Rng;
use marchproxy_dpdk::Eal;
use marchproxy_dpdk::table::{Colour, Srtcm, SrtcmRates, Step, TableError, Trtcm, TrtcmRates};

const METERS: u32 = 9;
const START: u64 = 1 << 40;

#[test]
fn meters() {
    let eal = common::builder("table-meter").start().unwrap();
    single_rate(&eal);
    two_rates(&eal);
    refusals(&eal);
}

/// A bucket that fills in whole steps, and the time of its last one.
struct Bucket {
    tokens: u64,
    size: u64,
}

/// Tokens of the steps that have passed since `last`, which moves on by as many.
fn fill(step: Step, last: &mut u64, now: u64) -> u64 {
    let steps = (now - *last) / step.cycles;
    *last += steps * step.cycles;
    steps * step.octets
}

impl Bucket {
    fn full(size: u64) -> Self {
        Self { tokens: size, size }
    }

    /// Adds tokens and returns those that run over.
    fn add(&mut self, tokens: u64) -> u64 {
        let sum = self.tokens + tokens;
        self.tokens = sum.min(self.size);
        sum - self.tokens
    }
}

/// Bursts of packets over all meters, at times that sometimes stand still.
fn traffic(rng: &mut Rng) -> Vec<(u64, Vec<u32>, Vec<u16>)> {
    let mut now = START;
    (0..2_000)
        .map(|_| {
            now += [0, rng.below(1_000), rng.below(3_000_000)][rng.below(3) as usize];
            let n = 1 + rng.below(32);
            let which = (0..n).map(|_| rng.below(u64::from(METERS)) as u32).collect();
            (now, which, (0..n).map(|_| 20 + rng.below(1_480) as u16).collect())
        })
        .collect()
}

fn single_rate(eal: &Eal) {
    let rates: Vec<_> = (1..=u64::from(METERS))
        .map(|n| SrtcmRates { cir: n * 1_000_003, cbs: 1_500 * n, ebs: if n == 3 { 0 } else { 3_000 } })
        .collect();
    let mut meters = Srtcm::create(eal, &rates, START).unwrap();
    let mut twins: Vec<_> = (0..METERS)
        .map(|at| {
            let r = rates[at as usize];
            (meters.step(at).unwrap(), START, Bucket::full(r.cbs), Bucket::full(r.ebs))
        })
        .collect();
    let mut counts = [0; 3];
    for (now, which, lens) in traffic(&mut Rng(1)) {
        let mut colours = vec![9; which.len()];
        assert_eq!(meters.burst(now, &which, &lens, &mut colours), which.len());
        for ((&meter, &len), &colour) in which.iter().zip(&lens).zip(&colours) {
            let (step, last, committed, excess) = &mut twins[meter as usize];
            excess.add(committed.add(fill(*step, last, now)));
            let (len, mut expected) = (u64::from(len), Colour::Red);
            for (bucket, colour) in [(committed, Colour::Green), (excess, Colour::Yellow)] {
                if bucket.tokens >= len {
                    bucket.tokens -= len;
                    expected = colour;
                    break;
                }
            }
            assert_eq!(Srtcm::colour(colour), expected, "meter {meter} at {now}");
            counts[usize::from(colour)] += 1;
        }
    }
    assert!(counts.iter().all(|&n| n > 500), "{counts:?}");
    assert!(meters.step(METERS).is_err());
    let mut untouched = [9];
    assert_eq!(meters.burst(START, &[METERS], &[64], &mut untouched), 0, "no such meter");
    assert_eq!(untouched, [9]);
}

fn two_rates(eal: &Eal) {
    let rates: Vec<_> = (1..=u64::from(METERS))
        .map(|n| TrtcmRates { cir: n * 1_000_003, cbs: 1_500 * n, pir: n * 2_000_003, pbs: 2_000 * n })
        .collect();
    let mut meters = Trtcm::create(eal, &rates, START).unwrap();
    let mut twins: Vec<_> = (0..METERS)
        .map(|at| {
            let r = rates[at as usize];
            (meters.steps(at).unwrap(), [START; 2], Bucket::full(r.cbs), Bucket::full(r.pbs))
        })
        .collect();
    let mut counts = [0; 3];
    for (now, which, lens) in traffic(&mut Rng(2)) {
        let mut colours = vec![9; which.len()];
        assert_eq!(meters.burst(now, &which, &lens, &mut colours), which.len());
        for ((&meter, &len), &colour) in which.iter().zip(&lens).zip(&colours) {
            let ([cir, pir], [last_c, last_p], committed, peak) = &mut twins[meter as usize];
            committed.add(fill(*cir, last_c, now));
            peak.add(fill(*pir, last_p, now));
            let len = u64::from(len);
            let expected = if peak.tokens < len {
                Colour::Red
            } else if committed.tokens < len {
                peak.tokens -= len;
                Colour::Yellow
            } else {
                committed.tokens -= len;
                peak.tokens -= len;
                Colour::Green
            };
            assert_eq!(Trtcm::colour(colour), expected, "meter {meter} at {now}");
            counts[usize::from(colour)] += 1;
        }
    }
    assert!(counts.iter().all(|&n| n > 500), "{counts:?}");
}

fn refusals(eal: &Eal) {
    let said = |error: TableError| error.to_string();
    assert!(said(Srtcm::create(eal, &[], 0).unwrap_err()).contains("meters 0"));
    let nothing = SrtcmRates { cir: 0, cbs: 1, ebs: 1 };
    assert!(said(Srtcm::create(eal, &[nothing], 0).unwrap_err()).contains("of meter 0"));
    let below = TrtcmRates { cir: 2, cbs: 1, pir: 1, pbs: 1 };
    assert!(said(Trtcm::create(eal, &[below], 0).unwrap_err()).contains("the peak not below"));
    // A clock that runs backwards fills nothing.
    let mut one = Srtcm::create(eal, &[SrtcmRates { cir: 1_000_000, cbs: 100, ebs: 0 }], START).unwrap();
    let mut colours = [0; 2];
    one.burst(START + 1, &[0, 0], &[100, 1], &mut colours);
    assert_eq!(colours.map(Srtcm::colour), [Colour::Green, Colour::Red]);
    one.burst(0, &[0], &[100], &mut colours);
    assert_eq!(Srtcm::colour(colours[0]), Colour::Red);
}
