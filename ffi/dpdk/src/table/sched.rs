//! rte_sched: a hierarchical scheduler. One port with one subport; its pipes have strict classes and one best-effort class of
//! four weighted queues.

use std::ptr::NonNull;

use marchproxy_dpdk_sys as sys;
use marchproxy_engine::io::PacketVec;

use super::{Home, TableError, unique_name};
use crate::eal::Eal;
use crate::mbuf::Mbuf;

/// Queues of the best-effort class.
const WEIGHTED: usize = sys::MP_SCHED_BE_QUEUES as usize;
/// Calls without a packet after which packets that are still queued at the end are given up on.
const IDLE_CALLS: usize = 100_000;

/// What a scheduler is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedConfig {
    /// Rate of the port; subport, pipes and classes may take all of it.
    pub bytes_per_second: u64,
    /// Longest frame.
    pub mtu: u32,
    /// Octets that each frame costs beside its own.
    pub overhead: u32,
    /// Pipes: a power of two.
    pub pipes: u32,
    /// Packets of each queue: a power of two.
    pub queue_len: u16,
    /// Strict classes in use, the first of them goes first: 12 at most.
    pub strict_classes: u8,
    /// Weights of the best-effort queues.
    pub weights: [u8; WEIGHTED],
}

/// A class of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Before all classes of higher number.
    Strict(u8),
    /// After all of them; one of the weighted queues.
    BestEffort(u8),
}

/// Where a packet waits.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Place(sys::mp_sched_place);

impl Place {
    /// A queue of a pipe; whether a scheduler has it shows when packets come.
    pub fn new(pipe: u32, class: Class) -> Self {
        let (class_, queue) = match class {
            Class::Strict(class) => (class, 0),
            Class::BestEffort(queue) => (sys::MP_SCHED_BE_CLASS as u8, queue),
        };
        Self(sys::mp_sched_place { pipe, class_, queue })
    }
}

/// A scheduler and the packets in it.
#[derive(Debug)]
pub struct Sched {
    raw: NonNull<sys::rte_sched_port>,
    config: SchedConfig,
    queued: usize,
    home: Home,
}

// SAFETY: the scheduler is plain memory of DPDK's heap, bound to no thread, and this handle its only owner; packets may be sent.
unsafe impl Send for Sched {}

impl Sched {
    /// An empty scheduler.
    pub fn create(eal: &Eal, config: &SchedConfig) -> Result<Self, TableError> {
        let home = Home::new("rte_sched", eal.process());
        // DPDK keeps a byte's time in cycles as a fraction: terabits are the end.
        home.within("bytes_per_second", config.bytes_per_second, 1, 1 << 40)?;
        home.within("mtu", config.mtu.into(), 64, 9_728)?;
        home.within("overhead", config.overhead.into(), 0, 1_000)?;
        home.within("pipes", config.pipes.into(), 1, 1 << 20)?;
        home.within("queue_len", config.queue_len.into(), 1, 1 << 15)?;
        home.within("strict_classes", config.strict_classes.into(), 0, sys::MP_SCHED_BE_CLASS as u64)?;
        for (field, found) in [("pipes", config.pipes), ("queue_len", config.queue_len.into())] {
            if !found.is_power_of_two() {
                return Err(home.field(field, &found, "powers of two"));
            }
        }
        if let Some(weight) = config.weights.iter().find(|&&weight| weight == 0) {
            return Err(home.field("weights", &weight, "1 to 255"));
        }
        let name = unique_name("sched");
        let lowered = sys::mp_sched_config {
            bytes_per_second: config.bytes_per_second,
            mtu: config.mtu,
            overhead: config.overhead,
            pipes: config.pipes,
            queue_len: config.queue_len,
            strict_classes: config.strict_classes,
            weights: config.weights,
        };
        // SAFETY: EAL runs (home holds it); `name` is zero-terminated and copied; the fields are in range (checked above).
        let raw = unsafe { sys::mp_sched_create(name.as_ptr(), &raw const lowered) };
        Ok(Self { raw: home.made(raw)?, config: *config, queued: 0, home })
    }

    /// Packets in it.
    pub fn len(&self) -> usize {
        self.queued
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// Takes all packets, `places[n]` says where packet `n` waits; those whose queue is full are dropped. Returns how many were queued.
    /// With a place missing or one the scheduler does not have, nothing happens to any of them.
    #[inline]
    pub fn enqueue(&mut self, packets: &mut PacketVec<Mbuf>, places: &[Place]) -> Result<usize, TableError> {
        let n = packets.len();
        if let Some(place) = places.iter().take(n).find(|place| !self.has(**place)) {
            return Err(self.home.field("place", &format!("{:?}", place.0), format!("queues of {:?}", self.config)));
        }
        if places.len() < n {
            return Err(self.home.field("places", &places.len(), format!("one for each of {n} packets")));
        }
        // The packets leave the vector first: from here on nothing would free them a second time.
        // SAFETY: 0 is within the capacity; the entries stay in the array as plain pointers that nobody owns but us.
        unsafe { packets.set_len(0) };
        // SAFETY: the scheduler is alive and exclusively borrowed; the array holds `n` valid mbufs that we own, as an Mbuf is one pointer,
        // and all of them go over; `places` holds at least `n` (checked above), each a queue that exists (checked above), and a Place is a
        // mp_sched_place (repr(transparent)).
        let queued = unsafe {
            sys::mp_sched_enqueue(self.raw.as_ptr(), packets.as_mut_ptr().cast(), places.as_ptr().cast(), n as u32)
        };
        self.queued += queued as usize;
        Ok(queued as usize)
    }

    fn has(&self, place: Place) -> bool {
        let sys::mp_sched_place { pipe, class_, queue } = place.0;
        let in_class = if class_ == sys::MP_SCHED_BE_CLASS as u8 {
            usize::from(queue) < WEIGHTED
        } else {
            class_ < self.config.strict_classes && queue == 0
        };
        pipe < self.config.pipes && in_class
    }

    /// Appends the packets whose turn it is by now, `room` at most. Returns how many came.
    #[inline]
    pub fn dequeue(&mut self, into: &mut PacketVec<Mbuf>, room: usize) -> usize {
        let n = room.min(into.remaining_capacity());
        if n == 0 {
            return 0;
        }
        let held = into.len();
        // SAFETY: `held` is at most the capacity, so the address is inside the vector's array or just behind it.
        let free = unsafe { into.as_mut_ptr().add(held) };
        // SAFETY: the scheduler is alive and exclusively borrowed; `free` has room for `n` pointers, as an Mbuf is one.
        let got = unsafe { sys::rte_sched_port_dequeue(self.raw.as_ptr(), free.cast(), n as u32) };
        let got = usize::try_from(got).unwrap_or(0).min(n);
        // SAFETY: the call wrote `got <= n` pointers behind the first `held`: mbufs that enqueue took over, each once.
        unsafe { into.set_len(held + got) };
        self.queued -= got.min(self.queued);
        got
    }
}

impl Drop for Sched {
    fn drop(&mut self) {
        // DPDK forgets the packets of a queue that is full to the last place: they are taken out before.
        let mut idle = 0;
        while self.queued > 0 && idle < IDLE_CALLS {
            let mut out = PacketVec::new();
            let got = self.dequeue(&mut out, usize::MAX);
            idle = if got == 0 { idle + 1 } else { 0 };
        }
        // SAFETY: self owns the scheduler, which is not used again; EAL still runs (home holds it). Packets in it are freed; their pools
        // are alive, as pools wait for their packets.
        unsafe { sys::rte_sched_port_free(self.raw.as_ptr()) };
    }
}

// `enqueue` and `dequeue` hand arrays of Mbuf to C as arrays of pointers.
const _: () = assert!(size_of::<Mbuf>() == size_of::<*mut ()>() && align_of::<Mbuf>() == align_of::<*mut ()>());
