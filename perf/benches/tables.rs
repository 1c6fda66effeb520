//! Single look-ups in the engine's tables, burst by burst as the stages do them: `cargo bench -p marchproxy-perf --bench tables -- fib`.
//!
//! Keys and tables are those of `compare tables`. One iteration asks all keys once; what is printed as `elem/s` are look-ups. A table is
//! built when its bench is chosen.
#![forbid(unsafe_code)]
// What can't be built can't be measured.
#![allow(clippy::unwrap_used)]

use std::cell::LazyCell;
use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use marchproxy_engine::flow::{Addr, FlowKey, from_ip};
use marchproxy_engine::io::Mac;
use marchproxy_engine::ports::{PortSlot, UNTAGGED};
use marchproxy_engine::table::fib::Fib;
use marchproxy_engine::table::neighbours::{MAX_NEIGHBOURS, NeighbourKey, NeighbourTable};
use marchproxy_engine::table::policer::Colour;
use marchproxy_engine::table::rules::{Limits, RuleKey, Rules};
use marchproxy_engine::table::sessions::Hit;
use marchproxy_engine::tables::PolicerKind;
use marchproxy_perf::compare::tables::keys::{METER_STEP_US, MeterKeys, NOW, RouteKeys, RuleKeys, SessionKeys, label};
use marchproxy_perf::compare::tables::ours::{self, BURST};
use marchproxy_perf::seeded::{Rng, addresses};

/// Keys asked in one iteration.
const KEYS: usize = 65_536;
/// Seed of everything.
const SEED: u64 = 1;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for bench in [fib, rules, sessions, policer, neighbours] {
        bench(&mut criterion);
    }
    criterion.final_summary();
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(KEYS as u64)).sample_size(20).measurement_time(Duration::from_secs(2));
    group
}

fn fib(criterion: &mut Criterion) {
    let mut group = group(criterion, "fib");
    for v6 in [false, true] {
        for count in [16, 100_000, 500_000] {
            let table = LazyCell::new(|| {
                let keys = RouteKeys::new(count, KEYS, v6, SEED);
                let addresses: Vec<Addr> = keys.addresses.iter().map(|&address| from_ip(address)).collect();
                (Fib::build(keys.ours()), addresses)
            });
            group.bench_function(BenchmarkId::new(label(v6), count), |bencher| {
                let (fib, addresses) = &*table;
                let mut values = [None; BURST];
                bencher.iter(|| {
                    for burst in addresses.chunks(BURST) {
                        ours::routes(fib, burst, &mut values);
                        black_box(&values);
                    }
                });
            });
        }
    }
}

fn rules(criterion: &mut Criterion) {
    let mut group = group(criterion, "rules");
    for v6 in [false, true] {
        for count in [1_000, 10_000] {
            let table = LazyCell::new(|| {
                let keys = RuleKeys::new(count, KEYS, v6, SEED).unwrap();
                let asked: Vec<RuleKey> = keys.tuples.iter().map(|tuple| tuple.key(0)).collect();
                (Rules::build(&keys.rules, Limits { bytes: usize::MAX, lines: usize::MAX }, |_| 0).unwrap(), asked)
            });
            group.bench_function(BenchmarkId::new(label(v6), count), |bencher| {
                let (rules, asked) = &*table;
                let mut found = [None; BURST];
                bencher.iter(|| {
                    for burst in asked.chunks(BURST) {
                        ours::rules(rules, burst, &mut found);
                        black_box(&found);
                    }
                });
            });
        }
    }
}

/// Which of the keys are asked.
type Pick = fn(&SessionKeys) -> &[FlowKey];

fn sessions(criterion: &mut Criterion) {
    let mut group = group(criterion, "sessions");
    for v6 in [false, true] {
        for count in [65_536, 1_000_000] {
            let table = LazyCell::new(|| SessionKeys::new(count, KEYS, v6, SEED).unwrap());
            let asked: [(&str, Pick); 2] = [("hit", |keys| &keys.hits), ("miss", |keys| &keys.misses)];
            for (what, pick) in asked {
                group.bench_function(BenchmarkId::new(format!("{} {what}", label(v6)), count), |bencher| {
                    let keys = &*table;
                    let mut hits = [Hit::MISS; BURST];
                    bencher.iter(|| {
                        for burst in pick(keys).chunks(BURST) {
                            ours::sessions(&keys.table, burst, NOW, &mut hits);
                            black_box(&hits);
                        }
                    });
                });
            }
        }
    }
}

fn policer(criterion: &mut Criterion) {
    let mut group = group(criterion, "policer");
    let keys = MeterKeys::new(KEYS, SEED);
    let (mut policers, mut now) = (keys.ours(PolicerKind::Srtcm), 0);
    group.bench_function("meter", |bencher| {
        let mut colours = [Colour::Red; BURST];
        bencher.iter(|| {
            for (which, lens) in keys.which.chunks(BURST).zip(keys.lens.chunks(BURST)) {
                now += METER_STEP_US * 1000;
                ours::meters(&mut policers, now, which, lens, &mut colours);
                black_box(&colours);
            }
        });
    });
}

/// Neighbours are looked up one by one, their lines asked for before (stages route and finish).
fn neighbours(criterion: &mut Criterion) {
    let mut group = group(criterion, "neighbours");
    let key = |host: usize| NeighbourKey {
        port: PortSlot::from_index(host % 2),
        vlan: UNTAGGED,
        address: from_ip(addresses::local(1, host as u16, host.is_multiple_of(2))),
    };
    let table = NeighbourTable::default();
    for host in 0..MAX_NEIGHBOURS {
        assert!(table.set(&key(host), [2, 0, 0, 0, (host >> 8) as u8, host as u8]), "room for every neighbour");
    }
    let mut rng = Rng::new(SEED, "neighbours");
    for (what, from) in [("hit", 0), ("miss", MAX_NEIGHBOURS)] {
        let asked: Vec<(NeighbourKey, u64)> = (0..KEYS)
            .map(|_| {
                let key = key(from + rng.below(MAX_NEIGHBOURS));
                (key, key.hash())
            })
            .collect();
        assert!(asked.iter().all(|(key, hash)| table.lookup(key, *hash).is_some() == (from == 0)), "{what}");
        group.bench_function(what, |bencher| {
            let mut found: [Option<Mac>; BURST] = [None; BURST];
            bencher.iter(|| {
                for burst in asked.chunks(BURST) {
                    for (_, hash) in burst {
                        table.prefetch(*hash);
                    }
                    for ((key, hash), found) in burst.iter().zip(&mut found) {
                        *found = table.lookup(key, *hash);
                    }
                    black_box(&found);
                }
            });
        });
    }
}
