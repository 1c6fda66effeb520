//! The gate, for real: valgrind counts this program's dev build. `scripts/setup` installs valgrind.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Exit code and what was printed.
fn gate(file: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut gate = Command::new(env!("CARGO_BIN_EXE_marchproxy-perf"));
    gate.args(["gate", "--scenario", "forward", "--file"]).arg(file).args(more);
    let output = gate.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

fn edit(file: &Path, change: impl Fn(&mut Value)) {
    let mut content = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    change(&mut content);
    std::fs::write(file, content.to_string()).unwrap();
}

#[test]
fn growth_is_refused_and_the_same_program_counts_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("gate.json");
    let (code, text) = gate(&file, &["--update"]);
    assert_eq!(code, Some(0), "{text}");

    // As if the program had taken 4 % less when the file was written.
    edit(&file, |content| {
        let figure = &mut content["scenarios"]["forward"]["instructions_per_packet"];
        *figure = (figure.as_f64().unwrap() / 1.04).into();
    });
    let (code, text) = gate(&file, &["--json"]);
    assert_eq!(code, Some(1), "{text}");
    let verdict: Value = serde_json::from_str(&text).unwrap();
    let row = &verdict["scenarios"][0];
    // Counted twice, to a hundredth of an instruction alike: 1.04 comes back.
    assert!((row["percent"].as_f64().unwrap() - 4.0).abs() < 0.001, "{row}");
    assert_eq!((row["scenario"].as_str(), row["judgement"].as_str()), (Some("forward"), Some("grew")));
    assert!(row["new"].as_f64().unwrap() > 500.0 && row["io"].as_f64().unwrap() > 5.0, "{row}");

    edit(&file, |content| content["rustc"] = "1.0.0".into());
    let (code, text) = gate(&file, &[]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("rustc 1.0.0") && text.contains("Compared across compilers"), "{text}");
    let (code, text) = gate(&file, &["--update"]);
    assert_eq!(code, Some(1), "one scenario alone does not change the file's compiler: {text}");

    // 1.04 times 1.12 is beyond what another compiler excuses.
    edit(&file, |content| {
        let figure = &mut content["scenarios"]["forward"]["instructions_per_packet"];
        *figure = (figure.as_f64().unwrap() / 1.12).into();
    });
    let (code, text) = gate(&file, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("rustc 1.0.0") && text.contains("15 %") && text.contains("gate --update"), "{text}");
}

#[test]
fn a_file_of_another_kind_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("gate.json");
    std::fs::write(&file, "[]").unwrap();
    let (code, text) = gate(&file, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("--file") && text.contains("gate.json"), "{text}");
}

/// The checked-in file speaks of this program's scenarios and of release builds.
#[test]
fn the_file_in_the_repository_is_one_of_a_release_build() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/gate.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((file["profile"].as_str(), file["target"].as_str()), (Some("release"), Some("x86-64-v3")));
    assert!(!text.contains("/src/index.crates.io") && !text.contains(env!("CARGO_MANIFEST_DIR")));
}
