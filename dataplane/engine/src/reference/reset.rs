//! What a rule with action reject answers: a TCP reset (RFC 9293 s3.10.7.1) or an ICMP error.

use super::icmp::Cause;
use super::layer2::Frame;
use super::layer4::{Fragment, Ip, TCP};
use super::outcome::{Fate, Outcome};
use super::{Reference, address_octets, checksum};
use crate::reason::DropReason;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

impl Reference {
    /// Drops a packet that a rule rejects and tells its sender.
    pub(super) fn reject(&mut self, now: u64, frame: &Frame, ip: &Ip, out: &mut Outcome) -> Fate {
        if ip.protocol != TCP || ip.fragment != Fragment::No {
            return self.refuse(now, frame.interface, ip, Cause::Prohibited, out);
        }
        let fate = Fate::Dropped(DropReason::RuleReject);
        let body = ip.body();
        let flags = body[13];
        if flags & RST != 0 || checksum::sum(&[pseudo_header(ip, body.len()), body.to_vec()].concat()) != 0xffff {
            return fate;
        }
        if !self.errors.take(now) {
            return fate;
        }
        let word = |at: usize| u32::from_be_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
        let data = body.len() - usize::from(body[12] >> 4) * 4;
        let length = data as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let (seq, ack, flags) =
            if flags & ACK != 0 { (word(8), 0, RST) } else { (0, word(4).wrapping_add(length), RST | ACK) };

        let mut segment = [&body[2..4], &body[..2]].concat();
        segment.extend(seq.to_be_bytes());
        segment.extend(ack.to_be_bytes());
        segment.extend([5 << 4, flags, 0, 0, 0, 0, 0, 0]);
        // Both addresses are the same as in the packet, the other way round, which sums do not mind.
        let sum = checksum::compute(&[pseudo_header(ip, segment.len()), segment.clone()].concat());
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        let packet = around(ip, segment);
        self.originate(now, frame.interface, ip.dst, ip.src, &packet, out);
        fate
    }
}

/// What TCP sums before its header: RFC 9293 s3.1.
fn pseudo_header(ip: &Ip, len: usize) -> Vec<u8> {
    if ip.is_v6() {
        return checksum::pseudo_header_v6(ip.src, ip.dst, TCP, len);
    }
    let mut bytes = [address_octets(ip.src), address_octets(ip.dst)].concat();
    bytes.extend([0, TCP]);
    bytes.extend((len as u16).to_be_bytes());
    bytes
}

/// The segment in a packet to the sender of `ip`.
fn around(ip: &Ip, segment: Vec<u8>) -> Vec<u8> {
    let (src, dst) = (address_octets(ip.dst), address_octets(ip.src));
    let len = segment.len() as u16;
    let mut packet;
    if ip.is_v6() {
        packet = [&[0x60, 0, 0, 0][..], &len.to_be_bytes(), &[TCP, 64], &src, &dst].concat();
    } else {
        packet = [&[0x45, 0][..], &(20 + len).to_be_bytes(), &[0, 0, 0x40, 0, 64, TCP, 0, 0], &src, &dst].concat();
        let sum = checksum::compute(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet.extend(segment);
    packet
}
