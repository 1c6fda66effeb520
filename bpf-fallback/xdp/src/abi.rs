//! What the program reads and writes, as in `bpf/layout.h`; the sizes of keys and values are compared when it is loaded.

use bytemuck::{Pod, Zeroable};
use marchproxy_engine::reason::DropReason;

/// Sets of tables of which one is in use.
pub const GENERATIONS: u32 = 2;
/// Receive queues of a port.
pub const MAX_QUEUES: u32 = 64;

/// What goes to our MAC address and to nobody here is forwarded, so it is ours.
pub const PORT_ROUTES: u16 = 1;
/// All interfaces of the port have one routing table.
pub const PORT_SENDS: u16 = 2;
/// An address of an interface of ours.
pub const ADDRESS_INTERFACE: u32 = 1;
/// An address of a service or source pool.
pub const ADDRESS_SERVICE: u32 = 2;
/// The kernel's own.
pub const ADDRESS_KERNEL: u32 = 4;

/// Directed broadcast of a connected prefix.
pub const ADDRESS_BROADCAST: u32 = 8;
/// Packets from there may belong to a session.
pub const ADDRESS_BACKEND: u32 = 16;

/// Rules look at sources of IPv4 packets.
pub const LOOKS_AT_SOURCE_V4: u32 = 1;
/// Of IPv6 packets.
pub const LOOKS_AT_SOURCE_V6: u32 = 2;
/// At destinations.
pub const LOOKS_AT_TARGET_V4: u32 = 4;
/// Of IPv6 packets.
pub const LOOKS_AT_TARGET_V6: u32 = 8;
/// At source ports.
pub const LOOKS_AT_SOURCE_PORT: u32 = 16;
/// At destination ports.
pub const LOOKS_AT_TARGET_PORT: u32 = 32;
/// What no rule matches is denied.
pub const DENIES_THE_REST: u32 = 64;
/// There are no rules.
pub const PERMITS_ALL: u32 = 128;
/// There are services.
pub const BALANCES: u32 = 256;
/// There are routes.
pub const FORWARDS: u32 = 512;
/// Somebody looks at packets.
pub const WATCHED: u32 = 1024;

/// Slots of rings are kept by so many.
pub const CHUNK: usize = 32;
/// In place of a backend.
pub const NOBODY: u16 = u16::MAX;
/// A service without mark.
pub const NO_DSCP: u8 = 255;
/// A route that the engine takes.
pub const ROUTE_LEAVE: u32 = u32::MAX;
/// A route that drops.
pub const ROUTE_BLACKHOLE: u32 = u32::MAX - 1;

/// An array whose size is not that of its map's template.
pub const INNER_MAP: u32 = libbpf_rs::libbpf_sys::BPF_F_INNER_MAP;
/// The only way tries of prefixes come.
pub const NO_PREALLOC: u32 = libbpf_rs::libbpf_sys::BPF_F_NO_PREALLOC;

/// Reasons of drops in the order of their counters, by `enum counter`.
pub const REASONS: [DropReason; 9] = [
    DropReason::L2BadSource,
    DropReason::IpMalformed,
    DropReason::IpTruncated,
    DropReason::IpChecksum,
    DropReason::MartianSource,
    DropReason::MartianDestination,
    DropReason::L4Malformed,
    DropReason::RuleDeny,
    DropReason::RouteBlackhole,
];

/// `XDP_DROP` and what else a program answers.
pub const XDP_DROP: u32 = 1;
/// On to the kernel.
pub const XDP_PASS: u32 = 2;

/// `struct port`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Port {
    pub mac: [u8; 6],
    pub flags: u16,
    pub fallback: u32,
    pub reserved: u32,
    pub link_local: [u8; 16],
    pub vlans: [u64; 64],
    pub judged: [u64; 64],
    pub trusted: [u64; 64],
    pub table: u32,
    pub reserved_too: u32,
}

/// `struct generation`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Generation {
    pub all: u64,
    pub ends: u64,
    pub permits: u64,
    pub portless: u64,
    pub flags: u32,
    pub reserved: u32,
    pub protocols: [u64; 256],
}

/// `struct prefix_v4`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct PrefixV4 {
    pub length: u32,
    pub address: [u8; 4],
}

/// `struct prefix_v6`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct PrefixV6 {
    pub length: u32,
    pub address: [u8; 16],
}

/// `struct service_key`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct ServiceKey {
    pub address: u32,
    pub port: u16,
    pub protocol: u8,
    pub reserved: u8,
}

/// `struct service`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Service {
    pub first_slot: u32,
    pub slots: u32,
    pub reciprocal: u64,
    pub first_backend: u32,
    pub mode: u8,
    pub affinity: u8,
    pub dscp: u8,
    pub reserved: u8,
}

/// `struct chunk`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Chunk {
    pub slots: [u16; CHUNK],
}

/// `struct backend`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Backend {
    pub src: [u8; 16],
    pub dst: [u8; 16],
    pub hop: u32,
    pub is_v6: u32,
}

/// `struct hop`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Hop {
    pub dst_mac: [u8; 6],
    pub known: u16,
    pub src_mac: [u8; 6],
    pub vlan: u16,
    pub ifindex: u32,
    pub mtu: u32,
}

/// `struct route_v4`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct RouteV4 {
    pub length: u32,
    pub table: [u8; 4],
    pub address: [u8; 4],
}

/// `struct route_v6`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct RouteV6 {
    pub length: u32,
    pub table: [u8; 4],
    pub address: [u8; 16],
}

/// `struct address`.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Address {
    pub flags: u32,
    pub id: u32,
}

/// `struct count`.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Count {
    pub packets: u64,
    pub octets: u64,
}
