//! Our FIB against rte_lpm and rte_lpm6.

use std::net::IpAddr;

use marchproxy_dpdk::Eal;
use marchproxy_dpdk::table::{FibSize, Lpm, Lpm6, TableError};
use marchproxy_engine::tables::Cidr;

use super::duel::Duel;
use super::fib::{four, six};
use super::ground::{Ground, Stop};
use super::routes::{self, Theirs};

/// rte_lpm.
pub fn v4(ground: &Ground) -> Result<Duel, Stop> {
    routes::duel::<Lpm>(ground)
}

/// rte_lpm6.
pub fn v6(ground: &Ground) -> Result<Duel, Stop> {
    routes::duel::<Lpm6>(ground)
}

impl Theirs for Lpm {
    const PEER: &'static str = "rte_lpm";
    const V6: bool = false;
    const NOTE: &'static str = "four addresses at a time (rte_lpm_lookupx4), as l3fwd does it";
    type Address = u32;
    type Hop = u32;

    fn create(eal: &Eal, size: FibSize) -> Result<Self, TableError> {
        Self::create(eal, size)
    }

    fn add(&mut self, prefix: &Cidr, hop: u32) -> Result<(), TableError> {
        self.add(four(prefix.addr), prefix.len, hop)
    }

    fn address(address: IpAddr) -> u32 {
        four(address).to_bits()
    }

    fn lookup(&self, addresses: &[u32], hops: &mut [u32]) {
        self.lookup(addresses, hops);
    }

    fn hop(hop: u32) -> Option<u32> {
        (hop != Self::NO_ROUTE).then_some(hop)
    }
}

impl Theirs for Lpm6 {
    const PEER: &'static str = "rte_lpm6";
    const V6: bool = true;
    const NOTE: &'static str = "bulk look-up, which has no prefetches";
    type Address = [u8; 16];
    type Hop = i32;

    fn create(eal: &Eal, size: FibSize) -> Result<Self, TableError> {
        Self::create(eal, size)
    }

    fn add(&mut self, prefix: &Cidr, hop: u32) -> Result<(), TableError> {
        self.add(six(prefix.addr), prefix.len, hop)
    }

    fn address(address: IpAddr) -> [u8; 16] {
        six(address).octets()
    }

    fn lookup(&self, addresses: &[[u8; 16]], hops: &mut [i32]) {
        self.lookup(addresses, hops);
    }

    fn hop(hop: i32) -> Option<u32> {
        u32::try_from(hop).ok()
    }
}
