//! rte_hash against the standard library's map.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;

use common::Rng;
use marchproxy_dpdk::Eal;
use marchproxy_dpdk::table::{Hash, Hits, TableError};

#[test]
fn hash() {
    let eal = common::builder("table-hash").start().unwrap();
    let before = eal.allocated_bytes();
    equals_a_map::<16>(&eal);
    equals_a_map::<40>(&eal);
    assert!(Hash::<16>::create(&eal, 1).unwrap_err().to_string().contains("entries 1, allowed 8 to"));
    let mut small = Hash::<16>::create(&eal, 8).unwrap();
    let refused = (0..100u128).map(|n| small.add(&n.to_be_bytes(), 0)).find_map(Result::err);
    assert!(matches!(refused, Some(TableError::Full { .. })), "{refused:?}");
    drop(small);
    assert_eq!(eal.allocated_bytes(), before, "all memory came back");
}

fn equals_a_map<const LEN: usize>(eal: &Eal) {
    let mut rng = Rng(LEN as u64);
    let mut key = || {
        // Bytes at both ends differ, so that a comparison of a part would be found out.
        let mut key = [7; LEN];
        key[..2].copy_from_slice(&(rng.below(300) as u16).to_be_bytes());
        key[LEN - 1] = rng.below(40) as u8;
        key
    };
    let mut table = Hash::<LEN>::create(eal, 20_000).unwrap();
    let mut map = HashMap::new();
    for word in 0..5_000 {
        let key = key();
        table.add(&key, word).unwrap();
        map.insert(key, word);
    }
    let probes: Vec<_> = (0..5_000).map(|_| key()).collect();
    let mut hits = Hits::NONE;
    let mut found = 0;
    for burst in probes.chunks(Hits::MOST - 1) {
        table.lookup(burst, &mut hits);
        for (n, key) in burst.iter().enumerate() {
            assert_eq!(hits.word(n), map.get(key).copied(), "{key:?}");
            found += usize::from(hits.word(n).is_some());
        }
        assert_eq!(hits.word(burst.len()), None, "beyond the burst");
    }
    assert!(found > 500 && found < 4_500, "{found} of 5000 keys were found");
    table.lookup(&[], &mut hits);
    assert_eq!(hits.mask, 0);
}
