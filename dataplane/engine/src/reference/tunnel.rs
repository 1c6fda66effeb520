//! Section 10, tunnels: packets wrapped for backends that answer clients themselves.

use std::net::IpAddr;

use super::layer2::Kind;
use super::layer4::{Fragment, Ip, TCP};
use super::node::Node;
use super::{address_octets, checksum};
use crate::hash::{TUNNEL_SEED, flow_words, hash};
use crate::tables::ServiceMode;

/// IANA: gue.
const GUE_PORT: u16 = 6080;
/// RFC 2003, RFC 2473: an IPv4 or IPv6 packet as payload.
const IPV4_INSIDE: u8 = 4;
const IPV6_INSIDE: u8 = 41;
const UDP: u8 = 17;
/// RFC 8200 s5: no node needs to send less over IPv6.
const LEAST_MTU_V6: usize = 1280;

/// The way into a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tunnel {
    mode: ServiceMode,
    src: IpAddr,
    dst: IpAddr,
}

impl Tunnel {
    /// To a backend, out of an interface.
    pub fn new(node: &Node, mode: ServiceMode, egress: usize, backend: IpAddr) -> Option<Self> {
        let source = node.interface(egress).addresses.iter().find(|cidr| cidr.addr.is_ipv6() == backend.is_ipv6());
        Some(Self { mode, src: source?.addr, dst: backend })
    }

    /// Octets of the headers in front.
    pub fn overhead(&self) -> usize {
        let udp = if self.mode == ServiceMode::DsrGue { 8 } else { 0 };
        udp + if self.dst.is_ipv6() { 40 } else { 20 }
    }

    /// What a sender is told fits, out of a port with this MTU.
    pub fn mtu(&self, port: usize, v6: bool) -> usize {
        let fits = port - self.overhead();
        if v6 { fits.max(LEAST_MTU_V6) } else { fits }
    }

    /// The frame's kind with the tunnel's packet in it.
    pub fn kind(&self) -> Kind {
        if self.dst.is_ipv6() { Kind::V6 } else { Kind::V4 }
    }

    /// The finished packet inside the tunnel's headers. `ip` is the packet as received, `mtu` the egress port's.
    pub fn wrap(&self, ip: &Ip, mut packet: Vec<u8>, mtu: usize) -> Vec<u8> {
        self.clamp(ip, &mut packet, mtu);
        let tuple = ip.tuple();
        let words = flow_words(tuple.src, tuple.dst, tuple.protocol, tuple.sport, tuple.dport);
        let entropy = hash(TUNNEL_SEED, words.as_slice());
        let tos = if ip.is_v6() { packet[0] << 4 | packet[1] >> 4 } else { packet[1] };
        let (protocol, payload) = if self.mode == ServiceMode::DsrGue {
            let source = 49152 + (entropy >> 20) as u16 % 16384;
            let mut datagram = source.to_be_bytes().to_vec();
            datagram.extend(GUE_PORT.to_be_bytes());
            datagram.extend((8 + packet.len() as u16).to_be_bytes());
            datagram.extend([0, 0]);
            datagram.extend(packet);
            (UDP, datagram)
        } else {
            (if ip.is_v6() { IPV6_INSIDE } else { IPV4_INSIDE }, packet)
        };
        let mut outer = match self.dst {
            IpAddr::V4(_) => {
                let mut header = vec![0x45, tos];
                header.extend((20 + payload.len() as u16).to_be_bytes());
                header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
                header
            }
            IpAddr::V6(_) => {
                let label = (entropy % (1 << 20)) as u32;
                let mut header = (6 << 28 | u32::from(tos) << 20 | label).to_be_bytes().to_vec();
                header.extend((payload.len() as u16).to_be_bytes());
                header.extend([protocol, 64]);
                header
            }
        };
        outer.extend(address_octets(self.src));
        outer.extend(address_octets(self.dst));
        if self.dst.is_ipv4() {
            let sum = checksum::compute(&outer);
            outer[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        outer.extend(payload);
        outer
    }

    /// Lowers a SYN's MSS to what fits through the tunnel.
    fn clamp(&self, ip: &Ip, packet: &mut [u8], mtu: usize) {
        if ip.protocol != TCP || ip.fragment != Fragment::No || ip.body()[13] & 2 == 0 {
            return;
        }
        let Some(option) = mss_option(ip.body()) else { return };
        let most = mtu - self.overhead() - if ip.is_v6() { 60 } else { 40 };
        let value = option + 2;
        let announced = usize::from(u16::from_be_bytes([ip.body()[value], ip.body()[value + 1]]));
        if announced <= most {
            return;
        }
        // The aligned words that the two octets lie in.
        let (first, last) = (value / 2 * 2, (value + 2).next_multiple_of(2));
        let segment = &mut packet[ip.upper..];
        let old = segment[first..last].to_vec();
        segment[value..value + 2].copy_from_slice(&(most as u16).to_be_bytes());
        let before = u16::from_be_bytes([segment[16], segment[17]]);
        let after = checksum::update(before, &old, &segment[first..last]);
        segment[16..18].copy_from_slice(&after.to_be_bytes());
    }
}

/// Where the first MSS option of a TCP header begins, if the options before it are well-formed.
fn mss_option(segment: &[u8]) -> Option<usize> {
    let end = usize::from(segment[12] >> 4) * 4;
    let mut at = 20;
    while at < end {
        match segment[at] {
            0 => return None,
            1 => at += 1,
            kind => {
                let len = usize::from(*segment[..end].get(at + 1)?);
                if len < 2 || at + len > end {
                    return None;
                }
                if (kind, len) == (2, 4) {
                    return Some(at);
                }
                at += len;
            }
        }
    }
    None
}
