//! A lenient reader: takes a frame apart as far as it makes sense, and never complains.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN};

/// A frame in parts.
pub(super) struct Dissected<'a> {
    pub dst: &'a [u8],
    pub src: &'a [u8],
    pub tags: Vec<u16>,
    pub ethertype: u16,
    pub network: Network<'a>,
}

pub(super) enum Network<'a> {
    /// Too short for an Ethernet header.
    Runt,
    /// What follows is none of the others, or too short for it.
    Other(&'a [u8]),
    /// At least 28 octets.
    Arp(&'a [u8]),
    Ip(Ip<'a>),
}

pub(super) struct Ip<'a> {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Header with options; without extension headers.
    pub header: &'a [u8],
    pub tos: u8,
    pub ttl: u8,
    /// The upper layer's.
    pub protocol: u8,
    pub fragment: Option<Fragment>,
    pub dont_fragment: bool,
    /// Numbers of the IPv6 extension headers.
    pub extensions: Vec<u8>,
    /// Behind all headers, without padding.
    pub body: &'a [u8],
    /// Octets that the length field promises and the frame lacks.
    pub missing: usize,
}

#[derive(Clone, Copy)]
pub(super) struct Fragment {
    pub offset: u16,
    pub more: bool,
}

pub(super) fn dissect(frame: &[u8]) -> Dissected<'_> {
    let Some((header, mut rest)) = frame.split_at_checked(14) else {
        return Dissected { dst: &[], src: &[], tags: Vec::new(), ethertype: 0, network: Network::Runt };
    };
    let mut ethertype = word(header, 12);
    let mut tags = Vec::new();
    while ethertype == ETHERTYPE_VLAN
        && let Some((tag, behind)) = rest.split_at_checked(4)
    {
        tags.push(word(tag, 0));
        ethertype = word(tag, 2);
        rest = behind;
    }
    let network = match ethertype {
        ETHERTYPE_ARP if rest.len() >= 28 => Network::Arp(rest),
        ETHERTYPE_IPV4 => ipv4(rest).map_or(Network::Other(rest), Network::Ip),
        ETHERTYPE_IPV6 => ipv6(rest).map_or(Network::Other(rest), Network::Ip),
        _ => Network::Other(rest),
    };
    Dissected { dst: &header[..6], src: &header[6..12], tags, ethertype, network }
}

fn ipv4(bytes: &[u8]) -> Option<Ip<'_>> {
    let first = bytes.get(..20)?;
    let header = bytes.get(..usize::from(first[0] & 15) * 4).filter(|h| h.len() >= 20 && first[0] >> 4 == 4)?;
    let total = usize::from(word(first, 2));
    let flags = word(first, 6);
    let fragment = Fragment { offset: (flags & 0x1fff) * 8, more: flags & 0x2000 != 0 };
    Some(Ip {
        src: octets4(first, 12).into(),
        dst: octets4(first, 16).into(),
        header,
        tos: first[1],
        ttl: first[8],
        protocol: first[9],
        fragment: (fragment.more || fragment.offset > 0).then_some(fragment),
        dont_fragment: flags & 0x4000 != 0,
        extensions: Vec::new(),
        body: &bytes[header.len()..total.clamp(header.len(), bytes.len())],
        missing: total.saturating_sub(bytes.len()),
    })
}

fn ipv6(bytes: &[u8]) -> Option<Ip<'_>> {
    let header = bytes.get(..40).filter(|h| h[0] >> 4 == 6)?;
    let payload = usize::from(word(header, 4));
    let mut body = &bytes[40..(40 + payload).min(bytes.len())];
    let (mut protocol, mut extensions, mut fragment) = (header[6], Vec::new(), None);
    while let 0 | 43 | 44 | 60 = protocol
        && fragment.is_none_or(|f: Fragment| f.offset == 0)
        && let Some(start) = body.get(..8)
    {
        let len = if protocol == 44 { 8 } else { (usize::from(start[1]) + 1) * 8 };
        if protocol == 44 {
            fragment = Some(Fragment { offset: word(start, 2) & 0xfff8, more: start[3] & 1 != 0 });
        }
        let Some(behind) = body.get(len..) else { break };
        extensions.push(protocol);
        (protocol, body) = (start[0], behind);
    }
    Some(Ip {
        src: octets6(header, 8).into(),
        dst: octets6(header, 24).into(),
        header,
        tos: header[0] << 4 | header[1] >> 4,
        ttl: header[7],
        protocol,
        fragment,
        dont_fragment: false,
        extensions,
        body,
        missing: (40 + payload).saturating_sub(bytes.len()),
    })
}

/// The 16-bit word at an offset that the caller knows to be inside.
pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The 32-bit word at an offset that the caller knows to be inside.
pub(super) fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

pub(super) fn octets4(bytes: &[u8], at: usize) -> Ipv4Addr {
    long(bytes, at).into()
}

pub(super) fn octets6(bytes: &[u8], at: usize) -> Ipv6Addr {
    let bits = (0..16).fold(0u128, |bits, i| bits << 8 | u128::from(bytes[at + i]));
    bits.into()
}
