//! Which addresses are ours, which the kernel's: the target of a frame decides who gets it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use marchproxy_engine::io::Mac;
use marchproxy_engine::tables::RuleTables;

use crate::abi;

/// Addresses with their owners. Of two owners we are the first: the node refuses tables with addresses that the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    flags: BTreeMap<[u8; 16], u32>,
}

impl Addresses {
    /// Those of the tables, and those that the kernel has on whatever interface.
    pub fn new(tables: &RuleTables, kernel: &[IpAddr]) -> Self {
        let mut addresses = Self::default();
        for cidr in tables.interfaces.iter().flat_map(|interface| &interface.addresses) {
            addresses.add(cidr.addr, abi::ADDRESS_INTERFACE);
        }
        for ip in tables.services.iter().flat_map(|service| service.addresses.iter().chain(&service.source_pool)) {
            addresses.add(*ip, abi::ADDRESS_SERVICE);
        }
        for ip in kernel {
            addresses.add(*ip, abi::ADDRESS_KERNEL);
        }
        addresses
    }

    fn add(&mut self, ip: IpAddr, flags: u32) {
        *self.flags.entry(key(ip)).or_default() |= flags;
    }

    pub(crate) fn len(&self) -> u32 {
        self.flags.len() as u32
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = ([u8; 16], abi::Address)> {
        self.flags.iter().map(|(key, &flags)| (*key, abi::Address { flags, id: 0 }))
    }
}

/// IPv4 as ::ffff:a.b.c.d.
pub(crate) fn key(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

/// What steering must know of the port that an interface is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortFacts {
    /// Its MAC address.
    pub mac: Mac,
    /// VLANs with an interface of ours; 0 is untagged.
    pub vlans: Vec<u16>,
    /// Its link-local address, where the kernel has none there.
    pub link_local: Option<Ipv6Addr>,
    /// Whether packets to our MAC address and to nobody here are forwarded.
    pub routes: bool,
}

impl PortFacts {
    /// Of the port with this index. Its link-local address (BEHAVIOUR.md, 4.3) is ours unless the kernel has it.
    pub fn new(tables: &RuleTables, port: usize, mac: Mac, kernel: &[IpAddr]) -> Self {
        let on_port = tables.interfaces.iter().filter(|interface| interface.port == port);
        let vlans: Vec<u16> = on_port.map(|interface| interface.vlan.unwrap_or(0)).collect();
        let own = link_local(mac);
        let link_local = Some(own).filter(|ip| !kernel.contains(&IpAddr::V6(*ip)));
        Self { mac, routes: !vlans.is_empty(), vlans, link_local }
    }

    pub(crate) fn entry(&self, fallback: u32) -> abi::Port {
        let mut vlans = [0u64; 64];
        for vlan in self.vlans.iter().map(|vlan| usize::from(vlan & 0xfff)) {
            vlans[vlan >> 6] |= 1 << (vlan & 63);
        }
        let flags = if self.routes { abi::PORT_ROUTES } else { 0 };
        let link_local = self.link_local.map_or([0; 16], |ip| ip.octets());
        abi::Port { mac: self.mac, flags, fallback, reserved: 0, link_local, vlans }
    }
}

/// fe80::/64 and the modified EUI-64 of the MAC address (RFC 4291, app. A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let mut octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 0];
    octets[8..11].copy_from_slice(&mac[..3]);
    octets[13..].copy_from_slice(&mac[3..]);
    octets[8] ^= 2;
    octets.into()
}
