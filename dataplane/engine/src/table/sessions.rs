//! The session table of one worker: both directions of a service session from one entry.
//!
//! Entries are plain data in a slab the caller provides; two keys lead to each through buckets of eight slots, one cache line a
//! bucket, two candidate buckets a key. Look-ups are bounded (16 slots) and hashes keyed, so nobody can choose colliding flows.

use bytemuck::{Pod, Zeroable};
use marchproxy_cpu::{Slab, prefetch, prefetch_slice};

use crate::flow::FlowKey;
use crate::ports::PortSlot;

/// Nanoseconds per second.
const SECOND: u64 = 1_000_000_000;

/// Version of [`Session`]'s layout; a successor process adopts only its own.
pub const LAYOUT_VERSION: u32 = 1;

/// One session.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Session {
    /// Client address.
    pub client: u128,
    /// Service address.
    pub service: u128,
    /// Backend address.
    pub backend: u128,
    /// Nanoseconds of the last packet.
    pub last_seen: u64,
    /// Client port, or the echo identifier.
    pub client_port: u16,
    /// Service port; 0 for echo.
    pub service_port: u16,
    /// Backend port; 0 for echo.
    pub backend_port: u16,
    /// Protocol number.
    pub protocol: u8,
    state: u8,
    /// Generation that decided the fields below.
    pub generation: u64,
    /// 0: free. Odd: being written. Even: valid; grows with each use of the entry.
    sequence: u32,
    /// Policer index in that generation's snapshot.
    pub policer: u32,
    /// Counter slot of the deciding rule.
    pub rule_counter: u32,
    /// Counter slot of the service.
    pub service_counter: u32,
    /// Counter slot of the backend.
    pub backend_counter: u32,
    /// DSCP or [`crate::burst::NO_MARK`].
    pub mark: u8,
    fins: u8,
    /// VLAN the client's packets came on.
    pub client_vlan: u16,
    /// Port the client's packets came on.
    client_place: u8,
    padding: [u8; 31],
}

const _: () = assert!(size_of::<Session>() == 128);

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// UDP.
    Udp = 0,
    /// ICMP echo.
    Icmp = 1,
    /// TCP, client's SYN seen, handshake not finished.
    Opening = 2,
    /// TCP, open.
    Established = 3,
    /// TCP, one side sent FIN.
    Closing = 4,
    /// TCP, both sides sent FIN, or one RST.
    Closed = 5,
}

impl State {
    const ALL: [State; 6] =
        [State::Udp, State::Icmp, State::Opening, State::Established, State::Closing, State::Closed];

    /// The name shown to people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }

    /// Idle time after which the session is gone, in nanoseconds. RFC 4787 REQ-5, RFC 5508 REQ-1, RFC 5382 REQ-5.
    pub const fn timeout(self) -> u64 {
        SECOND
            * match self {
                Self::Udp => 300,
                Self::Icmp => 60,
                Self::Opening | Self::Closed => 30,
                Self::Established => 7440,
                Self::Closing => 240,
            }
    }
}

/// TCP flag bits.
pub mod tcp {
    /// Finish.
    pub const FIN: u8 = 1;
    /// Synchronise.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Acknowledge.
    pub const ACK: u8 = 16;
}

/// Which way a packet of a session goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to backend.
    Forward,
    /// Backend to client.
    Reverse,
}

impl Session {
    /// Where it stands.
    pub fn state(&self) -> State {
        State::ALL.get(usize::from(self.state)).copied().unwrap_or(State::Closed)
    }

    /// The port the client is behind.
    pub fn client_place(&self) -> PortSlot {
        PortSlot::from_index(usize::from(self.client_place))
    }

    /// Whether it has been idle too long.
    #[inline]
    pub fn expired(&self, now: u64) -> bool {
        now.saturating_sub(self.last_seen) > self.state().timeout()
    }

    /// The tuple of the client's packets.
    #[inline]
    pub fn forward_key(&self) -> FlowKey {
        FlowKey {
            src: self.client,
            dst: self.service,
            protocol: self.protocol,
            sport: self.client_port,
            dport: self.service_port,
        }
    }

    /// The tuple of the backend's packets.
    #[inline]
    pub fn reverse_key(&self) -> FlowKey {
        FlowKey {
            src: self.backend,
            dst: self.client,
            protocol: self.protocol,
            sport: self.backend_port,
            dport: self.client_port,
        }
    }

    /// A packet of the session passed.
    #[inline]
    pub fn touch(&mut self, now: u64, direction: Direction, flags: u8) {
        self.last_seen = now;
        if self.protocol == 6 {
            self.state = self.next_state(direction, flags) as u8;
        }
    }

    #[inline]
    fn next_state(&mut self, direction: Direction, flags: u8) -> State {
        let mut state = self.state();
        let forward = direction == Direction::Forward;
        if flags & tcp::RST != 0 {
            return State::Closed;
        }
        if forward && flags & (tcp::SYN | tcp::ACK) == tcp::SYN && state == State::Closed {
            state = State::Opening;
            self.fins = 0;
        }
        if flags & tcp::FIN != 0 {
            self.fins |= if forward { 1 } else { 2 };
            state = if self.fins == 3 { State::Closed } else { State::Closing };
        }
        if forward && flags & (tcp::SYN | tcp::ACK) == tcp::ACK && state == State::Opening {
            state = State::Established;
        }
        state
    }
}

/// What a new session starts from.
#[derive(Clone, Copy, Debug)]
pub struct NewSession {
    /// The client's tuple towards the service.
    pub key: FlowKey,
    /// Backend address.
    pub backend: u128,
    /// Backend port.
    pub backend_port: u16,
    /// TCP flags of the first packet.
    pub flags: u8,
    /// Where the client is.
    pub place: (PortSlot, u16),
    /// Now.
    pub now: u64,
}

/// Why a session was not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The reverse key belongs to another live session.
    Conflict,
    /// No free entry, or both buckets of a key are full.
    Full,
}

/// Where a look-up ended: an entry and a direction, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit(u32);

impl Hit {
    /// Nothing.
    pub const MISS: Hit = Hit(0);

    fn new(entry: usize, direction: Direction) -> Self {
        Self((entry as u32 + 1) << 1 | u32::from(direction == Direction::Reverse))
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
        if self.0 & 1 == 1 { Direction::Reverse } else { Direction::Forward }
    }
}

/// Eight slots: `tag << 32 | hit`, 0 for empty.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Bucket([u64; 8]);

/// The table of one worker.
pub struct Sessions {
    entries: Slab<Session>,
    buckets: Slab<Bucket>,
    free: Vec<u32>,
    secret: u64,
    /// Next entry the expiry looks at.
    hand: usize,
    live: usize,
    created: u64,
    changes: u32,
}

impl Sessions {
    /// Buckets a table for `sessions` sessions needs: two keys each at 60 % load, a power of two.
    pub fn buckets_for(sessions: usize) -> usize {
        (sessions * 2 * 10 / 6 / 8 + 1).next_power_of_two()
    }

    /// A table on the heap.
    pub fn heap(sessions: usize, secret: u64) -> Self {
        Self::new(Slab::heap(sessions), Slab::heap(Self::buckets_for(sessions)), secret)
    }

    /// An empty table over zeroed slabs. The number of buckets must be a power of two (see [`buckets_for`](Self::buckets_for));
    /// more than 2^30 entries are not used.
    pub fn new(entries: Slab<Session>, buckets: Slab<Bucket>, secret: u64) -> Self {
        let usable = if buckets.len().is_power_of_two() { entries.len().min(1 << 30) } else { 0 };
        let free = (0..usable as u32).rev().collect();
        Self { entries, buckets, free, secret, hand: 0, live: 0, created: 0, changes: 0 }
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

    /// Grows with each insertion and removal; tells whether earlier look-ups still hold.
    #[inline]
    pub fn changes(&self) -> u32 {
        self.changes
    }

    /// Keyed hash of a tuple.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        key.hash(self.secret)
    }

    /// Starts loading the key's buckets.
    #[inline]
    pub fn prefetch_buckets(&self, hash: u64) {
        for at in self.places(hash) {
            prefetch_slice(&self.buckets, at);
        }
    }

    /// Starts loading both lines of the entry that the first matching tag names: the keys, and what was decided.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        for at in self.places(hash) {
            let Some(bucket) = self.buckets.get(at) else { return };
            for slot in bucket.0 {
                if slot >> 32 == hash >> 32 && slot != 0 {
                    if let Some(session) = self.entries.get(Hit(slot as u32).entry()) {
                        prefetch(session);
                        prefetch(&session.generation);
                    }
                    return;
                }
            }
        }
    }

    /// The live session a tuple belongs to.
    #[inline]
    pub fn find(&self, key: &FlowKey, hash: u64, now: u64) -> Hit {
        let hit = self.find_any(key, hash);
        match self.entries.get(hit.entry()) {
            Some(session) if hit.is_some() && !session.expired(now) => hit,
            _ => Hit::MISS,
        }
    }

    /// The entry of a hit.
    #[inline]
    pub fn get(&self, hit: Hit) -> Option<&Session> {
        self.entries.get(hit.entry())
    }

    /// The entry of a hit.
    #[inline]
    pub fn get_mut(&mut self, hit: Hit) -> Option<&mut Session> {
        self.entries.get_mut(hit.entry())
    }

    /// Creates a session. Expired sessions in the way are removed.
    pub fn create(&mut self, new: &NewSession) -> Result<Hit, Refused> {
        let forward = new.key;
        let reverse = FlowKey {
            src: new.backend,
            dst: forward.src,
            protocol: forward.protocol,
            sport: new.backend_port,
            dport: forward.sport,
        };
        // A session whose two directions look the same could not tell them apart.
        if reverse == forward {
            return Err(Refused::Conflict);
        }
        let hashes = [self.hash(&forward), self.hash(&reverse)];
        for (key, hash) in [(forward, hashes[0]), (reverse, hashes[1])] {
            let hit = self.find_any(&key, hash);
            if !hit.is_some() {
                continue;
            }
            if self.get(hit).is_some_and(|s| !s.expired(new.now)) {
                return Err(Refused::Conflict);
            }
            self.remove(hit);
        }
        if self.free.is_empty() {
            self.expire(new.now, 64);
        }
        let Some(index) = self.free.pop() else { return Err(Refused::Full) };
        let index = index as usize;
        let placed = self.place(hashes[0], Hit::new(index, Direction::Forward))
            && (self.place(hashes[1], Hit::new(index, Direction::Reverse)) || {
                self.unplace(hashes[0], Hit::new(index, Direction::Forward));
                false
            });
        if !placed {
            self.free.push(index as u32);
            return Err(Refused::Full);
        }
        let sequence = self.entries[index].sequence;
        self.entries[index].sequence = sequence.wrapping_add(1) | 1;
        self.entries[index] = Session {
            client: forward.src,
            service: forward.dst,
            backend: new.backend,
            last_seen: new.now,
            client_port: forward.sport,
            service_port: forward.dport,
            backend_port: new.backend_port,
            protocol: forward.protocol,
            state: first_state(forward.protocol, new.flags) as u8,
            generation: 0,
            sequence: sequence.wrapping_add(1) | 1,
            policer: crate::burst::NONE,
            rule_counter: crate::burst::NONE,
            service_counter: crate::burst::NONE,
            backend_counter: crate::burst::NONE,
            mark: crate::burst::NO_MARK,
            fins: 0,
            client_vlan: new.place.1,
            client_place: new.place.0.index() as u8,
            padding: [0; 31],
        };
        if forward.protocol == 6 {
            self.entries[index].touch(new.now, Direction::Forward, new.flags);
        }
        self.entries[index].sequence = sequence.wrapping_add(2) & !1;
        self.live += 1;
        self.created += 1;
        self.changes = self.changes.wrapping_add(1);
        Ok(Hit::new(index, Direction::Forward))
    }

    /// Ends a session.
    pub fn remove(&mut self, hit: Hit) {
        let index = hit.entry();
        let Some(&session) = self.entries.get(index) else { return };
        if session.sequence == 0 {
            return;
        }
        let (forward, reverse) = (self.hash(&session.forward_key()), self.hash(&session.reverse_key()));
        self.unplace(forward, Hit::new(index, Direction::Forward));
        self.unplace(reverse, Hit::new(index, Direction::Reverse));
        self.entries[index].sequence = 0;
        self.free.push(index as u32);
        self.live -= 1;
        self.changes = self.changes.wrapping_add(1);
    }

    /// Looks at the next `n` entries and removes the expired ones: expiry in small steps, called once per turn.
    pub fn expire(&mut self, now: u64, n: usize) {
        if self.live == 0 {
            return;
        }
        for _ in 0..n.min(self.entries.len()) {
            let index = self.hand;
            self.hand = if index + 1 == self.entries.len() { 0 } else { index + 1 };
            let session = &self.entries[index];
            if session.sequence != 0 && session.expired(now) {
                self.remove(Hit::new(index, Direction::Forward));
            }
        }
    }

    /// All live sessions.
    pub fn iter(&self, now: u64) -> impl Iterator<Item = &Session> {
        self.entries.iter().filter(move |s| s.sequence != 0 && !s.expired(now))
    }

    /// Number of entries.
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// The entry at an index, if a session lives there.
    pub fn at(&self, index: usize) -> Option<&Session> {
        self.entries.get(index).filter(|s| s.sequence != 0)
    }

    #[inline]
    fn places(&self, hash: u64) -> [usize; 2] {
        let mask = self.buckets.len() - 1;
        let first = hash as usize & mask;
        // The tag alone moves the key to its other bucket, never to the same one in a table of more than one bucket.
        [first, (first ^ ((hash >> 32) as usize | 1)) & mask]
    }

    #[inline]
    fn find_any(&self, key: &FlowKey, hash: u64) -> Hit {
        for at in self.places(hash) {
            let Some(bucket) = self.buckets.get(at) else { return Hit::MISS };
            for slot in bucket.0 {
                if slot >> 32 != hash >> 32 || slot == 0 {
                    continue;
                }
                let hit = Hit(slot as u32);
                let Some(session) = self.entries.get(hit.entry()) else { continue };
                let found = match hit.direction() {
                    Direction::Forward => session.forward_key(),
                    Direction::Reverse => session.reverse_key(),
                };
                if found == *key {
                    return hit;
                }
            }
        }
        Hit::MISS
    }

    /// Puts a hit into the emptier of the key's buckets. False when both are full.
    fn place(&mut self, hash: u64, hit: Hit) -> bool {
        let used = |b: &Bucket| b.0.iter().filter(|&&s| s != 0).count();
        let [first, second] = self.places(hash);
        let at = if used(&self.buckets[second]) < used(&self.buckets[first]) { second } else { first };
        match self.buckets[at].0.iter_mut().find(|slot| **slot == 0) {
            Some(slot) => {
                *slot = hash & !0xffff_ffff | u64::from(hit.0);
                true
            }
            None => false,
        }
    }

    fn unplace(&mut self, hash: u64, hit: Hit) {
        for at in self.places(hash) {
            if let Some(slot) = self.buckets[at].0.iter_mut().find(|slot| **slot as u32 == hit.0) {
                *slot = 0;
                return;
            }
        }
    }
}

fn first_state(protocol: u8, flags: u8) -> State {
    match protocol {
        6 if flags & tcp::RST != 0 => State::Closed,
        6 if flags & (tcp::SYN | tcp::ACK) == tcp::SYN => State::Opening,
        6 => State::Established,
        17 => State::Udp,
        _ => State::Icmp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::v4;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn new(client: u32, port: u16, now: u64) -> NewSession {
        NewSession {
            key: FlowKey { src: v4(client), dst: v4(1), protocol: 17, sport: port, dport: 53 },
            backend: v4(2 + client % 3),
            backend_port: 5353,
            flags: 0,
            place: (PortSlot::default(), 0),
            now,
        }
    }

    #[test]
    fn both_directions_find_the_session_until_it_expires() {
        let mut table = Sessions::heap(100, 1);
        let hit = table.create(&new(9, 1000, 5)).unwrap();
        let session = *table.get(hit).unwrap();
        let (f, r) = (session.forward_key(), session.reverse_key());
        assert_eq!(table.find(&f, table.hash(&f), 5).direction(), Direction::Forward);
        assert_eq!(table.find(&r, table.hash(&r), 5).direction(), Direction::Reverse);
        assert!(!table.find(&f.reversed(), table.hash(&f.reversed()), 5).is_some());
        let end = 5 + State::Udp.timeout();
        assert!(table.find(&f, table.hash(&f), end).is_some());
        assert!(!table.find(&f, table.hash(&f), end + 1).is_some());
        table.expire(end + 1, 100);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn tcp_states_follow_the_specification() {
        use tcp::{ACK, FIN, RST, SYN};
        let mut table = Sessions::heap(10, 1);
        let mut first = new(1, 1, 0);
        first.key.protocol = 6;
        first.flags = SYN;
        let hit = table.create(&first).unwrap();
        let session = table.get_mut(hit).unwrap();
        let mut step = |direction, flags| {
            session.touch(0, direction, flags);
            session.state()
        };
        assert_eq!(step(Direction::Reverse, SYN | ACK), State::Opening);
        assert_eq!(step(Direction::Forward, ACK), State::Established);
        assert_eq!(step(Direction::Reverse, FIN | ACK), State::Closing);
        assert_eq!(step(Direction::Forward, FIN | ACK), State::Closed);
        assert_eq!(step(Direction::Forward, SYN), State::Opening);
        assert_eq!(step(Direction::Forward, FIN | ACK), State::Closing);
        assert_eq!(step(Direction::Reverse, RST), State::Closed);
    }

    #[test]
    fn a_full_table_refuses_and_recovers() {
        let mut table = Sessions::heap(64, 7);
        let mut made = 0;
        let refused = (0..200u16).find_map(|port| match table.create(&new(1, port, 0)) {
            Ok(_) => {
                made += 1;
                None
            }
            Err(reason) => Some(reason),
        });
        assert_eq!((made, refused), (64, Some(Refused::Full)));
        assert!(table.create(&new(2, 1, State::Udp.timeout() + 1)).is_ok(), "expired entries make room");
    }

    #[test]
    fn the_same_reverse_key_is_a_conflict() {
        let mut table = Sessions::heap(64, 7);
        let one = new(1, 1000, 0);
        table.create(&one).unwrap();
        let other_service = NewSession { key: FlowKey { dst: v4(77), ..one.key }, ..one };
        assert_eq!(table.create(&other_service).unwrap_err(), Refused::Conflict);
    }

    #[test]
    fn most_of_a_large_table_can_be_used() {
        let mut table = Sessions::heap(100_000, 3);
        let made = (0..100_000u32).filter(|&n| table.create(&new(n >> 8, n as u16, 0)).is_ok()).count();
        assert!(made > 99_900, "only {made} of 100,000 fit");
    }

    #[derive(Clone, Debug)]
    enum Op {
        Create(u32, u16),
        Remove(u32, u16),
        Pass(u64),
        Expire,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0u32..6, 0u16..6).prop_map(|(c, p)| Op::Create(c, p)),
            1 => (0u32..6, 0u16..6).prop_map(|(c, p)| Op::Remove(c, p)),
            1 => (0u64..200).prop_map(|s| Op::Pass(s * SECOND)),
            1 => Just(Op::Expire),
        ]
    }

    proptest! {
        /// The slow twin: a hash map of keys.
        #[test]
        fn equals_a_map(ops in prop::collection::vec(op(), 1..120)) {
            let mut table = Sessions::heap(64, 11);
            let mut twin: HashMap<(u32, u16), u64> = HashMap::new();
            let mut now = 0;
            for op in ops {
                match op {
                    Op::Create(c, p) => {
                        let alive = twin.get(&(c, p)).is_some_and(|&t| now - t <= State::Udp.timeout());
                        let made = table.create(&new(c, p, now));
                        prop_assert_eq!(made.is_ok(), !alive);
                        if !alive { twin.insert((c, p), now); }
                    }
                    Op::Remove(c, p) => {
                        let key = new(c, p, now).key;
                        let hit = table.find(&key, table.hash(&key), now);
                        if hit.is_some() { table.remove(hit); }
                        twin.remove(&(c, p));
                    }
                    Op::Pass(time) => now += time,
                    Op::Expire => table.expire(now, 64),
                }
                for c in 0..6 { for p in 0..6 {
                    let key = new(c, p, now).key;
                    let alive = twin.get(&(c, p)).is_some_and(|&t| now - t <= State::Udp.timeout());
                    prop_assert_eq!(table.find(&key, table.hash(&key), now).is_some(), alive);
                }}
            }
        }
    }
}
