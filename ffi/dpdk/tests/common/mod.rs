//! What every EAL test starts with: no huge pages, no PCI, no files, and a name of its own.
#![allow(dead_code)]

use marchproxy_dpdk::{
    Configured, Device, Eal, EalBuilder, Mbuf, Mempool, PacketVec, PoolConfig, Port, PortConfig, Started, Stopped,
};

pub fn builder(prefix: &str) -> EalBuilder {
    Eal::builder().no_huge().no_pci().in_memory(true).memory_mb(256).file_prefix(&format!("marchproxy-test-{prefix}"))
}

pub fn probe(eal: &Eal, spec: &str) -> (Device, Port<Stopped>) {
    let mut device = Device::probe(eal, &spec.parse().unwrap()).unwrap();
    let mut ports = device.take_ports();
    assert_eq!(ports.len(), 1);
    (device, ports.remove(0))
}

pub fn pool(eal: &Eal, name: &str, count: u32) -> Mempool {
    Mempool::create(eal, name, &PoolConfig { cache: 0, ..PoolConfig::new(count) }).unwrap()
}

pub fn configured(port: Port<Stopped>, pool: &Mempool) -> Port<Configured> {
    port.configure(&PortConfig::default(), pool).unwrap()
}

pub fn started(port: Port<Stopped>, pool: &Mempool) -> Port<Started> {
    configured(port, pool).start().unwrap()
}

/// A frame that can be told from others: its number, then its length's pattern.
pub fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| (at as u8) ^ (number as u8)).collect();
    frame[..4].copy_from_slice(&number.to_be_bytes());
    frame
}

pub fn packet(pool: &Mempool, content: &[u8]) -> Mbuf {
    use marchproxy_dpdk::PacketBuf;
    let mut packet = pool.alloc().unwrap();
    assert!(packet.resize(content.len()));
    packet.data_mut().copy_from_slice(content);
    packet
}

pub fn burst() -> PacketVec<Mbuf> {
    PacketVec::new()
}
