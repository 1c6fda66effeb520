//! police: what policers say about packets that go on (`BEHAVIOUR.md` 9.3), and marks that depend on the packet. A part of finish.
//!
//! Reads the frame, `head`, `key`, `verdict`. Writes `verdict`, `class`. Ends lanes that a policer drops.

use crate::burst::{CE, Columns, Fate, Mask, NO_MARK, NONE, Verdict};
use crate::io::PacketBuf;
use crate::ports::UNTAGGED;
use crate::reason::DropReason;
use crate::snapshot::Snapshot;
use crate::stage::finish::Context;
use crate::stage::parse::Head;
use crate::stage::rule;
use crate::table::policer::{Colour, Metered, PolicerTable};
use crate::tables::PolicerAction;
use crate::wire::{ETHERNET, TAG};

/// ECN field of packets that are not ECN-capable (RFC 3168 s5).
const NOT_ECT: u8 = 0;

/// The policers of receiving interfaces, and of rules and services, packet by packet: an interface's policer may be a service's, too.
/// `going` are the lanes that go on. Those that get a mark become `judged`.
#[cold]
#[inline(never)]
pub fn interfaces<B: PacketBuf>(
    packets: &[B],
    columns: &mut Columns,
    going: &mut Mask,
    judged: &mut Mask,
    context: &mut Context<'_>,
) {
    for lane in going.lanes() {
        let (index, packet) = (lane.index(), packets.get(lane.index()));
        let mark = columns.verdict[index].mark;
        let policer = context.snapshot.interface(columns.head[index].interface).map_or(NONE, |out| out.policer);
        let passes = match context.snapshot.policers.get(policer as usize) {
            Some(table) => meter(table, packet, columns, index, context),
            None => true,
        };
        let verdict = &mut columns.verdict[index];
        if !passes {
            verdict.policer = policer;
        } else if verdict.policer == NONE {
            // Whoever looks is shown what the policer of rule or service says, if there is one.
            verdict.colour = None;
        }
        let passes = passes && (columns.verdict[index].policer == NONE || flow(packet, columns, index, context));
        let verdict = &columns.verdict[index];
        judged.insert_if(lane, (verdict.mark != mark) | verdict.class.is_experienced());
        if !passes {
            going.remove(lane);
        }
    }
}

/// The policer of rule or service. False: dropped.
#[inline]
pub fn flow<B: PacketBuf>(packet: Option<&B>, columns: &mut Columns, lane: usize, context: &mut Context<'_>) -> bool {
    match context.snapshot.policers.get(columns.verdict[lane].policer as usize) {
        Some(table) => meter(table, packet, columns, lane, context),
        None => true,
    }
}

/// Meters the packet and does what its colour asks for. False: dropped.
#[inline]
fn meter<B: PacketBuf>(
    table: &PolicerTable,
    packet: Option<&B>,
    columns: &mut Columns,
    lane: usize,
    context: &mut Context<'_>,
) -> bool {
    let (head, verdict) = (&columns.head[lane], &mut columns.verdict[lane]);
    let octets = usize::from(head.l3_len);
    let colour = if table.plain {
        context.policers.meter_plain(table, context.generation, context.now, octets)
    } else {
        let pre = Colour::of_dscp(rule::dscp(head, packet));
        let metered = Metered { source: columns.key[lane].src, octets, pre };
        context.policers.meter(table, context.generation, context.now, &metered)
    };
    verdict.colour = Some(colour);
    let object = context.stats.object(table.counter);
    if let Some(object) = object {
        object.matched.count(octets);
    }
    if colour != Colour::Green
        && let Some(worse) = context.stats.object(table.worse[usize::from(colour == Colour::Red)])
    {
        worse.matched.count(octets);
    }
    match table.actions[colour as usize] {
        PolicerAction::Pass => true,
        PolicerAction::Mark(mark) => {
            verdict.mark = mark;
            true
        }
        // Only ECN-capable packets can tell (RFC 3168 s5).
        PolicerAction::Ce => {
            if rule::tos(head, packet) & 3 != NOT_ECT {
                verdict.class.experience();
            }
            true
        }
        PolicerAction::Class(class) => {
            verdict.class.lower_to(class);
            true
        }
        PolicerAction::Drop => {
            if let Some(object) = object {
                object.dropped.add(1);
            }
            columns.fate[lane] = Fate::Drop(DropReason::PolicerDrop);
            false
        }
    }
}

/// The mark with which a packet leaves that policers let congestion be experienced by.
#[cold]
pub fn experienced<B: PacketBuf>(packet: Option<&B>, head: &Head, mark: u8) -> u8 {
    CE | if mark == NO_MARK { rule::dscp(head, packet) } else { mark }
}

/// The codepoint of a packet with a mark that is none yet: nothing marked it, or what did wants to know what it came with.
#[inline]
pub fn resolve<B: PacketBuf>(packet: Option<&B>, head: &Head, verdict: Verdict, snapshot: &Snapshot) -> u8 {
    let Verdict { mark, class, .. } = verdict;
    if mark == NO_MARK {
        return received(head, snapshot);
    }
    snapshot.maps.apply(mark, rule::dscp(head, packet), class)
}

/// The codepoint of a packet that nothing marked: its own where the receiving interface is trusted, else 0.
#[inline]
pub fn received(head: &Head, snapshot: &Snapshot) -> u8 {
    if snapshot.trusts_all || snapshot.interface(head.interface).is_none_or(|i| i.trust_dscp) { NO_MARK } else { 0 }
}

/// The classes of packets that are finished, by the codepoints they leave with.
#[cold]
#[inline(never)]
pub fn classes<B: PacketBuf>(packets: &[B], columns: &mut Columns, finished: Mask, snapshot: &Snapshot) {
    for lane in finished.lanes() {
        let index = lane.index();
        let out = snapshot.interface(columns.egress[index].interface);
        let l3 = if out.is_none_or(|out| out.vlan == UNTAGGED) { ETHERNET } else { ETHERNET + TAG };
        let dscp = match packets.get(index).and_then(|packet| packet.data().get(l3..l3 + 2)) {
            Some(&[first, second]) if first >> 4 == 6 => (first << 4 | second >> 4) >> 2,
            Some(&[_, tos]) => tos >> 2,
            _ => 0,
        };
        columns.class[index] = columns.verdict[index].class.class(dscp);
    }
}
