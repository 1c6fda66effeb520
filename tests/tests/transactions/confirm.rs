//! Versions that revert by themselves unless somebody confirms them.

use marchproxy_dataplane::runtime::Runtime;
use marchproxy_proto::v1;
use tonic::Code;
use v1::Confirmation;

use super::world::{ControlRig, NodeRig, document, eventually};

fn within(seconds: u32) -> v1::ApplyHeader {
    v1::ApplyHeader { confirm_within_s: seconds, message: "try".into(), ..Default::default() }
}

fn confirm(control: &ControlRig, version: u64) -> Result<v1::ConfirmResponse, tonic::Status> {
    let request = v1::ConfirmRequest { version, ..Default::default() };
    control.config(async |mut config| config.confirm(request).await)
}

fn on_disk(node: &NodeRig) -> u64 {
    node.store().load().unwrap().map_or(0, |tables| tables.version)
}

fn kept(node: &NodeRig, version: u64) {
    eventually("kept as last good", || (on_disk(node) == version).then_some(()));
}

#[test]
fn a_version_waits_is_confirmed_and_only_then_kept_by_the_node() {
    let mut control = ControlRig::start();
    let mut node = NodeRig::start("edge-1", control.address);
    control.apply(document(&["edge-1"], false, 1)).unwrap();
    node.until_running(1);
    kept(&node, 1);

    let answer = control.apply_with(within(600), document(&["edge-1"], true, 1)).unwrap();
    assert_eq!((answer.version, answer.nodes[0].outcome()), (2, v1::NodeOutcome::Settled));
    assert!(answer.confirm_by.is_some());
    assert_eq!((node.node().running().version, node.state.read().unconfirmed), (2, 2));
    let refused = control.apply(document(&["edge-1"], false, 7)).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("marchctl confirm 2"), "{refused}");

    // The node dies and comes back with what was confirmed; control brings it to the version that waits.
    node.kill();
    assert_eq!(on_disk(&node), 1);
    node.resume();
    node.until_running(2);
    assert_eq!(node.state.read().unconfirmed, 2);
    // Control dies as well, and knows afterwards what it waits for.
    control.kill();
    control.resume();
    let history = control.history().unwrap();
    assert_eq!((history[0].confirmation(), history[0].message.as_str()), (Confirmation::Pending, "try"));
    assert_eq!(history[0].confirm_by, answer.confirm_by);
    assert_eq!(on_disk(&node), 1);
    assert!(!confirm(&control, 0).unwrap().unchanged);
    kept(&node, 2);
    assert_eq!((node.state.read().unconfirmed, node.state.read().reverts), (0, 0));
    assert!(confirm(&control, 2).unwrap().unchanged, "twice is once");
    assert_eq!(confirm(&control, 0).unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(control.history().unwrap()[0].confirmation(), Confirmation::Confirmed);
}

#[test]
fn without_a_confirmation_control_stores_the_old_content_again() {
    let control = ControlRig::start();
    let node = NodeRig::start("edge-1", control.address);
    control.apply(document(&["edge-1"], false, 1)).unwrap();
    node.until_running(1);
    let before = node.node().running().content_hash;
    control.apply_with(within(1), document(&["edge-1"], true, 1)).unwrap();
    node.until_running(3);
    assert_eq!(node.node().running().content_hash, before);
    kept(&node, 3);
    let history = control.history().unwrap();
    assert_eq!((history[0].author.as_str(), history[0].rollback_of), ("system", 1));
    assert!(history[0].message.starts_with("version 2 was not confirmed in time"), "{}", history[0].message);
    assert_eq!(history[0].content_hash, history[2].content_hash);
    assert_eq!(
        (history[1].confirmation(), history[0].confirmation()),
        (Confirmation::Reverted, Confirmation::Unspecified)
    );
    let late = confirm(&control, 2).unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition);
    assert!(late.message().contains("marchctl rollback 2"), "{late}");
    // Given up by hand, it does not wait for the time.
    control.apply_with(within(600), document(&["edge-1"], true, 1)).unwrap();
    let request = v1::RollbackRequest { to_version: 3, ..Default::default() };
    control.config(async |mut config| config.rollback(request).await).unwrap();
    assert_eq!(control.history().unwrap()[1].confirmation(), Confirmation::Reverted);
    node.until_running(5);
    assert_eq!(node.node().running().content_hash, before);
}

#[test]
fn a_node_without_control_returns_to_its_former_tables_by_itself() {
    let mut control = ControlRig::start();
    let node = NodeRig::start("edge-1", control.address);
    control.apply(document(&["edge-1"], false, 1)).unwrap();
    node.until_running(1);
    kept(&node, 1);
    let before = node.node().running().content_hash;
    control.apply_with(within(6), document(&["edge-1"], true, 1)).unwrap();
    control.kill();
    eventually("reverted by itself", || (node.state.read().reverts == 1).then_some(()));
    let running = node.node().running();
    assert_eq!((running.version, running.content_hash), (1, before.clone()));
    assert_eq!(on_disk(&node), 1);

    control.resume();
    node.until_running(3);
    assert_eq!(node.node().running().content_hash, before);
    let history = control.history().unwrap();
    assert_eq!((history[0].author.as_str(), history[1].confirmation()), ("system", Confirmation::Reverted));
}
