//! related: ICMP errors about packets that were translated here (`BEHAVIOUR.md` 5, "ICMP errors"; RFC 5508 s4, RFC 7690).
//!
//! Reads the frame, `head`, `key`. Writes `verdict`, `target`, `port`, `source`, `source_port`; translates the quote inside the error. Part of balance, which calls it in
//! lane order for the few lanes of [`Burst::errors`].

use crate::burst::{Burst, Fate, Lane, NONE, Rewrite, Verdict};
use crate::class::Choice;
use crate::flow::{Addr, FlowKey, v4};
use crate::io::PacketBuf;
use crate::reason::DropReason;
use crate::stage::balance::{Applied, Context, both_ends, current_decision};
use crate::stage::parse::{Head, quoted_chain};
use crate::table::sessions::Direction;
use crate::tables::ServiceMode;
use crate::wire::{Change, ICMP, ICMPV6, TCP, UDP, be16, be32, be128, checksum_holds, put};

/// Octets of an ICMP error before the quote.
const ERROR_HEADER: usize = 8;
/// Octets of a quote's upper layer that must be there: the ports of all protocols, the checksum of UDP and ICMP.
const LEAST_UPPER: usize = 8;

/// The packet that an error is about, as far as it is quoted.
struct Quote {
    /// Its tuple reversed: the direction in which the error travels.
    key: FlowKey,
    /// Offsets in the frame.
    l3: usize,
    l4: usize,
}

/// What the error becomes.
struct Translation {
    rewrite: Rewrite,
    /// What its destination becomes, and the quote's source, where the rewriting changes these.
    to: (Addr, u16),
    /// What its source becomes, and the quote's destination.
    from: (Addr, u16),
    mark: u8,
    class: Choice,
}

/// The tuple whose session a packet that is an ICMP error is about.
pub fn quoted_tuple(frame: &[u8], head: &Head, key: &FlowKey) -> Option<FlowKey> {
    quote(frame, head, key).map(|quote| quote.key)
}

/// Takes care of an error in its lane; false when it is a packet like others.
#[cold]
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, lane: Lane, context: &mut Context<'_>) -> bool {
    let index = lane.index();
    let (head, key) = (burst.columns.head[index], burst.columns.key[index]);
    let Some(quote) = burst.packet(lane).and_then(|packet| quote(packet.data(), &head, &key)) else { return false };
    let translation = match translation(burst, lane, &quote, context) {
        Ok(None) => return false,
        Ok(Some(translation)) => translation,
        Err(fate) => {
            burst.settle(lane, fate);
            return true;
        }
    };
    let Some((packet, columns)) = burst.packet_and_columns(lane) else { return false };
    let Translation { rewrite, to, from, mark, class } = translation;
    // The quoted packet travelled against the error: what is the error's destination is its source.
    if matches!(rewrite, Rewrite::Destination | Rewrite::Both) {
        translate(packet.data_mut(), &head, &quote, End::Source, to);
    }
    if matches!(rewrite, Rewrite::Source | Rewrite::Both) {
        translate(packet.data_mut(), &head, &quote, End::Destination, from);
    }
    columns.verdict[index] = Verdict { policer: NONE, mark, rewrite, colour: None, class };
    (columns.target[index], columns.port[index]) = to;
    (columns.source[index], columns.source_port[index]) = from;
    burst.judged.insert(lane);
    context.stats.icmp_errors_translated.add(1);
    true
}

/// What becomes of an error about a session; nothing is said about others.
fn translation<B: PacketBuf>(
    burst: &mut Burst<B>,
    lane: Lane,
    quote: &Quote,
    context: &mut Context<'_>,
) -> Result<Option<Translation>, Fate> {
    let hit = context.sessions.find(&quote.key, context.sessions.hash(&quote.key), context.now);
    if !hit.is_some() {
        return Ok(None);
    }
    let index = lane.index();
    let (head, key) = (burst.columns.head[index], burst.columns.key[index]);
    let frame = burst.packet(lane).map_or(&[][..], |packet| packet.data());
    if !is_sound(frame, &head, &key, quote) {
        return Err(Fate::Drop(DropReason::L4Malformed));
    }
    let decision = match current_decision(hit, &mut burst.columns, index, context) {
        Ok(decision) => decision,
        Err(Applied::Refused(fate)) => return Err(fate),
        Err(Applied::Gone | Applied::Done) => return Ok(None),
    };
    let direction = hit.direction();
    let rewrite = match (decision.mode(), direction) {
        (ServiceMode::Nat, Direction::Reverse) => Rewrite::Source,
        (mode, _) => mode.into(),
    };
    let ends = match rewrite {
        Rewrite::Both => both_ends(context.sessions, hit),
        _ => context.sessions.get(hit).map(|session| [session.target(direction); 2]),
    };
    Ok(ends.map(|[to, from]| Translation { rewrite, to, from, mark: decision.mark, class: decision.class() }))
}

/// RFC 5508 REQ-3: the checksums of the message and of the quoted IPv4 header.
fn is_sound(frame: &[u8], head: &Head, key: &FlowKey, quote: &Quote) -> bool {
    let message = frame.get(usize::from(head.l4)..head.end()).unwrap_or(&[]);
    let header = frame.get(quote.l3..quote.l4).unwrap_or(&[]);
    let pseudo = head.v6.then_some((key.src, key.dst, ICMPV6));
    checksum_holds(message, pseudo) && (head.v6 || checksum_holds(header, None))
}

fn quote(frame: &[u8], head: &Head, key: &FlowKey) -> Option<Quote> {
    let l3 = usize::from(head.l4) + ERROR_HEADER;
    let packet = frame.get(l3..head.end())?;
    let (src, dst, protocol, header) = if head.v6 {
        let header = packet.first_chunk::<40>().filter(|header| header[0] >> 4 == 6)?;
        let (protocol, len) = quoted_chain(packet)?;
        (be128(header, 8), be128(header, 24), protocol, len)
    } else {
        let header = packet.first_chunk::<20>().filter(|header| header[0] >> 4 == 4 && header[0] & 15 >= 5)?;
        // A later fragment has no ports.
        if be16(header, 6) & 0x1fff != 0 {
            return None;
        }
        (v4(be32(header, 12)), v4(be32(header, 16)), header[9], usize::from(header[0] & 15) * 4)
    };
    let upper = packet.get(header..)?.first_chunk::<LEAST_UPPER>()?;
    let (request, reply) = if head.v6 { (128, 129) } else { (8, 0) };
    let (sport, dport) = match protocol {
        TCP | UDP => (be16(upper, 0), be16(upper, 2)),
        protocol if protocol != if head.v6 { ICMPV6 } else { ICMP } => return None,
        _ if upper[0] == request => (be16(upper, 4), 0),
        _ if upper[0] == reply => (0, be16(upper, 4)),
        _ => return None,
    };
    (src == key.dst).then(|| {
        let quoted = FlowKey { src, dst, protocol, sport, dport };
        Quote { key: quoted.reversed(), l3, l4: l3 + header }
    })
}

/// An end of the quoted packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

/// Address, port and checksums of the quote, and the message's checksum over them. The error's own addresses follow in finish.
fn translate(frame: &mut [u8], head: &Head, quote: &Quote, end: End, (address, port): (Addr, u16)) {
    let source = end == End::Source;
    let (old, old_port) = if source { (quote.key.dst, quote.key.dport) } else { (quote.key.src, quote.key.sport) };
    let (mut inside, mut message) = (Change::default(), Change::default());
    inside.address(old, address);
    message.join(inside);
    if head.v6 {
        put(frame, quote.l3 + if source { 8 } else { 24 }, &address.to_be_bytes());
    } else {
        put(frame, quote.l3 + if source { 12 } else { 16 }, &(address as u32).to_be_bytes());
        update(frame, quote.l3 + 10, inside, &mut message, |sum| sum);
    }
    let protocol = quote.key.protocol;
    if matches!(protocol, TCP | UDP) {
        inside.word(old_port, port);
        message.word(old_port, port);
        put(frame, quote.l4 + if source { 0 } else { 2 }, &port.to_be_bytes());
    }
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        _ => 2,
    };
    let at = quote.l4 + at;
    // ICMP over IPv4 sums no addresses; UDP over IPv4 may go without a sum (RFC 768); of TCP the sum may be cut off.
    let none = (protocol == UDP && !head.v6 && be16(frame, at) == 0) || protocol == ICMP || at + 2 > head.end();
    if !none {
        let never_zero = |sum| if protocol == UDP && sum == 0 { 0xffff } else { sum };
        update(frame, at, inside, &mut message, never_zero);
    }
    update(frame, usize::from(head.l4) + 2, message, &mut Change::default(), |sum| sum);
}

/// Brings the checksum at `at` up to date, and tells the one that covers it.
fn update(frame: &mut [u8], at: usize, change: Change, outer: &mut Change, form: impl FnOnce(u16) -> u16) {
    let old = be16(frame, at);
    let new = form(change.apply(old));
    put(frame, at, &new.to_be_bytes());
    outer.word(old, new);
}

/// Whether errors of this kind are about a session: not redirects, which are for the link, nor source quenches, which nobody sends any
/// more (RFC 6633).
pub fn may_be_about_session(head: &Head) -> bool {
    let kind = head.flags_or_type;
    let quotes = if head.v6 { kind < 128 } else { matches!(kind, 3 | 11 | 12) };
    quotes && head.is_icmp() && head.has_l4() && !head.fragment
}
