//! Trials of every kind on a real node, short: shape of the report, conservation, refusals. Nothing here depends on how fast they are.

// Helpers of a test file are tests, too.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use serde_json::Value;

fn perf(arguments: &str) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_marchproxy-perf")).args(arguments.split(' ')).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Two cores, or a reason not to test what needs them.
fn two_cores() -> bool {
    let cores = marchproxy_cpu::current_affinity().unwrap();
    if cores.len() < 2 {
        eprintln!("left out: only core {cores:?} is allowed here");
    }
    cores.len() >= 2
}

fn report(arguments: &str) -> Value {
    let (code, out, err) = perf(&format!("rfc2544 {arguments} --json --quick --trial 0.05 --resolution 40 --repeat 1"));
    assert_eq!(code, Some(0), "{arguments}: {err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    for key in ["methodology", "scenario", "backend", "settings", "parameters", "cores", "machine", "noise"] {
        assert!(report.get(key).is_some(), "{arguments}: {key} is missing");
    }
    assert_eq!((report["backend"].as_str(), report["residue"].as_i64()), (Some("memory"), Some(0)));
    assert_ne!(report["cores"]["tester"], report["cores"]["device"]);
    report
}

fn trial(trial: &Value, of: &str) {
    for key in ["offered_mpps", "received_mpps", "seconds", "loss_percent", "lost", "latency", "invalid", "disturbed"] {
        assert!(trial.get(key).is_some(), "{of}: {key} is missing in {trial}");
    }
    assert_eq!(trial["residue"].as_i64(), Some(0), "{of}");
    let count = |key: &str| trial[key].as_u64().unwrap();
    assert!(count("offered") > 0 && count("received") <= count("offered"), "{of}: {trial}");
    // What did not come back has a name.
    let named = |key: &str| {
        trial.get(key).and_then(Value::as_object).map_or(0, |by| by.values().filter_map(Value::as_u64).sum())
    };
    assert_eq!(count("received") + named("lost") + named("denied"), count("offered"), "{of}: {trial}");
    let latency = &trial["latency"];
    let at = |key: &str| latency[key].as_f64().unwrap();
    let rising = ["min_us", "p50_us", "p90_us", "p99_us", "p99_9_us", "max_us"].map(at);
    assert!(rising.is_sorted(), "{of}: {latency}");
    assert_eq!(latency["packets"].as_u64(), Some(count("received")), "{of}");
}

#[test]
fn throughput_and_loss_of_one_size() {
    if !two_cores() {
        return;
    }
    let report = report("throughput --packet 256 --family v6 --flows 500 --loss 50");
    let case = &report["cases"][0];
    assert_eq!((case["packet"].as_str(), case["family"].as_str()), (Some("256"), Some("v6")));
    assert_eq!(case["frame_octets"].as_f64(), Some(256.0));
    let found = &case["throughput"][0];
    assert_eq!(found["loss_percent"].as_f64(), Some(50.0));
    assert!(["device", "tester"].contains(&found["limited_by"].as_str().unwrap()), "{found}");
    assert!(found["mpps"].as_f64().unwrap() <= case["maximum_mpps"].as_f64().unwrap());
    for step in found["steps"].as_array().unwrap() {
        assert!(["held", "lost", "invalid"].contains(&step["verdict"].as_str().unwrap()), "{step}");
    }
    if !found["confirmed"].is_null() {
        trial(&found["confirmed"], "throughput");
    }
    assert!(case["latency"].as_array().unwrap().is_empty() && case["back_to_back"].is_null());
}

#[test]
fn loss_curve_of_services_with_sessions() {
    if !two_cores() {
        return;
    }
    let report = report(
        "frame-loss --scenario full --packet imix --flows 500 --sessions 2000 --services 2 --rules 100 --routes 200",
    );
    let points = report["cases"][0]["frame_loss"].as_array().unwrap();
    assert!(points.len() >= 2);
    for (at, point) in points.iter().enumerate() {
        assert_eq!(point["rate_percent"].as_u64(), Some(100 - 10 * at as u64));
        trial(point, "frame loss");
        // Two of a hundred are denied, and that is no loss.
        let denied =
            point["denied"]["rule_deny"].as_u64().unwrap_or(0) as f64 / point["offered"].as_u64().unwrap() as f64;
        assert!(denied < 0.04, "{point}");
    }
}

#[test]
fn a_line_bounds_bursts_and_pages_stand_alone() {
    if !two_cores() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("bursts.html");
    let report = report(&format!("back-to-back --packet 1518 --line 0.01 --flows 100 --html {}", page.display()));
    let case = &report["cases"][0];
    // 10 Mbit/s are 812.7 frames of 1,518 octets a second (RFC 2544 appendix B).
    assert!((case["maximum_mpps"].as_f64().unwrap() * 1e6 - 812.7).abs() < 0.1, "{case}");
    assert_eq!(case["maximum_by"].as_str(), Some("line"));
    let bursts = &case["back_to_back"];
    assert_eq!(bursts["each"].as_array().unwrap().len(), 1, "{bursts}");
    let text = std::fs::read_to_string(&page).unwrap();
    support::is_whole_and_alone(&text);
    assert!(text.contains("Back-to-back frames") && text.contains(report["machine"]["kernel"].as_str().unwrap()));
}

#[test]
fn wrong_options_are_named() {
    for (arguments, words) in [
        ("rfc2544 --trial 0", &["--trial", "found 0"][..]),
        ("rfc2544 --resolution 90", &["--resolution", "at most 50"]),
        ("rfc2544 --loss 100", &["--loss", "below 100"]),
        ("rfc2544 --core 9999", &["--core", "found 9999"]),
        ("rfc2544 --sessions 5", &["--sessions", "scenario forward has none"]),
        ("rfc2544 --html /nonexistent/page.html", &["--html", "/nonexistent/page.html"]),
    ] {
        let (code, _, err) = perf(arguments);
        assert_eq!(code, Some(1), "{arguments}: {err}");
        assert!(words.iter().all(|word| err.contains(word)), "{arguments}: {err}");
    }
    assert_eq!(perf("rfc2544 --packet 65").0, Some(2));
    assert_eq!(perf("rfc2544 latencies").0, Some(2));
    if two_cores() {
        let (code, _, err) = perf("rfc2544 --scenario forward6 --family v4 --quick --flows 100");
        assert_eq!(code, Some(1));
        assert!(err.contains("--family") && err.contains("forward6"), "{err}");
    }
    let (code, out, _) = perf("rfc2544 --help");
    assert!(code == Some(0) && out.contains("Examples:"), "{out}");
}

#[test]
fn one_core_is_refused_with_the_reason() {
    let core = marchproxy_cpu::current_affinity().unwrap()[0];
    let output = Command::new("taskset")
        .args(["-c", &core.to_string(), env!("CARGO_BIN_EXE_marchproxy-perf"), "rfc2544", "--quick"])
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("two cores") && err.contains(&format!("[{core}]")), "{err}");
}
