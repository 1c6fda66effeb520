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

/// Random words that are the same on every run (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.word() % n
    }

    pub fn wide(&mut self) -> u128 {
        u128::from(self.word()) << 64 | u128::from(self.word())
    }
}
