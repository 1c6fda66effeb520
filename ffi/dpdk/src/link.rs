//! Link state, and how often it changed.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use marchproxy_dpdk_sys as sys;

use crate::PortId;
use crate::errno::Errno;

/// A port's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether packets can pass.
    pub up: bool,
    /// Mbit/s; `None` when unknown or down.
    pub mbps: Option<u32>,
    /// Both directions at once.
    pub full_duplex: bool,
}

/// Written by DPDK's interrupt thread, read by anyone.
struct Events {
    link: AtomicU32,
    removed: AtomicBool,
}

/// By port number, so that the callback needs no pointer that could outlive its port.
static EVENTS: [Events; sys::MP_MAX_PORTS as usize] =
    [const { Events { link: AtomicU32::new(0), removed: AtomicBool::new(false) } }; sys::MP_MAX_PORTS as usize];

const WATCHED: [sys::rte_eth_event_type; 2] = [sys::RTE_ETH_EVENT_INTR_LSC, sys::RTE_ETH_EVENT_INTR_RMV];

/// The link as the driver knows it, without waiting for the hardware.
pub(crate) fn link(port: PortId) -> Result<Link, Errno> {
    let mut raw = sys::mp_link::default();
    // SAFETY: the port is attached (the caller holds it); `raw` has room for the answer.
    Errno::check(unsafe { sys::mp_link_nowait(port.0, &raw mut raw) })?;
    let up = raw.up != 0;
    // RTE_ETH_SPEED_NUM_NONE and _UNKNOWN.
    let mbps = Some(raw.mbps).filter(|mbps| up && *mbps != 0 && *mbps != u32::MAX);
    Ok(Link { up, mbps, full_duplex: raw.full_duplex != 0 })
}

pub(crate) fn changes(port: PortId) -> u32 {
    events(port).map_or(0, |events| events.link.load(Ordering::Acquire))
}

pub(crate) fn removed(port: PortId) -> bool {
    events(port).is_some_and(|events| events.removed.load(Ordering::Acquire))
}

/// Starts counting for a port that was just attached, from zero.
pub(crate) fn watch(port: PortId) {
    if let Some(events) = events(port) {
        events.link.store(0, Ordering::Release);
        events.removed.store(false, Ordering::Release);
    }
    for event in WATCHED {
        // SAFETY: the port is attached; the callback lives as long as the program and takes no argument of ours. It fails only
        // for want of memory, and then the link can still be polled.
        unsafe { sys::rte_eth_dev_callback_register(port.0, event, Some(count), null_mut()) };
    }
}

/// Stops counting for a port that is about to close.
pub(crate) fn unwatch(port: PortId) {
    for event in WATCHED {
        // SAFETY: the port is still attached; names the callback exactly as it was registered.
        unsafe { sys::rte_eth_dev_callback_unregister(port.0, event, Some(count), null_mut()) };
    }
}

/// # Safety
/// Called by EAL alone, with its arguments; dereferences none of them.
unsafe extern "C" fn count(port: u16, event: sys::rte_eth_event_type, _: *mut c_void, _: *mut c_void) -> c_int {
    if let Some(events) = events(PortId(port)) {
        match event {
            sys::RTE_ETH_EVENT_INTR_LSC => {
                events.link.fetch_add(1, Ordering::AcqRel);
            }
            sys::RTE_ETH_EVENT_INTR_RMV => events.removed.store(true, Ordering::Release),
            _ => {}
        }
    }
    0
}

fn events(port: PortId) -> Option<&'static Events> {
    EVENTS.get(port.0 as usize)
}
