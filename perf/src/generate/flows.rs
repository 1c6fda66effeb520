//! The flows of a scenario as a list: comma-separated values or JSON lines.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use marchproxy_engine::wire::{ETHERNET, ETHERTYPE_IPV6, TCP, UDP, be16, be32, be128};
use serde::Serialize;

use super::document::protocol;
use crate::Error;
use crate::load::Template;
use crate::progress::Progress;
use crate::seeded::rules::Tuple;

/// A line of the list.
#[derive(Serialize)]
struct Line {
    port: &'static str,
    src: IpAddr,
    dst: IpAddr,
    protocol: String,
    src_port: u16,
    dst_port: u16,
    octets: usize,
}

/// Lines between two looks at the bar and at Ctrl-C.
pub const LOOK: u64 = 1024;

/// Writes the list of these frames' flows, in their order; those of packets without ports have port 0.
pub fn write<'a>(
    out: &mut dyn Write,
    frames: impl Iterator<Item = &'a Template>,
    json: bool,
    progress: &Progress,
) -> Result<(), Error> {
    let system = |source| Error::System { what: "the output".into(), source };
    if !json {
        writeln!(out, "port,src,dst,protocol,src_port,dst_port,octets").map_err(system)?;
    }
    for (number, template) in (1u64..).zip(frames) {
        let frame = template.frame([0; 6]);
        let tuple = tuple(&frame).ok_or(Error::Harness("a generated frame is no IP packet"))?;
        let line = Line {
            port: if template.port == 0 { "lan" } else { "wan" },
            src: tuple.src,
            dst: tuple.dst,
            protocol: protocol(tuple.protocol),
            src_port: tuple.sport,
            dst_port: tuple.dport,
            octets: frame.len() + crate::load::FCS,
        };
        if json {
            let line = serde_json::to_string(&line).map_err(|_| Error::Harness("a flow is no JSON"))?;
            writeln!(out, "{line}").map_err(system)?;
        } else {
            let Line { port, src, dst, protocol, src_port, dst_port, octets } = line;
            writeln!(out, "{port},{src},{dst},{protocol},{src_port},{dst_port},{octets}").map_err(system)?;
        }
        if number % LOOK == 0 && !progress.advance(LOOK) {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}

/// The tuple of a generated frame: untagged, without options. Fragments and ICMP have no ports.
fn tuple(frame: &[u8]) -> Option<Tuple> {
    let at = ETHERNET;
    let (src, dst, protocol, l4): (IpAddr, IpAddr, u8, usize) = if be16(frame, 12) == ETHERTYPE_IPV6 {
        let (src, dst) = (Ipv6Addr::from_bits(be128(frame, at + 8)), Ipv6Addr::from_bits(be128(frame, at + 24)));
        // A fragment header (RFC 8200 s4.5) says what follows it.
        let next = *frame.get(at + 6)?;
        let next = if next == 44 { *frame.get(at + 40)? } else { next };
        (src.into(), dst.into(), next, if *frame.get(at + 6)? == 44 { frame.len() } else { at + 40 })
    } else {
        let (src, dst) = (Ipv4Addr::from_bits(be32(frame, at + 12)), Ipv4Addr::from_bits(be32(frame, at + 16)));
        // More fragments, or an offset (RFC 791 s3.1).
        let fragment = be16(frame, at + 6) & 0x3fff != 0;
        (src.into(), dst.into(), *frame.get(at + 9)?, if fragment { frame.len() } else { at + 20 })
    };
    let ports = matches!(protocol, TCP | UDP) && frame.len() >= l4 + 4;
    let (sport, dport) = if ports { (be16(frame, l4), be16(frame, l4 + 2)) } else { (0, 0) };
    Some(Tuple { src, dst, protocol, sport, dport })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Kind, Size};
    use crate::seeded::Rng;

    #[test]
    fn tuples_are_read_back() {
        let mut rng = Rng::new(1, "test");
        let tuple = |src: &str, dst: &str, protocol, sport, dport| Tuple {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol,
            sport,
            dport,
        };
        for (sent, kind, expected) in [
            (tuple("1.2.3.4", "8.8.8.8", 6, 1000, 443), Kind::Data, "wan,1.2.3.4,8.8.8.8,tcp,1000,443,64"),
            (tuple("2a00::1", "2a00::2", 17, 5, 6), Kind::Data, "wan,2a00::1,2a00::2,udp,5,6,66"),
            (tuple("1.2.3.4", "8.8.8.8", 1, 7, 0), Kind::Data, "wan,1.2.3.4,8.8.8.8,icmp,0,0,64"),
            (tuple("1.2.3.4", "8.8.8.8", 17, 7, 0), Kind::Fragment(64), "wan,1.2.3.4,8.8.8.8,udp,0,0,"),
            (tuple("2a00::1", "2a00::2", 17, 7, 0), Kind::Fragment(64), "wan,2a00::1,2a00::2,udp,0,0,"),
        ] {
            let template = Template::new(1, [2; 6], [4; 6], &sent, kind, Size::Fixed(64), &mut rng);
            let list = |json| {
                let mut out = Vec::new();
                write(&mut out, [&template].into_iter(), json, &Progress::hidden()).unwrap();
                String::from_utf8(out).unwrap()
            };
            let csv = list(false);
            assert!(csv.lines().nth(1).unwrap().starts_with(expected), "{csv}");
            let json: serde_json::Value = serde_json::from_str(&list(true)).unwrap();
            assert_eq!(json["src"], sent.src.to_string());
        }
    }
}
