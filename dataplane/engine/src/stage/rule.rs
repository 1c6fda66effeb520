//! rule: first matching rule for packets without a session (`BEHAVIOUR.md` 6, look-up only).
//!
//! Reads `head`, `key`, `hit`. Writes `rule`. Balance applies the decision, because a packet earlier in the burst may have made the
//! session that exempts this one.

use crate::burst::{Burst, Columns, Mask, NONE};
use crate::flow::FlowKey;
use crate::io::PacketBuf;
use crate::snapshot::Snapshot;
use crate::stage::parse::Head;
use crate::stats::ThreadStats;
use crate::table::rules::{RuleKey, Sight};
use crate::wire::TCP;

/// Runs the stage.
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, snapshot: &Snapshot, stats: &ThreadStats) {
    if !snapshot.rules.decide() {
        return;
    }
    let mut lanes = burst.active;
    let Columns { head, key, hit, rule, .. } = &mut *burst.columns;
    for lane in burst.active.lanes() {
        if hit[lane.index()].is_some() {
            lanes.remove(lane);
        }
    }
    if snapshot.rules.look_closer() {
        look_closer(burst, lanes, snapshot);
    } else if !lanes.is_empty() {
        snapshot.rules.first_matches(lanes, |lane| rule_key(&head[lane], &key[lane], Sight::default()), rule);
    }
    // Balance counts under them: with many rules a cold line each.
    for lane in lanes.lanes() {
        if let Some(rule) = snapshot.rules.get(burst.columns.rule[lane.index()]) {
            stats.prefetch_object(rule.counter);
        }
    }
}

/// The same where rules ask for more than most do.
#[cold]
fn look_closer<B: PacketBuf>(burst: &mut Burst<B>, lanes: Mask, snapshot: &Snapshot) {
    let (packets, Columns { head, key, rule, .. }) = burst.parts();
    let key = |lane: usize| rule_key(&head[lane], &key[lane], sight(&head[lane], packets.get(lane)));
    snapshot.rules.first_matches(lanes, key, rule);
}

/// Index of the first rule that matches a packet as received, or [`NONE`].
#[inline]
pub fn classify<B: PacketBuf>(snapshot: &Snapshot, head: &Head, key: &FlowKey, packet: Option<&B>) -> u32 {
    let sight = if snapshot.rules.look_closer() { sight(head, packet) } else { Sight::default() };
    snapshot.rules.first_match(&rule_key(head, key, sight)).unwrap_or(NONE)
}

/// What a packet shows to rules that ask for more than most do.
pub fn sight<B: PacketBuf>(head: &Head, packet: Option<&B>) -> Sight {
    let flags = (head.protocol == TCP && !head.later_fragment).then_some(head.flags_or_type);
    let sight = Sight::new(head.vlan, dscp(head, packet), flags);
    if head.fragment { sight.fragment(head.later_fragment) } else { sight }
}

/// DSCP of a packet as received.
#[inline]
pub fn dscp<B: PacketBuf>(head: &Head, packet: Option<&B>) -> u8 {
    tos(head, packet) >> 2
}

/// DSCP and ECN of a packet as received.
#[inline]
pub fn tos<B: PacketBuf>(head: &Head, packet: Option<&B>) -> u8 {
    let l3 = usize::from(head.l3);
    match packet.and_then(|packet| packet.data().get(l3..l3 + 2)) {
        Some([first, second]) if head.v6 => first << 4 | second >> 4,
        Some([_, tos]) => *tos,
        _ => 0,
    }
}

#[inline]
pub(super) fn rule_key(head: &Head, key: &FlowKey, sight: Sight) -> RuleKey {
    RuleKey { flow: *key, has_ports: head.has_ports(), interface: head.interface, sight }
}
