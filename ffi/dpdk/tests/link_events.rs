//! Link changes that a driver reports by itself. net_bonding does: it comes up when a member does.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use marchproxy_dpdk::Device;

#[test]
fn reported_changes_are_counted() {
    let eal = common::builder("link").start().unwrap();
    let pool = common::pool(&eal, "link", 4095);
    let (member, member_port) = common::probe(&eal, "vdev:net_null0");
    assert!(!member_port.info().link_events);
    // Up to 23.07 the argument was called `slave`.
    let mut bond = ["slave", "member"]
        .into_iter()
        .find_map(|word| {
            Device::probe(&eal, &format!("vdev:net_bonding0,mode=1,{word}=net_null0").parse().unwrap()).ok()
        })
        .unwrap();
    let port = common::configured(bond.take_ports().remove(0), &pool);
    assert!(port.info().link_events);
    assert_eq!(port.link_changes(), 0);

    let port = port.start().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while port.link_changes() == 0 {
        assert!(Instant::now() < deadline, "no change reported, the link is {:?}", port.link());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(port.link().unwrap().up);

    drop(port.stop().unwrap());
    bond.remove().unwrap();
    drop(member_port);
    member.remove().unwrap();
    assert_eq!(pool.available(), pool.size());
}
