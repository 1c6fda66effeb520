//! rte_acl against a scan of all rules.
// Helpers of a test fail as the test does.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::IpAddr;

use common::Rng;
use marchproxy_dpdk::Eal;
use marchproxy_dpdk::table::{Acl, AclKey, AclRule, Family};

#[test]
fn acl() {
    let eal = common::builder("table-acl").start().unwrap();
    let before = eal.allocated_bytes();
    for family in [Family::V4, Family::V6] {
        equals_the_scan(&eal, family);
    }
    refusals(&eal);
    assert_eq!(eal.allocated_bytes(), before, "all memory came back");
}

/// Few distinct bits at the top, in the middle and at the end.
fn address(family: Family, rng: &mut Rng) -> IpAddr {
    let (high, middle, low) = (rng.below(4), rng.below(4), rng.below(4));
    match family {
        Family::V4 => IpAddr::V4(((high << 28 | middle << 12 | low) as u32).into()),
        Family::V6 => IpAddr::V6((u128::from(high) << 124 | u128::from(middle) << 60 | u128::from(low)).into()),
    }
}

fn rule(family: Family, rng: &mut Rng) -> AclRule {
    let mut prefix = || {
        let most = if family == Family::V4 { 32 } else { 128 };
        // DPDK masks nothing: bits behind the prefix do not count.
        (rng.below(8) > 0).then(|| (address(family, rng), (most - rng.below(most / 2)) as u8))
    };
    let (src, dst) = (prefix(), prefix());
    let mut ports = || match rng.below(3) {
        0 => (0, u16::MAX),
        1 => (rng.below(8) as u16, 8 + rng.below(60_000) as u16),
        _ => (5, 5),
    };
    let (sport, dport) = (ports(), ports());
    AclRule { src, dst, protocol: (rng.below(4) > 0).then(|| [6, 17][rng.below(2) as usize]), sport, dport }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn matches(rule: &AclRule, src: IpAddr, dst: IpAddr, protocol: u8, sport: u16, dport: u16) -> bool {
    let inside = |prefix: Option<(IpAddr, u8)>, address: IpAddr| {
        prefix.is_none_or(|(p, len)| (bits(p) ^ bits(address)).checked_shr(128 - u32::from(len)).unwrap_or(0) == 0)
    };
    inside(rule.src, src)
        && inside(rule.dst, dst)
        && rule.protocol.is_none_or(|p| p == protocol)
        && (rule.sport.0..=rule.sport.1).contains(&sport)
        && (rule.dport.0..=rule.dport.1).contains(&dport)
}

fn equals_the_scan(eal: &Eal, family: Family) {
    let mut rng = Rng(family as u64 + 1);
    let rules: Vec<_> = (0..200).map(|_| rule(family, &mut rng)).collect();
    let acl = Acl::build(eal, family, &rules, 0).unwrap();
    let (mut keys, mut expected) = (Vec::new(), Vec::new());
    for _ in 0..5_000 {
        let (src, dst) = (address(family, &mut rng), address(family, &mut rng));
        let (protocol, sport, dport) = ([1, 6, 17][rng.below(3) as usize], rng.below(12) as u16, rng.word() as u16);
        keys.push(match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => AclKey::v4(src, dst, protocol, sport, dport),
            (IpAddr::V6(src), IpAddr::V6(dst)) => AclKey::v6(src, dst, protocol, sport, dport),
            _ => unreachable!(),
        });
        let first = rules.iter().position(|rule| matches(rule, src, dst, protocol, sport, dport));
        expected.push(first.map_or(0, |index| index as u32 + 1));
    }
    for (burst, expected) in keys.chunks(100).zip(expected.chunks(100)) {
        let mut answers = [u32::MAX; 100];
        acl.classify(burst, &mut answers);
        assert_eq!(answers[..burst.len()], *expected);
    }
    assert!(
        expected.iter().any(|&answer| answer > 100) && expected.contains(&0),
        "rules far down are reached, and none"
    );
}

fn refusals(eal: &Eal) {
    let any = AclRule { src: None, dst: None, protocol: None, sport: (0, u16::MAX), dport: (0, u16::MAX) };
    let said = |family, rule: AclRule| Acl::build(eal, family, &[rule], 0).unwrap_err().to_string();
    let ten = IpAddr::from([10, 0, 0, 0]);
    assert!(
        said(Family::V6, AclRule { src: Some((ten, 8)), ..any })
            .contains("src 10.0.0.0, allowed addresses of family V6")
    );
    assert!(said(Family::V4, AclRule { dst: Some((ten, 33)), ..any }).contains("dst 33, allowed 0 to 32"));
    assert!(said(Family::V4, AclRule { sport: (2, 1), ..any }).contains("sport 2-1"));
    assert!(Acl::build(eal, Family::V4, &[], 0).unwrap_err().to_string().contains("rules 0"));
    let hosts: Vec<_> =
        (0..500u32).map(|n| AclRule { src: Some((IpAddr::V4((n * 99_991).into()), 32)), ..any }).collect();
    // Tries of a thousand octets hold no 500 hosts.
    assert!(Acl::build(eal, Family::V4, &hosts, 1000).is_err());
}
