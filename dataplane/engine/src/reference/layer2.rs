//! Section 1: Ethernet and the one VLAN tag.

use super::node::Node;
use crate::io::Mac;
use crate::reason::DropReason;

/// A frame that may concern us.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// Where it was received.
    pub interface: usize,
    /// Its source.
    pub src_mac: Mac,
    /// Sent to a group (or everyone).
    pub to_group: bool,
    pub kind: Kind,
    /// What follows the EtherType.
    pub payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Arp,
    V4,
    V6,
}

pub(super) fn receive(node: &Node, port: usize, frame: &[u8]) -> Result<Frame, DropReason> {
    if port >= node.tables.ports.len() {
        return Err(DropReason::PortNotConfigured);
    }
    if frame.len() < 14 {
        return Err(DropReason::L2Truncated);
    }
    let own = node.mac(port);
    let dst_mac = mac_at(frame, 0);
    let src_mac = mac_at(frame, 6);
    if dst_mac != own && !is_group(dst_mac) {
        return Err(DropReason::L2NotForUs);
    }
    if is_group(src_mac) || src_mac == [0; 6] || src_mac == own {
        return Err(DropReason::L2BadSource);
    }
    let mut ethertype = [frame[12], frame[13]];
    let mut payload = &frame[14..];
    let mut vlan = None;
    if ethertype == [0x81, 0x00] {
        if payload.len() < 4 {
            return Err(DropReason::L2Truncated);
        }
        // IEEE 802.1Q: VLAN identifier 0 is a priority tag, the frame belongs to no VLAN.
        vlan = match u16::from_be_bytes([payload[0], payload[1]]) & 0xfff {
            0 => None,
            id => Some(id),
        };
        ethertype = [payload[2], payload[3]];
        payload = &payload[4..];
    }
    let interface = node.interface_at(port, vlan).ok_or(DropReason::VlanUnknown)?;
    let kind = match ethertype {
        [0x08, 0x06] => Kind::Arp,
        [0x08, 0x00] => Kind::V4,
        [0x86, 0xdd] => Kind::V6,
        _ => return Err(DropReason::EthertypeUnknown),
    };
    Ok(Frame { interface, src_mac, to_group: is_group(dst_mac), kind, payload: payload.to_vec() })
}

/// A frame out of an interface: its tag with priority 0, its port's MAC as source.
pub(super) fn enframe(node: &Node, interface: usize, dst_mac: Mac, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let spec = node.interface(interface);
    let mut frame = dst_mac.to_vec();
    frame.extend(node.mac(spec.port));
    if let Some(vlan) = spec.vlan {
        frame.extend([0x81, 0x00]);
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(match kind {
        Kind::Arp => [0x08, 0x06],
        Kind::V4 => [0x08, 0x00],
        Kind::V6 => [0x86, 0xdd],
    });
    frame.extend(payload);
    frame
}

/// Individual/group bit; the broadcast address has it too.
pub(super) fn is_group(mac: Mac) -> bool {
    mac[0] & 1 == 1
}

/// An address that a station can have.
pub(super) fn is_station(mac: Mac) -> bool {
    !is_group(mac) && mac != [0; 6]
}

/// The six octets at an offset that the caller knows to be inside.
pub(super) fn mac_at(bytes: &[u8], at: usize) -> Mac {
    std::array::from_fn(|i| bytes[at + i])
}
