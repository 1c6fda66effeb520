//! What a host would answer to a frame that we sent it: the way to replies that find their session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use marchproxy_engine::packet::Packet;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::pools::{FAR, STATIONS, ip};

/// An ICMP error about a frame.
#[derive(Clone, Debug)]
pub struct Complaint {
    station: usize,
    /// Type over IPv4 and IPv6.
    kinds: (u8, u8),
    /// From a router on the way; otherwise from whom the frame was for.
    router: bool,
    /// About what the receiver would answer to the frame, as a backend does that answers clients by itself.
    answered: bool,
    /// Octets quoted.
    quoted: usize,
    /// A changed octet of the quote.
    flip: Option<(Index, u8)>,
    wrong_checksum: bool,
}

pub fn complaints() -> impl Strategy<Value = Complaint> {
    let kinds = select(vec![(3u8, 1u8), (3, 2), (11, 3), (12, 4), (5, 0), (4, 127)]);
    let quoted = prop_oneof![6 => 28usize..120, 1 => 0usize..60, 1 => Just(540)];
    let flip = prop::option::weighted(0.15, (any::<Index>(), any::<u8>()));
    let (answered, wrong_checksum) = (prop::bool::weighted(0.2), prop::bool::weighted(0.04));
    (0usize..3, kinds, any::<bool>(), answered, quoted, flip, wrong_checksum).prop_map(
        |(station, kinds, router, answered, quoted, flip, wrong_checksum)| Complaint {
            station,
            kinds,
            router,
            answered,
            quoted,
            flip,
            wrong_checksum,
        },
    )
}

impl Complaint {
    /// The error that comes back for a frame of IP, and between whom what it is about was on its way.
    pub fn about(&self, frame: &[u8]) -> Option<(Vec<u8>, [IpAddr; 2])> {
        let us: [u8; 6] = frame.get(6..12)?.try_into().ok()?;
        let tagged = frame.get(12..14)? == [0x81, 0];
        let l3 = if tagged { 18 } else { 14 };
        let answer = if self.answered { Some(answer(&inside(frame, l3)?, self.station, 16)?) } else { None };
        let frame = answer.as_deref().unwrap_or(frame);
        let [src, dst] = ends(frame)?;
        let v6 = src.is_ipv6();
        let router = FAR.iter().map(|far| ip(far)).find(|far| far.is_ipv6() == v6 && *far != src);
        let from = router.filter(|_| self.router).unwrap_or(dst);
        let mut quote = frame[l3..].to_vec();
        quote.truncate(self.quoted);
        if let Some((at, value)) = self.flip.as_ref().filter(|_| !quote.is_empty()) {
            let at = at.index(quote.len());
            quote[at] ^= value;
        }
        let packet = Packet::eth(STATIONS[self.station], us).ip(from, src);
        let rest = [0, 0, 5, 0];
        let packet = if v6 { packet.icmpv6(self.kinds.1, 0, rest) } else { packet.icmp(self.kinds.0, 0, rest) };
        let packet = packet.payload(quote);
        let packet = if self.wrong_checksum { packet.l4_checksum(0x1234) } else { packet };
        Some((if tagged { packet.vlan(word(frame, 14)) } else { packet }.build(), [src, dst]))
    }
}

/// Source and destination of a frame of IP.
pub fn ends(frame: &[u8]) -> Option<[IpAddr; 2]> {
    let l3 = if frame.get(12..14)? == [0x81, 0] { 18 } else { 14 };
    match frame.get(l3 - 2..l3)? {
        [0x08, 0x00] if frame.len() >= l3 + 20 => {
            Some([octets4(frame, l3 + 12).into(), octets4(frame, l3 + 16).into()])
        }
        [0x86, 0xdd] if frame.len() >= l3 + 40 => Some([octets6(frame, l3 + 8).into(), octets6(frame, l3 + 24).into()]),
        _ => None,
    }
}

/// A frame with what is inside its tunnel; others as they are.
fn inside(frame: &[u8], l3: usize) -> Option<Vec<u8>> {
    let (header, protocol) = match frame.get(l3 - 2..l3)? {
        [0x08, 0x00] => (20, *frame.get(l3 + 9)?),
        [0x86, 0xdd] => (40, *frame.get(l3 + 6)?),
        _ => return None,
    };
    let gue = || frame.get(l3 + header + 2..l3 + header + 4) == Some(&6080u16.to_be_bytes());
    let begin = match protocol {
        4 | 41 => l3 + header,
        17 if gue() => l3 + header + 8,
        _ => return Some(frame.to_vec()),
    };
    let packet = frame.get(begin..)?;
    let (kind, least) = if packet.first()? >> 4 == 6 { ([0x86, 0xdd], 40) } else { ([0x08, 0x00], 20) };
    (packet.len() >= least).then(|| [&frame[..l3 - 2], &kind, packet].concat())
}

/// ARP and ND requests get an answer from a station; echo requests become replies; everything else comes back with addresses
/// and ports exchanged, TCP with these flags.
pub fn answer(frame: &[u8], station: usize, flags: u8) -> Option<Vec<u8>> {
    let us: [u8; 6] = frame.get(6..12)?.try_into().ok()?;
    let to: [u8; 6] = frame.get(0..6)?.try_into().ok()?;
    let station = if to[0] & 1 == 1 { STATIONS[station % STATIONS.len()] } else { to };
    let tagged = frame.get(12..14)? == [0x81, 0];
    let vlan = tagged.then(|| word(frame, 14));
    let l3 = if tagged { 18 } else { 14 };
    let reply = |packet: Packet| vlan.map_or(packet.clone(), |vlan| packet.vlan(vlan)).build();
    match frame.get(l3 - 2..l3)? {
        [0x08, 0x06] if word(frame, l3 + 6) == 1 => {
            let (asker, asked) = (octets4(frame, l3 + 14), octets4(frame, l3 + 24));
            Some(reply(Packet::eth(station, us).arp_reply(asked, asker)))
        }
        [0x86, 0xdd]
            if frame.get(l3 + 6) == Some(&58) && frame.get(l3 + 40) == Some(&135) && frame.len() >= l3 + 64 =>
        {
            let (asker, asked) = (octets6(frame, l3 + 8), octets6(frame, l3 + 48));
            let packet =
                Packet::eth(station, us).ipv6(asked, asker).neighbour_advertisement(asked, flags & 0xe0 | 0x40);
            Some(reply(packet.target_link_layer(station)))
        }
        [0x08, 0x00] => Some(turned(frame, l3, 12, 4, l3 + 20, station, us, flags)),
        [0x86, 0xdd] => Some(turned(frame, l3, 8, 16, l3 + 40, station, us, flags)),
        _ => None,
    }
}

/// What nobody answers: ARP from and for the same address, an advertisement to all nodes.
pub fn is_announcement(frame: &[u8]) -> bool {
    let l3 = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    match frame[l3 - 2..l3] {
        [0x08, 0x06] => frame[l3 + 14..l3 + 18] == frame[l3 + 24..l3 + 28],
        _ => frame[..6] == [0x33, 0x33, 0, 0, 0, 1],
    }
}

/// The same frame with other TCP flags, where it is TCP without extension headers; the checksum is then wrong, which nobody checks.
pub fn again(frame: &[u8], flags: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let l3 = if frame.get(12..14) == Some(&[0x81, 0]) { 18 } else { 14 };
    let l4 = match (frame.get(l3 - 2..l3), frame.get(l3 + 9), frame.get(l3 + 6)) {
        (Some([0x08, 0x00]), Some(6), _) => Some(l3 + usize::from(frame[l3] & 15) * 4),
        (Some([0x86, 0xdd]), _, Some(6)) => Some(l3 + 40),
        _ => None,
    };
    if let Some(octet) = l4.and_then(|l4| frame.get_mut(l4 + 13)) {
        *octet = flags;
    }
    frame
}

/// Exchanges both ends. Sums do not mind the order of words; changed flags leave a wrong TCP checksum, which nobody checks.
#[expect(clippy::too_many_arguments, reason = "offsets of one frame")]
fn turned(
    frame: &[u8],
    l3: usize,
    addresses: usize,
    len: usize,
    l4: usize,
    station: [u8; 6],
    us: [u8; 6],
    flags: u8,
) -> Vec<u8> {
    let mut turned = frame.to_vec();
    turned[..6].copy_from_slice(&us);
    turned[6..12].copy_from_slice(&station);
    let (src, dst) = (l3 + addresses, l3 + addresses + len);
    turned[src..src + len].copy_from_slice(&frame[dst..dst + len]);
    turned[dst..dst + len].copy_from_slice(&frame[src..src + len]);
    let protocol = frame[l3 + if len == 4 { 9 } else { 6 }];
    match protocol {
        6 | 17 if frame.len() >= l4 + 14 || protocol == 17 && frame.len() >= l4 + 8 => {
            turned[l4..l4 + 2].copy_from_slice(&frame[l4 + 2..l4 + 4]);
            turned[l4 + 2..l4 + 4].copy_from_slice(&frame[l4..l4 + 2]);
            if protocol == 6 {
                turned[l4 + 13] = flags;
            }
        }
        1 if frame.get(l4) == Some(&8) && frame.len() >= l4 + 4 => change_type(&mut turned, l4, 0),
        58 if frame.get(l4) == Some(&128) && frame.len() >= l4 + 4 => change_type(&mut turned, l4, 129),
        _ => {}
    }
    turned
}

/// RFC 1624 for the one octet that changes.
fn change_type(frame: &mut [u8], l4: usize, kind: u8) {
    let before = u32::from(frame[l4]) << 8;
    frame[l4] = kind;
    let sum = u32::from(!word(frame, l4 + 2)) + (0xffff - before) + (u32::from(kind) << 8);
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    frame[l4 + 2..l4 + 4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn octets4(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|i| bytes[at + i]))
}

fn octets6(bytes: &[u8], at: usize) -> Ipv6Addr {
    Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| bytes[at + i]))
}
