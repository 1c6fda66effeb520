//! What the program reads and writes, as in `bpf/layout.h`; the sizes of keys and values are compared when it is loaded.

use bytemuck::{Pod, Zeroable};

/// Sets of tables of which one is in use.
pub const GENERATIONS: u32 = 2;
/// Receive queues of a port.
pub const MAX_QUEUES: u32 = 64;

/// What goes to our MAC address and to nobody here is forwarded, so it is ours.
pub const PORT_ROUTES: u16 = 1;
/// An address of an interface of ours.
pub const ADDRESS_INTERFACE: u32 = 1;
/// An address of a service or source pool.
pub const ADDRESS_SERVICE: u32 = 2;
/// The kernel's own.
pub const ADDRESS_KERNEL: u32 = 4;

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
