//! Our FIB against any of DPDK's routing tables, one family each.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;

use marchproxy_dpdk::Eal;
use marchproxy_dpdk::table::{FibSize, TableError};
use marchproxy_engine::flow::{Addr, from_ip};
use marchproxy_engine::table::fib::Fib;
use marchproxy_engine::tables::Cidr;

use super::duel::{Duel, agree};
use super::ground::{Ground, Stop, build};
use super::keys::{RouteKeys, label};
use super::ours::{self, BURST};

/// One of DPDK's routing tables.
pub trait Theirs: Sized + 'static {
    const PEER: &'static str;
    const V6: bool;
    const NOTE: &'static str;
    type Address: Copy + 'static;
    type Hop: Copy + Default;

    /// How many groups of 256 entries it must be made with.
    fn groups(prefixes: &[Cidr]) -> u32 {
        groups(prefixes)
    }

    fn create(eal: &Eal, size: FibSize) -> Result<Self, TableError>;
    fn add(&mut self, prefix: &Cidr, hop: u32) -> Result<(), TableError>;
    fn address(address: IpAddr) -> Self::Address;
    fn lookup(&self, addresses: &[Self::Address], hops: &mut [Self::Hop]);
    fn hop(hop: Self::Hop) -> Option<u32>;
}

/// Half of the routes asked for, which is one family's.
pub fn duel<T: Theirs>(ground: &Ground) -> Result<Duel, Stop> {
    let plan = ground.plan;
    let keys = RouteKeys::new(plan.routes / 2, plan.keys, T::V6, plan.seed);
    let prefixes = keys.ours();
    let start = Instant::now();
    let fib = Fib::build(prefixes);
    let ours_built = (start.elapsed().as_secs_f64(), fib.bytes());
    let size = FibSize { routes: keys.prefixes.len() as u32 + 1, groups: T::groups(&keys.prefixes) };
    let (table, seconds, bytes) = ground.build(|| {
        let mut table = T::create(ground.eal, size)?;
        ground.fill("adding DPDK's routes", &keys.prefixes, |hop, prefix| table.add(prefix, hop as u32))?;
        Ok(table)
    })?;
    let addresses: Vec<Addr> = keys.addresses.iter().map(|&address| from_ip(address)).collect();
    let theirs: Vec<T::Address> = keys.addresses.iter().map(|&address| T::address(address)).collect();
    compare::<T>(&fib, &addresses, &table, &theirs, &keys.addresses)?;
    Ok(Duel {
        peer: T::PEER,
        work: format!("{} {} routes", label(T::V6), keys.prefixes.len()),
        unit: "look-ups/CPU-s",
        note: T::NOTE.into(),
        build: build(ours_built, (seconds, bytes)),
        ours: Box::new(move || {
            let mut values = [None; BURST];
            for burst in addresses.chunks(BURST) {
                ours::routes(&fib, burst, &mut values);
                black_box(&values);
            }
            addresses.len()
        }),
        theirs: Box::new(move || {
            let mut hops = [T::Hop::default(); BURST];
            for burst in theirs.chunks(BURST) {
                table.lookup(burst, &mut hops);
                black_box(&hops);
            }
            theirs.len()
        }),
    })
}

fn compare<T: Theirs>(
    fib: &Fib,
    addresses: &[Addr],
    table: &T,
    theirs: &[T::Address],
    names: &[IpAddr],
) -> Result<(), Stop> {
    let (mut ours_found, mut theirs_found) = (Vec::new(), Vec::new());
    for (burst, their_burst) in addresses.chunks(BURST).zip(theirs.chunks(BURST)) {
        let (mut values, mut hops) = ([None; BURST], [T::Hop::default(); BURST]);
        ours::routes(fib, burst, &mut values);
        table.lookup(their_burst, &mut hops);
        ours_found.extend_from_slice(&values[..burst.len()]);
        theirs_found.extend(hops[..burst.len()].iter().map(|&hop| T::hop(hop)));
    }
    Ok(agree(T::PEER, &ours_found, &theirs_found, |at| names[at].to_string())?)
}

/// Groups of 256 entries that a table uses: one for each distinct prefix of 24, 32, ... bits with a longer route in it.
pub fn groups(prefixes: &[Cidr]) -> u32 {
    let mut seen = std::collections::HashSet::new();
    for prefix in prefixes {
        let bits = match prefix.addr {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        seen.extend((24..prefix.len).step_by(8).map(|at| (at, bits >> (128 - at))));
    }
    // One more than none.
    seen.len() as u32 + 1
}

/// Groups that a table wants to have in reserve when it counts them for each route by itself.
pub fn reserve(prefixes: &[Cidr]) -> u32 {
    prefixes.iter().map(|prefix| u32::from(prefix.len.saturating_sub(24).div_ceil(8))).sum::<u32>() + 256
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::addresses::prefix;

    #[test]
    fn groups_are_counted_once_each() {
        let least = groups(&[]);
        let four = [prefix([10, 0, 0, 0], 24), prefix([10, 0, 1, 0], 25), prefix([10, 0, 1, 128], 32)];
        assert_eq!(groups(&four) - least, 1, "only what is longer than 24 bits, the same 24 once");
        let six =
            [prefix("2a00:1::".parse::<IpAddr>().unwrap(), 48), prefix("2a00:1::".parse::<IpAddr>().unwrap(), 40)];
        assert_eq!(groups(&six) - least, 3, "24, 32 and 40 bits");
        assert_eq!(reserve(&six) - reserve(&[]), 5, "three and two");
    }
}
