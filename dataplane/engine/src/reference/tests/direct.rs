//! Direct modes (7 to 10): the packet reaches the backend with the client's and the service's addresses on it.

use super::*;
use crate::packet::{ACK, FIN, SYN};

/// The tables with `web` in a mode, its backends of both families or of one.
fn with(mode: ServiceMode, backends: &[&str]) -> RuleTables {
    let mut tables = tables();
    let web = &mut tables.services[2];
    web.mode = mode;
    web.backends = backends.iter().enumerate().map(|(n, b)| backend(&format!("b{n}"), b, None)).collect();
    tables
}

fn request(v6: bool) -> Packet {
    let (client, vip) = if v6 { ("2001:db8:9::7", "2001:db8:10::10") } else { ("198.51.100.7", "203.0.113.10") };
    world(client, vip).tcp(4000, 80)
}

/// The frame that a packet leaves in.
fn sent(lab: &mut Lab, packet: &Packet) -> Vec<u8> {
    lab.now += 1_000_000;
    let out = lab.node.process(lab.now, WAN_PORT, &packet.build(), Choices::default());
    assert_eq!(out.fates, [Fate::Transmitted]);
    out.transmitted[0].1.clone()
}

#[test]
fn to_the_station_as_it_is() {
    for (v6, expected) in [
        (false, "lan: LAN > SERVER vlan 20 198.51.100.7:4000 > 203.0.113.10:80 tcp S seq 0 ack 0 ttl 63 data 0"),
        (true, "lan: LAN > SERVER vlan 20 [2001:db8:9::7]:4000 > [2001:db8:10::10]:80 tcp S seq 0 ack 0 ttl 63 data 0"),
    ] {
        let mut lab = Lab::with(with(ServiceMode::DsrMac, &["10.0.20.11", "fd00:20::11"]));
        assert_eq!(lab.step(WAN_PORT, &request(v6).flags(SYN)), ["transmitted", expected]);
        assert_eq!(lab.step(WAN_PORT, &request(v6).flags(SYN).ttl(1))[0], "dropped ttl_exceeded");
    }
    let mut far = with(ServiceMode::DsrMac, &["10.0.20.11"]);
    far.routes.insert(0, via(0, "10.0.20.11/32", &[("10.0.20.5", 0, 1)]));
    assert_eq!(Lab::with(far).step(WAN_PORT, &request(false)), ["dropped backend_not_on_link"]);
}

/// Every pair of families: outer header octet by octet, then the packet with its own TTL lowered.
#[test]
fn wrapped_octet_by_octet() {
    let v4_header = |length: u16, tos: u8, protocol: u8| {
        let mut header = vec![0x45, tos];
        header.extend(length.to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 20, 1, 10, 0, 20, 11]);
        let sum = checksum::compute(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    };
    for (v6, backend) in [(false, "10.0.20.11"), (false, "fd00:20::11"), (true, "10.0.20.11"), (true, "fd00:20::11")] {
        for mode in [ServiceMode::DsrIpip, ServiceMode::DsrGue] {
            let mut lab = Lab::with(with(mode, &[backend]));
            // DSCP 10 and CE go outside, too (RFC 6040).
            let packet = request(v6).flags(ACK).tos(0x2b).payload(vec![7; 9]);
            let received = packet.build()[14..].to_vec();
            let frame = sent(&mut lab, &packet);
            let outer_v6 = backend.contains(':');
            let udp = if mode == ServiceMode::DsrGue { 8 } else { 0 };
            let outer = udp + if outer_v6 { 40 } else { 20 };
            assert_eq!(frame[16..18], if outer_v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
            let (headers, inside) = frame[18..].split_at(outer);
            let protocol = match (udp, v6) {
                (0, false) => 4,
                (0, true) => 41,
                _ => 17,
            };
            let length = (inside.len() + outer) as u16;
            if outer_v6 {
                assert_eq!((headers[0], headers[1] >> 4), (0x62, 0x0b));
                assert_eq!(headers[4..8], [&(length - 40).to_be_bytes()[..], &[protocol, 64]].concat());
                assert_eq!(headers[8..24], v6_octets("fd00:20::1"));
                assert_eq!(headers[24..40], v6_octets("fd00:20::11"));
            } else {
                assert_eq!(headers[..20], v4_header(length, 0x2b, protocol));
            }
            if udp > 0 {
                let datagram = &headers[outer - 8..];
                assert!(datagram[0] >= 0xc0, "a dynamic port");
                assert_eq!(
                    datagram[2..],
                    [6080u16.to_be_bytes(), (inside.len() as u16 + 8).to_be_bytes(), [0; 2]].concat()
                );
            }
            let mut older = received;
            older[if v6 { 7 } else { 8 }] = 63;
            if !v6 {
                let sum = checksum::compute(&[&older[..10], &[0, 0], &older[12..20]].concat());
                older[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            assert_eq!(inside, older, "{mode:?} to {backend}");
        }
    }
}

fn v6_octets(text: &str) -> [u8; 16] {
    v6(text).octets()
}

/// Flows differ in port or label, packets of a flow do not.
#[test]
fn tunnels_have_entropy() {
    let mut lab = Lab::with(with(ServiceMode::DsrGue, &["10.0.20.11"]));
    let mut ports: Vec<_> =
        (0..16).map(|n| sent(&mut lab, &request(false).tcp(4000 + n % 8, 80))[38..40].to_vec()).collect();
    assert_eq!(ports[..8], ports[8..]);
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() > 6);
}

#[test]
fn the_tunnel_counts_in_the_mtu() {
    // The port towards the servers carries 1500 octets.
    for (backend, mode, overhead) in [
        ("10.0.20.11", ServiceMode::DsrIpip, 20),
        ("fd00:20::11", ServiceMode::DsrIpip, 40),
        ("10.0.20.11", ServiceMode::DsrGue, 28),
        ("fd00:20::11", ServiceMode::DsrGue, 48),
    ] {
        let fits = 1500 - overhead;
        let mut lab = Lab::with(with(mode, &[backend]));
        let long = |v6, length: usize| {
            let request = request(v6).flags(ACK).dont_fragment();
            request.payload(vec![0; length - if v6 { 60 } else { 40 }])
        };
        for v6 in [false, true] {
            assert_eq!(sent(&mut lab, &long(v6, fits)).len(), 1518);
            let told = lab.step(WAN_PORT, &long(v6, fits + 1));
            assert_eq!(told[0], "dropped mtu_exceeded");
            assert!(told[1].contains(&format!(" mtu {fits} ")), "{told:?}");
        }
        let fragmentable = request(false).flags(ACK).payload(vec![0; fits + 1 - 40]);
        assert_eq!(lab.step(WAN_PORT, &fragmentable), ["dropped mtu_exceeded"]);
    }
    // No sender over IPv6 goes below 1280.
    let mut small = with(ServiceMode::DsrGue, &["fd00:20::11"]);
    small.ports[0].mtu = 1280;
    let told = Lab::with(small).step(WAN_PORT, &request(true).payload(vec![0; 1200]));
    assert!(told[1].contains(" mtu 1280 "), "{told:?}");
}

#[test]
fn a_syn_announces_what_fits() {
    let mss = |options: &[u8], mode, backend: &str, v6| {
        let mut lab = Lab::with(with(mode, &[backend]));
        let frame = sent(&mut lab, &request(v6).flags(SYN).tcp_options(options));
        let tcp = frame[18..].len() - 20 - options.len().next_multiple_of(4);
        let segment = &frame[18 + tcp..];
        let covered = if v6 {
            checksum::pseudo_header_v6(ip("2001:db8:9::7"), ip("2001:db8:10::10"), 6, segment.len())
        } else {
            let mut pseudo = [198, 51, 100, 7, 203, 0, 113, 10, 0, 6, 0].to_vec();
            pseudo.push(segment.len() as u8);
            pseudo
        };
        assert_eq!(checksum::sum(&[&covered[..], segment].concat()), 0xffff, "{options:?}");
        segment[20..20 + options.len()].to_vec()
    };
    let usual = [2, 4, 0x05, 0xb4];
    // 1500 - 20 - 40, - 40 - 60, - 28 - 40, - 48 - 60.
    assert_eq!(mss(&usual, ServiceMode::DsrIpip, "10.0.20.11", false), [2, 4, 0x05, 0xa0]);
    assert_eq!(mss(&usual, ServiceMode::DsrIpip, "fd00:20::11", true), [2, 4, 0x05, 0x78]);
    assert_eq!(mss(&usual, ServiceMode::DsrGue, "10.0.20.11", false), [2, 4, 0x05, 0x98]);
    assert_eq!(mss(&usual, ServiceMode::DsrGue, "fd00:20::11", true), [2, 4, 0x05, 0x70]);
    // At an odd place; small enough; behind the end; behind a broken option; no tunnel.
    assert_eq!(mss(&[1, 2, 4, 0x05, 0xb4, 0], ServiceMode::DsrIpip, "10.0.20.11", false), [1, 2, 4, 0x05, 0xa0, 0]);
    for (options, mode) in [
        (&[2, 4, 0x02, 0x18][..], ServiceMode::DsrIpip),
        (&[0, 2, 4, 0x05, 0xb4], ServiceMode::DsrIpip),
        (&[3, 1, 2, 4, 0x05, 0xb4], ServiceMode::DsrIpip),
        (&usual, ServiceMode::DsrMac),
    ] {
        assert_eq!(mss(options, mode, "10.0.20.11", false), options);
    }
}

#[test]
fn sessions_know_one_side() {
    let states = |lab: &Lab| lab.node.sessions(lab.now).map(Session::state).collect::<Vec<_>>();
    let mut lab = Lab::with(with(ServiceMode::DsrIpip, &["10.0.20.11"]));
    for (flags, state) in [
        (SYN, SessionState::Opening),
        (ACK, SessionState::Established),
        (FIN | ACK, SessionState::Closing),
        (ACK, SessionState::Closing),
        (SYN, SessionState::Opening),
    ] {
        sent(&mut lab, &request(false).flags(flags));
        assert_eq!(states(&lab), [state]);
    }
    // A packet of the backend's own is no reply of the session.
    let own = server("10.0.20.11", "198.51.100.7").tcp(80, 4000).flags(ACK);
    assert!(lab.step(LAN_PORT, &own)[1].contains("10.0.20.11:80 > 198.51.100.7:4000"));
    assert_eq!(states(&lab), [SessionState::Opening]);

    // The backend stays when it is draining or another one comes; not when the mode goes.
    let mut draining = with(ServiceMode::DsrIpip, &["10.0.20.11", "10.0.20.12"]);
    draining.services[2].backends[0].state = BackendState::Draining;
    lab.push(draining);
    assert!(lab.step(WAN_PORT, &request(false).flags(ACK))[1].contains("10.0.20.1 > 10.0.20.11 protocol 4"));
    assert!(lab.step(WAN_PORT, &request(false).tcp(4001, 80))[1].contains("10.0.20.1 > 10.0.20.12 protocol 4"));
    lab.push(with(ServiceMode::DsrGue, &["10.0.20.12"]));
    assert!(lab.step(WAN_PORT, &request(false).flags(ACK))[1].contains("> 10.0.20.12:6080 udp"));
}

#[test]
fn without_sessions_the_ring_decides() {
    let mut tables = with(ServiceMode::DsrMac, &["10.0.20.11"]);
    tables.services[2].stateless = true;
    let mut lab = Lab::with(tables.clone());
    sent(&mut lab, &request(false).flags(SYN));
    assert_eq!(lab.node.sessions(lab.now).count(), 0);
    tables.services[2].backends[0].state = BackendState::Draining;
    lab.push(tables);
    assert_eq!(lab.step(WAN_PORT, &request(false)), ["dropped no_backend"]);
    // A session from before ends.
    let mut lab = Lab::with(with(ServiceMode::DsrMac, &["10.0.20.11"]));
    sent(&mut lab, &request(false).flags(SYN));
    let mut stateless = with(ServiceMode::DsrMac, &["10.0.20.12"]);
    stateless.services[2].stateless = true;
    lab.push(stateless);
    sent(&mut lab, &request(false).flags(ACK));
    assert_eq!(lab.node.sessions(lab.now).count(), 0);
}
