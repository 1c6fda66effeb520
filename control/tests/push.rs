//! From Apply to the nodes' streams: offer, wanted, groups, ack, and everything that can go otherwise.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics says where")]

mod common;

use std::time::Duration;

use common::{FakeNode, PATIENCE, Rig, document, fresh};
use marchproxy_proto::v1;
use tonic::Code;
use v1::NodeOutcome;
use v1::from_node::Message as From;
use v1::to_node::Message as To;

#[tokio::test]
async fn a_document_is_stored_pushed_and_settled() {
    let rig = Rig::start().await;
    let edge = rig.enrol("node", "edge-1").await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    let welcome = node.welcome().await;
    assert_eq!((welcome.node.as_str(), welcome.cluster.as_str()), ("edge-1", "default"));
    let (answer, offer) = tokio::join!(rig.apply(document(&["edge-1"], 1)), node.settle());
    let answer = answer.unwrap();
    assert_eq!((answer.version, offer.version), (1, 1));
    assert!(!answer.unchanged && answer.settle_us > 0 && answer.store_us > 0);
    let [result] = &answer.nodes[..] else { panic!("{answer:?}") };
    assert_eq!(result.outcome(), NodeOutcome::Settled);
    assert_eq!((result.generation, result.build_us, result.settle_us), (1, 120, 340));
    assert!(node.received > 0, "groups crossed the wire");
    let info = rig.node_info("edge-1").await.unwrap();
    assert_eq!((info.version, info.wanted_version, info.connected), (1, 1, true));

    // The next version costs only what changed.
    let before = node.received;
    let mut changed = document(&["edge-1"], 1);
    changed.rules[0].priority = 101;
    let (answer, offer) = tokio::join!(rig.apply(changed), node.settle());
    assert_eq!(answer.unwrap().version, 2);
    assert!(node.received - before < offer.groups.len(), "{} of {}", node.received - before, offer.groups.len());
}

/// One of many rules, for a prefix of its own.
fn many(n: u32) -> v1::Rule {
    let (name, dst) = (format!("many{n:04}"), vec![format!("10.{}.{}.0/24", n / 250, n % 250)]);
    let r#match = Some(v1::Match { dst, ..v1::Match::default() });
    v1::Rule { name, priority: 1000 + n, r#match, action: "deny".into(), ..v1::Rule::default() }
}

/// A node that runs version 1, a document with 2,500 rules more: with what was answered and offered.
async fn running_many() -> (Rig, FakeNode, v1::Document, v1::ApplyResponse, v1::TablesOffer) {
    let rig = Rig::start().await;
    let edge = rig.enrol("node", "edge-1").await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    let mut whole = document(&["edge-1"], 1);
    whole.rules.extend((0..2500).map(many));
    let (answer, offer) = tokio::join!(rig.apply(whole.clone()), node.settle());
    (rig, node, whole, answer.unwrap(), offer)
}

/// A change of a rule among many: the node is sent the groups it is in, and everything else is as if the whole document had come.
#[tokio::test]
async fn a_change_of_few_rules_among_many_costs_a_group() {
    let (rig, mut node, mut whole, _, _) = running_many().await;
    for round in 0..3 {
        let before = node.received;
        let rule = v1::Rule { priority: 5000 + round, ..whole.rules[700].clone() };
        let gone = whole.rules.remove(900);
        whole.rules[700] = rule.clone();
        let changes = v1::Changes {
            upsert: Some(v1::Document { rules: vec![rule], ..v1::Document::default() }),
            delete: vec![v1::ObjectRef { kind: "rule".into(), name: gone.name }],
        };
        let header = v1::ApplyHeader { request_id: format!("round {round}"), ..v1::ApplyHeader::default() };
        let (answer, offer) = tokio::join!(rig.change(header.clone(), changes.clone()), node.settle());
        let answer = answer.unwrap();
        assert_eq!((answer.version, answer.nodes[0].outcome()), (2 + u64::from(round), NodeOutcome::Settled));
        assert!((1..=4).contains(&(node.received - before)), "{} of {}", node.received - before, offer.groups.len());
        let again = rig.change(header, changes).await.unwrap();
        assert_eq!((again.version, &again.content_hash), (answer.version, &answer.content_hash));
        let same = rig.apply(whole.clone()).await.unwrap();
        assert!(same.unchanged, "the whole document is what the changes led to");
        assert_eq!(same.content_hash, answer.content_hash);
    }
}

/// Transactions hold for changes among many rules as for whole documents.
#[tokio::test]
async fn a_change_among_many_rules_waits_for_confirmation_and_for_its_group() {
    let (rig, mut node, _, first, first_offer) = running_many().await;
    let put = |n: u32| v1::Changes {
        upsert: Some(v1::Document { rules: vec![v1::Rule { priority: 7000, ..many(n) }], ..v1::Document::default() }),
        ..v1::Changes::default()
    };
    let within = v1::ApplyHeader { confirm_within_s: 300, ..v1::ApplyHeader::default() };
    let (second, offer) = tokio::join!(rig.change(within.clone(), put(3)), node.settle());
    let second = second.unwrap();
    assert!(second.confirm_by.is_some());
    assert!((1..=300_000).contains(&offer.confirm_within_ms), "{}", offer.confirm_within_ms);
    // While it waits nothing may follow, and what is refused is not prepared either.
    let refused = rig.change(v1::ApplyHeader::default(), put(4)).await.unwrap_err();
    assert!(refused.message().contains("version 2"), "{}", refused.message());
    let content_hash = first_offer.content_hash.clone();
    node.send(From::Reverted(v1::TablesReverted { version: 2, to_version: 1, content_hash, generation: 3 })).await;
    let third = node.settle().await;
    assert_eq!((third.version, &third.content_hash), (3, &first_offer.content_hash));
    // A change of what came back, not of what was given up.
    let (fourth, offer) = tokio::join!(rig.change(within, put(5)), node.settle());
    assert_eq!((fourth.unwrap().version, offer.version), (4, 4));
    rig.config().await.confirm(v1::ConfirmRequest { version: 4, ..Default::default() }).await.unwrap();
    assert!(matches!(node.next().await.unwrap(), To::Confirmed(v1::TablesConfirmed { version: 4 })));
    let rules = rig.config().await.get(v1::GetRequest::default()).await.unwrap().into_inner().document.unwrap().rules;
    let moved: Vec<_> = rules.iter().filter(|rule| rule.priority == 7000).map(|rule| rule.name.as_str()).collect();
    assert_eq!(moved, ["many0005"]);

    // Two phases: ready first, then stored; or not stored at all, and told so.
    let together = || v1::ApplyHeader { together: Some(v1::Together::default()), ..v1::ApplyHeader::default() };
    let ready = async {
        let staged = node.settle().await;
        let offer = node.settle().await;
        assert_eq!((staged.stage != 0, offer.version, offer.stage), (true, 5, 0));
        assert_eq!(staged.content_hash, offer.content_hash);
    };
    let (fifth, ()) = tokio::join!(rig.change(together(), put(6)), ready);
    assert_eq!(fifth.unwrap().nodes[0].outcome(), NodeOutcome::Settled);
    let refuse = async {
        let offer = node.offer().await;
        let (stage, reason) = (offer.stage, "too many rules".into());
        node.send(From::Nack(v1::TablesNack { stage, reason, ..v1::TablesNack::default() })).await;
        assert!(matches!(node.next().await.unwrap(), To::Unstage(_)));
    };
    let (refused, ()) = tokio::join!(rig.change(together(), put(8)), refuse);
    assert!(refused.unwrap_err().message().contains("node edge-1: too many rules"));
    assert_eq!(rig.newest().await, 5);
    // An expected version that is not there, and a request id for something else.
    let header = v1::ApplyHeader { expected_version: Some(first.version), ..v1::ApplyHeader::default() };
    assert!(rig.change(header, put(9)).await.unwrap_err().message().contains("found version 5"));
    let once = || v1::ApplyHeader { request_id: "once".into(), ..v1::ApplyHeader::default() };
    let (sixth, _) = tokio::join!(rig.change(once(), put(9)), node.settle());
    assert_eq!(sixth.unwrap().version, 6);
    let reused = rig.change(once(), put(10)).await.unwrap_err();
    assert!(reused.message().contains("once"), "{}", reused.message());
    assert_eq!(rig.newest().await, 6);
}

#[tokio::test]
async fn a_node_that_refuses_makes_it_partly_and_is_offered_again() {
    let rig = Rig::start().await;
    let edge = rig.enrol("node", "edge-1").await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    let refuse = async {
        let offer = node.offer().await;
        node.send(From::Nack(v1::TablesNack {
            version: offer.version,
            reason: "port wan: device eth1 is taken".into(),
            ..Default::default()
        }))
        .await;
    };
    let (answer, ()) = tokio::join!(rig.apply(document(&["edge-1"], 1)), refuse);
    let answer = answer.unwrap();
    assert_eq!(answer.version, 1, "stored all the same");
    assert_eq!(answer.nodes[0].outcome(), NodeOutcome::Refused);
    assert!(answer.nodes[0].reason.contains("eth1 is taken"));
    assert!(rig.node_info("edge-1").await.unwrap().last_error.contains("refused version 1"));

    // The same document again: no new version, but another chance.
    let (answer, _) = tokio::join!(rig.apply(document(&["edge-1"], 1)), node.settle());
    let answer = answer.unwrap();
    assert!(answer.unchanged);
    assert_eq!((answer.version, answer.nodes[0].outcome()), (1, NodeOutcome::Settled));
    assert_eq!(rig.node_info("edge-1").await.unwrap().last_error, "");
}

#[tokio::test]
async fn a_slow_node_delays_no_other_and_gets_only_the_newest() {
    let rig = Rig::with(|settings| settings.settle_timeout_s = 1).await;
    let (slow, quick) = (rig.enrol("node", "slow").await, rig.enrol("node", "quick").await);
    let mut slow = FakeNode::attach(&rig, &slow, fresh()).await.unwrap();
    slow.welcome().await;
    let quick = FakeNode::attach(&rig, &quick, fresh()).await.unwrap().run();
    rig.until_node("quick", |info| info.connected).await;
    for seed in 1..=3 {
        let answer = rig.apply(document(&["slow", "quick"], seed)).await.unwrap();
        let outcome = |name: &str| answer.nodes.iter().find(|node| node.node == name).unwrap().outcome();
        assert_eq!(outcome("quick"), NodeOutcome::Settled, "version {seed}");
        assert_eq!(outcome("slow"), NodeOutcome::TimedOut, "version {seed}");
    }
    // One offer was in flight; the versions in between were never sent.
    assert_eq!(slow.settle().await.version, 1);
    assert_eq!(slow.settle().await.version, 3);
    rig.until_node("slow", |info| info.version == 3).await;
    quick.abort();
}

#[tokio::test]
async fn a_node_that_comes_back_with_the_same_tables_gets_nothing() {
    let rig = Rig::start().await;
    let edge = rig.enrol("node", "edge-1").await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    let (answer, offer) = tokio::join!(rig.apply(document(&["edge-1"], 1)), node.settle());
    answer.unwrap();
    drop(node);
    rig.until_node("edge-1", |info| !info.connected).await;

    let hello = v1::Hello { version: 1, content_hash: offer.content_hash.clone(), generation: 7, ..fresh() };
    let mut node = FakeNode::attach(&rig, &edge, hello.clone()).await.unwrap();
    node.welcome().await;
    assert!(node.quiet().await, "nothing to offer");
    let info = rig.until_node("edge-1", |info| info.connected).await;
    assert_eq!((info.version, info.generation), (1, 7));
    drop(node);

    // An older version with the same tables: it learns the number, no group crosses.
    rig.apply(v1::Document {
        qos: vec![v1::Qos { name: "spare".into(), ..Default::default() }],
        ..document(&["edge-1"], 1)
    })
    .await
    .unwrap();
    let mut node = FakeNode::attach(&rig, &edge, hello).await.unwrap();
    node.welcome().await;
    let again = node.offer().await;
    assert_eq!((again.version, &again.content_hash), (2, &offer.content_hash));
    node.ack(&again).await;
    rig.until_node("edge-1", |info| info.version == 2).await;
}

#[tokio::test]
async fn a_restarted_control_goes_on_where_it_was() {
    let mut rig = Rig::start().await;
    let edge = rig.enrol("node", "edge-1").await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    // It goes down between the offer and the groups.
    let config = rig.config().await;
    let pushing = tokio::spawn(async move {
        let mut config = config;
        let content = Some(v1::apply_chunk::Content::Document(document(&["edge-1"], 1)));
        let header = Some(v1::ApplyHeader::default());
        config.apply(tokio_stream::iter(vec![v1::ApplyChunk { header, content }])).await
    });
    let offer = node.offer().await;
    rig.stop().await;
    drop(pushing);
    let end = loop {
        match node.next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert!(matches!(end.code(), Code::Unavailable | Code::Unknown | Code::Cancelled), "{end:?}");

    rig.resume().await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    let again = node.settle().await;
    assert_eq!((again.version, again.content_hash), (offer.version, offer.content_hash));
    rig.until_node("edge-1", |info| info.version == 1 && info.wanted_version == 1).await;
    assert_eq!(rig.newest().await, 1);
}

#[tokio::test]
async fn nodes_that_are_away_or_unnamed_are_told_apart() {
    let rig = Rig::start().await;
    let other = rig.enrol("node", "other").await;
    let mut other = FakeNode::attach(&rig, &other, fresh()).await.unwrap();
    other.welcome().await;
    let answer = rig.apply(document(&["edge-1"], 1)).await.unwrap();
    let [away] = &answer.nodes[..] else { panic!("{answer:?}") };
    assert_eq!((away.node.as_str(), away.outcome()), ("edge-1", NodeOutcome::NotConnected));
    assert!(other.quiet().await, "a node the document does not name keeps what it has");
    assert!(rig.node_info("other").await.unwrap().last_error.contains("not in the document of version 1"));
    assert!(!rig.node_info("edge-1").await.unwrap().connected);
}

#[tokio::test]
async fn a_newer_stream_of_the_same_node_takes_over() {
    let rig = Rig::start().await;
    let edge = rig.enrol("node", "edge-1").await;
    let mut old = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    old.welcome().await;
    let mut new = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    new.welcome().await;
    let end = old.next().await.unwrap_err();
    assert_eq!(end.code(), Code::Aborted);
    assert!(end.message().contains("newer stream"), "{end}");
    let (answer, _) = tokio::join!(rig.apply(document(&["edge-1"], 1)), new.settle());
    assert_eq!(answer.unwrap().nodes[0].outcome(), NodeOutcome::Settled);
}

#[tokio::test]
async fn a_silent_node_is_given_up() {
    let rig = Rig::with(|settings| settings.heartbeat_timeout_s = 1).await;
    let edge = rig.enrol("node", "edge-1").await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        node.send(From::Heartbeat(v1::Heartbeat { generation: 3, ..Default::default() })).await;
    }
    assert_eq!(rig.until_node("edge-1", |info| info.generation == 3).await.last_error, "");
    let end = node.next().await.unwrap_err();
    assert_eq!(end.code(), Code::DeadlineExceeded);
    assert!(end.message().contains("no heartbeat in 1 s"), "{end}");
    rig.until_node("edge-1", |info| !info.connected).await;
}

#[tokio::test]
async fn a_node_that_never_answers_an_offer_starts_over() {
    let rig = Rig::with(|settings| settings.push_timeout_s = 1).await;
    let edge = rig.enrol("node", "edge-1").await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    let (answer, _) = tokio::join!(rig.apply(document(&["edge-1"], 1)), node.offer());
    assert_eq!(answer.unwrap().nodes[0].outcome(), NodeOutcome::TimedOut);
    assert_eq!(node.next().await.unwrap_err().code(), Code::DeadlineExceeded);
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    assert_eq!(node.settle().await.version, 1);
}

#[tokio::test]
async fn nonsense_from_a_node_ends_its_stream_only() {
    let rig = Rig::start().await;
    let edge = rig.enrol("node", "edge-1").await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    node.send(From::Hello(fresh())).await;
    assert_eq!(node.next().await.unwrap_err().code(), Code::InvalidArgument);

    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    let ask = async {
        let offer = node.offer().await;
        node.send(From::Wanted(v1::TablesWanted { version: offer.version, hashes: vec![vec![1; 32]], stage: 0 })).await;
        node.next().await.unwrap_err()
    };
    let (answer, end) = tokio::join!(rig.apply(document(&["edge-1"], 1)), ask);
    assert_eq!(end.code(), Code::InvalidArgument);
    assert_eq!(answer.unwrap().nodes[0].outcome(), NodeOutcome::NotConnected);

    // The first message must be hello.
    let (to, outbound) = tokio::sync::mpsc::channel(1);
    to.send(v1::FromNode { message: Some(From::Heartbeat(v1::Heartbeat::default())) }).await.unwrap();
    let channel = rig.channel(Some(&edge)).await;
    let refused = v1::node_service_client::NodeServiceClient::new(channel)
        .attach(tokio_stream::wrappers::ReceiverStream::new(outbound))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn another_controls_version_is_found_in_the_database() {
    let rig = Rig::start().await;
    let edge = rig.enrol("node", "edge-1").await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    let url = format!("sqlite://{}", rig.state().join("control.db").display());
    let store = marchproxy_control::store::Store::open(&url).await.unwrap();
    store
        .commit(marchproxy_control::store::NewVersion {
            expected_version: Some(0),
            author: "somebody else",
            ..marchproxy_control::store::NewVersion::new("default", &document(&["edge-1"], 1), 1)
        })
        .await
        .unwrap();
    assert_eq!(node.settle().await.version, 1);
}

#[tokio::test]
async fn a_version_that_a_node_gave_up_is_reverted_everywhere_and_one_it_missed_is_told() {
    let rig = Rig::start().await;
    let edge = rig.enrol("node", "edge-1").await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    let (_, first) = tokio::join!(rig.apply(document(&["edge-1"], 1)), node.settle());
    let within = v1::ApplyHeader { confirm_within_s: 300, ..Default::default() };
    let (answer, second) = tokio::join!(rig.apply_with(within.clone(), document(&["edge-1"], 2)), node.settle());
    assert!(answer.unwrap().confirm_by.is_some());
    assert_eq!(first.confirm_within_ms, 0);
    assert!((1..=300_000).contains(&second.confirm_within_ms), "{}", second.confirm_within_ms);
    let content_hash = first.content_hash.clone();
    let reverted = v1::TablesReverted { version: 2, to_version: 1, content_hash, generation: 3 };
    node.send(From::Reverted(reverted)).await;
    let third = node.settle().await;
    assert_eq!((third.version, third.content_hash, third.confirm_within_ms), (3, first.content_hash, 0));
    let history = rig.config().await.history(v1::HistoryRequest::default()).await.unwrap().into_inner().versions;
    assert_eq!((history[0].author.as_str(), history[0].rollback_of), ("system", 1));
    assert!(history[0].message.contains("said node edge-1"), "{}", history[0].message);

    // Confirmed while the node is away: it is told when it comes.
    let (_, fourth) = tokio::join!(rig.apply_with(within, document(&["edge-1"], 2)), node.settle());
    drop(node);
    rig.until_node("edge-1", |info| !info.connected).await;
    rig.config().await.confirm(v1::ConfirmRequest::default()).await.unwrap();
    let content_hash = fourth.content_hash.clone();
    let hello = v1::Hello { version: 4, content_hash, unconfirmed_version: 4, ..fresh() };
    let mut node = FakeNode::attach(&rig, &edge, hello).await.unwrap();
    node.welcome().await;
    assert!(matches!(node.next().await.unwrap(), To::Confirmed(v1::TablesConfirmed { version: 4 })));
    assert!(node.quiet().await, "nothing else");
}

#[tokio::test]
async fn who_misses_the_moment_of_a_group_is_brought_to_the_stored_version() {
    let rig = Rig::start().await;
    let edge = rig.enrol("node", "edge-1").await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    let (_, first) = tokio::join!(rig.apply(document(&["edge-1"], 1)), node.settle());
    let header = || v1::ApplyHeader {
        together: Some(v1::Together { stage_within_s: 1, ..Default::default() }),
        ..Default::default()
    };
    // It says no, then nothing at all: nothing is stored, and it is told that it is not wanted.
    let refuse = async {
        let offer = node.offer().await;
        assert_eq!((offer.version, offer.stage), (0, 1));
        node.send(From::Nack(v1::TablesNack { stage: 1, reason: "port wan: taken".into(), ..Default::default() }))
            .await;
        assert!(matches!(node.next().await.unwrap(), To::Unstage(_)));
    };
    let (refused, ()) = tokio::join!(rig.apply_with(header(), document(&["edge-1"], 2)), refuse);
    assert!(refused.unwrap_err().message().contains("node edge-1: port wan: taken"));
    let silent = async {
        assert_eq!(node.offer().await.stage, 2);
        assert!(matches!(node.next().await.unwrap(), To::Unstage(_)));
    };
    let (refused, ()) = tokio::join!(rig.apply_with(header(), document(&["edge-1"], 2)), silent);
    assert!(refused.unwrap_err().message().contains("node edge-1: was not ready in time"));
    // A word too late does no harm.
    node.send(From::Staged(v1::TablesStaged { stage: 2, build_us: 1 })).await;
    assert_eq!(rig.newest().await, 1);

    // Ready, and gone before the offer is answered.
    let (answer, ()) = tokio::join!(rig.apply_with(header(), document(&["edge-1"], 2)), async {
        let mut offer = v1::TablesOffer::default();
        while offer.version == 0 {
            match node.next().await.unwrap() {
                To::Offer(next) => offer = next,
                // Of the attempt that failed; once by the stream's task and once by whoever asked.
                To::Unstage(_) => continue,
                other => panic!("{other:?}"),
            }
            if offer.stage != 0 {
                node.fetch(&offer).await;
                node.ack(&offer).await;
            }
        }
        assert_eq!((offer.version, offer.stage), (2, 0));
        drop(node);
    });
    let answer = answer.unwrap();
    assert_eq!((answer.version, answer.nodes[0].outcome()), (2, NodeOutcome::NotConnected));
    let hello = v1::Hello { version: 1, content_hash: first.content_hash, ..fresh() };
    let mut node = FakeNode::attach(&rig, &edge, hello).await.unwrap();
    node.welcome().await;
    assert_eq!(node.settle().await.version, 2);
}

#[tokio::test]
async fn questions_reach_the_node_and_answers_come_back() {
    let rig = Rig::with(|settings| settings.ask_timeout_s = 1).await;
    let mut operate = rig.operate().await;
    let nobody = operate.stats(v1::StatsRequest::default()).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unavailable);
    assert!(nobody.message().contains("no node"), "{nobody}");

    let edge = rig.enrol("node", "edge-1").await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    // Silence is told from absence.
    let silent = operate.stats(v1::StatsRequest { node: "edge-1".into() }).await.unwrap_err();
    assert_eq!(silent.code(), Code::DeadlineExceeded);
    assert!(matches!(node.next().await.unwrap(), To::Call(_)));
    let node = node.run();
    assert_eq!(operate.stats(v1::StatsRequest::default()).await.unwrap().into_inner().node, "edge-1");
    let why = v1::WhyRequest { src: "198.51.100.7".into(), dst: "203.0.113.10".into(), ..Default::default() };
    let why = operate.why(why).await.unwrap().into_inner();
    assert_eq!((why.reason.as_str(), why.steps[0].detail.as_str()), ("rule_denied", "198.51.100.7 to 203.0.113.10"));
    assert_eq!(operate.sessions(v1::SessionsRequest::default()).await.unwrap().into_inner().total, 1);
    let refused = operate.neighbours(v1::NeighboursRequest::default()).await.unwrap_err();
    assert!(refused.message().contains("no neighbour table yet"), "{refused}");
    let unknown = operate.stats(v1::StatsRequest { node: "edge-9".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    node.abort();
}

#[tokio::test]
async fn watchers_see_every_version_once_also_after_a_break() {
    let rig = Rig::start().await;
    let mut config = rig.config().await;
    let mut events = config.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    let mut next = async || tokio::time::timeout(PATIENCE, events.message()).await.unwrap().unwrap().unwrap();
    rig.apply(document(&[], 1)).await.unwrap_or_default();
    rig.apply(document(&["edge-1"], 1)).await.unwrap();
    rig.apply(document(&["edge-1"], 2)).await.unwrap();
    let mut first = next().await;
    while first.version.as_ref().unwrap().objects == 2 {
        first = next().await;
    }
    let second = next().await;
    let number = |event: &v1::WatchEvent| event.version.as_ref().unwrap().version;
    assert_eq!(number(&second), number(&first) + 1);
    assert_eq!(second.version.unwrap().author, "admin");

    rig.apply(document(&["edge-1"], 3)).await.unwrap();
    rig.apply(document(&["edge-1"], 4)).await.unwrap();
    let resume = v1::WatchRequest { resume_token: first.resume_token.clone(), ..Default::default() };
    let mut events = config.watch(resume).await.unwrap().into_inner();
    for offset in 1..=3 {
        let event = tokio::time::timeout(PATIENCE, events.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(number(&event), number(&first) + offset);
    }
    for bad in ["nonsense", "blue/1", "default/99"] {
        let request = v1::WatchRequest { resume_token: bad.into(), ..Default::default() };
        assert_eq!(config.watch(request).await.unwrap_err().code(), Code::InvalidArgument, "{bad}");
    }
}
