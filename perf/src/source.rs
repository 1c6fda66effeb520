//! Where packets come from: rings in this process, or devices by DPDK.

use std::fmt;
use std::str::FromStr;

/// A backend as it is written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Rings in this process.
    Memory,
    /// A device that DPDK drives: `vdev:NAME,ARGS` or `pci:ADDRESS`.
    Device(String),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "memory" => Ok(Self::Memory),
            Some(("vdev" | "pci", name)) if !name.is_empty() => Ok(Self::Device(text.into())),
            Some(("af_xdp", _)) => {
                Err("af_xdp: not built yet; `vdev:net_af_xdp0,iface=IF` reaches AF_XDP through DPDK".into())
            }
            _ => Err("allowed memory, vdev:NAME[,ARGUMENTS] or pci:ADDRESS (like pci:0000:03:00.0)".into()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Device(device) => f.write_str(device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_read_and_refused_by_name() {
        for text in ["memory", "vdev:net_pcap0,rx_pcap=a.pcap,infinite_rx=1", "pci:0000:03:00.0"] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        for (text, word) in [("af_xdp:eth0", "not built yet"), ("pci", "pci:ADDRESS"), ("vdev:", "vdev:NAME")] {
            assert!(text.parse::<Source>().unwrap_err().contains(word), "{text}");
        }
    }
}
