//! The classifier against the scan: rules of every part, cuts in every field, lists, extra conditions, rules that count; one packet and
//! bursts.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::burst::NONE;
use crate::flow::from_ip;
use crate::tables::{FlagMatch, FragmentMatch, RuleChanges, RuleMatch};

const WIDE: Limits = Limits { bytes: usize::MAX, lines: usize::MAX };
const NARROW: Limits = Limits { bytes: 512 << 20, lines: 64 };

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u32..8).prop_map(|n| IpAddr::V4((0x0a00_0000 | n << 5 | n).into())),
        (0u32..64).prop_map(|n| IpAddr::V4((0x0a00_0000 | n << 14 | n << 26 | n).into())),
        (0u128..8).prop_map(|n| IpAddr::V6((0x2001_0db8 << 96 | n << 60 | n).into())),
        (0u128..64).prop_map(|n| IpAddr::V6((0x2001_0db8 << 96 | n << 92 | n << 110 | n << 63 | n).into())),
    ]
}

fn cidr() -> impl Strategy<Value = Cidr> {
    (address(), 0u8..=128).prop_map(|(addr, len)| {
        let len = if addr.is_ipv4() { len % 33 } else { len };
        Cidr { addr, len }.network()
    })
}

fn range() -> impl Strategy<Value = PortRange> {
    (0u16..12, 0u16..4).prop_map(|(a, b)| match (a, b) {
        (0, 0) => PortRange::ALL,
        (11, _) => PortRange { first: u16::MAX - b, last: u16::MAX },
        _ => PortRange { first: a, last: a + b },
    })
}

fn spec(matches: RuleMatch) -> RuleSpec {
    RuleSpec { name: String::new(), priority: 0, action: RuleAction::Permit, mark: None, matches, ..Default::default() }
}

fn fragment() -> impl Strategy<Value = FragmentMatch> {
    prop::sample::select(vec![FragmentMatch::No, FragmentMatch::Yes, FragmentMatch::First, FragmentMatch::Later])
}

prop_compose! {
    /// Flags, VLAN, DSCP, fragment, each in one rule of five.
    fn closer()(flags in prop::option::weighted(0.2, (any::<u8>(), prop::sample::select(vec![2u8, 0x12, 0xff]))),
                vlan in prop::option::weighted(0.2, 0u16..4), dscp in prop::collection::btree_set(0u8..64, 0..40),
                with_dscp in prop::bool::weighted(0.2), fragment in prop::option::weighted(0.2, fragment())) -> RuleMatch {
        let tcp_flags = flags.map(|(value, mask)| FlagMatch { value: value & mask, mask });
        let dscp = if with_dscp { dscp.into_iter().collect() } else { Vec::new() };
        RuleMatch { tcp_flags, vlan, dscp, fragment, ..RuleMatch::default() }
    }
}

prop_compose! {
    fn sight()(vlan in 0u16..5, dscp in 0u8..64, flags in prop::option::of(prop::sample::select(vec![0u8, 2, 0x10, 0x12, 0xff])),
               fragment in 0u8..6) -> Sight {
        let whole = Sight::new(vlan, dscp, flags);
        if fragment < 2 { whole.fragment(fragment == 1) } else { whole }
    }
}

prop_compose! {
    fn rule()(src in prop::collection::vec(cidr(), 0..3), dst in prop::collection::vec(cidr(), 0..3),
              protocol in prop::option::of(prop::sample::select(vec![1u8, 6, 17, 58, 255])),
              src_ports in prop::collection::vec(range(), 0..2), dst_ports in prop::collection::vec(range(), 0..3),
              in_interface in prop::option::of(0usize..3), closer in closer()) -> RuleSpec {
        spec(RuleMatch { src, dst, protocol, src_ports, dst_ports, in_interface, ..closer })
    }
}

prop_compose! {
    fn key()(src in address(), dst in address(), protocol in prop::sample::select(vec![0u8, 1, 6, 17, 58, 255]),
             sport in 0u16..14, dport in prop_oneof![0u16..14, Just(u16::MAX)], has_ports: bool,
             interface in prop_oneof![0u32..4, Just(u32::MAX)], sight in sight()) -> RuleKey {
        let dst = if src.is_ipv4() == dst.is_ipv4() { dst } else { src };
        let flow = FlowKey { src: from_ip(src), dst: from_ip(dst), protocol, sport, dport };
        RuleKey { flow, has_ports, interface, sight }
    }
}

/// Holds single look-ups and bursts to the scan; how many matched.
fn agree(specs: &[RuleSpec], rules: &Rules, keys: &[RuleKey]) -> usize {
    let mut matched = 0;
    for (number, chunk) in keys.chunks(BURST).enumerate() {
        // Lanes left out keep what they had.
        let mut lanes = Mask::first(chunk.len());
        let left_out = lanes.lanes().nth(number % BURST);
        if let Some(lane) = left_out {
            lanes.remove(lane);
        }
        let mut found = [77; BURST];
        rules.first_matches(lanes, |lane| chunk[lane], &mut found);
        for (lane, key) in chunk.iter().enumerate() {
            let expected = scan(specs, key);
            assert_eq!(rules.first_match(key).map(|i| i as usize), expected, "{key:?}");
            let before = specs.iter().take(expected.unwrap_or(specs.len())).enumerate();
            let counts = before.filter(|(_, rule)| rule.action == RuleAction::Count && meets(key, &rule.matches));
            let decided = expected.map_or(NONE, |index| index as u32);
            let counted: Vec<_> = rules.counting.rules_of(rules.counting(key, decided)).map(|i| i as usize).collect();
            assert_eq!(counted, counts.map(|(index, _)| index).collect::<Vec<_>>(), "{key:?}");
            let expected = expected.map_or(NONE, |i| i as u32);
            matched += usize::from(expected != NONE);
            let in_burst = if left_out.is_some_and(|l| l.index() == lane) { 77 } else { expected };
            assert_eq!(found[lane], in_burst, "lane {lane}: {key:?}");
        }
    }
    matched
}

proptest! {
    #[test]
    fn equals_the_scan(specs in prop::collection::vec(rule(), 1..150), keys in prop::collection::vec(key(), 1..60)) {
        let rules = Rules::build(&specs, WIDE, |_| 0).unwrap();
        agree(&specs, &rules, &keys);
    }

    #[test]
    fn counting_leaves_decisions_alone(mut specs in prop::collection::vec(rule(), 1..60),
                                       which in prop::collection::vec(any::<prop::sample::Index>(), 1..counting::MOST),
                                       keys in prop::collection::vec(key(), 1..60)) {
        for index in which {
            let index = index.index(specs.len());
            specs[index].action = RuleAction::Count;
        }
        let rules = Rules::build(&specs, Limits { lines: 1 << 20, ..WIDE }, |_| 0).unwrap();
        prop_assert!(rules.count());
        agree(&specs, &rules, &keys);
    }
}

/// SplitMix64, for lists too long to be drawn by proptest.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ z >> 31) % n
    }

    fn address(&mut self, v6: bool) -> IpAddr {
        let (site, host) = (self.below(400), self.below(1 << 14));
        if v6 {
            let high = 0x2a00 << 112 | u128::from(site) << 90 | u128::from(host & 63) << 64;
            IpAddr::V6((high | u128::from(host)).into())
        } else {
            IpAddr::V4(((0x0b00_0000 + (site << 18) + host) as u32).into())
        }
    }

    fn cidr(&mut self, v6: bool) -> Cidr {
        let addr = self.address(v6);
        let lens: [u8; 6] = if v6 { [29, 40, 48, 64, 100, 128] } else { [11, 14, 20, 24, 29, 32] };
        Cidr { addr, len: lens[self.below(6) as usize] }.network()
    }

    fn ports(&mut self) -> Vec<PortRange> {
        let first = [22, 80, 443, 1024, 5000][self.below(5) as usize];
        let last = [first, first, first + 1000, u16::MAX][self.below(4) as usize];
        if self.below(3) == 0 { Vec::new() } else { vec![PortRange { first, last }] }
    }

    /// A rule like those of real lists; in one of ten neither address is specific.
    fn rule(&mut self) -> RuleSpec {
        let (v6, kind) = (self.below(2) == 1, self.below(10));
        let src = if kind == 0 || kind > 5 { Vec::new() } else { vec![self.cidr(v6)] };
        let dst = if kind < 3 { Vec::new() } else { vec![self.cidr(v6)] };
        let protocol = [None, Some(6), Some(6), Some(17)][self.below(4) as usize];
        let (src_ports, dst_ports) = (if self.below(8) == 0 { self.ports() } else { Vec::new() }, self.ports());
        let in_interface = (self.below(10) == 0).then(|| self.below(4) as usize);
        let vlan = (self.below(20) == 0).then(|| self.below(4) as u16);
        let dscp = if self.below(20) == 0 { vec![0, 10, 46] } else { Vec::new() };
        let syn = protocol == Some(6) && self.below(20) == 0;
        let tcp_flags = syn.then_some(FlagMatch { value: 2, mask: 0x12 });
        let fragment = (self.below(40) == 0).then_some(FragmentMatch::No);
        spec(RuleMatch { src, dst, protocol, src_ports, dst_ports, in_interface, tcp_flags, vlan, dscp, fragment })
    }

    /// A packet inside a rule's prefixes, on one of its edges as often as not.
    fn key(&mut self, matches: &RuleMatch) -> RuleKey {
        let v6 = matches.src.first().or(matches.dst.first()).map_or(self.below(2) == 1, |c| c.addr.is_ipv6());
        let mut inside = |list: &[Cidr]| match list.first() {
            Some(cidr) => {
                from_ip(cidr.addr)
                    | u128::from(self.below(4) & !(u64::from(cidr.len == 32 || cidr.len == 128).wrapping_neg()))
            }
            None => from_ip(self.address(v6)),
        };
        let (src, dst) = (inside(&matches.src), inside(&matches.dst));
        let mut port = |list: &[PortRange]| match list.first() {
            Some(range) => [range.first.saturating_sub(1), range.first, range.last][self.below(3) as usize],
            None => self.below(65_536) as u16,
        };
        let (sport, dport) = (port(&matches.src_ports), port(&matches.dst_ports));
        let protocol = matches.protocol.unwrap_or(6);
        let flow = FlowKey { src, dst, protocol, sport, dport };
        let flags = (protocol == 6).then_some(if self.below(2) == 0 { 2 } else { 0x10 });
        let sight = Sight::new(self.below(4) as u16, [0, 10, 12, 46][self.below(4) as usize], flags);
        RuleKey { flow, has_ports: self.below(8) > 0, interface: self.below(4) as u32, sight }
    }
}

#[test]
fn thousands_of_rules_equal_the_scan_within_the_default_budget() {
    let mut random = Random(7);
    let specs: Vec<_> = (0..6000).map(|_| random.rule()).collect();
    let rules = Rules::build(&specs, NARROW, |_| 0).unwrap();
    assert!(rules.tree.used.iter().all(|&used| used), "every part has rules");
    let keys: Vec<_> = (0..4000)
        .map(|_| {
            let rule = random.below(specs.len() as u64) as usize;
            random.key(&specs[rule].matches)
        })
        .collect();
    let matched = agree(&specs, &rules, &keys);
    assert!(matched > keys.len() / 2, "{matched} of {} packets match", keys.len());
}

fn v4(word: u32, len: u8) -> Vec<Cidr> {
    vec![Cidr { addr: IpAddr::V4(word.into()), len }.network()]
}

type Make = fn(u32) -> RuleMatch;

#[test]
fn rules_that_differ_in_one_field_alone_are_told_apart() {
    let port = |n: u32| vec![PortRange { first: n as u16, last: n as u16 }];
    let by_field: [(&str, Make); 7] = [
        ("source", |n| RuleMatch { src: v4(0x0a00_0000 + n, 32), ..RuleMatch::default() }),
        ("destination", |n| RuleMatch { dst: v4(0x0a00_0000 + n, 32), ..RuleMatch::default() }),
        ("interface", |n| RuleMatch { in_interface: Some(n as usize), ..RuleMatch::default() }),
        ("VLAN", |n| RuleMatch { vlan: Some(n as u16 * 16), ..RuleMatch::default() }),
        ("DSCP and VLAN", |n| RuleMatch { dscp: vec![n as u8 % 64], vlan: Some(n as u16), ..RuleMatch::default() }),
        ("protocol", |n| RuleMatch { protocol: Some(n as u8), ..RuleMatch::default() }),
        ("lower half of IPv6", |n| {
            let addr = IpAddr::V6((0x2001_0db8 << 96 | u128::from(n) << 20).into());
            RuleMatch { dst: vec![Cidr { addr, len: 120 }], ..RuleMatch::default() }
        }),
    ];
    for (field, make) in by_field {
        let specs: Vec<_> = (0..250).map(|n| spec(make(n))).collect();
        let rules = Rules::build(&specs, NARROW, |_| 0).unwrap();
        assert!(rules.worst_lines() <= 12, "{field}: {} lines", rules.worst_lines());
    }
    let specs: Vec<_> = (0..250)
        .map(|n| spec(RuleMatch { src_ports: port(n), dst_ports: port(n * 7), ..RuleMatch::default() }))
        .collect();
    assert!(Rules::build(&specs, NARROW, |_| 0).unwrap().worst_lines() <= 12);
}

/// Attack: every packet meets as many rules as can be made to overlap, each time in another field, so that no cut separates them and
/// none hides another.
#[test]
fn overlap_in_many_fields_is_bounded_or_refused_by_name() {
    let staircase = |n: u32, count: u32| {
        let (low, high) = (n as u16 * 20, (count - n) as u16 * 20 + 40_000);
        let range = |first, last| vec![PortRange { first, last }];
        RuleMatch {
            src: v4(n << 22, 1 + (n % 9) as u8),
            dst: v4(n << 21, 1 + (n % 11) as u8),
            src_ports: range(low, u16::MAX),
            dst_ports: range(0, high),
            ..RuleMatch::default()
        }
    };
    for count in [16, 200, 1000] {
        let specs: Vec<_> = (0..count).map(|n| spec(staircase(n, count))).collect();
        match Rules::build(&specs, NARROW, |_| 0) {
            Ok(rules) => {
                assert!(rules.worst_lines() <= 64 && rules.bytes() < 64 << 20);
                let mut random = Random(u64::from(count));
                let keys: Vec<_> = (0..320).map(|n| random.key(&specs[n % specs.len()].matches)).collect();
                agree(&specs, &rules, &keys);
            }
            Err(refused) => {
                assert!(!refused.culprits.is_empty(), "{refused:?}");
                assert!(refused.culprits.iter().all(|&rule| rule < count), "{refused:?}");
            }
        }
    }
    // Interfaces and the lower halves of addresses are looked at beside the block: hundreds of them in one leaf are refused.
    let same: Vec<_> = (0..400u32)
        .map(|n| spec(RuleMatch { in_interface: Some(n as usize * 65_536), ..RuleMatch::default() }))
        .collect();
    let refused = Rules::build(&same, NARROW, |_| 0).unwrap_err();
    assert_eq!(refused.field, "cache lines per packet");
    assert!(refused.culprits.len() > 100, "{refused:?}");
}

/// Attack: conditions on TCP flags and fragments are no field to cut by. Many of them that overlap are refused; few of them below each
/// of many prefixes are not.
#[test]
fn overlap_in_flags_and_fragments_is_bounded_or_refused_by_name() {
    let flags = |n: u32| FlagMatch { value: n as u8, mask: 0xff };
    let closer = |n: u32, dst| RuleMatch {
        dst,
        protocol: Some(6),
        tcp_flags: Some(flags(n)),
        fragment: n.is_multiple_of(2).then_some(FragmentMatch::No),
        // Lists of DSCP that overlap like a staircase.
        dscp: (n as u8 % 30..40).collect(),
        ..RuleMatch::default()
    };
    let same: Vec<_> = (0..256).map(|n| spec(closer(n, Vec::new()))).collect();
    let refused = Rules::build(&same, NARROW, |_| 0).unwrap_err();
    assert_eq!(refused.field, "cache lines per packet");
    assert!(refused.culprits.len() > 100, "{refused:?}");
    let apart: Vec<_> = (0..4000).map(|n| spec(closer(n, v4(0x0b00_0000 + ((n / 8) << 8), 24)))).collect();
    let rules = Rules::build(&apart, NARROW, |_| 0).unwrap();
    assert!(rules.worst_lines() <= 20 && rules.bytes() < 4 << 20, "{} lines", rules.worst_lines());
    let mut random = Random(3);
    let keys: Vec<_> = (0..640).map(|n| random.key(&apart[n * 6].matches)).collect();
    agree(&apart, &rules, &keys);
}

/// Rules that count are compared one by one: their lines are part of the budget, and a list that takes too many is refused.
#[test]
fn rules_that_count_are_few_and_bounded() {
    let count = |matches| RuleSpec { action: RuleAction::Count, ..spec(matches) };
    let port = |n: u16| vec![PortRange { first: n * 2, last: n * 2 }];
    let few: Vec<_> = (0..16).map(|n| count(RuleMatch { dst_ports: port(n), ..RuleMatch::default() })).collect();
    let rules = Rules::build(&few, NARROW, |_| 0).unwrap();
    assert!(rules.worst_lines() >= 8 && rules.worst_lines() < 16, "{}", rules.worst_lines());
    assert!(!rules.decide(), "nothing decides, so everything is permitted");
    let many: Vec<_> = (0..17).map(|n| count(RuleMatch { dst_ports: port(n), ..RuleMatch::default() })).collect();
    let refused = Rules::build(&many, NARROW, |_| 0).unwrap_err();
    assert_eq!((refused.field, refused.culprits), ("rules that count", vec![16]));
    let long = vec![
        spec(RuleMatch::default()),
        count(RuleMatch { dst_ports: (0..100).flat_map(port).collect(), ..RuleMatch::default() }),
    ];
    let refused = Rules::build(&long, NARROW, |_| 0).unwrap_err();
    assert_eq!((refused.field, refused.culprits), ("cache lines per packet of rules that count", vec![1]));
}

#[test]
fn lists_are_multiplied_out_up_to_a_limit() {
    let prefixes = |n: u32| (0..n).flat_map(|i| v4(i << 8, 24)).collect::<Vec<_>>();
    let ports = (0..300).map(|n| PortRange { first: n * 2, last: n * 2 }).collect::<Vec<_>>();
    let rule = |n, ports: &[PortRange]| {
        vec![spec(RuleMatch { src: prefixes(n), dst: prefixes(n), dst_ports: ports.to_vec(), ..RuleMatch::default() })]
    };
    assert!(Rules::build(&rule(30, &ports[..20]), NARROW, |_| 0).is_ok());
    let refused = Rules::build(&rule(30, &ports), NARROW, |_| 0).unwrap_err();
    assert_eq!((refused.found.as_str(), refused.culprits), ("270000", vec![0]));
    // Prefixes inside others and ports that touch count once.
    let touching = (0..1000).map(|n| PortRange { first: n, last: n }).collect::<Vec<_>>();
    let mut nested = prefixes(200);
    nested.extend(v4(0, 8));
    let rule = RuleMatch { src: nested.clone(), dst: nested, dst_ports: touching, ..RuleMatch::default() };
    assert_eq!(record::records([spec(rule)].iter().enumerate(), false, 1).unwrap().len(), 1);
}

#[test]
fn too_large_is_refused() {
    let specs: Vec<_> = (0..1000).map(|n| spec(RuleMatch { src: v4(n << 8, 24), ..RuleMatch::default() })).collect();
    let refused = Rules::build(&specs, Limits { bytes: 200_000, lines: 64 }, |_| 0).unwrap_err();
    assert_eq!(refused.field, "bytes");
    assert!(!refused.culprits.is_empty());
    // Not even room to look at them: many modest rules may not fill the memory before anything is built.
    let refused = Rules::build(&specs, Limits { bytes: 9_600, lines: 64 }, |_| 0).unwrap_err();
    assert_eq!(refused.field, "combinations of prefixes and ports");
    assert_eq!(refused.culprits.len(), 1);
    assert!(Rules::build(&specs, Limits { bytes: 10_000_000, lines: 64 }, |_| 0).is_ok());
}

/// Rules in their order, named.
struct Listed(Vec<RuleSpec>);

impl Listed {
    fn new(random: &mut Random, count: u32) -> Self {
        Self((0..count).map(|n| RuleSpec { name: format!("r{n}"), priority: n * 8, ..random.rule() }).collect())
    }

    /// Some rules get other conditions, some go, some come, some go elsewhere.
    fn change(&mut self, random: &mut Random, round: u32) -> RuleChanges {
        let mut changes = RuleChanges::default();
        let key = |spec: &RuleSpec| (spec.priority, spec.name.clone());
        for n in 0..=(random.below(6) as u32) {
            let at = random.below(self.0.len() as u64) as usize;
            let fresh =
                RuleSpec { name: format!("n{round}-{n}"), priority: random.below(9000) as u32, ..random.rule() };
            if changes.put.iter().any(|put| put.name == self.0[at].name) {
                continue;
            }
            match random.below(4) {
                0 => changes.put.push(fresh),
                1 => changes.gone.push(key(&self.0.remove(at))),
                2 => {
                    changes.gone.push(key(&self.0[at]));
                    let moved = self.0.remove(at);
                    changes.put.push(RuleSpec { priority: fresh.priority, ..moved });
                }
                _ => {
                    let (name, priority) = (self.0[at].name.clone(), self.0[at].priority);
                    self.0.remove(at);
                    let other = if random.below(3) == 0 { RuleAction::Deny } else { RuleAction::Permit };
                    changes.put.push(RuleSpec { name, priority, action: other, ..fresh });
                }
            }
        }
        self.0.extend(changes.put.iter().cloned());
        self.0.sort_by_key(key);
        changes
    }
}

/// Edits of a list that changes for long lead to what the newest list says, in single look-ups and bursts, in each of two copies that take
/// turns and are an edit behind each other.
#[test]
fn edits_equal_building_anew() {
    let mut random = Random(11);
    let mut list = Listed::new(&mut random, 900);
    let build = |specs: &[RuleSpec]| Rules::numbered(specs, spaced, NARROW, |_| 0).unwrap();
    let mut copies = [build(&list.0), build(&list.0)];
    let mut editor = edit::Editor::new(&list.0, &copies[0], NARROW);
    let mut missed: [Vec<std::rc::Rc<edit::Edit>>; 2] = Default::default();
    let (mut anew, mut matched) = (0, 0);
    for round in 0..120 {
        let changes = list.change(&mut random, round);
        let Some(edit) = editor.edit(&changes) else {
            anew += 1;
            copies = [build(&list.0), build(&list.0)];
            editor = edit::Editor::new(&list.0, &copies[0], NARROW);
            missed = Default::default();
            continue;
        };
        let edit = std::rc::Rc::new(edit);
        for missed in &mut missed {
            missed.push(edit.clone());
        }
        let turn = round as usize % 2;
        missed[turn].drain(..).for_each(|edit| edit.write(&mut copies[turn], |_| 0));
        let rules = &copies[turn];
        assert_eq!(rules.bytes(), editor.bytes());
        let found: Vec<_> = rules.iter().map(|rule| (rule.priority, &rule.name, rule.action)).collect();
        assert_eq!(found, list.0.iter().map(|rule| (rule.priority, &rule.name, rule.action)).collect::<Vec<_>>());
        assert_eq!(rules.worst_lines(), build(&list.0).worst_lines(), "round {round}");
        for _ in 0..4 {
            let near = |random: &mut Random| random.below(list.0.len() as u64) as usize;
            let mut keys: Vec<_> = (0..BURST - changes.put.len())
                .map(|_| {
                    let rule = near(&mut random);
                    random.key(&list.0[rule].matches)
                })
                .collect();
            keys.extend(changes.put.iter().map(|rule| random.key(&rule.matches)));
            let mut burst = [NONE; BURST];
            rules.first_matches(Mask::first(keys.len()), |lane| keys[lane], &mut burst);
            for (lane, key) in keys.iter().enumerate() {
                let expected = scan(&list.0, key).map(|at| &list.0[at].name);
                let name = |number: u32| rules.get(number).map(|rule| &rule.name);
                assert_eq!(rules.first_match(key).and_then(name), expected, "round {round}: {key:?}");
                assert_eq!(name(burst[lane]), expected, "round {round}, in a burst: {key:?}");
                matched += usize::from(expected.is_some());
            }
        }
    }
    assert!(anew < 12, "{anew} of 120 changes were built anew");
    assert!(matched > 5000, "{matched} packets matched");
}

/// What an edit is not made for is built from nothing.
#[test]
fn rare_changes_are_left_to_a_build() {
    let mut random = Random(5);
    let list = Listed::new(&mut random, 200);
    let rules = Rules::numbered(&list.0, spaced, NARROW, |_| 0).unwrap();
    let plain = RuleSpec { name: "new".into(), priority: 5, ..random.rule() };
    let edits = |spec: RuleSpec| {
        let changes = RuleChanges { put: vec![spec], ..RuleChanges::default() };
        edit::Editor::new(&list.0, &rules, NARROW).edit(&changes).is_some()
    };
    assert!(edits(plain.clone()));
    assert!(!edits(RuleSpec { action: RuleAction::Count, ..plain.clone() }));
    assert!(!edits(RuleSpec { log_sample: 5, ..plain.clone() }));
    assert!(!edits(RuleSpec { way: Some(crate::tables::RuleWay::Table(0)), ..plain.clone() }));
    let gone = RuleChanges { gone: vec![(77, "nobody".into())], ..RuleChanges::default() };
    assert!(edit::Editor::new(&list.0, &rules, NARROW).edit(&gone).is_none());
    let mut put = list.0.clone();
    for rule in &mut put {
        rule.mark = Some(10);
    }
    let marks = RuleChanges { put: put.clone(), ..RuleChanges::default() };
    assert!(edit::Editor::new(&list.0, &rules, NARROW).edit(&marks).is_some(), "what all rules do");
    for rule in &mut put {
        rule.matches = random.rule().matches;
    }
    let most = RuleChanges { put, ..RuleChanges::default() };
    assert!(edit::Editor::new(&list.0, &rules, NARROW).edit(&most).is_none(), "what all rules ask for");
}
