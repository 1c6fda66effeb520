//! rte_fib, rte_fib6, rte_lpm and rte_lpm6 against a scan of all prefixes.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::Rng;
use marchproxy_dpdk::Eal;
use marchproxy_dpdk::table::{Fib, Fib6, FibSize, Lpm, Lpm6, TableError};

const SIZE: FibSize = FibSize { routes: 2000, groups: 6000 };

#[test]
fn routes() {
    // The direct tables of one family take 64 MB and more.
    let eal = common::builder("table-routes").memory_mb(512).start().unwrap();
    let before = eal.allocated_bytes();
    four(&eal);
    six(&eal);
    refusals(&eal);
    assert_eq!(eal.allocated_bytes(), before, "all memory came back");
}

/// Nested prefixes under few first bits: address bits from the top of 128, length.
fn prefixes(bits: u8, rng: &mut Rng) -> Vec<(u128, u8)> {
    let mut set = BTreeSet::new();
    while set.len() < 1500 {
        let len = 1 + rng.below(u64::from(bits)) as u8;
        // Four ways at the top and in the middle, so that many nest.
        let address =
            u128::from(rng.below(4)) << 124 | rng.wide() & (0x0300_0030_0001 << 80) | rng.wide() & 0xff << (128 - bits);
        set.insert((address >> (128 - len) << (128 - len), len));
    }
    set.into_iter().collect()
}

fn probes(prefixes: &[(u128, u8)], rng: &mut Rng) -> Vec<u128> {
    let inside = prefixes.iter().map(|&(address, len)| address | rng.wide().checked_shr(len.into()).unwrap_or(0));
    let inside: Vec<_> = inside.collect();
    // Others of the same shape and of any: a part of them has no route.
    inside
        .into_iter()
        .flat_map(|address| [address, address ^ 1 << 96, address ^ 1 << 125])
        .chain([0, u128::MAX])
        .collect()
}

fn scan(prefixes: &[(u128, u8)], address: u128) -> Option<u32> {
    let matching = prefixes.iter().enumerate().filter(|(_, (p, len))| (p ^ address) >> (128 - len) == 0);
    matching.max_by_key(|(_, (_, len))| *len).map(|(index, _)| index as u32)
}

fn four(eal: &Eal) {
    let mut rng = Rng(4);
    let prefixes = prefixes(32, &mut rng);
    let (mut fib, mut lpm) = (Fib::create(eal, SIZE).unwrap(), Lpm::create(eal, SIZE).unwrap());
    for (hop, &(prefix, len)) in prefixes.iter().enumerate() {
        let prefix = ((prefix >> 96) as u32).into();
        fib.add(prefix, len, hop as u32).unwrap();
        lpm.add(prefix, len, hop as u32).unwrap();
    }
    let probes = probes(&prefixes, &mut rng);
    let addresses: Vec<u32> = probes.iter().map(|address| (address >> 96) as u32).collect();
    // Bursts of all lengths, also those that are no multiple of four.
    let mut missed = 0;
    for burst in addresses.chunks(31) {
        let (mut hops, mut others) = ([9; 31], [9; 31]);
        fib.lookup(burst, &mut hops);
        lpm.lookup(burst, &mut others);
        for ((address, hop), other) in burst.iter().zip(hops).zip(others) {
            let expected = scan(&prefixes, u128::from(*address) << 96);
            assert_eq!(hop, expected.map_or(Fib::NO_ROUTE, u64::from), "rte_fib {address:x}");
            assert_eq!(other, expected.unwrap_or(Lpm::NO_ROUTE), "rte_lpm {address:x}");
            missed += usize::from(expected.is_none());
        }
    }
    assert!(missed > 0 && missed < addresses.len() / 2, "{missed} of {} had no route", addresses.len());
}

fn six(eal: &Eal) {
    let mut rng = Rng(6);
    let prefixes = prefixes(64, &mut rng);
    let (mut fib, mut lpm) = (Fib6::create(eal, SIZE).unwrap(), Lpm6::create(eal, SIZE).unwrap());
    for (hop, &(prefix, len)) in prefixes.iter().enumerate() {
        fib.add(prefix.into(), len, hop as u32).unwrap();
        lpm.add(prefix.into(), len, hop as u32).unwrap();
    }
    let probes = probes(&prefixes, &mut rng);
    let addresses: Vec<[u8; 16]> = probes.iter().map(|address| address.to_be_bytes()).collect();
    for burst in addresses.chunks(31) {
        let (mut hops, mut others) = ([9; 31], [9; 31]);
        fib.lookup(burst, &mut hops);
        lpm.lookup(burst, &mut others);
        for ((address, hop), other) in burst.iter().zip(hops).zip(others) {
            let expected = scan(&prefixes, u128::from_be_bytes(*address));
            assert_eq!(hop, expected.map_or(Fib6::NO_ROUTE, u64::from), "rte_fib6 {address:x?}");
            assert_eq!(other, expected.map_or(Lpm6::NO_ROUTE, |hop| hop as i32), "rte_lpm6 {address:x?}");
        }
    }
}

fn refusals(eal: &Eal) {
    let said = |error: TableError| error.to_string();
    assert!(said(Fib::create(eal, FibSize { routes: 0, groups: 1 }).unwrap_err()).contains("routes 0, allowed 1 to"));
    let size = FibSize { routes: 1, groups: 1 };
    let mut fib = Fib::create(eal, size).unwrap();
    assert!(said(fib.add([10, 0, 0, 0].into(), 33, 1).unwrap_err()).contains("prefix length 33, allowed 0 to 32"));
    assert!(said(fib.add([10, 0, 0, 0].into(), 8, u32::MAX).unwrap_err()).contains("next hop"));
    fib.add([10, 0, 0, 0].into(), 25, 1).unwrap();
    assert!(matches!(fib.add([10, 0, 1, 0].into(), 25, 1), Err(TableError::Full { .. } | TableError::NoMemory { .. })));
    let mut lpm = Lpm::create(eal, size).unwrap();
    assert!(said(lpm.add([0, 0, 0, 0].into(), 0, 1).unwrap_err()).contains("allowed 1 to 32"));
    // 4 GB of groups do not fit half a gigabyte.
    match Fib6::create(eal, FibSize { routes: 1, groups: 4 << 20 }) {
        Err(TableError::NoMemory { free_mb, .. }) => assert!(free_mb < 512),
        other => panic!("{other:?}"),
    }
}
