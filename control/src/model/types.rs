//! The validated model: a document whose every word was understood and whose every reference leads somewhere. Only
//! [`validate`](super::validate) makes one. Indices point into the lists of the model, which stand in the document's order.

use std::net::IpAddr;

use marchproxy_engine::tables::{
    BackendLoss, BackendState, Cidr, Class, DscpMapSpec, FlowsSpec, HealthSpec, PolicerSpec, PortRange, QueueSpec,
    RuleAction, RuleMatch, ServiceLimitsSpec, ServiceMode, ServiceProtocol, ShaperSpec, Urpf,
};

/// A validated document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    pub(crate) cluster: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) routes: Vec<Route>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) services: Vec<Service>,
    pub(crate) policers: Vec<PolicerSpec>,
    /// Sorted by name: marks say their place.
    pub(crate) dscp_maps: Vec<DscpMapSpec>,
}

impl Model {
    /// The cluster it belongs to.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The names of its nodes, in the document's order.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.name.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub name: String,
    pub ports: Vec<Port>,
    pub flows: Option<Flows>,
}

/// A flow collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flows {
    /// All of it but the services.
    pub spec: FlowsSpec,
    /// Indices into the model's services; empty: all.
    pub services: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub name: String,
    pub device: String,
    pub mtu: u16,
    /// Without its port's number, which a node's tables give.
    pub shaper: Option<ShaperSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub name: String,
    pub node: usize,
    /// Index into the node's ports.
    pub port: usize,
    pub vlan: Option<u16>,
    /// In the document's order: the first one of a family is the source of ICMP errors.
    pub addresses: Vec<Cidr>,
    pub table: String,
    pub urpf: Urpf,
    pub trust_dscp: bool,
    pub policer: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub table: String,
    pub prefix: Cidr,
    /// For this node only.
    pub node: Option<usize>,
    pub action: RouteAction,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RouteAction {
    Via(Vec<NextHop>),
    Blackhole,
    Reject,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextHop {
    pub address: IpAddr,
    pub weight: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub name: String,
    pub priority: u32,
    /// Its interface is one of the model's.
    pub matches: RuleMatch,
    pub action: RuleAction,
    pub mark: Option<u8>,
    pub policer: Option<usize>,
    pub way: Option<Way>,
    /// 0: none.
    pub log_sample: u32,
    pub new_only: bool,
    pub class: Option<Class>,
}

/// A way that a rule sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    NextHop(IpAddr),
    Table(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub protocol: ServiceProtocol,
    pub ports: Vec<PortRange>,
    pub source_affinity: bool,
    pub mode: ServiceMode,
    pub stateless: bool,
    pub source_pool: Vec<IpAddr>,
    pub on_backend_loss: BackendLoss,
    pub backends: Vec<Backend>,
    pub policer: Option<usize>,
    pub mark: Option<u8>,
    pub class: Option<Class>,
    pub queue: QueueSpec,
    pub limits: Option<ServiceLimitsSpec>,
    pub health: Option<HealthSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub name: String,
    pub address: IpAddr,
    pub port: Option<u16>,
    pub weight: u16,
    pub state: BackendState,
}
