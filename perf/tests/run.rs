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

/// Keys that every report has as JSON: others read them.
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
    let latency = &json["latency"];
    for unit in ["ticks", "ns"] {
        let percentiles = ["p50", "p90", "p99", "p99_9", "max"].map(|which| latency[unit][which].as_f64().unwrap());
        assert!(percentiles[0] > 0.0 && percentiles.is_sorted(), "{scenario}: {percentiles:?}");
    }
    let dropped: u64 = report.drops.values().sum();
    // At the end of each worker's load a fragment may still wait for the first one of its packet.
    let loads = if scenario == "full" { report.workers.len().max(1) as u64 } else { 0 };
    assert!(report.held <= loads, "{scenario}: {} packets are held", report.held);
    let (timed, sent) = (latency["packets"].as_u64().unwrap(), packets - dropped);
    assert!(
        (sent - report.held..=sent).contains(&timed),
        "{scenario}: every packet that was sent is timed: {timed} of {sent}"
    );
    assert_eq!(json["instructions_per_packet"].is_null(), json.get("instructions_reason").is_some());
    let stages = json["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 8);
    for stage in stages {
        let (name, packets) = (stage["name"].as_str().unwrap(), stage["packets_per_call"].as_f64().unwrap());
        // Plain forwarding passes in the first stage but for what waits for its next hop, and everything else in those behind it.
        if name == "drain" || (name == "express") == scenario.starts_with("forward") {
            assert!(packets > 0.0, "{scenario}: {stage}");
            assert!(stage["cycles_per_packet"].as_f64().unwrap() >= 0.0, "{scenario}: {stage}");
        } else {
            assert!(packets < 1.0, "{scenario}: {stage}");
        }
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
fn every_packet_of_a_flood_makes_a_session_and_evicts_one() {
    let report = run("run new_sessions --packets 20000 --repeat 2 --sessions 4000 --services 3 --backends 4");
    holds(&report, "new_sessions", 40_000);
    assert_eq!((report.drops.clone(), report.punts.clone()), (BTreeMap::new(), BTreeMap::new()));
    assert!((report.table_hits["service"] - 1.0).abs() < 1e-9, "{:?}", report.table_hits);
    assert_eq!(report.live_sessions, 4000, "the table is full, and stays so");
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
fn bursts_are_as_large_as_asked_for() {
    for burst in [1, 8, 32] {
        let arguments: &'static str =
            format!("run forward --packets 20000 --repeat 1 --flows 500 --burst {burst}").leak();
        let report = run(arguments);
        holds(&report, "forward", 20_000);
        assert_eq!(report.burst, burst);
        let drain = report.stages.last().unwrap();
        // The last burst of a batch is what is left.
        let (least, most) = (burst as f64 * 0.99, burst as f64);
        assert!((least..=most).contains(&drain.packets_per_call), "{burst}: {drain:?}");
    }
}

#[test]
fn new_flows_come_when_asked_for() {
    for arguments in [
        "run balance --packets 60000 --repeat 2 --sessions 2000 --services 4 --backends 4 --churn 5000",
        "run police --packets 60000 --repeat 2 --sessions 2000 --services 4 --backends 4 --churn 5000",
        "run full --packets 60000 --repeat 2 --flows 1000 --sessions 2000 --rules 200 --routes 100 --churn 5000",
    ] {
        let report = run(arguments);
        // How near the rate comes depends on how steady the machine is; the arithmetic is tried in `churn`. There are some, and the
        // rest of the traffic is still what it was.
        assert!(report.churn_per_s > 0.0, "{arguments}: {}", report.churn_per_s);
        assert!(report.mix["first"] > 0.0 && report.live_sessions > 2000, "{arguments}: {:?}", report.mix);
        assert!(!report.drops.contains_key("session_table_full"), "{:?}", report.drops);
        assert_eq!(report.residue, 0);
    }
    let text = refusal("run balance --packets 100 --sessions 100 --flows 16 --churn 1000000000000");
    assert!(text.contains("--churn: found 1000000000000") && text.contains("less than the"), "{text}");
}

#[test]
fn a_capture_is_replayed() {
    use marchproxy_engine::packet::Packet;
    let frame = |n: u8| Packet::eth([9; 6], [8; 6]).ipv4([100, 64, 0, n], [198, 18, 0, 0]).udp(9, 9).build();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hundred.pcap");
    marchproxy_perf::pcap::write_file(&path, (0..100).map(frame)).unwrap();
    let arguments = |scenario: &str| -> &'static str {
        format!("run {scenario} --packets 20000 --repeat 1 --packet pcap:{}", path.display()).leak()
    };
    let report = run(arguments("rules --rules 100"));
    assert_eq!((report.packets, report.residue, report.parameters.flows), (20_000, 0, 100));
    // A service's address and no service there: nothing of it belongs to a session, and the report shows that.
    let report = run(arguments("balance --sessions 100 --services 2 --backends 2"));
    assert_eq!((report.packets, report.residue), (20_000, 0));
    assert!((report.mix["established"]).abs() < 1e-9, "{:?}", report.mix);
    assert_eq!(report.punts["local"], 20_000, "{:?}", report.punts);
    assert!(report.latency.is_none() && marchproxy_perf::table::render(&report).contains("100 frames"));
    let refused = refusal(arguments("forward --flows 5"));
    assert!(refused.contains("--flows") && refused.contains("the capture's"), "{refused}");
    marchproxy_perf::pcap::write_file(&path, [vec![0; 60], vec![0; 2000]]).unwrap();
    let refused = refusal(arguments("forward"));
    assert!(refused.contains("frame 2") && refused.contains("2000 octets"), "{refused}");
}

/// Whether two workers can run here; says so when not.
fn two_cores() -> bool {
    let cores = marchproxy_cpu::current_affinity().unwrap();
    if cores.len() < 2 {
        eprintln!("skipped: two workers want two cores, allowed here: {cores:?}");
    }
    cores.len() >= 2
}

#[test]
fn two_workers_hand_over_and_lose_nothing() {
    if !two_cores() {
        return;
    }
    for arguments in [
        "run balance --workers 2 --packets 20000 --repeat 2 --flows 1000 --sessions 3000 --services 3 --backends 4",
        "run full --workers 2 --packets 20000 --repeat 2 --flows 2000 --sessions 3000 --rules 200 --routes 100",
    ] {
        let report = run(arguments);
        let scenario = report.scenario.label();
        holds(&report, scenario, 40_000);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["machine"]["core"].as_array().unwrap().len(), 2);
        assert_eq!(report.workers.len(), 2);
        assert_eq!(report.workers.iter().map(|w| w.packets).sum::<u64>(), 40_000);
        let (handed, taken) = report.workers.iter().fold((0, 0), |(h, t), w| (h + w.handed_off, t + w.taken_over));
        assert_eq!(handed, taken, "{scenario}: nothing stays in a ring");
        let hand_off = report.hand_off.as_ref().unwrap();
        // The device and the owner's hash agree by chance only: half of the sessions' packets, and of 5 % first ones in full.
        let wanted = if scenario == "full" { 0.375 } else { 0.5 };
        assert!((hand_off.ratio - wanted).abs() < 0.06, "{scenario}: {hand_off:?}");
        assert!(hand_off.direct_cycles_per_packet.unwrap() > 0.0 && hand_off.cycles_per_handed_packet.is_some());
        assert!(report.workers.iter().all(|w| w.cycles_per_packet > 0.0 && w.packets_per_cpu_second > 0.0));
        // The rings between workers may run full where a worker is stopped; nothing else may be dropped.
        let odd = report.drops.keys().find(|why| !["rule_deny", "handoff_queue_full"].contains(why));
        assert_eq!(odd, None, "{:?}", report.drops);
        let text = marchproxy_perf::table::render(&report);
        assert!(text.contains("handed off") && text.contains("cores "), "{text}");
    }
}

#[test]
fn two_workers_without_sessions_have_nothing_to_hand_over() {
    if !two_cores() {
        return;
    }
    let report = run("run forward --workers 2 --packets 40001 --repeat 1 --flows 1000");
    holds(&report, "forward", 40_001);
    let hand_off = report.hand_off.unwrap();
    assert_eq!((hand_off.ratio, hand_off.cycles_per_handed_packet), (0.0, None));
    let shares: Vec<_> = report.workers.iter().map(|w| w.packets).collect();
    assert!(shares.iter().all(|&n| n > 16_000), "the device spreads evenly: {shares:?}");
    let report = run("run balance --workers 2 --packets 40000 --repeat 1 --sessions 2000 --flows 500 --churn 5000");
    assert!(report.churn_per_s > 0.0 && report.mix["first"] > 0.0, "{}", report.churn_per_s);
    assert_eq!(report.residue, 0);
    let report = run("run police --workers 2 --packets 20000 --repeat 1 --sessions 1000 --services 2 --backends 2");
    assert!(report.table_hits["policer"] > 0.0 && report.residue == 0, "{:?}", report.table_hits);
    let refused = refusal("run forward --workers 2 --core 0");
    assert!(refused.contains("--core") && refused.contains("as many different cores"), "{refused}");
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
        ("run forward --core 9999", &["--core: found 9999", "allowed here"]),
        ("run forward --workers 0", &["0", "workers"]),
        ("run forward --workers 255", &["--workers: found 255", "at most", "allowed here"]),
        ("run forward --packet 65", &["65", "imix", "pcap:FILE"]),
        ("run forward --packet pcap:", &["wants a file"]),
        ("run forward --packet pcap:/nowhere/x.pcap", &["/nowhere/x.pcap"]),
        ("run rules --churn 5", &["--churn", "found 5", "scenario rules keeps no state"]),
        ("run balance --churn 0", &["--churn", "0"]),
        ("run forward --backend pci", &["memory", "vdev:NAME", "pci:ADDRESS"]),
        ("run forward --mem-mb 64", &["--mem-mb", "found 64", "memory backend"]),
        #[cfg(not(feature = "dpdk"))]
        ("run forward --backend vdev:net_null0", &["--backend", "without the cargo feature `dpdk`"]),
        ("run forward --burst 64", &["64", "1..=32"]),
        ("run forward --burst 0", &["0", "1..=32"]),
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
    let rule = RuleSpec {
        name: "wide".into(),
        priority: 1,
        matches,
        action: RuleAction::Deny,
        mark: None,
        ..Default::default()
    };
    let tables = RuleTables { rules: vec![rule], ..RuleTables::default() };
    let Err(refused) = Rig::new(&tables, Capacity { sessions: 1, step: 1 }, 32, 1) else {
        panic!("100,000 combinations")
    };
    let text = refused.to_string();
    let words = ["the engine refuses these tables", "rule wide", "found 100000", "allowed at most"];
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn a_termination_ends_a_run_like_ctrl_c_does() {
    use std::io::Read;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let run = ["run", "forward", "--flows", "64", "--duration", "60", "--repeat", "100", "--json"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_marchproxy-perf"));
    let mut child = command.args(run).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // It starts itself again and then sets its handler, so it is asked for the signals that it catches (bit 15 of the mask).
    let status = format!("/proc/{}/status", child.id());
    let catches = || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0").trim().to_owned();
        u64::from_str_radix(&mask, 16).unwrap_or_default() & 1 << 14 != 0
    };
    let end = Instant::now() + Duration::from_secs(30);
    while !catches() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    let caught = catches();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    while child.try_wait().unwrap().is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    // Whatever happened, it is gone afterwards.
    let _ = child.kill();
    let status = child.wait().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    // Before anything is measured there is nothing to print and it is refused; it is never the signal that ends it.
    assert!(caught && matches!(status.code(), Some(0 | 1)), "{status} {text}");
}
