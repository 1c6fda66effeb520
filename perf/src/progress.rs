//! A progress bar on standard error where that is a terminal, and the wish to stop.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shared by everything that takes time.
#[derive(Clone)]
pub struct Progress {
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
}

impl Progress {
    /// A bar that is not shown where standard error is no terminal.
    pub fn new(stop: Arc<AtomicBool>) -> Self {
        Self { bar: ProgressBar::new(0), stop }
    }

    /// No bar, never stopped: for tests.
    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), stop: Arc::default() }
    }

    /// A new phase of `total` steps; 0 when nobody knows how many.
    pub fn phase(&self, what: impl Into<Cow<'static, str>>, total: u64) {
        let (template, tick) =
            if total == 0 { ("{msg} {spinner}", 100) } else { ("{msg:32} {wide_bar} {percent}% {eta}", 0) };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.reset();
        self.bar.set_length(total);
        self.bar.set_message(what);
        // Only phases that are not measured may be interrupted by a thread that draws.
        if tick > 0 {
            self.bar.enable_steady_tick(Duration::from_millis(tick));
        } else {
            self.bar.disable_steady_tick();
        }
    }

    /// Steps done. False when it is time to stop.
    pub fn advance(&self, steps: u64) -> bool {
        self.bar.inc(steps);
        !self.stopped()
    }

    /// Whether somebody pressed Ctrl-C.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
