//! urpf: drops packets whose source is not reached where they came from (`BEHAVIOUR.md` 4.5; RFC 3704, 8704).
//!
//! Reads `head`, `key`, `fate`. Ends lanes. Nothing to do, and nothing looked at, where no interface asks for it.

use crate::burst::{Burst, Columns, Fate, Lane, Mask};
use crate::io::PacketBuf;
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::{Route, Snapshot};
use crate::stage::parse::is_link_local;
use crate::tables::Urpf;

/// Runs the stage.
#[inline]
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, snapshot: &Snapshot) {
    if snapshot.checks_sources {
        check(burst, snapshot);
    }
}

#[inline(never)]
fn check<B: PacketBuf>(burst: &mut Burst<B>, snapshot: &Snapshot) {
    let (active, columns) = (burst.active, &*burst.columns);
    let mut checked = Mask::default();
    for lane in Mask::first(burst.len()).lanes() {
        // What has not ended goes on or is for us.
        let goes_on = active.contains(lane) || columns.fate[lane.index()] == Fate::Punt(PuntReason::Local);
        if goes_on && is_checked(columns, lane, snapshot) {
            checked.insert(lane);
            if let Some(fib) = snapshot.fib_of(columns.head[lane.index()].interface) {
                fib.prefetch(columns.key[lane.index()].src);
            }
        }
    }
    for lane in checked.lanes() {
        let interface = burst.columns.head[lane.index()].interface;
        let mode = snapshot.interface(interface).map_or(Urpf::Off, |i| i.urpf);
        if !reached(snapshot, interface, burst.columns.key[lane.index()].src, mode) {
            burst.drop(lane, DropReason::Urpf);
        }
    }
}

/// The unspecified and link-local addresses are of the link and in no table.
fn is_checked(columns: &Columns, lane: Lane, snapshot: &Snapshot) -> bool {
    let (head, src) = (&columns.head[lane.index()], columns.key[lane.index()].src);
    let asked = snapshot.interface(head.interface).is_some_and(|i| i.urpf != Urpf::Off);
    asked && src != 0 && !is_link_local(src)
}

/// Whether a source is reached as the mode wants it of packets received on an interface.
pub fn reached(snapshot: &Snapshot, interface: u32, source: u128, mode: Urpf) -> bool {
    if mode == Urpf::Off {
        return true;
    }
    let Some(found) = snapshot.fib_of(interface).and_then(|fib| fib.lookup(source)) else { return false };
    match (snapshot.route_at(found), mode) {
        (Some(Route::Connected { interface: out, .. }), Urpf::Strict) => out == interface,
        (Some(Route::Connected { .. }), _) => true,
        (Some(Route::Via(range)), Urpf::Strict) => {
            let hops = snapshot.hops.of(range);
            hops.iter().any(|hop| hop.interface == interface)
        }
        (Some(Route::Via(_)), _) => !snapshot.default_routes.contains(&found),
        (Some(Route::Blackhole | Route::Reject) | None, _) => false,
    }
}
