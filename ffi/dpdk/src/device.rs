//! Devices: attached by name while the process runs, removed when their last port is gone.

use std::ffi::{CStr, CString};
use std::fmt;
use std::mem::MaybeUninit;
use std::str::FromStr;
use std::sync::{Arc, PoisonError};

use marchproxy_dpdk_sys as sys;

use crate::PortId;
use crate::eal::{Eal, Process};
use crate::errno::Errno;
use crate::log::{self, LogLevel, Mark};
use crate::pci::{self, Holder};
use crate::port::{Port, Rejected, Stopped};

/// Which device: `vdev:NAME,ARGS` or `pci:ADDRESS,ARGS`.
///
/// A virtual device's name begins with its driver's (`net_af_packet0`); arguments are the driver's own and may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSpec {
    /// A virtual device.
    Vdev {
        /// Driver and number.
        name: String,
        /// Driver arguments, empty for none.
        args: String,
    },
    /// A device on the PCI bus.
    Pci {
        /// `domain:bus:device.function`.
        address: String,
        /// Driver arguments, empty for none.
        args: String,
    },
}

/// Why a text is no [`DeviceSpec`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {text:?}: {reason}; write vdev:NAME,ARGS or pci:ADDRESS,ARGS")]
pub struct SpecError {
    text: String,
    reason: &'static str,
}

/// Why a device could not be attached or removed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No driver knows the name.
    #[error("device {device}: no driver of that name in this libdpdk ({said}); names are like net_af_packet0")]
    UnknownDriver {
        /// The device.
        device: String,
        /// DPDK's log.
        said: String,
    },
    /// No such address on the PCI bus.
    #[error("device {device}: there is no such PCI device; `dpdk-devbind.py --status-dev net` lists them")]
    NotFound {
        /// The device.
        device: String,
    },
    /// A kernel driver holds the PCI device.
    #[error(
        "device {device}: taken by the kernel's driver {driver}. Take its addresses down and bind it to vfio-pci: \
         modprobe vfio-pci; dpdk-devbind.py --bind=vfio-pci {device}"
    )]
    KernelOwned {
        /// The device.
        device: String,
        /// The kernel's driver.
        driver: String,
    },
    /// No driver at all holds the PCI device, so user space can't reach it.
    #[error("device {device}: bound to no driver: modprobe vfio-pci; dpdk-devbind.py --bind=vfio-pci {device}")]
    Unbound {
        /// The device.
        device: String,
    },
    /// It is attached already.
    #[error("device {device}: attached already")]
    Exists {
        /// The device.
        device: String,
    },
    /// EAL was started without the PCI bus.
    #[error("device {device}: DPDK was started with no_pci")]
    NoPci {
        /// The device.
        device: String,
    },
    /// The driver was there and failed.
    #[error("device {device}: its driver failed: {errno}: {said}")]
    DriverFailed {
        /// The device.
        device: String,
        /// DPDK's error number.
        errno: Errno,
        /// DPDK's log.
        said: String,
    },
    /// The driver attached it but made no Ethernet port.
    #[error("device {device}: attached, but it has no Ethernet port")]
    NoPort {
        /// The device.
        device: String,
    },
    /// Ports of it are still about.
    #[error("device {device}: its ports are still in use; stop and drop them first")]
    InUse {
        /// The device.
        device: String,
    },
}

impl FromStr for DeviceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let refuse = |reason| SpecError { text: text.into(), reason };
        if text.contains('\0') {
            return Err(refuse("it holds a zero byte"));
        }
        let (bus, rest) = text.split_once(':').ok_or_else(|| refuse("the bus is missing"))?;
        let (name, args) = rest.split_once(',').unwrap_or((rest, ""));
        let args = args.to_owned();
        match bus {
            "vdev" if name.is_empty() => Err(refuse("the name is missing")),
            "vdev" => Ok(Self::Vdev { name: name.into(), args }),
            "pci" => match pci::canonical(name) {
                Some(address) => Ok(Self::Pci { address, args }),
                None => Err(refuse("an address is like 0000:03:00.0")),
            },
            _ => Err(refuse("the bus is neither vdev nor pci")),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, name, args) = self.parts();
        write!(f, "{bus}:{name}")?;
        if args.is_empty() { Ok(()) } else { write!(f, ",{args}") }
    }
}

impl DeviceSpec {
    fn parts(&self) -> (&'static str, &str, &str) {
        match self {
            Self::Vdev { name, args } => ("vdev", name, args),
            Self::Pci { address, args } => ("pci", address, args),
        }
    }
}

/// An attached device. Dropped, it goes when its last port has gone.
#[derive(Debug)]
pub struct Device {
    shared: Arc<DeviceShared>,
    ports: Vec<Port<Stopped>>,
}

#[derive(Debug)]
pub(crate) struct DeviceShared {
    bus: &'static str,
    name: String,
    attached: bool,
    process: Arc<Process>,
}

impl Device {
    /// Attaches a device.
    pub fn probe(eal: &Eal, spec: &DeviceSpec) -> Result<Self, DeviceError> {
        let process = eal.process();
        let (bus, name, args) = spec.parts();
        let device = name.to_owned();
        if let DeviceSpec::Pci { address, .. } = spec {
            match pci::holder(address) {
                Holder::Dpdk => {}
                Holder::Absent => return Err(DeviceError::NotFound { device }),
                Holder::Nobody => return Err(DeviceError::Unbound { device }),
                Holder::Kernel(driver) => return Err(DeviceError::KernelOwned { device, driver }),
            }
            if !eal.has_pci() {
                return Err(DeviceError::NoPci { device });
            }
        }
        let mut attached = process.attached.lock().unwrap_or_else(PoisonError::into_inner);
        // DPDK reports success for a device that is there, and its ports would have two owners.
        if attached.contains(name) {
            return Err(DeviceError::Exists { device });
        }
        let mark = Mark::now();
        if let Err(errno) = hotplug_add(bus, name, args) {
            let said = mark.since();
            return Err(match errno {
                Errno::Exists => DeviceError::Exists { device },
                Errno::NotSupported => DeviceError::UnknownDriver { device, said },
                // A virtual device's name is only well-formed when a driver claims its beginning.
                _ if bus == "vdev" && said.contains("failed to parse device") => {
                    DeviceError::UnknownDriver { device, said }
                }
                errno => DeviceError::DriverFailed { device, errno, said },
            });
        }
        attached.insert(device.clone());
        let ids = ports_of(name);
        drop(attached);
        let shared = Arc::new(DeviceShared { bus, name: device, attached: true, process: process.clone() });
        let ports: Vec<_> = ids.into_iter().map(|id| Port::adopt(&shared, id)).collect();
        if ports.is_empty() {
            return Err(DeviceError::NoPort { device: name.into() });
        }
        Ok(Self { shared, ports })
    }

    /// The device's name or PCI address.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its ports, mostly one; empty when they were taken before.
    pub fn take_ports(&mut self) -> Vec<Port<Stopped>> {
        std::mem::take(&mut self.ports)
    }

    /// Detaches the device now, and says when that fails. Its ports must be gone.
    pub fn remove(mut self) -> Result<(), Rejected<Self, DeviceError>> {
        self.ports.clear();
        let Some(shared) = Arc::get_mut(&mut self.shared) else {
            let error = DeviceError::InUse { device: self.shared.name.clone() };
            return Err(Rejected { kept: self, error });
        };
        match shared.detach() {
            Ok(()) => Ok(()),
            Err(error) => Err(Rejected { kept: self, error }),
        }
    }
}

impl DeviceShared {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn detach(&mut self) -> Result<(), DeviceError> {
        let failed = |errno, said| DeviceError::DriverFailed { device: self.name.clone(), errno, said };
        let name = CString::new(self.name.as_str()).map_err(|_| failed(Errno::Invalid, "zero byte".into()))?;
        let bus = CString::new(self.bus).map_err(|_| failed(Errno::Invalid, "zero byte".into()))?;
        let mut attached = self.process.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = Mark::now();
        // SAFETY: EAL runs (the process is held); both strings are zero-terminated and only compared; ports hold this value,
        // so all are stopped and closed, and `attached` keeps other attaching and detaching out.
        let result = unsafe { sys::rte_eal_hotplug_remove(bus.as_ptr(), name.as_ptr()) };
        Errno::check(result).map_err(|errno| failed(errno, mark.since()))?;
        attached.remove(&self.name);
        self.attached = false;
        Ok(())
    }
}

impl Drop for DeviceShared {
    fn drop(&mut self) {
        if self.attached
            && let Err(error) = self.detach()
        {
            log::tell(LogLevel::Warning, &error.to_string());
        }
    }
}

fn hotplug_add(bus: &str, name: &str, args: &str) -> Result<(), Errno> {
    let text = |text: &str| CString::new(text).map_err(|_| Errno::Invalid);
    let (bus, name, args) = (text(bus)?, text(name)?, text(args)?);
    // SAFETY: EAL runs and `attached` is locked (the caller has both); the strings are zero-terminated and copied.
    Errno::check(unsafe { sys::rte_eal_hotplug_add(bus.as_ptr(), name.as_ptr(), args.as_ptr()) })
}

/// The Ethernet ports that belong to the device `name`. Under the lock: ports must not come or go meanwhile.
fn ports_of(name: &str) -> Vec<PortId> {
    let mut found = Vec::new();
    let mut next = 0;
    loop {
        // SAFETY: EAL runs; walks a fixed table, and any start is allowed.
        next = unsafe { sys::rte_eth_find_next(next) };
        if u32::from(next) >= sys::MP_MAX_PORTS as u32 {
            return found;
        }
        if device_name(next).as_deref() == Some(name) {
            found.push(PortId(next));
        }
        next += 1;
    }
}

fn device_name(port: u16) -> Option<String> {
    let mut info = MaybeUninit::<sys::rte_eth_dev_info>::zeroed();
    // SAFETY: `info` has room for the struct, which the call fills; a port that has gone is answered with an error.
    if unsafe { sys::rte_eth_dev_info_get(port, info.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: filled above; every bit pattern of its integers and raw pointers is valid.
    let info = unsafe { info.assume_init() };
    if info.device.is_null() {
        return None;
    }
    // SAFETY: the port exists, so its device does (attaching and detaching are locked out).
    let name = unsafe { sys::rte_dev_name(info.device) };
    if name.is_null() {
        return None;
    }
    // SAFETY: not null (above), zero-terminated, and lives as long as the device.
    Some(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_read_and_written() {
        for (text, written) in [
            ("vdev:net_null0", "vdev:net_null0"),
            ("vdev:net_af_packet0,iface=veth0,blocksz=4096", "vdev:net_af_packet0,iface=veth0,blocksz=4096"),
            ("pci:03:00.0", "pci:0000:03:00.0"),
            ("pci:0000:03:00.1,tx_queues=4", "pci:0000:03:00.1,tx_queues=4"),
        ] {
            assert_eq!(text.parse::<DeviceSpec>().unwrap().to_string(), written);
        }
    }

    #[test]
    fn other_texts_are_refused_with_the_reason() {
        for (text, reason) in [
            ("net_null0", "the bus is missing"),
            ("usb:1", "neither vdev nor pci"),
            ("vdev:,x=1", "the name is missing"),
            ("pci:eth0", "an address is like"),
            ("vdev:a\0", "zero byte"),
        ] {
            let error = text.parse::<DeviceSpec>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
