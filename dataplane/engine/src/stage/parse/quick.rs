//! The packets that nearly all traffic consists of, in a few straight lines: unicast to the port's address, untagged or tagged once, IPv4
//! without options or IPv6 without extension headers, TCP or UDP, no fragment, ordinary addresses. Whatever is not surely so is left
//! to [`headers`](super::headers), which has the last word; a property test holds both to the same reference.

use super::Head;
use crate::burst::NONE;
use crate::flow::{FlowKey, v4};
use crate::io::Mac;
use crate::ports::{PortFacts, PortSlot, UNTAGGED};
use crate::snapshot::Snapshot;
use crate::wire::{ETHERNET, ETHERTYPE_VLAN, TAG, TCP, UDP, fold};

/// What is the same for all packets of a burst.
pub struct Place {
    /// The receiving port.
    pub port: PortSlot,
    /// Its address.
    pub mac: Mac,
    /// Its address again: in the upper 48 bits as they are loaded from a frame.
    own: u64,
    /// Interface of untagged packets, [`NONE`] for none.
    untagged: u32,
}

impl Place {
    /// Of a port under a generation.
    pub fn new(port: PortSlot, facts: &PortFacts, snapshot: &Snapshot) -> Self {
        let mac = facts.mac(port);
        let own = u64::from_le_bytes([0, 0, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]]);
        Self { port, mac, own, untagged: snapshot.interface_at(port, UNTAGGED).unwrap_or(NONE) }
    }
}

/// IPv4 first octets that want a closer look: 0/8, 127/8, 169/8 (for 169.254/16), multicast and class E.
const ODD_V4: [bool; 256] = {
    let mut odd = [false; 256];
    (odd[0], odd[127], odd[169]) = (true, true, true);
    let mut octet = 224;
    while octet < 256 {
        odd[octet] = true;
        octet += 1;
    }
    odd
};

/// Fills in where the L3 header is and on which interface the frame came, and returns the EtherType: of IPv4 and IPv6 for us on a known
/// interface; 0 of everything else.
#[inline(always)]
pub fn ethernet(frame: &[u8], place: &Place, snapshot: &Snapshot, head: &mut Head) -> u16 {
    let Some(header) = frame.first_chunk::<{ ETHERNET + TAG }>() else { return 0 };
    // Both addresses as they are loaded, two octets of what comes next shifted out.
    let (to, from) = (word(header, 0) << 16, word(header, 6) << 16);
    let (mut ethertype, mut l3, mut vlan, mut interface) =
        (u16::from_be_bytes([header[12], header[13]]), ETHERNET, UNTAGGED, place.untagged);
    if ethertype == ETHERTYPE_VLAN {
        vlan = u16::from_be_bytes([header[14], header[15]]) & 0xfff;
        ethertype = u16::from_be_bytes([header[16], header[17]]);
        (l3, interface) = (ETHERNET + TAG, snapshot.interface_at(place.port, vlan).unwrap_or(NONE));
    }
    (head.interface, head.vlan, head.l3) = (interface, vlan, l3 as u8);
    // The group bit is the lowest of the first octet.
    let known = (to == place.own) & (from != place.own) & (from != 0) & (from >> 16 & 1 == 0) & (interface != NONE);
    if known { ethertype } else { 0 }
}

/// Eight octets at `at`, first octet least significant.
#[inline(always)]
fn word(header: &[u8; ETHERNET + TAG], at: usize) -> u64 {
    header[at..].first_chunk().map_or(0, |octets| u64::from_le_bytes(*octets))
}

/// Fills in `head` and `key` behind [`ethernet`] of a packet, from its L3 header on. False: nothing is known, and what they hold means
/// nothing. Whether an end is an address of this node stays to be asked.
#[inline(always)]
pub fn ipv4(packet: &[u8], head: &mut Head, key: &mut FlowKey) -> bool {
    // As far as the ports.
    let Some(header) = packet.first_chunk::<24>() else { return false };
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    // The sum does not depend on the order of octets (RFC 1071 s2B), so machine words will do.
    let words: [u32; 5] = std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|j| header[4 * i + j])));
    let sum = words.iter().map(|&word| u64::from(word)).sum();
    if (header[0] != 0x45)
        | (fragment & 0x3fff != 0)
        | (fold(sum) != 0xffff)
        | ODD_V4[usize::from(header[12])]
        | ODD_V4[usize::from(header[16])]
    {
        return false;
    }
    head.protocol = header[9];
    head.ttl = header[8];
    head.v6 = false;
    head.dont_fragment = fragment & 0x4000 != 0;
    key.src = v4(u32::from_be_bytes([header[12], header[13], header[14], header[15]]));
    key.dst = v4(u32::from_be_bytes([header[16], header[17], header[18], header[19]]));
    let ports = [header[20], header[21], header[22], header[23]];
    layer4::<20>(packet, ports, total, head, key)
}

/// The same for IPv6.
#[inline(always)]
pub fn ipv6(packet: &[u8], head: &mut Head, key: &mut FlowKey) -> bool {
    let Some(header) = packet.first_chunk::<44>() else { return false };
    let payload = u16::from_be_bytes([header[4], header[5]]);
    // ::/8 holds the unspecified, loopback and mapped addresses; above fe are link-local, site-local and multicast ones.
    let odd = |octet: u8| octet.wrapping_sub(1) >= 0xfd;
    if (header[0] >> 4 != 6) | odd(header[8]) | odd(header[24]) {
        return false;
    }
    head.protocol = header[6];
    head.ttl = header[7];
    head.v6 = true;
    head.dont_fragment = true;
    key.src = u128::from_be_bytes(std::array::from_fn(|i| header[8 + i]));
    key.dst = u128::from_be_bytes(std::array::from_fn(|i| header[24 + i]));
    let ports = [header[40], header[41], header[42], header[43]];
    layer4::<40>(packet, ports, 40 + usize::from(payload), head, key)
}

/// Neither end is an address of this node or a broadcast address.
#[inline]
pub fn ordinary(snapshot: &Snapshot, key: &FlowKey) -> bool {
    !(snapshot.may_be_special(key.src) | snapshot.may_be_special(key.dst))
}

/// TCP and UDP behind an L3 header of `HEADER` octets, in the same few steps: which it is alternates, too.
#[inline(always)]
fn layer4<const HEADER: usize>(
    packet: &[u8],
    ports: [u8; 4],
    total: usize,
    head: &mut Head,
    key: &mut FlowKey,
) -> bool {
    let (tcp, udp) = (head.protocol == TCP, head.protocol == UDP);
    // The word with data offset and flags, or the one with the length.
    let (least, at) = if tcp { (20, HEADER + 12) } else { (8, HEADER + 4) };
    let Some(&[high, low]) = packet.get(at..at + 2) else { return false };
    let word = u16::from_be_bytes([high, low]);
    let (len, flags) = if tcp { (word >> 12 << 2, low) } else { (word, 0) };
    head.l3_len = total as u16;
    head.l4 = u16::from(head.l3) + HEADER as u16;
    head.flags_or_type = flags;
    (head.fragment, head.later_fragment, head.blind, head.group_mac) = (false, false, false, false);
    key.protocol = head.protocol;
    key.sport = u16::from_be_bytes([ports[0], ports[1]]);
    key.dport = u16::from_be_bytes([ports[2], ports[3]]);
    let len = usize::from(len);
    (tcp | udp) & (len >= least) & (len + HEADER <= total) & (total <= packet.len())
}
