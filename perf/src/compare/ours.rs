//! Our side: `marchproxy-perf run` on the rig's devices, in a process of its own like all others.

use std::cell::Cell;
use std::collections::BTreeMap;
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
    /// How often our worker was interrupted so far, and in how many seconds of measuring.
    switches: Cell<(u64, f64)>,
}

/// Of the report, what a comparison needs.
#[derive(Debug, Deserialize)]
struct Reported {
    packets: u64,
    packets_per_cpu_second: f64,
    drops: BTreeMap<String, u64>,
    punts: BTreeMap<String, u64>,
    residue: i64,
    machine: ReportedMachine,
}

#[derive(Debug, Deserialize)]
struct ReportedMachine {
    involuntary_switches: u64,
}

/// Packets that may go to the slow path in a measurement: neighbours are asked again from time to time.
const HANDFUL: u64 = 64;

/// The same as a share of a long one: one in so many.
const SHARE: u64 = 10_000;

impl Ours {
    /// The scenario, with as much of everything as the rig's frames were drawn from.
    pub fn new(scenario: Scenario, params: &Params) -> Self {
        Self { scenario, params: params.clone(), switches: Cell::default() }
    }

    /// Packets per second of the worker's CPU time, over `duration`.
    pub fn rate(&self, rig: &Rig, duration: Duration, progress: &Progress) -> Result<f64, Error> {
        let program =
            std::env::current_exe().map_err(|source| Error::System { what: "which program this is".into(), source })?;
        let child = Child::start("marchproxy-perf", rig.folder(), &program, &self.arguments(rig, duration))?;
        let report = child.finish(START + duration * 2, progress)?;
        let found = read(&report)?;
        let (switches, seconds) = self.switches.get();
        self.switches.set((switches + found.machine.involuntary_switches, seconds + duration.as_secs_f64()));
        Ok(found.packets_per_cpu_second)
    }

    /// How often our worker was interrupted so far, and in how many seconds of measuring.
    pub fn switches(&self) -> (u64, f64) {
        self.switches.get()
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

/// What a report says. Packets that we drop, lose or hand to the slow path would be cheap ones, so there must be none.
fn read(report: &str) -> Result<Reported, Error> {
    let found: Reported = serde_json::from_str(report)
        .map_err(|error| Error::Peer(format!("our own report cannot be read ({error}): {report:.120}")))?;
    if found.residue != 0 {
        let (residue, packets) = (found.residue, found.packets);
        return Err(Error::Peer(format!("our own node cannot account for {residue} of {packets} packets")));
    }
    for (did, which, limit) in
        [("dropped", &found.drops, 0), ("handed to the slow path", &found.punts, HANDFUL.max(found.packets / SHARE))]
    {
        let count: u64 = which.values().sum();
        if count > limit {
            let each = which.iter().map(|(why, n)| format!("{why} {n}")).collect::<Vec<_>>().join(", ");
            return Err(Error::Peer(format!("our own node {did} {count} of {} packets: {each}", found.packets)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_with_nothing_lost_has_a_rate() {
        let report = |drops: &str, punts: &str, residue: i64| {
            let head = r#""packets":5000,"packets_per_cpu_second":2e6,"machine":{"involuntary_switches":7},"more":[]"#;
            format!(r#"{{{head},"drops":{{{drops}}},"punts":{{{punts}}},"residue":{residue}}}"#)
        };
        let found = read(&report("", r#""ttl":64"#, 0)).unwrap();
        assert!((found.packets_per_cpu_second - 2e6).abs() < 1e-6 && found.machine.involuntary_switches == 7);
        for (report, words) in [
            (report(r#""no_route":3"#, "", 0), ["3 of 5000", "no_route 3"]),
            (report("", r#""ttl":60,"local":5"#, 0), ["65 of 5000", "local 5, ttl 60"]),
            (report("", "", -2), ["account", "-2 of 5000"]),
            ("EAL: panic".into(), ["cannot be read", "EAL: panic"]),
        ] {
            let error = read(&report).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
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
