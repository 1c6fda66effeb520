//! Buckets of sources: a bounded table, set-associative by a keyed hash.
//!
//! A source keeps its place until its buckets are surely full again: then it is as one that never came, and the place is free without
//! anything being lost. Where all places of a set are in use, further sources share the policer's own buckets.

use marchproxy_cpu::prefetch_slice;

use super::PolicerTable;
use super::meter::{Buckets, Colour};
use crate::flow::{Addr, is_v4};
use crate::hash::hash;

/// Places of a set.
const WAYS: usize = 8;

/// One source's buckets: one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Place {
    prefix: Addr,
    buckets: Buckets,
    /// From when on its buckets are full.
    full_from: u64,
    /// The policer's incarnation, which is unique; 0 for none.
    policer: u32,
}

const _: () = assert!(size_of::<Place>() == 64);

/// The buckets of all sources of one worker.
#[derive(Debug)]
pub struct Sources {
    places: Box<[Place]>,
    secret: u64,
}

impl Sources {
    /// Room for so many sources, rounded up.
    pub fn new(sources: usize, secret: u64) -> Self {
        let places = if sources == 0 { 0 } else { sources.next_power_of_two().max(WAYS) };
        Self { places: vec![Place::default(); places].into_boxed_slice(), secret }
    }

    /// Meters a packet of a source; `None` where there is no place for it. `cost` is by the sources' own profile.
    pub fn meter(&mut self, table: &PolicerTable, source: Addr, now: u64, cost: u64, pre: Colour) -> Option<Colour> {
        let (prefix, profile) = (table.source_of(source)?, &table.of_source);
        let [high, low] = [(prefix >> 64) as u64, prefix as u64];
        let sets = self.places.len() / WAYS;
        let set = hash(self.secret, &[high, low, table.incarnation.into()]) as usize & sets.checked_sub(1)?;
        prefetch_slice(&self.places, set * WAYS);
        let places = self.places.get_mut(set * WAYS..(set + 1) * WAYS)?;
        let known = |place: &Place| place.policer == table.incarnation && place.prefix == prefix;
        let at = places.iter().position(known).or_else(|| places.iter().position(|place| place.is_free(now)))?;
        let place = places.get_mut(at)?;
        if !known(place) {
            let buckets = Buckets { tokens: profile.sizes, last: now };
            *place = Place { prefix, buckets, full_from: 0, policer: table.incarnation };
        }
        place.buckets.cut(profile);
        place.full_from = now.max(place.buckets.last).saturating_add(table.fills_in);
        Some(place.buckets.meter(profile, now, cost, pre))
    }
}

impl Place {
    fn is_free(&self, now: u64) -> bool {
        self.policer == 0 || now >= self.full_from
    }
}

impl PolicerTable {
    /// The prefix of a source, if the policer tells sources apart. An IPv4 address stays one, and no IPv6 source is `::ffff:0:0/96`.
    #[inline]
    pub fn source_of(&self, source: Addr) -> Option<Addr> {
        let sources = self.sources?;
        let host =
            if is_v4(source) { 32 - u32::from(sources.v4.min(32)) } else { 128 - u32::from(sources.v6.min(128)) };
        Some(source.checked_shr(host).unwrap_or(0).checked_shl(host).unwrap_or(0))
    }
}
