//! What few rules ask about: VLAN, DSCP, TCP flags, fragments. One word, made of a packet only where some rule looks at it.

use crate::tables::{FragmentMatch, RuleMatch};

/// Bits of DSCP, the lowest.
const DSCP: u32 = 63;
/// Bits below the ones that [`Wanted::mask`] may have: room for what else the classifier keeps in a word.
const BELOW: u32 = 9;
const VLAN_SHIFT: u32 = BELOW;
const VLAN: u32 = 0xfff << VLAN_SHIFT;
const FLAGS_SHIFT: u32 = VLAN_SHIFT + 12;
const HAS_FLAGS: u32 = 1 << (FLAGS_SHIFT + 8);
const FRAGMENT: u32 = HAS_FLAGS << 1;
const LATER: u32 = FRAGMENT << 1;

/// What a packet shows. `Default` is an untagged whole packet of DSCP 0 without TCP flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sight(u32);

impl Sight {
    /// Of a packet on a VLAN (0: untagged) with a DSCP; `flags` of those with a TCP header.
    #[inline]
    pub fn new(vlan: u16, dscp: u8, flags: Option<u8>) -> Self {
        let flags = flags.map_or(0, |flags| HAS_FLAGS | u32::from(flags) << FLAGS_SHIFT);
        Self(flags | u32::from(vlan) << VLAN_SHIFT & VLAN | u32::from(dscp) & DSCP)
    }

    /// The same of a fragment, the first or a later one.
    #[inline]
    #[must_use]
    pub fn fragment(self, later: bool) -> Self {
        Self(self.0 | FRAGMENT | if later { LATER } else { 0 })
    }

    /// Whether it is a fragment.
    pub fn is_fragment(self) -> bool {
        self.0 & FRAGMENT != 0
    }

    /// Whether it is a later fragment, without a header behind IP's.
    pub fn is_later(self) -> bool {
        self.0 & LATER != 0
    }

    /// DSCP.
    #[inline]
    pub fn dscp(self) -> u64 {
        u64::from(self.0 & DSCP)
    }

    /// Everything else, above the lowest nine bits.
    #[inline]
    pub fn rest(self) -> u64 {
        u64::from(self.0 & (u32::MAX << BELOW))
    }

    /// Where the VLAN begins in [`rest`](Self::rest).
    pub const VLAN_SHIFT: u32 = VLAN_SHIFT;
}

/// What a rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// DSCP codepoints, a bit each.
    pub dscp: u64,
    /// Values of the bits in `mask`.
    value: u32,
    /// Bits of [`Sight::rest`] that count.
    mask: u32,
}

impl Wanted {
    /// Nothing.
    pub const ANY: Self = Self { dscp: u64::MAX, value: 0, mask: 0 };

    /// Of a rule's conditions.
    pub fn of(matches: &RuleMatch) -> Self {
        let mut wanted = Self::ANY;
        if !matches.dscp.is_empty() {
            wanted.dscp = matches.dscp.iter().fold(0, |set, dscp| set | 1 << (dscp & 63));
        }
        if let Some(vlan) = matches.vlan {
            wanted.want(u32::from(vlan) << VLAN_SHIFT, VLAN);
        }
        if let Some(flags) = matches.tcp_flags {
            let shifted = |flags: u8| u32::from(flags) << FLAGS_SHIFT;
            wanted.want(HAS_FLAGS | shifted(flags.value), HAS_FLAGS | shifted(flags.mask));
        }
        match matches.fragment {
            None => {}
            Some(FragmentMatch::No) => wanted.want(0, FRAGMENT),
            Some(FragmentMatch::Yes) => wanted.want(FRAGMENT, FRAGMENT),
            Some(FragmentMatch::First) => wanted.want(FRAGMENT, FRAGMENT | LATER),
            Some(FragmentMatch::Later) => wanted.want(FRAGMENT | LATER, FRAGMENT | LATER),
        }
        wanted
    }

    fn want(&mut self, value: u32, mask: u32) {
        self.value |= value & mask;
        self.mask |= mask;
    }

    /// Lowest and highest DSCP.
    pub fn dscp_range(&self) -> (u16, u16) {
        (self.dscp.trailing_zeros() as u16, 63 - self.dscp.leading_zeros().min(63) as u16)
    }

    /// Whether packets meet it, by [`Sight::dscp`] and a word with the bits of [`Sight::rest`].
    #[inline]
    pub fn accepts(&self, dscp: u64, rest: u64) -> bool {
        (rest as u32 ^ self.value) & self.mask == 0 && self.dscp >> (dscp & 63) & 1 == 1
    }

    /// What `other` accepts, this accepts, too; VLANs aside.
    pub fn covers(&self, other: &Self) -> bool {
        let mask = self.mask & !VLAN;
        mask & !other.mask == 0 && (self.value ^ other.value) & mask == 0 && other.dscp & !self.dscp == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::FlagMatch;

    /// Every condition by itself against what it says, over packets that differ in everything.
    #[test]
    fn conditions_mean_what_they_say() {
        let vlans = [0u16, 1, 4094];
        let flags = [None, Some(0u8), Some(2), Some(0x12), Some(0xff)];
        let fragments = [(false, false), (true, false), (true, true)];
        let accepts = |matches: &RuleMatch, sight: Sight| Wanted::of(matches).accepts(sight.dscp(), sight.rest());
        for vlan in vlans {
            for dscp in [0u8, 1, 34, 63] {
                for tcp in flags {
                    for (fragment, later) in fragments {
                        let whole = Sight::new(vlan, dscp, tcp);
                        let sight = if fragment { whole.fragment(later) } else { whole };
                        for want in vlans {
                            let matches = RuleMatch { vlan: Some(want), ..RuleMatch::default() };
                            assert_eq!(accepts(&matches, sight), want == vlan);
                        }
                        let matches = RuleMatch { dscp: vec![1, 63], ..RuleMatch::default() };
                        assert_eq!(accepts(&matches, sight), matches!(dscp, 1 | 63));
                        let syn =
                            RuleMatch { tcp_flags: Some(FlagMatch { value: 2, mask: 0x12 }), ..RuleMatch::default() };
                        assert_eq!(accepts(&syn, sight), tcp == Some(2));
                        for (want, holds) in [
                            (FragmentMatch::No, !fragment),
                            (FragmentMatch::Yes, fragment),
                            (FragmentMatch::First, fragment && !later),
                            (FragmentMatch::Later, later),
                        ] {
                            let matches = RuleMatch { fragment: Some(want), ..RuleMatch::default() };
                            assert_eq!(accepts(&matches, sight), holds, "{want:?}");
                        }
                        assert!(accepts(&RuleMatch::default(), sight));
                    }
                }
            }
        }
    }
}
