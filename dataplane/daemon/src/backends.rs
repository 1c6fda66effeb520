//! Which backend drives this node's ports. The document says so by its devices, and documents change: a push that asks for another
//! backend gets another node, made beside the running one. Only when that runs the push does the old one stop, so a push that fails
//! leaves everything as it was.
//!
//! Sessions and neighbours do not go over; a change of backend stops every port, and is refused without leave to do that.

use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use marchproxy_engine::tables::RuleTables;
use marchproxy_proto::v1;
use tokio::sync::oneshot;

use crate::config::{BackendChoice, Config};
#[cfg(feature = "dpdk")]
use crate::driver::DpdkDriver;
use crate::driver::{Device, Kind, SocketsDriver, checked_devices, dpdk_rung};
use crate::host::Host;
use crate::node::{Node, Settings};
use crate::runtime::{self, Applied, Outlet, Push, Running, Runtime, Stop};

/// What a push waits for.
type Answer = oneshot::Sender<Result<Applied, String>>;
type Change = (Kind, Push, Answer);

/// The node, whichever backend it has.
pub struct Backends {
    shared: Arc<Shared>,
    changes: Mutex<Option<mpsc::Sender<Change>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    choice: BackendChoice,
    current: RwLock<(Kind, Arc<dyn Stop>)>,
}

/// Starts nodes. Backends are started once and stay: DPDK can't be started twice in a process, and packet memory is never given back.
struct Starter {
    config: Arc<Config>,
    settings: Settings,
    #[cfg(feature = "dpdk")]
    others: Vec<usize>,
    #[cfg(feature = "dpdk")]
    dpdk: Option<Arc<DpdkDriver>>,
    sockets: Option<Arc<SocketsDriver>>,
}

impl Backends {
    /// Starts the backend that the last good tables ask for; without tables the one that the configuration names, and DPDK if it
    /// names none.
    pub fn start(config: &Arc<Config>, host: &Host, settings: Settings) -> Result<Self, String> {
        let first = match host.tables.as_ref().map(|tables| wanted(tables, config.backend)) {
            // Tables that are refused are so by the push that brings them.
            Some(Ok(Some(kind))) => kind,
            _ if config.backend == BackendChoice::Sockets || !cfg!(feature = "dpdk") => Kind::Sockets,
            _ => Kind::Dpdk,
        };
        let mut starter = Starter {
            config: config.clone(),
            settings,
            #[cfg(feature = "dpdk")]
            others: host.decision.others.clone(),
            #[cfg(feature = "dpdk")]
            dpdk: None,
            sockets: None,
        };
        let (changes, inbox) = mpsc::channel::<Change>();
        let (up, came_up) = mpsc::channel();
        let choice = config.backend;
        // One thread starts backends, and stays as long as they do: DPDK takes the thread that started it for its main one.
        let thread = std::thread::Builder::new().name("backends".into()).spawn(move || {
            let shared = match starter.start(first) {
                Ok(node) => Arc::new(Shared { choice, current: RwLock::new((first, node)) }),
                Err(error) => return drop(up.send(Err(error))),
            };
            let _ = up.send(Ok(shared.clone()));
            for (kind, push, answer) in inbox {
                let _ = answer.send(starter.change(&shared, kind, push));
            }
        });
        let thread = thread.map_err(|error| format!("starting the thread of the backends: {error}"))?;
        let shared = came_up.recv().map_err(|_| "the thread of the backends ended by itself".to_owned())??;
        Ok(Self { shared, changes: Mutex::new(Some(changes)), thread: Mutex::new(Some(thread)) })
    }

    fn node(&self) -> Arc<dyn Stop> {
        self.shared.current().1
    }
}

impl Shared {
    fn current(&self) -> (Kind, Arc<dyn Stop>) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        (current.0, current.1.clone())
    }

    /// The backend a push needs when it is not the one that runs.
    fn needs(&self, push: &Push) -> Result<Option<Kind>, String> {
        let Some(tables) = &push.tables else { return Ok(None) };
        let (kind, node) = self.current();
        let Some(wanted) = wanted(tables, self.choice)? else { return Ok(None) };
        if wanted == kind {
            return Ok(None);
        }
        // A node without ports loses nothing.
        if !node.stats().ports.is_empty() && !push.allow_port_restart {
            return Err(format!(
                "the ports of this node run on the backend {} and these devices need {}; the change stops all ports, which needs \
                 allow-port-restart",
                kind.name(),
                wanted.name()
            ));
        }
        Ok(Some(wanted))
    }
}

impl Starter {
    fn start(&mut self, kind: Kind) -> Result<Arc<dyn Stop>, String> {
        match kind {
            Kind::Sockets => {
                let driver = self.sockets()?;
                Ok(Arc::new(Node::start_with(driver, &self.settings).map_err(|error| error.to_string())?))
            }
            #[cfg(feature = "dpdk")]
            Kind::Dpdk => {
                let driver = self.dpdk()?;
                Ok(Arc::new(Node::start_with(driver, &self.settings).map_err(|error| error.to_string())?))
            }
            #[cfg(not(feature = "dpdk"))]
            Kind::Dpdk => Err("the dpdk backend is needed; this build has none".into()),
        }
    }

    fn sockets(&mut self) -> Result<Arc<SocketsDriver>, String> {
        if let Some(driver) = &self.sockets {
            return Ok(driver.clone());
        }
        let workers = self.settings.cores.len();
        let driver = Arc::new(SocketsDriver::start(&self.config.memory, self.config.sockets, workers)?);
        self.sockets = Some(driver.clone());
        Ok(driver)
    }

    #[cfg(feature = "dpdk")]
    fn dpdk(&mut self) -> Result<Arc<DpdkDriver>, String> {
        if let Some(driver) = &self.dpdk {
            return Ok(driver.clone());
        }
        let node = self.settings.cores.first().and_then(|worker| worker.node);
        let driver = Arc::new(DpdkDriver::start(&self.config.memory, &self.others, node)?);
        self.dpdk = Some(driver.clone());
        Ok(driver)
    }

    /// Runs a push on another backend than the running one.
    fn change(&mut self, shared: &Shared, kind: Kind, push: Push) -> Result<Applied, String> {
        let autos = autos(&push);
        let again = (kind == Kind::Dpdk && !autos.is_empty()).then(|| copy(&push));
        let (kind, applied) = match self.try_on(shared, kind, push) {
            Ok(applied) => (kind, applied),
            // Nobody asked for DPDK by name: what it said is the reason why sockets are used.
            Err(reason) => {
                let Some(push) = again else { return Err(reason) };
                self.sockets()?.note_dpdk_failure(autos, &reason);
                if shared.current().0 == Kind::Sockets {
                    let answer = shared.current().1.apply(push).blocking_recv();
                    return answer.unwrap_or_else(|_| Err("the node is stopping".into()));
                }
                (Kind::Sockets, self.try_on(shared, Kind::Sockets, push)?)
            }
        };
        tracing::info!("the backend of this node is {} now", kind.name());
        Ok(applied)
    }

    fn try_on(&mut self, shared: &Shared, kind: Kind, push: Push) -> Result<Applied, String> {
        let node = self.start(kind)?;
        let applied = node.apply(push).blocking_recv().unwrap_or_else(|_| Err("the node is stopping".into()));
        let old = match applied {
            Ok(_) => {
                let mut current = shared.current.write().unwrap_or_else(PoisonError::into_inner);
                std::mem::replace(&mut *current, (kind, node)).1
            }
            Err(_) => node,
        };
        log_law(&old.stop());
        applied
    }
}

fn copy(push: &Push) -> Push {
    Push {
        version: push.version,
        content_hash: push.content_hash.clone(),
        tables: push.tables.clone(),
        allow_port_restart: push.allow_port_restart,
        received: push.received,
    }
}

/// The interfaces of a push that take any backend, when all of its ports do.
fn autos(push: &Push) -> Vec<String> {
    let devices = push.tables.iter().flat_map(|tables| &tables.ports).map(|port| port.device.parse());
    let interface = |device| if let Ok(Device::Auto { interface }) = device { Some(interface) } else { None };
    devices.map(interface).collect::<Option<Vec<String>>>().unwrap_or_default()
}

/// The backend that these ports need, `None` when there are none; or what is wrong with them.
fn wanted(tables: &RuleTables, choice: BackendChoice) -> Result<Option<Kind>, String> {
    let devices = checked_devices(tables)?;
    let ports = || tables.ports.iter().zip(&devices);
    let Some(first) = devices.first() else { return Ok(None) };
    let decided = ports().find_map(|(port, device)| Some((port, device.kind()?)));
    let kind = match (decided, choice) {
        (Some((_, kind)), BackendChoice::Auto) => kind,
        (None, BackendChoice::Auto)
            if devices.iter().filter_map(Device::interface).all(|name| dpdk_rung(name).is_ok()) =>
        {
            Kind::Dpdk
        }
        (_, BackendChoice::Dpdk) => Kind::Dpdk,
        (None, BackendChoice::Auto) | (_, BackendChoice::Sockets) => Kind::Sockets,
    };
    if let Some((port, decided)) = decided.filter(|(_, decided)| *decided != kind) {
        let build = if cfg!(feature = "dpdk") { "" } else { "; this build has none" };
        return Err(format!(
            "port {}: device {:?} needs the {} backend, and this node's configuration allows {} alone{build}",
            port.name,
            port.device,
            decided.name(),
            kind.name()
        ));
    }
    if kind == Kind::Dpdk && !cfg!(feature = "dpdk") {
        let port = tables.ports.first().map_or("", |port| port.name.as_str());
        return Err(format!("port {port}: device \"{first}\" needs the dpdk backend; this build has none"));
    }
    if kind == Kind::Dpdk {
        for (port, device) in ports().filter(|(_, device)| device.kind().is_none()) {
            if let Some(Err(reason)) = device.interface().map(dpdk_rung) {
                let other = decided.map_or_else(String::new, |(other, _)| format!(", which port {} needs", other.name));
                return Err(format!(
                    "port {}: device {:?} can't be on DPDK{other} ({reason}): all ports of a node share one backend",
                    port.name, port.device
                ));
            }
        }
    }
    Ok(Some(kind))
}

/// The last words of a node.
fn log_law(terms: &v1::Conservation) {
    let law = format!(
        "conservation: rx {} + originated {} = tx {} + drops {} + consumed {} + held {}, residue {}",
        terms.rx, terms.originated, terms.tx, terms.drops, terms.consumed, terms.held, terms.residue
    );
    if terms.residue == 0 && terms.held == 0 {
        tracing::info!("{law}");
    } else {
        tracing::error!("{law}: please report this");
    }
}

impl Stop for Backends {
    fn stop(&self) -> v1::Conservation {
        // A change that is under way comes first; what the thread started goes with the node, not with the process.
        drop(self.changes.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the backends ended in a panic; please report this");
        }
        let terms = self.node().stop();
        log_law(&terms);
        terms
    }
}

impl Runtime for Backends {
    fn backend(&self) -> &'static str {
        self.node().backend()
    }

    fn workers(&self) -> u32 {
        self.node().workers()
    }

    fn running(&self) -> Running {
        self.node().running()
    }

    fn apply(&self, push: Push) -> oneshot::Receiver<Result<Applied, String>> {
        let (sender, receiver) = oneshot::channel();
        match self.shared.needs(&push) {
            Ok(None) => return self.node().apply(push),
            Ok(Some(kind)) => {
                // A thread that is gone drops the sender, and the receiver says so.
                if let Some(changes) = &*self.changes.lock().unwrap_or_else(PoisonError::into_inner) {
                    let _ = changes.send((kind, push, sender));
                }
            }
            Err(reason) => drop(sender.send(Err(reason))),
        }
        receiver
    }

    fn change(&self, change: runtime::Change) -> oneshot::Receiver<Result<Option<Applied>, String>> {
        // Rules ask for no backend.
        self.node().change(change)
    }

    fn stage(&self, push: Push) -> oneshot::Receiver<Result<u64, String>> {
        match self.shared.needs(&push) {
            Ok(None) => self.node().stage(push),
            // The other backend can't be there beside this one's ports: there is nothing to get ready, and applying does it all.
            ready => {
                let (sender, receiver) = oneshot::channel();
                let _ = sender.send(ready.map(|_| 0));
                receiver
            }
        }
    }

    fn unstage(&self) {
        self.node().unstage();
    }

    fn preview(&self, tables: RuleTables, span: Duration) -> Result<v1::PreviewResponse, String> {
        self.node().preview(tables, span)
    }

    fn turns(&self) -> Vec<(String, u64)> {
        self.node().turns()
    }

    fn stats(&self) -> v1::StatsResponse {
        self.node().stats()
    }

    fn why(&self, request: &v1::WhyRequest) -> Result<v1::WhyResponse, String> {
        self.node().why(request)
    }

    fn trace(&self, request: &v1::TraceRequest, outlet: &Outlet) -> Result<(), String> {
        self.node().trace(request, outlet)
    }

    fn capture(&self, request: &v1::CaptureRequest, outlet: &Outlet) -> Result<(), String> {
        self.node().capture(request, outlet)
    }

    fn sessions(&self, request: &v1::SessionsRequest) -> Result<v1::SessionsResponse, String> {
        self.node().sessions(request)
    }

    fn samples(&self, limit: usize) -> Vec<String> {
        self.node().samples(limit)
    }

    fn neighbours(&self, request: &v1::NeighboursRequest) -> Result<v1::NeighboursResponse, String> {
        self.node().neighbours(request)
    }

    fn tiers(&self) -> v1::TiersResponse {
        self.node().tiers()
    }

    fn qos(&self, request: &v1::QosRequest) -> v1::QosResponse {
        self.node().qos(request)
    }

    fn backends(&self, request: &v1::BackendsRequest) -> Result<v1::BackendsResponse, String> {
        self.node().backends(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::ports;

    #[test]
    fn the_devices_choose_the_backend() {
        let sockets = Ok(Some(Kind::Sockets));
        let table = [
            (&[][..], BackendChoice::Auto, Ok(None)),
            (&["af_packet:lo"], BackendChoice::Auto, sockets),
            (&["af_xdp:a", "af_packet:b", "auto:c"], BackendChoice::Auto, sockets),
            // Loopback is nothing for DPDK.
            (&["auto:lo"], BackendChoice::Auto, sockets),
            (&["auto:lo"], BackendChoice::Sockets, sockets),
            (
                &["vdev:net_null0"],
                BackendChoice::Sockets,
                Err(
                    "port p0: device \"vdev:net_null0\" needs the dpdk backend, and this node's configuration allows sockets alone",
                ),
            ),
        ];
        for (devices, choice, expected) in table {
            match (wanted(&ports(devices), choice), expected) {
                (Err(found), Err(part)) => assert!(found.contains(part), "{devices:?}: {found}"),
                (found, expected) => assert_eq!(found, expected.map_err(str::to_owned), "{devices:?}"),
            }
        }
    }

    #[cfg(feature = "dpdk")]
    #[test]
    fn what_dpdk_cannot_have_is_no_company_for_its_ports() {
        assert_eq!(wanted(&ports(&["vdev:net_null0"]), BackendChoice::Auto), Ok(Some(Kind::Dpdk)));
        for choice in [BackendChoice::Auto, BackendChoice::Dpdk] {
            let error = wanted(&ports(&["vdev:net_null0", "auto:lo"]), choice).unwrap_err();
            assert!(error.contains("port p1: device \"auto:lo\" can't be on DPDK, which port p0 needs"), "{error}");
        }
        let error = wanted(&ports(&["af_packet:lo"]), BackendChoice::Dpdk).unwrap_err();
        assert!(
            error.contains("needs the sockets backend, and this node's configuration allows dpdk alone"),
            "{error}"
        );
    }
}
