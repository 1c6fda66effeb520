//! The counted run of one scenario: what the program does while callgrind watches it. Everything in it is fixed (tables, load, seed, virtual
//! time), so that the same program takes the same instructions every time.

use serde::Serialize;

use crate::Error;
use crate::load::Size;
use crate::progress::Progress;
use crate::rig::Rig;
use crate::scenario::{self, Params, Scenario};
use crate::seeded::Rng;

/// Packets counted: 128 bursts, so that the last one, which may not be full, does not show.
pub const PACKETS: usize = 4096;

/// Part of the name of the one function whose instructions are counted, as callgrind's patterns have it. The name is between stars because
/// the symbol is a mangled one.
pub const FUNCTION: &str = "*counted_turns*";

/// What the counted run says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Counted {
    /// Packets the worker received while instructions were counted.
    pub packets: u64,
    /// Packets lost or invented.
    pub residue: i64,
}

/// How much of everything: thousands, so that every structure has its levels and collisions, and yet the tables are built in
/// seconds under callgrind, which takes fifty times as long.
pub fn params(scenario: Scenario) -> Params {
    let defaults = scenario.defaults();
    Params {
        packet: Size::Fixed(64),
        flows: defaults.flows.min(4096),
        routes: if defaults.routes > 16 { 16_384 } else { 1024 },
        rules: defaults.rules.min(1000),
        services: defaults.services.min(16),
        backends: defaults.backends.min(8),
        sessions: defaults.sessions.min(8192),
        seed: 1,
        ..defaults
    }
}

/// Prepares the scenario, warms it up and runs the counted packets.
pub fn run(scenario: Scenario, progress: &Progress) -> Result<Counted, Error> {
    let params = params(scenario);
    let mut bench = scenario::prepare(scenario, &params, progress)?;
    let mut rng = Rng::new(params.seed, "replay");
    let rig: &mut Rig = &mut bench.rig;
    // Once unseen: buffers, rings and predictors of the engine (none of the CPU's count here) are as in the middle of a run.
    rig.fill(&mut bench.load, PACKETS, &mut rng);
    rig.settle();
    rig.fill(&mut bench.load, PACKETS, &mut rng);
    let packets = rig.counted_batch();
    rig.settle();
    Ok(Counted { packets, residue: rig.totals().residue() })
}
