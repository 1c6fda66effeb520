//! Packets that come in fragments, as one worker knows them (`BEHAVIOUR.md` 4a): what the first fragment says of the upper layer, which
//! octets were seen, and the fragments that wait for the first. Nothing is put together.
//!
//! All memory is there from the start. A packet lives in the set of sixteen places that its keyed hash names; their tags are one cache line,
//! and nobody can choose colliding packets. In a full set the oldest gives way. Two lists in order of time, of those that wait and of the
//! others, make expiry and giving way a matter of their first elements: nothing sweeps.

use std::collections::VecDeque;

use crate::burst::BURST;
use crate::flow::Addr;
use crate::hash::hash;
use crate::ports::PortSlot;
use crate::reason::DropReason;

/// Places of a set.
const WAYS: usize = 16;
/// Sets: 4,096 packets, 1.5 MB a worker.
const SETS: usize = 256;
/// Fragments that may wait. Their octets are bounded by that, too: a buffer holds one frame.
pub const MAX_HELD: usize = 512;
/// Fragments of a packet. The longest there is has 45 of 1,500 octets.
pub const MAX_FRAGMENTS: usize = 64;
/// Nanoseconds that a packet is known for: FRAGMENT_MIN of RFC 6146 s4.
pub const LIFETIME: u64 = 2_000_000_000;
/// Packets forgotten in one step.
const STEP: usize = 32;

/// No place.
const NONE: u32 = u32::MAX;

/// What fragments of one packet have in common (RFC 791 s3.2, RFC 8200 s4.5), within a routing table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Identification.
    pub id: u32,
    /// Number of the receiving interface's table: addresses mean nothing outside of it.
    pub table: u32,
    /// IPv4's protocol; 0 for IPv6, where only the first fragment's next header counts.
    pub protocol: u8,
}

impl Key {
    /// Hash under a seed.
    pub fn hash(&self, seed: u64) -> u64 {
        let halves = |a: Addr| [(a >> 64) as u64, a as u64];
        let ([a, b], [c, d]) = (halves(self.src), halves(self.dst));
        hash(seed, &[a, b, c, d, u64::from(self.id) << 32 | u64::from(self.table), u64::from(self.protocol)])
    }
}

/// What the first fragment says and the others lack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Upper-layer protocol.
    pub protocol: u8,
    /// ICMP type; 0 for others.
    pub kind: u8,
    /// Source port, as in a flow key.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// A fragment.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Of which packet.
    pub key: Key,
    /// Its first octet, counted from the packet's first behind the header.
    pub start: u16,
    /// One behind its last.
    pub end: u16,
    /// Others follow.
    pub more: bool,
}

/// What becomes of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It goes on, and this is what the packet's first fragment says.
    Pass(Known),
    /// It waits: [`Fragments::hold`] wants it.
    Wait(Place),
    /// It ends.
    Drop(DropReason),
}

/// A packet's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize);

/// A fragment whose wait is over.
pub struct Released<B> {
    /// As received.
    pub packet: B,
    /// Where.
    pub port: PortSlot,
    /// What its first fragment says.
    pub known: Known,
}

struct Held<B> {
    packet: B,
    port: PortSlot,
    next: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first fragment did not come yet; at least one waits.
    Waiting,
    Known(Known),
    /// Every fragment is dropped under this reason.
    Condemned(DropReason),
}

#[derive(Clone, Copy)]
struct Entry {
    key: Key,
    /// When it came into its state.
    since: u64,
    state: State,
    /// First octet and one behind the last of each fragment seen.
    seen: [(u16, u16); MAX_FRAGMENTS],
    count: u8,
    /// Octets seen.
    octets: u32,
    /// Where the last fragment ends; 0 while that is not known.
    end: u16,
    /// Fragments that wait, in order of arrival.
    first_held: u32,
    last_held: u32,
    /// Neighbours in the list of its state.
    older: u32,
    newer: u32,
}

impl Entry {
    const EMPTY: Self = Self {
        key: Key { src: 0, dst: 0, id: 0, table: 0, protocol: 0 },
        since: 0,
        state: State::Waiting,
        seen: [(0, 0); MAX_FRAGMENTS],
        count: 0,
        octets: 0,
        end: 0,
        first_held: NONE,
        last_held: NONE,
        older: NONE,
        newer: NONE,
    };

    fn expired(&self, now: u64) -> bool {
        now.saturating_sub(self.since) > LIFETIME
    }

    /// Notes the octets of a fragment, unless it is one too many, was here before or contradicts another one.
    fn admit(&mut self, piece: &Piece) -> Result<(), DropReason> {
        let (start, end) = (piece.start, piece.end);
        let seen = self.seen.get(..usize::from(self.count)).unwrap_or_default();
        let is_last = self.end != 0 && end == self.end;
        if seen.contains(&(start, end)) && piece.more != is_last {
            return Err(DropReason::FragmentDuplicate);
        }
        let beyond = if piece.more {
            // Nothing lies behind the last one, and what reaches its end is the last one.
            self.end != 0 && end >= self.end
        } else {
            self.end != 0 || seen.iter().any(|&(_, other)| other > end)
        };
        if beyond || seen.iter().any(|&(from, to)| start < to && from < end) {
            return Err(DropReason::FragmentOverlap);
        }
        let Some(free) = self.seen.get_mut(usize::from(self.count)) else { return Err(DropReason::FragmentTooMany) };
        *free = (start, end);
        self.count += 1;
        self.octets += u32::from(end - start);
        if !piece.more {
            self.end = end;
        }
        Ok(())
    }

    /// No octet is missing. What was seen does not overlap.
    fn is_complete(&self) -> bool {
        self.end != 0 && self.octets == u32::from(self.end)
    }
}

/// The tags of a set: one cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Tags([u32; WAYS]);

const _: () = assert!(size_of::<Tags>() == 64);

/// A list through the entries, oldest first.
#[derive(Clone, Copy)]
struct List {
    oldest: u32,
    newest: u32,
}

impl List {
    const EMPTY: Self = Self { oldest: NONE, newest: NONE };
}

/// The table of one worker.
pub struct Fragments<B> {
    /// Of each place a part of the hash of its packet, never 0; 0 of an empty one.
    tags: Box<[Tags]>,
    entries: Box<[Entry]>,
    waiting: List,
    /// Known and condemned ones.
    settled: List,
    hold: Box<[Option<Held<B>>]>,
    free: Vec<u32>,
    ready: VecDeque<Released<B>>,
    secret: u64,
    live: usize,
    /// Something came since it was last empty.
    stirred: bool,
}

impl<B> Fragments<B> {
    /// An empty table.
    pub fn new(secret: u64) -> Self {
        Self {
            tags: vec![Tags([0; WAYS]); SETS].into_boxed_slice(),
            entries: vec![Entry::EMPTY; SETS * WAYS].into_boxed_slice(),
            waiting: List::EMPTY,
            settled: List::EMPTY,
            hold: (0..MAX_HELD).map(|_| None).collect(),
            free: (0..MAX_HELD as u32).rev().collect(),
            // A burst may bring and release others while all that was held is ready.
            ready: VecDeque::with_capacity(MAX_HELD + BURST),
            secret,
            live: 0,
            stirred: false,
        }
    }

    /// Whether there is anything to expire or to count: one word of a turn without fragments.
    #[inline]
    pub fn is_stirred(&self) -> bool {
        self.stirred
    }

    /// Nothing has to be looked at any more if nothing is there.
    pub fn settle_down(&mut self) {
        self.stirred = self.live > 0;
    }

    /// Packets known or waited for.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Fragments in it.
    #[inline]
    pub fn held(&self) -> usize {
        MAX_HELD - self.free.len() + self.ready.len()
    }

    /// Whether some waited long enough: [`take`](Self::take) has them.
    #[inline]
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Where the next of them was received.
    pub fn next_port(&self) -> Option<PortSlot> {
        self.ready.front().map(|released| released.port)
    }

    /// The next fragment whose first one came.
    pub fn take(&mut self) -> Option<Released<B>> {
        self.ready.pop_front()
    }

    /// A fragment comes. `first` is what it says if it is the first; `gone` gets the waiting ones that end.
    pub fn arrive(
        &mut self,
        now: u64,
        piece: &Piece,
        first: Option<Known>,
        gone: &mut impl FnMut(B, DropReason),
    ) -> Judged {
        self.stirred = true;
        let place = self.place(now, &piece.key, gone);
        let Some(entry) = self.entries.get_mut(place) else { return Judged::Drop(DropReason::FragmentTableFull) };
        if let State::Condemned(reason) = entry.state {
            return Judged::Drop(reason);
        }
        match entry.admit(piece) {
            Ok(()) => {}
            Err(DropReason::FragmentDuplicate) => return Judged::Drop(DropReason::FragmentDuplicate),
            Err(reason) => {
                self.drop_held(place, reason, gone);
                self.settle(place, State::Condemned(reason), now);
                return Judged::Drop(reason);
            }
        }
        if let Some(known) = first {
            self.release_held(place, known);
            self.settle(place, State::Known(known), now);
        }
        let Some(&Entry { state: State::Known(known), .. }) = self.entries.get(place) else {
            return Judged::Wait(Place(place));
        };
        if self.entries[place].is_complete() {
            self.forget(place);
        }
        Judged::Pass(known)
    }

    /// Keeps a fragment that has to wait. Where there is no room, the packet that waits longest gives way.
    pub fn hold(&mut self, place: Place, packet: B, port: PortSlot, gone: &mut impl FnMut(B, DropReason)) {
        let Place(place) = place;
        if self.free.is_empty() {
            let oldest = self.waiting.oldest as usize;
            self.drop_held(oldest, DropReason::FragmentHoldFull, gone);
            self.forget(oldest);
            if oldest == place {
                return gone(packet, DropReason::FragmentHoldFull);
            }
        }
        let Some(slot) = self.free.pop() else { return gone(packet, DropReason::FragmentHoldFull) };
        self.hold[slot as usize] = Some(Held { packet, port, next: NONE });
        let entry = &mut self.entries[place];
        let before = std::mem::replace(&mut entry.last_held, slot);
        if before == NONE {
            entry.first_held = slot;
        } else if let Some(Some(last)) = self.hold.get_mut(before as usize) {
            last.next = slot;
        }
    }

    /// Forgets the packets whose time is up, some at a time.
    pub fn expire(&mut self, now: u64, gone: &mut impl FnMut(B, DropReason)) {
        for _ in 0..STEP {
            let due = |list: List| {
                let place = list.oldest as usize;
                self.entries.get(place).is_some_and(|entry| entry.expired(now)).then_some(place)
            };
            let Some(place) = due(self.waiting).or_else(|| due(self.settled)) else { return };
            self.drop_held(place, DropReason::FragmentFirstMissing, gone);
            self.forget(place);
        }
    }

    /// Gives up everything.
    pub fn release(&mut self, gone: &mut impl FnMut(B, DropReason)) {
        while let Some(released) = self.ready.pop_front() {
            gone(released.packet, DropReason::Shutdown);
        }
        for list in [self.waiting, self.settled] {
            let mut place = list.oldest;
            while let Some(&Entry { newer, .. }) = self.entries.get(place as usize) {
                self.drop_held(place as usize, DropReason::Shutdown, gone);
                self.forget(place as usize);
                place = newer;
            }
        }
    }

    /// The place of a packet: its own, or a new one.
    fn place(&mut self, now: u64, key: &Key, gone: &mut impl FnMut(B, DropReason)) -> usize {
        let hash = key.hash(self.secret);
        let (set, tag) = (hash as usize % SETS, (hash >> 32) as u32 | 1);
        let Tags(tags) = self.tags[set];
        let entry = |way: usize| &self.entries[set * WAYS + way];
        let known = (0..WAYS).find(|&way| tags[way] == tag && entry(way).key == *key);
        if let Some(way) = known.filter(|&way| !entry(way).expired(now)) {
            return set * WAYS + way;
        }
        // Its own place is free again, or an empty one, or else the oldest gives way.
        let oldest = || (0..WAYS).min_by_key(|&way| entry(way).since);
        let way = known.or_else(|| tags.iter().position(|&tag| tag == 0)).or_else(oldest).unwrap_or(0);
        let place = set * WAYS + way;
        if tags[way] != 0 {
            let late = entry(way).expired(now);
            let reason = if late { DropReason::FragmentFirstMissing } else { DropReason::FragmentTableFull };
            self.drop_held(place, reason, gone);
            self.forget(place);
        }
        self.entries[place] = Entry { key: *key, since: now, ..Entry::EMPTY };
        self.tags[set].0[way] = tag;
        self.live += 1;
        self.link(place);
        place
    }

    /// A packet leaves the waiting ones, or is condemned.
    fn settle(&mut self, place: usize, state: State, now: u64) {
        self.unlink(place);
        let entry = &mut self.entries[place];
        (entry.state, entry.since) = (state, now);
        self.link(place);
    }

    fn forget(&mut self, place: usize) {
        self.unlink(place);
        if let Some(Tags(tags)) = self.tags.get_mut(place / WAYS) {
            tags[place % WAYS] = 0;
            self.live -= 1;
        }
    }

    /// What waits in a place, one after the other.
    fn next_held(&mut self, place: usize) -> Option<Held<B>> {
        let entry = self.entries.get_mut(place)?;
        let slot = entry.first_held;
        let held = self.hold.get_mut(slot as usize)?.take()?;
        entry.first_held = held.next;
        if held.next == NONE {
            entry.last_held = NONE;
        }
        self.free.push(slot);
        Some(held)
    }

    fn drop_held(&mut self, place: usize, reason: DropReason, gone: &mut impl FnMut(B, DropReason)) {
        while let Some(held) = self.next_held(place) {
            gone(held.packet, reason);
        }
    }

    fn release_held(&mut self, place: usize, known: Known) {
        while let Some(Held { packet, port, .. }) = self.next_held(place) {
            self.ready.push_back(Released { packet, port, known });
        }
    }

    /// Appends an entry to the list of its state.
    fn link(&mut self, place: usize) {
        let entry = &mut self.entries[place];
        let list = if entry.state == State::Waiting { &mut self.waiting } else { &mut self.settled };
        let before = std::mem::replace(&mut list.newest, place as u32);
        (entry.older, entry.newer) = (before, NONE);
        match self.entries.get_mut(before as usize) {
            Some(before) => before.newer = place as u32,
            None => list.oldest = place as u32,
        }
    }

    /// Takes it out again.
    fn unlink(&mut self, place: usize) {
        let Some(&Entry { older, newer, state, .. }) = self.entries.get(place) else { return };
        let list = if state == State::Waiting { &mut self.waiting } else { &mut self.settled };
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => list.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => list.newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortSlot = PortSlot::from_index(0);
    const SAID: Known = Known { protocol: 17, kind: 0, sport: 1, dport: 2 };

    fn piece(id: u32, start: u16, end: u16, more: bool) -> Piece {
        Piece { key: Key { src: 1, dst: 2, id, table: 0, protocol: 17 }, start, end, more }
    }

    /// A table of numbers, and what fell out of it.
    struct Lab {
        table: Fragments<u32>,
        gone: Vec<(u32, DropReason)>,
    }

    impl Lab {
        fn new() -> Self {
            Self { table: Fragments::new(7), gone: Vec::new() }
        }

        fn arrive(&mut self, now: u64, piece: &Piece, number: u32) -> Judged {
            let first = (piece.start == 0).then_some(SAID);
            let gone = &mut |packet, reason| self.gone.push((packet, reason));
            let judged = self.table.arrive(now, piece, first, gone);
            if let Judged::Wait(place) = judged {
                self.table.hold(place, number, PORT, gone);
            }
            judged
        }

        fn ready(&mut self) -> Vec<u32> {
            std::iter::from_fn(|| self.table.take()).map(|released| released.packet).collect()
        }
    }

    #[test]
    fn packets_interleave_and_each_gets_its_own() {
        let mut lab = Lab::new();
        for id in 0..100 {
            assert!(matches!(lab.arrive(1, &piece(id, 16, 24, false), 1000 + id), Judged::Wait(_)));
        }
        for id in (0..100).rev() {
            assert!(matches!(lab.arrive(2, &piece(id, 8, 16, true), 2000 + id), Judged::Wait(_)));
        }
        assert_eq!((lab.table.len(), lab.table.held()), (100, 200));
        for id in 0..100 {
            assert_eq!(lab.arrive(3, &piece(id, 0, 8, true), 0), Judged::Pass(SAID));
            assert_eq!(lab.ready(), [1000 + id, 2000 + id]);
        }
        assert_eq!((lab.table.len(), lab.table.held(), lab.gone.len()), (0, 0, 0), "complete ones are forgotten");
    }

    #[test]
    fn a_flood_stays_within_bounds_and_lets_others_through() {
        let mut lab = Lab::new();
        for id in 0..1_000_000 {
            lab.arrive(u64::from(id), &piece(id, 8, 16, false), id);
            assert!(lab.table.held() <= MAX_HELD && lab.table.len() <= MAX_HELD);
            if id.is_multiple_of(1000) {
                // Somebody's datagram whose fragments come in the wrong order, half of what can wait apart.
                lab.arrive(u64::from(id), &piece(u32::MAX, 8, 16, false), u32::MAX);
            }
            if id % 1000 == 250 {
                assert_eq!(lab.arrive(u64::from(id), &piece(u32::MAX, 0, 8, true), 0), Judged::Pass(SAID));
                assert_eq!(lab.ready(), [u32::MAX]);
            }
        }
        assert!(lab.gone.iter().all(|(_, reason)| *reason == DropReason::FragmentHoldFull));
        assert_eq!(lab.gone.len() + lab.table.held(), 1_000_000);
    }

    #[test]
    fn known_packets_are_bounded_too() {
        let mut lab = Lab::new();
        for id in 0..100_000 {
            assert_eq!(lab.arrive(1, &piece(id, 0, 8, true), id), Judged::Pass(SAID));
        }
        assert!(lab.table.len() <= SETS * WAYS && lab.table.len() > SETS * WAYS * 9 / 10);
        // The newest of a set is the last to give way.
        assert_eq!(lab.arrive(1, &piece(99_999, 8, 16, true), 0), Judged::Pass(SAID));
        // One that waits gives way like any other, and takes its fragments along.
        lab.arrive(0, &piece(100_000, 8, 16, true), 5);
        for id in 200_000..300_000 {
            lab.arrive(1, &piece(id, 0, 8, true), id);
        }
        assert_eq!(lab.gone, [(5, DropReason::FragmentTableFull)]);
        while !lab.table.is_empty() {
            lab.table.expire(LIFETIME + 2, &mut |_, _| {});
        }
        assert_eq!(lab.arrive(1, &piece(1, 0, 8, true), 0), Judged::Pass(SAID));
    }

    #[test]
    fn time_is_up_also_when_nobody_looks() {
        let mut lab = Lab::new();
        lab.arrive(0, &piece(1, 8, 16, true), 10);
        assert!(matches!(lab.arrive(LIFETIME, &piece(1, 16, 24, true), 11), Judged::Wait(_)));
        assert!(matches!(lab.arrive(LIFETIME + 1, &piece(1, 24, 32, true), 12), Judged::Wait(_)));
        let late = DropReason::FragmentFirstMissing;
        assert_eq!(lab.gone, [(10, late), (11, late)]);
        lab.table.release(&mut |packet, reason| lab.gone.push((packet, reason)));
        assert_eq!(lab.gone[2..], [(12, DropReason::Shutdown)]);
        assert_eq!((lab.table.held(), lab.table.len()), (0, 0));
    }
}
