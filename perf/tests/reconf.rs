//! `reconf` for real on few rules and few packets; no figure is judged, for tests know nothing of this machine's speed.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

/// Without the control plane's part a measurement is a partial one.
const DONE: i32 = if cfg!(feature = "control") { 0 } else { 3 };

fn reconf(arguments: &str) -> (Option<i32>, String, String) {
    let mut reconf = Command::new(env!("CARGO_BIN_EXE_marchproxy-perf"));
    let output = reconf.arg("reconf").args(arguments.split(' ')).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_size_is_pushed_under_load() {
    let (code, out, err) = reconf("--rules 200 --flows 256 --pushes 3 --rate 20000 --json");
    assert_eq!(code, Some(DONE), "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["changed"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 10, 100, 200]);
    for row in rows {
        let number = |field: &str| row[field].as_f64().unwrap_or_else(|| panic!("{field} in {row}"));
        assert!(number("pushes") > 2.5 && number("packets") > 0.0 && number("memory_mb") > 1.0, "{row}");
        assert!(0.0 < number("settle_ms_p50") && number("settle_ms_p50") <= number("settle_ms_p99"), "{row}");
        assert!(number("settle_ms_p99") <= number("settle_ms_max"), "{row}");
        let all_preempted = number("preempted_pushes") > 2.5;
        assert!(row["outage_us"].as_f64().is_some_and(|us| us >= 0.0) || all_preempted, "{row}");
        assert!(number("packets_lost") + number("packets_lost_preempted") <= number("packets"), "{row}");
    }
    assert!((report["rate_pps"].as_f64().unwrap() - 20_000.0).abs() < 1e-9);
    assert_eq!(report["store"], cfg!(feature = "control"));
    assert!(report["no_push_p999_us"].as_f64().unwrap() > 0.0);
}

#[test]
fn wrong_options_are_named() {
    let (code, _, err) = reconf("--rules 3");
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("--rules") && err.contains("found 3"), "{err}");
    assert_eq!(reconf("--pushes 0").0, Some(2));
}
