//! Pools and packets, and that DPDK starts once.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

mod common;

use marchproxy_dpdk::{
    ChecksumState, DpdkPool, Eal, EalError, Mbuf, Mempool, PacketBuf, PacketPool, PoolConfig, PoolError, SocketId,
};

#[test]
fn pools_and_packets() {
    let eal = common::builder("pools").start().unwrap();
    assert!(matches!(common::builder("again").start(), Err(EalError::AlreadyStarted)));
    assert!(marchproxy_dpdk::dpdk_version().starts_with("DPDK "));
    assert!(!eal.sockets().is_empty());

    refusals(&eal);
    exhaustion_and_return(&eal);
    the_engines_pool(&eal);
    shape_of_a_packet(&eal);
    threads(&eal);
}

fn refusals(eal: &Eal) {
    let taken = common::pool(eal, "taken", 15);
    let fine = PoolConfig { cache: 0, ..PoolConfig::new(15) };
    let said = |name: &str, config: PoolConfig| Mempool::create(eal, name, &config).unwrap_err().to_string();
    assert!(said("taken", fine).contains("there is a pool of that name"));
    assert!(said("", fine).contains("1 to 25 bytes"));
    assert!(said("a name that is far too long for DPDK", fine).contains("1 to 25 bytes"));
    assert!(said("a\0b", fine).contains("zero byte"));
    assert!(said("none", PoolConfig { count: 0, ..fine }).contains("at least 1 packet"));
    assert!(said("cache", PoolConfig { cache: 11, ..fine }).contains("cache 11, at most 10"));
    assert!(said("room", PoolConfig { frame_room: u16::MAX, ..fine }).contains("at most 65407"));
    assert!(said("far", PoolConfig { socket: Some(SocketId(77)), ..fine }).contains("socket 77 does not exist"));
    match Mempool::create(eal, "huge", &PoolConfig { count: 1 << 20, ..fine }) {
        Err(PoolError::NoMemory { needed_mb, free_mb, .. }) => assert!(needed_mb > 2000 && free_mb < 256),
        other => panic!("{other:?}"),
    }
    for count in 1..8 {
        Mempool::create(eal, "smallest", &PoolConfig::new(count)).unwrap();
    }
    drop(taken);
    drop(common::pool(eal, "taken", 15));
}

fn exhaustion_and_return(eal: &Eal) {
    let pool = common::pool(eal, "exhausted", 31);
    let all: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!((all.len(), pool.available(), pool.in_use()), (31, 0, 31));
    assert!(pool.alloc().is_none());
    // Freed on another thread, one that DPDK does not know.
    std::thread::spawn(move || drop(all)).join().unwrap();
    assert_eq!(pool.available(), pool.size());
}

fn the_engines_pool(eal: &Eal) {
    let pool = common::pool(eal, "engine", 20);
    let mut engine = DpdkPool::new(&pool);
    let mut packets = Vec::new();
    while let Some(packet) = engine.alloc() {
        assert!(packet.data().is_empty() && packet.headroom() >= 128);
        packets.push(packet);
    }
    // 16 at once, then the rest that is no whole stash.
    assert_eq!(packets.len(), 20);
    packets.truncate(4);
    assert!(engine.alloc().is_some());
    drop((packets, engine));
    assert_eq!(pool.available(), 20);
}

fn shape_of_a_packet(eal: &Eal) {
    let pool = common::pool(eal, "shape", 1);
    let mut packet = pool.alloc().unwrap();
    assert_eq!((packet.data().len(), packet.headroom(), packet.tailroom()), (0, 128, 2048));
    assert_eq!(packet.checksum(), ChecksumState::Unknown);

    assert!(packet.resize(3));
    packet.data_mut().copy_from_slice(b"abc");
    assert!(packet.prepend(2));
    packet.data_mut()[..2].copy_from_slice(b"xy");
    assert_eq!(packet.data(), b"xyabc");
    packet.trim_front(1);
    assert!(packet.resize(2));
    assert_eq!((packet.data(), packet.headroom(), packet.tailroom()), (&b"ya"[..], 127, 2047));

    assert!(!packet.prepend(128) && !packet.resize(2050));
    assert_eq!(packet.data(), b"ya");
    assert!(packet.resize(2049) && packet.prepend(127));
    assert_eq!((packet.data().len(), packet.headroom(), packet.tailroom()), (2176, 0, 0));
    packet.trim_front(9999);
    assert_eq!((packet.data().len(), packet.headroom(), packet.tailroom()), (0, 2176, 0));
    packet.prefetch();

    // A reused buffer starts afresh.
    drop(packet);
    assert_eq!(pool.alloc().unwrap().headroom(), 128);
}

fn threads(eal: &Eal) {
    // The thread that started DPDK is its main lcore.
    assert!(matches!(eal.register_thread(), Err(EalError::ThreadKnown { lcore: 0 })));
    let pool = Mempool::create(eal, "cached", &PoolConfig::new(1023)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let thread = eal.register_thread().unwrap();
                assert_ne!(thread.lcore(), u32::MAX);
                assert!(matches!(eal.register_thread(), Err(EalError::ThreadKnown { .. })));
                for _ in 0..1000 {
                    drop((pool.alloc().unwrap(), pool.alloc().unwrap()));
                }
            });
        }
    });
    // Packets in the caches of threads that have gone are not lost.
    assert_eq!(pool.available(), pool.size());
}
