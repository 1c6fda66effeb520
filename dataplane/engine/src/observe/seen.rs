//! What a frame shows of itself: a lenient reader that judges nothing, so that malformed and foreign frames can be looked for, too.

use crate::flow::{FlowKey, v4};
use crate::ports::{PortSlot, UNTAGGED};
use crate::wire::{
    ETHERNET, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, TAG, TCP, UDP, be16, be32, be128,
};

/// Extension headers walked, as in parse.
const EXTENSION_HEADERS: usize = 8;

/// What is inside an Ethernet frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// ARP; sender and target stand for source and destination.
    Arp,
    /// Something else, or too short to tell.
    #[default]
    Other,
}

/// What a frame shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Where it was received; `None` for frames of our own.
    pub port: Option<PortSlot>,
    /// Its tag, [`UNTAGGED`] for none.
    pub vlan: u16,
    /// What it carries.
    pub kind: Kind,
    /// Addresses, upper-layer protocol, ports; zero where it has none.
    pub key: FlowKey,
    /// Whether the ports mean something.
    pub has_ports: bool,
    /// TCP flags, or the ICMP type.
    pub flags_or_type: u8,
    /// DSCP.
    pub dscp: u8,
}

impl Seen {
    /// Reads a frame.
    pub fn of(frame: &[u8], port: Option<PortSlot>) -> Self {
        let mut seen = Self { port, vlan: UNTAGGED, ..Self::default() };
        let (mut ethertype, mut at) = (be16(frame, 12), ETHERNET);
        if ethertype == ETHERTYPE_VLAN {
            seen.vlan = be16(frame, 14) & 0xfff;
            (ethertype, at) = (be16(frame, 16), ETHERNET + TAG);
        }
        let packet = frame.get(at..).unwrap_or(&[]);
        match ethertype {
            ETHERTYPE_IPV4 if packet.len() >= 20 => seen.ipv4(packet),
            ETHERTYPE_IPV6 if packet.len() >= 40 => seen.ipv6(packet),
            ETHERTYPE_ARP if packet.len() >= 28 => {
                seen.kind = Kind::Arp;
                seen.key.src = v4(be32(packet, 14));
                seen.key.dst = v4(be32(packet, 24));
            }
            _ => {}
        }
        seen
    }

    fn ipv4(&mut self, packet: &[u8]) {
        self.kind = Kind::V4;
        self.dscp = packet[1] >> 2;
        self.key.src = v4(be32(packet, 12));
        self.key.dst = v4(be32(packet, 16));
        self.key.protocol = packet[9];
        let offset = be16(packet, 6) & 0x1fff;
        if offset == 0 {
            self.layer4(packet, usize::from(packet[0] & 15) * 4);
        }
    }

    fn ipv6(&mut self, packet: &[u8]) {
        self.kind = Kind::V6;
        self.dscp = (packet[0] << 4 | packet[1] >> 4) >> 2;
        self.key.src = be128(packet, 8);
        self.key.dst = be128(packet, 24);
        let (mut next, mut at) = (packet[6], 40);
        for _ in 0..EXTENSION_HEADERS {
            let (0 | 43 | 44 | 60, Some(header)) = (next, packet.get(at..at + 8)) else { break };
            if next == 44 && be16(header, 2) & 0xfff8 != 0 {
                self.key.protocol = header[0];
                return;
            }
            at += if next == 44 { 8 } else { (usize::from(header[1]) + 1) * 8 };
            next = header[0];
        }
        self.key.protocol = next;
        self.layer4(packet, at);
    }

    fn layer4(&mut self, packet: &[u8], at: usize) {
        if matches!(self.key.protocol, TCP | UDP) && packet.len() >= at + 4 {
            self.has_ports = true;
            (self.key.sport, self.key.dport) = (be16(packet, at), be16(packet, at + 2));
        }
        let flags = if self.key.protocol == TCP { at + 13 } else { at };
        if self.key.protocol != UDP {
            self.flags_or_type = packet.get(flags).copied().unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::from_ip;
    use crate::packet::{Packet, SYN};

    #[test]
    fn frames_show_what_they_have_and_short_ones_do_not_panic() {
        let eth = || Packet::eth([2; 6], [4; 6]);
        let frame = eth().vlan(20).ipv4([10, 0, 0, 1], [192, 0, 2, 7]).tcp(1234, 80).flags(SYN).build();
        let seen = Seen::of(&frame, None);
        assert_eq!((seen.kind, seen.vlan, seen.has_ports, seen.flags_or_type), (Kind::V4, 20, true, SYN));
        assert_eq!((seen.key.sport, seen.key.dport, seen.key.protocol), (1234, 80, 6));
        let (src, dst) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let v6 = eth().ip(src, dst).udp(53, 54).build();
        let seen = Seen::of(&v6, None);
        assert_eq!((seen.kind, seen.key.src, seen.key.dport), (Kind::V6, from_ip(src), 54));
        let arp = Seen::of(&eth().arp_request([10, 0, 0, 1], [10, 0, 0, 2]).build(), None);
        assert_eq!((arp.kind, arp.key.dst), (Kind::Arp, v4(0x0a00_0002)));
        for frame in [frame, v6] {
            for len in 0..frame.len() {
                Seen::of(&frame[..len], None);
            }
        }
    }
}
