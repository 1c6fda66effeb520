//! The packets that both routers get.

use std::net::IpAddr;

use marchproxy_engine::io::Mac;
use marchproxy_engine::packet::Packet;
use marchproxy_engine::testkit::port_mac;

use crate::network::{NEIGHBOURS, OWN};

/// A frame for the port `wan`.
pub struct Case {
    pub name: String,
    pub frame: Vec<u8>,
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut all = Cases(Vec::new());
    for v6 in [false, true] {
        forwarding(&mut all, v6);
        routes(&mut all, v6);
        lengths(&mut all, v6);
        addresses(&mut all, v6);
        own(&mut all, v6);
        transport(&mut all, v6);
        cut(&mut all, v6);
    }
    headers_v4(&mut all);
    options(&mut all);
    headers_v6(&mut all);
    all.0
}

struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, v6: bool, name: &str, packet: &Packet) {
        let family = if v6 { "v6" } else { "v4" };
        self.0.push(Case { name: format!("{family} {name}"), frame: packet.build() });
    }
}

const CLIENT: Mac = NEIGHBOURS[0].mac;

/// The address for the family.
fn pick(v6: bool, both: (&str, &str)) -> IpAddr {
    if v6 { both.1 } else { both.0 }.parse().unwrap()
}

const SERVER: (&str, &str) = ("10.9.9.9", "fd00:9::9");
const BEHIND_NARROW: (&str, &str) = ("10.1.0.9", "fd00:1::9");

/// From the client on the wire to somebody.
fn to(v6: bool, both: (&str, &str)) -> Packet {
    between(v6, (NEIGHBOURS[0].v4, NEIGHBOURS[0].v6), both)
}

fn between(v6: bool, from: (&str, &str), to: (&str, &str)) -> Packet {
    Packet::eth(CLIENT, port_mac(0)).ip(pick(v6, from), pick(v6, to))
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 256) as u8).collect()
}

fn forwarding(all: &mut Cases, v6: bool) {
    let packet = to(v6, SERVER);
    all.add(v6, "udp", &packet.clone().udp(4000, 53).payload(data(40)));
    all.add(v6, "tcp syn", &packet.clone().tcp(4000, 80).flags(2).tcp_options(&[2, 4, 5, 0xb4]));
    all.add(v6, "tcp data", &packet.clone().tcp(4000, 80).seq(7, 9).payload(data(1000)));
    all.add(v6, "echo", &packet.clone().echo(7, 9).payload(data(56)));
    all.add(v6, "echo reply", &packet.clone().echo_reply(7, 9).payload(data(56)));
    all.add(v6, "unknown protocol", &packet.clone().protocol(253).payload(data(31)));
    all.add(v6, "no data", &packet.clone().protocol(253));
    all.add(v6, "full mtu", &packet.clone().protocol(253).payload(data(if v6 { 1460 } else { 1480 })));
    all.add(v6, "padding", &packet.clone().udp(1, 2).padding(18));
    for ttl in [0, 1, 2, 3, 64, 128, 255] {
        all.add(v6, &format!("ttl {ttl}"), &packet.clone().ttl(ttl).udp(4000, 53).payload(data(9)));
    }
    for tos in [0x00, 0x01, 0x02, 0x03, 0x28, 0xb8, 0xfc, 0xff] {
        all.add(v6, &format!("tos {tos:#04x}"), &packet.clone().tos(tos).udp(4000, 53));
        all.add(v6, &format!("expired, tos {tos:#04x}"), &packet.clone().tos(tos).ttl(1).udp(4000, 53));
    }
    all.add(v6, "to a neighbour", &to(v6, (NEIGHBOURS[1].v4, NEIGHBOURS[1].v6)).udp(4000, 53));
    all.add(v6, "source behind a router", &between(v6, SOURCE_BEHIND, SERVER).udp(4000, 53));
}

/// Routed to the port `lan`, not where the packets come from: both routers check no way back.
const SOURCE_BEHIND: (&str, &str) = ("10.77.0.1", "fd00:77::1");

fn routes(all: &mut Cases, v6: bool) {
    let mut client = 0u8;
    for (name, address) in [
        ("no route", ("100.64.0.1", "2001:db8:ffff::1")),
        ("black hole", ("10.2.0.1", "fd00:2::1")),
        ("longer prefix in a black hole", ("10.2.128.1", "fd00:2:8000::1")),
        ("reject", ("10.3.0.1", "fd00:3::1")),
    ] {
        let mut packet = || {
            client += 1;
            between(v6, (&format!("172.16.0.{client}"), NEIGHBOURS[0].v6), address)
        };
        all.add(v6, name, &packet().udp(4000, 53).payload(data(9)));
        all.add(v6, &format!("{name}, tcp"), &packet().tcp(4000, 80).flags(2));
        all.add(v6, &format!("{name}, expired"), &packet().ttl(1).udp(4000, 53));
        all.add(v6, &format!("{name}, much data"), &packet().udp(4000, 53).payload(data(1400)));
        all.add(v6, &format!("{name}, echo"), &packet().echo(1, 1));
        all.add(v6, &format!("{name}, first fragment"), &packet().fragment(0, true, 9).udp(4000, 53).payload(data(16)));
        all.add(
            v6,
            &format!("{name}, later fragment"),
            &packet().fragment(24, false, 9).protocol(17).payload(data(16)),
        );
        let error = if v6 { packet().icmpv6(1, 4, [0; 4]) } else { packet().icmp(3, 3, [0; 4]) };
        all.add(v6, &format!("{name}, an error itself"), &error.payload(data(48)));
    }
}

fn lengths(all: &mut Cases, v6: bool) {
    let header = if v6 { 40 } else { 20 };
    for len in [1279, 1280, 1281, 1282, 1288, 1400, 1500] {
        let packet = to(v6, BEHIND_NARROW).ident(0x1234).udp(4000, 53).payload(data(len - header - 8));
        all.add(v6, &format!("{len} octets"), &packet.clone());
        all.add(v6, &format!("{len} octets, expired"), &packet.clone().ttl(1));
        if !v6 {
            all.add(v6, &format!("{len} octets, whole"), &packet.dont_fragment());
        }
    }
}

fn addresses(all: &mut Cases, v6: bool) {
    let sources = if v6 {
        &["::", "::1", "ff02::1", "ff0e::1", "fe80::7", "::ffff:192.0.2.7", "2001:db8::1", "2001:db8:1::1", "fd00:9::9"]
            [..]
    } else {
        &[
            "0.0.0.0",
            "0.0.0.7",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "198.51.100.1",
            "192.0.2.255",
            "10.9.9.9",
        ][..]
    };
    for source in sources {
        all.add(v6, &format!("from {source}"), &between(v6, (source, source), SERVER).udp(4000, 53));
    }
    let destinations = if v6 {
        &["::", "::1", "ff0e::1", "fe80::9", "::ffff:10.9.9.9", "64:ff9b::1"][..]
    } else {
        &[
            "0.0.0.0",
            "0.0.0.7",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "198.51.100.255",
            "192.0.2.255",
        ][..]
    };
    for destination in destinations {
        all.add(v6, &format!("to {destination}"), &to(v6, (destination, destination)).udp(4000, 53));
    }
    let framed =
        |mac| Packet::eth(CLIENT, mac).ip(pick(v6, (NEIGHBOURS[0].v4, NEIGHBOURS[0].v6)), pick(v6, SERVER)).udp(1, 2);
    all.add(v6, "to the broadcast MAC", &framed([0xff; 6]));
    all.add(v6, "to a group's MAC", &framed([0x01, 0, 0x5e, 0, 0, 1]));
    all.add(v6, "to somebody else's MAC", &framed([2, 0, 0, 0, 0, 0x99]));
}

fn own(all: &mut Cases, v6: bool) {
    let packet = to(v6, OWN[0]);
    all.add(v6, "own, echo", &packet.clone().echo(7, 9).payload(data(56)));
    all.add(v6, "own, echo, tos", &packet.clone().tos(0xb8).echo(7, 9).payload(data(5)));
    all.add(v6, "own, echo, ttl 1", &packet.clone().ttl(1).echo(7, 9));
    all.add(v6, "own, echo to another interface's address", &to(v6, OWN[1]).echo(7, 9));
    all.add(v6, "own, echo with a wrong checksum", &packet.clone().echo(7, 9).bad_l4_checksum());
    all.add(v6, "own, echo reply", &packet.clone().echo_reply(7, 9));
    all.add(v6, "own, udp", &packet.clone().udp(4000, 4000).payload(data(9)));
    all.add(v6, "own, tcp", &packet.clone().tcp(4000, 4000).flags(2));
    all.add(v6, "own, unknown protocol", &packet.clone().protocol(253).payload(data(9)));
}

fn transport(all: &mut Cases, v6: bool) {
    let packet = to(v6, SERVER);
    all.add(v6, "udp without checksum", &packet.clone().udp(4000, 53).l4_checksum(0));
    all.add(v6, "udp, wrong checksum", &packet.clone().udp(4000, 53).bad_l4_checksum());
    all.add(v6, "tcp, wrong checksum", &packet.clone().tcp(4000, 80).bad_l4_checksum());
    all.add(v6, "echo, wrong checksum", &packet.clone().echo(1, 1).bad_l4_checksum());
    all.add(v6, "malformed, udp of 7 octets", &packet.clone().protocol(17).payload(data(7)));
    all.add(v6, "malformed, udp length too long", &packet.clone().udp(4000, 53).udp_length(99));
    all.add(v6, "malformed, tcp of 19 octets", &packet.clone().protocol(6).payload(data(19)));
    all.add(v6, "malformed, tcp data offset 4", &packet.clone().tcp(4000, 80).data_offset(4));
    all.add(v6, "fragment, first", &packet.clone().fragment(0, true, 9).udp(4000, 53).payload(data(48)));
    all.add(v6, "fragment, middle", &packet.clone().fragment(56, true, 9).protocol(17).payload(data(56)));
    all.add(v6, "fragment, last", &packet.clone().fragment(112, false, 9).protocol(17).payload(data(5)));
    all.add(v6, "fragment, alone", &packet.clone().fragment(800, false, 10).protocol(6).payload(data(5)));
    all.add(v6, "fragment, expired first", &packet.clone().ttl(1).fragment(0, true, 9).udp(4000, 53).payload(data(48)));
    all.add(v6, "fragment, expired later", &packet.clone().ttl(1).fragment(56, true, 9).protocol(17).payload(data(48)));
    all.add(v6, "tiny fragment", &packet.clone().fragment(0, true, 11).protocol(6).payload(data(8)));
    let long = to(v6, BEHIND_NARROW);
    all.add(v6, "long fragment, first", &long.clone().fragment(0, true, 12).udp(4000, 53).payload(data(1392)));
    all.add(v6, "long fragment, later", &long.clone().fragment(1400, true, 12).protocol(17).payload(data(1400)));
    all.add(v6, "long fragment, last", &long.fragment(2800, false, 12).protocol(17).payload(data(1399)));
}

/// A packet at every length it can be cut to behind the Ethernet header (packet sockets send no shorter frame).
fn cut(all: &mut Cases, v6: bool) {
    let packet = to(v6, SERVER).udp(4000, 53).payload(data(4));
    for len in 14..packet.build().len() {
        all.add(v6, &format!("cut to {len}"), &packet.clone().truncate(len));
    }
}

fn headers_v4(all: &mut Cases) {
    let packet = to(false, SERVER).udp(4000, 53).payload(data(24));
    all.add(false, "wrong header checksum", &packet.clone().bad_ip_checksum());
    for version in [0, 5, 6, 15] {
        all.add(false, &format!("version {version}"), &packet.clone().ip_version(version));
    }
    for words in [0, 4, 6, 15] {
        all.add(false, &format!("header of {words} words"), &packet.clone().ihl(words));
    }
    for length in [0, 19, 20, 27, 51, 53, 1500] {
        all.add(false, &format!("total length {length}"), &packet.clone().ip_length(length));
    }
}

fn options(all: &mut Cases) {
    for (name, option) in [
        ("no operation", &[1, 1, 1, 0][..]),
        ("router alert", &[148, 4, 0, 0]),
        ("record route", &[7, 7, 4, 0, 0, 0, 0]),
        ("timestamp", &[68, 8, 5, 0, 0, 0, 0, 0]),
        ("loose source route", &[131, 7, 4, 10, 9, 9, 9]),
        ("strict source route", &[137, 7, 4, 10, 9, 9, 9]),
        ("unknown, copied", &[158, 4, 1, 2]),
        ("unknown, not copied", &[30, 4, 1, 2]),
        ("of length 1", &[148, 1, 0, 0]),
        ("beyond the header", &[148, 9, 0, 0]),
        ("garbage behind the end", &[0, 148, 9, 9]),
    ] {
        let with = |to: Packet| to.options(option).ident(77).udp(4000, 53);
        all.add(false, &format!("option {name}"), &with(to(false, SERVER)).payload(data(9)));
        all.add(false, &format!("option {name}, expired"), &with(to(false, SERVER)).ttl(1));
        all.add(
            false,
            &format!("option {name}, cut in fragments"),
            &with(to(false, BEHIND_NARROW)).payload(data(1400)),
        );
    }
}

fn headers_v6(all: &mut Cases) {
    let packet = to(true, SERVER);
    all.add(true, "flow label", &packet.clone().flow_label(0x12345).udp(4000, 53));
    all.add(true, "expired, flow label", &packet.clone().flow_label(0x12345).ttl(1).udp(4000, 53));
    for version in [0, 4, 7] {
        all.add(true, &format!("version {version}"), &packet.clone().udp(4000, 53).ip_version(version));
    }
    for length in [0, 7, 9, 1500] {
        all.add(true, &format!("payload length {length}"), &packet.clone().udp(4000, 53).ip_length(length));
    }
    for (name, with) in [
        ("hop-by-hop", packet.clone().hop_by_hop()),
        ("destination options", packet.clone().destination_options()),
        ("routing type 0, at its end", packet.clone().routing(0, 0)),
        ("routing type 0, segments left", packet.clone().routing(0, 1)),
        ("routing type 4", packet.clone().routing(4, 1)),
        ("atomic fragment", packet.clone().fragment(0, false, 9)),
        ("three headers", packet.clone().hop_by_hop().destination_options().routing(4, 0)),
        ("hop-by-hop twice", packet.clone().hop_by_hop().hop_by_hop()),
        ("hop-by-hop second", packet.clone().destination_options().hop_by_hop()),
        ("hop-by-hop, unknown option to skip", packet.clone().extension(0, &[0, 0x3e, 2, 0, 0, 1, 0])),
        ("hop-by-hop, unknown option to drop", packet.clone().extension(0, &[0, 0x7e, 2, 0, 0, 1, 0])),
        ("hop-by-hop, unknown option to report", packet.clone().extension(0, &[0, 0xbe, 2, 0, 0, 1, 0])),
        ("hop-by-hop, router alert", packet.clone().extension(0, &[0, 5, 2, 0, 0, 1, 0])),
        ("hop-by-hop, beyond the packet", packet.clone().extension(0, &[9, 1, 4, 0, 0, 0, 0])),
        ("destination options, beyond the packet", packet.clone().extension(60, &[9, 1, 4, 0, 0, 0, 0])),
    ] {
        all.add(true, &format!("header {name}"), &with.clone().udp(4000, 53).payload(data(9)));
        all.add(true, &format!("header {name}, expired"), &with.ttl(1).udp(4000, 53).payload(data(9)));
    }
    let chain = (0..9).fold(packet, |packet, _| packet.destination_options());
    all.add(true, "header nine times", &chain.udp(4000, 53));
    all.add(true, "long with hop-by-hop", &to(true, BEHIND_NARROW).hop_by_hop().udp(4000, 53).payload(data(1300)));
}
