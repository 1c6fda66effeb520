//! What is known of a checked backend, for people.

use std::sync::Arc;

use super::HealthState;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend answered as it should.
    Good,
    /// No answer in time.
    Timeout,
    /// The connection was refused.
    Refused,
    /// The connection was reset before the answer.
    Reset,
    /// The connection was closed before the answer.
    Closed,
    /// The answer is no HTTP.
    NoHttp,
    /// HTTP with a status that is not expected.
    Status(u16),
    /// No routing table knows a way to the backend.
    NoRoute,
    /// No interface has an address of the backend's family, or no port of it is free.
    NoSource,
}

impl Outcome {
    /// The name shown to people and in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::NoHttp => "no_http",
            Self::Status(_) => "status",
            Self::NoRoute => "no_route",
            Self::NoSource => "no_source",
        }
    }
}

/// A checked backend as shown to people and tests. Times are the engine's nanoseconds.
#[derive(Clone, Debug)]
pub struct HealthInfo {
    /// The service.
    pub service: Arc<str>,
    /// The backend.
    pub backend: Arc<str>,
    /// What is asked, by name.
    pub kind: &'static str,
    /// The port that is asked; 0 for ICMP.
    pub port: u16,
    /// How it stands.
    pub state: HealthState,
    /// Whether it is out of the ring.
    pub out: bool,
    /// Whether too few of its service's backends are healthy, so that all of them are used.
    pub panic: bool,
    /// When its state began.
    pub since: u64,
    /// What the last check found, and when.
    pub last: Option<(Outcome, u64)>,
    /// What the last answer took.
    pub rtt: Option<u64>,
    /// Results like the last in a row.
    pub streak: u32,
    /// Times in a row that it fell soon after it had come back.
    pub flaps: u32,
    /// Not back before.
    pub held_until: u64,
    /// Checks that ended.
    pub checks: u64,
    /// Checks that failed.
    pub failures: u64,
}
