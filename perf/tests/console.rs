//! The interactive mode, driven by scripts: no terminal, one process each.

// Helpers of a test file are tests, too.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Ended, perf_with};

/// The numbers behind a word, in order.
fn numbers(out: &str, word: &str) -> Vec<u64> {
    let values = out.split(word).skip(1).filter_map(|rest| rest.split_whitespace().next());
    values.filter_map(|number| number.parse().ok()).collect()
}

/// A script that shows statistics until packets were forwarded would be endless where nothing is; this is long enough anywhere.
fn forwards(arguments: &str) -> Ended {
    let shows = "show port stats all\n".repeat(40);
    let script = format!(
        "# a script\nshow config\nset burst 8\nstart\n{shows}stop\nclear port stats all\nshow port stats all\n\
         set fwd mark\nstart\n{shows}show fwd stats all\nquit\n"
    );
    perf_with(arguments, &script)
}

fn holds(ended: &Ended, stations: usize) {
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.err);
    let out = &ended.out;
    assert!(out.contains("forward forwarding, stopped") && out.contains("forwarding mark, burst 8"), "{out}");
    // After `stop`, after `show fwd stats all`, and after `quit`, which stops what runs.
    let residues = numbers(out, "residue: ");
    assert_eq!(residues, [0, 0, 0], "{out}");
    let accumulated: Vec<_> = out.split("accumulated forward statistics of all ports").skip(1).collect();
    assert_eq!(accumulated.len(), 3, "{out}");
    for part in accumulated {
        let part = part.split("residue").next().unwrap();
        let (rx, tx) = (numbers(part, "RX-packets: ")[0], numbers(part, "TX-packets: ")[0]);
        assert!(rx > 0 && tx > 0 && numbers(part, "dropped: ")[0] == 0, "{part}");
    }
    // Cleared while stopped: zero on every port.
    let cleared = out.split("cleared").nth(1).unwrap();
    assert_eq!(numbers(cleared, "RX-packets: ")[..stations], vec![0; stations], "{cleared}");
}

#[test]
fn a_script_forwards_on_memory() {
    holds(&forwards("-i --flows 200"), 2);
}

#[cfg(feature = "dpdk")]
#[test]
fn a_script_forwards_on_devices() {
    // The second scenario takes the device down and opens it again with another file.
    holds(&forwards("-i --backend vdev:net_pcap --flows 200 --file-packets 500 --no-huge"), 1);
}

#[test]
fn a_refused_command_is_named_and_the_script_goes_on() {
    let ended = perf_with("-i --flows 50", "stop\nset burst 99\nfrobnicate\nstart\nset fwd full\nstart\n");
    assert_eq!(ended.code, Some(1), "a script that was not followed");
    for words in
        ["stop: found not forwarding", "set burst 1 to 32", "frobnicate", "`stop` first", "start: found already"]
    {
        assert!(ended.err.contains(words), "{words}: {}", ended.err);
    }
    // The end of the script stops what runs.
    assert!(ended.out.contains("accumulated forward statistics"), "{}", ended.out);
}

#[test]
fn ctrl_c_stops_and_leaves() {
    use std::io::Read;
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_marchproxy-perf"))
        .args(["-i", "--flows", "50"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"start\n").unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut said = Vec::new();
    let mut byte = [0];
    while !said.ends_with(b"started on core") && out.read(&mut byte).unwrap() == 1 {
        said.push(byte[0]);
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    let start = std::time::Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if start.elapsed().as_secs() > 60 => child.kill().unwrap(),
            None => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    };
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(status.code(), Some(0), "{rest}");
    assert!(rest.contains("accumulated forward statistics"), "{rest}");
    drop(stdin);
}
