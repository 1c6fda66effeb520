//! What control counts of its own work, for `/metrics` and `/healthz`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use marchproxy_metrics::Histogram;

/// Clusters whose Applies are told apart; those of further ones are not counted, so that nobody can fill the memory with names.
pub const MOST_CLUSTERS: usize = 1000;

/// What became of an Apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ApplyResult {
    /// A new version.
    Stored,
    /// What was stored already.
    Unchanged,
    /// Only checked.
    Validated,
    /// An error.
    Refused,
}

impl ApplyResult {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Stored, Self::Unchanged, Self::Validated, Self::Refused];

    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Unchanged => "unchanged",
            Self::Validated => "validated",
            Self::Refused => "refused",
        }
    }
}

/// The counts; clones share them.
#[derive(Clone, Debug)]
pub struct Meters {
    applies: Arc<Mutex<BTreeMap<String, [u64; 4]>>>,
    /// Call received to stored, in seconds.
    pub store: Histogram,
    /// Stored to every node's answer, in seconds.
    pub settle: Histogram,
    /// When control started.
    pub started: Instant,
    looked: Arc<Mutex<Instant>>,
}

impl Default for Meters {
    /// From what an empty document takes on an idle machine to what a million rules do: 1 ms to 262 s, a factor of four each.
    fn default() -> Self {
        let bounds = || (0..10).map(|step| 1e-3 * 4_f64.powi(step));
        let now = Instant::now();
        Self {
            applies: Arc::default(),
            store: Histogram::new(bounds()),
            settle: Histogram::new(bounds()),
            started: now,
            looked: Arc::new(Mutex::new(now)),
        }
    }
}

impl Meters {
    /// Counts an Apply.
    pub fn applied(&self, cluster: &str, result: ApplyResult) {
        let mut applies = self.applies.lock().unwrap_or_else(PoisonError::into_inner);
        if applies.contains_key(cluster) || applies.len() < MOST_CLUSTERS {
            applies.entry(cluster.to_owned()).or_default()[result as usize] += 1;
        }
    }

    /// Applies by cluster, in the order of [`ApplyResult::ALL`].
    pub fn applies(&self) -> BTreeMap<String, [u64; 4]> {
        self.applies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The task that looks at the database goes round its loop.
    pub fn looks(&self) {
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long ago it did.
    pub fn looked(&self) -> Duration {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_clusters_cannot_fill_the_memory() {
        let meters = Meters::default();
        for number in 0..MOST_CLUSTERS + 5 {
            meters.applied(&format!("c{number}"), ApplyResult::Stored);
        }
        meters.applied("c0", ApplyResult::Refused);
        assert_eq!(meters.applies().len(), MOST_CLUSTERS);
        assert_eq!(meters.applies()["c0"], [1, 0, 0, 1]);
    }
}
