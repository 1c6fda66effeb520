//! The queues of shaped ports, as they stand.

use std::sync::PoisonError;

use marchproxy_engine::Snapshot;
use marchproxy_engine::ports::PortSlot;
use marchproxy_engine::qos::{PortShaping, QueueDrop, SOJOURN_BOUNDS, WaitCounters};
use marchproxy_engine::stats::Counter;
use marchproxy_engine::tables::Class;
use marchproxy_proto::v1;

use super::Shared;
use crate::driver::Driver;

const NANOSECOND: f64 = 1e-9;

impl<D: Driver> Shared<D> {
    /// Of the ports and services that are asked for. What a worker writes meanwhile shows in part.
    pub(super) fn qos(&self, request: &v1::QosRequest) -> v1::QosResponse {
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        observer.refresh();
        let snapshot = observer.current();
        let wanted = |name: &str| request.port.is_empty() || request.port == name;
        let ports = snapshot.shaping.ports().filter_map(|(slot, shaping)| {
            let (_, port) = snapshot.ports().find(|(place, port)| *place == slot && wanted(&port.name))?;
            self.shaped_port(snapshot, slot, shaping, (&port.name, &request.service))
        });
        v1::QosResponse {
            ports: ports.collect(),
            wait_bounds_s: SOJOURN_BOUNDS.iter().map(|bound| *bound as f64 * NANOSECOND).collect(),
        }
    }

    fn shaped_port(
        &self,
        snapshot: &Snapshot,
        slot: PortSlot,
        shaping: &PortShaping,
        (port, only): (&str, &str),
    ) -> Option<v1::ShapedPort> {
        let (worker, counters) = self.ports.queue_counters(slot)?;
        let services = snapshot.services.iter().map(|service| {
            let at = snapshot.shaping.slot_of(service.counter);
            (service.name.as_str(), usize::from(at), snapshot.shaping.profile(at))
        });
        let nobody = ("", 0, snapshot.shaping.profile(0));
        let mut queues = Vec::new();
        for (service, at, profile) in std::iter::once(nobody).chain(services) {
            // A service without a place of its own waits with what belongs to none.
            if (at == 0) != service.is_empty() || !(only.is_empty() || only == service) {
                continue;
            }
            let Some(profile) = profile else { continue };
            let used = Class::ALL.iter().zip(counters.of(at, profile.incarnation)).filter(|(_, queue)| queue.is_used());
            queues.extend(used.map(|(class, seen)| queue(service, *class, profile.rate_kbps, seen)));
        }
        Some(v1::ShapedPort {
            port: port.to_owned(),
            rate_kbps: shaping.rate_kbps,
            overhead_bytes: shaping.overhead,
            p0_kbps: shaping.priority.0,
            worker: worker as u32,
            queues,
        })
    }
}

fn queue(service: &str, class: Class, rate_kbps: u64, seen: &WaitCounters) -> v1::Queue {
    let dropped = |why: QueueDrop| seen.dropped[why as usize].value();
    v1::Queue {
        service: service.to_owned(),
        class: class.label().to_owned(),
        rate_kbps,
        waiting_packets: seen.packets.value(),
        waiting_bytes: seen.octets.value(),
        last_wait_s: seen.last_wait.value() as f64 * NANOSECOND,
        sent_packets: seen.sent.packets.value(),
        sent_bytes: seen.sent.bytes.value(),
        waited_s: seen.waited.value() as f64 * NANOSECOND,
        waits: seen.sojourn.iter().map(Counter::value).collect(),
        dropped_full: dropped(QueueDrop::Full),
        dropped_deadline: dropped(QueueDrop::Deadline),
        dropped_aqm: dropped(QueueDrop::Aqm),
        marked: seen.marked.value(),
    }
}
