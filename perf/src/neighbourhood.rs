//! The stations around the measured node: they answer its ARP requests and neighbour solicitations, so that every next hop is
//! resolved the way it is in the field.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use marchproxy_engine::io::Mac;
use marchproxy_engine::packet::Packet;
use marchproxy_engine::wire::{ETHERNET, ETHERTYPE_ARP, ETHERTYPE_IPV6, ICMPV6, be16, be32, be128};

/// Neighbour solicitation (RFC 4861 s4.3).
const SOLICITATION: u8 = 135;
/// Solicited, override (RFC 4861 s4.4).
const SOLICITED_OVERRIDE: u8 = 0x60;

/// The MAC address of the station at an address: locally administered, from the address's last four octets.
pub fn mac_of(address: IpAddr) -> Mac {
    let [a, b, c, d] = match address {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(a) => (a.to_bits() as u32).to_be_bytes(),
    };
    [if address.is_ipv6() { 0x06 } else { 0x02 }, 0, a, b, c, d]
}

/// The answer of the station asked for, when the frame asks for one.
pub fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    match be16(frame, 12) {
        ETHERTYPE_ARP if be16(frame, ETHERNET + 6) == 1 => {
            let (asker, target) = (be32(frame, ETHERNET + 14), be32(frame, ETHERNET + 24));
            let (asker, target) = (Ipv4Addr::from_bits(asker), Ipv4Addr::from_bits(target));
            let to = frame.get(6..12)?.try_into().ok()?;
            Some(Packet::eth(mac_of(target.into()), to).arp_reply(target, asker).build())
        }
        ETHERTYPE_IPV6
            if frame.get(ETHERNET + 6) == Some(&ICMPV6) && frame.get(ETHERNET + 40) == Some(&SOLICITATION) =>
        {
            let (asker, target) = (be128(frame, ETHERNET + 8), be128(frame, ETHERNET + 48));
            let (asker, target) = (Ipv6Addr::from_bits(asker), Ipv6Addr::from_bits(target));
            let to = frame.get(6..12)?.try_into().ok()?;
            let mac = mac_of(target.into());
            let packet = Packet::eth(mac, to).ipv6(target, asker);
            Some(packet.neighbour_advertisement(target, SOLICITED_OVERRIDE).target_link_layer(mac).build())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marchproxy_engine::packet::describe;

    const NODE: Mac = [2, 0x4d, 0x50, 0, 0, 1];

    #[test]
    fn requests_are_answered_and_nothing_else() {
        let (own, peer) = (Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 1, 2, 3));
        let request = Packet::eth(NODE, [0xff; 6]).arp_request(own, peer).build();
        let reply = answer(&request).unwrap();
        assert!(describe(&reply).contains("10.1.2.3"), "{}", describe(&reply));
        assert_eq!(reply[..6], NODE);
        assert_eq!(reply[6..12], mac_of(peer.into()));
        assert_eq!(answer(&reply), None);

        let (own, peer): (Ipv6Addr, Ipv6Addr) = ("fd00:1::1".parse().unwrap(), "fd00:1::203".parse().unwrap());
        let request = Packet::eth(NODE, [0x33, 0x33, 0xff, 0, 2, 3]).ipv6(own, peer).neighbour_solicitation(peer);
        let reply = answer(&request.source_link_layer(NODE).build()).unwrap();
        assert_eq!(reply[ETHERNET + 40], 136, "{}", describe(&reply));
        assert_eq!(answer(&reply), None);
        assert_eq!(answer(&Packet::eth(NODE, NODE).ipv4([1, 1, 1, 1], [2, 2, 2, 2]).udp(1, 2).build()), None);
        assert_eq!(answer(&[]), None);
    }
}
