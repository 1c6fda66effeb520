//! Growth over short spans: shape of the report, refusals, page.

// Helpers of a test file are tests, too.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use serde_json::Value;

fn scale(arguments: &str) -> (Option<i32>, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_marchproxy-perf")).arg("scale").args(arguments.split(' ')).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn growth_over_flows_has_points_a_factor_and_a_law() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("growth.html");
    let (code, out, err) = scale(&format!(
        "flows --from 64 --to 1024 --points 3 --packets 9000 --repeat 2 --json --html {}",
        page.display()
    ));
    assert_eq!(code, Some(0), "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let amount = &report["amounts"][0];
    assert_eq!((amount["what"].as_str(), amount["scenario"].as_str()), (Some("flows"), Some("forward")));
    let sizes: Vec<_> = amount["points"].as_array().unwrap().iter().map(|p| p["n"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [64, 256, 1024]);
    for point in amount["points"].as_array().unwrap() {
        assert!(point["cycles_per_packet"].as_f64().unwrap() > 0.0 && point["refused"].is_null(), "{point}");
        let figures = point["figures"].as_array().unwrap();
        assert_eq!(figures.len(), 2);
        assert!(
            figures.iter().all(|f| f["residue"].as_i64() == Some(0) && f["mpps"].as_f64().unwrap() > 0.0),
            "{point}"
        );
    }
    let growth = &amount["growth"];
    assert_eq!(growth["span"], serde_json::json!([64, 1024]));
    let (factor, limit) = (growth["factor"].as_f64().unwrap(), growth["limit"].as_f64().unwrap());
    assert!((limit - 2.0).abs() < 1e-9);
    assert_eq!(growth["holds"].as_bool(), Some(factor <= limit));
    assert!(["logarithm", "power"].contains(&growth["fit"]["law"].as_str().unwrap()), "{growth}");
    let text = std::fs::read_to_string(&page).unwrap();
    support::is_whole_and_alone(&text);
    assert!(text.contains("Cost by flows"));
}

#[test]
fn a_size_that_is_refused_is_shown_with_its_words() {
    // There are 4,000 neighbours for backends, four of each service.
    let (code, out, err) = scale("services --from 2 --to 1500 --points 2 --packets 3000 --repeat 1");
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("1500 refused: --backends: found 1500 services") && out.contains("allowed"), "{out}");
    assert!(out.contains("fewer than two sizes"), "{out}");
}

#[test]
fn where_nothing_can_be_measured_the_command_fails() {
    let (code, out, _) = scale("services --from 5000 --to 6000 --points 2 --packets 3000 --repeat 1");
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("refused: --services"), "{out}");
    assert!(!out.contains("machine"), "{out}");
}

#[test]
fn wrong_options_are_named() {
    for (arguments, words) in [
        ("sessions --scenario forward", &["--scenario", "found forward", "sessions"][..]),
        ("all --from 5", &["--from", "found 5"]),
        ("flows --from 10 --to 5", &["--from", "found 10"]),
        ("flows --html /nonexistent/page.html", &["--html"]),
        ("flows --profile fw", &["--profile", "found fw", "no rules"]),
        ("workers --core 1", &["--core", "found 1", "each worker"]),
    ] {
        let (code, _, err) = scale(arguments);
        assert_eq!(code, Some(1), "{arguments}: {err}");
        assert!(words.iter().all(|word| err.contains(word)), "{arguments}: {err}");
    }
    let (code, _, err) = scale("packets");
    assert!(code == Some(2) && err.contains("flows, routes"), "{err}");
    assert_eq!(scale("flows --points 1").0, Some(2));
}
