//! Policers, marks and shaped ports: what they may say, and what becomes of them.

use std::collections::HashMap;

use super::{Budget, BuildError, Counters};
use crate::qos::{PortShaping, Shaping};
use crate::slots::{Slot, Slots};
use crate::snapshot::Snapshot;
use crate::table::policer::{Colour, MAX_BURST_OCTETS, MAX_BURST_PACKETS, MAX_RATES, PolicerTable};
use crate::tables::{
    DscpMapSpec, MARK_KEEP, MARK_MAP, MOST_DSCP_MAPS, PolicerAction, PolicerKind, PolicerSpec, PolicerUnit, RuleTables,
    ShaperSpec, SourcesSpec,
};

/// Shaped ports, and every service's queues on them: of equal names they keep their places over pushes.
pub(super) fn shaping(tables: &RuleTables, snapshot: &mut Snapshot, budget: &Budget) -> Result<Shaping, BuildError> {
    if tables.shapers.is_empty() {
        return Ok(Shaping::default());
    }
    let port = |spec: &ShaperSpec| {
        let (slot, port) = &snapshot.ports[spec.port];
        (*slot, PortShaping::new(spec, port.mtu))
    };
    let ports = tables.shapers.iter().map(port).collect();
    let names: Vec<_> = tables.services.iter().map(|s| s.name.clone()).collect();
    let most = u32::from(budget.queues);
    snapshot.queue_slots.make_room(&names, most);
    let mut services = Vec::with_capacity(names.len());
    for (spec, service) in tables.services.iter().zip(snapshot.services.iter()) {
        let slot = snapshot.queue_slots.take(&spec.name, most).ok_or_else(|| BuildError::OverBudget {
            object: format!("service {}", spec.name),
            field: "queues on shaped ports",
            found: format!("{} services", names.len()),
            allowed: most.to_string(),
        })?;
        services.push((service.counter, slot, &spec.queue));
    }
    Ok(Shaping::new(ports, services.into_iter()))
}

/// What shapers may say.
pub(super) fn shapers(tables: &RuleTables) -> Result<(), BuildError> {
    let mut longest = 0;
    for (nth, s) in tables.shapers.iter().enumerate() {
        let invalid = |object: String, field, found: String, allowed: &str| {
            Err(BuildError::Invalid { object, field, found, allowed: allowed.into() })
        };
        let Some(port) = tables.ports.get(s.port) else {
            let allowed = format!("an index below {}", tables.ports.len());
            return invalid(format!("shaper {nth}"), "port", s.port.to_string(), &allowed);
        };
        let object = || format!("port {}", port.name);
        if tables.shapers[..nth].iter().any(|other| other.port == s.port) {
            return invalid(object(), "shaper", "two".into(), "one");
        }
        if !(1..=MAX_KBPS).contains(&s.rate_kbps) {
            return invalid(object(), "shaper.rate", s.rate_kbps.to_string(), "1 to 400000000 kbit/s");
        }
        if !(1..=100).contains(&s.p0_percent) {
            return invalid(object(), "shaper.p0_percent", s.p0_percent.to_string(), "1 to 100");
        }
        if s.weights.iter().any(|weight| !(1..=1000).contains(weight)) {
            return invalid(object(), "shaper.weights", format!("{:?}", s.weights), "1 to 1000 each");
        }
        longest = longest.max(PortShaping::new(s, port.mtu).longest);
    }
    for s in tables.services.iter().filter(|_| longest != 0) {
        let invalid = |field, found: String, allowed: String| {
            Err(BuildError::Invalid { object: format!("service {}", s.name), field, found, allowed })
        };
        let queue = &s.queue;
        if queue.rate_kbps > MAX_KBPS {
            return invalid("queue.rate", queue.rate_kbps.to_string(), "0 to 400000000 kbit/s".into());
        }
        if queue.burst_bytes != 0 && !(u64::from(longest)..=u64::from(u32::MAX)).contains(&queue.burst_bytes) {
            let allowed = format!("{longest} (a full frame and its overhead) to {}", u32::MAX);
            return invalid("queue.burst", queue.burst_bytes.to_string(), allowed);
        }
        if !(1..=1000).contains(&queue.weight) {
            return invalid("queue.weight", queue.weight.to_string(), "1 to 1000".into());
        }
    }
    Ok(())
}

/// 400 Gbit/s.
const MAX_KBPS: u64 = 400_000_000;

/// Colours with counters of their own; green is what is left.
pub(super) const WORSE: [Colour; 2] = [Colour::Yellow, Colour::Red];

/// The policers. One that stays what it was keeps its place, and with it what is in its buckets.
pub(super) fn policers(
    tables: &RuleTables,
    slots: &mut Slots,
    before: &[PolicerTable],
    counters: &mut Counters<'_>,
    budget: &Budget,
) -> Result<Vec<PolicerTable>, BuildError> {
    // Tokens of another unit, or of other buckets, would mean nothing.
    let identity = |p: &PolicerSpec| format!("{}/{:?}/{:?}/{:?}", p.name, p.kind, p.unit, p.per_source);
    let names: Vec<_> = tables.policers.iter().map(identity).collect();
    slots.make_room(&names, budget.policers);
    let pools: HashMap<u32, &PolicerTable> = before.iter().map(|policer| (policer.incarnation, policer)).collect();
    let one = |(spec, name): (&PolicerSpec, &String)| {
        let Slot { index, incarnation } = slots.take(name, budget.policers).ok_or_else(|| BuildError::OverBudget {
            object: format!("policer {}", spec.name),
            field: "policers",
            found: names.len().to_string(),
            allowed: budget.policers.to_string(),
        })?;
        let mut policer = PolicerTable::new(spec, index, incarnation, budget.workers);
        policer.counter = counters.get("policer", &spec.name);
        policer.worse = WORSE.map(|colour| counters.get("colour", &format!("{}/{}", spec.name, colour.label())));
        if let Some(before) = pools.get(&incarnation) {
            policer.pool.clone_from(&before.pool);
        }
        Ok(policer)
    };
    tables.policers.iter().zip(&names).map(one).collect()
}

/// Whether somebody wants to know classes, or decides about them, whatever the rules say.
pub(crate) fn classes_beside_rules(tables: &RuleTables) -> bool {
    let lowers = |p: &PolicerSpec| {
        [p.on_green, p.on_yellow, p.on_red].iter().any(|action| matches!(action, PolicerAction::Class(_)))
    };
    !tables.shapers.is_empty()
        || tables.services.iter().any(|service| service.class.is_some())
        || tables.policers.iter().any(lowers)
}

/// What policers may say.
pub(super) fn policer(p: &PolicerSpec) -> Result<(), BuildError> {
    let invalid = |field, found: String, allowed: String| {
        Err(BuildError::Invalid { object: format!("policer {}", p.name), field, found, allowed })
    };
    let (burst, rate) = match p.unit {
        PolicerUnit::Octets => (MAX_BURST_OCTETS, MAX_RATES[0]),
        PolicerUnit::Packets => (MAX_BURST_PACKETS, MAX_RATES[1]),
    };
    if p.cbs.max(p.ebs) > burst {
        return invalid("cbs, ebs", p.cbs.max(p.ebs).to_string(), format!("at most {burst}"));
    }
    if p.cir.max(p.eir) > rate {
        return invalid("cir, eir", p.cir.max(p.eir).to_string(), format!("at most {rate}"));
    }
    match p.kind {
        PolicerKind::Srtcm if p.eir != 0 => invalid("eir", p.eir.to_string(), "0 for srtcm".into()),
        PolicerKind::Trtcm if p.eir < p.cir => {
            invalid("eir", format!("a peak rate of {}", p.eir), format!("at least the committed rate, {}", p.cir))
        }
        _ => Ok(()),
    }?;
    match p.per_source {
        Some(SourcesSpec { v4, v6 }) if !(1..=32).contains(&v4) || !(1..=128).contains(&v6) => {
            invalid("per_source", format!("/{v4} and /{v6}"), "/1 to /32 and /1 to /128".into())
        }
        _ => Ok(()),
    }
}

/// Every mark is a codepoint, or something that is there; those of rules are looked at with the rest of them.
pub(super) fn marks(tables: &RuleTables) -> Result<(), BuildError> {
    let maps = tables.dscp_maps.len();
    if maps > MOST_DSCP_MAPS {
        return Err(BuildError::OverBudget {
            object: "dscp_maps".into(),
            field: "maps",
            found: maps.to_string(),
            allowed: MOST_DSCP_MAPS.to_string(),
        });
    }
    let colours = |p: &PolicerSpec| {
        [p.on_green, p.on_yellow, p.on_red]
            .map(|action| if let PolicerAction::Mark(mark) = action { Some(mark) } else { None })
    };
    let services = tables.services.iter().map(|s| (("service", &s.name), s.mark));
    let policers = tables.policers.iter().flat_map(|p| colours(p).map(|mark| (("policer", &p.name), mark)));
    let plain = |m: &DscpMapSpec| {
        m.codepoints.iter().flat_map(|&(from, to)| [from, to]).chain(m.classes.into_iter().flatten()).max()
    };
    let mapped = tables.dscp_maps.iter().map(|m| (("dscp_map", &m.name), plain(m).filter(|&worst| worst > 63)));
    for ((kind, name), mark) in services.chain(policers).chain(mapped) {
        if let Some(mark) = mark.filter(|&mark| !known_mark(mark, maps) || (kind == "dscp_map" && mark > 63)) {
            return Err(unknown_mark(format!("{kind} {name}"), mark, maps));
        }
    }
    Ok(())
}

/// Whether a mark is a codepoint, none, or one of so many maps.
pub(super) fn known_mark(mark: u8, maps: usize) -> bool {
    mark < 64 || mark == MARK_KEEP || (MARK_MAP..MARK_MAP + maps.min(MOST_DSCP_MAPS) as u8).contains(&mark)
}

pub(super) fn unknown_mark(object: String, mark: u8, maps: usize) -> BuildError {
    BuildError::Invalid {
        object,
        field: "mark",
        found: mark.to_string(),
        allowed: format!("0 to 63, {MARK_KEEP} (keep), or one of {maps} maps from {MARK_MAP} on"),
    }
}
