//! A SYN flood against a small table: sessions that are in use go on, new clients get in, memory stays what it was.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{CLIENT, SERVER, introduce_everybody, ip, tables};
use marchproxy_engine::packet::{ACK, Packet, SYN, describe};
use marchproxy_engine::reason::{DropReason, LookupResult, SessionEnd};
use marchproxy_engine::testkit::{Node, Size, port_mac};

const SESSIONS: usize = 8192;
const ESTABLISHED: u16 = 2048;
const FLOOD: u32 = 1_000_000;
/// Attackers' packets between two of a client's: 1 M a second.
const BETWEEN: u32 = 250;
/// Round trip of a client's handshake, in nanoseconds: the backend's answer, then the client's.
const ROUND_TRIP: u64 = 2_000_000;

fn from_client(port: u16, flags: u8) -> Vec<u8> {
    let packet = Packet::eth(CLIENT, port_mac(1)).ip(ip("192.0.2.7"), ip("203.0.113.10"));
    packet.tcp(port, 80).flags(flags).build()
}

/// What a backend answers to a frame that reached it.
fn from_backend(frame: &[u8], flags: u8) -> Vec<u8> {
    let octets: [u8; 4] = frame[34..38].try_into().unwrap();
    let port = u16::from_be_bytes([frame[38], frame[39]]);
    let packet = Packet::eth(SERVER, port_mac(0)).vlan(20).ip(octets.into(), ip("192.0.2.7"));
    packet.tcp(8080, port).flags(flags).build()
}

struct Flood {
    node: Node,
    now: u64,
    sent: u32,
}

impl Flood {
    /// One packet of a client or backend, and what came out of it.
    fn pass(&mut self, port: &str, frame: &[u8]) -> Option<Vec<u8>> {
        self.node.receive(port, frame);
        self.node.worker.turn(self.now);
        self.node.sent().pop().map(|(_, frame)| frame)
    }

    /// Spoofed SYNs, a microsecond each.
    fn attack(&mut self, packets: u32) {
        for _ in 0..packets {
            let n = self.sent;
            self.sent += 1;
            self.now += 1000;
            let source = std::net::Ipv4Addr::from(0x0b00_0000 + n.wrapping_mul(0x9E37_79B1) % 0x0100_0000);
            let packet = Packet::eth(CLIENT, port_mac(1)).ip(source.into(), ip("203.0.113.10"));
            self.node.receive("wan", &packet.tcp((n >> 8) as u16 | 1, 80).flags(SYN).build());
            if n.is_multiple_of(32) {
                self.node.worker.turn(self.now);
                self.node.sent();
            }
        }
        self.node.worker.turn(self.now);
        self.node.sent();
    }

    /// Whether a client's handshake succeeds: SYN, SYN-ACK, ACK, each half a round trip later.
    fn handshake(&mut self, port: u16) -> bool {
        let Some(frame) = self.pass("wan", &from_client(port, SYN)) else { return false };
        self.attack((ROUND_TRIP / 2000) as u32);
        let Some(answer) = self.pass("lan", &from_backend(&frame, SYN | ACK)) else { return false };
        if !describe(&answer).contains("203.0.113.10:80 > 192.0.2.7") {
            return false;
        }
        self.attack((ROUND_TRIP / 2000) as u32);
        self.pass("wan", &from_client(port, ACK)).is_some()
    }

    fn ended(&self, why: SessionEnd) -> u64 {
        self.node.worker.stats().sessions_ended[why.index()].value()
    }
}

#[test]
fn a_million_spoofed_syns_do_no_harm() {
    let node = Node::with_size(&tables(), Size { sessions: SESSIONS, ..Size::default() }).unwrap();
    let mut flood = Flood { node, now: 1_000_000_000, sent: 0 };
    flood.node.run(flood.now);
    introduce_everybody(&mut flood.node, flood.now);
    let established: Vec<u16> = (0..ESTABLISHED).map(|n| 10_000 + n).collect();
    let mut to_backend = Vec::new();
    for &port in &established {
        let frame = flood.pass("wan", &from_client(port, SYN)).unwrap();
        flood.pass("lan", &from_backend(&frame, SYN | ACK)).unwrap();
        to_backend.push(flood.pass("wan", &from_client(port, ACK)).unwrap());
    }
    let capacity = flood.node.worker.pipeline().sessions.capacity();
    let (mut turn, mut asked, mut got_in) = (0, 0, 0);
    while flood.sent < FLOOD {
        flood.attack(BETWEEN);
        // One of the established sessions, in turn, both ways.
        let port = established[turn % established.len()];
        let forward = flood.pass("wan", &from_client(port, ACK)).unwrap();
        assert_eq!(describe(&forward), describe(&to_backend[turn % established.len()]), "another backend");
        let reverse = flood.pass("lan", &from_backend(&forward, ACK)).unwrap();
        assert!(describe(&reverse).contains(&format!("203.0.113.10:80 > 192.0.2.7:{port}")));
        turn += 1;
        if turn % 10 == 0 {
            asked += 1;
            got_in += u32::from(flood.handshake(20_000 + asked));
        }
    }
    let evicted = flood.ended(SessionEnd::EvictedHalfOpen);
    println!("{got_in} of {asked} handshakes of new clients, {evicted} half-open sessions evicted");
    assert!(asked > 100 && got_in == u32::from(asked), "{got_in} of {asked} new clients got in");
    assert!(evicted > u64::from(FLOOD) * 9 / 10, "{evicted}");
    for why in [SessionEnd::EvictedClosed, SessionEnd::EvictedOneWay, SessionEnd::EvictedIdle, SessionEnd::Expired] {
        assert_eq!(flood.ended(why), 0, "{}", why.label());
    }
    let stats = flood.node.worker.stats();
    assert_eq!(stats.drops[DropReason::SessionTableFull.index()].value(), 0);
    assert!(stats.lookups[LookupResult::MissNew.index()].value() > u64::from(FLOOD));
    assert_eq!(stats.lookups[LookupResult::MissMidstream.index()].value(), 0, "a session that was in use was lost");
    let sessions = &flood.node.worker.pipeline().sessions;
    assert_eq!((sessions.len(), sessions.capacity()), (SESSIONS, capacity), "full, and no larger");
    assert_eq!(flood.node.totals().residue(), 0);
}
