//! The network around the node: servers and gateways behind port 0 (`lan`), clients behind gateways on port 1 (`wan`).

use marchproxy_engine::io::Mac;
use marchproxy_engine::tables::{Cidr, InterfaceSpec, NextHopSpec, PortSpec, RouteAction, RouteSpec, RuleTables};

use crate::neighbourhood::mac_of;
use crate::seeded::addresses;

/// Index of the port towards servers.
pub const LAN: u8 = 0;
/// Index of the port towards clients.
pub const WAN: u8 = 1;
/// Gateways of each family on each side.
const GATEWAYS: u16 = 16;
/// Host part of the first gateway; backends count up from 256 and end below.
const FIRST_GATEWAY: u16 = 0xff00;

/// A gateway's address.
pub fn gateway(port: u8, number: usize, v6: bool) -> std::net::IpAddr {
    addresses::local(port + 1, FIRST_GATEWAY + (number % usize::from(GATEWAYS)) as u16, v6)
}

/// The MAC address that packets from beyond a port come from.
pub fn station(port: u8, v6: bool) -> Mac {
    mac_of(gateway(port, 0, v6))
}

/// A backend's address.
pub fn backend(number: usize, v6: bool) -> std::net::IpAddr {
    addresses::local(LAN + 1, 256 + number as u16, v6)
}

/// Ports, interfaces and routes: `prefixes` over the servers' gateways in turn, the clients' prefixes over theirs, and with `default`
/// everything else over the servers' gateways, too.
pub fn tables(prefixes: &[Cidr], default: bool) -> RuleTables {
    let port = |name: &str| PortSpec { name: name.into(), device: "memory".into(), mtu: 1500 };
    let interface = |name: &str, port: u8| InterfaceSpec {
        name: name.into(),
        port: usize::from(port),
        vlan: None,
        addresses: vec![
            Cidr { addr: addresses::local(port + 1, 1, false), len: 16 },
            Cidr { addr: addresses::local(port + 1, 1, true), len: 64 },
        ],
        table: 0,
        trust_dscp: true,
        ..Default::default()
    };
    let via = |prefix: Cidr, port: u8, number: usize| RouteSpec {
        table: 0,
        prefix,
        action: RouteAction::Via(vec![NextHopSpec {
            address: gateway(port, number, prefix.addr.is_ipv6()),
            interface: usize::from(port),
            weight: 1,
        }]),
    };
    let mut routes: Vec<_> = prefixes.iter().enumerate().map(|(number, &prefix)| via(prefix, LAN, number)).collect();
    for v6 in [false, true] {
        routes.push(via(addresses::clients(v6), WAN, 0));
        if default {
            let all = if v6 { addresses::prefix([0u16; 8], 0) } else { addresses::prefix([0u8; 4], 0) };
            routes.push(via(all, LAN, 0));
        }
    }
    routes.sort_by_key(|r| r.prefix);
    RuleTables {
        ports: vec![port("lan"), port("wan")],
        interfaces: vec![interface("lan", LAN), interface("wan", WAN)],
        routes,
        ..RuleTables::default()
    }
}
