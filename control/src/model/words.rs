//! The words of a document that stand for numbers: prefixes, ports, protocols, codepoints. Errors say what is allowed.

use std::net::IpAddr;

use marchproxy_engine::tables::{Cidr, FlagMatch, PortRange};

/// An address with the length of a prefix; host bits may be set.
pub fn prefix(text: &str) -> Result<Cidr, String> {
    const ALLOWED: &str = "ADDRESS/LENGTH, as in 192.0.2.0/24 or 2001:db8::/32";
    let (address, length) = text.split_once('/').ok_or(ALLOWED)?;
    let addr: IpAddr = address.parse().map_err(|_| ALLOWED)?;
    let longest = if addr.is_ipv4() { 32 } else { 128 };
    // "+8" and "08" are numbers to Rust, not to us.
    if length.is_empty()
        || !length.bytes().all(|digit| digit.is_ascii_digit())
        || (length.len() > 1 && length.starts_with('0'))
    {
        return Err(ALLOWED.to_owned());
    }
    match length.parse() {
        Ok(len) if len <= longest => Ok(Cidr { addr, len }),
        _ => Err(format!("a prefix length of 0 to {longest}")),
    }
}

/// A prefix without host bits; a bare address means the address alone.
pub fn network(text: &str) -> Result<Cidr, String> {
    let found = match text.parse::<IpAddr>() {
        Ok(addr) => Cidr { addr, len: if addr.is_ipv4() { 32 } else { 128 } },
        Err(_) => prefix(text)?,
    };
    without_host_bits(found)
}

/// Refuses host bits and says what the prefix would be.
pub fn without_host_bits(found: Cidr) -> Result<Cidr, String> {
    if found.network() == found {
        Ok(found)
    } else {
        Err(format!("no bits set behind the prefix length: {}", found.network()))
    }
}

/// An address that a host may have and that packets are forwarded to (RFC 6890: globally or privately, never on the link only).
pub fn host(text: &str) -> Result<IpAddr, String> {
    let addr: IpAddr = text.parse().map_err(|_| "an IPv4 or IPv6 address without prefix length".to_owned())?;
    match special(addr) {
        Some(why) => Err(format!("a unicast address that is routed, not {why}")),
        None => Ok(addr),
    }
}

/// Why the engine would never forward to the address, if so. The same ranges it calls martian.
pub fn special(addr: IpAddr) -> Option<&'static str> {
    match addr {
        IpAddr::V4(v4) => match v4.octets() {
            [0, ..] => Some("one of 0.0.0.0/8 (this network)"),
            [127, ..] => Some("a loopback address"),
            [169, 254, ..] => Some("a link-local address"),
            [224..=239, ..] => Some("a multicast address"),
            [240..=255, ..] => Some("one of 240.0.0.0/4 (reserved)"),
            _ => None,
        },
        IpAddr::V6(v6) if v6.is_unspecified() => Some("the unspecified address"),
        IpAddr::V6(v6) if v6.is_loopback() => Some("the loopback address"),
        IpAddr::V6(v6) if v6.is_multicast() => Some("a multicast address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped address"),
        IpAddr::V6(_) => None,
    }
}

/// `80` or `8000-8099`.
pub fn port_range(text: &str) -> Result<PortRange, String> {
    const ALLOWED: &str = "PORT or FIRST-LAST with 0 <= FIRST <= LAST <= 65535";
    let port = |text: &str| -> Result<u16, String> {
        if text.is_empty() || !text.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(ALLOWED.to_owned());
        }
        text.parse().map_err(|_| ALLOWED.to_owned())
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = PortRange { first: port(first.trim())?, last: port(last.trim())? };
    if range.first <= range.last { Ok(range) } else { Err(ALLOWED.to_owned()) }
}

/// Sorts ranges and joins what overlaps or touches, so that equal sets are equal lists.
pub fn join(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut joined: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => last.last = last.last.max(range.last),
            _ => joined.push(range),
        }
    }
    joined
}

/// An IP protocol of a rule.
pub fn protocol(text: &str) -> Result<u8, String> {
    match text {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "icmpv6" => Ok(58),
        number if number.bytes().all(|digit| digit.is_ascii_digit()) && !number.is_empty() => {
            number.parse().map_err(|_| "a protocol number of 0 to 255".to_owned())
        }
        _ => Err("tcp, udp, icmp, icmpv6 or a protocol number of 0 to 255".to_owned()),
    }
}

/// TCP flags by the bit they have (RFC 9293 s3.1).
const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

/// A TCP flag that must be set, or with `!` one that must not.
pub fn tcp_flag(text: &str) -> Result<FlagMatch, String> {
    let (name, set) = text.strip_prefix('!').map_or((text, true), |name| (name, false));
    let bit = FLAGS.iter().position(|flag| *flag == name);
    let mask =
        bit.map(|bit| 1 << bit).ok_or_else(|| format!("{}, each with ! where it must be unset", FLAGS.join(", ")))?;
    Ok(FlagMatch { value: if set { mask } else { 0 }, mask })
}

/// A VLAN of a rule; 0 for untagged packets.
pub fn vlan(text: &str) -> Result<u16, String> {
    const ALLOWED: &str = "1 to 4094, or untagged";
    match text {
        "untagged" => Ok(0),
        number if number.bytes().all(|digit| digit.is_ascii_digit()) => {
            number.parse().ok().filter(|vlan| (1..=4094).contains(vlan)).ok_or_else(|| ALLOWED.to_owned())
        }
        _ => Err(ALLOWED.to_owned()),
    }
}

/// A DSCP codepoint by name (RFC 2474, 2597, 3246, 5865, 8622) or number.
pub fn dscp(text: &str) -> Result<u8, String> {
    const ALLOWED: &str = "CS0 to CS7, AF11 to AF43, EF, VA, LE, BE, DF, or a number of 0 to 63";
    let upper = text.to_ascii_uppercase();
    let named = match upper.as_str() {
        "BE" | "DF" => Some(0),
        "LE" => Some(1),
        "VA" => Some(44),
        "EF" => Some(46),
        _ => match upper.as_bytes() {
            [b'C', b'S', class @ b'0'..=b'7'] => Some((class - b'0') << 3),
            [b'A', b'F', class @ b'1'..=b'4', precedence @ b'1'..=b'3'] => {
                Some(((class - b'0') << 3) | ((precedence - b'0') << 1))
            }
            number if !number.is_empty() && number.iter().all(u8::is_ascii_digit) => {
                upper.parse().ok().filter(|codepoint| *codepoint <= 63)
            }
            _ => None,
        },
    };
    named.ok_or_else(|| ALLOWED.to_owned())
}

/// Most characters of a name; it stands in certificates and metrics.
pub const NAME_CHARS: usize = 63;

/// Names of objects: they stand in certificates' URIs, metrics' labels and paths like SERVICE/BACKEND.
pub fn name(text: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && text.len() <= NAME_CHARS && text.bytes().all(good) {
        Ok(())
    } else {
        Err(format!("1 to {NAME_CHARS} of a-z A-Z 0-9 . _ - beginning with a letter or digit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codepoints() {
        let cases = [
            ("CS0", 0),
            ("cs7", 56),
            ("AF11", 10),
            ("AF12", 12),
            ("AF41", 34),
            ("af43", 38),
            ("EF", 46),
            ("VA", 44),
            ("LE", 1),
            ("BE", 0),
            ("DF", 0),
            ("0", 0),
            ("63", 63),
        ];
        for (text, codepoint) in cases {
            assert_eq!(dscp(text), Ok(codepoint), "{text}");
        }
        for text in ["", "64", "AF44", "AF51", "CS8", "-1", "+1", "EF ", "0x0a"] {
            assert!(dscp(text).is_err(), "{text}");
        }
    }

    #[test]
    fn flags_and_vlans() {
        assert_eq!(tcp_flag("syn"), Ok(FlagMatch { value: 2, mask: 2 }));
        assert_eq!(tcp_flag("!ack"), Ok(FlagMatch { value: 0, mask: 16 }));
        assert_eq!(tcp_flag("cwr"), Ok(FlagMatch { value: 128, mask: 128 }));
        for text in ["", "!", "SYN", "!!syn", "2"] {
            assert!(tcp_flag(text).is_err(), "{text}");
        }
        assert_eq!((vlan("untagged"), vlan("1"), vlan("4094")), (Ok(0), Ok(1), Ok(4094)));
        for text in ["", "0", "4095", "-1", "+1", "tagged"] {
            assert!(vlan(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes() {
        assert_eq!(prefix("10.0.0.1/8").map(|p| p.network().to_string()), Ok("10.0.0.0/8".to_owned()));
        assert_eq!(network("2001:DB8::/32").map(|p| p.to_string()), Ok("2001:db8::/32".to_owned()));
        assert_eq!(network("10.0.0.1").map(|p| p.to_string()), Ok("10.0.0.1/32".to_owned()));
        assert_eq!(network("10.0.0.1/8"), Err("no bits set behind the prefix length: 10.0.0.0/8".to_owned()));
        for text in
            ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/08", "::/129", "10.0.0/8", "x/8"]
        {
            assert!(prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges() {
        assert_eq!(port_range("80"), Ok(PortRange { first: 80, last: 80 }));
        assert_eq!(port_range("8000-8099"), Ok(PortRange { first: 8000, last: 8099 }));
        for text in ["", "-", "80-", "-80", "90-80", "65536", "0-65536", "+80", "http"] {
            assert!(port_range(text).is_err(), "{text}");
        }
        let range = |first, last| PortRange { first, last };
        assert_eq!(join(vec![range(90, 99), range(80, 80), range(81, 89)]), [range(80, 99)]);
        assert_eq!(join(vec![range(0, u16::MAX), range(5, 6)]), [PortRange::ALL]);
        assert_eq!(join(vec![range(5, 6), range(8, 9)]), [range(5, 6), range(8, 9)]);
    }

    #[test]
    fn special_addresses() {
        for text in
            ["0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", "fe80::1"]
        {
            assert!(host(text).is_err(), "{text}");
        }
        assert!(host("::ffff:10.0.0.1").is_err());
        for text in ["10.0.0.1", "203.0.113.10", "2001:db8::10", "fd00::1"] {
            assert!(host(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn names() {
        for text in ["a", "edge-1", "lan20", "a.b_c", "10"] {
            assert!(name(text).is_ok(), "{text}");
        }
        for text in ["", "-a", "a b", "a/b", "a@b", "ä", &"a".repeat(64)] {
            assert!(name(text).is_err(), "{text}");
        }
    }
}
