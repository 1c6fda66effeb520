//! `compare` as a program, without any of the others: what it refuses, what it names as missing, how it ends.

// Helpers of a test file are tests, too.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

/// Runs it where none of the others can be found; exit code, standard output, standard error.
fn compare(arguments: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_marchproxy-perf"));
    let output = command.env("PATH", "/nowhere").arg("compare").args(arguments.split(' ')).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_peer_that_is_not_there_is_named_with_what_brings_it() {
    let (code, out, err) = compare("forward --flows 64 --only testpmd-io kernel --json");
    assert_eq!(code, Some(3), "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["work"], "forward");
    assert_eq!(json["rows"], Value::Array(Vec::new()));
    let missing = json["missing"].as_array().unwrap();
    assert_eq!(missing.iter().map(|peer| peer["peer"].as_str().unwrap()).collect::<Vec<_>>(), ["testpmd-io", "kernel"]);
    assert!(missing.iter().all(|peer| peer["reason"].as_str().unwrap().contains("scripts/setup --peers")), "{out}");
    assert!(json["machine"]["cpu"].is_string() && json["rig"].as_str().unwrap().contains("64 packets"), "{out}");

    let (code, out, _) = compare("balance --flows 64 --sessions 64");
    assert_eq!(code, Some(3));
    assert!(out.contains("missing l3fwd-em: ") && out.contains("scripts/setup --peers"), "{out}");
}

#[test]
fn wrong_options_are_named() {
    for (arguments, code, words) in [
        ("forward --only vpp", 1, &["--only", "found vpp", "testpmd-io", "ovs-dpdk"][..]),
        ("rules --only l3fwd-lpm", 1, &["found l3fwd-lpm", "l3fwd-acl"]),
        ("forward --sessions 5", 1, &["--sessions", "scenario forward has none"]),
        ("forward --flows 100000", 1, &["--flows", "found 100000", "65536"]),
        ("forward --flows 64 --only kernel --duration 0", 1, &["--duration", "positive"]),
        ("rules --keys 5", 1, &["--keys", "compare rules has --flows"]),
        ("tables --packet 64", 1, &["--packet", "compare tables has --keys"]),
        ("sideways", 2, &["sideways", "forward"]),
        ("forward --repeat 0", 2, &["--repeat"]),
    ] {
        let (found, _, err) = compare(arguments);
        assert_eq!(found, Some(code), "{arguments}: {err}");
        assert!(words.iter().all(|word| err.contains(word)), "{arguments}: {err}");
    }
}

#[test]
fn help_has_examples() {
    let (code, out, _) = compare("--help");
    assert_eq!(code, Some(0));
    assert!(out.contains("Examples:") && out.contains("3 a peer is missing"), "{out}");
}
