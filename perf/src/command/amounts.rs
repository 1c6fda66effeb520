//! Options that say how much of everything a scenario has, the same in every command that runs one.

use clap::Args;

use crate::Error;
use crate::load::Size;
use crate::scenario::{Params, Scenario};
use crate::seeded::rules::Profile;

/// How much of everything.
#[derive(Clone, Debug, Default, Args)]
pub struct Amounts {
    /// Distinct flows the packets are drawn from; with services, active sessions [default: 65536]
    #[arg(long, value_name = "N")]
    pub flows: Option<usize>,
    /// Routes, half of each family [default: 16, full 100000]
    #[arg(long, value_name = "N")]
    pub routes: Option<usize>,
    /// Rules [default: 1000; rules and full]
    #[arg(long, value_name = "N")]
    pub rules: Option<usize>,
    /// Kind of rule list [default: acl; rules and full]
    #[arg(long, value_enum)]
    pub profile: Option<Profile>,
    /// Services, each with an address of both families [default: 16, full 64; balance, police and full]
    #[arg(long, value_name = "N")]
    pub services: Option<usize>,
    /// Backends of each service, half of each family [default: 16; balance, police and full]
    #[arg(long, value_name = "N")]
    pub backends: Option<usize>,
    /// Live sessions [default: 1000000; balance, police and full]
    #[arg(long, value_name = "N")]
    pub sessions: Option<usize>,
    /// Seed of routes, rules, flows and replay
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

impl Amounts {
    /// The scenario's defaults with the options over them. Options that would change nothing are refused: their author expects something.
    pub fn params(&self, scenario: Scenario, packet: Size, burst: usize) -> Result<Params, Error> {
        self.over(&scenario.defaults(), scenario, packet, burst)
    }

    /// The same over other defaults.
    pub fn over(&self, defaults: &Params, scenario: Scenario, packet: Size, burst: usize) -> Result<Params, Error> {
        let (services, rules) = (scenario.has_services(), scenario.has_rules());
        let given = [
            ("services", self.services.map(|n| n.to_string()), services),
            ("backends", self.backends.map(|n| n.to_string()), services),
            ("sessions", self.sessions.map(|n| n.to_string()), services),
            ("rules", self.rules.map(|n| n.to_string()), rules),
            ("profile", self.profile.map(|p| format!("{p:?}").to_lowercase()), rules),
        ];
        for (option, found, used) in given {
            if let Some(found) = found.filter(|_| !used) {
                let allowed = format!("nothing: scenario {} has none", scenario.label());
                return Err(Error::Option { option, found, allowed });
            }
        }
        let sessions = self.sessions.unwrap_or(defaults.sessions);
        // A small table without a word about flows: all of its sessions are active.
        let flows = if services { defaults.flows.min(sessions) } else { defaults.flows };
        Ok(Params {
            packet,
            burst,
            flows: self.flows.unwrap_or(flows),
            routes: self.routes.unwrap_or(defaults.routes),
            rules: self.rules.unwrap_or(defaults.rules),
            services: self.services.unwrap_or(defaults.services),
            backends: self.backends.unwrap_or(defaults.backends),
            sessions,
            profile: self.profile.unwrap_or(defaults.profile),
            churn: None,
            capture: None,
            seed: self.seed,
        })
    }

    /// The number of flows, where it was given.
    pub fn flows(&self) -> Option<usize> {
        self.flows
    }
}
