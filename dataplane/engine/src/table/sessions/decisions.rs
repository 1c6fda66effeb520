//! What was decided about sessions, each decision once: thousands of sessions of a backend share one, so it is in the cache when a packet wants it,
//! and the session's own line needs two octets for it.

use bytemuck::{Pod, Zeroable};
use marchproxy_cpu::{Slab, prefetch_slice};

use crate::burst::{NO_MARK, NONE};
use crate::class::Choice;
use crate::hash::mix;
use crate::tables::ServiceMode;

/// What the tables of one generation say about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(32))]
pub struct Decision {
    /// The generation.
    pub generation: u64,
    /// Counter slot of the deciding rule; [`NONE`] where none decided.
    pub rule: u32,
    /// Counter slot of the service.
    pub service: u32,
    /// Counter slot of the backend.
    pub backend: u32,
    /// Policer index in that generation's snapshot.
    pub policer: u32,
    /// Index of the deciding rule where it [does more](crate::table::rules::Rule::does_more) than this says, else [`NONE`].
    pub more: u32,
    /// The rules that count it, as a set.
    pub counting: u16,
    /// DSCP or [`NO_MARK`].
    pub mark: u8,
    /// The service's mode, by its number, in the bits of [`MODE`]; above them what is decided about the class, as [its code](Choice::code).
    pub mode: u8,
}

/// Bits of the mode in [`Decision::mode`].
pub const MODE_BITS: u32 = 4;
/// These bits.
pub const MODE: u8 = (1 << MODE_BITS) - 1;

impl Decision {
    /// The service's mode.
    #[inline]
    pub fn mode(&self) -> ServiceMode {
        ServiceMode::ALL.get(usize::from(self.mode & MODE)).copied().unwrap_or_default()
    }

    /// What is decided about the class.
    #[inline]
    pub const fn class(&self) -> Choice {
        Choice::from_code(self.mode >> MODE_BITS)
    }
}

const _: () = assert!(size_of::<Decision>() == 32);

impl Default for Decision {
    /// Of no generation, and nothing to count.
    fn default() -> Self {
        Self {
            generation: 0,
            rule: NONE,
            service: NONE,
            backend: NONE,
            policer: NONE,
            more: NONE,
            counting: 0,
            mark: NO_MARK,
            mode: 0,
        }
    }
}

/// Most shared decisions: 1 MiB. A generation takes one per backend and rule that sends it sessions, and each is given back with its last session, or
/// when that is decided anew.
const MOST: usize = 1 << 15;

/// Places looked at for a decision.
const PROBES: usize = 8;

/// A session with this place has its decision beside itself.
pub(super) const OWN: u16 = u16::MAX;

const _: () = assert!(MOST <= OWN as usize);

/// The shared decisions. A place without users is free; nothing moves, so neither end of a session nor push needs a sweep.
pub(super) struct Decisions {
    list: Slab<Decision>,
    users: Slab<u32>,
}

impl Decisions {
    /// Room for the decisions of this many sessions.
    pub fn new(sessions: usize) -> Self {
        let places = sessions.clamp(1, MOST).next_power_of_two();
        Self { list: Slab::heap(places), users: Slab::heap(places) }
    }

    /// By place; `None` for [`OWN`].
    #[inline]
    pub fn get(&self, place: u16) -> Option<&Decision> {
        self.list.get(usize::from(place))
    }

    /// Starts loading a place.
    #[inline]
    pub fn prefetch(&self, place: u16) {
        prefetch_slice(&self.list, usize::from(place));
    }

    /// The place of a decision with one user more, or [`OWN`] where none is left.
    pub fn take(&mut self, decision: &Decision) -> u16 {
        let mask = self.list.len() - 1;
        let start = hash(decision) as usize;
        let mut free = None;
        for at in (0..PROBES.min(self.list.len())).map(|n| (start + n) & mask) {
            if self.users[at] == 0 {
                free = free.or(Some(at));
            } else if self.list[at] == *decision {
                self.users[at] += 1;
                return at as u16;
            }
        }
        let Some(at) = free else { return OWN };
        self.list[at] = *decision;
        self.users[at] = 1;
        at as u16
    }

    /// One user less.
    pub fn give_back(&mut self, place: u16) {
        if let Some(users) = self.users.get_mut(usize::from(place)) {
            *users = users.saturating_sub(1);
        }
    }

    /// Decisions in use.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.users.iter().filter(|&&users| users > 0).count()
    }
}

fn hash(decision: &Decision) -> u64 {
    let names = u64::from(decision.rule) << 32 | u64::from(decision.service);
    let more = u64::from(decision.backend) << 32 | u64::from(decision.policer);
    mix(
        mix(names ^ 0x9E37_79B9_7F4A_7C15, more ^ 0xD6E8_FEB8_6659_FD93) ^ decision.generation,
        (u64::from(decision.more) << 32
            | u64::from(decision.counting) << 16
            | u64::from(decision.mode) << 8
            | u64::from(decision.mark))
            ^ 0xA076_1D64_78BD_642F,
    )
}
