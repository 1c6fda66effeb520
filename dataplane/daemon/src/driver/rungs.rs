//! The ways packets can come, best first, and why a port did not get a better one.

use marchproxy_sockets::{DriverInfo, Interface};

/// Kernel drivers that leave the interface with the kernel while DPDK drives the same device.
const BIFURCATED: [&str; 4] = ["mlx4_core", "mlx5_core", "mlx4_en", "mana"];

/// The way of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// `dpdk`, `af_xdp_zero_copy`, `af_xdp_copy`, `af_packet`.
    pub tier: &'static str,
    /// What an operator should know about it.
    pub note: String,
    /// Better ways that were tried, or could not be.
    pub passed_over: Vec<PassedOver>,
}

/// A way that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// Its name.
    pub tier: &'static str,
    /// Why not.
    pub reason: String,
}

/// The PCI address under which DPDK can drive an interface while the kernel keeps it, or why it can't.
pub fn dpdk_rung(interface: &str) -> Result<String, String> {
    if !cfg!(feature = "dpdk") {
        return Err("this build has no DPDK".into());
    }
    let found = Interface::find(interface).map_err(|error| error.to_string())?;
    shared_with_kernel(&found.driver())
}

fn shared_with_kernel(DriverInfo { driver, bus }: &DriverInfo) -> Result<String, String> {
    let pci = bus.len() == 12 && bus.as_bytes().get(10) == Some(&b'.');
    match driver.as_str() {
        driver if pci && BIFURCATED.contains(&driver) => Ok(bus.clone()),
        driver if pci => Err(format!(
            "the kernel's driver {driver} has the device; DPDK would have to take it away: dpdk-devbind.py --bind=vfio-pci {bus}, and \
             device pci:{bus}"
        )),
        "" => Err("the kernel does not say which driver has the device".into()),
        driver => Err(format!(
            "{driver} is no PCI device; DPDK reaches it by vdev:net_af_packet0,iface=... only, which is no faster"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpdk_takes_no_interface_away_from_the_kernel() {
        let info = |driver: &str, bus: &str| DriverInfo { driver: driver.into(), bus: bus.into() };
        assert_eq!(shared_with_kernel(&info("mlx5_core", "0000:3b:00.1")), Ok("0000:3b:00.1".into()));
        let table = [
            (info("ixgbe", "0000:03:00.0"), "ixgbe has the device; DPDK would have to take it away"),
            (info("veth", ""), "veth is no PCI device"),
            (info("virtio_net", "virtio0"), "virtio_net is no PCI device"),
            (info("", ""), "does not say"),
        ];
        for (info, wanted) in table {
            let reason = shared_with_kernel(&info).unwrap_err();
            assert!(reason.contains(wanted), "{info:?}: {reason}");
        }
    }
}
