//! Measures a forwarder on whatever its devices bring, in repeats of a time or of a number of packets.

use std::time::{Duration, Instant};

use super::{Forwarder, LivePort};
use crate::Error;
use crate::latency::Latency;
use crate::measure::{Limits, Outcome, Window};
use crate::probe::Probe;
use crate::progress::Progress;
use crate::report::Observed;

/// Time for caches, predictors and the driver before the first repeat. Not where packets are counted: a file that ends would be gone.
const WARM_UP: Duration = Duration::from_millis(50);

/// How long a number of packets is waited for when nothing comes.
const SILENCE: Duration = Duration::from_secs(2);

/// Measures. An interrupt ends it early with what there is. `devices` is for the message when nothing comes.
pub fn run<P: LivePort>(
    forwarder: &mut Forwarder<P>,
    limits: &Limits,
    devices: &str,
    probe: &mut Probe,
    progress: &Progress,
) -> Result<(Outcome, Observed), Error> {
    let start = Instant::now();
    while limits.packets.is_none() && start.elapsed() < WARM_UP && !progress.stopped() {
        forwarder.slice(Forwarder::<P>::SLICE, probe);
    }
    forwarder.reset_stats();
    let per_repeat = limits.packets.unwrap_or(limits.duration.as_millis() as u64);
    progress.phase("measuring", per_repeat * limits.repeats as u64);
    let mut windows = Vec::with_capacity(limits.repeats);
    let (mut idle, mut all, mut wall) = (0, 0, Duration::ZERO);
    for _ in 0..limits.repeats {
        let mut window = Window::default();
        let before = forwarder.counts();
        let (start, mut last, mut shown) = (Instant::now(), Instant::now(), 0);
        while !progress.stopped() {
            let left =
                limits.packets.map_or(Forwarder::<P>::SLICE, |packets| packets.saturating_sub(window.sum.packets));
            if left == 0 || limits.packets.is_none() && start.elapsed() >= limits.duration {
                break;
            }
            let slice = forwarder.slice(left.min(Forwarder::<P>::SLICE), probe);
            idle += slice.idle_ticks;
            all += slice.idle_ticks + slice.busy.ticks;
            if slice.busy.packets > 0 {
                window.keep(&slice.busy, forwarder.clock_cost());
                last = Instant::now();
            } else if limits.packets.is_some() && last.elapsed() >= SILENCE {
                break;
            }
            let at = limits.packets.map_or(start.elapsed().as_millis() as u64, |_| window.sum.packets);
            progress.advance(at.min(per_repeat) - shown);
            shown = at.min(per_repeat);
        }
        // The silence at the end is no part of the rate.
        wall += if limits.packets.is_some() { last - start } else { start.elapsed() };
        window.counts.add(&before, &forwarder.counts());
        if window.sum.packets > 0 {
            windows.push(window);
        }
    }
    forwarder.open(false);
    forwarder.settle();
    if windows.is_empty() {
        let waited = if limits.packets.is_some() { SILENCE } else { limits.duration };
        let silent = Error::Silent { devices: devices.into(), seconds: waited.as_secs_f64() };
        return Err(if progress.stopped() { Error::Interrupted } else { silent });
    }
    let packets: u64 = windows.iter().map(|window: &Window| window.sum.packets).sum();
    let observed = Observed {
        idle_percent: idle as f64 * 100.0 / u64::max(all, 1) as f64,
        packets_per_second: packets as f64 / wall.as_secs_f64().max(f64::MIN_POSITIVE),
    };
    Ok((
        Outcome {
            windows,
            latency: Latency::new()?,
            interrupted: progress.stopped(),
            residue: forwarder.residue(),
            held: forwarder.held(),
            team: None,
        },
        observed,
    ))
}
