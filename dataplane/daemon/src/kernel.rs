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
const CAPABILITIES: [(&str, u32); 5] =
    [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_IPC_LOCK", 14), ("CAP_SYS_NICE", 23), ("CAP_BPF", 39)];

/// The ones of `CAP_NET_ADMIN`, `CAP_NET_RAW`, `CAP_IPC_LOCK`, `CAP_SYS_NICE`, `CAP_BPF` that this process lacks.
pub fn missing_capabilities() -> Vec<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok()).unwrap_or(0);
    CAPABILITIES.iter().filter(|(_, bit)| effective & (1 << bit) == 0).map(|(name, _)| *name).collect()
}

/// The addresses of this network namespace's interfaces.
pub fn kernel_addresses() -> Result<Vec<IpAddr>, nix::Error> {
    Ok(interface_addresses()?.into_iter().map(|(_, address)| address).collect())
}

fn interface_addresses() -> Result<Vec<(String, IpAddr)>, nix::Error> {
    let address = |entry: nix::ifaddrs::InterfaceAddress| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        v4.or(v6).map(|ip| (entry.interface_name, ip))
    };
    Ok(getifaddrs()?.filter_map(address).collect())
}

/// Why an interface is the one by which this host is managed, if it is: a default route leads out of it, or somebody is logged in over
/// it.
pub fn management(interface: &str) -> Option<String> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
    if leads_out(&read("route"), &read("ipv6_route"), interface) {
        return Some("a default route leads out of it".into());
    }
    let mut peers = read("tcp").lines().chain(read("tcp6").lines()).filter_map(logged_in).collect::<Vec<_>>();
    peers.dedup();
    let own = interface_addresses().unwrap_or_default();
    let over = own.iter().find(|(name, address)| name == interface && peers.contains(address));
    over.map(|(_, address)| format!("somebody is logged in to {address} by SSH"))
}

/// Whether one of the kernel's routing tables has a default route by the interface.
fn leads_out(v4: &str, v6: &str, interface: &str) -> bool {
    let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    // Interface, destination, ..., mask.
    let in_v4 = |f: &[String]| {
        f.first().is_some_and(|name| name == interface)
            && f.get(1).is_some_and(|to| to == "00000000")
            && f.get(7).is_some_and(|mask| mask == "00000000")
    };
    // Destination, its length, ..., flags, interface. Routes that refuse packets name the loopback.
    let in_v6 = |f: &[String]| {
        f.get(9).is_some_and(|name| name == interface)
            && f.first().is_some_and(|to| to.bytes().all(|digit| digit == b'0'))
            && f.get(1).is_some_and(|length| length == "00")
    };
    v4.lines().any(|line| in_v4(&fields(line))) || v6.lines().any(|line| in_v6(&fields(line)))
}

/// Our address of an established TCP connection to port 22.
fn logged_in(line: &str) -> Option<IpAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, state) = (fields.next()?, fields.nth(1)?);
    let (address, port) = local.split_once(':')?;
    if state != "01" || port != "0016" {
        return None;
    }
    // Words of four octets, each as the machine reads it.
    let words: Option<Vec<[u8; 4]>> = address
        .as_bytes()
        .chunks(8)
        .map(|word| Some(u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?.to_ne_bytes()))
        .collect();
    let octets = words?.concat();
    match octets.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?).to_canonical()),
        _ => None,
    }
}

/// Refuses tables with an address that an interface of this network namespace carries: both would answer for it.
pub fn check_addresses(tables: &RuleTables) -> Result<(), String> {
    let theirs = interface_addresses().map_err(|error| format!("the kernel's addresses could not be read: {error}"))?;
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
    fn the_interface_of_default_route_and_login_is_the_managements() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth1\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 1 0 00000003 eth2\n\
                          {zero} 00 {zero} 00 {zero} ffffffff 1 0 00200200 lo\n"
        );
        for (interface, wanted) in [("eth0", true), ("eth1", false), ("eth2", true), ("eth3", false)] {
            assert_eq!(leads_out(v4, &v6, interface), wanted, "{interface}");
        }
        let line = |local: &str, state: &str| format!("   0: {local} 0700A8C0:D431 {state} 00000000:00000000 00:0 0 0");
        assert_eq!(logged_in(&line("0100007F:0016", "01")), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(logged_in(&line("0000000000000000FFFF00000100007F:0016", "01")), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(
            logged_in(&line("B80D0120000000000000000001000000:0016", "01")),
            Some("2001:db8::1".parse().unwrap())
        );
        assert_eq!(logged_in(&line("0100007F:0016", "0A")), None, "listening");
        assert_eq!(logged_in(&line("0100007F:01BB", "01")), None, "another port");
    }

    #[test]
    fn free_pages_are_part_of_all_pages() {
        assert!(free_hugepages_mb() <= total_hugepages_mb());
    }
}
