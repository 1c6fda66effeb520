//! Backends and what their checks say.

use std::collections::HashMap;
use std::sync::{PoisonError, mpsc};

use marchproxy_engine::flow::to_ip;
use marchproxy_engine::slow::{HealthInfo, Outcome};
use marchproxy_engine::snapshot::ObjectKind;
use marchproxy_engine::table::services::Backend;
use marchproxy_engine::tables::BackendState;
use marchproxy_proto::v1;

use super::Shared;
use super::worker::SlowQuestion;
use crate::driver::Driver;

impl<D: Driver> Shared<D> {
    pub(super) fn backends(&self, request: &v1::BackendsRequest) -> Result<v1::BackendsResponse, String> {
        let (sender, receiver) = mpsc::channel();
        let (checked, now) = self.ask_slow_path(SlowQuestion::Health(sender), &receiver)?;
        let mut health: HashMap<(&str, &str), &HealthInfo> =
            checked.iter().map(|info| ((&*info.service, &*info.backend), info)).collect();
        let objects = self.objects.list();
        let threads: Vec<_> = self.workers.iter().map(|worker| worker.stats.clone()).collect();
        let counts: HashMap<u32, _> = objects
            .iter()
            .filter(|object| object.kind == ObjectKind::Backend)
            .map(|object| (object.slot, object))
            .collect();
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        observer.refresh();
        let services = &observer.current().services;
        if !request.service.is_empty() && services.named(&request.service).is_none() {
            return Err(format!("service: found {:?}, allowed: a service of this node", request.service));
        }
        let wanted = services.iter().filter(|service| request.service.is_empty() || service.name == request.service);
        let mut backends = Vec::new();
        for service in wanted {
            backends.extend(service.backends().map(|backend| {
                let info = health.remove(&(service.name.as_str(), backend.name.as_str()));
                v1::BackendStatus {
                    service: service.name.clone(),
                    name: backend.name.clone(),
                    address: to_ip(backend.address).to_string(),
                    port: backend.port.map(u32::from),
                    weight: backend.weight.into(),
                    state: state(backend).into(),
                    takes_sessions: backend.state == BackendState::Up && !backend.is_out(),
                    packets: counts.get(&backend.counter).map_or(0, |object| object.counts(&threads).packets),
                    health: info.map(|info| describe(info, now)),
                }
            }));
        }
        Ok(v1::BackendsResponse { backends })
    }
}

fn state(backend: &Backend) -> &'static str {
    match backend.state {
        BackendState::Up => "up",
        BackendState::Draining => "draining",
        BackendState::Down => "down",
    }
}

fn describe(info: &HealthInfo, now: u64) -> v1::BackendHealth {
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let (last, at) = info.last.map_or(("", now), |(outcome, at)| (outcome.label(), at));
    v1::BackendHealth {
        state: info.state.label().into(),
        since_s: seconds(now.saturating_sub(info.since)),
        kind: info.kind.into(),
        port: info.port.into(),
        last_result: last.into(),
        last_status: if let Some((Outcome::Status(status), _)) = info.last { status.into() } else { 0 },
        last_s: seconds(now.saturating_sub(at)),
        rtt_s: info.rtt.map(seconds),
        streak: info.streak,
        checks: info.checks,
        failures: info.failures,
        flaps: info.flaps,
        hold_s: seconds(info.held_until.saturating_sub(now)),
        panic: info.panic,
    }
}
