//! Tunnels to backends: IP in IP (RFC 2003, RFC 2473) and GUE variant 1 (`BEHAVIOUR.md` 10). Called by finish for lanes that have one.
//!
//! Reads `head`, `key`, `verdict`, `target`, `egress`. Changes the frame: the packet's own age and mark, its MSS, the headers in front.

use crate::burst::{Columns, Rewrite};
use crate::flow::{Addr, is_v4};
use crate::hash::TUNNEL_SEED;
use crate::io::PacketBuf;
use crate::ports::UNTAGGED;
use crate::snapshot::Interface;
use crate::stage::parse::Head;
use crate::stage::{direct, finish};
use crate::table::sessions::tcp;
use crate::wire::{Change, ETHERNET, TAG, TCP, UDP, be16, checksum, put};

/// IANA: gue.
const GUE_PORT: u16 = 6080;
/// Source ports of GUE: the dynamic ones (RFC 8086 s3.2.1), 14 bits of entropy.
const GUE_SOURCE: u16 = 0xc000;
/// RFC 2003, RFC 2473: an IPv4 or IPv6 packet as payload.
const INSIDE: [u8; 2] = [4, 41];
/// TTL and hop limit of the tunnel.
const TTL: u8 = 64;
/// Octets of the longest headers: IPv6 and UDP.
const MOST: usize = 48;

/// What a tunnelled lane is finished with.
pub struct Station {
    /// MAC address of the next hop, or 0, as a word.
    pub to: u64,
    /// MAC address of the egress port.
    pub from: u64,
}

/// Where in the finished frame the packet begins that the lane had before.
pub fn inside(columns: &Columns, lane: usize, out: &Interface) -> usize {
    let layer2 = if out.vlan == UNTAGGED { ETHERNET } else { ETHERNET + TAG };
    layer2 + usize::from(direct::overhead(columns.verdict[lane].rewrite, columns.target[lane]))
}

/// Wraps a lane's packet. `None` when the headroom is used up.
pub fn process<B: PacketBuf>(
    packet: &mut B,
    columns: &Columns,
    lane: usize,
    out: &Interface,
    station: &Station,
) -> Option<()> {
    let (head, verdict, backend) = (&columns.head[lane], columns.verdict[lane], columns.target[lane]);
    let outer_v6 = !is_v4(backend);
    let source = direct::source(out, outer_v6);
    let overhead = direct::overhead(verdict.rewrite, backend);
    let l3 = usize::from(head.l3);
    let inner = packet.data_mut().get_mut(l3..)?;
    if head.v6 {
        finish::age_and_mark::<true>(inner, head, verdict.mark, Change::default());
    } else {
        finish::age_and_mark::<false>(inner, head, verdict.mark, Change::default());
    }
    if head.protocol == TCP && !head.fragment && head.flags_or_type & tcp::SYN != 0 {
        clamp(inner, head, out.mtu.saturating_sub(overhead));
    }
    let tos = if head.v6 { inner[0] << 4 | inner[1] >> 4 } else { inner[1] };
    let entropy = columns.key[lane].hash(TUNNEL_SEED);
    let mut headers = [0; MOST];
    let ip = usize::from(overhead - if verdict.rewrite == Rewrite::Gue { direct::UDP_HEADER } else { 0 });
    let mut protocol = INSIDE[usize::from(head.v6)];
    if verdict.rewrite == Rewrite::Gue {
        protocol = UDP;
        let source = GUE_SOURCE | (entropy >> 20) as u16 & !GUE_SOURCE;
        put(&mut headers, ip, &source.to_be_bytes());
        put(&mut headers, ip + 2, &GUE_PORT.to_be_bytes());
        // The checksum stays 0: none over IPv4 (RFC 768), nor needed over IPv6 (RFC 6935, 6936), since what is inside has its own.
        put(&mut headers, ip + 4, &(head.l3_len + direct::UDP_HEADER).to_be_bytes());
    }
    let length = head.l3_len + overhead;
    if outer_v6 {
        ipv6(&mut headers, tos, entropy as u32 & 0xf_ffff, length - 40, protocol, source, backend);
    } else {
        ipv4(&mut headers, tos, length, protocol, source, backend);
    }
    let layer2 = if out.vlan == UNTAGGED { ETHERNET } else { ETHERNET + TAG };
    let overhead = usize::from(overhead);
    packet.trim_front(l3);
    if !packet.prepend(layer2 + overhead) {
        return None;
    }
    let frame = packet.data_mut();
    finish::layer2(frame, outer_v6, out.vlan, station.to, station.from);
    put(frame, layer2, headers.get(..overhead)?);
    Some(())
}

fn ipv4(header: &mut [u8], tos: u8, length: u16, protocol: u8, source: Addr, backend: Addr) {
    put(header, 0, &[0x45, tos]);
    put(header, 2, &length.to_be_bytes());
    // An atomic datagram: identification 0 and DF (RFC 6864 s4.1).
    put(header, 4, &[0, 0, 0x40, 0, TTL, protocol, 0, 0]);
    put(header, 12, &(source as u32).to_be_bytes());
    put(header, 16, &(backend as u32).to_be_bytes());
    let sum = checksum(&header[..20], 0);
    put(header, 10, &sum.to_be_bytes());
}

fn ipv6(header: &mut [u8], class: u8, label: u32, payload: u16, next: u8, source: Addr, backend: Addr) {
    put(header, 0, &(0x6000_0000 | u32::from(class) << 20 | label).to_be_bytes());
    put(header, 4, &payload.to_be_bytes());
    put(header, 6, &[next, TTL]);
    put(header, 8, &source.to_be_bytes());
    put(header, 24, &backend.to_be_bytes());
}

/// Lowers the MSS of a SYN to what fits into packets of `mtu` octets.
#[cold]
fn clamp(packet: &mut [u8], head: &Head, mtu: u16) {
    let most = mtu.saturating_sub(if head.v6 { 60 } else { 40 });
    let Some(segment) = packet.get_mut(usize::from(head.l4) - usize::from(head.l3)..) else { return };
    let Some(value) = mss_value(segment) else { return };
    if be16(segment, value) <= most {
        return;
    }
    // The value need not be aligned; the checksum's words are.
    let words = [value & !1, (value + 1) & !1];
    let words = if words[0] == words[1] { &words[..1] } else { &words[..] };
    let before: [u16; 2] = std::array::from_fn(|n| words.get(n).map_or(0, |&at| be16(segment, at)));
    put(segment, value, &most.to_be_bytes());
    let mut change = Change::default();
    for (&at, &before) in words.iter().zip(&before) {
        change.word(before, be16(segment, at));
    }
    let sum = change.apply(be16(segment, 16));
    put(segment, 16, &sum.to_be_bytes());
}

/// Where the value of the first MSS option of a TCP header stands, if the options before it are well-formed.
fn mss_value(segment: &[u8]) -> Option<usize> {
    let end = usize::from(segment.get(12)? >> 4) * 4;
    let options = segment.get(..end)?;
    let mut at = 20;
    // Bounded by the 40 octets there are.
    loop {
        match *options.get(at)? {
            0 => return None,
            1 => at += 1,
            kind => {
                let len = usize::from(*options.get(at + 1)?);
                if len < 2 || at + len > end {
                    return None;
                }
                if (kind, len) == (2, 4) {
                    return Some(at + 2);
                }
                at += len;
            }
        }
    }
}
