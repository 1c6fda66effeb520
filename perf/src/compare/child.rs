//! Programs that a comparison starts: each writes to a log of its own, and none outlives the run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;
use crate::progress::Progress;

/// Between two looks at something that is awaited.
const LOOK: Duration = Duration::from_millis(20);

/// Lines of a log that are shown when its program fails.
const TAIL: usize = 6;

/// A running program. It is killed, by its process id, when this goes out of scope; the kernel kills it when this program dies any other
/// way (PR_SET_PDEATHSIG, through setpriv(1) of util-linux, so that no unsafe code is needed between fork and exec).
#[derive(Debug)]
pub struct Child {
    name: String,
    process: Process,
    /// Standard output and standard error.
    logs: [PathBuf; 2],
}

impl Child {
    /// Starts `program` in a process group of its own: a Ctrl-C on the terminal is meant for us, and we end it. Its standard input stays
    /// open and silent; `NAME.out` and `NAME.log` in `folder` take what it writes.
    pub fn start(name: &str, folder: &Path, program: &Path, arguments: &[String]) -> Result<Self, Error> {
        Self::start_with(name, folder, program, arguments, &[])
    }

    /// The same with environment variables.
    pub fn start_with(
        name: &str,
        folder: &Path,
        program: &Path,
        arguments: &[String],
        environment: &[(&str, String)],
    ) -> Result<Self, Error> {
        use std::os::unix::process::CommandExt;
        let logs = ["out", "log"].map(|kind| folder.join(format!("{name}.{kind}")));
        let refused = |source| Error::System { what: format!("starting {}", program.display()), source };
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(File::create(&logs[0]).map_err(refused)?)
            .stderr(File::create(&logs[1]).map_err(refused)?)
            .process_group(0)
            .spawn()
            .map_err(refused)?;
        Ok(Self { name: name.to_owned(), process, logs })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// An error with its last words when it has ended.
    pub fn check(&mut self) -> Result<(), Error> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(Error::Peer(format!("{} ended with {status}; its last words: {}", self.name, tail(&self.logs))))
            }
            Err(source) => Err(Error::System { what: format!("asking after {}", self.name), source }),
        }
    }

    /// Asks `ready` until it has an answer, for `limit` at most. Ends early when the program does, or with Ctrl-C.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        progress: &Progress,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T, Error> {
        let start = Instant::now();
        loop {
            self.check()?;
            if let Some(answer) = ready() {
                return Ok(answer);
            }
            if start.elapsed() > limit {
                let (name, seconds) = (&self.name, limit.as_secs());
                let words = tail(&self.logs);
                return Err(Error::Peer(format!("{name}: no {what} within {seconds} s; its last words: {words}")));
            }
            pause(LOOK, progress)?;
        }
    }

    /// Waits until it ends, and returns what it wrote, for `limit` at most. A failure is an error with its last words.
    pub fn finish(mut self, limit: Duration, progress: &Progress) -> Result<String, Error> {
        let start = Instant::now();
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) if status.success() => {
                    return Ok(fs::read_to_string(&self.logs[0]).unwrap_or_default());
                }
                Ok(None) if start.elapsed() > limit => {
                    return Err(Error::Peer(format!("{} did not end within {} s", self.name, limit.as_secs())));
                }
                Ok(None) => pause(LOOK, progress)?,
                _ => self.check()?,
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Neither can fail in a way that somebody could act upon: the process may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sleeps, but not through a Ctrl-C.
pub fn pause(time: Duration, progress: &Progress) -> Result<(), Error> {
    let end = Instant::now() + time;
    loop {
        if progress.stopped() {
            return Err(Error::Interrupted);
        }
        match end.checked_duration_since(Instant::now()) {
            None | Some(Duration::ZERO) => return Ok(()),
            Some(rest) => std::thread::sleep(rest.min(LOOK)),
        }
    }
}

/// Whether a program can be found, and where.
pub fn find(program: &str) -> Option<PathBuf> {
    // Servers are in sbin, which not everybody's PATH has.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// The last lines of what a program wrote, its complaints last.
fn tail(logs: &[PathBuf; 2]) -> String {
    let text: String = logs.iter().filter_map(|log| fs::read_to_string(log).ok()).collect();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return "none".into();
    }
    lines[lines.len().saturating_sub(TAIL)..].join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: &str = "/bin/sh";

    fn shell(folder: &Path, script: &str) -> Child {
        Child::start("test", folder, Path::new(SHELL), &["-c".into(), script.into()]).unwrap()
    }

    fn alive(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn nobody_outlives_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let child = shell(folder.path(), "exec sleep 100");
        let pid = child.pid();
        assert!(alive(pid));
        drop(child);
        assert!(!alive(pid));
    }

    #[test]
    fn last_words_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell(folder.path(), "echo no such device >&2; exit 3");
        let error = child
            .wait_for("answer", Duration::from_secs(5), &Progress::hidden(), || None::<()>)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no such device") && error.contains('3'), "{error}");
        let child = shell(folder.path(), "echo forty two");
        assert_eq!(child.finish(Duration::from_secs(5), &Progress::hidden()).unwrap(), "forty two\n");
        let child = shell(folder.path(), "echo broken; exit 1");
        let error = child.finish(Duration::from_secs(5), &Progress::hidden()).unwrap_err().to_string();
        assert!(error.contains("broken"), "{error}");
    }

    #[test]
    fn waiting_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell(folder.path(), "exec sleep 100");
        let error = child
            .wait_for("answer", Duration::from_millis(50), &Progress::hidden(), || None::<()>)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no answer within"), "{error}");
    }

    #[test]
    fn programs_are_found_or_not() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }
}
