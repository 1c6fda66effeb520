//! Is it healthy: what an operator should know first.

use marchproxy_proto::v1;

use crate::out::Tone;
use crate::table::thousands;

/// Whether 80 % or more of the ports are in use.
pub fn is_short(pool: &v1::NatPool) -> bool {
    pool.in_use * 100 >= pool.capacity * 80
}

/// Everything worth saying, the worst first; empty when all is well.
pub fn findings(before: &v1::StatsResponse, now: &v1::StatsResponse) -> Vec<(Tone, String)> {
    let mut found = Vec::new();
    if let Some(residue) = now.conservation.as_ref().map(|c| c.residue).filter(|residue| *residue != 0) {
        found.push((
            Tone::Bad,
            format!("{residue} packets unaccounted for: a bug, please report it with `marchctl stats --json`"),
        ));
    }
    for port in now.ports.iter().filter(|port| !port.link_up) {
        found.push((Tone::Bad, format!("port {} has no link", port.name)));
    }
    for port in &now.ports {
        let old = before.ports.iter().find(|old| old.name == port.name);
        let missed = port.device_rx_missed.saturating_sub(old.map_or(0, |old| old.device_rx_missed));
        if missed > 0 {
            found.push((
                Tone::Bad,
                format!(
                    "port {} lost {} packets before we saw them: the workers are too slow",
                    port.name,
                    thousands(missed)
                ),
            ));
        }
    }
    if now.workers.is_empty() {
        found.push((Tone::Bad, "no worker runs".to_owned()));
    }
    for worker in now.workers.iter().filter(|worker| worker.generation != now.generation) {
        found.push((
            Tone::Warn,
            format!("worker {} runs generation {}, published is {}", worker.worker, worker.generation, now.generation),
        ));
    }
    for worker in now.workers.iter().filter(|worker| worker.busy_ratio > 0.9) {
        found.push((Tone::Warn, format!("worker {} is {:.0} % busy", worker.worker, worker.busy_ratio * 100.0)));
    }
    for pool in now.nat_pools.iter().filter(|pool| is_short(pool)) {
        found.push((
            Tone::Warn,
            format!(
                "source pool address {} has {} of {} {} ports in use; give its services more addresses",
                pool.address,
                thousands(pool.in_use),
                thousands(pool.capacity),
                pool.protocol
            ),
        ));
    }
    if let (Some(old), Some(new)) = (before.flows.as_ref(), now.flows.as_ref()) {
        let fresh = (new.records_lost + new.unsent_records).saturating_sub(old.records_lost + old.unsent_records);
        if fresh > 0 {
            found.push((Tone::Warn, format!("{} flow records did not get to {}", thousands(fresh), new.collector)));
        }
    }
    for class in ["error", "congestion"] {
        let sum = |stats: &v1::StatsResponse| -> u64 {
            stats.drops.iter().filter(|drop| drop.class == class).map(|drop| drop.packets).sum()
        };
        let fresh = sum(now).saturating_sub(sum(before));
        if fresh > 0 {
            found.push((Tone::Warn, format!("{} packets dropped by {class} since the last look", thousands(fresh))));
        }
    }
    let evicted = |stats: &v1::StatsResponse| -> u64 {
        let evicted = stats.sessions_ended.iter().filter(|end| end.reason.starts_with("evicted_"));
        evicted.map(|end| end.packets).sum()
    };
    let fresh = evicted(now).saturating_sub(evicted(before));
    if fresh > 0 {
        found
            .push((Tone::Warn, format!("the session table is full: {} evicted since the last look", thousands(fresh))));
    }
    if now.version == 0 {
        found.push((Tone::Warn, "no tables yet: every packet is dropped".to_owned()));
    }
    found
}
