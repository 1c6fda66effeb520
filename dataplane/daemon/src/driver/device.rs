//! The device string of a port: which backend it asks for, and what that backend opens.

use std::str::FromStr;

use marchproxy_engine::tables::{PortSpec, RuleTables};

/// A device the DPDK backend drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A PCI function, `DOMAIN:BUS:DEVICE.FUNCTION`.
    Pci(String),
    /// A virtual device.
    Vdev {
        /// EAL's device arguments: `net_af_packet0,iface=eth1`.
        arguments: String,
        /// Its name alone: `net_af_packet0`.
        name: String,
        /// The kernel interface behind it (`iface=`), if any.
        interface: Option<String>,
    },
}

/// Why a device string was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not one of the forms.
    #[error("device {found:?} is not a device, allowed: pci:DDDD:BB:DD.F or vdev:NAME,ARGUMENTS")]
    Unknown {
        /// The string.
        found: String,
    },
    /// A form that later releases serve.
    #[error("device {found:?}: {kind}: is not available in this release; use vdev:net_af_packet0,iface={interface}")]
    NotYet {
        /// The string.
        found: String,
        /// Its kind.
        kind: &'static str,
        /// The interface it names.
        interface: String,
    },
    /// Not the address of a PCI function.
    #[error("device {found:?} is no PCI address, allowed: pci:DDDD:BB:DD.F in hexadecimal, e.g. pci:0000:03:00.0")]
    Pci {
        /// The string.
        found: String,
    },
    /// Not the name of a virtual device.
    #[error(
        "device {found:?} names no virtual device, allowed: vdev:net_DRIVER followed by a number and arguments, \
         e.g. vdev:net_af_packet0,iface=eth1"
    )]
    Vdev {
        /// The string.
        found: String,
    },
    /// The interface behind a virtual device does not exist.
    #[error("device {found:?}: interface {interface:?} does not exist in this network namespace")]
    NoInterface {
        /// The string.
        found: String,
        /// The interface.
        interface: String,
    },
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let found = || text.to_owned();
        let not_yet = |kind, interface: &str| DeviceError::NotYet { found: found(), kind, interface: interface.into() };
        match text.split_once(':') {
            Some(("pci", address)) if is_pci(address) => Ok(Self::Pci(address.to_ascii_lowercase())),
            Some(("pci", _)) => Err(DeviceError::Pci { found: found() }),
            Some(("vdev", arguments)) => vdev(arguments).ok_or_else(|| DeviceError::Vdev { found: found() }),
            Some(("auto", interface)) => Err(not_yet("auto", interface)),
            Some(("af_xdp", interface)) => Err(not_yet("af_xdp", interface)),
            Some(("af_packet", interface)) => Err(not_yet("af_packet", interface)),
            _ => Err(DeviceError::Unknown { found: found() }),
        }
    }
}

impl Device {
    /// As EAL wants it.
    pub fn arguments(&self) -> &str {
        match self {
            Self::Pci(address) => address,
            Self::Vdev { arguments, .. } => arguments,
        }
    }

    /// Looks whether the interface behind a virtual device exists in this network namespace.
    pub fn check_interface(&self) -> Result<(), DeviceError> {
        match self {
            Self::Vdev { arguments, interface: Some(interface), .. }
                if nix::net::if_::if_nametoindex(interface.as_str()).is_err() =>
            {
                Err(DeviceError::NoInterface { found: format!("vdev:{arguments}"), interface: interface.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// The backend a device string asks for, whether it is there or not.
fn backend(device: &str) -> &'static str {
    match device.split_once(':').map(|(kind, _)| kind) {
        Some("pci" | "vdev") => "dpdk",
        Some("af_xdp") => "af_xdp",
        Some("af_packet") => "af_packet",
        Some("auto") => "auto",
        _ => "unknown",
    }
}

/// Every port's device, or why the tables are refused: one user-space backend drives all ports of a node, no device twice.
pub fn checked_devices(tables: &RuleTables) -> Result<Vec<Device>, String> {
    if let Some(first) = tables.ports.first()
        && let Some(other) = tables.ports.iter().find(|port| backend(&port.device) != backend(&first.device))
    {
        let name =
            |port: &PortSpec| format!("port {} (device {:?}, {})", port.name, port.device, backend(&port.device));
        return Err(format!("{} and {}: all ports of a node share one backend", name(first), name(other)));
    }
    let mut devices: Vec<Device> = Vec::with_capacity(tables.ports.len());
    for port in &tables.ports {
        let device: Device = port.device.parse().map_err(|error| format!("port {}: {error}", port.name))?;
        if let Some(position) = devices.iter().position(|other| other.clashes(&device)) {
            let other = tables.ports.get(position).map_or("", |port| port.name.as_str());
            return Err(format!("port {}: device {:?} is port {other}'s already", port.name, port.device));
        }
        devices.push(device);
    }
    Ok(devices)
}

impl Device {
    /// Whether both are one device.
    pub fn clashes(&self, other: &Device) -> bool {
        match (self, other) {
            (Self::Pci(a), Self::Pci(b)) => a == b,
            (Self::Vdev { name: a, interface: x, .. }, Self::Vdev { name: b, interface: y, .. }) => {
                a == b || (x.is_some() && x == y)
            }
            _ => false,
        }
    }
}

fn is_pci(address: &str) -> bool {
    let hex = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    let mut parts = address.split([':', '.']);
    let shape = [4, 2, 2, 1].iter().all(|&digits| parts.next().is_some_and(|part| hex(part, digits)));
    shape && parts.next().is_none() && address.as_bytes().get(10) == Some(&b'.')
}

fn vdev(arguments: &str) -> Option<Device> {
    let name = arguments.split(',').next()?;
    let driver = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let named = driver.strip_prefix("net_").is_some_and(|rest| !rest.is_empty()) && driver.len() < name.len();
    if !named || !name.bytes().all(good) || arguments.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control()) {
        return None;
    }
    let interface = arguments.split(',').find_map(|part| part.strip_prefix("iface=")).map(str::to_owned);
    Some(Device::Vdev { arguments: arguments.into(), name: name.into(), interface })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(devices: &[&str]) -> RuleTables {
        let port =
            |(i, device): (usize, &&str)| PortSpec { name: format!("p{i}"), device: (*device).into(), mtu: 1500 };
        RuleTables { ports: devices.iter().enumerate().map(port).collect(), ..RuleTables::default() }
    }

    #[test]
    fn devices_that_exist() {
        assert_eq!("pci:0000:3B:00.1".parse(), Ok(Device::Pci("0000:3b:00.1".into())));
        let device: Device = "vdev:net_af_packet0,iface=eth1,qpairs=1".parse().unwrap();
        assert_eq!(device.arguments(), "net_af_packet0,iface=eth1,qpairs=1");
        assert!(
            matches!(device, Device::Vdev { ref name, interface: Some(ref i), .. } if name == "net_af_packet0" && i == "eth1")
        );
        assert!("vdev:net_null0".parse::<Device>().is_ok());
    }

    #[test]
    fn refusals_say_what_is_allowed() {
        let table = [
            ("eth1", "is not a device"),
            ("dpdk:0", "is not a device"),
            ("auto:eth1", "auto: is not available in this release; use vdev:net_af_packet0,iface=eth1"),
            ("af_xdp:eth1", "af_xdp: is not available in this release; use vdev:net_af_packet0,iface=eth1"),
            ("af_packet:eth1", "af_packet: is not available in this release; use vdev:net_af_packet0,iface=eth1"),
            ("pci:03:00.0", "is no PCI address"),
            ("pci:0000:03:00:0", "is no PCI address"),
            ("pci:0000:03:00.0.1", "is no PCI address"),
            ("vdev:", "names no virtual device"),
            ("vdev:net_null", "names no virtual device"),
            ("vdev:crypto_null0", "names no virtual device"),
            ("vdev:net_null0 --x", "names no virtual device"),
        ];
        for (text, wanted) in table {
            let error = text.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains(wanted) && error.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn one_backend_and_no_device_twice() {
        assert_eq!(checked_devices(&ports(&["pci:0000:03:00.0", "vdev:net_null0"])).unwrap().len(), 2);
        let table: &[(&[&str], &str)] = &[
            (
                &["vdev:net_null0", "af_xdp:eth1"],
                "port p0 (device \"vdev:net_null0\", dpdk) and port p1 (device \"af_xdp:eth1\", af_xdp)",
            ),
            (&["auto:eth1"], "port p0: device \"auto:eth1\": auto: is not available"),
            (&["vdev:net_null0", "vdev:net_null0,size=64"], "is port p0's already"),
            (&["vdev:net_af_packet0,iface=a", "vdev:net_af_packet1,iface=a"], "is port p0's already"),
            (&["pci:0000:03:00.0", "pci:0000:03:00.0"], "is port p0's already"),
        ];
        for (devices, wanted) in table {
            let error = checked_devices(&ports(devices)).unwrap_err();
            assert!(error.contains(wanted), "{devices:?}: {error}");
        }
    }

    #[test]
    fn the_interface_behind_must_exist() {
        assert_eq!("vdev:net_af_packet0,iface=lo".parse::<Device>().unwrap().check_interface(), Ok(()));
        let error = "vdev:net_af_packet0,iface=nope9".parse::<Device>().unwrap().check_interface().unwrap_err();
        assert!(error.to_string().contains("interface \"nope9\" does not exist"), "{error}");
    }
}
