//! The time stamp counter, and nanoseconds made from it.

use std::time::{Duration, Instant};

/// The CPU's time stamp counter (about 22 cycles): once per burst, never per packet. Elsewhere than on x86-64 a monotonic
/// nanosecond counter.
#[inline]
pub fn tsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: RDTSC is part of the x86_64 baseline and available to user space on Linux (CR4.TSD is clear by default).
        unsafe { std::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::LazyLock;
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed().as_nanos() as u64
    }
}

/// Turns counter readings into monotonic nanoseconds with a multiplication and a shift.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    base: u64,
    /// Nanoseconds per tick, scaled by 2^32.
    scale: u64,
    hz: u64,
}

impl TscClock {
    /// Measures the counter's rate against the monotonic clock for about 20 ms. The clock's zero is now.
    pub fn calibrate() -> Self {
        let (start, base) = (Instant::now(), tsc());
        std::thread::sleep(Duration::from_millis(20));
        let ticks = tsc().saturating_sub(base).max(1);
        let nanos = start.elapsed().as_nanos().max(1);
        let scale = ((nanos << 32) / u128::from(ticks)) as u64;
        let hz = (u128::from(ticks) * 1_000_000_000 / nanos) as u64;
        Self { base, scale, hz }
    }

    /// Nanoseconds from the clock's zero to the reading `tsc`; 0 for readings before it.
    #[inline]
    pub fn nanos(&self, tsc: u64) -> u64 {
        ((u128::from(tsc.saturating_sub(self.base)) * u128::from(self.scale)) >> 32) as u64
    }

    /// Counter ticks per second.
    pub fn hz(&self) -> u64 {
        self.hz
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_follow_the_monotonic_clock() {
        let clock = TscClock::calibrate();
        let (start, first) = (Instant::now(), clock.nanos(tsc()));
        std::thread::sleep(Duration::from_millis(50));
        let (real, ours) = (start.elapsed().as_nanos() as f64, (clock.nanos(tsc()) - first) as f64);
        assert!((ours / real - 1.0).abs() < 0.2, "clock says {ours} ns, the kernel {real} ns");
    }

    #[test]
    fn readings_before_zero_do_not_wrap() {
        let clock = TscClock::calibrate();
        assert_eq!(clock.nanos(0), 0);
    }
}
