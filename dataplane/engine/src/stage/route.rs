//! route: longest prefix, next hop, TTL and MTU (`BEHAVIOUR.md` 8, 9.1, 9.2).
//!
//! Reads `head`, `key`, `verdict`, `target`. Writes `egress`. Ends lanes without a way, or too old or too long for it.

use crate::burst::{BURST, Burst, Columns, Egress, Fate, Rewrite};
use crate::flow::{Addr, FlowKey};
use crate::hash::ECMP_SEED;
use crate::io::PacketBuf;
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::{Route, Snapshot};
use crate::stage::parse::Head;
use crate::table::fib::Found;
use crate::table::neighbours::{NeighbourKey, NeighbourTable};

/// Runs the stage. Each loop ends where memory latency begins.
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, snapshot: &Snapshot, neighbours: &NeighbourTable) {
    let active = burst.active;
    let columns = &mut *burst.columns;
    // Most nodes have one table. Families are taken one after the other: a branch on what alternates at random is a wrong guess
    // every other time.
    let only = if let [fib] = &snapshot.fibs[..] { Some(fib) } else { None };
    let table = |columns: &Columns, lane: usize| only.or_else(|| snapshot.fib_of(columns.head[lane].interface));
    let (v4, v6) = (active.without(burst.v6), active.and(burst.v6));
    let (mut to, mut found) = ([0; BURST], [Found::default(); BURST]);
    for lane in v4.lanes() {
        let lane = lane.index();
        to[lane] = destination(columns, lane);
        if let Some(fib) = table(columns, lane) {
            fib.prefetch_v4(to[lane]);
        }
    }
    for lane in v6.lanes() {
        let lane = lane.index();
        to[lane] = destination(columns, lane);
        if let Some(fib) = table(columns, lane) {
            fib.prefetch_v6(to[lane]);
        }
    }
    for lane in v4.lanes() {
        let lane = lane.index();
        if let Some(fib) = table(columns, lane) {
            found[lane] = fib.first_v4(to[lane]);
        }
    }
    for lane in v6.lanes() {
        let lane = lane.index();
        if let Some(fib) = table(columns, lane) {
            found[lane] = fib.first_v6(to[lane]);
        }
    }
    for lane in active.lanes() {
        let index = lane.index();
        let destination = to[index];
        let route = table(columns, index).and_then(|fib| fib.second(destination, found[index]));
        let head = &columns.head[index];
        let route = route.and_then(|route| snapshot.route_at(route));
        let outcome = follow(snapshot, route, destination, &columns.key[index]).and_then(|egress| {
            neighbours.prefetch(egress.neighbour_hash);
            columns.egress[index] = egress;
            judge(head, snapshot.interface(egress.interface).map_or(u16::MAX, |out| out.mtu))
        });
        if let Err(fate) = outcome {
            columns.fate[index] = fate;
            burst.active.remove(lane);
        }
    }
}

/// Age and size (`BEHAVIOUR.md` 9.1 and 9.2).
#[inline]
fn judge(head: &Head, mtu: u16) -> Result<(), Fate> {
    if head.ttl <= 1 {
        return Err(Fate::Punt(PuntReason::TtlExceeded));
    }
    if head.l3_len <= mtu {
        return Ok(());
    }
    Err(if head.dont_fragment { Fate::Punt(PuntReason::MtuExceeded) } else { Fate::Drop(DropReason::MtuExceeded) })
}

/// Where the packet goes after rewriting.
#[inline]
fn destination(columns: &Columns, lane: usize) -> Addr {
    if columns.verdict[lane].rewrite == Rewrite::Destination { columns.target[lane] } else { columns.key[lane].dst }
}

/// The way to a destination from an interface's table; `key` chooses among several next hops.
pub fn resolve(snapshot: &Snapshot, interface: u32, destination: Addr, key: &FlowKey) -> Result<Egress, Fate> {
    follow(snapshot, snapshot.route(interface, destination), destination, key)
}

#[inline]
fn follow(snapshot: &Snapshot, route: Option<Route>, destination: Addr, key: &FlowKey) -> Result<Egress, Fate> {
    match route {
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
