//! queue: which queue of a shaped port a packet waits in (`BEHAVIOUR.md` 11). Only in generations with shaped ports.
//!
//! Reads `egress`, `service`, `class`. Writes `tag`; makes [`Fate::Queue`] of [`Fate::Transmit`].

use crate::burst::{Burst, Fate};
use crate::io::PacketBuf;
use crate::qos::Tag;
use crate::snapshot::Snapshot;
use crate::tables::Class;

/// Runs the stage.
#[inline(never)]
pub fn process<B: PacketBuf>(burst: &mut Burst<B>, snapshot: &Snapshot) {
    let shaping = &snapshot.shaping;
    let (packets, columns) = burst.parts();
    for lane in 0..packets.len() {
        let port = columns.egress[lane].port;
        if columns.fate[lane] != Fate::Transmit || shaping.shaped() >> port.index() & 1 == 0 {
            continue;
        }
        // Where there are no services, nobody said which.
        let slot = if snapshot.services.is_empty() { 0 } else { shaping.slot_of(columns.service[lane]) };
        columns.tag[lane] = Tag { slot, class: Class::ALL[usize::from(columns.class[lane] & 3)] };
        columns.fate[lane] = Fate::Queue;
    }
}
