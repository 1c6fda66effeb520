//! The sockets backend: AF_XDP and af_packet on interfaces that stay the kernel's.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use marchproxy_engine::io::Mac;
use marchproxy_engine::tables::PortSpec;
use marchproxy_sockets::{FramePool, OnLoss, Port, Seated, Sockets, Store, Tier, Wish, open_packet, open_xdp};

use super::{Choice, Device, Driver, OpenPort, Opened, PassedOver, PortHealth, dpdk_rung};
use crate::config::{HugepageMode, Memory, OnDaemonLoss, SocketsConfig};
use crate::kernel::{kernel_addresses, management};

/// The backend.
#[derive(Debug)]
pub struct SocketsDriver {
    store: &'static Store,
    options: SocketsConfig,
    /// By interface why DPDK was given up when it was tried.
    dpdk_failed: Mutex<BTreeMap<String, String>>,
}

/// An open port.
#[derive(Debug)]
pub struct SocketsPort {
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
        Ok(Self { store, options, dpdk_failed: Mutex::default() })
    }

    /// Notes why DPDK, which was tried, does not drive these interfaces.
    pub fn note_dpdk_failure(&self, interfaces: impl IntoIterator<Item = String>, reason: &str) {
        let mut failed = self.dpdk_failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.extend(interfaces.into_iter().map(|interface| (interface, reason.to_owned())));
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
                Tier::ZeroCopy => open_xdp(self.store, &wish, true),
                Tier::Copy => open_xdp(self.store, &wish, false),
                Tier::Packet => open_packet(self.store, &wish),
            };
            match opened {
                Ok((port, queues)) => {
                    let choice =
                        Choice { tier: port.tier().name(), note: port.note().unwrap_or_default().into(), passed_over };
                    for PassedOver { tier, reason } in &choice.passed_over {
                        tracing::info!("port {}: not {tier}: {reason}", spec.name);
                    }
                    if !choice.note.is_empty() {
                        tracing::warn!("port {}: {}", spec.name, choice.note);
                    }
                    return Ok(Opened { port: SocketsPort { port, choice }, queues });
                }
                Err(error) => passed_over.push(PassedOver { tier: tier.name(), reason: error.to_string() }),
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
}

impl OpenPort for SocketsPort {
    fn mac(&self) -> Mac {
        self.port.mac()
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

    fn choice(&self) -> Choice {
        self.choice.clone()
    }
}
