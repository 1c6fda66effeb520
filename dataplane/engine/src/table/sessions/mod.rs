//! The session table of one worker: both directions of a service session from one entry.
//!
//! A packet reads a bucket's line and an entry's line, and nothing where its addresses belong to no session at all:
//! - `bucket`: from a tuple's keyed hash to a place, at most 16 of them looked at, so nobody can choose colliding flows;
//! - `entry`: what every packet needs in one line ([`Session`]), the rest in another ([`Origin`]); plain data in slabs the caller provides;
//! - `decisions`: what rules and services said, shared by the sessions it is the same for;
//! - `ports`: what full NAT has of its pools;
//! - `tallies`: how many sessions services and sources with limits have;
//! - `flows`: what is told about them to flow collectors;
//! - `known`: which addresses sessions have; `expiry`: when to look at which session.

mod bucket;
mod decisions;
mod entry;
mod expiry;
mod flows;
mod known;
mod ports;
mod tallies;
#[cfg(test)]
mod tests;

use marchproxy_cpu::{MemoryError, MemoryOptions, MemoryReport, Slab, prefetch_slice};

pub use self::bucket::Bucket;
pub use self::decisions::{Decision, MODE, MODE_BITS};
pub use self::entry::{Direction, NewSession, Origin, Session, State, tcp};
pub use self::flows::{FlowEnd, FlowEvent, FlowRecord, FlowSettings, FlowTotals, Flows};
pub use self::ports::{FIRST_PORT, MOST_POOLS, Pool, Source};
pub use self::tallies::{Admission, Limits, MOST_SERVICES, ServiceLimits};

use self::bucket::Buckets;
use self::decisions::{Decisions, OWN};
use self::entry::Worth;
use self::expiry::{Expiry, STEP};
use self::known::Known;
use self::ports::NatPorts;
use self::tallies::Tallies;
use crate::flow::{Addr, FlowKey};
use crate::hash::{hash, mix};
use crate::reason::{DropReason, SessionEnd};
use crate::stats::PoolCounters;

/// Version of the layout of [`Session`], [`Origin`] and [`Bucket`]; a successor process adopts only its own. What else there is
/// follows from them, but for shared decisions, tallies and ports of pools: an adopted session is decided anew, and no longer counted.
pub const LAYOUT_VERSION: u32 = 3;

/// Most entries used: a hit is an entry's number and a direction in 31 bits, and 0 is none.
const MOST: usize = 1 << 30;

/// Most sources with tallies: 4 MiB, touched as they are used.
const MOST_SOURCES: usize = 1 << 16;
/// Fewest.
const FEWEST_SOURCES: usize = 1 << 10;

/// Searches for a session to give up: one finds one, unless what was due turns out to go on.
const SEARCHES: usize = 4;

/// Why a session was not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The reverse key belongs to another live session.
    Conflict,
    /// No free entry, or no place for a key, and nothing to evict.
    Full,
}

/// Marks a hit, see [`Hit::to_pool`].
const TO_POOL: u32 = 1 << 31;

/// Where a look-up ended: an entry and a direction, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit(u32);

impl Hit {
    /// Nothing.
    pub const MISS: Hit = Hit(0);

    fn new(entry: usize, direction: Direction) -> Self {
        Self((entry as u32 + 1) << 1 | direction as u32)
    }

    /// As the buckets hold the replies of full NAT: they go to an address that is not in the entry's line. No entry has the number that this
    /// mark makes of it, so the common comparison fails and [`Sessions::find`] looks closer.
    const fn to_pool(self) -> Self {
        Self(self.0 | TO_POOL)
    }

    const fn is_to_pool(self) -> bool {
        self.0 & TO_POOL != 0
    }

    const fn without_mark(self) -> Self {
        Self(self.0 & !TO_POOL)
    }

    /// Whether it found a session.
    #[inline]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Index of the entry; meaningless for a miss.
    #[inline]
    pub const fn entry(self) -> usize {
        (self.0 >> 1).wrapping_sub(1) as usize
    }

    /// The packet's direction.
    #[inline]
    pub const fn direction(self) -> Direction {
        [Direction::Forward, Direction::Reverse][(self.0 & 1) as usize]
    }
}

/// The memory of a table, zeroed: what a successor process adopts.
pub struct Slabs {
    /// An entry per session.
    pub entries: Slab<Session>,
    /// As many.
    pub origins: Slab<Origin>,
    /// [`Sessions::buckets_for`] them.
    pub buckets: Slab<Bucket>,
}

impl Slabs {
    /// On the heap.
    pub fn heap(sessions: usize) -> Self {
        Self {
            entries: Slab::heap(sessions),
            origins: Slab::heap(sessions),
            buckets: Slab::heap(Sessions::buckets_for(sessions)),
        }
    }

    /// In shared memory; `name` and what it is for show in `/proc/PID/maps`.
    pub fn memfd(name: &str, sessions: usize, options: MemoryOptions) -> Result<Self, MemoryError> {
        let buckets = Sessions::buckets_for(sessions);
        Ok(Self {
            entries: Slab::memfd(&format!("{name}-entries"), sessions, options)?,
            origins: Slab::memfd(&format!("{name}-origins"), sessions, options)?,
            buckets: Slab::memfd(&format!("{name}-buckets"), buckets, options)?,
        })
    }

    /// What the memory became: entries, origins, buckets.
    pub fn reports(&self) -> [MemoryReport; 3] {
        [self.entries.report(), self.origins.report(), self.buckets.report()]
    }
}

/// Keyed hashes of a tuple: of each end's address, which alone tell most packets without a session, and from them of the whole.
#[derive(Clone, Copy)]
struct Hashes {
    source: u64,
    destination: u64,
    whole: u64,
}

/// The key of the hashes: a word for each word of a tuple.
struct Secrets {
    source: [u64; 2],
    destination: [u64; 2],
    rest: u64,
}

impl Secrets {
    fn new(secret: u64) -> Self {
        let word = |number| hash(secret, &[number]);
        Self { source: [word(1), word(2)], destination: [word(3), word(4)], rest: word(5) }
    }
}

/// The table of one worker.
pub struct Sessions {
    entries: Slab<Session>,
    origins: Slab<Origin>,
    buckets: Buckets,
    decisions: Decisions,
    /// Addresses that packets to services go to.
    services: Known,
    /// Addresses that replies come from.
    backends: Known,
    expiry: Expiry,
    tallies: Tallies,
    ports: NatPorts,
    free: Vec<u32>,
    secrets: Secrets,
    live: usize,
    created: u64,
    ended: [u64; SessionEnd::COUNT],
    victim: Option<FlowKey>,
    changes: u32,
    /// What is told about sessions, where somebody asked for it.
    flows: Option<Box<Flows>>,
    flow_totals: FlowTotals,
}

impl Sessions {
    /// Buckets a table for `sessions` sessions needs: two keys each at 60 % load, a power of two.
    pub fn buckets_for(sessions: usize) -> usize {
        (sessions * 2 * 10 / 6 / 8 + 1).next_power_of_two()
    }

    /// A table on the heap.
    pub fn heap(sessions: usize, secret: u64) -> Self {
        Self::new(Slabs::heap(sessions), secret)
    }

    /// An empty table over zeroed slabs. The number of buckets must be a power of two (see [`buckets_for`](Self::buckets_for));
    /// more than 2^30 - 1 entries are not used.
    pub fn new(slabs: Slabs, secret: u64) -> Self {
        let Slabs { entries, origins, buckets } = slabs;
        let pairs = entries.len().min(origins.len()).min(MOST - 1);
        let usable = if buckets.len().is_power_of_two() { pairs } else { 0 };
        Self {
            decisions: Decisions::new(usable),
            expiry: Expiry::new(usable),
            tallies: Tallies::new(usable.next_power_of_two().clamp(FEWEST_SOURCES, MOST_SOURCES), secret),
            ports: NatPorts::new(),
            free: (0..usable as u32).rev().collect(),
            entries,
            origins,
            buckets: Buckets::new(buckets),
            services: Known::new(),
            backends: Known::new(),
            secrets: Secrets::new(secret),
            live: 0,
            created: 0,
            ended: [0; SessionEnd::COUNT],
            victim: None,
            changes: 0,
            flows: None,
            flow_totals: FlowTotals::default(),
        }
    }

    /// The ports of full NAT that it may use are those of worker `me` of `workers`. Called before there are sessions.
    pub fn seat(&mut self, me: usize, workers: usize) {
        self.ports.seat(me, workers);
    }

    /// A source for a session of full NAT from one of these addresses; it goes back with the session's end, or by
    /// [`give_port_back`](Self::give_port_back).
    pub fn take_port(&mut self, key: &FlowKey, addresses: &[Addr]) -> Option<Source> {
        let draw = mix(self.hash(key), self.secrets.rest ^ self.created);
        self.ports.take(addresses, key.protocol, draw)
    }

    /// There is no session for it after all.
    pub fn give_port_back(&mut self, source: Source, protocol: u8) {
        self.ports.give_back(source, protocol);
    }

    /// The addresses of pools with ports in use (and empty places), and how many ports each may use for a protocol.
    pub fn pools(&self) -> (&[Pool], u32) {
        (self.ports.pools(), self.ports.capacity())
    }

    /// Sets the counters of one address and says whose turn is next: one a turn, and none while full NAT was never asked for.
    pub fn show_pool(&self, place: usize, counters: &[PoolCounters]) -> usize {
        if !self.ports.was_asked() {
            return 0;
        }
        let (Some(pool), Some(shown)) = (self.ports.pools().get(place), counters.get(place)) else { return 0 };
        shown.address[0].set((pool.address >> 64) as u64);
        shown.address[1].set(pool.address as u64);
        for (counter, used) in shown.used.iter().zip(pool.used) {
            counter.set(u64::from(used));
        }
        (place + 1) % MOST_POOLS
    }

    /// What the backend of an entry's session sees in place of the client (full NAT).
    #[inline]
    pub fn source(&self, entry: usize) -> Option<Source> {
        if self.ports.is_empty() {
            return None;
        }
        let (place, port) = self.origins.get(entry)?.source()?;
        self.ports.source(place, port)
    }

    /// The tuple of the backend's packets.
    pub fn reverse_key(&self, entry: usize) -> Option<FlowKey> {
        let reverse = self.at(entry)?.reverse_key();
        Some(match self.source(entry) {
            Some(Source { address: dst, port: dport, .. }) => FlowKey { dst, dport, ..reverse },
            None => reverse,
        })
    }

    /// Live sessions, expired ones that nobody noticed yet included.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Sessions created since the start.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// Sessions ended since the start, by [`SessionEnd::index`].
    pub fn ended(&self) -> &[u64; SessionEnd::COUNT] {
        &self.ended
    }

    /// New sessions whose source had no place among the tallies, and so no limits of its own.
    pub fn untracked_sources(&self) -> u64 {
        self.tallies.untracked
    }

    /// Whether limits let a client begin a session, half-open or not.
    pub fn admit(
        &mut self,
        limits: &ServiceLimits,
        client: Addr,
        half_open: bool,
        now: u64,
    ) -> Result<Admission, DropReason> {
        self.tallies.admit(limits, client, half_open, now)
    }

    /// The client's tuple of the session evicted last: the table's free choice, for who checks that it was allowed.
    pub fn victim(&self) -> Option<&FlowKey> {
        self.victim.as_ref()
    }

    /// Grows with each insertion and removal; tells whether earlier look-ups still hold.
    #[inline]
    pub fn changes(&self) -> u32 {
        self.changes
    }

    /// Keyed hash of a tuple.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.hashes(key).whole
    }

    /// The same, and whether a session may have the tuple's addresses. False is certain, and costs no line of the table.
    #[inline]
    pub fn hash_known(&self, key: &FlowKey) -> (u64, bool) {
        let hashes = self.hashes(key);
        (hashes.whole, self.services.may_hold(hashes.destination) | self.backends.may_hold(hashes.source))
    }

    /// First step of a look-up: starts loading a bucket.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        self.buckets.prefetch(hash);
    }

    /// Second step: the entry it may be, whose line starts loading.
    #[inline]
    pub fn guess(&self, hash: u64) -> Hit {
        let hit = self.buckets.guess(hash);
        prefetch_slice(&self.entries, hit.entry());
        hit
    }

    /// Third step: the live session the tuple belongs to.
    #[inline]
    pub fn confirm(&self, guess: Hit, key: &FlowKey, hash: u64, now: u64) -> Hit {
        if self.holds(guess, key) { self.unless_expired(guess.without_mark(), now) } else { self.find(key, hash, now) }
    }

    /// Whether a hit leads to the session of this tuple: it may have ended since, and its entry have another.
    #[inline]
    pub fn holds(&self, hit: Hit, key: &FlowKey) -> bool {
        self.entries.get(hit.entry()).is_some_and(|session| session.is(key, hit.direction()))
            || (hit.is_to_pool() && self.is_reply_to_pool(hit.without_mark(), key))
    }

    #[cold]
    fn is_reply_to_pool(&self, hit: Hit, key: &FlowKey) -> bool {
        self.reverse_key(hit.entry()).is_some_and(|reverse| reverse == *key)
    }

    /// The live session a tuple belongs to.
    #[inline]
    pub fn find(&self, key: &FlowKey, hash: u64, now: u64) -> Hit {
        self.unless_expired(self.find_any(key, hash), now)
    }

    /// The entry of a hit.
    #[inline]
    pub fn get(&self, hit: Hit) -> Option<&Session> {
        self.entries.get(hit.entry())
    }

    /// What was decided about the session in an entry.
    #[inline]
    pub fn decision(&self, entry: usize) -> Option<&Decision> {
        let session = self.entries.get(entry)?;
        self.decisions.get(session.decision).or_else(|| Some(&self.origins.get(entry)?.decision))
    }

    /// Starts loading what was decided about the session of a hit.
    #[inline]
    pub fn prefetch_decision(&self, hit: Hit) {
        if let Some(session) = self.get(hit) {
            self.decisions.prefetch(session.decision);
        }
    }

    /// Where the session in an entry began.
    pub fn origin(&self, entry: usize) -> Option<&Origin> {
        self.origins.get(entry)
    }

    /// A packet of a session passed.
    #[inline]
    pub fn touch(&mut self, hit: Hit, now: u64, flags: u8) {
        let Some(session) = self.entries.get_mut(hit.entry()) else { return };
        if let Some(was_half_open) = session.touch(now, hit.direction(), flags) {
            let (state, is_half_open) = (session.state(), session.is_half_open());
            self.expiry.set(hit.entry(), now.saturating_add(state.timeout()), state.kind());
            if was_half_open != is_half_open && self.tallies.counted > 0 {
                self.tallies.opened(self.origins[hit.entry()].counted(), was_half_open, is_half_open);
            }
        }
    }

    /// A packet of a session passed whose backend's packets do not pass here.
    pub fn touch_one_way(&mut self, hit: Hit, now: u64, flags: u8) {
        if let Some(session) = self.entries.get_mut(hit.entry()) {
            session.reopen(flags);
        }
        self.touch(hit, now, flags);
        if let Some(session) = self.entries.get_mut(hit.entry()) {
            session.presume_answered();
        }
    }

    /// Replaces what was decided about a session.
    pub fn decide(&mut self, hit: Hit, decision: &Decision) {
        let entry = hit.entry();
        let (Some(session), Some(origin)) = (self.entries.get_mut(entry), self.origins.get_mut(entry)) else { return };
        let before = session.decision;
        session.decision = self.decisions.take(decision);
        if session.decision == OWN {
            origin.decision = *decision;
        }
        self.decisions.give_back(before);
    }

    /// Starts loading what the creation of the `nth` session from now writes: an entry and the bucket of its reverse key.
    #[inline]
    pub fn prefetch_creation(&self, nth: usize, reverse: &FlowKey) {
        self.buckets.prefetch(self.hash(reverse));
        if let Some(&entry) = self.free.len().checked_sub(nth + 1).and_then(|at| self.free.get(at)) {
            prefetch_slice(&self.entries, entry as usize);
            prefetch_slice(&self.origins, entry as usize);
        }
    }

    /// Creates a session. Expired sessions in the way are removed, and where there is no room, one that is worth less.
    #[inline]
    pub fn create(&mut self, new: &NewSession) -> Result<Hit, Refused> {
        let hit = self.make(new)?;
        if new.told > 0 {
            self.flow_began(hit.entry(), new.told, new.now);
        }
        Ok(hit)
    }

    fn make(&mut self, new: &NewSession) -> Result<Hit, Refused> {
        let keys = [new.key, new.reverse_key()];
        // Where replies do not pass here there is one key only.
        let two_ways = !new.decision.mode().is_direct();
        // A session whose two directions look the same could not tell them apart.
        if two_ways && keys[0] == keys[1] {
            return Err(Refused::Conflict);
        }
        let hashes = keys.map(|key| self.hashes(&key));
        for (key, hashes) in keys.iter().zip(&hashes).take(1 + usize::from(two_ways)) {
            let hit = self.find_any(key, hashes.whole);
            if !hit.is_some() {
                continue;
            }
            if self.get(hit).is_some_and(|s| !s.expired(new.now)) {
                return Err(Refused::Conflict);
            }
            self.remove(hit, SessionEnd::Expired);
        }
        let Some(index) = self.take_entry(new.now) else { return Err(Refused::Full) };
        let entry = index as usize;
        let hits = [Hit::new(entry, Direction::Forward), reply(entry, new.source.is_some())];
        if !self.insert(hashes[0].whole, hits[0], new.now) {
            self.free.push(index);
            return Err(Refused::Full);
        }
        if two_ways && !self.insert(hashes[1].whole, hits[1], new.now) {
            self.buckets.remove(hashes[0].whole, hits[0]);
            self.free.push(index);
            return Err(Refused::Full);
        }
        let decision = self.decisions.take(&new.decision);
        let mut session = Session::new(new, decision);
        if !two_ways {
            session.presume_answered();
        }
        let origin = &mut self.origins[entry];
        origin.begin();
        if decision == OWN {
            origin.decision = new.decision;
        }
        self.entries[entry] = session;
        let counted = self.tallies.enter(&new.admission, session.is_half_open(), new.now);
        origin.end(new, counted);
        self.services.add(hashes[0].destination);
        self.backends.add(hashes[1].source);
        let state = session.state();
        self.expiry.set(entry, new.now.saturating_add(state.timeout()), state.kind());
        self.live += 1;
        self.created += 1;
        self.changes = self.changes.wrapping_add(1);
        Ok(hits[0])
    }

    /// Ends a session.
    #[inline]
    pub fn remove(&mut self, hit: Hit, why: SessionEnd) {
        if self.flows.is_some() {
            self.flow_removed(hit.entry(), why);
        }
        self.end(hit, why);
    }

    fn end(&mut self, hit: Hit, why: SessionEnd) {
        let entry = hit.entry();
        let Some(&session) = self.entries.get(entry).filter(|session| session.is_used()) else { return };
        let source = self.source(entry);
        let reverse = self.reverse_key(entry).unwrap_or_else(|| session.reverse_key());
        let (forward, reverse) = (self.hashes(&session.forward_key()), self.hashes(&reverse));
        self.buckets.remove(forward.whole, Hit::new(entry, Direction::Forward));
        // A session with one key has not this one; nothing is removed then.
        self.buckets.remove(reverse.whole, reply(entry, source.is_some()));
        if let Some(source) = source {
            self.give_port_back(source, session.protocol());
        }
        self.services.remove(forward.destination);
        self.backends.remove(reverse.source);
        self.decisions.give_back(session.decision);
        if self.tallies.counted > 0 {
            self.tallies.leave(self.origins[entry].counted(), session.is_half_open());
        }
        self.entries[entry].free();
        self.expiry.clear(entry);
        self.free.push(entry as u32);
        self.live -= 1;
        self.ended[why.index()] += 1;
        self.changes = self.changes.wrapping_add(1);
    }

    /// Looks at the next `n` entries (rounded up to whole steps) and removes the expired ones, at once.
    pub fn expire(&mut self, now: u64, n: usize) {
        for _ in 0..n.div_ceil(STEP) {
            self.expiry.step(now);
            for entry in self.expiry.due.take() {
                if self.is_expired(entry as usize, now) {
                    self.remove(Hit::new(entry as usize, Direction::Forward), SessionEnd::Expired);
                }
            }
        }
    }

    /// Expiry in small steps, called once per turn. What a step will touch is being loaded since the last one: found by its deadline, then known
    /// to be idle, then removed, a turn each.
    pub fn upkeep(&mut self, now: u64) {
        for entry in self.expiry.idle.take() {
            if self.is_expired(entry as usize, now) {
                self.remove(Hit::new(entry as usize, Direction::Forward), SessionEnd::Expired);
            }
        }
        for entry in self.expiry.due.take() {
            if !self.is_expired(entry as usize, now) {
                continue;
            }
            if let Some(session) = self.entries.get(entry as usize) {
                self.buckets.prefetch(self.hash(&session.forward_key()));
                self.buckets.prefetch(self.hash(&session.reverse_key()));
            }
            self.expiry.idle.push(entry);
        }
        self.expiry.step(now);
        for &entry in &self.expiry.due {
            prefetch_slice(&self.entries, entry as usize);
        }
    }

    /// All live sessions.
    pub fn iter(&self, now: u64) -> impl Iterator<Item = &Session> {
        self.entries.iter().filter(move |s| s.is_used() && !s.expired(now))
    }

    /// Number of entries.
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// The entry at an index, if a session lives there.
    pub fn at(&self, index: usize) -> Option<&Session> {
        self.entries.get(index).filter(|s| s.is_used())
    }

    /// Whether the session of an entry is there and idle too long; corrects the deadline of one that is not.
    fn is_expired(&mut self, entry: usize, now: u64) -> bool {
        let Some(session) = self.at(entry) else { return false };
        let expired = session.expired(now);
        if !expired {
            let state = session.state();
            let end = now.saturating_sub(session.idle(now)).saturating_add(state.timeout());
            self.expiry.set(entry, end, state.kind());
        }
        expired
    }

    /// A free entry, made free if need be.
    fn take_entry(&mut self, now: u64) -> Option<u32> {
        if self.free.is_empty() {
            self.make_room(now);
        }
        self.free.pop()
    }

    /// Gives a key a place, made free if need be.
    fn insert(&mut self, hash: u64, hit: Hit, now: u64) -> bool {
        self.buckets.insert(hash, hit) || self.make_place(hash, now) && self.buckets.insert(hash, hit)
    }

    /// Gives up the session that is worth least of some.
    #[cold]
    fn make_room(&mut self, now: u64) {
        for _ in 0..SEARCHES {
            let some = self.expiry.give_up(now);
            if self.give_up_least(some.iter().map(|&entry| entry as usize), now) {
                return;
            }
            // What seemed due and is not says so the next time.
            let again = some.len() == 1;
            for entry in some {
                self.is_expired(entry as usize, now);
            }
            if !again {
                return;
            }
        }
    }

    /// Gives up the session that is worth least of those in the places that a key may have.
    #[cold]
    fn make_place(&mut self, hash: u64, now: u64) -> bool {
        let rivals: arrayvec::ArrayVec<usize, 16> = self.buckets.rivals(hash).map(Hit::entry).take(16).collect();
        self.give_up_least(rivals.into_iter(), now)
    }

    /// Of sessions worth the same, the one idle the longest. False when all are needed.
    fn give_up_least(&mut self, entries: impl Iterator<Item = usize>, now: u64) -> bool {
        let used = entries.filter_map(|entry| Some((entry, self.at(entry)?)));
        let worth = used.map(|(entry, session)| (session.worth(now), std::cmp::Reverse(session.idle(now)), entry));
        let Some((worth, _, entry)) = worth.min() else { return false };
        let why = match worth {
            Worth::Expired => SessionEnd::Expired,
            Worth::Evictable(why) => {
                self.victim = self.at(entry).map(Session::forward_key);
                why
            }
            Worth::Needed => return false,
        };
        self.remove(Hit::new(entry, Direction::Forward), why);
        true
    }

    #[inline]
    fn unless_expired(&self, hit: Hit, now: u64) -> Hit {
        match self.entries.get(hit.entry()) {
            Some(session) if !session.expired(now) => hit,
            _ => Hit::MISS,
        }
    }

    #[inline]
    fn find_any(&self, key: &FlowKey, hash: u64) -> Hit {
        self.buckets.find(hash, |hit| self.holds(hit, key)).without_mark()
    }

    /// Both families go the same way, so there is no branch to guess; the secrets differ by place, so ends can't be exchanged.
    #[inline]
    fn hashes(&self, key: &FlowKey) -> Hashes {
        let address = |addr: u128, [high, low]: [u64; 2]| mix((addr >> 64) as u64 ^ high, addr as u64 ^ low);
        let source = address(key.src, self.secrets.source);
        let destination = address(key.dst, self.secrets.destination);
        let rest = u64::from(key.protocol) << 32 | u64::from(key.sport) << 16 | u64::from(key.dport);
        Hashes { source, destination, whole: mix(source ^ destination, rest ^ self.secrets.rest) }
    }
}

/// How the buckets hold a reply's key.
fn reply(entry: usize, to_pool: bool) -> Hit {
    let hit = Hit::new(entry, Direction::Reverse);
    if to_pool { hit.to_pool() } else { hit }
}
