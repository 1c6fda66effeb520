//! What `/healthz` and `/readyz` say. Healthy: no packet thread has stopped, so a restart would not help. Ready: traffic may come.

use marchproxy_proto::v1;

use crate::agent::{AgentState, LastGoodState};
use crate::pulse::{Beat, SILENCE};
use crate::runtime::Running;

/// Tables of a version run on every worker, every port is up, every packet thread is alive.
pub fn is_ready(running: &Running, ports: &[v1::PortStats], beats: &[Beat]) -> bool {
    running.version > 0 && running.settled && ports.iter().all(|port| port.link_up) && beats.iter().all(Beat::alive)
}

/// The threads that stopped.
pub fn silent(beats: &[Beat]) -> Vec<String> {
    let silent = beats.iter().filter(|beat| !beat.alive());
    silent
        .map(|beat| format!("{} stands still for {} s", beat.thread, beat.age.as_secs().max(SILENCE.as_secs())))
        .collect()
}

/// Why the node is not ready; the first reasons are the cause, the others what is known besides.
pub fn missing(running: &Running, ports: &[v1::PortStats], beats: &[Beat], agent: &AgentState) -> Vec<String> {
    let mut reasons = Vec::new();
    if running.version == 0 {
        reasons.push("no tables yet".to_owned());
    } else if !running.settled {
        reasons.push(format!("not every worker runs generation {}", running.generation));
    }
    reasons.extend(ports.iter().filter(|port| !port.link_up).map(|port| format!("port {} is down", port.name)));
    reasons.extend(silent(beats));
    if let LastGoodState::Refused { reason } = &agent.last_good {
        reasons.push(format!("last good tables refused: {reason}"));
    }
    for (what, reason) in [("control", &agent.last_error), ("last push refused", &agent.last_refusal)] {
        if !reason.is_empty() {
            reasons.push(format!("{what}: {reason}"));
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ready_means_tables_ports_and_threads() {
        let running = Running { version: 1, generation: 2, settled: true, ..Running::default() };
        let port = |link_up| v1::PortStats { name: "wan".into(), link_up, ..v1::PortStats::default() };
        let beat = |seconds| Beat { thread: "worker 1".into(), age: Duration::from_secs(seconds) };
        let agent = AgentState { last_error: "refused".into(), ..AgentState::default() };
        for (running, port, beat, why) in [
            (running.clone(), port(true), beat(0), None),
            (Running { version: 0, ..running.clone() }, port(true), beat(0), Some("no tables yet")),
            (
                Running { settled: false, ..running.clone() },
                port(true),
                beat(0),
                Some("not every worker runs generation 2"),
            ),
            (running.clone(), port(false), beat(0), Some("port wan is down")),
            (running, port(true), beat(7), Some("worker 1 stands still for 7 s")),
        ] {
            let (ports, beats) = ([port], [beat]);
            assert_eq!(is_ready(&running, &ports, &beats), why.is_none());
            if let Some(why) = why {
                assert_eq!(missing(&running, &ports, &beats, &agent), [why, "control: refused"]);
            }
        }
    }
}
