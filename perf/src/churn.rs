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
