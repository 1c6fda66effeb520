//! What the kernel says about a PCI device, asked before DPDK is: its refusals do not say why.

use std::fs;
use std::path::Path;

/// Who holds a PCI device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// No such device.
    Absent,
    /// A driver DPDK works through.
    Dpdk,
    /// No driver.
    Nobody,
    /// A driver of the kernel.
    Kernel(String),
}

/// Drivers that hand a device to user space, and those of NICs that DPDK shares with the kernel.
const USABLE: [&str; 5] = ["vfio-pci", "uio_pci_generic", "igb_uio", "mlx5_core", "mlx4_core"];

pub(crate) fn holder(address: &str) -> Holder {
    holder_under(Path::new("/sys/bus/pci/devices"), address)
}

fn holder_under(devices: &Path, address: &str) -> Holder {
    let device = devices.join(address);
    if !device.exists() {
        return Holder::Absent;
    }
    match fs::read_link(device.join("driver")).ok().as_deref().and_then(Path::file_name) {
        None => Holder::Nobody,
        Some(driver) if USABLE.iter().any(|usable| driver == *usable) => Holder::Dpdk,
        Some(driver) => Holder::Kernel(driver.to_string_lossy().into_owned()),
    }
}

/// The address with its domain, lower case, as the kernel and DPDK write it; `None` when it is none.
pub(crate) fn canonical(address: &str) -> Option<String> {
    let (rest, function) = address.rsplit_once('.')?;
    let mut parts = rest.rsplit(':');
    let (device, bus, domain) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
    if parts.next().is_some() {
        return None;
    }
    let number = |text: &str, max: u32| {
        // from_str_radix takes a sign, an address has none.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u32::from_str_radix(text, 16).ok().filter(|value| digits && *value <= max)
    };
    let (domain, bus) = (number(domain, u32::MAX)?, number(bus, 0xff)?);
    Some(format!("{domain:04x}:{bus:02x}:{:02x}.{}", number(device, 0x1f)?, number(function, 7)?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn addresses_are_completed_or_refused() {
        for (given, canonical_form) in [
            ("0000:03:00.0", Some("0000:03:00.0")),
            ("03:00.1", Some("0000:03:00.1")),
            ("3:0.1", Some("0000:03:00.1")),
            ("10000:E1:1F.7", Some("10000:e1:1f.7")),
            ("03:20.0", None),
            ("03:00.8", None),
            ("03:00", None),
            ("1:2:3:4.0", None),
            ("+3:00.0", None),
            ("", None),
        ] {
            assert_eq!(canonical(given).as_deref(), canonical_form, "{given}");
        }
    }

    #[test]
    fn the_holder_is_read_from_sysfs() {
        let root = std::env::temp_dir().join(format!("marchproxy-pci-{}", std::process::id()));
        for (address, driver) in
            [("0000:01:00.0", Some("ixgbe")), ("0000:02:00.0", Some("vfio-pci")), ("0000:03:00.0", None)]
        {
            fs::create_dir_all(root.join(address)).unwrap();
            if let Some(driver) = driver {
                symlink(Path::new("../../../bus/pci/drivers").join(driver), root.join(address).join("driver")).unwrap();
            }
        }
        assert_eq!(holder_under(&root, "0000:01:00.0"), Holder::Kernel("ixgbe".into()));
        assert_eq!(holder_under(&root, "0000:02:00.0"), Holder::Dpdk);
        assert_eq!(holder_under(&root, "0000:03:00.0"), Holder::Nobody);
        assert_eq!(holder_under(&root, "0000:04:00.0"), Holder::Absent);
        fs::remove_dir_all(&root).unwrap();
    }
}
