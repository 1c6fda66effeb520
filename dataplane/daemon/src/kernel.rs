//! What belongs to the kernel and must not be ours too: addresses. And what it grants: huge pages, rights.

use std::net::IpAddr;

use marchproxy_engine::tables::RuleTables;
use nix::ifaddrs::getifaddrs;

/// Megabytes in free huge pages of every size.
pub fn free_hugepages_mb() -> u64 {
    hugepages("free_hugepages")
}

/// Megabytes in huge pages of every size, used or not.
pub fn total_hugepages_mb() -> u64 {
    hugepages("nr_hugepages")
}

fn hugepages(file: &str) -> u64 {
    let Ok(sizes) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    let size = |entry: std::fs::DirEntry| {
        let kilobytes: u64 =
            entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages: u64 = std::fs::read_to_string(entry.path().join(file)).ok()?.trim().parse().ok()?;
        Some(kilobytes * pages / 1024)
    };
    sizes.flatten().filter_map(size).sum()
}

/// Capabilities that decide what this process may open, by bit number (capabilities(7)).
const CAPABILITIES: [(&str, u32); 4] =
    [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_IPC_LOCK", 14), ("CAP_SYS_NICE", 23)];

/// The ones of `CAP_NET_ADMIN`, `CAP_NET_RAW`, `CAP_IPC_LOCK`, `CAP_SYS_NICE` that this process lacks.
pub fn missing_capabilities() -> Vec<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok()).unwrap_or(0);
    CAPABILITIES.iter().filter(|(_, bit)| effective & (1 << bit) == 0).map(|(name, _)| *name).collect()
}

/// Refuses tables with an address that an interface of this network namespace carries: both would answer for it.
pub fn check_addresses(tables: &RuleTables) -> Result<(), String> {
    let theirs: Vec<(String, IpAddr)> = getifaddrs()
        .map_err(|error| format!("the kernel's addresses could not be read: {error}"))?
        .filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            let v6 = address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
            v4.or(v6).map(|ip| (entry.interface_name, ip))
        })
        .collect();
    let ours = tables.interfaces.iter().flat_map(|interface| {
        interface.addresses.iter().map(move |cidr| (format!("interface {}", interface.name), cidr.addr))
    });
    let virtuals = tables
        .services
        .iter()
        .flat_map(|service| service.addresses.iter().map(move |&ip| (format!("service {}", service.name), ip)));
    for (object, address) in ours.chain(virtuals) {
        if let Some((device, _)) = theirs.iter().find(|(_, theirs)| *theirs == address) {
            return Err(format!(
                "{object}: address {address} is configured in the kernel on {device}, allowed: addresses that only the \
                 document has; remove it with: ip address del {address} dev {device}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use marchproxy_engine::tables::{Cidr, InterfaceSpec};

    fn tables(address: &str) -> RuleTables {
        let addresses = vec![Cidr { addr: address.parse().unwrap(), len: 24 }];
        let name = "wan0".to_owned();
        let interface =
            InterfaceSpec { name, port: 0, vlan: None, addresses, table: 0, trust_dscp: true, ..Default::default() };
        RuleTables { interfaces: vec![interface], ..RuleTables::default() }
    }

    #[test]
    fn the_kernels_addresses_are_refused() {
        let error = check_addresses(&tables("127.0.0.1")).unwrap_err();
        assert!(error.contains("interface wan0: address 127.0.0.1") && error.contains("on lo"), "{error}");
        assert_eq!(check_addresses(&tables("203.0.113.77")), Ok(()));
    }

    #[test]
    fn free_pages_are_part_of_all_pages() {
        assert!(free_hugepages_mb() <= total_hugepages_mb());
    }
}
