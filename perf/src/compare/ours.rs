//! Our side: `marchproxy-perf run` on the rig's devices, in a process of its own like all others.

use std::time::Duration;

use serde::Deserialize;

use super::child::Child;
use super::rig::Rig;
use crate::Error;
use crate::progress::Progress;
use crate::scenario::{Params, Scenario};

/// How long our program may take beside measuring: large tables and sessions are made in this time.
const START: Duration = Duration::from_mins(2);

/// What we run.
pub struct Ours {
    scenario: Scenario,
    params: Params,
}

/// Of the report, what a comparison needs.
#[derive(Debug, Deserialize)]
struct Reported {
    packets: u64,
    packets_per_cpu_second: f64,
    drops: std::collections::BTreeMap<String, u64>,
}

impl Ours {
    /// The scenario, with as much of everything as the rig's frames were drawn from.
    pub fn new(scenario: Scenario, params: &Params) -> Self {
        Self { scenario, params: params.clone() }
    }

    /// Packets per second of the worker's CPU time, over `duration`.
    pub fn rate(&self, rig: &Rig, duration: Duration, progress: &Progress) -> Result<f64, Error> {
        let program =
            std::env::current_exe().map_err(|source| Error::System { what: "which program this is".into(), source })?;
        let child = Child::start("marchproxy-perf", rig.folder(), &program, &self.arguments(rig, duration))?;
        let report = child.finish(START + duration * 2, progress)?;
        read(&report)
    }

    fn arguments(&self, rig: &Rig, duration: Duration) -> Vec<String> {
        let p = &self.params;
        let mut words: Vec<String> = ["run", self.scenario.label(), "--json"].map(String::from).to_vec();
        for device in rig.devices() {
            words.extend(["--backend".into(), format!("vdev:{device}")]);
        }
        if !rig.huge() {
            words.push("--no-huge".into());
        }
        let duration = duration.as_secs_f64().to_string();
        let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        option("file-packets", rig.packets().to_string());
        option("core", rig.core().to_string());
        option("repeat", "1".into());
        option("duration", duration);
        option("packet", p.packet.to_string());
        option("seed", p.seed.to_string());
        option("flows", p.flows.to_string());
        option("routes", p.routes.to_string());
        if self.scenario.has_rules() {
            option("rules", p.rules.to_string());
            option("profile", format!("{:?}", p.profile).to_lowercase());
        }
        if self.scenario.has_services() {
            option("services", p.services.to_string());
            option("backends", p.backends.to_string());
            option("sessions", p.sessions.to_string());
        }
        words
    }
}

/// The rate out of a report. Packets that we drop would be cheap ones, so there must be none.
fn read(report: &str) -> Result<f64, Error> {
    let found: Reported = serde_json::from_str(report)
        .map_err(|error| Error::Peer(format!("our own report cannot be read ({error}): {report:.120}")))?;
    let dropped: u64 = found.drops.values().sum();
    if dropped > 0 {
        let drops = found.drops.iter().map(|(why, n)| format!("{why} {n}")).collect::<Vec<_>>().join(", ");
        return Err(Error::Peer(format!("our own node dropped {dropped} of {} packets: {drops}", found.packets)));
    }
    Ok(found.packets_per_cpu_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_without_drops_has_a_rate() {
        let report =
            |drops: &str| format!(r#"{{"packets":5,"packets_per_cpu_second":2e6,"drops":{{{drops}}},"more":[]}}"#);
        assert!((read(&report("")).unwrap() - 2e6).abs() < 1e-6);
        let error = read(&report(r#""no_route":3"#)).unwrap_err().to_string();
        assert!(error.contains("3 of 5") && error.contains("no_route 3"), "{error}");
        assert!(read("EAL: panic").unwrap_err().to_string().contains("EAL: panic"));
    }

    #[test]
    fn our_command_line_is_one_that_we_accept() {
        let rig = Rig::new([0, 0], [vec![[0u8; 60]], Vec::new()]).unwrap();
        for scenario in [Scenario::Forward, Scenario::Rules, Scenario::Balance, Scenario::Police] {
            let words = Ours::new(scenario, &scenario.defaults()).arguments(&rig, Duration::from_secs(2));
            let words: Vec<&'static str> = words.into_iter().map(|word| &*word.leak()).collect();
            crate::cli::parse(words).unwrap();
        }
    }
}
