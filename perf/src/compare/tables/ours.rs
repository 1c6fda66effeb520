//! Our tables as the stages use them: bursts of 32 keys, with the prefetches that the tables offer. The only place of the comparison and of
//! the benches that knows how a burst is looked up.

use marchproxy_engine::burst::{Mask, NONE};
use marchproxy_engine::flow::{Addr, FlowKey};
use marchproxy_engine::table::fib::{Fib, Found};
use marchproxy_engine::table::policer::{Colour, Policer};
use marchproxy_engine::table::rules::{RuleKey, Rules};
use marchproxy_engine::table::sessions::{Hit, Sessions};

/// Keys a call, on both sides.
pub const BURST: usize = 32;

/// The values of the longest prefixes (stage route).
#[inline]
pub fn routes(fib: &Fib, addresses: &[Addr], values: &mut [Option<u32>; BURST]) {
    for &address in addresses {
        fib.prefetch(address);
    }
    let mut found = [Found::default(); BURST];
    for (&address, found) in addresses.iter().zip(&mut found) {
        *found = fib.first(address);
    }
    for ((&address, found), value) in addresses.iter().zip(found).zip(values) {
        *value = fib.second(address, found);
    }
}

/// The indexes of the first matching rules (stage rule).
#[inline]
pub fn rules(rules: &Rules, keys: &[RuleKey], found: &mut [Option<u32>; BURST]) {
    let mut indexes = [NONE; BURST];
    let lanes = Mask::first(keys.len().min(BURST));
    rules.first_matches(lanes, |lane| keys[lane], &mut indexes);
    for (index, found) in indexes.iter().zip(found) {
        *found = (*index != NONE).then_some(*index);
    }
}

/// The sessions of tuples (stage session).
#[inline]
pub fn sessions(sessions: &Sessions, keys: &[FlowKey], now: u64, hits: &mut [Hit; BURST]) {
    let mut hashes = [0; BURST];
    for (key, hash) in keys.iter().zip(&mut hashes) {
        *hash = sessions.hash(key);
        sessions.prefetch_bucket(*hash);
    }
    for (hash, hit) in hashes.iter().zip(&mut *hits).take(keys.len()) {
        *hit = sessions.guess(*hash);
    }
    for ((key, hash), hit) in keys.iter().zip(hashes).zip(hits) {
        *hit = sessions.confirm(*hit, key, hash, now);
    }
}

/// The colours of packets (stage finish); `which` names each packet's policer.
#[inline]
pub fn meters(policers: &mut [Policer], now: u64, which: &[u32], lens: &[u16], colours: &mut [Colour; BURST]) {
    for ((&policer, &len), colour) in which.iter().zip(lens).zip(colours) {
        if let Some(policer) = policers.get_mut(policer as usize) {
            *colour = policer.meter(now, len.into(), Colour::Green);
        }
    }
}
