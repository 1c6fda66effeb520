//! Log samples: what rules with `log_sample` record goes to the daemon's log, a bounded number of lines a second.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::runtime::Runtime;

/// How often samples are taken from the workers.
const TICK: Duration = Duration::from_millis(100);
/// Most lines at once, so at most 100 a second. What the workers' rings can't keep until then is lost and counted.
const LINES: usize = 10;

/// Logs samples until the node stops.
pub async fn log(runtime: Arc<dyn Runtime>, mut stopping: watch::Receiver<bool>) {
    let mut ticks = interval(TICK);
    // A late tick must not be followed by a burst of lines.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        for line in runtime.samples(LINES) {
            tracing::info!(target: "sample", "{line}");
        }
    }
}
