//! What `gen` writes: as much as was asked for, the same for the same seed, and in a form that others read.

// Helpers of a test file are tests, too.
#![allow(clippy::unwrap_used)]

mod common;

use common::perf;
use marchproxy_perf::pcap;
use serde_json::Value;

fn written(arguments: &str) -> String {
    let ended = perf(arguments);
    assert_eq!(ended.code, Some(0), "{arguments}: {}", ended.err);
    ended.out
}

#[test]
fn documents_have_what_was_asked_for() {
    for (arguments, list, count) in [
        ("gen rules --profile ipc --count 77 --seed 3", "rules", 77),
        ("gen routes --count 50 --seed 3", "routes", 50),
        ("gen routes --count 9 --v6", "routes", 9),
    ] {
        let json: Value = serde_json::from_str(&written(&format!("{arguments} --json"))).unwrap();
        assert_eq!(json[list].as_array().unwrap().len(), count, "{arguments}");
        let yaml = written(arguments);
        assert!(yaml.starts_with("api_version: marchproxy/v1\n") && yaml.contains(&format!("\n{list}:\n")), "{yaml}");
        assert_eq!(yaml, written(arguments), "the seed decides everything");
        assert_ne!(yaml, written(&format!("{} --seed 4", arguments.replace(" --seed 3", ""))));
    }
}

#[test]
fn flows_are_listed() {
    let csv = written("gen flows forward --flows 40 --count 30");
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!((lines.len(), lines[0]), (31, "port,src,dst,protocol,src_port,dst_port,octets"));
    let json = written("gen flows balance --sessions 20 --services 2 --backends 2 --routes 4 --json");
    let flows: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // The clients' packets and the backends' replies.
    assert_eq!(flows.len(), 40);
    assert_eq!(flows.iter().filter(|flow| flow["port"] == "lan" && flow["src_port"] == 8443).count(), 20);
}

#[test]
fn packets_are_captured() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("out.pcap");
    let traffic = "balance --sessions 20 --services 2 --backends 2 --routes 4 --count 200";
    assert_eq!(written(&format!("gen pcap {traffic} -o {}", file.display())), "");
    let all = pcap::read_file(&file).unwrap();
    assert_eq!(all.len(), 200);
    assert!(all.iter().all(|frame| frame.data.len() >= 60 && frame.data[..6] == [2, 0x4d, 0x50, 0, 0, 1]));
    written(&format!("gen pcap {traffic} --port wan -o {}", file.display()));
    let wan = pcap::read_file(&file).unwrap();
    assert_eq!(wan.len(), 200);
    assert!(wan.iter().all(|frame| frame.data[..6] == [2, 0x4d, 0x50, 0, 0, 2]));
    let ended = perf("gen pcap forward --flows 10 --count 20 --port lan");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("--port") && ended.err.contains("lan"), "{}", ended.err);
}
