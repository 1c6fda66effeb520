//! Nanoseconds a packet. Absolute times depend on the machine, so nothing is asserted about them here:
//! `cargo test -p marchproxy-xdp -- --ignored --nocapture figures` prints them.

use std::time::Duration;

use marchproxy_engine::packet::Packet;
use marchproxy_engine::tables::{BackendSpec, RuleAction, RuleMatch, RuleSpec};
use marchproxy_xdp::{Figure, PortFacts, measure};

use crate::send::{Rig, tables};
use crate::support::{MAC, PEER, cidr, ip, xdp};

/// What, flows, the verdict, the figure.
fn figures(repeat: u32, rounds: u32) -> Option<Vec<(&'static str, u32, Figure)>> {
    let mut tables = tables();
    // As many as make the largest ring.
    tables.services[3].backends = (0..500u32)
        .map(|n| BackendSpec {
            name: format!("b{n:03}"),
            address: ip(&format!("10.9.{}.{}", n / 250, n % 250 + 1)),
            ..Default::default()
        })
        .collect();
    tables.rules = vec![RuleSpec {
        name: "block".into(),
        action: RuleAction::Deny,
        matches: RuleMatch { src: vec![cidr("8.0.0.0/8")], dst: vec![cidr("203.0.113.99/32")], ..Default::default() },
        ..Default::default()
    }];
    let denying = Rig::new(xdp()?, &tables);
    denying.publish();
    tables.rules.clear();
    let rig = Rig::new(xdp()?, &tables);
    rig.publish();
    let facts = PortFacts::new(&tables, 0, MAC, &[]);
    let to =
        |dst: &str| Packet::eth(PEER, MAC).ip(ip("8.0.0.1"), ip(dst)).ttl(64).udp(1000, 80).payload([0; 18]).build();
    let million = 1 << 20;
    let kinds = [
        ("drop (blocked source)", &denying, to("203.0.113.99"), 1),
        ("drop (blocked source)", &denying, to("203.0.113.99"), million),
        ("forward", &rig, to("9.9.9.9"), 1),
        ("forward", &rig, to("9.9.9.9"), million),
        ("balance by IP in IP, 500 backends", &rig, to("203.0.113.11"), 1),
        ("balance by IP in IP, 500 backends", &rig, to("203.0.113.11"), million),
    ];
    let figure = |(what, rig, frame, flows): (&'static str, &Rig, Vec<u8>, u32)| {
        // The least of some rounds: what others took of the machine is not ours.
        let all = (0..rounds).map(|_| measure(&rig.xdp, &facts, &frame, flows, repeat).unwrap());
        (what, flows, all.min_by_key(|figure| figure.nanoseconds).unwrap())
    };
    Some(kinds.into_iter().map(figure).collect())
}

#[test]
fn what_is_measured_is_what_is_meant() {
    let Some(figures) = figures(100, 1) else { return };
    let verdicts: Vec<u32> = figures.iter().map(|(_, _, figure)| figure.verdict).collect();
    assert_eq!(verdicts, [1, 1, 3, 3, 4, 4]);
}

#[test]
#[ignore = "takes half a minute, prints figures"]
fn figures_of_the_program() {
    let Some(figures) = figures(4 << 20, 3) else { return };
    for (what, flows, Figure { nanoseconds, .. }) in figures {
        println!("{what}, {flows} flows: {nanoseconds} ns, {:.1} Mpps", 1e3 / f64::from(nanoseconds.max(1)));
        assert!(Duration::from_nanos(nanoseconds.into()) < Duration::from_micros(10), "something is badly wrong");
    }
}
