//! The worker under a clocked load. Packets arrive by the clock, as from a wire: what is due while the worker is away waits in a ring of
//! 1,024 slots, and what does not fit is lost. The worker's own thread puts them there between turns, which gives the same packets the
//! same places as a network card would.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use marchproxy_cpu::tsc;
use marchproxy_engine::burst::BURST;
use marchproxy_engine::memory::{MemoryBuf, Wire};
use marchproxy_engine::stats::Counter;
use marchproxy_engine::worker::Worker;
use rtrb::Producer;

use crate::backend::Timed;
use crate::load::Load;
use crate::machine::switches;
use crate::seeded::Rng;

/// Slots of each receive ring.
const RING: usize = 1024;

/// Turns after the one that took the new tables that still belong to the push: their first touch of the new tables' memory.
const AFTER: u32 = 7;

/// Length of a window in microseconds: the stretch that is left out when somebody interrupted the worker in it.
const WINDOW_US: u64 = 1000;

/// Microseconds outside of turns that nothing of the line's own takes, a thousand arrivals included: the hypervisor or an interrupt had the
/// core.
const GAP_US: u64 = 500;

/// What both sides look at. Written by the worker's thread only, but for `stop` and `calm`.
#[derive(Debug, Default)]
pub struct Shared {
    /// It is time to end.
    pub stop: AtomicBool,
    /// No push is under way: turns are kept as the yardstick.
    pub calm: AtomicBool,
    /// Windows that ended.
    pub windows: AtomicU64,
    /// Of these, windows in which the worker was interrupted: by another thread, or by something below.
    pub preempted: AtomicU64,
    /// Packets that found their ring full while nobody had interrupted the worker.
    pub lost: AtomicU64,
    /// Packets that found their ring full in windows with an interruption or right after one: then they show.
    pub lost_preempted: AtomicU64,
    /// Packets that the node dropped since it exists.
    pub dropped: AtomicU64,
    /// Packets that arrived.
    pub offered: AtomicU64,
}

/// How the worker took a new generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which one.
    pub generation: u64,
    /// Ticks that the turn which took it and the next ones were longer than [`Line::usual`] each.
    pub excess: u64,
    /// Somebody interrupted the worker meanwhile.
    pub preempted: bool,
}

/// The worker with everything that its thread needs.
pub struct Line {
    /// The worker.
    pub worker: Worker<Timed>,
    /// The wires of its ports.
    pub wires: Vec<Wire>,
    /// Free buffers.
    pub stock: Vec<MemoryBuf>,
    /// What arrives.
    pub load: Load,
    /// Draws it.
    pub rng: Rng,
    /// Virtual nanoseconds, and how many of them a turn takes.
    pub now: u64,
    /// Virtual nanoseconds from turn to turn.
    pub step: u64,
    /// Ticks of the clock per second.
    pub hz: u64,
    /// Packets per second.
    pub rate: f64,
    /// Ticks of a turn that counts as usual: the 99.9th percentile of turns without a push.
    pub usual: u64,
    /// Ticks of turns that had packets while it was calm; filled as far as it has room.
    pub calm_turns: Vec<u32>,
    /// Where it says which generations it took.
    pub taken: Producer<Taken>,
}

/// What is going on in the current window.
#[derive(Default)]
struct Window {
    lost: u64,
    taken: Option<Taken>,
    /// Turns that still belong to it.
    after: u32,
    /// Something had the core between two turns.
    gap: bool,
}

impl Line {
    /// Forwards until it is told to stop. Neither allocates nor waits.
    pub fn run(&mut self, shared: &Shared) {
        let (window_ticks, gap_ticks) = (self.hz * WINDOW_US / 1_000_000, self.hz * GAP_US / 1_000_000);
        let (start, mut offered) = (tsc(), 0u64);
        let (mut switches, mut last, mut preempted_before) = (switches(), start, false);
        while !shared.stop.load(Ordering::Relaxed) {
            let (began, first) = (tsc(), offered);
            let calm = shared.calm.load(Ordering::Relaxed);
            let (turns, mut window) = (self.calm_turns.len(), Window::default());
            // A window ends late rather than in the middle of a push.
            while tsc().saturating_sub(began) < window_ticks || window.after > 0 {
                let due = (tsc().saturating_sub(start) as f64 / self.hz as f64 * self.rate) as u64;
                self.arrive(due.saturating_sub(offered), &mut window);
                offered = due.max(offered);
                window.gap |= tsc().saturating_sub(last) > gap_ticks;
                last = self.turn(calm, &mut window);
            }
            let switches_now = crate::machine::switches();
            let preempted = switches_now != switches || window.gap;
            switches = switches_now;
            if preempted {
                self.calm_turns.truncate(turns);
            }
            let lost = if preempted || preempted_before { &shared.lost_preempted } else { &shared.lost };
            lost.fetch_add(window.lost, Ordering::Relaxed);
            preempted_before = preempted;
            shared.preempted.fetch_add(u64::from(preempted), Ordering::Relaxed);
            shared.offered.fetch_add(offered - first, Ordering::Relaxed);
            let dropped = self.worker.stats().drops.iter().map(Counter::value).sum();
            shared.dropped.store(dropped, Ordering::Relaxed);
            if let Some(taken) = window.taken {
                // Whoever does not listen any more misses nothing.
                let _ = self.taken.push(Taken { preempted, ..taken });
            }
            shared.windows.fetch_add(1, Ordering::Release);
        }
    }

    /// Packets per second that the line forwards when there is always something to do, from `packets` of them.
    pub fn capacity(&mut self, packets: u64) -> f64 {
        let (start, mut done) = (tsc(), 0);
        let mut window = Window::default();
        while done < packets {
            self.arrive(BURST as u64, &mut window);
            done += BURST as u64;
            self.turn(false, &mut window);
        }
        packets as f64 * self.hz as f64 / tsc().saturating_sub(start).max(1) as f64
    }

    fn arrive(&mut self, count: u64, window: &mut Window) {
        if count == 0 {
            return;
        }
        let room: usize = self.wires.iter().map(|wire| RING.saturating_sub(wire.waiting())).sum();
        // More than all rings hold: the last ones arrived last, and are lost whatever they are.
        let arriving = count.min(room as u64);
        window.lost += count - arriving;
        for _ in 0..arriving {
            let Some(template) = self.load.draw(&mut self.rng) else { return };
            let Some(wire) = self.wires.get(usize::from(template.port)) else { continue };
            if wire.waiting() >= RING {
                window.lost += 1;
                continue;
            }
            let mut buffer = self.stock.pop().unwrap_or_else(MemoryBuf::empty);
            template.fill(&mut buffer);
            wire.put(buffer);
        }
    }

    /// A turn, and when its engine's part ended.
    fn turn(&mut self, calm: bool, window: &mut Window) -> u64 {
        self.now += self.step;
        let before = self.worker.generation();
        let start = tsc();
        let packets = self.worker.turn(self.now).packets;
        let end = tsc();
        let ticks = end.saturating_sub(start);
        for wire in &self.wires {
            wire.take_into(&mut self.stock);
        }
        let generation = self.worker.generation();
        if generation != before {
            window.taken = Some(Taken { generation, excess: 0, preempted: false });
            window.after = AFTER + 1;
        }
        if window.after > 0 {
            window.after -= 1;
            if let Some(taken) = &mut window.taken {
                taken.excess += ticks.saturating_sub(self.usual);
            }
        } else if calm && packets > 0 && self.calm_turns.len() < self.calm_turns.capacity() {
            self.calm_turns.push(u32::try_from(ticks).unwrap_or(u32::MAX));
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use crate::rig::Parts;
    use crate::scenario::{Params, Scenario, prepare_with_tables};
    use marchproxy_engine::build;

    #[test]
    fn a_full_ring_loses_packets_and_a_new_generation_is_noticed() {
        let params = Params { flows: 64, rules: 64, ..Scenario::Rules.defaults() };
        let (bench, tables) = prepare_with_tables(Scenario::Rules, &params, &Progress::hidden()).unwrap();
        let Parts { node, wires, stock, now, step } = bench.rig.into_parts();
        let mut publisher = node.publisher;
        let (taken, mut heard) = rtrb::RingBuffer::new(4);
        let (rng, load) = (Rng::new(1, "replay"), bench.load);
        let calm_turns = Vec::with_capacity(100);
        // A clock of one tick per second: nothing is due by itself, and no window ends.
        let (hz, rate, usual) = (1, 0.0, 0);
        let worker = node.worker;
        let mut line = Line { worker, wires, stock, load, rng, now, step, hz, rate, usual, calm_turns, taken };

        let mut window = Window::default();
        line.arrive(3000, &mut window);
        assert_eq!(window.lost, 3000 - 2 * RING as u64 + RING as u64, "one of two rings is used");
        for _ in 0..RING / BURST {
            line.turn(true, &mut window);
        }
        assert_eq!((line.calm_turns.len(), window.taken), (RING / BURST, None));
        assert_eq!(line.wires.iter().map(Wire::waiting).sum::<usize>(), 0);

        let next = build(&tables, Some(publisher.current()), &node.budget).unwrap();
        let generation = publisher.publish(next);
        line.arrive(BURST as u64, &mut window);
        line.turn(true, &mut window);
        let taken = window.taken.unwrap();
        assert_eq!((taken.generation, window.after), (generation, AFTER));
        assert!(taken.excess > 0, "with nothing usual, all of the turn is too much");
        assert_eq!(line.calm_turns.len(), RING / BURST, "a turn of a push is no yardstick");

        let shared = Shared::default();
        shared.stop.store(true, Ordering::Relaxed);
        line.run(&shared);
        assert_eq!(shared.windows.load(Ordering::Relaxed), 0);
        assert!(heard.pop().is_err());
    }
}
