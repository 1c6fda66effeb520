//! New flows at a rate: which share of the packets they must be depends on how fast the worker is, so that is found out first.

use crate::Error;
use crate::probe::Probe;
use crate::progress::Progress;
use crate::rig::{BUFFERS, Batch};
use crate::scenario::Bench;
use crate::seeded::Rng;

/// Batches per try.
const BATCHES: usize = 8;
/// Tries before the share is good enough as it is: the report says what was achieved.
const TRIES: usize = 12;
/// A try that changes the share by less than this part is the last.
const CLOSE: f64 = 0.01;
/// New sessions alive at once in the steady state. A new session that nobody continues lives 30 s, and real time would leave millions of
/// them and measure the size of the table instead of the work.
pub const ALIVE: usize = 200_000;
/// Places for them: those alive, and as many again for the expiry that walks the table behind.
pub const ROOM: usize = 2 * ALIVE;
/// Nanoseconds such a session lives (TCP, opening).
const LIFE: f64 = 30e9;

/// Sets the share of new flows so that a CPU second of the worker holds `rate` of them, and the virtual time of a turn so that
/// no more of them than [`ALIVE`] live at once.
pub fn calibrate(
    bench: &mut Bench,
    rate: u64,
    rng: &mut Rng,
    probe: &mut Probe,
    progress: &Progress,
) -> Result<(), Error> {
    progress.phase("finding the share of new flows", 0);
    let mut share = 0.0;
    for _ in 0..TRIES {
        bench.load.set_fresh_share(share);
        let mut sum = Batch::default();
        for _ in 0..BATCHES {
            let batch = bench.rig.batch(&mut bench.load, BUFFERS, rng, probe);
            bench.rig.settle();
            sum.packets += batch.packets;
            sum.cpu_ns += batch.cpu_ns;
            sum.turns += batch.turns;
        }
        if progress.stopped() {
            return Err(Error::Interrupted);
        }
        let speed = sum.packets as f64 * 1e9 / sum.cpu_ns.max(1) as f64;
        let wanted = rate as f64 / speed;
        if wanted >= 1.0 {
            let allowed = format!("less than the {speed:.0} packets that the worker does in a CPU second");
            return Err(Error::Option { option: "churn", found: rate.to_string(), allowed });
        }
        let per_turn = wanted * sum.packets as f64 / sum.turns.max(1) as f64;
        bench.rig.slow_down(per_turn * LIFE / ALIVE as f64);
        let change = (wanted - share).abs() / wanted;
        share = wanted;
        if change < CLOSE {
            break;
        }
    }
    bench.load.set_fresh_share(share);
    Ok(())
}
