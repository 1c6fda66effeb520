//! Valid configurations, as a model whose parts can change one by one.

use marchproxy_engine::tables::*;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::pools::{HOSTS, NAT_POOL, PLACES, PORTS, PREFIXES, SERVICES, cidr, ip};

/// A configuration before references are resolved: places and hosts are named by their index in the pools.
#[derive(Clone, Debug)]
pub struct Model {
    mtus: Vec<u16>,
    interfaces: Vec<Interface>,
    routes: Vec<Route>,
    rules: Vec<Rule>,
    services: Vec<ServiceSpec>,
    policers: Vec<PolicerSpec>,
}

#[derive(Clone, Debug)]
struct Interface {
    place: usize,
    addresses: Vec<&'static str>,
    table: u32,
    trust_dscp: bool,
    urpf: Urpf,
    policer: Option<usize>,
}

#[derive(Clone, Debug)]
struct Route {
    table: u32,
    prefix: &'static str,
    action: Action,
}

#[derive(Clone, Debug)]
enum Action {
    /// Indices into [`HOSTS`] and weights.
    Via(Vec<(usize, u16)>),
    Blackhole,
    Reject,
}

#[derive(Clone, Debug)]
struct Rule {
    spec: RuleSpec,
    place: Option<usize>,
    /// The next hop it sets.
    hop: Option<usize>,
}

/// One part of a model, for pushes that change little.
#[derive(Clone, Debug)]
pub enum Change {
    Nothing,
    Everything(Box<Model>),
    Interfaces(Box<Model>),
    Routes(Box<Model>),
    Rules(Box<Model>),
    Services(Box<Model>),
    Policers(Box<Model>),
}

impl Model {
    /// Without everything that decides more than the way.
    fn plain_router(mut self) -> Self {
        for interface in &mut self.interfaces {
            (interface.table, interface.trust_dscp, interface.urpf) = (0, true, Urpf::Off);
            interface.policer = None;
        }
        for route in &mut self.routes {
            route.table = 0;
            if let Action::Via(hops) = &mut route.action {
                hops.truncate(1);
            }
        }
        Self { rules: vec![], services: vec![], policers: vec![], ..self }
    }

    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Nothing => {}
            Change::Everything(new) => *self = *new,
            Change::Interfaces(new) => self.interfaces = new.interfaces,
            Change::Routes(new) => self.routes = new.routes,
            Change::Rules(new) => self.rules = new.rules,
            Change::Services(new) => self.services = new.services,
            Change::Policers(new) => self.policers = new.policers,
        }
    }

    /// What a compiler would make of it: references to what is not there go.
    pub fn tables(&self) -> RuleTables {
        let interfaces: Vec<InterfaceSpec> = self
            .interfaces
            .iter()
            .map(|i| InterfaceSpec {
                name: format!("if{}", i.place),
                port: PLACES[i.place].port,
                vlan: PLACES[i.place].vlan,
                addresses: i.addresses.iter().map(|text| cidr(text)).collect(),
                table: i.table,
                trust_dscp: i.trust_dscp,
                urpf: i.urpf,
                policer: i.policer.filter(|&index| index < self.policers.len()),
            })
            .collect();
        let index_of = |place: usize| self.interfaces.iter().position(|i| i.place == place);
        let next_hop = |&(host, weight): &(usize, u16)| {
            let (place, address) = HOSTS[host];
            let interface = index_of(place)?;
            let on_link = interfaces[interface].addresses.iter().any(|cidr| cidr.contains(ip(address)));
            on_link.then_some(NextHopSpec { address: ip(address), interface, weight })
        };
        let mut routes: Vec<RouteSpec> = self
            .routes
            .iter()
            .filter_map(|route| {
                let prefix = cidr(route.prefix);
                let action = match &route.action {
                    Action::Blackhole => RouteAction::Blackhole,
                    Action::Reject => RouteAction::Reject,
                    Action::Via(hops) => {
                        let mut hops: Vec<NextHopSpec> = hops.iter().filter_map(next_hop).collect();
                        hops.retain(|hop| hop.address.is_ipv4() == prefix.addr.is_ipv4());
                        hops.sort_by_key(|hop| hop.address);
                        RouteAction::Via(Some(hops).filter(|hops| !hops.is_empty())?)
                    }
                };
                Some(RouteSpec { table: route.table, prefix, action })
            })
            .collect();
        routes.sort_by_key(|route| (route.table, route.prefix));
        routes.dedup_by_key(|route| (route.table, route.prefix));
        let rules = self
            .rules
            .iter()
            .enumerate()
            .map(|(n, rule)| {
                let mut spec = rule.spec.clone();
                (spec.name, spec.priority) = (format!("r{n}"), n as u32);
                spec.matches.in_interface = rule.place.and_then(index_of);
                spec.policer = spec.policer.filter(|&index| index < self.policers.len());
                if let Some(NextHopSpec { address, interface, .. }) = rule.hop.and_then(|hop| next_hop(&(hop, 1))) {
                    spec.way = Some(RuleWay::NextHop { address, interface });
                }
                spec
            })
            .collect();
        let services = self
            .services
            .iter()
            .map(|service| {
                let policer = service.policer.filter(|&index| index < self.policers.len());
                ServiceSpec { policer, ..service.clone() }
            })
            .collect();
        let port = |(name, mtu): (&&str, &u16)| PortSpec { name: (*name).into(), device: String::new(), mtu: *mtu };
        let ports = PORTS.iter().zip(&self.mtus).map(port).collect();
        RuleTables {
            ports,
            interfaces,
            routes,
            rules,
            services,
            policers: self.policers.clone(),
            dscp_maps: dscp_maps(),
            shapers: vec![],
            flows: Some(flows()),
        }
    }
}

/// Sessions of all services are told of, where a test gives the worker what that takes.
pub fn flows() -> FlowsSpec {
    FlowsSpec {
        collector: ([192, 0, 2, 50], 4739).into(),
        domain: 0,
        one_of: 1,
        active_timeout_s: 1,
        template_refresh_s: 60,
        message_octets: 1232,
        nat_events: true,
        services: vec![],
    }
}

pub fn models() -> BoxedStrategy<Model> {
    let mtus = prop::collection::vec(select(vec![1280, 1400, 1500]), PORTS.len());
    let listed = (prop::collection::vec(rules(), 0..6), prop::bool::weighted(0.8)).prop_map(|(mut rules, open)| {
        let spec = RuleSpec {
            name: String::new(),
            priority: 0,
            matches: RuleMatch::default(),
            action: RuleAction::Permit,
            mark: None,
            ..Default::default()
        };
        rules.extend(open.then_some(Rule { spec, place: None, hop: None }));
        rules
    });
    let rules = prop_oneof![1 => Just(vec![]), 3 => listed];
    let routes = prop::collection::vec(routes(), 0..14);
    let policers = select(vec![vec![], vec!["p0"], vec!["p0", "p1"], vec!["p0", "p1"], vec!["p1"]])
        .prop_flat_map(|names| names.into_iter().map(policer).collect::<Vec<_>>());
    (mtus, interfaces(), routes, rules, services(), policers)
        .prop_map(|(mtus, interfaces, routes, rules, services, policers)| Model {
            mtus,
            interfaces,
            routes,
            rules,
            services,
            policers,
        })
        .boxed()
}

/// Nodes on which nothing is decided but the way, until something is pushed.
pub fn plain_routers() -> BoxedStrategy<Model> {
    models().prop_map(Model::plain_router).boxed()
}

pub fn changes() -> BoxedStrategy<Change> {
    let boxed = || models().prop_map(Box::new).boxed();
    prop_oneof![
        1 => Just(Change::Nothing),
        1 => boxed().prop_map(Change::Everything),
        1 => boxed().prop_map(Change::Interfaces),
        2 => boxed().prop_map(Change::Routes),
        3 => boxed().prop_map(Change::Rules),
        1 => boxed().prop_map(|mut model| {
            // Nothing new, and what is there stays.
            let spec = RuleSpec { action: RuleAction::Deny, new_only: true, ..Default::default() };
            model.rules.insert(0, Rule { spec, place: None, hop: None });
            Change::Rules(model)
        }),
        3 => boxed().prop_map(Change::Services),
        2 => boxed().prop_map(Change::Policers),
    ]
    .boxed()
}

fn interfaces() -> impl Strategy<Value = Vec<Interface>> {
    let all: Vec<_> = (0..PLACES.len())
        .map(|place| {
            let addresses = PLACES[place].addresses;
            let some = prop_oneof![
                4 => Just(addresses.to_vec()),
                1 => subsequence(addresses.to_vec(), 0..=addresses.len()),
            ];
            // One place shares a prefix with another; it is mostly in a table of its own.
            let table = if place == 4 { select(vec![1, 1, 1, 0]) } else { select(vec![0, 0, 0, 0, 1]) };
            let present = prop::bool::weighted(0.9);
            let urpf = prop_oneof![8 => Just(Urpf::Off), 1 => Just(Urpf::Loose), 1 => Just(Urpf::Strict)];
            let policer = prop::option::weighted(0.08, 0usize..2);
            (present, some, table, any::<bool>(), urpf, policer).prop_map(
                move |(present, addresses, table, trust_dscp, urpf, policer)| {
                    present.then_some(Interface { place, addresses, table, trust_dscp, urpf, policer })
                },
            )
        })
        .collect();
    all.prop_map(|interfaces| interfaces.into_iter().flatten().collect())
}

fn routes() -> impl Strategy<Value = Route> {
    let hops = prop::collection::vec((0..HOSTS.len(), select(vec![1u16, 2, 7])), 1..6).prop_map(|mut hops| {
        hops.sort_unstable();
        hops.dedup_by_key(|hop| hop.0);
        Action::Via(hops)
    });
    let action = prop_oneof![8 => hops, 1 => Just(Action::Blackhole), 1 => Just(Action::Reject)];
    let prefix = prop_oneof![2 => select(&PREFIXES[..2]), 3 => select(&PREFIXES[..])];
    (select(vec![0, 0, 0, 1]), prefix, action).prop_map(|(table, prefix, action)| Route { table, prefix, action })
}

fn rules() -> impl Strategy<Value = Rule> {
    let prefixes = || {
        let some = prop::collection::vec(select(&PREFIXES[..]).prop_map(cidr), 1..4).prop_map(|mut prefixes| {
            prefixes.sort_unstable();
            prefixes.dedup();
            prefixes
        });
        prop_oneof![2 => Just(vec![]), 1 => some]
    };
    let ranges = || {
        let range = |first, last| vec![PortRange { first, last }];
        prop_oneof![
            5 => Just(vec![]),
            1 => select(vec![range(80, 80), range(0, 999), range(1000, 65535), vec![PortRange { first: 53, last: 53 }, PortRange { first: 80, last: 81 }]]),
        ]
    };
    let protocol = prop_oneof![3 => Just(None), 2 => select(vec![1, 6, 17, 58, 47]).prop_map(Some)];
    let action = prop_oneof![
        8 => Just(RuleAction::Permit),
        1 => Just(RuleAction::Deny),
        2 => Just(RuleAction::Reject),
        2 => Just(RuleAction::Count),
    ];
    let place = prop::option::weighted(0.2, 0..PLACES.len());
    let anything = prop::bool::weighted(0.2);
    let addresses = (prefixes(), prefixes(), protocol, ranges(), ranges());
    let mark = prop::option::of(prop_oneof![5 => 0u8..64, 1 => marks()]);
    let class = prop::option::weighted(0.1, select(Class::ALL.to_vec()));
    (anything, addresses, closer(), place, action, (mark, class), extras()).prop_map(
        |(anything, (src, dst, protocol, src_ports, dst_ports), closer, place, action, (mark, class), extras)| {
            let protocol = if closer.tcp_flags.is_some() { Some(6) } else { protocol };
            let matches = RuleMatch { src, dst, protocol, src_ports, dst_ports, ..closer };
            let (matches, place) = if anything { (RuleMatch::default(), None) } else { (matches, place) };
            let (policer, table, log_sample, new_only, hop) = extras;
            let way = table.map(RuleWay::Table);
            Rule {
                spec: RuleSpec {
                    matches,
                    action,
                    mark,
                    class,
                    policer,
                    way,
                    log_sample,
                    new_only: new_only && matches!(action, RuleAction::Deny | RuleAction::Reject),
                    ..Default::default()
                },
                place,
                hop,
            }
        },
    )
}

/// The conditions that few rules have.
fn closer() -> impl Strategy<Value = RuleMatch> {
    let flags = select(vec![(0x02, 0x12), (0x10, 0x10), (0, 0x04), (0x12, 0xff)]);
    let tcp_flags = flags.prop_map(|(value, mask)| FlagMatch { value, mask });
    let vlan = select(vec![0u16, 0, 10, 11, 20, 4094]);
    let dscp = select(vec![(0u8..32).collect::<Vec<_>>(), vec![0], vec![1, 3, 46], (10..64).collect()]);
    let fragment = select(vec![
        FragmentMatch::No,
        FragmentMatch::No,
        FragmentMatch::Yes,
        FragmentMatch::First,
        FragmentMatch::Later,
    ]);
    let one = |strategy: BoxedStrategy<RuleMatch>| strategy;
    prop_oneof![
        4 => one(Just(RuleMatch::default()).boxed()),
        1 => one(tcp_flags.prop_map(|flags| RuleMatch { tcp_flags: Some(flags), ..Default::default() }).boxed()),
        1 => one(vlan.prop_map(|vlan| RuleMatch { vlan: Some(vlan), ..Default::default() }).boxed()),
        1 => one(dscp.prop_map(|dscp| RuleMatch { dscp, ..Default::default() }).boxed()),
        1 => one(fragment.prop_map(|fragment| RuleMatch { fragment: Some(fragment), ..Default::default() }).boxed()),
    ]
}

/// Policer, table, log sample, new-only, next hop.
fn extras() -> impl Strategy<Value = (Option<usize>, Option<u32>, u32, bool, Option<usize>)> {
    (
        prop::option::weighted(0.2, 0usize..2),
        prop::option::weighted(0.15, 0u32..3),
        select(vec![0u32, 0, 0, 1, 2, 3]),
        any::<bool>(),
        prop::option::weighted(0.15, 0..HOSTS.len()),
    )
}

/// Services that never claim the same traffic.
fn services() -> impl Strategy<Value = Vec<ServiceSpec>> {
    let range = |first, last| vec![PortRange { first, last }];
    let shapes = vec![
        (ServiceProtocol::Tcp, select(vec![range(80, 80), range(80, 81)])),
        (ServiceProtocol::Tcp, select(vec![range(8080, 8080)])),
        (ServiceProtocol::Udp, select(vec![range(53, 53), vec![PortRange::ALL]])),
        (ServiceProtocol::Icmp, select(vec![vec![]])),
    ];
    let all: Vec<_> =
        shapes.into_iter().enumerate().map(|(n, (protocol, ports))| service(n, protocol, ports)).collect();
    all.prop_map(|services| services.into_iter().flatten().collect())
}

fn service(
    n: usize,
    protocol: ServiceProtocol,
    ports: impl Strategy<Value = Vec<PortRange>>,
) -> impl Strategy<Value = Option<ServiceSpec>> {
    let all = SERVICES.to_vec();
    let addresses = prop_oneof![2 => Just(all.clone()), 1 => subsequence(all, 1..=SERVICES.len())];
    let backends = prop::collection::vec(backend(protocol), 1..7);
    let policer = prop::option::weighted(0.5, 0usize..2);
    let mark = prop::option::weighted(0.3, prop_oneof![4 => 0u8..64, 1 => marks()]);
    let class = prop::option::weighted(0.2, select(Class::ALL.to_vec()));
    let present = prop::bool::weighted(0.9);
    let mode = prop_oneof![
        5 => Just(ServiceMode::Nat),
        2 => Just(if protocol == ServiceProtocol::Icmp { ServiceMode::Nat } else { ServiceMode::FullNat }),
        1 => Just(ServiceMode::DsrMac),
        1 => Just(ServiceMode::DsrIpip),
        1 => Just(ServiceMode::DsrGue),
    ];
    let way = (mode, any::<bool>()).prop_map(|(mode, stateless)| (mode, stateless && mode.is_direct()));
    let loss = select(vec![BackendLoss::Keep, BackendLoss::Rebalance]);
    let limits = prop::option::weighted(0.4, limits());
    let health = prop::option::weighted(0.7, Just(HealthSpec::default()));
    (present, addresses, ports, backends, any::<bool>(), policer, ((mark, class), limits, health), (way, loss))
        .prop_map(
            move |(
                present,
                addresses,
                ports,
                mut backends,
                source_affinity,
                policer,
                ((mark, class), limits, health),
                ((mode, stateless), on_backend_loss),
            )| {
                for (number, backend) in backends.iter_mut().enumerate() {
                    backend.name = format!("b{number}");
                    backend.port = backend.port.filter(|_| !mode.is_direct());
                }
                let mut addresses: Vec<_> = addresses.into_iter().map(ip).collect();
                addresses.retain(|address| {
                    mode.is_tunnel() || backends.iter().any(|b| b.address.is_ipv4() == address.is_ipv4())
                });
                addresses.sort_unstable();
                let mut source_pool: Vec<_> = NAT_POOL.into_iter().map(ip).collect();
                source_pool.retain(|_| mode == ServiceMode::FullNat);
                source_pool.sort_unstable();
                let spec = ServiceSpec {
                    name: format!("s{n}"),
                    addresses,
                    protocol,
                    ports,
                    source_affinity,
                    mode,
                    stateless,
                    source_pool,
                    on_backend_loss,
                    backends,
                    policer,
                    mark,
                    class,
                    limits,
                    health,
                    ..Default::default()
                };
                (present && !spec.addresses.is_empty()).then_some(spec)
            },
        )
}

/// Small enough to be reached.
fn limits() -> impl Strategy<Value = ServiceLimitsSpec> {
    let some = |limits: Vec<u32>| prop::option::weighted(0.4, select(limits));
    let spec = move || {
        (some(vec![1, 3, 10, 1000]), some(vec![1, 2, 5]), some(vec![1, 3, 8]))
            .prop_map(|(new_per_s, half_open, sessions)| LimitsSpec { new_per_s, half_open, sessions })
    };
    (spec(), spec(), select(vec![32, 32, 24, 1]), select(vec![64, 64, 128, 32])).prop_map(
        |(total, per_source, source_v4, source_v6)| ServiceLimitsSpec { total, per_source, source_v4, source_v6 },
    )
}

fn backend(protocol: ServiceProtocol) -> impl Strategy<Value = BackendSpec> {
    let address = select(&HOSTS[..]).prop_map(|(_, address)| ip(address));
    let port = select(vec![None, Some(8080), Some(80)]);
    (
        address,
        port,
        select(vec![1u16, 2, 5]),
        prop_oneof![8 => Just(BackendState::Up), 1 => Just(BackendState::Draining), 1 => Just(BackendState::Down)],
    )
        .prop_map(move |(address, port, weight, state)| {
            let port = port.filter(|_| protocol != ServiceProtocol::Icmp);
            BackendSpec { name: String::new(), address, port, weight, state, ..Default::default() }
        })
}

fn policer(name: &'static str) -> impl Strategy<Value = PolicerSpec> {
    let mark = || prop_oneof![4 => 0u8..64, 1 => marks()];
    let action = move || {
        prop_oneof![
            2 => Just(PolicerAction::Pass),
            2 => mark().prop_map(PolicerAction::Mark),
            1 => Just(PolicerAction::Ce),
            1 => select(Class::ALL.to_vec()).prop_map(PolicerAction::Class),
            2 => Just(PolicerAction::Drop),
        ]
    };
    let rate = || select(vec![1u64, 8, 100, 100_000_000]);
    let kind = (select(PolicerKind::ALL.to_vec()), prop::bool::weighted(0.2), any::<bool>());
    let sources = select(vec![(24, 64), (32, 128), (1, 1), (8, 32)]).prop_map(|(v4, v6)| SourcesSpec { v4, v6 });
    let sources = prop::option::weighted(0.3, sources);
    (kind, (rate(), rate()), 0u64..400, 1u64..400, (action(), action(), action()), sources).prop_map(
        move |((kind, packets, colour_aware), (cir, more), cbs, ebs, (on_green, on_yellow, on_red), per_source)| {
            let eir = match kind {
                PolicerKind::Srtcm => 0,
                PolicerKind::Trtcm => cir.max(more),
                PolicerKind::Rfc4115 => more,
            };
            let (unit, cbs, ebs) =
                if packets { (PolicerUnit::Packets, cbs % 3, ebs % 3) } else { (PolicerUnit::Octets, cbs, ebs) };
            PolicerSpec {
                name: name.into(),
                kind,
                unit,
                cir,
                cbs,
                eir,
                ebs,
                colour_aware,
                on_green,
                on_yellow,
                on_red,
                per_source,
            }
        },
    )
}

/// Marks that are no codepoints.
fn marks() -> impl Strategy<Value = u8> {
    select(vec![MARK_KEEP, MARK_MAP, MARK_MAP + 1])
}

/// The maps of all models: one of codepoints, one of classes as well.
fn dscp_maps() -> Vec<DscpMapSpec> {
    let map = |name: &str, codepoints: &[(u8, u8)], classes| DscpMapSpec {
        name: name.into(),
        codepoints: codepoints.to_vec(),
        classes,
    };
    vec![
        map("m0", &[(0, 10), (1, 46), (34, 12), (46, 0)], [None; 4]),
        map("m1", &[(0, 8), (10, 1)], [Some(63), None, Some(3), Some(40)]),
    ]
}
