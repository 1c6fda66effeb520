//! session: finds the session of each packet (`BEHAVIOUR.md` 5, look-up only).
//!
//! Reads `head`, `key`. Writes `hash`, `hit`. Nothing changes here: hits are applied in lane order by balance, so that a packet
//! sees what the packets before it in the same burst did.

use crate::burst::Burst;
use crate::io::PacketBuf;
use crate::snapshot::Snapshot;
use crate::table::sessions::{Hit, Sessions};

/// Runs the stage.
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, snapshot: &Snapshot, sessions: &Sessions, now: u64) {
    let active = burst.active;
    let columns = &mut *burst.columns;
    if snapshot.services.is_empty() && sessions.is_empty() {
        for lane in active.lanes() {
            columns.hit[lane.index()] = Hit::MISS;
        }
        return;
    }
    for lane in active.lanes() {
        let lane = lane.index();
        columns.hash[lane] = sessions.hash(&columns.key[lane]);
        sessions.prefetch_buckets(columns.hash[lane]);
    }
    for lane in active.lanes() {
        sessions.prefetch_entry(columns.hash[lane.index()]);
    }
    for lane in active.lanes() {
        let lane = lane.index();
        columns.hit[lane] = if columns.head[lane].has_session() {
            sessions.find(&columns.key[lane], columns.hash[lane], now)
        } else {
            Hit::MISS
        };
    }
}
