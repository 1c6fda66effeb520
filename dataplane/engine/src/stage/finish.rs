//! finish: policer, rewriting, TTL, DSCP, checksums, L2 header (`BEHAVIOUR.md` 9.3 and 10).
//!
//! Reads `head`, `key`, `verdict`, `target`, `port`, `egress`. Writes `class`. Changes the frame. Ends every lane: transmit, policer drop,
//! or wait for the next hop's MAC address.

use crate::burst::{Burst, CE, Columns, Egress, Fate, NO_MARK, NONE, Rewrite, Verdict};
use crate::flow::FlowKey;
use crate::io::PacketBuf;
use crate::ports::{PortFacts, UNTAGGED};
use crate::reason::{DropReason, PuntReason};
use crate::received::Received;
use crate::snapshot::Snapshot;
use crate::stage::encapsulate::{self, Station};
use crate::stage::parse::Head;
use crate::stage::police;
use crate::stats::ThreadStats;
use crate::table::neighbours::NeighbourTable;
use crate::table::policer::Policers;
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
    pub policers: &'a mut Policers,
    /// The worker's counters.
    pub stats: &'a ThreadStats,
    /// Nanoseconds.
    pub now: u64,
}

/// Runs the stage.
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, context: &mut Context<'_>) {
    // Nothing goes on from here: every lane that is still active ends.
    let mut going = std::mem::take(&mut burst.active);
    let (mut judged, v6) = (burst.judged, burst.v6);
    let (packets, columns) = burst.parts();
    let policed = context.snapshot.polices_interfaces;
    if policed {
        police::interfaces(packets, columns, &mut going, &mut judged, context);
    }
    for lane in going.and(judged).lanes() {
        let index = lane.index();
        let meters = !policed & (columns.verdict[index].policer != NONE);
        if meters && !police::flow(packets.get(index), columns, index, context) {
            going.remove(lane);
            continue;
        }
        let (head, verdict) = (&columns.head[index], &mut columns.verdict[index]);
        if verdict.mark >= 2 * CE {
            verdict.mark = police::resolve(packets.get(index), head, *verdict, context.snapshot);
        }
        if verdict.class.is_experienced() {
            verdict.mark = police::experienced(packets.get(index), head, verdict.mark);
        }
    }
    // One family after the other: a branch on what alternates at random is a wrong guess every other time.
    let (plain, judged) = (going.without(judged), going.and(judged));
    for lane in plain.without(v6).lanes() {
        unchanged::<B, false>(packets, columns, lane.index(), context);
    }
    for lane in plain.and(v6).lanes() {
        unchanged::<B, true>(packets, columns, lane.index(), context);
    }
    for lane in judged.without(v6).lanes() {
        changed::<B, false>(packets, columns, lane.index(), context);
    }
    for lane in judged.and(v6).lanes() {
        changed::<B, true>(packets, columns, lane.index(), context);
    }
    if context.snapshot.classes {
        police::classes(packets, columns, going, context.snapshot);
    }
}

/// A packet about which nothing was decided.
#[inline(always)]
fn unchanged<B: PacketBuf, const V6: bool>(
    packets: &mut [B],
    columns: &mut Columns,
    lane: usize,
    context: &Context<'_>,
) {
    let Some(packet) = packets.get_mut(lane) else { return };
    let (head, egress, key) = (&columns.head[lane], &columns.egress[lane], &columns.key[lane]);
    let received = &mut columns.received[lane];
    let remember = |packet: &[u8], l3| *received = Received::of(packet, l3, head, key);
    let mark = police::received(head, context.snapshot);
    columns.fate[lane] = send::<B, V6>(packet, head, egress, mark, context, remember, |_, _| Change::default());
}

/// A packet with a mark or another address.
#[inline(always)]
fn changed<B: PacketBuf, const V6: bool>(packets: &mut [B], columns: &mut Columns, lane: usize, context: &Context<'_>) {
    let Some(packet) = packets.get_mut(lane) else { return };
    let (head, egress, key) = (&columns.head[lane], &columns.egress[lane], &columns.key[lane]);
    let Verdict { mark, rewrite, .. } = columns.verdict[lane];
    if rewrite.is_tunnel() {
        columns.fate[lane] = tunnel(packet, columns, lane, context);
        return;
    }
    let to = (columns.target[lane], columns.port[lane]);
    let from = (columns.source[lane], columns.source_port[lane]);
    let received = &mut columns.received[lane];
    let remember = |packet: &[u8], l3| *received = Received::of(packet, l3, head, key);
    columns.fate[lane] = send::<B, V6>(packet, head, egress, mark, context, remember, |frame, l3| {
        if rewrite == Rewrite::None {
            return Change::default();
        }
        let l4 = usize::from(head.l4 - u16::from(head.l3)) + l3;
        if rewrite == Rewrite::Both {
            return translate_both::<V6>(frame, (l3, l4), head, key, [to, from]);
        }
        translate::<V6>(frame, (l3, l4), head, key, rewrite, to)
    });
}

/// Layer-2 header, `translate` (given the frame and the offset of its L3 header), age and mark. A packet whose next hop is not known is
/// given to `remember` before, with that offset: should it wait in vain, its sender is told about the packet that it sent.
#[inline(always)]
fn send<B: PacketBuf, const V6: bool>(
    packet: &mut B,
    head: &Head,
    egress: &Egress,
    mark: u8,
    context: &Context<'_>,
    remember: impl FnOnce(&[u8], usize),
    translate: impl FnOnce(&mut [u8], usize) -> Change,
) -> Fate {
    let Some(out) = context.snapshot.interface(egress.interface) else { return Fate::Drop(DropReason::TxPortGone) };
    let Some(l3) = make_room(packet, head.l3, out.vlan) else { return Fate::Drop(DropReason::NoHeadroom) };
    let station = context.neighbours.lookup_word(&out.neighbour(egress.next_hop), egress.neighbour_hash);
    let source = context.facts.mac_word(out.port);
    let frame = packet.data_mut();
    if station.is_none() {
        remember(frame.get(l3..).unwrap_or(&[]), l3);
    }
    layer2(frame, V6, out.vlan, station.unwrap_or_default(), source);
    let change = translate(frame, l3);
    age_and_mark::<V6>(frame.get_mut(l3..).unwrap_or(&mut []), head, mark, change);
    if station.is_some() { Fate::Transmit } else { Fate::Punt(PuntReason::Neighbour) }
}

/// A packet for a backend behind a tunnel.
#[inline(never)]
fn tunnel<B: PacketBuf>(packet: &mut B, columns: &mut Columns, lane: usize, context: &Context<'_>) -> Fate {
    let egress = &columns.egress[lane];
    let Some(out) = context.snapshot.interface(egress.interface) else { return Fate::Drop(DropReason::TxPortGone) };
    let to = context.neighbours.lookup_word(&out.neighbour(egress.next_hop), egress.neighbour_hash);
    if to.is_none() {
        let (head, key) = (&columns.head[lane], &columns.key[lane]);
        let inside = encapsulate::inside(columns, lane, out);
        columns.received[lane] =
            Received::of(packet.data().get(usize::from(head.l3)..).unwrap_or(&[]), inside, head, key);
    }
    let station = Station { to: to.unwrap_or_default(), from: context.facts.mac_word(out.port) };
    match encapsulate::process(packet, columns, lane, out, &station) {
        None => Fate::Drop(DropReason::NoHeadroom),
        Some(()) if to.is_some() => Fate::Transmit,
        Some(()) => Fate::Punt(PuntReason::Neighbour),
    }
}

/// TTL, DSCP and the IPv4 header's checksum, under which `change` has happened already.
#[inline(always)]
pub fn age_and_mark<const V6: bool>(packet: &mut [u8], head: &Head, mark: u8, mut change: Change) {
    let Some(header) = packet.first_chunk_mut::<20>() else { return };
    header[if V6 { 7 } else { 8 }] = head.ttl - 1;
    if mark != NO_MARK {
        // DSCP: the upper six bits of IPv4's second octet; bits 4 to 9 of IPv6.
        let (bits, shift) = if V6 { (0x0fc0, 6) } else { (0x00fc, 2) };
        let old = u16::from_be_bytes([header[0], header[1]]);
        // Congestion experienced is both bits behind the codepoint.
        let ecn = if mark & CE == 0 { 0 } else { 3 << (shift - 2) };
        let new = old & !bits | u16::from(mark & (CE - 1)) << shift | ecn;
        [header[0], header[1]] = new.to_be_bytes();
        change.word(old, new);
    }
    if !V6 {
        change.join(Change::ONE_HOP);
        let old = u16::from_be_bytes([header[10], header[11]]);
        [header[10], header[11]] = change.apply(old).to_be_bytes();
    }
}

/// Both ends, one after the other (full NAT).
#[inline(never)]
fn translate_both<const V6: bool>(
    frame: &mut [u8],
    offsets: (usize, usize),
    head: &Head,
    key: &FlowKey,
    [to, from]: [(u128, u16); 2],
) -> Change {
    let mut change = translate::<V6>(frame, offsets, head, key, Rewrite::Destination, to);
    change.join(translate::<V6>(frame, offsets, head, key, Rewrite::Source, from));
    change
}

/// Address, port and L4 checksum; returns what changed under the IPv4 header's checksum.
#[inline(always)]
fn translate<const V6: bool>(
    frame: &mut [u8],
    (l3, l4): (usize, usize),
    head: &Head,
    key: &FlowKey,
    which: Rewrite,
    (target, port): (u128, u16),
) -> Change {
    let source = which == Rewrite::Source;
    let (old, old_port, at) = if source { (key.src, key.sport, l4) } else { (key.dst, key.dport, l4 + 2) };
    let (mut header, mut transport) = (Change::default(), Change::default());
    header.address(old, target);
    if V6 {
        put(frame, l3 + if source { 8 } else { 24 }, &target.to_be_bytes());
    } else {
        put(frame, l3 + if source { 12 } else { 16 }, &(target as u32).to_be_bytes());
    }
    if matches!(head.protocol, TCP | UDP) {
        transport.word(old_port, port);
        put(frame, at, &port.to_be_bytes());
    }
    // ICMP over IPv4 has no pseudo header.
    if V6 || head.protocol != ICMP {
        transport.join(header);
    }
    layer4_checksum(frame, l4, head, transport);
    header
}

/// RFC 1624, and for UDP: no checksum stays none (RFC 768), a computed zero is sent as all ones.
#[inline]
fn layer4_checksum(frame: &mut [u8], l4: usize, head: &Head, change: Change) {
    let at = l4
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

/// Makes the L2 header as long as the egress interface's; returns the offset of the L3 header, `None` when the headroom is used up.
#[inline]
pub fn make_room<B: PacketBuf>(packet: &mut B, l3: u8, vlan: u16) -> Option<usize> {
    let (old, new) = (usize::from(l3), if vlan == UNTAGGED { ETHERNET } else { ETHERNET + TAG });
    if new > old {
        packet.prepend(new - old).then_some(new)
    } else {
        if new < old {
            packet.trim_front(old - new);
        }
        Some(new)
    }
}

/// Writes the egress interface's L2 header; addresses as words, see [`PortFacts::mac_word`].
#[inline]
pub fn layer2(frame: &mut [u8], v6: bool, vlan: u16, to: u64, from: u64) {
    let ethertype = u128::from(if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 });
    let addresses = u128::from(to) << 80 | u128::from(from) << 32;
    if vlan == UNTAGGED {
        if let Some(header) = frame.first_chunk_mut::<ETHERNET>() {
            let octets = (addresses | ethertype << 16).to_be_bytes();
            header.copy_from_slice(&octets[..ETHERNET]);
        }
    } else if let Some(header) = frame.first_chunk_mut::<{ ETHERNET + TAG }>() {
        let octets = (addresses | u128::from(ETHERTYPE_VLAN) << 16 | u128::from(vlan)).to_be_bytes();
        header[..16].copy_from_slice(&octets);
        header[16..].copy_from_slice(&(ethertype as u16).to_be_bytes());
    }
}
