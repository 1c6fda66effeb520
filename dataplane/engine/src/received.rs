//! What a finished packet was like when it was received: kept with packets that wait for their next hop, because an ICMP error about
//! them quotes what the sender sent.

use crate::flow::FlowKey;
use crate::ports::PortSlot;
use crate::stage::parse::Head;
use crate::wire::put;

/// Octets of an IP header that finishing may change.
const NETWORK: usize = 40;
/// Octets of an upper-layer header that finishing may change: TCP's checksum ends there.
const TRANSPORT: usize = 18;

/// The headers of a packet before it was finished.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Where it was received.
    pub port: PortSlot,
    /// What its headers said; offsets are those in the finished frame.
    pub head: Head,
    /// Its tuple.
    pub key: FlowKey,
    network: [u8; NETWORK],
    transport: [u8; TRANSPORT],
}

impl Default for Received {
    fn default() -> Self {
        let (port, head, key) = (PortSlot::default(), Head::default(), FlowKey::default());
        Self { port, head, key, network: [0; NETWORK], transport: [0; TRANSPORT] }
    }
}

impl Received {
    /// Of a frame whose L2 header is the finished one already and whose packet, from `l3` on, is as received.
    pub fn of(frame: &[u8], l3: usize, head: &Head, key: &FlowKey) -> Self {
        let l4 = head.l4 - u16::from(head.l3) + l3 as u16;
        let head = Head { l3: l3 as u8, l4, ..*head };
        let mut received = Self { head, key: *key, ..Self::default() };
        copy(&mut received.network, frame.get(l3..).unwrap_or(&[]));
        copy(&mut received.transport, frame.get(usize::from(l4)..).unwrap_or(&[]));
        received
    }

    /// The same with the port it was received on, which the burst knows.
    #[must_use]
    pub fn on(self, port: PortSlot) -> Self {
        Self { port, ..self }
    }

    /// Makes the packet in a finished frame as it was received. Its L2 header stays.
    pub fn restore(&self, frame: &mut [u8]) {
        let (l3, l4) = (usize::from(self.head.l3), usize::from(self.head.l4));
        let (network, transport) =
            (NETWORK.min(frame.len().saturating_sub(l3)), TRANSPORT.min(frame.len().saturating_sub(l4)));
        put(frame, l3, &self.network[..network]);
        put(frame, l4, &self.transport[..transport]);
    }
}

fn copy(to: &mut [u8], from: &[u8]) {
    let len = to.len().min(from.len());
    to[..len].copy_from_slice(&from[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_packets_are_restored_whole() {
        for len in [20, 27, 28, 40, 57, 58, 100] {
            let packet: Vec<u8> = (0..len).collect();
            let head = Head { l3: 18, l4: 38, ..Head::default() };
            let frame = [&[0xff; 14], &packet[..]].concat();
            let received = Received::of(&frame, 14, &head, &FlowKey::default());
            let mut finished = frame.clone();
            finished[14..].iter_mut().take(40).for_each(|octet| *octet = 0xee);
            if len > 40 {
                // Nothing behind the transport header changes.
                finished[14 + 40..].copy_from_slice(&packet[40..]);
            }
            received.restore(&mut finished);
            assert_eq!(finished, frame, "{len}");
        }
    }
}
