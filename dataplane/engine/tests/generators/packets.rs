//! Packets between the hosts of the pools, mostly sound, sometimes odd.

use std::net::IpAddr;

use marchproxy_engine::io::Mac;
use marchproxy_engine::packet::{ACK, FIN, Packet, RST, SYN};
use marchproxy_engine::testkit::port_mac;
use proptest::prelude::*;
use proptest::sample::select;

use super::hostile::damages;
use super::pools::{FAR, HOSTS, L4_PORTS, NAT_POOL, PLACES, SERVICES, SPECIAL, STATIONS, cidr, ip};

/// A frame and the port it comes in on.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub port: usize,
    pub frame: Vec<u8>,
}

pub fn arrivals() -> BoxedStrategy<Arrival> {
    let ip_packets = || {
        prop_oneof![
            12 => flows(clients().boxed(), services().boxed(), requests()),
            3 => flows(hosts().boxed(), clients().boxed(), transports()),
            2 => flows(anyone().boxed(), anyone().boxed(), transports()),
        ]
    };
    let sound = prop_oneof![
        8 => ip_packets(),
        2 => discovery(),
        1 => solicitations(),
    ];
    (places(), sound, links(), damages())
        .prop_map(|((port, vlan), packet, link, damage)| {
            let packet = link.frame(packet, port);
            let packet = match vlan {
                Some(vlan) => packet.vlan(vlan),
                None => packet,
            };
            Arrival { port, frame: damage.inflict(packet.build()) }
        })
        .boxed()
}

/// Packets from hosts to far places, sometimes damaged.
pub fn passing() -> BoxedStrategy<Arrival> {
    let far = select(&FAR[..]).prop_map(ip).boxed();
    (select(&PLACES[..4]), flows(hosts().boxed(), far, transports()), damages())
        .prop_map(|(place, packet, damage)| {
            let packet = packet.reframed(STATIONS[0], port_mac(place.port));
            let packet = place.vlan.map_or(packet.clone(), |vlan| packet.vlan(vlan));
            Arrival { port: place.port, frame: damage.inflict(packet.build()) }
        })
        .boxed()
}

/// Frames of random bytes that get past the first checks.
pub fn noise() -> impl Strategy<Value = Arrival> {
    let bytes = prop::collection::vec(any::<u8>(), 0..100);
    let ethertype = select(vec![0x0800, 0x86dd, 0x0806, 0x8100, 0x88cc]);
    (places(), ethertype, bytes).prop_map(|((port, vlan), ethertype, bytes)| {
        let packet = Packet::eth(STATIONS[0], port_mac(port)).ethertype(ethertype).payload(bytes);
        Arrival { port, frame: vlan.map_or(packet.clone(), |vlan| packet.vlan(vlan)).build() }
    })
}

/// A sound packet that is to be forwarded.
pub fn forwardable() -> BoxedStrategy<Arrival> {
    let place = select(&PLACES[..4]).prop_map(|place| (place.port, place.vlan));
    (place, hosts(), select(&FAR[..]), any::<u16>())
        .prop_map(|((port, vlan), host, far, sport)| {
            let far = ip(far);
            let (src, dst) = if far.is_ipv4() == host.is_ipv4() { (far, host) } else { (host, host) };
            let packet = Packet::eth(STATIONS[0], port_mac(port)).ip(src, dst).udp(sport, 9);
            Arrival { port, frame: vlan.map_or(packet.clone(), |vlan| packet.vlan(vlan)).build() }
        })
        .boxed()
}

/// A port and VLAN, seldom one that nobody configured.
fn places() -> impl Strategy<Value = (usize, Option<u16>)> {
    let known: Vec<_> = PLACES.iter().map(|place| (place.port, place.vlan)).collect();
    prop_oneof![40 => select(known), 1 => Just((1, Some(99))), 1 => Just((0, Some(0)))]
}

/// The frame around a packet.
#[derive(Clone, Copy, Debug)]
struct Link {
    src: Mac,
    dst: Dst,
}

#[derive(Clone, Copy, Debug)]
enum Dst {
    Us,
    Group,
    Other(Mac),
}

impl Link {
    fn frame(self, packet: Packet, port: usize) -> Packet {
        let dst = match self.dst {
            Dst::Us => port_mac(port),
            Dst::Group => [0x33, 0x33, 0, 0, 0, 1],
            Dst::Other(mac) => mac,
        };
        packet.reframed(self.src, dst)
    }
}

fn links() -> impl Strategy<Value = Link> {
    let odd_sources = vec![[0; 6], [3, 0, 0, 0, 0, 1], port_mac(0), port_mac(1)];
    let src = prop_oneof![60 => select(&STATIONS[..]), 1 => select(odd_sources)];
    let dst = prop_oneof![
        40 => Just(Dst::Us),
        2 => Just(Dst::Group),
        1 => Just(Dst::Other([0xff; 6])),
        1 => Just(Dst::Other([2, 0, 0, 0, 0, 0xee])),
    ];
    (src, dst).prop_map(|(src, dst)| Link { src, dst })
}

fn clients() -> impl Strategy<Value = IpAddr> {
    prop_oneof![2 => select(&FAR[..]), 1 => select(&HOSTS[..]).prop_map(|host| host.1)].prop_map(ip)
}

fn hosts() -> impl Strategy<Value = IpAddr> {
    select(&HOSTS[..]).prop_map(|host| ip(host.1))
}

fn services() -> impl Strategy<Value = IpAddr> {
    prop_oneof![15 => select(&SERVICES[..]), 1 => select(&NAT_POOL[..])].prop_map(ip)
}

fn anyone() -> impl Strategy<Value = IpAddr> {
    prop_oneof![2 => clients(), 1 => services(), 3 => select(&SPECIAL[..]).prop_map(ip)]
}

/// IP packets; of a mixed pair the destination's family is taken.
fn flows(
    src: BoxedStrategy<IpAddr>,
    dst: BoxedStrategy<IpAddr>,
    transports: BoxedStrategy<Transport>,
) -> BoxedStrategy<Packet> {
    let header = (select(vec![64u8, 64, 64, 64, 2, 1, 0, 255]), any::<u8>(), prop::bool::weighted(0.3));
    (src, dst, any::<prop::sample::Index>(), transports, header, extras())
        .prop_map(|(src, dst, other, transport, (ttl, tos, dont_fragment), extras)| {
            let same_family: Vec<IpAddr> =
                FAR.iter().map(|far| ip(far)).filter(|far| far.is_ipv4() == dst.is_ipv4()).collect();
            let src = if src.is_ipv4() == dst.is_ipv4() { src } else { same_family[other.index(same_family.len())] };
            let packet = Packet::eth([0; 6], [0; 6]).ip(src, dst).ttl(ttl).tos(tos);
            let packet = if dont_fragment { packet.dont_fragment() } else { packet };
            transport.write(extras.write(packet, dst.is_ipv6()))
        })
        .boxed()
}

#[derive(Clone, Debug)]
enum Transport {
    Tcp { ports: (u16, u16), flags: u8, options: &'static [u8], payload: usize },
    Udp { ports: (u16, u16), checksum: bool, payload: usize },
    Echo { reply: bool, id: u16, payload: usize },
    Icmp { kind: u8, code: u8 },
    Other { protocol: u8, payload: usize },
}

impl Transport {
    fn write(self, packet: Packet) -> Packet {
        match self {
            Self::Tcp { ports, flags, options, payload } => {
                packet.tcp(ports.0, ports.1).flags(flags).tcp_options(options).payload(vec![0x5a; payload])
            }
            Self::Udp { ports, checksum, payload } => {
                let packet = packet.udp(ports.0, ports.1).payload(vec![0xa5; payload]);
                if checksum { packet } else { packet.l4_checksum(0) }
            }
            Self::Echo { reply: false, id, payload } => packet.echo(id, 1).payload(vec![1; payload]),
            Self::Echo { reply: true, id, payload } => packet.echo_reply(id, 1).payload(vec![1; payload]),
            Self::Icmp { kind, code } if kind < 128 => packet.icmp(kind, code, [0, 7, 0, 9]),
            Self::Icmp { kind, code } => packet.icmpv6(kind, code, [0, 7, 0, 9]),
            Self::Other { protocol, payload } => packet.protocol(protocol).payload(vec![8; payload]),
        }
    }
}

/// What clients ask services for.
fn requests() -> BoxedStrategy<Transport> {
    let ports = || (select(vec![1000u16, 1001]), select(vec![53u16, 80, 80, 81, 8080]));
    let flags = select(vec![SYN, SYN, ACK, FIN | ACK, RST]);
    let payload = || prop_oneof![12 => 0usize..40, 1 => 1200usize..1480];
    prop_oneof![
        6 => (ports(), flags, tcp_options(), payload())
            .prop_map(|(ports, flags, options, payload)| Transport::Tcp { ports, flags, options, payload }),
        4 => (ports(), prop::bool::weighted(0.8), payload())
            .prop_map(|(ports, checksum, payload)| Transport::Udp { ports, checksum, payload }),
        2 => (0u16..3, 0usize..40).prop_map(|(id, payload)| Transport::Echo { reply: false, id, payload }),
        1 => transports(),
    ]
    .boxed()
}

/// Options of TCP: none, an MSS of a usual, a small and an odd place, and lists that are broken before or in it.
fn tcp_options() -> impl Strategy<Value = &'static [u8]> {
    const OPTIONS: [&[u8]; 9] = [
        &[2, 4, 0x05, 0xb4],
        &[2, 4, 0x05, 0xa0],
        &[2, 4, 0x02, 0x18],
        &[1, 2, 4, 0x23, 0x28, 0, 0, 0],
        &[3, 3, 7, 2, 4, 0xff, 0xff, 0],
        &[4, 1, 2, 4, 0x05, 0xb4],
        &[0, 2, 4, 0x05, 0xb4],
        &[2, 3, 9, 2, 4, 0x05, 0xb4, 1],
        &[1, 1, 2, 5, 0x05, 0xb4, 1, 1],
    ];
    prop_oneof![2 => Just(&[][..]), 3 => select(&OPTIONS[..])]
}

fn transports() -> BoxedStrategy<Transport> {
    let ports = || (select(&L4_PORTS[..]), select(&L4_PORTS[..]));
    let flags = select(vec![SYN, ACK, SYN | ACK, FIN | ACK, RST, RST | ACK, SYN | FIN, SYN | RST, FIN, 0, 0xff]);
    let payload = || prop_oneof![8 => 0usize..40, 1 => 1230usize..1480];
    prop_oneof![
        6 => (ports(), flags, tcp_options(), payload())
            .prop_map(|(ports, flags, options, payload)| Transport::Tcp { ports, flags, options, payload }),
        4 => (ports(), prop::bool::weighted(0.8), payload())
            .prop_map(|(ports, checksum, payload)| Transport::Udp { ports, checksum, payload }),
        3 => (any::<bool>(), 0u16..3, payload()).prop_map(|(reply, id, payload)| Transport::Echo { reply, id, payload }),
        1 => (select(vec![0u8, 3, 4, 5, 8, 11, 12, 13, 1, 2, 127, 128, 133, 135, 136, 137]), 0u8..2)
            .prop_map(|(kind, code)| Transport::Icmp { kind, code }),
        1 => (select(vec![0u8, 1, 6, 17, 41, 43, 44, 47, 58, 59, 60]), 0usize..40)
            .prop_map(|(protocol, payload)| Transport::Other { protocol, payload }),
    ]
    .boxed()
}

/// What few packets have: fragments, options, extension headers.
#[derive(Clone, Debug)]
enum Extras {
    None,
    Fragment { offset: u16, more: bool },
    Options(Vec<u8>),
    Extensions(Vec<u8>),
}

impl Extras {
    fn write(self, packet: Packet, v6: bool) -> Packet {
        match self {
            Self::Fragment { offset, more } => packet.fragment(offset, more, 77),
            Self::Options(options) if !v6 => packet.options(&options),
            Self::Extensions(kinds) if v6 => kinds.into_iter().fold(packet, |packet, kind| match kind {
                0 => packet.hop_by_hop(),
                1 => packet.destination_options(),
                2 => packet.routing(0, 0),
                3 => packet.routing(0, 1),
                4 => packet.routing(4, 1),
                5 => packet.fragment(0, false, 5),
                6 => packet.fragment(0, true, 5),
                _ => packet.extension(60, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            }),
            Self::None | Self::Options(_) | Self::Extensions(_) => packet,
        }
    }
}

fn extras() -> impl Strategy<Value = Extras> {
    let option =
        select(vec![vec![1], vec![0], vec![148, 4, 0, 0], vec![7, 3, 4], vec![131, 3, 4], vec![9, 1], vec![9, 40]]);
    let options = prop::collection::vec(option, 1..3).prop_map(|options| Extras::Options(options.concat()));
    let extension = prop_oneof![4 => select(vec![1u8, 2, 5, 5, 6, 7]), 1 => select(vec![0u8, 3, 4])];
    prop_oneof![
        16 => Just(Extras::None),
        2 => (select(vec![0u16, 0, 8, 1480]), any::<bool>()).prop_map(|(offset, more)| Extras::Fragment { offset, more }),
        1 => options,
        1 => prop::collection::vec(extension, 1..10).prop_map(Extras::Extensions),
        1 => Just(Extras::Extensions(vec![0, 1])),
    ]
}

/// Solicitations for addresses that may be ours, duplicate address detection among them.
fn solicitations() -> impl Strategy<Value = Packet> {
    let own = PLACES.iter().flat_map(|place| place.addresses).map(|text| cidr(text).addr);
    let links = ["fe80::4d:50ff:fe00:1", "fe80::4d:50ff:fe00:2"].map(ip);
    let v6 = |addresses: Vec<IpAddr>| addresses.into_iter().filter(IpAddr::is_ipv6).collect::<Vec<_>>();
    let targets = v6(own.chain(links).chain(SERVICES.map(ip)).collect());
    let senders = v6(HOSTS.iter().map(|host| ip(host.1)).chain([ip("::"), ip("fe80::2")]).collect());
    let senders = prop_oneof![2 => select(senders), 1 => Just(ip("::"))];
    let option = prop::option::of(select(&STATIONS[..]));
    (senders, select(targets), option).prop_map(|(sender, target, option)| {
        let (IpAddr::V6(sender), IpAddr::V6(target)) = (sender, target) else { unreachable!("only IPv6 was kept") };
        let [.., a, b, c] = target.octets();
        let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
        let packet = Packet::eth([0; 6], [0; 6]).ipv6(sender, group).neighbour_solicitation(target);
        option.map_or(packet.clone(), |mac| packet.source_link_layer(mac))
    })
}

/// ARP and neighbour discovery that nobody asked for, and requests for everybody.
fn discovery() -> impl Strategy<Value = Packet> {
    let mac = || prop_oneof![8 => select(&STATIONS[..]), 1 => select(vec![[0; 6], [0xff; 6], port_mac(0)])];
    (anyone(), anyone(), mac(), mac(), 0u8..3, any::<u8>(), select(vec![255u8, 255, 255, 64])).prop_map(
        |(sender, target, sender_mac, target_mac, kind, flags, ttl)| {
            let packet = Packet::eth([0; 6], [0; 6]);
            match (sender, target) {
                (IpAddr::V4(sender), IpAddr::V4(target)) => {
                    packet.arp(1 + u16::from(kind % 3), sender_mac, sender, target_mac, target)
                }
                (IpAddr::V6(sender), IpAddr::V6(target)) if kind == 0 => {
                    let packet = packet.ipv6(target, sender).neighbour_advertisement(target, flags).ttl(ttl);
                    if flags & 1 == 0 { packet.target_link_layer(target_mac) } else { packet }
                }
                (IpAddr::V6(sender), IpAddr::V6(target)) => {
                    let [.., a, b, c] = target.octets();
                    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
                    let packet = packet.ipv6(sender, group).neighbour_solicitation(target).ttl(ttl);
                    if flags & 1 == 0 { packet.source_link_layer(sender_mac) } else { packet }
                }
                (IpAddr::V4(only), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(only)) => {
                    packet.arp(1, sender_mac, only, [0; 6], only)
                }
            }
        },
    )
}
