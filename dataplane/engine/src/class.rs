//! Classes of service: what rules, services and policers say about a packet's class, and what its codepoint says where they say nothing
//! (`BEHAVIOUR.md` 9.4).

use crate::tables::Class;

/// What was decided about a packet's class: one that was set, or none, and one that it is not to be above. And whether it leaves with
/// congestion experienced, which policers decide as they lower classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice(u8);

/// Bits of the class that was set, as 1 + its number; above them those of the other one.
const BITS: u32 = 4;
/// Congestion experienced.
const EXPERIENCED: u8 = 0x80;

impl Choice {
    /// Nothing was decided.
    pub const NONE: Self = Self(0);

    /// Set, or not.
    pub const fn of(class: Option<Class>) -> Self {
        match class {
            Some(class) => Self(1 + class as u8),
            None => Self::NONE,
        }
    }

    /// As a number below 16, if no policer had its say yet.
    #[inline]
    pub const fn code(self) -> u8 {
        self.0 & 15
    }

    /// Back from it.
    #[inline]
    pub const fn from_code(code: u8) -> Self {
        Self(code & 15)
    }

    /// No class above this one.
    #[inline]
    pub fn lower_to(&mut self, class: Class) {
        let least = (1 + class as u8).max(self.least());
        self.0 = self.code() | self.0 & EXPERIENCED | least << BITS;
    }

    /// The class, as its number, of a packet that leaves with this codepoint.
    #[inline]
    pub const fn class(self, dscp: u8) -> u8 {
        let set = self.code();
        let class = if set == 0 { BY_DSCP[dscp as usize & 63] } else { set - 1 };
        let least = self.least().saturating_sub(1);
        if class > least { class } else { least }
    }

    /// Whether anything was decided about the class.
    pub const fn is_some(self) -> bool {
        self.0 & !EXPERIENCED != 0
    }

    /// 1 + the number of the class that it is not to be above; 0 for none.
    const fn least(self) -> u8 {
        (self.0 & !EXPERIENCED) >> BITS
    }

    /// The packet leaves with congestion experienced.
    #[inline]
    pub fn experience(&mut self) {
        self.0 |= EXPERIENCED;
    }

    /// Whether it does.
    #[inline]
    pub const fn is_experienced(self) -> bool {
        self.0 & EXPERIENCED != 0
    }
}

/// The class of each codepoint (RFC 4594): P0 telephony and network control; P1 signalling, conferences, interactive and streaming media;
/// P2 low-latency data, high-throughput data, OAM; P3 everything else, the lower effort of RFC 8622 among it.
const BY_DSCP: [u8; 64] = {
    let mut classes = [Class::P3 as u8; 64];
    let lists: [(&[usize], Class); 3] = [
        // EF, VOICE-ADMIT (RFC 5865), CS6, CS7.
        (&[46, 44, 48, 56], Class::P0),
        // CS5, CS4, AF41 to AF43, CS3, AF31 to AF33.
        (&[40, 32, 34, 36, 38, 24, 26, 28, 30], Class::P1),
        // CS2, AF21 to AF23, AF11 to AF13.
        (&[16, 18, 20, 22, 10, 12, 14], Class::P2),
    ];
    let mut list = 0;
    while list < lists.len() {
        let (codepoints, class) = lists[list];
        let mut at = 0;
        while at < codepoints.len() {
            classes[codepoints[at]] = class as u8;
            at += 1;
        }
        list += 1;
    }
    classes
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_set_or_follows_from_the_codepoint_and_is_lowered_only() {
        let of = |choice: Choice| [0, 1, 8, 10, 18, 26, 34, 40, 46, 44, 48].map(|dscp| choice.class(dscp));
        assert_eq!(of(Choice::NONE), [3, 3, 3, 2, 2, 1, 1, 1, 0, 0, 0]);
        for (n, class) in Class::ALL.into_iter().enumerate() {
            let set = Choice::of(Some(class));
            assert_eq!(of(set), [n as u8; 11]);
            assert_eq!(Choice::from_code(set.code()), set);
            let mut lowered = set;
            lowered.lower_to(Class::P2);
            lowered.lower_to(Class::P1);
            assert_eq!(of(lowered), [(n as u8).max(2); 11]);
            assert_eq!(lowered.code(), set.code());
        }
        let mut lowered = Choice::NONE;
        lowered.lower_to(Class::P1);
        assert_eq!(of(lowered), [3, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1]);
    }
}
