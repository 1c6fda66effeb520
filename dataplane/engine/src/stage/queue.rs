//! queue: which queue of a shaped port a packet waits in (`BEHAVIOUR.md` 11). Only in generations with shaped ports.
//!
//! Reads `egress`, `service`, and the finished frame's DSCP. Writes `tag`; makes [`Fate::Queue`] of [`Fate::Transmit`].

use crate::burst::{Burst, Fate};
use crate::io::PacketBuf;
use crate::qos::{Shaping, Tag, of_frame};
use crate::snapshot::Snapshot;

/// Runs the stage.
#[inline(never)]
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, snapshot: &Snapshot) {
    let shaping = &snapshot.shaping;
    let (packets, columns) = burst.parts();
    for (lane, packet) in packets.iter().enumerate() {
        let port = columns.egress[lane].port;
        if columns.fate[lane] != Fate::Transmit || shaping.shaped() >> port.index() & 1 == 0 {
            continue;
        }
        // Where there are no services, nobody said which.
        let slot = if snapshot.services.is_empty() { 0 } else { shaping.slot_of(columns.service[lane]) };
        columns.tag[lane] = tag(shaping, slot, packet.data());
        columns.fate[lane] = Fate::Queue;
    }
}

/// The class is the service's, else the one its codepoint asks for.
fn tag(shaping: &Shaping, slot: u16, frame: &[u8]) -> Tag {
    let class = shaping.profile(slot).and_then(|profile| profile.class);
    Tag { slot, class: class.unwrap_or_else(|| of_frame(frame)) }
}
