use super::*;

#[test]
fn rates_and_bursts() {
    let numbers = "cir_kbps: 10000, cbs_bytes: 65536, ebs_bytes: 0";
    let cases = [
        ("cir_kbps: 0, cbs_bytes: 65536", "cir_kbps is 0; allowed: 1 to 100000000 kbit/s"),
        ("cir_kbps: 100000001, cbs_bytes: 65536", "cir_kbps is 100000001; allowed: 1 to 100000000 kbit/s"),
        (
            "cir_kbps: 1",
            "cbs_bytes is 0 and ebs_bytes 0; allowed: one of them above 0, or every packet is red (RFC 2697 s1)",
        ),
        (
            "cir_kbps: 1, cbs_bytes: 1499",
            "cbs_bytes is 1499; allowed: 0, or 1500 to 4294967295 octets: a burst holds at least one packet",
        ),
        (
            "cir_kbps: 1, cbs_bytes: 1500, ebs_bytes: 4294967296",
            "ebs_bytes is 4294967296; allowed: 0, or 1500 to 4294967295 octets: a burst holds at least one packet",
        ),
    ];
    for (replace, expected) in cases {
        assert_eq!(refused(numbers, replace), [format!("policer slow: policers[0].{expected}")], "{replace}");
    }
    check(&[(numbers, "cir_kbps: 1, ebs_bytes: 1500", &[])]);
    let mut jumbo = parse(&BASE.replace("mtu: 1500", "mtu: 9000")).unwrap();
    jumbo.policers[0].cbs_bytes = 4000;
    let warnings = validate(&jumbo).unwrap().1;
    assert_eq!(
        warnings[0].to_string(),
        "policers[0].cbs_bytes: packets longer than 4000 octets are always red, and a port has an mtu of 9000"
    );
}

#[test]
fn kinds_and_colours() {
    check(&[
        ("kind: srtcm", "kind: trtcm", &["policer slow: policers[0].kind is \"trtcm\"; allowed: srtcm"]),
        (
            "on_green: pass",
            "colour_aware: true",
            &["policer slow: policers[0].colour_aware is true; allowed: false in this release"],
        ),
        (
            "on_red: drop",
            "on_red: explode",
            &["policer slow: policers[0].on_red is \"explode\"; allowed: pass, drop or {mark: DSCP}"],
        ),
        (
            "{mark: AF12}",
            "{mark: AF99}",
            &["policer slow: policers[0].on_yellow.mark is \"AF99\"; \
               allowed: CS0 to CS7, AF11 to AF43, EF, VA, LE, BE, DF, or a number of 0 to 63"],
        ),
    ]);
}

#[test]
fn profiles() {
    let gold = "{name: gold, policer: slow, priority: {dscp: AF41}}";
    let cases = [
        ("policer: fast", "policer is \"fast\"; allowed: the name of a policer: slow"),
        ("bandwidth: {ingress_mbps: 0}", "bandwidth.ingress_mbps is 0; allowed: 1 to 100000 Mbit/s"),
        ("bandwidth: {egress_mbps: 400001}", "bandwidth.egress_mbps is 400001; allowed: 1 to 400000 Mbit/s"),
        (
            "bandwidth: {burst_size_kb: 1}",
            "bandwidth.burst_size_kb is 1; allowed: 2 to 4194303 KiB: a burst holds at least one full frame",
        ),
        ("bandwidth: {queue_packets: 0}", "bandwidth.queue_packets is 0; allowed: 1 to 65535 packets"),
        ("bandwidth: {queue_kb: 1}", "bandwidth.queue_kb is 1; allowed: 2 to 4194303 KiB"),
        ("priority: {class: P9}", "priority.class is \"P9\"; allowed: P0, P1, P2, P3"),
        ("priority: {weight: 0}", "priority.weight is 0; allowed: 1 to 1000"),
        (
            "priority: {max_latency_ms: 0}",
            "priority.max_latency_ms is 0; allowed: more than 0, up to 10000 milliseconds",
        ),
        (
            "priority: {dscp: gold}",
            "priority.dscp is \"gold\"; allowed: CS0 to CS7, AF11 to AF43, EF, VA, LE, BE, DF, or a number of 0 to 63",
        ),
        ("aqm: {kind: red}", "aqm.kind is \"red\"; allowed: codel"),
        ("aqm: {kind: codel, target_us: 0}", "aqm.target_us is 0; allowed: 1 to 1000000 microseconds"),
    ];
    for (replace, expected) in cases {
        let expected = format!("qos gold: qos[0].{expected}");
        assert_eq!(refused(gold, &format!("{{name: gold, {replace}}}")), [expected], "{replace}");
    }
}

#[test]
fn queues() {
    let gold = "qos: [{name: gold, bandwidth: {egress_mbps: 50}}]";
    let document = |port: &str| {
        let port = format!("{{name: wan, device: \"vdev:net_null0\", {port}}}");
        validate(&parse(&format!("api_version: marchproxy/v1\nnodes: [{{name: n, ports: [{port}]}}]\n{gold}")).unwrap())
    };
    let (_, warnings) = document("mtu: 1500").unwrap();
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "qos[0].bandwidth.egress_mbps: rate, queues, weight, latency and aqm count on ports with a shaper; no port has one"
        ]
    );
    assert_eq!(document("shaper: {rate_mbps: 50}").unwrap().1, []);
    let refused = document("shaper: {rate_mbps: 49}").unwrap_err();
    assert_eq!(
        refused.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["qos gold: qos[0].bandwidth.egress_mbps is 50; allowed: 1 to 49 Mbit/s, the rate of the fastest shaped port"]
    );
}
