//! The open devices of a node: opened and closed by the builder alone, looked at by whoever shows counters.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use marchproxy_engine::Snapshot;
use marchproxy_engine::ledger::queue_owner;
use marchproxy_engine::ports::{PortFacts, PortSlot};
use marchproxy_engine::qos::{QueueCounters, Scheduler};
use marchproxy_engine::tables::RuleTables;

use super::line::Line;
use super::plan::Place;
use crate::driver::{Choice, Device, Driver, EarlyPort, OpenPort, Opened, PortHealth};

/// An open port.
struct Entry<P> {
    place: Place,
    port: P,
}

/// What is to be seen of an open port.
pub(super) struct Look {
    pub(super) place: Place,
    pub(super) mac: [u8; 6],
    pub(super) health: PortHealth,
    pub(super) choice: Choice,
    pub(super) early: EarlyPort,
}

/// All of them.
pub(super) struct Ports<D: Driver> {
    driver: Arc<D>,
    facts: PortFacts,
    lines: Arc<[Line<D::Backend>]>,
    open: Mutex<Vec<Entry<D::Port>>>,
    /// The ports whose queues a worker has, with what it counts there.
    shaped: Mutex<Vec<(PortSlot, Arc<QueueCounters>)>>,
}

impl<D: Driver> Ports<D> {
    pub(super) fn new(driver: Arc<D>, facts: PortFacts, lines: Arc<[Line<D::Backend>]>) -> Self {
        Self { driver, facts, lines, open: Mutex::default(), shaped: Mutex::default() }
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry<D::Port>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What runs.
    pub(super) fn running(&self) -> Vec<Place> {
        self.entries().iter().map(|entry| entry.place.clone()).collect()
    }

    /// What runs, with MAC address and health of the device, and the way its packets come.
    pub(super) fn looks(&self) -> Vec<Look> {
        let look = |Entry { place, port }: &Entry<D::Port>| Look {
            place: place.clone(),
            mac: port.mac(),
            health: port.health(),
            choice: port.choice(),
            early: port.early(),
        };
        self.entries().iter().map(look).collect()
    }

    /// A bit for each port slot whose link is down.
    pub(super) fn down(&self) -> u64 {
        let down = self.entries();
        let down = down.iter().filter(|entry| !entry.port.link_up());
        down.fold(0, |all, entry| all | 1 << entry.place.slot.index())
    }

    /// Opens a device without giving it to anybody yet.
    pub(super) fn open(&self, place: &Place) -> Result<Opened<D>, String> {
        let device: Device = place.spec.device.parse().map_err(|error| format!("port {}: {error}", place.spec.name))?;
        device.check_interface().map_err(|error| format!("port {}: {error}", place.spec.name))?;
        let opened = self.driver.open(&place.spec, &device, self.lines.len() as u16)?;
        if opened.queues.len() != self.lines.len() {
            let (found, allowed) = (opened.queues.len(), self.lines.len());
            return Err(format!(
                "port {}: {found} pairs of queues, allowed: {allowed}, one per worker",
                place.spec.name
            ));
        }
        Ok(opened)
    }

    /// Gives an open device to the workers: from now on it is polled.
    pub(super) fn attach(&self, place: &Place, opened: Opened<D>) -> Result<(), String> {
        let Opened { port, queues } = opened;
        self.facts.set_mac(place.slot, port.mac());
        let mac = port.mac();
        self.entries().push(Entry { place: place.clone(), port });
        for (number, (line, (rx, tx))) in self.lines.iter().zip(queues).enumerate() {
            line.add_port(place.slot, rx, tx).map_err(|silent| format!("worker {number}: {silent}"))?;
        }
        tracing::info!(
            "port {}: {} open, address {}, MTU {}",
            place.spec.name,
            place.spec.device,
            format_mac(mac),
            place.spec.mtu
        );
        Ok(())
    }

    /// Puts tables into force in front of the engine; without tables those of the last time.
    pub(super) fn publish(&self, tables: Option<&RuleTables>) -> Result<(), String> {
        let entries = self.entries();
        let ports: Vec<_> = entries.iter().map(|entry| (entry.place.spec.name.as_str(), &entry.port)).collect();
        self.driver.publish(tables, &ports)
    }

    /// Makes the queues of ports that are to be shaped, and gives each to the worker that owns it. Call before the generation that
    /// shapes them is published.
    pub(super) fn shape(&self, snapshot: &Snapshot, services: u16) -> Result<(), String> {
        for (slot, _) in snapshot.shaping.ports() {
            if !self.shaped().iter().any(|(shaped, _)| *shaped == slot) {
                let scheduler = Scheduler::new(self.driver.queue_places(), services);
                let counters = scheduler.counters();
                self.line_of(slot)?.queues(slot, Some(Box::new(scheduler))).map_err(|silent| silent.to_string())?;
                self.shaped().push((slot, counters));
            }
        }
        Ok(())
    }

    /// Takes the queues back of ports that the running generation does not shape.
    pub(super) fn unshape(&self, snapshot: &Snapshot) -> Result<(), String> {
        let gone: Vec<_> = self.shaped().extract_if(.., |(slot, _)| snapshot.shaping.port(*slot).is_none()).collect();
        gone.into_iter().try_for_each(|(slot, _)| self.drop_queues(slot))
    }

    fn drop_queues(&self, slot: PortSlot) -> Result<(), String> {
        self.line_of(slot)?.queues(slot, None).map_err(|silent| silent.to_string())
    }

    fn line_of(&self, slot: PortSlot) -> Result<&Line<D::Backend>, String> {
        self.lines.get(queue_owner(slot, self.lines.len())).ok_or_else(|| "no worker owns the port's queues".to_owned())
    }

    /// What is counted in the queues of a port, and by which worker, if it is shaped.
    pub(super) fn queue_counters(&self, slot: PortSlot) -> Option<(usize, Arc<QueueCounters>)> {
        let counters = self.shaped().iter().find(|(shaped, _)| *shaped == slot).map(|(_, counters)| counters.clone());
        Some((queue_owner(slot, self.lines.len()), counters?))
    }

    fn shaped(&self) -> MutexGuard<'_, Vec<(PortSlot, Arc<QueueCounters>)>> {
        self.shaped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a port from the workers and closes its device.
    pub(super) fn close(&self, place: &Place) -> Result<(), String> {
        let had_queues = self.shaped().extract_if(.., |(slot, _)| *slot == place.slot).count() > 0;
        if had_queues {
            self.drop_queues(place.slot)?;
        }
        for (number, line) in self.lines.iter().enumerate() {
            line.remove_port(place.slot).map_err(|silent| format!("worker {number}: {silent}"))?;
        }
        let mut entries = self.entries();
        let closed = entries.iter().position(|entry| entry.place == *place).map(|at| entries.remove(at));
        drop(entries);
        // Closing may wait for the hardware: not under the lock.
        drop(closed);
        tracing::info!("port {}: {} closed", place.spec.name, place.spec.device);
        Ok(())
    }

    /// Closes everything; the workers gave their queues up.
    pub(super) fn close_all(&self) {
        let all = std::mem::take(&mut *self.entries());
        drop(all);
    }
}

/// `02:4d:50:00:00:01`.
pub(super) fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
