//! Section 7, limits.

use super::*;
use crate::packet::{ACK, FIN, SYN};

/// A node whose TCP service has these limits.
fn limited(change: impl Fn(&mut ServiceLimitsSpec)) -> Lab {
    let mut tables = tables();
    let mut limits = ServiceLimitsSpec::default();
    change(&mut limits);
    tables.services[2].limits = Some(limits);
    Lab::with(tables)
}

/// A packet to the service from a client.
fn from(client: &str, sport: u16, flags: u8) -> Packet {
    let vip = if client.contains(':') { "2001:db8:10::10" } else { "203.0.113.10" };
    world(client, vip).tcp(sport, 80).flags(flags)
}

/// Of packets with these source ports: how many are let in, and why the others are not.
fn admitted(lab: &mut Lab, client: &str, flags: u8, ports: std::ops::Range<u16>) -> (usize, Vec<String>) {
    let mut told: Vec<String> =
        ports.map(|port| lab.step(WAN_PORT, &from(client, port, flags)).swap_remove(0)).collect();
    let all = told.len();
    told.retain(|fate| fate != "transmitted");
    let refused = told.len();
    told.dedup();
    (all - refused, told)
}

const SERVICE: &str = "dropped session_limit_service";
const SOURCE: &str = "dropped session_limit_source";

#[test]
fn sessions_of_a_service_and_of_a_source() {
    let mut lab = limited(|limits| limits.total.sessions = Some(3));
    assert_eq!(admitted(&mut lab, "198.51.100.7", ACK, 0..5), (3, vec![SERVICE.into()]));
    assert_eq!(admitted(&mut lab, "2001:db8:9::7", ACK, 0..2), (0, vec![SERVICE.into()]), "both families together");
    assert_eq!(admitted(&mut lab, "198.51.100.7", ACK, 0..3), (3, vec![]), "packets of sessions are no first packets");
    let dns = world("198.51.100.7", "203.0.113.10").udp(1, 53);
    assert_eq!(lab.step(WAN_PORT, &dns)[0], "transmitted", "another service");
    lab.now += 241 * SECOND;
    assert_eq!(admitted(&mut lab, "198.51.100.7", ACK, 5..6), (1, vec![]), "the others have timed out");

    let mut lab = limited(|limits| {
        limits.per_source.sessions = Some(2);
        (limits.source_v4, limits.source_v6) = (24, 48);
    });
    assert_eq!(admitted(&mut lab, "198.51.100.7", ACK, 0..1), (1, vec![]));
    assert_eq!(admitted(&mut lab, "198.51.100.8", ACK, 0..2), (1, vec![SOURCE.into()]), "of the same /24");
    assert_eq!(admitted(&mut lab, "198.51.101.8", ACK, 0..3), (2, vec![SOURCE.into()]));
    assert_eq!(admitted(&mut lab, "2001:db8:9:1::7", ACK, 0..1), (1, vec![]));
    assert_eq!(admitted(&mut lab, "2001:db8:9:2::7", ACK, 0..2), (1, vec![SOURCE.into()]), "of the same /48");
}

#[test]
fn half_open_sessions() {
    for client in ["198.51.100.7", "2001:db8:9::7"] {
        let mut lab = limited(|limits| limits.per_source.half_open = Some(2));
        assert_eq!(admitted(&mut lab, client, SYN, 0..4), (2, vec![SOURCE.into()]));
        assert_eq!(admitted(&mut lab, client, ACK, 10..14), (4, vec![]), "in mid-stream");
        assert_eq!(admitted(&mut lab, client, SYN | FIN, 20..22), (2, vec![]), "closing at once");
        // One gets through with its handshake.
        let backend = if client.contains(':') { "fd00:20::11" } else { "10.0.20.11" };
        lab.step(LAN_PORT, &server(backend, client).tcp(8080, 0).flags(SYN | ACK));
        lab.step(WAN_PORT, &from(client, 0, ACK));
        assert_eq!(admitted(&mut lab, client, SYN, 2..4), (1, vec![SOURCE.into()]));
    }
}

#[test]
fn new_sessions_per_second() {
    let mut lab = limited(|limits| limits.total.new_per_s = Some(4));
    // A millisecond between packets: far from a new one's 250.
    assert_eq!(admitted(&mut lab, "198.51.100.7", SYN, 0..8), (4, vec![SERVICE.into()]));
    lab.now += SECOND / 4;
    assert_eq!(admitted(&mut lab, "198.51.100.7", SYN, 8..10), (1, vec![SERVICE.into()]));
    // Over a push, and while the service is gone.
    let with = lab.node.tables().clone();
    let mut without = with.clone();
    without.services.remove(2);
    lab.push(without);
    lab.push(with);
    assert_eq!(admitted(&mut lab, "198.51.100.7", SYN, 10..11), (0, vec![SERVICE.into()]));
    lab.now += 10 * SECOND;
    assert_eq!(admitted(&mut lab, "198.51.100.7", SYN, 10..18), (4, vec![SERVICE.into()]), "no more than a second's");
}
