//! Who may do what: missing, revoked and foreign certificates, tokens, roles, clusters.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics says where")]

mod common;

use common::{Credential, FakeNode, Rig, document, foreign, fresh};
use marchproxy_control::pki::{Request, Role};
use marchproxy_proto::v1;
use marchproxy_proto::v1::config_service_client::ConfigServiceClient;
use marchproxy_proto::v1::enrol_service_client::EnrolServiceClient;
use marchproxy_proto::v1::operate_service_client::OperateServiceClient;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

async fn history(rig: &Rig, who: Option<&Credential>) -> Result<(), Status> {
    // Connecting succeeds whatever the certificate: TLS 1.3 servers judge it afterwards.
    let channel = rig.channel(who).await;
    ConfigServiceClient::new(channel).history(v1::HistoryRequest::default()).await.map(drop)
}

#[tokio::test]
async fn without_a_certificate_the_first_call_fails_not_the_connection() {
    let rig = Rig::start().await;
    let refused = history(&rig, None).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "NO_CERTIFICATE"));
    assert!(refused.message().contains("no client certificate"), "{}", refused.message());
    let mut operate = OperateServiceClient::new(rig.channel(None).await);
    assert_eq!(operate.nodes(v1::NodesRequest::default()).await.unwrap_err().code(), Code::Unauthenticated);
    let mut enrol = EnrolServiceClient::new(rig.channel(None).await);
    assert_eq!(enrol.revoke(v1::RevokeRequest::default()).await.unwrap_err().code(), Code::Unauthenticated);
    let refused = FakeNode::attach_over(rig.channel(None).await, fresh()).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_foreign_certificate_fails_at_the_first_call() {
    let rig = Rig::start().await;
    let refused = history(&rig, Some(&foreign(Role::Operator, "admin"))).await.unwrap_err();
    assert!(refused.get_details_error_info().is_none(), "TLS refused it, no service did");
    // Mostly the alert arrives (UnknownCA, DecryptError); sometimes the connection is gone before it is read.
    let source = std::error::Error::source(&refused).expect("a cause");
    assert!(source.is::<tonic::transport::Error>(), "{refused:?}");
    assert!(FakeNode::attach(&rig, &foreign(Role::Node, "edge-1"), fresh()).await.is_err());
    // The server goes on.
    history(&rig, Some(&rig.admin())).await.unwrap();
}

#[tokio::test]
async fn a_revoked_operator_is_refused_at_the_next_call() {
    let rig = Rig::start().await;
    let alice = rig.enrol("operator", "alice").await;
    let mut config = ConfigServiceClient::new(rig.channel(Some(&alice)).await);
    config.history(v1::HistoryRequest::default()).await.unwrap();
    let what = Some(v1::revoke_request::What::Name("operator/alice".into()));
    let revoked = rig.enrolment().await.revoke(v1::RevokeRequest { what, ..Default::default() }).await.unwrap();
    assert_eq!(revoked.into_inner().revoked, 1);
    // On the same connection: it is looked up per call.
    let refused = config.history(v1::HistoryRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "REVOKED"));
    let list = rig.enrolment().await.certificates(v1::CertificatesRequest::default()).await.unwrap().into_inner();
    let states: Vec<(&str, bool)> = list.certificates.iter().map(|c| (c.name.as_str(), c.revoked)).collect();
    assert!(states.contains(&("alice", true)) && states.contains(&("admin", false)), "{states:?}");
}

#[tokio::test]
async fn a_revoked_node_loses_its_stream_and_does_not_come_back() {
    let rig = Rig::start().await;
    let edge = rig.enrol("node", "edge-1").await;
    let mut node = FakeNode::attach(&rig, &edge, fresh()).await.unwrap();
    node.welcome().await;
    let list = rig.enrolment().await.certificates(v1::CertificatesRequest::default()).await.unwrap().into_inner();
    let serial = list.certificates.iter().find(|c| c.name == "edge-1").unwrap().serial.clone();
    let what = Some(v1::revoke_request::What::Serial(serial));
    rig.enrolment().await.revoke(v1::RevokeRequest { what, ..Default::default() }).await.unwrap();
    let end = node.next().await.unwrap_err();
    assert_eq!((end.code(), reason(&end).as_str()), (Code::Unauthenticated, "REVOKED"));
    let refused = FakeNode::attach(&rig, &edge, fresh()).await.err().unwrap();
    assert_eq!(reason(&refused), "REVOKED");
    // A new token makes it welcome again.
    let edge = rig.enrol("node", "edge-1").await;
    FakeNode::attach(&rig, &edge, fresh()).await.unwrap().welcome().await;
}

#[tokio::test]
async fn a_token_is_good_once_and_not_for_long() {
    let rig = Rig::start().await;
    let token = rig.token("node", "edge-1").await;
    rig.redeem(&token).await.unwrap();
    let again = rig.redeem(&token).await.unwrap_err();
    assert_eq!((again.code(), reason(&again).as_str()), (Code::Unauthenticated, "TOKEN_REFUSED"));
    assert_eq!(rig.redeem("mpt_unheard-of").await.unwrap_err().code(), Code::Unauthenticated);

    let request = v1::CreateTokenRequest { role: "node".into(), name: "late".into(), valid_s: 1, ..Default::default() };
    let short = rig.enrolment().await.create_token(request).await.unwrap().into_inner();
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    assert_eq!(reason(&rig.redeem(&short.token).await.unwrap_err()), "TOKEN_REFUSED");

    for (role, name, valid_s, field) in [
        ("admin", "x", 0, "role"),
        ("node", "", 0, "name"),
        ("node", "a/../b", 0, "name"),
        ("node", "x", 999_999_999, "valid_s"),
    ] {
        let request = v1::CreateTokenRequest { role: role.into(), name: name.into(), valid_s, ..Default::default() };
        let refused = rig.enrolment().await.create_token(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, field);
    }
}

#[tokio::test]
async fn a_bad_request_for_a_certificate_is_refused() {
    let rig = Rig::start().await;
    let token = rig.token("node", "edge-1").await;
    let mut csr_der = Request::generate().unwrap().csr_der;
    let middle = csr_der.len() / 2;
    csr_der[middle] ^= 0xff;
    let mut nobody = EnrolServiceClient::new(rig.channel(None).await);
    let refused = nobody.enrol(v1::EnrolRequest { token, csr_der }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}

#[tokio::test]
async fn roles_do_not_mix() {
    let rig = Rig::start().await;
    let edge = rig.enrol("node", "edge-1").await;
    let mut config = ConfigServiceClient::new(rig.channel(Some(&edge)).await);
    let content = Some(v1::apply_chunk::Content::Document(document(&["edge-1"], 1)));
    let chunk = v1::ApplyChunk { header: Some(v1::ApplyHeader::default()), content };
    let refused = config.apply(tokio_stream::iter(vec![chunk])).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "WRONG_ROLE"));
    let mut enrol = EnrolServiceClient::new(rig.channel(Some(&edge)).await);
    let refused = enrol.create_token(v1::CreateTokenRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let refused = FakeNode::attach(&rig, &rig.admin(), fresh()).await.err().unwrap();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "WRONG_ROLE"));
    assert!(refused.message().contains("operator/admin"), "{}", refused.message());
    assert_eq!(rig.newest().await, 0);
}

#[tokio::test]
async fn nothing_crosses_clusters() {
    let rig = Rig::start().await;
    let mut config = rig.config().await;
    let refused = config.history(v1::HistoryRequest { cluster: "blue".into(), limit: 0 }).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "OTHER_CLUSTER"));
    let blue = v1::Document { cluster: "blue".into(), ..document(&["edge-1"], 1) };
    assert_eq!(rig.apply(blue).await.unwrap_err().code(), Code::PermissionDenied);
    let request =
        v1::CreateTokenRequest { cluster: "blue".into(), role: "operator".into(), name: "eve".into(), valid_s: 0 };
    assert_eq!(rig.enrolment().await.create_token(request).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn insecure_takes_everybody_at_their_word() {
    let rig = Rig::with(|settings| settings.insecure = true).await;
    let mut config = ConfigServiceClient::new(rig.channel(None).await);
    let content = Some(v1::apply_chunk::Content::Document(document(&["edge-1"], 1)));
    let chunk = v1::ApplyChunk { header: Some(v1::ApplyHeader::default()), content };
    config.apply(tokio_stream::iter(vec![chunk])).await.unwrap();
    let versions = config.history(v1::HistoryRequest::default()).await.unwrap().into_inner().versions;
    assert_eq!(versions[0].author, "insecure");

    let (to, outbound) = tokio::sync::mpsc::channel(1);
    let hello = v1::from_node::Message::Hello(fresh());
    to.send(v1::FromNode { message: Some(hello) }).await.unwrap();
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(outbound));
    request.metadata_mut().insert(marchproxy_control::api::NODE_HEADER, "edge-1".parse().unwrap());
    let mut nodes = v1::node_service_client::NodeServiceClient::new(rig.channel(None).await);
    let mut stream = nodes.attach(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap().message;
    assert!(matches!(first, Some(v1::to_node::Message::Welcome(welcome)) if welcome.node == "edge-1"));
    // Without a name there is nobody.
    let refused = FakeNode::attach_over(rig.channel(None).await, fresh()).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn health_answers_everybody_and_reflection_every_role() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let rig = Rig::start().await;
    for service in ["", "marchproxy.v1.ConfigService", "marchproxy.v1.NodeService"] {
        let mut health = HealthClient::new(rig.channel(None).await);
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let list = || {
        let message_request = Some(MessageRequest::ListServices(String::new()));
        tokio_stream::iter(vec![ServerReflectionRequest { host: String::new(), message_request }])
    };
    let mut reflection = ServerReflectionClient::new(rig.channel(Some(&rig.admin())).await);
    let answer =
        reflection.server_reflection_info(list()).await.unwrap().into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else { panic!("{answer:?}") };
    let names: Vec<&str> = services.service.iter().map(|service| service.name.as_str()).collect();
    for service in ["ConfigService", "NodeService", "EnrolService", "OperateService"] {
        assert!(names.contains(&format!("marchproxy.v1.{service}").as_str()), "{names:?}");
    }
    let mut nobody = ServerReflectionClient::new(rig.channel(None).await);
    assert_eq!(nobody.server_reflection_info(list()).await.unwrap_err().code(), Code::Unauthenticated);
}
