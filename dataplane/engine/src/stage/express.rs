//! express: the whole way of plain packets through a node that only routes.
//!
//! Where nothing is decided but the way (no rules, no services, no checks of sources, DSCP kept), nearly every packet passes the same few
//! checks and leaves. Those are taken from the frame to their egress here, with what is known about them in registers instead of
//! columns. Whatever is not surely so stays active and untouched: the stages behind have the last word, and the same reference.
//!
//! Reads the frame. Writes `fate` and the port of `egress` of the lanes it ends, all of them transmitted.

use crate::burst::{BURST, Burst, Columns, Fate, Mask, NO_MARK};
use crate::flow::{Addr, FlowKey};
use crate::io::PacketBuf;
use crate::ports::PortFacts;
use crate::snapshot::Snapshot;
use crate::stage::finish::{age_and_mark, layer2, make_room};
use crate::stage::parse::Head;
use crate::stage::parse::quick::{self, Place};
use crate::table::fib::{Fib, Found};
use crate::table::neighbours::NeighbourTable;
use crate::wire::{Change, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, TAG};

/// Runs the stage; only where [`Snapshot::only_ways`].
pub fn process<B: PacketBuf>(
    burst: &mut Burst<B>,
    snapshot: &Snapshot,
    facts: &PortFacts,
    neighbours: &NeighbourTable,
) {
    let [fib] = &snapshot.fibs[..] else { return };
    let place = Place::new(burst.port, facts, snapshot);
    let active = burst.active;
    let (packets, columns) = burst.parts();
    let (mut v4, mut v6, mut tagged) = (Mask::default(), Mask::default(), Mask::default());
    for lane in active.lanes() {
        let mut head = Head::default();
        let frame = packets.get(lane.index()).map_or(&[][..], PacketBuf::data);
        let ethertype = quick::ethernet(frame, &place, snapshot, &mut head);
        v4.insert_if(lane, ethertype == ETHERTYPE_IPV4);
        v6.insert_if(lane, ethertype == ETHERTYPE_IPV6);
        tagged.insert_if(lane, usize::from(head.l3) != ETHERNET);
    }
    let mut work = Work { packets, columns, snapshot, fib, facts, neighbours, gone: Mask::default() };
    // Of one kind after the other: a branch on what alternates at random is a wrong guess every other time.
    work.pass::<false, ETHERNET>(v4.without(tagged));
    work.pass::<true, ETHERNET>(v6.without(tagged));
    if !tagged.is_empty() {
        work.pass::<false, { ETHERNET + TAG }>(v4.and(tagged));
        work.pass::<true, { ETHERNET + TAG }>(v6.and(tagged));
    }
    let gone = work.gone;
    burst.active = active.without(gone);
}

/// What later loops have to know of a packet.
#[derive(Clone, Copy, Default)]
struct Plain {
    found: Found,
    l3_len: u16,
    ttl: u16,
}

struct Work<'a, B> {
    packets: &'a mut [B],
    columns: &'a mut Columns,
    snapshot: &'a Snapshot,
    fib: &'a Fib,
    facts: &'a PortFacts,
    neighbours: &'a NeighbourTable,
    gone: Mask,
}

impl<B: PacketBuf> Work<'_, B> {
    /// Packets of one family whose L3 header is at `L3`. Each loop ends where memory latency begins.
    #[inline(always)]
    fn pass<const V6: bool, const L3: usize>(&mut self, lanes: Mask) {
        let mut plain = [Plain::default(); BURST];
        let mut sure = Mask::default();
        for lane in lanes.lanes() {
            let Some(packet) = self.packets.get(lane.index()) else { continue };
            let plain = &mut plain[lane.index()];
            sure.insert_if(lane, look::<V6>(packet.data().get(L3..).unwrap_or(&[]), self.snapshot, self.fib, plain));
        }
        if V6 {
            for lane in sure.lanes() {
                plain[lane.index()].found = self.fib.first_v6(self.destination::<L3>(lane.index()));
            }
        }
        for lane in sure.lanes() {
            let index = lane.index();
            let found = plain[index].found;
            let route =
                if V6 { self.fib.second_v6(self.destination::<L3>(index), found) } else { self.fib.second_v4(found) };
            if self.leave::<V6, L3>(index, route, &plain[index]) {
                self.gone.insert(lane);
            }
        }
    }

    /// Of an IPv6 packet.
    #[inline(always)]
    fn destination<const L3: usize>(&self, index: usize) -> Addr {
        let packet = self.packets.get(index).and_then(|packet| packet.data().get(L3..));
        packet.and_then(|packet| packet.first_chunk::<40>()).map_or(0, |header| {
            let octets: [u8; 16] = std::array::from_fn(|i| header[24 + i]);
            Addr::from_be_bytes(octets)
        })
    }

    /// Finishes a packet whose longest match is `route`, if that leads to one known next hop and the packet fits. False: nothing happened.
    #[inline(always)]
    fn leave<const V6: bool, const L3: usize>(&mut self, index: usize, route: Option<u32>, plain: &Plain) -> bool {
        let Some(exit) = self.snapshot.exit(route).filter(|exit| plain.l3_len <= exit.mtu) else { return false };
        let Some(station) = self.neighbours.lookup_word(&exit.neighbour, exit.hash) else { return false };
        let Some(packet) = self.packets.get_mut(index) else { return false };
        let end = L3 + usize::from(plain.l3_len);
        if packet.octets() != end {
            // Padding is cut; shrinking always succeeds.
            let _ = packet.resize(end);
        }
        let Some(l3) = make_room(packet, L3 as u8, exit.neighbour.vlan) else { return false };
        let frame = packet.data_mut();
        layer2(frame, V6, exit.neighbour.vlan, station, self.facts.mac_word(exit.neighbour.port));
        let head = Head { ttl: plain.ttl as u8, ..Head::default() };
        age_and_mark::<V6>(frame.get_mut(l3..).unwrap_or(&mut []), &head, NO_MARK, Change::default());
        self.columns.egress[index].port = exit.neighbour.port;
        self.columns.fate[index] = Fate::Transmit;
        true
    }
}

/// The headers, as far as [`quick`] knows them, and the first step of the look-up. False: not surely plain.
#[inline(always)]
fn look<const V6: bool>(packet: &[u8], snapshot: &Snapshot, fib: &Fib, plain: &mut Plain) -> bool {
    let (mut head, mut key) = (Head::default(), FlowKey::default());
    let sure = if V6 { quick::ipv6(packet, &mut head, &mut key) } else { quick::ipv4(packet, &mut head, &mut key) };
    if V6 {
        fib.prefetch_v6(key.dst);
    } else {
        // IPv4's root stays in L2.
        plain.found = fib.first_v4(key.dst);
    }
    (plain.l3_len, plain.ttl) = (head.l3_len, u16::from(head.ttl));
    // Addresses of this node as destination have no exit.
    sure & (head.ttl > 1) & !snapshot.may_be_special(key.src)
}
