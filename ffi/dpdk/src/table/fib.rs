//! rte_fib and rte_fib6: longest prefix by direct tables (24 bits, then 8 more each), updated route by route.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ptr::NonNull;

use marchproxy_dpdk_sys as sys;

use super::{Home, TableError, unique_name};
use crate::eal::Eal;

/// How large a routing table is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FibSize {
    /// Most routes.
    pub routes: u32,
    /// Most groups of 256 entries for what is longer than 24 bits: one for each distinct prefix of 24, 32, 40, ... bits that
    /// has a longer route in it.
    pub groups: u32,
}

impl FibSize {
    pub(super) fn check(self, home: &Home, most_groups: u64) -> Result<(), TableError> {
        home.within("routes", self.routes.into(), 1, i32::MAX as u64)?;
        home.within("groups", self.groups.into(), 1, most_groups)
    }
}

/// 31 bits are a next hop's: the largest value stands for "no route".
const NO_ROUTE: u32 = i32::MAX as u32;
const LARGEST_HOP: u32 = NO_ROUTE - 1;

/// An IPv4 routing table.
#[derive(Debug)]
pub struct Fib {
    raw: NonNull<sys::rte_fib>,
    home: Home,
}

/// An IPv6 routing table.
#[derive(Debug)]
pub struct Fib6 {
    raw: NonNull<sys::rte_fib6>,
    home: Home,
}

// SAFETY: the table is plain memory of DPDK's heap, bound to no thread, and this handle its only owner.
unsafe impl Send for Fib {}
// SAFETY: as for Fib.
unsafe impl Send for Fib6 {}

impl Fib {
    /// The answer of [`lookup`](Self::lookup) where no route matches.
    pub const NO_ROUTE: u64 = NO_ROUTE as u64;

    /// An empty table.
    pub fn create(eal: &Eal, size: FibSize) -> Result<Self, TableError> {
        let home = Home::new("rte_fib", eal.process());
        size.check(&home, LARGEST_HOP.into())?;
        let name = unique_name("fib");
        // SAFETY: EAL runs (home holds it); `name` is zero-terminated and copied; sizes are in range (checked above).
        let raw = unsafe { sys::mp_fib_create(name.as_ptr(), size.routes, size.groups, NO_ROUTE) };
        Ok(Self { raw: home.made(raw)?, home })
    }

    /// Adds a route, or changes its next hop (below 2^31 - 1).
    pub fn add(&mut self, prefix: Ipv4Addr, len: u8, hop: u32) -> Result<(), TableError> {
        self.home.within("prefix length", len.into(), 0, 32)?;
        self.home.within("next hop", hop.into(), 0, LARGEST_HOP.into())?;
        // SAFETY: the table is alive (self owns it) and exclusively borrowed; the length is in range.
        let result = unsafe { sys::rte_fib_add(self.raw.as_ptr(), prefix.to_bits(), len, hop.into()) };
        self.home.check("route", result)
    }

    /// Next hops of addresses (host order); as many as both slices hold.
    #[inline]
    pub fn lookup(&self, addresses: &[u32], hops: &mut [u64]) {
        let n = addresses.len().min(hops.len());
        // SAFETY: the table is alive; both slices hold `n` elements; DPDK only reads the addresses (its prototype lacks the
        // const). It fails for null pointers only.
        let _ = unsafe {
            sys::rte_fib_lookup_bulk(self.raw.as_ptr(), addresses.as_ptr().cast_mut(), hops.as_mut_ptr(), n as i32)
        };
    }
}

impl Drop for Fib {
    fn drop(&mut self) {
        // SAFETY: self owns the table, which is not used again; EAL still runs (home holds it).
        unsafe { sys::rte_fib_free(self.raw.as_ptr()) };
    }
}

impl Fib6 {
    /// The answer of [`lookup`](Self::lookup) where no route matches.
    pub const NO_ROUTE: u64 = NO_ROUTE as u64;

    /// An empty table.
    pub fn create(eal: &Eal, size: FibSize) -> Result<Self, TableError> {
        let home = Home::new("rte_fib6", eal.process());
        size.check(&home, LARGEST_HOP.into())?;
        let name = unique_name("fib6");
        // SAFETY: EAL runs (home holds it); `name` is zero-terminated and copied; sizes are in range (checked above).
        let raw = unsafe { sys::mp_fib6_create(name.as_ptr(), size.routes, size.groups, NO_ROUTE) };
        Ok(Self { raw: home.made(raw)?, home })
    }

    /// Adds a route, or changes its next hop (below 2^31 - 1).
    pub fn add(&mut self, prefix: Ipv6Addr, len: u8, hop: u32) -> Result<(), TableError> {
        self.home.within("prefix length", len.into(), 0, 128)?;
        self.home.within("next hop", hop.into(), 0, LARGEST_HOP.into())?;
        let octets = prefix.octets();
        // SAFETY: the table is alive (self owns it) and exclusively borrowed; `octets` holds 16 bytes; the length is in range.
        let result = unsafe { sys::mp_fib6_add(self.raw.as_ptr(), octets.as_ptr(), len, hop) };
        self.home.check("route", result)
    }

    /// Next hops of addresses (network order); as many as both slices hold.
    #[inline]
    pub fn lookup(&self, addresses: &[[u8; 16]], hops: &mut [u64]) {
        let n = addresses.len().min(hops.len());
        // SAFETY: the table is alive; both slices hold `n` elements, an address is 16 bytes. It fails for null pointers only.
        let _ =
            unsafe { sys::mp_fib6_lookup(self.raw.as_ptr(), addresses.as_ptr().cast(), hops.as_mut_ptr(), n as u32) };
    }
}

impl Drop for Fib6 {
    fn drop(&mut self) {
        // SAFETY: self owns the table, which is not used again; EAL still runs (home holds it).
        unsafe { sys::mp_fib6_free(self.raw.as_ptr()) };
    }
}
