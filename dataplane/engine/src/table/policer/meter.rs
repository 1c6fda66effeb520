//! Three colour markers in exact integer arithmetic: RFC 2697 (srTCM), RFC 2698 (trTCM) and RFC 4115, colour-blind and colour-aware.
//!
//! Tokens of octets are counted in millionths of a bit, so that a rate of 1 kbit/s is exactly one unit per nanosecond; tokens of packets in
//! thousand millionths of a packet, so that one packet per second is. Refilling is a multiplication without division or rounding, and the
//! long-run error is zero. The markers differ in two bits; nothing branches on which it is.

use crate::tables::{PolicerKind, PolicerSpec, PolicerUnit};

/// Token units of an octet.
pub const UNITS_PER_OCTET: u64 = 8_000_000;

/// Token units of a packet.
pub const UNITS_PER_PACKET: u64 = 1_000_000_000;

/// Largest burst in octets: two buckets and an arriving refill fit a `u64` of units.
pub const MAX_BURST_OCTETS: u64 = 1 << 39;

/// Largest burst in packets, for the same reason.
pub const MAX_BURST_PACKETS: u64 = 1 << 32;

/// Largest rates: 100 Gbit/s in kbit/s, and more packets per second than any link carries.
pub const MAX_RATES: [u64; 2] = [100_000_000, 1_000_000_000];

/// The colours, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Colour {
    /// Within the committed burst.
    #[default]
    Green,
    /// Within the excess or peak burst.
    Yellow,
    /// Beyond both.
    Red,
}

impl Colour {
    /// All of them, by their number.
    pub const ALL: [Colour; 3] = [Self::Green, Self::Yellow, Self::Red];

    /// The name shown to people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        }
    }

    /// What a codepoint says on arrival: the drop precedence of AFxy (RFC 2597), green for all others.
    #[inline]
    pub const fn of_dscp(dscp: u8) -> Self {
        // AFxy is 8x + 2y with x of 1 to 4 and y of 1 to 3.
        if dscp & 1 == 0 && dscp >= 8 && dscp < 40 {
            match dscp >> 1 & 3 {
                2 => Self::Yellow,
                3 => Self::Red,
                _ => Self::Green,
            }
        } else {
            Self::Green
        }
    }
}

/// What overflows the committed bucket goes to the other one (RFC 2697).
const COUPLED: u8 = 1;
/// Green packets take from both buckets (RFC 2698).
const NESTED: u8 = 2;
/// Packets are counted, not octets.
const PACKETS: u8 = 4;
/// The colour on arrival counts.
const AWARE: u8 = 8;

/// What a marker allows, in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Sizes of the buckets.
    pub sizes: [u64; 2],
    /// Units per nanosecond.
    pub rates: [u32; 2],
    flags: u8,
}

impl Profile {
    /// Nothing.
    pub const NONE: Self = Self { sizes: [0; 2], rates: [0; 2], flags: 0 };

    /// Of a specification.
    pub fn new(spec: &PolicerSpec) -> Self {
        let (most, unit, which, most_rate) = match spec.unit {
            PolicerUnit::Octets => (MAX_BURST_OCTETS, UNITS_PER_OCTET, 0, MAX_RATES[0]),
            PolicerUnit::Packets => (MAX_BURST_PACKETS, UNITS_PER_PACKET, PACKETS, MAX_RATES[1]),
        };
        let rate = |rate: u64| rate.min(most_rate) as u32;
        let (kind, eir) = match spec.kind {
            PolicerKind::Srtcm => (COUPLED, 0),
            PolicerKind::Trtcm => (NESTED, rate(spec.eir)),
            PolicerKind::Rfc4115 => (0, rate(spec.eir)),
        };
        Self {
            sizes: [spec.cbs, spec.ebs].map(|burst| burst.min(most) * unit),
            rates: [rate(spec.cir), eir],
            flags: kind | which | if spec.colour_aware { AWARE } else { 0 },
        }
    }

    /// Whether the colour on arrival counts.
    #[inline]
    pub const fn is_aware(&self) -> bool {
        self.flags & AWARE != 0
    }

    /// What a packet takes.
    #[inline]
    pub const fn cost(&self, octets: usize) -> u64 {
        if self.flags & PACKETS != 0 { UNITS_PER_PACKET } else { octets as u64 * UNITS_PER_OCTET }
    }

    /// A `parts`-th of the rates, with the whole bursts, once packets [cost](Self::cost) as many times as much: so nothing is rounded.
    #[must_use]
    pub fn divided(self, parts: u64) -> Self {
        Self { sizes: self.sizes.map(|size| size.saturating_mul(parts)), ..self }
    }

    /// How long empty buckets take until both are full, at most.
    pub fn fills_in(&self) -> u64 {
        let time = |size: u64, rate: u32| {
            if size == 0 { 0 } else { size.checked_div(rate.into()).map_or(u64::MAX, |t| t.saturating_add(1)) }
        };
        let [committed, excess] = self.sizes;
        if self.flags & COUPLED != 0 {
            return time(committed, self.rates[0]).saturating_add(time(excess, self.rates[0]));
        }
        time(committed, self.rates[0]).max(time(excess, self.rates[1]))
    }

    /// What the buckets earn in some nanoseconds: the committed one, and the other one by itself.
    #[inline]
    pub const fn earned(&self, nanos: u64) -> [u64; 2] {
        // Saturation is beyond both buckets: the largest bursts bound their sum.
        [nanos.saturating_mul(self.rates[0] as u64), nanos.saturating_mul(self.rates[1] as u64)]
    }

    /// Of what the committed bucket cannot hold, as much as the other one gets.
    #[inline]
    pub const fn overflow(&self, rest: u64) -> u64 {
        rest & (self.flags as u64 & COUPLED as u64).wrapping_neg()
    }

    /// Which buckets must hold more before a packet's colour is known.
    #[inline]
    pub const fn wants(&self, [committed, excess]: [u64; 2], cost: u64, pre: Colour) -> [bool; 2] {
        let (green, red) = (pre as u8 == Colour::Green as u8, pre as u8 == Colour::Red as u8);
        let short = green & (committed < cost);
        let nested = self.flags & NESTED != 0;
        [short, (excess < cost) & !red & (nested | short | !green)]
    }

    /// The colour of a packet that takes `cost` and arrived as `pre`, given what is in the buckets; and what it takes from them.
    #[inline]
    pub const fn decide(&self, [committed, excess]: [u64; 2], cost: u64, pre: Colour) -> (Colour, [u64; 2]) {
        let nested = self.flags & NESTED != 0;
        let in_committed = (committed >= cost) & (pre as u8 == Colour::Green as u8);
        let in_excess = (excess >= cost) & (pre as u8 != Colour::Red as u8);
        let green = in_committed & (in_excess | !nested);
        let yellow = in_excess & !in_committed;
        let takes = [if green { cost } else { 0 }, if yellow | (green & nested) { cost } else { 0 }];
        let colour = if green {
            Colour::Green
        } else if yellow {
            Colour::Yellow
        } else {
            Colour::Red
        };
        (colour, takes)
    }
}

/// What is in the two buckets, and when that was so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    /// Units.
    pub tokens: [u64; 2],
    /// Nanoseconds.
    pub last: u64,
}

impl Buckets {
    /// Adds what was earned until `now`. A clock that runs backwards adds nothing, one that jumps no more than the buckets hold.
    #[inline]
    pub fn refill(&mut self, profile: &Profile, now: u64) {
        if now <= self.last {
            return;
        }
        let [committed, excess] = profile.earned(now - self.last);
        self.last = now;
        let kept = committed.min(profile.sizes[0] - self.tokens[0]);
        self.tokens[0] += kept;
        let more = excess.saturating_add(profile.overflow(committed - kept));
        self.tokens[1] = self.tokens[1].saturating_add(more).min(profile.sizes[1]);
    }

    /// Gives up what no longer fits, after the sizes changed.
    #[inline]
    pub fn cut(&mut self, profile: &Profile) {
        self.tokens = [0, 1].map(|bucket| self.tokens[bucket].min(profile.sizes[bucket]));
    }

    /// The colour of a packet at `now`.
    #[inline]
    pub fn meter(&mut self, profile: &Profile, now: u64, cost: u64, pre: Colour) -> Colour {
        self.refill(profile, now);
        let (colour, [committed, excess]) = profile.decide(self.tokens, cost, pre);
        self.tokens[0] -= committed;
        self.tokens[1] -= excess;
        colour
    }
}
