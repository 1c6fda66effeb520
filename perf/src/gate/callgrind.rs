//! Starts this program again under callgrind for one scenario.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::count::{Counted, FUNCTION};
use super::profile::{self, Profile};
use crate::Error;
use crate::compare::child::find;
use crate::progress::Progress;
use crate::scenario::Scenario;

/// A counted run takes seconds. One that has not ended after this long will not end.
const PATIENCE: Duration = Duration::from_mins(5);

/// Where our source files are, as the compiler has written them into the program.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Counts the instructions of a scenario; callgrind's files go to `scratch`.
pub fn count(scenario: Scenario, scratch: &Path, progress: &Progress) -> Result<(Counted, Profile), Error> {
    let label = scenario.label();
    let file = |end: &str| scratch.join(format!("{label}.{end}"));
    let system = |what: &str| {
        let what = format!("{what} for scenario {label}");
        move |source| Error::System { what, source }
    };
    let program = std::env::current_exe().map_err(system("finding this program"))?;
    let (out, said) = (file("out"), file("stderr"));
    let valgrind = find("valgrind").ok_or_else(|| {
        let what = "starting valgrind (scripts/setup installs it: apt-get install valgrind)".into();
        Error::System { what, source: std::io::ErrorKind::NotFound.into() }
    })?;
    // The kernel kills it when this program dies (see [`crate::compare::child::Child`]); the thread that starts it waits for it.
    let mut counting = Command::new("setpriv");
    counting
        .args(["--pdeathsig", "KILL"])
        .arg(valgrind)
        .args(["--tool=callgrind", "--collect-atstart=no", "--compress-pos=no", "--dump-instr=no"])
        .arg(format!("--toggle-collect={FUNCTION}"))
        .arg(format!("--callgrind-out-file={}", file("callgrind").display()))
        .arg(program)
        .args(["gate", "--count", label])
        // What lies on the stack and how the heap works must not depend on who calls.
        .env_clear()
        .envs(["PATH", "VALGRIND_LIB", "LD_LIBRARY_PATH"].iter().filter_map(|k| Some((k, std::env::var_os(k)?))))
        .stdin(Stdio::null())
        .stdout(File::create(&out).map_err(system("a scratch file"))?)
        .stderr(File::create(&said).map_err(system("a scratch file"))?);
    let mut child = counting.spawn().map_err(system("starting setpriv (Debian package util-linux) and valgrind"))?;
    let status = wait(&mut child, progress).map_err(system("waiting for valgrind"))?;
    let Some(status) = status else { return Err(Error::Interrupted) };
    let failed = |why: String| Error::Callgrind { scenario: label, why };
    let read = |end: &str| std::fs::read_to_string(file(end)).map_err(system("reading what callgrind wrote"));
    if !status.success() {
        return Err(failed(format!("it ended with {status}: {}", tail(&read("stderr")?))));
    }
    let counted = read("out")?;
    let counted = serde_json::from_str(&counted).map_err(|_| failed(format!("it printed {:?}", counted.trim())))?;
    let root = Path::new(ROOT).canonicalize().unwrap_or_else(|_| ROOT.into());
    let profile = profile::parse(&read("callgrind")?, &root).map_err(failed)?;
    Ok((counted, profile))
}

/// `None` when it was stopped.
fn wait(child: &mut Child, progress: &Progress) -> std::io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((!progress.stopped()).then_some(status));
        }
        if progress.stopped() || start.elapsed() > PATIENCE {
            child.kill()?;
            let status = child.wait()?;
            return Ok((!progress.stopped()).then_some(status));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The last words, without valgrind's numbers in front.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(|line| line.trim_start_matches(['=', ' ', '-'])).collect();
    lines[lines.len().saturating_sub(6)..].join("; ")
}
