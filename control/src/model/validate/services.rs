//! Services and their backends.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use marchproxy_engine::tables::{PortRange, ServiceProtocol};
use marchproxy_proto::v1::{self, Document};

use super::super::report::{At, Names, Report, quoted};
use super::super::types::{Backend, BackendState, Service};
use super::super::words;
use super::network::{Network, Reach};
use super::policers::Profile;
use super::{References, limits};

/// Modes of later releases, refused by name: they would send packets elsewhere.
const LATER_MODES: [&str; 4] = ["full_nat", "dsr_mac", "dsr_ipip", "dsr_gue"];

/// The longest health interval that still means anything.
const MAX_SECONDS: f64 = 3600.0;

/// All addresses that services have, as far as they can be read.
pub(super) fn addresses(document: &Document) -> HashSet<IpAddr> {
    document.services.iter().flat_map(|service| &service.address).filter_map(|text| text.parse().ok()).collect()
}

/// The services, with holes where they are wrong.
pub(super) fn check(
    document: &Document,
    references: &References<'_>,
    profiles: &[Profile],
    network: &Network,
    report: &mut Report,
) -> Vec<Option<Service>> {
    let services: Vec<_> = document
        .services
        .iter()
        .enumerate()
        .map(|(index, service)| {
            let at = At::new("services", index, "service", &service.name);
            one(service, &at, references, profiles, network, report)
        })
        .collect();
    overlaps(&services, report);
    services
}

fn one(
    service: &v1::Service,
    at: &At<'_>,
    references: &References<'_>,
    profiles: &[Profile],
    network: &Network,
    report: &mut Report,
) -> Option<Service> {
    mode(&service.mode, at, report);
    let protocol = report.choice(
        at,
        "protocol",
        &service.protocol,
        None,
        &[("tcp", ServiceProtocol::Tcp), ("udp", ServiceProtocol::Udp), ("icmp", ServiceProtocol::Icmp)],
    );
    let addresses = virtual_addresses(service, at, network, report);
    let ports = ports(service, protocol, at, report);
    let affinity = service.source_affinity_s.unwrap_or(0);
    if affinity != 0 {
        let message = format!("enforced as affinity without a timeout by this release, not for {affinity} s");
        report.warn(at, "source_affinity_s", message);
    }
    if let Some(health) = &service.health {
        check_health(health, at, report);
    }
    let profile = match service.qos.as_str() {
        "" => Profile::default(),
        name => references.qos.find(report, at, "qos", name).map(|index| profiles[index]).unwrap_or_default(),
    };
    let limits = service.limits.as_ref().and_then(|limits| limits::check(limits, protocol, at, report));
    let backends = backends(service, protocol, &addresses, at, network, report);
    Some(Service {
        name: service.name.clone(),
        addresses,
        protocol: protocol?,
        ports: words::join(ports),
        source_affinity: affinity != 0,
        backends,
        policer: profile.policer,
        mark: profile.mark,
        limits,
    })
}

fn mode(mode: &str, at: &At<'_>, report: &mut Report) {
    if LATER_MODES.contains(&mode) {
        report.refuse(at, "mode", quoted(mode), "nat in this release");
    } else {
        report.choice(at, "mode", mode, Some(()), &[("nat", ())]);
    }
}

fn virtual_addresses(service: &v1::Service, at: &At<'_>, network: &Network, report: &mut Report) -> Vec<IpAddr> {
    if service.address.is_empty() {
        report.refuse(at, "address", "missing", "one or more addresses");
    }
    let mut addresses = Vec::with_capacity(service.address.len());
    for (index, text) in service.address.iter().enumerate() {
        let field = format_args!("address[{index}]");
        let Some(address) = report.word(at, field, text, words::host) else { continue };
        if addresses.contains(&address) {
            report.refuse(at, field, format!("{address}, there twice"), "each address once");
            continue;
        }
        if let Some(interface) = network.owner(address) {
            let found = format!("{address}, the own address of interface {interface}");
            report.refuse(at, field, found, "an address that no interface has");
        } else if let Some((why, prefix)) = network.not_a_host(address) {
            report.refuse(at, field, format!("{address}, {why} of {prefix}"), "an address of a host");
        }
        addresses.push(address);
    }
    addresses
}

fn ports(service: &v1::Service, protocol: Option<ServiceProtocol>, at: &At<'_>, report: &mut Report) -> Vec<PortRange> {
    if protocol == Some(ServiceProtocol::Icmp) {
        if !service.ports.is_empty() {
            report.refuse(at, "ports", "given with protocol icmp", "none: ICMP has no ports");
        }
        return Vec::new();
    }
    match service.ports.as_slice() {
        [] => {
            report.refuse(at, "ports", "missing", "ports, FIRST-LAST, or all");
            Vec::new()
        }
        [only] if only == "all" => vec![PortRange::ALL],
        list => {
            let ports = report.words(at, "ports", list, |text| match words::port_range(text) {
                Ok(range) if range.first > 0 => Ok(range),
                _ => Err("PORT or FIRST-LAST with 1 <= FIRST <= LAST <= 65535, or all alone".to_owned()),
            });
            let mut sorted = ports.clone();
            sorted.sort_unstable();
            if let Some(pair) = sorted.windows(2).find(|pair| pair[0].last >= pair[1].first) {
                let found = format!("with {} in it twice", pair[1].first);
                report.refuse(at, "ports", found, "ports and ranges that do not overlap");
            }
            ports
        }
    }
}

fn check_health(health: &v1::Health, at: &At<'_>, report: &mut Report) {
    report.choice(at, "health.kind", &health.kind, None, &[("icmp", ()), ("tcp", ()), ("http", ())]);
    for (field, seconds) in [("health.interval_s", health.interval_s), ("health.timeout_s", health.timeout_s)] {
        if let Some(seconds) = seconds.filter(|seconds| !(*seconds > 0.0 && *seconds <= MAX_SECONDS)) {
            report.refuse(at, field, seconds, format!("more than 0, up to {MAX_SECONDS} seconds"));
        }
    }
    if let (Some(interval), Some(timeout)) = (health.interval_s, health.timeout_s)
        && timeout > interval
    {
        report.refuse(at, "health.timeout_s", timeout, format!("at most health.interval_s, which is {interval}"));
    }
    for (field, count) in [("health.rise", health.rise), ("health.fall", health.fall)] {
        report.within(at, field, count.unwrap_or(1), 1..=100, "probes");
    }
    report.within(at, "health.panic_below_percent", health.panic_below_percent.unwrap_or(0), 0..=100, "percent");
    report.not_enforced(at, "health");
}

fn backends(
    service: &v1::Service,
    protocol: Option<ServiceProtocol>,
    addresses: &[IpAddr],
    at: &At<'_>,
    network: &Network,
    report: &mut Report,
) -> Vec<Backend> {
    let names = service.backends.iter().map(|backend| backend.name.as_str());
    Names::new(report, "backend", names, |index, name| at.inner("backends", index, "backend", name));
    let mut seen = HashMap::new();
    let mut backends = Vec::with_capacity(service.backends.len());
    for (index, backend) in service.backends.iter().enumerate() {
        let at = at.inner("backends", index, "backend", &backend.name);
        let read = one_backend(backend, protocol, &at, network, report);
        if let Some(read) = &read {
            if let Some(other) = seen.insert((read.address, read.port), &backend.name) {
                let found = format!("{}, which backend {other} has with the same port", read.address);
                report.refuse(&at, "address", found, "each address and port once; a weight gives it more");
            }
            if !addresses.is_empty() && !addresses.iter().any(|vip| vip.is_ipv4() == read.address.is_ipv4()) {
                report.warn(&at, "address", "never used: the service has no address of this family");
            }
        }
        backends.extend(read);
    }
    for (index, address) in addresses.iter().enumerate() {
        // As written: a backend with another mistake still counts.
        let same_family = |text: &str| text.parse::<IpAddr>().is_ok_and(|other| other.is_ipv4() == address.is_ipv4());
        if !service.backends.iter().any(|backend| same_family(&backend.address)) {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let found = format!("{address} with no backend of its family");
            report.refuse(
                at,
                format_args!("address[{index}]"),
                found,
                format!("an address with at least one {family} backend"),
            );
        }
    }
    backends
}

fn one_backend(
    backend: &v1::Backend,
    protocol: Option<ServiceProtocol>,
    at: &At<'_>,
    network: &Network,
    report: &mut Report,
) -> Option<Backend> {
    let port = backend.port.and_then(|port| {
        if protocol == Some(ServiceProtocol::Icmp) {
            report.refuse(at, "port", port, "none: ICMP has no ports");
            return None;
        }
        report.within(at, "port", port, 1..=u16::MAX.into(), "")
    });
    let weight = report.within(at, "weight", backend.weight.unwrap_or(1), 1..=1000, "");
    let state = report.choice(
        at,
        "state",
        &backend.state,
        Some(BackendState::Up),
        &[("up", BackendState::Up), ("draining", BackendState::Draining), ("down", BackendState::Down)],
    );
    let address = report.word(at, "address", &backend.address, words::host)?;
    reachable(address, at, network, report);
    Some(Backend {
        name: backend.name.clone(),
        address,
        port: port.map(|port| port as u16),
        weight: weight? as u16,
        state: state?,
    })
}

fn reachable(address: IpAddr, at: &At<'_>, network: &Network, report: &mut Report) {
    const ALLOWED: &str = "the address of another host";
    if let Some(interface) = network.owner(address) {
        report.refuse(at, "address", format!("{address}, the own address of interface {interface}"), ALLOWED);
        return;
    }
    if network.is_service(address) {
        report.refuse(
            at,
            "address",
            format!("{address}, the address of a service: packets would go in circles"),
            ALLOWED,
        );
        return;
    }
    if let Some((why, prefix)) = network.not_a_host(address) {
        report.refuse(at, "address", format!("{address}, {why} of {prefix}"), ALLOWED);
        return;
    }
    match network.reach(address) {
        Reach::Known | Reach::Unsure => {}
        Reach::Default => {
            report.warn(at, "address", "only the default route leads there; a backend is usually nearer than that");
        }
        Reach::Table(table) => {
            let message = format!("reached from interfaces of table {table} only, not from those of table main");
            report.warn(at, "address", message);
        }
        Reach::Dropped(prefix) => {
            let found = format!("{address}, which the route {prefix} drops");
            report.refuse(at, "address", found, "an address that a connected prefix or a route leads to");
        }
        Reach::Nowhere => {
            let found = format!("{address}, to which nothing leads");
            report.refuse(at, "address", found, "an address that a connected prefix or a route leads to");
        }
    }
}

/// No packet may belong to two services.
fn overlaps(services: &[Option<Service>], report: &mut Report) {
    let mut seen: HashMap<(IpAddr, ServiceProtocol), Vec<(&Service, &PortRange)>> = HashMap::new();
    for (index, service) in services.iter().enumerate() {
        let Some(service) = service else { continue };
        let at = At::new("services", index, "service", &service.name);
        let ports: &[PortRange] =
            if service.protocol == ServiceProtocol::Icmp { &[PortRange::ALL] } else { &service.ports };
        for (place, address) in service.addresses.iter().enumerate() {
            let others = seen.entry((*address, service.protocol)).or_default();
            let clash = ports.iter().find_map(|mine| {
                let other = others.iter().find(|(_, its)| mine.first <= its.last && its.first <= mine.last)?;
                Some((other.0, mine.first.max(other.1.first)))
            });
            if let Some((other, port)) = clash {
                let what = match service.protocol {
                    ServiceProtocol::Icmp => "protocol icmp".to_owned(),
                    ServiceProtocol::Tcp => format!("tcp port {port}"),
                    ServiceProtocol::Udp => format!("udp port {port}"),
                };
                let found = format!("{address}, whose {what} service {} has already", other.name);
                report.refuse(
                    &at,
                    format_args!("address[{place}]"),
                    found,
                    "address, protocol and port in one service only",
                );
            }
            others.extend(ports.iter().map(|range| (service, range)));
        }
    }
}
