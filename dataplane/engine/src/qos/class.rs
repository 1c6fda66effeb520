//! Which of the four classes a packet belongs to.

use crate::class::Choice;
use crate::tables::Class;
use crate::wire::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, ICMPV6, TAG, be16};

/// Where a packet waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Queue slot of its service; 0 for everything that belongs to none.
    pub slot: u16,
    /// Its class.
    pub class: Class,
}

impl Tag {
    /// What belongs to no service and promises nothing.
    pub const NONE: Self = Self { slot: 0, class: Class::P3 };
}

/// The class that a codepoint asks for.
fn of_dscp(dscp: u8) -> Class {
    Class::ALL[usize::from(Choice::NONE.class(dscp) & 3)]
}

/// The class of a frame that leaves: ARP and neighbour discovery first, since nothing else gets anywhere without them; others by their DSCP.
pub fn of_frame(frame: &[u8]) -> Class {
    let l3 = l3_of(frame);
    let ip = frame.get(l3..).unwrap_or(&[]);
    match be16(frame, l3 - 2) {
        ETHERTYPE_IPV4 => of_dscp(ip.get(1).map_or(0, |tos| tos >> 2)),
        ETHERTYPE_IPV6 => {
            let discovery = ip.get(6) == Some(&ICMPV6) && ip.get(40).is_some_and(|kind| (133..=137).contains(kind));
            if discovery { Class::P0 } else { of_dscp((be16(ip, 0) >> 6 & 0x3f) as u8) }
        }
        _ => Class::P0,
    }
}

/// Where the layer-3 header of a frame with at most one tag begins.
#[inline]
pub(super) fn l3_of(frame: &[u8]) -> usize {
    if be16(frame, ETHERNET - 2) == ETHERTYPE_VLAN { ETHERNET + TAG } else { ETHERNET }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;

    #[test]
    fn classes_follow_the_codepoint_and_discovery_goes_first() {
        let eth = || Packet::eth([2; 6], [4; 6]);
        let v4 = |dscp| eth().ip([192, 0, 2, 1].into(), [192, 0, 2, 2].into()).dscp(dscp).udp(1, 2).build();
        let (a, b) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let v6 = |dscp| eth().vlan(7).ip(a, b).dscp(dscp).udp(1, 2).build();
        for (dscp, class) in [
            (46, Class::P0),
            (48, Class::P0),
            (34, Class::P1),
            (40, Class::P1),
            (18, Class::P2),
            (0, Class::P3),
            (8, Class::P3),
        ] {
            assert_eq!((of_frame(&v4(dscp)), of_frame(&v6(dscp))), (class, class), "{dscp}");
        }
        assert_eq!(of_frame(&[0; 60]), Class::P0, "ARP and the like");
        assert_eq!(of_frame(&[]), Class::P0);
    }
}
