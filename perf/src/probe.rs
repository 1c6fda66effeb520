//! What the kernel counts about the measured thread: CPU time, and instructions where the machine has counters.

use nix::time::{ClockId, clock_gettime};
use perf_event::events::Hardware;
use perf_event::{Builder, Counter};

/// Opened once per run on the measured thread.
pub struct Probe {
    counter: Option<Counter>,
    /// Why there are no instructions.
    missing: Option<String>,
    start_ns: u64,
    start_instructions: u64,
}

impl Probe {
    /// Opens the counters of the calling thread.
    pub fn open() -> Self {
        let opened = Builder::new(Hardware::INSTRUCTIONS).exclude_kernel(true).exclude_hv(true).build();
        let opened = opened.and_then(|mut counter| counter.enable().map(|()| counter));
        let (counter, missing) = match opened {
            Ok(counter) => (Some(counter), None),
            Err(error) => (None, Some(format!("perf_event_open: {error}"))),
        };
        Self { counter, missing, start_ns: 0, start_instructions: 0 }
    }

    /// Why instructions are not counted here.
    pub fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// Begins a measurement.
    pub fn start(&mut self) {
        self.start_instructions = self.instructions().unwrap_or(0);
        self.start_ns = cpu_time();
    }

    /// Nanoseconds of CPU time and instructions since [`start`](Self::start).
    pub fn stop(&mut self) -> (u64, Option<u64>) {
        let ns = cpu_time().saturating_sub(self.start_ns);
        (ns, self.instructions().map(|now| now.saturating_sub(self.start_instructions)))
    }

    fn instructions(&mut self) -> Option<u64> {
        self.counter.as_mut()?.read().ok()
    }
}

/// CPU time of the calling thread in nanoseconds.
pub(crate) fn cpu_time() -> u64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_cpu_time_and_sleep_does_not() {
        let mut probe = Probe::open();
        probe.start();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let (slept, _) = probe.stop();
        probe.start();
        let mut sum = 0u64;
        while cpu_time() - probe.start_ns < 60_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let (worked, instructions) = probe.stop();
        assert!(slept < 50_000_000 && worked >= 60_000_000, "{slept} {worked}");
        assert_eq!(instructions.is_some(), probe.missing().is_none());
    }
}
