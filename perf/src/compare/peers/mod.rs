//! The programs we are compared with, one a file.

pub mod kernel;
pub mod l3fwd;
pub mod ovs;
pub mod qos_meter;
pub mod testpmd;

use std::time::Duration;

use super::rig::Rig;
use crate::Error;
use crate::progress::Progress;
use crate::scenario::{Plan, Scenario};
use kernel::Kernel;
use l3fwd::{L3fwd, Lookup};
use ovs::Ovs;
use qos_meter::QosMeter;
use testpmd::Testpmd;

/// What brings the programs that are missing.
pub const REMEDY: &str = "`scripts/setup --peers` installs it";

/// A program that does the same work, or a part of it.
pub trait Peer {
    /// Its name, as `--only` takes it.
    fn name(&self) -> &'static str;

    /// Finds, builds and lays out what it needs to do what the plan's tables say. An error makes it a missing one.
    fn prepare(&mut self, rig: &Rig, plan: &Plan, progress: &Progress) -> Result<(), Error>;

    /// Starts it, lets it work for `duration` and ends it: packets per second of CPU time.
    fn rate(&mut self, rig: &Rig, duration: Duration, progress: &Progress) -> Result<f64, Error>;

    /// Seconds of CPU time that threads of the kernel spent for it so far.
    fn elsewhere(&self) -> f64 {
        0.0
    }

    /// Where it does more or less than we do.
    fn note(&self) -> String;
}

/// Who can be compared at a scenario, in the order they are shown.
pub fn of(scenario: Scenario) -> Vec<Box<dyn Peer>> {
    let l3fwd = |lookup| Box::new(L3fwd::new(lookup)) as Box<dyn Peer>;
    match scenario {
        Scenario::Forward => {
            let testpmd = Testpmd::all().into_iter().map(|mode| Box::new(mode) as Box<dyn Peer>);
            let others: [Box<dyn Peer>; 2] = [Box::new(Ovs::default()), Box::new(Kernel::default())];
            testpmd.chain([l3fwd(Lookup::Lpm), l3fwd(Lookup::Fib)]).chain(others).collect()
        }
        Scenario::Rules => vec![l3fwd(Lookup::Acl)],
        Scenario::Balance => vec![l3fwd(Lookup::Em)],
        Scenario::Police => vec![Box::new(QosMeter::default())],
        _ => Vec::new(),
    }
}
