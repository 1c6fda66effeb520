//! Cutting IPv4 packets that are longer than the egress MTU (`BEHAVIOUR.md`, "Fragmentation"; RFC 791 s3.2).

use crate::io::PacketBuf;
use crate::ledger::{Backend, Punted};
use crate::ports::UNTAGGED;
use crate::reason::DropReason;
use crate::slow::SlowPath;
use crate::slow::neighbour::Held;
use crate::table::neighbours::NeighbourKey;
use crate::wire::{ETHERNET, TAG, be16, checksum, put};

/// More fragments follow.
const MORE: u16 = 0x2000;
/// The flags; the rest of their word is the offset in units of eight octets.
const FLAGS: u16 = 0xe000;
/// The bit of an option's type that says that every fragment has it (RFC 791 s3.1).
const COPIED: u8 = 0x80;

impl<K: Backend> SlowPath<K> {
    /// Cuts a finished packet, all or nothing. Its buffer takes the first fragment; the others are made here.
    pub(super) fn fragment(&mut self, now: u64, worker: usize, punted: Punted<K::Buf>) {
        let Punted { mut packet, port, vlan, next_hop, mtu, .. } = punted;
        let l3 = if vlan == UNTAGGED { ETHERNET } else { ETHERNET + TAG };
        let Some((first, others)) = pieces(packet.data(), l3, usize::from(mtu)) else {
            return self.out.drop(packet, DropReason::MtuExceeded);
        };
        let made: Option<Vec<_>> = others.iter().map(|frame| self.out.buffer(frame)).collect();
        let Some(made) = made else { return self.out.drop(packet, DropReason::FragmentNoBuffer) };
        self.out.totals.originated += made.len() as u64;
        // It becomes shorter.
        let _ = packet.resize(first.len());
        packet.data_mut().copy_from_slice(&first);
        let key = NeighbourKey { port, vlan, address: next_hop };
        for fragment in std::iter::once(packet).chain(made) {
            let held = Held { packet: fragment, received: None };
            self.neighbours.resolve(now, worker, held, key, self.reader.current(), &mut self.out);
        }
    }
}

/// The frames that a frame is cut into: the first and the others, as few as there can be. `None` if nothing fits.
fn pieces(frame: &[u8], l3: usize, mtu: usize) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let (layer2, packet) = frame.split_at_checked(l3)?;
    let header_len = usize::from(packet.first()? & 15) * 4;
    let (header, mut rest) = packet.split_at_checked(header_len)?;
    let (flags, mut offset) = (be16(header, 6) & FLAGS, be16(header, 6) & !FLAGS);
    let later = later_header(header);
    let mut header = header.to_vec();
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let room = mtu.checked_sub(header.len())?;
        let is_last = rest.len() <= room;
        let (data, behind) = rest.split_at_checked(if is_last { rest.len() } else { room & !7 })?;
        if data.is_empty() {
            return None;
        }
        let total = (header.len() + data.len()) as u16;
        put(&mut header, 2, &total.to_be_bytes());
        put(&mut header, 6, &(flags | if is_last { 0 } else { MORE } | offset).to_be_bytes());
        put(&mut header, 10, &[0, 0]);
        let sum = checksum(&header, 0);
        put(&mut header, 10, &sum.to_be_bytes());
        frames.push([layer2, &header, data].concat());
        offset += (data.len() / 8) as u16;
        rest = behind;
        header.clone_from(&later);
    }
    let others = frames.split_off(1.min(frames.len()));
    Some((frames.pop()?, others))
}

/// The header of all fragments but the first: only the options that are to be copied.
fn later_header(header: &[u8]) -> Vec<u8> {
    let (fixed, mut options) = header.split_at(header.len().min(20));
    let mut later = fixed.to_vec();
    while let [kind, rest @ ..] = options {
        match (*kind, rest.first()) {
            (0, _) => break,
            (1, _) => options = rest,
            // Parse has refused lists that do not go on.
            (kind, len) => {
                let Some((option, behind)) = options.split_at_checked(len.map_or(0, |&len| usize::from(len)).max(2))
                else {
                    break;
                };
                if kind & COPIED != 0 {
                    later.extend(option);
                }
                options = behind;
            }
        }
    }
    later.resize(later.len().next_multiple_of(4), 0);
    let version_and_length = 0x40 | (later.len() / 4) as u8;
    put(&mut later, 0, &[version_and_length]);
    later
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::io::PacketPool;
    use crate::memory::{MemoryBuf, MemoryRx, MemoryTx};
    use crate::packet::Packet;
    use crate::ports::{PortFacts, PortSlot};
    use crate::reason::PuntReason;
    use crate::slow::WorkerLink;
    use crate::snapshot::Snapshot;
    use crate::stats::ThreadStats;
    use crate::table::neighbours::NeighbourTable;

    /// A pool with so many buffers.
    struct Few(usize);

    impl PacketPool for Few {
        type Buf = MemoryBuf;
        fn alloc(&mut self) -> Option<MemoryBuf> {
            self.0 = self.0.checked_sub(1)?;
            Some(MemoryBuf::empty())
        }
    }

    struct Poor;

    impl Backend for Poor {
        type Buf = MemoryBuf;
        type Rx = MemoryRx;
        type Tx = MemoryTx;
        type Pool = Few;
    }

    #[test]
    fn without_buffers_for_all_fragments_none_is_made() {
        let frame = Packet::eth([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2]).udp(1, 2).payload([0; 1400]).build();
        for (buffers, reason) in [(1, DropReason::FragmentNoBuffer), (2, DropReason::NeighbourUnreachable)] {
            let (mut punts, punts_out) = rtrb::RingBuffer::new(8);
            let (injects, _injects_out) = rtrb::RingBuffer::new(8);
            let (_publisher, mut readers) = marchproxy_rcu::channel(Snapshot::default(), 1);
            let links = vec![WorkerLink { punts: punts_out, injects }];
            let stats = Arc::new(ThreadStats::new(0));
            let (table, facts) = (NeighbourTable::default(), PortFacts::default());
            let mut slow = SlowPath::<Poor>::new(readers.pop().unwrap(), links, Few(buffers), table, facts, stats);
            let packet = MemoryBuf::new(&frame);
            let (port, vlan, next_hop, mtu) = (PortSlot::default(), UNTAGGED, 1, 576);
            punts
                .push(Punted { packet, reason: PuntReason::Fragment, port, vlan, next_hop, mtu, received: None })
                .unwrap();
            slow.turn(1);
            let totals = slow.stats().totals.read();
            assert_eq!(totals.residue(), 0);
            // The port is not configured, so that is where what was made ends.
            let made = if buffers == 2 { 2 } else { 0 };
            assert_eq!((totals.originated, totals.dropped), (made, made + 1));
            assert_eq!(slow.stats().drops[reason.index()].value(), made + 1);
        }
    }

    #[test]
    fn nothing_is_cut_that_cannot_be() {
        let frame = |options: &[u8]| {
            Packet::eth([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2]).options(options).udp(1, 2).payload([0; 50])
        };
        assert!(pieces(&frame(&[]).build(), 14, 27).is_none());
        assert!(pieces(&frame(&[148; 40]).build(), 14, 60).is_none());
        assert!(pieces(&[0; 10], 14, 576).is_none());
        let (_, others) = pieces(&frame(&[]).build(), 14, 28).unwrap();
        assert_eq!(others.len(), 7);
    }
}
