//! Where packets come from: rings in this process, devices by DPDK, or interfaces that stay the kernel's.

use std::fmt;
use std::str::FromStr;

use clap::Args;

use crate::Error;

/// A backend as it is written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Rings in this process.
    Memory,
    /// A device that DPDK drives: `vdev:NAME,ARGS` or `pci:ADDRESS`.
    Device(String),
    /// An interface that stays the kernel's: `af_xdp:IF` or `af_packet:IF`.
    Interface(String),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "memory" => Ok(Self::Memory),
            Some(("vdev" | "pci", name)) if !name.is_empty() => Ok(Self::Device(text.into())),
            Some(("af_xdp" | "af_packet", name)) if !name.is_empty() => Ok(Self::Interface(text.into())),
            _ => Err(
                "allowed memory, af_xdp:INTERFACE, af_packet:INTERFACE, vdev:NAME[,ARGUMENTS] or pci:ADDRESS (like \
                      pci:0000:03:00.0)"
                    .into(),
            ),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Device(device) | Self::Interface(device) => f.write_str(device),
        }
    }
}

/// Options that only devices need.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of devices")]
pub struct DeviceOptions {
    /// Packets in the file that a net_pcap without rx_pcap= replays for ever [default: 8192]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub file_packets: Option<u32>,
    /// Megabytes for packets and DPDK [default: what the packets need]
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u32).range(32..=65_536))]
    pub mem_mb: Option<u32>,
    /// Normal pages even where huge ones are free; about half as fast
    #[arg(long)]
    pub no_huge: bool,
}

impl DeviceOptions {
    /// Packets in a file made for a device: as many as the memory backend has buffers.
    pub fn file_packets(&self) -> u32 {
        self.file_packets.unwrap_or(crate::rig::BUFFERS as u32)
    }

    /// Refuses what would change nothing on the memory backend: its author expects something.
    pub fn refuse(&self) -> Result<(), Error> {
        let given = [
            ("file-packets", self.file_packets.map(|n| n.to_string())),
            ("mem-mb", self.mem_mb.map(|n| n.to_string())),
            ("no-huge", self.no_huge.then(|| "it".into())),
        ];
        for (option, found) in given {
            if let Some(found) = found {
                return Err(Error::Option { option, found, allowed: "nothing: the memory backend has none".into() });
            }
        }
        Ok(())
    }
}

/// The devices of a list of backends in the order lan, wan; none for memory. Mixing them, or naming more than two, is refused.
pub fn devices(backends: &[Source]) -> Result<Vec<String>, Error> {
    let refuse = |allowed: &str| {
        let found = backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        Err(Error::Option { option: "backend", found, allowed: allowed.into() })
    };
    match backends {
        [] | [Source::Memory] => Ok(Vec::new()),
        [Source::Device(one) | Source::Interface(one)] => Ok(vec![one.clone()]),
        [Source::Device(lan), Source::Device(wan)] | [Source::Interface(lan), Source::Interface(wan)] => {
            if lan == wan {
                return refuse("two different devices, the first towards servers");
            }
            Ok(vec![lan.clone(), wan.clone()])
        }
        [Source::Memory, _] | [_, Source::Memory] => refuse("memory alone, or devices"),
        [_, _] => refuse("two devices of DPDK, or two interfaces of the kernel"),
        _ => refuse("one device, or two: the first towards servers, the second towards clients"),
    }
}

/// Whether these devices, of one kind, are interfaces that stay the kernel's.
pub fn are_interfaces(devices: &[String]) -> bool {
    devices.iter().any(|device| matches!(device.parse(), Ok(Source::Interface(_))))
}

/// What a build without DPDK says to devices.
#[cfg(not(feature = "dpdk"))]
pub fn no_devices(devices: &[String]) -> Error {
    Error::Option {
        option: "backend",
        found: devices.join(" and "),
        allowed: "memory, af_xdp:INTERFACE or af_packet:INTERFACE: this marchproxy-perf was built without the cargo feature `dpdk`".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_read_and_refused_by_name() {
        for text in [
            "memory",
            "vdev:net_pcap0,rx_pcap=a.pcap,infinite_rx=1",
            "pci:0000:03:00.0",
            "af_xdp:eth0",
            "af_packet:eth0",
        ] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        for (text, word) in [("af_xdp:", "af_xdp:INTERFACE"), ("pci", "pci:ADDRESS"), ("vdev:", "vdev:NAME")] {
            assert!(text.parse::<Source>().unwrap_err().contains(word), "{text}");
        }
    }

    #[test]
    fn one_device_or_two() {
        let device = |name: &str| Source::Device(name.into());
        let interface = |name: &str| Source::Interface(name.into());
        assert_eq!(devices(&[interface("af_xdp:a"), interface("af_packet:b")]).unwrap(), ["af_xdp:a", "af_packet:b"]);
        assert!(are_interfaces(&["af_packet:b".into()]) && !are_interfaces(&["vdev:a".into()]) && !are_interfaces(&[]));
        assert_eq!(devices(&[]).unwrap(), [""; 0]);
        assert_eq!(devices(&[Source::Memory]).unwrap(), [""; 0]);
        assert_eq!(devices(&[device("vdev:a"), device("vdev:b")]).unwrap(), ["vdev:a", "vdev:b"]);
        for (backends, word) in [
            (vec![device("vdev:a"), device("vdev:a")], "different"),
            (vec![Source::Memory, device("vdev:a")], "memory alone"),
            (vec![interface("af_xdp:a"), device("vdev:a")], "two interfaces of the kernel"),
            (vec![interface("af_xdp:a"), interface("af_xdp:a")], "different"),
            (vec![device("vdev:a"), device("vdev:b"), device("vdev:c")], "one device, or two"),
        ] {
            let error = devices(&backends).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("--backend"), "{error}");
        }
    }
}
