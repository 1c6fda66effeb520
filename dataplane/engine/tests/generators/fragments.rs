//! Packets in fragments: pieces that meet each other because there are few packets, whole packets in pieces, storms of them, and packets
//! that have to be cut to leave.

use marchproxy_engine::packet::{ACK, Packet, SYN};
use marchproxy_engine::testkit::port_mac;
use proptest::prelude::*;
use proptest::sample::select;

use super::packets::Arrival;
use super::pools::{FAR, HOSTS, PLACES, SERVICES, STATIONS, ip};

/// Who sends to whom: to services, between hosts, to ourselves.
const ENDS: [(&str, &str); 8] = [
    (FAR[0], SERVICES[0]),
    (FAR[0], SERVICES[2]),
    (FAR[2], SERVICES[1]),
    (HOSTS[0].1, SERVICES[0]),
    (HOSTS[8].1, FAR[0]),
    (FAR[1], HOSTS[0].1),
    (FAR[2], HOSTS[2].1),
    (FAR[0], "10.1.0.1"),
];

/// One packet in fragments: ends, upper layer, identification.
#[derive(Clone, Copy, Debug)]
struct Whole {
    ends: usize,
    kind: u8,
    id: u16,
    ttl: u8,
}

/// Octets of the upper layer, header included.
const OCTETS: usize = 64;

/// Ranges of it and whether others follow: three that make it whole, three others that do, and some that fit to nothing.
const GOOD: [(usize, usize, bool); 6] =
    [(0, 24, true), (24, 48, true), (48, 64, false), (0, 40, true), (40, 56, true), (56, 64, false)];
const ODD: [(usize, usize, bool); 9] = [
    (16, 40, true),
    (8, 24, true),
    (48, 64, true),
    (24, 48, false),
    (64, 64, true),
    (24, 47, true),
    (0, 8, true),
    (0, 16, true),
    (56, 60, false),
];

impl Whole {
    fn upper(self) -> (Packet, u8, Vec<u8>) {
        let (src, dst) = (ip(ENDS[self.ends].0), ip(ENDS[self.ends].1));
        let v4 = dst.is_ipv4();
        let base = Packet::eth([0; 6], [0; 6]).ip(src, dst);
        let (packet, protocol) = match self.kind {
            0 => (base.clone().tcp(1000, 80).flags(SYN).payload([1; OCTETS - 20]), 6),
            1 => (base.clone().tcp(1001, 8080).flags(ACK).payload([2; OCTETS - 20]), 6),
            2 | 3 => (base.clone().udp(1000, 53).payload([3; OCTETS - 8]), 17),
            4 => (base.clone().echo(u16::from(self.id < 2), 1).payload([4; OCTETS - 8]), if v4 { 1 } else { 58 }),
            5 => (base.clone().echo_reply(1, 1).payload([5; OCTETS - 8]), if v4 { 1 } else { 58 }),
            _ => (base.clone().protocol(47).payload([6; OCTETS]), 47),
        };
        let octets = packet.build()[14 + if v4 { 20 } else { 40 }..].to_vec();
        (base.ttl(self.ttl), protocol, octets)
    }

    fn piece(self, (from, to, more): (usize, usize, bool), shape: u8) -> Packet {
        let (base, protocol, octets) = self.upper();
        let v4 = ip(ENDS[self.ends].1).is_ipv4();
        // Headers may differ from fragment to fragment.
        let base = match (shape, v4) {
            (0, true) => base.options(&[148, 4, 0, 0]),
            (0, false) => base.hop_by_hop(),
            (1, false) => base.fragment(0, false, 9),
            _ => base,
        };
        base.fragment(from as u16, more, self.id).protocol(protocol).payload(&octets[from..to])
    }
}

fn wholes() -> impl Strategy<Value = Whole> {
    let ends = prop_oneof![12 => 0..ENDS.len() - 1, 1 => Just(ENDS.len() - 1)];
    (ends, 0u8..7, 0u16..3, select(vec![64u8, 64, 64, 64, 1])).prop_map(|(ends, kind, id, ttl)| Whole {
        ends,
        kind,
        id,
        ttl,
    })
}

/// Mostly one place, seldom another with the same or another table.
fn places() -> impl Strategy<Value = usize> {
    prop_oneof![6 => Just(0usize), 2 => Just(3usize), 1 => 0..PLACES.len()]
}

fn arrive(packet: Packet, place: usize) -> Arrival {
    let place = PLACES[place];
    let packet = packet.reframed(STATIONS[0], port_mac(place.port));
    let packet = if let Some(vlan) = place.vlan { packet.vlan(vlan) } else { packet };
    Arrival { port: place.port, frame: packet.build() }
}

/// One piece.
pub fn pieces() -> BoxedStrategy<Arrival> {
    let range = prop_oneof![4 => select(&GOOD[..]), 1 => select(&ODD[..])];
    (wholes(), range, places(), 0u8..8)
        .prop_map(|(whole, range, place, shape)| arrive(whole.piece(range, shape), place))
        .boxed()
}

/// All pieces of a packet in some order, sometimes with one that does not belong.
pub fn trains() -> BoxedStrategy<Vec<Arrival>> {
    let ranges = (any::<bool>(), prop::option::weighted(0.2, select(&ODD[..])), prop::bool::weighted(0.1));
    (wholes(), ranges, 0u8..8)
        .prop_flat_map(|(whole, (longer, odd, twice), shape)| {
            let half = if longer { 3..6 } else { 0..3 };
            let again = twice.then_some(GOOD[half.start]);
            let ranges: Vec<_> = GOOD[half].iter().copied().chain(odd).chain(again).collect();
            let count = ranges.len();
            let order = Just(ranges).prop_shuffle();
            (order, prop::collection::vec(places(), count)).prop_map(move |(ranges, places)| {
                let pieces = ranges.into_iter().zip(places);
                pieces.map(|(range, place)| arrive(whole.piece(range, shape), place)).collect()
            })
        })
        .boxed()
}

/// Later fragments of so many packets, or so many fragments of one packet.
pub fn storms() -> BoxedStrategy<Vec<Arrival>> {
    let many = (0..ENDS.len() - 1, 1u16..560, any::<u16>()).prop_map(|(ends, count, from)| {
        let whole = |n: u16| Whole { ends, kind: 2, id: from.wrapping_add(n), ttl: 64 };
        (0..count).map(|n| arrive(whole(n).piece(GOOD[1], 7), 0)).collect()
    });
    let long = (0..ENDS.len() - 1, 60u16..70, any::<bool>()).prop_map(|(ends, count, backwards)| {
        let whole = Whole { ends, kind: 2, id: 7, ttl: 64 };
        let (base, protocol, octets) = whole.upper();
        let piece = |n: u16| {
            let n = if backwards { count - 1 - n } else { n };
            let data = if n == 0 { &octets[..8] } else { &octets[8..16] };
            arrive(base.clone().fragment(n * 8, true, 7).protocol(protocol).payload(data), 0)
        };
        (0..count).map(piece).collect()
    });
    prop_oneof![many, long].boxed()
}

/// A packet that may have to be cut, with options, and perhaps a fragment itself.
pub fn long() -> BoxedStrategy<Arrival> {
    let option = select(vec![
        vec![],
        vec![148, 4, 0, 0],
        vec![1, 148, 4, 0, 0, 68, 4, 5, 0],
        vec![68, 4, 5, 0, 1, 1, 0],
        vec![136, 4, 0, 1, 68, 8, 9, 0, 0, 0, 0, 0, 148, 4, 0, 0],
    ]);
    let ends = select(vec![0usize, 3, 4, 5]);
    let fragment = prop::option::weighted(0.3, (any::<bool>(), select(vec![0u16, 64, 2048])));
    (ends, option, 1180usize..1500, fragment, places(), select(vec![(0u8, 64u8), (255, 64), (0, 1)]))
        .prop_map(|(ends, options, octets, fragment, place, (tos, ttl))| {
            let (src, dst) = (ip(ENDS[ends].0), ip(ENDS[ends].1));
            let base = Packet::eth([0; 6], [0; 6]).ip(src, dst).tos(tos).ttl(ttl).options(&options).ident(500);
            let packet = match fragment {
                None => base.udp(1000, 53).payload(vec![9; octets - 8]),
                Some((more, 0)) => base.fragment(0, more, 501).udp(1000, 53).payload(vec![9; octets / 8 * 8]),
                Some((more, offset)) => base.fragment(offset, more, 501).protocol(17).payload(vec![8; octets / 8 * 8]),
            };
            arrive(packet, place)
        })
        .boxed()
}
