//! Services and their backends.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::super::report::{At, Names, Report};
use super::super::types::{Backend, Service};
use super::super::words;
use super::network::{Network, Reach};
use super::policers::Profile;
use super::{References, health, limits};
use marchproxy_engine::table::sessions::MOST_POOLS;
use marchproxy_engine::tables::{BackendLoss, BackendState, PortRange, ServiceMode, ServiceProtocol};
use marchproxy_proto::v1::{self, Document};

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
    pools(&services, report);
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
    let mode = mode(&service.mode, at, report);
    let stateless = sessions(&service.sessions, mode, at, report);
    let losses = [("keep", BackendLoss::Keep), ("rebalance", BackendLoss::Rebalance)];
    let on_backend_loss =
        report.choice(at, "on_backend_loss", &service.on_backend_loss, Some(BackendLoss::Keep), &losses);
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
    let profile = match service.qos.as_str() {
        "" => Profile::default(),
        name => references.qos.find(report, at, "qos", name).map(|index| profiles[index]).unwrap_or_default(),
    };
    let source_pool = source_pool(service, mode, &addresses, at, network, report);
    if (mode, protocol) == (Some(ServiceMode::FullNat), Some(ServiceProtocol::Icmp)) {
        report.refuse(at, "mode", "full_nat with protocol icmp", "another mode: ICMP has no ports");
    }
    let limits = service.limits.as_ref().and_then(|limits| limits::check(limits, protocol, at, report));
    let ports = words::join(ports);
    let shape = Shape { protocol, mode, ports: &ports };
    let backends = backends(service, &shape, &addresses, at, network, report);
    let health = service.health.as_ref().map(|health| health::check(health, &ports, &backends, at, report));
    Some(Service {
        name: service.name.clone(),
        addresses,
        protocol: protocol?,
        ports,
        source_affinity: affinity != 0,
        mode: mode?,
        stateless,
        source_pool,
        on_backend_loss: on_backend_loss?,
        backends,
        policer: profile.policer,
        mark: profile.mark,
        class: profile.class,
        queue: profile.queue,
        limits,
        health: match health {
            None => None,
            Some(read) => Some(read?),
        },
    })
}

fn mode(mode: &str, at: &At<'_>, report: &mut Report) -> Option<ServiceMode> {
    let modes = ServiceMode::ALL.map(|mode| (mode.label(), mode));
    report.choice(at, "mode", mode, Some(ServiceMode::Nat), &modes)
}

/// Where full NAT takes sources from.
fn source_pool(
    service: &v1::Service,
    mode: Option<ServiceMode>,
    addresses: &[IpAddr],
    at: &At<'_>,
    network: &Network,
    report: &mut Report,
) -> Vec<IpAddr> {
    let mut pool = Vec::with_capacity(service.source_pool.len());
    for (index, text) in service.source_pool.iter().enumerate() {
        let field = format_args!("source_pool[{index}]");
        let Some(address) = report.word(at, field, text, words::host) else { continue };
        if pool.contains(&address) {
            report.refuse(at, field, format!("{address}, there twice"), "each address once");
        } else if let Some(interface) = network.owner(address) {
            let found = format!("{address}, the own address of interface {interface}");
            report.refuse(at, field, found, "an address that no interface has");
        } else if network.is_service(address) {
            report.refuse(at, field, format!("{address}, the address of a service"), "an address that only pools have");
        } else if let Some((why, prefix)) = network.not_a_host(address) {
            report.refuse(at, field, format!("{address}, {why} of {prefix}"), "an address of a host");
        } else {
            pool.push(address);
        }
    }
    if mode != Some(ServiceMode::FullNat) {
        if !service.source_pool.is_empty()
            && let Some(mode) = mode
        {
            let found = format!("given with mode {}", mode.label());
            report.refuse(at, "source_pool", found, "none, or mode full_nat");
        }
        return pool;
    }
    let lacks = |v6| addresses.iter().any(|a| a.is_ipv6() == v6) && !pool.iter().any(|a| a.is_ipv6() == v6);
    for (v6, family) in [(false, "IPv4"), (true, "IPv6")] {
        if pool.len() == service.source_pool.len() && lacks(v6) {
            let found = format!("without an {family} address");
            report.refuse(at, "source_pool", found, "addresses of each family that the service has");
        }
    }
    pool
}

/// Pool addresses are nobody else's, and there are few of them.
fn pools(services: &[Option<Service>], report: &mut Report) {
    let backends: HashMap<IpAddr, &str> =
        services.iter().flatten().flat_map(|s| &s.backends).map(|b| (b.address, b.name.as_str())).collect();
    let mut all: HashSet<IpAddr> = HashSet::new();
    for (index, service) in services.iter().enumerate() {
        let Some(service) = service else { continue };
        let at = At::new("services", index, "service", &service.name);
        for address in &service.source_pool {
            if let Some(backend) = backends.get(address) {
                let found = format!("with {address}, the address of backend {backend}");
                report.refuse(&at, "source_pool", found, "addresses that only pools have");
            }
        }
        let before = all.len();
        all.extend(&service.source_pool);
        if before <= MOST_POOLS && all.len() > MOST_POOLS {
            let found = format!("with address number {} of all pools", all.len());
            report.refuse(&at, "source_pool", found, format!("{MOST_POOLS} addresses in all pools"));
        }
    }
}

/// Whether it has none.
fn sessions(sessions: &str, mode: Option<ServiceMode>, at: &At<'_>, report: &mut Report) -> bool {
    let none = report.choice(at, "sessions", sessions, Some(false), &[("tracked", false), ("none", true)]);
    if let Some(mode) = mode.filter(|mode| none == Some(true) && !mode.is_direct()) {
        let found = format!("none with mode {}", mode.label());
        report.refuse(at, "sessions", found, "tracked, or a dsr mode: what rewrites packets must find their replies");
    }
    none == Some(true)
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

/// What of a service its backends are judged by.
struct Shape<'a> {
    protocol: Option<ServiceProtocol>,
    mode: Option<ServiceMode>,
    ports: &'a [PortRange],
}

impl Shape<'_> {
    fn is_tunnel(&self) -> bool {
        self.mode.is_some_and(ServiceMode::is_tunnel)
    }
}

fn backends(
    service: &v1::Service,
    shape: &Shape<'_>,
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
        let read = one_backend(backend, shape, &at, network, report);
        if let Some(read) = &read {
            if let Some(other) = seen.insert((read.address, read.port), &backend.name) {
                let found = format!("{}, which backend {other} has with the same port", read.address);
                report.refuse(&at, "address", found, "each address and port once; a weight gives it more");
            }
            if !shape.is_tunnel()
                && !addresses.is_empty()
                && !addresses.iter().any(|vip| vip.is_ipv4() == read.address.is_ipv4())
            {
                report.warn(&at, "address", "never used: the service has no address of this family");
            }
        }
        backends.extend(read);
    }
    for (index, address) in addresses.iter().enumerate() {
        // As written: a backend with another mistake still counts.
        let same_family = |text: &str| text.parse::<IpAddr>().is_ok_and(|other| other.is_ipv4() == address.is_ipv4());
        if !shape.is_tunnel() && !service.backends.iter().any(|backend| same_family(&backend.address)) {
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
    shape: &Shape<'_>,
    at: &At<'_>,
    network: &Network,
    report: &mut Report,
) -> Option<Backend> {
    let port = backend.port.and_then(|port| {
        if shape.protocol == Some(ServiceProtocol::Icmp) {
            report.refuse(at, "port", port, "none: ICMP has no ports");
            return None;
        }
        if let Some(mode) = shape.mode.filter(|mode| mode.is_direct()) {
            // The only port of the service says nothing new.
            if shape.ports.iter().any(|range| (u32::from(range.first), u32::from(range.last)) != (port, port)) {
                let allowed = format!("none, or the service's only port: mode {} changes no ports", mode.label());
                report.refuse(at, "port", port, allowed);
            }
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
    if shape.mode == Some(ServiceMode::DsrMac)
        && network.is_complete()
        && network.connected_anywhere(address).next().is_none()
    {
        let found = format!("{address}, which is in no connected prefix");
        report.refuse(at, "address", found, "a neighbour: mode dsr_mac sends packets to the backend's MAC address");
    }
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
