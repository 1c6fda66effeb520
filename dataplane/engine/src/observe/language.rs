//! The filter as people write it: `dst 203.0.113.0/24 and tcp and dport 80 or fate dropped`.

use std::net::IpAddr;

use super::filter::{ALTERNATIVES, CONDITIONS, Condition, Fate, Filter, Place, Reason, Test, longest};
use super::seen::Kind;
use crate::flow::from_ip;
use crate::wire::{ICMP, ICMPV6, TCP, UDP};

/// Every word, for help and errors.
pub const WORDS: &str = "src, dst, host (ADDRESS or ADDRESS/LENGTH), sport, dport, port (N or N-M), proto (a name or number), tcp, udp, icmp, \
                         icmp6, ip, ip6, arp, vlan N, in NAME, out NAME, fate NAME, reason NAME, joined by and, or, not";

/// Why a filter is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("match: at character {at}: {problem}")]
pub struct NotAFilter {
    /// Position of the first character of what is wrong, counted from 1.
    pub at: usize,
    /// What is wrong: found, allowed.
    pub problem: String,
}

/// A word and where it stands.
#[derive(Clone, Copy)]
struct Word<'a> {
    at: usize,
    text: &'a str,
}

impl Word<'_> {
    fn refuse<T>(self, allowed: &str) -> Result<T, NotAFilter> {
        Err(NotAFilter { at: self.at, problem: format!("found {:?}, allowed: {allowed}", self.text) })
    }
}

/// Reads a filter. `places` are the ports and interfaces there are; `None`: any name will do (a check before the node is asked).
pub fn parse(text: &str, places: Option<&[(String, Place)]>) -> Result<Filter, NotAFilter> {
    let mut words = words(text).into_iter().peekable();
    let end = Word { at: text.chars().count() + 1, text: "the end" };
    let mut filter = Filter::default();
    if words.peek().is_none() {
        return Ok(filter);
    }
    let mut conditions = Vec::new();
    loop {
        let mut word = words.next().unwrap_or(end);
        let mut not = false;
        while matches!(word.text, "not" | "!") {
            not = !not;
            word = words.next().unwrap_or(end);
        }
        let mut value = || words.next().unwrap_or(end);
        conditions.push(Condition { not, test: test(word, &mut value, places)? });
        if conditions.len() > CONDITIONS {
            return word.refuse(&format!("at most {CONDITIONS} conditions between two `or`"));
        }
        let joint = words.peek().copied();
        if joint.is_none_or(|joint| joint.text == "or") {
            filter.any.push(std::mem::take(&mut conditions));
        }
        match joint {
            None => return Ok(filter),
            Some(joint @ Word { text: "or", .. }) if filter.any.len() == ALTERNATIVES => {
                return joint.refuse(&format!("at most {ALTERNATIVES} alternatives"));
            }
            Some(Word { text: "or" | "and", .. }) => drop(words.next()),
            // Conditions side by side are joined by and.
            Some(_) => {}
        }
    }
}

/// Splits at white space and `=`; a `!` before a word stands alone.
fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut start: Option<(usize, usize)> = None;
    let chars = text.char_indices().chain([(text.len(), ' ')]);
    for (count, (byte, c)) in chars.enumerate() {
        let single = matches!(c, '!' | '(' | ')');
        if c.is_whitespace() || c == '=' || single {
            if let Some((at, from)) = start.take() {
                words.push(Word { at, text: &text[from..byte] });
            }
        } else if start.is_none() {
            start = Some((count + 1, byte));
        }
        if single {
            words.push(Word { at: count + 1, text: &text[byte..=byte] });
        }
    }
    words
}

fn test<'a>(
    word: Word<'a>,
    value: &mut impl FnMut() -> Word<'a>,
    places: Option<&[(String, Place)]>,
) -> Result<Test, NotAFilter> {
    Ok(match word.text {
        "src" => prefix(value()).map(|(addr, len)| Test::Src(addr, len))?,
        "dst" => prefix(value()).map(|(addr, len)| Test::Dst(addr, len))?,
        "host" => prefix(value()).map(|(addr, len)| Test::Host(addr, len))?,
        "sport" => ports(value()).map(|(first, last)| Test::Sport(first, last))?,
        "dport" => ports(value()).map(|(first, last)| Test::Dport(first, last))?,
        "port" => ports(value()).map(|(first, last)| Test::Port(first, last))?,
        "proto" => {
            let value = value();
            match (protocol(value.text), value.text.parse()) {
                (Some(test), _) => test,
                (None, Ok(number)) => Test::Protocol(number),
                _ => return value.refuse("tcp, udp, icmp, icmp6, ip, ip6, arp, or a number to 255"),
            }
        }
        "vlan" => {
            let value = value();
            match value.text.parse() {
                Ok(vlan @ 0..4095) => Test::Vlan(vlan),
                _ => return value.refuse("a VLAN number to 4094, 0 for untagged"),
            }
        }
        "in" => Test::In(place(value(), places)?),
        "out" => Test::Out(place(value(), places)?),
        "fate" => Test::Fate(fate(value())?),
        "reason" => {
            let value = value();
            match Reason::named(value.text) {
                Some(reason) => Test::Reason(reason),
                None => return value.refuse(&Reason::names().join(", ")),
            }
        }
        "(" | ")" => return word.refuse("no brackets: `and` binds closer than `or`, so write `a and c or b and c`"),
        text => match protocol(text) {
            Some(test) => test,
            None => return word.refuse(WORDS),
        },
    })
}

fn protocol(name: &str) -> Option<Test> {
    Some(match name {
        "tcp" => Test::Protocol(TCP),
        "udp" => Test::Protocol(UDP),
        "icmp" => Test::Protocol(ICMP),
        "icmp6" | "icmpv6" => Test::Protocol(ICMPV6),
        "ip" => Test::Kind(Kind::V4),
        "ip6" => Test::Kind(Kind::V6),
        "arp" => Test::Kind(Kind::Arp),
        _ => return None,
    })
}

fn prefix(word: Word<'_>) -> Result<(u128, u8), NotAFilter> {
    const ALLOWED: &str = "an IPv4 or IPv6 address, or ADDRESS/LENGTH";
    let (address, len) = word.text.split_once('/').map_or((word.text, None), |(address, len)| (address, Some(len)));
    let Ok(address) = address.parse::<IpAddr>() else { return word.refuse(ALLOWED) };
    let address = from_ip(address);
    let most = longest(address);
    match len.map_or(Ok(most), str::parse) {
        Ok(len) if len <= most => Ok((address, len)),
        _ => word.refuse(&format!("{ALLOWED}, of at most {most} bits here")),
    }
}

fn ports(word: Word<'_>) -> Result<(u16, u16), NotAFilter> {
    let (first, last) = word.text.split_once('-').unwrap_or((word.text, word.text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => word.refuse("a port or a range of ports, 0 to 65535, like 80 or 8000-8099"),
    }
}

fn fate(word: Word<'_>) -> Result<Fate, NotAFilter> {
    match Fate::ALL.iter().find(|fate| fate.label() == word.text) {
        Some(&fate) => Ok(fate),
        None => word.refuse(&Fate::ALL.map(Fate::label).join(", ")),
    }
}

fn place(word: Word<'_>, places: Option<&[(String, Place)]>) -> Result<Place, NotAFilter> {
    let Some(places) = places else { return Ok(Place { port: crate::ports::PortSlot::default(), vlan: None }) };
    if let Some((_, place)) = places.iter().find(|(name, _)| name == word.text) {
        return Ok(*place);
    }
    let mut names: Vec<&str> = places.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let allowed = format!("a port or interface: {}", names.join(", "));
    word.refuse(if names.is_empty() { "the node has no ports yet" } else { &allowed })
}

impl Fate {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sent, Self::Dropped, Self::Punted, Self::HandedOff];

    /// The name shown to people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Dropped => "dropped",
            Self::Punted => "punted",
            Self::HandedOff => "handed_off",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::End;
    use crate::observe::seen::Seen;
    use crate::packet::Packet;
    use crate::ports::PortSlot;
    use crate::reason::DropReason;

    fn lan() -> Vec<(String, Place)> {
        vec![("lan20".into(), Place { port: PortSlot::from_index(1), vlan: Some(20) })]
    }

    #[test]
    fn what_is_written_is_what_is_found() {
        let frame = Packet::eth([2; 6], [4; 6]).vlan(20).ipv4([10, 0, 0, 1], [192, 0, 2, 7]).tcp(1234, 80).build();
        let seen = Seen::of(&frame, Some(PortSlot::from_index(1)));
        let end = End::Dropped(DropReason::NoRoute);
        for (text, wanted) in [
            ("", true),
            ("  ", true),
            ("tcp", true),
            ("proto 6 and dst 192.0.2.0/24", true),
            ("dst=192.0.2.7 dport=80", true),
            ("host 10.0.0.1 port 80-90", true),
            ("sport 80", false),
            ("not sport 80 and !udp", true),
            ("udp or vlan 20", true),
            ("udp or ip6", false),
            ("in lan20 reason no_route", true),
            ("in lan20 and fate sent", false),
            ("udp fate dropped or tcp fate dropped", true),
            ("udp fate dropped or tcp fate sent", false),
            ("not fate sent", true),
            ("out lan20", false),
            ("src ::/0", false),
            ("src 0.0.0.0/0", true),
        ] {
            let filter = parse(text, Some(&lan())).unwrap();
            let alive = filter.begin(&seen);
            assert_eq!(alive != 0 && filter.end(alive, end, None), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_shown_with_its_place() {
        let many = ["tcp"; 17].join(" ");
        let alternatives = ["tcp"; 9].join(" or ");
        for (text, at, part) in [
            ("scr 10.0.0.1", 1, "found \"scr\", allowed: src, dst"),
            ("tcp and dst 10.0.0", 13, "found \"10.0.0\", allowed: an IPv4 or IPv6 address"),
            ("dst 10.0.0.0/33", 5, "at most 32 bits"),
            ("dport 90-80", 7, "a range of ports"),
            ("tcp and", 8, "found \"the end\""),
            ("tcp or", 7, "found \"the end\""),
            ("dst", 4, "found \"the end\", allowed: an IPv4"),
            ("or tcp", 1, "found \"or\""),
            ("reason bad_luck", 8, "no_route"),
            ("fate lost", 6, "sent, dropped, punted"),
            ("in wan0", 4, "a port or interface: lan20"),
            ("vlan 4095", 6, "4094"),
            ("(tcp)", 1, "no brackets"),
            (&many, 65, "at most 16 conditions"),
            (&alternatives, 54, "at most 8 alternatives"),
        ] {
            let error = parse(text, Some(&lan())).unwrap_err();
            assert!(error.at == at && error.problem.contains(part), "{text}: {error}");
        }
        assert!(parse("in anything", None).is_ok());
    }
}
