//! Both kinds of sockets on real veth pairs: what goes in comes out, interfaces that go away break nothing, and every frame comes home.
//!
//! Takes root, for a network namespace of its own without a name: nothing stays behind, however a test ends.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use marchproxy_engine::io::{ChecksumState, MIN_HEADROOM, PacketBuf, PacketVec, RxQueue as _, TxQueue as _};
use marchproxy_engine::packet::{Check, Packet, checksums};
use marchproxy_sockets::{Error, OnLoss, Opened, Port, RxQueue, Store, Tier, TxQueue, Wish, open_packet, open_xdp};
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};

/// Microseconds are usual; this is for machines that stand still.
const PATIENCE: Duration = Duration::from_secs(10);
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 0x22];

/// Runs a test in a namespace of its own with the pairs `in0-in1` and `out0-out1`; the engine's ends are `in0`, which has one
/// queue, and `out0`, which has two.
fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
    let outcome = std::thread::spawn(|| {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: no network namespace can be made ({error}); it takes root");
            return;
        }
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        for (pair, queues) in [("in", 1), ("out", 2)] {
            ip(&format!("link add {pair}0 numrxqueues {queues} numtxqueues {queues} type veth peer name {pair}1"));
            ip(&format!("link set {pair}0 address 02:00:00:00:00:22 up"));
            ip(&format!("link set {pair}1 address 02:00:00:00:00:11 up"));
        }
        test();
    })
    .join();
    outcome.unwrap();
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn wish(interface: &str, workers: usize) -> Wish {
    Wish { interface: interface.into(), mtu: 1500, workers, kernel: Vec::new(), on_loss: OnLoss::Pass, busy_poll_us: 0 }
}

/// On each tier that a veth has.
type Open = fn(&'static Store, &Wish) -> Result<Opened, Error>;
const TIERS: [(&str, Open); 2] = [("af_packet", open_packet), ("af_xdp", |store, wish| open_xdp(store, wish, false))];

fn peer(interface: &str) -> OwnedFd {
    let peer = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll).unwrap();
    let all = getifaddrs().unwrap();
    let mut found = all.filter_map(|i| i.address.filter(|_| i.interface_name == interface)?.as_link_addr().copied());
    bind(peer.as_raw_fd(), &found.next().unwrap()).unwrap();
    setsockopt(&peer, sockopt::RcvBuf, &(4 << 20)).unwrap();
    while receive(&peer).is_some() {}
    peer
}

fn receive(peer: &OwnedFd) -> Option<Vec<u8>> {
    let mut frame = vec![0; 4096];
    let len = recv(peer.as_raw_fd(), &mut frame, MsgFlags::empty()).ok()?;
    frame.truncate(len);
    Some(frame)
}

fn put(peer: &OwnedFd, frame: &[u8]) {
    send(peer.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
}

fn udp(number: u16, octets: usize) -> Vec<u8> {
    let packet = Packet::eth(PEER, OURS).ip("192.0.2.7".parse().unwrap(), "198.51.100.9".parse().unwrap());
    packet.udp(1000, number).payload(vec![number as u8; octets]).build()
}

/// One port's queues on the calling thread.
struct Queue {
    rx: RxQueue,
    tx: TxQueue,
}

impl Queue {
    fn only(pairs: Vec<(RxQueue, TxQueue)>) -> Self {
        let mut pairs = pairs;
        let (rx, tx) = pairs.pop().unwrap();
        assert!(pairs.is_empty());
        Self { rx, tx }
    }

    /// So many packets, or what came in time.
    fn take(&mut self, count: usize) -> Vec<marchproxy_sockets::Frame> {
        let (mut got, start) = (Vec::new(), Instant::now());
        while got.len() < count && start.elapsed() < PATIENCE {
            let mut burst = PacketVec::new();
            self.rx.rx_burst(&mut burst, 32);
            got.extend(burst);
        }
        got
    }

    fn give(&mut self, packets: impl IntoIterator<Item = marchproxy_sockets::Frame>) {
        let (mut packets, start) = (packets.into_iter().peekable(), Instant::now());
        let mut burst = PacketVec::new();
        while packets.peek().is_some() || !burst.is_empty() {
            while burst.len() < 32 && packets.peek().is_some() {
                burst.extend(packets.next());
            }
            self.tx.tx_burst(&mut burst);
            assert!(start.elapsed() < PATIENCE, "the port takes nothing");
        }
    }
}

#[test]
fn packets_go_through_unchanged_and_every_frame_comes_home() {
    in_a_namespace(|| {
        let (left, right) = (peer("in1"), peer("out1"));
        for (name, open) in TIERS {
            let store = Store::leak(32, false, 1);
            let seat = store.enter().unwrap();
            let (inside, pairs) = open(store, &wish("in0", 1)).unwrap();
            let mut from = Queue::only(pairs);
            let (outside, pairs) = open(store, &wish("out0", 1)).unwrap();
            let mut to = Queue::only(pairs);
            assert_eq!((inside.mac(), inside.health().link_up), (OURS, true), "{name}");
            let wanted = if name == "af_packet" { Tier::Packet } else { Tier::Copy };
            assert_eq!(inside.tier(), wanted, "{name}: {:?}", inside.note());
            // The first turn gives the kernel its frames.
            assert_eq!(from.rx.rx_burst(&mut PacketVec::new(), 32), 0, "{name}");
            for round in 0..10_u16 {
                let sent: Vec<Vec<u8>> = (0..100).map(|n| udp(round * 100 + n, usize::from(n) * 14)).collect();
                for frame in &sent {
                    put(&left, frame);
                }
                let got = from.take(sent.len());
                assert!(got.iter().all(|packet| packet.headroom() >= MIN_HEADROOM), "{name}");
                let octets: Vec<&[u8]> = got.iter().map(PacketBuf::data).collect();
                assert_eq!(octets, sent, "{name}: received");
                to.give(got);
                let (mut out, start) = (Vec::new(), Instant::now());
                while out.len() < sent.len() && start.elapsed() < PATIENCE {
                    out.extend(receive(&right));
                }
                assert_eq!(out, sent, "{name}: sent");
            }
            assert_eq!(receive(&left), None, "{name}: neither the kernel nor we answered");
            let (one, two) = (inside.health(), outside.health());
            assert_eq!((one.rx_missed, one.rx_errors, two.tx_errors), (0, 0, 0), "{name}");
            drop((from, to));
            drop((inside, outside));
            assert_eq!(store.at_home(), store.frames(), "{name}");
            drop(seat);
        }
    });
}

#[test]
fn tags_and_checksums_that_the_kernel_keeps_aside_are_put_back() {
    in_a_namespace(|| {
        ip("address add 192.0.2.7/24 dev in1");
        ip("neighbour add 192.0.2.1 lladdr 02:00:00:00:00:22 dev in1 nud permanent");
        let store = Store::leak(8, false, 1);
        let _seat = store.enter().unwrap();
        let (port, pairs) = open_packet(store, &wish("in0", 1)).unwrap();
        let mut queue = Queue::only(pairs);
        // The kernel takes tags out of frames before it shows them to packet sockets.
        let left = peer("in1");
        let tagged = Packet::eth(PEER, OURS).vlan(7).ip("192.0.2.7".parse().unwrap(), "198.51.100.9".parse().unwrap());
        let tagged = tagged.udp(1, 2).payload(*b"in the frame").build();
        let twice = Packet::eth(PEER, OURS).vlan(7).vlan(8).ethertype(0x0800).payload([1; 60]).build();
        for frame in [&tagged, &twice] {
            put(&left, frame);
            assert_eq!(queue.take(1)[0].data(), frame);
        }
        // A socket's checksum is left to a device that is not there.
        let client = std::net::UdpSocket::bind("192.0.2.7:1000").unwrap();
        client.send_to(b"hello", "192.0.2.1:9").unwrap();
        let packet = queue.take(1).pop().expect("the packet comes");
        assert_eq!(packet.checksum(), ChecksumState::Verified);
        assert_eq!(checksums(packet.data()).l4, Check::Good, "{:02x?}", packet.data());
        drop((queue, packet, port));
    });
}

#[test]
fn several_workers_share_a_port_by_flow_or_by_queue() {
    in_a_namespace(|| {
        let (left, right) = (peer("in1"), peer("out1"));
        for (name, open) in TIERS {
            let store = Store::leak(16, false, 1);
            let _seat = store.enter().unwrap();
            let (inside, pairs) = open(store, &wish("in0", 2)).unwrap();
            let mut queues: Vec<Queue> = pairs.into_iter().map(|(rx, tx)| Queue { rx, tx }).collect();
            let (outside, outs) = open(store, &wish("out0", 2)).unwrap();
            let mut outs: Vec<Queue> = outs.into_iter().map(|(rx, tx)| Queue { rx, tx }).collect();
            for queue in &mut queues {
                assert_eq!(queue.rx.rx_burst(&mut PacketVec::new(), 32), 0);
            }
            (0..200).for_each(|n| put(&left, &udp(n, 10)));
            let (mut got, start) = ([0, 0], Instant::now());
            while got[0] + got[1] < 200 && start.elapsed() < PATIENCE {
                for (worker, queue) in queues.iter_mut().enumerate() {
                    let mut burst = PacketVec::new();
                    got[worker] += queue.rx.rx_burst(&mut burst, 32);
                    outs[worker].give(burst);
                }
            }
            assert_eq!(got[0] + got[1], 200, "{name}: {got:?}");
            // With AF_XDP the second worker has no queue of its own.
            assert_eq!(got[1] > 0, name == "af_packet", "{name}: {got:?}");
            // And everybody can send.
            let mut burst = PacketVec::new();
            (0..32).for_each(|n| put(&left, &udp(n, 10)));
            while burst.len() < 32 && start.elapsed() < PATIENCE {
                for queue in &mut queues {
                    queue.rx.rx_burst(&mut burst, 32);
                }
            }
            outs[1].give(burst);
            let (mut out, start) = (0, Instant::now());
            while out < 232 && start.elapsed() < PATIENCE {
                out += usize::from(receive(&right).is_some());
            }
            assert_eq!(out, 232, "{name}");
            drop((queues, outs));
            drop((inside, outside));
            assert_eq!(store.at_home(), store.frames(), "{name}");
        }
    });
}

#[test]
fn interfaces_that_go_down_are_renamed_or_vanish_break_nothing() {
    in_a_namespace(|| {
        let left = peer("in1");
        for (name, open) in TIERS {
            let store = Store::leak(8, false, 1);
            let _seat = store.enter().unwrap();
            let (port, pairs) = open(store, &wish("in0", 1)).unwrap();
            let mut queue = Queue::only(pairs);
            let echo = |queue: &mut Queue, port: &Port| {
                queue.rx.rx_burst(&mut PacketVec::new(), 32);
                put(&left, &udp(1, 10));
                let got = queue.take(1);
                assert_eq!(got.len(), 1, "{name}");
                queue.give(got);
                assert!(port.health().link_up, "{name}");
            };
            echo(&mut queue, &port);
            ip("link set in0 down");
            assert!(!port.health().link_up, "{name}");
            ip("link set in0 name other");
            ip("link set other up");
            let start = Instant::now();
            while !port.health().link_up && start.elapsed() < PATIENCE {}
            echo(&mut queue, &port);
            ip("link set other down");
            ip("link set other name in0");
            ip("link set in0 up");
            drop(queue);
            drop(port);
            assert_eq!(store.at_home(), store.frames(), "{name}");
        }
        for (name, open) in TIERS {
            let store = Store::leak(8, false, 1);
            let _seat = store.enter().unwrap();
            let (port, pairs) = open(store, &wish("out0", 1)).unwrap();
            let mut queue = Queue::only(pairs);
            let right = peer("out1");
            queue.rx.rx_burst(&mut PacketVec::new(), 32);
            (0..64).for_each(|n| put(&right, &udp(n, 10)));
            let got = queue.take(64);
            assert_eq!(got.len(), 64, "{name}");
            ip("link del out0");
            let mut burst: PacketVec<_> = got.into_iter().collect();
            // Refused, now or by the time the kernel says so; never lost in silence by the thousand, and never a crash.
            for _ in 0..64 {
                queue.tx.tx_burst(&mut burst);
                queue.rx.rx_burst(&mut PacketVec::new(), 32);
            }
            assert_eq!((port.health().link_up, port.interface().exists()), (false, false), "{name}");
            drop((burst, queue, port));
            assert_eq!(store.at_home(), store.frames(), "{name}");
            ip("link add out0 type veth peer name out1");
            ip("link set out0 address 02:00:00:00:00:22 up");
            ip("link set out1 up");
        }
    });
}

#[test]
fn refusals_say_what_is_in_the_way() {
    in_a_namespace(|| {
        let store = Store::leak(64, false, 1);
        let _seat = store.enter().unwrap();
        for (name, open) in TIERS {
            let error = open(store, &wish("nope9", 1)).unwrap_err().to_string();
            assert!(error.contains("\"nope9\" does not exist"), "{name}: {error}");
            let error = open(store, &Wish { mtu: 9000, ..wish("in0", 1) }).unwrap_err().to_string();
            assert!(error.contains("has an MTU of 1500, the port's is 9000"), "{name}: {error}");
        }
        let error = open_xdp(store, &wish("in0", 1), true).unwrap_err().to_string();
        assert!(error.contains("in0: binding AF_XDP with zero-copy") && error.contains("the driver can't"), "{error}");
        // Two users of one interface.
        let (port, queues) = open_xdp(store, &wish("in0", 1), false).unwrap();
        drop(queues);
        drop(port);
        ip("link set in0 mtu 9000");
        ip("link set in1 mtu 9000");
        let wish = Wish { mtu: 9000, ..wish("in0", 1) };
        let error = open_xdp(store, &wish, false).unwrap_err().to_string();
        assert!(error.contains("mtu 9000 is more than af_xdp carries here"), "{error}");
        let left = peer("in1");
        let (port, pairs) = open_packet(store, &wish).unwrap();
        let mut queue = Queue::only(pairs);
        let jumbo = udp(1, 8900);
        send(left.as_raw_fd(), &jumbo, MsgFlags::empty()).unwrap();
        let got = queue.take(1);
        assert_eq!(got[0].data(), jumbo);
        queue.give(got);
        drop((queue, port));
    });
}

#[test]
fn a_program_that_outlives_its_process_is_taken_over_and_taken_away() {
    in_a_namespace(|| {
        let has_program = || {
            let output = Command::new("ip").args(["link", "show", "in0"]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).contains("prog/xdp")
        };
        let store = Store::leak(8, false, 2);
        let keep = Wish { on_loss: OnLoss::Drop, ..wish("in0", 1) };
        let opened = match open_xdp(store, &keep, false) {
            Err(error) if error.to_string().contains("/sys/fs/bpf") => {
                eprintln!("skipped: {error}");
                return;
            }
            opened => opened.unwrap(),
        };
        // A crash runs no destructor; the descriptors are closed by the kernel all the same, which is left out here.
        let error = open_xdp(Store::leak(8, false, 1), &wish("in0", 1), false).unwrap_err().to_string();
        assert!(error.contains("binding AF_XDP"), "the queue is taken: {error}");
        assert!(has_program());
        drop(opened.1);
        drop(opened.0);
        assert!(!has_program(), "a stop leaves nothing");
        let (port, queues) = open_xdp(store, &wish("in0", 1), false).unwrap();
        assert!(has_program());
        drop(queues);
        drop(port);
        assert!(!has_program());
    });
}
