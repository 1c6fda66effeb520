//! parse: L2, L3 and L4 headers, own addresses (`BEHAVIOUR.md` 1 to 4).
//!
//! Reads the frame. Writes `head`, `key`; cuts padding. Ends lanes that are malformed, martian or for the slow path.

use crate::burst::{Burst, Fate, NONE};
use crate::flow::{Addr, FlowKey, is_v4, v4};
use crate::io::{Mac, PacketBuf};
use crate::ports::{PortFacts, PortSlot, UNTAGGED};
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::Snapshot;
use crate::wire::{
    ETHERNET, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, ICMP, ICMPV6, TAG, TCP, UDP, be16, be32,
    be128, fold, sum,
};

/// What the headers of a packet say.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Index of the receiving interface.
    pub interface: u32,
    /// VLAN it came on, [`UNTAGGED`] for none.
    pub vlan: u16,
    /// Offset of the L3 header.
    pub l3: u8,
    /// Offset of the L4 header; only with [`Head::has_l4`].
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
            dont_fragment: false,
            group_mac: false,
            flags_or_type: 0,
        }
    }
}

impl Head {
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

    /// Rules may look at its ports.
    #[inline]
    pub fn has_ports(&self) -> bool {
        !self.later_fragment && matches!(self.protocol, TCP | UDP)
    }

    /// An ICMP echo request.
    #[inline]
    pub fn is_echo_request(&self) -> bool {
        self.has_l4() && self.is_icmp() && self.flags_or_type == if self.v6 { 128 } else { 8 }
    }

    /// An ICMP echo reply.
    #[inline]
    pub fn is_echo_reply(&self) -> bool {
        self.has_l4() && self.is_icmp() && self.flags_or_type == if self.v6 { 129 } else { 0 }
    }

    /// Sessions exist for packets like this.
    #[inline]
    pub fn has_session(&self) -> bool {
        !self.fragment && (matches!(self.protocol, TCP | UDP) || self.is_echo_request() || self.is_echo_reply())
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
    let mac = facts.mac(port);
    for lane in burst.active.lanes() {
        if let Some(packet) = burst.packet(lane) {
            packet.prefetch();
        }
    }
    for lane in burst.active.lanes() {
        let Some((packet, columns)) = burst.packet_and_columns(lane) else { continue };
        let (head, key) = (&mut columns.head[lane.index()], &mut columns.key[lane.index()]);
        *head = Head::default();
        let outcome = match headers(packet.data(), mac, port, snapshot, head, key) {
            Ok(()) => {
                let end = usize::from(head.l3) + usize::from(head.l3_len);
                // Shrinking always succeeds.
                let _ = packet.resize(end);
                own_address(head, key, mac, snapshot)
            }
            ended => ended,
        };
        if let Err(fate) = outcome {
            burst.settle(lane, fate);
        }
    }
}

/// Sections 1 to 3: all headers of a frame. `Err` says how the packet ends.
pub fn headers(
    frame: &[u8],
    mac: Mac,
    port: PortSlot,
    snapshot: &Snapshot,
    head: &mut Head,
    key: &mut FlowKey,
) -> Result<(), Fate> {
    let ethertype = ethernet(frame, mac, port, snapshot, head)?;
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, snapshot, head, key)?,
        ETHERTYPE_IPV6 => ipv6(frame, snapshot, head, key)?,
        ETHERTYPE_ARP => return Err(Fate::Punt(PuntReason::Arp)),
        _ => return Err(Fate::Drop(DropReason::EthertypeUnknown)),
    }
    layer4(frame, head, key)
}

#[inline]
fn ethernet(frame: &[u8], mac: Mac, port: PortSlot, snapshot: &Snapshot, head: &mut Head) -> Result<u16, Fate> {
    let Some(header) = frame.first_chunk::<ETHERNET>() else { return drop(DropReason::L2Truncated) };
    head.group_mac = header[0] & 1 == 1;
    if !head.group_mac && header[..6] != mac {
        return drop(DropReason::L2NotForUs);
    }
    if header[6] & 1 == 1 || header[6..12] == mac || header[6..12] == [0; 6] {
        return drop(DropReason::L2BadSource);
    }
    let mut ethertype = be16(header, 12);
    head.l3 = ETHERNET as u8;
    if ethertype == ETHERTYPE_VLAN {
        if frame.len() < ETHERNET + TAG {
            return drop(DropReason::L2Truncated);
        }
        head.vlan = be16(frame, 14) & 0xfff;
        ethertype = be16(frame, 16);
        head.l3 = (ETHERNET + TAG) as u8;
    }
    match snapshot.interface_at(port, head.vlan) {
        Some(interface) => head.interface = interface,
        None => return drop(DropReason::VlanUnknown),
    }
    Ok(ethertype)
}

#[inline]
fn ipv4(frame: &[u8], snapshot: &Snapshot, head: &mut Head, key: &mut FlowKey) -> Result<(), Fate> {
    let packet = frame.get(usize::from(head.l3)..).unwrap_or(&[]);
    let Some(header) = packet.first_chunk::<20>() else { return drop(DropReason::IpMalformed) };
    let header_len = usize::from(header[0] & 15) * 4;
    let total = usize::from(be16(header, 2));
    if header[0] >> 4 != 4 || header_len < 20 || total < header_len {
        return drop(DropReason::IpMalformed);
    }
    if total > packet.len() {
        return drop(DropReason::IpTruncated);
    }
    let options = packet.get(20..header_len).unwrap_or(&[]);
    if fold(sum(header) + sum(options)) != 0xffff {
        return drop(DropReason::IpChecksum);
    }
    let (src, dst) = (be32(header, 12), be32(header, 16));
    if bad_v4_source(src) || snapshot.is_own(v4(src)) {
        return drop(DropReason::MartianSource);
    }
    if bad_v4_destination(dst) {
        return drop(DropReason::MartianDestination);
    }
    if dst >> 28 == 0xe || dst == u32::MAX || snapshot.is_broadcast(v4(dst)) {
        return drop(DropReason::Multicast);
    }
    if !options.is_empty() && !acceptable_options(options) {
        return drop(DropReason::IpOptions);
    }
    let fragment = be16(header, 6);
    head.later_fragment = fragment & 0x1fff != 0;
    head.fragment = fragment & 0x3fff != 0;
    head.dont_fragment = fragment & 0x4000 != 0;
    head.l3_len = total as u16;
    head.l4 = u16::from(head.l3) + header_len as u16;
    head.protocol = header[9];
    head.ttl = header[8];
    *key = FlowKey { src: v4(src), dst: v4(dst), protocol: header[9], sport: 0, dport: 0 };
    Ok(())
}

/// 0/8, 127/8, 169.254/16, multicast, class E.
const fn bad_v4_source(addr: u32) -> bool {
    matches!(addr >> 24, 0 | 127 | 224..) || addr >> 16 == 0xa9fe
}

/// 0/8, 127/8, 169.254/16, class E but the limited broadcast address.
const fn bad_v4_destination(addr: u32) -> bool {
    matches!(addr >> 24, 0 | 127) || addr >> 16 == 0xa9fe || (addr >> 28 == 0xf && addr != u32::MAX)
}

/// No source route, no record route, and a list that parses.
fn acceptable_options(mut options: &[u8]) -> bool {
    loop {
        match options {
            [] | [0, ..] => return true,
            [1, rest @ ..] => options = rest,
            [7 | 131 | 137, ..] | [_] => return false,
            [_, len, ..] => match options.get(usize::from(*len)..) {
                Some(rest) if *len >= 2 => options = rest,
                _ => return false,
            },
        }
    }
}

#[inline]
fn ipv6(frame: &[u8], snapshot: &Snapshot, head: &mut Head, key: &mut FlowKey) -> Result<(), Fate> {
    let packet = frame.get(usize::from(head.l3)..).unwrap_or(&[]);
    let Some(header) = packet.first_chunk::<40>() else { return drop(DropReason::IpMalformed) };
    if header[0] >> 4 != 6 {
        return drop(DropReason::IpMalformed);
    }
    let total = 40 + usize::from(be16(header, 4));
    if total > packet.len() {
        return drop(DropReason::IpTruncated);
    }
    let (src, dst) = (be128(header, 8), be128(header, 24));
    if src >> 120 == 0xff || src == 1 || is_v4(src) || snapshot.is_own(src) {
        return drop(DropReason::MartianSource);
    }
    if dst == 0 || dst == 1 || is_v4(dst) {
        return drop(DropReason::MartianDestination);
    }
    head.v6 = true;
    head.dont_fragment = true;
    // A payload length of 65,535 makes 65,575 octets; no buffer of ours holds that, so the cast is exact.
    head.l3_len = total as u16;
    head.ttl = header[7];
    let offset = extension_headers(&packet[..total], header[6], head)?;
    head.l4 = u16::from(head.l3) + offset as u16;
    *key = FlowKey { src, dst, protocol: head.protocol, sport: 0, dport: 0 };
    Ok(())
}

/// Most extension headers walked.
const MAX_EXTENSION_HEADERS: usize = 8;

/// Walks the chain (RFC 8200 s4) and returns the offset of the upper-layer header.
#[inline]
fn extension_headers(packet: &[u8], first: u8, head: &mut Head) -> Result<usize, Fate> {
    let bad = || drop(DropReason::Ipv6ExtensionHeaders);
    let (mut next, mut at) = (first, 40);
    for walked in 0.. {
        if !matches!(next, 0 | 43 | 44 | 60) {
            break;
        }
        let Some(header) = packet.get(at..at + 8) else { return bad() };
        if walked == MAX_EXTENSION_HEADERS || (next == 0 && walked > 0) {
            return bad();
        }
        // RFC 5095: type 0 with segments left.
        if next == 43 && header[2] == 0 && header[3] != 0 {
            return bad();
        }
        let fragment = next == 44;
        let len = if fragment { 8 } else { (usize::from(header[1]) + 1) * 8 };
        next = header[0];
        at += len;
        if at > packet.len() {
            return bad();
        }
        if fragment {
            let field = be16(header, 2);
            head.later_fragment = field & 0xfff8 != 0;
            // A fragment header with neither offset nor M is an atomic fragment (RFC 6946).
            head.fragment |= field & 0xfff9 != 0;
            if head.later_fragment {
                break;
            }
        }
    }
    head.protocol = next;
    Ok(at)
}

#[inline]
fn layer4(frame: &[u8], head: &mut Head, key: &mut FlowKey) -> Result<(), Fate> {
    if !head.has_l4() {
        return Ok(());
    }
    let end = usize::from(head.l3) + usize::from(head.l3_len);
    let segment = frame.get(usize::from(head.l4)..end).unwrap_or(&[]);
    let whole = !head.fragment;
    match head.protocol {
        TCP => {
            let Some(header) = segment.first_chunk::<20>() else { return drop(DropReason::L4Malformed) };
            let len = usize::from(header[12] >> 4) * 4;
            if len < 20 || (whole && len > segment.len()) {
                return drop(DropReason::L4Malformed);
            }
            (key.sport, key.dport) = (be16(header, 0), be16(header, 2));
            head.flags_or_type = header[13];
        }
        UDP => {
            let Some(header) = segment.first_chunk::<8>() else { return drop(DropReason::L4Malformed) };
            let len = usize::from(be16(header, 4));
            if whole && !(8..=segment.len()).contains(&len) {
                return drop(DropReason::L4Malformed);
            }
            (key.sport, key.dport) = (be16(header, 0), be16(header, 2));
        }
        _ => {
            let Some(header) = segment.first_chunk::<8>() else { return drop(DropReason::L4Malformed) };
            head.flags_or_type = header[0];
            if head.is_echo_request() {
                key.sport = be16(header, 4);
            } else if head.is_echo_reply() {
                key.dport = be16(header, 4);
            }
        }
    }
    Ok(())
}

/// Section 4: packets for this node itself.
#[inline]
fn own_address(head: &Head, key: &FlowKey, mac: Mac, snapshot: &Snapshot) -> Result<(), Fate> {
    if head.v6 && key.dst >> 120 == 0xff {
        let discovery = head.has_l4() && head.is_icmp() && !head.fragment && matches!(head.flags_or_type, 135 | 136);
        return if discovery { Err(Fate::Punt(PuntReason::Local)) } else { drop(DropReason::Multicast) };
    }
    if snapshot.is_own(key.dst) || (head.v6 && key.dst == link_local(mac)) {
        return if head.group_mac {
            drop(DropReason::Multicast)
        } else if head.fragment {
            drop(DropReason::FragmentUnsupported)
        } else {
            Err(Fate::Punt(PuntReason::Local))
        };
    }
    if head.group_mac {
        return drop(DropReason::Multicast);
    }
    if head.v6 {
        if key.src == 0 || is_link_local(key.src) {
            return drop(DropReason::MartianSource);
        }
        if is_link_local(key.dst) {
            return drop(DropReason::MartianDestination);
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

#[inline]
fn drop<T>(reason: DropReason) -> Result<T, Fate> {
    Err(Fate::Drop(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_judged_by_kind_and_shape() {
        for (options, acceptable) in [
            (&[1, 1, 1, 0][..], true),
            (&[0x94, 4, 0, 0], true),
            (&[0, 131, 0, 0], true),
            (&[7, 3, 4, 0], false),
            (&[1, 131, 3, 4], false),
            (&[137, 3, 4, 0], false),
            (&[0x94, 1, 0, 0], false),
            (&[0x94, 5, 0, 0], false),
            (&[1, 1, 1, 0x94], false),
        ] {
            assert_eq!(acceptable_options(options), acceptable, "{options:?}");
        }
    }

    #[test]
    fn link_local_addresses_follow_eui64() {
        let text = std::net::Ipv6Addr::from_bits(link_local([0x02, 0, 0x5e, 0x10, 0, 1])).to_string();
        assert_eq!(text, "fe80::5eff:fe10:1");
        assert!(is_link_local(link_local([0; 6])));
        assert!(!is_link_local(0xfec0 << 112));
    }
}
