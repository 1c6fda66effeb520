//! Transmits: packets are copied into slots, then the kernel is told once for all of them.

use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use libc::tpacket3_hdr;
use marchproxy_engine::io::{PacketBuf, PacketVec};

use super::socket::{PacketSocket, TX_DATA, TX_SLOTS};
use crate::frame::Frame;

/// The transmit side of a packet socket.
#[derive(Debug)]
pub(crate) struct PacketTx {
    socket: Arc<PacketSocket>,
    next: usize,
}

impl PacketTx {
    pub(crate) fn new(socket: Arc<PacketSocket>) -> Self {
        Self { socket, next: 0 }
    }

    pub(crate) fn tx_burst(&mut self, packets: &mut PacketVec<Frame>) -> usize {
        if self.socket.down.load(Ordering::Relaxed) {
            // Is it still so?
            self.socket.kick();
            if self.socket.down.load(Ordering::Relaxed) {
                return 0;
            }
        }
        let placed = packets.iter().take_while(|packet| self.place(packet)).count();
        if placed > 0 {
            self.socket.kick();
        }
        packets.drain(..placed);
        placed
    }

    /// Puts a packet into the next slot, if that is free. One longer than a slot is counted and goes nowhere: the MTU was checked
    /// long before.
    fn place(&mut self, packet: &Frame) -> bool {
        let socket = &self.socket;
        let slot = socket.slots_at + self.next * socket.slot;
        let Some(status) = socket.rings.word(slot + offset_of!(tpacket3_hdr, tp_status)) else { return false };
        match status.load(Ordering::Acquire) {
            libc::TP_STATUS_AVAILABLE => {}
            // The kernel refused what was here.
            found if found & libc::TP_STATUS_WRONG_FORMAT != 0 => {
                socket.tx_errors.fetch_add(1, Ordering::Relaxed);
            }
            // A time stamp is no reason to wait.
            found if found & (libc::TP_STATUS_SEND_REQUEST | libc::TP_STATUS_SENDING) == 0 => {}
            _ => return false,
        }
        let fits = packet.octets() <= socket.slot - TX_DATA && socket.rings.copy_in(slot + TX_DATA, packet.data());
        if !fits {
            socket.tx_errors.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        socket.rings.set(slot + offset_of!(tpacket3_hdr, tp_len), packet.octets() as u32);
        socket.rings.set(slot + offset_of!(tpacket3_hdr, tp_next_offset), 0);
        status.store(libc::TP_STATUS_SEND_REQUEST, Ordering::Release);
        self.next = (self.next + 1) % TX_SLOTS;
        true
    }
}
