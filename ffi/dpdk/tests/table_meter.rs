//! rte_meter against RFC 2697 and RFC 2698 in plain integers, at the rates as DPDK rounds them, and against the engine's policers.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

mod common;

use common::Rng;
use marchproxy_dpdk::Eal;
use marchproxy_dpdk::table::{Colour, Srtcm, SrtcmRates, Step, TableError, Trtcm, TrtcmRates};
use marchproxy_engine::table::policer::{Colour as Ours, Policer, PolicerTable};
use marchproxy_engine::tables::{PolicerKind, PolicerSpec};

const METERS: u32 = 9;
const START: u64 = 1 << 40;

#[test]
fn meters() {
    let eal = common::builder("table-meter").start().unwrap();
    single_rate(&eal);
    two_rates(&eal);
    ours(&eal);
    known_differences(&eal);
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

/// Octets per second of both, where nothing is rounded: an octet a microsecond.
const RATE: u64 = 1_000_000;

fn policer(kind: PolicerKind, [cir, cbs, eir, ebs]: [u64; 4]) -> Policer {
    let spec = PolicerSpec { kind, cir: cir / 125, cbs, eir: eir / 125, ebs, ..Default::default() };
    let mut policer = Policer::EMPTY;
    policer.sync(&PolicerTable::new(&spec, 0, 1, 1), 1);
    policer
}

fn as_theirs(colour: Ours) -> Colour {
    match colour {
        Ours::Green => Colour::Green,
        Ours::Yellow => Colour::Yellow,
        Ours::Red => Colour::Red,
    }
}

/// Random arrivals at whole microseconds, in which both earn whole octets: every colour is the same.
fn ours(eal: &Eal) {
    let mut rng = Rng(3);
    for round in 0..40 {
        let (cbs, ebs) = (1_500 + rng.below(9_000), rng.below(6_000));
        let mut single = Srtcm::create(eal, &[SrtcmRates { cir: RATE, cbs, ebs }], START).unwrap();
        let pbs = cbs + ebs;
        let mut double = Trtcm::create(eal, &[TrtcmRates { cir: RATE, cbs, pir: 2 * RATE, pbs }], START).unwrap();
        let (step, [committed, peak]) = (single.step(0).unwrap(), double.steps(0).unwrap());
        let whole = Step { cycles: step.cycles, octets: 1 };
        assert_eq!(
            [step, committed, Step { cycles: 2 * peak.cycles, ..peak }],
            [whole; 3],
            "this clock rounds the rate"
        );
        let mut our_single = policer(PolicerKind::Srtcm, [RATE, cbs, 0, ebs]);
        let mut our_double = policer(PolicerKind::Trtcm, [RATE, cbs, 2 * RATE, pbs]);
        let (mut us, mut counts) = (1, [0; 3]);
        for packet in 0..3_000 {
            us += [0, rng.below(900), rng.below(2_000)][rng.below(3) as usize];
            let (len, cycles, nanos) = (20 + rng.below(1_480) as u16, START + us * step.cycles, us * 1_000);
            let mut theirs = [9; 2];
            single.burst(cycles, &[0], &[len], &mut theirs[..1]);
            double.burst(cycles, &[0], &[len], &mut theirs[1..]);
            let ours =
                [&mut our_single, &mut our_double].map(|ours| as_theirs(ours.meter(nanos, len.into(), Ours::Green)));
            assert_eq!(theirs.map(Srtcm::colour), ours, "round {round}, packet {packet}, {len} octets at {us} us");
            for colour in theirs {
                counts[usize::from(colour)] += 1;
            }
        }
        assert!(counts.iter().all(|&n| n > 50), "{counts:?}");
    }
}

/// Where DPDK and the engine differ, and why: packets of so many octets that pass after empty buckets were left alone for a time.
struct Difference {
    why: &'static str,
    kbps: u64,
    octets: u16,
    us: u64,
    ours: u64,
}

const DIFFERENCES: [Difference; 2] = [
    Difference {
        why: "an octet takes a fraction of a cycle more than a whole number: DPDK cuts it off and is too fast",
        kbps: 7_999,
        octets: 1,
        us: 1_000_000,
        ours: 999_875,
    },
    Difference {
        why: "an octet takes less than a cycle: DPDK earns some hundred octets after some hundred cycles, cut off likewise",
        kbps: 100_000_000,
        octets: 1_000,
        us: 1_000,
        ours: 12_500,
    },
];

fn known_differences(eal: &Eal) {
    let rates = |cir| [SrtcmRates { cir, cbs: 1 << 30, ebs: 0 }];
    let cycles_per_us = Srtcm::create(eal, &rates(RATE), START).unwrap().step(0).unwrap().cycles;
    for Difference { why, kbps, octets, us, ours } in DIFFERENCES {
        let mut meters = Srtcm::create(eal, &rates(kbps * 125), START).unwrap();
        let mut policer = policer(PolicerKind::Srtcm, [kbps * 125, 1 << 30, 0, 0]);
        let mut count = |cycles, nanos, octets: u16| {
            let (mut theirs, mut ours, mut colours) = (0u64, 0u64, [0; 32]);
            loop {
                meters.burst(cycles, &[0; 32], &[octets; 32], &mut colours);
                let green = colours.iter().filter(|&&colour| Srtcm::colour(colour) == Colour::Green).count();
                theirs += green as u64;
                if green < colours.len() {
                    break;
                }
            }
            while policer.meter(nanos, octets.into(), Ours::Green) == Ours::Green {
                ours += 1;
            }
            (theirs, ours)
        };
        // Nothing is left of the burst, a power of two, and so of a packet's part.
        count(START, 1, 1 << 15);
        let found = count(START + us * cycles_per_us, 1 + us * 1_000, octets);
        let step = Srtcm::create(eal, &rates(kbps * 125), START).unwrap().step(0).unwrap();
        let theirs = us * cycles_per_us / step.cycles * step.octets / u64::from(octets);
        assert_eq!(found, (theirs, ours), "{why}");
        assert!(theirs > ours, "{why}: {theirs}");
    }
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
