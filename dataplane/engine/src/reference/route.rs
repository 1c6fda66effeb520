//! Section 8: longest prefix match and the choice among next hops.

use std::net::IpAddr;

use super::layer4::Tuple;
use super::node::Node;
use crate::hash::{ECMP_SEED, ECMP_SLOTS, flow_words, hash, hop_claim, hop_identity};
use crate::tables::{Cidr, NextHopSpec, RouteAction, RuleTables};

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Out of this interface, to this neighbour.
    Via {
        interface: usize,
        next_hop: IpAddr,
    },
    None,
    Blackhole,
    Reject,
}

/// The best route of a table. `flow` is the tuple as received, for several next hops.
pub(super) fn lookup(node: &Node, table: u32, dst: IpAddr, flow: &Tuple) -> Route {
    let tables = &node.tables;
    let configured =
        tables.routes.iter().filter(|r| r.table == table && r.prefix.contains(dst)).max_by_key(|r| r.prefix.len);
    let connected = connected(tables, table, dst);
    match (configured, connected) {
        // Of the same prefix, the configured route counts.
        (Some(route), best) if best.is_none_or(|(_, prefix)| route.prefix.len >= prefix.len) => match &route.action {
            RouteAction::Via(hops) => match choose(hops, flow, |hop| node.is_link_up(hop.interface)) {
                Some(hop) => Route::Via { interface: hop.interface, next_hop: hop.address },
                None => Route::None,
            },
            RouteAction::Blackhole => Route::Blackhole,
            RouteAction::Reject => Route::Reject,
        },
        (_, Some((interface, _))) => Route::Via { interface, next_hop: dst },
        (_, None) => Route::None,
    }
}

/// The interfaces that the best route of a table leaves by, and the length of its prefix; nothing where it leads nowhere.
pub(super) fn best_ways(tables: &RuleTables, table: u32, to: IpAddr) -> Option<(Vec<usize>, u8)> {
    let configured =
        tables.routes.iter().filter(|r| r.table == table && r.prefix.contains(to)).max_by_key(|r| r.prefix.len);
    match (configured, connected(tables, table, to)) {
        (Some(route), near) if near.is_none_or(|(_, prefix)| route.prefix.len >= prefix.len) => match &route.action {
            RouteAction::Via(hops) => Some((hops.iter().map(|hop| hop.interface).collect(), route.prefix.len)),
            RouteAction::Blackhole | RouteAction::Reject => None,
        },
        (_, near) => near.map(|(interface, prefix)| (vec![interface], prefix.len)),
    }
}

/// The longest connected prefix of a table; of equal ones the first interface's.
fn connected(tables: &RuleTables, table: u32, dst: IpAddr) -> Option<(usize, Cidr)> {
    let mut best: Option<(usize, Cidr)> = None;
    for (index, interface) in tables.interfaces.iter().enumerate().filter(|(_, i)| i.table == table) {
        for prefix in interface.addresses.iter().filter(|prefix| prefix.contains(dst)) {
            if best.is_none_or(|(_, b)| prefix.len > b.len) {
                best = Some((index, *prefix));
            }
        }
    }
    best
}

/// The next hop of a flow: owner of the flow's slot, among those whose link is up, if there are any.
fn choose<'a>(hops: &'a [NextHopSpec], flow: &Tuple, is_up: impl Fn(&NextHopSpec) -> bool) -> Option<&'a NextHopSpec> {
    let none = !hops.iter().any(&is_up);
    let words = flow_words(flow.src, flow.dst, flow.protocol, flow.sport, flow.dport);
    let slot = (hash(ECMP_SEED, words.as_slice()) % ECMP_SLOTS as u64) as usize;
    // The least quotient of claim and weight, as fractions.
    hops.iter().filter(|hop| none || is_up(hop)).min_by(|a, b| {
        let product = |claims: &NextHopSpec, weight: u16| {
            u128::from(hop_claim(hop_identity(claims.address), slot)) * u128::from(weight)
        };
        product(a, b.weight).cmp(&product(b, a.weight))
    })
}
