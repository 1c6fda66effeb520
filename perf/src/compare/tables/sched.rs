//! rte_sched alone: the engine does not shape yet.

use std::hint::black_box;

use marchproxy_dpdk::table::{Class, Place, Sched, SchedConfig, TableError};
use marchproxy_dpdk::{Mbuf, Mempool, PacketBuf, PacketVec, PoolConfig};

use super::ground::{Ground, Solo, Stop};
use super::ours::BURST;
use crate::seeded::Rng;

/// A port of 100 Gbit/s, so that the scheduler's own work is the limit.
const CONFIG: SchedConfig = SchedConfig {
    bytes_per_second: 12_500_000_000,
    mtu: 1522,
    overhead: 24,
    pipes: 4096,
    queue_len: 64,
    strict_classes: 3,
    weights: [1, 1, 2, 4],
};
/// Packets in the scheduler.
const BACKLOG: usize = 8192;
/// Octets of each: the smallest frame without its FCS.
const OCTETS: usize = 60;
/// Packets through the scheduler in a pass.
const PACKETS: usize = 65_536;
/// Calls that may bring nothing before a pass is given up; it counts what came.
const IDLE_CALLS: usize = 1_000_000;

/// Packets out and in again, at a constant backlog.
pub fn solo(ground: &Ground) -> Result<Solo, Stop> {
    let mut rng = Rng::new(ground.plan.seed, "compare classes");
    let mut place = || {
        let class = match rng.below(4) {
            3 => Class::BestEffort(rng.below(4) as u8),
            strict => Class::Strict(strict as u8),
        };
        Place::new(rng.below(CONFIG.pipes as usize) as u32, class)
    };
    let places: Vec<Place> = (0..PACKETS).map(|_| place()).collect();
    let pool = PoolConfig { frame_room: 128, ..PoolConfig::new(2 * BACKLOG as u32 - 1) };
    let pool = Mempool::create(ground.eal, "perf-sched", &pool).map_err(|error| Stop::Peer(error.to_string()))?;
    let mut line = Line { sched: Sched::create(ground.eal, &CONFIG)?, pool, places, next: 0 };
    for _ in 0..BACKLOG / BURST {
        let mut packets: PacketVec<Mbuf> = PacketVec::new();
        while packets.len() < BURST {
            let mut packet = line.pool.alloc().ok_or_else(|| Stop::Peer("rte_mempool: no packet left".into()))?;
            if !packet.resize(OCTETS) {
                return Err(Stop::Peer("rte_mempool: packets of too little room".into()));
            }
            packets.push(packet);
        }
        line.enqueue(&mut packets)?;
    }
    Ok(Solo {
        peer: "rte_sched",
        reason: format!(
            "no counterpart of ours yet: the engine has no shaper (one port, one subport, {} pipes, 3 strict classes and 4 weighted queues, \
             {BACKLOG} packets waiting)",
            CONFIG.pipes
        ),
        unit: "packets/CPU-s",
        pass: Box::new(move || line.pass()),
    })
}

/// A scheduler at work. Packets in it go back before their pool goes.
struct Line {
    sched: Sched,
    pool: Mempool,
    places: Vec<Place>,
    next: usize,
}

impl Line {
    fn pass(&mut self) -> usize {
        let (mut through, mut idle) = (0, 0);
        while through < PACKETS && idle < IDLE_CALLS {
            let mut packets = PacketVec::new();
            let got = self.sched.dequeue(&mut packets, BURST.min(PACKETS - through));
            idle = if got == 0 { idle + 1 } else { 0 };
            // A queue that is full drops; with 8,192 packets over 28,672 queues of 64 none is.
            let _ = black_box(self.enqueue(&mut packets));
            through += got;
        }
        through
    }

    /// Puts packets at the next places.
    fn enqueue(&mut self, packets: &mut PacketVec<Mbuf>) -> Result<usize, TableError> {
        if self.next + packets.len() > self.places.len() {
            self.next = 0;
        }
        let from = self.next;
        self.next += packets.len();
        self.sched.enqueue(packets, &self.places[from..self.next])
    }
}
