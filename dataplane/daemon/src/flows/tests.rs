//! Messages read as a collector would, by their templates alone.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use marchproxy_cpu::TscClock;
use marchproxy_engine::flow::{FlowKey, from_ip};
use marchproxy_engine::table::sessions::{FlowEnd, FlowEvent, FlowRecord};
use marchproxy_engine::tables::{FlowsSpec, ServiceMode};
use nix::sched::{CloneFlags, unshare};

use super::ipfix::{Encoder, Message, Selection};
use super::{Counters, Order, RING, run};

/// A collector's memory: fields by template.
#[derive(Default)]
struct Reader {
    templates: BTreeMap<u16, Vec<(u16, usize)>>,
    sequence: Option<u32>,
    records: Vec<(u16, BTreeMap<u16, u128>)>,
}

fn word(octets: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([octets[at], octets[at + 1]])
}

fn long(octets: &[u8], at: usize) -> u32 {
    u32::from(word(octets, at)) << 16 | u32::from(word(octets, at + 2))
}

impl Reader {
    fn read(&mut self, message: &Message, limit: usize) {
        let octets = &message.octets;
        assert!(octets.len() <= limit, "{} octets", octets.len());
        assert_eq!((word(octets, 0), usize::from(word(octets, 2))), (10, octets.len()));
        assert_eq!((long(octets, 4), long(octets, 12)), (1_700_000_000, 7));
        assert_eq!(*self.sequence.get_or_insert(0), long(octets, 8), "records before this message");
        let (mut at, before) = (16, self.records.len());
        while at < octets.len() {
            let (set, end) = (word(octets, at), at + usize::from(word(octets, at + 2)));
            self.set(set, &octets[at + 4..end]);
            at = end;
        }
        assert_eq!(at, octets.len());
        assert_eq!(self.records.len() - before, message.records as usize);
        self.sequence = self.sequence.map(|sequence| sequence + message.records);
    }

    fn set(&mut self, set: u16, mut rest: &[u8]) {
        while !rest.is_empty() {
            if set < 256 {
                let (template, count) = (word(rest, 0), usize::from(word(rest, 2)));
                let head = if set == 3 { 6 } else { 4 };
                let field = |n| (word(rest, head + n * 4), usize::from(word(rest, head + n * 4 + 2)));
                self.templates.insert(template, (0..count).map(field).collect());
                rest = &rest[head + count * 4..];
                continue;
            }
            let mut fields = BTreeMap::new();
            for &(number, octets) in &self.templates[&set] {
                let value = rest[..octets].iter().fold(0, |value, octet| value << 8 | u128::from(*octet));
                fields.insert(number, value);
                rest = &rest[octets..];
            }
            self.records.push((set, fields));
        }
    }
}

const LIMIT: usize = 512;

fn read(records: &[FlowRecord], nat_events: bool) -> Reader {
    let (mut encoder, mut messages, mut reader) = (Encoder::new(7, LIMIT), Vec::new(), Reader::default());
    encoder.begin(1_700_000_000, LIMIT);
    encoder.templates(&Selection { one_of: 10, selected: 3, passed_over: 27 }, &mut messages);
    for record in records {
        encoder.session(record, nat_events, |nanos| nanos / 1_000_000, &mut messages);
    }
    encoder.flush(&mut messages);
    for message in &messages {
        reader.read(message, LIMIT);
    }
    reader
}

fn ip(text: &str) -> u128 {
    from_ip(text.parse().unwrap())
}

fn record(v6: bool, protocol: u8) -> FlowRecord {
    let [client, service, backend] =
        if v6 { ["2001:db8::7", "2001:db8::10", "fd00::11"] } else { ["192.0.2.7", "203.0.113.10", "10.0.0.11"] };
    FlowRecord {
        event: FlowEvent::Ended(FlowEnd::Closed),
        key: FlowKey { src: ip(client), dst: ip(service), protocol, sport: 4000, dport: 80 },
        backend: (ip(backend), 8080),
        source: None,
        mode: ServiceMode::Nat,
        packets: [5, 4],
        octets: [500, 4000],
        first: [1_000_000_000, 1_010_000_000],
        last: [2_000_000_000, 1_900_000_000],
    }
}

#[test]
fn a_session_is_two_flows_with_their_translation() {
    let v4 = |text: &str| u128::from(u32::from(text.parse::<std::net::Ipv4Addr>().unwrap()));
    let reader = read(&[record(false, 6)], true);
    let [(_, selection), (there, forth), (back, reply), (event, nat)] = &reader.records[..] else {
        panic!("{:?}", reader.records)
    };
    assert_eq!([390, 396, 397, 394, 395].map(|field| selection[&field]), [1, 1, 9, 30, 3]);
    assert_eq!((there, back, *event), (&260, &260, 264));
    assert_eq!([152, 153, 1, 2, 4, 136].map(|field| forth[&field]), [1000, 2000, 500, 5, 6, 3]);
    assert_eq!([8, 12, 7, 11].map(|field| forth[&field]), [v4("192.0.2.7"), v4("203.0.113.10"), 4000, 80]);
    assert_eq!([225, 226, 227, 228].map(|f| forth[&f]), [v4("192.0.2.7"), v4("10.0.0.11"), 4000, 8080]);
    assert_eq!([152, 153].map(|field| reply[&field]), [1010, 1900], "each direction's own");
    assert_eq!([1, 2, 8, 12, 7, 11].map(|f| reply[&f]), [4000, 4, v4("10.0.0.11"), v4("192.0.2.7"), 8080, 4000]);
    assert_eq!([225, 226, 227, 228].map(|f| reply[&f]), [v4("203.0.113.10"), v4("192.0.2.7"), 80, 4000]);
    assert_eq!([323, 230, 226, 228].map(|f| nat[&f]), [2000, 5, v4("10.0.0.11"), 8080]);
}

#[test]
fn templates_fit_what_a_session_is() {
    let direct = FlowRecord { mode: ServiceMode::DsrIpip, packets: [5, 0], ..record(true, 17) };
    let source = Some((ip("2001:db8::99"), 2000));
    let full = FlowRecord { mode: ServiceMode::FullNat, source, ..record(true, 6) };
    let echo = record(true, 58);
    let idle =
        FlowRecord { event: FlowEvent::Ended(FlowEnd::Idle), packets: [0, 0], octets: [0, 0], ..record(false, 1) };
    let began = FlowRecord { event: FlowEvent::Began, ..record(true, 6) };
    let reader = read(&[direct, full, echo, idle, began], true);
    let templates: Vec<u16> = reader.records.iter().map(|(template, _)| *template).collect();
    // No NAT event of IPv6 or ICMP.
    assert_eq!(templates, [265, 257, 261, 261, 263, 263, 262]);
    let records: Vec<_> = reader.records.iter().map(|(_, fields)| fields).collect();
    assert!(!records[1].contains_key(&281));
    // The reply goes to the pool and comes back to the client.
    assert_eq!([281, 227].map(|f| records[2][&f]), [ip("2001:db8::99"), 2000]);
    assert_eq!([28, 11, 282, 228].map(|f| records[3][&f]), [ip("2001:db8::99"), 2000, ip("2001:db8::7"), 4000]);
    assert_eq!((records[4][&139], records[5][&139], records[6][&32]), (128 << 8, 129 << 8, 8 << 8));
    assert_eq!((records[6][&2], records[6][&136]), (0, 1));
}

#[test]
fn messages_are_bounded_and_numbered() {
    let records: Vec<FlowRecord> = (0..200).map(|n| record(n % 3 == 0, [6, 17, 1][n % 3])).collect();
    let reader = read(&records, true);
    // Each two flows; NAT events of IPv4 with ports alone, which is a third; and the record about selection.
    assert_eq!(reader.records.len(), 400 + 67 + 1);
}

/// The thread gets a network of its own, whose loopback has this MTU.
fn alone(mtu: u16) {
    unshare(CloneFlags::CLONE_NEWNET).expect("root, who may make network namespaces");
    let up = Command::new("ip").args(["link", "set", "lo", "mtu", &mtu.to_string(), "up"]).status().unwrap();
    assert!(up.success());
}

fn spec(collector: std::net::SocketAddr, template_refresh_s: u32) -> FlowsSpec {
    FlowsSpec {
        collector,
        domain: 7,
        one_of: 1,
        active_timeout_s: 60,
        template_refresh_s,
        message_octets: 8952,
        nat_events: true,
        services: vec![],
    }
}

/// An exporter, its orders, and what it counts; it ends with its orders.
fn exporter(ours: FlowsSpec, records: usize) -> (mpsc::Sender<Order>, Arc<Counters>, std::thread::JoinHandle<()>) {
    let (mut ring, out) = rtrb::RingBuffer::new(RING);
    (0..records).for_each(|n| ring.push(record(n % 2 == 0, [6, 17][n % 2])).unwrap());
    let (orders, inbox) = mpsc::channel();
    orders.send(Order::Begin(ours, vec![out])).unwrap();
    let counters = Arc::new(Counters::default());
    let theirs = counters.clone();
    // A thread of this one's network.
    let thread = std::thread::spawn(move || {
        let totals: super::Totals = Box::new(|| [0, 0]);
        run(&inbox, &theirs, TscClock::calibrate(), &totals);
    });
    (orders, counters, thread)
}

fn eventually(done: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn sets(message: &[u8]) -> Vec<u16> {
    let (mut at, mut found) = (16, Vec::new());
    while at < message.len() {
        found.push(word(message, at));
        at += usize::from(word(message, at + 2));
    }
    found
}

#[test]
fn no_message_is_longer_than_the_way_takes() {
    for (address, headers) in [("127.0.0.1:0", 28), ("[::1]:0", 48)] {
        let sent = std::thread::spawn(move || {
            alone(1300);
            let collector = UdpSocket::bind(address).unwrap();
            collector.set_nonblocking(true).unwrap();
            let (orders, counters, thread) = exporter(spec(collector.local_addr().unwrap(), 60), 200);
            // Each record two flows, every other one, of IPv4, a NAT event; and the selection. So many fit into the socket.
            eventually(|| counters.records.load(Ordering::Relaxed) == 501);
            let mut octets = [0; 9000];
            let longest = std::iter::from_fn(|| collector.recv(&mut octets).ok()).max().unwrap();
            assert_eq!((counters.unsent.load(Ordering::Relaxed), counters.failures.load(Ordering::Relaxed)), (0, 0));
            drop(orders);
            thread.join().unwrap();
            longest
        });
        let longest = sent.join().unwrap();
        assert!((1100..=1300 - headers).contains(&longest), "{longest} octets to {address}");
    }
}

#[test]
fn templates_come_again_and_a_collector_that_comes_late_hears_them() {
    std::thread::spawn(|| {
        alone(65_000);
        let late = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (orders, counters, thread) = exporter(spec(late, 1), 1);
        // The first templates and the record went where nobody was, which the kernel said with the next message.
        eventually(|| counters.failures.load(Ordering::Relaxed) > 0);
        assert!(counters.trouble.lock().unwrap().contains("refused"));
        let collector = UdpSocket::bind(late).unwrap();
        collector.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut octets = [0; 9000];
        let mut numbers = Vec::new();
        for _ in 0..2 {
            let length = collector.recv(&mut octets).unwrap();
            assert_eq!(sets(&octets[..length]), [2, 3, 265], "templates, options template, selection");
            numbers.push(long(&octets, 8));
        }
        assert_eq!(numbers[1] - numbers[0], 1, "the selection's record");
        assert!(numbers[0] >= 4, "records before count, though they are lost: {numbers:?}");
        drop(orders);
        thread.join().unwrap();
    })
    .join()
    .unwrap();
}
