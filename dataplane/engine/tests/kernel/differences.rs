//! Where the engine and the kernel may differ, and why. Everything else has to be equal.

/// Packets with another fate or other octets: the cases' names, or how they begin (`*`), and the reason.
pub const DIFFERENCES: &[(&str, &str)] = &[
    ("v4 from 0.0.0.7", "RFC 6890: 0.0.0.0/8 is no source to forward; the kernel drops 0.0.0.0 alone"),
    ("v4 from 169.254.1.1", "RFC 3927 s2.7: routers forward no link-local addresses; the kernel does"),
    ("v4 from 240.0.0.1", "RFC 1112 s4: class E is reserved; the kernel forwards it"),
    ("v4 own, tcp", "the engine has no TCP of its own: port unreachable in place of a reset"),
    ("v6 own, tcp", "the engine has no TCP of its own: port unreachable in place of a reset"),
    ("v4 malformed*", "the engine looks at L4 headers, the kernel does not when it forwards"),
    ("v6 malformed*", "the engine looks at L4 headers, the kernel does not when it forwards"),
    ("v4 total length*", "the UDP header is not inside: as for malformed"),
    ("v6 payload length*", "the UDP header is not inside: as for malformed"),
    ("v4 tiny fragment", "RFC 1858: the engine drops it; the kernel leaves that to netfilter"),
    ("v6 tiny fragment", "RFC 7112: the engine drops it; the kernel leaves that to netfilter"),
    ("v6 no route, later fragment", "the engine sends no ICMPv6 error for later fragments"),
    ("v6 reject, later fragment", "the engine sends no ICMPv6 error for later fragments"),
    ("v6 fragment, expired later", "the engine sends no ICMPv6 error for later fragments"),
    ("v6 long fragment, l*", "the engine sends no ICMPv6 error for later fragments"),
    ("v6 from ::ffff:192.0.2.7", "RFC 4291 s2.5.5.2: no address of nodes on the wire; the kernel forwards it"),
    ("v6 to ::ffff:10.9.9.9", "as the source"),
    ("v6 from 2001:db8:*", "an own address as source is a forged one; the kernel checks that for IPv4 alone"),
    ("v6 to ::", "RFC 4291 s2.5.2: never a destination, dropped as martian; the kernel says that there is no route"),
    ("v4 option record route*", "RFC 7126 s4.5: the engine drops it, the kernel records"),
    ("v4 option timestamp*", "RFC 1812 s5.2.4.1 leaves it to the router: the engine does not stamp, the kernel does"),
    ("v4 option of length 1*", "the engine sends no parameter problem"),
    ("v4 option beyond the header*", "the engine sends no parameter problem"),
    ("v4 option garbage behind the end*", "the kernel clears what is behind the end of the options"),
    (
        "v4 option no operation, cut*",
        "the kernel keeps the header's length in later fragments, filled with no operation",
    ),
    ("v4 option unknown, not copied, cut*", "as for no operation"),
    ("v6 header routing type 0, segments left*", "RFC 5095; the kernel looks at it only as a destination"),
    ("v6 header hop-by-hop twice*", "RFC 8200 s4.3: only directly behind the fixed header; the kernel does not look"),
    ("v6 header hop-by-hop second*", "RFC 8200 s4.3: only directly behind the fixed header; the kernel does not look"),
    (
        "v6 header hop-by-hop, unknown option*",
        "RFC 8200 s4 lets routers ignore hop-by-hop options; the kernel reads them",
    ),
    (
        "v6 header destination options, beyond*",
        "the engine walks the whole chain, the kernel the hop-by-hop header alone",
    ),
    ("v6 header nine times", "the engine's limit of eight headers"),
];

/// The entry for a case.
pub fn of(case: &str) -> Option<usize> {
    DIFFERENCES.iter().position(|(name, _)| match name.strip_suffix('*') {
        Some(start) => case.starts_with(start),
        None => case == *name,
    })
}

/// Takes out of IPv4 ICMP from the router itself what implementations choose: identification and DF (RFC 6864 s4: atomic datagrams may
/// have any), precedence and TOS of errors (RFC 1812 s4.3.2.5: 6 or 7, or the packet's TOS), and the checksum over these.
pub fn level(frame: &mut [u8], own: &[[u8; 4]]) {
    let icmp = frame.len() >= 34 && frame[12..14] == [8, 0] && frame[23] == 1;
    if !icmp || !own.iter().any(|address| frame[26..30] == *address) {
        return;
    }
    let header = 14 + usize::from(frame[14] & 15) * 4;
    if matches!(frame.get(header), Some(3 | 11 | 12)) {
        frame[15] &= 0xe0;
    }
    frame[18..22].fill(0);
    frame[24..26].fill(0);
}
