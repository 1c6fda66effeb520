//! All nodes of a group or none.

use marchproxy_dataplane::runtime::Runtime;
use marchproxy_proto::v1;
use tonic::Code;
use v1::NodeOutcome::Settled;

use super::world::{ControlRig, NodeRig, document, eventually};

const BOTH: [&str; 2] = ["edge-1", "edge-2"];

fn together(nodes: &[&str], stage_within_s: u32) -> v1::ApplyHeader {
    let nodes = nodes.iter().map(|&node| node.to_owned()).collect();
    v1::ApplyHeader { together: Some(v1::Together { nodes, stage_within_s }), ..Default::default() }
}

#[test]
fn a_group_runs_a_version_together_or_not_at_all() {
    let control = ControlRig::start();
    let (one, mut two) = (NodeRig::start("edge-1", control.address), NodeRig::start("edge-2", control.address));
    control.apply(document(&BOTH, false, 1)).unwrap();
    for node in [&one, &two] {
        node.until_running(1);
    }
    let answer = control.apply_with(together(&[], 0), document(&BOTH, true, 1)).unwrap();
    assert_eq!(answer.version, 2);
    assert!(answer.nodes.iter().all(|node| node.outcome() == Settled && node.build_us > 0), "{answer:?}");

    // One can't open its new port: nothing is stored, and what the other has made ready is let go.
    let mut wider = document(&BOTH, false, 2);
    for node in &mut wider.nodes {
        let port = v1::Port { name: "more".into(), device: "vdev:net_null9".into(), ..Default::default() };
        node.ports.push(port);
    }
    two.world.broken.lock().unwrap().push("more".into());
    let refused = control.apply_with(together(&[], 0), wider.clone()).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("node edge-2: port more: its driver failed"), "{refused}");
    assert!(!refused.message().contains("edge-1:"), "{refused}");
    assert_eq!(control.history().unwrap().len(), 2);
    for node in [&one, &two] {
        assert_eq!(node.node().running().version, 2);
        assert_eq!(node.node().stats().ports.len(), 3);
    }
    two.world.broken.lock().unwrap().clear();
    assert_eq!(control.apply_with(together(&[], 0), wider).unwrap().version, 3);
    for node in [&one, &two] {
        node.until_running(3);
        assert_eq!(node.node().stats().ports.len(), 4);
    }

    // One is away: the whole group waits, a group without it does not, and it gets the version when it comes.
    two.kill();
    eventually("noticed", || {
        control.nodes().unwrap().iter().any(|node| node.name == "edge-2" && !node.connected).then_some(())
    });
    let refused = control.apply_with(together(&[], 1), document(&BOTH, false, 3)).unwrap_err();
    assert!(refused.message().contains("node edge-2: is not connected"), "{refused}");
    let unknown = control.apply_with(together(&["edge-3"], 1), document(&BOTH, false, 3)).unwrap_err();
    assert!(unknown.message().starts_with("together.nodes[0]: found \"edge-3\""), "{unknown}");
    assert_eq!(one.node().running().version, 3);
    assert_eq!(control.apply_with(together(&["edge-1"], 0), document(&BOTH, false, 3)).unwrap().version, 4);
    assert_eq!(one.node().running().version, 4);
    two.resume();
    two.until_running(4);
}
