//! Shaped ports: the worker itself on a clock of the test's, its ring to the driver and the wire behind that included.

use marchproxy_engine::io::PacketBuf;
use marchproxy_engine::memory::MemoryBuf;
use marchproxy_engine::packet::{Check, Packet, checksums};
use marchproxy_engine::reason::DropReason;
use marchproxy_engine::stats::Counter;
use marchproxy_engine::tables::{QueueSpec, RuleTables, ShaperSpec};
use marchproxy_engine::testkit::{Node, port_mac};

use super::common::{CLIENT, SERVER, introduce_everybody, ip, tables};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
/// Rate of the shaped port in kbit/s.
const GIGABIT: u64 = 1_000_000;

/// The small network without rules, `wan` shaped, and these queues for its service.
fn shaped(rate_kbps: u64, queue: QueueSpec) -> RuleTables {
    let mut tables = RuleTables {
        rules: Vec::new(),
        shapers: vec![ShaperSpec { port: 1, rate_kbps, ..ShaperSpec::default() }],
        ..tables()
    };
    tables.services[0].queue = queue;
    tables
}

fn node(tables: &RuleTables) -> Node {
    let mut node = Node::new(tables).unwrap();
    introduce_everybody(&mut node, 1);
    node
}

/// From a backend to the client, of no session.
fn plain(v6: bool, dscp: u8, octets: usize) -> Vec<u8> {
    let (from, to) = if v6 { ("fd00:20::11", "2001:db8::7") } else { ("10.0.20.11", "192.0.2.7") };
    let headers = 14 + 4 + if v6 { 48 } else { 28 };
    let packet = Packet::eth(SERVER, port_mac(0)).vlan(20).ip(ip(from), ip(to)).dscp(dscp).udp(7, 9);
    packet.payload(vec![0; octets - headers]).build()
}

fn put(node: &Node, frame: &[u8], now: u64) {
    let mut packet = MemoryBuf::new(frame);
    packet.set_stamp(now);
    node.wire("lan").unwrap().put(packet);
}

/// Octets a frame takes on the wire.
fn counted(frame: &[u8]) -> u64 {
    frame.len().max(60) as u64 + 24
}

/// The wire behind the driver's ring, which takes packets as fast as it carries them.
struct Line {
    /// When the last packet will have left.
    free: u64,
    rate_kbps: u64,
    /// The longest it was behind.
    behind: u64,
}

impl Line {
    fn new(rate_kbps: u64) -> Self {
        Self { free: 0, rate_kbps, behind: 0 }
    }

    /// Sends what the worker gave the driver of `wan`; frame and how long it took from its arrival to its last bit.
    fn send(&mut self, node: &Node, now: u64) -> Vec<(Vec<u8>, u64)> {
        let mut sent = Vec::new();
        for packet in node.wire("wan").unwrap().take() {
            self.behind = self.behind.max(self.free.saturating_sub(now));
            self.free = self.free.max(now) + counted(packet.data()) * 8_000_000 / self.rate_kbps;
            sent.push((packet.data().to_vec(), self.free - packet.stamp()));
        }
        sent
    }
}

/// DSCP of an untagged frame.
fn dscp(frame: &[u8]) -> u8 {
    if frame[12] == 8 { frame[15] >> 2 } else { (u16::from_be_bytes([frame[14], frame[15]]) >> 6 & 63) as u8 }
}

fn ecn(frame: &[u8]) -> u8 {
    if frame[12] == 8 { frame[15] & 3 } else { frame[15] >> 4 & 3 }
}

#[test]
fn classes_keep_their_promises_up_to_the_wire_while_best_effort_floods() {
    let mut node = node(&shaped(GIGABIT, QueueSpec::default()));
    let mut line = Line::new(GIGABIT);
    // DSCP, frame as it comes, Mbit/s; what is promised.
    let sources = [(46, 218, 150, MS), (34, 1518, 250, 10 * MS), (18, 700, 150, 100 * MS), (0, 1518, 10_000, u64::MAX)];
    let mut credit = [0u64; 4];
    let mut delays: [Vec<u64>; 4] = Default::default();
    let (mut octets, mut from_line) = (0, 0);
    let (start, end, step) = (MS, 81 * MS, 10 * US);
    let mut now = start;
    while now < end {
        for (n, (dscp, octets, mbps, _)) in sources.into_iter().enumerate() {
            credit[n] += step * mbps * 1000;
            let cost = (octets as u64 + 20) * 8_000_000;
            while credit[n] >= cost {
                credit[n] -= cost;
                put(&node, &plain(credit[n] / 8 % 2 == 0, dscp, octets), now);
            }
        }
        node.worker.turn(now);
        for (frame, delay) in line.send(&node, now) {
            if now < start + 20 * MS {
                continue;
            }
            from_line += 1;
            octets += counted(&frame);
            let class = sources.iter().position(|source| source.0 == dscp(&frame)).unwrap();
            delays[class].push(delay);
        }
        assert_eq!(node.totals().residue(), 0);
        now += step;
    }
    for ((_, octets, mbps, promise), delays) in sources.iter().zip(&mut delays).take(3) {
        delays.sort_unstable();
        let p99 = delays[delays.len() * 99 / 100];
        assert!(p99 < *promise, "{mbps} Mbit/s: {p99} ns");
        let offered = 60 * MS * mbps * 1000 / ((*octets as u64 + 20) * 8_000_000);
        assert!(delays.len() as u64 * 100 >= offered * 98, "{} of {offered}", delays.len());
    }
    assert!(delays[0][delays[0].len() * 99 / 100] < 500 * US, "P0 waits for what is in the driver and its own burst");
    let rate = octets as f64 * 8e6 / (60 * MS) as f64 / GIGABIT as f64;
    assert!((0.99..=1.01).contains(&rate), "{rate} with {from_line} packets");
    // 0.25 ms, and what a turn's step of the clock adds.
    assert!(line.behind <= 250 * US + step, "the driver had {} ns", line.behind);
    assert!(node.drops(DropReason::QueueFull) > 0 && node.totals().held > 0);
    let counters = node.queues("wan").unwrap().slot(0);
    assert_eq!(counters.iter().map(|queue| queue.packets.value()).sum::<u64>(), node.totals().held);
    let waits: Vec<u64> = counters[0].sojourn.iter().map(Counter::value).collect();
    let all: u64 = waits.iter().sum();
    assert_eq!(all, counters[0].sent.packets.value());
    assert!(waits[5..].iter().sum::<u64>() * 100 < all, "P0 within 1 ms: {waits:?}");
    let (mean, last) = (counters[3].waited.value() / counters[3].sent.packets.value(), counters[3].last_wait.value());
    assert!(mean > MS && last > MS, "P3 waits: {mean} ns, the last one {last} ns");
}

/// A session per family; the replies' frames, with these ECN bits.
fn replies(node: &mut Node, now: u64, ecn: u8) -> Vec<Vec<u8>> {
    let mut replies = Vec::new();
    for (client, vip) in [("192.0.2.7", "203.0.113.10"), ("2001:db8::7", "2001:db8:1::10")] {
        let port = 5000 + u16::from(ecn);
        node.receive("wan", &Packet::eth(CLIENT, port_mac(1)).ip(ip(client), ip(vip)).tcp(port, 80).flags(2).build());
        node.run(now);
        let sent = node.wire("lan").unwrap().take();
        let [syn] = &sent[..] else { panic!("{} packets", sent.len()) };
        let host = if client.contains(':') { 18 + 39 } else { 18 + 19 };
        let backend = if client.contains(':') { "fd00:20::" } else { "10.0.20." };
        let backend =
            format!("{backend}{}", if syn.data()[host] % 16 == 11 || syn.data()[host] == 0x11 { 11 } else { 12 });
        let packet = Packet::eth(SERVER, port_mac(0)).vlan(20).ip(ip(&backend), ip(client)).ecn(ecn);
        replies.push(packet.tcp(8080, port).flags(16).payload([7; 1000]).build());
    }
    replies
}

#[test]
fn queue_management_marks_who_understands_and_drops_who_does_not() {
    let queue = QueueSpec { rate_kbps: 20_000, target_us: 5_000, ecn: true, ..QueueSpec::default() };
    for bits in [0, 1, 2] {
        let mut node = node(&shaped(GIGABIT, queue));
        let frames = replies(&mut node, 2, bits);
        let (mut marked, mut plain, mut now) = (0, 0, 2);
        // 24 Mbit/s come, 20 leave.
        for n in 0..6000 {
            now += 350 * US;
            put(&node, &frames[n % 2], now);
            node.worker.turn(now);
            for packet in node.wire("wan").unwrap().take() {
                let frame = packet.data();
                let checks = checksums(frame);
                assert_eq!(checks.l3, if frame[12] == 8 { Check::Good } else { Check::Absent });
                assert_eq!(checks.l4, Check::Good);
                match ecn(frame) {
                    3 => marked += 1,
                    found => {
                        assert_eq!(found, bits);
                        plain += 1;
                    }
                }
            }
            assert_eq!(node.totals().residue(), 0);
        }
        let slot =
            node.publisher.current().shaping.slot_of(node.publisher.current().services.named("web").unwrap().counter);
        let counters = &node.queues("wan").unwrap().slot(usize::from(slot))[3];
        assert_eq!(counters.marked.value(), marked);
        assert_eq!(counters.sent.packets.value(), marked + plain, "all of it is the service's");
        let dropped = node.drops(DropReason::QueueAqm);
        if bits == 0 {
            assert!(dropped > 10 && marked == 0, "{dropped} dropped, {marked} marked");
        } else {
            assert!(dropped == 0 && marked > 10, "{dropped} dropped, {marked} marked");
        }
    }
}

#[test]
fn a_service_keeps_to_its_rate_and_what_waits_outlives_pushes() {
    let queue = QueueSpec { rate_kbps: 10_000, burst_bytes: 4_000, ..QueueSpec::default() };
    let tables = shaped(GIGABIT, queue);
    let mut node = node(&tables);
    let frames = replies(&mut node, 2, 0);
    for n in 0..200 {
        put(&node, &frames[n % 2], 2);
    }
    let cost = counted(&frames[0]) - 4;
    let octets = |node: &mut Node, (from, to)| {
        let mut octets = 0;
        let mut now = from;
        while now < to {
            node.worker.turn(now);
            octets += node.wire("wan").unwrap().take().iter().map(|packet| counted(packet.data())).sum::<u64>();
            assert_eq!(node.totals().residue(), 0);
            now += 100 * US;
        }
        octets
    };
    let sent = octets(&mut node, (2, 50 * MS));
    assert!(sent <= 62_500 + 4_000 && sent + 2 * cost >= 62_500, "{sent} of 50 ms at 10 Mbit/s and a burst");
    // Nothing is lost by a push, and the new rate holds.
    let held = node.totals().held;
    let mut faster = tables.clone();
    faster.services[0].queue.rate_kbps = 20_000;
    node.push(&faster).unwrap();
    let sent = octets(&mut node, (50 * MS, 70 * MS));
    assert!((45_000..=55_000).contains(&sent), "{sent} of 20 ms at 20 Mbit/s");
    assert!(node.totals().held < held);
    // Without the service its packets go as fast as the port lets them.
    node.push(&RuleTables { services: Vec::new(), ..faster.clone() }).unwrap();
    octets(&mut node, (70 * MS, 75 * MS));
    assert_eq!(node.totals().held, 0);
    // Without the shaper nothing waits at all.
    put(&node, &plain(false, 0, 1518), 75 * MS);
    node.push(&RuleTables { shapers: Vec::new(), ..tables }).unwrap();
    assert_eq!(octets(&mut node, (75 * MS, 75 * MS + 1)), counted(&plain(false, 0, 1514)));
    assert_eq!(node.drops(DropReason::QueueFull) + node.drops(DropReason::QueueDeadline), 0);
}

/// What the slow path sends waits like everything else.
#[test]
fn answers_to_arp_pass_a_flood() {
    let mut node = node(&shaped(GIGABIT, QueueSpec::default()));
    let mut now = MS;
    let mut answered = None;
    for n in 0..400 {
        for _ in 0..10 {
            put(&node, &plain(false, 0, 1518), now);
        }
        if n == 200 {
            let request = Packet::eth(CLIENT, port_mac(1)).arp_request([192, 0, 2, 7], [192, 0, 2, 1]);
            node.receive("wan", &request.build());
        }
        node.worker.turn(now);
        node.slow.turn(now);
        let arp = node.wire("wan").unwrap().take().iter().any(|packet| packet.data()[12..14] == [8, 6]);
        answered = answered.or(arp.then_some(n));
        now += 10 * US;
    }
    assert!(answered.is_some_and(|n| n <= 203), "{answered:?}");
}
