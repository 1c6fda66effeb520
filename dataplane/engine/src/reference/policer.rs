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
    /// Time up to which tokens were added.
    filled_to: u64,
}

/// State by name of every policer that has metered something; a policer that stays over a push keeps its tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Policers {
    buckets: HashMap<String, Buckets>,
}

impl Policers {
    /// Takes up a configuration: policers that are not in it are forgotten.
    pub fn configure(&mut self, specs: &[PolicerSpec]) {
        self.buckets.retain(|name, _| specs.iter().any(|spec| spec.name == *name));
    }

    /// Meters one packet: the mark it gets, if any, or that it is dropped. A policer is full when it meters for the first time.
    pub fn meter(&mut self, spec: &PolicerSpec, now: u64, octets: usize) -> Result<Option<u8>, DropReason> {
        let full = Buckets { committed: size(spec.cbs_bytes), excess: size(spec.ebs_bytes), filled_to: now };
        let buckets = self.buckets.entry(spec.name.clone()).or_insert(full);
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

/// Tokens go to the committed bucket first, and what it cannot hold to the excess bucket. Time that goes back adds nothing. Buckets
/// that a push made smaller lose what no longer fits before that.
fn refill(buckets: &mut Buckets, spec: &PolicerSpec, now: u64) {
    buckets.committed = buckets.committed.min(size(spec.cbs_bytes));
    buckets.excess = buckets.excess.min(size(spec.ebs_bytes));
    let earned = u128::from(now.saturating_sub(buckets.filled_to)) * u128::from(spec.cir_kbps);
    let total = buckets.committed + earned;
    buckets.committed = total.min(size(spec.cbs_bytes));
    let overflow = total - buckets.committed;
    buckets.excess = (buckets.excess + overflow).min(size(spec.ebs_bytes));
    buckets.filled_to = buckets.filled_to.max(now);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(cir_kbps: u64, cbs_bytes: u64, ebs_bytes: u64) -> PolicerSpec {
        let (on_green, on_yellow, on_red) = (PolicerAction::Pass, PolicerAction::Mark(14), PolicerAction::Drop);
        PolicerSpec { name: "p".into(), cir_kbps, cbs_bytes, ebs_bytes, on_green, on_yellow, on_red }
    }

    const GREEN: Result<Option<u8>, DropReason> = Ok(None);
    const YELLOW: Result<Option<u8>, DropReason> = Ok(Some(14));
    const RED: Result<Option<u8>, DropReason> = Err(DropReason::PolicerDrop);

    #[test]
    fn colours_follow_the_buckets() {
        let spec = spec(8, 100, 50);
        let mut policers = Policers::default();
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
        let mut policers = Policers::default();
        assert_eq!(policers.meter(&spec(1, 100, 100), 0, 90), GREEN);
        policers.configure(&[spec(1, 1000, 20)]);
        assert_eq!(policers.meter(&spec(1, 1000, 20), 0, 11), YELLOW);
        assert_eq!(policers.meter(&spec(1, 1000, 20), 0, 10), GREEN);
        assert_eq!(policers.meter(&spec(1, 1000, 20), 0, 10), RED);
        policers.configure(&[]);
        assert_eq!(policers.meter(&spec(1, 10, 0), 0, 10), GREEN);
    }

    #[test]
    fn the_largest_rates_and_gaps_do_not_overflow() {
        let spec = spec(100_000_000, u64::MAX, u64::MAX);
        let mut policers = Policers::default();
        assert_eq!(policers.meter(&spec, 0, 65_535), GREEN);
        assert_eq!(policers.meter(&spec, u64::MAX, 65_535), GREEN);
    }
}
