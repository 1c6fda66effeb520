//! Sections 9.3, 9.4 and 10: what policers do with a packet, classes, and marks that are no codepoints.

use super::layer4::Ip;
use super::node::Node;
use super::{Reference, finish};
use crate::reason::DropReason;
use crate::tables::{Class, MARK_KEEP, MARK_MAP, PolicerAction};

/// What the policers of a packet that goes on have done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Metered {
    pub mark: Option<u8>,
    pub experienced: bool,
    lowered_to: Option<Class>,
}

impl Reference {
    /// The policers of interface and flow, one after the other.
    pub(super) fn police(&mut self, now: u64, ip: &Ip, policers: [Option<usize>; 2]) -> Result<Metered, DropReason> {
        let mut metered = Metered::default();
        for index in policers.into_iter().flatten() {
            let Some(policer) = self.node.tables.policers.get(index) else { continue };
            match self.policers.meter(policer, now, ip) {
                PolicerAction::Pass => {}
                PolicerAction::Mark(mark) => metered.mark = Some(mark),
                PolicerAction::Ce => metered.experienced |= finish::tos(ip) & 3 != 0,
                PolicerAction::Class(class) => metered.lowered_to = metered.lowered_to.max(Some(class)),
                PolicerAction::Drop => return Err(DropReason::PolicerDrop),
            }
        }
        Ok(metered)
    }
}

impl Metered {
    /// The class of a packet with a codepoint, given what rule or service say.
    pub fn class(self, set: Option<Class>) -> impl Fn(u8) -> Class {
        move |dscp| set.unwrap_or_else(|| by_codepoint(dscp)).max(self.lowered_to.unwrap_or(Class::P0))
    }
}

/// Section 9.4.
fn by_codepoint(dscp: u8) -> Class {
    match dscp {
        44 | 46 | 48 | 56 => Class::P0,
        24 | 26 | 28 | 30 | 32 | 34 | 36 | 38 | 40 => Class::P1,
        10 | 12 | 14 | 16 | 18 | 20 | 22 => Class::P2,
        _ => Class::P3,
    }
}

impl Node {
    /// What a mark makes of a codepoint as received; nothing where it stays.
    pub(super) fn codepoint(&self, mark: u8, received: u8, class: impl Fn(u8) -> Class) -> Option<u8> {
        if mark < 64 {
            return Some(mark);
        }
        if mark == MARK_KEEP {
            return None;
        }
        let map = &self.tables.dscp_maps[usize::from(mark - MARK_MAP)];
        match map.codepoints.iter().find(|(from, _)| *from == received) {
            Some((_, to)) => Some(*to),
            None => map.classes[class(received) as usize],
        }
    }
}
