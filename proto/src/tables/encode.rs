//! `RuleTables` to groups.

use std::net::IpAddr;

use marchproxy_engine::tables::{
    BackendLoss, BackendSpec, BackendState, Cidr, Class, DscpMapSpec, FlowsSpec, FragmentMatch, HealthKind, HealthSpec,
    InterfaceSpec, LimitsSpec, PolicerAction, PolicerKind, PolicerSpec, PolicerUnit, PortRange, PortSpec, QueueSpec,
    RouteAction, RouteSpec, RuleAction, RuleSpec, RuleTables, RuleWay, ServiceLimitsSpec, ServiceMode, ServiceProtocol,
    ServiceSpec, ShaperSpec, Urpf,
};

use super::{OBJECTS_PER_GROUP, TableError};
use crate::v1::{
    DscpMapGroup, FlowsGroup, Group, InterfaceGroup, PolicerGroup, PortGroup, RouteGroup, RuleGroup, ServiceGroup,
    ShaperGroup, TableBackend, TableCodepoint, TableColour, TableDscpMap, TableFlags, TableHealth, TableInterface,
    TableLimits, TableNextHop, TablePolicer, TablePort, TablePortRange, TablePrefix, TableQueue, TableRoute, TableRule,
    TableService, TableServiceLimits, TableShaper, TableSources, group::Kind, table_backend, table_colour,
    table_health, table_interface, table_policer, table_rule, table_service,
};

/// A border stands behind one key in so many, on average. An offer of 100,000 objects names 400 groups in 15 kB, and a
/// change of one object sends a group of some 20 kB.
const KEYS_PER_BORDER: u64 = 256;

/// The groups of these tables: ports, interfaces, routes, rules, services, policers, DSCP maps, shapers, flows. Fails only where an index points
/// nowhere.
pub fn to_groups(tables: &RuleTables) -> Result<Vec<Group>, TableError> {
    let mut kinds = Vec::new();
    for objects in split(&tables.ports, |port| fnv(port.name.as_bytes())) {
        kinds.push(Kind::Ports(PortGroup { ports: objects.iter().map(port).collect() }));
    }
    for objects in split(&tables.interfaces, |interface| fnv(interface.name.as_bytes())) {
        let interfaces = objects.iter().map(|spec| interface(tables, spec)).collect::<Result<_, _>>()?;
        kinds.push(Kind::Interfaces(InterfaceGroup { interfaces }));
    }
    for objects in split(&tables.routes, route_key) {
        let routes = objects.iter().map(|spec| route(tables, spec)).collect::<Result<_, _>>()?;
        kinds.push(Kind::Routes(RouteGroup { routes }));
    }
    for objects in split(&tables.rules, |rule| fnv(rule.name.as_bytes())) {
        let rules = objects.iter().map(|spec| rule(tables, spec)).collect::<Result<_, _>>()?;
        kinds.push(Kind::Rules(RuleGroup { rules }));
    }
    for objects in split(&tables.services, |service| fnv(service.name.as_bytes())) {
        let services = objects.iter().map(|spec| service(tables, spec)).collect::<Result<_, _>>()?;
        kinds.push(Kind::Services(ServiceGroup { services }));
    }
    for objects in split(&tables.policers, |policer| fnv(policer.name.as_bytes())) {
        kinds.push(Kind::Policers(PolicerGroup { policers: objects.iter().map(policer).collect() }));
    }
    for objects in split(&tables.dscp_maps, |map| fnv(map.name.as_bytes())) {
        kinds.push(Kind::DscpMaps(DscpMapGroup { dscp_maps: objects.iter().map(dscp_map).collect() }));
    }
    // At most one for each port: never more than a group holds.
    if !tables.shapers.is_empty() {
        let shapers = tables.shapers.iter().map(|spec| shaper(tables, spec)).collect::<Result<_, _>>()?;
        kinds.push(Kind::Shapers(ShaperGroup { shapers }));
    }
    if let Some(spec) = &tables.flows {
        kinds.push(Kind::Flows(flows(tables, spec)?));
    }
    Ok(kinds.into_iter().map(|kind| Group { kind: Some(kind) }).collect())
}

/// Cuts where the key says so, or where a group is full.
pub(super) fn split<T>(objects: &[T], key: impl Fn(&T) -> u64) -> Vec<&[T]> {
    let mut groups = Vec::new();
    let mut start = 0;
    for (index, object) in objects.iter().enumerate() {
        let len = index + 1 - start;
        if ends(len, key(object)) {
            groups.push(&objects[start..=index]);
            start = index + 1;
        }
    }
    if start < objects.len() {
        groups.push(&objects[start..]);
    }
    groups
}

/// Whether a group of so many objects ends behind one with this key.
pub(super) fn ends(len: usize, key: u64) -> bool {
    len == OBJECTS_PER_GROUP || key.is_multiple_of(KEYS_PER_BORDER)
}

/// FNV-1a, 64 bit (RFC 9923), folded, since its low bits are weak for short keys.
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    hash ^ (hash >> 32)
}

fn route_key(route: &RouteSpec) -> u64 {
    let mut key = octets(route.prefix.addr);
    key.push(route.prefix.len);
    key.extend(route.table.to_be_bytes());
    fnv(&key)
}

fn port(spec: &PortSpec) -> TablePort {
    TablePort { name: spec.name.clone(), device: spec.device.clone(), mtu: spec.mtu.into() }
}

fn flows(tables: &RuleTables, spec: &FlowsSpec) -> Result<FlowsGroup, TableError> {
    let name =
        |&index: &usize| name_at(&tables.services, index, |service| &service.name, || "flows".to_owned(), "services");
    Ok(FlowsGroup {
        collector: octets(spec.collector.ip()),
        collector_port: spec.collector.port().into(),
        domain: spec.domain,
        one_of: spec.one_of,
        active_timeout_s: spec.active_timeout_s,
        template_refresh_s: spec.template_refresh_s,
        message_octets: spec.message_octets.into(),
        nat_events: spec.nat_events,
        services: spec.services.iter().map(name).collect::<Result<_, _>>()?,
    })
}

fn interface(tables: &RuleTables, spec: &InterfaceSpec) -> Result<TableInterface, TableError> {
    let object = || format!("interface {}", spec.name);
    Ok(TableInterface {
        name: spec.name.clone(),
        port: name_at(&tables.ports, spec.port, |port| &port.name, object, "port")?,
        vlan: spec.vlan.map(u32::from),
        addresses: prefixes(&spec.addresses),
        table: spec.table,
        trust_dscp: spec.trust_dscp,
        urpf: match spec.urpf {
            Urpf::Off => table_interface::Urpf::Off,
            Urpf::Loose => table_interface::Urpf::Loose,
            Urpf::Strict => table_interface::Urpf::Strict,
        }
        .into(),
        policer: policer_name(tables, spec.policer, object)?,
    })
}

fn policer_name(
    tables: &RuleTables,
    policer: Option<usize>,
    object: impl FnOnce() -> String,
) -> Result<String, TableError> {
    match policer {
        Some(index) => name_at(&tables.policers, index, |policer| &policer.name, object, "policer"),
        None => Ok(String::new()),
    }
}

fn class(class: Option<Class>) -> Option<u32> {
    class.map(|class| class as u32)
}

fn route(tables: &RuleTables, spec: &RouteSpec) -> Result<TableRoute, TableError> {
    let via = match &spec.action {
        RouteAction::Via(hops) => hops
            .iter()
            .map(|hop| {
                let object = || format!("route {} of table {}", spec.prefix, spec.table);
                Ok(TableNextHop {
                    address: octets(hop.address),
                    interface: interface_name(tables, hop.interface, object)?,
                    weight: hop.weight.into(),
                })
            })
            .collect::<Result<_, TableError>>()?,
        RouteAction::Blackhole | RouteAction::Reject => Vec::new(),
    };
    Ok(TableRoute {
        table: spec.table,
        prefix: Some(prefix(&spec.prefix)),
        via,
        blackhole: spec.action == RouteAction::Blackhole,
        reject: spec.action == RouteAction::Reject,
    })
}

pub(super) fn rule(tables: &RuleTables, spec: &RuleSpec) -> Result<TableRule, TableError> {
    let matches = &spec.matches;
    let object = || format!("rule {}", spec.name);
    let in_interface = match matches.in_interface {
        Some(index) => interface_name(tables, index, object)?,
        None => String::new(),
    };
    let policer = policer_name(tables, spec.policer, object)?;
    let (next_hop, table) = match spec.way {
        Some(RuleWay::NextHop { address, interface }) => {
            let interface = interface_name(tables, interface, object)?;
            (Some(TableNextHop { address: octets(address), interface, weight: 1 }), None)
        }
        Some(RuleWay::Table(table)) => (None, Some(table)),
        None => (None, None),
    };
    Ok(TableRule {
        name: spec.name.clone(),
        priority: spec.priority,
        src: prefixes(&matches.src),
        dst: prefixes(&matches.dst),
        protocol: matches.protocol.map(u32::from),
        src_ports: ranges(&matches.src_ports),
        dst_ports: ranges(&matches.dst_ports),
        in_interface,
        action: action(spec.action).into(),
        mark: spec.mark.map(u32::from),
        tcp_flags: matches.tcp_flags.map(|flags| TableFlags { value: flags.value.into(), mask: flags.mask.into() }),
        vlan: matches.vlan.map(u32::from),
        dscp: matches.dscp.iter().copied().map(u32::from).collect(),
        fragment: fragment(matches.fragment).into(),
        policer,
        next_hop,
        table,
        log_sample: spec.log_sample,
        new_only: spec.new_only,
        class: class(spec.class),
    })
}

fn action(action: RuleAction) -> table_rule::Action {
    match action {
        RuleAction::Permit => table_rule::Action::Permit,
        RuleAction::Deny => table_rule::Action::Deny,
        RuleAction::Reject => table_rule::Action::Reject,
        RuleAction::Count => table_rule::Action::Count,
    }
}

fn fragment(fragment: Option<FragmentMatch>) -> table_rule::Fragment {
    match fragment {
        None => table_rule::Fragment::Any,
        Some(FragmentMatch::No) => table_rule::Fragment::No,
        Some(FragmentMatch::Yes) => table_rule::Fragment::Yes,
        Some(FragmentMatch::First) => table_rule::Fragment::First,
        Some(FragmentMatch::Later) => table_rule::Fragment::Later,
    }
}

fn service(tables: &RuleTables, spec: &ServiceSpec) -> Result<TableService, TableError> {
    let object = || format!("service {}", spec.name);
    let policer = policer_name(tables, spec.policer, object)?;
    Ok(TableService {
        name: spec.name.clone(),
        addresses: spec.addresses.iter().copied().map(octets).collect(),
        protocol: protocol(spec.protocol),
        ports: ranges(&spec.ports),
        source_affinity: spec.source_affinity,
        backends: spec.backends.iter().map(backend).collect(),
        policer,
        mark: spec.mark.map(u32::from),
        class: class(spec.class),
        mode: mode(spec.mode).into(),
        stateless: spec.stateless,
        source_pool: spec.source_pool.iter().copied().map(octets).collect(),
        rebalances: spec.on_backend_loss == BackendLoss::Rebalance,
        limits: spec.limits.as_ref().map(service_limits),
        health: spec.health.as_ref().map(health),
        queue: Some(queue(&spec.queue)),
    })
}

fn queue(spec: &QueueSpec) -> TableQueue {
    TableQueue {
        rate_kbps: spec.rate_kbps,
        burst_bytes: spec.burst_bytes,
        weight: spec.weight.into(),
        deadline_us: spec.deadline_us,
        most_packets: spec.most_packets,
        most_bytes: spec.most_bytes,
        target_us: spec.target_us,
        ecn: spec.ecn,
    }
}

fn shaper(tables: &RuleTables, spec: &ShaperSpec) -> Result<TableShaper, TableError> {
    let [p1_weight, p2_weight, p3_weight] = spec.weights.map(u32::from);
    Ok(TableShaper {
        port: name_at(&tables.ports, spec.port, |port| &port.name, || "shaper".to_owned(), "port")?,
        rate_kbps: spec.rate_kbps,
        overhead: spec.overhead.into(),
        p0_percent: spec.p0_percent.into(),
        p1_weight,
        p2_weight,
        p3_weight,
    })
}

fn service_limits(spec: &ServiceLimitsSpec) -> TableServiceLimits {
    TableServiceLimits {
        total: Some(limits(&spec.total)),
        per_source: Some(limits(&spec.per_source)),
        source_v4: spec.source_v4.into(),
        source_v6: spec.source_v6.into(),
    }
}

fn limits(spec: &LimitsSpec) -> TableLimits {
    TableLimits { new_per_s: spec.new_per_s, half_open: spec.half_open, sessions: spec.sessions }
}

fn mode(mode: ServiceMode) -> table_service::Mode {
    match mode {
        ServiceMode::Nat => table_service::Mode::Nat,
        ServiceMode::FullNat => table_service::Mode::FullNat,
        ServiceMode::DsrMac => table_service::Mode::DsrMac,
        ServiceMode::DsrIpip => table_service::Mode::DsrIpip,
        ServiceMode::DsrGue => table_service::Mode::DsrGue,
    }
}

fn health(spec: &HealthSpec) -> TableHealth {
    let (kind, path, host, (first, last)) = match &spec.kind {
        HealthKind::Icmp => (table_health::Kind::Icmp, "", "", (0, 0)),
        HealthKind::Tcp => (table_health::Kind::Tcp, "", "", (0, 0)),
        HealthKind::Http { path, host, status } => (table_health::Kind::Http, path.as_str(), host.as_str(), *status),
    };
    TableHealth {
        kind: kind.into(),
        interval_ms: spec.interval_ms,
        timeout_ms: spec.timeout_ms,
        rise: spec.rise.into(),
        fall: spec.fall.into(),
        panic_below_percent: spec.panic_below_percent.into(),
        port: spec.port.map(u32::from),
        path: path.to_owned(),
        host: host.to_owned(),
        first_status: first.into(),
        last_status: last.into(),
    }
}

fn protocol(protocol: ServiceProtocol) -> u32 {
    // ICMP goes by its IPv4 number for both families.
    protocol.number(false).into()
}

fn backend(spec: &BackendSpec) -> TableBackend {
    TableBackend {
        name: spec.name.clone(),
        address: octets(spec.address),
        port: spec.port.map(u32::from),
        weight: spec.weight.into(),
        state: state(spec.state).into(),
    }
}

fn state(state: BackendState) -> table_backend::State {
    match state {
        BackendState::Up => table_backend::State::Up,
        BackendState::Draining => table_backend::State::Draining,
        BackendState::Down => table_backend::State::Down,
    }
}

fn policer(spec: &PolicerSpec) -> TablePolicer {
    TablePolicer {
        name: spec.name.clone(),
        kind: match spec.kind {
            PolicerKind::Srtcm => table_policer::Kind::Srtcm,
            PolicerKind::Trtcm => table_policer::Kind::Trtcm,
            PolicerKind::Rfc4115 => table_policer::Kind::Rfc4115,
        }
        .into(),
        packets: spec.unit == PolicerUnit::Packets,
        cir: spec.cir,
        cbs: spec.cbs,
        eir: spec.eir,
        ebs: spec.ebs,
        colour_aware: spec.colour_aware,
        per_source: spec.per_source.map(|sources| TableSources { v4: sources.v4.into(), v6: sources.v6.into() }),
        on_green: Some(colour(spec.on_green)),
        on_yellow: Some(colour(spec.on_yellow)),
        on_red: Some(colour(spec.on_red)),
    }
}

fn colour(action: PolicerAction) -> TableColour {
    let (kind, mark, class) = match action {
        PolicerAction::Pass => (table_colour::Kind::Pass, 0, 0),
        PolicerAction::Mark(mark) => (table_colour::Kind::Mark, mark.into(), 0),
        PolicerAction::Ce => (table_colour::Kind::Ce, 0, 0),
        PolicerAction::Class(class) => (table_colour::Kind::Class, 0, class as u32),
        PolicerAction::Drop => (table_colour::Kind::Drop, 0, 0),
    };
    TableColour { kind: kind.into(), mark, class }
}

fn dscp_map(spec: &DscpMapSpec) -> TableDscpMap {
    let codepoint = |from: u32, to: u8| TableCodepoint { from, to: to.into() };
    let classes = (0..).zip(spec.classes).filter_map(|(class, to)| Some(codepoint(class, to?)));
    TableDscpMap {
        name: spec.name.clone(),
        codepoints: spec.codepoints.iter().map(|&(from, to)| codepoint(from.into(), to)).collect(),
        classes: classes.collect(),
    }
}

fn prefixes(list: &[Cidr]) -> Vec<TablePrefix> {
    list.iter().map(prefix).collect()
}

fn prefix(cidr: &Cidr) -> TablePrefix {
    TablePrefix { address: octets(cidr.addr), length: cidr.len.into() }
}

fn ranges(list: &[PortRange]) -> Vec<TablePortRange> {
    list.iter().map(|range| TablePortRange { first: range.first.into(), last: range.last.into() }).collect()
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

fn interface_name(tables: &RuleTables, index: usize, object: impl FnOnce() -> String) -> Result<String, TableError> {
    name_at(&tables.interfaces, index, |interface| &interface.name, object, "interface")
}

fn name_at<T>(
    list: &[T],
    index: usize,
    name: impl FnOnce(&T) -> &String,
    object: impl FnOnce() -> String,
    field: &str,
) -> Result<String, TableError> {
    match list.get(index) {
        Some(found) => Ok(name(found).clone()),
        None => {
            Err(TableError::new(object(), field, format!("index {index}"), format!("an index below {}", list.len())))
        }
    }
}
