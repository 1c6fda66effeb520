//! What one generation says about shaped ports and the services on them.

use crate::ports::PortSlot;
use crate::slots::Slot;
use crate::stats::MAX_PORTS;
use crate::table::policer::UNITS_PER_OCTET;
use crate::tables::{QueueSpec, ShaperSpec};

/// Time's worth of a port's rate that may leave at once. What left is at most this far ahead of the rate, and so is what waits in the
/// driver of a device that is no slower: P0 stands behind nothing more.
const PORT_BURST_NS: u64 = 250_000;

/// The same of P0's own cap.
const PRIORITY_BURST_NS: u64 = 1_000_000;

/// A shaper without a burst size may send 10 ms' worth at once...
const BURST_NS: u64 = 10_000_000;

/// ...and every one a few full packets.
const LEAST_BURST: u64 = 4;

/// Ethernet header and one tag, in front of an L3 packet.
const FRAMING: u32 = 18;

/// Shortest frame on the wire, without its check sum.
pub(super) const SHORTEST: u32 = 60;

/// How long a delay may be above its target, in targets: RFC 8289 s4.4 has the target at 5 % of the interval, a worst-case round trip. Whoever
/// asks for a short queue has short round trips, and 5 ms give the 100 ms of the RFC.
const CODEL_TARGETS: u64 = 20;

const _: () = assert!(MAX_PORTS <= u64::BITS as usize);

/// Shaped ports of a generation.
#[derive(Clone, Debug, Default)]
pub struct Shaping {
    /// A bit for each shaped port slot.
    shaped: u64,
    ports: Vec<(PortSlot, PortShaping)>,
    /// By queue slot; the first is everything that belongs to no service.
    profiles: Vec<Profile>,
    /// Queue slot by counter slot of a service.
    by_counter: Box<[u16]>,
    /// The least weight of all profiles: its queues get one full packet per round.
    least: u32,
}

/// One shaped port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortShaping {
    /// Rate in kbit/s.
    pub rate_kbps: u64,
    /// How much may leave at once, in units.
    pub depth: u64,
    /// Octets that every frame counts more than it is long.
    pub overhead: u32,
    /// The most a frame counts.
    pub longest: u32,
    /// What P0 may take before all others, in kbit/s, and at once, in units.
    pub priority: (u64, u64),
    /// What the classes get per round, in octets.
    pub quanta: [u32; 4],
}

impl PortShaping {
    /// Of a port with this MTU.
    pub fn new(spec: &ShaperSpec, mtu: u16) -> Self {
        let longest = u32::from(mtu) + FRAMING + u32::from(spec.overhead);
        let least = spec.weights.iter().copied().min().unwrap_or(1).max(1);
        let quantum = |weight: u16| longest.saturating_mul(u32::from(weight)) / u32::from(least);
        let [first, second, third] = spec.weights.map(quantum);
        let whole = |packets: u64| packets * u64::from(longest) * UNITS_PER_OCTET;
        let priority = (spec.rate_kbps * u64::from(spec.p0_percent) / 100).max(1);
        Self {
            rate_kbps: spec.rate_kbps,
            // One full frame more than the one that leaves, or the bucket would run over between two looks of the worker.
            depth: (spec.rate_kbps * PORT_BURST_NS).max(whole(2)),
            overhead: u32::from(spec.overhead),
            longest,
            priority: (priority, (priority * PRIORITY_BURST_NS).max(whole(2))),
            quanta: [0, first, second, third],
        }
    }
}

/// One service, on every shaped port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Changes when the slot goes to another service.
    pub incarnation: u32,
    /// Rate in kbit/s; 0: none.
    pub rate_kbps: u64,
    /// Burst in units.
    pub depth: u64,
    /// Share of its class, from 1.
    pub weight: u32,
    /// Packets that waited longer are dropped, in nanoseconds; 0: by class.
    pub deadline: u64,
    /// Bounds of what waits in each of its queues.
    pub most_packets: u32,
    /// In octets.
    pub most_octets: u32,
    /// CoDel's target in nanoseconds; 0: none.
    pub target: u64,
    /// And its interval.
    pub interval: u64,
    /// Whether packets that may be are marked instead of dropped.
    pub ecn: bool,
}

impl Profile {
    /// Packets that may wait where nothing is said.
    pub const MOST_PACKETS: u32 = 4096;
    /// Octets, likewise.
    pub const MOST_OCTETS: u32 = 4 << 20;

    /// From its specification.
    pub fn new(spec: &QueueSpec, incarnation: u32, longest: u32) -> Self {
        let burst = match spec.burst_bytes {
            0 => spec.rate_kbps.saturating_mul(BURST_NS) / UNITS_PER_OCTET,
            said => said,
        };
        // A burst below one packet would let none through; `build` refuses those that were asked for.
        let depth = burst.max(if spec.burst_bytes == 0 { LEAST_BURST } else { 1 } * u64::from(longest));
        Self {
            incarnation,
            rate_kbps: spec.rate_kbps,
            depth: depth * UNITS_PER_OCTET,
            weight: u32::from(spec.weight.max(1)),
            deadline: u64::from(spec.deadline_us) * 1000,
            most_packets: if spec.most_packets == 0 { Self::MOST_PACKETS } else { spec.most_packets },
            most_octets: if spec.most_bytes == 0 { Self::MOST_OCTETS } else { spec.most_bytes },
            target: u64::from(spec.target_us) * 1000,
            interval: u64::from(spec.target_us) * 1000 * CODEL_TARGETS,
            ecn: spec.ecn,
        }
    }
}

/// How long packets of a class may wait at most: what the class promises. P3 promises nothing.
pub(super) const DEADLINES: [u64; 4] = [1_000_000, 10_000_000, 100_000_000, u64::MAX];

impl Shaping {
    /// Of these ports and services: counter slot, queue slot and specification of each.
    pub fn new<'a>(
        ports: Vec<(PortSlot, PortShaping)>,
        services: impl Iterator<Item = (u32, Slot, &'a QueueSpec)>,
    ) -> Self {
        let longest = ports.iter().map(|(_, port)| port.longest).max().unwrap_or(0);
        let nobody = Profile::new(&QueueSpec::default(), 0, longest);
        let (mut profiles, mut by_counter) = (vec![nobody], Vec::new());
        for (counter, slot, spec) in services {
            let (counter, at) = (counter as usize, slot.index as usize + 1);
            if by_counter.len() <= counter {
                by_counter.resize(counter + 1, 0);
            }
            by_counter[counter] = at as u16;
            if profiles.len() <= at {
                profiles.resize(at + 1, nobody);
            }
            profiles[at] = Profile::new(spec, slot.incarnation, longest);
        }
        let least = profiles.iter().map(|profile| profile.weight).min().unwrap_or(1);
        let shaped = ports.iter().fold(0, |all, (port, _)| all | 1 << port.index());
        Self { shaped, ports, profiles, by_counter: by_counter.into_boxed_slice(), least }
    }

    /// What it says about a port, if that is shaped.
    #[inline]
    pub fn port(&self, port: PortSlot) -> Option<&PortShaping> {
        self.ports.iter().find(|(slot, _)| *slot == port).map(|(_, shaping)| shaping)
    }

    /// The shaped ports.
    pub fn ports(&self) -> impl Iterator<Item = (PortSlot, &PortShaping)> {
        self.ports.iter().map(|(slot, shaping)| (*slot, shaping))
    }

    /// A bit for each shaped port slot.
    #[inline]
    pub fn shaped(&self) -> u64 {
        self.shaped
    }

    /// The queue slot of the service with this counter slot; 0 for none.
    #[inline]
    pub fn slot_of(&self, counter: u32) -> u16 {
        self.by_counter.get(counter as usize).copied().unwrap_or(0)
    }

    /// The profile of a slot; of none that is left: as for what belongs to no service.
    #[inline]
    pub fn profile(&self, slot: u16) -> Option<&Profile> {
        self.profiles.get(usize::from(slot)).or(self.profiles.first())
    }

    /// What a queue of this profile gets per round: shares are exact when the least gets one full packet.
    #[inline]
    pub(super) fn quantum(&self, profile: &Profile, longest: u32) -> u32 {
        (u64::from(longest) * u64::from(profile.weight) / u64::from(self.least.max(1))).min(1 << 28) as u32
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        self.profiles.len() * size_of::<Profile>() + self.by_counter.len() * size_of::<u16>()
    }
}
