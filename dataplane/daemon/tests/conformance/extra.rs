//! What the comparison with the kernel has no use for: rules, a service, tags, frames for nobody.

use marchproxy_engine::packet::Packet;
use marchproxy_engine::tables::{
    BackendSpec, BackendState, PortRange, RuleAction, RuleMatch, RuleSpec, RuleTables, ServiceProtocol, ServiceSpec,
};
use marchproxy_engine::testkit::port_mac;

use crate::cases::Case;
use crate::network::{self, NEIGHBOURS};

const VIP: [&str; 2] = ["203.0.113.80", "2001:db8:2::80"];

/// The tables of the comparison with the kernel, with rules and a service.
pub fn tables() -> RuleTables {
    let rule = |name: &str, dst_ports: Vec<PortRange>, action| RuleSpec {
        name: name.into(),
        matches: RuleMatch { dst_ports, ..RuleMatch::default() },
        action,
        ..RuleSpec::default()
    };
    let backend = |name: &str, address: &str| BackendSpec {
        name: name.into(),
        address: address.parse().unwrap(),
        port: Some(8080),
        weight: 1,
        state: BackendState::Up,
    };
    RuleTables {
        rules: vec![
            RuleSpec { priority: 1, ..rule("no-telnet", vec![PortRange { first: 23, last: 23 }], RuleAction::Deny) },
            RuleSpec { priority: 2, ..rule("rest", Vec::new(), RuleAction::Permit) },
        ],
        services: vec![ServiceSpec {
            name: "web".into(),
            addresses: VIP.iter().map(|address| address.parse().unwrap()).collect(),
            protocol: ServiceProtocol::Tcp,
            ports: vec![PortRange { first: 80, last: 80 }],
            backends: vec![backend("v4", NEIGHBOURS[1].v4), backend("v6", NEIGHBOURS[1].v6)],
            ..ServiceSpec::default()
        }],
        ..network::tables()
    }
}

/// More frames for the port `wan`.
pub fn cases() -> Vec<Case> {
    let eth = || Packet::eth(NEIGHBOURS[0].mac, port_mac(0));
    let mut all = Vec::new();
    let mut add = |name: &str, frame: Vec<u8>| all.push(Case { name: name.into(), frame });
    for (family, from, vip, to) in
        [("v4", NEIGHBOURS[0].v4, VIP[0], "10.9.9.9"), ("v6", NEIGHBOURS[0].v6, VIP[1], "fd00:9::9")]
    {
        let ip = |to: &str| eth().ip(from.parse().unwrap(), to.parse().unwrap());
        add(&format!("{family} denied"), ip(to).tcp(4000, 23).flags(2).build());
        add(&format!("{family} service syn"), ip(vip).tcp(4000, 80).flags(2).build());
        add(&format!("{family} service data"), ip(vip).tcp(4000, 80).flags(16).payload([7; 700]).build());
        add(&format!("{family} service, port that is none"), ip(vip).tcp(4000, 81).flags(2).build());
        let tagged = |vlan| eth().vlan(vlan).ip(from.parse().unwrap(), to.parse().unwrap()).udp(1, 2).payload([1; 40]);
        add(&format!("{family} tagged, vlan of nobody"), tagged(7).build());
        add(&format!("{family} tagged, priority only"), tagged(0).build());
    }
    add("tagged twice", eth().vlan(7).vlan(8).ethertype(0x0800).payload([1; 60]).build());
    add("lldp", eth().ethertype(0x88cc).payload([1; 46]).build());
    add("802.3 length", eth().ethertype(46).payload([1; 46]).build());
    add(
        "for another station",
        Packet::eth(NEIGHBOURS[0].mac, [2, 9, 9, 9, 9, 9]).ethertype(0x0800).payload([1; 46]).build(),
    );
    all
}
