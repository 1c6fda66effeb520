//! The buckets that lead from a tuple's hash to its session: eight places in a cache line.
//!
//! A key has two candidate buckets, its home and one more that follows from home and tag alone. It lives at home while there is room, so nearly every look-up
//! reads one line; a count at home says whether a key of it lives away, so that a miss reads one line, too. When both are full, a key
//! of theirs that has room in its other bucket makes place. No look-up reads more than 16 places, whatever the keys.

use bytemuck::{Pod, Zeroable};
use marchproxy_cpu::{Slab, prefetch_slice};

use super::Hit;

const PLACES: usize = 8;

/// One bucket.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Bucket {
    /// 16 bits of the keys' hashes, 0 for a free place.
    tags: [u16; PLACES],
    /// Where they lead.
    hits: [u32; PLACES],
    /// Keys whose home is here and that live in their other bucket.
    away: u32,
    /// A bit per place: its key's home is elsewhere.
    guests: u32,
    padding: [u32; 2],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// The places with a tag.
    #[inline]
    fn matching(&self, tag: u16) -> Matches {
        // Four tags a word; the sum carries into a lane's top bit unless the lane's other bits are zero.
        let wanted = u64::from(tag) * LANES;
        let [low, high] = bytemuck::cast::<_, [u64; 2]>(self.tags).map(|tags| {
            let different = tags ^ wanted;
            !(((different & !TOPS) + !TOPS) | different) & TOPS
        });
        // Places 0 to 3 at bits 0, 16, 32, 48; places 4 to 7 beside them.
        Matches(low >> 15 | high >> 14)
    }

    /// A free place.
    #[inline]
    fn room(&self) -> Option<usize> {
        self.matching(0).next()
    }

    fn put(&mut self, place: usize, tag: u16, hit: u32, guest: bool) {
        self.tags[place] = tag;
        self.hits[place] = hit;
        self.guests = self.guests & !(1 << place) | u32::from(guest) << place;
    }

    fn clear(&mut self, place: usize) {
        self.put(place, 0, 0, false);
    }

    fn holds(&self, hit: Hit) -> Option<usize> {
        self.hits.iter().position(|&other| other == hit.0)
    }
}

/// One in each of a word's four lanes.
const LANES: u64 = 0x0001_0001_0001_0001;
/// The top bit of each.
const TOPS: u64 = LANES << 15;

/// Places of a bucket, one bit each.
struct Matches(u64);

impl Iterator for Matches {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some((bit >> 4 | (bit & 1) << 2) & (PLACES - 1))
    }
}

/// All buckets.
pub(super) struct Buckets {
    list: Slab<Bucket>,
    mask: usize,
}

/// Places of a key.
struct Candidates {
    home: usize,
    other: usize,
    tag: u16,
}

impl Buckets {
    /// Over a zeroed slab whose length is a power of two.
    pub fn new(list: Slab<Bucket>) -> Self {
        let mask = list.len().saturating_sub(1);
        Self { list, mask }
    }

    /// Starts loading the home of a key.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch_slice(&self.list, hash as usize & self.mask);
    }

    /// The first place at home with the key's tag. Without one, starts loading the other bucket if the key may be there.
    #[inline]
    pub fn guess(&self, hash: u64) -> Hit {
        let at = self.candidates(hash);
        let Some(home) = self.list.get(at.home) else { return Hit::MISS };
        if let Some(place) = home.matching(at.tag).next() {
            return Hit(home.hits[place]);
        }
        if home.away != 0 {
            prefetch_slice(&self.list, at.other);
        }
        Hit::MISS
    }

    /// The first place of the key's that `accept` takes.
    #[inline]
    pub fn find(&self, hash: u64, accept: impl Fn(Hit) -> bool) -> Hit {
        let at = self.candidates(hash);
        for bucket in [at.home, at.other] {
            let Some(bucket) = self.list.get(bucket) else { return Hit::MISS };
            let found = bucket.matching(at.tag).map(|place| Hit(bucket.hits[place])).find(|&hit| accept(hit));
            if let Some(hit) = found {
                return hit;
            }
            if bucket.away == 0 {
                break;
            }
        }
        Hit::MISS
    }

    /// Gives a key a place. False when there is none.
    pub fn insert(&mut self, hash: u64, hit: Hit) -> bool {
        let at = self.candidates(hash);
        let Some(home) = self.list.get_mut(at.home) else { return false };
        if let Some(place) = home.room() {
            home.put(place, at.tag, hit.0, false);
            return true;
        }
        let room = self.list[at.other].room().map(|place| (at.other, place));
        let Some((bucket, place)) = room.or_else(|| self.make_room(at.home)).or_else(|| self.make_room(at.other))
        else {
            return false;
        };
        let guest = bucket != at.home;
        self.list[bucket].put(place, at.tag, hit.0, guest);
        self.list[at.home].away += u32::from(guest);
        true
    }

    /// Where the places lead that a key may have.
    pub fn rivals(&self, hash: u64) -> impl Iterator<Item = Hit> {
        let at = self.candidates(hash);
        let both = [at.home, at.other].map(|bucket| self.list.get(bucket).map(|bucket| bucket.hits));
        both.into_iter().flatten().flatten().map(Hit).filter(|hit| hit.is_some())
    }

    /// Takes a key out.
    pub fn remove(&mut self, hash: u64, hit: Hit) {
        let at = self.candidates(hash);
        if let Some(place) = self.list[at.home].holds(hit) {
            self.list[at.home].clear(place);
        } else if let Some(place) = self.list[at.other].holds(hit) {
            self.list[at.other].clear(place);
            self.list[at.home].away -= 1;
        }
    }

    /// Moves one key of a full bucket to its other one. Returns bucket and freed place.
    fn make_room(&mut self, full: usize) -> Option<(usize, usize)> {
        let bucket = self.list[full];
        for place in 0..PLACES {
            let (tag, hit) = (bucket.tags[place], bucket.hits[place]);
            let other = self.other(full, tag);
            let Some(room) = self.list[other].room() else { continue };
            let leaves_home = bucket.guests >> place & 1 == 0;
            self.list[other].put(room, tag, hit, leaves_home);
            self.list[full].clear(place);
            if leaves_home {
                self.list[full].away += 1;
            } else {
                self.list[other].away -= 1;
            }
            return Some((full, place));
        }
        None
    }

    #[inline]
    fn candidates(&self, hash: u64) -> Candidates {
        let tag = ((hash >> 48) as u16).max(1);
        let home = hash as usize & self.mask;
        Candidates { home, other: self.other(home, tag), tag }
    }

    /// The other candidate of a key that has one: its own inverse, and never the same in a table of more than one bucket.
    #[inline]
    fn other(&self, bucket: usize, tag: u16) -> usize {
        (bucket ^ (usize::from(tag).wrapping_mul(0x5BD1_E995) | 1)) & self.mask
    }

    /// Keys away from home, by the counts and by the marks.
    #[cfg(test)]
    pub fn away(&self) -> (u32, u32) {
        let marks = self.list.iter().map(|b| b.guests.count_ones()).sum();
        (self.list.iter().map(|b| b.away).sum(), marks)
    }

    /// Places in use.
    #[cfg(test)]
    pub fn used(&self) -> usize {
        self.list.iter().map(|b| b.hits.iter().filter(|&&hit| hit != 0).count()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn matching_compares_every_tag(tags in any::<[u16; PLACES]>(), tag in any::<u16>(), same in any::<u8>()) {
            for wanted in [tag, 0, 1, 0x7fff, 0x8000, 0xffff] {
                let mut bucket = Bucket::zeroed();
                for (place, (to, from)) in bucket.tags.iter_mut().zip(tags).enumerate() {
                    *to = if same >> place & 1 == 1 { wanted } else { from };
                }
                let mut found: Vec<usize> = bucket.matching(wanted).collect();
                found.sort_unstable();
                let expected: Vec<usize> = (0..PLACES).filter(|&place| bucket.tags[place] == wanted).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
