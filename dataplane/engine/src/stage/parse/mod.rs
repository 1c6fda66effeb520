//! parse: L2, L3 and L4 headers, own addresses (`BEHAVIOUR.md` 1 to 4).
//!
//! Reads the frame. Writes `head`, `key`; cuts padding. Ends lanes that are malformed, martian or for the slow path.

mod headers;
pub mod quick;

use crate::burst::{BURST, Burst, Fate, Mask, NONE};
use crate::flow::{Addr, FlowKey};
use crate::io::{Mac, PacketBuf};
use crate::ports::{PortFacts, UNTAGGED};
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::Snapshot;
use crate::stage::related;
use crate::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMPV6, TCP, UDP};

use headers::ended;
pub use headers::{headers, quoted_chain};

/// What the headers of a packet say.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Index of the receiving interface.
    pub interface: u32,
    /// VLAN it came on, [`UNTAGGED`] for none.
    pub vlan: u16,
    /// Offset of the L3 header.
    pub l3: u8,
    /// Offset of the L4 header; beyond any frame where there is none, so that nobody writes into data.
    pub l4: u16,
    /// L3 packet length in octets.
    pub l3_len: u16,
    /// Upper-layer protocol.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv6.
    pub v6: bool,
    /// Part of a fragmented packet.
    pub fragment: bool,
    /// Part of a fragmented packet, and not the first: no L4 header.
    pub later_fragment: bool,
    /// A later fragment whose first one is not known: its protocol is a guess and its ports are zeros.
    pub blind: bool,
    /// IPv4 with DF, or IPv6.
    pub dont_fragment: bool,
    /// The frame went to a group MAC address.
    pub group_mac: bool,
    /// TCP flags, or the ICMP type.
    pub flags_or_type: u8,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            interface: NONE,
            vlan: UNTAGGED,
            l3: 0,
            l4: 0,
            l3_len: 0,
            protocol: 0,
            ttl: 0,
            v6: false,
            fragment: false,
            later_fragment: false,
            blind: false,
            dont_fragment: false,
            group_mac: false,
            flags_or_type: 0,
        }
    }
}

impl Head {
    /// Where the L3 packet ends in the frame.
    #[inline]
    pub fn end(&self) -> usize {
        usize::from(self.l3) + usize::from(self.l3_len)
    }

    /// ICMP over IPv4 or ICMPv6 over IPv6.
    #[inline]
    pub fn is_icmp(&self) -> bool {
        self.protocol == if self.v6 { ICMPV6 } else { ICMP }
    }

    /// An L4 header that was understood is there.
    #[inline]
    pub fn has_l4(&self) -> bool {
        !self.later_fragment && (matches!(self.protocol, TCP | UDP) || self.is_icmp())
    }

    /// Rules may look at its ports: they are in it, or the first fragment told them.
    #[inline]
    pub fn has_ports(&self) -> bool {
        !self.blind && matches!(self.protocol, TCP | UDP)
    }

    /// An ICMP echo request.
    #[inline]
    pub fn is_echo_request(&self) -> bool {
        !self.blind && self.is_icmp() && self.flags_or_type == if self.v6 { 128 } else { 8 }
    }

    /// An ICMP echo reply.
    #[inline]
    pub fn is_echo_reply(&self) -> bool {
        !self.blind && self.is_icmp() && self.flags_or_type == if self.v6 { 129 } else { 0 }
    }

    /// Sessions exist for packets like this.
    #[inline]
    pub fn has_session(&self) -> bool {
        !self.blind && (matches!(self.protocol, TCP | UDP) || self.is_echo_request() || self.is_echo_reply())
    }
}

/// Runs the stage.
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, snapshot: &Snapshot, facts: &PortFacts) {
    let port = burst.port;
    if !snapshot.knows_port(port) {
        for lane in burst.active.lanes() {
            burst.drop(lane, DropReason::PortNotConfigured);
        }
        return;
    }
    let place = quick::Place::new(port, facts, snapshot);
    let active = burst.active;
    let (packets, columns) = burst.parts();
    let mut frames = [&[][..]; BURST];
    // One family after the other: a branch on what alternates at random is a wrong guess every other time.
    let (mut v4, mut v6, mut done, mut padded) = (Mask::default(), Mask::default(), Mask::default(), Mask::default());
    for lane in active.lanes() {
        let index = lane.index();
        frames[index] = packets.get(index).map_or(&[], PacketBuf::data);
        let ethertype = quick::ethernet(frames[index], &place, snapshot, &mut columns.head[index]);
        v4.insert_if(lane, ethertype == ETHERTYPE_IPV4);
        v6.insert_if(lane, ethertype == ETHERTYPE_IPV6);
    }
    for lane in v4.lanes() {
        let index = lane.index();
        let (head, key) = (&mut columns.head[index], &mut columns.key[index]);
        let packet = frames[index].get(usize::from(head.l3)..).unwrap_or(&[]);
        done.insert_if(lane, quick::ipv4(packet, head, key) & quick::ordinary(snapshot, key));
        padded.insert_if(lane, frames[index].len() != columns.head[index].end());
    }
    for lane in v6.lanes() {
        let index = lane.index();
        let (head, key) = (&mut columns.head[index], &mut columns.key[index]);
        let packet = frames[index].get(usize::from(head.l3)..).unwrap_or(&[]);
        done.insert_if(lane, quick::ipv6(packet, head, key) & quick::ordinary(snapshot, key));
        padded.insert_if(lane, frames[index].len() != columns.head[index].end());
    }
    // Frames that end where their packet does, which most do, stay as they are.
    for lane in done.and(padded).lanes() {
        if let Some(packet) = packets.get_mut(lane.index()) {
            cut(packet, &columns.head[lane.index()]);
        }
    }
    burst.v6 = done.and(v6);
    for lane in active.without(done).lanes() {
        let Some((packet, columns)) = burst.packet_and_columns(lane) else { continue };
        let (head, key) = (&mut columns.head[lane.index()], &mut columns.key[lane.index()]);
        let outcome = slow(packet, &place, snapshot, head, key);
        let (is_v6, is_fragment) = (head.v6, head.fragment);
        let is_error = related::may_be_about_session(head);
        burst.v6.insert_if(lane, is_v6);
        burst.fragments.insert_if(lane, is_fragment);
        burst.errors.insert_if(lane, is_error);
        if let Err(fate) = outcome {
            burst.settle(lane, fate);
        }
    }
}

/// Cuts padding.
#[inline]
fn cut<B: PacketBuf>(packet: &mut B, head: &Head) {
    // Shrinking always succeeds.
    let _ = packet.resize(head.end());
}

/// Everything that is not quite ordinary.
#[cold]
fn slow<B: PacketBuf>(
    packet: &mut B,
    place: &quick::Place,
    snapshot: &Snapshot,
    head: &mut Head,
    key: &mut FlowKey,
) -> Result<(), Fate> {
    *head = Head::default();
    headers(packet.data(), place.mac, place.port, snapshot, head, key)?;
    cut(packet, head);
    own_address(head, key, place.mac, snapshot)
}

/// Section 4: packets for this node itself.
#[inline]
fn own_address(head: &Head, key: &FlowKey, mac: Mac, snapshot: &Snapshot) -> Result<(), Fate> {
    if head.v6 && key.dst >> 120 == 0xff {
        let discovery = head.has_l4() && head.is_icmp() && !head.fragment && matches!(head.flags_or_type, 135 | 136);
        return if discovery { Err(Fate::Punt(PuntReason::Local)) } else { ended(DropReason::Multicast) };
    }
    if snapshot.is_own(key.dst) || (head.v6 && key.dst == link_local(mac)) {
        return if head.group_mac {
            ended(DropReason::Multicast)
        } else if head.fragment {
            ended(DropReason::FragmentUnsupported)
        } else {
            Err(Fate::Punt(PuntReason::Local))
        };
    }
    if head.group_mac {
        return ended(DropReason::Multicast);
    }
    if head.v6 {
        if key.src == 0 || is_link_local(key.src) {
            return ended(DropReason::MartianSource);
        }
        if is_link_local(key.dst) {
            return ended(DropReason::MartianDestination);
        }
    }
    Ok(())
}

/// fe80::/10.
pub fn is_link_local(addr: Addr) -> bool {
    addr >> 118 == 0xfe80 >> 6
}

/// The link-local address of an interface: fe80::/64 and the EUI-64 of its MAC address (RFC 4291 app. A).
pub fn link_local(mac: Mac) -> Addr {
    let id = [mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]];
    0xfe80 << 112 | u128::from(u64::from_be_bytes(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_follow_eui64() {
        let text = std::net::Ipv6Addr::from_bits(link_local([0x02, 0, 0x5e, 0x10, 0, 1])).to_string();
        assert_eq!(text, "fe80::5eff:fe10:1");
        assert!(is_link_local(link_local([0; 6])));
        assert!(!is_link_local(0xfec0 << 112));
    }
}
