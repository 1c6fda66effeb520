//! `compare tables` on small amounts, as the program does it: every library answers as we do, and what is missing is named.
#![cfg(feature = "dpdk")]
// Helpers of a test file are tests, too.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

use serde_json::Value;

/// DPDK starts once per process, so each comparison is one.
fn compare(arguments: &str) -> Output {
    let words = "compare tables --duration 0.001 --repeat 2 --routes 2000 --rules 100 --sessions 1000 --keys 1000";
    let words = words.split(' ').chain(arguments.split_whitespace());
    // Its heap is as it is: no second start.
    let tunables = std::env::var("GLIBC_TUNABLES").unwrap_or_default();
    Command::new(env!("CARGO_BIN_EXE_marchproxy-perf")).args(words).env("GLIBC_TUNABLES", tunables).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    })
}

#[test]
fn every_library_answers_as_we_do() {
    let output = compare("--json");
    let report = json(&output);
    let rows = report["rows"].as_array().unwrap();
    let named: Vec<String> = rows.iter().map(|r| format!("{} {}", r["peer"], r["work"]).replace('"', "")).collect();
    let expected = [
        "rte_fib v4 1000 routes",
        "rte_fib6 v6 1000 routes",
        "rte_lpm v4 1000 routes",
        "rte_lpm6 v6 1000 routes",
        "rte_hash v4 1000 sessions, hit",
        "rte_hash v4 1000 sessions, miss",
        "rte_hash v6 1000 sessions, hit",
        "rte_hash v6 1000 sessions, miss",
        "rte_acl v4",
        "rte_acl v6",
        "rte_meter srTCM, 4096 meters",
        "rte_meter trTCM, 4096 meters",
    ];
    assert_eq!(named.len(), expected.len(), "{report:#}");
    for (row, (named, expected)) in rows.iter().zip(named.iter().zip(expected)) {
        assert!(named.starts_with(expected), "{named}");
        let figure = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{named}: {key}"));
        assert!(figure("ours") > 0.0 && figure("theirs") > 0.0 && figure("ratio") > 0.0, "{row}");
        assert!(figure("spread_percent") >= 0.0 && row["unit"].as_str().unwrap().ends_with("/CPU-s"), "{row}");
        for key in ["ours_seconds", "theirs_seconds", "ours_bytes", "theirs_bytes"] {
            assert!(row["build"][key].as_f64().unwrap() > 0.0, "{key} of {row}");
        }
    }
    // What only DPDK has.
    let missing: Vec<_> = report["missing"].as_array().unwrap().iter().collect();
    assert_eq!(missing.len(), 1, "{report:#}");
    for (missing, peer) in missing.iter().zip(["rte_sched"]) {
        assert_eq!(missing["peer"], peer);
        assert!(missing["reason"].as_str().unwrap().starts_with("no counterpart of ours"));
        assert!(missing["alone"]["theirs"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(output.status.code(), Some(3), "a part is missing");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn one_library_alone_is_all_of_what_was_asked_for() {
    let output = compare("--only rte_lpm rte_hash");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for line in ["rte_lpm v4 1000 routes ", "rte_hash v6 1000 sessions, miss ", "built in", "machine: "] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    assert!(!text.contains("rte_fib") && !text.contains("missing "), "{text}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (arguments, message) in [
        ("--only rte_fibs", "--only: found rte_fibs, allowed rte_fib, rte_fib6"),
        ("--flows 5", "--flows: found 5, allowed nothing"),
    ] {
        let output = compare(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(message), "{error}");
        assert_eq!(output.status.code(), Some(1));
    }
    let small = Command::new(env!("CARGO_BIN_EXE_marchproxy-perf")).args(["compare", "tables", "--keys", "3"]).output();
    assert!(String::from_utf8_lossy(&small.unwrap().stderr).contains("--keys: found 3, allowed 32 to 16000000"));
}
