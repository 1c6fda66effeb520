//! What the scheduler keeps for each service: its shaper, its share, its bounds.

use super::bucket::Bucket;
use super::places::NIL;
use super::shaping::Profile;

/// One service on one port. The first line is what every packet asks for.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Account {
    /// Its shaper, if it limits.
    pub bucket: Bucket,
    /// What a queue of it gets per round, in octets.
    pub quantum: u32,
    /// Its classes with packets, and those of them that stand in their class's line.
    pub backlog: u8,
    pub lined_up: u8,
    /// Whether it waits on the wheel for tokens.
    pub parked: bool,
    /// Whether its packets are marked rather than dropped.
    pub ecn: bool,
    /// The tick at which it is due, and who is due behind it in the same slot.
    pub when: u64,
    pub due_next: u32,
    /// At most so many packets and octets wait in each of its queues.
    pub most_packets: u32,
    pub most_octets: u32,
    /// The place's owner, see [`crate::slots::Slot`].
    pub incarnation: u32,
    /// The generation whose profile is in here; 0: none yet.
    pub generation: u64,
    /// Packets that waited longer are dropped; 0: what their class says.
    pub deadline: u64,
    /// Delay that is fine, and for how long a higher one is; 0: no queue management.
    pub target: u64,
    pub interval: u64,
}

const _: () = assert!(size_of::<Account>() == 128);

impl Default for Account {
    /// Of nobody, without limits.
    fn default() -> Self {
        Self {
            bucket: Bucket::default(),
            quantum: 1,
            backlog: 0,
            lined_up: 0,
            parked: false,
            ecn: false,
            when: 0,
            due_next: NIL,
            most_packets: Profile::MOST_PACKETS,
            most_octets: Profile::MOST_OCTETS,
            incarnation: 0,
            generation: 0,
            deadline: 0,
            target: 0,
            interval: 0,
        }
    }
}

impl Account {
    /// Takes over what a generation says. Tokens and packets stay, unless the place went to another service: that one's bucket starts full.
    #[cold]
    pub fn configure(&mut self, profile: &Profile, quantum: u32, generation: u64) {
        if self.incarnation != profile.incarnation {
            self.bucket = Bucket::default();
        }
        self.bucket.set(profile.rate_kbps, profile.depth);
        self.quantum = quantum;
        self.ecn = profile.ecn;
        (self.most_packets, self.most_octets) = (profile.most_packets, profile.most_octets);
        (self.deadline, self.target, self.interval) = (profile.deadline, profile.target, profile.interval);
        (self.generation, self.incarnation) = (generation, profile.incarnation);
    }
}
