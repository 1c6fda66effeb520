//! Packets for tests, the harness and property generators: a builder that is right unless told otherwise, and readable output
//! for failed comparisons.
//!
//! ```
//! use marchproxy_engine::packet::{Packet, SYN, describe};
//!
//! let frame = Packet::eth([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
//!     .vlan(20)
//!     .ipv4([10, 0, 0, 1], [192, 0, 2, 7])
//!     .ttl(64)
//!     .tcp(1234, 80)
//!     .flags(SYN)
//!     .payload(b"hello")
//!     .build();
//! assert_eq!(
//!     describe(&frame),
//!     "02:00:00:00:00:01 > 02:00:00:00:00:02 vlan 20 10.0.0.1:1234 > 192.0.2.7:80 tcp S seq 0 ack 0 ttl 64 data 5"
//! );
//! ```
//!
//! Nothing here is fast, and nothing is shared with the pipeline: the builder and the checks must not inherit its mistakes.

mod assemble;
mod builder;
mod checksum;
mod describe;
mod dissect;
mod transport;

#[cfg(test)]
mod tests;

pub use builder::Packet;
pub use checksum::{Check, Checks, checksum, checksums, pseudo_header};
pub use describe::describe;

/// TCP flag: no more data from the sender (RFC 9293 s3.1).
pub const FIN: u8 = 0x01;
/// TCP flag: synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// TCP flag: reset.
pub const RST: u8 = 0x04;
/// TCP flag: push.
pub const PSH: u8 = 0x08;
/// TCP flag: the acknowledgement number counts.
pub const ACK: u8 = 0x10;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
