//! Addresses that appear here are made known to the links: gratuitous ARP (RFC 5227 s3) and unsolicited neighbour advertisements (RFC 4861
//! s7.2.6), so that neighbours which knew another station for them change over at once.

use std::collections::{BTreeMap, HashSet};

use crate::flow::is_v4;
use crate::ledger::Backend;
use crate::ports::PortFacts;
use crate::slow::neighbour::send_frame;
use crate::slow::{Output, arp, nd};
use crate::snapshot::Snapshot;
use crate::table::neighbours::NeighbourKey;

/// Times an address is announced: frames get lost, and nobody answers these (RFC 4861 MAX_NEIGHBOR_ADVERTISEMENT).
const TIMES: u8 = 3;
/// Between two announcements of an address, in nanoseconds.
const PAUSE: u64 = 1_000_000_000;
/// Announcements in one millisecond of the clock: ten thousand addresses take a third of a second and no link notices.
const PER_MILLISECOND: u32 = 32;
const MILLISECOND: u64 = 1_000_000;

/// What is made known, and when.
#[derive(Default)]
pub(super) struct Announcements {
    /// Addresses by link that were or are being announced.
    known: HashSet<NeighbourKey>,
    /// By time and order: the address and how often it is still announced.
    due: BTreeMap<(u64, u64), (NeighbourKey, u8)>,
    order: u64,
    /// Openings of ports that were taken notice of.
    openings: u64,
    /// The running millisecond and what was sent in it.
    sent: (u64, u32),
}

impl Announcements {
    /// Whether ports were opened since the last look.
    pub(super) fn is_stale(&self, facts: &PortFacts) -> bool {
        self.openings != facts.openings()
    }

    /// Takes notice of a generation and of ports that were opened.
    pub(super) fn look(&mut self, now: u64, snapshot: &Snapshot, facts: &PortFacts) {
        let before = std::mem::replace(&mut self.openings, facts.openings());
        self.known.retain(|key| facts.opened_at(key.port) <= before);
        let wanted = addresses(snapshot, facts);
        let all: HashSet<_> = wanted.iter().copied().collect();
        self.known.retain(|key| all.contains(key));
        let known = &self.known;
        self.due.retain(|_, (key, _)| known.contains(key));
        for key in wanted {
            if self.known.insert(key) {
                self.plan(now, key, TIMES);
            }
        }
    }

    /// Sends what is due.
    pub(super) fn turn<K: Backend>(&mut self, now: u64, out: &mut Output<K>) {
        while let Some(entry) = self.due.first_entry()
            && entry.key().0 <= now
            && self.sent != (now / MILLISECOND, PER_MILLISECOND)
        {
            let (key, left) = entry.remove();
            if self.sent.0 != now / MILLISECOND {
                self.sent = (now / MILLISECOND, 0);
            }
            self.sent.1 += 1;
            let mac = out.facts.mac(key.port);
            let frame = if is_v4(key.address) {
                arp::announcement(mac, key.address as u32, key.vlan)
            } else {
                nd::announcement(mac, key.address, key.vlan)
            };
            // Any worker can send on any port.
            send_frame(0, &frame, key.port, out);
            if left > 1 {
                self.plan(now + PAUSE, key, left - 1);
            }
        }
    }

    fn plan(&mut self, at: u64, key: NeighbourKey, times: u8) {
        self.due.insert((at, self.order), (key, times));
        self.order += 1;
    }
}

/// Addresses that are announced: those that ARP and ND answer for, but for the link-local ones, which nobody takes over.
fn addresses(snapshot: &Snapshot, facts: &PortFacts) -> Vec<NeighbourKey> {
    let mut all = Vec::new();
    for interface in snapshot.interfaces().iter().filter(|i| facts.mac_word(i.port) != 0) {
        let services = snapshot.services.addresses().iter().copied();
        let here = services.filter(|&address| interface.connected_to(address).is_some());
        all.extend(interface.addresses.iter().map(|own| own.0).chain(here).map(|address| interface.neighbour(address)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{Budget, build};
    use crate::tables::{Cidr, InterfaceSpec, PortSpec, RuleTables};

    #[test]
    fn a_port_that_is_opened_again_announces_again() {
        let port = |name: &str| PortSpec { name: name.into(), device: String::new(), mtu: 1500 };
        let interface = |name: &str, port, last: u8| InterfaceSpec {
            name: name.into(),
            port,
            addresses: vec![Cidr { addr: [192, 0, last, 1].into(), len: 24 }],
            ..InterfaceSpec::default()
        };
        let interfaces = vec![interface("a0", 0, 1), interface("b0", 1, 2)];
        let tables = RuleTables { ports: vec![port("a"), port("b")], interfaces, ..RuleTables::default() };
        let snapshot = build(&tables, None, &Budget::default()).unwrap();
        let slots: Vec<_> = snapshot.ports().map(|(slot, _)| slot).collect();
        let (facts, mut announcements) = (PortFacts::default(), Announcements::default());
        announcements.look(0, &snapshot, &facts);
        assert!(announcements.due.is_empty(), "no device, nobody to tell");
        for (expected, slot) in [(1, slots[0]), (2, slots[1]), (3, slots[0])] {
            facts.set_mac(slot, [2, 0, 0, 0, 0, 1]);
            assert!(announcements.is_stale(&facts));
            announcements.look(0, &snapshot, &facts);
            assert!(!announcements.is_stale(&facts));
            assert_eq!(announcements.order, expected);
        }
    }
}
