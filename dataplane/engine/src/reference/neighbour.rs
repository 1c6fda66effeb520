//! Neighbours: who is known, who is asked for, and the packets that wait.

use std::net::{IpAddr, Ipv6Addr};

use super::layer2::{Kind, enframe};
use super::layer4::Ip;
use super::node::Node;
use super::outcome::{Fate, Outcome};
use super::{arp, nd};
use crate::io::Mac;
use crate::reason::DropReason;

const SECOND: u64 = 1_000_000_000;
/// Entries there may be.
const MAX_NEIGHBOURS: usize = 4096;
/// Packets that may wait for one neighbour, and for all.
const MAX_HELD: usize = 64;
const MAX_HELD_TOTAL: usize = 1024;
/// Requests before an entry goes (RFC 4861 s10: MAX_MULTICAST_SOLICIT, MAX_UNICAST_SOLICIT), one per RETRANS_TIMER.
const MAX_REQUESTS: u8 = 3;
const RETRY: u64 = SECOND;
/// RFC 4861 s10: REACHABLE_TIME.
const REACHABLE: u64 = 30 * SECOND;

/// One neighbour on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Port of the interface.
    pub port: usize,
    /// VLAN of the interface.
    pub vlan: Option<u16>,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address; none while the entry is incomplete.
    pub mac: Option<Mac>,
    /// Requests sent since the MAC address was last confirmed.
    pub requests: u8,
    /// When the next request is due, or the end.
    pub due: u64,
    /// Packets that wait.
    pub held: Vec<Held>,
}

/// A packet that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Finished, lacks the destination MAC address only.
    pub frame: Vec<u8>,
    /// The packet as received, and on which port and VLAN; none for packets made here.
    pub(super) received: Option<(usize, Option<u16>, Ip)>,
}

/// All neighbours, in order of creation.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours {
    pub all: Vec<Neighbour>,
}

impl Neighbours {
    fn position(&self, node: &Node, interface: usize, address: IpAddr) -> Option<usize> {
        let spec = node.interface(interface);
        self.all.iter().position(|n| n.port == spec.port && n.vlan == spec.vlan && n.address == address)
    }

    pub fn find(&self, node: &Node, interface: usize, address: IpAddr) -> Option<&Neighbour> {
        self.position(node, interface, address).and_then(|index| self.all.get(index))
    }

    pub fn mac(&self, node: &Node, interface: usize, address: IpAddr) -> Option<Mac> {
        self.find(node, interface, address)?.mac
    }

    /// Packets that wait.
    pub fn held(&self) -> usize {
        self.all.iter().map(|n| n.held.len()).sum()
    }

    /// Sends a finished frame to a neighbour, or keeps it until the neighbour is known.
    pub fn deliver(
        &mut self,
        now: u64,
        node: &Node,
        interface: usize,
        address: IpAddr,
        mut held: Held,
        out: &mut Outcome,
    ) -> Fate {
        let full = Fate::Dropped(DropReason::NeighbourHoldFull);
        let room = self.held() < MAX_HELD_TOTAL;
        if self.position(node, interface, address).is_none() {
            if self.all.len() >= MAX_NEIGHBOURS || !room {
                return full;
            }
            let (port, vlan) = (node.interface(interface).port, node.interface(interface).vlan);
            let due = now.saturating_add(RETRY);
            self.all.push(Neighbour { port, vlan, address, mac: None, requests: 1, due, held: Vec::new() });
            request(node, interface, address, None, out);
        }
        let position = self.position(node, interface, address);
        let Some(neighbour) = position.and_then(|index| self.all.get_mut(index)) else { return full };
        if let Some(mac) = neighbour.mac {
            address_frame(&mut held.frame, mac);
            out.transmit(neighbour.port, held.frame);
            return Fate::Transmitted;
        }
        if !room || neighbour.held.len() >= MAX_HELD {
            return full;
        }
        neighbour.held.push(held);
        Fate::Held
    }

    /// Makes or updates an entry, and sends what waited for it. Without room, nothing is learned.
    pub fn learn(&mut self, now: u64, node: &Node, interface: usize, address: IpAddr, mac: Mac, out: &mut Outcome) {
        if self.position(node, interface, address).is_none() && self.all.len() < MAX_NEIGHBOURS {
            let (port, vlan) = (node.interface(interface).port, node.interface(interface).vlan);
            self.all.push(Neighbour { port, vlan, address, mac: None, requests: 0, due: 0, held: Vec::new() });
        }
        self.update(now, node, interface, address, mac, out);
    }

    /// Confirms an entry that exists, and sends what waited for it.
    pub fn update(&mut self, now: u64, node: &Node, interface: usize, address: IpAddr, mac: Mac, out: &mut Outcome) {
        let Some(index) = self.position(node, interface, address) else { return };
        let neighbour = &mut self.all[index];
        neighbour.mac = Some(mac);
        neighbour.requests = 0;
        neighbour.due = now.saturating_add(REACHABLE);
        for Held { mut frame, .. } in std::mem::take(&mut neighbour.held) {
            address_frame(&mut frame, mac);
            out.transmit(neighbour.port, frame);
        }
    }

    /// Looks at every timer once, in order of creation. Returns what waited in vain.
    pub fn tick(&mut self, now: u64, node: &Node, out: &mut Outcome) -> Vec<Held> {
        let mut in_vain = Vec::new();
        self.all.retain_mut(|neighbour| {
            if now < neighbour.due {
                return true;
            }
            if neighbour.requests >= MAX_REQUESTS {
                in_vain.append(&mut neighbour.held);
                return false;
            }
            neighbour.requests += 1;
            neighbour.due = now.saturating_add(RETRY);
            if let Some(interface) = node.interface_at(neighbour.port, neighbour.vlan) {
                request(node, interface, neighbour.address, neighbour.mac, out);
            }
            true
        });
        in_vain
    }

    /// Forgets the neighbours of interfaces that are gone.
    pub fn configure(&mut self, node: &Node, out: &mut Outcome) {
        self.all.retain(|neighbour| {
            let stays = node.interface_at(neighbour.port, neighbour.vlan).is_some();
            if !stays {
                let unreachable = Fate::Dropped(DropReason::NeighbourUnreachable);
                neighbour.held.iter().for_each(|_| out.count(unreachable));
            }
            stays
        });
    }
}

fn address_frame(frame: &mut [u8], mac: Mac) {
    frame[..6].copy_from_slice(&mac);
}

/// Asks for a neighbour: everyone while its MAC address is unknown, itself to confirm it. Without an address to ask from, nothing
/// is sent.
fn request(node: &Node, interface: usize, neighbour: IpAddr, known: Option<Mac>, out: &mut Outcome) {
    let Some(from) = node.address_towards(interface, neighbour) else { return };
    let port = node.interface(interface).port;
    let own = node.mac(port);
    let frame = match (from, neighbour) {
        (IpAddr::V4(from), IpAddr::V4(neighbour)) => {
            let packet = arp::packet(arp::REQUEST, own, from, [0; 6], neighbour);
            enframe(node, interface, known.unwrap_or([0xff; 6]), Kind::Arp, &packet)
        }
        (IpAddr::V6(from), IpAddr::V6(neighbour)) => {
            let group = solicited_node(neighbour);
            let (dst, dst_mac) = match known {
                Some(mac) => (neighbour, mac),
                None => (group, group_mac(group)),
            };
            let packet = nd::solicitation(from, dst, neighbour, own);
            enframe(node, interface, dst_mac, Kind::V6, &packet)
        }
        _ => return,
    };
    out.originate(port, frame);
}

/// RFC 4291 s2.7.1.
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// RFC 2464 s7.
fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}
