//! CPU time of another process's threads (proc(5), /proc/PID/task/TID/schedstat): rates per CPU second do not know who else was running.

use std::collections::BTreeMap;
use std::fs;

/// Nanoseconds on a CPU of each thread so far. The kernel brings the figure of a running thread up to date at its timer ticks, so a
/// difference is right to a few milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Times(BTreeMap<u32, u64>);

impl Times {
    /// Those of a process now.
    pub fn of(pid: u32) -> Self {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Self::default() };
        let read = |thread: fs::DirEntry| {
            let id = thread.file_name().to_str()?.parse().ok()?;
            Some((id, on_cpu(&fs::read_to_string(thread.path().join("schedstat")).ok()?)?))
        };
        Self(threads.flatten().filter_map(read).collect())
    }

    /// Seconds of the busiest thread since `before`: the worker, which polls without a rest.
    pub fn busiest_since(&self, before: &Self) -> f64 {
        let spent = |(thread, now): (&u32, &u64)| now.saturating_sub(before.0.get(thread).copied().unwrap_or(*now));
        self.0.iter().map(spent).max().unwrap_or(0) as f64 / 1e9
    }
}

/// The first of schedstat's three numbers: time on a CPU.
fn on_cpu(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_is_the_busiest() {
        let before = Times(BTreeMap::from([(1, 5_000_000_000), (2, 1_000_000_000)]));
        let after = Times(BTreeMap::from([(1, 5_100_000_000), (2, 2_500_000_000), (3, 9_000_000_000)]));
        assert!((after.busiest_since(&before) - 1.5).abs() < 1e-9, "a thread that was not there before does not count");
        assert_eq!(on_cpu("2500000000 17 3\n"), Some(2_500_000_000));
        assert_eq!(on_cpu(""), None);
    }

    #[test]
    fn our_own_threads_are_there() {
        assert!(!Times::of(std::process::id()).0.is_empty());
        assert!(Times::of(u32::MAX).0.is_empty());
    }
}
