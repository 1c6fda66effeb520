//! Runs on DPDK's virtual devices, each in a process of its own: one EAL per process. No huge pages, no root, bounded.
#![cfg(feature = "dpdk")]
// Helpers of a test file are tests, too.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{Ended, perf};
use serde_json::Value;

/// The report of a run that succeeds.
fn report(arguments: &str) -> Value {
    let ended = perf(&format!("run {arguments} --repeat 1 --no-huge --json"));
    assert_eq!(ended.code, Some(0), "{arguments}: {}", ended.err);
    let report: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["residue"], 0, "{arguments}: {report}");
    for figure in ["cycles_per_packet", "io_cycles_per_packet", "packets_per_cpu_second", "mpps"] {
        assert!(report[figure].as_f64().unwrap() > 0.0, "{arguments}: {figure} of {report}");
    }
    report
}

fn refused(arguments: &str, code: i32, words: &[&str]) {
    let Ended { code: found, err, .. } = perf(arguments);
    assert_eq!(found, Some(code), "{arguments}: {err}");
    assert!(words.iter().all(|word| err.contains(word)), "{arguments}: {err}");
}

fn drops(report: &Value) -> BTreeMap<String, u64> {
    serde_json::from_value(report["drops"].clone()).unwrap()
}

fn hits(report: &Value, table: &str) -> f64 {
    report["table_hits"][table].as_f64().unwrap()
}

#[test]
fn a_file_of_the_scenario_is_forwarded_to_nowhere() {
    let report = report("forward --backend vdev:net_pcap --flows 500 --packets 40000 --file-packets 1000");
    assert_eq!((&report["scenario"], &report["backend"]), (&"forward".into(), &"vdev:net_pcap".into()));
    assert_eq!(report["drops"], serde_json::json!({}));
    let packets = report["packets"].as_u64().unwrap();
    assert!((40_000..40_064).contains(&packets), "{packets}");
    assert!((hits(&report, "route") - 1.0).abs() < 1e-9, "{}", report["table_hits"]);
    let port = &report["devices"]["ports"][0];
    assert_eq!((port["rx_packets"].as_u64(), port["tx_packets"].as_u64()), (Some(packets), Some(packets)));
    assert_eq!((&port["receives_from"], &port["rx_missed"]), (&"net_pcap (net_pcap)".into(), &0.into()));
    assert!(port["sends_to"].as_str().unwrap().ends_with("(net_null)"), "{port}");
    assert_eq!(report["devices"]["idle_percent"], 0.0);
}

#[test]
fn sessions_are_there_before_the_first_packet_of_the_device() {
    for backend in ["--backend vdev:net_pcap0", "--backend vdev:net_pcap0 --backend vdev:net_pcap1"] {
        let report = report(&format!(
            "balance {backend} --sessions 600 --services 3 --backends 4 --packets 20000 --file-packets 2000"
        ));
        assert_eq!(report["drops"], serde_json::json!({}), "{backend}");
        assert!((hits(&report, "session") - 1.0).abs() < 1e-9, "{}", report["table_hits"]);
        assert_eq!(report["live_sessions"], 600);
        for port in report["devices"]["ports"].as_array().unwrap() {
            assert!(
                port["rx_packets"].as_u64().unwrap() > 1000 && port["tx_packets"].as_u64().unwrap() > 1000,
                "{port}"
            );
        }
    }
}

/// A ring gives back what was sent into it, and these frames are other stations'.
#[test]
fn what_comes_back_from_a_ring_is_not_ours() {
    let report =
        report("forward --backend vdev:net_ring0 --backend vdev:net_pcap0 --flows 500 --packets 20000 --burst 16");
    assert_eq!(report["burst"], 16);
    let dropped: u64 = drops(&report).values().sum();
    let ports = report["devices"]["ports"].as_array().unwrap();
    assert_eq!((&ports[0]["name"], &ports[1]["name"]), (&"lan".into(), &"wan".into()));
    let came_back = ports[0]["rx_packets"].as_u64().unwrap();
    assert!(came_back > 5000 && dropped >= came_back - 16, "{report}");
}

#[test]
fn frames_without_content_are_dropped_by_name() {
    let report = report("forward --backend vdev:net_null0 --flows 64 --duration 0.2");
    assert_eq!(drops(&report).values().sum::<u64>(), report["packets"].as_u64().unwrap(), "{report}");
    assert_eq!(report["devices"]["ports"][0]["tx_packets"], 0);
}

#[test]
fn what_can_not_be_is_said() {
    refused("run forward --backend vdev:net_frobnicate0 --no-huge", 1, &["net_frobnicate0", "no driver"]);
    refused("run forward --backend pci:ffff:ff:1f.7 --no-huge", 1, &["ffff:ff:1f.7", "no such PCI device"]);
    refused("run forward --backend af_xdp:", 2, &["af_xdp:INTERFACE"]);
    refused("run forward --backend memory --backend vdev:net_null0", 1, &["--backend", "memory alone"]);
    refused("run forward --backend vdev:net_pcap --mem-mb 32 --no-huge", 1, &["pool perf", "MB"]);
    refused(
        "run forward --backend vdev:net_ring0 --flows 64 --packets 5 --no-huge",
        1,
        &["no packet came", "net_ring0"],
    );
    refused(
        "run forward --backend vdev:net_null0,no-rx=1 --flows 64 --duration 0.1 --no-huge",
        1,
        &["no packet came from vdev:net_null0"],
    );
}
