//! Starts that fail say why. DPDK takes one attempt per process, so each case runs in a child: this test again, with the case
//! in its environment.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use marchproxy_dpdk::{Eal, EalBuilder, EalError};

const CASE: &str = "MARCHPROXY_TEST_CASE";
const PREFIX: &str = "MARCHPROXY_TEST_PREFIX";

#[test]
fn failing_starts_name_their_reason() {
    if let Ok(case) = std::env::var(CASE) {
        return child(&case);
    }
    for (case, expected) in [
        ("unknown argument", ["Arguments", "--frobnicate`"]),
        ("zero byte", ["Arguments", "zero byte in an argument"]),
        ("no such core", ["Prepare", "the limit is 1024"]),
        ("too little memory", ["Memory", "asked for 1048576 MB; the host has "]),
        ("a second attempt", ["AlreadyStarted", "one attempt per process"]),
    ] {
        let said = run(case, "unused").wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let verdict = said.lines().find(|line| line.starts_with("verdict:")).unwrap_or(&said);
        assert!(expected.iter().all(|text| verdict.contains(text)), "{case}: {verdict}");
    }
    prefix_in_use();
}

fn prefix_in_use() {
    let prefix = format!("held-{}", std::process::id());
    let mut holder = run("hold", &prefix);
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("holding")), "the holder did not start");
    let said = run("prefix in use", &prefix).wait_with_output().unwrap();
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let said = String::from_utf8_lossy(&said.stdout);
    // DPDK leaves the directory of a prefix behind.
    for parent in ["/var/run", &std::env::var("XDG_RUNTIME_DIR").unwrap_or("/tmp".into())] {
        let _ = std::fs::remove_dir_all(format!("{parent}/dpdk/{prefix}"));
    }
    assert!(said.contains("PrefixInUse") && said.contains(&prefix), "{said}");
}

fn run(case: &str, prefix: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--nocapture", "failing_starts_name_their_reason"])
        .env(CASE, case)
        .env(PREFIX, prefix)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn child(case: &str) {
    let shared = || common::builder("").in_memory(false).file_prefix(&std::env::var(PREFIX).unwrap());
    match case {
        "unknown argument" => verdict(common::builder("unknown").argument("--frobnicate")),
        "zero byte" => verdict(common::builder("zero").argument("a\0b")),
        "no such core" => verdict(common::builder("cores").housekeeping_cores(&[1 << 20])),
        // More than any host of ours has in huge pages.
        "too little memory" => verdict(Eal::builder().no_pci().memory_mb(1 << 20)),
        "a second attempt" => {
            common::builder("first").argument("--frobnicate").start().unwrap_err();
            verdict(common::builder("second"));
        }
        "prefix in use" => verdict(shared()),
        // Keeps DPDK's files locked until stdin closes.
        _ => {
            let eal = shared().start().unwrap();
            println!("\nholding");
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            drop(eal);
        }
    }
}

/// One line that says which error it was, and its text.
fn verdict(builder: EalBuilder) {
    let error: EalError = builder.start().unwrap_err();
    println!("\nverdict: {error:?}: {error}");
}
