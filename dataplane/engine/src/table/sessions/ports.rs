//! Source ports of full NAT: which ports of which pool addresses this worker's sessions have.
//!
//! A port of an address and protocol belongs to one session at a time, so that replies are told apart whatever their backend, and to
//! the worker of its number modulo the number of workers, so that replies find their session's owner and workers share nothing.

use crate::flow::Addr;
use crate::wire::{TCP, UDP};

/// Most addresses with ports in use.
pub const MOST_POOLS: usize = 64;

/// Ports below are other programs' (RFC 6335 s6: system ports).
pub const FIRST_PORT: u16 = 1024;

/// Protocols with ports.
const PROTOCOLS: usize = 2;
const WORDS: usize = (1 << 16) / 64;

/// What a backend sees in place of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// An address of a pool.
    pub address: Addr,
    /// A port of it.
    pub port: u16,
    /// Where the address is kept.
    pub(super) place: u8,
}

/// Ports of one address.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pool {
    /// The address; 0 is a free place.
    pub address: Addr,
    /// Ports in use of TCP and UDP.
    pub used: [u32; PROTOCOLS],
}

/// All of them.
pub(super) struct NatPorts {
    pools: Box<[Pool; MOST_POOLS]>,
    /// A bit for each port in use, by place and protocol: port `me + n * workers` has bit `n`.
    bits: Box<[u64]>,
    me: u32,
    workers: u32,
    /// Sessions with a port.
    used: usize,
    /// Whether one was ever taken.
    asked: bool,
}

impl NatPorts {
    pub fn new() -> Self {
        Self {
            pools: Box::new([Pool::default(); MOST_POOLS]),
            bits: vec![0; MOST_POOLS * PROTOCOLS * WORDS].into_boxed_slice(),
            me: 0,
            workers: 1,
            used: 0,
            asked: false,
        }
    }

    /// Before the first port is taken: these are the ports of worker `me` of `workers`.
    pub fn seat(&mut self, me: usize, workers: usize) {
        (self.me, self.workers) = (me as u32, workers.max(1) as u32);
    }

    /// Whether no session has one.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Whether a session ever had one.
    #[inline]
    pub fn was_asked(&self) -> bool {
        self.asked
    }

    /// The addresses with ports in use, and free places.
    pub fn pools(&self) -> &[Pool] {
        &self.pools[..]
    }

    /// Ports of one address and protocol that this worker may use.
    pub fn capacity(&self) -> u32 {
        let (first, end) = self.span();
        end - first
    }

    /// A free port of one of the addresses; `draw` says where the search begins, so nobody can tell which it will be (RFC 6056).
    pub fn take(&mut self, addresses: &[Addr], protocol: u8, draw: u64) -> Option<Source> {
        let start = (draw >> 32) as usize % addresses.len().max(1);
        let (before, from) = addresses.split_at(start);
        let found = from.iter().chain(before).find_map(|&address| {
            let place = self.place(address)?;
            let port = self.take_at(place, kind(protocol), draw as u32)?;
            Some((place, address, port))
        });
        let (place, address, port) = found?;
        self.pools[place].address = address;
        self.pools[place].used[kind(protocol)] += 1;
        self.used += 1;
        self.asked = true;
        Some(Source { address, port, place: place as u8 })
    }

    /// By place and port; `None` where no address is.
    #[inline]
    pub fn source(&self, place: u8, port: u16) -> Option<Source> {
        let address = self.pools.get(usize::from(place))?.address;
        (address != 0).then_some(Source { address, port, place })
    }

    /// The session of a port ended.
    pub fn give_back(&mut self, Source { place, port, .. }: Source, protocol: u8) {
        let place = usize::from(place);
        let bit = (u32::from(port) / self.workers) as usize;
        let word = &mut self.bits[(place * PROTOCOLS + kind(protocol)) * WORDS + bit / 64];
        if *word >> (bit % 64) & 1 == 0 {
            return;
        }
        *word &= !(1 << (bit % 64));
        self.used -= 1;
        let pool = &mut self.pools[place];
        pool.used[kind(protocol)] -= 1;
        if pool.used == [0; PROTOCOLS] {
            pool.address = 0;
        }
    }

    /// Where an address is, or a free place for it.
    fn place(&self, address: Addr) -> Option<usize> {
        let known = self.pools.iter().position(|pool| pool.address == address);
        known.or_else(|| self.pools.iter().position(|pool| pool.address == 0))
    }

    fn take_at(&mut self, place: usize, kind: usize, draw: u32) -> Option<u16> {
        let (first, end) = self.span();
        let begin = first + draw % (end - first).max(1);
        let at = (place * PROTOCOLS + kind) * WORDS;
        let bits = self.bits.get_mut(at..at + WORDS)?;
        let bit = free(bits, begin, end).or_else(|| free(bits, first, begin))?;
        bits[bit as usize / 64] |= 1 << (bit % 64);
        Some((self.me + bit * self.workers) as u16)
    }

    /// The first bit, and one behind the last.
    fn span(&self) -> (u32, u32) {
        let first = u32::from(FIRST_PORT).saturating_sub(self.me).div_ceil(self.workers);
        (first, ((1 << 16) - self.me).div_ceil(self.workers))
    }
}

fn kind(protocol: u8) -> usize {
    debug_assert!(matches!(protocol, TCP | UDP));
    usize::from(protocol == UDP)
}

/// The first bit of `from..to` that is 0; a thousand words at most.
fn free(bits: &[u64], from: u32, to: u32) -> Option<u32> {
    let mut at = from;
    while at < to {
        let word = bits.get(at as usize / 64)? >> (at % 64);
        // Zeros that the shift brought in are beyond the word.
        let ones = word.trailing_ones();
        if ones < 64 - at % 64 {
            return Some(at + ones).filter(|&bit| bit < to);
        }
        at = (at / 64 + 1) * 64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const POOL: [Addr; 2] = [7, 9];

    #[test]
    fn every_port_is_found_once_and_by_one_worker() {
        let mut all = HashSet::new();
        for me in 0..3 {
            let mut ports = NatPorts::new();
            ports.seat(me, 3);
            let mut draw = 0x1234_5678_9abc_def0_u64;
            for n in 0.. {
                draw = draw.rotate_left(7) ^ n;
                let Some(Source { address, port, .. }) = ports.take(&POOL, TCP, draw) else { break };
                assert!(port >= FIRST_PORT && usize::from(port) % 3 == me && POOL.contains(&address));
                assert!(all.insert((address, port)), "{port} twice");
            }
            assert_eq!(ports.pools().iter().map(|pool| pool.used[0]).sum::<u32>(), 2 * ports.capacity());
            assert!(ports.take(&POOL, UDP, 5).is_some(), "the other protocol has its own");
        }
        assert_eq!(all.len(), 2 * (65536 - 1024));
    }

    #[test]
    fn a_port_that_came_back_is_found_again() {
        let mut ports = NatPorts::new();
        let mut taken: Vec<_> = (0..64512).map(|n| ports.take(&POOL[..1], UDP, n * 31).unwrap()).collect();
        assert_eq!(ports.take(&POOL[..1], UDP, 1), None);
        for n in [0, 17, 64511] {
            ports.give_back(taken[n], UDP);
            assert_eq!(ports.take(&POOL[..1], UDP, 99), Some(taken[n]));
        }
        let last = taken[5];
        for source in taken.drain(..) {
            ports.give_back(source, UDP);
        }
        assert!(ports.is_empty());
        assert!(ports.pools().iter().all(|pool| pool.address == 0));
        ports.give_back(last, UDP);
        assert!(ports.is_empty(), "what nobody has comes back once only");
    }

    #[test]
    fn addresses_without_a_place_have_no_ports() {
        let mut ports = NatPorts::new();
        for address in 1..=MOST_POOLS as Addr {
            assert!(ports.take(&[address], TCP, 3).is_some());
        }
        assert_eq!(ports.take(&[1000], TCP, 3), None);
        assert!(ports.take(&[1], TCP, 3).is_some());
    }
}
