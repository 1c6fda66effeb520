//! The calls that set a port up, one function each: what the driver can do, and its answer as an [`Errno`].

use std::ffi::CStr;
use std::mem::MaybeUninit;

use marchproxy_dpdk_sys as sys;
use marchproxy_engine::io::Mac;

use crate::errno::Errno;
use crate::mempool::Mempool;
use crate::port::PortInfo;
use crate::port_config::PortConfig;
use crate::rss::{Rss, symmetric_key};
use crate::{PortId, SocketId};

pub(crate) fn describe(id: PortId, name: &str) -> PortInfo {
    // SAFETY: the port is attached; -1 stands for "any".
    let socket = unsafe { sys::rte_eth_dev_socket_id(id.0) };
    let mut found = PortInfo {
        name: name.into(),
        driver: String::new(),
        socket: u32::try_from(socket).ok().map(SocketId),
        max_rx_queues: 0,
        max_tx_queues: 0,
        min_mtu: 0,
        max_mtu: 0,
        rss_table: 0,
        link_events: false,
    };
    // A device that does not answer has no queues: configuring it is refused by name.
    let Ok(info) = device_info(id) else { return found };
    found.driver = driver_name(&info);
    (found.max_rx_queues, found.max_tx_queues) = (info.max_rx_queues, info.max_tx_queues);
    (found.min_mtu, found.max_mtu) = (info.min_mtu, info.max_mtu);
    found.rss_table = info.reta_size;
    found.link_events = has_flag(&info, sys::MP_DEV_INTR_LSC as u32);
    found
}

pub(crate) fn device_info(id: PortId) -> Result<sys::rte_eth_dev_info, Errno> {
    let mut info = MaybeUninit::<sys::rte_eth_dev_info>::zeroed();
    // SAFETY: the port is attached; `info` has room for the struct, which the call fills.
    Errno::check(unsafe { sys::rte_eth_dev_info_get(id.0, info.as_mut_ptr()) })?;
    // SAFETY: filled above; every bit pattern of its integers and raw pointers is valid.
    Ok(unsafe { info.assume_init() })
}

fn driver_name(info: &sys::rte_eth_dev_info) -> String {
    if info.driver_name.is_null() {
        return String::new();
    }
    // SAFETY: not null (above); a zero-terminated name that belongs to the driver, which is never unloaded.
    unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
}

fn has_flag(info: &sys::rte_eth_dev_info, flag: u32) -> bool {
    if info.dev_flags.is_null() {
        return false;
    }
    // SAFETY: not null (above); points into the attached port's data, set before the port could be found.
    unsafe { info.dev_flags.read() & flag != 0 }
}

/// Offloads are off but those asked for: no LRO (frames would exceed the MTU), no VLAN stripping (tags stay in the frame), no
/// scatter (one buffer per frame).
pub(crate) fn configure(id: PortId, info: &sys::rte_eth_dev_info, config: &PortConfig) -> Result<Rss, Errno> {
    // SAFETY: integers and raw pointers, for which zero is valid: DPDK's own default.
    let mut conf = unsafe { MaybeUninit::<sys::rte_eth_conf>::zeroed().assume_init() };
    conf.rxmode.mtu = u32::from(config.mtu);
    if config.rx_checksum {
        conf.rxmode.offloads = info.rx_offload_capa & sys::MP_RX_OFFLOAD_L4_CKSUM;
    }
    if has_flag(info, sys::MP_DEV_INTR_LSC as u32) {
        conf.intr_conf.set_lsc(1);
    }
    if has_flag(info, sys::MP_DEV_INTR_RMV as u32) {
        conf.intr_conf.set_rmv(1);
    }
    let fields = info.flow_type_rss_offloads & sys::MP_RSS_IP_AND_PORTS;
    let mut key = symmetric_key(info.hash_key_size as usize);
    let rss = if config.rx_queues == 1 {
        Rss::SingleQueue
    } else if fields == 0 {
        Rss::Unknown
    } else {
        let asked = &mut conf.rx_adv_conf.rss_conf;
        conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
        asked.rss_hf = fields;
        if key.is_empty() {
            // It spreads flows, but by a key that it neither tells nor takes.
            Rss::Unknown
        } else {
            (asked.rss_key, asked.rss_key_len) = (key.as_mut_ptr(), key.len() as u8);
            Rss::Toeplitz { key: key.clone(), fields, table: info.reta_size }
        }
    };
    // SAFETY: the port is attached and stopped; `conf` and the key it points to live until the call returns, which copies both.
    Errno::check(unsafe { sys::rte_eth_dev_configure(id.0, config.rx_queues, config.tx_queues, &raw const conf) })?;
    Ok(rss)
}

pub(crate) fn set_up_rx(
    id: PortId,
    queue: u16,
    descriptors: u16,
    info: &sys::rte_eth_dev_info,
    pool: &Mempool,
) -> Result<(), Errno> {
    let mut conf = info.default_rxconf;
    conf.offloads = 0;
    let socket = socket_of(id);
    // SAFETY: the port is configured with more than `queue` receive queues and stopped; `conf` lives until the call returns;
    // the pool outlives the queue (PortShared holds it).
    Errno::check(unsafe { sys::rte_eth_rx_queue_setup(id.0, queue, descriptors, socket, &raw const conf, pool.raw()) })
}

pub(crate) fn set_up_tx(id: PortId, queue: u16, descriptors: u16, info: &sys::rte_eth_dev_info) -> Result<(), Errno> {
    let mut conf = info.default_txconf;
    conf.offloads = 0;
    let socket = socket_of(id);
    // SAFETY: the port is configured with more than `queue` transmit queues and stopped; `conf` lives until the call returns.
    Errno::check(unsafe { sys::rte_eth_tx_queue_setup(id.0, queue, descriptors, socket, &raw const conf) })
}

/// Where descriptors belong; -1 ("any") travels as unsigned, as DPDK wants it.
fn socket_of(id: PortId) -> u32 {
    // SAFETY: the port is attached.
    unsafe { sys::rte_eth_dev_socket_id(id.0) }.cast_unsigned()
}

pub(crate) fn set_mac(id: PortId, mac: Mac) -> Result<(), Errno> {
    let mut mac = sys::rte_ether_addr { addr_bytes: mac };
    // SAFETY: the port is attached; `mac` is only read.
    Errno::check(unsafe { sys::rte_eth_dev_default_mac_addr_set(id.0, &raw mut mac) })
}

pub(crate) fn set_promiscuous(id: PortId, on: bool) -> Result<(), Errno> {
    if on {
        // SAFETY: the port is attached.
        Errno::check(unsafe { sys::rte_eth_promiscuous_enable(id.0) })
    } else {
        // SAFETY: the port is attached.
        Errno::check(unsafe { sys::rte_eth_promiscuous_disable(id.0) })
    }
}

/// A step that many virtual devices don't know and can do without.
pub(crate) fn optional(result: i32) -> Result<(), Errno> {
    match Errno::check(result) {
        Err(Errno::NotSupported) => Ok(()),
        other => other,
    }
}
