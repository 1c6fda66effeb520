//! session: finds the session of each packet (`BEHAVIOUR.md` 5, look-up only).
//!
//! Reads `head`, `key`. Writes `hash`, `hit`. Nothing changes here: hits are applied in lane order by balance, so that a packet
//! sees what the packets before it in the same burst did.

use crate::burst::{Burst, Mask};
use crate::io::PacketBuf;
use crate::reason::LookupResult;
use crate::snapshot::Snapshot;
use crate::stats::ThreadStats;
use crate::table::sessions::{Hit, Sessions};

/// Runs the stage. Every step goes over all lanes before the next one needs what it started to load.
pub fn process<B: PacketBuf>(
    burst: &mut Burst<B>,
    snapshot: &Snapshot,
    sessions: &Sessions,
    stats: &ThreadStats,
    now: u64,
) {
    let active = burst.active;
    let columns = &mut *burst.columns;
    if sessions.is_empty() && snapshot.services.is_empty() {
        columns.hit.fill(Hit::MISS);
        return;
    }
    let (mut candidates, mut found) = (Mask::default(), Mask::default());
    for lane in active.lanes() {
        let index = lane.index();
        columns.hit[index] = Hit::MISS;
        let (hash, known) = sessions.hash_known(&columns.key[index]);
        columns.hash[index] = hash;
        candidates.insert_if(lane, known & columns.head[index].has_session());
    }
    for lane in candidates.lanes() {
        sessions.prefetch_bucket(columns.hash[lane.index()]);
    }
    for lane in candidates.lanes() {
        columns.hit[lane.index()] = sessions.guess(columns.hash[lane.index()]);
    }
    for lane in candidates.lanes() {
        let index = lane.index();
        let hash = columns.hash[index];
        let hit = sessions.confirm(columns.hit[index], &columns.key[index], hash, now);
        columns.hit[index] = hit;
        sessions.prefetch_decision(hit);
        found.insert_if(lane, hit.is_some());
    }
    for lane in candidates.without(found).lanes() {
        if !snapshot.services.is_address(columns.key[lane.index()].dst) {
            stats.lookups[LookupResult::MissReply.index()].add(1);
        }
    }
    if snapshot.services.is_empty() {
        return;
    }
    // What is left and goes to a service will likely make a session: rules come first, and meanwhile its lines arrive.
    let mut nth = 0;
    for lane in active.without(found).lanes() {
        let (head, key) = (&columns.head[lane.index()], &columns.key[lane.index()]);
        if !snapshot.services.is_address(key.dst) || !head.has_session() {
            continue;
        }
        let service = snapshot.services.lookup(key.dst, key.protocol, key.dport);
        if let Some(backend) = service.filter(|service| !service.stateless).and_then(|service| service.pick(key)) {
            sessions.prefetch_creation(nth, &backend.reply_to(key));
            nth += 1;
        }
    }
}
