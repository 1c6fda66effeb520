//! Where devices sit, from sysfs: the kernel knows it for every PCI device, whichever driver has it.

use std::path::Path;

use super::PortPlace;
use crate::driver::Device;

/// The NUMA node of a port's device; `None` for virtual ones and where firmware does not say.
pub fn node_of_device(device: &Device) -> Option<u32> {
    match device {
        Device::Pci(address) => node(&Path::new("/sys/bus/pci/devices").join(address)),
        other => node(&Path::new("/sys/class/net").join(other.interface()?).join("device")),
    }
}

/// Every network device on the PCI bus (class 02), for a start without tables.
pub fn host_nics() -> Vec<PortPlace> {
    let Ok(entries) = std::fs::read_dir("/sys/bus/pci/devices") else { return Vec::new() };
    let nic = |entry: std::fs::DirEntry| {
        let class = std::fs::read_to_string(entry.path().join("class")).ok()?;
        let address = entry.file_name().into_string().ok()?;
        class.starts_with("0x02").then(|| PortPlace { label: format!("NIC {address}"), node: node(&entry.path()) })
    };
    let mut nics: Vec<PortPlace> = entries.flatten().filter_map(nic).collect();
    nics.sort_unstable_by(|a, b| a.label.cmp(&b.label));
    nics
}

/// `numa_node` of a device directory; -1 means unknown.
fn node(device: &Path) -> Option<u32> {
    std::fs::read_to_string(device.join("numa_node")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_and_absent_devices_have_no_node() {
        for text in ["vdev:net_null0", "vdev:net_af_packet0,iface=lo", "pci:ffff:00:00.0"] {
            assert_eq!(node_of_device(&text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn nodes_are_read_and_minus_one_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        for (text, wanted) in [("1\n", Some(1)), ("-1\n", None), ("", None)] {
            std::fs::write(dir.path().join("numa_node"), text).unwrap();
            assert_eq!(node(dir.path()), wanted);
        }
    }
}
