//! From `RuleTables` to a `Snapshot`: the one place where expensive structures are made and budgets are computed. The node, the harness,
//! the tests and control's dry run all call it; it never runs on a worker.

mod qos;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::burst::{Egress, NONE};
use crate::change::serial;
use crate::flow::{Addr, from_ip};
use crate::hash::ECMP_SLOTS;
use crate::ports::{PortSlot, UNTAGGED};
use crate::sampling;
use crate::slots::Slots;
use crate::snapshot::{Detour, Exit, Interface, PortInterfaces, Route, Snapshot};
use crate::stats::MAX_PORTS;
use crate::table::fib::Fib;
use crate::table::filter::AddressFilter;
use crate::table::hops::{Hop, Hops};
use crate::table::maps::Maps;
use crate::table::neighbours::NeighbourKey;
use crate::table::rules::{Limits, Refused, Rules};
use crate::table::services::{Service, Services};
use crate::table::sessions::{FlowSettings, Limits as SessionLimits, MOST_POOLS, MOST_SERVICES, ServiceLimits};
use crate::tables::{
    LimitsSpec, RouteAction, RuleMatch, RuleSpec, RuleTables, RuleWay, ServiceMode, ServiceProtocol, ServiceSpec, Urpf,
};
use crate::wire::TCP;

pub(crate) use qos::classes_beside_rules;
use qos::{WORSE, known_mark, marks, policer, policers, shapers, shaping, unknown_mark};

/// What a snapshot may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Octets of all tables.
    pub bytes: usize,
    /// Cache lines a packet's rule look-up may touch in the worst case.
    pub rule_lines: usize,
    /// Counter slots (rules, services, backends, policers together), as many as the workers' statistics have.
    pub counters: u32,
    /// Policers.
    pub policers: u32,
    /// Services with queues of their own on shaped ports.
    pub queues: u16,
    /// Workers of the node.
    pub workers: usize,
}

impl Default for Budget {
    /// 512 MiB, 64 lines, 262,144 counters (100,000 rules and as many backends; 6 MiB a worker), 16,384 policers,
    /// 16,383 services with queues.
    fn default() -> Self {
        Self {
            bytes: 512 << 20,
            rule_lines: 64,
            counters: 1 << 18,
            policers: 1 << 14,
            queues: (1 << 14) - 1,
            workers: 1,
        }
    }
}

impl Budget {
    /// What rules may cost.
    pub(crate) fn of_rules(&self) -> Limits {
        Limits { bytes: self.bytes, lines: self.rule_lines }
    }
}

/// Why tables cannot become a snapshot. Nothing changes on the node then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Something there is too much of.
    #[error("{object}: {field}: found {found}, allowed at most {allowed}")]
    OverBudget {
        /// What is over budget.
        object: String,
        /// Which measure.
        field: &'static str,
        /// What it would take.
        found: String,
        /// What the budget allows.
        allowed: String,
    },
    /// A reference or value that no compiler of ours produces.
    #[error("{object}: {field}: found {found}, allowed {allowed}")]
    Invalid {
        /// The object.
        object: String,
        /// Its field.
        field: &'static str,
        /// What it says.
        found: String,
        /// What it may say.
        allowed: String,
    },
}

/// Builds a snapshot. `previous` is the generation it will replace: equal names keep their port, counter and policer slots.
pub fn build(tables: &RuleTables, previous: Option<&Snapshot>, budget: &Budget) -> Result<Snapshot, BuildError> {
    let empty = Snapshot::default();
    let previous = previous.unwrap_or(&empty);
    check(tables)?;
    let mut snapshot = Snapshot {
        serial: serial(),
        port_slots: previous.port_slots.next_generation(),
        counter_slots: previous.counter_slots.next_generation(),
        policer_slots: previous.policer_slots.next_generation(),
        limit_slots: previous.limit_slots.next_generation(),
        queue_slots: previous.queue_slots.next_generation(),
        ..Snapshot::default()
    };
    ports(tables, &mut snapshot)?;
    interfaces(tables, &mut snapshot);
    routes(tables, &mut snapshot);
    snapshot.detours = detours(tables, &snapshot);
    let mut counters = Counters::new(tables, &mut snapshot.counter_slots, budget)?;
    let room = budget.of_rules();
    snapshot.rules = Rules::build_for_change(&tables.rules, room, |r| counters.get("rule", &r.name))
        .map_err(|refused| rules_over_budget(tables, refused))?;
    let limits = limits(tables, &mut snapshot.limit_slots, budget)?;
    let services = tables
        .services
        .iter()
        .zip(limits)
        .map(|(spec, limits)| {
            let service = Service::new(spec, |backend| match backend {
                None => counters.get("service", &spec.name),
                Some(b) => counters.get("backend", &format!("{}/{}", spec.name, b.name)),
            });
            if let Some(before) = previous.services.named(&spec.name) {
                service.take_over(before);
            }
            service.with_limits(limits)
        })
        .enumerate()
        .map(|(index, service)| service.with_flows(tells(tables, index)))
        .collect();
    snapshot.services = Arc::new(Services::build(&tables.services, services));
    snapshot.flows = tables.flows.as_ref().map(FlowSettings::from);
    snapshot.backends =
        with_past(snapshot.services.iter().flat_map(Service::backends).map(|b| b.address), &previous.backends);
    let pools = tables.services.iter().flat_map(|spec| &spec.source_pool).map(|ip| from_ip(*ip));
    snapshot.pools = with_past(pools, &previous.pools);
    snapshot.policers = policers(tables, &mut snapshot.policer_slots, &previous.policers, &mut counters, budget)?;
    snapshot.maps = Maps::new(&tables.dscp_maps);
    snapshot.classes = classes_beside_rules(tables) || tables.rules.iter().any(|rule| rule.class.is_some());
    snapshot.policer_names = tables.policers.iter().map(|p| p.name.clone()).collect();
    // Sessions of services that are gone may still be another worker's, and a route may cover an address of ours.
    snapshot.only_ways = snapshot.only_routes()
        && !snapshot.checks_sources
        && !snapshot.polices_interfaces
        && !snapshot.classes
        && snapshot.trusts_all
        && snapshot.backends.is_empty()
        && snapshot.pools.is_empty()
        && snapshot.specials().all(|addr| snapshot.fibs.iter().all(|fib| snapshot.exit(fib.lookup(addr)).is_none()));
    snapshot.shaping = shaping(tables, &mut snapshot, budget)?;
    within_budget(&snapshot, tables, budget)?;
    Ok(snapshot)
}

/// Whether the sessions of a service are told to a flow collector.
fn tells(tables: &RuleTables, service: usize) -> bool {
    tables.flows.as_ref().is_some_and(|flows| flows.services.is_empty() || flows.services.contains(&service))
}

/// By service. A service keeps its place over pushes; another one gets it only when there is none left, and then counts the old one's sessions
/// until they end.
fn limits(tables: &RuleTables, slots: &mut Slots, budget: &Budget) -> Result<Vec<Option<ServiceLimits>>, BuildError> {
    let names: Vec<_> = tables.services.iter().filter(|s| s.limits.is_some()).map(|s| s.name.clone()).collect();
    slots.make_room(&names, MOST_SERVICES);
    let shared = |limits: &LimitsSpec| {
        SessionLimits::shared(limits.new_per_s, limits.half_open, limits.sessions, budget.workers)
    };
    let one = |spec: &ServiceSpec| {
        let Some(limits) = &spec.limits else { return Ok(None) };
        let slot = slots.take(&spec.name, MOST_SERVICES).ok_or_else(|| BuildError::OverBudget {
            object: format!("service {}", spec.name),
            field: "limits",
            found: format!("{} services with limits", names.len()),
            allowed: MOST_SERVICES.to_string(),
        })?;
        Ok(Some(ServiceLimits {
            place: slot.index,
            total: shared(&limits.total),
            source: (limits.per_source != LimitsSpec::default()).then(|| shared(&limits.per_source)),
            prefixes: [limits.source_v4, limits.source_v6],
        }))
    };
    tables.services.iter().map(one).collect()
}

/// Most addresses remembered beyond the current ones.
const MAX_PAST: usize = 1 << 16;

/// Addresses by which sessions may be found: of this generation, and of earlier ones, whose sessions may live on. Sorted.
fn with_past(now: impl Iterator<Item = Addr>, past: &[Addr]) -> Vec<Addr> {
    let mut all: Vec<Addr> = now.chain(past.iter().copied().take(MAX_PAST)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn within_budget(snapshot: &Snapshot, tables: &RuleTables, budget: &Budget) -> Result<(), BuildError> {
    if snapshot.bytes() > budget.bytes {
        return Err(BuildError::OverBudget {
            object: format!(
                "{} routes, {} rules, {} services",
                tables.routes.len(),
                tables.rules.len(),
                tables.services.len()
            ),
            field: "bytes",
            found: snapshot.bytes().to_string(),
            allowed: budget.bytes.to_string(),
        });
    }
    Ok(())
}

/// Rules named in a refusal.
const NAMED: usize = 8;

fn rules_over_budget(tables: &RuleTables, refused: Refused) -> BuildError {
    let Refused { field, found, allowed, culprits } = refused;
    let names = culprits.iter().filter_map(|&rule| tables.rules.get(rule as usize)).map(|rule| rule.name.as_str());
    let mut named: Vec<_> = names.clone().take(NAMED).collect();
    let rest = format!("{} more", culprits.len().saturating_sub(NAMED));
    if culprits.len() > NAMED {
        named.push(&rest);
    }
    let object = if culprits.len() == 1 { "rule" } else { "rules" };
    BuildError::OverBudget { object: format!("{object} {}", named.join(", ")), field, found, allowed }
}

/// References stay inside their vectors, so that later steps need not ask.
fn check(tables: &RuleTables) -> Result<(), BuildError> {
    let invalid = |object, field, found, len| Err(outside(object, field, found, len));
    for i in &tables.interfaces {
        if i.port >= tables.ports.len() {
            return invalid(format!("interface {}", i.name), "port", i.port, tables.ports.len());
        }
    }
    let interfaces = tables.interfaces.len();
    for r in &tables.routes {
        if let RouteAction::Via(hops) = &r.action {
            if let Some(hop) = hops.iter().find(|h| h.interface >= interfaces) {
                return invalid(format!("route {}", r.prefix), "via.interface", hop.interface, interfaces);
            }
            if hops.is_empty() || hops.len() > ECMP_SLOTS || hops.iter().any(|h| h.weight == 0) {
                return Err(BuildError::Invalid {
                    object: format!("route {}", r.prefix),
                    field: "via",
                    found: format!("{} next hops, or one of weight 0", hops.len()),
                    allowed: format!("1 to {ECMP_SLOTS}, weights from 1"),
                });
            }
        }
    }
    let named = Named::of(tables);
    tables.rules.iter().try_for_each(|rule| check_rule(rule, &named))?;
    samples(tables)?;
    shapers(tables)?;
    for s in &tables.services {
        if let Some(p) = s.policer.filter(|&p| p >= tables.policers.len()) {
            return invalid(format!("service {}", s.name), "policer", p, tables.policers.len());
        }
        if s.backends.len() >= usize::from(u16::MAX) || s.backends.iter().any(|b| b.weight == 0) {
            return Err(BuildError::Invalid {
                object: format!("service {}", s.name),
                field: "backends",
                found: format!("{} backends, or one of weight 0", s.backends.len()),
                allowed: "at most 65534, weights from 1".into(),
            });
        }
    }
    if let Some(service) = tables.flows.iter().flat_map(|flows| &flows.services).find(|&&s| s >= tables.services.len())
    {
        return invalid("flows".into(), "services", *service, tables.services.len());
    }
    tables.services.iter().try_for_each(mode)?;
    let pools: HashSet<&IpAddr> = tables.services.iter().flat_map(|service| &service.source_pool).collect();
    if pools.len() > MOST_POOLS {
        return Err(BuildError::OverBudget {
            object: "services".into(),
            field: "source_pool",
            found: format!("{} addresses in all", pools.len()),
            allowed: MOST_POOLS.to_string(),
        });
    }
    if let Some(i) = tables.interfaces.iter().find(|i| i.policer.is_some_and(|p| p >= tables.policers.len())) {
        return invalid(
            format!("interface {}", i.name),
            "policer",
            i.policer.unwrap_or_default(),
            tables.policers.len(),
        );
    }
    tables.policers.iter().try_for_each(policer)?;
    marks(tables)
}

/// A reference that leads nowhere.
fn outside(object: String, field: &'static str, found: usize, len: usize) -> BuildError {
    BuildError::Invalid { object, field, found: found.to_string(), allowed: format!("an index below {len}") }
}

/// How much there is of what rules name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named {
    interfaces: usize,
    policers: usize,
    maps: usize,
}

impl Named {
    pub(crate) fn of(tables: &RuleTables) -> Self {
        Self { interfaces: tables.interfaces.len(), policers: tables.policers.len(), maps: tables.dscp_maps.len() }
    }
}

/// What a rule may say.
pub(crate) fn check_rule(r: &RuleSpec, named: &Named) -> Result<(), BuildError> {
    let Named { interfaces, policers, maps } = *named;
    let object = || format!("rule {}", r.name);
    if let Some(i) = r.matches.in_interface.filter(|&i| i >= interfaces) {
        return Err(outside(object(), "match.in", i, interfaces));
    }
    if let Some(p) = r.policer.filter(|&p| p >= policers) {
        return Err(outside(object(), "policer", p, policers));
    }
    if let Some(RuleWay::NextHop { interface, .. }) = r.way
        && interface >= interfaces
    {
        return Err(outside(object(), "next_hop.interface", interface, interfaces));
    }
    if let Some(mark) = r.mark.filter(|&mark| !known_mark(mark, maps)) {
        return Err(unknown_mark(object(), mark, maps));
    }
    let invalid = |field, found: String, allowed: &str| {
        Err(BuildError::Invalid { object: object(), field, found, allowed: allowed.into() })
    };
    let RuleMatch { tcp_flags, protocol, dscp, vlan, .. } = &r.matches;
    if let Some(flags) = tcp_flags {
        if *protocol != Some(TCP) {
            return invalid("match.tcp_flags", format!("with protocol {protocol:?}"), "with protocol 6 only");
        }
        if flags.value & !flags.mask != 0 {
            return invalid("match.tcp_flags", format!("{flags:?}"), "no value outside of the mask");
        }
    }
    if let Some(dscp) = dscp.iter().find(|&&dscp| dscp > 63) {
        return invalid("match.dscp", dscp.to_string(), "0 to 63");
    }
    if let Some(vlan) = vlan.filter(|&vlan| vlan > 4094) {
        return invalid("match.vlan", vlan.to_string(), "0 to 4094");
    }
    Ok(())
}

/// How many rules take samples.
fn samples(tables: &RuleTables) -> Result<(), BuildError> {
    let sampling = tables.rules.iter().filter(|r| r.log_sample > 0);
    match sampling.clone().nth(sampling::MOST) {
        Some(r) => Err(BuildError::OverBudget {
            object: format!("rule {}", r.name),
            field: "rules with log_sample",
            found: sampling.count().to_string(),
            allowed: sampling::MOST.to_string(),
        }),
        None => Ok(()),
    }
}

/// The ways that rules set, in the order of the rules.
fn detours(tables: &RuleTables, snapshot: &Snapshot) -> Vec<Detour> {
    let fib_of = fib_numbers(tables);
    let way = |way| match way {
        RuleWay::NextHop { address, interface } => {
            let next_hop = from_ip(address);
            let out = &snapshot.interfaces[interface];
            let neighbour_hash = out.neighbour(next_hop).hash();
            let egress = Egress { interface: interface as u32, next_hop, neighbour_hash, mtu: out.mtu, port: out.port };
            Detour::NextHop { v6: address.is_ipv6(), egress }
        }
        RuleWay::Table(table) => Detour::Table(fib_of[&table]),
    };
    tables.rules.iter().filter_map(|r| r.way).map(way).collect()
}

/// The routing tables that are in use, numbered in the order of [`RuleTables`]' numbers.
fn fib_numbers(tables: &RuleTables) -> BTreeMap<u32, u32> {
    let named = tables.rules.iter().filter_map(|r| if let Some(RuleWay::Table(t)) = r.way { Some(t) } else { None });
    let used = tables.interfaces.iter().map(|i| i.table).chain(tables.routes.iter().map(|r| r.table)).chain(named);
    used.collect::<std::collections::BTreeSet<_>>().into_iter().zip(0..).collect()
}

/// What a service's mode asks of it and its backends.
fn mode(service: &ServiceSpec) -> Result<(), BuildError> {
    let invalid = |field, found, allowed: &str| {
        let object = format!("service {}", service.name);
        Err(BuildError::Invalid { object, field, found, allowed: allowed.to_owned() })
    };
    if service.stateless && !service.mode.is_direct() {
        return invalid("sessions", format!("none with mode {}", service.mode.label()), "none in direct modes only");
    }
    if service.mode == ServiceMode::FullNat {
        let has = |v6| service.source_pool.iter().any(|pool: &IpAddr| pool.is_ipv6() == v6);
        if service.protocol == ServiceProtocol::Icmp {
            return invalid("protocol", "icmp with mode full_nat".into(), "tcp or udp: ICMP has no ports");
        }
        if let Some(address) = service.addresses.iter().find(|address| !has(address.is_ipv6())) {
            let found = format!("no address of the family of {address}");
            return invalid("source_pool", found, "at least one for each family of the service's addresses");
        }
    } else if !service.source_pool.is_empty() {
        return invalid(
            "source_pool",
            format!("one with mode {}", service.mode.label()),
            "one with mode full_nat only",
        );
    }
    if service.mode.is_direct()
        && let Some(backend) = service.backends.iter().find(|b| b.port.is_some())
    {
        let found = format!("a port of backend {} with mode {}", backend.name, service.mode.label());
        return invalid("backends.port", found, "none where packets keep their ports");
    }
    Ok(())
}

fn ports(tables: &RuleTables, snapshot: &mut Snapshot) -> Result<(), BuildError> {
    let names: Vec<_> = tables.ports.iter().map(|p| p.name.clone()).collect();
    snapshot.port_slots.make_room(&names, MAX_PORTS as u32);
    for spec in &tables.ports {
        let slot = snapshot.port_slots.take(&spec.name, MAX_PORTS as u32).ok_or_else(|| BuildError::OverBudget {
            object: format!("port {}", spec.name),
            field: "ports",
            found: tables.ports.len().to_string(),
            allowed: MAX_PORTS.to_string(),
        })?;
        snapshot.ports.push((PortSlot::from_index(slot.index as usize), spec.clone()));
    }
    Ok(())
}

fn interfaces(tables: &RuleTables, snapshot: &mut Snapshot) {
    let fib_of = fib_numbers(tables);
    let mut by_port = PortInterfaces::default();
    for (index, spec) in tables.interfaces.iter().enumerate() {
        let (port, port_spec) = &snapshot.ports[spec.port];
        let vlan = spec.vlan.unwrap_or(UNTAGGED);
        by_port.insert(*port, vlan, index as u32);
        snapshot.interfaces.push(Interface {
            name: spec.name.clone(),
            port: *port,
            vlan,
            mtu: port_spec.mtu,
            trust_dscp: spec.trust_dscp,
            urpf: spec.urpf,
            policer: spec.policer.map_or(NONE, |policer| policer as u32),
            addresses: spec.addresses.iter().map(|c| (from_ip(c.addr), c.len)).collect(),
            fib: fib_of[&spec.table],
            table: spec.table,
        });
        for cidr in &spec.addresses {
            snapshot.own.push(from_ip(cidr.addr));
            if cidr.addr.is_ipv4() && cidr.len <= 30 {
                snapshot.broadcasts.push(from_ip(cidr.network().addr) | ((1 << (32 - cidr.len)) - 1));
            }
        }
    }
    snapshot.by_port = by_port;
    snapshot.checks_sources = snapshot.interfaces.iter().any(|i| i.urpf != Urpf::Off);
    snapshot.polices_interfaces = snapshot.interfaces.iter().any(|i| i.policer != NONE);
    snapshot.trusts_all = snapshot.interfaces.iter().all(|i| i.trust_dscp);
    snapshot.own.sort_unstable();
    snapshot.own.dedup();
    snapshot.broadcasts.sort_unstable();
    snapshot.broadcasts.dedup();
    snapshot.special = AddressFilter::new(&snapshot.specials().collect::<Vec<_>>());
}

fn routes(tables: &RuleTables, snapshot: &mut Snapshot) {
    // Per table: prefix to route index. Connected prefixes first, so that a configured route replaces them.
    let mut prefixes: BTreeMap<u32, BTreeMap<(Addr, u8), u32>> =
        fib_numbers(tables).into_keys().map(|table| (table, BTreeMap::new())).collect();
    let mut seen = HashSet::new();
    for (index, spec) in tables.interfaces.iter().enumerate() {
        let place = (snapshot.interfaces[index].port, snapshot.interfaces[index].vlan);
        prefixes.entry(spec.table).or_default();
        for cidr in &spec.addresses {
            let key = (from_ip(cidr.network().addr), cidr.len);
            if seen.insert((spec.table, key)) {
                let route = snapshot.routes.len() as u32;
                snapshot.routes.push(Route::Connected { interface: index as u32, place });
                prefixes.entry(spec.table).or_default().insert(key, route);
            }
        }
    }
    // Routes that do the same share one entry: few gateways serve many prefixes, and their entries stay in the cache.
    // Default routes have their own: reverse path checks tell them apart.
    let mut same: HashMap<(bool, &RouteAction), u32> = HashMap::new();
    let mut hops = Hops::default();
    for spec in &tables.routes {
        let key = (from_ip(spec.prefix.network().addr), spec.prefix.len);
        let is_default = spec.prefix.len == 0;
        let index = *same.entry((is_default, &spec.action)).or_insert_with(|| {
            let route = route(&spec.action, &snapshot.interfaces, &mut hops);
            snapshot.routes.push(route);
            snapshot.routes.len() as u32 - 1
        });
        if is_default && !snapshot.default_routes.contains(&index) {
            snapshot.default_routes.push(index);
        }
        prefixes.entry(spec.table).or_default().insert(key, index);
    }
    snapshot.hops = Arc::new(hops);
    let nowhere = Egress { interface: NONE, ..Egress::default() };
    snapshot.ways = snapshot
        .routes
        .iter()
        .map(|route| match *route {
            Route::Via(range) if range.count == 1 => {
                snapshot.hops.of(range).first().map_or(nowhere, |hop| snapshot.way(hop))
            }
            _ => nowhere,
        })
        .collect();
    snapshot.exits = snapshot.ways.iter().map(|way| exit(way, snapshot)).collect();
    // BTreeMap order equals the numbering of `fib_numbers`.
    snapshot.fibs = prefixes
        .into_values()
        .map(|list| Fib::build(list.into_iter().map(|((addr, len), index)| (addr, len, index))))
        .collect();
}

/// Of a way, if it is one.
fn exit(way: &Egress, snapshot: &Snapshot) -> Exit {
    let neighbour = match snapshot.interface(way.interface) {
        Some(out) => out.neighbour(way.next_hop),
        None => NeighbourKey { port: PortSlot::default(), vlan: UNTAGGED, address: 0 },
    };
    Exit { neighbour, hash: way.neighbour_hash, interface: way.interface, mtu: way.mtu }
}

/// The entry of an action; its next hops go to the others.
fn route(action: &RouteAction, interfaces: &[Interface], all: &mut Hops) -> Route {
    match action {
        RouteAction::Blackhole => Route::Blackhole,
        RouteAction::Reject => Route::Reject,
        RouteAction::Via(hops) => Route::Via(all.add(hops.iter().map(|hop| {
            let address = from_ip(hop.address);
            let neighbour = interfaces[hop.interface].neighbour(address);
            Hop {
                address,
                interface: hop.interface as u32,
                port: neighbour.port,
                weight: hop.weight,
                neighbour_hash: neighbour.hash(),
            }
        }))),
    }
}

/// Counter slots by kind and name.
struct Counters<'a> {
    slots: &'a mut Slots,
    limit: u32,
}

impl<'a> Counters<'a> {
    fn new(tables: &RuleTables, slots: &'a mut Slots, budget: &Budget) -> Result<Self, BuildError> {
        let mut names: Vec<String> = tables.rules.iter().map(|r| format!("rule/{}", r.name)).collect();
        for s in &tables.services {
            names.push(format!("service/{}", s.name));
            names.extend(s.backends.iter().map(|b| format!("backend/{}/{}", s.name, b.name)));
        }
        for p in &tables.policers {
            names.push(format!("policer/{}", p.name));
            names.extend(WORSE.map(|colour| format!("colour/{}/{}", p.name, colour.label())));
        }
        if names.len() > budget.counters as usize {
            return Err(BuildError::OverBudget {
                object: "rules, services, backends and policers".into(),
                field: "counters",
                found: names.len().to_string(),
                allowed: budget.counters.to_string(),
            });
        }
        slots.make_room(&names, budget.counters);
        Ok(Self { slots, limit: budget.counters })
    }

    /// Room was made, so a slot is there; [`crate::burst::NONE`] would simply not count.
    fn get(&mut self, kind: &str, name: &str) -> u32 {
        self.slots.take(&format!("{kind}/{name}"), self.limit).map_or(crate::burst::NONE, |s| s.index)
    }
}
