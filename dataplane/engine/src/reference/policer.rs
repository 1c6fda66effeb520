//! Section 9.3: the single rate three colour marker (RFC 2697), colour-blind.

use std::collections::HashMap;

use crate::reason::DropReason;
use crate::tables::{PolicerAction, PolicerSpec};

/// Tokens per octet. A token is a millionth of a bit, so that 1 kbit/s is exactly one token per nanosecond.
const TOKENS_PER_OCTET: u128 = 8_000_000;

/// The two buckets of a policer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buckets {
    committed: u128,
    excess: u128,
    /// Time up to which tokens were added; none before the first packet.
    filled_to: Option<u64>,
}

/// State of every policer by name; a policer that stays over a push keeps its tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Policers {
    buckets: HashMap<String, Buckets>,
}

impl Policers {
    /// Takes up a configuration: new policers are full, the others are cut to their new sizes.
    pub fn configure(&mut self, specs: &[PolicerSpec]) {
        let old = std::mem::take(&mut self.buckets);
        for spec in specs {
            let full = Buckets { committed: size(spec.cbs_bytes), excess: size(spec.ebs_bytes), filled_to: None };
            let kept = old.get(&spec.name).map_or(full, |b| Buckets {
                committed: b.committed.min(full.committed),
                excess: b.excess.min(full.excess),
                filled_to: b.filled_to,
            });
            self.buckets.insert(spec.name.clone(), kept);
        }
    }

    /// Meters one packet: the mark it gets, if any, or that it is dropped.
    pub fn meter(&mut self, spec: &PolicerSpec, now: u64, octets: usize) -> Result<Option<u8>, DropReason> {
        let Some(buckets) = self.buckets.get_mut(&spec.name) else { return Ok(None) };
        refill(buckets, spec, now);
        let need = octets as u128 * TOKENS_PER_OCTET;
        let action = if buckets.committed >= need {
            buckets.committed -= need;
            spec.on_green
        } else if buckets.excess >= need {
            buckets.excess -= need;
            spec.on_yellow
        } else {
            spec.on_red
        };
        match action {
            PolicerAction::Pass => Ok(None),
            PolicerAction::Mark(dscp) => Ok(Some(dscp)),
            PolicerAction::Drop => Err(DropReason::PolicerDrop),
        }
    }
}

fn size(octets: u64) -> u128 {
    u128::from(octets) * TOKENS_PER_OCTET
}

/// Tokens go to the committed bucket first, and what it cannot hold to the excess bucket. Time that goes back adds nothing.
fn refill(buckets: &mut Buckets, spec: &PolicerSpec, now: u64) {
    let from = buckets.filled_to.unwrap_or(now);
    let earned = u128::from(now.saturating_sub(from)) * u128::from(spec.cir_kbps);
    let total = buckets.committed + earned;
    buckets.committed = total.min(size(spec.cbs_bytes));
    let overflow = total - buckets.committed;
    buckets.excess = (buckets.excess + overflow).min(size(spec.ebs_bytes));
    buckets.filled_to = Some(from.max(now));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(cir_kbps: u64, cbs_bytes: u64, ebs_bytes: u64) -> PolicerSpec {
        let (on_green, on_yellow, on_red) = (PolicerAction::Pass, PolicerAction::Mark(14), PolicerAction::Drop);
        PolicerSpec { name: "p".into(), cir_kbps, cbs_bytes, ebs_bytes, on_green, on_yellow, on_red }
    }

    fn started(spec: &PolicerSpec) -> Policers {
        let mut policers = Policers::default();
        policers.configure(std::slice::from_ref(spec));
        policers
    }

    const GREEN: Result<Option<u8>, DropReason> = Ok(None);
    const YELLOW: Result<Option<u8>, DropReason> = Ok(Some(14));
    const RED: Result<Option<u8>, DropReason> = Err(DropReason::PolicerDrop);

    #[test]
    fn colours_follow_the_buckets() {
        let spec = spec(8, 100, 50);
        let mut policers = started(&spec);
        // 8 kbit/s is an octet per millisecond.
        let ms = 1_000_000;
        for (at, octets, colour) in [
            (10 * ms, 60, GREEN),
            (10 * ms, 41, YELLOW),
            (10 * ms, 40, GREEN),
            (10 * ms, 10, RED),
            (10 * ms, 9, YELLOW),
            (11 * ms - 1, 1, RED),
            (11 * ms, 1, GREEN),
            (5 * ms, 1, RED),
            (12 * ms, 1, GREEN),
            (120 * ms, 100, GREEN),
            (120 * ms, 8, YELLOW),
            (120 * ms, 1, RED),
        ] {
            assert_eq!(policers.meter(&spec, at, octets), colour, "{octets} octets at {at}");
        }
    }

    #[test]
    fn a_push_keeps_tokens_and_cuts_them() {
        let mut policers = started(&spec(1, 100, 100));
        assert_eq!(policers.meter(&spec(1, 100, 100), 0, 90), GREEN);
        policers.configure(&[spec(1, 1000, 20)]);
        assert_eq!(policers.meter(&spec(1, 1000, 20), 0, 11), YELLOW);
        assert_eq!(policers.meter(&spec(1, 1000, 20), 0, 10), GREEN);
        assert_eq!(policers.meter(&spec(1, 1000, 20), 0, 10), RED);
        policers.configure(&[]);
        policers.configure(&[spec(1, 10, 0)]);
        assert_eq!(policers.meter(&spec(1, 10, 0), 0, 10), GREEN);
    }

    #[test]
    fn the_largest_rates_and_gaps_do_not_overflow() {
        let spec = spec(100_000_000, u64::MAX, u64::MAX);
        let mut policers = started(&spec);
        assert_eq!(policers.meter(&spec, 0, 65_535), GREEN);
        assert_eq!(policers.meter(&spec, u64::MAX, 65_535), GREEN);
    }
}
