//! Sections 2 and 4: addresses that may not be, and our own.

use super::*;

#[test]
fn martians() {
    for (src, dst, reason) in [
        ("0.1.2.3", "8.8.8.8", "martian_source"),
        ("127.0.0.1", "8.8.8.8", "martian_source"),
        ("169.254.1.1", "8.8.8.8", "martian_source"),
        ("224.0.0.1", "8.8.8.8", "martian_source"),
        ("240.0.0.1", "8.8.8.8", "martian_source"),
        ("255.255.255.255", "8.8.8.8", "martian_source"),
        ("10.0.20.1", "8.8.8.8", "martian_source"),
        ("192.0.2.1", "8.8.8.8", "martian_source"),
        ("10.0.20.5", "0.0.0.1", "martian_destination"),
        ("10.0.20.5", "127.1.1.1", "martian_destination"),
        ("10.0.20.5", "169.254.1.1", "martian_destination"),
        ("10.0.20.5", "240.0.0.1", "martian_destination"),
        ("10.0.20.5", "255.255.255.254", "martian_destination"),
        ("10.0.20.5", "255.255.255.255", "multicast"),
        ("10.0.20.5", "224.0.0.5", "multicast"),
        ("10.0.20.5", "239.1.1.1", "multicast"),
        ("10.0.20.5", "10.0.20.255", "multicast"),
        ("10.0.20.5", "192.0.2.255", "multicast"),
        ("10.0.20.5", "10.0.30.255", "multicast"),
        ("127.0.0.1", "127.0.0.1", "martian_source"),
        ("ff02::1", "2001:db8:8::8", "martian_source"),
        ("::1", "2001:db8:8::8", "martian_source"),
        ("::ffff:10.0.0.1", "2001:db8:8::8", "martian_source"),
        ("2001:db8::1", "2001:db8:8::8", "martian_source"),
        ("::", "2001:db8:8::8", "martian_source"),
        ("fe80::5", "2001:db8:8::8", "martian_source"),
        ("febf::5", "2001:db8:8::8", "martian_source"),
        ("fd00:20::5", "::", "martian_destination"),
        ("fd00:20::5", "::1", "martian_destination"),
        ("fd00:20::5", "::ffff:8.8.8.8", "martian_destination"),
        ("fd00:20::5", "fe80::9", "martian_destination"),
        ("fe80::5", "fe80::9", "martian_source"),
        ("fd00:20::5", "ff02::1", "multicast"),
        ("fd00:20::5", "ff0e::1", "multicast"),
    ] {
        let packet = server(src, dst).udp(1, 2);
        assert_eq!(Lab::new().step(LAN_PORT, &packet), [format!("dropped {reason}")], "{src} > {dst}");
    }
}

/// Prefixes of 31 and 32 bits have no broadcast address (RFC 3021).
#[test]
fn short_prefixes_have_no_broadcast() {
    let mut tables = tables();
    tables.interfaces[1].addresses = vec![cidr("10.0.30.0/31"), cidr("10.0.31.7/32")];
    let mut lab = Lab::with(tables);
    assert_eq!(lab.step(LAN_PORT, &server("10.0.20.5", "10.0.30.1").udp(1, 2))[0], "transmitted");
    let told = lab.step(LAN_PORT, &server("10.0.20.5", "10.0.31.7").udp(1, 2));
    assert_eq!(told[0], "dropped local_unreachable", "it is our own address");
}

#[test]
fn own_addresses() {
    let told = |packet: &Packet| Lab::new().step(LAN_PORT, packet)[0].clone();
    for own in ["10.0.20.1", "192.0.2.1", "10.0.30.1", "fd00:20::1", "2001:db8::1", "fe80::ff:fe00:1"] {
        let src = if own.contains(':') { "fd00:20::5" } else { "10.0.20.5" };
        assert_eq!(told(&server(src, own).udp(1, 2)), "dropped local_unreachable", "{own}");
        assert_eq!(told(&server(src, own).fragment(0, true, 1).udp(1, 2)), "dropped fragment_unsupported", "{own}");
        assert_eq!(told(&server(src, own).fragment(8, false, 1).udp(1, 2)), "dropped fragment_unsupported", "{own}");
        let group = Packet::eth(SERVER, [0xff; 6]).vlan(20).ip(ip(src), ip(own));
        assert_eq!(told(&group.clone().udp(1, 2)), "dropped multicast", "{own}");
        assert_eq!(told(&group.fragment(0, true, 1).udp(1, 2)), "dropped multicast", "{own}");
    }
    // The other port's link-local address is not ours here.
    assert_eq!(told(&server("fd00:20::5", "fe80::ff:fe00:2").udp(1, 2)), "dropped martian_destination");
    // Link-local sources may talk to us, nobody may do so from the unspecified address.
    assert_eq!(told(&server("fe80::5", "fd00:20::1").udp(1, 2)), "dropped local_unreachable");
    assert_eq!(told(&server("::", "fd00:20::1").udp(1, 2)), "dropped martian_source");
    assert_eq!(told(&server("::", "fd00:20::1").icmpv6_echo(1, 2)), "dropped martian_source");
}

#[test]
fn ipv6_groups_are_for_discovery_only() {
    let group = |packet: Packet| Lab::new().step(LAN_PORT, &packet)[0].clone();
    let to_group =
        || Packet::eth(SERVER, [0x33, 0x33, 0xff, 0, 0, 1]).vlan(20).ip(ip("fd00:20::5"), ip("ff02::1:ff00:1"));
    assert_eq!(group(to_group().neighbour_solicitation(v6("fd00:20::1"))), "consumed nd");
    assert_eq!(group(to_group().fragment(0, false, 1).neighbour_solicitation(v6("fd00:20::1"))), "consumed nd");
    assert_eq!(group(to_group().fragment(0, true, 1).neighbour_solicitation(v6("fd00:20::1"))), "dropped multicast");
    assert_eq!(group(to_group().fragment(8, false, 1).protocol(58).payload([135; 32])), "dropped multicast");
    assert_eq!(group(to_group().icmpv6_echo(1, 2)), "dropped multicast");
    assert_eq!(group(to_group().udp(1, 2)), "dropped multicast");
    assert_eq!(group(to_group().neighbour_advertisement(v6("fd00:20::5"), 0)), "dropped neighbour_ignored");
}
