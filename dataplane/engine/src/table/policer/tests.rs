use super::meter::MAX_BURST_OCTETS;
use super::*;
use crate::flow::v4;
use crate::tables::{PolicerKind, PolicerUnit};
use proptest::prelude::*;

fn spec(kind: PolicerKind, [cir, cbs, eir, ebs]: [u64; 4]) -> PolicerSpec {
    PolicerSpec { name: "p".into(), kind, cir, cbs, eir, ebs, ..Default::default() }
}

fn srtcm(cir: u64, cbs: u64, ebs: u64) -> PolicerTable {
    PolicerTable::new(&spec(PolicerKind::Srtcm, [cir, cbs, 0, ebs]), 0, 1, 1)
}

fn policer(table: &PolicerTable) -> Policer {
    let mut policer = Policer::EMPTY;
    policer.sync(table, 1);
    policer
}

#[test]
fn bursts_are_green_then_yellow_then_red() {
    let mut p = policer(&srtcm(8, 1500, 3000));
    let colours: Vec<_> = (0..5).map(|_| p.meter(0, 1000, Colour::Green)).collect();
    assert_eq!(colours, [Colour::Green, Colour::Yellow, Colour::Yellow, Colour::Yellow, Colour::Red]);
    // 8 kbit/s refill 1,000 octets a second; 500 were left in the committed bucket.
    assert_eq!(p.meter(499_999_999, 1000, Colour::Green), Colour::Red);
    assert_eq!(p.meter(500_000_000, 1000, Colour::Green), Colour::Green);
}

#[test]
fn a_jumping_clock_yields_at_most_one_burst() {
    for kind in PolicerKind::ALL {
        let eir = if kind == PolicerKind::Srtcm { 0 } else { 100_000_000 };
        for unit in [PolicerUnit::Octets, PolicerUnit::Packets] {
            let largest = PolicerSpec { unit, ..spec(kind, [100_000_000, 3, eir, 3]) };
            let mut p = policer(&PolicerTable::new(&largest, 0, 1, 1));
            p.meter(u64::MAX / 2, 1, Colour::Green);
            let passed = (0..100).filter(|_| p.meter(u64::MAX, 1, Colour::Green) != Colour::Red).count();
            assert_eq!(passed, if kind == PolicerKind::Trtcm { 3 } else { 6 }, "{kind:?} {unit:?}");
            assert_eq!(p.meter(0, 1, Colour::Green), Colour::Red, "backwards adds nothing");
        }
    }
}

/// 1 kbit/s to 100 Gbit/s, 64 and 1,500 octets, offered at ten times the rate over 100,000 packets: what passes is what was earned and one
/// burst, to the packet.
#[test]
fn long_run_rate_is_exact() {
    for cir in [1u64, 64, 10_000, 1_000_000, 99_999_999, 100_000_000] {
        for octets in [64u64, 1500] {
            // Nanoseconds between packets, in thousandths, so that the clock itself is not rounded off.
            let step = octets * UNITS_PER_OCTET * 1000 / cir / 10;
            let packets = 100_000u64;
            let now = |n: u64| (u128::from(n) * u128::from(step) / 1000) as u64;
            let earned = u128::from(now(packets - 1)) * u128::from(cir) / u128::from(octets * UNITS_PER_OCTET);
            // With room for what comes between two packets nothing is lost at all.
            let mut p = policer(&srtcm(cir, 3 * octets, 0));
            let passed =
                (0..packets).filter(|&n| p.meter(now(n), octets as usize, Colour::Green) == Colour::Green).count();
            assert_eq!(passed as u128, earned + 3, "{cir} kbit/s, {octets} octets");
        }
    }
}

#[test]
fn a_push_keeps_the_tokens_and_a_new_policer_starts_full() {
    let mut p = policer(&srtcm(8, 1500, 0));
    assert_eq!(p.meter(0, 1500, Colour::Green), Colour::Green);
    let mut table = srtcm(8, 9000, 0);
    p.sync(&table, 2);
    assert_eq!(p.meter(0, 64, Colour::Green), Colour::Red, "same policer, same empty bucket");
    table.incarnation = 2;
    p.sync(&table, 3);
    assert_eq!(p.meter(0, 9000, Colour::Green), Colour::Green);
}

#[test]
fn codepoints_have_colours() {
    let of = |dscp| Colour::of_dscp(dscp);
    for class in 1..=4 {
        assert_eq!([2, 4, 6].map(|drop| of(class * 8 + drop)), Colour::ALL);
        assert_eq!(of(class * 8), Colour::Green);
    }
    let others = (0..64).filter(|dscp| ![12, 14, 20, 22, 28, 30, 36, 38].contains(dscp));
    assert!(others.map(of).all(|colour| colour == Colour::Green));
}

/// The slow twin: the RFCs' text with unlimited integers, in its own units (a token is a 10^9th of an octet or packet, rates are in
/// 10^9ths of these per nanosecond).
#[derive(Clone, Debug)]
struct Twin {
    kind: PolicerKind,
    /// Numerator and denominator of what a nanosecond brings, for each bucket.
    rates: [(u128, u128); 2],
    sizes: [u128; 2],
    /// Times the denominator of its rate.
    tokens: [u128; 2],
    last: u64,
}

impl Twin {
    fn new(spec: &PolicerSpec) -> Self {
        // kbit/s are 125 octets a second, over 10^9 ns.
        let rate = |rate: u64| match spec.unit {
            PolicerUnit::Octets => (u128::from(rate) * 125, 1_000_000_000),
            PolicerUnit::Packets => (u128::from(rate), 1_000_000_000),
        };
        let rates = [rate(spec.cir), rate(spec.eir)];
        let sizes = [u128::from(spec.cbs) * rates[0].1, u128::from(spec.ebs) * rates[1].1];
        Self { kind: spec.kind, rates, sizes, tokens: sizes, last: 0 }
    }

    fn meter(&mut self, now: u64, amount: u64, pre: Colour) -> Colour {
        let nanos = u128::from(now.saturating_sub(self.last));
        self.last = self.last.max(now);
        let [first, second] = self.rates.map(|(rate, _)| rate * nanos);
        let total = self.tokens[0] + first;
        self.tokens[0] = total.min(self.sizes[0]);
        let second = if self.kind == PolicerKind::Srtcm { total - self.tokens[0] } else { second };
        self.tokens[1] = (self.tokens[1] + second).min(self.sizes[1]);
        let need = u128::from(amount) * 1_000_000_000;
        let [first, second] = &mut self.tokens;
        match (self.kind, pre) {
            (_, Colour::Red) => Colour::Red,
            (PolicerKind::Trtcm, _) if *second < need => Colour::Red,
            (PolicerKind::Trtcm, Colour::Green) if *first >= need => {
                (*first, *second) = (*first - need, *second - need);
                Colour::Green
            }
            (PolicerKind::Trtcm, _) => {
                *second -= need;
                Colour::Yellow
            }
            (_, Colour::Green) if *first >= need => {
                *first -= need;
                Colour::Green
            }
            (_, _) if *second >= need => {
                *second -= need;
                Colour::Yellow
            }
            _ => Colour::Red,
        }
    }
}

/// Every marker with every small rate and burst, every sequence of three packets of every small length, gap and colour: as the RFC says.
#[test]
fn all_small_markers_and_sequences() {
    let mut checked = 0u32;
    let mut found = [0u32; 3];
    for kind in PolicerKind::ALL {
        let eirs: &[u64] = if kind == PolicerKind::Srtcm { &[0] } else { &[4, 12] };
        for (cir, &eir) in [4u64, 8].into_iter().flat_map(|cir| eirs.iter().map(move |eir| (cir, eir))) {
            for (cbs, ebs) in (0u64..4).flat_map(|cbs| (0u64..4).map(move |ebs| (cbs, ebs))) {
                let spec = spec(kind, [cir, cbs, eir, ebs]);
                let table = PolicerTable::new(&spec, 0, 1, 1);
                let (start, twin) = (policer(&table), Twin::new(&spec));
                // A packet in base 4 * 3 * 3: octets 0 to 3, gap of 0, 0.5 or 2 ms (8 kbit/s are an octet a millisecond), colour on arrival.
                for sequence in 0..36u32.pow(3) {
                    let (mut p, mut twin, mut now, mut rest) = (start, twin.clone(), 0, sequence);
                    for _ in 0..3 {
                        let (octets, gap, pre) = (rest % 4, rest / 4 % 3, Colour::ALL[(rest / 12 % 3) as usize]);
                        rest /= 36;
                        now += [0, 500_000, 2_000_000][gap as usize];
                        let colour = p.meter(now, octets as usize, pre);
                        assert_eq!(colour, twin.meter(now, octets.into(), pre), "{spec:?}, sequence {sequence}");
                        found[colour as usize] += 1;
                    }
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 4_000_000 && found.iter().all(|&n| n > 1_000_000), "{checked} {found:?}");
}

fn any_spec() -> impl Strategy<Value = PolicerSpec> {
    let rate = || prop_oneof![1u64..=100, 1u64..=100_000_000];
    let burst = || prop_oneof![0u64..20_000, 0u64..1 << 32, Just(MAX_BURST_OCTETS >> 8)];
    let kind = proptest::sample::select(PolicerKind::ALL.to_vec());
    (kind, any::<bool>(), rate(), rate(), burst(), burst()).prop_map(|(kind, packets, cir, more, cbs, ebs)| {
        let eir = match kind {
            PolicerKind::Srtcm => 0,
            PolicerKind::Trtcm => (cir + more).min(100_000_000),
            PolicerKind::Rfc4115 => more,
        };
        let unit = if packets { PolicerUnit::Packets } else { PolicerUnit::Octets };
        PolicerSpec { unit, ..spec(kind, [cir, cbs, eir, ebs]) }
    })
}

proptest! {
    #[test]
    fn equals_the_rfcs_in_wide_integers(
        spec in any_spec(),
        arrivals in prop::collection::vec((prop_oneof![0u64..1000, 0u64..1 << 24, 0u64..1 << 45], 20usize..9216, 0usize..3), 1..120),
    ) {
        let mut p = policer(&PolicerTable::new(&spec, 0, 1, 1));
        let mut twin = Twin::new(&spec);
        let mut now = 0;
        for (step, octets, pre) in arrivals {
            now += step;
            let amount = if spec.unit == PolicerUnit::Packets { 1 } else { octets as u64 };
            let pre = Colour::ALL[pre];
            prop_assert_eq!(p.meter(now, octets, pre), twin.meter(now, amount, pre));
        }
    }
}

fn packet(source: u8, octets: usize) -> Metered {
    Metered { source: v4(0xc000_0200 | u32::from(source)), octets, pre: Colour::Green }
}

#[test]
fn sources_have_buckets_of_their_own_until_there_is_no_place() {
    let per_source = Some(SourcesSpec { v4: 32, v6: 64 });
    // 8 kbit/s: an octet a millisecond; full again after 100 of them.
    let table = PolicerTable::new(&PolicerSpec { per_source, ..spec(PolicerKind::Srtcm, [8, 100, 0, 0]) }, 0, 1, 1);
    let mut policers = Policers::new(1, 7);
    let meter = |policers: &mut Policers, now, source| policers.meter(&table, 1, now, &packet(source, 100));
    for source in 0..8 {
        assert_eq!(meter(&mut policers, 0, source), Colour::Green);
        assert_eq!(meter(&mut policers, 0, source), Colour::Red, "its own is used up");
    }
    // The ninth and tenth share the policer's own buckets.
    assert_eq!([8, 9, 8].map(|source| meter(&mut policers, 0, source)), [Colour::Green, Colour::Red, Colour::Red]);
    assert_eq!(policers.placeless(), 3);
    // A source whose buckets are full again is as one that never came.
    let later = 100_000_001;
    assert_eq!([20, 21, 22, 0].map(|source| meter(&mut policers, later, source)), [Colour::Green; 4]);
    assert_eq!([20, 21, 22, 0].map(|source| meter(&mut policers, later, source)), [Colour::Red; 4]);
    assert_eq!(policers.placeless(), 3);
}

#[test]
fn sources_are_prefixes() {
    let per_source = Some(SourcesSpec { v4: 24, v6: 56 });
    let table = PolicerTable::new(&PolicerSpec { per_source, ..spec(PolicerKind::Srtcm, [8, 100, 0, 0]) }, 0, 1, 1);
    let of = |ip: &str| {
        table.source_of(crate::flow::from_ip(ip.parse().unwrap())).map(crate::flow::to_ip).unwrap().to_string()
    };
    assert_eq!(["192.0.2.1", "192.0.2.255", "192.0.3.1"].map(of), ["192.0.2.0", "192.0.2.0", "192.0.3.0"]);
    assert_eq!(of("2001:db8:0:1ff::1"), "2001:db8:0:100::");
    assert_eq!(srtcm(8, 100, 0).source_of(v4(1)), None);
}

/// So many workers, and how much each is offered in parts of all.
fn shares(workers: usize, uneven: bool) -> Vec<u64> {
    (0..workers as u64).map(|n| if uneven { 1 << (2 * n).min(10) } else { 1 }).collect()
}

/// On a simulated clock: octets by colour in a second in which three times the rate is offered, in turns of 20 us, worker after worker.
fn simulate(spec: &PolicerSpec, workers: usize, uneven: bool, octets: usize) -> [u64; 3] {
    const TURN: usize = 20_000;
    let table = PolicerTable::new(spec, 0, 1, workers);
    let mut all: Vec<_> = (0..workers).map(|_| Policers::new(1, 7)).collect();
    all.iter_mut().for_each(Policers::share);
    let shares = shares(workers, uneven);
    let total: u64 = shares.iter().sum();
    let mut passed = [0; 3];
    let offered = u128::from(3 * (spec.cir + spec.eir)) * TURN as u128;
    let cost = octets as u128 * u128::from(UNITS_PER_OCTET);
    let mut waiting = vec![0u128; workers];
    for now in (0..1_000_000_000u64).step_by(TURN) {
        for (worker, policers) in all.iter_mut().enumerate() {
            waiting[worker] += offered * u128::from(shares[worker]) / u128::from(total);
            while waiting[worker] >= cost {
                waiting[worker] -= cost;
                let colour = policers.meter(&table, 1, now, &packet(1, octets));
                passed[colour as usize] += octets as u64;
            }
            policers.upkeep(std::slice::from_ref(&table), now);
        }
    }
    passed
}

#[test]
fn one_limit_holds_for_any_number_of_workers_under_uneven_load() {
    for (kind, cir, eir, octets) in [
        (PolicerKind::Srtcm, 10_000, 0, 500),
        (PolicerKind::Srtcm, 1_000_000, 0, 1500),
        (PolicerKind::Trtcm, 100_000, 150_000, 64),
        (PolicerKind::Rfc4115, 50_000, 50_000, 1500),
    ] {
        for workers in [2, 3, 8] {
            for uneven in [false, true] {
                let spec = spec(kind, [cir, 15_000, eir, 15_000]);
                let [green, yellow, _] = simulate(&spec, workers, uneven, octets);
                let second = |kbps: u64| (kbps * 125) as f64;
                let expected = match kind {
                    PolicerKind::Srtcm => [second(cir), 0.0],
                    PolicerKind::Trtcm => [second(cir), second(eir - cir)],
                    PolicerKind::Rfc4115 => [second(cir), second(eir)],
                };
                for (passed, expected) in [green, yellow].into_iter().zip(expected) {
                    // One burst on top, which is what a burst is for.
                    let off = passed as f64 - expected;
                    assert!(
                        off >= -0.01 * expected && off <= 0.01 * expected + 15_000.0,
                        "{spec:?}, {workers} workers, uneven {uneven}: {passed} for {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn workers_together_spend_one_burst_and_one_packet_of_it_always_passes() {
    for workers in [2, 5, 16] {
        let table = PolicerTable::new(&spec(PolicerKind::Srtcm, [1_000_000, 100_000, 0, 0]), 0, 1, workers);
        let mut all: Vec<_> = (0..workers).map(|_| Policers::new(1, 7)).collect();
        all.iter_mut().for_each(Policers::share);
        let spend = |all: &mut [Policers], now, octets| {
            let passed =
                (0..4000).filter(|n| all[n % workers].meter(&table, 1, now, &packet(1, octets)) == Colour::Green);
            passed.count() * octets
        };
        // A second without packets in between, in which everybody gives back what he has.
        for now in [1, 1_000_000_000, 5_000_000_000] {
            let spent = spend(&mut all, now, 100);
            assert!((100_000 - 100 * workers..=100_000).contains(&spent), "{workers} workers: {spent}");
            for policers in &mut all {
                policers.upkeep(std::slice::from_ref(&table), now + IDLE);
            }
        }
        // What others have borrowed and not used does not keep a packet of a whole burst from passing.
        assert_eq!(all[0].meter(&table, 1, 10_000_000_000, &packet(1, 100)), Colour::Green);
        for policers in &mut all {
            policers.upkeep(std::slice::from_ref(&table), 11_000_000_000);
        }
        assert_eq!(all[1].meter(&table, 1, 11_000_000_000, &packet(1, 100_000)), Colour::Green);
    }
}

/// Longer than anything stays lent.
const IDLE: u64 = 1_000_000;

/// A worker that is alone among several is as exact as one that is really alone, but for the time it takes to borrow.
#[test]
fn a_single_busy_worker_gets_all_of_the_limit() {
    let spec = spec(PolicerKind::Srtcm, [80_000, 15_000, 0, 0]);
    let table = PolicerTable::new(&spec, 0, 1, 4);
    let mut policers = Policers::new(1, 7);
    policers.share();
    let mut twin = policer(&PolicerTable::new(&spec, 0, 1, 1));
    let [mut ours, mut exact] = [0, 0];
    for n in 0..100_000u64 {
        let now = n * 20_000;
        ours += u64::from(policers.meter(&table, 1, now, &packet(1, 1000)) == Colour::Green);
        exact += u64::from(twin.meter(now, 1000, Colour::Green) == Colour::Green);
    }
    assert!(ours <= exact && exact - ours <= 1, "{ours} of {exact}");
}
