//! route: longest prefix, next hop, TTL and MTU (`BEHAVIOUR.md` 8, 9.1, 9.2).
//!
//! Reads `head`, `key`, `verdict`, `target`. Writes `egress`. Ends lanes without a way, or too old or too long for it.

use crate::burst::{Burst, Columns, Egress, Fate, Rewrite};
use crate::flow::{Addr, FlowKey};
use crate::hash::ECMP_SEED;
use crate::io::PacketBuf;
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::{Route, Snapshot};
use crate::table::neighbours::{NeighbourKey, NeighbourTable};

/// Runs the stage.
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, snapshot: &Snapshot, neighbours: &NeighbourTable) {
    for lane in burst.active.lanes() {
        let lane = lane.index();
        let columns = &burst.columns;
        if let Some(fib) = snapshot.fib_of(columns.head[lane].interface) {
            fib.prefetch(destination(columns, lane));
        }
    }
    for lane in burst.active.lanes() {
        let index = lane.index();
        let columns = &mut *burst.columns;
        let head = &columns.head[index];
        let outcome = resolve(snapshot, head.interface, destination(columns, index), &columns.key[index]);
        let outcome = outcome.and_then(|egress| {
            neighbours.prefetch(egress.neighbour_hash);
            columns.egress[index] = egress;
            if head.ttl <= 1 {
                return Err(Fate::Punt(PuntReason::TtlExceeded));
            }
            match snapshot.interface(egress.interface) {
                Some(out) if head.l3_len > out.mtu => Err(if head.dont_fragment {
                    Fate::Punt(PuntReason::MtuExceeded)
                } else {
                    Fate::Drop(DropReason::MtuExceeded)
                }),
                _ => Ok(()),
            }
        });
        if let Err(fate) = outcome {
            burst.settle(lane, fate);
        }
    }
}

/// Where the packet goes after rewriting.
#[inline]
fn destination(columns: &Columns, lane: usize) -> Addr {
    if columns.verdict[lane].rewrite == Rewrite::Destination { columns.target[lane] } else { columns.key[lane].dst }
}

/// The way to a destination from an interface's table; `key` chooses among several next hops.
#[inline]
pub fn resolve(snapshot: &Snapshot, interface: u32, destination: Addr, key: &FlowKey) -> Result<Egress, Fate> {
    match snapshot.route(interface, destination) {
        Some(Route::Connected { interface, place: (port, vlan) }) => {
            let neighbour = NeighbourKey { port, vlan, address: destination };
            Ok(Egress { interface, next_hop: destination, neighbour_hash: neighbour.hash() })
        }
        Some(Route::Via { first, count, weight }) => {
            let hop = snapshot.hop(first, count, weight, || key.hash(ECMP_SEED));
            hop.map(|hop| Egress {
                interface: hop.interface,
                next_hop: hop.address,
                neighbour_hash: hop.neighbour_hash,
            })
            .ok_or(Fate::Punt(PuntReason::NoRoute))
        }
        Some(Route::Blackhole) => Err(Fate::Drop(DropReason::RouteBlackhole)),
        Some(Route::Reject) => Err(Fate::Punt(PuntReason::RouteReject)),
        None => Err(Fate::Punt(PuntReason::NoRoute)),
    }
}
