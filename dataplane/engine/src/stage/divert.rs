//! divert: packets that a rule gave a way of its own (`BEHAVIOUR.md` 6 and 8). A part of route, left out while no rule does so.
//!
//! Reads `head`, `key`, `verdict`, `target`, `way`. Writes `egress`, `too_long`. Ends lanes as route does.

use super::route::{end, follow, judge};
use crate::burst::{Burst, Fate, Mask};
use crate::io::PacketBuf;
use crate::snapshot::{Detour, Snapshot};
use crate::table::neighbours::NeighbourTable;

/// Runs the stage; returns the lanes that are left to route.
#[cold]
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, snapshot: &Snapshot, neighbours: &NeighbourTable) -> Mask {
    let (mut left, mut ended) = (burst.active, Mask::default());
    for lane in burst.active.lanes() {
        let index = lane.index();
        let columns = &mut *burst.columns;
        // The way to a backend that answers by itself is the backend's.
        if columns.verdict[index].rewrite.is_direct() {
            continue;
        }
        let (head, key) = (&columns.head[index], &columns.key[index]);
        let found = match snapshot.detour(columns.way[index]) {
            Some(Detour::NextHop { v6, egress }) if *v6 == head.v6 => Ok(*egress),
            Some(Detour::Table(table)) => {
                let rewritten = columns.verdict[index].rewrite.leads_to_target();
                let to = if rewritten { columns.target[index] } else { key.dst };
                follow(snapshot, snapshot.route_in(*table, to), to, key)
            }
            _ => continue,
        };
        left.remove(lane);
        let fate = match found {
            Ok(egress) => {
                neighbours.prefetch(egress.neighbour_hash);
                columns.egress[index] = egress;
                judge(head, egress.mtu)
            }
            Err(fate) => fate,
        };
        columns.fate[index] = fate;
        ended.insert_if(lane, fate != Fate::Active);
    }
    end(burst, ended);
    left
}
