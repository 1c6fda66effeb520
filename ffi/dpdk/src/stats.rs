//! A port's counters as its driver keeps them.

use std::ffi::{CStr, c_char};

use marchproxy_dpdk_sys as sys;

use crate::PortId;
use crate::errno::Errno;

/// Basic counters since attach or reset. Which of them a driver keeps is its own affair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received and handed over.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets the device dropped because no descriptor was free: workers are too slow.
    pub rx_missed: u64,
    /// Packets received broken.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Receives that failed because the pool was empty.
    pub rx_no_mbuf: u64,
}

/// One extended counter of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xstat {
    /// The driver's name for it.
    pub name: String,
    /// Its value.
    pub value: u64,
}

pub(crate) fn stats(port: PortId) -> Result<PortStats, Errno> {
    let mut raw = sys::rte_eth_stats::default();
    // SAFETY: the port is attached (the caller holds it); `raw` has room for the answer.
    Errno::check(unsafe { sys::rte_eth_stats_get(port.0, &raw mut raw) })?;
    Ok(PortStats {
        rx_packets: raw.ipackets,
        tx_packets: raw.opackets,
        rx_bytes: raw.ibytes,
        tx_bytes: raw.obytes,
        rx_missed: raw.imissed,
        rx_errors: raw.ierrors,
        tx_errors: raw.oerrors,
        rx_no_mbuf: raw.rx_nombuf,
    })
}

pub(crate) fn reset(port: PortId) -> Result<(), Errno> {
    // SAFETY: the port is attached.
    Errno::check(unsafe { sys::rte_eth_stats_reset(port.0) })
}

pub(crate) fn xstats(port: PortId) -> Result<Vec<Xstat>, Errno> {
    // SAFETY: the port is attached; null with room for 0 only asks for the number.
    let count = length(unsafe { sys::rte_eth_xstats_get_names(port.0, std::ptr::null_mut(), 0) })?;
    let mut names = vec![sys::rte_eth_xstat_name::default(); count];
    // SAFETY: the port is attached; `names` has room for `count` entries.
    let named = length(unsafe { sys::rte_eth_xstats_get_names(port.0, names.as_mut_ptr(), count as u32) })?;
    let mut values = vec![sys::rte_eth_xstat::default(); count];
    // SAFETY: the port is attached; `values` has room for `count` entries.
    let valued = length(unsafe { sys::rte_eth_xstats_get(port.0, values.as_mut_ptr(), count as u32) })?;
    if named.max(valued) > count {
        // The driver has more than it said: the table was not filled.
        return Err(Errno::TryAgain);
    }
    // A value's id is its name's place.
    let pair = |value: &sys::rte_eth_xstat| {
        let name = names[..named].get(usize::try_from(value.id).ok()?)?;
        Some(Xstat { name: text(&name.name), value: value.value })
    };
    Ok(values[..valued].iter().filter_map(pair).collect())
}

fn length(result: i32) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::from_raw(result))
}

/// A fixed array with a zero-terminated name in it.
fn text(name: &[c_char]) -> String {
    let bytes: Vec<u8> = name.iter().map(|byte| byte.cast_unsigned()).collect();
    CStr::from_bytes_until_nul(&bytes).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
