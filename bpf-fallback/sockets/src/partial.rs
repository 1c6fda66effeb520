//! Finishes the layer-4 checksum of packets whose sender left that to a device that is not there: peers on the same host (veth, virtio)
//! put the sum of the pseudo header into the field and nothing else. Then the sum over the segment as it stands, field included, is what
//! the field must complement; the pseudo header need not be known.

const ETHERTYPE_VLAN: [u16; 2] = [0x8100, 0x88a8];
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Fills the checksum in. Returns false, and changes nothing, for frames that are not TCP or UDP in full.
pub(crate) fn finish(frame: &mut [u8]) -> bool {
    let Some((protocol, from, to)) = segment(frame) else { return false };
    let field = from + if protocol == TCP { 16 } else { 6 };
    let Some(bytes) = frame.get(from..to) else { return false };
    if field + 2 > to {
        return false;
    }
    let mut sum = !fold(bytes);
    // RFC 768: zero would mean "none".
    if protocol == UDP && sum == 0 {
        sum = 0xffff;
    }
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

fn fold(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Protocol, beginning and end of the TCP or UDP segment.
fn segment(frame: &[u8]) -> Option<(u8, usize, usize)> {
    let mut at = 12;
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    while ETHERTYPE_VLAN.contains(&word(at)?) {
        at += 4;
    }
    let l3 = at + 2;
    let (protocol, from, to) = match word(at)? {
        0x0800 => {
            let header = usize::from(*frame.get(l3)? & 15) * 4;
            // A fragment has no whole segment.
            if word(l3 + 6)? & 0x3fff != 0 {
                return None;
            }
            (*frame.get(l3 + 9)?, l3 + header, l3 + usize::from(word(l3 + 2)?))
        }
        0x86dd => {
            let end = l3 + 40 + usize::from(word(l3 + 4)?);
            let (mut next, mut at) = (*frame.get(l3 + 6)?, l3 + 40);
            // Hop-by-hop, routing, destination options: type, length in eights beyond the first.
            while matches!(next, 0 | 43 | 60) {
                next = *frame.get(at)?;
                at += 8 + usize::from(*frame.get(at + 1)?) * 8;
            }
            (next, at, end)
        }
        _ => return None,
    };
    (matches!(protocol, TCP | UDP) && from < to && to <= frame.len()).then_some((protocol, from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use marchproxy_engine::packet::Packet;

    /// What a veth peer sends: the folded sum of the pseudo header in the field.
    fn left_undone(whole: &[u8], from: usize, field: usize, pseudo: &[u8]) -> Vec<u8> {
        let mut frame = whole.to_vec();
        let sum = fold(pseudo);
        frame[from + field..from + field + 2].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    #[test]
    fn checksums_come_out_as_if_the_sender_had_made_them() {
        let eth = || Packet::eth([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let v4 = |packet: Packet| packet.ip("192.0.2.1".parse().unwrap(), "198.51.100.9".parse().unwrap());
        let v6 = |packet: Packet| packet.ip("2001:db8::1".parse().unwrap(), "2001:db8:1::9".parse().unwrap());
        for (name, whole, l3, header, protocol) in [
            ("udp", v4(eth()).udp(1, 2).payload(*b"odd").build(), 14, 20, UDP),
            ("tagged", v4(eth().vlan(7)).udp(1, 2).payload(*b"even").build(), 18, 20, UDP),
            ("tcp", v4(eth()).tcp(1, 2).payload(*b"x").build(), 14, 20, TCP),
            ("udp of 6", v6(eth()).udp(1, 2).payload(*b"odd").build(), 14, 40, UDP),
            ("tcp of 6", v6(eth()).tcp(1, 2).build(), 14, 40, TCP),
        ] {
            let from = l3 + header;
            let (addresses, total) = if header == 20 {
                (l3 + 12..l3 + 20, usize::from(u16::from_be_bytes([whole[l3 + 2], whole[l3 + 3]])) - 20)
            } else {
                (l3 + 8..l3 + 40, usize::from(u16::from_be_bytes([whole[l3 + 4], whole[l3 + 5]])))
            };
            let pseudo = [&whole[addresses], &[0, protocol], &(total as u16).to_be_bytes()].concat();
            let mut frame = left_undone(&whole, from, if protocol == TCP { 16 } else { 6 }, &pseudo);
            assert!(frame != whole && finish(&mut frame), "{name}");
            assert_eq!(frame, whole, "{name}");
        }
    }

    #[test]
    fn what_is_cut_short_or_something_else_is_left_alone() {
        let whole = Packet::eth([2; 6], [4; 6])
            .ip("192.0.2.1".parse().unwrap(), "198.51.100.9".parse().unwrap())
            .tcp(1, 2)
            .build();
        for cut in 0..whole.len() {
            let mut frame = whole[..cut].to_vec();
            let before = frame.clone();
            // Whether padding was cut or the segment itself: never a panic, never a write beyond.
            if !finish(&mut frame) {
                assert_eq!(frame, before);
            }
        }
        assert!(!finish(&mut [0xff; 64]));
    }
}
