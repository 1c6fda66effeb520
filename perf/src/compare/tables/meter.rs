//! Our policer against rte_meter; two rates we do not have.

use std::hint::black_box;
use std::time::Instant;

use marchproxy_dpdk::table::{self, Srtcm, SrtcmRates, Trtcm, TrtcmRates};
use marchproxy_engine::table::policer::{Colour, Policer};

use super::duel::{Duel, agree};
use super::ground::{Ground, Solo, Stop, build};
use super::keys::{METER_KBPS, METER_STEP_US, METERS, MeterKeys};
use super::ours::{self, BURST};

const PEER: &str = "rte_meter";
const NOTE: &str = "srTCM, colour-blind, meters beside their rates on one line on both sides; DPDK rounds rates to whole octets per whole number of \
                    cycles, ours are exact: the rate here is one that both count alike";
/// Octets per second of [`METER_KBPS`].
const OCTETS_PER_SECOND: u64 = METER_KBPS * 125;

/// Single rate: both have it.
pub fn single_rate(ground: &Ground) -> Result<Duel, Stop> {
    let keys = MeterKeys::new(ground.plan.keys, ground.plan.seed);
    let rate = |&[cbs, ebs]: &[u64; 2]| SrtcmRates { cir: OCTETS_PER_SECOND, cbs, ebs };
    let rates: Vec<SrtcmRates> = keys.bursts.iter().map(rate).collect();
    let start = Instant::now();
    let policers = keys.ours();
    let ours_built = (start.elapsed().as_secs_f64(), size_of_val(&*policers));
    let (meters, seconds, bytes) = ground.build(|| Ok(Srtcm::create(ground.eal, &rates, 0)?))?;
    let step = meters.step(0)?;
    // An octet a microsecond on both sides: theirs in so many of its cycles.
    let cycles_per_us = step.cycles / step.octets.max(1);
    if step.octets != 1 {
        let reason = format!("this clock is too slow for its arithmetic to be ours: {step:?}");
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
        work: format!("srTCM, {METERS} meters"),
        unit: "packets/CPU-s",
        note: NOTE.into(),
        build: build(ours_built, (seconds, bytes)),
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
    meters: Srtcm,
    now_us: u64,
    cycles_per_us: u64,
}

impl Theirs {
    #[inline]
    fn burst(&mut self, which: &[u32], lens: &[u16]) -> [u8; BURST] {
        let mut colours = [0; BURST];
        self.now_us += METER_STEP_US;
        self.meters.burst(self.now_us * self.cycles_per_us, which, lens, &mut colours);
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

/// Two rates: only DPDK's.
pub fn two_rates(ground: &Ground) -> Result<Solo, Stop> {
    let keys = MeterKeys::new(ground.plan.keys, ground.plan.seed);
    let rate =
        |&[cbs, ebs]: &[u64; 2]| TrtcmRates { cir: OCTETS_PER_SECOND, cbs, pir: 2 * OCTETS_PER_SECOND, pbs: cbs + ebs };
    let rates: Vec<TrtcmRates> = keys.bursts.iter().map(rate).collect();
    let mut meters = Trtcm::create(ground.eal, &rates, 0)?;
    let step = meters.steps(0)?[0];
    let cycles_per_burst = METER_STEP_US * step.cycles / step.octets.max(1);
    let mut now = 0;
    Ok(Solo {
        peer: "rte_meter trTCM",
        reason: "no counterpart of ours: the engine's policers have a single rate (RFC 2697)".into(),
        unit: "packets/CPU-s",
        pass: Box::new(move || {
            let mut colours = [0; BURST];
            for (which, lens) in keys.which.chunks(BURST).zip(keys.lens.chunks(BURST)) {
                now += cycles_per_burst;
                meters.burst(now, which, lens, &mut colours);
                black_box(&colours);
            }
            keys.lens.len()
        }),
    })
}
