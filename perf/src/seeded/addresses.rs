//! Random unicast addresses, and the fixed places of the harness's own network, which random ones avoid.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use marchproxy_engine::tables::Cidr;

use super::Rng;

/// First octets that random IPv4 addresses never have: special-purpose blocks (RFC 6890) and what the harness itself uses.
const RESERVED: [u8; 9] = [10, 100, 127, 169, 172, 192, 198, 203, 0];

/// The /12 blocks the registries assign IPv6 addresses from (IANA, IPv6 global unicast assignments), as their first 16 bits.
const REGISTRIES: [u16; 5] = [0x2400, 0x2600, 0x2800, 0x2a00, 0x2c00];

/// A public unicast IPv4 address outside the reserved blocks.
pub fn public_v4(rng: &mut Rng) -> Ipv4Addr {
    loop {
        let address = Ipv4Addr::from_bits(rng.word() as u32);
        if is_public(address.into()) {
            return address;
        }
    }
}

/// A global unicast IPv6 address from one of the registries' blocks.
pub fn public_v6(rng: &mut Rng) -> Ipv6Addr {
    let block = rng.pick(&REGISTRIES).copied().unwrap_or(0x2a00);
    let high = u128::from(block | (rng.below(16) as u16)) << 112;
    Ipv6Addr::from_bits(high | rng.wide() >> 16)
}

/// Whether it is a unicast address that is neither special (RFC 6890) nor the harness's own.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.octets()[0] < 224 && !RESERVED.contains(&a.octets()[0]),
        IpAddr::V6(a) => a.segments()[0] >> 13 == 1 && a.segments()[..2] != [0x2001, 0xdb8],
    }
}

/// A public address of a family.
pub fn public(rng: &mut Rng, v6: bool) -> IpAddr {
    if v6 { public_v6(rng).into() } else { public_v4(rng).into() }
}

/// A random address inside a prefix.
pub fn inside(rng: &mut Rng, prefix: &Cidr) -> IpAddr {
    match prefix.network().addr {
        IpAddr::V4(a) => {
            let host = u32::MAX.checked_shr(u32::from(prefix.len)).unwrap_or(0);
            Ipv4Addr::from_bits(a.to_bits() | rng.word() as u32 & host).into()
        }
        IpAddr::V6(a) => {
            let host = u128::MAX.checked_shr(u32::from(prefix.len)).unwrap_or(0);
            Ipv6Addr::from_bits(a.to_bits() | rng.wide() & host).into()
        }
    }
}

/// A prefix with its host bits cleared.
pub fn prefix(addr: impl Into<IpAddr>, len: u8) -> Cidr {
    Cidr { addr: addr.into(), len }.network()
}

/// 10.NET.0.0/16 and fd00:NET::/64: address `host` on one of the harness's two networks (1 servers, 2 clients).
pub fn local(net: u8, host: u16, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, u16::from(net), 0, 0, 0, 0, 0, host).into()
    } else {
        let [high, low] = host.to_be_bytes();
        Ipv4Addr::new(10, net, high, low).into()
    }
}

/// The address of service `n`: 198.18.0.0/15 (RFC 2544) and 2001:db8:5::/64.
pub fn service(n: u16, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 1, n).into()
    } else {
        let [high, low] = n.to_be_bytes();
        Ipv4Addr::new(198, 18, high, low).into()
    }
}

/// The prefix all clients of services live in: 100.64.0.0/10 (RFC 6598) and 2001:db8:c::/48.
pub fn clients(v6: bool) -> Cidr {
    if v6 {
        prefix(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0), 48)
    } else {
        prefix(Ipv4Addr::new(100, 64, 0, 0), 10)
    }
}

/// Client number `n` of a family; distinct for `n` below 2^22.
pub fn client(n: u32, v6: bool) -> IpAddr {
    if v6 {
        let [high, low] = [(n >> 16) as u16, n as u16];
        Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, high, low).into()
    } else {
        Ipv4Addr::from_bits(0x6440_0000 | n & 0x3f_ffff).into()
    }
}

/// Where fragments go in the full load: 203.0.113.0/24 and 2001:db8:f::/48.
pub fn fragments(v6: bool) -> Cidr {
    if v6 {
        prefix(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0), 48)
    } else {
        prefix(Ipv4Addr::new(203, 0, 113, 0), 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_addresses_avoid_ours() {
        let mut rng = Rng::new(3, "addresses");
        let ours: Vec<Cidr> = [false, true]
            .into_iter()
            .flat_map(|v6| [prefix(local(1, 0, v6), 8), prefix(service(0, v6), 15), clients(v6), fragments(v6)])
            .collect();
        for _ in 0..10_000 {
            for address in [public(&mut rng, false), public(&mut rng, true)] {
                assert!(is_public(address) && ours.iter().all(|p| !p.contains(address)), "{address}");
            }
        }
    }

    #[test]
    fn inside_stays_inside() {
        let mut rng = Rng::new(4, "inside");
        for (text, len) in
            [("8.0.0.0", 8), ("8.8.8.8", 32), ("0.0.0.0", 0), ("2a00::", 12), ("2a00::1", 128), ("::", 0)]
        {
            let prefix = prefix(text.parse::<IpAddr>().unwrap(), len);
            assert!((0..100).all(|_| prefix.contains(inside(&mut rng, &prefix))), "{prefix}");
        }
    }
}
