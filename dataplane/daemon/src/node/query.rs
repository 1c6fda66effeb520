//! Questions to the running node: why, sessions, neighbours.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::time::Duration;

use marchproxy_engine::flow::{Addr, FlowKey, from_ip, to_ip};
use marchproxy_engine::snapshot::{ObjectKind, Snapshot};
use marchproxy_engine::table::rules::Sight;
use marchproxy_engine::table::sessions::{Session, Source};
use marchproxy_engine::why::{Live, Question, why};
use marchproxy_engine::worker::{Listed, SessionPage};
use marchproxy_proto::v1;

use super::Shared;
use super::ports::format_mac;
use super::worker::SlowQuestion;
use crate::driver::Driver;

/// Answered in the slow path's next turn, at most 1 ms away.
const PATIENCE: Duration = Duration::from_secs(2);
/// Sessions in an answer, unless the asker says how many.
const SESSIONS: usize = 100;
/// Most sessions in an answer.
const SESSIONS_MAX: usize = 100_000;
/// Sessions per visit to a worker.
const PAGE: usize = 4096;
const TTL: u32 = 64;
const LENGTH: u32 = 64;
/// Flags of the TCP packet that is asked about: a new connection's first.
const SYN: u32 = 2;
const TCP: u8 = 6;

impl<D: Driver> Shared<D> {
    pub(super) fn why(&self, request: &v1::WhyRequest) -> Result<v1::WhyResponse, String> {
        let key = flow(request)?;
        let length = bounded("length", request.length, LENGTH, 20..=65535)? as u16;
        let ttl = bounded("ttl", request.ttl, TTL, 1..=255)? as u8;
        let session = self.session_of(key)?;
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        observer.refresh();
        let (snapshot, generation) = (observer.current(), observer.generation());
        let interface = interface(snapshot, &request.r#in)?;
        let vlan = snapshot.interface(interface).map_or(0, |interface| interface.vlan);
        let sight = sight(request, key.protocol, vlan)?;
        let live = session.map(|(_, live)| live);
        let answer = why(snapshot, &Question { interface, key, length, ttl, sight, generation, session: live });
        let steps = answer
            .steps
            .into_iter()
            .map(|step| v1::WhyStep { stage: step.stage.into(), object: step.object, detail: step.detail })
            .collect();
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(v1::WhyResponse {
            verdict: answer.verdict.label().into(),
            reason: answer.verdict.reason().into(),
            steps,
            generation,
            version: running.version,
            session: session.map(|(worker, live)| why_session(worker, &live)),
        })
    }

    /// The live session of a tuple, and the worker that has it.
    fn session_of(&self, key: FlowKey) -> Result<Option<(usize, Live)>, String> {
        for (number, line) in self.lines.iter().enumerate() {
            let page =
                line.sessions(SessionPage::new(1, Some(key))).map_err(|silent| format!("worker {number}: {silent}"))?;
            if let Some(&listed) = page.sessions.first() {
                let reply = listed.session.forward_key() != key;
                return Ok(Some((number, Live { listed, reply, now: page.now })));
            }
        }
        Ok(None)
    }

    pub(super) fn sessions(&self, request: &v1::SessionsRequest) -> Result<v1::SessionsResponse, String> {
        let limit = if request.limit == 0 { SESSIONS } else { (request.limit as usize).min(SESSIONS_MAX) };
        let objects = self.objects.list();
        let name = |kind: ObjectKind, slot: u32| {
            let found = objects.iter().find(|object| object.kind == kind && object.slot == slot);
            found.map(|object| object.name.clone()).unwrap_or_default()
        };
        let wanted = match request.service.as_str() {
            "" => None,
            service => {
                let found = objects.iter().find(|o| o.kind == ObjectKind::Service && o.name == service);
                Some(found.ok_or_else(|| format!("service: found {service:?}, allowed: a service of this node"))?.slot)
            }
        };
        let (mut sessions, mut total) = (Vec::new(), 0);
        for (number, line) in self.lines.iter().enumerate() {
            let mut page = SessionPage::new(PAGE, None);
            while !page.done {
                page.sessions.clear();
                page = line.sessions(page).map_err(|silent| format!("worker {number}: {silent}"))?;
                let ours = page.sessions.iter().filter(|s| wanted.is_none_or(|slot| s.decision.service == slot));
                for Listed { session, decision, source, .. } in ours {
                    total += 1;
                    if sessions.len() < limit {
                        let service = name(ObjectKind::Service, decision.service);
                        let backend = name(ObjectKind::Backend, decision.backend);
                        sessions.push(describe(number, session, *source, page.now, service, &backend));
                    }
                }
            }
        }
        Ok(v1::SessionsResponse { sessions, total })
    }

    pub(super) fn neighbours(&self, _: &v1::NeighboursRequest) -> Result<v1::NeighboursResponse, String> {
        let (sender, receiver) = mpsc::channel();
        let asked =
            self.slow_path.lock().unwrap_or_else(PoisonError::into_inner).send(SlowQuestion::Neighbours(sender));
        let answer = asked.ok().and_then(|()| receiver.recv_timeout(PATIENCE).ok());
        let (list, now) = answer.ok_or("the slow path did not answer; please report this")?;
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        observer.refresh();
        let snapshot = observer.current();
        let neighbours = list
            .into_iter()
            .map(|info| v1::Neighbour {
                interface: snapshot
                    .interface_at(info.key.port, info.key.vlan)
                    .and_then(|index| snapshot.interface(index))
                    .map(|interface| interface.name.clone())
                    .unwrap_or_default(),
                address: to_ip(info.key.address).to_string(),
                mac: info.mac.map(format_mac).unwrap_or_default(),
                state: info.state.label().into(),
                age_s: now.saturating_sub(info.since) as f64 / 1e9,
            })
            .collect();
        Ok(v1::NeighboursResponse { neighbours })
    }
}

fn describe(
    worker: usize,
    session: &Session,
    source: Option<Source>,
    now: u64,
    service: String,
    backend: &str,
) -> v1::Session {
    let backend_address = endpoint(session.backend(), session.backend_port());
    v1::Session {
        worker: worker as u32,
        protocol: protocol_name(session.protocol()),
        client: endpoint(session.client(), session.client_port()),
        service_address: endpoint(session.service(), session.service_port()),
        backend: match backend.split_once('/') {
            Some((_, name)) => format!("{name} ({backend_address})"),
            None => backend_address,
        },
        source: source.map(|source| endpoint(source.address, source.port)).unwrap_or_default(),
        service,
        state: session.state().label().into(),
        idle_s: session.idle(now) as f64 / 1e9,
        timeout_s: session.state().timeout() as f64 / 1e9,
    }
}

fn why_session(worker: usize, live: &Live) -> v1::WhySession {
    let session = &live.listed.session;
    v1::WhySession {
        worker: worker as u32,
        reply: live.reply,
        client: endpoint(session.client(), session.client_port()),
        service_address: endpoint(session.service(), session.service_port()),
        backend: endpoint(session.backend(), session.backend_port()),
        state: session.state().label().into(),
        age_s: live.now.saturating_sub(live.listed.origin.created) as f64 / 1e9,
        idle_s: session.idle(live.now) as f64 / 1e9,
        timeout_s: session.state().timeout() as f64 / 1e9,
        generation: live.listed.decision.generation,
    }
}

pub(super) fn endpoint(address: Addr, port: u16) -> String {
    match to_ip(address) {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    }
}

pub(super) fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        58 => "icmpv6".into(),
        other => other.to_string(),
    }
}

fn flow(request: &v1::WhyRequest) -> Result<FlowKey, String> {
    let address = |field, text: &str| {
        text.parse::<IpAddr>().map_err(|_| format!("{field}: found {text:?}, allowed: an IPv4 or IPv6 address"))
    };
    let (src, dst) = (address("src", &request.src)?, address("dst", &request.dst)?);
    if src.is_ipv4() != dst.is_ipv4() {
        return Err(format!("dst: found {dst}, allowed: an address of the family of src ({src})"));
    }
    let protocol = match request.protocol.as_str() {
        "tcp" => 6,
        "udp" => 17,
        "icmp" | "icmpv6" | "" => {
            if src.is_ipv4() {
                1
            } else {
                58
            }
        }
        text => text
            .parse()
            .map_err(|_| format!("protocol: found {text:?}, allowed: tcp, udp, icmp, icmpv6, or a number to 255"))?,
    };
    let port =
        |field, value: u32| u16::try_from(value).map_err(|_| format!("{field}: found {value}, allowed: 0 to 65535"));
    Ok(FlowKey {
        src: from_ip(src),
        dst: from_ip(dst),
        protocol,
        sport: port("src_port", request.src_port)?,
        dport: port("dst_port", request.dst_port)?,
    })
}

/// What the packet shows besides its tuple.
fn sight(request: &v1::WhyRequest, protocol: u8, vlan: u16) -> Result<Sight, String> {
    let flags = request.tcp_flags.unwrap_or(SYN);
    let flags = u8::try_from(flags).map_err(|_| format!("tcp_flags: found {flags}, allowed: 0 to 255"))?;
    let dscp = u8::try_from(request.dscp).ok().filter(|dscp| *dscp < 64);
    let dscp = dscp.ok_or_else(|| format!("dscp: found {}, allowed: 0 to 63", request.dscp))?;
    let later = request.fragment == "later";
    let whole = Sight::new(vlan, dscp, (protocol == TCP && !later).then_some(flags));
    match request.fragment.as_str() {
        "" | "no" => Ok(whole),
        "first" | "later" => Ok(whole.fragment(later)),
        other => Err(format!("fragment: found {other:?}, allowed: no, first, later")),
    }
}

fn bounded(field: &str, value: u32, default: u32, allowed: std::ops::RangeInclusive<u32>) -> Result<u32, String> {
    let value = if value == 0 { default } else { value };
    if allowed.contains(&value) {
        return Ok(value);
    }
    Err(format!("{field}: found {value}, allowed: {} to {}", allowed.start(), allowed.end()))
}

/// The interface by name; the only one may be left out.
fn interface(snapshot: &Snapshot, name: &str) -> Result<u32, String> {
    let interfaces = snapshot.interfaces();
    let found = interfaces.iter().position(|interface| interface.name == name);
    match found {
        Some(index) => Ok(index as u32),
        None if name.is_empty() && interfaces.len() == 1 => Ok(0),
        None => {
            let names: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
            Err(format!(
                "in: found {name:?}, allowed: {}",
                if names.is_empty() { "none yet".into() } else { names.join(", ") }
            ))
        }
    }
}
