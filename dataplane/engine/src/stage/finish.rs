//! finish: policer, rewriting, TTL, DSCP, checksums, L2 header (`BEHAVIOUR.md` 9.3 and 10).
//!
//! Reads `head`, `key`, `verdict`, `target`, `port`, `egress`. Changes the frame. Ends every lane: transmit, policer drop, or wait
//! for the next hop's MAC address.

use crate::burst::{Burst, Fate, NO_MARK, NONE, Rewrite, Verdict};
use crate::flow::FlowKey;
use crate::io::{Mac, PacketBuf};
use crate::ports::{PortFacts, UNTAGGED};
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::{Interface, Snapshot};
use crate::stage::parse::Head;
use crate::stats::ThreadStats;
use crate::table::neighbours::NeighbourTable;
use crate::table::policer::{Colour, Policer};
use crate::tables::PolicerAction;
use crate::wire::{Change, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, ICMP, TAG, TCP, UDP, be16, put};

/// What the stage works on besides the burst.
pub struct Context<'a> {
    /// The generation in force.
    pub snapshot: &'a Snapshot,
    /// Its number.
    pub generation: u64,
    /// MAC addresses of the ports.
    pub facts: &'a PortFacts,
    /// Resolved next hops.
    pub neighbours: &'a NeighbourTable,
    /// The worker's buckets.
    pub policers: &'a mut [Policer],
    /// The worker's counters.
    pub stats: &'a ThreadStats,
    /// Nanoseconds.
    pub now: u64,
}

/// Runs the stage.
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, context: &mut Context<'_>) {
    for lane in burst.active.lanes() {
        let index = lane.index();
        let Some((packet, columns)) = burst.packet_and_columns(lane) else { continue };
        let (head, verdict) = (&columns.head[index], &mut columns.verdict[index]);
        let egress = &columns.egress[index];
        let outcome = 'lane: {
            if verdict.policer != NONE && !police(verdict, usize::from(head.l3_len), context) {
                break 'lane Fate::Drop(DropReason::PolicerDrop);
            }
            let Some(out) = context.snapshot.interface(egress.interface) else {
                break 'lane Fate::Drop(DropReason::TxPortGone);
            };
            if verdict.mark == NO_MARK && !context.snapshot.interface(head.interface).is_none_or(|i| i.trust_dscp) {
                verdict.mark = 0;
            }
            let key = &columns.key[index];
            rewrite(packet.data_mut(), head, key, *verdict, columns.target[index], columns.port[index]);
            let neighbour = out.neighbour(egress.next_hop);
            let mac = context.neighbours.lookup(&neighbour, egress.neighbour_hash);
            let source = context.facts.mac(out.port);
            if !layer2(packet, head.l3, head.v6, out, mac.unwrap_or_default(), source) {
                break 'lane Fate::Drop(DropReason::NoHeadroom);
            }
            if mac.is_some() { Fate::Transmit } else { Fate::Punt(PuntReason::Neighbour) }
        };
        burst.settle(lane, outcome);
    }
}

/// Meters the packet. False: dropped. The policer's mark wins over the others.
#[inline]
fn police(verdict: &mut Verdict, octets: usize, context: &mut Context<'_>) -> bool {
    let Some(table) = context.snapshot.policers.get(verdict.policer as usize) else { return true };
    let Some(policer) = context.policers.get_mut(table.slot as usize) else { return true };
    policer.sync(table, context.generation);
    let colour = match policer.meter(context.now, octets) {
        Colour::Green => 0,
        Colour::Yellow => 1,
        Colour::Red => 2,
    };
    let object = context.stats.object(table.counter);
    if let Some(object) = object {
        object.matched.count(octets);
    }
    match table.actions[colour] {
        PolicerAction::Pass => true,
        PolicerAction::Mark(dscp) => {
            verdict.mark = dscp;
            true
        }
        PolicerAction::Drop => {
            if let Some(object) = object {
                object.dropped.add(1);
            }
            false
        }
    }
}

/// Addresses, ports, TTL, DSCP and every checksum over them.
#[inline]
fn rewrite(frame: &mut [u8], head: &Head, key: &FlowKey, verdict: Verdict, target: u128, port: u16) {
    let l3 = usize::from(head.l3);
    let mut header = Change::default();
    let mut transport = Change::default();
    match verdict.rewrite {
        Rewrite::None => {}
        Rewrite::Destination => {
            header.address(key.dst, target, head.v6);
            put_address(frame, l3, head.v6, false, target);
            if matches!(head.protocol, TCP | UDP) {
                transport.word(key.dport, port);
                put(frame, usize::from(head.l4) + 2, &port.to_be_bytes());
            }
        }
        Rewrite::Source => {
            header.address(key.src, target, head.v6);
            put_address(frame, l3, head.v6, true, target);
            if matches!(head.protocol, TCP | UDP) {
                transport.word(key.sport, port);
                put(frame, usize::from(head.l4), &port.to_be_bytes());
            }
        }
    }
    if verdict.rewrite != Rewrite::None {
        // ICMP over IPv4 has no pseudo header.
        if head.protocol != ICMP {
            transport.join(header);
        }
        layer4_checksum(frame, head, transport);
    }
    if head.v6 {
        // Version, traffic class (DSCP is its upper six bits), flow label.
        if verdict.mark != NO_MARK {
            let word = be16(frame, l3) & !0x0fc0 | u16::from(verdict.mark) << 6;
            put(frame, l3, &word.to_be_bytes());
        }
        put(frame, l3 + 7, &[head.ttl - 1]);
        return;
    }
    let age = be16(frame, l3 + 8);
    put(frame, l3 + 8, &[head.ttl - 1]);
    header.word(age, be16(frame, l3 + 8));
    if verdict.mark != NO_MARK {
        let old = be16(frame, l3);
        let new = old & 0xff03 | u16::from(verdict.mark) << 2;
        put(frame, l3, &new.to_be_bytes());
        header.word(old, new);
    }
    let checksum = header.apply(be16(frame, l3 + 10));
    put(frame, l3 + 10, &checksum.to_be_bytes());
}

#[inline]
fn put_address(frame: &mut [u8], l3: usize, v6: bool, source: bool, address: u128) {
    if v6 {
        put(frame, l3 + if source { 8 } else { 24 }, &address.to_be_bytes());
    } else {
        put(frame, l3 + if source { 12 } else { 16 }, &(address as u32).to_be_bytes());
    }
}

/// RFC 1624, and for UDP: no checksum stays none (RFC 768), a computed zero is sent as all ones.
#[inline]
fn layer4_checksum(frame: &mut [u8], head: &Head, change: Change) {
    let at = usize::from(head.l4)
        + match head.protocol {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
    let old = be16(frame, at);
    if head.protocol == UDP && old == 0 && !head.v6 {
        return;
    }
    let mut new = change.apply(old);
    if head.protocol == UDP && new == 0 {
        new = 0xffff;
    }
    put(frame, at, &new.to_be_bytes());
}

/// Replaces the L2 header by the egress interface's. False when the headroom is used up.
#[inline]
pub fn layer2<B: PacketBuf>(packet: &mut B, l3: u8, v6: bool, out: &Interface, destination: Mac, source: Mac) -> bool {
    let (old, new) = (usize::from(l3), if out.vlan == UNTAGGED { ETHERNET } else { ETHERNET + TAG });
    if new > old {
        if !packet.prepend(new - old) {
            return false;
        }
    } else {
        packet.trim_front(old - new);
    }
    let ethertype = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    let frame = packet.data_mut();
    put(frame, 0, &destination);
    put(frame, 6, &source);
    if out.vlan == UNTAGGED {
        put(frame, 12, &ethertype.to_be_bytes());
    } else {
        put(frame, 12, &ETHERTYPE_VLAN.to_be_bytes());
        put(frame, 14, &out.vlan.to_be_bytes());
        put(frame, 16, &ethertype.to_be_bytes());
    }
    true
}
