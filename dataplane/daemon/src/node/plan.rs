//! Which devices a push opens, closes or restarts. Pure: the difference between what is open and what is wanted.

use marchproxy_engine::ports::PortSlot;
use marchproxy_engine::tables::PortSpec;

/// A port as it is wanted, or as it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) slot: PortSlot,
    pub(super) spec: PortSpec,
}

/// What to do, in this order: `open`, `restart` (close, then open), publish, `close`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// New devices.
    pub(super) open: Vec<Place>,
    /// Running ports that stop before their successors can start: they share a device or a slot.
    pub(super) stop_first: Vec<Place>,
    /// The successors.
    pub(super) open_after_stop: Vec<Place>,
    /// Running ports nobody wants any more.
    pub(super) close: Vec<Place>,
}

/// Makes the plan. A change that stops a port which stays is refused unless `allow_restart`. `same_device` says whether two
/// device strings mean one device.
pub(super) fn plan(
    running: &[Place],
    wanted: &[Place],
    allow_restart: bool,
    same_device: impl Fn(&str, &str) -> bool,
) -> Result<Plan, String> {
    let mut plan = Plan::default();
    for place in wanted {
        let of_name = running.iter().find(|old| old.spec.name == place.spec.name);
        if of_name == Some(place) {
            continue;
        }
        if let Some(old) = of_name {
            refuse_restart(&old.spec, &place.spec, allow_restart)?;
        }
        let in_the_way = |old: &&Place| {
            old.spec.name == place.spec.name
                || old.slot == place.slot
                || same_device(&old.spec.device, &place.spec.device)
        };
        let blockers: Vec<&Place> = running.iter().filter(in_the_way).collect();
        for old in &blockers {
            let stays = wanted.iter().any(|new| new.spec.name == old.spec.name);
            if !stays && same_device(&old.spec.device, &place.spec.device) && !allow_restart {
                return Err(format!(
                    "port {}: device {:?} runs as port {}; renaming a port stops it, which needs allow-port-restart",
                    place.spec.name, place.spec.device, old.spec.name
                ));
            }
            if !plan.stop_first.contains(old) {
                plan.stop_first.push((*old).clone());
            }
        }
        let list = if blockers.is_empty() { &mut plan.open } else { &mut plan.open_after_stop };
        list.push(place.clone());
    }
    let gone =
        |old: &&Place| !wanted.iter().any(|new| new.spec.name == old.spec.name) && !plan.stop_first.contains(old);
    plan.close = running.iter().filter(gone).cloned().collect();
    Ok(plan)
}

fn refuse_restart(old: &PortSpec, new: &PortSpec, allow: bool) -> Result<(), String> {
    if allow {
        return Ok(());
    }
    let (field, found, running) = if old.device == new.device {
        ("mtu", new.mtu.to_string(), old.mtu.to_string())
    } else {
        ("device", format!("{:?}", new.device), format!("{:?}", old.device))
    };
    Err(format!(
        "port {}: {field}: found {found}, runs with {running}; the change stops the port, which needs allow-port-restart",
        new.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(slot: usize, name: &str, device: &str, mtu: u16) -> Place {
        let spec = PortSpec { name: name.into(), device: device.into(), mtu };
        Place { slot: PortSlot::from_index(slot), spec }
    }

    fn names(places: &[Place]) -> Vec<&str> {
        places.iter().map(|place| place.spec.name.as_str()).collect()
    }

    /// Opened, stopped first, opened after that, closed.
    type Lists = (&'static [&'static str], &'static [&'static str], &'static [&'static str], &'static [&'static str]);
    /// Name, wanted, whether ports may stop, outcome.
    type Case = (&'static str, Vec<Place>, bool, Result<Lists, &'static str>);

    #[test]
    fn the_table() {
        let running = [place(0, "lan", "a", 1500), place(1, "wan", "b", 1500)];
        let table: Vec<Case> = vec![
            ("nothing", running.to_vec(), false, Ok((&[], &[], &[], &[]))),
            (
                "one more",
                [running.to_vec(), vec![place(2, "dmz", "c", 1500)]].concat(),
                false,
                Ok((&["dmz"], &[], &[], &[])),
            ),
            ("one less", vec![running[0].clone()], false, Ok((&[], &[], &[], &["wan"]))),
            (
                "mtu",
                vec![running[0].clone(), place(1, "wan", "b", 9000)],
                false,
                Err("port wan: mtu: found 9000, runs with 1500"),
            ),
            (
                "mtu allowed",
                vec![running[0].clone(), place(1, "wan", "b", 9000)],
                true,
                Ok((&[], &["wan"], &["wan"], &[])),
            ),
            (
                "device",
                vec![running[0].clone(), place(1, "wan", "c", 1500)],
                false,
                Err("port wan: device: found \"c\", runs with \"b\""),
            ),
            (
                "device allowed",
                vec![running[0].clone(), place(1, "wan", "c", 1500)],
                true,
                Ok((&[], &["wan"], &["wan"], &[])),
            ),
            (
                "rename",
                vec![running[0].clone(), place(2, "uplink", "b", 1500)],
                false,
                Err("device \"b\" runs as port wan; renaming"),
            ),
            (
                "rename allowed",
                vec![running[0].clone(), place(2, "uplink", "b", 1500)],
                true,
                Ok((&[], &["wan"], &["uplink"], &[])),
            ),
            (
                "slot reused",
                vec![running[0].clone(), place(1, "dmz", "c", 1500)],
                false,
                Ok((&[], &["wan"], &["dmz"], &[])),
            ),
            (
                "devices swapped",
                vec![place(0, "lan", "b", 1500), place(1, "wan", "a", 1500)],
                true,
                Ok((&[], &["lan", "wan"], &["lan", "wan"], &[])),
            ),
        ];
        for (name, wanted, allowed, expected) in table {
            let found = plan(&running, &wanted, allowed, |a, b| a == b);
            match (expected, found) {
                (Ok((open, stop, after, close)), Ok(plan)) => {
                    let found =
                        (names(&plan.open), names(&plan.stop_first), names(&plan.open_after_stop), names(&plan.close));
                    assert_eq!(found, (open.to_vec(), stop.to_vec(), after.to_vec(), close.to_vec()), "{name}");
                }
                (Err(part), Err(error)) => assert!(error.contains(part), "{name}: {error}"),
                (_, found) => panic!("{name}: {found:?}"),
            }
        }
    }
}
