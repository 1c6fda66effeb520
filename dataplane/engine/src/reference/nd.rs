//! Neighbour discovery (RFC 4861 s7).

use std::net::{IpAddr, Ipv6Addr};

use super::Reference;
use super::layer2::{Frame, Kind, enframe, is_station, mac_at};
use super::layer4::{ICMPV6, Ip, Message};
use super::neighbour::solicited_node;
use super::node::is_link_local;
use super::outcome::{Fate, Outcome};
use crate::io::Mac;
use crate::reason::{ConsumeReason, DropReason};

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

const IGNORED: Fate = Fate::Dropped(DropReason::NeighbourIgnored);

impl Reference {
    /// A solicitation or advertisement whose checksum is right.
    pub(super) fn nd(&mut self, now: u64, frame: &Frame, ip: &Ip, message: Message, out: &mut Outcome) -> Fate {
        let body = ip.body();
        if ip.bytes[7] != 255 || body[1] != 0 || body.len() < 24 {
            return IGNORED;
        }
        let target = Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| body[8 + i]));
        let Some(options) = options(&body[24..]) else { return IGNORED };
        if target.is_multicast() {
            return IGNORED;
        }
        if message == Message::Solicitation {
            self.solicited(now, frame, ip, target, &options, out)
        } else {
            self.advertised(now, frame, ip, target, &options, out)
        }
    }

    /// RFC 4861 s7.1.1, s7.2.3, s7.2.4.
    fn solicited(
        &mut self,
        now: u64,
        frame: &Frame,
        ip: &Ip,
        target: Ipv6Addr,
        options: &[(u8, Option<Mac>)],
        out: &mut Outcome,
    ) -> Fate {
        let source_mac = link_layer(options, SOURCE_LINK_LAYER);
        let IpAddr::V6(source) = ip.src else { return IGNORED };
        let has_option = options.iter().any(|(kind, _)| *kind == SOURCE_LINK_LAYER);
        if source.is_unspecified() && (ip.dst != IpAddr::from(solicited_node(target)) || has_option) {
            return IGNORED;
        }
        let interface = frame.interface;
        if !self.node.answers_for(interface, target.into()) {
            return IGNORED;
        }
        if let Some(mac) = source_mac
            && !source.is_unspecified()
            && !self.node.answers_for(interface, ip.src)
            && (is_link_local(ip.src) || self.node.is_connected(interface, ip.src))
        {
            self.neighbours.learn(now, &self.node, interface, ip.src, mac, out);
        }
        let port = self.node.interface(interface).port;
        let own = self.node.mac(port);
        let (dst, dst_mac, flags) = if source.is_unspecified() {
            (Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), [0x33, 0x33, 0, 0, 0, 1], 0)
        } else {
            (source, frame.src_mac, SOLICITED)
        };
        let answer = message(target, dst, 136, flags | ROUTER | OVERRIDE, target, TARGET_LINK_LAYER, own);
        out.originate(port, enframe(&self.node, interface, dst_mac, Kind::V6, &answer));
        Fate::Consumed(ConsumeReason::Nd)
    }

    /// RFC 4861 s7.1.2, s7.2.5.
    fn advertised(
        &mut self,
        now: u64,
        frame: &Frame,
        ip: &Ip,
        target: Ipv6Addr,
        options: &[(u8, Option<Mac>)],
        out: &mut Outcome,
    ) -> Fate {
        let interface = frame.interface;
        let Some(mac) = link_layer(options, TARGET_LINK_LAYER) else { return IGNORED };
        let Some(entry) = self.neighbours.find(&self.node, interface, target.into()) else { return IGNORED };
        let overrides = ip.body()[4] & OVERRIDE != 0;
        if !overrides && entry.mac.is_some_and(|known| known != mac) {
            return IGNORED;
        }
        self.neighbours.update(now, &self.node, interface, target.into(), mac, out);
        Fate::Consumed(ConsumeReason::Nd)
    }
}

/// Type of every option, and the address in it where it can be one; nothing if the list is malformed.
fn options(mut bytes: &[u8]) -> Option<Vec<(u8, Option<Mac>)>> {
    let mut options = Vec::new();
    while !bytes.is_empty() {
        let len = usize::from(*bytes.get(1)?) * 8;
        let option = bytes.get(..len).filter(|_| len > 0)?;
        // RFC 2464 s6: Ethernet addresses fill an option of length 1.
        let mac = (len == 8).then(|| mac_at(option, 2)).filter(|&mac| is_station(mac));
        options.push((option[0], mac));
        bytes = &bytes[len..];
    }
    Some(options)
}

/// The first usable address of a kind.
fn link_layer(options: &[(u8, Option<Mac>)], kind: u8) -> Option<Mac> {
    options.iter().filter(|(k, _)| *k == kind).find_map(|(_, mac)| *mac)
}

/// A solicitation with our address in it.
pub(super) fn solicitation(from: Ipv6Addr, to: Ipv6Addr, target: Ipv6Addr, own: Mac) -> Vec<u8> {
    message(from, to, 135, 0, target, SOURCE_LINK_LAYER, own)
}

/// An advertisement that nobody asked for.
pub(super) fn announcement(from: Ipv6Addr, to: Ipv6Addr, own: Mac) -> Vec<u8> {
    message(from, to, 136, ROUTER | OVERRIDE, from, TARGET_LINK_LAYER, own)
}

/// A whole packet: hop limit 255, one link-layer address option.
fn message(from: Ipv6Addr, to: Ipv6Addr, kind: u8, flags: u8, target: Ipv6Addr, option: u8, mac: Mac) -> Vec<u8> {
    let mut body = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    body.extend(target.octets());
    body.extend([option, 1]);
    body.extend(mac);
    super::icmp::packet_v6(from.into(), to.into(), 0, 255, ICMPV6, body)
}
