//! Runs on interfaces that stay the kernel's: a veth pair in a network namespace of the test's own, which goes with its thread. Takes root.
// Helpers of a test file are tests, too.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::perf;
use marchproxy_engine::packet::Packet;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket};
use serde_json::Value;

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 0x22];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => test(),
        Err(error) => eprintln!("skipped: no network namespace can be made ({error}); it takes root"),
    });
    thread.join().unwrap();
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sends to the node until it is told to stop.
fn sender(stop: &AtomicBool) {
    let wire = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll).unwrap();
    let mut all = getifaddrs().unwrap();
    let peer = all.find_map(|i| i.address.filter(|_| i.interface_name == "peer")?.as_link_addr().copied());
    bind(wire.as_raw_fd(), &peer.unwrap()).unwrap();
    let to = |last: u8| Packet::eth(PEER, OURS).ipv4([198, 51, 100, 7], [203, 0, 113, last]).udp(1000, 53).build();
    let frames: Vec<_> = (1..=200).map(to).collect();
    while !stop.load(Ordering::Relaxed) {
        for frame in &frames {
            // A full queue is what a generator meets.
            let _ = send(wire.as_raw_fd(), frame, MsgFlags::empty());
        }
    }
}

#[test]
fn interfaces_of_the_kernel_bring_the_traffic() {
    in_a_namespace(|| {
        ip("link add ours address 02:00:00:00:00:22 type veth peer name peer address 02:00:00:00:00:11");
        ip("link set ours up");
        ip("link set peer up");
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        // Of the same namespace, as the thread that starts it.
        let generator = std::thread::spawn(move || sender(&told));
        for (backend, tier) in [("af_xdp:ours", "af_xdp_copy"), ("af_packet:ours", "af_packet")] {
            let ended = perf(&format!("run forward --backend {backend} --flows 500 --packets 5000 --repeat 1 --json"));
            assert_eq!(ended.code, Some(0), "{backend}: {}", ended.err);
            let report: Value = serde_json::from_str(&ended.out).unwrap();
            assert_eq!((&report["backend"], &report["residue"]), (&backend.into(), &0.into()), "{report}");
            let port = &report["devices"]["ports"][0];
            assert_eq!(port["receives_from"], format!("ours ({tier})"), "{port}");
            let received = port["rx_packets"].as_u64().unwrap();
            assert!(received >= 5000 && report["packets"].as_u64().unwrap() >= 5000, "{report}");
            assert!(report["io_cycles_per_packet"].as_f64().unwrap() > 0.0, "{report}");
        }
        stop.store(true, Ordering::Relaxed);
        generator.join().unwrap();
        let ended = perf("run forward --backend af_xdp:nope9 --packets 1");
        assert!(ended.code != Some(0) && ended.err.contains("\"nope9\" does not exist"), "{}", ended.err);
    });
}
