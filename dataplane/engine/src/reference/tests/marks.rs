//! Sections 9.3, 9.4 and 10: policers one after the other, marks that are no codepoints, congestion experienced.

use super::*;

fn policer(name: &str, on_green: PolicerAction, on_red: PolicerAction) -> PolicerSpec {
    PolicerSpec { name: name.into(), cir: 1, cbs: 100, on_green, on_red, ..Default::default() }
}

/// Packets of both families to the LAN, received on the WAN.
fn both(dscp: u8, ecn: u8) -> [Packet; 2] {
    [world("198.51.100.7", "10.0.20.5").udp(1, 2), world("2001:db8:9::7", "fd00:20::5").udp(1, 2)]
        .map(|packet| packet.dscp(dscp).ecn(ecn))
}

fn told(tables: &RuleTables, packet: &Packet) -> String {
    let told = Lab::with(tables.clone()).step(WAN_PORT, packet);
    told.get(1).unwrap_or(&told[0]).clone()
}

#[test]
fn the_interfaces_policer_meters_before_the_flows() {
    let mut tables = tables();
    tables.policers = vec![
        policer("a", PolicerAction::Mark(5), PolicerAction::Drop),
        policer("b", PolicerAction::Mark(6), PolicerAction::Drop),
    ];
    tables.interfaces[2].policer = Some(0);
    let packet = world("198.51.100.7", "10.0.20.5").udp(1, 2).payload([0; 32]);
    let mut lab = Lab::with(tables.clone());
    assert!(lab.step(WAN_PORT, &packet)[1].contains("dscp 5"));
    assert_eq!(lab.step(WAN_PORT, &packet), ["dropped policer_drop"]);
    assert!(lab.step(LAN_PORT, &server("10.0.20.5", "8.8.8.8").udp(1, 2))[1].contains("10.0.20.5"));
    // The later mark counts, and what the first one drops costs the second nothing.
    let mut permit = rule("r", RuleMatch::default(), RuleAction::Permit);
    permit.policer = Some(1);
    tables.rules = vec![permit];
    tables.policers[1].cbs = 200;
    let mut lab = Lab::with(tables);
    assert!(lab.step(WAN_PORT, &packet)[1].contains("dscp 6"));
    assert_eq!(lab.step(WAN_PORT, &packet), ["dropped policer_drop"]);
    let packet = server("10.0.20.5", "8.8.8.8").udp(1, 2).payload([0; 100]);
    assert!(lab.step(LAN_PORT, &packet)[1].contains("dscp 6"), "128 octets are left");
}

#[test]
fn congestion_is_experienced_by_packets_that_can_tell() {
    let mut tables = tables();
    tables.policers = vec![policer("a", PolicerAction::Ce, PolicerAction::Ce)];
    tables.interfaces[2].policer = Some(0);
    for (ecn, leaves) in [(0, ""), (1, " ecn 3"), (2, " ecn 3"), (3, " ecn 3")] {
        for packet in both(34, ecn) {
            let told = told(&tables, &packet);
            assert!(told.contains(&format!("dscp 34{leaves} ")), "{ecn}: {told}");
        }
    }
    // Beside another mark, and none where the interface is not trusted.
    tables.interfaces[2].trust_dscp = false;
    assert!(both(34, 2).iter().all(|packet| told(&tables, packet).contains(" ecn 3 ")));
    assert!(both(34, 2).iter().all(|packet| !told(&tables, packet).contains("dscp 34")));
}

#[test]
fn marks_keep_and_map() {
    let mut tables = tables();
    tables.interfaces[2].trust_dscp = false;
    tables.dscp_maps =
        vec![DscpMapSpec { name: "m".into(), codepoints: vec![(34, 12)], classes: [Some(40), None, Some(20), None] }];
    let mut permit = rule("r", RuleMatch::default(), RuleAction::Permit);
    let mut leaves = |mark, class, dscp| {
        (permit.mark, permit.class) = (Some(mark), class);
        tables.rules = vec![permit.clone()];
        both(dscp, 0).map(|packet| told(&tables, &packet))
    };
    let is =
        |told: [String; 2], dscp: u8| assert!(told.iter().all(|t| t.contains(&format!("dscp {dscp} "))), "{told:?}");
    is(leaves(MARK_KEEP, None, 34), 34);
    is(leaves(MARK_MAP, None, 34), 12);
    is(leaves(MARK_MAP, None, 46), 40);
    is(leaves(MARK_MAP, None, 26), 26);
    is(leaves(MARK_MAP, None, 10), 20);
    is(leaves(MARK_MAP, Some(Class::P0), 10), 40);
    is(leaves(MARK_MAP, Some(Class::P3), 46), 46);
}

#[test]
fn a_policer_lowers_the_class_that_a_map_asks_for() {
    let mut tables = tables();
    let lowers = PolicerAction::Class(Class::P2);
    tables.policers = vec![policer("a", lowers, lowers)];
    tables.interfaces[2].policer = Some(0);
    tables.dscp_maps =
        vec![DscpMapSpec { name: "m".into(), codepoints: vec![], classes: [Some(1), Some(2), Some(3), Some(4)] }];
    let mut permit = rule("r", RuleMatch::default(), RuleAction::Permit);
    permit.mark = Some(MARK_MAP);
    tables.rules = vec![permit];
    for (dscp, becomes) in [(46, 3), (34, 3), (10, 3), (1, 4)] {
        assert!(
            both(dscp, 0).iter().all(|packet| told(&tables, packet).contains(&format!("dscp {becomes} "))),
            "{dscp}"
        );
    }
}
