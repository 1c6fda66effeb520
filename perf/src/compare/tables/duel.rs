//! Two tables with the same content, asked the same keys.

use std::time::{Duration, Instant};

use crate::Error;
use crate::compare::{Build, Contest};
use crate::probe::cpu_time;

/// Asks all keys once and says how many that were.
pub type Pass = Box<dyn FnMut() -> usize>;

/// A contest of two tables.
pub struct Duel {
    /// DPDK's library.
    pub peer: &'static str,
    /// Content and keys.
    pub work: String,
    /// What a rate counts.
    pub unit: &'static str,
    /// What must be known to read the row.
    pub note: String,
    /// What it took to build both.
    pub build: Build,
    /// Ours.
    pub ours: Pass,
    /// Theirs.
    pub theirs: Pass,
}

impl Contest for Duel {
    fn peer(&self) -> &str {
        self.peer
    }

    fn unit(&self) -> &'static str {
        self.unit
    }

    fn note(&self) -> String {
        self.note.clone()
    }

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn build(&self) -> Option<Build> {
        Some(self.build)
    }

    fn ours(&mut self, duration: Duration) -> Result<f64, Error> {
        Ok(rate(&mut self.ours, duration))
    }

    fn theirs(&mut self, duration: Duration) -> Result<f64, Error> {
        Ok(rate(&mut self.theirs, duration))
    }
}

/// Keys per second of CPU time, over whole passes, one at least. A pass that is not measured fills the caches with this side's lines.
pub fn rate(pass: &mut Pass, duration: Duration) -> f64 {
    pass();
    let (start, from) = (Instant::now(), cpu_time());
    let mut keys = 0;
    loop {
        keys += pass();
        if start.elapsed() >= duration {
            break;
        }
    }
    let spent = cpu_time().saturating_sub(from).max(1);
    keys as f64 * 1e9 / spent as f64
}

/// Compares the answers to all keys; the first that differs is the error.
pub fn agree<A: PartialEq + std::fmt::Debug>(
    peer: &'static str,
    ours: &[A],
    theirs: &[A],
    key: impl Fn(usize) -> String,
) -> Result<(), Error> {
    if ours.len() != theirs.len() {
        return Err(Error::Harness("both sides answer every key once"));
    }
    match ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs) {
        None => Ok(()),
        Some(at) => Err(Error::Differs {
            peer,
            key: key(at),
            theirs: format!("{:?}", theirs[at]),
            ours: format!("{:?}", ours[at]),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_passes_are_counted() {
        let passes = std::rc::Rc::new(std::cell::Cell::new(0u64));
        let count = passes.clone();
        let mut pass: Pass = Box::new(move || {
            count.set(count.get() + 1);
            7
        });
        assert!(rate(&mut pass, Duration::ZERO) > 0.0);
        assert_eq!(passes.get(), 2, "one to warm up, one measured");
        rate(&mut pass, Duration::from_millis(1));
        assert!(passes.get() > 10);
        let mut nothing: Pass = Box::new(|| 0);
        assert!(rate(&mut nothing, Duration::ZERO).abs() < 1e-9, "what stands still has no rate");
    }

    #[test]
    fn the_first_key_that_differs_is_named() {
        let key = |at: usize| format!("key {at}");
        assert!(agree("rte_fib", &[Some(1), None], &[Some(1), None], key).is_ok());
        let error = agree("rte_fib", &[Some(1), None, None], &[Some(1), Some(5), None], key).unwrap_err().to_string();
        assert_eq!(error, "rte_fib and our table disagree about key 1: rte_fib says Some(5), ours says None");
        assert!(agree("rte_fib", &[1], &[1, 2], key).is_err());
    }
}
