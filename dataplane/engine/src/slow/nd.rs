//! IPv6 neighbour discovery (RFC 4861): solicitations and advertisements.

use crate::flow::Addr;
use crate::io::{Mac, PacketBuf};
use crate::ledger::Backend;
use crate::reason::{ConsumeReason, DropReason};
use crate::slow::arp::{answers_for, ethernet};
use crate::slow::neighbour::send_frame;
use crate::slow::{SlowPath, Subject};
use crate::stage::parse::{is_link_local, link_local};
use crate::table::neighbours::NeighbourKey;
use crate::wire::{ETHERTYPE_IPV6, ICMPV6, be128, checksum, pseudo_header, put};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ALL_NODES: Addr = 0xff02 << 112 | 1;
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// A valid message.
struct Message {
    kind: u8,
    flags: u8,
    target: Addr,
    source_mac: Option<Mac>,
    target_mac: Option<Mac>,
    has_source_option: bool,
}

impl Message {
    /// RFC 4861 s7.1, the checksum excepted.
    fn parse(body: &[u8], hop_limit: u8) -> Option<Self> {
        let target = be128(body, 8);
        if body.len() < 24 || hop_limit != 255 || body[1] != 0 || target >> 120 == 0xff {
            return None;
        }
        let mut message = Self {
            kind: body[0],
            flags: body[4],
            target,
            source_mac: None,
            target_mac: None,
            has_source_option: false,
        };
        let mut options = &body[24..];
        while let [kind, len, ..] = *options {
            let len = usize::from(len) * 8;
            if len == 0 || len > options.len() {
                return None;
            }
            let mac = Mac::try_from(options.get(2..len).unwrap_or(&[])).ok().filter(|m| m[0] & 1 == 0 && *m != [0; 6]);
            match kind {
                SOURCE_LINK_LAYER => {
                    message.source_mac = message.source_mac.or(mac);
                    message.has_source_option = true;
                }
                TARGET_LINK_LAYER => message.target_mac = message.target_mac.or(mac),
                _ => {}
            }
            options = &options[len..];
        }
        // A single octet is no option.
        options.is_empty().then_some(message)
    }
}

impl<K: Backend> SlowPath<K> {
    pub(super) fn nd(&mut self, now: u64, subject: &Subject, packet: K::Buf) {
        let frame = packet.data();
        let end = usize::from(subject.head.l3) + usize::from(subject.head.l3_len);
        let body = frame.get(usize::from(subject.head.l4)..end).unwrap_or(&[]);
        let from: Mac = frame.get(6..12).and_then(|m| m.try_into().ok()).unwrap_or_default();
        let done = match Message::parse(body, subject.head.ttl) {
            Some(message) if message.kind == SOLICITATION => self.solicited(now, subject, &message, from),
            Some(message) => self.advertised(now, subject, &message),
            None => false,
        };
        if done {
            self.out.consume(packet, ConsumeReason::Nd);
        } else {
            self.out.drop(packet, DropReason::NeighbourIgnored);
        }
    }

    fn solicited(&mut self, now: u64, subject: &Subject, message: &Message, from: Mac) -> bool {
        let (source, destination) = (subject.key.src, subject.key.dst);
        if source == 0 && (destination != solicited_node(message.target) || message.has_source_option) {
            return false;
        }
        let snapshot = self.reader.current();
        let mac = self.out.facts.mac(subject.port);
        let Some(interface) = snapshot.interface(subject.head.interface) else { return false };
        if message.target != link_local(mac) && !answers_for(snapshot, interface, message.target) {
            return false;
        }
        let ours = snapshot.is_own(source) || snapshot.services.is_address(source) || source == link_local(mac);
        let on_link = is_link_local(source) || interface.connected_to(source).is_some();
        let vlan = subject.head.vlan;
        if let Some(source_mac) = message.source_mac
            && source != 0
            && !ours
            && on_link
        {
            let key = NeighbourKey { port: subject.port, vlan, address: source };
            self.neighbours.learn(now, subject.worker, key, source_mac, &mut self.out);
        }
        let (to, to_mac, flags) = if source == 0 {
            (ALL_NODES, ALL_NODES_MAC, ROUTER | OVERRIDE)
        } else {
            (source, from, ROUTER | SOLICITED | OVERRIDE)
        };
        let answer = advertisement(mac, to_mac, message.target, to, flags, vlan);
        send_frame(subject.worker, &answer, subject.port, &mut self.out);
        true
    }

    fn advertised(&mut self, now: u64, subject: &Subject, message: &Message) -> bool {
        let key = NeighbourKey { port: subject.port, vlan: subject.head.vlan, address: message.target };
        let Some(mac) = message.target_mac else { return false };
        self.neighbours.accepts(&key, mac, message.flags & OVERRIDE != 0)
            && self.neighbours.update(now, key, mac, &mut self.out)
    }
}

/// ff02::1:ff00:0/104 and the last 24 bits (RFC 4291 s2.7.1).
fn solicited_node(addr: Addr) -> Addr {
    0xff02 << 112 | 0x1_ff00_0000 | addr & 0xff_ffff
}

/// The Ethernet address of an IPv6 multicast group (RFC 2464 s7).
fn group_mac(group: Addr) -> Mac {
    let [a, b, c, d] = (group as u32).to_be_bytes();
    [0x33, 0x33, a, b, c, d]
}

/// A solicitation: to the solicited-node group, or to the neighbour itself when its MAC address is known.
pub(super) fn solicitation(mac: Mac, source: Addr, target: Addr, known: Option<Mac>, vlan: u16) -> Vec<u8> {
    let (to, to_mac) = match known {
        Some(known) => (target, known),
        None => (solicited_node(target), group_mac(solicited_node(target))),
    };
    message(mac, to_mac, (source, to), SOLICITATION, 0, target, SOURCE_LINK_LAYER, vlan)
}

fn advertisement(mac: Mac, to_mac: Mac, target: Addr, to: Addr, flags: u8, vlan: u16) -> Vec<u8> {
    message(mac, to_mac, (target, to), ADVERTISEMENT, flags, target, TARGET_LINK_LAYER, vlan)
}

/// Unsolicited, to all nodes.
pub(super) fn announcement(mac: Mac, address: Addr, vlan: u16) -> Vec<u8> {
    advertisement(mac, ALL_NODES_MAC, address, ALL_NODES, ROUTER | OVERRIDE, vlan)
}

#[expect(clippy::too_many_arguments, reason = "the fields of the message in order")]
fn message(
    mac: Mac,
    to_mac: Mac,
    (src, dst): (Addr, Addr),
    kind: u8,
    flags: u8,
    target: Addr,
    option: u8,
    vlan: u16,
) -> Vec<u8> {
    const BODY: usize = 32;
    let mut frame = ethernet(mac, to_mac, ETHERTYPE_IPV6, vlan);
    frame.extend([0x60, 0, 0, 0, 0, BODY as u8, ICMPV6, 255]);
    frame.extend(src.to_be_bytes());
    frame.extend(dst.to_be_bytes());
    let at = frame.len();
    frame.extend([kind, 0, 0, 0, flags, 0, 0, 0]);
    frame.extend(target.to_be_bytes());
    frame.extend([option, 1]);
    frame.extend(mac);
    let sum = checksum(&frame[at..], pseudo_header(src, dst, true, ICMPV6, BODY));
    put(&mut frame, at + 2, &sum.to_be_bytes());
    frame
}
