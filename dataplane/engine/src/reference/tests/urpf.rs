//! Section 4.5: sources that are not reached where packets come from.

use super::*;

/// The usual node; this mode on the interface to the world.
fn checking(mode: Urpf) -> RuleTables {
    let mut tables = tables();
    tables.interfaces[2].urpf = mode;
    tables.routes.push(via(0, "198.51.100.0/24", &[("192.0.2.254", 2, 1)]));
    tables.routes.push(via(0, "2001:db8:9::/48", &[("2001:db8::fe", 2, 1)]));
    tables.routes.push(via(0, "10.77.0.0/16", &[("10.0.20.11", 0, 1)]));
    tables.routes.push(via(0, "fd77::/16", &[("fd00:20::11", 0, 1)]));
    // Over both interfaces.
    tables.routes.push(via(0, "10.78.0.0/16", &[("10.0.20.11", 0, 1), ("192.0.2.254", 2, 1)]));
    tables
}

#[test]
fn modes() {
    // Source, whether a packet from the world passes under strict and under loose.
    for (source, strict, loose) in [
        ("198.51.100.7", true, true),
        ("2001:db8:9::7", true, true),
        ("192.0.2.9", true, true),
        ("2001:db8::9", true, true),
        // Only the default route, which leads here.
        ("100.64.0.1", true, false),
        ("2001:db8:ffff::1", true, false),
        // The other side's hosts, connected and behind a gateway.
        ("10.0.20.99", false, true),
        ("fd00:20::99", false, true),
        ("10.77.0.1", false, true),
        ("fd77::1", false, true),
        // A feasible path is enough.
        ("10.78.0.1", true, true),
        // No one is behind blackhole and reject routes.
        ("10.8.0.1", false, false),
        ("10.9.0.1", false, false),
        ("fd08::1", false, false),
        // Another table's.
        ("10.0.30.9", true, false),
    ] {
        for (mode, passes) in [(Urpf::Off, true), (Urpf::Strict, strict), (Urpf::Loose, loose)] {
            let to = if source.contains(':') { "fd00:20::11" } else { "10.0.20.11" };
            let told = Lab::with(checking(mode)).step(WAN_PORT, &world(source, to).udp(1, 2));
            assert_eq!(told[0], if passes { "transmitted" } else { "dropped urpf" }, "{source} {mode:?}");
        }
    }
}

#[test]
fn also_for_us_but_not_on_the_link() {
    let mut lab = Lab::with(checking(Urpf::Strict));
    assert_eq!(lab.step(WAN_PORT, &world("10.77.0.1", "192.0.2.1").echo(1, 1)), ["dropped urpf"]);
    assert_eq!(lab.step(WAN_PORT, &world("fd77::1", "2001:db8::1").echo(1, 1)), ["dropped urpf"]);
    let link_local = world("fe80::22", "fe80::ff:fe00:2").echo(1, 1);
    assert_eq!(lab.step(WAN_PORT, &link_local)[0], "consumed echo");
    // Where nothing is asked for, nothing is checked.
    assert_eq!(lab.step(LAN_PORT, &server("198.51.100.7", "192.0.2.9").udp(1, 2))[0], "held");
}
