//! The engine against the Linux kernel: the same frames go to a node on the memory backend and to a kernel router with the same tables,
//! and what comes out is the same, octet by octet, but for what is listed in `differences`.
//!
//! It takes root, for network namespaces of its own; without, it says so and tests nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(clippy::format_push_string, reason = "short texts, made once")]

mod cases;
mod differences;
mod network;
mod router;

use std::net::{IpAddr, Ipv4Addr};

use marchproxy_engine::packet::{Packet, describe};
use marchproxy_engine::testkit::{Node, port_mac};

use differences::DIFFERENCES;
use network::{NEIGHBOURS, OWN, tables};
use router::Router;

/// Nanoseconds between packets: enough for the rate of ICMP errors to stay out of the comparison.
const STEP: u64 = 10_000_000;

#[test]
fn the_kernel_does_the_same() {
    // A thread of its own: it moves to other namespaces and does not come back.
    std::thread::spawn(compare).join().unwrap();
}

fn compare() {
    let tables = tables();
    let mut router = match Router::new(&tables) {
        Ok(router) => router,
        Err(reason) => {
            eprintln!("skipped: no kernel router to compare with: {reason}");
            return;
        }
    };
    let mut node = Node::new(&tables).unwrap();
    let mut now = 1_000_000_000;
    introduce(&mut node, now);
    let mut met = [false; DIFFERENCES.len()];
    let mut wrong = Vec::new();
    for case in cases::cases() {
        now += STEP;
        node.receive("wan", &case.frame);
        node.run(now);
        assert_eq!(node.totals().residue(), 0, "{}", case.name);
        let ours = levelled(node.sent());
        let kernels = levelled(router.step("wan", &case.frame));
        if ours == kernels {
            continue;
        }
        if let Some(known) = differences::of(&case.name) {
            met[known] = true;
            continue;
        }
        let told = [describe(&case.frame), format!("engine {}", shown(&ours)), format!("kernel {}", shown(&kernels))];
        wrong.push(format!("{}: {}", case.name, told.join("\n  ")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What no longer differs leaves the list.
    let stale: Vec<_> = DIFFERENCES.iter().zip(met).filter(|(_, met)| !met).map(|(entry, _)| entry.0).collect();
    assert!(stale.is_empty(), "listed and not met: {stale:?}");
}

fn levelled(mut sent: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let own: Vec<[u8; 4]> = OWN.iter().map(|(v4, _)| v4.parse::<Ipv4Addr>().unwrap().octets()).collect();
    for (_, frame) in &mut sent {
        differences::level(frame, &own);
    }
    // Fragments stay in order, ports have none.
    sent.sort_by(|a, b| a.0.cmp(&b.0));
    sent
}

fn shown(sent: &[(String, Vec<u8>)]) -> String {
    let each: Vec<_> = sent.iter().map(|(port, frame)| format!("{port}: {} {frame:02x?}", describe(frame))).collect();
    if each.is_empty() { "nothing".into() } else { each.join(", ") }
}

/// The node learns its neighbours, as the kernel is told them.
fn introduce(node: &mut Node, now: u64) {
    for (index, (neighbour, (v4, v6))) in NEIGHBOURS.iter().zip(OWN).enumerate() {
        let packet = || Packet::eth(neighbour.mac, port_mac(index));
        let (IpAddr::V4(from), IpAddr::V4(to)) = (neighbour.v4.parse().unwrap(), v4.parse().unwrap()) else {
            unreachable!()
        };
        node.receive(neighbour.port, &packet().arp_request(from, to).build());
        let (IpAddr::V6(from), IpAddr::V6(to)) = (neighbour.v6.parse().unwrap(), v6.parse().unwrap()) else {
            unreachable!()
        };
        let solicitation = packet().ipv6(from, to).neighbour_solicitation(to).source_link_layer(neighbour.mac);
        node.receive(neighbour.port, &solicitation.build());
    }
    node.run(now);
    assert_eq!(node.sent().len(), 2 * NEIGHBOURS.len(), "everybody is answered");
}
