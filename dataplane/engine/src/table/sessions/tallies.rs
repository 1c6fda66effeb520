//! How many sessions services and sources have, for services with limits (`BEHAVIOUR.md` 7, limits).
//!
//! Services have a place each by number. Sources share a keyed table of fixed size: a source is in one of a few places that follow from its hash, or
//! has none. A place is free again when its source has no session left and may begin as many as ever: nothing ages, and nothing sweeps.

use bytemuck::{Pod, Zeroable};
use marchproxy_cpu::Slab;

use crate::flow::{Addr, is_v4};
use crate::hash::mix;
use crate::reason::DropReason;

/// Services with limits that a worker can tell apart.
pub const MOST_SERVICES: u32 = 4096;

/// Places looked at for a source, a line each.
const PROBES: usize = 8;

/// Nanoseconds per second.
const SECOND: u64 = 1_000_000_000;

/// Limits of sessions as one worker keeps them; `u32::MAX` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nanoseconds that each new session takes of the rate; 0 is no limit.
    interval: u64,
    /// New sessions saved up at most.
    burst: u32,
    half_open: u32,
    sessions: u32,
}

impl Limits {
    /// Of a node with this many workers: an equal share for each, rounded up.
    pub fn shared(new_per_s: Option<u32>, half_open: Option<u32>, sessions: Option<u32>, workers: usize) -> Self {
        let share = |limit: Option<u32>| limit.map_or(u32::MAX, |limit| limit.div_ceil(workers.max(1) as u32));
        let rate = new_per_s.map(|rate| rate.div_ceil(workers.max(1) as u32).max(1));
        Self {
            interval: rate.map_or(0, |rate| SECOND.div_ceil(u64::from(rate))),
            burst: rate.unwrap_or(u32::MAX),
            half_open: share(half_open),
            sessions: share(sessions),
        }
    }
}

/// Limits of a service.
#[derive(Clone, Debug)]
pub struct ServiceLimits {
    /// The service's number among those with limits.
    pub place: u32,
    /// For all its sessions.
    pub total: Limits,
    /// For those of each source, where sources have any.
    pub source: Option<Limits>,
    /// Bits of an IPv4 and of an IPv6 address that make a source.
    pub prefixes: [u8; 2],
}

impl ServiceLimits {
    /// The source that an address belongs to.
    fn source_of(&self, address: Addr) -> Addr {
        let bits = if is_v4(address) { 32 - self.prefixes[0].min(32) } else { 128 - self.prefixes[1].min(128) };
        (address >> (bits / 2) >> (bits - bits / 2)) << (bits / 2) << (bits - bits / 2)
    }
}

/// Sessions of a service, or of a source.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
struct Tally {
    /// When as many sessions are saved up again as can be.
    full_at: u64,
    sessions: u32,
    half_open: u32,
}

impl Tally {
    fn admits(&self, limits: &Limits, half_open: bool, now: u64) -> bool {
        let saved_up = u64::from(limits.burst) * limits.interval;
        self.sessions < limits.sessions
            && (!half_open || self.half_open < limits.half_open)
            && (limits.interval == 0 || self.full_at.max(now) + limits.interval <= now.saturating_add(saved_up))
    }

    fn enter(&mut self, interval: u64, half_open: bool, now: u64) {
        self.sessions += 1;
        self.half_open += u32::from(half_open);
        if interval > 0 {
            self.full_at = self.full_at.max(now) + interval;
        }
    }

    fn leave(&mut self, half_open: bool) {
        self.sessions = self.sessions.saturating_sub(1);
        self.opened(half_open, false);
    }

    /// The session was half-open, or is.
    fn opened(&mut self, before: bool, now: bool) {
        self.half_open = (self.half_open + u32::from(now)).saturating_sub(u32::from(before));
    }
}

/// A source, a line.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Source {
    address: Addr,
    tally: Tally,
    service: u32,
    padding: [u32; 7],
}

const _: () = assert!(size_of::<Source>() == 64);

impl Source {
    fn new(address: Addr, service: u32) -> Self {
        Self { address, tally: Tally::default(), service, padding: [0; 7] }
    }

    fn is_free(&self, now: u64) -> bool {
        self.tally.sessions == 0 && self.tally.full_at <= now
    }
}

/// Where a session is counted: places plus one, 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub service: u32,
    pub source: u32,
}

/// That a new session is within the limits, and where it will be counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Admission {
    counted: Counted,
    intervals: [u64; 2],
    source: Addr,
}

/// All tallies of a worker.
pub(super) struct Tallies {
    services: Slab<Tally>,
    sources: Slab<Source>,
    secret: u64,
    /// Sessions counted somewhere.
    pub counted: usize,
    /// Sessions of sources that found no place.
    pub untracked: u64,
}

impl Tallies {
    /// With room for this many sources at most, a power of two.
    pub fn new(sources: usize, secret: u64) -> Self {
        Self {
            services: Slab::heap(MOST_SERVICES as usize),
            sources: Slab::heap(sources),
            secret,
            counted: 0,
            untracked: 0,
        }
    }

    /// Whether a session may begin. Counts nothing yet but sources without a place.
    pub fn admit(
        &mut self,
        limits: &ServiceLimits,
        client: Addr,
        half_open: bool,
        now: u64,
    ) -> Result<Admission, DropReason> {
        let Some(tally) = self.services.get(limits.place as usize) else { return Ok(Admission::default()) };
        if !tally.admits(&limits.total, half_open, now) {
            return Err(DropReason::SessionLimitService);
        }
        let mut admission = Admission {
            counted: Counted { service: limits.place + 1, source: 0 },
            intervals: [limits.total.interval, 0],
            source: limits.source_of(client),
        };
        let Some(per_source) = &limits.source else { return Ok(admission) };
        let Some(place) = self.place_of(admission.source, limits.place, now) else {
            // Whoever fills the table with sources must not keep the others out.
            self.untracked += 1;
            return Ok(admission);
        };
        let found = &self.sources[place];
        let fresh = found.address != admission.source || found.service != limits.place;
        let tally = if fresh { Tally::default() } else { found.tally };
        if !tally.admits(per_source, half_open, now) {
            return Err(DropReason::SessionLimitSource);
        }
        admission.counted.source = place as u32 + 1;
        admission.intervals[1] = per_source.interval;
        Ok(admission)
    }

    /// The admitted session began.
    pub fn enter(&mut self, admission: &Admission, half_open: bool, now: u64) -> Counted {
        let counted = admission.counted;
        let Some(service) = at(&mut self.services, counted.service) else { return Counted::default() };
        service.enter(admission.intervals[0], half_open, now);
        if let Some(source) = at(&mut self.sources, counted.source) {
            if source.address != admission.source || source.service != counted.service - 1 {
                *source = Source::new(admission.source, counted.service - 1);
            }
            source.tally.enter(admission.intervals[1], half_open, now);
        }
        self.counted += 1;
        counted
    }

    /// A session ended that was counted there.
    pub fn leave(&mut self, counted: Counted, half_open: bool) {
        let Some(service) = at(&mut self.services, counted.service) else { return };
        service.leave(half_open);
        if let Some(source) = at(&mut self.sources, counted.source) {
            source.tally.leave(half_open);
        }
        self.counted -= 1;
    }

    /// The state of a session changed that is counted there: half-open before, and now.
    pub fn opened(&mut self, counted: Counted, before: bool, now: bool) {
        if let Some(service) = at(&mut self.services, counted.service) {
            service.opened(before, now);
        }
        if let Some(source) = at(&mut self.sources, counted.source) {
            source.tally.opened(before, now);
        }
    }

    /// The place of a source: its own, or the first that is free.
    fn place_of(&self, source: Addr, service: u32, now: u64) -> Option<usize> {
        let mask = self.sources.len().checked_sub(1)?;
        let start = mix((source >> 64) as u64 ^ self.secret, source as u64 ^ mix(u64::from(service), self.secret));
        let mut free = None;
        for place in (0..PROBES.min(self.sources.len())).map(|n| (start as usize).wrapping_add(n) & mask) {
            let found = &self.sources[place];
            let is_free = found.is_free(now);
            if !is_free && found.address == source && found.service == service {
                return Some(place);
            }
            if is_free {
                free = free.or(Some(place));
            }
        }
        free
    }

    /// Sessions and half-open ones of a service.
    #[cfg(test)]
    pub fn of_service(&self, place: u32) -> (u32, u32) {
        let tally = &self.services[place as usize];
        (tally.sessions, tally.half_open)
    }

    /// Places of sources that are not free.
    #[cfg(test)]
    pub fn sources_in_use(&self, now: u64) -> usize {
        self.sources.iter().filter(|source| !source.is_free(now)).count()
    }
}

/// By place plus one.
fn at<T>(list: &mut [T], place: u32) -> Option<&mut T> {
    list.get_mut((place as usize).checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{from_ip, v4};

    fn limits(total: Limits, source: Option<Limits>) -> ServiceLimits {
        ServiceLimits { place: 3, total, source, prefixes: [24, 64] }
    }

    fn none() -> Limits {
        Limits::shared(None, None, None, 1)
    }

    #[test]
    fn a_source_is_a_prefix() {
        let address = |ip: &str| from_ip(ip.parse().unwrap());
        let of = |prefixes, ip: &str| ServiceLimits { prefixes, ..limits(none(), None) }.source_of(address(ip));
        for (prefixes, ip, source) in [
            ([32, 64], "192.0.2.77", "192.0.2.77"),
            ([24, 64], "192.0.2.77", "192.0.2.0"),
            ([0, 64], "192.0.2.77", "0.0.0.0"),
            ([32, 64], "2001:db8:1:2:3::4", "2001:db8:1:2::"),
            ([32, 128], "2001:db8:1:2:3::4", "2001:db8:1:2:3::4"),
            ([32, 0], "2001:db8:1:2:3::4", "::"),
        ] {
            assert_eq!(of(prefixes, ip), address(source), "{ip} {prefixes:?}");
        }
    }

    #[test]
    fn shares_are_rounded_up() {
        for (limit, workers, share) in [(10, 1, 10), (10, 2, 5), (10, 3, 4), (1, 8, 1)] {
            assert_eq!(Limits::shared(None, None, Some(limit), workers).sessions, share);
            assert_eq!(Limits::shared(Some(limit), None, None, workers).burst, share);
        }
        assert_eq!(Limits::shared(Some(3), None, None, 1).interval, 333_333_334);
        assert_eq!(none(), Limits { interval: 0, burst: u32::MAX, half_open: u32::MAX, sessions: u32::MAX });
    }

    #[test]
    fn a_rate_is_saved_up_for_a_second() {
        let mut tallies = Tallies::new(64, 1);
        let limits = limits(Limits::shared(Some(4), None, None, 1), None);
        let mut begin = |now| {
            let admitted = tallies.admit(&limits, v4(1), false, now);
            admitted.map(|admission| tallies.enter(&admission, false, now)).is_ok()
        };
        let now = 100 * SECOND;
        assert_eq!((0..6).filter(|_| begin(now)).count(), 4);
        assert!(!begin(now + SECOND / 4 - 1) && begin(now + SECOND / 4) && !begin(now + SECOND / 4));
        assert!(!begin(now - SECOND), "time went back");
        assert_eq!((0..9).filter(|_| begin(now + 60 * SECOND)).count(), 4);
    }

    #[test]
    fn sources_share_their_table_and_leave_it() {
        let mut tallies = Tallies::new(64, 7);
        let limits =
            ServiceLimits { prefixes: [32, 64], ..limits(none(), Some(Limits::shared(None, None, Some(1), 1))) };
        let mut kept = Vec::new();
        for client in 0..200 {
            let admission = tallies.admit(&limits, v4(client), false, 0).unwrap();
            kept.push(tallies.enter(&admission, false, 0));
        }
        let tracked = kept.iter().filter(|counted| counted.source != 0).count();
        assert_eq!((tracked + tallies.untracked as usize, tallies.of_service(3)), (200, (200, 0)));
        assert!((48..=64).contains(&tracked), "{tracked} of 64 places used");
        for (client, counted) in (0..).zip(&kept) {
            let again = tallies.admit(&limits, v4(client), false, 0).map(|_| ());
            let expected = if counted.source == 0 { Ok(()) } else { Err(DropReason::SessionLimitSource) };
            assert_eq!(again, expected, "client {client}");
        }
        for counted in kept {
            tallies.leave(counted, false);
        }
        assert_eq!((tallies.counted, tallies.of_service(3), tallies.sources_in_use(0)), (0, (0, 0), 0));
        assert!(tallies.admit(&limits, v4(500), false, 0).is_ok());
    }

    #[test]
    fn a_source_is_remembered_while_its_rate_is_used_up() {
        let mut tallies = Tallies::new(8, 7);
        let limits = limits(none(), Some(Limits::shared(Some(1), None, None, 1)));
        let admission = tallies.admit(&limits, v4(1), true, 0).unwrap();
        let counted = tallies.enter(&admission, true, 0);
        tallies.leave(counted, true);
        assert_eq!(tallies.admit(&limits, v4(1), true, SECOND - 1).map(|_| ()), Err(DropReason::SessionLimitSource));
        assert_eq!((tallies.sources_in_use(SECOND - 1), tallies.sources_in_use(SECOND)), (1, 0));
        assert!(tallies.admit(&limits, v4(1), true, SECOND).is_ok());
    }
}
