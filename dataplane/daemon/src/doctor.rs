//! `--check`: what a start would find, line by line, without starting.

use std::fmt;

use crate::config::{Config, HugepageMode};
use crate::driver::{Device, Kind, checked_devices};
use crate::host::{Host, StateLock, look};
use crate::kernel::{check_addresses, free_hugepages_mb, management, missing_capabilities, total_hugepages_mb};
use crate::{http, local};

/// How a finding is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// The node starts, but somebody should look.
    Warn,
    /// The node does not start.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it is meant.
    pub level: Level,
    /// What was looked at and found.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        write!(f, "{word:<5} {}", self.text)
    }
}

fn finding(level: Level, text: impl Into<String>) -> Finding {
    Finding { level, text: text.into() }
}

/// Looks at everything.
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = vec![finding(
        Level::Ok,
        format!("config: node {} of cluster {}, control {}", config.node, config.cluster, config.control.address),
    )];
    match look(config) {
        Ok(host) => {
            findings.extend(host.topology_lines().into_iter().map(|line| {
                let level = if line.contains(": note: ") { Level::Warn } else { Level::Ok };
                finding(level, line)
            }));
            last_good(&host, &mut findings);
        }
        Err(error) => findings.push(finding(Level::Fail, error.to_string())),
    }
    findings.push(identity(config));
    findings.push(memory(config));
    findings.push(rights());
    for result in [
        StateLock::take(&config.state_dir).map(drop).map_err(|error| error.to_string()),
        http::bind(config.metrics).map(drop).map_err(|error| error.to_string()),
        local::bind(&config.socket)
            .map(|_| drop(std::fs::remove_file(&config.socket)))
            .map_err(|error| error.to_string()),
    ] {
        if let Err(error) = result {
            findings.push(finding(Level::Fail, error));
        }
    }
    findings
}

fn last_good(host: &Host, findings: &mut Vec<Finding>) {
    match (&host.last_good, &host.tables) {
        (Err(error), _) => findings.push(finding(Level::Warn, format!("last good tables refused: {error}"))),
        (Ok(None), _) => findings.push(finding(Level::Ok, "last good tables: none yet; ports come from control")),
        (Ok(Some(stored)), None) => {
            let text = format!("last good tables: version {} can't be decoded by this release", stored.version);
            findings.push(finding(Level::Warn, text));
        }
        (Ok(Some(stored)), Some(tables)) => {
            findings.push(finding(Level::Ok, format!("last good tables: version {}", stored.version)));
            match checked_devices(tables) {
                Ok(devices) => {
                    for (port, device) in tables.ports.iter().zip(&devices) {
                        findings.push(device_found(&port.name, device));
                    }
                }
                Err(error) => findings.push(finding(Level::Warn, error)),
            }
            if let Err(error) = check_addresses(tables) {
                findings.push(finding(Level::Warn, error));
            }
        }
    }
}

fn device_found(port: &str, device: &Device) -> Finding {
    if !cfg!(feature = "dpdk") && device.kind() == Some(Kind::Dpdk) {
        return finding(Level::Warn, format!("port {port}: needs the dpdk backend; this build has none"));
    }
    if let Err(error) = device.check_interface() {
        return finding(Level::Warn, format!("port {port}: {error}"));
    }
    if let Device::Pci(address) = device {
        let path = format!("/sys/bus/pci/devices/{address}");
        let driver = std::fs::read_link(format!("{path}/driver")).ok();
        let driver =
            driver.as_ref().and_then(|driver| driver.file_name()).map(|name| name.to_string_lossy().into_owned());
        return match driver {
            None if !std::path::Path::new(&path).exists() => {
                finding(Level::Warn, format!("port {port}: there is no PCI device {address}"))
            }
            Some(name) if matches!(name.as_str(), "vfio-pci" | "igb_uio" | "uio_pci_generic") => {
                finding(Level::Ok, format!("port {port}: {address} is bound to {name}"))
            }
            other => finding(
                Level::Warn,
                format!(
                    "port {port}: {address} is bound to {}; bind it: dpdk-devbind.py --bind=vfio-pci {address}",
                    other.as_deref().unwrap_or("no driver")
                ),
            ),
        };
    }
    if device.kind() != Some(Kind::Dpdk)
        && let Some(reason) = device.interface().and_then(management)
    {
        let text = format!(
            "port {port}: {device} is how this host is managed ({reason}): refused unless sockets.force_management is set"
        );
        return finding(Level::Warn, text);
    }
    finding(Level::Ok, format!("port {port}: {device}"))
}

fn identity(config: &Config) -> Finding {
    let control = &config.control;
    if config.insecure {
        finding(Level::Warn, "control: insecure: no TLS, no certificates; for labs only")
    } else if control.certificate.exists() {
        finding(Level::Ok, format!("control: certificate {}", control.certificate.display()))
    } else if control.enrolment.exists() {
        finding(Level::Ok, format!("control: will enrol with {}", control.enrolment.display()))
    } else {
        let text = format!(
            "control: no certificate ({}) and no enrolment file ({}); make one with `marchctl node token {} --out FILE`",
            control.certificate.display(),
            control.enrolment.display(),
            config.node
        );
        finding(Level::Warn, text)
    }
}

fn memory(config: &Config) -> Finding {
    let (free, total, wanted) = (free_hugepages_mb(), total_hugepages_mb(), config.memory.mem_mb);
    let text = format!("memory: {free} MB of {total} MB in huge pages are free, memory.mem_mb is {wanted}");
    let next = format!("reserve more with scripts/hugepages/reserve {wanted}");
    match config.memory.hugepages {
        HugepageMode::Off => finding(Level::Ok, "memory: normal pages, as configured"),
        _ if free >= wanted => finding(Level::Ok, text),
        HugepageMode::Auto => finding(Level::Warn, format!("{text}: normal pages, about half as fast; {next}")),
        HugepageMode::Required => finding(Level::Fail, format!("{text}; {next}, or allow hugepages = \"auto\"")),
    }
}

fn rights() -> Finding {
    let missing = missing_capabilities();
    if missing.is_empty() {
        return finding(Level::Ok, "rights: all that ports may need");
    }
    let text = format!(
        "rights: without {}: af_packet and AF_XDP ports need CAP_NET_RAW and CAP_NET_ADMIN, AF_XDP CAP_BPF too, vfio devices CAP_IPC_LOCK; run as root, or \
         grant them (systemd: AmbientCapabilities=)",
        missing.join(", ")
    );
    finding(Level::Warn, text)
}
