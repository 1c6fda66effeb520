//! Packets looked at while they pass: what a trace tells, what a capture holds at each point, and when a lens sees nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{CLIENT, SERVER, introduce_everybody, ip, tables};
use marchproxy_engine::observe::render::{self, Names};
use marchproxy_engine::observe::{End, Lens, Order, Point, Record, filter, language};
use marchproxy_engine::packet::{ACK, Packet, SYN};
use marchproxy_engine::reason::{DropReason, PuntReason};
use marchproxy_engine::tables::{PolicerAction, PolicerSpec, RuleTables};
use marchproxy_engine::testkit::{Node, port_mac};
use marchproxy_engine::worker::{Command, Reply};

const SECOND: u64 = 1_000_000_000;

struct Looking {
    node: Node,
    now: u64,
}

impl Looking {
    fn at(tables: &RuleTables) -> Self {
        let mut node = Node::new(tables).unwrap();
        introduce_everybody(&mut node, SECOND);
        Self { node, now: SECOND }
    }

    fn order(&self, point: Point, text: &str) -> Order {
        let places = filter::places(self.node.publisher.current());
        let filter = language::parse(text, Some(&places)).unwrap();
        Order { filter, point, snaplen: 2048, wanted: 1000, span: 10 * SECOND }
    }

    fn exchange(&mut self, lens: Option<Box<Lens>>) -> Option<Box<Lens>> {
        self.node.commands.push(Command::Observe(lens)).unwrap();
        self.node.worker.turn(self.now);
        let Ok(Reply::Observed(before)) = self.node.replies.pop() else { panic!("no answer") };
        before
    }

    /// Looks at what these frames meet, on worker and slow path.
    fn look(&mut self, order: &Order, frames: &[(&str, Vec<u8>)]) -> (Box<Lens>, Box<Lens>) {
        self.now += SECOND;
        let slow = Order { filter: order.filter.of_frames(), ..order.clone() };
        self.node.slow.observe(Some(Lens::new(slow, 64, 1 << 16)), self.now);
        assert!(self.exchange(Some(Lens::new(order.clone(), 64, 1 << 16))).is_none());
        for (port, frame) in frames {
            self.node.receive(port, frame);
        }
        self.node.run(self.now);
        let lens = self.exchange(None).unwrap();
        assert!(self.exchange(None).is_none());
        assert_eq!(self.node.totals().residue(), 0);
        (lens, self.node.slow.observe(None, self.now).unwrap())
    }

    fn tell(&self, record: &Record) -> Vec<String> {
        let names = Names::of(self.node.publisher.current(), self.node.publisher.generation());
        assert!(record.stages.as_ref().is_none_or(|stages| stages.generation == names.generation()));
        let mut lines = vec![render::frame(&record.seen)];
        lines.extend(
            render::steps(record, &names).into_iter().map(|s| format!("{}: {}: {}", s.stage, s.object, s.detail)),
        );
        lines.push(render::end(record, &names));
        lines
    }
}

fn to_service(port: u16, flags: u8) -> (&'static str, Vec<u8>) {
    let packet = Packet::eth(CLIENT, port_mac(1)).ip(ip("192.0.2.7"), ip("203.0.113.10"));
    ("wan", packet.tcp(port, 80).flags(flags).build())
}

fn to(dst: &str, dport: u16) -> (&'static str, Vec<u8>) {
    ("wan", Packet::eth(CLIENT, port_mac(1)).ip(ip("192.0.2.7"), ip(dst)).tcp(9, dport).flags(SYN).build())
}

fn policed() -> RuleTables {
    let mut tables = tables();
    tables.policers.push(PolicerSpec {
        name: "slow-lane".into(),
        cir: 8,
        cbs: 60,
        ebs: 0,
        on_green: PolicerAction::Pass,
        on_yellow: PolicerAction::Pass,
        on_red: PolicerAction::Drop,
        ..Default::default()
    });
    tables.services[0].policer = Some(0);
    tables
}

#[test]
fn a_trace_tells_each_stage_in_words() {
    let mut looking = Looking::at(&policed());
    let order = looking.order(Point::Trace, "");
    let malformed =
        ("wan", Packet::eth(CLIENT, port_mac(1)).ip(ip("192.0.2.7"), ip("10.0.20.11")).tcp(1, 2).truncate(40).build());
    let frames =
        [to_service(4242, SYN), to_service(4242, ACK), to("10.0.20.11", 23), to("198.51.100.1", 443), malformed];
    let (lens, slow) = looking.look(&order, &frames);
    let told: Vec<_> = lens.records.iter().map(|record| looking.tell(record)).collect();
    let backend = told[0].iter().find(|line| line.starts_with("service: backend")).unwrap().clone();
    assert!(backend.ends_with(":8080"), "{backend}");
    let target = backend.rsplit(' ').next().unwrap();
    assert_eq!(
        told[0],
        [
            "192.0.2.7:4242 > 203.0.113.10:80 tcp SYN".to_owned(),
            "parse: interface wan0: 40 octets, ttl 64".into(),
            "session: session of 192.0.2.7:4242: made by this packet, state opening, decided by generation 2".into(),
            "rule: rule rest: permit".into(),
            "service: service web: by its destination".into(),
            backend.clone(),
            format!("rewrite: destination: 203.0.113.10:80 becomes {target}"),
            format!("route: interface lan20: next hop {} on port lan", target.trim_end_matches(":8080")),
            "police: policer slow-lane: green".into(),
            "mark: dscp 10: ".into(),
            "sent on port lan".into(),
        ]
    );
    assert_eq!(
        told[1][2],
        "session: session of 192.0.2.7:4242: client's packet, state opening, decided by generation 2"
    );
    assert_eq!(
        told[1][3..6],
        ["rule: rule rest: permit, by the session", "service: service web: by the session", &backend]
    );
    assert_eq!(told[1][8..], ["police: policer slow-lane: red", "mark: dscp 10: ", "dropped: policer_drop"]);
    assert_eq!(
        told[2][1..],
        ["parse: interface wan0: 40 octets, ttl 64", "rule: rule no-telnet: deny", "dropped: rule_deny"]
    );
    assert_eq!(told[3].last().unwrap(), "to the slow path: no_route");
    assert!(!told[3].iter().any(|line| line.starts_with("route")), "{:?}", told[3]);
    assert_eq!(told[4].last().unwrap(), "dropped: ip_truncated");
    assert_eq!((lens.missed, slow.records.len()), (0, 1));
    assert_eq!(slow.records[0].end, End::Dropped(DropReason::NoRoute));
    // Nothing that was left of these packets is told of the next ones.
    let (lens, _) = looking.look(&order, &[("wan", vec![0; 60]), ("wan", vec![1, 2, 3])]);
    for record in &lens.records {
        assert_eq!(looking.tell(record).len(), 2, "{:?}", looking.tell(record));
    }
}

#[test]
fn a_reply_is_told_with_its_session() {
    let mut looking = Looking::at(&tables());
    let order = looking.order(Point::Trace, "in lan and sport 8080");
    let (lens, _) = looking.look(&looking.order(Point::Tx, "dst 203.0.113.10"), &[to_service(77, SYN)]);
    let server = std::net::IpAddr::from(<[u8; 4]>::try_from(&lens.copy(&lens.records[0])[34..38]).unwrap());
    let reply = Packet::eth(SERVER, port_mac(0)).vlan(20).ip(server, ip("192.0.2.7")).tcp(8080, 77).flags(ACK).build();
    let (lens, _) = looking.look(&order, &[("lan", reply), to_service(78, SYN)]);
    assert_eq!(lens.records.len(), 1);
    let told = looking.tell(&lens.records[0]).join("\n");
    for part in
        ["vlan 20 ", ": reply, state opening", "rewrite: source: ", "becomes 203.0.113.10:80", "sent on port wan"]
    {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
}

#[test]
fn captures_hold_the_octets_of_their_point() {
    let mut looking = Looking::at(&tables());
    let (_, mut syn) = to_service(4242, SYN);
    syn.resize(60, 0xee); // Ethernet padding
    let frames = [("wan", syn.clone()), to("10.0.20.11", 23), to("198.51.100.1", 443), to("10.0.20.11", 443)];
    for (point, filter, wanted) in [
        (Point::Rx, "", 4),
        (Point::Rx, "fate dropped", 1),
        (Point::Rx, "fate sent and not dport 443", 1),
        (Point::Rx, "reason no_route", 1),
        (Point::PostNat, "", 1),
        // Two that are sent, and the slow path's ICMP error about the one without a route.
        (Point::Tx, "", 3),
        (Point::Tx, "tcp out lan", 2),
        (Point::Drop, "", 1),
        (Point::Drop, "reason rule_deny", 1),
        (Point::Drop, "reason no_route", 0),
    ] {
        let (lens, slow) = looking.look(&looking.order(point, filter), &frames);
        assert_eq!(lens.records.len(), wanted, "{point:?} {filter}: {:?}", lens.records);
        let copies: Vec<&[u8]> = lens.records.iter().map(|record| lens.copy(record)).collect();
        match point {
            Point::Rx if filter.is_empty() => {
                assert_eq!(copies, frames.iter().map(|(_, frame)| frame.as_slice()).collect::<Vec<_>>());
            }
            Point::Rx if filter == "fate dropped" => assert_eq!(copies[0], frames[1].1),
            Point::Rx if filter == "reason no_route" => assert_eq!(copies[0], frames[2].1),
            Point::PostNat => {
                // The egress tag, the backend's address and port.
                assert_eq!(
                    (&copies[0][12..16], &copies[0][40..42]),
                    (&[0x81, 0, 0, 20][..], &8080u16.to_be_bytes()[..])
                );
                assert_eq!(lens.records[0].length, 58);
            }
            Point::Drop if filter.is_empty() => {
                assert_eq!((copies[0], lens.records[0].end), (&frames[1].1[..], End::Dropped(DropReason::RuleDeny)));
                let dropped: Vec<_> = slow.records.iter().map(|record| record.end).collect();
                assert_eq!(dropped, [End::Dropped(DropReason::NoRoute)]);
                assert_eq!(slow.copy(&slow.records[0]), frames[2].1);
            }
            _ => {}
        }
    }
}

#[test]
fn what_finds_no_room_is_counted_and_what_is_enough_is_not() {
    let mut looking = Looking::at(&tables());
    let frames: Vec<_> = (0..40).map(|n| to_service(1000 + n, SYN)).collect();
    for (wanted, room, octets, seen, missed) in
        [(1000, 64, 1 << 16, 40, 0), (1000, 10, 1 << 16, 10, 30), (1000, 64, 5 * 54, 5, 35), (7, 64, 1 << 16, 7, 0)]
    {
        for point in [Point::Rx, Point::Trace] {
            looking.now += SECOND;
            let order = Order { wanted, snaplen: 54, ..looking.order(point, "tcp") };
            looking.exchange(Some(Lens::new(order, room, octets)));
            for (port, frame) in &frames {
                looking.node.receive(port, frame);
            }
            looking.node.run(looking.now);
            let lens = looking.exchange(None).unwrap();
            let unbounded = point == Point::Trace && octets < 1 << 16;
            let expected = if unbounded { (40, 0) } else { (seen, missed) };
            assert_eq!((lens.records.len(), lens.missed), expected, "{point:?} {wanted} {room} {octets}");
        }
    }
    assert_eq!(looking.node.totals().residue(), 0);
}

#[test]
fn a_lens_blinds_itself_when_its_time_is_up() {
    let mut looking = Looking::at(&tables());
    let order = Order { span: SECOND, ..looking.order(Point::Trace, "") };
    looking.exchange(Some(Lens::new(order, 64, 0)));
    let began = looking.now;
    for (after, seen) in [(SECOND - 1, 1), (SECOND, 1), (10 * SECOND, 1)] {
        looking.now = began + after;
        let (port, frame) = to("10.0.20.11", 443);
        looking.node.receive(port, &frame);
        looking.node.run(looking.now);
        let lens = looking.exchange(None).unwrap();
        assert_eq!(lens.records.len(), seen, "{after}");
        looking.node.commands.push(Command::Observe(Some(lens))).unwrap();
        // Taken up again at the old time: its span begins anew, so give it none.
        looking.node.worker.turn(began);
        looking.node.replies.pop().unwrap();
    }
}

#[test]
fn full_queues_show_in_captures_of_drops() {
    let mut looking = Looking::at(&tables());
    looking.node.slow.turn(looking.now);
    let order = Order { wanted: 2000, ..looking.order(Point::Drop, "reason punt_queue_full") };
    looking.exchange(Some(Lens::new(order, 64, 1 << 16)));
    for n in 0..1100 {
        let (port, frame) = to("198.51.100.1", 1000 + n);
        looking.node.receive(port, &frame);
    }
    for _ in 0..40 {
        looking.node.worker.turn(looking.now);
    }
    let lens = looking.exchange(None).unwrap();
    assert_eq!((lens.records.len() as u64 + lens.missed, lens.records.len()), (1100 - 1024, 64));
    assert_eq!(lens.records[0].end, End::Dropped(DropReason::PuntQueueFull));
    looking.node.run(looking.now);
    assert_eq!(looking.node.totals().residue(), 0);
}

#[test]
fn an_answer_of_the_slow_path_is_told() {
    let mut looking = Looking::at(&tables());
    let echo = Packet::eth(CLIENT, port_mac(1)).ipv4([192, 0, 2, 7], [192, 0, 2, 1]).icmp_echo(1, 1).build();
    let (lens, slow) = looking.look(&looking.order(Point::Trace, "icmp"), &[("wan", echo)]);
    assert_eq!(lens.records[0].end, End::Punted(PuntReason::Local));
    assert_eq!(slow.records[0].end.reason().0, "echo");
}
