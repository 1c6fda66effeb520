//! Our FIB against rte_fib and rte_fib6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use marchproxy_dpdk::Eal;
use marchproxy_dpdk::table::{Fib, Fib6, FibSize, TableError};
use marchproxy_engine::tables::Cidr;

use super::duel::Duel;
use super::ground::{Ground, Stop};
use super::routes::{self, Theirs, reserve};

/// rte_fib.
pub fn v4(ground: &Ground) -> Result<Duel, Stop> {
    routes::duel::<Fib>(ground)
}

/// rte_fib6.
pub fn v6(ground: &Ground) -> Result<Duel, Stop> {
    routes::duel::<Fib6>(ground)
}

/// The address of an IPv4 prefix or key; the family was chosen before.
pub(super) fn four(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

/// The address of an IPv6 prefix or key.
pub(super) fn six(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(address) => address.to_ipv6_mapped(),
    }
}

impl Theirs for Fib {
    const PEER: &'static str = "rte_fib";
    const V6: bool = false;
    const NOTE: &'static str = "DIR24_8 with 4-octet next hops, bulk look-up with its own prefetches, without AVX-512 (DPDK's default); adds routes one by one beside a tree \
                                of them all, ours is built whole";
    type Address = u32;
    type Hop = u64;

    fn create(eal: &Eal, size: FibSize) -> Result<Self, TableError> {
        Self::create(eal, size)
    }

    fn add(&mut self, prefix: &Cidr, hop: u32) -> Result<(), TableError> {
        self.add(four(prefix.addr), prefix.len, hop)
    }

    fn address(address: IpAddr) -> u32 {
        four(address).to_bits()
    }

    fn lookup(&self, addresses: &[u32], hops: &mut [u64]) {
        self.lookup(addresses, hops);
    }

    fn hop(hop: u64) -> Option<u32> {
        (hop != Self::NO_ROUTE).then_some(hop as u32)
    }
}

impl Theirs for Fib6 {
    const PEER: &'static str = "rte_fib6";
    const V6: bool = true;
    const NOTE: &'static str = "trie of 24, then 8 bits with 4-octet next hops, bulk look-up, without AVX-512 (DPDK's default); reserves groups \
                                for each route by itself; adds routes one by one beside a tree of them all, ours is built whole";
    type Address = [u8; 16];
    type Hop = u64;

    fn groups(prefixes: &[Cidr]) -> u32 {
        reserve(prefixes)
    }

    fn create(eal: &Eal, size: FibSize) -> Result<Self, TableError> {
        Self::create(eal, size)
    }

    fn add(&mut self, prefix: &Cidr, hop: u32) -> Result<(), TableError> {
        self.add(six(prefix.addr), prefix.len, hop)
    }

    fn address(address: IpAddr) -> [u8; 16] {
        six(address).octets()
    }

    fn lookup(&self, addresses: &[[u8; 16]], hops: &mut [u64]) {
        self.lookup(addresses, hops);
    }

    fn hop(hop: u64) -> Option<u32> {
        (hop != Self::NO_ROUTE).then_some(hop as u32)
    }
}
