use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use marchproxy_engine::tables::{
    BackendLoss, BackendSpec, BackendState, Cidr, Class, DscpMapSpec, FlagMatch, FlowsSpec, FragmentMatch, HealthKind,
    HealthSpec, InterfaceSpec, LimitsSpec, MARK_KEEP, MARK_MAP, MOST_DSCP_MAPS, NextHopSpec, PolicerAction,
    PolicerKind, PolicerSpec, PolicerUnit, PortRange, PortSpec, QueueSpec, RouteAction, RouteSpec, RuleAction,
    RuleChanges, RuleMatch, RuleSpec, RuleTables, RuleWay, ServiceLimitsSpec, ServiceMode, ServiceProtocol,
    ServiceSpec, ShaperSpec, SourcesSpec, Urpf,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::v1::{TableFlags, TablePrefix, TableRoute};

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,6}"
}

fn ip(v6: bool) -> BoxedStrategy<IpAddr> {
    if v6 {
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())).boxed()
    } else {
        any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())).boxed()
    }
}

fn cidr() -> impl Strategy<Value = Cidr> {
    any::<bool>().prop_flat_map(|v6| {
        (ip(v6), 0..=if v6 { 128_u8 } else { 32 }).prop_map(|(addr, len)| Cidr { addr, len }.network())
    })
}

fn ranges() -> impl Strategy<Value = Vec<PortRange>> {
    vec((any::<u16>(), any::<u16>()), 0..3)
        .prop_map(|pairs| pairs.into_iter().map(|(a, b)| PortRange { first: a.min(b), last: a.max(b) }).collect())
}

fn disjoint() -> impl Strategy<Value = Vec<PortRange>> {
    btree_set(any::<u16>(), 2..8).prop_map(|ports| {
        let ports: Vec<u16> = ports.into_iter().collect();
        ports.chunks_exact(2).map(|pair| PortRange { first: pair[0], last: pair[1] }).collect()
    })
}

fn codepoint() -> impl Strategy<Value = u8> {
    prop_oneof![0..=63_u8, Just(MARK_KEEP), Just(MARK_MAP), Just(MARK_MAP + MOST_DSCP_MAPS as u8 - 1)]
}

fn mark() -> impl Strategy<Value = Option<u8>> {
    proptest::option::of(codepoint())
}

fn class() -> impl Strategy<Value = Option<Class>> {
    proptest::option::of(proptest::sample::select(&Class::ALL[..]))
}

fn colour() -> impl Strategy<Value = PolicerAction> {
    prop_oneof![
        Just(PolicerAction::Pass),
        Just(PolicerAction::Drop),
        Just(PolicerAction::Ce),
        proptest::sample::select(&Class::ALL[..]).prop_map(PolicerAction::Class),
        codepoint().prop_map(PolicerAction::Mark),
    ]
}

fn dscp_maps() -> impl Strategy<Value = Vec<DscpMapSpec>> {
    let to = || 0..=63_u8;
    let classes = proptest::array::uniform4(proptest::option::of(to()));
    btree_map(name(), (btree_map(to(), to(), 0..5), classes), 0..3).prop_map(|all| {
        let spec = |(name, (codepoints, classes)): (String, (BTreeMap<u8, u8>, _))| DscpMapSpec {
            name,
            codepoints: codepoints.into_iter().collect(),
            classes,
        };
        all.into_iter().map(spec).collect()
    })
}

fn ports() -> impl Strategy<Value = Vec<PortSpec>> {
    btree_map(name(), ("[a-z:0-9]{0,8}", 576..=9216_u16), 1..4)
        .prop_map(|map| map.into_iter().map(|(name, (device, mtu))| PortSpec { name, device, mtu }).collect())
}

fn policers() -> impl Strategy<Value = Vec<PolicerSpec>> {
    let kind = proptest::sample::select(&PolicerKind::ALL[..]);
    let sources = (1..=32_u8, 1..=128_u8).prop_map(|(v4, v6)| SourcesSpec { v4, v6 });
    let which = (kind, any::<[bool; 2]>(), proptest::option::of(sources));
    let values = (which, any::<[u64; 4]>(), colour(), colour(), colour());
    btree_map(name(), values, 0..4).prop_map(|map| {
        map.into_iter()
            .map(|(name, ((kind, [packets, colour_aware], per_source), numbers, on_green, on_yellow, on_red))| {
                let unit = if packets { PolicerUnit::Packets } else { PolicerUnit::Octets };
                let [cir, cbs, eir, ebs] = numbers;
                PolicerSpec {
                    name,
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
            })
            .collect()
    })
}

fn interfaces(ports: usize, policers: usize) -> impl Strategy<Value = Vec<InterfaceSpec>> {
    let policer = proptest::option::of(0..policers.max(1)).prop_map(move |index| index.filter(|_| policers > 0));
    let urpf = proptest::sample::select(vec![Urpf::Off, Urpf::Loose, Urpf::Strict]);
    let flags = (any::<bool>(), urpf, policer);
    let values = (0..ports, proptest::option::of(1..=4094_u16), vec(cidr(), 0..3), any::<u32>(), flags);
    btree_map(name(), values, 1..5).prop_map(|map| {
        map.into_iter()
            .map(|(name, (port, vlan, addresses, table, (trust_dscp, urpf, policer)))| InterfaceSpec {
                name,
                port,
                vlan,
                addresses,
                table,
                urpf,
                trust_dscp,
                policer,
            })
            .collect()
    })
}

fn routes(interfaces: usize) -> impl Strategy<Value = Vec<RouteSpec>> {
    let hops = vec((any::<u128>(), 0..interfaces, 1..=u16::MAX), 0..4);
    btree_map((any::<u32>(), cidr()), (hops, any::<bool>()), 0..6).prop_map(|map| {
        map.into_iter()
            .map(|((table, prefix), (hops, reject))| {
                let hops: BTreeMap<IpAddr, (usize, u16)> = hops
                    .into_iter()
                    .map(|(bits, interface, weight)| {
                        let address = if prefix.addr.is_ipv4() {
                            IpAddr::V4((bits as u32).into())
                        } else {
                            IpAddr::V6(bits.into())
                        };
                        (address, (interface, weight))
                    })
                    .collect();
                let hop = |(address, (interface, weight))| NextHopSpec { address, interface, weight };
                let action = match (hops.is_empty(), reject) {
                    (false, _) => RouteAction::Via(hops.into_iter().map(hop).collect()),
                    (true, false) => RouteAction::Blackhole,
                    (true, true) => RouteAction::Reject,
                };
                RouteSpec { table, prefix, action }
            })
            .collect()
    })
}

/// The conditions that few rules have, with the protocol.
fn closer() -> impl Strategy<Value = RuleMatch> {
    let flags = (any::<u8>(), any::<u8>()).prop_map(|(value, mask)| FlagMatch { value: value & mask, mask });
    let fragments = [FragmentMatch::No, FragmentMatch::Yes, FragmentMatch::First, FragmentMatch::Later];
    let fragment = proptest::option::of(proptest::sample::select(fragments.to_vec()));
    let vlan = proptest::option::of(0..=4094_u16);
    let protocol = proptest::option::of(any::<u8>());
    (proptest::option::of(flags), vlan, btree_set(0..=63_u8, 0..4), fragment, protocol).prop_map(
        |(tcp_flags, vlan, dscp, fragment, protocol)| RuleMatch {
            protocol: if tcp_flags.is_some() { Some(6) } else { protocol },
            tcp_flags,
            vlan,
            dscp: dscp.into_iter().collect(),
            fragment,
            ..RuleMatch::default()
        },
    )
}

/// What a rule does: action, mark, policer, way, sample, new-only.
fn deeds(interfaces: usize, policers: usize) -> impl Strategy<Value = RuleSpec> {
    let actions = [RuleAction::Permit, RuleAction::Deny, RuleAction::Reject, RuleAction::Count];
    let policer = proptest::option::of(0..policers.max(1)).prop_map(move |index| index.filter(|_| policers > 0));
    let hop = (any::<bool>().prop_flat_map(ip), 0..interfaces)
        .prop_map(|(address, interface)| RuleWay::NextHop { address, interface });
    let way = proptest::option::of(prop_oneof![hop, any::<u32>().prop_map(RuleWay::Table)]);
    let action = proptest::sample::select(actions.to_vec());
    (action, (mark(), class()), policer, way, any::<u32>(), any::<bool>()).prop_map(
        |(action, (mark, class), policer, way, log_sample, new_only)| RuleSpec {
            action,
            mark,
            class,
            policer,
            way,
            log_sample,
            new_only,
            ..RuleSpec::default()
        },
    )
}

fn rules(interfaces: usize, policers: usize) -> impl Strategy<Value = Vec<RuleSpec>> {
    let matches =
        (vec(cidr(), 0..3), vec(cidr(), 0..3), ranges(), ranges(), proptest::option::of(0..interfaces), closer())
            .prop_map(|(src, dst, src_ports, dst_ports, in_interface, closer)| RuleMatch {
                src,
                dst,
                src_ports,
                dst_ports,
                in_interface,
                ..closer
            });
    btree_map(name(), (any::<u32>(), matches, deeds(interfaces, policers)), 0..6).prop_map(|map| {
        let mut rules: Vec<RuleSpec> = map
            .into_iter()
            .map(|(name, (priority, matches, deeds))| RuleSpec { name, priority, matches, ..deeds })
            .collect();
        rules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        rules
    })
}

fn backends(portless: bool) -> impl Strategy<Value = Vec<BackendSpec>> {
    let address = any::<bool>().prop_flat_map(ip);
    let port = proptest::option::of(1..=u16::MAX);
    let state = prop_oneof![Just(BackendState::Up), Just(BackendState::Draining), Just(BackendState::Down)];
    btree_map(name(), (address, port, 1..=1000_u16, state), 0..4).prop_map(move |map| {
        map.into_iter()
            .map(|(name, (address, port, weight, state))| {
                let port = if portless { None } else { port };
                BackendSpec { name, address, port, weight, state }
            })
            .collect()
    })
}

fn limits() -> impl Strategy<Value = ServiceLimitsSpec> {
    let one = || proptest::option::of(1..=u32::MAX);
    let spec = move || {
        (one(), one(), one()).prop_map(|(new_per_s, half_open, sessions)| LimitsSpec { new_per_s, half_open, sessions })
    };
    (spec(), spec(), 1..=32_u8, 1..=128_u8).prop_map(|(total, per_source, source_v4, source_v6)| ServiceLimitsSpec {
        total,
        per_source,
        source_v4,
        source_v6,
    })
}

fn service(policers: usize) -> impl Strategy<Value = ServiceSpec> {
    let protocol = prop_oneof![Just(ServiceProtocol::Tcp), Just(ServiceProtocol::Udp), Just(ServiceProtocol::Icmp)];
    let policer = proptest::option::of(0..policers.max(1)).prop_map(move |index| index.filter(|_| policers > 0));
    let addresses = btree_set(any::<bool>().prop_flat_map(ip), 1..4);
    let pool = btree_set(any::<bool>().prop_flat_map(ip), 0..3);
    let mode = proptest::sample::select(&ServiceMode::ALL[..]);
    (protocol, mode).prop_flat_map(move |(protocol, mode)| {
        let icmp = protocol == ServiceProtocol::Icmp;
        let limits = proptest::option::of(limits());
        let backends = backends(icmp || mode.is_direct());
        let more = ((mark(), class(), queue()), limits, health());
        (addresses.clone(), disjoint(), any::<[bool; 3]>(), (backends, pool.clone()), policer.clone(), more).prop_map(
            move |(
                addresses,
                ports,
                [source_affinity, stateless, rebalances],
                (backends, pool),
                policer,
                ((mark, class, queue), limits, health),
            )| {
                ServiceSpec {
                    name: String::new(),
                    addresses: addresses.into_iter().collect(),
                    protocol,
                    ports: if icmp { Vec::new() } else { ports },
                    source_affinity,
                    mode,
                    source_pool: pool.into_iter().collect(),
                    stateless: stateless && mode.is_direct(),
                    on_backend_loss: if rebalances { BackendLoss::Rebalance } else { BackendLoss::Keep },
                    backends,
                    policer,
                    mark,
                    class,
                    limits,
                    health,
                    queue,
                }
            },
        )
    })
}

fn queue() -> impl Strategy<Value = QueueSpec> {
    let bounds = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    (0..=400_000_000u64, any::<u64>(), 1..=1000u16, bounds, any::<bool>()).prop_map(
        |(rate_kbps, burst_bytes, weight, (deadline_us, most_packets, most_bytes, target_us), ecn)| QueueSpec {
            rate_kbps,
            burst_bytes,
            weight,
            deadline_us,
            most_packets,
            most_bytes,
            target_us,
            ecn,
        },
    )
}

fn shapers(ports: usize) -> impl Strategy<Value = Vec<ShaperSpec>> {
    let one = (any::<bool>(), 1..=400_000_000u64, any::<u8>(), 1..=100u8, [1..=1000u16, 1..=1000, 1..=1000]);
    vec(one, ports..=ports).prop_map(|all| {
        let shaped = all.into_iter().enumerate().filter(|(_, one)| one.0);
        let spec = |(port, (_, rate_kbps, overhead, p0_percent, weights))| ShaperSpec {
            port,
            rate_kbps,
            overhead,
            p0_percent,
            weights,
        };
        shaped.map(spec).collect()
    })
}

fn health() -> impl Strategy<Value = Option<HealthSpec>> {
    let http = (".{0,20}", "[a-z.]{0,20}", 100..=599_u16, 100..=599_u16)
        .prop_map(|(path, host, first, last)| HealthKind::Http { path, host, status: (first, last) });
    let kind = prop_oneof![Just(HealthKind::Icmp), Just(HealthKind::Tcp), http];
    let port = proptest::option::of(1..=u16::MAX);
    let spec = (kind, 20..=3_600_000_u32, any::<u32>(), 1..=100_u16, 1..=100_u16, 0..=100_u8, port).prop_map(
        |(kind, interval_ms, timeout, rise, fall, panic_below_percent, port)| {
            let timeout_ms = timeout % HealthSpec::longest_timeout_ms(interval_ms, fall) + 1;
            HealthSpec { kind, interval_ms, timeout_ms, rise, fall, panic_below_percent, port }
        },
    );
    proptest::option::of(spec)
}

/// Where flows go, and the service from which on they are told of.
fn flows() -> impl Strategy<Value = Option<(FlowsSpec, usize)>> {
    let numbers = (any::<u32>(), 1..=u32::MAX, 1..=u32::MAX, 1..=u32::MAX, 512..=8952_u16);
    let values = (any::<bool>().prop_flat_map(ip), 1..=u16::MAX, numbers, any::<bool>(), 0..5_usize);
    proptest::option::of(values.prop_map(|(address, port, numbers, nat_events, first)| {
        let (domain, one_of, active_timeout_s, template_refresh_s, message_octets) = numbers;
        let collector = SocketAddr::new(address, port);
        let services = Vec::new();
        let spec = FlowsSpec {
            collector,
            domain,
            one_of,
            active_timeout_s,
            template_refresh_s,
            message_octets,
            nat_events,
            services,
        };
        (spec, first)
    }))
}

fn tables() -> impl Strategy<Value = RuleTables> {
    (ports(), policers()).prop_flat_map(|(ports, policers)| {
        let interfaces = interfaces(ports.len(), policers.len());
        (interfaces, Just(ports), Just(policers)).prop_flat_map(|(interfaces, ports, policers)| {
            let services = btree_map(name(), service(policers.len()), 0..4).prop_map(|map| {
                map.into_iter().map(|(name, service)| ServiceSpec { name, ..service }).collect::<Vec<_>>()
            });
            (
                flows(),
                routes(interfaces.len()),
                rules(interfaces.len(), policers.len()),
                services,
                shapers(ports.len()),
                Just((ports, interfaces, policers)),
                dscp_maps(),
            )
                .prop_map(
                    |(flows, routes, rules, services, shapers, (ports, interfaces, policers), dscp_maps)| RuleTables {
                        flows: flows
                            .map(|(spec, first)| FlowsSpec { services: (first..services.len()).collect(), ..spec }),
                        ports,
                        interfaces,
                        routes,
                        rules,
                        services,
                        policers,
                        dscp_maps,
                        shapers,
                    },
                )
        })
    })
}

proptest! {
    #[test]
    fn tables_survive_the_wire(tables in tables()) {
        let encoded = encode(&tables).unwrap();
        prop_assert_eq!(&decode(&encoded).unwrap(), &tables);
        prop_assert_eq!(encode(&tables).unwrap(), encoded);
    }

    #[test]
    fn damaged_bytes_are_refused_or_harmless(tables in tables(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        for group in encode(&tables).unwrap() {
            let mut bytes = group.bytes.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(EncodedGroup::decode(&group.hash, &bytes).is_err());
            // Even with a hash that fits: judged, never believed.
            if let Ok(decoded) = Group::decode(&*bytes) {
                let _ = from_groups(&[decoded]);
            }
        }
    }
}

fn blackholes(ids: impl IntoIterator<Item = u32>) -> RuleTables {
    let route = |id: u32| RouteSpec {
        table: 0,
        prefix: Cidr { addr: IpAddr::V4((id << 8).into()), len: 24 },
        action: RouteAction::Blackhole,
    };
    RuleTables { routes: ids.into_iter().map(route).collect(), ..RuleTables::default() }
}

#[test]
fn big_tables_are_split_and_small_changes_touch_few_groups() {
    let before = encode(&blackholes((0..40_000).filter(|id| *id != 20_000))).unwrap();
    let after = encode(&blackholes(0..40_000)).unwrap();
    assert!(after.len() > 10, "{} groups", after.len());
    assert!(after.iter().all(|group| group.objects as usize <= OBJECTS_PER_GROUP));
    assert_eq!(after.iter().map(|group| group.objects).sum::<u32>(), 40_000);
    let known: BTreeSet<Hash> = before.iter().map(|group| group.hash).collect();
    let changed = after.iter().filter(|group| !known.contains(&group.hash)).count();
    assert!((1..=2).contains(&changed), "{changed} of {} groups changed", after.len());
}

#[test]
fn the_content_hash_depends_on_content_and_order() {
    let hash = |tables: &RuleTables| content_hash(encode(tables).unwrap().iter().map(|group| &group.hash));
    assert_eq!(hash(&blackholes([1])), hash(&blackholes([1])));
    assert_ne!(hash(&blackholes([1])), hash(&blackholes([2])));
    assert_ne!(content_hash([&[1; 32], &[2; 32]]), content_hash([&[2; 32], &[1; 32]]));
}

#[test]
fn an_index_that_points_nowhere_is_not_encoded() {
    let rule = RuleSpec {
        name: "r".to_owned(),
        priority: 1,
        matches: RuleMatch { in_interface: Some(3), ..RuleMatch::default() },
        action: RuleAction::Permit,
        mark: None,
        ..RuleSpec::default()
    };
    let error = encode(&RuleTables { rules: vec![rule], ..RuleTables::default() }).unwrap_err();
    assert_eq!(error.to_string(), "rule r: interface is index 3; allowed: an index below 0");
}

/// One small configuration that uses every reference.
fn sample() -> Vec<Group> {
    let tables = RuleTables {
        ports: vec![PortSpec { name: "wan".to_owned(), device: "vdev:net_null0".to_owned(), mtu: 1500 }],
        interfaces: vec![InterfaceSpec {
            name: "wan0".to_owned(),
            port: 0,
            vlan: Some(7),
            addresses: vec![Cidr { addr: IpAddr::from([192, 0, 2, 1]), len: 24 }],
            table: 0,
            urpf: Urpf::Loose,
            trust_dscp: true,
            policer: None,
        }],
        routes: vec![RouteSpec {
            table: 0,
            prefix: Cidr { addr: IpAddr::from([0; 4]), len: 0 },
            action: RouteAction::Via(vec![NextHopSpec {
                address: IpAddr::from([192, 0, 2, 254]),
                interface: 0,
                weight: 1,
            }]),
        }],
        rules: vec![RuleSpec {
            name: "in".to_owned(),
            priority: 1,
            matches: RuleMatch { in_interface: Some(0), ..RuleMatch::default() },
            action: RuleAction::Permit,
            mark: Some(34),
            policer: Some(0),
            way: Some(RuleWay::NextHop { address: IpAddr::from([192, 0, 2, 254]), interface: 0 }),
            log_sample: 100,
            new_only: false,
            class: Some(Class::P1),
        }],
        services: vec![ServiceSpec {
            name: "web".to_owned(),
            addresses: vec![IpAddr::from([203, 0, 113, 10])],
            protocol: ServiceProtocol::Tcp,
            ports: vec![PortRange { first: 80, last: 80 }],
            source_affinity: false,
            mode: ServiceMode::Nat,
            stateless: false,
            source_pool: Vec::new(),
            on_backend_loss: BackendLoss::Keep,
            backends: vec![BackendSpec {
                name: "a".to_owned(),
                address: IpAddr::from([192, 0, 2, 9]),
                port: Some(8080),
                weight: 1,
                state: BackendState::Up,
            }],
            policer: Some(0),
            mark: None,
            class: None,
            limits: None,
            health: None,
            ..Default::default()
        }],
        shapers: vec![ShaperSpec { rate_kbps: 1000, ..ShaperSpec::default() }],
        policers: vec![PolicerSpec {
            name: "slow".to_owned(),
            cir: 1000,
            cbs: 3000,
            ebs: 0,
            on_green: PolicerAction::Pass,
            on_yellow: PolicerAction::Mark(12),
            on_red: PolicerAction::Drop,
            ..Default::default()
        }],
        dscp_maps: Vec::new(),
        flows: Some(FlowsSpec {
            collector: "192.0.2.50:4739".parse().unwrap(),
            domain: 7,
            one_of: 10,
            active_timeout_s: 60,
            template_refresh_s: 60,
            message_octets: 1232,
            nat_events: true,
            services: vec![0],
        }),
    };
    to_groups(&tables).unwrap()
}

macro_rules! kind {
    ($groups:expr, $kind:ident) => {
        match &mut $groups.iter_mut().find(|group| matches!(group.kind, Some(group::Kind::$kind(_)))).unwrap().kind {
            Some(group::Kind::$kind(inner)) => inner,
            _ => unreachable!(),
        }
    };
}

#[test]
fn what_comes_over_the_wire_is_judged() {
    type Damage = fn(&mut Vec<Group>);
    let cases: &[(&str, Damage)] = &[
        ("port wan: mtu is 100; allowed: 576..=9216", |g| kind!(g, Ports).ports[0].mtu = 100),
        ("port: name is empty; allowed: a name", |g| kind!(g, Ports).ports[0].name.clear()),
        ("port wan: position is behind port wan; allowed: ascending order, each object once", |g| {
            let port = kind!(g, Ports).ports[0].clone();
            kind!(g, Ports).ports.push(port);
        }),
        ("interface wan0: port is \"lan\"; allowed: a known port", |g| {
            kind!(g, Interfaces).interfaces[0].port = "lan".to_owned();
        }),
        ("interface wan0: vlan is 4095; allowed: 1..=4094", |g| kind!(g, Interfaces).interfaces[0].vlan = Some(4095)),
        ("interface wan0: addresses is 5 bytes; allowed: 4 or 16 bytes", |g| {
            kind!(g, Interfaces).interfaces[0].addresses[0].address.push(0);
        }),
        ("interface wan0: addresses is 192.0.2.1/33; allowed: a length up to 32", |g| {
            kind!(g, Interfaces).interfaces[0].addresses[0].length = 33;
        }),
        ("route 0.0.0.0/0 of table 0: via.interface is \"lan0\"; allowed: a known interface", |g| {
            kind!(g, Routes).routes[0].via[0].interface = "lan0".to_owned();
        }),
        ("route 0.0.0.0/0 of table 0: via.weight is 0; allowed: 1..=65535", |g| {
            kind!(g, Routes).routes[0].via[0].weight = 0;
        }),
        ("route 0.0.0.0/0 of table 0: via.address is ::; allowed: an address of the prefix's family", |g| {
            kind!(g, Routes).routes[0].via[0].address = vec![0; 16];
        }),
        (
            "route 0.0.0.0/0 of table 0: action is some next hops, blackhole true, reject false; \
             allowed: exactly one of via, blackhole, reject",
            |g| kind!(g, Routes).routes[0].blackhole = true,
        ),
        ("route of table 0: prefix is 10.0.0.1/8; allowed: no host bits: 10.0.0.0/8", |g| {
            let prefix = Some(TablePrefix { address: vec![10, 0, 0, 1], length: 8 });
            kind!(g, Routes).routes[0] = TableRoute { prefix, blackhole: true, ..TableRoute::default() };
        }),
        ("rule in: in_interface is \"x\"; allowed: a known interface", |g| {
            kind!(g, Rules).rules[0].in_interface = "x".to_owned();
        }),
        ("rule in: mark is 64; allowed: 0..=63, 128, or a map from 129 on", |g| {
            kind!(g, Rules).rules[0].mark = Some(64);
        }),
        ("flows: collector_port is 0; allowed: 1..=65535", |g| kind!(g, Flows).collector_port = 0),
        ("flows: message_octets is 9000; allowed: 512..=8952", |g| kind!(g, Flows).message_octets = 9000),
        ("flows: services is \"x\"; allowed: a known service", |g| kind!(g, Flows).services[0] = "x".to_owned()),
        ("flows: position is there twice; allowed: once", |g| {
            let again = kind!(g, Flows).clone();
            g.push(Group { kind: Some(group::Kind::Flows(again)) });
        }),
        ("rule in: protocol is 256; allowed: 0..=255", |g| kind!(g, Rules).rules[0].protocol = Some(256)),
        ("rule in: policer is \"fast\"; allowed: a known policer", |g| {
            kind!(g, Rules).rules[0].policer = "fast".to_owned();
        }),
        ("rule in: next_hop.interface is \"lan0\"; allowed: a known interface", |g| {
            kind!(g, Rules).rules[0].next_hop.as_mut().unwrap().interface = "lan0".to_owned();
        }),
        ("rule in: next_hop is there with table; allowed: one of next_hop and table", |g| {
            kind!(g, Rules).rules[0].table = Some(1);
        }),
        ("rule in: tcp_flags is there without protocol 6; allowed: flags with protocol 6 only", |g| {
            kind!(g, Rules).rules[0].tcp_flags = Some(TableFlags { value: 2, mask: 2 });
        }),
        ("rule in: tcp_flags.value is 3; allowed: no bit outside of the mask", |g| {
            let rule = &mut kind!(g, Rules).rules[0];
            (rule.protocol, rule.tcp_flags) = (Some(6), Some(TableFlags { value: 3, mask: 2 }));
        }),
        ("rule in: vlan is 4095; allowed: 0..=4094", |g| kind!(g, Rules).rules[0].vlan = Some(4095)),
        ("rule in: dscp is 64; allowed: 0..=63", |g| kind!(g, Rules).rules[0].dscp = vec![1, 64]),
        ("rule in: dscp is unsorted; allowed: ascending codepoints, each once", |g| {
            kind!(g, Rules).rules[0].dscp = vec![2, 2];
        }),
        ("rule in: fragment is 5; allowed: any, no, yes, first or later", |g| kind!(g, Rules).rules[0].fragment = 5),
        ("rule in: action is 4; allowed: permit, deny, reject or count", |g| kind!(g, Rules).rules[0].action = 4),
        ("rule in: name is there twice; allowed: each name once", |g| {
            let mut rule = kind!(g, Rules).rules[0].clone();
            rule.priority += 1;
            kind!(g, Rules).rules.push(rule);
        }),
        ("service web: policer is \"fast\"; allowed: a known policer", |g| {
            kind!(g, Services).services[0].policer = "fast".to_owned();
        }),
        ("service web: protocol is 132; allowed: 6 (TCP), 17 (UDP) or 1 (ICMP)", |g| {
            kind!(g, Services).services[0].protocol = 132;
        }),
        ("service web: ports is 81-80; allowed: FIRST-LAST, FIRST <= LAST <= 65535", |g| {
            kind!(g, Services).services[0].ports[0].first = 81;
        }),
        ("service web, backend a: weight is 1001; allowed: 1..=1000", |g| {
            kind!(g, Services).services[0].backends[0].weight = 1001;
        }),
        ("policer slow: on_red is missing; allowed: pass, mark, CE, class or drop", |g| {
            kind!(g, Policers).policers[0].on_red = None;
        }),
        ("shaper of port dmz: port is \"dmz\"; allowed: a known port", |g| {
            kind!(g, Shapers).shapers[0].port = "dmz".to_owned();
        }),
        ("shaper of port wan: rate_kbps is 0; allowed: 1..=400000000", |g| kind!(g, Shapers).shapers[0].rate_kbps = 0),
        ("shaper of port wan: p2_weight is 0; allowed: 1..=1000", |g| kind!(g, Shapers).shapers[0].p2_weight = 0),
        ("group: kind is nothing this release knows; allowed: a kind of Group", |g| g.push(Group { kind: None })),
    ];
    for (expected, damage) in cases {
        let mut groups = sample();
        damage(&mut groups);
        assert_eq!(from_groups(&groups).unwrap_err().to_string(), *expected);
    }
    assert!(from_groups(&sample()).is_ok());
    assert_eq!(from_groups(&[]).unwrap(), RuleTables::default());
}

/// Groups kept over changes are those of the whole list, and a node that sees groups go and come finds the same changes.
#[test]
fn changes_of_rules_lead_to_the_groups_of_the_whole_list() {
    let mut state = 5u64;
    let mut below = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % n
    };
    let spec = |priority: u32, name: u64, mark: u64| RuleSpec {
        name: format!("r{name}"),
        priority,
        mark: Some(mark as u8),
        ..RuleSpec::default()
    };
    let mut rules: BTreeMap<(u32, String), RuleSpec> = BTreeMap::new();
    let put = |rules: &mut BTreeMap<_, _>, spec: RuleSpec| rules.insert((spec.priority, spec.name.clone()), spec);
    (0..3000).for_each(|name| drop(put(&mut rules, spec(below(500) as u32, name, 0))));
    let all = |rules: &BTreeMap<_, RuleSpec>| RuleTables {
        rules: rules.values().cloned().collect(),
        ..RuleTables::default()
    };
    let mut kept = RuleGroups::of(&encode(&all(&rules)).unwrap()).unwrap();
    for round in 0..60u64 {
        let mut changes = RuleChanges::default();
        // A few, or hundreds in a row; in the end none is left.
        let (count, from) = (1 + below(5) + u64::from(round % 7 == 0) * 300, below(rules.len().max(1) as u64));
        let some: Vec<_> = rules.keys().skip(from as usize).take(count as usize).cloned().collect();
        for (nth, key) in some.into_iter().enumerate() {
            match if round > 50 { 0 } else { below(4) } {
                0 => {
                    rules.remove(&key);
                    changes.gone.push(key);
                }
                1 => changes.put.push(spec(below(600) as u32, 10_000 + round * 1000 + nth as u64, 1)),
                _ => changes.put.push(RuleSpec { mark: Some(below(60) as u8), ..rules[&key].clone() }),
            }
        }
        if round > 50 {
            changes.gone.extend(std::mem::take(&mut rules).into_keys());
        }
        changes.put.iter().for_each(|spec| drop(put(&mut rules, spec.clone())));
        let before: Vec<_> = kept.groups().cloned().collect();
        kept.change(&RuleTables::default(), &changes).unwrap();
        let whole = encode(&all(&rules)).unwrap();
        assert!(kept.groups().eq(&whole), "round {round}");

        let found = changed_rules(&RuleTables::default(), &before, &whole).unwrap().unwrap();
        changes.gone.sort();
        assert_eq!(found.gone, changes.gone);
        assert!(found.put.iter().all(|rule| changes.put.contains(rule)));
    }
    assert_eq!(kept.groups().count(), 0);
    let other = encode(&blackholes(0..3)).unwrap();
    assert!(changed_rules(&RuleTables::default(), &other, &encode(&blackholes(0..4)).unwrap()).is_none());
}
