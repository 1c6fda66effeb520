use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::flow::v4;

/// The slow twin: look for every length, longest first.
struct Twin(HashMap<(Addr, u8), u32>);

fn bits(addr: Addr) -> u8 {
    if is_v4(addr) { 32 } else { 128 }
}

fn network(addr: Addr, len: u8) -> Addr {
    addr & !1u128.checked_shl(u32::from(bits(addr) - len)).map_or(u128::MAX, |size| size - 1)
        | if is_v4(addr) { v4(0) } else { 0 }
}

impl Twin {
    fn new(prefixes: &[Prefix]) -> Self {
        Self(prefixes.iter().map(|&(addr, len, value)| ((addr, len), value)).collect())
    }

    fn lookup(&self, addr: Addr) -> Option<u32> {
        (0..=bits(addr)).rev().find_map(|len| self.0.get(&(network(addr, len), len)).copied())
    }
}

/// Few distinct octets, so that prefixes nest and look-ups hit; with `dense`, all in one block.
fn address(dense: bool) -> impl Strategy<Value = Addr> {
    let v4s = (0u32..3, any::<u16>()).prop_map(move |(high, low)| {
        let high = if dense { 0x0a00_0000 } else { high << 30 };
        v4(high | u32::from(low))
    });
    let v6s = (0u128..3, any::<u16>(), any::<u32>()).prop_map(move |(high, block, low)| {
        let high = if dense { 0 } else { high << 94 | high << 108 };
        0x2001 << 112 | high | u128::from(block) << 80 | u128::from(low & 0xff07) << 56 | u128::from(low & 3)
    });
    prop_oneof![v4s, v6s]
}

fn prefix(dense: bool) -> impl Strategy<Value = (Addr, u8)> {
    (address(dense), 0u8..=128, 0u8..4).prop_map(move |(addr, len, kind)| {
        let len = match (is_v4(addr), kind) {
            (true, _) if dense => 17 + len % 16,
            (true, _) => len % 33,
            (false, 0..3) if dense => 33 + len % 16,
            (false, _) => len,
        };
        (network(addr, len), len)
    })
}

fn agree(prefixes: &[Prefix], probes: impl Iterator<Item = Addr>) -> Result<(), TestCaseError> {
    let (fib, twin) = (Fib::build(prefixes.iter().copied()), Twin::new(prefixes));
    let edges = prefixes.iter().flat_map(|&(addr, len, _)| {
        let last = addr | 1u128.checked_shl(u32::from(bits(addr) - len)).map_or(u128::MAX, |size| size - 1);
        [addr, addr.wrapping_sub(1), last, last.wrapping_add(1)]
    });
    // Beyond the first and last IPv4 address lie IPv6 ones: they are fine, too.
    for addr in probes.chain(edges).flat_map(|a| [a, a ^ 1, a ^ 0x100, a ^ 1 << 80]) {
        fib.prefetch(addr);
        prop_assert_eq!(fib.lookup(addr), twin.lookup(addr), "address {:x}", addr);
    }
    Ok(())
}

fn numbered(prefixes: impl IntoIterator<Item = (Addr, u8)>) -> Vec<Prefix> {
    prefixes.into_iter().enumerate().map(|(i, (addr, len))| (addr, len, i as u32)).collect()
}

proptest! {
    #[test]
    fn equals_the_twin(prefixes in prop::collection::btree_set(prefix(false), 0..60), probes in prop::collection::vec(address(false), 1..40)) {
        agree(&numbered(prefixes), probes.into_iter())?;
    }

    #[test]
    fn equals_the_twin_in_dense_blocks(prefixes in prop::collection::btree_set(prefix(true), 0..400), probes in prop::collection::vec(address(true), 1..40)) {
        agree(&numbered(prefixes), probes.into_iter())?;
    }

    #[test]
    fn few_values_merge(prefixes in prop::collection::btree_set(prefix(true), 0..200)) {
        let list: Vec<_> = numbered(prefixes).into_iter().map(|(addr, len, value)| (addr, len, value % 2)).collect();
        agree(&list, std::iter::empty())?;
    }
}

#[test]
fn every_address_of_a_full_block_has_its_own_answer() {
    let hosts = numbered((0..=u32::from(u16::MAX)).map(|host| (v4(0x0a01_0000 | host), 32)));
    let sites = numbered((0..=u128::from(u16::MAX)).map(|site| (0x2001_0db8 << 96 | site << 80, 48)));
    let fib = Fib::build(hosts.iter().chain(&sites).copied());
    for &(addr, _, value) in hosts.iter().chain(&sites) {
        assert_eq!(fib.lookup(addr), Some(value));
    }
    assert_eq!(fib.lookup(v4(0x0a02_0000)), None);
    // A node of nodes each: 257 KiB and the roots.
    assert!(fib.bytes() < 2 * (257 << 10) + (1 << 20), "{}", fib.bytes());
}

#[test]
fn many_allocations_are_all_found() {
    let prefixes = numbered((0..40_000u128).map(|n| ((0x2400_0000 + n * 7919) << 96, 32)));
    let fib = Fib::build(prefixes.iter().copied());
    for &(addr, _, value) in &prefixes {
        assert_eq!(fib.lookup(addr | 5), Some(value));
        assert_eq!(fib.lookup(addr + (1 << 96)), None);
    }
}

#[test]
fn an_empty_table_knows_nothing() {
    let fib = Fib::build([]);
    fib.prefetch(v4(1));
    fib.prefetch(1);
    assert_eq!((fib.lookup(v4(1)), fib.lookup(1 << 120), fib.bytes()), (None, None, 0));
    let default = Fib::build([(0, 0, 7)]);
    assert_eq!((default.lookup(v4(1)), default.lookup(1 << 120)), (None, Some(7)));
}
