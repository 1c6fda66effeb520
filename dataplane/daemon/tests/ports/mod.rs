//! Ports of a whole node: links that go down, and queues.

use marchproxy_engine::tables::{NextHopSpec, RouteAction, RouteSpec, ShaperSpec};

use super::*;

#[test]
fn a_next_hop_behind_a_dead_link_is_taken_out_at_once() {
    let mut rig = Rig::new(1);
    let hop = |address: &str, interface| NextHopSpec { address: address.parse().unwrap(), interface, weight: 1 };
    let via = RouteAction::Via(vec![hop("198.18.1.2", 0), hop("198.18.2.2", 1)]);
    let route = RouteSpec { prefix: cidr("203.0.113.0/24"), table: 0, action: via };
    rig.push(&RuleTables { routes: vec![route], ..tables() }).unwrap();
    let ways = |rig: &Rig| {
        let ask = |port: u32| v1::WhyRequest {
            r#in: "lan0".into(),
            src: "198.18.1.9".into(),
            dst: "203.0.113.7".into(),
            protocol: "udp".into(),
            src_port: 1000 + port,
            dst_port: 53,
            ..v1::WhyRequest::default()
        };
        let all: Vec<String> = (0..40).map(|port| format!("{:?}", rig.node.why(&ask(port)).unwrap())).collect();
        ["198.18.1.2", "198.18.2.2"].map(|hop| all.iter().filter(|why| why.contains(hop)).count())
    };
    let wait = |what, check: &dyn Fn([usize; 2]) -> bool| {
        let start = Instant::now();
        while !check(ways(&rig)) {
            assert!(start.elapsed() < Duration::from_secs(5), "never {what}: {:?}", ways(&rig));
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait("both", &|[first, second]| first > 5 && second > 5 && first + second == 40);
    rig.world.unplugged.lock().unwrap().insert("vdev:net_null0".into());
    wait("only the second", &|ways| ways == [0, 40]);
    rig.world.unplugged.lock().unwrap().insert("vdev:net_null1".into());
    wait("both again: none is better", &|[first, second]| first > 5 && second > 5);
    rig.world.unplugged.lock().unwrap().clear();
    wait("both", &|[first, second]| first > 5 && second > 5);
    rig.end();
}

#[test]
fn queues_of_shaped_ports_are_seen_by_service_and_class() {
    let mut rig = Rig::new(2);
    let shaper = ShaperSpec { port: 1, rate_kbps: 10_000, ..ShaperSpec::default() };
    let shaped = RuleTables { shapers: vec![shaper], services: vec![web()], ..tables() };
    rig.push(&shaped).unwrap();
    introduce(&rig);
    let client = || Packet::eth(THEIRS, OURS);
    rig.put("vdev:net_null0", &client().ipv4([198, 18, 1, 9], [203, 0, 113, 10]).tcp(40_000, 80).flags(2).build());
    rig.take("vdev:net_null1");
    rig.put("vdev:net_null0", &client().ipv4([198, 18, 1, 9], [198, 18, 2, 2]).udp(1, 2).build());
    rig.take("vdev:net_null1");
    let queues = |port: &str, service: &str| {
        let request = v1::QosRequest { port: port.into(), service: service.into(), ..Default::default() };
        rig.node.qos(&request).ports.into_iter().flat_map(|port| port.queues).collect::<Vec<_>>()
    };
    let of_service = queues("wan", "web");
    assert_eq!(of_service.len(), 1, "{of_service:?}");
    assert_eq!((of_service[0].class.as_str(), of_service[0].sent_packets, of_service[0].sent_bytes), ("P3", 1, 84));
    assert_eq!((of_service[0].waits.iter().sum::<u64>(), of_service[0].waiting_packets), (1, 0));
    assert!(queues("wan", "").iter().any(|queue| queue.service.is_empty()), "the other packet, and our own");
    assert!(queues("lan", "").is_empty(), "it is not shaped");
    let all = rig.node.qos(&v1::QosRequest::default());
    assert_eq!((all.ports[0].port.as_str(), all.ports[0].rate_kbps), ("wan", 10_000));
    assert_eq!(all.ports[0].queues[0].waits.len(), all.wait_bounds_s.len() + 1);

    let page =
        render(Observation::of(&*rig.node, &SharedState::default(), &Pulse::default(), false), Format::OpenMetrics);
    let line = "marchproxy_qos_sent_packets_total{port=\"wan\",service=\"web\",class=\"P3\"} 1";
    assert!(page.lines().any(|found| found == line), "no line {line:?} in\n{page}");
    assert!(marchproxy_metrics::check(DICTIONARY, &page, false).is_empty());

    rig.push(&tables()).unwrap();
    assert!(rig.node.qos(&v1::QosRequest::default()).ports.is_empty(), "no port is shaped any more");
    rig.end();
}
