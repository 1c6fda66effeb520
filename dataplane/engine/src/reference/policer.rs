//! Section 9.3: three colour markers, RFC 2697, 2698 and 4115, colour-blind and colour-aware.

use std::collections::HashMap;
use std::net::IpAddr;

use super::finish::tos;
use super::layer4::Ip;
use crate::tables::{Cidr, PolicerAction, PolicerKind, PolicerSpec, PolicerUnit, SourcesSpec};

/// Tokens per octet. A token is a millionth of a bit, so that 1 kbit/s is exactly one token per nanosecond.
const TOKENS_PER_OCTET: u128 = 8_000_000;

/// Tokens per packet, where packets are counted: so that one packet per second is one token per nanosecond.
const TOKENS_PER_PACKET: u128 = 1_000_000_000;

/// The three colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Green,
    Yellow,
    Red,
}

/// The two buckets of a policer: committed, and excess or peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buckets {
    first: u128,
    second: u128,
    /// Time up to which tokens were added.
    filled_to: u64,
}

/// Whose buckets: name, what would make their tokens mean something else, and the source where each has its own.
type Owner = (String, PolicerKind, PolicerUnit, Option<SourcesSpec>, Option<Cidr>);

/// State of every policer that has metered something; a policer that stays over a push keeps its tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Policers {
    buckets: HashMap<Owner, Buckets>,
}

impl Policers {
    /// Takes up a configuration: policers that are not in it are forgotten.
    pub fn configure(&mut self, specs: &[PolicerSpec]) {
        let same = |(name, kind, unit, sources, _): &Owner, spec: &PolicerSpec| {
            (name, *kind, *unit, *sources) == (&spec.name, spec.kind, spec.unit, spec.per_source)
        };
        self.buckets.retain(|owner, _| specs.iter().any(|spec| same(owner, spec)));
    }

    /// Meters one packet. A policer is full when it meters for the first time.
    pub fn meter(&mut self, spec: &PolicerSpec, now: u64, ip: &Ip) -> PolicerAction {
        let arrives = if spec.colour_aware { precedence(tos(ip) >> 2) } else { Colour::Green };
        match self.colour(spec, now, ip.bytes.len(), ip.src, arrives) {
            Colour::Green => spec.on_green,
            Colour::Yellow => spec.on_yellow,
            Colour::Red => spec.on_red,
        }
    }

    fn colour(&mut self, spec: &PolicerSpec, now: u64, octets: usize, source: IpAddr, arrives: Colour) -> Colour {
        let source = spec
            .per_source
            .map(|SourcesSpec { v4, v6 }| Cidr { addr: source, len: if source.is_ipv4() { v4 } else { v6 } }.network());
        let owner = (spec.name.clone(), spec.kind, spec.unit, spec.per_source, source);
        let full = Buckets { first: tokens(spec, spec.cbs), second: tokens(spec, spec.ebs), filled_to: now };
        let buckets = self.buckets.entry(owner).or_insert(full);
        refill(buckets, spec, now);
        let need = match spec.unit {
            PolicerUnit::Octets => octets as u128 * TOKENS_PER_OCTET,
            PolicerUnit::Packets => TOKENS_PER_PACKET,
        };
        match spec.kind {
            PolicerKind::Srtcm | PolicerKind::Rfc4115 => apart(buckets, need, arrives),
            PolicerKind::Trtcm => nested(buckets, need, arrives),
        }
    }
}

/// RFC 2697 s3 and RFC 4115 s2: each bucket by itself.
fn apart(buckets: &mut Buckets, need: u128, arrives: Colour) -> Colour {
    if arrives == Colour::Green && buckets.first >= need {
        buckets.first -= need;
        return Colour::Green;
    }
    if arrives != Colour::Red && buckets.second >= need {
        buckets.second -= need;
        return Colour::Yellow;
    }
    Colour::Red
}

/// RFC 2698 s3: what is green counts against the peak as well.
fn nested(buckets: &mut Buckets, need: u128, arrives: Colour) -> Colour {
    if arrives == Colour::Red || buckets.second < need {
        return Colour::Red;
    }
    buckets.second -= need;
    if arrives == Colour::Yellow || buckets.first < need {
        return Colour::Yellow;
    }
    buckets.first -= need;
    Colour::Green
}

/// The drop precedence of a codepoint (RFC 2597 s6).
fn precedence(dscp: u8) -> Colour {
    match dscp {
        12 | 20 | 28 | 36 => Colour::Yellow,
        14 | 22 | 30 | 38 => Colour::Red,
        _ => Colour::Green,
    }
}

fn tokens(spec: &PolicerSpec, burst: u64) -> u128 {
    u128::from(burst)
        * match spec.unit {
            PolicerUnit::Octets => TOKENS_PER_OCTET,
            PolicerUnit::Packets => TOKENS_PER_PACKET,
        }
}

/// What a nanosecond earns at the rates. Time that goes back adds nothing. Buckets that a push made smaller lose what no longer fits
/// before that.
fn refill(buckets: &mut Buckets, spec: &PolicerSpec, now: u64) {
    let (first_size, second_size) = (tokens(spec, spec.cbs), tokens(spec, spec.ebs));
    let nanos = u128::from(now.saturating_sub(buckets.filled_to));
    buckets.filled_to = buckets.filled_to.max(now);
    let first = buckets.first.min(first_size) + nanos * u128::from(spec.cir);
    let second = buckets.second.min(second_size)
        + match spec.kind {
            // RFC 2697: tokens go to the committed bucket first, and what it cannot hold to the excess bucket.
            PolicerKind::Srtcm => first - first.min(first_size),
            PolicerKind::Trtcm | PolicerKind::Rfc4115 => nanos * u128::from(spec.eir),
        };
    (buckets.first, buckets.second) = (first.min(first_size), second.min(second_size));
}

#[cfg(test)]
mod tests {
    use super::*;
    use Colour::{Green, Red, Yellow};

    fn spec(kind: PolicerKind, [cir, cbs, eir, ebs]: [u64; 4]) -> PolicerSpec {
        PolicerSpec { name: "p".into(), kind, cir, cbs, eir, ebs, ..Default::default() }
    }

    fn source(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    /// Time in milliseconds, octets, colour on arrival, colour. 8 kbit/s is an octet per millisecond.
    fn check(spec: &PolicerSpec, packets: &[(u64, usize, Colour, Colour)]) {
        let mut policers = Policers::default();
        for &(at, octets, arrives, colour) in packets {
            let found = policers.colour(spec, at * 1_000_000, octets, source(1), arrives);
            assert_eq!(found, colour, "{octets} octets at {at}");
        }
    }

    #[test]
    fn rfc_2697() {
        check(
            &spec(PolicerKind::Srtcm, [8, 100, 0, 50]),
            &[
                (10, 60, Green, Green),
                (10, 41, Green, Yellow),
                (10, 40, Green, Green),
                (10, 10, Green, Red),
                (10, 9, Green, Yellow),
                (11, 1, Green, Green),
                (5, 1, Green, Red),
                (12, 1, Green, Green),
                (120, 100, Green, Green),
                (120, 8, Green, Yellow),
                (120, 1, Green, Red),
                (280, 1, Red, Red),
                (280, 50, Yellow, Yellow),
                (280, 1, Yellow, Red),
                (280, 100, Green, Green),
            ],
        );
    }

    #[test]
    fn rfc_2698() {
        check(
            &spec(PolicerKind::Trtcm, [8, 100, 16, 150]),
            &[
                (10, 90, Green, Green),
                (10, 20, Green, Yellow),
                (10, 41, Green, Red),
                (10, 10, Green, Green),
                (10, 30, Yellow, Yellow),
                (10, 1, Yellow, Red),
                // The peak bucket has 2 octets, the committed one 1.
                (11, 2, Green, Yellow),
                (12, 2, Green, Green),
                (300, 1, Red, Red),
                (300, 150, Yellow, Yellow),
                (300, 1, Green, Red),
            ],
        );
    }

    #[test]
    fn rfc_4115() {
        check(
            &spec(PolicerKind::Rfc4115, [8, 100, 16, 50]),
            &[
                (10, 100, Green, Green),
                (10, 50, Green, Yellow),
                (10, 1, Green, Red),
                // One octet of the committed, two of the excess rate; what overflows is lost.
                (11, 2, Green, Yellow),
                (11, 1, Yellow, Red),
                (11, 1, Green, Green),
                (500, 100, Green, Green),
                (500, 50, Yellow, Yellow),
                (500, 1, Red, Red),
            ],
        );
        check(
            &spec(PolicerKind::Rfc4115, [0, 0, 8, 10]),
            &[(0, 10, Green, Yellow), (9, 10, Green, Red), (10, 10, Green, Yellow)],
        );
    }

    #[test]
    fn packets_and_sources() {
        let counted = PolicerSpec { unit: PolicerUnit::Packets, ..spec(PolicerKind::Srtcm, [1000, 2, 0, 0]) };
        check(
            &counted,
            &[(0, 9000, Green, Green), (0, 20, Green, Green), (0, 20, Green, Red), (1, 9000, Green, Green)],
        );
        let sources = PolicerSpec { per_source: Some(SourcesSpec { v4: 31, v6: 64 }), ..counted };
        let mut policers = Policers::default();
        let colours = [2, 3, 2, 4, 5].map(|host| policers.colour(&sources, 0, 100, source(host), Green));
        assert_eq!(colours, [Green, Green, Red, Green, Green]);
    }

    #[test]
    fn a_push_keeps_tokens_and_cuts_them() {
        let mut policers = Policers::default();
        let small = |burst, ebs| spec(PolicerKind::Srtcm, [1, burst, 0, ebs]);
        let colour =
            |policers: &mut Policers, spec: &PolicerSpec, octets| policers.colour(spec, 0, octets, source(1), Green);
        assert_eq!(colour(&mut policers, &small(100, 100), 90), Green);
        policers.configure(&[small(1000, 20)]);
        assert_eq!(colour(&mut policers, &small(1000, 20), 11), Yellow);
        assert_eq!(colour(&mut policers, &small(1000, 20), 10), Green);
        assert_eq!(colour(&mut policers, &small(1000, 20), 10), Red);
        // Another marker of the same name is another policer.
        let other = spec(PolicerKind::Rfc4115, [1, 10, 0, 0]);
        policers.configure(std::slice::from_ref(&other));
        assert_eq!(colour(&mut policers, &other, 10), Green);
    }

    #[test]
    fn the_largest_rates_and_gaps_do_not_overflow() {
        let spec = spec(PolicerKind::Trtcm, [100_000_000, u64::MAX, 100_000_000, u64::MAX]);
        let mut policers = Policers::default();
        assert_eq!(policers.colour(&spec, 0, 65_535, source(1), Green), Green);
        assert_eq!(policers.colour(&spec, u64::MAX, 65_535, source(1), Green), Green);
    }
}
