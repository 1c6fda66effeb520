//! The checked-in file: what a packet cost in each scenario, and under which circumstances that was counted.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::count::Counted;
use super::profile::Profile;
use crate::Error;

/// Said in the file itself.
const ABOUT: &str = "Instructions per packet, counted by callgrind. Written by `marchproxy-perf gate --update`; perf/README.md explains.";

/// Instructions per packet from which on a part of the program is listed.
pub const LISTED: f64 = 5.0;

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// What it is.
    pub about: String,
    /// The build its figures come from.
    #[serde(flatten)]
    pub build: Build,
    /// Figures by scenario.
    pub scenarios: BTreeMap<String, Entry>,
}

/// What decides about instructions beside the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// The compiler.
    pub rustc: String,
    /// `release` or `dev`.
    pub profile: String,
    /// Which instruction set it was allowed.
    pub target: String,
}

/// One scenario.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The engine's instructions per packet: this is what is judged.
    pub instructions_per_packet: f64,
    /// Instructions of the harness's receive and transmit calls per packet.
    pub io_instructions_per_packet: f64,
    /// Packets counted.
    pub packets: u64,
    /// How much of everything there was.
    pub parameters: Value,
    /// Instructions per packet by part of the program, from [`LISTED`] on.
    pub parts: BTreeMap<String, f64>,
}

impl Build {
    /// That of the running program.
    pub fn here() -> Self {
        let target = match std::env::consts::ARCH {
            "x86_64" if cfg!(target_feature = "avx512f") => "x86-64-v4",
            "x86_64" if cfg!(all(target_feature = "avx2", target_feature = "bmi2")) => "x86-64-v3",
            "x86_64" => "x86-64",
            other => other,
        };
        Self {
            rustc: env!("MARCHPROXY_RUSTC").trim_start_matches("rustc ").to_owned(),
            profile: if cfg!(debug_assertions) { "dev" } else { "release" }.to_owned(),
            target: target.to_owned(),
        }
    }
}

impl Entry {
    /// From a count.
    pub fn new(counted: Counted, profile: &Profile, parameters: Value) -> Self {
        let per_packet = |n: u64| (n as f64 * 100.0 / counted.packets.max(1) as f64).round() / 100.0;
        let parts = profile.parts.iter().map(|(part, &cost)| (part.clone(), per_packet(cost)));
        Self {
            instructions_per_packet: per_packet(profile.total.saturating_sub(profile.io)),
            io_instructions_per_packet: per_packet(profile.io),
            packets: counted.packets,
            parameters,
            parts: parts.filter(|(_, cost)| *cost >= LISTED).collect(),
        }
    }
}

impl Baseline {
    /// Reads the file; `None` where there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::System { what: format!("reading {}", path.display()), source }),
        };
        serde_json::from_str(&text).map(Some).map_err(|error| Error::Option {
            option: "file",
            found: format!("{}, {error}", path.display()),
            allowed: "what `marchproxy-perf gate --update` wrote".into(),
        })
    }

    /// The file's next content: these scenarios' figures, and where `all` was counted nothing else.
    pub fn update(before: Option<Self>, counted: &BTreeMap<String, Entry>, all: bool) -> Result<Self, Error> {
        let build = Build::here();
        let mut scenarios = BTreeMap::new();
        if let Some(before) = before.filter(|_| !all) {
            if before.build != build {
                return Err(Error::Option {
                    option: "scenario",
                    found: format!("a part, under {build}, of a file under {}", before.build),
                    allowed: "all scenarios: figures of different builds do not go into one file".into(),
                });
            }
            scenarios = before.scenarios;
        }
        scenarios.extend(counted.clone());
        Ok(Self { about: ABOUT.into(), build, scenarios })
    }

    /// Writes the file, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let system = |source| Error::System { what: format!("writing {}", path.display()), source };
        let text = serde_json::to_string_pretty(self).map_err(|_| Error::Harness("the file is no JSON"))? + "\n";
        let next = path.with_extension("json.new");
        std::fs::write(&next, text).and_then(|()| std::fs::rename(&next, path)).map_err(system)
    }
}

impl std::fmt::Display for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rustc {}, profile {}, target {}", self.rustc, self.profile, self.target)
    }
}
