//! Every scenario on a short bounded run: the report has the contract's shape, nothing is lost, and the traffic is what was asked for.

// Helpers of a test file are tests, too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use marchproxy_engine::tables::{Cidr, PortRange, RuleAction, RuleMatch, RuleSpec, RuleTables};
use marchproxy_perf::cli::parse;
use marchproxy_perf::progress::Progress;
use marchproxy_perf::report::Report;
use marchproxy_perf::rig::{Capacity, Rig};
use serde_json::Value;

fn run(arguments: &'static str) -> Report {
    let run = parse(arguments.split(' ')).unwrap();
    run.measure(&Progress::hidden()).unwrap_or_else(|error| panic!("{arguments}: {error}"))
}

fn refusal(arguments: &'static str) -> String {
    match parse(arguments.split(' ')) {
        Err(usage) => usage,
        Ok(run) => run.measure(&Progress::hidden()).unwrap_err().to_string(),
    }
}

/// Keys of the contract (design: "marchproxy-perf JSON").
const KEYS: [&str; 12] = [
    "scenario",
    "backend",
    "packets",
    "cycles_per_packet",
    "io_cycles_per_packet",
    "instructions_per_packet",
    "packets_per_cpu_second",
    "calibration_cycles",
    "stages",
    "drops",
    "residue",
    "machine",
];

fn holds(report: &Report, scenario: &str, packets: u64) {
    let json: Value = serde_json::to_value(report).unwrap();
    for key in KEYS {
        assert!(json.get(key).is_some(), "{scenario}: {key} is missing");
    }
    assert_eq!((json["scenario"].as_str(), json["backend"].as_str()), (Some(scenario), Some("memory")));
    assert_eq!(json["packets"].as_u64(), Some(packets));
    assert_eq!(json["residue"].as_i64(), Some(0));
    for figure in ["cycles_per_packet", "io_cycles_per_packet", "packets_per_cpu_second", "calibration_cycles", "mpps"]
    {
        assert!(json[figure].as_f64().unwrap() > 0.0, "{scenario}: {figure}");
    }
    assert_eq!(json["instructions_per_packet"].is_null(), json.get("instructions_reason").is_some());
    let stages = json["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 7);
    for stage in stages {
        assert!(stage["name"].is_string() && stage["packets_per_call"].as_f64().unwrap() > 0.0, "{scenario}: {stage}");
        assert!(stage["cycles_per_packet"].as_f64().unwrap() >= 0.0, "{scenario}: {stage}");
    }
    for key in ["cpu", "flags", "hugepages", "governor", "load", "steal"] {
        assert!(json["machine"].get(key).is_some(), "{scenario}: machine.{key} is missing");
    }
    let text = marchproxy_perf::table::render(report);
    assert!(text.contains("engine cycles per packet") && text.starts_with(scenario), "{text}");
}

#[test]
fn forwarding_finds_a_route_for_every_packet() {
    for (arguments, scenario) in [
        ("run forward --packets 20000 --repeat 2 --flows 500 --routes 300", "forward"),
        ("run forward6 --packets 20000 --repeat 2 --flows 500 --packet imix", "forward6"),
        ("run mark --packets 20000 --repeat 2 --flows 500 --packet 1518", "mark"),
    ] {
        let report = run(arguments);
        holds(&report, scenario, 40_000);
        assert_eq!(report.drops, BTreeMap::new(), "{scenario}");
        assert_eq!(report.punts, BTreeMap::new(), "{scenario}");
        assert!((report.table_hits["route"] - 1.0).abs() < 0.01, "{:?}", report.table_hits);
        assert_eq!(report.repeats.len(), 2);
        assert!(report.spread_percent.is_some());
    }
}

#[test]
fn balanced_packets_belong_to_sessions() {
    for (arguments, scenario, metered) in [
        (
            "run balance --packets 20000 --repeat 1 --flows 1000 --sessions 3000 --services 3 --backends 4",
            "balance",
            0.0,
        ),
        // Half the packets are the clients', and only those are metered.
        ("run police --packets 20000 --repeat 1 --sessions 1000 --services 2 --backends 2", "police", 0.5),
    ] {
        let report = run(arguments);
        holds(&report, scenario, 20_000);
        assert_eq!(report.drops, BTreeMap::new(), "{scenario}");
        assert!((report.table_hits["session"] - 1.0).abs() < 1e-9, "{:?}", report.table_hits);
        assert!((report.table_hits["policer"] - metered).abs() < 0.02, "{:?}", report.table_hits);
        assert_eq!(report.live_sessions, report.parameters.sessions);
    }
}

#[test]
fn rules_judge_every_packet_and_permit_these() {
    for profile in ["acl", "fw", "ipc"] {
        let arguments: &'static str =
            format!("run rules --packets 20000 --repeat 1 --flows 500 --rules 400 --profile {profile}").leak();
        let report = run(arguments);
        holds(&report, "rules", 20_000);
        assert_eq!(report.drops, BTreeMap::new());
        assert!((report.table_hits["rule"] - 1.0).abs() < 1e-9, "{:?}", report.table_hits);
    }
}

#[test]
fn full_has_the_shares_of_the_contract() {
    let report =
        run("run full --packets 100000 --repeat 2 --flows 2000 --sessions 5000 --rules 300 --routes 500 --services 8");
    holds(&report, "full", 200_000);
    for (class, share) in
        [("established", 0.70), ("forwarded", 0.20), ("first", 0.05), ("fragments_and_icmp", 0.03), ("denied", 0.02)]
    {
        let found = report.mix[class];
        assert!((found - share).abs() < share * 0.1 + 0.002, "{class}: {found}, wanted {share}");
    }
    assert_eq!(report.drops.keys().copied().collect::<Vec<_>>(), ["rule_deny"], "{:?}", report.drops);
    assert!(report.live_sessions > 5000, "new sessions live for a while");
}

#[test]
fn wrong_options_are_named() {
    for (arguments, words) in [
        ("run forward --sessions 5", &["--sessions", "found 5", "scenario forward has none"][..]),
        ("run forward --profile fw", &["--profile", "found fw"]),
        ("run forward --routes 0", &["--routes", "found 0", "1 to"]),
        ("run balance --flows 10 --sessions 5", &["--flows", "found 10", "at most --sessions (5)"]),
        ("run balance --services 400 --backends 400", &["--backends", "4000"]),
        ("run rules --rules 3", &["--rules", "found 3", "8 to"]),
        ("run forward --duration 0", &["--duration", "positive"]),
        ("run forward --core 9999", &["--core 9999", "allowed here"]),
        ("run forward --packet 65", &["65", "imix"]),
        ("run forward --backend pci", &["memory"]),
        ("run forward --burst 64", &["32"]),
        ("run backward", &["backward", "forward6"]),
        ("run forward --packets 0", &["--packets"]),
        ("run forward --packets 5 --duration 5", &["--packets", "--duration"]),
    ] {
        let text = refusal(arguments);
        assert!(words.iter().all(|word| text.contains(word)), "{arguments}: {text}");
    }
}

#[test]
fn the_program_ends_with_the_code_its_help_promises() {
    let exit = |arguments: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_marchproxy-perf")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), output.stderr)
    };
    let (code, out, err) = exit(&["run", "forward", "--packets", "5000", "--repeat", "1", "--flows", "64", "--json"]);
    assert_eq!(code, Some(0), "{}", String::from_utf8_lossy(&err));
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["packets"].as_u64(), Some(5000));
    assert_eq!(exit(&["run", "forward", "--rules", "5"]).0, Some(1));
    assert_eq!(exit(&["run", "sideways"]).0, Some(2));
    let (code, out, _) = exit(&["run", "--help"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("Examples:"), "{out}");
}

#[test]
fn what_the_engine_refuses_is_said_in_its_words() {
    // More combinations of prefixes and ports than one rule may have.
    let prefix = |n: u8| Cidr { addr: [10, n, 0, 0].into(), len: 16 };
    let prefixes: Vec<_> = (0..100).map(prefix).collect();
    let dst_ports = (0..10).map(|n| PortRange { first: n * 2, last: n * 2 }).collect();
    let matches = RuleMatch { src: prefixes.clone(), dst: prefixes, dst_ports, ..RuleMatch::default() };
    let rule = RuleSpec { name: "wide".into(), priority: 1, matches, action: RuleAction::Deny, mark: None };
    let tables = RuleTables { rules: vec![rule], ..RuleTables::default() };
    let Err(refused) = Rig::new(&tables, Capacity { sessions: 1, step: 1 }, 1) else { panic!("100,000 combinations") };
    let text = refused.to_string();
    let words = ["the engine refuses these tables", "rule wide", "found 100000", "allowed at most"];
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}
