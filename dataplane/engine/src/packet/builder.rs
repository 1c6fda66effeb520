//! The fluent half of the builder: Ethernet, ARP and IP. [`transport`](super::transport) has the layers above.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ETHERTYPE_VLAN;
use super::transport::Transport;
use crate::io::Mac;

/// A frame in the making. Every method takes and returns the builder; [`build`](Packet::build) gives the bytes.
///
/// Lengths and checksums come out right unless a method that says so breaks them.
#[derive(Clone, Debug)]
pub struct Packet {
    pub(super) src_mac: Mac,
    pub(super) dst_mac: Mac,
    /// (EtherType, TCI) of each tag, outermost first.
    pub(super) tags: Vec<(u16, u16)>,
    pub(super) ethertype: Option<u16>,
    pub(super) network: Network,
    pub(super) transport: Transport,
    pub(super) payload: Vec<u8>,
    pub(super) padding: usize,
    pub(super) truncate: Option<usize>,
}

#[derive(Clone, Debug)]
pub(super) enum Network {
    Raw,
    Arp(Arp),
    Ip(Ip),
}

#[derive(Clone, Debug)]
pub(super) struct Arp {
    pub operation: u16,
    pub hardware: u16,
    pub protocol: u16,
    pub lengths: [u8; 2],
    pub sender_mac: Mac,
    pub sender: Ipv4Addr,
    pub target_mac: Mac,
    pub target: Ipv4Addr,
}

#[derive(Clone, Debug)]
pub(super) struct Ip {
    pub addresses: Addresses,
    pub tos: u8,
    pub ttl: u8,
    pub flow_label: u32,
    pub ident: u16,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    /// Octets, a multiple of 8.
    pub offset: u16,
    pub options: Vec<u8>,
    /// Number of each extension header and what follows its next-header octet.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub protocol: Option<u8>,
    pub version: Option<u8>,
    pub header_words: Option<u8>,
    pub length: Option<u16>,
    pub bad_checksum: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Addresses {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// Ethernet.
impl Packet {
    /// An Ethernet frame; without more, its payload follows the header directly and the EtherType is 0.
    pub fn eth(src: Mac, dst: Mac) -> Self {
        Self {
            src_mac: src,
            dst_mac: dst,
            tags: Vec::new(),
            ethertype: None,
            network: Network::Raw,
            transport: Transport::Raw,
            payload: Vec::new(),
            padding: 0,
            truncate: None,
        }
    }

    /// The same packet in another frame: new addresses, no tags.
    #[must_use]
    pub fn reframed(mut self, src: Mac, dst: Mac) -> Self {
        (self.src_mac, self.dst_mac) = (src, dst);
        self.tags.clear();
        self
    }

    /// An 802.1Q tag with this VLAN and priority 0; a second call adds a second tag behind the first.
    #[must_use]
    pub fn vlan(self, vlan: u16) -> Self {
        self.tag(ETHERTYPE_VLAN, vlan)
    }

    /// A tag with any EtherType and any tag control information (priority, drop eligible, VLAN).
    #[must_use]
    pub fn tag(mut self, ethertype: u16, tci: u16) -> Self {
        self.tags.push((ethertype, tci));
        self
    }

    /// The EtherType, whatever follows.
    #[must_use]
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        self.ethertype = Some(ethertype);
        self
    }

    /// Bytes behind everything else, counted by no length field above Ethernet.
    #[must_use]
    pub fn padding(mut self, bytes: usize) -> Self {
        self.padding = bytes;
        self
    }

    /// Cuts the finished frame to this length; lengths in headers stay as they were.
    #[must_use]
    pub fn truncate(mut self, len: usize) -> Self {
        self.truncate = Some(len);
        self
    }

    /// Appends to what stands behind the last header.
    #[must_use]
    pub fn payload(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.payload.extend_from_slice(bytes.as_ref());
        self
    }
}

/// ARP (RFC 826).
impl Packet {
    /// Who has `target`, tell `sender`; the sender's MAC is the frame's source.
    #[must_use]
    pub fn arp_request(self, sender: impl Into<Ipv4Addr>, target: impl Into<Ipv4Addr>) -> Self {
        let sender_mac = self.src_mac;
        self.arp(1, sender_mac, sender.into(), [0; 6], target.into())
    }

    /// `sender` is at the frame's source MAC, told to `target` at the frame's destination MAC.
    #[must_use]
    pub fn arp_reply(self, sender: impl Into<Ipv4Addr>, target: impl Into<Ipv4Addr>) -> Self {
        let (sender_mac, target_mac) = (self.src_mac, self.dst_mac);
        self.arp(2, sender_mac, sender.into(), target_mac, target.into())
    }

    /// Any ARP packet for Ethernet and IPv4.
    #[must_use]
    pub fn arp(mut self, operation: u16, sender_mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Self {
        let (hardware, protocol, lengths) = (1, super::ETHERTYPE_IPV4, [6, 4]);
        self.network =
            Network::Arp(Arp { operation, hardware, protocol, lengths, sender_mac, sender, target_mac, target });
        self
    }

    /// Hardware type, protocol type and the two address lengths of an ARP packet (1, 0x0800, 6, 4).
    #[must_use]
    pub fn arp_types(mut self, hardware: u16, protocol: u16, lengths: [u8; 2]) -> Self {
        if let Network::Arp(arp) = &mut self.network {
            (arp.hardware, arp.protocol, arp.lengths) = (hardware, protocol, lengths);
        }
        self
    }

    /// The sender's MAC inside an ARP packet.
    #[must_use]
    pub fn arp_sender_mac(mut self, mac: Mac) -> Self {
        if let Network::Arp(arp) = &mut self.network {
            arp.sender_mac = mac;
        }
        self
    }
}

/// IPv4 (RFC 791) and IPv6 (RFC 8200).
impl Packet {
    /// An IPv4 header: TTL 64, TOS 0, identification 0, no flags.
    #[must_use]
    pub fn ipv4(self, src: impl Into<Ipv4Addr>, dst: impl Into<Ipv4Addr>) -> Self {
        self.network(Addresses::V4(src.into(), dst.into()))
    }

    /// An IPv6 header: hop limit 64, traffic class and flow label 0.
    #[must_use]
    pub fn ipv6(self, src: impl Into<Ipv6Addr>, dst: impl Into<Ipv6Addr>) -> Self {
        self.network(Addresses::V6(src.into(), dst.into()))
    }

    /// The header of the addresses' family; a mixed pair becomes IPv6 with the IPv4 address mapped.
    #[must_use]
    pub fn ip(self, src: IpAddr, dst: IpAddr) -> Self {
        let wide = |ip| match ip {
            IpAddr::V4(a) => a.to_ipv6_mapped(),
            IpAddr::V6(a) => a,
        };
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.ipv4(src, dst),
            _ => self.ipv6(wide(src), wide(dst)),
        }
    }

    fn network(mut self, addresses: Addresses) -> Self {
        self.network = Network::Ip(Ip {
            addresses,
            tos: 0,
            ttl: 64,
            flow_label: 0,
            ident: 0,
            dont_fragment: false,
            more_fragments: false,
            offset: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            protocol: None,
            version: None,
            header_words: None,
            length: None,
            bad_checksum: false,
        });
        self
    }

    /// Changes the IP header; nothing happens where there is none.
    fn with_ip(mut self, change: impl FnOnce(&mut Ip)) -> Self {
        if let Network::Ip(ip) = &mut self.network {
            change(ip);
        }
        self
    }

    pub(super) fn is_v6(&self) -> bool {
        matches!(&self.network, Network::Ip(Ip { addresses: Addresses::V6(..), .. }))
    }

    /// Time to live or hop limit.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        self.with_ip(|ip| ip.ttl = ttl)
    }

    /// The whole TOS or traffic class octet.
    #[must_use]
    pub fn tos(self, tos: u8) -> Self {
        self.with_ip(|ip| ip.tos = tos)
    }

    /// The DSCP codepoint (0..=63), ECN unchanged.
    #[must_use]
    pub fn dscp(self, dscp: u8) -> Self {
        self.with_ip(|ip| ip.tos = dscp << 2 | ip.tos & 3)
    }

    /// The two ECN bits, DSCP unchanged.
    #[must_use]
    pub fn ecn(self, ecn: u8) -> Self {
        self.with_ip(|ip| ip.tos = ip.tos & !3 | ecn & 3)
    }

    /// IPv6 flow label (20 bits).
    #[must_use]
    pub fn flow_label(self, label: u32) -> Self {
        self.with_ip(|ip| ip.flow_label = label & 0xf_ffff)
    }

    /// IPv4 identification.
    #[must_use]
    pub fn ident(self, ident: u16) -> Self {
        self.with_ip(|ip| ip.ident = ident)
    }

    /// IPv4 DF.
    #[must_use]
    pub fn dont_fragment(self) -> Self {
        self.with_ip(|ip| ip.dont_fragment = true)
    }

    /// Makes it a fragment: offset in octets (a multiple of 8), whether more follow, identification. IPv6 gets a fragment
    /// header behind the extension headers given so far.
    #[must_use]
    pub fn fragment(self, offset: u16, more: bool, ident: u16) -> Self {
        self.with_ip(|ip| match ip.addresses {
            Addresses::V4(..) => (ip.offset, ip.more_fragments, ip.ident) = (offset, more, ident),
            Addresses::V6(..) => {
                let [high, low] = (offset & 0xfff8 | u16::from(more)).to_be_bytes();
                let [a, b] = ident.to_be_bytes();
                ip.extensions.push((44, vec![0, high, low, 0, 0, a, b]));
            }
        })
    }

    /// IPv4 options, filled up with zeros to a multiple of four (at most 40 octets fit).
    #[must_use]
    pub fn options(self, options: &[u8]) -> Self {
        self.with_ip(|ip| ip.options = options.to_vec())
    }

    /// An IPv6 extension header: its number and all octets behind the next-header octet, length included.
    #[must_use]
    pub fn extension(self, number: u8, rest: &[u8]) -> Self {
        self.with_ip(|ip| ip.extensions.push((number, rest.to_vec())))
    }

    /// A hop-by-hop options header of eight octets: one PadN.
    #[must_use]
    pub fn hop_by_hop(self) -> Self {
        self.extension(0, &[0, 1, 4, 0, 0, 0, 0])
    }

    /// A destination options header of eight octets: one PadN.
    #[must_use]
    pub fn destination_options(self) -> Self {
        self.extension(60, &[0, 1, 4, 0, 0, 0, 0])
    }

    /// A routing header of eight octets.
    #[must_use]
    pub fn routing(self, kind: u8, segments_left: u8) -> Self {
        self.extension(43, &[0, kind, segments_left, 0, 0, 0, 0])
    }

    /// The protocol number, whatever follows; the payload alone makes a raw packet of it.
    #[must_use]
    pub fn protocol(self, protocol: u8) -> Self {
        self.with_ip(|ip| ip.protocol = Some(protocol))
    }

    /// The version nibble.
    #[must_use]
    pub fn ip_version(self, version: u8) -> Self {
        self.with_ip(|ip| ip.version = Some(version))
    }

    /// IPv4 IHL: header length in words of four octets.
    #[must_use]
    pub fn ihl(self, words: u8) -> Self {
        self.with_ip(|ip| ip.header_words = Some(words))
    }

    /// IPv4 total length or IPv6 payload length.
    #[must_use]
    pub fn ip_length(self, length: u16) -> Self {
        self.with_ip(|ip| ip.length = Some(length))
    }

    /// A wrong IPv4 header checksum.
    #[must_use]
    pub fn bad_ip_checksum(self) -> Self {
        self.with_ip(|ip| ip.bad_checksum = true)
    }
}
