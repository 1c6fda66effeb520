//! The workers' threads. Each waits for its seat, fills its queues, starts together with the others, works until nothing is left in any
//! queue or ring, and gives the seat back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use marchproxy_cpu::{pin_current_thread, tsc};

use super::rig::{Part, Seat};
use crate::Error;
use crate::machine::switches;
use crate::probe::cpu_time;
use crate::rig::Batch;

/// A batch takes milliseconds; who waits longer for another worker waits for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// One thread per worker.
pub struct Hands {
    hands: Vec<Hand>,
}

struct Hand {
    orders: Option<Sender<Order>>,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<()>>,
}

/// What a thread is asked for.
struct Order {
    number: usize,
    seat: Box<Seat>,
    part: Part,
    packets: usize,
    step: u64,
    signals: Arc<Signals>,
}

/// What it did.
struct Answer {
    seat: Box<Seat>,
    part: Part,
    share: Option<Share>,
}

/// What one worker's part of a batch cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    /// The turns that moved packets, and their queues. No instructions: waiting for the others would count, too.
    pub batch: Batch,
    /// Packets handed to others.
    pub handed_off: u64,
    /// Packets taken over from others.
    pub taken: u64,
    /// Times another thread interrupted it.
    pub switches: u64,
}

/// How far the workers are.
#[derive(Default)]
struct Signals {
    workers: usize,
    /// How many have filled their queues.
    filled: AtomicUsize,
    /// How many have emptied them: they hand nothing over any more.
    drained: AtomicUsize,
    /// Turns of each worker.
    progress: Vec<Progress>,
}

/// On a cache line of its own: one worker writes it, all others read it.
#[derive(Default)]
#[repr(align(64))]
struct Progress(AtomicUsize);

/// Turns between two looks at how far the others are: then that costs nothing to speak of.
const STRIDE: usize = 4;
/// Turns that a worker may be ahead of another one. Where the scheduler stops one, the others would fill its rings, which they do not on a
/// machine that works; in this many turns of two ports they do not either.
const LEAD: usize = 8;

impl Signals {
    fn new(workers: usize) -> Self {
        let progress = (0..workers).map(|_| Progress::default()).collect();
        Self { workers, progress, ..Self::default() }
    }

    /// Says how far a worker is, and whether it may go on.
    fn may_go_on(&self, number: usize, turns: usize) -> bool {
        if let Some(own) = self.progress.get(number) {
            own.0.store(turns, Ordering::Release);
        }
        self.progress.iter().all(|other| other.0.load(Ordering::Acquire).saturating_add(LEAD) >= turns)
    }
}

impl Hands {
    /// A thread on each core.
    pub fn new(cores: &[usize]) -> Result<Self, Error> {
        let mut hands = Vec::with_capacity(cores.len());
        for (number, &core) in cores.iter().enumerate() {
            let ((orders, inbox), (outbox, answers), (up, came_up)) = (channel(), channel(), channel());
            let failed = |source| Error::System { what: format!("worker {number} on core {core}"), source };
            let body = move || {
                let pinned = pin_current_thread(core);
                let ready = pinned.is_ok();
                if up.send(pinned).is_ok() && ready {
                    work(&inbox, &outbox);
                }
            };
            let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(body).map_err(failed)?;
            came_up.recv().map_err(|_| Error::Harness("a worker's thread ended"))?.map_err(failed)?;
            hands.push(Hand { orders: Some(orders), answers, thread: Some(thread) });
        }
        Ok(Self { hands })
    }

    /// One batch: each worker sends itself as many packets of its part as `packets` says.
    pub fn batch(
        &self,
        seats: &mut Vec<Box<Seat>>,
        parts: &mut Vec<Part>,
        packets: &[usize],
        step: u64,
    ) -> Result<Vec<Share>, Error> {
        let signals = Arc::new(Signals::new(self.hands.len()));
        let given = seats.drain(..).zip(parts.drain(..)).zip(packets);
        for ((number, hand), ((seat, part), &packets)) in self.hands.iter().enumerate().zip(given) {
            let order = Order { number, seat, part, packets, step, signals: signals.clone() };
            let sent = hand.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
            if !sent {
                return Err(Error::Harness("a worker's thread ended"));
            }
        }
        let mut shares = Vec::with_capacity(self.hands.len());
        for hand in &self.hands {
            let Answer { seat, part, share } =
                hand.answers.recv().map_err(|_| Error::Harness("a worker's thread ended"))?;
            seats.push(seat);
            parts.push(part);
            shares.extend(share);
        }
        if shares.len() < self.hands.len() {
            return Err(Error::Harness("a worker waited for another one in vain"));
        }
        Ok(shares)
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        for hand in &mut self.hands {
            hand.orders = None;
        }
        for hand in &mut self.hands {
            // A thread that ended badly has said so already.
            let _ = hand.thread.take().map(JoinHandle::join);
        }
    }
}

fn work(inbox: &Receiver<Order>, outbox: &Sender<Answer>) {
    while let Ok(Order { number, mut seat, mut part, packets, step, signals }) = inbox.recv() {
        seat.ends.fill(&mut part.load, packets, &mut part.rng);
        let share = measured(&mut seat, number, step, &signals);
        if outbox.send(Answer { seat, part, share }).is_err() {
            return;
        }
    }
}

/// `None` when the others did not keep up.
fn measured(seat: &mut Seat, number: usize, step: u64, signals: &Signals) -> Option<Share> {
    seat.meter.take_passages(|_, _| {});
    let reading = |seat: &Seat| {
        let stats = seat.worker.stats();
        (Batch::reading(&seat.meter), stats.handed_off.value(), stats.totals.read().taken)
    };
    let (before, given_before, taken_before) = reading(seat);
    let (switched, started) = (switches(), Instant::now());
    signals.filled.fetch_add(1, Ordering::AcqRel);
    while signals.filled.load(Ordering::Acquire) < signals.workers {
        if started.elapsed() > PATIENCE {
            return None;
        }
        std::hint::spin_loop();
    }
    let (cpu, start) = (cpu_time(), tsc());
    let busy = turns(seat, number, step, signals)?;
    let all = tsc().saturating_sub(start).max(1);
    let cpu = cpu_time().saturating_sub(cpu);
    let (after, given, taken) = reading(seat);
    let mut batch = after.since(&before);
    batch.io_ticks -= busy.idle.io_ticks;
    batch.io_calls -= busy.idle.io_calls;
    batch.turns = busy.turns;
    batch.ticks = busy.ticks;
    // CPU time that went by waiting for others is none of the packets'.
    batch.cpu_ns = (cpu as f64 * (busy.ticks as f64 / all as f64).min(1.0)) as u64;
    Some(Share {
        batch,
        handed_off: given - given_before,
        taken: taken - taken_before,
        switches: switches().saturating_sub(switched),
    })
}

/// What turns took.
#[derive(Default)]
struct Busy {
    /// Ticks of stretches of turns that moved packets, each with the empty turn at its end.
    ticks: u64,
    /// Turns that moved packets.
    turns: u64,
    /// What the queues counted in turns that only waited.
    idle: Batch,
}

/// Works until there is nothing left, here and at the others.
fn turns(seat: &mut Seat, number: usize, step: u64, signals: &Signals) -> Option<Busy> {
    let mut busy = Busy::default();
    let mut start = tsc();
    while seat.turn(step) > 0 {
        busy.turns += 1;
        let turns = busy.turns as usize;
        if turns.is_multiple_of(STRIDE) && !signals.may_go_on(number, turns) {
            busy.ticks += tsc().saturating_sub(start);
            let waiting = Instant::now();
            while !signals.may_go_on(number, turns) {
                if waiting.elapsed() > PATIENCE {
                    return None;
                }
                std::hint::spin_loop();
            }
            start = tsc();
        }
    }
    busy.ticks += tsc().saturating_sub(start);
    signals.may_go_on(number, usize::MAX);
    // The own queues are empty, and what is handed over stays where it goes. So once this holds for all, a turn that finds nothing in the rings
    // is the last.
    signals.drained.fetch_add(1, Ordering::AcqRel);
    let waiting = Instant::now();
    loop {
        let last = signals.drained.load(Ordering::Acquire) == signals.workers;
        let (before, start) = (Batch::reading(&seat.meter), tsc());
        if seat.turn(step) == 0 {
            let idle = Batch::reading(&seat.meter).since(&before);
            busy.idle.add(&idle);
            if last {
                return Some(busy);
            }
            if waiting.elapsed() > PATIENCE {
                return None;
            }
            std::hint::spin_loop();
            continue;
        }
        busy.turns += 1;
        while seat.turn(step) > 0 {
            busy.turns += 1;
        }
        busy.ticks += tsc().saturating_sub(start);
    }
}
