//! One node's tables.

use std::collections::HashMap;
use std::net::IpAddr;

use marchproxy_engine::tables::{
    BackendSpec, FlowsSpec, InterfaceSpec, NextHopSpec, PortSpec, RouteAction as Action, RouteSpec, RuleAction,
    RuleMatch, RuleSpec, RuleTables, RuleWay, ServiceSpec, ShaperSpec,
};

use crate::model::{Model, RouteAction, Rule, Way};

/// Stands in for rules that all belong to other nodes: where a document has rules, what none permits is denied.
const NO_RULE_HERE: &str = "no-rule-for-this-node";

pub(super) fn compile(model: &Model, node: usize, table_ids: &HashMap<&str, u32>) -> RuleTables {
    let table = |name: &str| table_ids.get(name).copied().unwrap_or_default();
    let (ports, port_index) = ports(model, node);
    let shapers = shapers(model, node, &port_index);
    let here = Here::new(model, node, table);
    let mut policers = model.policers.clone();
    policers.sort_by(|a, b| a.name.cmp(&b.name));
    RuleTables {
        flows: flows(model, node),
        routes: routes(model, node, &here.interfaces, table),
        rules: rules(model, &here, table),
        services: services(model, &here.policer_index),
        ports,
        interfaces: here.interfaces,
        policers,
        dscp_maps: model.dscp_maps.clone(),
        shapers,
    }
}

/// By port.
fn shapers(model: &Model, node: usize, port_index: &[usize]) -> Vec<ShaperSpec> {
    let ports = model.nodes[node].ports.iter().zip(port_index);
    let mut shapers: Vec<ShaperSpec> =
        ports.filter_map(|(port, &index)| Some(ShaperSpec { port: index, ..port.shaper? })).collect();
    shapers.sort_by_key(|shaper| shaper.port);
    shapers
}

/// The ports by name, and where each one of the model went.
fn ports(model: &Model, node: usize) -> (Vec<PortSpec>, Vec<usize>) {
    let ports = &model.nodes[node].ports;
    let spec = |port: usize| {
        let port = &ports[port];
        PortSpec { name: port.name.clone(), device: port.device.clone(), mtu: port.mtu }
    };
    let order = sorted(0..ports.len(), |port| &ports[*port].name);
    let mut index = vec![0; ports.len()];
    for (new, old) in order.iter().enumerate() {
        index[*old] = new;
    }
    (order.into_iter().map(spec).collect(), index)
}

/// The node's interfaces by name, and where each one of the model went, if it is on this node.
fn interfaces(
    model: &Model,
    node: usize,
    port_index: &[usize],
    policer_index: &[usize],
    table: impl Fn(&str) -> u32,
) -> (Vec<InterfaceSpec>, Vec<Option<usize>>) {
    let ours = (0..model.interfaces.len()).filter(|interface| model.interfaces[*interface].node == node);
    let order = sorted(ours, |interface| &model.interfaces[*interface].name);
    let mut index = vec![None; model.interfaces.len()];
    for (new, old) in order.iter().enumerate() {
        index[*old] = Some(new);
    }
    let spec = |interface: usize| {
        let interface = &model.interfaces[interface];
        InterfaceSpec {
            name: interface.name.clone(),
            port: port_index[interface.port],
            vlan: interface.vlan,
            addresses: interface.addresses.clone(),
            table: table(&interface.table),
            urpf: interface.urpf,
            trust_dscp: interface.trust_dscp,
            policer: interface.policer.map(|policer| policer_index[policer]),
        }
    };
    (order.into_iter().map(spec).collect(), index)
}

fn routes(model: &Model, node: usize, interfaces: &[InterfaceSpec], table: impl Fn(&str) -> u32) -> Vec<RouteSpec> {
    let mut connected = Connected { interfaces, found: HashMap::new() };
    let mut routes = Vec::new();
    for route in model.routes.iter().filter(|route| route.node.is_none_or(|only| only == node)) {
        let table = table(&route.table);
        let action = match &route.action {
            RouteAction::Blackhole => Action::Blackhole,
            RouteAction::Reject => Action::Reject,
            RouteAction::Via(via) => {
                let mut hops: Vec<NextHopSpec> = via
                    .iter()
                    .filter_map(|hop| {
                        let interface = connected.interface(table, hop.address)?;
                        Some(NextHopSpec { address: hop.address, interface, weight: hop.weight })
                    })
                    .collect();
                if hops.is_empty() {
                    continue;
                }
                hops.sort_by_key(|hop| hop.address);
                Action::Via(hops)
            }
        };
        routes.push(RouteSpec { table, prefix: route.prefix, action });
    }
    routes.sort_by_key(|route| (route.table, route.prefix));
    routes
}

/// Which interface leads to a next hop. Big tables have few next hops, so answers are kept.
struct Connected<'a> {
    interfaces: &'a [InterfaceSpec],
    found: HashMap<(u32, IpAddr), Option<usize>>,
}

impl Connected<'_> {
    fn interface(&mut self, table: u32, address: IpAddr) -> Option<usize> {
        *self.found.entry((table, address)).or_insert_with(|| {
            self.interfaces.iter().position(|interface| {
                interface.table == table && interface.addresses.iter().any(|own| own.contains(address))
            })
        })
    }
}

/// Where the node tells of its sessions.
fn flows(model: &Model, node: usize) -> Option<FlowsSpec> {
    let flows = model.nodes[node].flows.as_ref()?;
    let order = sorted(0..model.services.len(), |service| &model.services[*service].name);
    let told = |(_, old): &(usize, &usize)| flows.services.contains(old);
    let services = order.iter().enumerate().filter(told).map(|(new, _)| new).collect();
    Some(FlowsSpec { services, ..flows.spec.clone() })
}

/// Where each policer of the model went.
fn policer_index(model: &Model) -> Vec<usize> {
    let order = sorted(0..model.policers.len(), |policer| &model.policers[*policer].name);
    let mut index = vec![0; model.policers.len()];
    for (new, old) in order.into_iter().enumerate() {
        index[old] = new;
    }
    index
}

/// What rules refer to on one node.
#[derive(Debug)]
pub(super) struct Here {
    interfaces: Vec<InterfaceSpec>,
    /// Where each interface and policer of the model went.
    interface_index: Vec<Option<usize>>,
    policer_index: Vec<usize>,
}

impl Here {
    pub(super) fn new(model: &Model, node: usize, table: impl Fn(&str) -> u32) -> Self {
        let (_, port_index) = ports(model, node);
        let policer_index = policer_index(model);
        let (interfaces, interface_index) = interfaces(model, node, &port_index, &policer_index, table);
        Self { interfaces, interface_index, policer_index }
    }

    /// The interface that an address is connected to.
    fn connected(&self, address: IpAddr) -> Option<usize> {
        self.interfaces.iter().position(|interface| interface.addresses.iter().any(|own| own.contains(address)))
    }

    /// The rule as the node has it; `None` for one of other nodes.
    pub(super) fn rule(&self, rule: &Rule, table: impl Fn(&str) -> u32) -> Option<RuleSpec> {
        let in_interface = match rule.matches.in_interface {
            None => None,
            Some(interface) => Some(self.interface_index[interface]?),
        };
        let way = match &rule.way {
            None => None,
            Some(Way::Table(name)) => Some(RuleWay::Table(table(name))),
            Some(Way::NextHop(address)) => {
                Some(RuleWay::NextHop { address: *address, interface: self.connected(*address)? })
            }
        };
        let (src, dst) = (set_of(&rule.matches.src), set_of(&rule.matches.dst));
        Some(RuleSpec {
            name: rule.name.clone(),
            priority: rule.priority,
            matches: RuleMatch { src, dst, in_interface, ..rule.matches.clone() },
            action: rule.action,
            mark: rule.mark,
            policer: rule.policer.map(|policer| self.policer_index[policer]),
            way,
            log_sample: rule.log_sample,
            new_only: rule.new_only,
            class: rule.class,
        })
    }
}

fn rules(model: &Model, here: &Here, table: impl Fn(&str) -> u32) -> Vec<RuleSpec> {
    let mut rules: Vec<RuleSpec> = model.rules.iter().filter_map(|rule| here.rule(rule, &table)).collect();
    let decides = |action: RuleAction| action != RuleAction::Count;
    if model.rules.iter().any(|rule| decides(rule.action)) && !rules.iter().any(|rule| decides(rule.action)) {
        // No rule that decides at all would permit everything.
        rules.push(RuleSpec {
            name: NO_RULE_HERE.to_owned(),
            priority: u32::MAX,
            action: RuleAction::Deny,
            ..RuleSpec::default()
        });
    }
    rules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    rules
}

fn services(model: &Model, policer_index: &[usize]) -> Vec<ServiceSpec> {
    let mut services: Vec<ServiceSpec> = model
        .services
        .iter()
        .map(|service| {
            let addresses = set_of(&service.addresses);
            let mut backends: Vec<BackendSpec> = service
                .backends
                .iter()
                .map(|backend| BackendSpec {
                    name: backend.name.clone(),
                    address: backend.address,
                    port: backend.port,
                    weight: backend.weight,
                    state: backend.state,
                })
                .collect();
            backends.sort_by(|a, b| a.name.cmp(&b.name));
            ServiceSpec {
                name: service.name.clone(),
                addresses,
                protocol: service.protocol,
                ports: service.ports.clone(),
                source_affinity: service.source_affinity,
                mode: service.mode,
                stateless: service.stateless,
                source_pool: set_of(&service.source_pool),
                on_backend_loss: service.on_backend_loss,
                backends,
                policer: service.policer.map(|policer| policer_index[policer]),
                mark: service.mark,
                class: service.class,
                queue: service.queue,
                limits: service.limits,
                health: service.health.clone(),
            }
        })
        .collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    services
}

fn set_of<T: Copy + Ord>(list: &[T]) -> Vec<T> {
    let mut set = list.to_vec();
    set.sort_unstable();
    set.dedup();
    set
}

fn sorted<'a>(indices: impl Iterator<Item = usize>, name: impl Fn(&usize) -> &'a String) -> Vec<usize> {
    let mut order: Vec<usize> = indices.collect();
    order.sort_by(|a, b| name(a).cmp(name(b)));
    order
}
