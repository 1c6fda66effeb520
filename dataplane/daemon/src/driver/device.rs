//! The device string of a port: which backend it asks for, and what that backend opens.

use std::fmt;
use std::str::FromStr;

use marchproxy_engine::tables::{PortSpec, RuleTables};

/// A device as the document names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A kernel's interface, by the best way there is.
    Auto {
        /// Its name.
        interface: String,
    },
    /// A kernel's interface through AF_XDP.
    AfXdp {
        /// Its name.
        interface: String,
    },
    /// A kernel's interface through af_packet.
    AfPacket {
        /// Its name.
        interface: String,
    },
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
    #[error(
        "device {found:?} is not a device, allowed: auto:IF, af_xdp:IF, af_packet:IF, pci:DDDD:BB:DD.F or vdev:NAME,ARGUMENTS"
    )]
    Unknown {
        /// The string.
        found: String,
    },
    /// Not the name of an interface.
    #[error(
        "device {found:?} names no interface, allowed: a name of 1 to 15 characters without '/', ':' and spaces, e.g. auto:eth1"
    )]
    Name {
        /// The string.
        found: String,
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
    /// The interface does not exist.
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
        let named = |interface: &str| {
            let good = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':');
            let fits = (1..=15).contains(&interface.len()) && interface.chars().all(good);
            fits.then(|| interface.to_owned()).ok_or_else(|| DeviceError::Name { found: found() })
        };
        match text.split_once(':') {
            Some(("pci", address)) if is_pci(address) => Ok(Self::Pci(address.to_ascii_lowercase())),
            Some(("pci", _)) => Err(DeviceError::Pci { found: found() }),
            Some(("vdev", arguments)) => vdev(arguments).ok_or_else(|| DeviceError::Vdev { found: found() }),
            Some(("auto", interface)) => Ok(Self::Auto { interface: named(interface)? }),
            Some(("af_xdp", interface)) => Ok(Self::AfXdp { interface: named(interface)? }),
            Some(("af_packet", interface)) => Ok(Self::AfPacket { interface: named(interface)? }),
            _ => Err(DeviceError::Unknown { found: found() }),
        }
    }
}

/// What drives the ports of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// DPDK's poll-mode drivers.
    Dpdk,
    /// AF_XDP and af_packet sockets.
    Sockets,
}

impl Kind {
    /// The name shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dpdk => "dpdk",
            Self::Sockets => "sockets",
        }
    }
}

impl Device {
    /// The backend it asks for; `None` for one that takes any.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Pci(_) | Self::Vdev { .. } => Some(Kind::Dpdk),
            Self::AfXdp { .. } | Self::AfPacket { .. } => Some(Kind::Sockets),
            Self::Auto { .. } => None,
        }
    }

    /// The kernel's interface, where there is one.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::Auto { interface } | Self::AfXdp { interface } | Self::AfPacket { interface } => Some(interface),
            Self::Vdev { interface, .. } => interface.as_deref(),
            Self::Pci(_) => None,
        }
    }

    /// Looks whether the interface behind it exists in this network namespace.
    pub fn check_interface(&self) -> Result<(), DeviceError> {
        match self.interface() {
            Some(interface) if nix::net::if_::if_nametoindex(interface).is_err() => {
                Err(DeviceError::NoInterface { found: self.to_string(), interface: interface.into() })
            }
            _ => Ok(()),
        }
    }

    /// Whether both are one device.
    pub fn clashes(&self, other: &Device) -> bool {
        let same_interface = self.interface().is_some() && self.interface() == other.interface();
        match (self, other) {
            (Self::Pci(a), Self::Pci(b)) => a == b,
            (Self::Vdev { name: a, .. }, Self::Vdev { name: b, .. }) => a == b || same_interface,
            _ => same_interface,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto { interface } => write!(f, "auto:{interface}"),
            Self::AfXdp { interface } => write!(f, "af_xdp:{interface}"),
            Self::AfPacket { interface } => write!(f, "af_packet:{interface}"),
            Self::Pci(address) => write!(f, "pci:{address}"),
            Self::Vdev { arguments, .. } => write!(f, "vdev:{arguments}"),
        }
    }
}

/// Every port's device, or why the tables are refused: one user-space backend drives all ports of a node, no device twice.
pub fn checked_devices(tables: &RuleTables) -> Result<Vec<Device>, String> {
    let mut devices: Vec<Device> = Vec::with_capacity(tables.ports.len());
    for port in &tables.ports {
        let device: Device = port.device.parse().map_err(|error| format!("port {}: {error}", port.name))?;
        if let Some(position) = devices.iter().position(|other| other.clashes(&device)) {
            let other = tables.ports.get(position).map_or("", |port| port.name.as_str());
            return Err(format!("port {}: device {:?} is port {other}'s already", port.name, port.device));
        }
        devices.push(device);
    }
    let mut decided = tables.ports.iter().zip(&devices).filter_map(|(port, device)| Some((port, device.kind()?)));
    if let Some((first, kind)) = decided.next()
        && let Some((other, another)) = decided.find(|(_, other)| *other != kind)
    {
        let name =
            |port: &PortSpec, kind: Kind| format!("port {} (device {:?}, {})", port.name, port.device, kind.name());
        let (first, other) = (name(first, kind), name(other, another));
        return Err(format!("{first} and {other}: all ports of a node share one backend"));
    }
    Ok(devices)
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

/// Ports on these devices.
#[cfg(test)]
pub(crate) fn ports(devices: &[&str]) -> RuleTables {
    let port = |(i, device): (usize, &&str)| PortSpec { name: format!("p{i}"), device: (*device).into(), mtu: 1500 };
    RuleTables { ports: devices.iter().enumerate().map(port).collect(), ..RuleTables::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_exist() {
        assert_eq!("pci:0000:3B:00.1".parse(), Ok(Device::Pci("0000:3b:00.1".into())));
        let device: Device = "vdev:net_af_packet0,iface=eth1,qpairs=1".parse().unwrap();
        assert_eq!(device.to_string(), "vdev:net_af_packet0,iface=eth1,qpairs=1");
        assert!(
            matches!(device, Device::Vdev { ref name, interface: Some(ref i), .. } if name == "net_af_packet0" && i == "eth1")
        );
        assert!("vdev:net_null0".parse::<Device>().is_ok());
        for (text, kind) in
            [("auto:eth1", None), ("af_xdp:eth1", Some(Kind::Sockets)), ("af_packet:eth1", Some(Kind::Sockets))]
        {
            let device: Device = text.parse().unwrap();
            assert_eq!((device.to_string().as_str(), device.interface(), device.kind()), (text, Some("eth1"), kind));
        }
    }

    #[test]
    fn refusals_say_what_is_allowed() {
        let table = [
            ("eth1", "is not a device"),
            ("dpdk:0", "is not a device"),
            ("auto:", "names no interface"),
            ("af_xdp:a/b", "names no interface"),
            ("af_packet:0123456789abcdef", "names no interface"),
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
        for together in [
            ["pci:0000:03:00.0", "vdev:net_null0"],
            ["af_xdp:eth1", "af_packet:eth2"],
            ["auto:eth1", "pci:0000:03:00.0"],
        ] {
            assert_eq!(checked_devices(&ports(&together)).unwrap().len(), 2, "{together:?}");
        }
        let table: &[(&[&str], &str)] = &[
            (
                &["vdev:net_null0", "af_xdp:eth1"],
                "port p0 (device \"vdev:net_null0\", dpdk) and port p1 (device \"af_xdp:eth1\", sockets)",
            ),
            (&["auto:eth1", "af_xdp:eth1"], "is port p0's already"),
            (&["vdev:net_af_packet0,iface=eth1", "auto:eth1"], "is port p0's already"),
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
