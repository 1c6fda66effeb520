//! Congestion marks (RFC 3168): a packet whose ends understand ECN is told of congestion instead of being dropped.

use crate::qos::class::l3_of;
use crate::wire::{Change, ETHERTYPE_IPV4, ETHERTYPE_IPV6, be16, put};

/// What the two bits say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ecn {
    /// Its ends do not know ECN, or it is no IP.
    NotEct,
    /// ECT(1): scalable congestion control (RFC 9331).
    Ect1,
    /// ECT(0).
    Ect0,
    /// Congestion was met already.
    Ce,
}

impl Ecn {
    /// By value.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}

/// What a frame says. A tunnel's outer header has the inner one's bits (RFC 6040), so the outer one is asked.
pub fn of_frame(frame: &[u8]) -> Ecn {
    let l3 = l3_of(frame);
    match be16(frame, l3 - 2) {
        ETHERTYPE_IPV4 => Ecn::from_bits(frame.get(l3 + 1).copied().unwrap_or(0)),
        ETHERTYPE_IPV6 => Ecn::from_bits((be16(frame, l3) >> 4) as u8),
        _ => Ecn::NotEct,
    }
}

/// Marks the frame CE, the IPv4 header's checksum included (RFC 1624). False, and nothing changes, where its ends do not know ECN.
pub fn mark(frame: &mut [u8]) -> bool {
    match of_frame(frame) {
        Ecn::NotEct => return false,
        Ecn::Ce => return true,
        Ecn::Ect0 | Ecn::Ect1 => {}
    }
    let l3 = l3_of(frame);
    let old = be16(frame, l3);
    if be16(frame, l3 - 2) == ETHERTYPE_IPV6 {
        put(frame, l3, &(old | 0x0030).to_be_bytes());
        return true;
    }
    let new = old | 0x0003;
    put(frame, l3, &new.to_be_bytes());
    let mut change = Change::default();
    change.word(old, new);
    let sum = change.apply(be16(frame, l3 + 10));
    put(frame, l3 + 10, &sum.to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;

    /// Sum of an IPv4 header, which is all ones when its checksum is right (RFC 1071).
    fn sum(header: &[u8]) -> u16 {
        let sum: u32 = header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        (sum & 0xffff) as u16 + (sum >> 16) as u16
    }

    #[test]
    fn ect_becomes_ce_and_the_checksum_follows_whatever_it_was() {
        for id in 0..2000u16 {
            for ecn in 0..4u8 {
                let mut frame = Packet::eth([2; 6], [4; 6])
                    .ip([192, 0, 2, 1].into(), [198, 51, (id >> 8) as u8, id as u8].into())
                    .udp(1, 2)
                    .build();
                frame[15] |= ecn;
                // As the sender would have sent it.
                frame[24..26].fill(0);
                let right = !sum(&frame[14..34]);
                frame[24..26].copy_from_slice(&right.to_be_bytes());
                let before = frame.clone();
                assert_eq!(mark(&mut frame), ecn != 0);
                assert_eq!(sum(&frame[14..34]), 0xffff);
                assert_eq!(frame[15] & 3, if ecn == 0 { 0 } else { 3 });
                assert_eq!(frame[15] & !3, before[15] & !3);
                assert_eq!((&frame[..15], &frame[26..]), (&before[..15], &before[26..]));
            }
        }
    }

    #[test]
    fn ipv6_and_tags_and_what_is_no_ip() {
        let (a, b) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        for ecn in 0..4u8 {
            let mut frame = Packet::eth([2; 6], [4; 6]).vlan(9).ip(a, b).dscp(46).udp(1, 2).build();
            frame[19] |= ecn << 4;
            let mut expected = frame.clone();
            if ecn != 0 {
                expected[19] |= 0x30;
            }
            assert_eq!(mark(&mut frame), ecn != 0);
            assert_eq!(frame, expected);
        }
        for mut frame in [vec![], vec![0; 13], vec![0xff; 60], [0x81, 0].repeat(8)] {
            let before = frame.clone();
            assert!(!mark(&mut frame));
            assert_eq!(frame, before);
        }
    }
}
