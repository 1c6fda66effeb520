//! The program as a child of a test, bounded in time.
// Each test file uses its part.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How it ended.
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs it with these arguments, separated by blanks.
pub fn perf(arguments: &str) -> Ended {
    perf_with(arguments, "")
}

/// Runs it with a text on its standard input. Ended by force after two minutes, and then there is no code.
pub fn perf_with(arguments: &str, input: &str) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_marchproxy-perf"))
        .args(arguments.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that refuses its arguments does not read.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let read = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            from.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = read(Box::new(child.stdout.take().unwrap()));
    let err = read(Box::new(child.stderr.take().unwrap()));
    let start = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if start.elapsed() > Duration::from_mins(2) => child.kill().unwrap(),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    Ended { code: status.code(), out: out.join().unwrap(), err: err.join().unwrap() }
}
