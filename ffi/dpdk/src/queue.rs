//! The hot path: one shim call per burst, pointers written straight into the burst's vector.

use std::ptr;
use std::sync::Arc;

use marchproxy_dpdk_sys as sys;
use marchproxy_engine::io::{self, PacketVec};

use crate::mbuf::Mbuf;
use crate::port::PortShared;
use crate::{PortId, QueueIndex};

/// Held by every queue that is out: while one is, the port can neither stop nor go.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) port: Arc<PortShared>,
}

/// One receive queue of a started port. Owned by one worker: it is not `Clone`, and receiving needs `&mut`. Drop it to give it
/// back.
#[derive(Debug)]
pub struct RxQueue {
    port: PortId,
    index: QueueIndex,
    repairs: sys::mp_rx_repairs,
    lease: Arc<Lease>,
}

/// Packets whose form was not what the engine is promised. All zero on a NIC that is set up well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxRepairs {
    /// Came in several buffers and were copied into one.
    pub linearised: u64,
    /// Came in several buffers and did not fit one: dropped.
    pub chained_dropped: u64,
    /// Came with their VLAN tag taken out, which was put back.
    pub tags_restored: u64,
    /// As before, but there was no room: dropped.
    pub tags_dropped: u64,
    /// Came without the promised headroom and without room to move: dropped.
    pub headroom_dropped: u64,
}

impl RxRepairs {
    /// Packets that the device delivered and the engine never saw.
    pub fn dropped(&self) -> u64 {
        self.chained_dropped + self.tags_dropped + self.headroom_dropped
    }
}

impl RxQueue {
    pub(crate) fn new(lease: &Arc<Lease>, index: QueueIndex) -> Self {
        Self { port: lease.port.id, index, repairs: sys::mp_rx_repairs::default(), lease: lease.clone() }
    }

    /// The queue's number on its port.
    pub fn index(&self) -> QueueIndex {
        self.index
    }

    /// The port's number.
    pub fn port(&self) -> PortId {
        self.lease.port.id
    }

    /// What was repaired or given up since the queue was taken.
    pub fn repairs(&self) -> RxRepairs {
        RxRepairs {
            linearised: self.repairs.linearised,
            chained_dropped: self.repairs.chained_dropped,
            tags_restored: self.repairs.tags_restored,
            tags_dropped: self.repairs.tags_dropped,
            headroom_dropped: self.repairs.headroom_dropped,
        }
    }
}

impl io::RxQueue for RxQueue {
    type Buf = Mbuf;

    /// Some drivers receive in steps of 4 or 8: with less room than that they may hand over nothing.
    #[inline]
    fn rx_burst(&mut self, into: &mut PacketVec<Mbuf>, room: usize) -> usize {
        let n = room.min(into.remaining_capacity());
        if n == 0 {
            return 0;
        }
        let held = into.len();
        // SAFETY: `held` is at most the capacity, so the address is inside the vector's array or just behind it.
        let free = unsafe { into.as_mut_ptr().add(held) };
        // SAFETY: the port is started and this queue set up (the lease holds it so), and only we receive on it (`&mut self`,
        // not Clone); `free` has room for `n` pointers, as an Mbuf is one (repr(transparent)).
        let got = unsafe { sys::mp_rx_burst(self.port.0, self.index.0, free.cast(), n as u16, &raw mut self.repairs) }
            as usize;
        // SAFETY: the call wrote `got <= n` pointers behind the first `held`: each a valid mbuf of one segment that the driver
        // gave away with a reference count of 1 (the shim repairs or drops others), none of them null.
        unsafe { into.set_len(held + got) };
        got
    }
}

/// One transmit queue of a started port. Owned by one worker: it is not `Clone`, and sending needs `&mut`. Drop it to give it
/// back.
#[derive(Debug)]
pub struct TxQueue {
    port: PortId,
    index: QueueIndex,
    lease: Arc<Lease>,
}

impl TxQueue {
    pub(crate) fn new(lease: &Arc<Lease>, index: QueueIndex) -> Self {
        Self { port: lease.port.id, index, lease: lease.clone() }
    }

    /// The queue's number on its port.
    pub fn index(&self) -> QueueIndex {
        self.index
    }

    /// The port's number.
    pub fn port(&self) -> PortId {
        self.lease.port.id
    }

    /// Asks the driver to give back the buffers of packets that are sent: they stay with it until it needs their descriptors.
    /// Returns how many it freed, `None` when it can't.
    pub fn reclaim(&mut self) -> Option<usize> {
        // SAFETY: the port is started and this queue set up (the lease holds it so), and only we use it.
        usize::try_from(unsafe { sys::rte_eth_tx_done_cleanup(self.port.0, self.index.0, 0) }).ok()
    }
}

impl io::TxQueue for TxQueue {
    type Buf = Mbuf;

    #[inline]
    fn tx_burst(&mut self, packets: &mut PacketVec<Mbuf>) -> usize {
        let n = packets.len();
        if n == 0 {
            return 0;
        }
        // The packets leave the vector first: from here on nothing would free them a second time.
        // SAFETY: 0 is within the capacity; the entries stay in the array as plain pointers that nobody owns but us.
        unsafe { packets.set_len(0) };
        let first = packets.as_mut_ptr();
        // SAFETY: the port is started and this queue set up (the lease holds it so), and only we send on it; `first` points to
        // `n` valid mbufs that we own (PacketVec holds 64 at most), as an Mbuf is one pointer. The driver takes the first
        // `sent` and leaves the others alone.
        let sent = unsafe { sys::mp_tx_burst(self.port.0, self.index.0, first.cast(), n as u16) } as usize;
        if sent < n {
            // SAFETY: `sent < n`, so the address is inside the array.
            let tail = unsafe { first.add(sent) };
            // SAFETY: both ranges of `n - sent` pointers lie inside the array; copy allows them to overlap.
            unsafe { ptr::copy(tail, first, n - sent) };
            // SAFETY: the first `n - sent` entries are the mbufs that the driver did not take, owned by us, each once.
            unsafe { packets.set_len(n - sent) };
        }
        sent
    }
}
