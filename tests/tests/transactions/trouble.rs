//! Pushes that can't happen: the error says why, and the old generation runs on.

use std::path::{Path, PathBuf};
use std::process::Command;

use marchproxy_dataplane::runtime::Runtime;
use marchproxy_engine::Budget;
use marchproxy_proto::v1;
use tonic::Code;
use v1::NodeOutcome;

use super::world::{ControlRig, NodeRig, document, eventually};

/// A file system of its own that can be filled; gone when it is dropped.
struct Small(PathBuf);

impl Small {
    /// None, with the reason, where one may not mount.
    fn mount(at: &Path) -> Option<Self> {
        let made = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(at).output();
        match made {
            Ok(made) if made.status.success() => Some(Self(at.to_owned())),
            other => {
                println!("skipped: a full disk needs a file system of its own, and mounting one fails: {other:?}");
                None
            }
        }
    }

    fn fill(&self) {
        let _ = std::fs::write(self.0.join("filler"), vec![0; 2 << 20]);
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a database may still be open in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_of_control_stores_nothing_and_one_of_a_node_is_told() {
    let mut control = ControlRig::start();
    control.kill();
    let state = control.settings.state_dir.clone();
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::create_dir(&state).unwrap();
    let Some(disk) = Small::mount(&state) else { return };
    control.resume();
    let node = NodeRig::start("edge-1", control.address);
    control.apply(document(&["edge-1"], false, 1)).unwrap();
    node.until_running(1);
    eventually("kept", || node.store().load().unwrap());

    disk.fill();
    let mut large = document(&["edge-1"], true, 1);
    let spare = large.rules[0].clone();
    large.rules.extend((0..3000).map(|n| {
        let src = vec![format!("10.0.{}.{}/32", n / 256, n % 256)];
        let r#match = Some(v1::Match { src, ..Default::default() });
        v1::Rule { name: format!("r{n}"), priority: 100 + n, r#match, ..spare.clone() }
    }));
    let refused = control.apply(large.clone()).unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("full"), "{refused}");
    let running = node.node().running();
    assert_eq!(running.version, 1);
    disk.free();
    assert_eq!(control.history().unwrap().len(), 1);

    // The node's own disk: it runs the version, and says that it could not keep it.
    let Some(own) = Small::mount(node.dir.path()) else { return };
    own.fill();
    let answer = control.apply(document(&["edge-1"], true, 2)).unwrap();
    assert_eq!(answer.nodes[0].outcome(), NodeOutcome::Settled);
    eventually("told", || node.state.read().save_error.contains("No space").then_some(()));
    own.free();
    control.apply(document(&["edge-1"], true, 3)).unwrap();
    eventually("kept again", || node.state.read().save_error.is_empty().then_some(()));
}

#[test]
fn over_budget_or_far_too_large_nothing_changes() {
    let control = ControlRig::start();
    let mut node = NodeRig::start("edge-1", control.address);
    node.kill();
    node.budget = Budget { counters: 16, ..node.budget };
    node.resume();
    control.apply(document(&["edge-1"], false, 1)).unwrap();
    node.until_running(1);
    let before = node.node().running();
    let mut many = document(&["edge-1"], true, 1);
    let spare = many.rules[0].clone();
    many.rules.extend((0..40).map(|n| v1::Rule { name: format!("r{n}"), priority: 100 + n, ..spare.clone() }));
    let answer = control.apply(many).unwrap();
    assert_eq!(answer.nodes[0].outcome(), NodeOutcome::Refused);
    assert!(answer.nodes[0].reason.contains("counters: found"), "{answer:?}");
    let running = node.node().running();
    assert_eq!((running.version, running.generation), (before.version, before.generation));

    // 100 MB in chunks: read, judged, and refused by the fields that are wrong.
    let header = v1::ApplyHeader::default();
    let chunk = |n: usize| {
        let rules = vec![v1::Rule { name: format!("{n}{}", "x".repeat(10 << 20)), ..Default::default() }];
        let document = v1::Document { api_version: "marchproxy/v1".into(), rules, ..Default::default() };
        v1::ApplyChunk {
            header: (n == 0).then(|| header.clone()),
            content: Some(v1::apply_chunk::Content::Document(document)),
        }
    };
    let chunks: Vec<v1::ApplyChunk> = (0..10).map(chunk).collect();
    let refused = control.config(async |mut config| config.apply(tokio_stream::iter(chunks)).await).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("the document is refused, nothing was stored: rule 0xxx"), "{refused}");
    assert!(refused.message().len() < 1_000, "what is wrong is named, not repeated");
    assert_eq!(control.history().unwrap().len(), 2);
    assert_eq!(node.node().running().generation, before.generation);
}
