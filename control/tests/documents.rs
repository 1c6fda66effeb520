//! ConfigService: what is refused and how it says so, versions, idempotency, the database in the way.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics says where")]

mod common;

use common::{FakeNode, Rig, document, fresh};
use marchproxy_proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn fields(status: &Status) -> Vec<(String, String)> {
    let bad = status.get_details_bad_request().expect("a BadRequest");
    bad.field_violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("an ErrorInfo").reason
}

#[tokio::test]
async fn each_violation_is_a_field_with_its_path() {
    let rig = Rig::start().await;
    let mut wrong = document(&["edge-1"], 1);
    wrong.rules[0].action = "allow".into();
    wrong.services.push(v1::Service {
        name: "web".into(),
        address: vec!["203.0.113.10".into()],
        protocol: "tcp".into(),
        ports: vec!["80".into()],
        mode: "nat".into(),
        ..Default::default()
    });
    let refused = rig.apply(wrong.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let fields = fields(&refused);
    let action = fields.iter().find(|(field, _)| field == "rules[0].action").expect("the rule's action");
    assert!(action.1.contains("allow") && action.1.contains("permit"), "{}", action.1);
    assert!(fields.iter().any(|(field, _)| field.starts_with("services[0]")), "{fields:?}");
    assert_eq!(rig.newest().await, 0, "nothing was stored");

    let refused = rig.config().await.validate(v1::ValidateRequest { document: Some(wrong) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn thousands_of_violations_still_arrive() {
    let rig = Rig::start().await;
    let mut wrong = document(&["edge-1"], 1);
    for n in 0..5_000 {
        wrong.rules.push(v1::Rule {
            name: format!("r{n}"),
            priority: n + 200,
            action: "x".repeat(900),
            ..Default::default()
        });
    }
    let refused = rig.apply(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(!fields(&refused).is_empty());
    assert!(refused.message().contains("not listed"), "{}", refused.message());
}

#[tokio::test]
async fn stopping_a_port_wants_to_be_asked_for() {
    let rig = Rig::start().await;
    let before = document(&["edge-1"], 1);
    rig.apply(before.clone()).await.unwrap();
    let mut after = before;
    after.nodes[0].ports[0].mtu = Some(9000);
    let refused = rig.apply(after.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let fields = fields(&refused);
    assert_eq!(fields[0].0, "nodes[0].ports[0].mtu");
    assert!(fields[0].1.contains("9000") && fields[0].1.contains("--allow-port-restart"), "{}", fields[0].1);
    assert_eq!(rig.newest().await, 1, "nothing was stored");
    let header = v1::ApplyHeader { allow_port_restart: true, ..Default::default() };
    rig.apply_with(header, after).await.unwrap();
    assert_eq!(rig.newest().await, 2);
}

#[tokio::test]
async fn the_wrong_expected_version_is_aborted_with_both_numbers() {
    let rig = Rig::start().await;
    let header = |expected| v1::ApplyHeader { expected_version: Some(expected), ..Default::default() };
    rig.apply_with(header(0), document(&["edge-1"], 1)).await.unwrap();
    let refused = rig.apply_with(header(0), document(&["edge-1"], 2)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "VERSION_CONFLICT"));
    let facts = refused.get_details_error_info().unwrap().metadata;
    assert_eq!((facts["expected"].as_str(), facts["found"].as_str()), ("0", "1"));
    let validate = v1::ApplyHeader { validate_only: true, ..header(7) };
    assert_eq!(rig.apply_with(validate, document(&["edge-1"], 2)).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(rig.newest().await, 1);
}

#[tokio::test]
async fn validate_only_stores_nothing_and_says_whether_it_would_change() {
    let rig = Rig::start().await;
    let header = v1::ApplyHeader { validate_only: true, ..Default::default() };
    let answer = rig.apply_with(header.clone(), document(&["edge-1"], 1)).await.unwrap();
    assert_eq!((answer.version, answer.unchanged), (0, false));
    assert_eq!(rig.newest().await, 0);
    let stored = rig.apply(document(&["edge-1"], 1)).await.unwrap();
    assert_eq!(stored.content_hash, answer.content_hash);
    assert!(rig.apply_with(header, document(&["edge-1"], 1)).await.unwrap().unchanged);
}

#[tokio::test]
async fn a_repeated_request_answers_with_the_first_ones_version() {
    let rig = Rig::start().await;
    let header = v1::ApplyHeader { request_id: "a".into(), expected_version: Some(0), ..Default::default() };
    let first = rig.apply_with(header.clone(), document(&["edge-1"], 1)).await.unwrap();
    let again = rig.apply_with(header, document(&["edge-1"], 1)).await.unwrap();
    assert_eq!((first.version, &first.content_hash), (again.version, &again.content_hash));

    // A deletion can't be made twice, yet its repetition is answered.
    let delete = v1::Changes {
        delete: vec![v1::ObjectRef { kind: "rule".into(), name: "no-telnet".into() }],
        ..Default::default()
    };
    let header = v1::ApplyHeader { request_id: "b".into(), ..Default::default() };
    let first = rig.change(header.clone(), delete.clone()).await.unwrap();
    assert_eq!(first.version, 2);
    assert_eq!(rig.change(header, delete.clone()).await.unwrap().version, 2);
    let refused = rig.change(v1::ApplyHeader::default(), delete).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(rig.newest().await, 2);
}

#[tokio::test]
async fn versions_can_be_read_compared_listed_and_restored() {
    let rig = Rig::start().await;
    let mut config = rig.config().await;
    let none = config.get(v1::GetRequest::default()).await.unwrap_err();
    assert_eq!((none.code(), reason(&none).as_str()), (Code::NotFound, "NO_SUCH_VERSION"));

    let header = v1::ApplyHeader { message: "first".into(), ..Default::default() };
    let first = rig.apply_with(header, document(&["edge-1"], 1)).await.unwrap();
    let mut second = document(&["edge-1"], 1);
    second.rules[0].action = "permit".into();
    rig.apply(second).await.unwrap();
    let request =
        v1::DiffRequest { from_version: 1, to: Some(v1::diff_request::To::ToVersion(2)), ..Default::default() };
    let difference = config.diff(request).await.unwrap().into_inner();
    let [rule] = &difference.objects[..] else { panic!("{difference:?}") };
    assert_eq!((rule.kind.as_str(), rule.name.as_str(), rule.change.as_str()), ("rule", "no-telnet", "changed"));

    let rules = config.list(v1::ListRequest { kind: "rule".into(), ..Default::default() }).await.unwrap().into_inner();
    let objects = rules.objects.unwrap();
    assert_eq!((objects.rules.len(), objects.nodes.len()), (2, 0));
    let wrong = config.list(v1::ListRequest { kind: "rules".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(fields(&wrong)[0].0, "kind");

    let request = v1::RollbackRequest { to_version: 1, ..Default::default() };
    let back = config.rollback(request).await.unwrap().into_inner();
    assert_eq!((back.version, &back.content_hash), (3, &first.content_hash));
    let history = config.history(v1::HistoryRequest::default()).await.unwrap().into_inner().versions;
    assert_eq!(history.iter().map(|version| version.version).collect::<Vec<_>>(), [3, 2, 1]);
    assert_eq!((history[0].rollback_of, history[2].message.as_str()), (1, "first"));
    assert!(history.iter().all(|version| version.author == "admin"));
    for missing in [9, 0] {
        let request = v1::RollbackRequest { to_version: missing, ..Default::default() };
        assert!(config.rollback(request).await.is_err(), "{missing}");
    }
    let whole = config.get(v1::GetRequest { version: 1, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(whole.document.unwrap().rules.len(), 2);
}

#[tokio::test]
async fn chunks_append_and_confused_ones_are_refused() {
    use v1::apply_chunk::Content;
    let rig = Rig::start().await;
    let header = || Some(v1::ApplyHeader::default());
    let whole = document(&["edge-1"], 1);
    let rest = v1::Document { rules: whole.rules.clone(), ..Default::default() };
    let start = v1::Document { rules: Vec::new(), ..whole.clone() };
    let chunk = |header, document| v1::ApplyChunk { header, content: Some(Content::Document(document)) };
    let answer = rig.chunks(vec![chunk(header(), start.clone()), chunk(None, rest.clone())]).await.unwrap();
    assert!(rig.apply(whole).await.unwrap().unchanged, "the same as in one piece");
    assert_eq!(answer.version, 1);

    let changes = v1::ApplyChunk { header: None, content: Some(Content::Changes(v1::Changes::default())) };
    for (confused, field) in [
        (vec![], "header"),
        (vec![chunk(None, start.clone())], "header"),
        (vec![chunk(header(), start.clone()), chunk(header(), rest.clone())], "header"),
        (vec![v1::ApplyChunk { header: header(), content: None }], "content"),
        (vec![chunk(header(), start.clone()), changes], "content"),
        (
            vec![
                chunk(header(), start.clone()),
                chunk(None, v1::Document { cluster: "b".into(), ..rest.clone() }),
                chunk(None, v1::Document { cluster: "c".into(), ..rest }),
            ],
            "cluster",
        ),
    ] {
        let refused = rig.chunks(confused).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert_eq!(fields(&refused)[0].0, field);
    }
}

#[tokio::test]
async fn a_locked_database_is_said_and_nothing_is_stored() {
    let rig = Rig::start().await;
    let edge = rig.enrol("node", "edge-1").await;
    rig.apply(document(&["edge-1"], 1)).await.unwrap();
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    node.settle().await;
    rig.until_node("edge-1", |info| info.version == 1).await;
    let url = format!("sqlite://{}", rig.state().join("control.db").display());
    let mut other = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let refused = rig.apply(document(&["edge-1"], 2)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "DATABASE_LOCKED"));
    assert!(refused.message().contains("control.db"), "{}", refused.message());
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(rig.newest().await, 1);
    assert!(node.quiet().await, "the node hears nothing of it");
    let (answer, _) = tokio::join!(rig.apply(document(&["edge-1"], 2)), node.settle());
    assert_eq!(answer.unwrap().version, 2, "and it goes on when the lock is gone");
}

#[tokio::test]
async fn a_read_only_database_is_said_and_nodes_still_get_the_newest() {
    let mut rig = Rig::start().await;
    let edge = rig.enrol("node", "edge-1").await;
    rig.apply(document(&["edge-1"], 1)).await.unwrap();
    rig.stop().await;
    let url = format!("sqlite://{}?mode=ro", rig.state().join("control.db").display());
    rig.change_settings(|settings| settings.database = Some(url));
    rig.resume().await;
    let refused = rig.apply(document(&["edge-1"], 2)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "DATABASE_READ_ONLY"));
    assert_eq!(rig.newest().await, 1);
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    assert_eq!(node.settle().await.version, 1);
}
