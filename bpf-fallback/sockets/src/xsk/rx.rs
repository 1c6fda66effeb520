//! Receives: empty frames go out on the fill ring, full ones come in on the receive ring.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use marchproxy_engine::io::{MIN_HEADROOM, PacketVec};

use super::ring::Ring;
use super::socket::XskSocket;
use crate::frame::Frame;

/// Frames posted at once, and so how many must be missing before any are.
const REFILL: u32 = 64;

/// The receive side of an AF_XDP socket.
#[derive(Debug)]
pub(crate) struct XskRx {
    fill: Ring,
    rx: Ring,
    /// After the rings: see `Lent`.
    socket: Arc<XskSocket>,
    /// Frames the kernel has, and shall have.
    posted: u32,
    level: u32,
}

impl XskRx {
    pub(crate) fn new(socket: Arc<XskSocket>, fill: Ring, rx: Ring) -> Self {
        // A thread's frames serve all its queues and what is on the way out.
        let level = (socket.pool.per_seat() / 16).clamp(REFILL as usize, 1024) as u32;
        Self { fill, rx, socket, posted: 0, level }
    }

    pub(crate) fn rx_burst(&mut self, into: &mut PacketVec<Frame>, room: usize) -> usize {
        let most = room.min(into.remaining_capacity()) as u32;
        let ready = self.rx.ready(most).min(most);
        if ready == 0 {
            self.idle();
            return 0;
        }
        let before = into.len();
        for _ in 0..ready {
            let (address, length) = self.rx.take();
            let (index, start) = self.socket.pool.locate(address);
            if !self.socket.pool.reclaim(index, self.socket.rx_side()) {
                self.socket.rx_errors.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let frame = Frame::new(self.socket.pool, index, start, length as usize);
            if start < MIN_HEADROOM {
                // No driver does so; the engine is promised room.
                self.socket.rx_errors.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            into.push(frame);
        }
        self.rx.release();
        self.posted = self.posted.saturating_sub(ready);
        if self.level - self.posted >= REFILL {
            self.refill();
        }
        into.len() - before
    }

    /// Nothing came: all frames that may be out go out, and whoever sleeps is woken.
    fn idle(&mut self) {
        if self.posted < self.level {
            self.refill();
        }
        if self.socket.busy_poll || self.fill.needs_wakeup() {
            self.socket.wake_receiver();
        }
        if self.socket.owed.load(Ordering::Relaxed) {
            let sent = self.socket.kick();
            self.socket.owed.store(!sent, Ordering::Relaxed);
        }
    }

    fn refill(&mut self) {
        let pool = self.socket.pool;
        let room = self.fill.room(REFILL).min(self.level - self.posted);
        let mut put = 0;
        while put < room {
            let Some(frame) = pool.take() else { break };
            pool.lend(frame, self.socket.rx_side());
            self.fill.put_address(pool.address(frame));
            put += 1;
        }
        if put > 0 {
            self.fill.submit();
            self.posted += put;
        }
    }
}
