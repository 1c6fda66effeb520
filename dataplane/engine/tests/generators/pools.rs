//! The places, hosts and addresses that tables and packets are made of.

use std::net::IpAddr;

use marchproxy_engine::io::Mac;
use marchproxy_engine::tables::Cidr;

/// Ports every configuration has. They stay over pushes, so that an index always means the same device.
pub const PORTS: [&str; 2] = ["a", "b"];

/// An interface that a configuration may have: port, VLAN, addresses it may have, in document order.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub port: usize,
    pub vlan: Option<u16>,
    pub addresses: &'static [&'static str],
}

pub const PLACES: [Place; 5] = [
    Place { port: 0, vlan: None, addresses: &["10.1.0.1/24", "fd01::1/64"] },
    Place { port: 0, vlan: Some(10), addresses: &["fd02::1/64", "10.2.0.1/24", "10.2.1.1/30"] },
    Place { port: 0, vlan: Some(11), addresses: &["10.5.0.1/31"] },
    Place { port: 1, vlan: None, addresses: &["10.3.0.1/28", "10.3.0.129/25", "fd03::1/64", "fd03:1::1/128"] },
    Place { port: 1, vlan: Some(20), addresses: &["10.2.0.9/24", "fd04::1/64"] },
];

/// Hosts on the links: the place, the address. They serve as clients, backends and next hops.
pub const HOSTS: [(usize, &str); 12] = [
    (0, "10.1.0.2"),
    (0, "10.1.0.3"),
    (0, "fd01::2"),
    (0, "fd01::3"),
    (1, "10.2.0.2"),
    (1, "10.2.0.3"),
    (1, "fd02::2"),
    (2, "10.5.0.0"),
    (3, "10.3.0.2"),
    (3, "10.3.0.130"),
    (3, "fd03::2"),
    (4, "fd04::2"),
];

/// Hosts beyond the links.
pub const FAR: [&str; 4] = ["192.0.2.7", "198.51.100.9", "2001:db8:9::7", "2001:db8:a::9"];

/// Addresses of services; the last two of each family lie on links.
pub const SERVICES: [&str; 4] = ["203.0.113.10", "2001:db8:10::10", "10.1.0.200", "fd02::200"];

/// Where full NAT takes sources from; some lie on links.
pub const NAT_POOL: [&str; 4] = ["10.1.0.210", "fd02::210", "203.0.113.99", "2001:db8:10::99"];

/// Addresses with a meaning of their own: ours, broadcast, multicast, martian, link-local.
pub const SPECIAL: [&str; 30] = [
    "10.1.0.1",
    "10.3.0.1",
    "10.3.0.129",
    "fd01::1",
    "fd03:1::1",
    "fe80::4d:50ff:fe00:1",
    "fe80::4d:50ff:fe00:2",
    "10.1.0.255",
    "10.2.1.3",
    "10.3.0.15",
    "255.255.255.255",
    "224.0.0.1",
    "240.0.0.1",
    "0.0.0.0",
    "127.0.0.1",
    "169.254.1.1",
    "::",
    "::1",
    "::ffff:10.1.0.2",
    "ff02::1",
    "ff02::1:ff00:1",
    "ff0e::1",
    "fe80::2",
    "fd01::99",
    "fd02::99",
    "10.1.0.99",
    "10.2.0.99",
    "10.2.0.255",
    "10.3.0.2",
    "febf::1",
];

/// Prefixes for routes and rules.
pub const PREFIXES: [&str; 14] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.1.0.0/24",
    "10.2.0.0/24",
    "10.2.0.2/32",
    "10.3.0.0/28",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.10/32",
    "fd02::/64",
    "fd03::2/128",
    "2001:db8::/32",
    "2001:db8:9::/48",
];

/// L4 ports: clients', services', backends'.
pub const L4_PORTS: [u16; 7] = [0, 1000, 1001, 53, 80, 81, 8080];

/// Who sends frames to us.
pub const STATIONS: [Mac; 3] = [[2, 0, 0, 0, 0, 0xa1], [2, 0, 0, 0, 0, 0xa2], [2, 0, 0, 0, 0, 0xa3]];

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn cidr(text: &str) -> Cidr {
    let (addr, len) = text.split_once('/').unwrap();
    Cidr { addr: ip(addr), len: len.parse().unwrap() }
}
