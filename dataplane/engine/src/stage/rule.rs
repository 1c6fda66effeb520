//! rule: first matching rule for packets without a session (`BEHAVIOUR.md` 6, look-up only).
//!
//! Reads `head`, `key`, `hit`. Writes `rule`. Balance applies the decision, because a packet earlier in the burst may have made the
//! session that exempts this one.

use crate::burst::{Burst, NONE};
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
    let active = burst.active;
    let columns = &mut *burst.columns;
    for lane in active.lanes() {
        let lane = lane.index();
        if !columns.hit[lane].is_some() {
            columns.rule[lane] = classify(snapshot, &columns.head[lane], &columns.key[lane]);
        }
    }
}

/// Index of the first rule that matches a packet as received, or [`NONE`].
#[inline]
pub fn classify(snapshot: &Snapshot, head: &Head, key: &FlowKey) -> u32 {
    let key = RuleKey { flow: *key, has_ports: head.has_ports(), interface: head.interface };
    snapshot.rules.first_match(&key).unwrap_or(NONE)
}
