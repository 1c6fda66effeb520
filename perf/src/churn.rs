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

/// A node whose load has a share of new flows.
pub trait Churned {
    /// Sets that share, 0 to 1.
    fn set_share(&mut self, share: f64);
    /// Runs some batches: what they cost, and packets per CPU second (of all workers, when each does nothing but that).
    fn try_batches(&mut self, batches: usize) -> Result<(Batch, f64), Error>;
    /// Lets a turn take at least so many nanoseconds of virtual time.
    fn slow_down(&mut self, step: f64);
}

/// Sets the share of new flows so that a CPU second of the node holds `rate` of them, and the virtual time of a turn so that
/// no more of them than [`ALIVE`] live at once.
pub fn calibrate(node: &mut impl Churned, rate: u64, progress: &Progress) -> Result<(), Error> {
    progress.phase("finding the share of new flows", 0);
    let mut share = 0.0;
    for _ in 0..TRIES {
        node.set_share(share);
        let (sum, speed) = node.try_batches(BATCHES)?;
        if progress.stopped() {
            return Err(Error::Interrupted);
        }
        let wanted = rate as f64 / speed.max(1.0);
        if wanted >= 1.0 {
            let allowed = format!("less than the {speed:.0} packets that the node does in a second of its CPU time");
            return Err(Error::Option { option: "churn", found: rate.to_string(), allowed });
        }
        let per_turn = wanted * sum.packets as f64 / sum.turns.max(1) as f64;
        node.slow_down(per_turn * LIFE / ALIVE as f64);
        let change = (wanted - share).abs() / wanted;
        share = wanted;
        if change < CLOSE {
            break;
        }
    }
    node.set_share(share);
    Ok(())
}

/// One worker, as [`crate::measure::run`] has it.
pub struct Alone<'a> {
    /// The node and its load.
    pub bench: &'a mut Bench,
    /// The order of the load.
    pub rng: &'a mut Rng,
    /// What counts CPU time.
    pub probe: &'a mut Probe,
}

impl Churned for Alone<'_> {
    fn set_share(&mut self, share: f64) {
        self.bench.load.set_fresh_share(share);
    }

    fn try_batches(&mut self, batches: usize) -> Result<(Batch, f64), Error> {
        let mut sum = Batch::default();
        for _ in 0..batches {
            sum.add(&self.bench.rig.batch(&mut self.bench.load, BUFFERS, self.rng, self.probe));
            self.bench.rig.settle();
        }
        Ok((sum, sum.per_cpu_second()))
    }

    fn slow_down(&mut self, step: f64) {
        self.bench.rig.slow_down(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that does `speed` packets per second with no new flow, and half as many when all are new.
    struct Steady {
        speed: f64,
        share: f64,
        step: f64,
    }

    impl Steady {
        fn now(&self) -> f64 {
            self.speed * (1.0 - self.share / 2.0)
        }
    }

    impl Churned for Steady {
        fn set_share(&mut self, share: f64) {
            self.share = share;
        }

        fn try_batches(&mut self, batches: usize) -> Result<(Batch, f64), Error> {
            // Turns of 32 packets.
            let turns = batches as u64 * 100;
            Ok((Batch { packets: turns * 32, turns, ..Batch::default() }, self.now()))
        }

        fn slow_down(&mut self, step: f64) {
            self.step = step;
        }
    }

    #[test]
    fn the_share_settles_where_the_rate_is_reached() {
        for speed in [3e4, 1e6, 1e8] {
            let mut node = Steady { speed, share: 0.0, step: 0.0 };
            calibrate(&mut node, 10_000, &Progress::hidden()).unwrap();
            let rate = node.share * node.now();
            assert!((rate - 10_000.0).abs() < 10_000.0 * 2.0 * CLOSE, "{speed}: {rate}");
            // As many are made during one life as shall be alive.
            let alive = 32.0 * node.share * LIFE / node.step;
            assert!((alive - ALIVE as f64).abs() < ALIVE as f64 * 2.0 * CLOSE, "{speed}: {alive}");
        }
    }

    #[test]
    fn more_new_flows_than_packets_are_refused() {
        let mut node = Steady { speed: 5e3, share: 0.0, step: 0.0 };
        let error = calibrate(&mut node, 10_000, &Progress::hidden()).unwrap_err().to_string();
        assert!(error.contains("--churn: found 10000") && error.contains("5000 packets"), "{error}");
    }
}
