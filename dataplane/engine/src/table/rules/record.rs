//! Rules as the classifier's builder sees them: one record per combination of a rule's prefixes and port ranges, each condition a range
//! of one field.

use super::build::Refused;
use super::sight::Wanted;
use crate::flow::from_ip;
use crate::tables::{Cidr, PortRange, RuleSpec};

/// Combinations of prefixes and port ranges one rule may have in one family.
pub const MAX_RECORDS: usize = 1 << 16;

/// An extra condition that asks for nothing.
pub const ANY_INTERFACE: u32 = u32::MAX;

/// Fields that the tree can cut by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Field {
    /// Source address, IPv4 in the upper 32 of 128 bits.
    Src,
    /// Destination address, likewise.
    Dst,
    /// Source port; 0 in packets without ports.
    Sport,
    /// Destination port.
    Dport,
    /// Upper-layer protocol.
    Protocol,
    /// The lower 16 bits of the receiving interface's index.
    Interface,
    /// VLAN.
    Vlan,
    /// DSCP.
    Dscp,
}

impl Field {
    /// All.
    pub const ALL: [Self; 8] =
        [Self::Dst, Self::Src, Self::Dport, Self::Sport, Self::Protocol, Self::Interface, Self::Vlan, Self::Dscp];

    /// Bits it has.
    pub const fn width(self) -> u32 {
        match self {
            Self::Src | Self::Dst => 128,
            Self::Sport | Self::Dport | Self::Interface => 16,
            Self::Protocol => 8,
            Self::Vlan => 12,
            Self::Dscp => 6,
        }
    }
}

/// Inclusive ranges of every field: what a record accepts, or where the packets of a place in the tree lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Source and destination address.
    addresses: [(u128, u128); 2],
    /// Source port, destination port, protocol, interface, VLAN, DSCP (of several codepoints the lowest and the highest).
    small: [(u16, u16); 6],
}

impl Space {
    /// Everything.
    pub const ALL: Self = Self {
        addresses: [(0, u128::MAX); 2],
        small: [(0, u16::MAX), (0, u16::MAX), (0, 255), (0, u16::MAX), (0, 4095), (0, 63)],
    };

    /// The range of a field.
    #[inline]
    pub fn range(&self, field: Field) -> (u128, u128) {
        match field {
            Field::Src | Field::Dst => self.addresses[field as usize],
            _ => {
                let (first, last) = self.small[field as usize - 2];
                (u128::from(first), u128::from(last))
            }
        }
    }

    /// The same with another range of one field.
    #[must_use]
    pub fn with(mut self, field: Field, range: (u128, u128)) -> Self {
        match field {
            Field::Src | Field::Dst => self.addresses[field as usize] = range,
            _ => self.small[field as usize - 2] = (range.0 as u16, range.1 as u16),
        }
        self
    }

    /// Whether everything that is in both `other` and `within` is in this; DSCP aside, whose ranges say too little.
    pub fn covers(&self, other: &Self, within: &Self) -> bool {
        fn holds<K: Ord + Copy>(own: (K, K), other: (K, K), within: (K, K)) -> bool {
            own.0 <= other.0.max(within.0) && own.1 >= other.1.min(within.1)
        }
        (0..5).all(|i| holds(self.small[i], other.small[i], within.small[i]))
            && (0..2).all(|i| holds(self.addresses[i], other.addresses[i], within.addresses[i]))
    }
}

/// One combination of a rule's conditions.
#[derive(Clone, Debug)]
pub struct Record {
    /// What it accepts.
    pub space: Space,
    /// It has a condition on ports, which packets without ports never meet.
    pub needs_ports: bool,
    /// The interface it asks for, or [`ANY_INTERFACE`].
    pub interface: u32,
    /// What else it asks for.
    pub wanted: Wanted,
    /// Index of its rule.
    pub rule: u32,
}

impl Record {
    /// Length of an address's prefix in the 128 bits.
    pub fn prefix_len(&self, field: Field) -> u32 {
        let (first, last) = self.space.range(field);
        (first ^ last).leading_zeros()
    }

    /// What `other` accepts inside `within`, this accepts, too.
    pub fn covers(&self, other: &Self, within: &Space) -> bool {
        (!self.needs_ports || other.needs_ports)
            && (self.interface == ANY_INTERFACE || self.interface == other.interface)
            && self.wanted.covers(&other.wanted)
            && self.space.covers(&other.space, within)
    }
}

/// A rule whose lists multiply out to too many records, by itself or together with those before it.
#[derive(Debug)]
pub struct TooMany {
    /// Its index.
    pub rule: usize,
    /// How many there would be.
    pub found: usize,
    /// How many there may be.
    pub allowed: usize,
}

impl TooMany {
    /// As a refusal.
    pub fn refused(&self) -> Refused {
        Refused {
            field: "combinations of prefixes and ports",
            found: self.found.to_string(),
            allowed: self.allowed.to_string(),
            culprits: vec![self.rule as u32],
        }
    }
}

/// The records of one family of rules with their indexes, in this order, `most` in all.
pub fn records<'a>(
    specs: impl Iterator<Item = (usize, &'a RuleSpec)>,
    v6: bool,
    most: usize,
) -> Result<Vec<Record>, TooMany> {
    let mut out = Vec::with_capacity(specs.size_hint().1.unwrap_or(0));
    for (rule, spec) in specs {
        let m = &spec.matches;
        let (src, dst) = (prefixes(&m.src, v6), prefixes(&m.dst, v6));
        let (sport, dport) = (ports(&m.src_ports), ports(&m.dst_ports));
        let count =
            [src.len(), dst.len(), sport.len(), dport.len()].iter().fold(1usize, |n, len| n.saturating_mul(*len));
        if count > MAX_RECORDS {
            return Err(TooMany { rule, found: count, allowed: MAX_RECORDS });
        }
        if out.len() + count > most {
            return Err(TooMany { rule, found: out.len() + count, allowed: most });
        }
        let protocol = m.protocol.map_or((0, 255), |p| (u16::from(p), u16::from(p)));
        let interface = m.in_interface.map_or((0, u16::MAX), |i| (i as u16, i as u16));
        let wanted = Wanted::of(m);
        let (vlan, dscp) = (m.vlan.map_or((0, 4095), |vlan| (vlan, vlan)), wanted.dscp_range());
        for &src in &src {
            for &dst in &dst {
                for &sport in &sport {
                    for &dport in &dport {
                        out.push(Record {
                            space: Space {
                                addresses: [src, dst],
                                small: [sport, dport, protocol, interface, vlan, dscp],
                            },
                            needs_ports: !m.src_ports.is_empty() || !m.dst_ports.is_empty(),
                            interface: m.in_interface.map_or(ANY_INTERFACE, |i| i as u32),
                            wanted,
                            rule: rule as u32,
                        });
                    }
                }
            }
        }
    }
    Ok(out)
}

/// The prefixes of a family as ranges, those inside others left out; everything when none is asked for.
fn prefixes(list: &[Cidr], v6: bool) -> Vec<(u128, u128)> {
    if list.is_empty() {
        return vec![(0, u128::MAX)];
    }
    let range = |cidr: &Cidr| {
        let network = cidr.network();
        let first = if v6 { from_ip(network.addr) } else { from_ip(network.addr) << 96 };
        (first, first | u128::MAX.checked_shr(u32::from(cidr.len)).unwrap_or(0))
    };
    let mut ranges: Vec<_> = list.iter().filter(|c| c.addr.is_ipv6() == v6).map(range).collect();
    // Prefixes are disjoint or nested: after sorting, the outer one comes first.
    ranges.sort_unstable_by_key(|&(first, last)| (first, std::cmp::Reverse(last)));
    ranges.dedup_by(|inner, outer| inner.1 <= outer.1);
    ranges
}

/// Port ranges, overlapping and touching ones joined; every port when none is asked for.
fn ports(list: &[PortRange]) -> Vec<(u16, u16)> {
    if list.is_empty() {
        return vec![(0, u16::MAX)];
    }
    let mut sorted: Vec<_> = list.iter().map(|r| (r.first, r.last)).collect();
    sorted.sort_unstable();
    sorted.dedup_by(|next, last| {
        let joins = u32::from(next.0) <= u32::from(last.1) + 1;
        if joins {
            last.1 = last.1.max(next.1);
        }
        joins
    });
    sorted
}
