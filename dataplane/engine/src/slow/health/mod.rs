//! Health checks: asks the backends of services that want it, and takes those that do not answer out of the rings (`BEHAVIOUR.md`,
//! "Health").
//!
//! Everything is driven by one list of times, so a turn costs what is due in it and not what there is; how much of that it does is
//! bounded. What a check sends is an IP packet that the slow path routes; what comes back it hands over.

mod conn;
mod http;
mod info;
mod rings;
mod standing;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use crate::flow::{Addr, FlowKey, is_v4, to_ip};
use crate::hash::hash;
use crate::slow::{icmp, route_own};
use crate::snapshot::Snapshot;
use crate::table::services::{Backend, Service};
use crate::tables::{BackendState, HealthKind, HealthSpec};
use crate::wire::{ICMP, ICMPV6, TCP};

use conn::{Conn, Tuple};
use rings::Group;
use standing::{Pace, Standing};

pub use info::{HealthInfo, Outcome};
pub use standing::HealthState;

/// First source port (and echo identifier) of checks: the last 4,096 of the dynamic ones (RFC 6335 s6).
const FIRST_PORT: u16 = 61_440;
const PORTS: u16 = 4096;
/// Checks begun, timed out or retransmitted in a turn: some 300 us at worst.
const EVENTS_PER_TURN: usize = 128;
/// Idle connections kept for later checks (about 2 KiB each).
const IDLE_CONNECTIONS: usize = 1024;
/// Octets of an echo request's data.
const ECHO_DATA: usize = 8;

/// What a packet for us was to the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// An answer, or one that came too late and was refused.
    Yes,
    /// Nothing of ours.
    No,
}

/// What is asked, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    address: Addr,
    /// 0 for ICMP.
    port: u16,
    kind: HealthKind,
}

impl Target {
    fn new(service: &Service, spec: &HealthSpec, backend: &Backend) -> Self {
        let port = match spec.kind {
            HealthKind::Icmp => 0,
            HealthKind::Tcp | HealthKind::Http { .. } => {
                spec.port.or(backend.port).or(service.first_port).unwrap_or_default()
            }
        };
        Self { address: backend.address, port, kind: spec.kind.clone() }
    }

    fn expected(&self) -> Option<(u16, u16)> {
        if let HealthKind::Http { status, .. } = &self.kind { Some(*status) } else { None }
    }

    fn request(&self) -> Vec<u8> {
        match &self.kind {
            HealthKind::Http { path, host, .. } => http::request(path, host, to_ip(self.address), self.port),
            HealthKind::Icmp | HealthKind::Tcp => Vec::new(),
        }
    }
}

/// What is under way for a check.
enum Probe {
    None,
    Echo { tuple: Tuple, token: [u8; ECHO_DATA] },
    Tcp { tuple: Tuple, conn: Box<Conn> },
}

/// A checked backend.
struct Check {
    service: Arc<str>,
    backend: Arc<str>,
    target: Target,
    /// Its service, among the checked ones, and its place there.
    group: usize,
    place: usize,
    /// Whether the document lets it take new sessions.
    up: bool,
    standing: Standing,
    probe: Probe,
    /// When the last check began.
    started: u64,
    /// The one time at which something is to be done; older ones in the list are void.
    due: u64,
    checks: u64,
    failures: u64,
    last: Option<(Outcome, u64)>,
    rtt: Option<u64>,
}

/// All checks of a node.
pub(super) struct Checks {
    /// In order of service and backend.
    all: Vec<Check>,
    groups: Vec<Group>,
    /// Groups that are dirty.
    dirty: Vec<usize>,
    times: BinaryHeap<Reverse<(u64, usize)>>,
    probes: HashMap<Tuple, usize>,
    /// Where checks may have segments of old connections from.
    targets: HashSet<(Addr, u16)>,
    #[expect(clippy::vec_box, reason = "a connection goes in and out by its pointer; it is 2 KiB")]
    idle: Vec<Box<Conn>>,
    strays: icmp::Bucket,
    seed: u64,
    /// Makes tokens differ.
    begun: u64,
    /// A backend went out since somebody asked.
    lost: bool,
    /// What is to be sent: IP packets.
    out: Vec<Vec<u8>>,
}

impl Checks {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            all: Vec::new(),
            groups: Vec::new(),
            dirty: Vec::new(),
            times: BinaryHeap::new(),
            probes: HashMap::new(),
            targets: HashSet::new(),
            idle: Vec::new(),
            strays: icmp::Bucket::default(),
            seed,
            begun: 0,
            lost: false,
            out: Vec::new(),
        }
    }

    /// A new generation. A backend that is asked the same as before keeps its standing, and a check that is under way goes on.
    pub(super) fn adopt(&mut self, now: u64, snapshot: &Snapshot) {
        let mut old = std::mem::take(&mut self.all).into_iter().peekable();
        self.groups.clear();
        self.dirty.clear();
        self.times.clear();
        self.probes.clear();
        self.targets.clear();
        for (index, service) in snapshot.services.iter().enumerate() {
            let Some(spec) = &service.health else { continue };
            let (group, first, name) = (self.groups.len(), self.all.len(), Arc::<str>::from(&*service.name));
            for (place, backend) in service.backends().enumerate().filter(|(_, b)| b.state != BackendState::Down) {
                let key = (&*service.name, &*backend.name);
                while let Some(gone) = old.next_if(|check| (&*check.service, &*check.backend) < key) {
                    self.end(now, gone.probe);
                }
                let target = Target::new(service, spec, backend);
                let known = old.next_if(|check| (&*check.service, &*check.backend) == key);
                let check = match known {
                    Some(check) if check.target == target => {
                        Check { group, place, up: backend.state == BackendState::Up, ..check }
                    }
                    changed => {
                        if let Some(gone) = changed {
                            self.end(now, gone.probe);
                        }
                        let due = now + self.jitter(key, u64::from(spec.interval_ms) * 1_000_000);
                        Check::new(&name, backend, target, (group, place), now, due)
                    }
                };
                self.take_up(check);
            }
            let (pace, count) = (Pace::new(spec), self.all.len() - first);
            let panic_below = u64::from(spec.panic_below_percent);
            let service = index as u32;
            self.groups.push(Group {
                service,
                pace,
                panic_below,
                first,
                count,
                dirty: true,
                ready: now,
                panic: [false; 2],
            });
            self.dirty.push(group);
        }
        for gone in old {
            self.end(now, gone.probe);
        }
    }

    /// Checks that are due, rings that change. Returns how much there was to do.
    pub(super) fn turn(&mut self, now: u64, snapshot: &Snapshot) -> usize {
        let mut events = 0;
        while events < EVENTS_PER_TURN
            && let Some(&Reverse((due, index))) = self.times.peek()
            && due <= now
        {
            self.times.pop();
            events += 1;
            if self.all.get(index).is_some_and(|check| check.due == due) {
                self.fire(now, index, snapshot);
            }
        }
        self.change_rings(now, snapshot);
        events
    }

    /// A TCP segment for us: `packet` is its IP packet.
    pub(super) fn segment(&mut self, now: u64, key: &FlowKey, packet: &[u8]) -> Taken {
        let tuple = Tuple { local: key.dst, remote: key.src, local_port: key.dport, remote_port: key.sport };
        if let Some(&index) = self.probes.get(&tuple) {
            let Some(Check { probe: Probe::Tcp { conn, .. }, .. }) = self.all.get_mut(index) else { return Taken::No };
            conn.feed(now, packet);
            self.look(now, index);
            return Taken::Yes;
        }
        // A segment of a connection that is over here: the other side shall know.
        let ours = key.dport >= FIRST_PORT && self.targets.contains(&(key.src, key.sport));
        if !ours {
            return Taken::No;
        }
        if self.strays.take(now) {
            let mut conn = self.connection();
            conn.refuse(now, key.dst, packet);
            self.out.extend(conn.sent());
            self.keep(conn);
        }
        Taken::Yes
    }

    /// An echo reply for us: `message` is its ICMP message.
    pub(super) fn echo_reply(&mut self, now: u64, key: &FlowKey, message: &[u8]) -> Taken {
        let tuple = Tuple { local: key.dst, remote: key.src, local_port: key.dport, remote_port: 0 };
        let Some(&index) = self.probes.get(&tuple) else { return Taken::No };
        match self.all.get(index).map(|check| &check.probe) {
            Some(Probe::Echo { token, .. }) if message.get(8..) == Some(token) => {
                self.finish(now, index, Outcome::Good);
                Taken::Yes
            }
            _ => Taken::No,
        }
    }

    /// What is to be sent, and room for more.
    pub(super) fn take_out(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.out)
    }

    /// Gives the emptied list back.
    pub(super) fn give_back(&mut self, emptied: Vec<Vec<u8>>) {
        if self.out.is_empty() {
            self.out = emptied;
        }
    }

    /// Whether a backend went out since the last call.
    pub(super) fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    pub(super) fn list<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = HealthInfo> + 'a {
        self.all.iter().filter_map(|check| {
            let group = self.groups.get(check.group)?;
            let out = snapshot.services.get(group.service)?.backends().nth(check.place)?.is_out();
            Some(HealthInfo {
                service: check.service.clone(),
                backend: check.backend.clone(),
                kind: check.target.kind.label(),
                port: check.target.port,
                state: check.standing.state(),
                out,
                panic: group.panic[usize::from(!is_v4(check.target.address))],
                since: check.standing.since,
                last: check.last,
                rtt: check.rtt,
                streak: check.standing.streak,
                flaps: check.standing.flaps,
                held_until: check.standing.held_until,
                checks: check.checks,
                failures: check.failures,
            })
        })
    }

    /// Puts a check in its place.
    fn take_up(&mut self, check: Check) {
        let index = self.all.len();
        match &check.probe {
            Probe::Echo { tuple, .. } | Probe::Tcp { tuple, .. } => {
                self.probes.insert(*tuple, index);
            }
            Probe::None => {}
        }
        if check.target.port != 0 {
            self.targets.insert((check.target.address, check.target.port));
        }
        self.times.push(Reverse((check.due, index)));
        self.all.push(check);
    }

    /// The first checks of many backends do not come all at once.
    fn jitter(&self, (service, backend): (&str, &str), interval: u64) -> u64 {
        let words =
            [service, "/", backend].map(|text| text.bytes().fold(0, |sum, octet| hash(sum, &[u64::from(octet)])));
        hash(self.seed, &words) % interval.max(1)
    }

    /// The time of a check came: it begins, or goes on, or is over.
    fn fire(&mut self, now: u64, index: usize, snapshot: &Snapshot) {
        let Some(check) = self.all.get_mut(index) else { return };
        if matches!(check.probe, Probe::None) {
            check.started = now;
            if let Some(failed) = self.begin(now, index, snapshot) {
                self.finish(now, index, failed);
            }
            return;
        }
        if let Probe::Tcp { conn, .. } = &mut check.probe {
            conn.poll(now);
        }
        self.look(now, index);
    }

    /// Sends the first packet of a check. What it returns failed at once.
    fn begin(&mut self, now: u64, index: usize, snapshot: &Snapshot) -> Option<Outcome> {
        let target = self.all.get(index)?.target.clone();
        let protocol = match (&target.kind, is_v4(target.address)) {
            (HealthKind::Icmp, true) => ICMP,
            (HealthKind::Icmp, false) => ICMPV6,
            (HealthKind::Tcp | HealthKind::Http { .. }, _) => TCP,
        };
        let key = FlowKey { src: 0, dst: target.address, protocol, sport: 0, dport: target.port };
        let Ok(egress) = route_own(snapshot, &key) else { return Some(Outcome::NoRoute) };
        let Some(local) = source(snapshot, egress.interface, egress.next_hop) else { return Some(Outcome::NoSource) };
        self.begun += 1;
        let Some(tuple) = self.free_tuple(local, &target) else { return Some(Outcome::NoSource) };
        let probe = if protocol == TCP {
            let mut conn = self.connection();
            if !conn.open(now, &tuple, target.request()) {
                self.keep(conn);
                return Some(Outcome::Refused);
            }
            Probe::Tcp { tuple, conn }
        } else {
            let token = hash(self.seed, &[self.begun, index as u64]).to_be_bytes();
            self.out.push(icmp::echo_request(tuple.local, tuple.remote, tuple.local_port, self.begun as u16, &token));
            Probe::Echo { tuple, token }
        };
        self.probes.insert(tuple, index);
        self.all.get_mut(index)?.probe = probe;
        self.look(now, index);
        None
    }

    /// Ends of a connection (or an echo's identifier) that no other check uses. Each check of a backend takes the next port, so that
    /// a segment of the last is none of this one.
    fn free_tuple(&self, local: Addr, target: &Target) -> Option<Tuple> {
        (0..PORTS)
            .map(|more| {
                let local_port = FIRST_PORT + ((self.begun % u64::from(PORTS)) as u16 + more) % PORTS;
                Tuple { local, remote: target.address, local_port, remote_port: target.port }
            })
            .find(|tuple| !self.probes.contains_key(tuple))
    }

    /// What came of a check that is under way; if nothing yet, when to look again.
    fn look(&mut self, now: u64, index: usize) {
        let Some(check) = self.all.get_mut(index) else { return };
        let Some(group) = self.groups.get(check.group) else { return };
        let end = check.started + group.pace.timeout;
        let (outcome, next) = match &mut check.probe {
            Probe::None => return,
            Probe::Echo { .. } => (None, end),
            Probe::Tcp { conn, .. } => {
                let outcome = conn.outcome(now, check.target.expected());
                self.out.extend(conn.sent());
                (outcome, conn.due(now).max(now + 1).min(end))
            }
        };
        match outcome {
            Some(outcome) => self.finish(now, index, outcome),
            None if now >= end => self.finish(now, index, Outcome::Timeout),
            None if check.due != next => {
                check.due = next;
                self.times.push(Reverse((next, index)));
            }
            None => {}
        }
    }

    /// A check is over.
    fn finish(&mut self, now: u64, index: usize, outcome: Outcome) {
        let Some(check) = self.all.get_mut(index) else { return };
        let Some(group) = self.groups.get_mut(check.group) else { return };
        let good = outcome == Outcome::Good;
        let (probe, before) = (std::mem::replace(&mut check.probe, Probe::None), check.standing.healthy());
        check.checks += 1;
        check.failures += u64::from(!good);
        check.last = Some((outcome, now));
        if good {
            check.rtt = Some(now - check.started);
        }
        check.standing.record(good, now, &group.pace);
        if before != check.standing.healthy() && !group.dirty {
            group.dirty = true;
            self.dirty.push(check.group);
        }
        check.due = check.standing.next_start(check.started, &group.pace).max(now + 1);
        self.times.push(Reverse((check.due, index)));
        self.end(now, probe);
    }

    /// Takes a probe back.
    fn end(&mut self, now: u64, probe: Probe) {
        match probe {
            Probe::None => {}
            Probe::Echo { tuple, .. } => {
                self.probes.remove(&tuple);
            }
            Probe::Tcp { tuple, mut conn } => {
                self.probes.remove(&tuple);
                conn.close(now);
                self.out.extend(conn.sent());
                self.keep(conn);
            }
        }
    }

    fn connection(&mut self) -> Box<Conn> {
        self.idle.pop().unwrap_or_else(|| Box::new(Conn::new(hash(self.seed, &[self.begun, u64::MAX]))))
    }

    fn keep(&mut self, conn: Box<Conn>) {
        if self.idle.len() < IDLE_CONNECTIONS {
            self.idle.push(conn);
        }
    }
}

impl Check {
    fn new(
        service: &Arc<str>,
        backend: &Backend,
        target: Target,
        (group, place): (usize, usize),
        now: u64,
        due: u64,
    ) -> Self {
        Self {
            service: service.clone(),
            backend: backend.name.as_str().into(),
            target,
            group,
            place,
            up: backend.state == BackendState::Up,
            standing: Standing::new(now),
            probe: Probe::None,
            started: now,
            due,
            checks: 0,
            failures: 0,
            last: None,
            rtt: None,
        }
    }
}

/// The source of checks that leave by an interface: its address on the next hop's prefix, else its first of the family, else the first
/// of any interface.
fn source(snapshot: &Snapshot, interface: u32, next_hop: Addr) -> Option<Addr> {
    let out = snapshot.interface(interface)?;
    out.connected_to(next_hop).or_else(|| {
        let all = std::iter::once(out).chain(snapshot.interfaces());
        all.flat_map(|i| i.addresses.iter().map(|a| a.0)).find(|&a| is_v4(a) == is_v4(next_hop))
    })
}
