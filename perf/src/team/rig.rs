//! The measured node with several workers: everything that is not measured happens on the calling thread, one worker after the other.

use std::sync::Arc;

use marchproxy_engine::flow::FlowKey;
use marchproxy_engine::memory::MemoryPool;
use marchproxy_engine::slow::SlowPath;
use marchproxy_engine::snapshot::Snapshot;
use marchproxy_engine::stage::steer;
use marchproxy_engine::stats::{ThreadStats, Totals};
use marchproxy_engine::table::sessions::Sessions;
use marchproxy_engine::worker::Worker;
use marchproxy_rcu::Publisher;

use crate::Error;
use crate::backend::{Meter, Timed};
use crate::load::{Load, Template};
use crate::measure::Counts;
use crate::neighbourhood;
use crate::node::Team;
use crate::rig::{BUFFERS, Ends, ROUNDS, START, gently};
use crate::scenario::{CounterSlots, Params, Plan};
use crate::seeded::Rng;

/// Seed of the device's hash ("RssPerf0"): not the one that names a session's owner.
const SEED: u64 = 0x5273_7350_6572_6630;

/// The queue on which a network card with receive side scaling delivers a flow.
pub fn hashed(flow: &FlowKey, queues: usize) -> usize {
    (flow.hash(SEED) % queues.max(1) as u64) as usize
}

/// The queue of the worker that owns the sessions of the client that sends a flow.
pub fn at_owner(flow: &FlowKey, queues: usize) -> usize {
    steer::of_client((flow.src, flow.sport), flow.protocol, queues)
}

/// One worker and what is its own.
pub struct Seat {
    /// The worker.
    pub worker: Worker<Timed>,
    /// What its queues measure.
    pub meter: Arc<Meter>,
    /// The other ends of its queues.
    pub ends: Ends,
    /// Virtual time of its last turn.
    pub now: u64,
}

/// The node.
pub struct TeamRig {
    /// By number; empty while the workers' threads have them.
    pub seats: Vec<Box<Seat>>,
    slow: SlowPath<Timed>,
    publisher: Publisher<Snapshot>,
    memory: String,
    /// Virtual nanoseconds of a turn, and the least of them.
    pub step: u64,
    least_step: u64,
}

impl TeamRig {
    /// A node with `count` workers. Fails with the engine's reason when it refuses the tables.
    pub fn new(plan: &Plan, params: &Params, count: usize) -> Result<Self, Error> {
        let meters: Vec<_> = (0..count).map(|_| Arc::new(Meter::with_room(2 * BUFFERS * count))).collect();
        let mut ends: Vec<_> = (0..count).map(|n| Ends::new(count, params.seed + n as u64)).collect();
        // The owner's hash spreads sessions evenly but for chance, which room beside the table's own is for.
        let sessions = plan.capacity.sessions / count;
        let sessions = sessions + 4 * sessions.isqrt() + 1;
        let team = Team::<Timed>::new(&plan.tables, count, sessions, MemoryPool, |worker, slot| {
            Ok(ends[worker].open(slot, &meters[worker]))
        })?;
        let Team { workers, slow, publisher, memory, .. } = team;
        let seat = |((worker, meter), ends): ((Worker<Timed>, _), _)| {
            Box::new(Seat { worker: worker.with_burst(params.burst), meter, ends, now: START })
        };
        let seats = workers.into_iter().zip(meters).zip(ends).map(seat).collect();
        let step = plan.capacity.step(params.burst);
        Ok(Self { seats, slow, publisher, memory, step, least_step: step })
    }

    /// Sends frames a few at a time where the device's hash puts them.
    pub fn warm<'a>(
        &mut self,
        frames: impl IntoIterator<Item = &'a Template>,
        mut done: impl FnMut(u64) -> bool,
    ) -> bool {
        gently(frames, &mut done, |frames| {
            for template in frames {
                let queue = self.queue(template);
                self.seats[queue].ends.put(template);
            }
            self.settle();
        })
    }

    /// Lets workers, slow path and the stations around work until nothing moves any more.
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS {
            let mut moved = 0;
            for seat in &mut self.seats {
                loop {
                    let packets = seat.turn(self.step);
                    moved += packets;
                    if packets == 0 {
                        break;
                    }
                }
            }
            moved += self.slow.turn(self.now());
            for seat in &mut self.seats {
                // What the slow path's timers sent it did not say.
                moved += seat.turn(self.step);
            }
            for seat in &mut self.seats {
                moved += usize::from(seat.ends.collect(neighbourhood::answer));
            }
            if moved == 0 {
                break;
            }
        }
        self.share_buffers();
        let now = self.now();
        for seat in &mut self.seats {
            seat.now = now;
        }
    }

    /// Gives every worker as many free buffers: those of packets that were handed over left with them.
    fn share_buffers(&mut self) {
        let mut all: Vec<_> = self.seats.iter_mut().flat_map(|seat| std::mem::take(&mut seat.ends.stock)).collect();
        let each = (all.len() / self.seats.len()).min(BUFFERS);
        for seat in &mut self.seats {
            seat.ends.stock = all.split_off(all.len() - each);
        }
    }

    /// Which worker's queue the device puts a frame on; what is not IP comes on the first.
    fn queue(&self, template: &Template) -> usize {
        template.flow().map_or(0, |flow| hashed(&flow, self.seats.len()))
    }

    /// The traffic as the device spreads it.
    pub fn spread(&self, load: &Load) -> Vec<Load> {
        load.split(self.seats.len(), |template| self.queue(template), hashed)
    }

    /// The same traffic as it would be without a packet to hand over: each comes to the worker that owns its session. New flows are others
    /// than those of [`spread`](Self::spread).
    pub fn direct(&self, load: &Load) -> Vec<Load> {
        let owner = |template: &Template| {
            let owner = template.flow().and_then(|flow| steer::owner(self.snapshot(), &flow, self.seats.len()));
            owner.unwrap_or_else(|| self.queue(template))
        };
        load.split(self.seats.len(), owner, at_owner).into_iter().map(Load::with_other_new_flows).collect()
    }

    /// Lets a turn take `step` nanoseconds of virtual time, but no less than it took in the beginning.
    pub fn slow_down(&mut self, step: f64) {
        self.step = (step as u64).max(self.least_step);
    }

    /// Virtual time in nanoseconds: the latest any worker has seen.
    pub fn now(&self) -> u64 {
        self.seats.iter().map(|seat| seat.now).max().unwrap_or(START)
    }

    /// The tables in force.
    pub fn snapshot(&self) -> &Snapshot {
        self.publisher.current()
    }

    /// The workers' session tables.
    pub fn sessions(&self) -> Vec<&Sessions> {
        self.seats.iter().map(|seat| &seat.worker.pipeline().sessions).collect()
    }

    /// What a session table's memory is.
    pub fn memory(&self) -> &str {
        &self.memory
    }

    /// The counters of all threads now.
    pub fn counts(&self, slots: &CounterSlots) -> Counts {
        let none = ThreadStats::new(0);
        let mut sum = Counts::of(&none, self.slow.stats(), slots);
        for seat in &self.seats {
            sum.join(&Counts::of(seat.worker.stats(), &none, slots));
        }
        sum
    }

    /// Conservation terms of all threads together.
    pub fn totals(&self) -> Totals {
        let slow = self.slow.stats().totals.read();
        self.seats.iter().fold(slow, |sum, seat| sum.plus(&seat.worker.stats().totals.read()))
    }
}

impl Seat {
    /// A turn `step` nanoseconds after the last; how many packets it moved.
    #[inline]
    pub fn turn(&mut self, step: u64) -> usize {
        self.now += step;
        self.worker.turn(self.now).packets
    }
}

/// What a worker sends itself.
pub struct Part {
    /// Its traffic.
    pub load: Load,
    /// The order of it.
    pub rng: Rng,
}
