//! Our tables against DPDK's: the same content, the same keys, in turn within one run, and both must give the same answers.

pub mod duel;
pub mod keys;
pub mod ours;

#[cfg(feature = "dpdk")]
mod acl;
#[cfg(feature = "dpdk")]
mod fib;
#[cfg(feature = "dpdk")]
mod ground;
#[cfg(feature = "dpdk")]
mod hash;
#[cfg(feature = "dpdk")]
mod lpm;
#[cfg(feature = "dpdk")]
mod meter;
#[cfg(feature = "dpdk")]
mod routes;
#[cfg(feature = "dpdk")]
mod sched;

use super::Turns;
use crate::Error;

/// DPDK's libraries, in the order they are shown.
pub const PEERS: &[&str] =
    &["rte_fib", "rte_fib6", "rte_lpm", "rte_lpm6", "rte_hash", "rte_acl", "rte_meter", "rte_sched"];

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Routes of both families.
    pub routes: usize,
    /// Rules of both families; each amount makes rows of its own.
    pub rules: Vec<usize>,
    /// Sessions of each family.
    pub sessions: usize,
    /// Keys that are asked over and over.
    pub keys: usize,
    /// Seed of content and keys.
    pub seed: u64,
    /// The libraries asked for.
    pub peers: Vec<&'static str>,
    /// How often and how long.
    pub turns: Turns,
}

impl Plan {
    /// Default amounts.
    pub const ROUTES: usize = 100_000;
    /// Default amounts.
    pub const RULES: [usize; 2] = [1_000, 10_000];
    /// Default amounts.
    pub const SESSIONS: usize = 1_000_000;
    /// Default amounts.
    pub const KEYS: usize = 65_536;

    /// Refuses amounts that no table takes.
    pub fn check(&self) -> Result<(), Error> {
        // Least and most: rte_lpm6's next hop has 21 bits, and every prefix has its own; clients times ports name sessions.
        let ranges = [
            ("routes", self.routes, 2, 2_000_000),
            ("sessions", self.sessions, 1, 16_000_000),
            ("keys", self.keys, ours::BURST, 16_000_000),
        ];
        let rules = self.rules.iter().map(|&rules| ("rules", rules, 16, 1_000_000));
        for (option, found, least, most) in ranges.into_iter().chain(rules) {
            if !(least..=most).contains(&found) {
                return Err(Error::Option { option, found: found.to_string(), allowed: format!("{least} to {most}") });
            }
        }
        Ok(())
    }
}

/// A comparison laid out on this machine; on the thread that will measure.
pub struct Tables {
    plan: Plan,
    #[cfg(feature = "dpdk")]
    eal: marchproxy_dpdk::Eal,
    /// Pages of both sides.
    pub rig: String,
}

#[cfg(not(feature = "dpdk"))]
impl Tables {
    /// There is nothing to start.
    pub fn start(plan: Plan) -> Result<Self, Error> {
        plan.check()?;
        Ok(Self { plan, rig: "built without DPDK".into() })
    }

    /// Names all peers as missing.
    pub fn measure(&self, _: &crate::progress::Progress) -> Result<super::turns::Outcome, Error> {
        let reason = "this program was built without DPDK (feature `dpdk`)";
        let missing = self.plan.peers.iter().map(|peer| super::Missing::new(*peer, reason)).collect();
        Ok(super::turns::Outcome { missing, ..Default::default() })
    }
}
