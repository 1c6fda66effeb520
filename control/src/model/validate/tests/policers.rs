use super::*;
use marchproxy_engine::tables::{MARK_MAP, PolicerAction};

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
fn congestion_experienced_is_for_those_who_can_tell() {
    let warning = "policers[0].on_red: packets that are not ECN-capable pass unmarked, however many there are";
    check_warnings(&[("on_red: drop", "on_red: {mark: ce}", &[warning]), ("{mark: AF12}", "{mark: CE}", &[])]);
}

/// Two rates, and packets.
#[test]
fn kinds_have_numbers_of_their_own() {
    let numbers = "kind: srtcm, cir_kbps: 10000, cbs_bytes: 65536, ebs_bytes: 0";
    let cases: [(&str, &[&str]); 12] = [
        ("kind: trtcm, cir_kbps: 8, cbs_bytes: 1500, pir_kbps: 8, pbs_bytes: 1500", &[]),
        (
            "kind: trtcm, cir_kbps: 9, cbs_bytes: 1500, pir_kbps: 8, pbs_bytes: 1500",
            &["pir_kbps is 8; allowed: 9 (cir_kbps) or more: the peak rate is not below the committed one"],
        ),
        (
            "kind: trtcm, cir_kbps: 9, cbs_bytes: 1500, ebs_bytes: 1500",
            &[
                "ebs_bytes is 1500; allowed: nothing, with kind trtcm",
                "pir_kbps is 0; allowed: 1 to 100000000 kbit/s",
                "pbs_bytes is 0; allowed: 1500 to 4294967295 octets: a burst holds at least one packet",
            ],
        ),
        (
            "kind: srtcm, cir_kbps: 9, cbs_bytes: 1500, eir_kbps: 1",
            &["eir_kbps is 1; allowed: nothing, with kind srtcm"],
        ),
        ("kind: rfc4115, cir_kbps: 9, cbs_bytes: 1500, eir_kbps: 1, ebs_bytes: 1500", &[]),
        ("kind: rfc4115, eir_kbps: 1, ebs_bytes: 1500", &[]),
        ("kind: rfc4115", &["cir_kbps is 0 and eir_kbps 0; allowed: one of them above 0, or every packet is red"]),
        (
            "kind: rfc4115, eir_kbps: 1, ebs_bytes: 1499, cbs_bytes: 1500",
            &[
                "ebs_bytes is 1499; allowed: 1500 to 4294967295 octets: a burst holds at least one packet",
                "cbs_bytes is 1500; allowed: 0 where cir_kbps is 0: it would never be filled again",
            ],
        ),
        ("kind: srtcm, cir_pps: 1000, cbs_packets: 1", &[]),
        (
            "kind: srtcm, cir_pps: 1000000001, cbs_packets: 1",
            &["cir_pps is 1000000001; allowed: 1 to 1000000000 packets/s"],
        ),
        (
            "kind: trtcm, cir_pps: 2, cbs_packets: 1, pir_pps: 1",
            &[
                "pbs_packets is 0; allowed: 1 to 4294967295 packets",
                "pir_pps is 1; allowed: 2 (cir_pps) or more: the peak rate is not below the committed one",
            ],
        ),
        (
            "kind: srtcm, cir_kbps: 9, cbs_bytes: 1500, cir_pps: 1",
            &["cir_kbps is 9 with cir_pps; allowed: octets or packets, not both"],
        ),
    ];
    for (replace, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|e| format!("policer slow: policers[0].{e}")).collect();
        if expected.is_empty() {
            check(&[(numbers, replace, &[])]);
        } else {
            assert_eq!(refused(numbers, replace), expected, "{replace}");
        }
    }
}

const CODEPOINT: &str = "CS0 to CS7, AF11 to AF43, EF, VA, LE, BE, DF, or a number of 0 to 63";

#[test]
fn maps_of_codepoints() {
    let text = |map: &str| BASE.replace("policers:\n", &format!("dscp_maps:\n  - {map}\n  - {{name: a}}\npolicers:\n"));
    let document = parse(&text("{name: m, map: {AF41: 12, P0: EF}}").replace("mark: AF12", "mark: 'map:m'")).unwrap();
    let model = validate(&document).unwrap().0;
    assert_eq!(model.policers[0].on_yellow, PolicerAction::Mark(MARK_MAP + 1), "behind map a");
    let map = &model.dscp_maps[1];
    assert_eq!((map.codepoints.as_slice(), map.classes), (&[(34, 12)][..], [Some(46), None, None, None]));
    let refused = |map: &str| {
        let violations = validate(&parse(&text(map)).unwrap()).unwrap_err();
        violations.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        refused("{name: m, map: {AF99: 12, AF41: 64}}"),
        [
            format!("dscp_map m: dscp_maps[0].map.AF41 is \"64\"; allowed: {CODEPOINT}"),
            format!("dscp_map m: dscp_maps[0].map is \"AF99\"; allowed: {CODEPOINT}, or a class: P0 to P3"),
        ]
    );
    assert_eq!(
        refused("{name: m, map: {34: 12, AF41: 12}}"),
        ["dscp_map m: dscp_maps[0].map is codepoint 34 twice; allowed: each codepoint once, by name or number"]
    );
}

#[test]
fn kinds_and_colours() {
    check(&[
        ("kind: srtcm", "kind: blue", &["policer slow: policers[0].kind is \"blue\"; allowed: srtcm, trtcm, rfc4115"]),
        ("on_green: pass", "colour_aware: true, on_green: {class: P2}", &[]),
        ("on_red: drop", "on_red: {mark: keep}", &[]),
        (
            "on_red: drop",
            "on_red: {class: P4}",
            &["policer slow: policers[0].on_red.class is \"P4\"; allowed: P0, P1, P2, P3"],
        ),
        (
            "on_red: drop",
            "on_red: {mark: 'map:m'}",
            &[
                "policer slow: policers[0].on_red.mark is \"m\"; allowed: the name of a dscp_map, and there is no dscp_map",
            ],
        ),
        (
            "on_red: drop",
            "on_red: drop, per_source: {prefix_v4: 33, prefix_v6: 0}",
            &[
                "policer slow: policers[0].per_source.prefix_v4 is 33; allowed: 1 to 32 bits",
                "policer slow: policers[0].per_source.prefix_v6 is 0; allowed: 1 to 128 bits",
            ],
        ),
        (
            "on_red: drop",
            "on_red: explode",
            &[
                "policer slow: policers[0].on_red is \"explode\"; allowed: pass, drop, {mark: DSCP or CE} or {class: P0 to P3}",
            ],
        ),
        (
            "{mark: AF12}",
            "{mark: AF99}",
            &["policer slow: policers[0].on_yellow.mark is \"AF99\"; \
               allowed: CS0 to CS7, AF11 to AF43, EF, VA, LE, BE, DF, or a number of 0 to 63, keep, or map:DSCP_MAP"],
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
            "priority.dscp is \"gold\"; allowed: CS0 to CS7, AF11 to AF43, EF, VA, LE, BE, DF, or a number of 0 to 63, keep, or map:DSCP_MAP",
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
