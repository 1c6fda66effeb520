//! Transmits: frames go out on the transmit ring and come back on the completion ring.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use marchproxy_engine::io::{PacketBuf, PacketVec};

use super::ring::Ring;
use super::socket::XskSocket;
use crate::frame::Frame;

/// Sent frames taken back in one call, so that a call is bounded: twice as many as it can send.
const DONE: u32 = 128;
/// The kernel copies out 32 packets a call: this many calls send what a call of ours adds, and as much again.
const KICKS: u32 = 4;

/// The transmit side of an AF_XDP socket.
#[derive(Debug)]
pub(crate) struct XskTx {
    tx: Ring,
    done: Ring,
    /// After the rings: see `Lent`.
    socket: Arc<XskSocket>,
    /// Frames the kernel has.
    out: u32,
}

impl XskTx {
    pub(crate) fn new(socket: Arc<XskSocket>, tx: Ring, done: Ring) -> Self {
        Self { tx, done, socket, out: 0 }
    }

    pub(crate) fn tx_burst(&mut self, packets: &mut PacketVec<Frame>) -> usize {
        self.take_back();
        if self.socket.down.load(Ordering::Relaxed) && !self.socket.kick() {
            return 0;
        }
        let wanted = packets.len() as u32;
        let room = self.tx.room(wanted).min(wanted);
        for packet in packets.drain(..room as usize) {
            match self.own(packet) {
                Some(packet) => {
                    let (address, length) = packet.lend(self.socket.tx_side());
                    self.tx.put(address, length);
                    self.out += 1;
                }
                None => {
                    self.socket.tx_errors.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        if room > 0 {
            self.tx.submit();
        }
        if self.tx.needs_wakeup() {
            self.wake();
        }
        room as usize
    }

    /// The packet in memory that the socket knows: frames of another size belong to ports with another MTU, and are copied.
    fn own(&self, packet: Frame) -> Option<Frame> {
        let pool = self.socket.pool;
        if packet.is_of(pool) {
            return Some(packet);
        }
        let mut copy = Frame::empty(pool)?;
        if !copy.resize(packet.octets()) {
            return None;
        }
        copy.data_mut().copy_from_slice(packet.data());
        Some(copy)
    }

    /// Makes the kernel send. What it does not take now the receive side tries again when it is idle.
    fn wake(&mut self) {
        let mut sent = true;
        for _ in 0..KICKS {
            sent = self.socket.kick();
            if !sent || self.tx.is_taken() {
                break;
            }
        }
        let owed = !sent || !self.tx.is_taken();
        self.socket.owed.store(owed, Ordering::Relaxed);
    }

    fn take_back(&mut self) {
        if self.out == 0 {
            return;
        }
        let pool = self.socket.pool;
        let done = self.done.ready(DONE).min(DONE);
        for _ in 0..done {
            let (index, _) = pool.locate(self.done.take_address());
            if pool.reclaim(index, self.socket.tx_side()) {
                pool.give_back(index);
            }
        }
        if done > 0 {
            self.done.release();
            self.out = self.out.saturating_sub(done);
        }
    }
}
