//! Receives: the kernel fills blocks and hands them over whole; a block goes back when its last packet was copied out.

use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use libc::{tpacket_hdr_v1, tpacket_hdr_variant1, tpacket3_hdr};
use marchproxy_engine::io::{ChecksumState, PacketBuf, PacketVec};

use super::socket::{BLOCK, PacketSocket, RX_BLOCKS};
use crate::frame::Frame;
use crate::partial;
use crate::pool::Pool;

/// A block's header begins with version and an offset of four octets each.
const BLOCK_HEADER: usize = 8;
const TAG: usize = 4;
const MACS: usize = 12;
const CTAG: u16 = 0x8100;

/// The receive side of a packet socket.
#[derive(Debug)]
pub(crate) struct PacketRx {
    socket: Arc<PacketSocket>,
    pool: &'static Pool,
    block: usize,
    /// Packets of the block that were not looked at, and where the next one is.
    left: u32,
    next: usize,
}

impl PacketRx {
    pub(crate) fn new(socket: Arc<PacketSocket>, pool: &'static Pool) -> Self {
        Self { socket, pool, block: 0, left: 0, next: 0 }
    }

    pub(crate) fn rx_burst(&mut self, into: &mut PacketVec<Frame>, room: usize) -> usize {
        let before = into.len();
        let most = room.min(into.remaining_capacity());
        // Packets that turn out broken count, too, so that a burst is bounded.
        for _ in 0..most {
            if self.left == 0 && !self.open_block() {
                break;
            }
            // Without a free frame the packet stays where it is, and the kernel counts what it has no room for.
            let Some(mut frame) = Frame::empty(self.pool) else { break };
            if self.copy(&mut frame) {
                into.push(frame);
            } else {
                self.socket.rx_errors.fetch_add(1, Ordering::Relaxed);
            }
            self.advance();
        }
        let got = into.len() - before;
        if got == 0 && self.socket.owed.load(Ordering::Relaxed) {
            self.socket.kick();
        }
        got
    }

    fn field(&self, offset: usize) -> usize {
        self.block * BLOCK + BLOCK_HEADER + offset
    }

    fn open_block(&mut self) -> bool {
        let rings = &self.socket.rings;
        let status = rings.word(self.field(offset_of!(tpacket_hdr_v1, block_status)));
        let Some(status) = status.filter(|status| status.load(Ordering::Acquire) & libc::TP_STATUS_USER != 0) else {
            return false;
        };
        self.left = rings.get(self.field(offset_of!(tpacket_hdr_v1, num_pkts)));
        self.next =
            self.block * BLOCK + rings.get(self.field(offset_of!(tpacket_hdr_v1, offset_to_first_pkt))) as usize;
        if self.left == 0 {
            // Handed over because time was up, with nothing in it.
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.block = (self.block + 1) % RX_BLOCKS;
            return false;
        }
        true
    }

    /// Copies the packet, tag included. False for one that is cut off or longer than a frame.
    fn copy(&self, frame: &mut Frame) -> bool {
        let rings = &self.socket.rings;
        let at = |field: usize| self.next + field;
        let status = rings.get(at(offset_of!(tpacket3_hdr, tp_status)));
        let captured = rings.get(at(offset_of!(tpacket3_hdr, tp_snaplen))) as usize;
        let length = rings.get(at(offset_of!(tpacket3_hdr, tp_len))) as usize;
        let data = at(usize::from(rings.half(at(offset_of!(tpacket3_hdr, tp_mac)))));
        let tag = (status & libc::TP_STATUS_VLAN_VALID != 0).then(|| {
            let variant = offset_of!(tpacket3_hdr, hv1);
            let tci = rings.get(at(variant + offset_of!(tpacket_hdr_variant1, tp_vlan_tci))) as u16;
            let said = rings.half(at(variant + offset_of!(tpacket_hdr_variant1, tp_vlan_tpid)));
            (if status & libc::TP_STATUS_VLAN_TPID_VALID != 0 { said } else { CTAG }, tci)
        });
        let room = if tag.is_some() { TAG } else { 0 };
        if captured != length || (room > 0 && length < MACS) || !frame.resize(length + room) {
            return false;
        }
        let bytes = frame.data_mut();
        let copied = match tag {
            None => rings.copy_out(data, bytes),
            Some((tpid, tci)) => {
                bytes[MACS..MACS + 2].copy_from_slice(&tpid.to_be_bytes());
                bytes[MACS + 2..MACS + TAG].copy_from_slice(&tci.to_be_bytes());
                rings.copy_out(data, &mut bytes[..MACS]) && rings.copy_out(data + MACS, &mut bytes[MACS + TAG..])
            }
        };
        if status & libc::TP_STATUS_CSUMNOTREADY != 0 {
            let finished = partial::finish(frame.data_mut());
            frame.set_checksum(if finished { ChecksumState::Verified } else { ChecksumState::Partial });
        } else if status & libc::TP_STATUS_CSUM_VALID != 0 {
            frame.set_checksum(ChecksumState::Verified);
        }
        copied
    }

    fn advance(&mut self) {
        let rings = &self.socket.rings;
        self.left -= 1;
        if self.left > 0 {
            self.next += rings.get(self.next + offset_of!(tpacket3_hdr, tp_next_offset)) as usize;
            return;
        }
        if let Some(status) = rings.word(self.field(offset_of!(tpacket_hdr_v1, block_status))) {
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        self.block = (self.block + 1) % RX_BLOCKS;
    }
}
