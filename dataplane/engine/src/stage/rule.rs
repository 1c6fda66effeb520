//! rule: first matching rule for packets without a session (`BEHAVIOUR.md` 6, look-up only).
//!
//! Reads `head`, `key`, `hit`. Writes `rule`. Balance applies the decision, because a packet earlier in the burst may have made the
//! session that exempts this one.

use crate::burst::{Burst, Columns, NONE};
use crate::flow::FlowKey;
use crate::io::PacketBuf;
use crate::snapshot::Snapshot;
use crate::stage::parse::Head;
use crate::table::rules::RuleKey;

/// Runs the stage.
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, snapshot: &Snapshot) {
    if snapshot.rules.is_empty() {
        return;
    }
    let mut lanes = burst.active;
    let Columns { head, key, hit, rule, .. } = &mut *burst.columns;
    for lane in burst.active.lanes() {
        if hit[lane.index()].is_some() {
            lanes.remove(lane);
        }
    }
    if !lanes.is_empty() {
        snapshot.rules.first_matches(lanes, |lane| rule_key(&head[lane], &key[lane]), rule);
    }
}

/// Index of the first rule that matches a packet as received, or [`NONE`].
#[inline]
pub fn classify(snapshot: &Snapshot, head: &Head, key: &FlowKey) -> u32 {
    snapshot.rules.first_match(&rule_key(head, key)).unwrap_or(NONE)
}

#[inline]
fn rule_key(head: &Head, key: &FlowKey) -> RuleKey {
    RuleKey { flow: *key, has_ports: head.has_ports(), interface: head.interface }
}
