//! Whether some packet may match two rules. Only what the program looks at counts; where that is dear to tell the answer is yes, which is safe.

use std::net::IpAddr;

use marchproxy_engine::tables::{Cidr, PortRange, RuleMatch};

/// Pairs that are compared before lists count as overlapping.
const PAIRS: usize = 1 << 16;

pub fn overlap(a: &RuleMatch, b: &RuleMatch) -> bool {
    let protocols = a.protocol.is_none() || b.protocol.is_none() || a.protocol == b.protocol;
    protocols
        && any_pair(&a.src, &b.src, prefixes)
        && any_pair(&a.dst, &b.dst, prefixes)
        && any_pair(&a.src_ports, &b.src_ports, |a, b| ranges(*a, *b))
        && any_pair(&a.dst_ports, &b.dst_ports, |a, b| ranges(*a, *b))
}

/// An empty list is all there is.
fn any_pair<T>(a: &[T], b: &[T], meet: fn(&T, &T) -> bool) -> bool {
    a.is_empty() || b.is_empty() || a.len() * b.len() > PAIRS || a.iter().any(|a| b.iter().any(|b| meet(a, b)))
}

fn prefixes(a: &Cidr, b: &Cidr) -> bool {
    let same_family = matches!((a.addr, b.addr), (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)));
    same_family && if a.len <= b.len { a.contains(b.addr) } else { b.contains(a.addr) }
}

fn ranges(a: PortRange, b: PortRange) -> bool {
    a.first <= b.last && b.first <= a.last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        let (address, len) = text.split_once('/').unwrap();
        Cidr { addr: address.parse().unwrap(), len: len.parse().unwrap() }
    }

    #[test]
    fn rules_overlap_where_all_their_parts_do() {
        let base = RuleMatch {
            src: vec![cidr("10.0.0.0/8"), cidr("2001:db8::/32")],
            dst_ports: vec![PortRange { first: 80, last: 90 }],
            protocol: Some(6),
            ..Default::default()
        };
        let with = |change: fn(&mut RuleMatch)| {
            let mut other = base.clone();
            change(&mut other);
            other
        };
        let table: [(RuleMatch, bool); 8] = [
            (RuleMatch::default(), true),
            (with(|m| m.src = vec![cidr("10.1.0.0/16")]), true),
            (with(|m| m.src = vec![cidr("0.0.0.0/0")]), true),
            (with(|m| m.src = vec![cidr("11.0.0.0/8")]), false),
            (with(|m| m.src = vec![cidr("2001:db8:7::1/128")]), true),
            (with(|m| m.dst_ports = vec![PortRange { first: 1, last: 79 }]), false),
            (with(|m| m.dst_ports = vec![PortRange { first: 90, last: 99 }]), true),
            (with(|m| m.protocol = Some(17)), false),
        ];
        for (other, wanted) in table {
            assert_eq!(overlap(&base, &other), wanted, "{other:?}");
            assert_eq!(overlap(&other, &base), wanted, "{other:?}");
        }
    }
}
