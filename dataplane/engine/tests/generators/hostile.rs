//! Damage to finished frames: flipped octets, wrong checksums, cut and padded ends.

use marchproxy_engine::packet::checksum;
use proptest::prelude::*;
use proptest::sample::Index;

/// What happens to a frame on its way.
#[derive(Clone, Debug, Default)]
pub struct Damage {
    flips: Vec<(Index, u8)>,
    /// Puts the IPv4 header checksum right again, so that the flips behind it are looked at.
    repair: bool,
    cut: Option<Index>,
    padding: usize,
}

impl Damage {
    pub fn inflict(&self, mut frame: Vec<u8>) -> Vec<u8> {
        frame.resize(frame.len() + self.padding, 0);
        for (at, value) in &self.flips {
            // Most flips shall hit the headers.
            let reach = frame.len().min(90);
            frame[at.index(reach)] ^= value;
        }
        if self.repair {
            repair(&mut frame);
        }
        if let Some(cut) = self.cut {
            frame.truncate(cut.index(frame.len() + 1));
        }
        frame
    }
}

fn repair(frame: &mut [u8]) {
    let l3 = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    let header = frame.get(l3).map_or(0, |first| usize::from(first & 15) * 4);
    if frame[l3 - 2..l3] != [8, 0] || header < 20 || frame.len() < l3 + header {
        return;
    }
    frame[l3 + 10..l3 + 12].copy_from_slice(&[0, 0]);
    let sum = checksum(&[&frame[l3..l3 + header]]);
    frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
}

pub fn damages() -> impl Strategy<Value = Damage> {
    let flips = prop_oneof![
        9 => Just(vec![]),
        2 => prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
    ];
    let cut = prop::option::weighted(0.04, any::<Index>());
    let padding = prop_oneof![3 => Just(0usize), 1 => 1usize..20];
    (flips, prop::bool::weighted(0.7), cut, padding).prop_map(|(flips, repair, cut, padding)| Damage {
        repair: repair && !flips.is_empty(),
        flips,
        cut,
        padding,
    })
}
