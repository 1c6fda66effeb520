//! route: longest prefix, next hop, TTL and MTU (`BEHAVIOUR.md` 8, 9.1, 9.2).
//!
//! Reads `head`, `key`, `verdict`, `target`. Writes `egress`, `too_long`. Ends lanes without a way, or too old or too long for it.

use crate::burst::{BURST, Burst, Columns, Egress, Fate, Mask};
use crate::flow::{Addr, FlowKey, is_v4};
use crate::hash::ECMP_SEED;
use crate::io::PacketBuf;
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::{Route, Snapshot};
use crate::stage::direct::{self, Lanes};
use crate::stage::divert;
use crate::stage::parse::Head;
use crate::table::fib::{Fib, Found};
use crate::table::neighbours::{NeighbourKey, NeighbourTable};

/// Runs the stage.
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, snapshot: &Snapshot, neighbours: &NeighbourTable) {
    let lanes = if snapshot.diverts() { divert::process(burst, snapshot, neighbours) } else { burst.active };
    // Most nodes have one table.
    if let [only] = &snapshot.fibs[..] {
        look_up(burst, lanes, snapshot, neighbours, |_| Some(only));
    } else {
        look_up(burst, lanes, snapshot, neighbours, |interface| snapshot.fib_of(interface));
    }
}

/// Each loop ends where memory latency begins. Families are taken one after the other: a branch on what alternates at random is a wrong
/// guess every other time.
#[inline(always)]
fn look_up<'a, B: PacketBuf>(
    burst: &mut Burst<B>,
    active: Mask,
    snapshot: &Snapshot,
    neighbours: &NeighbourTable,
    table: impl Fn(u32) -> Option<&'a Fib>,
) {
    let judged = burst.judged;
    let direct = if snapshot.services.has_direct() { direct::lanes(burst) } else { Lanes::default() };
    let towards_v6 = burst.v6.xor(direct.crossing);
    let (v4, v6) = (active.without(towards_v6), active.and(towards_v6));
    let columns = &mut *burst.columns;
    let (mut to, mut found) = ([0; BURST], [Found::default(); BURST]);
    for lane in active.lanes() {
        to[lane.index()] = columns.key[lane.index()].dst;
    }
    for lane in active.and(judged).lanes() {
        let lane = lane.index();
        if columns.verdict[lane].rewrite.leads_to_target() {
            to[lane] = columns.target[lane];
        }
    }
    for lane in v4.lanes() {
        let lane = lane.index();
        if let Some(fib) = table(columns.head[lane].interface) {
            fib.prefetch_v4(to[lane]);
        }
    }
    for lane in v6.lanes() {
        let lane = lane.index();
        if let Some(fib) = table(columns.head[lane].interface) {
            fib.prefetch_v6(to[lane]);
        }
    }
    for lane in v4.lanes() {
        let lane = lane.index();
        if let Some(fib) = table(columns.head[lane].interface) {
            found[lane] = fib.first_v4(to[lane]);
        }
    }
    for lane in v6.lanes() {
        let lane = lane.index();
        if let Some(fib) = table(columns.head[lane].interface) {
            found[lane] = fib.first_v6(to[lane]);
        }
    }
    let mut ended = Mask::default();
    for lane in v4.without(direct.all).lanes() {
        let index = lane.index();
        let route = table(columns.head[index].interface).and_then(|fib| fib.second_v4(found[index]));
        ended.insert_if(lane, !choose(columns, index, snapshot, neighbours, to[index], route));
    }
    for lane in v6.without(direct.all).lanes() {
        let index = lane.index();
        let route = table(columns.head[index].interface).and_then(|fib| fib.second_v6(to[index], found[index]));
        ended.insert_if(lane, !choose(columns, index, snapshot, neighbours, to[index], route));
    }
    for lane in direct.all.lanes() {
        let index = lane.index();
        let fib = table(columns.head[index].interface);
        let route = fib.and_then(|fib| {
            if is_v4(to[index]) { fib.second_v4(found[index]) } else { fib.second_v6(to[index], found[index]) }
        });
        let route = route.and_then(|at| snapshot.route_at(at));
        let outcome = follow(snapshot, route, to[index], &columns.key[index]).and_then(|egress| {
            neighbours.prefetch(egress.neighbour_hash);
            columns.egress[index] = egress;
            direct::judge(columns, index, &egress)
        });
        if let Err(fate) = outcome {
            columns.fate[index] = fate;
            ended.insert(lane);
        }
    }
    end(burst, ended);
}

/// Ends lanes, but for those that go on and are cut when they are finished: so they are one packet to policers.
#[inline]
pub(super) fn end<B: PacketBuf>(burst: &mut Burst<B>, mut lanes: Mask) {
    if !lanes.is_empty() {
        for lane in to_be_cut(&mut burst.columns, lanes).lanes() {
            burst.too_long.insert(lane);
            lanes.remove(lane);
        }
        burst.active = burst.active.without(lanes);
    }
}

/// The next hop of a lane whose longest match is `route`. False when the lane ends.
#[inline(always)]
fn choose(
    columns: &mut Columns,
    lane: usize,
    snapshot: &Snapshot,
    neighbours: &NeighbourTable,
    destination: Addr,
    route: Option<u32>,
) -> bool {
    let head = &columns.head[lane];
    let egress = match snapshot.only_way(route) {
        Some(way) => *way,
        None => match follow(snapshot, route.and_then(|at| snapshot.route_at(at)), destination, &columns.key[lane]) {
            Ok(egress) => egress,
            Err(fate) => {
                columns.fate[lane] = fate;
                return false;
            }
        },
    };
    neighbours.prefetch(egress.neighbour_hash);
    columns.egress[lane] = egress;
    columns.fate[lane] = judge(head, egress.mtu);
    columns.fate[lane] == Fate::Active
}

/// Age and size (`BEHAVIOUR.md` 9.1 and 9.2).
#[inline]
pub(super) fn judge(head: &Head, mtu: u16) -> Fate {
    if (head.ttl > 1) & (head.l3_len <= mtu) {
        return Fate::Active;
    }
    if head.ttl <= 1 {
        Fate::Punt(PuntReason::TtlExceeded)
    } else if head.dont_fragment {
        Fate::Punt(PuntReason::MtuExceeded)
    } else {
        Fate::Punt(PuntReason::Fragment)
    }
}

/// Those of the lanes that are only too long and may be cut.
#[cold]
fn to_be_cut(columns: &mut Columns, lanes: Mask) -> Mask {
    let mut cut = Mask::default();
    for lane in lanes.lanes() {
        let fate = &mut columns.fate[lane.index()];
        if *fate == Fate::Punt(PuntReason::Fragment) {
            *fate = Fate::Active;
            cut.insert(lane);
        }
    }
    cut
}

/// The way to a destination from an interface's table; `key` chooses among several next hops.
pub fn resolve(snapshot: &Snapshot, interface: u32, destination: Addr, key: &FlowKey) -> Result<Egress, Fate> {
    follow(snapshot, snapshot.route(interface, destination), destination, key)
}

/// Where a route leads.
pub fn follow(snapshot: &Snapshot, route: Option<Route>, destination: Addr, key: &FlowKey) -> Result<Egress, Fate> {
    match route {
        Some(Route::Connected { interface, place: (port, vlan) }) => {
            let neighbour = NeighbourKey { port, vlan, address: destination };
            let mtu = snapshot.interface(interface).map_or(u16::MAX, |out| out.mtu);
            Ok(Egress { interface, next_hop: destination, neighbour_hash: neighbour.hash(), mtu, port })
        }
        Some(Route::Via(range)) => {
            let hop = snapshot.hops.choose(range, || key.hash(ECMP_SEED));
            hop.map(|hop| snapshot.way(hop)).ok_or(Fate::Punt(PuntReason::NoRoute))
        }
        Some(Route::Blackhole) => Err(Fate::Drop(DropReason::RouteBlackhole)),
        Some(Route::Reject) => Err(Fate::Punt(PuntReason::RouteReject)),
        None => Err(Fate::Punt(PuntReason::NoRoute)),
    }
}
