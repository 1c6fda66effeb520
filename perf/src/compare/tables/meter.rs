//! Our policers against rte_meter.

use std::hint::black_box;
use std::time::Instant;

use marchproxy_dpdk::table::{self, Srtcm, SrtcmRates, Step, Trtcm, TrtcmRates};
use marchproxy_engine::table::policer::{Colour, Policer};
use marchproxy_engine::tables::PolicerKind;

use super::duel::{Duel, agree};
use super::ground::{Ground, Stop, build};
use super::keys::{METER_KBPS, METER_STEP_US, METERS, MeterKeys};
use super::ours::{self, BURST};

const PEER: &str = "rte_meter";
const NOTE: &str = "colour-blind, meters beside their rates on one line on both sides; DPDK rounds rates to whole octets per whole number of \
                    cycles, ours are exact: the rate here is one that both count alike";
/// Octets per second of [`METER_KBPS`].
const OCTETS_PER_SECOND: u64 = METER_KBPS * 125;

/// Single rate.
pub fn single_rate(ground: &Ground) -> Result<Duel, Stop> {
    let keys = MeterKeys::new(ground.plan.keys, ground.plan.seed);
    let rate = |&[cbs, ebs]: &[u64; 2]| SrtcmRates { cir: OCTETS_PER_SECOND, cbs, ebs };
    let rates: Vec<SrtcmRates> = keys.bursts.iter().map(rate).collect();
    let (meters, seconds, bytes) = ground.build(|| Ok(Srtcm::create(ground.eal, &rates, 0)?))?;
    let step = meters.step(0)?;
    duel("srTCM", PolicerKind::Srtcm, keys, Meters::One(meters), &[step], (seconds, bytes))
}

/// Two rates.
pub fn two_rates(ground: &Ground) -> Result<Duel, Stop> {
    let keys = MeterKeys::new(ground.plan.keys, ground.plan.seed);
    let rate =
        |&[cbs, ebs]: &[u64; 2]| TrtcmRates { cir: OCTETS_PER_SECOND, cbs, pir: 2 * OCTETS_PER_SECOND, pbs: cbs + ebs };
    let rates: Vec<TrtcmRates> = keys.bursts.iter().map(rate).collect();
    let (meters, seconds, bytes) = ground.build(|| Ok(Trtcm::create(ground.eal, &rates, 0)?))?;
    let steps = meters.steps(0)?;
    duel("trTCM", PolicerKind::Trtcm, keys, Meters::Two(meters), &steps, (seconds, bytes))
}

/// `steps`: how DPDK rounded the rates, the committed one first and the other twice that.
fn duel(
    marker: &str,
    kind: PolicerKind,
    keys: MeterKeys,
    meters: Meters,
    steps: &[Step],
    built: (f64, u64),
) -> Result<Duel, Stop> {
    let start = Instant::now();
    let policers = keys.ours(kind);
    let ours_built = (start.elapsed().as_secs_f64(), size_of_val(&*policers));
    // An octet a microsecond on both sides: theirs in so many of its cycles.
    let cycles_per_us = steps[0].cycles;
    if steps.iter().zip(1..).any(|(step, rate)| step.octets != 1 || step.cycles * rate != cycles_per_us) {
        let reason = format!("this clock is too slow for its arithmetic to be ours: {steps:?}");
        return Err(Stop::Peer(reason));
    }
    let mut ours = Ours { policers, now_us: 0 };
    let mut theirs = Theirs { meters, now_us: 0, cycles_per_us };
    let (mut ours_found, mut theirs_found) = (Vec::new(), Vec::new());
    for (which, lens) in keys.which.chunks(BURST).zip(keys.lens.chunks(BURST)) {
        ours_found.extend_from_slice(&ours.burst(which, lens)[..which.len()]);
        theirs_found.extend(theirs.burst(which, lens)[..which.len()].iter().map(|&raw| colour(raw)));
    }
    agree(PEER, &ours_found, &theirs_found, |at| {
        format!("packet {at} of {} octets at policer {}", keys.lens[at], keys.which[at])
    })?;
    let (which, lens) = (keys.which.clone(), keys.lens.clone());
    Ok(Duel {
        peer: PEER,
        work: format!("{marker}, {METERS} meters"),
        unit: "packets/CPU-s",
        note: format!("{marker}, {NOTE}"),
        build: build(ours_built, built),
        ours: Box::new(move || {
            for (which, lens) in which.chunks(BURST).zip(lens.chunks(BURST)) {
                black_box(ours.burst(which, lens));
            }
            lens.len()
        }),
        theirs: Box::new(move || {
            for (which, lens) in keys.which.chunks(BURST).zip(keys.lens.chunks(BURST)) {
                black_box(theirs.burst(which, lens));
            }
            keys.lens.len()
        }),
    })
}

enum Meters {
    One(Srtcm),
    Two(Trtcm),
}

struct Ours {
    policers: Vec<Policer>,
    now_us: u64,
}

impl Ours {
    #[inline]
    fn burst(&mut self, which: &[u32], lens: &[u16]) -> [Colour; BURST] {
        let mut colours = [Colour::Red; BURST];
        self.now_us += METER_STEP_US;
        ours::meters(&mut self.policers, self.now_us * 1000, which, lens, &mut colours);
        colours
    }
}

struct Theirs {
    meters: Meters,
    now_us: u64,
    cycles_per_us: u64,
}

impl Theirs {
    #[inline]
    fn burst(&mut self, which: &[u32], lens: &[u16]) -> [u8; BURST] {
        let mut colours = [0; BURST];
        self.now_us += METER_STEP_US;
        let now = self.now_us * self.cycles_per_us;
        match &mut self.meters {
            Meters::One(meters) => meters.burst(now, which, lens, &mut colours),
            Meters::Two(meters) => meters.burst(now, which, lens, &mut colours),
        };
        colours
    }
}

fn colour(raw: u8) -> Colour {
    match Srtcm::colour(raw) {
        table::Colour::Green => Colour::Green,
        table::Colour::Yellow => Colour::Yellow,
        table::Colour::Red => Colour::Red,
    }
}
