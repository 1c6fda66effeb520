//! The node as the running configuration describes it: who we are, on which interface.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use crate::io::Mac;
use crate::tables::{InterfaceSpec, RuleTables};

/// Configuration, device addresses and the number of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub tables: RuleTables,
    pub macs: Vec<Mac>,
    pub generation: u64,
    /// Names of ports whose link is down.
    pub down: BTreeSet<String>,
}

impl Node {
    /// The interface that carries this VLAN (or untagged frames) on this port.
    pub fn interface_at(&self, port: usize, vlan: Option<u16>) -> Option<usize> {
        self.tables.interfaces.iter().position(|i| i.port == port && i.vlan == vlan)
    }

    pub fn interface(&self, index: usize) -> &InterfaceSpec {
        &self.tables.interfaces[index]
    }

    /// Whether the link of an interface's port is up.
    pub fn is_link_up(&self, interface: usize) -> bool {
        self.tables.ports.get(self.interface(interface).port).is_none_or(|port| !self.down.contains(&port.name))
    }

    /// MAC address of a port; all zero where no device is known.
    pub fn mac(&self, port: usize) -> Mac {
        self.macs.get(port).copied().unwrap_or_default()
    }

    /// Largest packet that leaves by an interface.
    pub fn mtu(&self, interface: usize) -> usize {
        self.tables.ports.get(self.interface(interface).port).map_or(0, |port| usize::from(port.mtu))
    }

    /// An address of any interface.
    pub fn is_interface_address(&self, ip: IpAddr) -> bool {
        self.tables.interfaces.iter().flat_map(|i| &i.addresses).any(|cidr| cidr.addr == ip)
    }

    /// Whether something looks at ports, so that fragments have to wait for their first one.
    pub fn needs_ports(&self) -> bool {
        !self.tables.rules.is_empty() || !self.tables.services.is_empty()
    }

    /// An address of any service, or of a pool of full NAT.
    pub fn is_service_address(&self, ip: IpAddr) -> bool {
        self.tables.services.iter().any(|s| s.addresses.contains(&ip) || s.source_pool.contains(&ip))
    }

    /// The directed broadcast address of a connected prefix (RFC 2644); /31 and /32 have none (RFC 3021).
    pub fn is_directed_broadcast(&self, ip: IpAddr) -> bool {
        let IpAddr::V4(ip) = ip else { return false };
        self.tables.interfaces.iter().flat_map(|i| &i.addresses).any(|cidr| match cidr.addr {
            IpAddr::V4(own) if cidr.len <= 30 => {
                let host_bits = u32::MAX.checked_shr(u32::from(cidr.len)).unwrap_or(0);
                ip.to_bits() == own.to_bits() | host_bits
            }
            _ => false,
        })
    }

    /// Inside a connected prefix of this interface.
    pub fn is_connected(&self, interface: usize, ip: IpAddr) -> bool {
        self.interface(interface).addresses.iter().any(|cidr| cidr.contains(ip))
    }

    /// fe80::/64 with the modified EUI-64 of the port's MAC address (RFC 4291 s2.5.6 and app. A).
    pub fn link_local(&self, interface: usize) -> IpAddr {
        let mac = self.mac(self.interface(interface).port);
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&[0xfe, 0x80]);
        octets[8..11].copy_from_slice(&mac[..3]);
        octets[8] ^= 2;
        octets[11..13].copy_from_slice(&[0xff, 0xfe]);
        octets[13..].copy_from_slice(&mac[3..]);
        Ipv6Addr::from(octets).into()
    }

    /// The address that ARP or ND answers for on this interface: its own, its link-local one, and services in its prefixes.
    pub fn answers_for(&self, interface: usize, ip: IpAddr) -> bool {
        self.interface(interface).addresses.iter().any(|cidr| cidr.addr == ip)
            || ip == self.link_local(interface)
            || self.is_service_address(ip) && self.is_connected(interface, ip)
    }

    /// Source of what we ask a neighbour: the first address whose connected prefix holds it, else the first of its family, else
    /// (IPv6) the link-local one.
    pub fn address_towards(&self, interface: usize, neighbour: IpAddr) -> Option<IpAddr> {
        let addresses = &self.interface(interface).addresses;
        let near = addresses.iter().find(|cidr| cidr.contains(neighbour));
        let any = || addresses.iter().find(|cidr| cidr.addr.is_ipv6() == neighbour.is_ipv6());
        let link_local = || neighbour.is_ipv6().then(|| self.link_local(interface));
        near.or_else(any).map(|cidr| cidr.addr).or_else(link_local)
    }

    /// Source of an ICMP error about a packet received on this interface: its first address of the family, else the first of any
    /// interface, else (IPv6) its link-local one.
    pub fn error_source(&self, interface: usize, v6: bool) -> Option<IpAddr> {
        let here = &self.interface(interface).addresses;
        let anywhere = self.tables.interfaces.iter().flat_map(|i| &i.addresses);
        let first = here.iter().chain(anywhere).find(|cidr| cidr.addr.is_ipv6() == v6);
        first.map(|cidr| cidr.addr).or_else(|| v6.then(|| self.link_local(interface)))
    }
}

/// fe80::/10 (RFC 4291 s2.5.6).
pub(super) fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(a) if a.segments()[0] & 0xffc0 == 0xfe80)
}
