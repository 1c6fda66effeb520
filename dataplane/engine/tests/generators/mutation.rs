//! Mutations of frames at millions a minute: the property generators are too slow for that and keep too close to what is sound.

use std::net::IpAddr;

use marchproxy_engine::packet::{Packet, checksum};

/// Random numbers (splitmix64): one seed, one sequence.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// Less than `n`; 0 where there is nothing less.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.roll()) * n as u128) >> 64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Numbers at which lengths and offsets go wrong.
const EDGES: [u16; 18] = [0, 1, 4, 5, 7, 8, 15, 16, 19, 20, 40, 0x7f, 0x80, 0xff, 0x1fff, 0x7fff, 0x8000, 0xffff];

/// Next headers of IPv6: every extension header there is, and what is none.
const NEXT: [u8; 16] = [0, 43, 44, 50, 51, 59, 60, 135, 139, 140, 4, 6, 17, 41, 58, 255];

/// Options of IPv4 in one word: none, record route, source routes, time stamp, router alert, length 0, 1 and beyond.
const OPTIONS: [[u8; 4]; 9] = [
    [1, 1, 1, 0],
    [7, 3, 4, 0],
    [131, 3, 4, 0],
    [137, 4, 4, 0],
    [68, 4, 5, 0],
    [148, 4, 0, 0],
    [9, 0, 9, 0],
    [9, 1, 0, 0],
    [9, 40, 0, 0],
];

/// Where the network header begins behind up to three tags, and its EtherType.
fn network(frame: &[u8]) -> Option<(usize, u16)> {
    let mut at = 12;
    for _ in 0..4 {
        let ethertype = word(frame, at)?;
        if !matches!(ethertype, 0x8100 | 0x88a8) {
            return Some((at + 2, ethertype));
        }
        at += 4;
    }
    None
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?))
}

fn set_word(frame: &mut [u8], at: usize, value: u16) {
    if let Some(place) = frame.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

fn set(frame: &mut [u8], at: usize, value: u8) {
    if let Some(place) = frame.get_mut(at) {
        *place = value;
    }
}

/// Changes a frame in one to three ways; `other` is what it may be spliced with.
pub fn mutate(dice: &mut Dice, frame: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=dice.below(3) {
        once(dice, frame, other);
    }
    if dice.chance(75) {
        repair(frame);
    }
}

fn once(dice: &mut Dice, frame: &mut Vec<u8>, other: &[u8]) {
    // What is addressed to somebody else ends at once: that is tried, but seldom. Headers are where it matters.
    let from = if dice.chance(5) { 0 } else { 12 };
    let reach = frame.len().min(120).saturating_sub(from);
    let at = from + dice.below(reach);
    let l3 = network(frame);
    match dice.below(12) {
        0 => {
            for _ in 0..=dice.below(4) {
                let (at, bit) = (from + dice.below(reach), dice.below(8));
                let flipped = frame.get(at).copied().unwrap_or(0) ^ 1 << bit;
                set(frame, at, flipped);
            }
        }
        1 => set(frame, at, dice.pick(&EDGES) as u8),
        2 => set_word(frame, at & !1, dice.pick(&EDGES)),
        3 => {
            let len = if dice.chance(70) { at } else { dice.below(frame.len() + 1) };
            frame.truncate(len);
        }
        4 => {
            let more = if dice.chance(90) { dice.below(64) } else { dice.below(2000) };
            frame.extend((0..more).map(|n| n as u8));
        }
        5 => {
            let tail = other.get(dice.below(other.len().min(120))..).unwrap_or(&[]);
            frame.truncate(at);
            frame.extend_from_slice(tail);
        }
        6 => lengths(dice, frame, l3),
        7 => headers(dice, frame, l3),
        8 => fragment(dice, frame, l3),
        9 => {
            let (ethertype, vlan) = (dice.pick(&[0x81u8, 0x81, 0x88, 0x91]), dice.pick(&[0u16, 10, 20, 99, 4095]));
            let [high, low] = (vlan | (dice.below(16) as u16) << 12).to_be_bytes();
            if frame.len() >= 12 {
                frame.splice(12..12, [ethertype, if ethertype == 0x88 { 0xa8 } else { 0 }, high, low]);
            }
        }
        10 => {
            let to = (at + dice.below(40)).min(frame.len());
            let again = frame.get(at..to).unwrap_or(&[]).to_vec();
            let place = at.min(frame.len());
            frame.splice(place..place, again);
        }
        _ => addresses(dice, frame, l3, other),
    }
    // A buffer holds no more.
    frame.truncate(2048);
}

/// The length fields of IP, UDP and TCP: near what is right, or far off.
fn lengths(dice: &mut Dice, frame: &mut [u8], l3: Option<(usize, u16)>) {
    let Some((l3, ethertype)) = l3 else { return };
    let l4 = if ethertype == 0x86dd { l3 + 40 } else { l3 + 20 };
    let near = |dice: &mut Dice, right: Option<u16>| {
        if dice.chance(60) {
            right.unwrap_or(0).wrapping_add(dice.below(17) as u16).wrapping_sub(8)
        } else {
            dice.pick(&EDGES)
        }
    };
    match dice.below(4) {
        0 => {
            let at = if ethertype == 0x86dd { l3 + 4 } else { l3 + 2 };
            let value = near(dice, word(frame, at));
            set_word(frame, at, value);
        }
        1 => set(frame, l3, if ethertype == 0x86dd { 0x60 } else { 0x40 | dice.below(16) as u8 }),
        2 => {
            let value = near(dice, word(frame, l4 + 4));
            set_word(frame, l4 + 4, value);
        }
        _ => set(frame, l4 + 12, (dice.below(16) as u8) << 4),
    }
}

/// One more extension header of IPv6, or option of IPv4.
fn headers(dice: &mut Dice, frame: &mut Vec<u8>, l3: Option<(usize, u16)>) {
    let honest = dice.chance(80);
    match l3 {
        Some((l3, 0x86dd)) if frame.len() >= l3 + 40 => {
            for _ in 0..dice.pick(&[1, 1, 1, 2, 8, 20]) {
                let (kind, units) = (dice.pick(&NEXT), dice.pick(&[0u8, 0, 0, 0, 1, 2, 255]));
                let rest = [frame[l3 + 6], units, dice.below(8) as u8, dice.below(4) as u8, 0, 0, 0, 9];
                frame[l3 + 6] = kind;
                frame.splice(l3 + 40..l3 + 40, rest);
                let length = word(frame, l3 + 4).unwrap_or(0);
                set_word(frame, l3 + 4, length.wrapping_add(if honest { 8 } else { 0 }));
            }
        }
        Some((l3, 0x0800)) if frame.len() >= l3 + 20 => {
            let option = dice.pick(&OPTIONS);
            frame.splice(l3 + 20..l3 + 20, option);
            let (words, length) = (frame[l3] & 15, word(frame, l3 + 2).unwrap_or(0));
            frame[l3] = 0x40 | (words + 1) & 15;
            set_word(frame, l3 + 2, length.wrapping_add(if honest { 4 } else { 0 }));
        }
        _ => {}
    }
}

/// Makes it a fragment, or another one, of few packets.
fn fragment(dice: &mut Dice, frame: &mut Vec<u8>, l3: Option<(usize, u16)>) {
    let (ident, more) = (dice.below(3) as u16, u16::from(dice.chance(60)));
    let offset = dice.pick(&[0u16, 0, 1, 2, 3, 4, 6, 8, 185, 8189, 8190, 8191]);
    match l3 {
        Some((l3, 0x0800)) => {
            set_word(frame, l3 + 4, ident);
            set_word(frame, l3 + 6, offset | more << 13 | u16::from(dice.chance(5)) << 14);
        }
        Some((l3, 0x86dd)) if frame.len() >= l3 + 40 => {
            if frame[l3 + 6] != 44 {
                frame.splice(l3 + 40..l3 + 40, [frame[l3 + 6], 0, 0, 0, 0, 0, 0, 0]);
                frame[l3 + 6] = 44;
                let length = word(frame, l3 + 4).unwrap_or(0);
                set_word(frame, l3 + 4, length.wrapping_add(8));
            }
            set_word(frame, l3 + 42, offset << 3 | more);
            set_word(frame, l3 + 46, ident);
        }
        _ => {}
    }
}

/// From itself to itself, turned round, or between ends of another frame.
fn addresses(dice: &mut Dice, frame: &mut [u8], l3: Option<(usize, u16)>, other: &[u8]) {
    let Some((l3, ethertype)) = l3 else { return };
    let (at, len) = if ethertype == 0x86dd { (l3 + 8, 16) } else { (l3 + 12, 4) };
    if frame.len() < at + 2 * len {
        return;
    }
    match dice.below(3) {
        0 => frame.copy_within(at + len..at + 2 * len, at),
        1 => frame[at..at + 2 * len].rotate_left(len),
        _ => {
            if let Some(ends) = other.get(at..at + 2 * len) {
                frame[at..at + 2 * len].copy_from_slice(ends);
            }
        }
    }
}

/// Puts the IPv4 header checksum right, so that what is wrong behind it is looked at.
fn repair(frame: &mut [u8]) {
    let Some((l3, 0x0800)) = network(frame) else { return };
    let header = frame.get(l3).map_or(0, |first| usize::from(first & 15) * 4);
    if header < 20 || frame.len() < l3 + header {
        return;
    }
    set_word(frame, l3 + 10, 0);
    let sum = checksum(&[&frame[l3..l3 + header]]);
    set_word(frame, l3 + 10, sum);
}

/// An ICMP error about a frame that was sent, from somebody on its way: what NAT has to find the session of.
pub fn error_about(dice: &mut Dice, frame: &[u8], from: &[IpAddr]) -> Option<Vec<u8>> {
    let (l3, ethertype) = network(frame)?;
    let (us, station) = (frame.get(6..12)?.try_into().ok()?, frame.get(..6)?.try_into().ok()?);
    let quote = frame.get(l3..)?;
    let quote = &quote[..quote.len().min(dice.pick(&[8, 20, 28, 40, 48, 200, 1200]))];
    let packet = Packet::eth(station, us);
    let packet = if l3 == 18 { packet.vlan(word(frame, 14)? & 0xfff) } else { packet };
    let rest = [0, 0, dice.pick(&[0u8, 5]), dice.pick(&[0u8, 0x44, 0xdc])];
    let packet = if ethertype == 0x86dd {
        let to: [u8; 16] = quote.get(8..24)?.try_into().ok()?;
        let router = from.iter().find(|ip| ip.is_ipv6())?;
        let (kind, code) = (dice.pick(&[1u8, 1, 2, 3, 4]), dice.below(5) as u8);
        packet.ip(*router, to.into()).icmpv6(kind, code, rest)
    } else {
        let to: [u8; 4] = quote.get(12..16)?.try_into().ok()?;
        let router = from.iter().find(|ip| ip.is_ipv4())?;
        let (kind, code) = (dice.pick(&[3u8, 3, 3, 11, 12, 4, 5]), dice.below(5) as u8);
        packet.ip(*router, to.into()).icmp(kind, code, rest)
    };
    Some(packet.payload(quote).build())
}
