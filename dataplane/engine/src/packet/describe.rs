//! Frames in one line, for people who look at a failed comparison.

use std::fmt::Write;
use std::net::IpAddr;

use super::checksum::{Check, checksums};
use super::dissect::{Ip, Network, dissect, long, octets4, octets6, word};

/// One line in the manner of tcpdump; what is usual (TTL aside) is left out, what is wrong is named.
pub fn describe(frame: &[u8]) -> String {
    let parts = dissect(frame);
    let mut line = String::new();
    if let Network::Runt = parts.network {
        return format!("runt of {} octets", frame.len());
    }
    let _ = write!(line, "{} > {}", mac(parts.src), mac(parts.dst));
    for tci in &parts.tags {
        let _ = write!(line, " vlan {}", tci & 0xfff);
        if tci >> 12 != 0 {
            let _ = write!(line, " pcp/dei {:#x}", tci >> 12);
        }
    }
    match &parts.network {
        Network::Runt => {}
        Network::Other(rest) => {
            let _ = write!(line, " ethertype {:#06x} data {}", parts.ethertype, rest.len());
        }
        Network::Arp(arp) => describe_arp(&mut line, arp),
        Network::Ip(ip) => {
            describe_ip(&mut line, ip);
            let checks = checksums(frame);
            if checks.l3 == Check::Bad {
                line.push_str(" bad-ip-checksum");
            }
            if checks.l4 == Check::Bad {
                line.push_str(" bad-l4-checksum");
            }
        }
    }
    line
}

fn mac(octets: &[u8]) -> String {
    octets.iter().map(|o| format!("{o:02x}")).collect::<Vec<_>>().join(":")
}

fn describe_arp(line: &mut String, arp: &[u8]) {
    let (sender, target) = (octets4(arp, 14), octets4(arp, 24));
    let _ = match word(arp, 6) {
        1 => write!(line, " arp who-has {target} tell {sender} at {}", mac(&arp[8..14])),
        2 => write!(line, " arp {sender} is-at {} to {target} at {}", mac(&arp[8..14]), mac(&arp[18..24])),
        other => write!(line, " arp operation {other}"),
    };
    if arp[..6] != [0, 1, 8, 0, 6, 4] {
        line.push_str(" not-ethernet-ipv4");
    }
}

fn describe_ip(line: &mut String, ip: &Ip) {
    let later = ip.fragment.is_some_and(|f| f.offset > 0);
    let ports = match ip.protocol {
        6 | 17 if !later && ip.body.len() >= 4 => Some((word(ip.body, 0), word(ip.body, 2))),
        _ => None,
    };
    let _ = match ports {
        Some((sport, dport)) => write!(line, " {} > {}", endpoint(ip.src, sport), endpoint(ip.dst, dport)),
        None => write!(line, " {} > {}", ip.src, ip.dst),
    };
    if later {
        let _ = write!(line, " protocol {}", ip.protocol);
    } else {
        describe_transport(line, ip);
    }
    if let Some(fragment) = ip.fragment {
        let _ = write!(line, " fragment {}{}", fragment.offset, if fragment.more { "+" } else { "" });
    }
    let _ = write!(line, " ttl {}", ip.ttl);
    if ip.tos != 0 {
        let _ = write!(line, " dscp {} ecn {}", ip.tos >> 2, ip.tos & 3);
    }
    if ip.dont_fragment {
        line.push_str(" df");
    }
    if ip.src.is_ipv4() && ip.header.len() > 20 {
        let _ = write!(line, " options {}", ip.header.len() - 20);
    }
    if !ip.extensions.is_empty() {
        let _ = write!(line, " extensions {:?}", ip.extensions);
    }
    let header = match (later, ip.protocol, ip.src.is_ipv4()) {
        (false, 6, _) if ip.body.len() >= 20 => usize::from(ip.body[12] >> 4) * 4,
        (false, 17, _) | (false, 1, true) | (false, 58, false) => 8,
        _ => 0,
    };
    let _ = write!(line, " data {}", ip.body.len().saturating_sub(header));
    if ip.missing > 0 {
        let _ = write!(line, " missing {}", ip.missing);
    }
}

fn describe_transport(line: &mut String, ip: &Ip) {
    let body = ip.body;
    let _ = match (ip.protocol, ip.src.is_ipv4()) {
        (6, _) if body.len() >= 20 => {
            let names = ["F", "S", "R", "P", "A", "U", "E", "C"];
            let flags: String =
                names.iter().enumerate().filter(|(i, _)| body[13] >> i & 1 == 1).map(|(_, n)| *n).collect();
            let flags = if flags.is_empty() { "none" } else { &flags };
            write!(line, " tcp {flags} seq {} ack {}", long(body, 4), long(body, 8))
        }
        (17, _) if body.len() >= 8 => write!(line, " udp"),
        (1, true) | (58, false) if body.len() >= 8 => {
            line.push(' ');
            line.push_str(&control_message(ip));
            Ok(())
        }
        (protocol, _) => write!(line, " protocol {protocol}"),
    };
}

fn control_message(ip: &Ip) -> String {
    let body = ip.body;
    let (kind, code, v4) = (body[0], body[1], ip.src.is_ipv4());
    let name = if v4 { "icmp" } else { "icmp6" };
    match (v4, kind) {
        (true, 8) | (false, 128) => format!("{name} echo request id {} seq {}", word(body, 4), word(body, 6)),
        (true, 0) | (false, 129) => format!("{name} echo reply id {} seq {}", word(body, 4), word(body, 6)),
        (false, 135) if body.len() >= 24 => format!("icmp6 who-has {}{}", octets6(body, 8), link_layer(body)),
        (false, 136) if body.len() >= 24 => {
            format!("icmp6 {} is-at flags {:#04x}{}", octets6(body, 8), body[4], link_layer(body))
        }
        (true, 3) if code == 4 => format!("icmp 3/4 mtu {}", word(body, 6)),
        (false, 2) => format!("icmp6 2/{code} mtu {}", long(body, 4)),
        _ => format!("{name} {kind}/{code}"),
    }
}

/// The first link-layer address option of a solicitation or advertisement.
fn link_layer(body: &[u8]) -> String {
    match body.get(24..32) {
        Some([1, 1, address @ ..]) => format!(" source {}", mac(address)),
        Some([2, 1, address @ ..]) => format!(" target {}", mac(address)),
        _ => String::new(),
    }
}

fn endpoint(ip: IpAddr, port: u16) -> String {
    match ip {
        IpAddr::V4(a) => format!("{a}:{port}"),
        IpAddr::V6(a) => format!("[{a}]:{port}"),
    }
}
