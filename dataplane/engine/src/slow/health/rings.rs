//! From what is known of backends to the rings that workers use.

use super::standing::Pace;
use super::{Check, Checks};
use crate::flow::is_v4;
use crate::snapshot::Snapshot;
use crate::table::services::Service;
use crate::tables::BackendLoss;

/// Ring slots filled in a turn before the rest waits for the next: about 1 ms, or one ring if that is larger.
const SLOTS_PER_TURN: usize = 1 << 15;
/// Nanoseconds per slot before the same ring changes again: 16 ms for the largest, so that many losses in a row take a tenth of the
/// thread's time and not all of it.
const REST_PER_SLOT: u64 = 250;

/// A service with checks.
pub(super) struct Group {
    /// Index in the snapshot.
    pub(super) service: u32,
    pub(super) pace: Pace,
    pub(super) panic_below: u64,
    /// Its checks.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Whether the ring may have to change.
    pub(super) dirty: bool,
    /// Not before.
    pub(super) ready: u64,
    /// Whether all are used because too few are healthy, IPv4 and IPv6.
    pub(super) panic: [bool; 2],
}

impl Checks {
    /// Brings rings in line with what is known, a bounded part in a turn.
    pub(super) fn change_rings(&mut self, now: u64, snapshot: &Snapshot) {
        let mut slots = 0;
        for index in std::mem::take(&mut self.dirty) {
            let Some(group) = self.groups.get_mut(index) else { continue };
            if slots >= SLOTS_PER_TURN || now < group.ready {
                self.dirty.push(index);
                continue;
            }
            group.dirty = false;
            let Some(service) = snapshot.services.get(group.service) else { continue };
            let checks = self.all.get(group.first..group.first + group.count).unwrap_or(&[]);
            let (out, panic) = group.judge(service, checks);
            group.panic = panic;
            self.lost |= service.leave_out(&out) && service.on_backend_loss == BackendLoss::Rebalance;
            slots += service.slots();
            group.ready = now + service.slots() as u64 * REST_PER_SLOT;
        }
    }
}

impl Group {
    /// Which backends of the service are out, and whether too few are left (IPv4, IPv6) for that.
    fn judge(&self, service: &Service, checks: &[Check]) -> (Vec<bool>, [bool; 2]) {
        let family = |check: &Check| usize::from(!is_v4(check.target.address));
        let mut members = [(0u64, 0u64); 2];
        for check in checks.iter().filter(|check| check.up) {
            let (all, healthy) = &mut members[family(check)];
            *all += 1;
            *healthy += u64::from(check.standing.healthy());
        }
        let panic = members.map(|(all, healthy)| healthy * 100 < all * self.panic_below);
        let mut out = vec![false; service.backends().len()];
        for check in checks {
            if let Some(out) = out.get_mut(check.place) {
                *out = !check.standing.healthy() && !panic[family(check)];
            }
        }
        (out, panic)
    }
}
