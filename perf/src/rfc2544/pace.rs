//! The clock of the generator: how many packets should have left by now.

/// Packets the generator may be late by and still send: a few bursts. What is later than that is not made up for, because a flood after
/// a pause is another load than the one asked for.
const CATCH_UP: u64 = 128;

/// Binary digits behind the point of packets per tick.
const POINT: u32 = 48;

/// A schedule.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    start: u64,
    /// Packets per tick, scaled; `None` as fast as the tester can.
    per_tick: Option<u64>,
    /// Packets whose time passed without the tester being there.
    pub slipped: u64,
}

impl Pace {
    /// From `start` on, `rate` packets a second (`None`: no clock) of a counter with `hz` ticks a second.
    pub fn new(start: u64, rate: Option<f64>, hz: u64) -> Self {
        // Rounded up, so that a packet is due when its time has come and not one tick later.
        let scaled = |rate: f64| (rate / hz as f64 * (1u64 << POINT) as f64).ceil() as u64;
        Self { start, per_tick: rate.map(scaled), slipped: 0 }
    }

    /// How many packets of at most `most` are due at `now`, when `sent` have left.
    #[inline]
    pub fn due(&mut self, now: u64, sent: u64, most: usize) -> usize {
        let Some(per_tick) = self.per_tick else { return most };
        let elapsed = now.saturating_sub(self.start);
        let scheduled = ((u128::from(elapsed) * u128::from(per_tick)) >> POINT) as u64;
        let behind = scheduled.saturating_sub(sent + self.slipped);
        if behind > CATCH_UP {
            self.slipped += behind - CATCH_UP;
        }
        behind.min(most as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_tester_that_keeps_up_sends_the_rate_exactly(rate in 1_000.0..50e6f64, hz in 1_000_000_000u64..5_000_000_000) {
            let mut pace = Pace::new(1_000, Some(rate), hz);
            let (mut sent, mut now) = (0, 1_000);
            // Ten milliseconds in steps of about a microsecond.
            while now < 1_000 + hz / 100 {
                sent += pace.due(now, sent, 64) as u64;
                now += hz / 1_000_000;
            }
            let wanted = rate / 100.0;
            prop_assert!((sent as f64 - wanted).abs() <= 2.0 + rate / 1e6, "{} of {}", sent, wanted);
            prop_assert_eq!(pace.slipped, 0);
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let mut pace = Pace::new(0, Some(1e6), 1_000_000_000);
        assert_eq!(pace.due(5_000, 0, 32), 5);
        assert_eq!(pace.due(5_000, 5, 32), 0);
        // A millisecond later 1,000 more are due: 128 of them will be sent, the others never.
        assert_eq!(pace.due(1_005_000, 5, 32), 32);
        assert_eq!(pace.slipped, 1_000 - CATCH_UP);
        let mut sent = 5 + 32;
        while pace.due(1_005_000, sent, 32) > 0 {
            sent += pace.due(1_005_000, sent, 32) as u64;
        }
        assert_eq!(sent + pace.slipped, 1_005);
        assert_eq!(Pace::new(0, None, 1).due(0, 1 << 40, 32), 32);
    }
}
