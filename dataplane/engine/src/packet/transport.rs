//! The fluent half of the builder: TCP, UDP, ICMP and neighbour discovery.

use std::net::Ipv6Addr;

use super::{ACK, Packet};
use crate::io::Mac;

#[derive(Clone, Debug)]
pub(super) enum Transport {
    Raw,
    Tcp(Tcp),
    Udp(Udp),
    Icmp(Icmp),
}

#[derive(Clone, Debug)]
pub(super) struct Tcp {
    pub ports: [u16; 2],
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub options: Vec<u8>,
    pub data_offset: Option<u8>,
    pub checksum: Checksum,
}

#[derive(Clone, Debug)]
pub(super) struct Udp {
    pub ports: [u16; 2],
    pub length: Option<u16>,
    pub checksum: Checksum,
}

#[derive(Clone, Debug)]
pub(super) struct Icmp {
    pub v6: bool,
    pub kind: u8,
    pub code: u8,
    pub rest: [u8; 4],
    pub checksum: Checksum,
}

/// What stands in the checksum field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Checksum {
    Right,
    Wrong,
    Fixed(u16),
}

impl Checksum {
    pub(super) fn of(self, right: u16) -> u16 {
        match self {
            Self::Right => right,
            // Neither the right value, nor zero, which would mean "none" to UDP.
            Self::Wrong if right == 0xfffe => 1,
            Self::Wrong => right.wrapping_add(1).max(2),
            Self::Fixed(value) => value,
        }
    }
}

/// TCP (RFC 9293) and UDP (RFC 768).
impl Packet {
    /// A TCP header: ACK, sequence and acknowledgement numbers 0, window 65535.
    #[must_use]
    pub fn tcp(mut self, sport: u16, dport: u16) -> Self {
        self.transport = Transport::Tcp(Tcp {
            ports: [sport, dport],
            seq: 0,
            ack: 0,
            flags: ACK,
            window: u16::MAX,
            options: Vec::new(),
            data_offset: None,
            checksum: Checksum::Right,
        });
        self
    }

    fn with_tcp(mut self, change: impl FnOnce(&mut Tcp)) -> Self {
        if let Transport::Tcp(tcp) = &mut self.transport {
            change(tcp);
        }
        self
    }

    /// All TCP flags at once.
    #[must_use]
    pub fn flags(self, flags: u8) -> Self {
        self.with_tcp(|tcp| tcp.flags = flags)
    }

    /// TCP sequence and acknowledgement number.
    #[must_use]
    pub fn seq(self, seq: u32, ack: u32) -> Self {
        self.with_tcp(|tcp| (tcp.seq, tcp.ack) = (seq, ack))
    }

    /// TCP options, filled up with zeros to a multiple of four.
    #[must_use]
    pub fn tcp_options(self, options: &[u8]) -> Self {
        self.with_tcp(|tcp| tcp.options = options.to_vec())
    }

    /// The TCP data offset in words of four octets, right or not.
    #[must_use]
    pub fn data_offset(self, words: u8) -> Self {
        self.with_tcp(|tcp| tcp.data_offset = Some(words))
    }

    /// A UDP header.
    #[must_use]
    pub fn udp(mut self, sport: u16, dport: u16) -> Self {
        self.transport = Transport::Udp(Udp { ports: [sport, dport], length: None, checksum: Checksum::Right });
        self
    }

    /// The UDP length, right or not.
    #[must_use]
    pub fn udp_length(mut self, length: u16) -> Self {
        if let Transport::Udp(udp) = &mut self.transport {
            udp.length = Some(length);
        }
        self
    }

    /// The TCP, UDP or ICMP checksum field as given. 0 in UDP means that there is none.
    #[must_use]
    pub fn l4_checksum(self, value: u16) -> Self {
        self.with_checksum(Checksum::Fixed(value))
    }

    /// A wrong TCP, UDP or ICMP checksum.
    #[must_use]
    pub fn bad_l4_checksum(self) -> Self {
        self.with_checksum(Checksum::Wrong)
    }

    fn with_checksum(mut self, checksum: Checksum) -> Self {
        match &mut self.transport {
            Transport::Raw => {}
            Transport::Tcp(tcp) => tcp.checksum = checksum,
            Transport::Udp(udp) => udp.checksum = checksum,
            Transport::Icmp(icmp) => icmp.checksum = checksum,
        }
        self
    }
}

/// ICMP (RFC 792) and ICMPv6 (RFC 4443).
impl Packet {
    /// Any ICMP message: type, code and the four octets behind the checksum. Protocol 1, no pseudo header.
    #[must_use]
    pub fn icmp(self, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        self.control_message(false, kind, code, rest)
    }

    /// Any ICMPv6 message. Protocol 58, the pseudo header is summed.
    #[must_use]
    pub fn icmpv6(self, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        self.control_message(true, kind, code, rest)
    }

    fn control_message(mut self, v6: bool, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        self.transport = Transport::Icmp(Icmp { v6, kind, code, rest, checksum: Checksum::Right });
        self
    }

    /// ICMP echo request.
    #[must_use]
    pub fn icmp_echo(self, id: u16, seq: u16) -> Self {
        self.icmp(8, 0, pair(id, seq))
    }

    /// ICMP echo reply.
    #[must_use]
    pub fn icmp_echo_reply(self, id: u16, seq: u16) -> Self {
        self.icmp(0, 0, pair(id, seq))
    }

    /// ICMPv6 echo request.
    #[must_use]
    pub fn icmpv6_echo(self, id: u16, seq: u16) -> Self {
        self.icmpv6(128, 0, pair(id, seq))
    }

    /// ICMPv6 echo reply.
    #[must_use]
    pub fn icmpv6_echo_reply(self, id: u16, seq: u16) -> Self {
        self.icmpv6(129, 0, pair(id, seq))
    }

    /// Echo request of the packet's family.
    #[must_use]
    pub fn echo(self, id: u16, seq: u16) -> Self {
        if self.is_v6() { self.icmpv6_echo(id, seq) } else { self.icmp_echo(id, seq) }
    }

    /// Echo reply of the packet's family.
    #[must_use]
    pub fn echo_reply(self, id: u16, seq: u16) -> Self {
        if self.is_v6() { self.icmpv6_echo_reply(id, seq) } else { self.icmp_echo_reply(id, seq) }
    }
}

/// Neighbour discovery (RFC 4861). The hop limit becomes 255.
impl Packet {
    /// Neighbour solicitation without options.
    #[must_use]
    pub fn neighbour_solicitation(self, target: impl Into<Ipv6Addr>) -> Self {
        self.ttl(255).icmpv6(135, 0, [0; 4]).payload(target.into().octets())
    }

    /// Neighbour advertisement without options; `flags` is the octet with R (0x80), S (0x40) and O (0x20).
    #[must_use]
    pub fn neighbour_advertisement(self, target: impl Into<Ipv6Addr>, flags: u8) -> Self {
        self.ttl(255).icmpv6(136, 0, [flags, 0, 0, 0]).payload(target.into().octets())
    }

    /// An option: its length counts units of eight octets, so `data` is filled up with zeros.
    #[must_use]
    pub fn nd_option(self, kind: u8, data: &[u8]) -> Self {
        let units = (data.len() + 2).div_ceil(8);
        let mut option = vec![kind, units as u8];
        option.extend_from_slice(data);
        option.resize(units * 8, 0);
        self.payload(option)
    }

    /// Source link-layer address option.
    #[must_use]
    pub fn source_link_layer(self, mac: Mac) -> Self {
        self.nd_option(1, &mac)
    }

    /// Target link-layer address option.
    #[must_use]
    pub fn target_link_layer(self, mac: Mac) -> Self {
        self.nd_option(2, &mac)
    }
}

fn pair(a: u16, b: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (a.to_be_bytes(), b.to_be_bytes());
    [a, b, c, d]
}
