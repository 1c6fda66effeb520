//! steer: sends a packet to the worker that owns its session (only with several workers).
//!
//! Reads `head`, `key`. Ends lanes whose session another worker owns. NAT keeps the client's address and port, so both directions of a session
//! show them: towards the service as source, from the backend as destination. Their hash names the owner, whatever queue the device
//! chose, and nothing is shared to find it. Full NAT's replies name it by the port of the pool.

use crate::burst::{Burst, Fate};
use crate::flow::{Addr, FlowKey};
use crate::hash::hash;
use crate::io::PacketBuf;
use crate::snapshot::Snapshot;
use crate::stage::related;

/// Seed of the owner's choice ("SteerSds").
const STEER_SEED: u64 = 0x5374_6565_7253_6473;

/// Runs the stage for worker `me` of `workers`.
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, snapshot: &Snapshot, me: usize, workers: usize) {
    for lane in burst.active.lanes() {
        let (head, key) = (&burst.columns.head[lane.index()], &burst.columns.key[lane.index()]);
        let key = if head.has_session() {
            *key
        } else if let (true, Some(packet)) = (burst.errors.contains(lane), burst.packet(lane)) {
            let Some(key) = related::quoted_tuple(packet.data(), head, key) else { continue };
            key
        } else {
            continue;
        };
        if let Some(owner) = owner(snapshot, &key, workers)
            && owner != me
        {
            burst.settle(lane, Fate::HandOff(owner as u8));
        }
    }
}

/// The worker that owns the session a tuple may belong to; `None` when no session can exist for it.
#[inline]
pub fn owner(snapshot: &Snapshot, key: &FlowKey, workers: usize) -> Option<usize> {
    if snapshot.is_pool(key.dst) {
        // Each worker gives out the ports of its own number only.
        return Some(usize::from(key.dport) % workers.max(1));
    }
    let client = if snapshot.services.is_address(key.dst) {
        (key.src, key.sport)
    } else if snapshot.is_backend(key.src) {
        (key.dst, key.dport)
    } else {
        return None;
    };
    Some(of_client(client, key.protocol, workers))
}

/// The owner of the sessions that a client has from one port.
#[inline]
pub fn of_client((address, port): (Addr, u16), protocol: u8, workers: usize) -> usize {
    let words = [(address >> 64) as u64, address as u64, u64::from(protocol) << 16 | u64::from(port)];
    (hash(STEER_SEED, &words) % workers.max(1) as u64) as usize
}
