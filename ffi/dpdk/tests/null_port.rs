//! Devices and the life of a port, on net_null.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

mod common;

use marchproxy_dpdk::{Device, DeviceError, Eal, Mempool, PoolConfig, PortConfig, PortError, QueueIndex, Rss};
use marchproxy_engine::io::{RxQueue as _, TxQueue as _};

#[test]
fn devices_and_ports() {
    let eal = common::builder("null").start().unwrap();
    devices(&eal);
    refused_setups(&eal);
    round_trip(&eal);
    queues_hold_the_port(&eal);
    several_queues(&eal);
}

fn devices(eal: &Eal) {
    let probe = |spec: &str| Device::probe(eal, &spec.parse().unwrap());
    match probe("vdev:net_frobnicate0") {
        Err(DeviceError::UnknownDriver { device, .. }) => assert_eq!(device, "net_frobnicate0"),
        other => panic!("{other:?}"),
    }
    let failed = probe("vdev:net_null9,no_such_argument=1").unwrap_err();
    assert!(matches!(failed, DeviceError::DriverFailed { .. }), "{failed:?}");
    assert!(matches!(probe("pci:ffff:ff:1f.7"), Err(DeviceError::NotFound { .. })));

    let first = probe("vdev:net_null0").unwrap();
    assert_eq!(first.name(), "net_null0");
    assert!(matches!(probe("vdev:net_null0"), Err(DeviceError::Exists { .. })));
    first.remove().unwrap();

    // Gone, so the name is free again; a port that is about keeps it.
    let (device, port) = common::probe(eal, "vdev:net_null0");
    let rejected = device.remove().unwrap_err();
    assert!(matches!(rejected.error, DeviceError::InUse { .. }));
    drop(port);
    rejected.kept.remove().unwrap();

    // Dropping is removing.
    let (device, port) = common::probe(eal, "vdev:net_null0");
    drop(device);
    assert_eq!(port.info().driver, "net_null");
    drop(port);
    drop(probe("vdev:net_null0").unwrap());
}

fn refused_setups(eal: &Eal) {
    let pool = common::pool(eal, "small", 63);
    let (_device, port) = common::probe(eal, "vdev:net_null1");
    let fine = PortConfig::default();

    let rejected = port.configure(&PortConfig { mtu: 2027, ..fine.clone() }, &pool).unwrap_err();
    match &rejected.error {
        PortError::MtuBeyondBuffer { needed: 2049, room: 2048, largest: 2026, .. } => {}
        other => panic!("{other:?}"),
    }
    let rejected = rejected.kept.configure(&PortConfig { mtu: 1, ..fine.clone() }, &pool).unwrap_err();
    assert!(matches!(rejected.error, PortError::Mtu { mtu: 1, .. }));
    let rejected = rejected.kept.configure(&PortConfig { rx_queues: 0, ..fine.clone() }, &pool).unwrap_err();
    assert!(matches!(rejected.error, PortError::Queues { direction: "receive", asked: 0, .. }));
    let rejected = rejected.kept.configure(&PortConfig { tx_queues: u16::MAX, ..fine.clone() }, &pool).unwrap_err();
    assert!(rejected.to_string().contains("65535 transmit queues, 1 to"), "{rejected}");

    // The port is what it was: the largest MTU that fits is taken.
    let port = rejected.kept.configure(&PortConfig { mtu: 2026, ..fine }, &pool).unwrap();
    assert_eq!(port.mtu().unwrap(), 2026);
}

fn round_trip(eal: &Eal) {
    let pool = common::pool(eal, "round", 255);
    let (_device, port) = common::probe(eal, "vdev:net_null2,size=64");
    let mac = [2, 0, 0, 0, 0, 7];
    let config = PortConfig { mac: Some(mac), promiscuous: true, ..PortConfig::default() };
    let port = port.configure(&config, &pool).unwrap();
    assert_eq!(port.descriptors(), (1024, 1024));
    assert_eq!((port.mac().unwrap(), port.rss()), (mac, &Rss::SingleQueue));
    port.set_mac([2, 0, 0, 0, 0, 8]).unwrap();
    assert_eq!(port.mac().unwrap(), [2, 0, 0, 0, 0, 8]);

    let mut port = port.start().unwrap();
    let link = port.link().unwrap();
    assert!(link.up && link.mbps == Some(10_000) && link.full_duplex, "{link:?}");
    assert_eq!((port.link_changes(), port.is_removed(), port.info().socket), (0, false, port.info().socket));

    let mut packets = common::burst();
    for run in 1..=2 {
        let queues = port.take_queues().unwrap();
        let (mut rx, mut tx) = (queues.rx, queues.tx);
        assert_eq!((rx.len(), tx.len()), (1, 1));
        // Room is respected, and what is in the vector stays.
        assert_eq!(rx[0].rx_burst(&mut packets, 5), 5);
        assert_eq!(rx[0].rx_burst(&mut packets, 100), 59);
        assert_eq!(rx[0].rx_burst(&mut packets, 100), 0);
        assert_eq!(tx[0].tx_burst(&mut packets), 64);
        assert!(packets.is_empty());
        assert_eq!(tx[0].tx_burst(&mut packets), 0);

        let stats = port.stats().unwrap();
        assert_eq!((stats.rx_packets, stats.tx_packets), (64, 64));
        let xstats = port.xstats().unwrap();
        assert_eq!(xstats.iter().find(|xstat| xstat.name == "rx_good_packets").unwrap().value, 64);
        port.reset_stats().unwrap();
        assert_eq!(port.stats().unwrap().rx_packets, 0);

        drop((rx, tx));
        let stopped = port.stop().unwrap();
        assert_eq!(pool.available(), pool.size(), "run {run}");
        port = stopped.start().unwrap();
    }
    // Back to the beginning, with another pool: the old one is let go.
    let other = common::pool(eal, "round other", 255);
    let port = port.stop().unwrap().reset();
    let port = common::started(port, &other);
    drop(pool);
    let again = common::pool(eal, "round", 255);
    drop((port, again));
}

fn queues_hold_the_port(eal: &Eal) {
    let pool = common::pool(eal, "held", 255);
    let (_device, port) = common::probe(eal, "vdev:net_null3");
    let mut port = common::started(port, &pool);
    let mut queues = port.take_queues().unwrap();
    assert!(matches!(port.take_queues(), Err(PortError::QueuesOut { out: 2, .. })));
    queues.tx.clear();
    let rejected = port.stop().unwrap_err();
    assert!(matches!(rejected.error, PortError::QueuesOut { out: 1, .. }));

    // Even without its handle the port runs on under a queue that a worker has.
    drop(rejected.kept);
    let mut rx = queues.rx.remove(0);
    let packets = std::thread::spawn(move || {
        let mut packets = common::burst();
        assert_eq!(rx.rx_burst(&mut packets, 32), 32);
        packets
    })
    .join()
    .unwrap();
    assert_eq!(pool.in_use(), 32);
    drop(packets);
    assert_eq!(pool.in_use(), 0);
}

fn several_queues(eal: &Eal) {
    let pool = Mempool::create(eal, "several", &PoolConfig::new(255)).unwrap();
    let (_device, port) = common::probe(eal, "vdev:net_null4");
    let config = PortConfig { rx_queues: 2, tx_queues: 3, ..PortConfig::default() };
    let mut port = port.configure(&config, &pool).unwrap().start().unwrap();
    // net_null hashes, but takes no key: whether both directions meet is not known.
    assert_eq!(port.rss(), &Rss::Unknown);
    let table: Vec<_> = (0..port.info().rss_table).map(|entry| QueueIndex(u16::from(entry % 3 == 0))).collect();
    port.set_rss_table(&table).unwrap();
    assert_eq!(port.rss_table().unwrap(), table);
    assert!(matches!(port.set_rss_table(&table[1..]), Err(PortError::Table { .. })));
    assert!(matches!(port.set_rss_table(&vec![QueueIndex(2); table.len()]), Err(PortError::Table { queues: 2, .. })));

    let queues = port.take_queues().unwrap();
    let indexes = |queue: &marchproxy_dpdk::TxQueue| (queue.port(), queue.index());
    assert_eq!(
        queues.tx.iter().map(indexes).collect::<Vec<_>>(),
        [0, 1, 2].map(|index| (port.id(), QueueIndex(index)))
    );
    assert_eq!(queues.rx.len(), 2);
}
