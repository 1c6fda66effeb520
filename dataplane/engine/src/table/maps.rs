//! Maps of codepoints, and marks that say something else than a codepoint.

use crate::burst::NO_MARK;
use crate::class::Choice;
use crate::tables::{DscpMapSpec, MARK_MAP};

/// What a map makes of each codepoint, and of those it does not name by the packet's class; [`NO_MARK`] where they stay.
#[derive(Debug, Clone)]
struct Map {
    name: String,
    codepoints: [u8; 64],
    classes: [u8; 4],
}

/// The maps of a snapshot, by number.
#[derive(Debug, Clone, Default)]
pub struct Maps(Vec<Map>);

impl Maps {
    /// The name of the map that a mark asks for.
    pub fn name(&self, mark: u8) -> Option<&str> {
        Some(self.0.get(usize::from(mark.checked_sub(MARK_MAP)?))?.name.as_str())
    }

    /// Of specifications whose codepoints were checked.
    pub fn new(specs: &[DscpMapSpec]) -> Self {
        let map = |spec: &DscpMapSpec| {
            let mut codepoints = [NO_MARK; 64];
            for &(from, to) in &spec.codepoints {
                codepoints[usize::from(from & 63)] = to;
            }
            Map { name: spec.name.clone(), codepoints, classes: spec.classes.map(|mark| mark.unwrap_or(NO_MARK)) }
        };
        Self(specs.iter().map(map).collect())
    }

    /// What a mark that is no codepoint makes of one: a codepoint, or [`NO_MARK`] where it stays.
    #[inline(never)]
    pub fn apply(&self, mark: u8, dscp: u8, class: Choice) -> u8 {
        let Some(map) = mark.checked_sub(MARK_MAP).and_then(|number| self.0.get(usize::from(number))) else {
            return NO_MARK;
        };
        match map.codepoints[usize::from(dscp & 63)] {
            NO_MARK => map.classes[usize::from(class.class(dscp) & 3)],
            mapped => mapped,
        }
    }
}
