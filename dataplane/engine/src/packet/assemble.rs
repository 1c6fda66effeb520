//! From builder to bytes.

use super::builder::{Addresses, Arp, Ip, Network};
use super::checksum::{checksum, pseudo_header};
use super::transport::{Icmp, Tcp, Transport, Udp};
use super::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet};

impl Packet {
    /// The frame, without FCS and without padding to the Ethernet minimum.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.dst_mac);
        frame.extend(self.src_mac);
        for (ethertype, tci) in &self.tags {
            frame.extend(ethertype.to_be_bytes());
            frame.extend(tci.to_be_bytes());
        }
        let (natural, network) = match &self.network {
            Network::Raw => (0, self.payload.clone()),
            Network::Arp(arp) => (ETHERTYPE_ARP, arp_bytes(arp, &self.payload)),
            Network::Ip(ip) => match ip.addresses {
                Addresses::V4(..) => (ETHERTYPE_IPV4, self.ipv4_bytes(ip)),
                Addresses::V6(..) => (ETHERTYPE_IPV6, self.ipv6_bytes(ip)),
            },
        };
        frame.extend(self.ethertype.unwrap_or(natural).to_be_bytes());
        frame.extend(network);
        frame.resize(frame.len() + self.padding, 0);
        if let Some(len) = self.truncate {
            frame.truncate(len);
        }
        frame
    }

    fn ipv4_bytes(&self, ip: &Ip) -> Vec<u8> {
        let Addresses::V4(src, dst) = ip.addresses else { return Vec::new() };
        let protocol = ip.protocol.unwrap_or_else(|| self.natural_protocol());
        let segment = self.segment(&ip.addresses);
        let mut options = ip.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let header_len = 20 + options.len();
        let words = ip.header_words.unwrap_or((header_len / 4) as u8);
        let length = ip.length.unwrap_or((header_len + segment.len()) as u16);
        let flags = u16::from(ip.dont_fragment) << 14 | u16::from(ip.more_fragments) << 13 | (ip.offset / 8);

        let mut header = vec![ip.version.unwrap_or(4) << 4 | words & 15, ip.tos];
        header.extend(length.to_be_bytes());
        header.extend(ip.ident.to_be_bytes());
        header.extend(flags.to_be_bytes());
        header.extend([ip.ttl, protocol, 0, 0]);
        header.extend(src.octets());
        header.extend(dst.octets());
        header.extend(options);
        let right = checksum(&[&header]);
        let sum = if ip.bad_checksum { right ^ 0x0101 } else { right };
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.extend(segment);
        header
    }

    fn ipv6_bytes(&self, ip: &Ip) -> Vec<u8> {
        let Addresses::V6(src, dst) = ip.addresses else { return Vec::new() };
        let protocol = ip.protocol.unwrap_or_else(|| self.natural_protocol());
        let mut behind = Vec::new();
        let numbers = ip.extensions.iter().map(|(number, _)| *number).chain([protocol]);
        for ((_, rest), next) in ip.extensions.iter().zip(numbers.clone().skip(1)) {
            behind.push(next);
            behind.extend(rest);
        }
        behind.extend(self.segment(&ip.addresses));
        let first = numbers.clone().next().unwrap_or(protocol);
        let word = u32::from(ip.version.unwrap_or(6)) << 28 | u32::from(ip.tos) << 20 | ip.flow_label;

        let mut header = word.to_be_bytes().to_vec();
        header.extend(ip.length.unwrap_or(behind.len() as u16).to_be_bytes());
        header.extend([first, ip.ttl]);
        header.extend(src.octets());
        header.extend(dst.octets());
        header.extend(behind);
        header
    }

    fn natural_protocol(&self) -> u8 {
        match &self.transport {
            // Reserved for experiments (RFC 3692).
            Transport::Raw => 253,
            Transport::Tcp(_) => 6,
            Transport::Udp(_) => 17,
            Transport::Icmp(icmp) => {
                if icmp.v6 {
                    58
                } else {
                    1
                }
            }
        }
    }

    /// The transport header with its payload.
    fn segment(&self, addresses: &Addresses) -> Vec<u8> {
        match &self.transport {
            Transport::Raw => self.payload.clone(),
            Transport::Tcp(tcp) => tcp_bytes(tcp, addresses, &self.payload),
            Transport::Udp(udp) => udp_bytes(udp, addresses, &self.payload),
            Transport::Icmp(icmp) => icmp_bytes(icmp, addresses, &self.payload),
        }
    }
}

fn arp_bytes(arp: &Arp, trailer: &[u8]) -> Vec<u8> {
    let mut bytes = arp.hardware.to_be_bytes().to_vec();
    bytes.extend(arp.protocol.to_be_bytes());
    bytes.extend(arp.lengths);
    bytes.extend(arp.operation.to_be_bytes());
    bytes.extend(arp.sender_mac);
    bytes.extend(arp.sender.octets());
    bytes.extend(arp.target_mac);
    bytes.extend(arp.target.octets());
    bytes.extend(trailer);
    bytes
}

fn tcp_bytes(tcp: &Tcp, addresses: &Addresses, payload: &[u8]) -> Vec<u8> {
    let mut options = tcp.options.clone();
    options.resize(options.len().next_multiple_of(4), 0);
    let words = tcp.data_offset.unwrap_or((5 + options.len() / 4) as u8);
    let mut bytes = tcp.ports[0].to_be_bytes().to_vec();
    bytes.extend(tcp.ports[1].to_be_bytes());
    bytes.extend(tcp.seq.to_be_bytes());
    bytes.extend(tcp.ack.to_be_bytes());
    bytes.extend([words << 4, tcp.flags]);
    bytes.extend(tcp.window.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(options);
    bytes.extend(payload);
    let right = checksum(&[&pseudo(addresses, 6, bytes.len()), &bytes]);
    bytes[16..18].copy_from_slice(&tcp.checksum.of(right).to_be_bytes());
    bytes
}

fn udp_bytes(udp: &Udp, addresses: &Addresses, payload: &[u8]) -> Vec<u8> {
    let length = udp.length.unwrap_or((8 + payload.len()) as u16);
    let mut bytes = udp.ports[0].to_be_bytes().to_vec();
    bytes.extend(udp.ports[1].to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend([0; 2]);
    bytes.extend(payload);
    let right = match checksum(&[&pseudo(addresses, 17, bytes.len()), &bytes]) {
        0 => 0xffff,
        sum => sum,
    };
    bytes[6..8].copy_from_slice(&udp.checksum.of(right).to_be_bytes());
    bytes
}

fn icmp_bytes(icmp: &Icmp, addresses: &Addresses, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![icmp.kind, icmp.code, 0, 0];
    bytes.extend(icmp.rest);
    bytes.extend(payload);
    let right = if icmp.v6 { checksum(&[&pseudo(addresses, 58, bytes.len()), &bytes]) } else { checksum(&[&bytes]) };
    bytes[2..4].copy_from_slice(&icmp.checksum.of(right).to_be_bytes());
    bytes
}

fn pseudo(addresses: &Addresses, protocol: u8, len: usize) -> Vec<u8> {
    match *addresses {
        Addresses::V4(src, dst) => pseudo_header(src.into(), dst.into(), protocol, len),
        Addresses::V6(src, dst) => pseudo_header(src.into(), dst.into(), protocol, len),
    }
}
