//! The tester: a generator at a clocked rate and a sink, on one thread with a core of its own.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;
use marchproxy_cpu::tsc;
use marchproxy_engine::io::{PacketBuf, PacketVec};
use marchproxy_engine::memory::MemoryBuf;
use rtrb::Consumer;

use super::pace::Pace;
use super::ring::{Side, Stamped};
use crate::Error;
use crate::load::{Load, Template};
use crate::neighbourhood;
use crate::progress::Progress;
use crate::rig::BUFFERS;
use crate::seeded::Rng;

/// Packets sent at once at most.
const BATCH: usize = 32;

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Packets a second; `None` as many as the tester can.
    pub rate: Option<f64>,
    /// How long.
    pub duration: Duration,
    /// Or until so many were sent.
    pub count: Option<u64>,
}

/// What the tester counted in one trial.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Packets sent, those included that found the ring full.
    pub offered: u64,
    /// Octets of their frames, without FCS.
    pub octets: u64,
    /// Of these, packets that found the device's receive ring full: what a network card counts as missed.
    pub missed: u64,
    /// Packets that came back.
    pub received: u64,
    /// Packets whose time passed without the tester being there.
    pub slipped: u64,
    /// Packets received before they were sent, by the two cores' counters: these are not in step then.
    pub backwards: u64,
    /// Ticks from the first packet's time to the end of sending.
    pub ticks: u64,
    /// The longest time between two looks at the clock, in ticks.
    pub longest_pause: u64,
    /// End-to-end latency in ticks.
    pub latency: Histogram<u64>,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Result<Self, Error> {
        // Three digits, and a range that ends where drains do: ten thousand million ticks are seconds.
        let latency = Histogram::new_with_bounds(1, 10_000_000_000, 3)
            .map_err(|_| Error::Harness("the bounds of the latency histogram"))?;
        Ok(Self {
            offered: 0,
            octets: 0,
            missed: 0,
            received: 0,
            slipped: 0,
            backwards: 0,
            ticks: 0,
            longest_pause: 0,
            latency,
        })
    }
}

/// Ends of the wires and the buffers in circulation.
pub struct Tester {
    sides: Vec<Side>,
    /// First in, first out: a buffer is used again when all others have been, as in a ring.
    stock: VecDeque<MemoryBuf>,
    /// Buffers of packets that ended in the device.
    home: Consumer<MemoryBuf>,
    /// What the stations around have to say, by side.
    answers: VecDeque<(usize, MemoryBuf)>,
    staged: Vec<PacketVec<Stamped>>,
    taken: PacketVec<Stamped>,
    /// The next packets of the load, on their way into the cache.
    ahead: VecDeque<usize>,
    tally: Tally,
    /// Packets put into the device's rings since the beginning.
    pub pushed: u64,
    /// Packets taken from there.
    pub pulled: u64,
}

impl Tester {
    /// A tester at these wires. `home` brings back buffers that the device drops.
    pub fn new(sides: Vec<Side>, home: Consumer<MemoryBuf>, seed: u64) -> Result<Self, Error> {
        let mut stock = MemoryBuf::pool(BUFFERS);
        Rng::new(seed, "buffers").shuffle(&mut stock);
        Ok(Self {
            staged: sides.iter().map(|_| PacketVec::new()).collect(),
            sides,
            stock: stock.into(),
            home,
            answers: VecDeque::new(),
            taken: PacketVec::new(),
            ahead: VecDeque::with_capacity(BATCH),
            tally: Tally::new()?,
            pushed: 0,
            pulled: 0,
        })
    }

    /// Sends what was asked for; `hz` is the rate of the time stamp counter. Afterwards [`drain`](Self::drain) until the device rests.
    pub fn generate(
        &mut self,
        load: &mut Load,
        rng: &mut Rng,
        ask: Ask,
        hz: u64,
        progress: &Progress,
    ) -> Result<(), Error> {
        self.tally = Tally::new()?;
        self.ahead.clear();
        while self.ahead.len() < BATCH {
            self.ahead.push_back(load.pick(rng).ok_or(Error::Harness("the load sends nothing"))?);
        }
        let end = (ask.duration.as_secs_f64() * hz as f64) as u64;
        let count = ask.count.unwrap_or(u64::MAX);
        let start = tsc();
        let (mut pace, mut last) = (Pace::new(start, ask.rate, hz), start);
        loop {
            let now = tsc();
            self.tally.longest_pause = self.tally.longest_pause.max(now.saturating_sub(last));
            last = now;
            let left = count.saturating_sub(self.tally.offered);
            if now.saturating_sub(start) >= end || left == 0 || progress.stopped() {
                break;
            }
            let due = pace.due(now, self.tally.offered, left.min(BATCH as u64) as usize);
            if due > 0 {
                self.send(load, rng, due);
            }
            self.drain();
        }
        self.tally.ticks = last.saturating_sub(start);
        self.tally.slipped = pace.slipped;
        Ok(())
    }

    /// Takes what the device sent and lets the stations around answer. Whether anything came or was answered.
    pub fn drain(&mut self) -> bool {
        let mut moved = 0;
        for side in 0..self.sides.len() {
            moved += self.sides[side].take(&mut self.taken);
            if self.taken.is_empty() {
                continue;
            }
            let now = tsc();
            self.pulled += self.taken.len() as u64;
            for packet in self.taken.drain(..) {
                if packet.sent == 0 {
                    let reply = neighbourhood::answer(packet.data());
                    self.answers.extend(reply.map(|reply| (side, MemoryBuf::new(&reply))));
                } else {
                    self.tally.received += 1;
                    self.tally.backwards += u64::from(packet.sent > now);
                    self.tally.latency.saturating_record(now.saturating_sub(packet.sent).max(1));
                }
                if self.stock.len() < BUFFERS {
                    self.stock.push_back(packet.into_frame());
                }
            }
        }
        while let Some((side, answer)) = self.answers.pop_front() {
            let mut packet = PacketVec::from_iter([Stamped::new(answer)]);
            if self.sides[side].send(&mut packet, 0) == 0 {
                self.answers.extend(packet.pop().map(|packet| (side, packet.into_frame())));
                break;
            }
            self.pushed += 1;
            moved += 1;
        }
        moved > 0
    }

    /// Sends one frame that is not counted, while tables are filled.
    pub fn send_unmeasured(&mut self, template: &Template) {
        let mut buffer = self.buffer();
        template.fill(&mut buffer);
        if let Some(side) = self.sides.get_mut(usize::from(template.port)) {
            self.pushed += side.send(&mut PacketVec::from_iter([Stamped::new(buffer)]), 0) as u64;
        }
    }

    /// Whether the device has taken everything.
    pub fn delivered(&self) -> bool {
        self.answers.is_empty() && self.sides.iter().all(Side::delivered)
    }

    /// What was counted since the last [`generate`](Self::generate).
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Frames are written first and then sent together, so that each one's stamp is the time it could be seen from.
    #[inline]
    fn send(&mut self, load: &mut Load, rng: &mut Rng, count: usize) {
        for _ in 0..count {
            let Some(at) = self.ahead.pop_front() else { return };
            let mut buffer = self.buffer();
            if let Some(template) = load.at(at) {
                template.fill(&mut buffer);
                self.tally.octets += buffer.data().len() as u64;
                if let Some(staged) = self.staged.get_mut(usize::from(template.port)) {
                    staged.push(Stamped::new(buffer));
                }
            }
            // A batch from now they are needed, and should be in the cache by then.
            if let Some(next) = load.pick(rng) {
                load.prefetch(next);
                self.ahead.push_back(next);
            }
            if let Some(buffer) = self.stock.get(BATCH) {
                buffer.prefetch();
            }
        }
        self.tally.offered += count as u64;
        for (side, staged) in self.sides.iter_mut().zip(&mut self.staged) {
            if staged.is_empty() {
                continue;
            }
            self.pushed += side.send(staged, tsc()) as u64;
            self.tally.missed += staged.len() as u64;
            self.stock.extend(staged.drain(..).map(Stamped::into_frame));
        }
    }

    #[inline]
    fn buffer(&mut self) -> MemoryBuf {
        // The other core's cache line is looked at only when it matters.
        if self.stock.len() < BUFFERS / 2 {
            while let Ok(buffer) = self.home.pop() {
                self.stock.push_back(buffer);
            }
        }
        self.stock.pop_front().unwrap_or_else(MemoryBuf::empty)
    }
}
