//! The packets that nearly all traffic consists of, in a few straight lines: unicast to the port's address, untagged or tagged once, IPv4
//! without options or IPv6 without extension headers, TCP or UDP, no fragment, ordinary addresses. Whatever is not surely so is left
//! to [`headers`](super::headers), which has the last word; a property test holds both to the same reference.

use super::Head;
use crate::flow::{FlowKey, v4};
use crate::io::Mac;
use crate::ports::{PortFacts, PortSlot, UNTAGGED};
use crate::snapshot::Snapshot;
use crate::wire::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, TAG, TCP, UDP, fold};

/// What is the same for all packets of a burst.
pub struct Place {
    /// The receiving port.
    pub port: PortSlot,
    /// Its address.
    pub mac: Mac,
    /// Interface of untagged packets.
    untagged: Option<u32>,
}

impl Place {
    /// Of a port under a generation.
    pub fn new(port: PortSlot, facts: &PortFacts, snapshot: &Snapshot) -> Self {
        Self { port, mac: facts.mac(port), untagged: snapshot.interface_at(port, UNTAGGED) }
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

/// Fills in `head` and `key`. False: nothing is known, and what they hold means nothing.
#[inline]
pub fn parse(frame: &[u8], place: &Place, snapshot: &Snapshot, head: &mut Head, key: &mut FlowKey) -> bool {
    let Some(ethernet) = frame.first_chunk::<{ ETHERNET + TAG }>() else { return false };
    // Six octets as the low 48 bits.
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| ethernet[at + i])) & 0xffff_ffff_ffff;
    let (to, from) = (word(0), word(6));
    let mac = place.mac;
    let own = u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0]);
    if to != own || from == own || from == 0 || from & 1 == 1 {
        return false;
    }
    let mut ethertype = u16::from_be_bytes([ethernet[12], ethernet[13]]);
    let (mut l3, mut vlan, mut interface) = (ETHERNET, UNTAGGED, place.untagged);
    if ethertype == ETHERTYPE_VLAN {
        vlan = u16::from_be_bytes([ethernet[14], ethernet[15]]) & 0xfff;
        ethertype = u16::from_be_bytes([ethernet[16], ethernet[17]]);
        (l3, interface) = (ETHERNET + TAG, snapshot.interface_at(place.port, vlan));
    }
    let Some(interface) = interface else { return false };
    let packet = frame.get(l3..).unwrap_or(&[]);
    let l3_header = match ethertype {
        ETHERTYPE_IPV4 => ipv4(packet, head, key),
        ETHERTYPE_IPV6 => ipv6(packet, head, key),
        _ => return false,
    };
    if !l3_header || snapshot.may_be_special(key.src) || snapshot.may_be_special(key.dst) {
        return false;
    }
    let l3_octets = if head.v6 { 40 } else { 20 };
    let segment = packet.get(l3_octets..usize::from(head.l3_len)).unwrap_or(&[]);
    head.interface = interface;
    head.vlan = vlan;
    head.l3 = l3 as u8;
    head.l4 = (l3 + l3_octets) as u16;
    (head.fragment, head.later_fragment, head.group_mac) = (false, false, false);
    match head.protocol {
        TCP => tcp(segment, head, key),
        UDP => udp(segment, head, key),
        _ => false,
    }
}

#[inline]
fn ipv4(packet: &[u8], head: &mut Head, key: &mut FlowKey) -> bool {
    let Some(header) = packet.first_chunk::<20>() else { return false };
    let total = u16::from_be_bytes([header[2], header[3]]);
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    // The sum does not depend on the order of octets (RFC 1071 s2B), so machine words will do.
    let words: [u32; 5] = std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|j| header[4 * i + j])));
    let sum = words.iter().map(|&word| u64::from(word)).sum();
    if header[0] != 0x45
        || usize::from(total) > packet.len()
        || total < 20
        || fragment & 0x3fff != 0
        || fold(sum) != 0xffff
        || ODD_V4[usize::from(header[12])]
        || ODD_V4[usize::from(header[16])]
    {
        return false;
    }
    head.l3_len = total;
    head.protocol = header[9];
    head.ttl = header[8];
    head.v6 = false;
    head.dont_fragment = fragment & 0x4000 != 0;
    key.src = v4(u32::from_be_bytes([header[12], header[13], header[14], header[15]]));
    key.dst = v4(u32::from_be_bytes([header[16], header[17], header[18], header[19]]));
    key.protocol = header[9];
    true
}

#[inline]
fn ipv6(packet: &[u8], head: &mut Head, key: &mut FlowKey) -> bool {
    let Some(header) = packet.first_chunk::<40>() else { return false };
    let total = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    // ::/8 holds the unspecified, loopback and mapped addresses; above fe are link-local, site-local and multicast ones.
    let odd = |octet: u8| octet == 0 || octet >= 0xfe;
    if header[0] >> 4 != 6 || total > packet.len() || odd(header[8]) || odd(header[24]) {
        return false;
    }
    head.l3_len = total as u16;
    head.protocol = header[6];
    head.ttl = header[7];
    head.v6 = true;
    head.dont_fragment = true;
    key.src = u128::from_be_bytes(std::array::from_fn(|i| header[8 + i]));
    key.dst = u128::from_be_bytes(std::array::from_fn(|i| header[24 + i]));
    key.protocol = header[6];
    true
}

#[inline]
fn tcp(segment: &[u8], head: &mut Head, key: &mut FlowKey) -> bool {
    let Some(header) = segment.first_chunk::<20>() else { return false };
    let len = usize::from(header[12] >> 4) * 4;
    head.flags_or_type = header[13];
    ports(header, key);
    (20..=segment.len()).contains(&len)
}

#[inline]
fn udp(segment: &[u8], head: &mut Head, key: &mut FlowKey) -> bool {
    let Some(header) = segment.first_chunk::<8>() else { return false };
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    head.flags_or_type = 0;
    ports(header, key);
    (8..=segment.len()).contains(&len)
}

#[inline]
fn ports(header: &[u8], key: &mut FlowKey) {
    if let [s0, s1, d0, d1, ..] = *header {
        (key.sport, key.dport) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    }
}
