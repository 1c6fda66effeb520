//! The builder thread: builds snapshots off the workers, opens and closes devices, publishes, waits until all workers moved on.
//!
//! A push either happens or leaves everything as it was: the snapshot is built and new devices are opened before anything
//! running is touched, and a running port that had to stop is started again when its successor fails.

use std::sync::mpsc;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use marchproxy_engine::tables::RuleTables;
use marchproxy_engine::{Budget, Snapshot, Successor, build};
use marchproxy_rcu::Publisher;
use tokio::sync::oneshot;

use super::Shared;
use super::plan::{Place, Plan, plan};
use crate::driver::{Device, Driver, Opened, checked_devices};
use crate::kernel::check_addresses;
use crate::runtime::{Applied, Change, ContentHash, Push};
use crate::topology::node_of_device;

/// Workers look at the generation every turn, and sleep 100 us at most.
const SETTLE: Duration = Duration::from_secs(2);
/// Control flips within seconds, or says that it won't.
const STAGED: Duration = Duration::from_mins(10);
/// Readers that are no workers (slow path, observers) may hold an old generation a little longer.
const RECLAIM: Duration = Duration::from_millis(20);

/// How often links are looked at.
const LINKS: Duration = Duration::from_millis(100);
/// And how often everything else that nobody asks for.
const UPKEEP: Duration = Duration::from_secs(1);

/// Something for the builder to do.
pub(super) enum Job {
    /// Run these tables.
    Push(Box<Push>, oneshot::Sender<Result<Applied, String>>),
    /// Change the tables that run, if that is possible.
    Change(Box<Change>, oneshot::Sender<Result<Option<Applied>, String>>),
    /// Get ready for these tables.
    Stage(Box<Push>, oneshot::Sender<Result<u64, String>>),
    /// Let go what was made ready.
    Unstage,
    /// Build these tables for somebody to look at.
    Candidate(Box<RuleTables>, oneshot::Sender<Result<Arc<Snapshot>, String>>),
    /// Checks took a backend out: its sessions are decided anew, each when it is touched next.
    BackendLost,
    /// End; answers when the builder touches nothing any more.
    Stop,
}

/// A push of which everything is done that can take long or fail, but for ports that have to stop first.
pub(super) struct Ready<D: Driver> {
    snapshot: Snapshot,
    plan: Plan,
    fresh: Vec<(Place, Opened<D>)>,
    build_us: u64,
}

/// What was made ready for an offer to come.
pub(super) struct Staged<D: Driver> {
    content_hash: ContentHash,
    /// [`Builder::builds`] then: it was made from what runs, so it is good for nothing once something else does.
    builds: u64,
    ready: Ready<D>,
    since: Instant,
}

/// The builder.
pub(super) struct Builder<D: Driver> {
    pub(super) staged: Option<Staged<D>>,
    /// Snapshots that were published.
    pub(super) builds: u64,
    pub(super) publisher: Publisher<Snapshot>,
    pub(super) shared: Arc<Shared<D>>,
    pub(super) budget: Budget,
    /// Ports whose link is down, a bit by slot.
    pub(super) down: u64,
    pub(super) successor: Successor,
}

impl<D: Driver> Builder<D> {
    /// Works until it is told to stop or nobody can tell it anything.
    pub(super) fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        let mut kept = Instant::now();
        loop {
            self.look_at_links();
            match jobs.recv_timeout(LINKS) {
                Ok(Job::Push(push, answer)) => {
                    let builds = self.builds;
                    let result = self.push(&push);
                    let runs = result.is_ok();
                    if answer.send(result).is_err() {
                        tracing::debug!("nobody waits for the answer to version {}", push.version);
                    }
                    self.reclaim();
                    // What was refused left the successor of what runs as it was, and so did another number for it.
                    match push.tables {
                        Some(tables) if runs && !self.shared.driver.decides_early() => {
                            self.successor.prepare(&tables, self.publisher.current(), &self.budget);
                        }
                        _ if self.builds != builds => self.successor.forget(),
                        _ => {}
                    }
                }
                Ok(Job::Change(change, answer)) => {
                    let result = self.change(&change);
                    if answer.send(result).is_err() {
                        tracing::debug!("nobody waits for the answer to version {}", change.version);
                    }
                    self.reclaim();
                }
                Ok(Job::BackendLost) => {
                    self.backend_lost();
                    self.reclaim();
                }
                Ok(Job::Stage(push, answer)) => {
                    let result = self.stage(*push);
                    if answer.send(result).is_err() {
                        self.staged = None;
                    }
                }
                Ok(Job::Unstage) => self.staged = None,
                Ok(Job::Candidate(tables, answer)) => {
                    // Whoever asked may have given up.
                    let _ = answer.send(self.candidate(&tables));
                }
                Err(mpsc::RecvTimeoutError::Timeout) if kept.elapsed() < UPKEEP => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    kept = Instant::now();
                    self.give_back();
                    if self.shared.driver.is_stale() {
                        self.publish_again();
                    }
                    self.staged.take_if(|staged| staged.since.elapsed() > STAGED);
                }
                Ok(Job::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Next hops behind a link that went down are taken out, and back when it is up again.
    fn look_at_links(&mut self) {
        let down = self.shared.ports.down();
        if down == self.down {
            return;
        }
        self.publisher.current().set_links_down(down);
        for place in self.shared.ports.running() {
            let bit = 1 << place.slot.index();
            if (down ^ self.down) & bit != 0 {
                let now = if down & bit == 0 {
                    "up"
                } else {
                    "down: routes with several next hops do without those behind it"
                };
                tracing::warn!("port {}: link {now}", place.spec.name);
            }
        }
        self.down = down;
    }

    /// The same tables under the next number, so that every session asks again what becomes of it. Nothing is built.
    fn backend_lost(&mut self) {
        let generation = self.publisher.republish();
        self.note_generation(generation, false);
        match self.settle(generation) {
            Ok(()) => self.note_generation(generation, true),
            Err(late) => tracing::error!("{late}"),
        }
    }

    fn push(&mut self, push: &Push) -> Result<Applied, String> {
        let Some(tables) = &push.tables else {
            self.note(push.version, &push.content_hash, self.publisher.generation(), true);
            return Ok(Applied {
                generation: self.publisher.generation(),
                build_us: 0,
                settle_us: micros(push.received.elapsed()),
            });
        };
        let builds = self.builds;
        let staged = self.staged.take();
        let staged = staged.filter(|staged| staged.content_hash == push.content_hash && staged.builds == builds);
        let Ready { snapshot, plan, fresh, build_us } = match staged {
            Some(staged) => staged.ready,
            None => self.ready(tables, push.allow_port_restart)?,
        };
        self.bring_up(&plan, fresh)?;
        self.builds += 1;
        self.shared.ports.shape(&snapshot, self.budget.queues)?;
        // First in front of the engine: new addresses are steered here before anybody is told of them, what both deny both deny, and what the
        // engine still denies for a moment it denies by the rules before. So a push that fails here has changed nothing.
        self.shared.ports.publish(Some(tables))?;
        let objects = self.shared.objects.next(&snapshot, &self.shared.threads());
        self.down = self.shared.ports.down();
        snapshot.set_links_down(self.down);
        let generation = self.publisher.publish(snapshot);
        self.shared.objects.replace(objects);
        self.note(push.version, &push.content_hash, generation, false);
        self.settle(generation)?;
        let settle_us = micros(push.received.elapsed());
        self.note(push.version, &push.content_hash, generation, true);
        if let Err(error) = self.shared.ports.unshape(self.publisher.current()) {
            tracing::error!("queues: {error}");
        }
        self.shared.export_flows(tables.flows.as_ref());
        for place in &plan.close {
            // The push happened; a device that does not close is no reason to call it refused.
            if let Err(error) = self.shared.ports.close(place) {
                tracing::error!("port {}: {error}", place.spec.name);
            }
        }
        Ok(Applied { generation, build_us, settle_us })
    }

    /// The next generation, at the price of what changes. Ports and queues stay as they are.
    fn change(&mut self, change: &Change) -> Result<Option<Applied>, String> {
        let runs = {
            let running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.settled && running.content_hash == change.base
        };
        // The generation before may have had its last reader only now.
        self.give_back();
        if !runs || !self.successor.is_ready() || self.shared.driver.decides_early() {
            return Ok(None);
        }
        let start = Instant::now();
        let Some(snapshot) = self.successor.next(&change.rules) else { return Ok(None) };
        let build_us = micros(start.elapsed());
        // From here on nothing fails before the snapshot is published, as the successor takes for granted. What was made ready was made from
        // what runs no longer.
        self.builds += 1;
        self.staged = None;
        self.shared.objects.change(&snapshot, self.successor.newest(), &self.shared.threads());
        let generation = self.publisher.publish(snapshot);
        self.note(change.version, &change.content_hash, generation, false);
        self.settle(generation)?;
        let settle_us = micros(change.received.elapsed());
        self.note(change.version, &change.content_hash, generation, true);
        Ok(Some(Applied { generation, build_us, settle_us }))
    }

    /// Everything about a push that can be done while the old tables run.
    fn ready(&self, tables: &RuleTables, allow_port_restart: bool) -> Result<Ready<D>, String> {
        self.check(tables)?;
        let start = Instant::now();
        let snapshot =
            build(tables, Some(self.publisher.current()), &self.budget).map_err(|error| error.to_string())?;
        let build_us = micros(start.elapsed());
        let plan = self.plan(&snapshot, allow_port_restart)?;
        let fresh = self.open_all(&plan.open)?;
        Ok(Ready { snapshot, plan, fresh, build_us })
    }

    fn stage(&mut self, push: Push) -> Result<u64, String> {
        // First: both may want the same new device.
        self.staged = None;
        let Some(tables) = &push.tables else { return Ok(0) };
        let ready = self.ready(tables, push.allow_port_restart)?;
        let build_us = ready.build_us;
        let (content_hash, builds, since) = (push.content_hash, self.builds, Instant::now());
        self.staged = Some(Staged { content_hash, builds, ready, since });
        Ok(build_us)
    }

    /// A snapshot for whoever wants to compare. What a push would refuse it for is told.
    fn candidate(&self, tables: &RuleTables) -> Result<Arc<Snapshot>, String> {
        self.check(tables)?;
        let snapshot =
            build(tables, Some(self.publisher.current()), &self.budget).map_err(|error| error.to_string())?;
        Ok(Arc::new(snapshot))
    }

    /// What is wrong whatever the engine makes of it.
    fn check(&self, tables: &RuleTables) -> Result<(), String> {
        let devices = checked_devices(tables)?;
        check_addresses(tables)?;
        for (spec, device) in tables.ports.iter().zip(&devices) {
            self.check_socket(&spec.name, device)?;
        }
        Ok(())
    }

    /// A port on another socket than every worker: refused when the cores were named, remarked upon when they were chosen.
    fn check_socket(&self, name: &str, device: &Device) -> Result<(), String> {
        let place = &self.shared.place;
        let Some(socket) = node_of_device(device).and_then(|node| place.machine.socket_of_node(node)) else {
            return Ok(());
        };
        let workers: Vec<usize> = self.shared.workers.iter().map(|worker| worker.core.socket).collect();
        if workers.contains(&socket) {
            return Ok(());
        }
        let found = format!("port {name}: device is on socket {socket}, the workers run on socket(s) {workers:?}");
        if place.named && !place.force_remote {
            return Err(format!(
                "{found}; name cores of socket {socket} in `workers`, or set force_remote_cores = true"
            ));
        }
        tracing::warn!("{found}: every packet crosses the sockets; a restart of the daemon chooses cores anew");
        Ok(())
    }

    fn plan(&self, snapshot: &Snapshot, allow_restart: bool) -> Result<Plan, String> {
        let wanted: Vec<Place> = snapshot.ports().map(|(slot, spec)| Place { slot, spec: spec.clone() }).collect();
        let same = |a: &str, b: &str| match (a.parse::<Device>(), b.parse::<Device>()) {
            (Ok(a), Ok(b)) => a.clashes(&b),
            _ => false,
        };
        plan(&self.shared.ports.running(), &wanted, allow_restart, same)
    }

    /// Takes in what is new. On failure everything is as before.
    fn bring_up(&self, plan: &Plan, fresh: Vec<(Place, Opened<D>)>) -> Result<(), String> {
        let ports = &self.shared.ports;
        let mut stopped = Vec::new();
        for place in &plan.stop_first {
            if let Err(error) = ports.close(place) {
                return Err(self.back(&stopped, error));
            }
            stopped.push(place.clone());
        }
        let successors = self.open_all(&plan.open_after_stop).map_err(|error| self.back(&stopped, error))?;
        for (place, opened) in fresh.into_iter().chain(successors) {
            ports.attach(&place, opened)?;
        }
        Ok(())
    }

    /// All of them or none: what was opened closes again when it is dropped.
    fn open_all(&self, places: &[Place]) -> Result<Vec<(Place, Opened<D>)>, String> {
        places.iter().map(|place| Ok((place.clone(), self.shared.ports.open(place)?))).collect()
    }

    /// Starts the ports again that stopped for a push that failed.
    fn back(&self, stopped: &[Place], mut reason: String) -> String {
        for place in stopped {
            let again = self.shared.ports.open(place).and_then(|opened| self.shared.ports.attach(place, opened));
            if let Err(error) = again {
                tracing::error!("port {} is down: {error}", place.spec.name);
                reason = format!("{reason}; and port {} could not be started again: {error}", place.spec.name);
            }
        }
        self.publish_again();
        reason
    }

    /// For ports that are open once more, and after the kernel got or lost an address.
    fn publish_again(&self) {
        if let Err(error) = self.shared.ports.publish(None) {
            tracing::error!("in front of the engine the tables are not what they should be: {error}");
        }
    }

    /// Waits until every worker runs the generation.
    fn settle(&self, generation: u64) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let late: Vec<usize> = self.late(generation);
            if late.is_empty() {
                return Ok(());
            }
            if start.elapsed() > SETTLE {
                return Err(format!(
                    "generation {generation} is published, but worker(s) {late:?} do not run it after {} s",
                    SETTLE.as_secs()
                ));
            }
            std::thread::sleep(Duration::from_micros(10));
        }
    }

    fn late(&self, generation: u64) -> Vec<usize> {
        let workers = self.shared.workers.len();
        let seen = self.publisher.seen().take(workers).enumerate();
        seen.filter(|(_, seen)| *seen < generation).map(|(number, _)| number).collect()
    }

    fn note(&self, version: u64, content_hash: &ContentHash, generation: u64, settled: bool) {
        let mut running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.version = version;
        running.content_hash.clone_from(content_hash);
        running.generation = generation;
        running.settled = settled;
    }

    fn note_generation(&self, generation: u64, settled: bool) {
        let mut running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.generation = generation;
        running.settled = settled;
    }

    /// Takes back the generations that nobody reads any more; how many are still read.
    fn give_back(&mut self) -> usize {
        self.shared.observer.lock().unwrap_or_else(PoisonError::into_inner).refresh();
        let successor = &mut self.successor;
        self.publisher.reclaim_into(|old| successor.give_back(old))
    }

    /// Frees old generations here, or keeps one for the next change; never on a worker.
    fn reclaim(&mut self) {
        let start = Instant::now();
        while self.give_back() != 0 && start.elapsed() <= RECLAIM {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
