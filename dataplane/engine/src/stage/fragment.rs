//! fragment: gives later fragments what their first one says, or keeps them until it comes (`BEHAVIOUR.md` 4a).
//!
//! Reads `head`, `key` of fragments. Writes what later ones lack of both. Ends lanes that are malformed, attack, belong to another worker
//! or wait. Bursts without fragments never come here.

use arrayvec::ArrayVec;

use crate::burst::{BURST, Burst, Fate, Lane, Mask};
use crate::flow::FlowKey;
use crate::hash::hash;
use crate::io::PacketBuf;
use crate::ledger::{Backend, Ledger};
use crate::reason::DropReason;
use crate::snapshot::Snapshot;
use crate::stage::parse::Head;
use crate::table::fragments::{Fragments, Judged, Key, Known, Piece};
use crate::wire::{TCP, be16, be32};

/// Seed of the choice of the worker that sees all fragments of a packet ("Fragment").
const OWNER_SEED: u64 = 0x4672_6167_6D65_6E74;

/// Octets of a TCP header: no honest later fragment begins inside of them (RFC 1858, 3128).
const TCP_HEADER: u16 = 20;

/// How a burst came to this worker, and so what was done for it before.
#[derive(Clone, Copy, Debug)]
pub enum Arrival<'a> {
    /// From a device.
    Device,
    /// From a worker that does not own its sessions.
    Session,
    /// From a worker that does not reassemble it virtually: fragments only.
    Reassembly,
    /// From the worker that did, by lane: fragments only.
    Resolved(&'a [Known]),
    /// From this worker's hold, by lane: fragments only.
    Released(&'a [Known]),
}

impl Arrival<'_> {
    /// Whether another worker may own its sessions.
    #[inline]
    pub const fn may_move(&self) -> bool {
        !matches!(self, Self::Session | Self::Resolved(_))
    }

    /// Whether another worker had received it.
    #[inline]
    pub const fn is_handed_over(&self) -> bool {
        !matches!(self, Self::Device | Self::Released(_))
    }
}

/// Runs the stage for worker `me` of `workers`.
#[cold]
pub fn process<K: Backend>(
    burst: &mut Burst<K::Buf>,
    snapshot: &Snapshot,
    arrival: Arrival<'_>,
    fragments: &mut Fragments<K::Buf>,
    (me, workers): (usize, usize),
    now: u64,
    ledger: &mut Ledger<K>,
) {
    let lanes = burst.fragments.and(burst.active);
    if let Arrival::Resolved(known) | Arrival::Released(known) = arrival {
        for (lane, index) in lanes.lanes().map(|lane| (lane, lane.index())) {
            if let Some(&known) = known.get(index) {
                fill(burst, lane, known);
            }
        }
        return;
    }
    if snapshot.only_routes() {
        return;
    }
    let mut gone = |packet: K::Buf, reason| ledger.drop(packet, reason);
    fragments.expire(now, &mut gone);
    let (mut done, mut waiting) = (Mask::default(), ArrayVec::<Lane, BURST>::new());
    while let Some(lane) = burst.fragments.and(burst.active).without(done).next() {
        let index = lane.index();
        let (head, key) = (burst.columns.head[index], burst.columns.key[index]);
        let Some(packet) = burst.packet(lane) else { return };
        let table = snapshot.table_of(head.interface);
        let piece = match piece(packet.data().get(usize::from(head.l3)..).unwrap_or(&[]), &head, &key, table) {
            Ok(piece) => piece,
            Err(reason) => {
                burst.drop(lane, reason);
                continue;
            }
        };
        if workers > 1 && !matches!(arrival, Arrival::Reassembly) {
            let owner = owner(&piece.key, workers);
            if owner != me {
                burst.settle(lane, Fate::Reassemble(owner as u8));
                continue;
            }
        }
        let first = (!head.later_fragment).then(|| said_by(&head, &key));
        match fragments.arrive(now, &piece, first, &mut gone) {
            Judged::Pass(known) => {
                fill(burst, lane, known);
                done.insert(lane);
            }
            Judged::Drop(reason) => burst.drop(lane, reason),
            Judged::Wait(place) => {
                // Another lane stands here now.
                let port = burst.port;
                if let Some(packet) = burst.take(lane) {
                    fragments.hold(place, packet, port, &mut gone);
                    waiting.push(lane);
                }
            }
        }
    }
    if let Some(lens) = ledger.lens_mut() {
        // Those that wait are looked at when they go on.
        waiting.into_iter().for_each(|lane| lens.close(lane));
    }
}

/// The worker that sees all fragments of a packet.
pub fn owner(key: &Key, workers: usize) -> usize {
    (key.hash(hash(OWNER_SEED, &[])) % workers.max(1) as u64) as usize
}

/// What a first fragment says.
pub fn said_by(head: &Head, key: &FlowKey) -> Known {
    // TCP flags are told once, by the fragment that has them.
    let kind = if head.is_icmp() { head.flags_or_type } else { 0 };
    Known { protocol: head.protocol, kind, sport: key.sport, dport: key.dport }
}

/// A later fragment learns what the first one said.
fn fill<B: PacketBuf>(burst: &mut Burst<B>, lane: Lane, known: Known) {
    let (head, key) = (&mut burst.columns.head[lane.index()], &mut burst.columns.key[lane.index()]);
    if head.later_fragment {
        (head.blind, head.protocol, head.flags_or_type) = (false, known.protocol, known.kind);
        (key.protocol, key.sport, key.dport) = (known.protocol, known.sport, known.dport);
    }
}

/// The fragment that a packet is. Its headers were found sound by parse.
fn piece(packet: &[u8], head: &Head, key: &FlowKey, table: u32) -> Result<Piece, DropReason> {
    let fields = if head.v6 { v6_fields(packet) } else { v4_fields(packet) };
    let len = usize::from(head.l3_len).saturating_sub(fields.data);
    let end = usize::from(fields.offset) + len;
    if len == 0 || (fields.more && !len.is_multiple_of(8)) || end > usize::from(u16::MAX) {
        return Err(DropReason::FragmentMalformed);
    }
    if fields.protocol == TCP && (1..TCP_HEADER).contains(&fields.offset) {
        return Err(DropReason::FragmentTiny);
    }
    let protocol = if head.v6 { 0 } else { fields.protocol };
    let key = Key { src: key.src, dst: key.dst, id: fields.id, table, protocol };
    Ok(Piece { key, start: fields.offset, end: end as u16, more: fields.more })
}

/// What the fragment's header says, and where the data begins.
struct Fields {
    offset: u16,
    more: bool,
    id: u32,
    protocol: u8,
    data: usize,
}

fn v4_fields(packet: &[u8]) -> Fields {
    let word = be16(packet, 6);
    let octet = |at| packet.get(at).copied().unwrap_or(0);
    Fields {
        offset: (word & 0x1fff) << 3,
        more: word & 0x2000 != 0,
        id: u32::from(be16(packet, 4)),
        protocol: octet(9),
        data: usize::from(octet(0) & 15) * 4,
    }
}

/// The first fragment header that is none of an atomic fragment.
fn v6_fields(packet: &[u8]) -> Fields {
    let octet = |at: usize| packet.get(at).copied().unwrap_or(0);
    let (mut next, mut at) = (octet(6), 40);
    // Parse has walked the same chain, which ends in a fragment header.
    while at < packet.len() {
        let word = be16(packet, at + 2);
        if next == 44 && word & 0xfff9 != 0 {
            let (offset, more) = (word & 0xfff8, word & 1 != 0);
            return Fields { offset, more, id: be32(packet, at + 4), protocol: octet(at), data: at + 8 };
        }
        let len = if next == 44 { 8 } else { (usize::from(octet(at + 1)) + 1) * 8 };
        next = octet(at);
        at += len;
    }
    Fields { offset: 0, more: false, id: 0, protocol: 0, data: packet.len() }
}
