//! Section 5, ICMP errors about translated packets: RFC 5508 s4, RFC 7690.

use super::*;
use crate::packet::{ACK, SYN};
use crate::reason::DropReason;

/// Client, service address, backend, a router behind the service: one row per family.
const FAMILIES: [(&str, &str, &str, &str); 2] = [
    ("198.51.100.7", "203.0.113.10", "10.0.20.11", "10.0.20.5"),
    ("2001:db8:9::7", "2001:db8:10::10", "fd00:20::11", "fd00:20::5"),
];

/// A router on the client's side.
fn path(v6: bool) -> &'static str {
    if v6 { "2001:db8:77::1" } else { "198.51.100.99" }
}

/// The packet of a frame.
fn quoted(frame: &[u8]) -> Vec<u8> {
    frame[if frame[12..14] == [0x81, 0] { 18 } else { 14 }..].to_vec()
}

/// "Too big" about a packet, an MTU of 1,280 in it.
fn too_big(packet: Packet, quote: &[u8]) -> Packet {
    let v6 = quote[0] >> 4 == 6;
    let packet = if v6 { packet.icmpv6(2, 0, [0, 0, 5, 0]) } else { packet.icmp(3, 4, [0, 0, 5, 0]) };
    packet.payload(quote)
}

/// What the node sends for a packet; exactly one frame.
fn forwarded(lab: &mut Lab, port: usize, packet: &Packet) -> Vec<u8> {
    lab.now += 1_000_000;
    let mut out = lab.node.process(lab.now, port, &packet.build(), Choices::default());
    assert_eq!(out.fates, [Fate::Transmitted], "{}", describe(&packet.build()));
    assert_eq!(checksums(&out.transmitted[0].1).l4, Check::Good);
    out.transmitted.remove(0).1
}

/// The quote in an error, and its checksums when it is whole.
fn quote_of(error: &[u8]) -> Vec<u8> {
    let packet = quoted(error);
    packet[if packet[0] >> 4 == 6 { 48 } else { 28 }..].to_vec()
}

/// A quote as a frame that can be described and summed.
fn shown(quote: &[u8]) -> String {
    let mut frame = [&[0; 12][..], if quote[0] >> 4 == 6 { &[0x86, 0xdd] } else { &[8, 0] }].concat();
    frame.extend(quote);
    let checks = checksums(&frame);
    assert!(checks.l3 != Check::Bad && checks.l4 != Check::Bad, "{}", describe(&frame));
    describe(&frame)
}

#[test]
fn the_path_to_the_client_reports_to_the_backend() {
    for (client, vip, backend, _) in FAMILIES {
        let v6 = client.contains(':');
        let mut lab = Lab::new();
        forwarded(&mut lab, WAN_PORT, &world(client, vip).tcp(4000, 80).flags(SYN));
        let sent =
            forwarded(&mut lab, LAN_PORT, &server(backend, client).tcp(8080, 4000).flags(SYN | ACK).payload([7; 99]));
        let session = lab.node.sessions(lab.now).next().cloned();
        let error = too_big(world(path(v6), vip), &quoted(&sent));
        let told = forwarded(&mut lab, WAN_PORT, &error);
        assert!(describe(&told).contains(&format!("vlan 20 {} > {backend}", path(v6))), "{}", describe(&told));
        // The backend finds what it sent, but for the hop.
        let line = shown(&quote_of(&told));
        let ends =
            if v6 { format!("[{backend}]:8080 > [{client}]:4000") } else { format!("{backend}:8080 > {client}:4000") };
        assert!(line.contains(&ends) && line.contains("ttl 63 data 99"), "{line}");
        assert_eq!(lab.node.sessions(lab.now).next().cloned(), session, "errors leave sessions alone");
    }
}

#[test]
fn what_is_behind_the_service_reports_as_the_service() {
    for (client, vip, backend, router) in FAMILIES {
        let mut lab = Lab::new();
        let sent = forwarded(&mut lab, WAN_PORT, &world(client, vip).udp(4000, 53).payload([9; 40]));
        for from in [backend, router] {
            let told = forwarded(&mut lab, LAN_PORT, &too_big(server(from, client), &quoted(&sent)));
            assert!(describe(&told).contains(&format!(" {vip} > {client} ")), "{}", describe(&told));
            let line = shown(&quote_of(&told));
            let ends = if vip.contains(':') {
                format!("[{client}]:4000 > [{vip}]:53")
            } else {
                format!("{client}:4000 > {vip}:53")
            };
            assert!(line.contains(&ends) && line.contains("data 40"), "{line}");
        }
    }
}

#[test]
fn short_quotes_and_echo() {
    for (client, vip, backend, _) in FAMILIES {
        let mut lab = Lab::new();
        let sent = forwarded(&mut lab, WAN_PORT, &world(client, vip).tcp(4000, 80).flags(SYN));
        // RFC 792: the header and eight octets, which end before TCP's checksum.
        let header = if vip.contains(':') { 40 } else { 20 };
        let told = forwarded(&mut lab, LAN_PORT, &too_big(server(backend, client), &quoted(&sent)[..header + 8]));
        assert_eq!(quote_of(&told)[header..][2..4], 80u16.to_be_bytes());
        let sent = forwarded(&mut lab, WAN_PORT, &world(client, vip).echo(77, 1).payload(b"ping"));
        let told = forwarded(&mut lab, LAN_PORT, &too_big(server(backend, client), &quoted(&sent)));
        assert!(shown(&quote_of(&told)).contains(&format!("{client} > {vip}")));
    }
}

#[test]
fn the_sessions_decision_counts() {
    let (client, vip, backend, _) = FAMILIES[0];
    let mut lab = Lab::new();
    let sent = forwarded(&mut lab, WAN_PORT, &world(client, vip).tcp(4000, 80).flags(SYN));
    let error = too_big(server(backend, client), &quoted(&sent));
    // What the rules say about errors of the backend does not matter, what they say about the client does.
    let mut marked = tables();
    let web = RuleMatch { dst: vec![cidr("203.0.113.10/32")], protocol: Some(6), ..RuleMatch::default() };
    marked.rules = vec![RuleSpec { mark: Some(10), ..rule("web", web.clone(), RuleAction::Permit) }];
    lab.push(marked.clone());
    assert!(describe(&forwarded(&mut lab, LAN_PORT, &error)).contains("dscp 10"));
    marked.rules[0].action = RuleAction::Deny;
    lab.push(marked);
    assert_eq!(lab.step(LAN_PORT, &error), ["dropped rule_deny"]);
    assert_eq!(lab.node.sessions(lab.now).count(), 0, "the push ended it");
}

#[test]
fn what_is_about_no_session_is_like_other_packets() {
    let (client, vip, backend, _) = FAMILIES[0];
    let mut lab = Lab::new();
    let sent = forwarded(&mut lab, WAN_PORT, &world(client, vip).tcp(4000, 80).flags(SYN));
    let quote = quoted(&sent);
    // Not to the sender of the quote; a kind that is for the link; no session of this port.
    let mut other = quote.clone();
    other[20] ^= 1;
    for (why, packet) in [
        ("to another", too_big(server(backend, "198.51.100.8"), &quote)),
        ("redirect", server(backend, client).icmp(5, 0, [10, 0, 20, 7]).payload(&quote)),
        ("port", too_big(server(backend, client), &other)),
        (
            "later fragment",
            too_big(server(backend, client), &{
                let mut later = quote.clone();
                later[7] = 1;
                later
            }),
        ),
    ] {
        let told = forwarded(&mut lab, LAN_PORT, &packet);
        assert!(describe(&told).contains(&format!("{backend} > ")), "{why}: {}", describe(&told));
    }
    // RFC 5508 REQ-3.
    let mut wrong = quote.clone();
    wrong[10] ^= 1;
    assert_eq!(lab.step(LAN_PORT, &too_big(server(backend, client), &wrong)), ["dropped l4_malformed"]);
    let bad = too_big(server(backend, client), &quote).l4_checksum(1);
    assert_eq!(lab.step(LAN_PORT, &bad), [format!("dropped {}", DropReason::L4Malformed.label())]);
}

/// A lab with all services but echo in a mode, and a client's packet as it goes on from there.
fn in_mode(mode: ServiceMode, client: &str, vip: &str) -> (Lab, Vec<u8>) {
    let mut tables = tables();
    for service in tables.services.iter_mut().filter(|s| s.protocol != ServiceProtocol::Icmp) {
        service.mode = mode;
        if mode == ServiceMode::FullNat {
            service.source_pool = vec![ip("10.0.20.200"), ip("fd00:20::200")];
        }
    }
    let mut lab = Lab::with(tables);
    lab.now += 1_000_000;
    let pool = if vip.contains(':') { "fd00:20::200" } else { "10.0.20.200" };
    let nat_source = (mode == ServiceMode::FullNat).then(|| (ip(pool), 2000));
    let syn = world(client, vip).tcp(4000, 80).flags(SYN).build();
    let mut out = lab.node.process(lab.now, WAN_PORT, &syn, Choices { nat_source, ..Choices::default() });
    assert_eq!(out.fates, [Fate::Transmitted]);
    (lab, out.transmitted.remove(0).1)
}

fn ends(from: (&str, u16), to: (&str, u16)) -> String {
    let end = |(address, port)| {
        if str::contains(address, ':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    };
    format!("{} > {}", end(from), end(to))
}

#[test]
fn full_nat_changes_both_ends_of_both() {
    for ((client, vip, backend, router), pool) in FAMILIES.into_iter().zip(["10.0.20.200", "fd00:20::200"]) {
        let v6 = vip.contains(':');
        let port = 8080;
        let (mut lab, sent) = in_mode(ServiceMode::FullNat, client, vip);
        let told = forwarded(&mut lab, LAN_PORT, &too_big(server(router, pool), &quoted(&sent)));
        assert!(describe(&told).contains(&format!(" {vip} > {client} ")), "{}", describe(&told));
        let line = shown(&quote_of(&told));
        assert!(line.contains(&ends((client, 4000), (vip, 80))), "{line}");
        let reply = server(backend, pool).tcp(port, 2000).flags(SYN | ACK);
        let sent = forwarded(&mut lab, LAN_PORT, &reply);
        let told = forwarded(&mut lab, WAN_PORT, &too_big(world(path(v6), vip), &quoted(&sent)));
        assert!(describe(&told).contains(&format!("vlan 20 {pool} > {backend} ")), "{}", describe(&told));
        let line = shown(&quote_of(&told));
        assert!(line.contains(&ends((backend, port), (pool, 2000))), "{line}");
    }
}

/// The backend sent the packet with the service's address: it gets the error as it is, on the way that the client's packets go.
#[test]
fn direct_modes_pass_errors_on_to_the_backend() {
    for (client, vip, ..) in FAMILIES {
        let v6 = vip.contains(':');
        for mode in [ServiceMode::DsrMac, ServiceMode::DsrIpip, ServiceMode::DsrGue] {
            let (mut lab, syn) = in_mode(mode, client, vip);
            let answer = server(vip, client).tcp(80, 4000).flags(SYN | ACK).payload([7; 9]).build();
            let error = too_big(world(path(v6), vip), &quoted(&answer));
            lab.now += 1_000_000;
            let out = lab.node.process(lab.now, WAN_PORT, &error.build(), Choices::default());
            assert_eq!(out.fates, [Fate::Transmitted], "{mode:?}");
            let told = &out.transmitted[0].1;
            // The same headers in front as of the SYN; then the error, one hop older.
            let octets = syn.len() - world(client, vip).tcp(4000, 80).build().len() + 14;
            assert_eq!(told[..18], syn[..18]);
            let mut expected = quoted(&error.build());
            expected[if v6 { 7 } else { 8 }] -= 1;
            if !v6 {
                expected[10..12].copy_from_slice(&told[octets + 10..octets + 12]);
            }
            assert_eq!(told[octets..], expected, "{mode:?}");
            assert_eq!(
                lab.step(WAN_PORT, &too_big(world(path(v6), vip), &quoted(&syn))),
                ["dropped icmp_error_unmatched"]
            );
        }
    }
}
