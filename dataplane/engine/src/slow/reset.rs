//! The TCP reset that a rule with action reject answers (RFC 9293 s3.10.7.1).

use super::{SlowPath, Subject, icmp};
use crate::flow::{FlowKey, is_v4};
use crate::io::{ChecksumState, PacketBuf};
use crate::ledger::Backend;
use crate::reason::DropReason;
use crate::stage::parse::Head;
use crate::table::sessions::tcp::{ACK, FIN, RST, SYN};
use crate::wire::{TCP, be32, checksum, checksum_holds, pseudo_header, put};

/// Whether a reset is what the sender of a rejected packet is to be told.
pub(super) fn is_for(head: &Head) -> bool {
    head.protocol == TCP && !head.fragment
}

impl<K: Backend> SlowPath<K> {
    /// Drops a rejected TCP packet and resets its sender's connection, under the rate of ICMP errors.
    pub(super) fn reset(&mut self, now: u64, subject: &Subject, packet: K::Buf) {
        let Subject { head, key, .. } = subject;
        let segment = packet.data().get(usize::from(head.l4)..head.end()).unwrap_or(&[]);
        // A checksum that a virtual peer left to offload says nothing about damage.
        let sound =
            packet.checksum() == ChecksumState::Partial || checksum_holds(segment, Some((key.src, key.dst, TCP)));
        if head.flags_or_type & RST == 0 && sound {
            if self.icmp_bucket.take(now) {
                let answer = answer(segment, head.flags_or_type, key);
                self.originate_ip(now, subject, &answer);
            } else {
                self.out.stats.icmp_rate_limited.add(1);
            }
        }
        self.out.drop(packet, DropReason::RuleReject);
    }
}

/// The reset, from L3 on: as if it came from the packet's destination, in which no such connection exists.
fn answer(segment: &[u8], flags: u8, key: &FlowKey) -> Vec<u8> {
    let header = segment.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4);
    let length =
        segment.len().saturating_sub(header) as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let (sequence, acknowledgement, flags) = if flags & ACK != 0 {
        (be32(segment, 8), 0, RST)
    } else {
        (0, be32(segment, 4).wrapping_add(length), RST | ACK)
    };
    let mut body = vec![0; 20];
    put(&mut body, 0, &key.dport.to_be_bytes());
    put(&mut body, 2, &key.sport.to_be_bytes());
    put(&mut body, 4, &sequence.to_be_bytes());
    put(&mut body, 8, &acknowledgement.to_be_bytes());
    put(&mut body, 12, &[5 << 4, flags]);
    let pseudo = pseudo_header(key.dst, key.src, !is_v4(key.src), TCP, body.len());
    let sum = checksum(&body, pseudo);
    put(&mut body, 16, &sum.to_be_bytes());
    icmp::around(key.dst, key.src, 0, TCP, &body)
}
