//! flows: counts packets of sessions for flow collectors (`BEHAVIOUR.md`, Flows). Only on a node that exports flows.
//!
//! Reads `head`, `key`, `hit` behind balance. Writes nothing but the counts.

use crate::burst::{Burst, Mask};
use crate::io::PacketBuf;
use crate::table::sessions::Sessions;

/// Runs the stage. Packets in `counted` were counted when their session began.
#[cold]
#[inline(never)]
pub fn process<B: PacketBuf>(burst: &Burst<B>, sessions: &mut Sessions, counted: Mask, now: u64) {
    // ICMP errors about a session are none of its packets.
    let lanes = burst.active.without(counted).without(burst.errors);
    let columns = &burst.columns;
    for lane in lanes.lanes() {
        if columns.hit[lane.index()].is_some() {
            sessions.prefetch_flow(columns.hit[lane.index()]);
        }
    }
    for lane in lanes.lanes() {
        let index = lane.index();
        if columns.hit[index].is_some() {
            let length = usize::from(columns.head[index].l3_len);
            sessions.flow_passed(columns.hit[index], &columns.key[index], length, now);
        }
    }
}
