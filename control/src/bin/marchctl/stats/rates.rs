//! What counters grew by between two looks at a node.

use marchproxy_proto::v1;

/// The time between two looks.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    seconds: f64,
}

impl Rates {
    /// A restart in between: what is counted now was counted since then.
    pub fn between(before: &v1::StatsResponse, now: &v1::StatsResponse) -> Rates {
        let elapsed_ms = now.uptime_ms.checked_sub(before.uptime_ms).unwrap_or(now.uptime_ms);
        Rates { seconds: (elapsed_ms as f64 / 1e3).max(1e-3) }
    }

    /// Per second; a counter that went backwards (a restart) counts from 0.
    pub fn of(self, before: u64, now: u64) -> f64 {
        grown(before, now) as f64 / self.seconds
    }
}

/// By how much a counter grew.
pub fn grown(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}
