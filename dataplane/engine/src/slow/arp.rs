//! ARP (RFC 826, 5227).

use crate::flow::{Addr, v4};
use crate::io::{Mac, PacketBuf};
use crate::ledger::Backend;
use crate::ports::UNTAGGED;
use crate::reason::{ConsumeReason, DropReason};
use crate::slow::neighbour::send_frame;
use crate::slow::{SlowPath, Subject};
use crate::snapshot::{Interface, Snapshot};
use crate::table::neighbours::NeighbourKey;
use crate::wire::{ETHERTYPE_ARP, ETHERTYPE_VLAN, be16, be32};

const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// The fields of an Ethernet/IPv4 ARP packet.
struct Arp {
    operation: u16,
    sender_mac: Mac,
    sender: u32,
    target: u32,
}

impl Arp {
    fn parse(body: &[u8]) -> Option<Self> {
        let body = body.first_chunk::<28>()?;
        let sender_mac: Mac = body[8..14].try_into().ok()?;
        let shape = (be16(body, 0), be16(body, 2), body[4], body[5]) == (1, 0x0800, 6, 4);
        let operation = be16(body, 6);
        let unicast = sender_mac[0] & 1 == 0 && sender_mac != [0; 6];
        (shape && matches!(operation, REQUEST | REPLY) && unicast).then(|| Self {
            operation,
            sender_mac,
            sender: be32(body, 14),
            target: be32(body, 24),
        })
    }
}

impl<K: Backend> SlowPath<K> {
    pub(super) fn arp(&mut self, now: u64, subject: &Subject, packet: K::Buf) {
        let body = packet.data().get(usize::from(subject.head.l3)..).unwrap_or(&[]);
        let Some(arp) = Arp::parse(body) else { return self.out.drop(packet, DropReason::ArpMalformed) };
        let snapshot = self.reader.current();
        let Some(interface) = snapshot.interface(subject.head.interface) else {
            return self.out.drop(packet, DropReason::VlanUnknown);
        };
        let (sender, target) = (v4(arp.sender), v4(arp.target));
        if snapshot.is_own(sender) || snapshot.services.is_address(sender) {
            return self.out.drop(packet, DropReason::NeighbourIgnored);
        }
        let key = NeighbourKey { port: subject.port, vlan: subject.head.vlan, address: sender };
        if arp.operation == REQUEST && answers_for(snapshot, interface, target) {
            if interface.connected_to(sender).is_some() {
                self.neighbours.learn(now, subject.worker, key, arp.sender_mac, &mut self.out);
            }
            let mac = self.out.facts.mac(subject.port);
            let reply = frame(mac, arp.sender_mac, REPLY, (mac, arp.target), (arp.sender_mac, arp.sender), key.vlan);
            send_frame(subject.worker, &reply, subject.port, &mut self.out);
            self.out.consume(packet, ConsumeReason::Arp);
        } else if self.neighbours.update(now, key, arp.sender_mac, &mut self.out) {
            self.out.consume(packet, ConsumeReason::Arp);
        } else {
            self.out.drop(packet, DropReason::NeighbourIgnored);
        }
    }
}

/// Whether an interface answers for an address: its own, and service addresses inside its connected prefixes.
pub(super) fn answers_for(snapshot: &Snapshot, interface: &Interface, address: Addr) -> bool {
    interface.addresses.iter().any(|&(own, _)| own == address)
        || (snapshot.services.is_address(address) && interface.connected_to(address).is_some())
}

/// A request, broadcast unless the MAC address is known.
pub(super) fn request(mac: Mac, source: u32, target: u32, known: Option<Mac>, vlan: u16) -> Vec<u8> {
    frame(mac, known.unwrap_or([0xff; 6]), REQUEST, (mac, source), ([0; 6], target), vlan)
}

/// Sender and target are the address itself (RFC 5227 s3).
pub(super) fn announcement(mac: Mac, address: u32, vlan: u16) -> Vec<u8> {
    request(mac, address, address, None, vlan)
}

fn frame(from: Mac, to: Mac, operation: u16, sender: (Mac, u32), target: (Mac, u32), vlan: u16) -> Vec<u8> {
    let mut frame = ethernet(from, to, ETHERTYPE_ARP, vlan);
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(sender.0);
    frame.extend(sender.1.to_be_bytes());
    frame.extend(target.0);
    frame.extend(target.1.to_be_bytes());
    frame
}

/// An Ethernet header, tagged unless `vlan` is [`UNTAGGED`].
pub(super) fn ethernet(from: Mac, to: Mac, ethertype: u16, vlan: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(128);
    frame.extend(to);
    frame.extend(from);
    if vlan != UNTAGGED {
        frame.extend(ETHERTYPE_VLAN.to_be_bytes());
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame
}
