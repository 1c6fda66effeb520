//! What a worker holds of a port: one receive and one transmit queue, whichever sockets are behind them. The choice is made once a
//! burst.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use marchproxy_engine::io::{self, PacketVec};
use marchproxy_engine::ledger::Backend;

use crate::frame::{Frame, FramePool};
use crate::packet::{PacketRx, PacketSocket, PacketTx};
use crate::xsk::{XskRx, XskTx};

/// The backend's types.
#[derive(Debug)]
pub struct Sockets;

impl Backend for Sockets {
    type Buf = Frame;
    type Rx = RxQueue;
    type Tx = TxQueue;
    type Pool = FramePool;
}

/// A receive queue.
#[derive(Debug)]
pub struct RxQueue(pub(crate) Rx);

/// A transmit queue.
#[derive(Debug)]
pub struct TxQueue(pub(crate) Tx);

#[derive(Debug)]
pub(crate) enum Rx {
    Packet(PacketRx),
    Xsk(Lanes),
}

#[derive(Debug)]
pub(crate) enum Tx {
    Packet(PacketTx),
    Xsk(XskTx),
}

/// The device queues that one worker serves: none when there are fewer than workers, several when there are more.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    pub(crate) queues: Vec<XskRx>,
    /// Where the next burst begins, so that all get their turn.
    next: usize,
    /// What a worker without a queue sends by.
    pub(crate) sender: Option<Arc<PacketSocket>>,
}

impl Lanes {
    fn rx_burst(&mut self, into: &mut PacketVec<Frame>, room: usize) -> usize {
        let mut got = 0;
        for _ in 0..self.queues.len() {
            let at = self.next;
            self.next = if at + 1 >= self.queues.len() { 0 } else { at + 1 };
            if let Some(lane) = self.queues.get_mut(at) {
                got += lane.rx_burst(into, room - got);
            }
            if got == room {
                break;
            }
        }
        if let Some(sender) = self.sender.as_ref().filter(|sender| sender.owed.load(Ordering::Relaxed)) {
            sender.kick();
        }
        got
    }
}

impl io::RxQueue for RxQueue {
    type Buf = Frame;

    #[inline]
    fn rx_burst(&mut self, into: &mut PacketVec<Frame>, room: usize) -> usize {
        match &mut self.0 {
            Rx::Packet(rx) => rx.rx_burst(into, room),
            Rx::Xsk(lanes) => lanes.rx_burst(into, room),
        }
    }
}

impl io::TxQueue for TxQueue {
    type Buf = Frame;

    #[inline]
    fn tx_burst(&mut self, packets: &mut PacketVec<Frame>) -> usize {
        if packets.is_empty() {
            return 0;
        }
        match &mut self.0 {
            Tx::Packet(tx) => tx.tx_burst(packets),
            Tx::Xsk(tx) => tx.tx_burst(packets),
        }
    }
}
