//! Announcements of addresses that appear: gratuitous ARP (RFC 5227 s3), unsolicited advertisements (RFC 4861 s7.2.6).

use std::net::{IpAddr, Ipv6Addr};

use super::layer2::{Kind, enframe};
use super::node::Node;
use super::outcome::Outcome;
use super::{arp, nd};

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;
const TIMES: u8 = 3;
const PER_MILLISECOND: usize = 32;

/// One address on one link.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    port: usize,
    vlan: Option<u16>,
    ip: IpAddr,
}

/// What was announced and what will be.
#[derive(Clone, Debug, Default)]
pub(super) struct Announcements {
    /// Whether the node announces at all.
    pub wanted: bool,
    known: Vec<Address>,
    /// Due when, how often still; in order of planning.
    planned: Vec<(u64, Address, u8)>,
    /// Millisecond of each announcement of the running one.
    sent: Vec<u64>,
}

impl Announcements {
    pub fn tick(&mut self, now: u64, node: &Node, out: &mut Outcome) {
        if !self.wanted {
            return;
        }
        let here = addresses(node);
        self.known.retain(|address| here.contains(address));
        self.planned.retain(|(_, address, _)| here.contains(address));
        for address in here {
            if !self.known.contains(&address) {
                self.planned.push((now, address.clone(), TIMES));
                self.known.push(address);
            }
        }
        self.sent.retain(|millisecond| *millisecond == now / MILLISECOND);
        while self.sent.len() < PER_MILLISECOND {
            // The earliest; of those planned for the same time the first.
            let next =
                (0..self.planned.len()).filter(|&at| self.planned[at].0 <= now).min_by_key(|&at| self.planned[at].0);
            let Some(at) = next else { return };
            let (_, address, times) = self.planned.remove(at);
            self.sent.push(now / MILLISECOND);
            announce(node, &address, out);
            if times > 1 {
                self.planned.push((now + SECOND, address, times - 1));
            }
        }
    }
}

/// Own addresses in their order, then those of services and pools inside connected prefixes, interface by interface.
fn addresses(node: &Node) -> Vec<Address> {
    let of_services = node.tables.services.iter().flat_map(|s| s.addresses.iter().chain(&s.source_pool));
    let mut services: Vec<IpAddr> = of_services.copied().collect();
    services.sort_unstable();
    services.dedup();
    let mut all = Vec::new();
    for (index, interface) in node.tables.interfaces.iter().enumerate() {
        let near = services.iter().copied().filter(|ip| node.is_connected(index, *ip));
        for ip in interface.addresses.iter().map(|cidr| cidr.addr).chain(near) {
            let address = Address { port: interface.port, vlan: interface.vlan, ip };
            if !all.contains(&address) {
                all.push(address);
            }
        }
    }
    all
}

fn announce(node: &Node, address: &Address, out: &mut Outcome) {
    let Some(interface) = node.interface_at(address.port, address.vlan) else { return };
    let mac = node.mac(address.port);
    let frame = match address.ip {
        IpAddr::V4(ip) => {
            let packet = arp::packet(arp::REQUEST, mac, ip, [0; 6], ip);
            enframe(node, interface, [0xff; 6], Kind::Arp, &packet)
        }
        IpAddr::V6(ip) => {
            let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let packet = nd::announcement(ip, everybody, mac);
            enframe(node, interface, [0x33, 0x33, 0, 0, 0, 1], Kind::V6, &packet)
        }
    };
    out.originate(address.port, frame);
}
