//! The sockets backend: AF_XDP and af_packet on interfaces that stay the kernel's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use marchproxy_engine::io::Mac;
use marchproxy_engine::tables::{PortSpec, RuleTables};
use marchproxy_sockets::{
    FramePool, OnLoss, Port, RxQueue, Seated, Sockets, Store, Tier, TxQueue, Wish, bind_xdp, open_packet, open_xdp,
};

use super::early::{Early, Steered};
use super::{
    Choice, Device, Driver, EarlyCounts, EarlyPort, OpenPort, Opened, PassedOver, PortHealth, RulePlace, dpdk_rung,
};
use crate::config::{HugepageMode, Memory, OnDaemonLoss, SocketsConfig};
use crate::kernel::{kernel_addresses, management};

/// The backend.
#[derive(Debug)]
pub struct SocketsDriver {
    store: &'static Store,
    options: SocketsConfig,
    /// By interface why DPDK was given up when it was tried.
    dpdk_failed: Mutex<BTreeMap<String, String>>,
    /// XDP, once a port wanted it; or why there is none.
    early: OnceLock<Result<Arc<Early>, String>>,
}

/// The program in front, the port, its queues, and what there is to say of it.
type Way = (Option<Steered>, Port, Vec<(RxQueue, TxQueue)>, String);

/// An open port.
#[derive(Debug)]
pub struct SocketsPort {
    /// First to go: from then on nothing is steered to the sockets.
    steered: Option<Steered>,
    port: Port,
    choice: Choice,
}

impl SocketsDriver {
    /// Takes memory for so many workers and the slow path.
    pub fn start(memory: &Memory, options: SocketsConfig, workers: usize) -> Result<Self, String> {
        let store = Store::leak(memory.mem_mb as usize, memory.hugepages != HugepageMode::Off, workers + 1);
        // The ordinary frames, of which the slow path makes its own: now, so that a lack of memory is known before any port.
        FramePool::new(store).map_err(|error| error.to_string())?;
        if store.is_huge() == Some(false) && memory.hugepages != HugepageMode::Off {
            let wanted = memory.mem_mb;
            let next = format!("reserve more with scripts/hugepages/reserve {wanted}");
            if memory.hugepages == HugepageMode::Required {
                return Err(format!(
                    "memory.hugepages: required, but packet memory got normal pages; {next}, or allow hugepages = \"auto\""
                ));
            }
            tracing::info!("memory: packet memory is in normal pages; {next}");
        }
        Ok(Self { store, options, dpdk_failed: Mutex::default(), early: OnceLock::new() })
    }

    /// Notes why DPDK, which was tried, does not drive these interfaces.
    pub fn note_dpdk_failure(&self, interfaces: impl IntoIterator<Item = String>, reason: &str) {
        let mut failed = self.dpdk_failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.extend(interfaces.into_iter().map(|interface| (interface, reason.to_owned())));
    }

    /// XDP, or why rules stay in user space.
    fn early(&self) -> Result<&Arc<Early>, &str> {
        let early = self.early.get_or_init(|| {
            if !self.options.xdp {
                return Err("sockets.xdp is false".into());
            }
            let on_loss = match self.options.on_daemon_loss {
                OnDaemonLoss::Drop => marchproxy_xdp::OnDaemonLoss::Drop,
                OnDaemonLoss::Pass => marchproxy_xdp::OnDaemonLoss::Pass,
            };
            Early::load(on_loss).map(Arc::new).map_err(|error| error.to_string())
        });
        early.as_ref().map_err(String::as_str)
    }

    fn loaded(&self) -> Option<&Arc<Early>> {
        self.early.get()?.as_ref().ok()
    }

    /// AF_XDP with the program that knows rules, or, where the kernel does not take that, with one that only steers.
    fn open_xdp(&self, wish: &Wish, zero_copy: bool) -> Result<Way, String> {
        let words = |error: marchproxy_sockets::Error| error.to_string();
        let early = match self.early() {
            Ok(early) => early,
            Err(reason) => {
                let (port, queues) = open_xdp(self.store, wish, zero_copy).map_err(words)?;
                let note = port.note().map_or_else(String::new, |note| format!("; {note}"));
                return Ok((None, port, queues, format!("all rules are decided in user space: {reason}{note}")));
            }
        };
        let (port, queues) = bind_xdp(self.store, wish, zero_copy).map_err(words)?;
        let attached = early.attach(port.interface().index(), port.sockets());
        let steered = attached.map_err(|error| error.to_string())?;
        let note = match steered.mode() {
            "native" => String::new(),
            mode => format!("the driver does not run XDP itself: {mode} XDP, which is slower"),
        };
        Ok((Some(steered), port, queues, note))
    }

    fn why_not_dpdk(&self, interface: &str) -> String {
        let failed = self.dpdk_failed.lock().unwrap_or_else(PoisonError::into_inner);
        match (failed.get(interface), dpdk_rung(interface)) {
            (Some(reason), _) => reason.clone(),
            (None, Err(reason)) => reason,
            (None, Ok(_)) => "another port of this node can't be on DPDK, and all share one backend".into(),
        }
    }
}

impl Driver for SocketsDriver {
    type Backend = Sockets;
    type Port = SocketsPort;
    type Guard = Seated;

    fn name(&self) -> &'static str {
        "sockets"
    }

    fn enter_thread(&self) -> Result<Seated, String> {
        self.store.enter().map_err(|error| error.to_string())
    }

    fn pool(&self) -> Result<FramePool, String> {
        FramePool::new(self.store).map_err(|error| error.to_string())
    }

    fn open(&self, spec: &PortSpec, device: &Device, queues: u16) -> Result<Opened<Self>, String> {
        let refuse = |reason: String| format!("port {}: device {:?}: {reason}", spec.name, spec.device);
        let mut passed_over = Vec::new();
        let (interface, tiers): (_, &[Tier]) = match device {
            Device::AfPacket { interface } => (interface, &[Tier::Packet]),
            Device::AfXdp { interface } => (interface, &[Tier::ZeroCopy, Tier::Copy]),
            Device::Auto { interface } => {
                passed_over.push(PassedOver { tier: "dpdk", reason: self.why_not_dpdk(interface) });
                (interface, &[Tier::ZeroCopy, Tier::Copy, Tier::Packet])
            }
            Device::Pci(_) | Device::Vdev { .. } => {
                let found = if cfg!(feature = "dpdk") { "this node runs on sockets" } else { "this build has none" };
                return Err(format!("port {}: device {:?} needs the dpdk backend; {found}", spec.name, spec.device));
            }
        };
        if !self.options.force_management
            && let Some(reason) = management(interface)
        {
            return Err(refuse(format!(
                "{interface} is how this host is managed ({reason}); to use it all the same: sockets.force_management = true"
            )));
        }
        let wish = Wish {
            interface: interface.clone(),
            mtu: spec.mtu,
            workers: usize::from(queues),
            kernel: kernel_addresses().unwrap_or_default(),
            on_loss: match self.options.on_daemon_loss {
                OnDaemonLoss::Drop => OnLoss::Drop,
                OnDaemonLoss::Pass => OnLoss::Pass,
            },
            busy_poll_us: self.options.busy_poll_us,
        };
        for &tier in tiers {
            let opened = match tier {
                Tier::ZeroCopy => self.open_xdp(&wish, true),
                Tier::Copy => self.open_xdp(&wish, false),
                Tier::Packet => {
                    open_packet(self.store, &wish).map_err(|error| error.to_string()).map(|(port, queues)| {
                        let note = port.note().unwrap_or_default().to_owned();
                        (None, port, queues, note)
                    })
                }
            };
            match opened {
                Ok((steered, port, queues, note)) => {
                    let choice = Choice { tier: port.tier().name(), note, passed_over };
                    for PassedOver { tier, reason } in &choice.passed_over {
                        tracing::info!("port {}: not {tier}: {reason}", spec.name);
                    }
                    if !choice.note.is_empty() {
                        tracing::warn!("port {}: {}", spec.name, choice.note);
                    }
                    return Ok(Opened { port: SocketsPort { steered, port, choice }, queues });
                }
                Err(reason) => passed_over.push(PassedOver { tier: tier.name(), reason }),
            }
        }
        // One cause often fails every way: it is said once.
        let mut reasons: Vec<String> = Vec::new();
        for PassedOver { tier, reason } in passed_over.into_iter().filter(|over| over.tier != "dpdk") {
            if !reasons.iter().any(|said| said.ends_with(&reason)) {
                reasons.push(if tiers.len() > 1 { format!("{tier}: {reason}") } else { reason });
            }
        }
        Err(refuse(reasons.join("; ")))
    }

    fn publish(&self, tables: Option<&RuleTables>, ports: &[(&str, &SocketsPort)]) -> Result<(), String> {
        let Some(early) = self.loaded() else { return Ok(()) };
        let ports: Vec<_> =
            ports.iter().filter_map(|(name, port)| Some((*name, port.port.mac(), port.steered.as_ref()?))).collect();
        early.publish(tables, &ports).map_err(|error| error.to_string())
    }

    fn decides_early(&self) -> bool {
        self.loaded().is_some_and(|early| early.is_open())
    }

    fn is_stale(&self) -> bool {
        self.loaded().is_some_and(|early| early.is_stale())
    }

    fn watch(&self, watched: bool) {
        if let Some(early) = self.loaded() {
            early.watch(watched);
        }
    }

    fn early_counts(&self) -> EarlyCounts {
        self.loaded().map(|early| early.counts()).unwrap_or_default()
    }

    fn rule_places(&self) -> Vec<RulePlace> {
        self.loaded().map(|early| early.places()).unwrap_or_default()
    }
}

impl OpenPort for SocketsPort {
    fn mac(&self) -> Mac {
        self.port.mac()
    }

    fn link_up(&self) -> bool {
        self.port.link_up()
    }

    fn health(&self) -> PortHealth {
        // Looked at often enough to follow what the host's administrator does.
        if let Ok(addresses) = kernel_addresses() {
            let _ = self.port.set_kernel_addresses(&addresses);
        }
        let health = self.port.health();
        PortHealth {
            link_up: health.link_up,
            rx_missed: health.rx_missed,
            rx_errors: health.rx_errors,
            tx_errors: health.tx_errors,
        }
    }

    fn early(&self) -> EarlyPort {
        self.steered.as_ref().map(Steered::counts).unwrap_or_default()
    }

    fn choice(&self) -> Choice {
        self.choice.clone()
    }
}
