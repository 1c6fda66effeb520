//! Every header, check by check (`BEHAVIOUR.md` 1 to 3): what [`quick`](super::quick) does not answer for.

use super::Head;
use crate::burst::Fate;
use crate::flow::{FlowKey, is_v4, v4};
use crate::io::Mac;
use crate::ports::PortSlot;
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::Snapshot;
use crate::wire::{
    ETHERNET, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, TAG, TCP, UDP, be16, be32, be128, fold,
    sum,
};

/// Where the L4 header of a later fragment is: beyond any frame.
const NOWHERE: u16 = u16::MAX;

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
    let Some(header) = frame.first_chunk::<ETHERNET>() else { return ended(DropReason::L2Truncated) };
    head.group_mac = header[0] & 1 == 1;
    if !head.group_mac && header[..6] != mac {
        return ended(DropReason::L2NotForUs);
    }
    if header[6] & 1 == 1 || header[6..12] == mac || header[6..12] == [0; 6] {
        return ended(DropReason::L2BadSource);
    }
    let mut ethertype = be16(header, 12);
    head.l3 = ETHERNET as u8;
    if ethertype == ETHERTYPE_VLAN {
        if frame.len() < ETHERNET + TAG {
            return ended(DropReason::L2Truncated);
        }
        head.vlan = be16(frame, 14) & 0xfff;
        ethertype = be16(frame, 16);
        head.l3 = (ETHERNET + TAG) as u8;
    }
    match snapshot.interface_at(port, head.vlan) {
        Some(interface) => head.interface = interface,
        None => return ended(DropReason::VlanUnknown),
    }
    Ok(ethertype)
}

#[inline]
fn ipv4(frame: &[u8], snapshot: &Snapshot, head: &mut Head, key: &mut FlowKey) -> Result<(), Fate> {
    let packet = frame.get(usize::from(head.l3)..).unwrap_or(&[]);
    let Some(header) = packet.first_chunk::<20>() else { return ended(DropReason::IpMalformed) };
    let header_len = usize::from(header[0] & 15) * 4;
    let total = usize::from(be16(header, 2));
    if header[0] >> 4 != 4 || header_len < 20 || total < header_len {
        return ended(DropReason::IpMalformed);
    }
    if total > packet.len() {
        return ended(DropReason::IpTruncated);
    }
    let options = packet.get(20..header_len).unwrap_or(&[]);
    if fold(sum(header) + sum(options)) != 0xffff {
        return ended(DropReason::IpChecksum);
    }
    let (src, dst) = (be32(header, 12), be32(header, 16));
    if bad_v4_source(src) || snapshot.is_own(v4(src)) {
        return ended(DropReason::MartianSource);
    }
    if bad_v4_destination(dst) {
        return ended(DropReason::MartianDestination);
    }
    if dst >> 28 == 0xe || dst == u32::MAX || snapshot.is_broadcast(v4(dst)) {
        return ended(DropReason::Multicast);
    }
    if !options.is_empty() && !acceptable_options(options) {
        return ended(DropReason::IpOptions);
    }
    let fragment = be16(header, 6);
    head.later_fragment = fragment & 0x1fff != 0;
    head.blind = head.later_fragment;
    head.fragment = fragment & 0x3fff != 0;
    head.dont_fragment = fragment & 0x4000 != 0;
    head.l3_len = total as u16;
    head.l4 = if head.later_fragment { NOWHERE } else { u16::from(head.l3) + header_len as u16 };
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
    let Some(header) = packet.first_chunk::<40>() else { return ended(DropReason::IpMalformed) };
    if header[0] >> 4 != 6 {
        return ended(DropReason::IpMalformed);
    }
    let total = 40 + usize::from(be16(header, 4));
    if total > packet.len() {
        return ended(DropReason::IpTruncated);
    }
    let (src, dst) = (be128(header, 8), be128(header, 24));
    if src >> 120 == 0xff || src == 1 || is_v4(src) || snapshot.is_own(src) {
        return ended(DropReason::MartianSource);
    }
    if dst == 0 || dst == 1 || is_v4(dst) {
        return ended(DropReason::MartianDestination);
    }
    head.v6 = true;
    head.dont_fragment = true;
    // A payload length of 65,535 makes 65,575 octets; no buffer of ours holds that, so the cast is exact.
    head.l3_len = total as u16;
    head.ttl = header[7];
    let offset = extension_headers(&packet[..total], header[6], head)?;
    head.l4 = if head.later_fragment { NOWHERE } else { u16::from(head.l3) + offset as u16 };
    *key = FlowKey { src, dst, protocol: head.protocol, sport: 0, dport: 0 };
    Ok(())
}

/// Most extension headers walked.
const MAX_EXTENSION_HEADERS: usize = 8;

/// Walks the chain (RFC 8200 s4) and returns the offset of the upper-layer header.
#[inline]
fn extension_headers(packet: &[u8], first: u8, head: &mut Head) -> Result<usize, Fate> {
    let bad = || ended(DropReason::Ipv6ExtensionHeaders);
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
            // Behind a first fragment's header there is no other one (RFC 8200 s4.1).
            if head.fragment {
                return bad();
            }
            let field = be16(header, 2);
            head.later_fragment = field & 0xfff8 != 0;
            head.blind = head.later_fragment;
            // A fragment header with neither offset nor M is an atomic fragment (RFC 6946).
            head.fragment = field & 0xfff9 != 0;
            if head.later_fragment {
                break;
            }
        }
    }
    head.protocol = next;
    Ok(at)
}

/// The upper-layer protocol of an IPv6 packet that is quoted and may be cut, and the octets before its header. `None` for a bad
/// chain and for a later fragment, which has no such header.
pub fn quoted_chain(packet: &[u8]) -> Option<(u8, usize)> {
    let mut head = Head::default();
    let len = extension_headers(packet, *packet.get(6)?, &mut head).ok()?;
    (!head.later_fragment).then_some((head.protocol, len))
}

#[inline]
fn layer4(frame: &[u8], head: &mut Head, key: &mut FlowKey) -> Result<(), Fate> {
    if !head.has_l4() {
        return Ok(());
    }
    let end = usize::from(head.l3) + usize::from(head.l3_len);
    let segment = frame.get(usize::from(head.l4)..end).unwrap_or(&[]);
    let whole = !head.fragment;
    // A first fragment that hides a part of its header from those who look at it (RFC 1858, 7112).
    let cut = if whole { DropReason::L4Malformed } else { DropReason::FragmentTiny };
    match head.protocol {
        TCP => {
            let Some(header) = segment.first_chunk::<20>() else { return ended(cut) };
            let len = usize::from(header[12] >> 4) * 4;
            if len < 20 || (whole && len > segment.len()) {
                return ended(DropReason::L4Malformed);
            }
            (key.sport, key.dport) = (be16(header, 0), be16(header, 2));
            head.flags_or_type = header[13];
        }
        UDP => {
            let Some(header) = segment.first_chunk::<8>() else { return ended(cut) };
            let len = usize::from(be16(header, 4));
            if whole && !(8..=segment.len()).contains(&len) {
                return ended(DropReason::L4Malformed);
            }
            (key.sport, key.dport) = (be16(header, 0), be16(header, 2));
        }
        _ => {
            let Some(header) = segment.first_chunk::<8>() else { return ended(cut) };
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

/// The packet ends here, under a reason.
#[inline]
pub(super) fn ended<T>(reason: DropReason) -> Result<T, Fate> {
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
}
