//! Looking at live packets on a whole node: traces, captures, and `why` of live sessions.

use std::thread::JoinHandle;

use marchproxy_dataplane::runtime::Outlet;
use v1::observation::Item;

use super::*;

/// A trace or capture in a thread of its own.
struct Looking {
    items: tokio::sync::mpsc::Receiver<Result<v1::Observation, String>>,
    thread: JoinHandle<Result<(), String>>,
}

impl Looking {
    fn start(rig: &Rig, look: impl FnOnce(&dyn Runtime, &Outlet) -> Result<(), String> + Send + 'static) -> Self {
        let (outlet, items) = tokio::sync::mpsc::channel(1024);
        let node = rig.node.clone();
        let thread = std::thread::spawn(move || look(&*node, &outlet));
        Self { items, thread }
    }

    fn trace(rig: &Rig, request: v1::TraceRequest) -> Self {
        Self::start(rig, move |node, outlet| node.trace(&request, outlet))
    }

    fn capture(rig: &Rig, request: v1::CaptureRequest) -> Self {
        Self::start(rig, move |node, outlet| node.capture(&request, outlet))
    }

    /// Once this returns, packets are looked at.
    fn begun(mut self) -> Self {
        let Some(Ok(v1::Observation { item: Some(Item::Begun(begun)) })) = self.items.blocking_recv() else {
            panic!("not begun")
        };
        assert_eq!(begun.ports, ["lan", "wan"]);
        self
    }

    /// Everything until it ends by itself.
    fn all(mut self) -> (Vec<v1::ObservedPacket>, Vec<v1::SlowPathEnd>, v1::ObservationEnd) {
        let (mut packets, mut ends) = (Vec::new(), Vec::new());
        loop {
            match self.items.blocking_recv().expect("an end").unwrap().item.unwrap() {
                Item::Packet(packet) => packets.push(packet),
                Item::SlowPath(end) => ends.push(end),
                Item::End(end) => {
                    self.thread.join().unwrap().unwrap();
                    return (packets, ends, end);
                }
                Item::Begun(_) => panic!("begun twice"),
            }
        }
    }
}

fn service() -> ServiceSpec {
    let backend = BackendSpec {
        name: "a".into(),
        address: "198.18.2.2".parse().unwrap(),
        port: Some(8080),
        weight: 1,
        ..Default::default()
    };
    ServiceSpec {
        name: "web".into(),
        addresses: vec!["203.0.113.10".parse().unwrap()],
        protocol: ServiceProtocol::Tcp,
        ports: vec![PortRange { first: 80, last: 80 }],
        backends: vec![backend],
        ..Default::default()
    }
}

fn balanced() -> RuleTables {
    let permit = RuleSpec { action: RuleAction::Permit, mark: Some(10), ..deny_all("all") };
    RuleTables { services: vec![service()], rules: vec![permit], ..tables() }
}

fn syn(port: u16) -> Vec<u8> {
    Packet::eth(THEIRS, OURS).ipv4([198, 18, 1, 9], [203, 0, 113, 10]).tcp(port, 80).flags(2).build()
}

fn has(steps: &[v1::WhyStep], object: &str, detail: &str) -> bool {
    steps.iter().any(|step| step.object == object && step.detail.contains(detail))
}

#[test]
fn a_trace_follows_packets_to_their_end() {
    for workers in [1, 2] {
        let mut rig = Rig::new(workers);
        rig.push(&balanced()).unwrap();
        introduce(&rig);
        let looking =
            Looking::trace(&rig, v1::TraceRequest { count: 3, r#match: "in lan".into(), ..Default::default() }).begun();
        let second = Looking::trace(&rig, v1::TraceRequest::default());
        assert!(second.thread.join().unwrap().unwrap_err().contains("one at a time"));
        rig.put("vdev:net_null0", &syn(40_000));
        rig.take("vdev:net_null1");
        rig.put("vdev:net_null0", &syn(40_000));
        rig.take("vdev:net_null1");
        let lost = Packet::eth(THEIRS, OURS).ipv4([198, 18, 1, 9], [192, 0, 2, 1]).udp(5, 6).build();
        rig.put("vdev:net_null0", &lost);
        let (packets, ends, end) = looking.all();
        assert_eq!((end.packets, end.missed, end.ended.as_str()), (3, 0, "count"));
        let [first, again, lost] = &packets[..] else { panic!("{packets:?}") };
        assert_eq!((first.number, first.fate.as_str(), first.port.as_str()), (1, "sent", "lan"));
        assert_eq!((first.interface.as_str(), first.out_port.as_str(), first.generation), ("lan0", "wan", 2));
        assert_eq!(first.frame, "198.18.1.9:40000 > 203.0.113.10:80 tcp SYN");
        assert!(has(&first.steps, "session of 198.18.1.9:40000", "made by this packet"), "{first:?}");
        assert!(has(&first.steps, "backend web/a", "198.18.2.2:8080"), "{first:?}");
        assert!(has(&again.steps, "rule all", "permit, by the session"), "{again:?}");
        assert!(has(&again.steps, "dscp 10", ""), "{again:?}");
        assert_eq!((lost.fate.as_str(), lost.reason.as_str()), ("punted", "no_route"));
        assert_eq!(ends.len(), 1);
        assert_eq!((ends[0].number, ends[0].fate.as_str(), ends[0].reason.as_str()), (3, "dropped", "no_route"));
        let age = std::time::SystemTime::now().duration_since(first.at.unwrap().try_into().unwrap()).unwrap();
        assert!(age < Duration::from_secs(5), "{age:?}");
        rig.end();
    }
}

#[test]
fn a_trace_ends_by_time_and_when_nobody_listens_and_frees_the_node() {
    let mut rig = Rig::new(1);
    rig.push(&balanced()).unwrap();
    let (packets, _, end) =
        Looking::trace(&rig, v1::TraceRequest { timeout_ms: 50, ..Default::default() }).begun().all();
    assert_eq!((packets.len(), end.ended.as_str()), (0, "timeout"));
    let Looking { items, thread } = Looking::trace(&rig, v1::TraceRequest::default()).begun();
    drop(items);
    let start = Instant::now();
    thread.join().unwrap().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
    for (request, wanted) in [
        (
            v1::TraceRequest { r#match: "in dmz".into(), ..Default::default() },
            "at character 4: found \"dmz\", allowed: a port or interface: lan, lan0, wan, wan0",
        ),
        (v1::TraceRequest { count: 10_001, ..Default::default() }, "count: found 10001, allowed: 1 to 10000"),
        (v1::TraceRequest { timeout_ms: 3_600_001, ..Default::default() }, "timeout_ms: found 3600001"),
    ] {
        let error = Looking::trace(&rig, request).thread.join().unwrap().unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
    let error = Looking::capture(&rig, v1::CaptureRequest { at: "nat".into(), ..Default::default() });
    let error = error.thread.join().unwrap().unwrap_err();
    assert_eq!(error, "at: found \"nat\", allowed: rx, post-nat, tx, drop");
    rig.end();
}

#[test]
fn captures_hold_whole_packets_of_workers_and_slow_path() {
    let mut rig = Rig::new(1);
    rig.push(&RuleTables { rules: vec![deny_all("nothing")], ..tables() }).unwrap();
    let udp = |to: [u8; 4]| Packet::eth(THEIRS, OURS).ipv4([198, 18, 1, 9], to).udp(5, 6).build();
    let request = v1::CaptureRequest { at: "drop".into(), count: 2, snaplen: 40, ..Default::default() };
    let looking = Looking::capture(&rig, request).begun();
    rig.put("vdev:net_null0", &udp([192, 0, 2, 1]));
    // For an address of the node, a closed port: dropped by the slow path.
    rig.put("vdev:net_null0", &udp([198, 18, 1, 1]));
    let (mut packets, _, end) = looking.all();
    packets.sort_by(|a, b| a.reason.cmp(&b.reason));
    let told: Vec<_> = packets.iter().map(|p| (p.reason.as_str(), p.thread.as_str(), p.port.as_str())).collect();
    assert_eq!(told, [("local_unreachable", "slow path", "lan"), ("rule_deny", "worker 0", "lan")]);
    assert_eq!((packets[1].octets.as_slice(), packets[1].length), (&udp([192, 0, 2, 1])[..40], 42));
    assert_eq!((end.packets, end.missed), (2, 0));

    let request = v1::CaptureRequest { at: "tx".into(), count: 1, r#match: "arp".into(), ..Default::default() };
    let looking = Looking::capture(&rig, request).begun();
    introduce(&rig);
    let (packets, ..) = looking.all();
    assert_eq!((packets[0].octets[..6].to_vec(), packets[0].out_port.as_str()), (THEIRS.to_vec(), "wan"));
    rig.end();
}

#[test]
fn why_names_what_decided_a_live_session_and_what_will_after_a_push() {
    let mut rig = Rig::new(1);
    rig.push(&balanced()).unwrap();
    introduce(&rig);
    rig.put("vdev:net_null0", &syn(40_000));
    rig.take("vdev:net_null1");
    let ask = v1::WhyRequest {
        r#in: "lan0".into(),
        src: "198.18.1.9".into(),
        dst: "203.0.113.10".into(),
        protocol: "tcp".into(),
        src_port: 40_000,
        dst_port: 80,
        ..v1::WhyRequest::default()
    };
    let reply = v1::WhyRequest {
        r#in: "wan0".into(),
        src: "198.18.2.2".into(),
        dst: "198.18.1.9".into(),
        src_port: 8080,
        dst_port: 40_000,
        ..ask.clone()
    };
    let answer = rig.node.why(&ask).unwrap();
    for (object, detail) in [
        ("session of 198.18.1.9:40000", "client's packet, state opening, age "),
        ("rule all", "permit"),
        ("service web", ""),
        ("backend a", "198.18.2.2:8080, bound to the session"),
        ("mark dscp 10", "of rule or service"),
        ("rewrite destination", "198.18.2.2:8080"),
        ("interface wan0", "next hop 198.18.2.2"),
    ] {
        assert!(has(&answer.steps, object, detail), "{object}: {detail} is not in {answer:?}");
    }
    let session = answer.session.unwrap();
    assert_eq!((session.client.as_str(), session.generation, session.reply), ("198.18.1.9:40000", 2, false));
    assert!(session.age_s >= session.idle_s && session.timeout_s > 0.0);
    let answer = rig.node.why(&reply).unwrap();
    assert!(
        answer.session.unwrap().reply && has(&answer.steps, "rewrite source", "203.0.113.10:80"),
        "{:?}",
        answer.steps
    );

    // Another rule decides from now on; the session has had no packet since.
    let renamed =
        RuleTables { rules: vec![RuleSpec { name: "new".into(), ..balanced().rules[0].clone() }], ..balanced() };
    rig.push(&renamed).unwrap();
    let answer = rig.node.why(&ask).unwrap();
    let redecided = "decided by generation 2: re-decided at its next packet by generation 3";
    assert!(has(&answer.steps, "session of 198.18.1.9:40000", redecided), "{answer:?}");
    assert!(has(&answer.steps, "rule new", "permit") && has(&answer.steps, "backend a", "bound"), "{answer:?}");
    rig.push(&RuleTables { rules: vec![deny_all("stop")], ..balanced() }).unwrap();
    let answer = rig.node.why(&reply).unwrap();
    assert_eq!((answer.verdict.as_str(), answer.reason.as_str()), ("dropped", "rule_deny"));
    rig.push(&RuleTables { services: vec![], ..balanced() }).unwrap();
    let answer = rig.node.why(&reply).unwrap();
    assert!(has(&answer.steps, "address 203.0.113.10", "its service is gone"), "{answer:?}");
    rig.end();
}
