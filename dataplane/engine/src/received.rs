//! What a finished packet was like when it was received: kept with packets that wait for their next hop, because an ICMP error about
//! them quotes what the sender sent.

use crate::flow::FlowKey;
use crate::ports::PortSlot;
use crate::stage::parse::Head;
use crate::wire::put;

/// Octets of an IP header that finishing may change.
const NETWORK: usize = 40;
/// Octets of an upper-layer header that finishing may change: a TCP header with options, of which a tunnel may lower the MSS.
const TRANSPORT: usize = 60;

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
    /// Of a packet, from its IP header on, that will begin at `l3` in the finished frame.
    pub fn of(packet: &[u8], l3: usize, head: &Head, key: &FlowKey) -> Self {
        // A later fragment's upper layer is nowhere, and stays so.
        let upper = head.l4 - u16::from(head.l3);
        let head = Head { l3: l3 as u8, l4: upper.saturating_add(l3 as u16), ..*head };
        let mut received = Self { head, key: *key, ..Self::default() };
        copy(&mut received.network, packet);
        copy(&mut received.transport, packet.get(usize::from(upper)..).unwrap_or(&[]));
        received
    }

    /// The same with the port it was received on, which the burst knows.
    #[must_use]
    pub fn on(self, port: PortSlot) -> Self {
        Self { port, ..self }
    }

    /// Makes the packet in a finished frame as it was received. What is in front of it stays: L2 header, headers of a tunnel.
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
        for len in [20, 27, 28, 40, 57, 79, 80, 120] {
            let packet: Vec<u8> = (0..len).collect();
            let head = Head { l3: 18, l4: 38, ..Head::default() };
            let frame = [&[0xff; 14], &packet[..]].concat();
            let received = Received::of(&packet, 14, &head, &FlowKey::default());
            let mut finished = frame.clone();
            // Nothing behind the transport header changes.
            finished[14..].iter_mut().take(80).for_each(|octet| *octet = 0xee);
            received.restore(&mut finished);
            assert_eq!(finished, frame, "{len}");
        }
    }
}
