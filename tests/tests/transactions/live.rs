//! `diff --live`: what a document would change for the traffic that is there.

use marchproxy_dataplane::runtime::Runtime;
use marchproxy_proto::v1;
use tonic::Code;

use super::traffic::Traffic;
use super::world::{ControlRig, NodeRig, document, eventually};

fn preview(control: &ControlRig, document: v1::Document) -> Result<v1::PreviewResponse, tonic::Status> {
    let request = v1::PreviewRequest { document: Some(document), duration_ms: 1_000, ..Default::default() };
    control.operate(async |mut operate| operate.preview(request).await)
}

#[test]
fn what_would_change_is_told_by_flow_and_nothing_changes() {
    let control = ControlRig::start();
    let node = NodeRig::start("edge-1", control.address);
    control.apply(document(&["edge-1"], false, 1)).unwrap();
    node.until_running(1);
    let traffic = Traffic::start(node.world.clone());
    let forwarded = || node.node().stats().ports.iter().find(|port| port.name == "a").map_or(0, |port| port.tx_packets);
    eventually("traffic", || (forwarded() > 100).then_some(()));
    let before = node.node().running();

    // The same in other words changes nothing.
    let same = preview(&control, document(&["edge-1"], false, 7)).unwrap();
    assert_eq!((same.node.as_str(), same.version, same.generation), ("edge-1", 1, before.generation));
    assert!(same.packets > 0 && same.flows > 0, "{same:?}");
    assert_eq!((same.flows_changed, same.changes.len()), (0, 0), "{same:?}");

    // Another way and another mark for all.
    let other = preview(&control, document(&["edge-1"], true, 1)).unwrap();
    assert_eq!(other.flows_changed, other.flows, "{other:?}");
    let [change] = &other.changes[..] else { panic!("{other:?}") };
    assert_eq!(change.what, ["mark", "way"]);
    let (was, would) = (change.before.as_ref().unwrap(), change.after.as_ref().unwrap());
    assert_eq!((was.mark, would.mark, would.rule.as_str()), (Some(10), Some(20), "rule all"));
    assert_eq!(
        (was.out.as_str(), would.out.as_str()),
        ("a-edge-1, next hop 198.18.1.2", "b-edge-1, next hop 198.18.2.2")
    );
    assert_eq!((change.flows, change.examples.len()), (other.flows, 3));
    assert!(change.examples[0].starts_with("in-edge-1 udp 198.18.3.9:10"), "{change:?}");
    assert!(change.packets <= other.packets && change.packets > 0);

    // A new rule ends some: those only.
    let mut denies = document(&["edge-1"], false, 1);
    let matches = v1::Match { protocol: "udp".into(), src_ports: vec!["1003".into()], ..Default::default() };
    let rule = v1::Rule {
        name: "no-1003".into(),
        priority: 9,
        r#match: Some(matches),
        action: "deny".into(),
        ..Default::default()
    };
    denies.rules.push(rule);
    let some = preview(&control, denies).unwrap();
    let [change] = &some.changes[..] else { panic!("{some:?}") };
    assert!(some.flows_changed < some.flows && change.what == ["fate"], "{some:?}");
    let (was, would) = (change.before.as_ref().unwrap(), change.after.as_ref().unwrap());
    assert_eq!(
        (was.rule.as_str(), would.rule.as_str(), would.reason.as_str()),
        ("rule all", "rule no-1003", "rule_deny")
    );
    assert!(change.examples.iter().all(|flow| flow.contains(":1003 > ")), "{change:?}");

    // What could not be pushed can't be compared, and nothing of it all has touched what runs.
    let refused = preview(&control, document(&["edge-2"], false, 1)).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("edge-2"), "{refused}");
    let after = node.node().running();
    assert_eq!((after.version, after.generation), (before.version, before.generation));
    assert_eq!(control.history().unwrap().len(), 1);
    let [a, b] = traffic.end();
    assert!(a > 0 && b == 0);
}
