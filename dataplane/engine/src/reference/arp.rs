//! ARP (RFC 826, RFC 5227).

use std::net::{IpAddr, Ipv4Addr};

use super::Reference;
use super::layer2::{Frame, Kind, enframe, is_station, mac_at};
use super::outcome::{Fate, Outcome};
use crate::io::Mac;
use crate::reason::{ConsumeReason, DropReason};

pub(super) const REQUEST: u16 = 1;
pub(super) const REPLY: u16 = 2;

impl Reference {
    pub(super) fn arp(&mut self, now: u64, frame: &Frame, out: &mut Outcome) -> Fate {
        let bytes = &frame.payload;
        if bytes.len() < 28 || bytes[..6] != [0, 1, 8, 0, 6, 4] {
            return Fate::Dropped(DropReason::ArpMalformed);
        }
        let operation = u16::from_be_bytes([bytes[6], bytes[7]]);
        let sender_mac = mac_at(bytes, 8);
        let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        let (sender, target) = (address(14), address(24));
        if !matches!(operation, REQUEST | REPLY) || !is_station(sender_mac) {
            return Fate::Dropped(DropReason::ArpMalformed);
        }
        let from = IpAddr::from(sender);
        if self.node.is_interface_address(from) || self.node.is_service_address(from) {
            return Fate::Dropped(DropReason::NeighbourIgnored);
        }
        let interface = frame.interface;
        if operation == REQUEST && self.node.answers_for(interface, target.into()) {
            if self.node.is_connected(interface, from) {
                self.neighbours.learn(now, &self.node, interface, from, sender_mac, out);
            }
            let port = self.node.interface(interface).port;
            let answer = packet(REPLY, self.node.mac(port), target, sender_mac, sender);
            out.originate(port, enframe(&self.node, interface, sender_mac, Kind::Arp, &answer));
            return Fate::Consumed(ConsumeReason::Arp);
        }
        if self.neighbours.find(&self.node, interface, from).is_none() {
            return Fate::Dropped(DropReason::NeighbourIgnored);
        }
        self.neighbours.update(now, &self.node, interface, from, sender_mac, out);
        Fate::Consumed(ConsumeReason::Arp)
    }
}

/// An ARP packet for Ethernet and IPv4.
pub(super) fn packet(operation: u16, sender_mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    bytes.extend(sender_mac);
    bytes.extend(sender.octets());
    bytes.extend(target_mac);
    bytes.extend(target.octets());
    bytes
}
