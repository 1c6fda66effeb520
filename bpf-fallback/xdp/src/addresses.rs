//! Which addresses are ours, which the kernel's: the target of a frame decides who gets it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use marchproxy_engine::io::Mac;
use marchproxy_engine::tables::{Cidr, InterfaceSpec, RuleTables, ServiceSpec};

use crate::abi;
use crate::plan::is_judged;

/// Addresses with their owners. Of two owners we are the first: the node refuses tables with addresses that the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    flags: BTreeMap<[u8; 16], u32>,
}

impl Addresses {
    /// Those of the tables, those that the kernel has on whatever interface, and those that sessions may have replies from.
    pub fn new(tables: &RuleTables, kernel: &[IpAddr], backends: &Backends) -> Self {
        let mut addresses = Self::default();
        for cidr in tables.interfaces.iter().flat_map(|interface| &interface.addresses) {
            addresses.add(cidr.addr, abi::ADDRESS_INTERFACE);
            if let Some(broadcast) = directed_broadcast(cidr) {
                addresses.add(broadcast, abi::ADDRESS_BROADCAST);
            }
        }
        for ip in tables.services.iter().flat_map(|service| service.addresses.iter().chain(&service.source_pool)) {
            addresses.add(*ip, abi::ADDRESS_SERVICE);
        }
        for ip in kernel {
            addresses.add(*ip, abi::ADDRESS_KERNEL);
        }
        for ip in &backends.known {
            addresses.add(*ip, abi::ADDRESS_BACKEND);
        }
        addresses
    }

    fn add(&mut self, ip: IpAddr, flags: u32) {
        *self.flags.entry(key(ip)).or_default() |= flags;
    }

    /// In order of the keys; the number of an address is its place.
    pub fn entries(&self) -> impl Iterator<Item = ([u8; 16], abi::Address)> {
        (0u32..).zip(&self.flags).map(|(id, (key, &flags))| (*key, abi::Address { flags, id }))
    }

    /// Numbers of services' addresses.
    pub fn ids(&self) -> BTreeMap<IpAddr, u32> {
        let services = self.entries().filter(|(_, address)| address.flags & abi::ADDRESS_SERVICE != 0);
        services.map(|(key, address)| (std::net::Ipv6Addr::from(key).to_canonical(), address.id)).collect()
    }
}

/// The directed broadcast address of a connected prefix (RFC 2644); /31 and /32 have none (RFC 3021).
fn directed_broadcast(cidr: &Cidr) -> Option<IpAddr> {
    match cidr.addr {
        IpAddr::V4(a) if cidr.len <= 30 => Some(IpAddr::V4((a.to_bits() | u32::MAX >> cidr.len).into())),
        _ => None,
    }
}

/// Addresses that are or were backends whose replies pass here. Sessions outlive the generation they began under, so none is forgotten.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backends {
    known: BTreeSet<IpAddr>,
    overflown: bool,
}

impl Backends {
    /// More than that were never seen with anyone; each takes a place in the table of addresses.
    const MOST: usize = 1 << 16;

    /// Adds those of the next generation; false when there are too many to follow.
    pub fn follow(&mut self, tables: &RuleTables) -> bool {
        let replies_pass = |service: &&ServiceSpec| !service.stateless && !service.mode.is_direct();
        for backend in tables.services.iter().filter(replies_pass).flat_map(|service| &service.backends) {
            if self.known.len() < Self::MOST {
                self.known.insert(backend.address);
            } else {
                self.overflown |= !self.known.contains(&backend.address);
            }
        }
        !self.overflown
    }
}

/// IPv4 as ::ffff:a.b.c.d.
fn key(ip: IpAddr) -> [u8; 16] {
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
    /// Those of them where rules may be decided in XDP.
    pub judged: Vec<u16>,
    /// Those of them where DSCP is trusted.
    pub trusted: Vec<u16>,
    /// The routing table of all its interfaces, where that is one.
    pub table: Option<u32>,
    /// Its link-local address, where the kernel has none there.
    pub link_local: Option<Ipv6Addr>,
    /// Whether packets to our MAC address and to nobody here are forwarded.
    pub routes: bool,
}

impl PortFacts {
    /// Of the port with this index. Its link-local address (BEHAVIOUR.md, 4.3) is ours unless the kernel has it.
    pub fn new(tables: &RuleTables, port: usize, mac: Mac, kernel: &[IpAddr]) -> Self {
        let on_port = || tables.interfaces.iter().filter(|interface| interface.port == port);
        let vlans: Vec<u16> = on_port().map(|interface| interface.vlan.unwrap_or(0)).collect();
        let those = |wanted: fn(&&InterfaceSpec) -> bool| {
            on_port().filter(wanted).map(|interface| interface.vlan.unwrap_or(0)).collect()
        };
        let judged = those(|interface| is_judged(interface));
        let trusted = those(|interface| interface.trust_dscp);
        let table = on_port().map(|interface| interface.table).next();
        let table = table.filter(|table| on_port().all(|interface| interface.table == *table));
        let own = link_local(mac);
        let link_local = Some(own).filter(|ip| !kernel.contains(&IpAddr::V6(*ip)));
        Self { mac, routes: !vlans.is_empty(), vlans, judged, trusted, table, link_local }
    }

    pub(crate) fn entry(&self, fallback: u32) -> abi::Port {
        let routes = if self.routes { abi::PORT_ROUTES } else { 0 };
        let sends = if self.table.is_some() { abi::PORT_SENDS } else { 0 };
        abi::Port {
            mac: self.mac,
            flags: routes | sends,
            fallback,
            reserved: 0,
            link_local: self.link_local.map_or([0; 16], |ip| ip.octets()),
            vlans: bits(&self.vlans),
            judged: bits(&self.judged),
            trusted: bits(&self.trusted),
            table: self.table.unwrap_or(0),
            reserved_too: 0,
        }
    }
}

/// A bit for each VLAN.
fn bits(vlans: &[u16]) -> [u64; 64] {
    let mut bits = [0u64; 64];
    for vlan in vlans.iter().map(|vlan| usize::from(vlan & 0xfff)) {
        bits[vlan >> 6] |= 1 << (vlan & 63);
    }
    bits
}

/// fe80::/64 and the modified EUI-64 of the MAC address (RFC 4291, app. A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let mut octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 0];
    octets[8..11].copy_from_slice(&mac[..3]);
    octets[13..].copy_from_slice(&mac[3..]);
    octets[8] ^= 2;
    octets.into()
}
