//! Section 4a: packets in fragments, virtually reassembled; and fragments made of packets that are too long (RFC 791 s3.2).

use std::collections::VecDeque;
use std::net::IpAddr;

use super::checksum;
use super::layer4::{Fragment, Ip, TCP, Told};
use super::outcome::{Fate, Outcome};
use crate::reason::DropReason;

/// RFC 6146 s4: FRAGMENT_MIN.
const LIFETIME: u64 = 2_000_000_000;
/// Fragments of a packet that are followed.
const MAX_FRAGMENTS: usize = 64;
/// Fragments that wait.
const MAX_HELD: usize = 512;

/// What fragments of a packet have in common: source, destination, identification, IPv4's protocol, routing table.
type Key = (IpAddr, IpAddr, u32, Option<u8>, u32);

/// A frame and the port it came in on.
pub(super) type Held = (usize, Vec<u8>);

#[derive(Clone, Debug)]
enum State {
    Waiting(Vec<Held>),
    Known(Told),
    Condemned(DropReason),
}

#[derive(Clone, Debug)]
struct Packet {
    key: Key,
    since: u64,
    state: State,
    /// Start and end of each fragment, and whether more follow.
    seen: Vec<(usize, usize, bool)>,
}

impl Packet {
    fn end(&self) -> Option<usize> {
        self.seen.iter().find(|piece| !piece.2).map(|piece| piece.1)
    }

    fn is_complete(&self) -> bool {
        let octets: usize = self.seen.iter().map(|(start, end, _)| end - start).sum();
        self.end() == Some(octets)
    }

    /// Why a fragment does not fit to the others.
    fn objection(&self, piece: (usize, usize, bool)) -> Option<DropReason> {
        let (start, end, more) = piece;
        if self.seen.contains(&piece) {
            return Some(DropReason::FragmentDuplicate);
        }
        let overlaps = self.seen.iter().any(|&(from, to, _)| start < to && from < end);
        let contradicts = match self.end() {
            Some(last) => !more || end > last,
            None => !more && self.seen.iter().any(|&(_, to, _)| to > end),
        };
        if overlaps || contradicts {
            return Some(DropReason::FragmentOverlap);
        }
        (self.seen.len() == MAX_FRAGMENTS).then_some(DropReason::FragmentTooMany)
    }
}

/// All packets in fragments, and what goes on because its first fragment came.
#[derive(Clone, Debug, Default)]
pub(super) struct Fragments {
    all: Vec<Packet>,
    pub ready: VecDeque<(Held, Told)>,
}

/// What becomes of a fragment.
pub(super) enum Step {
    Pass(Told),
    Wait,
    Drop(DropReason),
}

impl Fragments {
    /// Fragments that wait.
    pub fn held(&self) -> usize {
        self.all.iter().map(|packet| if let State::Waiting(held) = &packet.state { held.len() } else { 0 }).sum()
    }

    /// Forgets packets whose time is up.
    pub fn expire(&mut self, now: u64, out: &mut Outcome) {
        self.all.retain_mut(|packet| {
            let lives = now.saturating_sub(packet.since) <= LIFETIME;
            if !lives {
                give_up(packet, DropReason::FragmentFirstMissing, out);
            }
            lives
        });
    }

    /// A fragment that came in a frame, from an interface of this routing table.
    pub fn arrive(&mut self, now: u64, ip: &Ip, table: u32, frame: &Held, out: &mut Outcome) -> Step {
        let Some(piece) = ip.piece else { return Step::Drop(DropReason::FragmentMalformed) };
        let end = piece.offset + piece.len;
        if piece.len == 0 || piece.more && piece.len % 8 != 0 || end > 65535 {
            return Step::Drop(DropReason::FragmentMalformed);
        }
        if piece.next == TCP && piece.offset > 0 && piece.offset < 20 {
            return Step::Drop(DropReason::FragmentTiny);
        }
        let key = (ip.src, ip.dst, piece.id, ip.src.is_ipv4().then_some(piece.next), table);
        let index = self.all.iter().position(|packet| packet.key == key).unwrap_or_else(|| {
            self.all.push(Packet { key, since: now, state: State::Waiting(Vec::new()), seen: Vec::new() });
            self.all.len() - 1
        });
        let packet = &mut self.all[index];
        if let State::Condemned(reason) = packet.state {
            return Step::Drop(reason);
        }
        let range = (piece.offset, end, piece.more);
        if let Some(reason) = packet.objection(range) {
            if reason != DropReason::FragmentDuplicate {
                give_up(packet, reason, out);
                (packet.state, packet.since) = (State::Condemned(reason), now);
            }
            return Step::Drop(reason);
        }
        packet.seen.push(range);
        if ip.fragment == Fragment::First {
            let told = ip.tell();
            if let State::Waiting(held) = std::mem::replace(&mut packet.state, State::Known(told)) {
                self.ready.extend(held.into_iter().map(|held| (held, told)));
            }
            packet.since = now;
        }
        if let State::Known(told) = packet.state {
            if packet.is_complete() {
                self.all.remove(index);
            }
            return Step::Pass(told);
        }
        self.hold(key, frame, out)
    }

    fn hold(&mut self, key: Key, frame: &Held, out: &mut Outcome) -> Step {
        let full = DropReason::FragmentHoldFull;
        if self.held() == MAX_HELD
            && let Some(oldest) = self.all.iter().position(|packet| matches!(packet.state, State::Waiting(_)))
        {
            let mut oldest = self.all.remove(oldest);
            give_up(&mut oldest, full, out);
        }
        match self.all.iter_mut().find(|packet| packet.key == key).map(|packet| &mut packet.state) {
            Some(State::Waiting(held)) => {
                held.push(frame.clone());
                Step::Wait
            }
            _ => Step::Drop(full),
        }
    }
}

/// What waits ends.
fn give_up(packet: &mut Packet, reason: DropReason, out: &mut Outcome) {
    if let State::Waiting(held) = &mut packet.state {
        held.drain(..).for_each(|_| out.count(Fate::Dropped(reason)));
    }
}

/// Cuts an IPv4 packet into as few fragments as its way allows.
pub(super) fn cut(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let (header, data) = packet.split_at(usize::from(packet[0] & 15) * 4);
    let flags = u16::from_be_bytes([header[6], header[7]]);
    let (more_behind, first_offset) = (flags & 0x2000 != 0, flags & 0x1fff);
    let mut fragments = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let mut head = header[..20].to_vec();
        head.extend(options(&header[20..], at == 0));
        let room = mtu - head.len();
        let len = if data.len() - at <= room { data.len() - at } else { room / 8 * 8 };
        let more = more_behind || at + len < data.len();
        head[0] = 0x40 | (head.len() / 4) as u8;
        let total = (head.len() + len) as u16;
        head[2..4].copy_from_slice(&total.to_be_bytes());
        let word = flags & 0xc000 | u16::from(more) << 13 | (first_offset + (at / 8) as u16);
        head[6..8].copy_from_slice(&word.to_be_bytes());
        head[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum::compute(&head);
        head[10..12].copy_from_slice(&sum.to_be_bytes());
        head.extend(&data[at..at + len]);
        fragments.push(head);
        at += len;
    }
    fragments
}

/// The options of the first fragment, or those with the copied flag, filled up to a multiple of four octets.
fn options(list: &[u8], first: bool) -> Vec<u8> {
    if first {
        return list.to_vec();
    }
    let mut copied = Vec::new();
    let mut at = 0;
    while at < list.len() && list[at] != 0 {
        let len = if list[at] == 1 { 1 } else { usize::from(list[at + 1]) };
        if list[at] & 0x80 != 0 {
            copied.extend(&list[at..at + len]);
        }
        at += len;
    }
    while copied.len() % 4 != 0 {
        copied.push(0);
    }
    copied
}
