//! Groups to `RuleTables`. What comes over the wire is judged here: nothing is believed that the engine's types promise.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use marchproxy_engine::tables::{
    BackendLoss, BackendSpec, BackendState, Cidr, Class, DscpMapSpec, FlagMatch, FlowsSpec, FragmentMatch, HealthKind,
    HealthSpec, InterfaceSpec, LimitsSpec, MARK_KEEP, MARK_MAP, MOST_DSCP_MAPS, NextHopSpec, PolicerAction,
    PolicerKind, PolicerSpec, PolicerUnit, PortRange, PortSpec, QueueSpec, RouteAction, RouteSpec, RuleAction,
    RuleMatch, RuleSpec, RuleTables, RuleWay, ServiceLimitsSpec, ServiceMode, ServiceProtocol, ServiceSpec, ShaperSpec,
    SourcesSpec, Urpf,
};

use super::TableError;
use crate::v1::{
    FlowsGroup, Group, TableBackend, TableColour, TableDscpMap, TableHealth, TableInterface, TableLimits, TableNextHop,
    TablePolicer, TablePort, TablePortRange, TablePrefix, TableQueue, TableRoute, TableRule, TableService,
    TableServiceLimits, TableShaper, group::Kind, table_backend, table_colour, table_health, table_interface,
    table_policer, table_rule, table_service,
};

type Result<T> = std::result::Result<T, TableError>;

/// DSCP codepoints have 6 bits (RFC 2474).
const MAX_DSCP: u32 = 63;

/// The tables that these groups hold. Groups of one kind must come in order; objects must be sorted as `RuleTables` says.
pub fn from_groups(groups: &[Group]) -> Result<RuleTables> {
    let mut tables = RuleTables::default();
    // Referenced kinds first, whatever the order of the groups.
    for kind in groups.iter().filter_map(|group| group.kind.as_ref()) {
        match kind {
            Kind::Ports(group) => extend(&mut tables.ports, &group.ports, port)?,
            Kind::Policers(group) => extend(&mut tables.policers, &group.policers, policer)?,
            Kind::DscpMaps(group) => extend(&mut tables.dscp_maps, &group.dscp_maps, dscp_map)?,
            _ => {}
        }
    }
    sorted(&tables.ports, |port| &port.name, |port| format!("port {}", port.name))?;
    sorted(&tables.policers, |policer| &policer.name, |policer| format!("policer {}", policer.name))?;
    sorted(&tables.dscp_maps, |map| &map.name, |map| format!("dscp_map {}", map.name))?;
    let ports = Names::new("port", tables.ports.iter().map(|port| &port.name));
    let policers = Names::new("policer", tables.policers.iter().map(|policer| &policer.name));

    for kind in groups.iter().filter_map(|group| group.kind.as_ref()) {
        if let Kind::Interfaces(group) = kind {
            extend(&mut tables.interfaces, &group.interfaces, |wire| interface(wire, &ports, &policers))?;
        }
    }
    sorted(&tables.interfaces, |interface| &interface.name, |interface| format!("interface {}", interface.name))?;
    let interfaces = Names::new("interface", tables.interfaces.iter().map(|interface| &interface.name));

    for group in groups {
        match &group.kind {
            Some(Kind::Routes(group)) => extend(&mut tables.routes, &group.routes, |wire| route(wire, &interfaces))?,
            Some(Kind::Rules(group)) => {
                extend(&mut tables.rules, &group.rules, |wire| rule(wire, &interfaces, &policers))?;
            }
            Some(Kind::Services(group)) => {
                extend(&mut tables.services, &group.services, |wire| service(wire, &policers))?;
            }
            Some(Kind::Shapers(group)) => extend(&mut tables.shapers, &group.shapers, |wire| shaper(wire, &ports))?,
            Some(_) => {}
            None => {
                return Err(TableError::new("group", "kind", "nothing this release knows", "a kind of Group"));
            }
        }
    }
    let route_name = |route: &RouteSpec| format!("route {} of table {}", route.prefix, route.table);
    sorted(&tables.routes, |route| (route.table, route.prefix), route_name)?;
    sorted(&tables.rules, |rule| (rule.priority, &rule.name), |rule| format!("rule {}", rule.name))?;
    unique(tables.rules.iter().map(|rule| &rule.name))?;
    sorted(&tables.services, |service| &service.name, |service| format!("service {}", service.name))?;
    sorted(
        &tables.shapers,
        |shaper| shaper.port,
        |shaper| format!("shaper of port {}", tables.ports[shaper.port].name),
    )?;
    let services = Names::new("service", tables.services.iter().map(|service| &service.name));
    for kind in groups.iter().filter_map(|group| group.kind.as_ref()) {
        if let Kind::Flows(group) = kind {
            if tables.flows.is_some() {
                return Err(TableError::new("flows", "position", "there twice", "once"));
            }
            tables.flows = Some(flows(group, &services)?);
        }
    }
    Ok(tables)
}

fn extend<W, T>(list: &mut Vec<T>, wire: &[W], mut one: impl FnMut(&W) -> Result<T>) -> Result<()> {
    list.reserve(wire.len());
    for object in wire {
        list.push(one(object)?);
    }
    Ok(())
}

/// Strictly ascending, so every key is there once.
fn sorted<'a, T, K: Ord>(list: &'a [T], key: impl Fn(&'a T) -> K, name: impl Fn(&T) -> String) -> Result<()> {
    match list.windows(2).find(|pair| key(&pair[0]) >= key(&pair[1])) {
        Some(pair) => Err(TableError::new(
            name(&pair[1]),
            "position",
            format!("behind {}", name(&pair[0])),
            "ascending order, each object once",
        )),
        None => Ok(()),
    }
}

/// Rules are sorted by priority first, so one name could hide under two priorities.
fn unique<'a>(names: impl Iterator<Item = &'a String>) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(TableError::new(format!("rule {name}"), "name", "there twice", "each name once"));
        }
    }
    Ok(())
}

/// Names of one kind and their indices.
pub(super) struct Names {
    kind: &'static str,
    index: HashMap<String, usize>,
}

impl Names {
    pub(super) fn new<'a>(kind: &'static str, names: impl Iterator<Item = &'a String>) -> Self {
        Self { kind, index: names.cloned().enumerate().map(|(index, name)| (name, index)).collect() }
    }

    fn find(&self, name: &str, object: &str, field: &str) -> Result<usize> {
        self.index.get(name).copied().ok_or_else(|| {
            let allowed = if self.index.is_empty() {
                format!("none: these tables have no {}", self.kind)
            } else {
                format!("a known {}", self.kind)
            };
            TableError::new(object, field, format!("\"{name}\""), allowed)
        })
    }
}

fn flows(wire: &FlowsGroup, services: &Names) -> Result<FlowsSpec> {
    let object = "flows";
    let found: Vec<usize> =
        wire.services.iter().map(|name| services.find(name, object, "services")).collect::<Result<_>>()?;
    if !found.is_sorted_by(|a, b| a < b) {
        return Err(TableError::new(object, "services", "out of order", "ascending order, each service once"));
    }
    let port = within(wire.collector_port, 1, u32::from(u16::MAX), object, "collector_port")? as u16;
    Ok(FlowsSpec {
        collector: SocketAddr::new(address(&wire.collector, object, "collector")?, port),
        domain: wire.domain,
        one_of: within(wire.one_of, 1, u32::MAX, object, "one_of")?,
        active_timeout_s: within(wire.active_timeout_s, 1, u32::MAX, object, "active_timeout_s")?,
        template_refresh_s: within(wire.template_refresh_s, 1, u32::MAX, object, "template_refresh_s")?,
        message_octets: within(wire.message_octets, 512, 8952, object, "message_octets")? as u16,
        nat_events: wire.nat_events,
        services: found,
    })
}

fn port(wire: &TablePort) -> Result<PortSpec> {
    let object = named("port", &wire.name)?;
    Ok(PortSpec {
        name: wire.name.clone(),
        device: wire.device.clone(),
        mtu: within(wire.mtu, 576, 9216, &object, "mtu")? as u16,
    })
}

fn interface(wire: &TableInterface, ports: &Names, policers: &Names) -> Result<InterfaceSpec> {
    let object = named("interface", &wire.name)?;
    Ok(InterfaceSpec {
        name: wire.name.clone(),
        port: ports.find(&wire.port, &object, "port")?,
        vlan: wire.vlan.map(|vlan| within(vlan, 1, 4094, &object, "vlan")).transpose()?.map(|vlan| vlan as u16),
        addresses: wire.addresses.iter().map(|wire| cidr(wire, &object, "addresses")).collect::<Result<_>>()?,
        table: wire.table,
        trust_dscp: wire.trust_dscp,
        urpf: match table_interface::Urpf::try_from(wire.urpf) {
            Ok(table_interface::Urpf::Off) => Urpf::Off,
            Ok(table_interface::Urpf::Loose) => Urpf::Loose,
            Ok(table_interface::Urpf::Strict) => Urpf::Strict,
            Err(_) => return Err(TableError::new(object, "urpf", wire.urpf, "off, loose or strict")),
        },
        policer: policer_index(&wire.policer, &object, policers)?,
    })
}

fn route(wire: &TableRoute, interfaces: &Names) -> Result<RouteSpec> {
    let object = format!("route of table {}", wire.table);
    let Some(wire_prefix) = &wire.prefix else {
        return Err(TableError::new(object, "prefix", "missing", "a prefix"));
    };
    let prefix = prefix(wire_prefix, &object, "prefix")?;
    let object = format!("route {prefix} of table {}", wire.table);
    let action = match (wire.via.is_empty(), wire.blackhole, wire.reject) {
        (false, false, false) => {
            let hops =
                wire.via.iter().map(|hop| next_hop(hop, prefix, &object, interfaces)).collect::<Result<Vec<_>>>()?;
            sorted(&hops, |hop| hop.address, |hop| format!("{object}, next hop {}", hop.address))?;
            RouteAction::Via(hops)
        }
        (true, true, false) => RouteAction::Blackhole,
        (true, false, true) => RouteAction::Reject,
        (no_hops, blackhole, reject) => {
            let found =
                format!("{} next hops, blackhole {blackhole}, reject {reject}", if no_hops { "no" } else { "some" });
            return Err(TableError::new(object, "action", found, "exactly one of via, blackhole, reject"));
        }
    };
    Ok(RouteSpec { table: wire.table, prefix, action })
}

fn next_hop(wire: &TableNextHop, prefix: Cidr, object: &str, interfaces: &Names) -> Result<NextHopSpec> {
    let address = address(&wire.address, object, "via.address")?;
    if address.is_ipv4() != prefix.addr.is_ipv4() {
        return Err(TableError::new(object, "via.address", address, "an address of the prefix's family"));
    }
    Ok(NextHopSpec {
        address,
        interface: interfaces.find(&wire.interface, object, "via.interface")?,
        weight: within(wire.weight, 1, u16::MAX.into(), object, "via.weight")? as u16,
    })
}

/// TCP is the one protocol with flags.
const TCP: u32 = 6;

pub(super) fn rule(wire: &TableRule, interfaces: &Names, policers: &Names) -> Result<RuleSpec> {
    let object = named("rule", &wire.name)?;
    let in_interface = match wire.in_interface.as_str() {
        "" => None,
        name => Some(interfaces.find(name, &object, "in_interface")?),
    };
    let matches = RuleMatch {
        src: wire.src.iter().map(|wire| prefix(wire, &object, "src")).collect::<Result<_>>()?,
        dst: wire.dst.iter().map(|wire| prefix(wire, &object, "dst")).collect::<Result<_>>()?,
        protocol: wire
            .protocol
            .map(|number| within(number, 0, 255, &object, "protocol"))
            .transpose()?
            .map(|number| number as u8),
        src_ports: ranges(&wire.src_ports, &object, "src_ports")?,
        dst_ports: ranges(&wire.dst_ports, &object, "dst_ports")?,
        in_interface,
        tcp_flags: tcp_flags(wire, &object)?,
        vlan: wire.vlan.map(|vlan| within(vlan, 0, 4094, &object, "vlan")).transpose()?.map(|vlan| vlan as u16),
        dscp: dscp(&wire.dscp, &object)?,
        fragment: fragment(wire.fragment, &object)?,
    };
    Ok(RuleSpec {
        name: wire.name.clone(),
        priority: wire.priority,
        matches,
        action: action(wire.action, &object)?,
        mark: mark(wire.mark, &object, "mark")?,
        policer: policer_index(&wire.policer, &object, policers)?,
        class: class(wire.class, &object)?,
        way: way(wire, &object, interfaces)?,
        log_sample: wire.log_sample,
        new_only: wire.new_only,
    })
}

fn tcp_flags(wire: &TableRule, object: &str) -> Result<Option<FlagMatch>> {
    let Some(flags) = wire.tcp_flags else { return Ok(None) };
    if wire.protocol != Some(TCP) {
        return Err(TableError::new(object, "tcp_flags", "there without protocol 6", "flags with protocol 6 only"));
    }
    let mask = within(flags.mask, 0, 255, object, "tcp_flags.mask")?;
    if flags.value & !mask != 0 {
        return Err(TableError::new(object, "tcp_flags.value", flags.value, "no bit outside of the mask"));
    }
    Ok(Some(FlagMatch { value: flags.value as u8, mask: mask as u8 }))
}

fn dscp(wire: &[u32], object: &str) -> Result<Vec<u8>> {
    if wire.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(TableError::new(object, "dscp", "unsorted", "ascending codepoints, each once"));
    }
    wire.iter().map(|dscp| Ok(within(*dscp, 0, MAX_DSCP, object, "dscp")? as u8)).collect()
}

fn fragment(wire: i32, object: &str) -> Result<Option<FragmentMatch>> {
    match table_rule::Fragment::try_from(wire) {
        Ok(table_rule::Fragment::Any) => Ok(None),
        Ok(table_rule::Fragment::No) => Ok(Some(FragmentMatch::No)),
        Ok(table_rule::Fragment::Yes) => Ok(Some(FragmentMatch::Yes)),
        Ok(table_rule::Fragment::First) => Ok(Some(FragmentMatch::First)),
        Ok(table_rule::Fragment::Later) => Ok(Some(FragmentMatch::Later)),
        Err(_) => Err(TableError::new(object, "fragment", wire, "any, no, yes, first or later")),
    }
}

fn action(wire: i32, object: &str) -> Result<RuleAction> {
    match table_rule::Action::try_from(wire) {
        Ok(table_rule::Action::Permit) => Ok(RuleAction::Permit),
        Ok(table_rule::Action::Deny) => Ok(RuleAction::Deny),
        Ok(table_rule::Action::Reject) => Ok(RuleAction::Reject),
        Ok(table_rule::Action::Count) => Ok(RuleAction::Count),
        Err(_) => Err(TableError::new(object, "action", wire, "permit, deny, reject or count")),
    }
}

fn way(wire: &TableRule, object: &str, interfaces: &Names) -> Result<Option<RuleWay>> {
    match (&wire.next_hop, wire.table) {
        (None, None) => Ok(None),
        (None, Some(table)) => Ok(Some(RuleWay::Table(table))),
        (Some(hop), None) => Ok(Some(RuleWay::NextHop {
            address: address(&hop.address, object, "next_hop.address")?,
            interface: interfaces.find(&hop.interface, object, "next_hop.interface")?,
        })),
        (Some(_), Some(_)) => Err(TableError::new(object, "next_hop", "there with table", "one of next_hop and table")),
    }
}

fn service(wire: &TableService, policers: &Names) -> Result<ServiceSpec> {
    let object = named("service", &wire.name)?;
    let protocol = match wire.protocol {
        6 => ServiceProtocol::Tcp,
        17 => ServiceProtocol::Udp,
        1 => ServiceProtocol::Icmp,
        other => return Err(TableError::new(object, "protocol", other, "6 (TCP), 17 (UDP) or 1 (ICMP)")),
    };
    let ports = ranges(&wire.ports, &object, "ports")?;
    if ports.is_empty() != (protocol == ServiceProtocol::Icmp) {
        let found = format!("{} ranges", ports.len());
        return Err(TableError::new(object, "ports", found, "at least one range for TCP and UDP, none for ICMP"));
    }
    if ports.windows(2).any(|pair| pair[0].last >= pair[1].first) {
        return Err(TableError::new(object, "ports", "overlapping or unsorted", "ascending, disjoint ranges"));
    }
    let addresses =
        wire.addresses.iter().map(|wire| address(wire, &object, "addresses")).collect::<Result<Vec<_>>>()?;
    sorted(&addresses, |address| *address, |address| format!("{object}, address {address}"))?;
    let backends = wire.backends.iter().map(|wire| backend(wire, &object, protocol)).collect::<Result<Vec<_>>>()?;
    sorted(&backends, |backend| &backend.name, |backend| format!("{object}, backend {}", backend.name))?;
    let mode = mode(wire.mode, &object)?;
    let source_pool =
        wire.source_pool.iter().map(|octets| address(octets, &object, "source_pool")).collect::<Result<Vec<_>>>()?;
    sorted(&source_pool, |address| *address, |address| format!("{object}, source_pool {address}"))?;
    if wire.stateless && !mode.is_direct() {
        let found = format!("none with mode {}", mode.label());
        return Err(TableError::new(object, "sessions", found, "none in direct modes only"));
    }
    if let Some(backend) = backends.iter().find(|backend| backend.port.is_some() && mode.is_direct()) {
        let object = format!("{object}, backend {}", backend.name);
        return Err(TableError::new(object, "port", "a port", format!("none with mode {}", mode.label())));
    }
    Ok(ServiceSpec {
        name: wire.name.clone(),
        addresses,
        protocol,
        ports,
        source_affinity: wire.source_affinity,
        mode,
        stateless: wire.stateless,
        source_pool,
        on_backend_loss: if wire.rebalances { BackendLoss::Rebalance } else { BackendLoss::Keep },
        backends,
        policer: policer_index(&wire.policer, &object, policers)?,
        class: class(wire.class, &object)?,
        mark: mark(wire.mark, &object, "mark")?,
        limits: wire.limits.as_ref().map(|wire| service_limits(wire, &object)).transpose()?,
        health: wire.health.as_ref().map(|wire| health(wire, &object)).transpose()?,
        queue: wire.queue.as_ref().map(|wire| queue(wire, &object)).transpose()?.unwrap_or_default(),
    })
}

fn queue(wire: &TableQueue, object: &str) -> Result<QueueSpec> {
    Ok(QueueSpec {
        rate_kbps: rate(wire.rate_kbps, 0, object, "queue.rate_kbps")?,
        burst_bytes: wire.burst_bytes,
        weight: within(wire.weight, 1, 1000, object, "queue.weight")? as u16,
        deadline_us: wire.deadline_us,
        most_packets: wire.most_packets,
        most_bytes: wire.most_bytes,
        target_us: wire.target_us,
        ecn: wire.ecn,
    })
}

fn shaper(wire: &TableShaper, ports: &Names) -> Result<ShaperSpec> {
    let object = format!("shaper of port {}", wire.port);
    let weight = |found, field| Ok(within(found, 1, 1000, &object, field)? as u16);
    Ok(ShaperSpec {
        port: ports.find(&wire.port, &object, "port")?,
        rate_kbps: rate(wire.rate_kbps, 1, &object, "rate_kbps")?,
        overhead: within(wire.overhead, 0, u8::MAX.into(), &object, "overhead")? as u8,
        p0_percent: within(wire.p0_percent, 1, 100, &object, "p0_percent")? as u8,
        weights: [
            weight(wire.p1_weight, "p1_weight")?,
            weight(wire.p2_weight, "p2_weight")?,
            weight(wire.p3_weight, "p3_weight")?,
        ],
    })
}

/// Up to 400 Gbit/s.
fn rate(found: u64, least: u64, object: &str, field: &str) -> Result<u64> {
    const MOST: u64 = 400_000_000;
    if (least..=MOST).contains(&found) {
        return Ok(found);
    }
    Err(TableError::new(object, field, found, format!("{least}..={MOST}")))
}

fn health(wire: &TableHealth, object: &str) -> Result<HealthSpec> {
    let status = |status, field| Ok(within(status, 100, 599, object, field)? as u16);
    let kind = match table_health::Kind::try_from(wire.kind) {
        Ok(table_health::Kind::Icmp) => HealthKind::Icmp,
        Ok(table_health::Kind::Tcp) => HealthKind::Tcp,
        Ok(table_health::Kind::Http) => HealthKind::Http {
            path: wire.path.clone(),
            host: wire.host.clone(),
            status: (
                status(wire.first_status, "health.first_status")?,
                status(wire.last_status, "health.last_status")?,
            ),
        },
        Err(_) => return Err(TableError::new(object, "health.kind", wire.kind, "icmp, tcp or http")),
    };
    for (field, text) in [("health.path", &wire.path), ("health.host", &wire.host)] {
        // Both fit into the one request of a check.
        within(text.len() as u32, 0, 255, object, field)?;
    }
    let port = wire.port.map(|port| within(port, 1, u16::MAX.into(), object, "health.port")).transpose()?;
    let fall = within(wire.fall, 1, 100, object, "health.fall")? as u16;
    let interval_ms = within(wire.interval_ms, 20, 3_600_000, object, "health.interval_ms")?;
    let longest = HealthSpec::longest_timeout_ms(interval_ms, fall);
    Ok(HealthSpec {
        kind,
        interval_ms,
        timeout_ms: within(wire.timeout_ms, 1, longest, object, "health.timeout_ms")?,
        rise: within(wire.rise, 1, 100, object, "health.rise")? as u16,
        fall,
        panic_below_percent: within(wire.panic_below_percent, 0, 100, object, "health.panic_below_percent")? as u8,
        port: port.map(|port| port as u16),
    })
}

fn service_limits(wire: &TableServiceLimits, object: &str) -> Result<ServiceLimitsSpec> {
    Ok(ServiceLimitsSpec {
        total: limits(wire.total.as_ref(), object, "limits.total")?,
        per_source: limits(wire.per_source.as_ref(), object, "limits.per_source")?,
        source_v4: within(wire.source_v4, 1, 32, object, "limits.source_v4")? as u8,
        source_v6: within(wire.source_v6, 1, 128, object, "limits.source_v6")? as u8,
    })
}

fn limits(wire: Option<&TableLimits>, object: &str, field: &str) -> Result<LimitsSpec> {
    let Some(wire) = wire else { return Err(TableError::new(object, field, "missing", "limits")) };
    let one = |limit: Option<u32>| limit.map(|limit| within(limit, 1, u32::MAX, object, field)).transpose();
    Ok(LimitsSpec { new_per_s: one(wire.new_per_s)?, half_open: one(wire.half_open)?, sessions: one(wire.sessions)? })
}

fn backend(wire: &TableBackend, service: &str, protocol: ServiceProtocol) -> Result<BackendSpec> {
    let object = format!("{service}, {}", named("backend", &wire.name)?);
    let port = wire.port.map(|port| within(port, 1, u16::MAX.into(), &object, "port")).transpose()?;
    if let (Some(port), ServiceProtocol::Icmp) = (port, protocol) {
        return Err(TableError::new(object, "port", port, "none: ICMP has no ports"));
    }
    Ok(BackendSpec {
        name: wire.name.clone(),
        address: address(&wire.address, &object, "address")?,
        port: port.map(|port| port as u16),
        weight: within(wire.weight, 1, 1000, &object, "weight")? as u16,
        state: state(wire.state, &object)?,
    })
}

fn mode(wire: i32, object: &str) -> Result<ServiceMode> {
    match table_service::Mode::try_from(wire) {
        Ok(table_service::Mode::Nat) => Ok(ServiceMode::Nat),
        Ok(table_service::Mode::FullNat) => Ok(ServiceMode::FullNat),
        Ok(table_service::Mode::DsrMac) => Ok(ServiceMode::DsrMac),
        Ok(table_service::Mode::DsrIpip) => Ok(ServiceMode::DsrIpip),
        Ok(table_service::Mode::DsrGue) => Ok(ServiceMode::DsrGue),
        Err(_) => Err(TableError::new(object, "mode", wire, "nat, full_nat, dsr_mac, dsr_ipip or dsr_gue")),
    }
}

fn state(wire: i32, object: &str) -> Result<BackendState> {
    match table_backend::State::try_from(wire) {
        Ok(table_backend::State::Up) => Ok(BackendState::Up),
        Ok(table_backend::State::Draining) => Ok(BackendState::Draining),
        Ok(table_backend::State::Down) => Ok(BackendState::Down),
        Err(_) => Err(TableError::new(object, "state", wire, "up, draining or down")),
    }
}

fn policer(wire: &TablePolicer) -> Result<PolicerSpec> {
    let object = named("policer", &wire.name)?;
    Ok(PolicerSpec {
        name: wire.name.clone(),
        kind: match table_policer::Kind::try_from(wire.kind) {
            Ok(table_policer::Kind::Srtcm) => PolicerKind::Srtcm,
            Ok(table_policer::Kind::Trtcm) => PolicerKind::Trtcm,
            Ok(table_policer::Kind::Rfc4115) => PolicerKind::Rfc4115,
            Err(_) => return Err(TableError::new(object, "kind", wire.kind, "srtcm, trtcm or rfc4115")),
        },
        unit: if wire.packets { PolicerUnit::Packets } else { PolicerUnit::Octets },
        cir: wire.cir,
        cbs: wire.cbs,
        eir: wire.eir,
        ebs: wire.ebs,
        colour_aware: wire.colour_aware,
        per_source: match &wire.per_source {
            None => None,
            Some(sources) => Some(SourcesSpec {
                v4: within(sources.v4, 1, 32, &object, "per_source.v4")? as u8,
                v6: within(sources.v6, 1, 128, &object, "per_source.v6")? as u8,
            }),
        },
        on_green: colour(wire.on_green.as_ref(), &object, "on_green")?,
        on_yellow: colour(wire.on_yellow.as_ref(), &object, "on_yellow")?,
        on_red: colour(wire.on_red.as_ref(), &object, "on_red")?,
    })
}

fn colour(wire: Option<&TableColour>, object: &str, field: &str) -> Result<PolicerAction> {
    const ALLOWED: &str = "pass, mark, CE, class or drop";
    let Some(wire) = wire else {
        return Err(TableError::new(object, field, "missing", ALLOWED));
    };
    match table_colour::Kind::try_from(wire.kind) {
        Ok(table_colour::Kind::Pass) => Ok(PolicerAction::Pass),
        Ok(table_colour::Kind::Mark) => Ok(PolicerAction::Mark(known_mark(wire.mark, object, field)?)),
        Ok(table_colour::Kind::Ce) => Ok(PolicerAction::Ce),
        Ok(table_colour::Kind::Class) => Ok(PolicerAction::Class(class_at(wire.class, object)?)),
        Ok(table_colour::Kind::Drop) => Ok(PolicerAction::Drop),
        Err(_) => Err(TableError::new(object, field, wire.kind, ALLOWED)),
    }
}

fn named(kind: &str, name: &str) -> Result<String> {
    if name.is_empty() {
        return Err(TableError::new(kind, "name", "empty", "a name"));
    }
    Ok(format!("{kind} {name}"))
}

fn within(found: u32, first: u32, last: u32, object: &str, field: &str) -> Result<u32> {
    if (first..=last).contains(&found) {
        Ok(found)
    } else {
        Err(TableError::new(object, field, found, format!("{first}..={last}")))
    }
}

fn mark(wire: Option<u32>, object: &str, field: &str) -> Result<Option<u8>> {
    wire.map(|mark| known_mark(mark, object, field)).transpose()
}

/// Whether there is such a map the engine says.
fn known_mark(mark: u32, object: &str, field: &str) -> Result<u8> {
    if mark <= MAX_DSCP || (MARK_KEEP.into()..u32::from(MARK_MAP) + MOST_DSCP_MAPS as u32).contains(&mark) {
        return Ok(mark as u8);
    }
    Err(TableError::new(object, field, mark, format!("0..={MAX_DSCP}, {MARK_KEEP}, or a map from {MARK_MAP} on")))
}

fn class(wire: Option<u32>, object: &str) -> Result<Option<Class>> {
    wire.map(|class| class_at(class, object)).transpose()
}

fn class_at(class: u32, object: &str) -> Result<Class> {
    Ok(Class::ALL[within(class, 0, 3, object, "class")? as usize])
}

fn policer_index(name: &str, object: &str, policers: &Names) -> Result<Option<usize>> {
    if name.is_empty() { Ok(None) } else { policers.find(name, object, "policer").map(Some) }
}

fn dscp_map(wire: &TableDscpMap) -> Result<DscpMapSpec> {
    let object = named("dscp_map", &wire.name)?;
    if !wire.codepoints.is_sorted_by(|a, b| a.from < b.from) || !wire.classes.is_sorted_by(|a, b| a.from < b.from) {
        return Err(TableError::new(object, "codepoints", "unsorted", "ascending codepoints and classes, each once"));
    }
    let codepoint = |value: u32, field| Ok::<u8, TableError>(within(value, 0, MAX_DSCP, &object, field)? as u8);
    let mut classes = [None; 4];
    for class in &wire.classes {
        classes[class_at(class.from, &object)? as usize] = Some(codepoint(class.to, "classes")?);
    }
    let codepoints = wire
        .codepoints
        .iter()
        .map(|pair| Ok((codepoint(pair.from, "codepoints")?, codepoint(pair.to, "codepoints")?)))
        .collect::<Result<_>>()?;
    Ok(DscpMapSpec { name: wire.name.clone(), codepoints, classes })
}

fn ranges(wire: &[TablePortRange], object: &str, field: &str) -> Result<Vec<PortRange>> {
    wire.iter()
        .map(|range| {
            if range.first > range.last || range.last > u16::MAX.into() {
                let found = format!("{}-{}", range.first, range.last);
                return Err(TableError::new(object, field, found, "FIRST-LAST, FIRST <= LAST <= 65535"));
            }
            Ok(PortRange { first: range.first as u16, last: range.last as u16 })
        })
        .collect()
}

fn address(wire: &[u8], object: &str, field: &str) -> Result<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(wire) {
        Ok(IpAddr::from(v4))
    } else if let Ok(v6) = <[u8; 16]>::try_from(wire) {
        Ok(IpAddr::from(v6))
    } else {
        Err(TableError::new(object, field, format!("{} bytes", wire.len()), "4 or 16 bytes"))
    }
}

fn cidr(wire: &TablePrefix, object: &str, field: &str) -> Result<Cidr> {
    let addr = address(&wire.address, object, field)?;
    let longest = if addr.is_ipv4() { 32 } else { 128 };
    if wire.length > longest {
        return Err(TableError::new(
            object,
            field,
            format!("{addr}/{}", wire.length),
            format!("a length up to {longest}"),
        ));
    }
    Ok(Cidr { addr, len: wire.length as u8 })
}

fn prefix(wire: &TablePrefix, object: &str, field: &str) -> Result<Cidr> {
    let found = cidr(wire, object, field)?;
    if found.network() != found {
        return Err(TableError::new(object, field, found, format!("no host bits: {}", found.network())));
    }
    Ok(found)
}
