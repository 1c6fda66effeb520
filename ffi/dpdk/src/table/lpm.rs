//! rte_lpm and rte_lpm6: longest prefix as DPDK had it before rte_fib; look-ups are inline code, updates search their rules.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ptr::NonNull;

use marchproxy_dpdk_sys as sys;

use super::{FibSize, Home, TableError, unique_name};
use crate::eal::Eal;

/// Bits of a next hop in rte_lpm and rte_lpm6.
const HOP_BITS: u64 = 24;
const HOP6_BITS: u64 = 21;

/// An IPv4 routing table.
#[derive(Debug)]
pub struct Lpm {
    raw: NonNull<sys::rte_lpm>,
    home: Home,
}

/// An IPv6 routing table.
#[derive(Debug)]
pub struct Lpm6 {
    raw: NonNull<sys::rte_lpm6>,
    home: Home,
}

// SAFETY: the table is plain memory of DPDK's heap, bound to no thread, and this handle its only owner.
unsafe impl Send for Lpm {}
// SAFETY: as for Lpm.
unsafe impl Send for Lpm6 {}

impl Lpm {
    /// The answer of [`lookup`](Self::lookup) where no route matches.
    pub const NO_ROUTE: u32 = u32::MAX;

    /// An empty table.
    pub fn create(eal: &Eal, size: FibSize) -> Result<Self, TableError> {
        let home = Home::new("rte_lpm", eal.process());
        size.check(&home, 1 << HOP_BITS)?;
        let name = unique_name("lpm");
        // SAFETY: EAL runs (home holds it); `name` is zero-terminated and copied; sizes are in range (checked above).
        let raw = unsafe { sys::mp_lpm_create(name.as_ptr(), size.routes, size.groups) };
        Ok(Self { raw: home.made(raw)?, home })
    }

    /// Adds a route, or changes its next hop (below 2^24). DPDK has no default route here: a length is 1 at least.
    pub fn add(&mut self, prefix: Ipv4Addr, len: u8, hop: u32) -> Result<(), TableError> {
        self.home.within("prefix length", len.into(), 1, 32)?;
        self.home.within("next hop", hop.into(), 0, (1 << HOP_BITS) - 1)?;
        // SAFETY: the table is alive (self owns it) and exclusively borrowed; the length is in range.
        let result = unsafe { sys::mp_lpm_add(self.raw.as_ptr(), prefix.to_bits(), len, hop) };
        self.home.check("route", result)
    }

    /// Next hops of addresses (host order); as many as both slices hold.
    #[inline]
    pub fn lookup(&self, addresses: &[u32], hops: &mut [u32]) {
        let n = addresses.len().min(hops.len()) as u32;
        // SAFETY: the table is alive; both slices hold `n` elements.
        unsafe {
            sys::mp_lpm_lookup(self.raw.as_ptr(), addresses.as_ptr(), hops.as_mut_ptr(), n, Self::NO_ROUTE);
        }
    }
}

impl Drop for Lpm {
    fn drop(&mut self) {
        // SAFETY: self owns the table, which is not used again; EAL still runs (home holds it).
        unsafe { sys::mp_lpm_free(self.raw.as_ptr()) };
    }
}

impl Lpm6 {
    /// The answer of [`lookup`](Self::lookup) where no route matches.
    pub const NO_ROUTE: i32 = -1;

    /// An empty table.
    pub fn create(eal: &Eal, size: FibSize) -> Result<Self, TableError> {
        let home = Home::new("rte_lpm6", eal.process());
        size.check(&home, 1 << HOP6_BITS)?;
        let name = unique_name("lpm6");
        // SAFETY: EAL runs (home holds it); `name` is zero-terminated and copied; sizes are in range (checked above).
        let raw = unsafe { sys::mp_lpm6_create(name.as_ptr(), size.routes, size.groups) };
        Ok(Self { raw: home.made(raw)?, home })
    }

    /// Adds a route, or changes its next hop (below 2^21). DPDK has no default route here: a length is 1 at least.
    pub fn add(&mut self, prefix: Ipv6Addr, len: u8, hop: u32) -> Result<(), TableError> {
        self.home.within("prefix length", len.into(), 1, 128)?;
        self.home.within("next hop", hop.into(), 0, (1 << HOP6_BITS) - 1)?;
        let octets = prefix.octets();
        // SAFETY: the table is alive (self owns it) and exclusively borrowed; `octets` holds 16 bytes; the length is in range.
        let result = unsafe { sys::mp_lpm6_add(self.raw.as_ptr(), octets.as_ptr(), len, hop) };
        self.home.check("route", result)
    }

    /// Next hops of addresses (network order); as many as both slices hold.
    #[inline]
    pub fn lookup(&self, addresses: &[[u8; 16]], hops: &mut [i32]) {
        let n = addresses.len().min(hops.len()) as u32;
        // SAFETY: the table is alive; both slices hold `n` elements, an address is 16 bytes. It fails for null pointers only.
        let _ = unsafe { sys::mp_lpm6_lookup(self.raw.as_ptr(), addresses.as_ptr().cast(), hops.as_mut_ptr(), n) };
    }
}

impl Drop for Lpm6 {
    fn drop(&mut self) {
        // SAFETY: self owns the table, which is not used again; EAL still runs (home holds it).
        unsafe { sys::mp_lpm6_free(self.raw.as_ptr()) };
    }
}
