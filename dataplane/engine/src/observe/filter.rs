//! Which packets are looked for: alternatives of conditions. Half of them ask the frame, and are judged when it comes; the others ask what became
//! of it, and are judged when that is known.

use super::End;
use super::seen::{Kind, Seen};
use crate::flow::{Addr, is_v4};
use crate::ports::PortSlot;
use crate::reason::{DropReason, PuntReason};
use crate::snapshot::{Snapshot, in_prefix};

/// Most alternatives (words between `or`): one bit each while a packet is on its way.
pub const ALTERNATIVES: usize = 8;
/// Most conditions of an alternative. With [`ALTERNATIVES`] it bounds what a filter costs a packet.
pub const CONDITIONS: usize = 16;

/// Alternatives, one bit each, that still hold.
pub(super) type Alive = u8;
const _: () = assert!(ALTERNATIVES <= Alive::BITS as usize);

/// A filter; without alternatives everything passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// One of them has to hold.
    pub any: Vec<Vec<Condition>>,
}

/// One condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Holds when the test does not.
    pub not: bool,
    /// What is asked.
    pub test: Test,
}

/// A port, or an interface on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The port.
    pub port: PortSlot,
    /// The interface's VLAN; `None`: the whole port.
    pub vlan: Option<u16>,
}

/// What a condition asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Source in a prefix.
    Src(Addr, u8),
    /// Destination in a prefix.
    Dst(Addr, u8),
    /// One of both in a prefix.
    Host(Addr, u8),
    /// What the frame carries.
    Kind(Kind),
    /// Upper-layer protocol.
    Protocol(u8),
    /// Source port, from and to.
    Sport(u16, u16),
    /// Destination port, from and to.
    Dport(u16, u16),
    /// One of both, from and to.
    Port(u16, u16),
    /// The tag it came with.
    Vlan(u16),
    /// Where it came in.
    In(Place),
    /// Where it leaves.
    Out(Place),
    /// What becomes of it.
    Fate(Fate),
    /// Why.
    Reason(Reason),
}

/// What becomes of a packet, as people ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Leaves on a port.
    Sent,
    /// Ends under a reason.
    Dropped,
    /// Goes to the slow path.
    Punted,
    /// Goes to another worker.
    HandedOff,
}

/// A reason's name; several kinds of ends share some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// Of a drop.
    pub drop: Option<DropReason>,
    /// Of a punt.
    pub punt: Option<PuntReason>,
}

impl Test {
    /// Whether the frame alone answers it.
    const fn asks_the_frame(self) -> bool {
        !matches!(self, Self::Out(_) | Self::Fate(_) | Self::Reason(_))
    }
}

impl Filter {
    /// The alternatives that the frame does not contradict.
    pub(super) fn begin(&self, seen: &Seen) -> Alive {
        if self.any.is_empty() {
            return 1;
        }
        let mut alive = 0;
        for (bit, conditions) in self.any.iter().take(ALTERNATIVES).enumerate() {
            let mut asked = conditions.iter().filter(|condition| condition.test.asks_the_frame());
            alive |= Alive::from(asked.all(|condition| condition.not != of_frame(condition.test, seen))) << bit;
        }
        alive
    }

    /// Whether one of the alternatives that are alive holds for what became of the packet.
    pub(super) fn end(&self, alive: Alive, end: End, out: Option<(PortSlot, u16)>) -> bool {
        if self.any.is_empty() {
            return alive != 0;
        }
        self.any.iter().take(ALTERNATIVES).enumerate().any(|(bit, conditions)| {
            let mut asked = conditions.iter().filter(|condition| !condition.test.asks_the_frame());
            alive >> bit & 1 == 1 && asked.all(|condition| condition.not != of_end(condition.test, end, out))
        })
    }

    /// The same without what asks for the end: for the slow path, which sees only the last part of a packet's life.
    #[must_use]
    pub fn of_frames(&self) -> Self {
        let frames = |conditions: &Vec<Condition>| {
            conditions.iter().copied().filter(|condition| condition.test.asks_the_frame()).collect()
        };
        Self { any: self.any.iter().map(frames).collect() }
    }
}

fn of_frame(test: Test, seen: &Seen) -> bool {
    let key = &seen.key;
    let ip = seen.kind != Kind::Other;
    match test {
        Test::Src(prefix, len) => ip && in_prefix(prefix, len, key.src),
        Test::Dst(prefix, len) => ip && in_prefix(prefix, len, key.dst),
        Test::Host(prefix, len) => ip && (in_prefix(prefix, len, key.src) || in_prefix(prefix, len, key.dst)),
        Test::Kind(kind) => seen.kind == kind,
        Test::Protocol(protocol) => matches!(seen.kind, Kind::V4 | Kind::V6) && key.protocol == protocol,
        Test::Sport(first, last) => seen.has_ports && (first..=last).contains(&key.sport),
        Test::Dport(first, last) => seen.has_ports && (first..=last).contains(&key.dport),
        Test::Port(first, last) => {
            seen.has_ports && ((first..=last).contains(&key.sport) || (first..=last).contains(&key.dport))
        }
        Test::Vlan(vlan) => seen.vlan == vlan,
        Test::In(place) => seen.port.is_some_and(|port| place.is(port, seen.vlan)),
        Test::Out(_) | Test::Fate(_) | Test::Reason(_) => false,
    }
}

fn of_end(test: Test, end: End, out: Option<(PortSlot, u16)>) -> bool {
    match (test, end) {
        (Test::Out(place), _) => out.is_some_and(|(port, vlan)| place.is(port, vlan)),
        (Test::Fate(fate), end) => end.fate() == Some(fate),
        (Test::Reason(reason), End::Dropped(found)) => reason.drop == Some(found),
        (Test::Reason(reason), End::Punted(found)) => reason.punt == Some(found),
        _ => false,
    }
}

impl Place {
    fn is(self, port: PortSlot, vlan: u16) -> bool {
        self.port == port && self.vlan.is_none_or(|mine| mine == vlan)
    }
}

impl Reason {
    /// By its name; `None` when no end has a reason of this name.
    pub fn named(name: &str) -> Option<Self> {
        let reason = Self {
            drop: DropReason::ALL.iter().copied().find(|reason| reason.label() == name),
            punt: PuntReason::ALL.iter().copied().find(|reason| reason.label() == name),
        };
        (reason != Self::default()).then_some(reason)
    }

    /// All names, each once.
    pub fn names() -> Vec<&'static str> {
        let punts = PuntReason::ALL.iter().map(|reason| reason.label());
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.label()).chain(punts).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The ports and interfaces of a generation by name.
pub fn places(snapshot: &Snapshot) -> Vec<(String, Place)> {
    let ports = snapshot.ports().map(|(port, spec)| (spec.name.clone(), Place { port, vlan: None }));
    let interfaces = snapshot
        .interfaces()
        .iter()
        .map(|interface| (interface.name.clone(), Place { port: interface.port, vlan: Some(interface.vlan) }));
    // An interface of a port's name is the narrower meaning of it.
    interfaces.chain(ports).collect()
}

/// Whether a prefix is as long as its family allows at most.
pub(super) const fn longest(addr: Addr) -> u8 {
    if is_v4(addr) { 32 } else { 128 }
}
