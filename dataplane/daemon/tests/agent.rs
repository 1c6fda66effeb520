//! The agent against a control that tests hold in their hands.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use marchproxy_dataplane::agent::{Agent, LastGoodState, SharedState};
use marchproxy_dataplane::last_good::Store;
use marchproxy_dataplane::local::Operate;
use marchproxy_dataplane::runtime::Runtime;
use marchproxy_engine::tables::{RuleSpec, RuleTables};
use marchproxy_proto::v1::from_node::Message as FromNode;
use marchproxy_proto::v1::to_node::Message as ToNode;
use marchproxy_proto::v1::{self, operate_call, operate_reply};
use support::{Attached, FakeControl, FakeNode, config, eventually, offer, tables_with};
use tokio::sync::watch;

struct Running {
    node: Arc<FakeNode>,
    state: SharedState,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(config: marchproxy_dataplane::config::Config) -> Self {
        let node = Arc::new(FakeNode::default());
        let runtime: Arc<dyn Runtime> = node.clone();
        let state = SharedState::default();
        let operate = Operate::new(&config.node, runtime.clone());
        let store = Store::new(&config.state_dir, &config.cluster, &config.node);
        let last_good = store.load().unwrap();
        let (stop, stopped) = watch::channel(false);
        let agent = Agent::new(Arc::new(config), runtime, operate, state.clone());
        let task = tokio::spawn(agent.run(last_good, stopped));
        Self { node, state, stop, task }
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        tokio::time::timeout(support::PATIENCE, self.task).await.unwrap().unwrap();
    }
}

fn store(dir: &Path) -> Store {
    Store::new(dir, "default", "edge-1")
}

/// The disk is written after the ack.
async fn saved(dir: &Path, version: u64) {
    eventually("saved", || store(dir).load().unwrap().is_some_and(|tables| tables.version == version)).await;
}

/// A control, and a node attached to it.
async fn attached(dir: &Path) -> (FakeControl, Running, Attached) {
    let mut control = FakeControl::start("127.0.0.1:0", None, false).await;
    let running = Running::start(config(dir, control.address, true));
    let mut stream = control.attached().await;
    stream.hello().await;
    (control, running, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_becomes_an_ack_and_only_what_lacks_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = FakeControl::start("127.0.0.1:0", None, false).await;
    let running = Running::start(config(dir.path(), control.address, true));
    let mut stream = control.attached().await;
    assert_eq!(stream.node_header.as_deref(), Some("edge-1"), "a control without certificates asks for the name");
    let hello = stream.hello().await;
    assert_eq!((hello.backend.as_str(), hello.workers, hello.version), ("fake", 3, 0));

    let first = tables_with("lan");
    let asked = stream.push(1, &first).await;
    assert_eq!(asked.len(), offer(1, &first).0.groups.len());
    let ack = stream.ack().await;
    assert_eq!((ack.version, ack.generation, ack.build_us, ack.settle_us), (1, 1, 1, 2));
    assert_eq!(ack.content_hash, offer(1, &first).0.content_hash);
    assert_eq!(running.node.pushed.lock().unwrap()[0].tables, Some(first.clone()));

    // The same content under another number: nothing is sent, nothing is built.
    assert_eq!(stream.push(2, &first).await.len(), 0);
    assert_eq!((stream.ack().await.generation, running.node.running().version), (1, 2));

    // One more rule: the ports' group is here already.
    let rule = marchproxy_engine::tables::RuleSpec {
        name: "r".into(),
        priority: 1,
        matches: marchproxy_engine::tables::RuleMatch::default(),
        action: marchproxy_engine::tables::RuleAction::Deny,
        mark: None,
        ..Default::default()
    };
    let second = RuleTables { rules: vec![rule], ..first };
    assert_eq!(stream.push(3, &second).await.len(), 1);
    assert_eq!(stream.ack().await.generation, 2);
    saved(dir.path(), 3).await;
    let state = running.state.read();
    assert_eq!((state.accepted, state.refused, state.connected), (3, 0, true));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nack_keeps_the_old_tables_here_and_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (_control, running, mut stream) = attached(dir.path()).await;
    stream.push(1, &tables_with("lan")).await;
    stream.ack().await;
    running.node.refusals.lock().unwrap().push_back("port wan: device \"x\" is not a device".into());
    stream.push(2, &tables_with("wan")).await;
    let nack = stream.nack().await;
    assert_eq!((nack.version, nack.reason.as_str()), (2, "port wan: device \"x\" is not a device"));
    assert_eq!(running.node.running().version, 1);
    saved(dir.path(), 1).await;
    assert_eq!(running.state.read().refused, 1);

    // Damaged on its way: hashes do not match.
    let (mut bad, _) = offer(3, &tables_with("x"));
    bad.content_hash = vec![7; 32];
    stream.send(ToNode::Offer(bad)).await;
    assert!(stream.nack().await.reason.contains("is not the hash of the offered groups"));
    let (good, mut groups) = offer(4, &tables_with("y"));
    stream.send(ToNode::Offer(good)).await;
    assert!(matches!(stream.next().await, FromNode::Wanted(_)));
    groups[0].encoded.push(0);
    stream.send(ToNode::Group(groups[0].clone())).await;
    assert!(stream.nack().await.reason.contains("does not have that SHA-256"));
    // And the stream goes on.
    stream.push(5, &tables_with("z")).await;
    assert_eq!(stream.ack().await.version, 5);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_killed_in_mid_push_changes_nothing_and_the_node_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = FakeControl::start("127.0.0.1:0", None, false).await;
    let address = control.address;
    let running = Running::start(config(dir.path(), address, true));
    let mut stream = control.attached().await;
    stream.hello().await;
    stream.push(1, &tables_with("lan")).await;
    stream.ack().await;
    // Offered, asked for, and then nothing.
    let (half, _) = offer(2, &tables_with("wan"));
    stream.send(ToNode::Offer(half)).await;
    assert!(matches!(stream.next().await, FromNode::Wanted(_)));
    drop(stream);
    control.kill().await;
    eventually("noticed", || !running.state.read().connected).await;
    assert_eq!((running.node.running().version, running.node.pushed.lock().unwrap().len()), (1, 1));
    saved(dir.path(), 1).await;

    let mut control = FakeControl::start(&address.to_string(), None, false).await;
    let mut stream = control.attached().await;
    let hello = stream.hello().await;
    assert_eq!((hello.version, hello.generation), (1, 1), "it says what it runs");
    stream.push(2, &tables_with("wan")).await;
    assert_eq!(stream.ack().await.version, 2);
    assert_eq!(running.state.read().connections, 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_in_the_builders_hands_outlives_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = FakeControl::start("127.0.0.1:0", None, false).await;
    let address = control.address;
    let running = Running::start(config(dir.path(), address, true));
    let mut stream = control.attached().await;
    stream.hello().await;
    *running.node.delay.lock().unwrap() = Duration::from_millis(300);
    stream.push(1, &tables_with("lan")).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(stream);
    control.kill().await;
    eventually("applied", || running.node.running().version == 1).await;
    eventually("saved", || store(dir.path()).load().unwrap().is_some()).await;
    let mut control = FakeControl::start(&address.to_string(), None, false).await;
    assert_eq!(control.attached().await.hello().await.version, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_control_the_last_good_tables_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = FakeControl::start("127.0.0.1:0", None, false).await;
    let address = control.address;
    let running = Running::start(config(dir.path(), address, true));
    let mut stream = control.attached().await;
    stream.hello().await;
    stream.push(9, &tables_with("lan")).await;
    stream.ack().await;
    eventually("saved", || store(dir.path()).load().unwrap().is_some()).await;
    running.stop().await;
    drop(stream);
    control.kill().await;

    let running = Running::start(config(dir.path(), address, true));
    eventually("restored", || running.node.running().version == 9).await;
    assert_eq!(running.node.pushed.lock().unwrap()[0].tables, Some(tables_with("lan")));
    eventually("said", || running.state.read().last_error.contains("control at 127.0.0.1")).await;
    assert_eq!(running.state.read().last_good, LastGoodState::Used { version: 9 });

    // Control is back and has nothing new: no group travels.
    let mut control = FakeControl::start(&address.to_string(), None, false).await;
    let mut stream = control.attached().await;
    assert_eq!(stream.hello().await.version, 9);
    assert_eq!(stream.push(9, &tables_with("lan")).await.len(), 0);
    assert_eq!(stream.ack().await.generation, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unconfirmed_tables_are_never_the_last_good_ones_and_end_by_the_nodes_own_clock() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = FakeControl::start("127.0.0.1:0", None, false).await;
    let address = control.address;
    let running = Running::start(config(dir.path(), address, true));
    let mut stream = control.attached().await;
    stream.hello().await;
    stream.push(1, &tables_with("lan")).await;
    stream.ack().await;
    saved(dir.path(), 1).await;
    stream.push_within(2, &tables_with("wan"), 600_000).await;
    stream.ack().await;
    assert_eq!(running.state.read().unconfirmed, 2);
    assert_eq!(store(dir.path()).load().unwrap().unwrap().version, 1);
    // Of another version, then of this one.
    for version in [1, 2] {
        stream.send(ToNode::Confirmed(v1::TablesConfirmed { version })).await;
    }
    saved(dir.path(), 2).await;
    assert_eq!(running.state.read().unconfirmed, 0);

    stream.push_within(3, &tables_with("lan"), 300).await;
    assert_eq!(stream.ack().await.version, 3);
    let FromNode::Reverted(reverted) = stream.next().await else { panic!("no revert") };
    assert_eq!((reverted.version, reverted.to_version), (3, 2));
    assert_eq!(reverted.content_hash, offer(2, &tables_with("wan")).0.content_hash);
    assert_eq!(running.node.pushed.lock().unwrap().last().unwrap().tables, Some(tables_with("wan")));

    // What comes back costs no group; a newer version ends the wait of an older one; two in a row return to the last confirmed one.
    stream.push_within(4, &tables_with("dmz"), 600_000).await;
    stream.ack().await;
    stream.push_within(5, &tables_with("new"), 500).await;
    stream.ack().await;
    drop(stream);
    control.kill().await;
    eventually("reverted without control", || running.state.read().reverts == 2).await;
    assert_eq!(running.node.running().version, 2);
    assert_eq!(store(dir.path()).load().unwrap().unwrap().version, 2);
    let mut control = FakeControl::start(&address.to_string(), None, false).await;
    let mut stream = control.attached().await;
    let hello = stream.hello().await;
    assert_eq!((hello.version, hello.unconfirmed_version, hello.reverted_version), (2, 0, 5));
    assert_eq!(stream.push(6, &tables_with("wan")).await.len(), 0);
    assert_eq!(stream.ack().await.version, 6);
    running.stop().await;
}

/// Whatever else is offered, confirmed or reverted: a change is one of the tables that run, and is kept when they are.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_rules_start_from_what_runs_and_wait_for_confirmation_like_all_tables() {
    let dir = tempfile::tempdir().unwrap();
    let (_control, running, mut stream) = attached(dir.path()).await;
    *running.node.changed.lock().unwrap() = Some(Vec::new());
    let rule = |name: &str| RuleSpec { name: name.into(), priority: 1, ..RuleSpec::default() };
    let with =
        |names: &[&str]| RuleTables { rules: names.iter().map(|name| rule(name)).collect(), ..tables_with("lan") };
    let counts =
        || (running.node.pushed.lock().unwrap().len(), running.node.changed.lock().unwrap().iter().flatten().count());
    let last = || {
        let changed = running.node.changed.lock().unwrap();
        let rules = &changed.as_ref().unwrap().last().unwrap().rules;
        (rules.put.iter().map(|rule| rule.name.clone()).collect::<Vec<_>>(), rules.gone.clone())
    };
    stream.push(1, &with(&["a", "b"])).await;
    stream.ack().await;
    assert_eq!(counts(), (1, 0), "nothing ran that could be changed");
    saved(dir.path(), 1).await;

    // Kept only when it is confirmed.
    stream.push_within(2, &with(&["a", "c"]), 600_000).await;
    assert_eq!(stream.ack().await.version, 2);
    assert_eq!((counts(), last()), ((1, 1), (vec!["c".into()], vec![(1, "b".into())])));
    assert_eq!(running.state.read().unconfirmed, 2);
    assert_eq!(store(dir.path()).load().unwrap().unwrap().version, 1);
    stream.send(ToNode::Confirmed(v1::TablesConfirmed { version: 2 })).await;
    saved(dir.path(), 2).await;

    // One that is given up: the former tables come back as a whole, and the next change must not be one of what was given up.
    stream.push_within(3, &with(&["a", "c", "d"]), 300).await;
    assert_eq!(stream.ack().await.version, 3);
    let FromNode::Reverted(reverted) = stream.next().await else { panic!("no revert") };
    assert_eq!((reverted.version, reverted.to_version, counts()), (3, 2, (2, 2)));
    assert_eq!(running.node.pushed.lock().unwrap()[1].tables, Some(with(&["a", "c"])));
    stream.push(4, &with(&["a", "c", "e"])).await;
    assert_eq!((stream.ack().await.version, counts()), (4, (3, 2)));
    saved(dir.path(), 4).await;
    stream.push(5, &with(&["c", "e"])).await;
    assert_eq!((stream.ack().await.version, counts(), last()), (5, (3, 3), (vec![], vec![(1, "a".into())])));
    saved(dir.path(), 5).await;

    // Something else differs as well; and a node that leaves it to a build.
    stream.push(6, &RuleTables { rules: vec![rule("c")], ..tables_with("wan") }).await;
    assert_eq!((stream.ack().await.version, counts()), (6, (4, 3)));
    *running.node.changed.lock().unwrap() = None;
    stream.push(7, &tables_with("wan")).await;
    assert_eq!((stream.ack().await.version, counts()), (7, (5, 0)));
    saved(dir.path(), 7).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_makes_ready_runs_nothing_and_ends_with_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let (_control, running, mut stream) = attached(dir.path()).await;
    stream.push(1, &tables_with("lan")).await;
    stream.ack().await;
    let hash = |rules| offer(0, rules).0.content_hash;
    let staged = || running.node.staged.lock().unwrap().clone();
    let (wan, dmz) = (tables_with("wan"), tables_with("dmz"));
    assert_eq!(stream.stage(5, &wan).await, 1);
    let FromNode::Staged(ready) = stream.next().await else { panic!("not ready") };
    assert_eq!((ready.stage, ready.build_us, staged()), (5, 7, Some(hash(&wan))));
    assert_eq!(running.node.running().version, 1);
    // The offer that follows has nothing to bring.
    assert_eq!(stream.push(2, &wan).await.len(), 0);
    assert_eq!(stream.ack().await.version, 2);

    running.node.refusals.lock().unwrap().push_back("port dmz: taken".into());
    stream.stage(6, &dmz).await;
    let nack = stream.nack().await;
    assert_eq!((nack.version, nack.stage, nack.reason.as_str()), (0, 6, "port dmz: taken"));
    for end in 0..2 {
        stream.stage(7 + end, &dmz).await;
        stream.next().await;
        assert_eq!(staged(), Some(hash(&dmz)));
        if end == 0 {
            stream.send(ToNode::Unstage(v1::TablesUnstage {})).await;
            eventually("let go", || staged().is_none()).await;
        }
    }
    drop(stream);
    eventually("let go with the stream", || staged().is_none()).await;
    assert_eq!(running.node.running().version, 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_relayed_item_by_item_and_end_when_nobody_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (_control, running, mut stream) = attached(dir.path()).await;
    let trace = |id, text: &str, count| {
        let request = v1::TraceRequest { r#match: text.into(), count, ..Default::default() };
        ToNode::Call(v1::OperateCall { id, request: Some(operate_call::Request::Trace(request)) })
    };
    stream.send(trace(1, "", 1)).await;
    let mut items = Vec::new();
    for _ in 0..3 {
        let FromNode::Reply(reply) = stream.next().await else { panic!("no reply") };
        let Some(operate_reply::Response::Observation(observation)) = reply.response else { panic!("{reply:?}") };
        assert_eq!(reply.id, 1);
        items.push(observation.item.unwrap());
    }
    let [v1::observation::Item::Begun(begun), v1::observation::Item::Packet(_), v1::observation::Item::End(_)] =
        &items[..]
    else {
        panic!("{items:?}")
    };
    assert_eq!(begun.node, "edge-1");
    stream.send(trace(2, "scr", 1)).await;
    let FromNode::Reply(reply) = stream.next().await else { panic!("no reply") };
    let refused = operate_reply::Response::Error("match: at character 1: found \"scr\"".into());
    assert_eq!((reply.id, reply.response), (2, Some(refused)));

    // Cancelled, or the stream's end: both free the node.
    let gone = || std::mem::take(&mut *running.node.listener_gone.lock().unwrap());
    stream.send(trace(3, "", 2)).await;
    stream.next().await;
    stream.next().await;
    assert!(!gone());
    stream.send(ToNode::Cancel(v1::OperateCancel { id: 3 })).await;
    eventually("cancelled", gone).await;
    stream.send(trace(4, "", 2)).await;
    stream.next().await;
    stream.next().await;
    assert!(!gone());
    drop(stream);
    eventually("ended with the stream", gone).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_relayed_and_heartbeats_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (_control, running, mut stream) = attached(dir.path()).await;
    let ask = |id, request| ToNode::Call(v1::OperateCall { id, request });
    stream.send(ask(1, Some(operate_call::Request::Stats(v1::StatsRequest::default())))).await;
    stream.send(ask(2, Some(operate_call::Request::Sessions(v1::SessionsRequest::default())))).await;
    stream.send(ask(3, Some(operate_call::Request::Why(v1::WhyRequest::default())))).await;
    stream.send(ask(4, None)).await;
    let mut answers = std::collections::BTreeMap::new();
    while answers.len() < 4 {
        let FromNode::Reply(reply) = stream.next().await else { panic!("no reply") };
        answers.insert(reply.id, reply.response.unwrap());
    }
    assert!(matches!(&answers[&1], operate_reply::Response::Stats(stats) if stats.node == "edge-1"));
    assert!(matches!(&answers[&2], operate_reply::Response::Sessions(sessions) if sessions.total == 42));
    assert!(matches!(&answers[&3], operate_reply::Response::Error(error) if error.starts_with("src: found")));
    assert!(matches!(&answers[&4], operate_reply::Response::Error(error) if error.contains("update")));

    let beat = loop {
        let message = stream.inbound.message().await.unwrap().unwrap().message.unwrap();
        if let FromNode::Heartbeat(beat) = message {
            break beat;
        }
    };
    assert_eq!((beat.packets_rx, beat.packets_tx, beat.packets_dropped, beat.residue), (10, 9, 1, 0));
    running.stop().await;
}
