//! The scheduler on a clock of the test's: rates, delays, shares, and what never changes.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::shaping::SHORTEST;
use super::*;
use crate::io::PacketBuf;
use crate::ports::PortSlot;
use crate::reason::DropReason;
use crate::slots::Slot;
use crate::table::policer::UNITS_PER_OCTET;
use crate::tables::{Class, QueueSpec, ShaperSpec};

const US: u64 = 1000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;
/// A full frame; it counts 1538 octets.
const FULL: usize = 1514;

/// A packet without content.
#[derive(Debug, PartialEq)]
struct Probe {
    octets: usize,
    id: u32,
}

impl PacketBuf for Probe {
    fn data(&self) -> &[u8] {
        &[]
    }
    fn data_mut(&mut self) -> &mut [u8] {
        &mut []
    }
    fn octets(&self) -> usize {
        self.octets
    }
    fn headroom(&self) -> usize {
        0
    }
    fn tailroom(&self) -> usize {
        0
    }
    fn prepend(&mut self, _: usize) -> bool {
        false
    }
    fn trim_front(&mut self, _: usize) {}
    fn resize(&mut self, _: usize) -> bool {
        false
    }
}

fn counted(octets: usize) -> u64 {
    (octets as u64).max(u64::from(SHORTEST)) + 24
}

fn port(rate_kbps: u64) -> ShaperSpec {
    ShaperSpec { rate_kbps, ..ShaperSpec::default() }
}

fn shaping(shaper: &ShaperSpec, services: &[QueueSpec]) -> Shaping {
    let slots = services
        .iter()
        .enumerate()
        .map(|(n, spec)| (n as u32, Slot { index: n as u32, incarnation: n as u32 + 1 }, spec));
    Shaping::new(vec![(PortSlot::default(), PortShaping::new(shaper, 1500))], slots)
}

/// Who offers what: service (1 is the first), class, size, kbit/s as counted on the wire.
#[derive(Clone, Copy)]
struct Source {
    slot: u16,
    class: Class,
    octets: usize,
    kbps: u64,
}

/// What became of a source's packets.
#[derive(Clone, Default)]
struct Got {
    octets: u64,
    sojourns: Vec<u64>,
}

impl Got {
    fn percentile(&self, percent: usize) -> u64 {
        let mut all = self.sojourns.clone();
        all.sort_unstable();
        all[(all.len() - 1) * percent / 100]
    }

    fn kbps(&self, over: u64) -> f64 {
        self.octets as f64 * 8e6 / over as f64
    }
}

/// Runs sources against a scheduler: a turn every `step` until `until`; what left before `from` does not count.
fn run(shaping: &Shaping, sources: &[Source], (from, until): (u64, u64), step: u64) -> Vec<Got> {
    let mut scheduler = Scheduler::<Probe>::new(1 << 16, 4096);
    scheduler.sync(shaping.port(PortSlot::default()), 1);
    let mut got = vec![Got::default(); sources.len()];
    let mut credit = vec![0u64; sources.len()];
    let mut born: HashMap<u32, (usize, u64)> = HashMap::new();
    let (mut id, mut now, mut order) = (0u32, 1u64, 0usize);
    while now < until {
        // In turn, another one first each time.
        for n in 0..sources.len() {
            let at = (n + order) % sources.len();
            let source = &sources[at];
            credit[at] += step * source.kbps;
            let cost = counted(source.octets) * UNITS_PER_OCTET;
            while credit[at] >= cost {
                credit[at] -= cost;
                let tag = Tag { slot: source.slot, class: source.class };
                if scheduler.push(Probe { octets: source.octets, id }, tag, now).is_ok() {
                    born.insert(id, (at, now));
                }
                id = id.wrapping_add(1);
            }
        }
        order += 1;
        scheduler.tick(now);
        for _ in 0..PER_TURN {
            let mut lost = |packet: Probe, _| {
                born.remove(&packet.id);
            };
            let Some(packet) = scheduler.pop(now, Some(shaping), &mut lost) else { break };
            let (source, since) = born.remove(&packet.id).unwrap();
            if now >= from {
                got[source].octets += counted(packet.octets);
                got[source].sojourns.push(now - since);
            }
        }
        now += step;
    }
    got
}

/// 7 : 4 : 1 of 60, 590 and 1514 octets.
const IMIX: [usize; 12] = [60, 60, 590, 60, 60, 590, 1514, 60, 590, 60, 60, 590];

/// Keeps a service busy and looks at what comes out: its rate, and that no window of time had more than rate and burst allow.
fn measure(shaping: &Shaping, (rate, burst): (u64, u64), sizes: &[usize], packets: usize) -> f64 {
    let mut scheduler = Scheduler::<Probe>::new(1024, 4);
    scheduler.sync(shaping.port(PortSlot::default()), 1);
    let tag = Tag { slot: 1, class: Class::P3 };
    let mean = sizes.iter().map(|octets| counted(*octets)).sum::<u64>() / sizes.len() as u64;
    // Three looks per packet.
    let step = (mean * UNITS_PER_OCTET / rate / 3).max(1);
    let (mut now, mut id, mut sent, mut start) = (1u64, 0usize, 0u64, 0u64);
    // The bucket that everything must fit through, in tokens that are missing.
    let (mut missing, mut last, mut left) = (0u64, 1u64, 0usize);
    let full = (burst / (mean * UNITS_PER_OCTET)) as usize + 100;
    while left < full + packets {
        while scheduler.held() < 64 {
            let octets = sizes[id % sizes.len()];
            id += 1;
            scheduler.push(Probe { octets, id: 0 }, tag, now).unwrap();
        }
        scheduler.tick(now);
        while let Some(packet) = scheduler.pop(now, Some(shaping), &mut |_, _| panic!("nothing is dropped")) {
            missing =
                missing.saturating_sub((now - last).saturating_mul(rate)) + counted(packet.octets) * UNITS_PER_OCTET;
            last = now;
            assert!(missing <= burst, "{missing} of {burst} at {now}");
            left += 1;
            // What the full bucket held goes first.
            if left > full {
                if start == 0 {
                    start = now;
                } else {
                    sent += counted(packet.octets) * UNITS_PER_OCTET;
                }
            }
            while scheduler.held() < 64 {
                let octets = sizes[id % sizes.len()];
                id += 1;
                scheduler.push(Probe { octets, id: 0 }, tag, now).unwrap();
            }
        }
        now += step;
    }
    sent as f64 / ((now - step - start) as f64 * rate as f64)
}

#[test]
fn rates_hold_from_a_kilobit_to_100_gigabit() {
    for rate in [1, 64, 1_000, 100_000, 1_000_000, 10_000_000, 100_000_000] {
        for sizes in [&[60][..], &IMIX, &[FULL]] {
            let spec = QueueSpec { rate_kbps: rate, burst_bytes: 15_380, ..QueueSpec::default() };
            let shaping = shaping(&port(400_000_000), &[spec]);
            let ratio = measure(&shaping, (rate, 15_380 * UNITS_PER_OCTET), sizes, 4000);
            assert!((0.99..=1.01).contains(&ratio), "service at {rate} kbit/s with {sizes:?}: {ratio}");
        }
    }
    for rate in [1_000, 100_000, 1_000_000, 10_000_000, 100_000_000] {
        for sizes in [&[60][..], &IMIX, &[FULL]] {
            let shaping = shaping(&port(rate), &[QueueSpec::default()]);
            let depth = shaping.port(PortSlot::default()).unwrap().depth;
            let ratio = measure(&shaping, (rate, depth), sizes, 4000);
            assert!((0.99..=1.01).contains(&ratio), "port at {rate} kbit/s with {sizes:?}: {ratio}");
            assert!(depth <= rate * 250 * US || depth == 2 * 1542 * UNITS_PER_OCTET, "0.25 ms, or two full frames");
        }
    }
}

/// Sources of all classes at a port of 1 Gbit/s: P3 offers ten times what it carries.
fn busy() -> Vec<Source> {
    let source = |slot, class, octets, mbps: u64| Source { slot, class, octets, kbps: mbps * 1000 };
    vec![
        source(1, Class::P0, 60, 50),
        source(2, Class::P0, 300, 150),
        source(1, Class::P1, FULL, 200),
        source(2, Class::P1, 600, 150),
        source(3, Class::P2, FULL, 200),
        source(3, Class::P3, FULL, 5000),
        source(4, Class::P3, 60, 5000),
    ]
}

#[test]
fn classes_keep_their_delays_while_best_effort_floods() {
    let shaping = shaping(&port(1_000_000), &[QueueSpec::default(); 4]);
    let sources = busy();
    let got = run(&shaping, &sources, (20 * MS, 220 * MS), 5 * US);
    for (source, got) in sources.iter().zip(&got) {
        let p99 = got.percentile(99);
        let bound = match source.class {
            Class::P0 => MS,
            Class::P1 => 10 * MS,
            Class::P2 => 100 * MS,
            Class::P3 => continue,
        };
        assert!(p99 < bound, "{:?}: {p99} ns", source.class);
        let share = got.kbps(200 * MS) / source.kbps as f64;
        assert!(share > 0.99, "{:?} gets what it asks for: {share}", source.class);
    }
    let all: f64 = got.iter().map(|got| got.kbps(200 * MS)).sum();
    assert!((0.99..1.01).contains(&(all / 1e6)), "work is conserved: {all}");
}

#[test]
fn weights_are_kept_among_classes_and_among_services() {
    let spec = |weight| QueueSpec { weight, ..QueueSpec::default() };
    let shaping = shaping(&port(1_000_000), &[spec(40), spec(10), spec(1), spec(5)]);
    let source = |slot, class| Source { slot, class, octets: if slot == 2 { 200 } else { FULL }, kbps: 2_000_000 };
    let sources: Vec<Source> = [Class::P1, Class::P2, Class::P3]
        .into_iter()
        .flat_map(|class| (1..=4).map(move |slot| source(slot, class)))
        .collect();
    // Rounds are long: the least gets one packet in each.
    let got = run(&shaping, &sources, (100 * MS, 1100 * MS), 8 * US);
    for (at, class) in [60, 30, 10].into_iter().enumerate() {
        for (n, weight) in [40, 10, 1, 5].into_iter().enumerate() {
            let share = got[at * 4 + n].kbps(S) / 1e6;
            let fair = f64::from(class) / 100.0 * f64::from(weight) / 56.0;
            // One packet more or less of the least in the window is more than 2 % of it.
            let slack = fair * 0.02 + 2.0 * 1538.0 * 8.0 / 1e9;
            assert!((share - fair).abs() < slack, "class {at}, weight {weight}: {share} of {fair}");
        }
    }
}

#[test]
fn nobody_starves_when_the_most_urgent_floods() {
    let shaping = shaping(&port(1_000_000), &[QueueSpec::default(); 4]);
    let source = |class, kbps| Source { slot: 1, class, octets: FULL, kbps };
    let classes = [Class::P0, Class::P1, Class::P2, Class::P3];
    let got = run(&shaping, &classes.map(|class| source(class, 10_000_000)), (50 * MS, 250 * MS), 5 * US);
    for (got, fair) in got.iter().zip([0.5, 0.3, 0.15, 0.05]) {
        let share = got.kbps(200 * MS) / 1e6;
        assert!((share / fair - 1.0).abs() < 0.02, "{share} of {fair}");
    }
    // Alone it gets everything.
    let got = run(&shaping, &[source(Class::P0, 2_000_000)], (50 * MS, 150 * MS), 5 * US);
    assert!(got[0].kbps(100 * MS) > 0.99e6);
}

#[test]
fn a_flooding_service_changes_nothing_for_the_others() {
    let gold = QueueSpec { rate_kbps: 100_000, burst_bytes: 15_380, weight: 10, ..QueueSpec::default() };
    let shaping = shaping(&port(1_000_000), &[gold, QueueSpec { rate_kbps: 0, weight: 10, ..gold }, gold, gold]);
    let source = |slot, kbps| Source { slot, class: Class::P2, octets: FULL, kbps };
    let others = [source(1, 98_000), source(3, 80_000), source(4, 99_000)];
    // The second service takes what is left of the port: just so, or ten times over.
    let [calm, flood] = [723_000, 10_000_000].map(|kbps| {
        let mut sources = others.to_vec();
        sources.push(source(2, kbps));
        run(&shaping, &sources, (50 * MS, 450 * MS), 4 * US)
    });
    for (n, (calm, flood)) in calm.iter().zip(&flood).take(3).enumerate() {
        let rate = flood.kbps(400 * MS) / calm.kbps(400 * MS);
        assert!((0.98..=1.02).contains(&rate), "rate of {n}: {rate}");
        // A turn is 4 us, a full frame 12: delays are known no better than that.
        let (before, after) = (calm.percentile(99), flood.percentile(99));
        assert!(after <= before + before / 50 + 40 * US, "delay of {n}: {before} to {after} ns");
    }
}

#[test]
fn thousands_of_services_get_their_rates() {
    // Bounded so that all of them fit: who finds no place gets no rate.
    let spec = QueueSpec { burst_bytes: 3100, most_packets: 16, ..QueueSpec::default() };
    let specs: Vec<QueueSpec> = (0..3000u64).map(|n| QueueSpec { rate_kbps: 100 + n % 7 * 50, ..spec }).collect();
    let shaping = shaping(&port(10_000_000), &specs);
    let sources: Vec<Source> = specs
        .iter()
        .enumerate()
        .map(|(n, spec)| Source { slot: n as u16 + 1, class: Class::P3, octets: 300, kbps: spec.rate_kbps * 3 / 2 })
        .collect();
    let got = run(&shaping, &sources, (S, 2 * S), 50 * US);
    for (spec, got) in specs.iter().zip(&got) {
        let off = got.kbps(S) - spec.rate_kbps as f64;
        // One packet is 2.6 kbit.
        assert!(off.abs() < 3.0 + spec.rate_kbps as f64 / 100.0, "{} kbit/s: {off}", spec.rate_kbps);
    }
}

#[test]
fn packets_outlive_a_push_and_old_ones_do_not_outlive_their_class() {
    let slow = QueueSpec { rate_kbps: 8, burst_bytes: 1600, ..QueueSpec::default() };
    let (before, after) =
        (shaping(&port(1_000_000), &[slow]), shaping(&port(1_000_000), &[QueueSpec { rate_kbps: 80, ..slow }]));
    let mut scheduler = Scheduler::<Probe>::new(64, 4);
    scheduler.sync(before.port(PortSlot::default()), 1);
    for (id, class) in [Class::P3, Class::P3, Class::P3, Class::P1].into_iter().enumerate() {
        scheduler.push(Probe { octets: FULL, id: id as u32 }, Tag { slot: 1, class }, 1).unwrap();
    }
    let mut ended = Vec::new();
    let mut pops = |scheduler: &mut Scheduler<Probe>, shaping: Option<&Shaping>, generation, now| {
        scheduler.sync(shaping.and_then(|s| s.port(PortSlot::default())), generation);
        scheduler.tick(now);
        let mut left = Vec::new();
        while let Some(packet) = scheduler.pop(now, shaping, &mut |packet: Probe, why| ended.push((packet.id, why))) {
            left.push(packet.id);
        }
        left
    };
    // The bucket is full: one frame goes, of the class with the greater share.
    assert_eq!(pops(&mut scheduler, Some(&before), 1, 20 * MS), [0]);
    assert_eq!(scheduler.held(), 2, "P1's was too old");
    assert_eq!(pops(&mut scheduler, Some(&before), 1, S), []);
    // The new rate counts from when it is touched next: 1538 octets at 8 kbit/s are 1.54 s.
    assert_eq!(pops(&mut scheduler, Some(&after), 2, 1600 * MS), [1]);
    assert_eq!(pops(&mut scheduler, Some(&after), 2, 1700 * MS), []);
    assert_eq!(pops(&mut scheduler, Some(&after), 2, 1760 * MS), [2]);
    scheduler.push(Probe { octets: FULL, id: 9 }, Tag { slot: 1, class: Class::P2 }, 1761 * MS).unwrap();
    assert_eq!(pops(&mut scheduler, None, 3, 9 * S), [9], "a port that is not shaped any more holds nothing back");
    assert_eq!(ended, [(3, DropReason::QueueDeadline)]);
}

#[test]
fn a_place_that_goes_to_another_service_counts_anew() {
    let of = |incarnation| {
        let slot = Slot { index: 0, incarnation };
        let ports = vec![(PortSlot::default(), PortShaping::new(&port(1_000), 1500))];
        Shaping::new(ports, std::iter::once((0, slot, &QueueSpec::default())))
    };
    let mut scheduler = Scheduler::<Probe>::new(100, 4);
    let counters = scheduler.counters();
    let mut send = |shaping: &Shaping, generation| {
        scheduler.sync(shaping.port(PortSlot::default()), generation);
        let now = generation * S;
        scheduler.push(Probe { octets: 60, id: 0 }, Tag { slot: 1, class: Class::P1 }, now).unwrap();
        assert!(scheduler.pop(now + 3 * MS, Some(shaping), &mut |_, _| ()).is_some());
    };
    assert!(counters.of(1, 1).is_empty(), "nobody came yet");
    send(&of(1), 1);
    send(&of(1), 2);
    let queue = &counters.of(1, 1)[1];
    assert_eq!((queue.sent.packets.value(), queue.last_wait.value(), queue.waited.value()), (2, 3 * MS, 6 * MS));
    assert!(counters.of(1, 2).is_empty(), "these packets were another's");
    send(&of(2), 3);
    assert_eq!(counters.of(1, 2)[1].sent.packets.value(), 1);
    assert!(counters.of(1, 1).is_empty());
}

#[test]
fn nobody_fills_all_the_places() {
    let shaping = shaping(&port(1_000), &[QueueSpec { most_packets: 1000, ..QueueSpec::default() }; 3]);
    let mut scheduler = Scheduler::<Probe>::new(1000, 4);
    scheduler.sync(shaping.port(PortSlot::default()), 1);
    let mut fill = |slot| {
        let tag = Tag { slot, class: Class::P3 };
        (0..2000).take_while(|_| scheduler.push(Probe { octets: 60, id: 0 }, tag, 1).is_ok()).count()
    };
    assert_eq!([fill(1), fill(2), fill(3), fill(0)], [500, 250, 125, 63]);
    assert_eq!((scheduler.held(), scheduler.counters().slot(1)[3].dropped[0].value()), (938, 1));
    let mut given = 0;
    scheduler.release(&mut |_| given += 1);
    assert_eq!((given, scheduler.held()), (938, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    /// Whatever happens in whatever order: every packet comes out once or ends once, in order within its service and class, counters say
    /// what is inside, and what may leave leaves in the end.
    #[test]
    fn nothing_is_lost_or_invented(
        specs in proptest::collection::vec((0u64..2000, 0u32..4, 1u16..20, 0u32..3), 3),
        rate in prop_oneof![1_000u64..10_000, 1_000_000u64..10_000_000],
        steps in proptest::collection::vec((0u16..5, 0usize..4, 40usize..1515, 0u64..2 * MS, 0u8..40), 1..200),
    ) {
        let spec = |&(rate, target, weight, bound): &(u64, u32, u16, u32)| QueueSpec {
            rate_kbps: if rate < 500 { 0 } else { rate * 10 },
            burst_bytes: 1600,
            weight,
            target_us: target * 500,
            most_packets: bound * 5,
            deadline_us: bound * 40_000,
            ..QueueSpec::default()
        };
        let specs: Vec<QueueSpec> = specs.iter().map(spec).collect();
        let shaping = shaping(&port(rate), &specs);
        let mut scheduler = Scheduler::<Probe>::new(64, 4);
        let counters = scheduler.counters();
        let mut inside: HashMap<(usize, usize), VecDeque<u32>> = HashMap::new();
        let (mut now, mut generation) = (1u64, 1u64);
        let mut steps = steps.into_iter().enumerate();
        let mut quiet = 0;
        while quiet < 40_000 {
            let step = steps.next();
            if let Some((id, (slot, class, octets, pause, push))) = step {
                now += pause;
                generation += u64::from(push == 0);
                let tag = Tag { slot, class: Class::ALL[class] };
                // There are four services and what belongs to none; a slot beyond them counts there.
                let queue = (if slot > 4 { 0 } else { usize::from(slot) }, class);
                if scheduler.push(Probe { octets, id: id as u32 }, tag, now).is_ok() {
                    inside.entry(queue).or_default().push_back(id as u32);
                }
            } else if scheduler.held() == 0 {
                break;
            } else {
                quiet += 1;
                now += MS;
            }
            scheduler.sync(shaping.port(PortSlot::default()), generation);
            scheduler.tick(now);
            let mut ended = Vec::new();
            loop {
                let left = scheduler.pop(now, Some(&shaping), &mut |packet: Probe, _| ended.push(packet.id));
                let sent = left.as_ref().map(|packet| packet.id);
                for id in ended.drain(..).chain(sent) {
                    let queue = inside.values_mut().find(|queue| queue.front() == Some(&id));
                    prop_assert!(queue.is_some(), "{id} comes out of order, or twice");
                    queue.unwrap().pop_front();
                }
                if left.is_none() {
                    break;
                }
            }
            let count: usize = inside.values().map(VecDeque::len).sum();
            prop_assert_eq!(scheduler.held(), count);
            for (&(slot, class), queue) in &inside {
                prop_assert_eq!(counters.slot(slot)[class].packets.value(), queue.len() as u64);
            }
        }
        prop_assert_eq!(scheduler.held(), 0);
        prop_assert!(counters.slot(0).iter().chain(counters.slot(1)).all(|queue| queue.octets.value() == 0));
    }
}
