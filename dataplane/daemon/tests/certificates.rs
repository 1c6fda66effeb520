//! Who the node is to control, and whom it trusts. Over TLS 1.3 a refused certificate shows at the first call.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use marchproxy_dataplane::agent::{Agent, SharedState};
use marchproxy_dataplane::config::Config;
use marchproxy_dataplane::local::Operate;
use support::pki::{Authority, Enroller};
use support::{FakeControl, FakeNode, config, eventually, tables_with};
use tokio::sync::watch;

fn start(config: Config) -> (SharedState, watch::Sender<bool>) {
    let runtime = Arc::new(FakeNode::default());
    let state = SharedState::default();
    let (stop, stopped) = watch::channel(false);
    let operate = Operate::new(&config.node, runtime.clone());
    tokio::spawn(Agent::new(Arc::new(config), runtime, operate, state.clone()).run(None, stopped));
    (state, stop)
}

async fn fails_with(config: Config, wanted: &[&str]) {
    let (state, _stop) = start(config);
    eventually("an error", || !state.read().last_error.is_empty()).await;
    let error = state.read().last_error;
    for part in wanted {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
    assert!(!state.read().connected);
}

fn enrolment(config: &Config, ca: &str, change: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) {
    let mut file = serde_json::Map::new();
    for (field, value) in [
        ("control", format!("https://{}", config.control.address).as_str()),
        ("ca_pem", ca),
        ("token", "mpt_good"),
        ("cluster", "default"),
        ("role", "node"),
        ("name", "edge-1"),
    ] {
        file.insert(field.into(), value.into());
    }
    change(&mut file);
    std::fs::write(&config.control.enrolment, serde_json::Value::Object(file).to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_becomes_a_certificate_and_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca = authority.ca_pem.clone();
    let tls = authority.server();
    let mut control = FakeControl::with_enrolment("127.0.0.1:0", Some(tls), false, Some(Enroller(authority))).await;
    let config = config(dir.path(), control.address, false);
    enrolment(&config, &ca, |_| {});
    let (key, certificate) = (config.control.key.clone(), config.control.certificate.clone());
    let (state, _stop) = start(config);
    let mut stream = control.attached().await;
    stream.hello().await;
    stream.push(1, &tables_with("lan")).await;
    assert_eq!(stream.ack().await.version, 1);
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(std::fs::read_to_string(key).unwrap().contains("PRIVATE KEY"));
    assert!(certificate.exists());
    assert!(state.read().connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolment_that_fails_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca = authority.ca_pem.clone();
    let tls = authority.server();
    let control = FakeControl::with_enrolment("127.0.0.1:0", Some(tls), false, Some(Enroller(authority))).await;
    let config = config(dir.path(), control.address, false);
    fails_with(config.clone(), &["no certificate", "no enrolment file", "marchctl node token edge-1"]).await;
    enrolment(&config, &ca, |file| drop(file.insert("token".into(), "mpt_bad".into())));
    fails_with(config.clone(), &["enrolment refused by control", "unknown, used or expired"]).await;
    enrolment(&config, &ca, |file| drop(file.insert("name".into(), "edge-2".into())));
    fails_with(config.clone(), &["name: found \"edge-2\", allowed: \"edge-1\""]).await;
    enrolment(&config, &ca, |file| drop(file.insert("cluster".into(), "blue".into())));
    fails_with(config.clone(), &["cluster: found \"blue\", allowed: \"default\""]).await;
    enrolment(&config, &ca, |file| drop(file.insert("role".into(), "operator".into())));
    fails_with(config.clone(), &["role: found \"operator\", allowed: \"node\""]).await;
    enrolment(&config, &ca, |file| drop(file.remove("token")));
    fails_with(config.clone(), &["no enrolment file: missing field `token`"]).await;
    // A control that the enrolment file's CA did not certify.
    enrolment(&config, &Authority::new().ca_pem, |_| {});
    fails_with(config, &["enrolment: control at", "certificate"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let control = FakeControl::start("127.0.0.1:0", Some(authority.server()), false).await;
    let config = config(dir.path(), control.address, false);
    Authority::new().install(&config);
    std::fs::write(&config.control.ca, &authority.ca_pem).unwrap();
    fails_with(config, &["control closed the connection at the first call", "refuses a certificate", "enrol again"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_of_another_authority_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let control = FakeControl::start("127.0.0.1:0", Some(Authority::new().server()), false).await;
    let config = config(dir.path(), control.address, false);
    Authority::new().install(&config);
    fails_with(config, &["control at 127.0.0.1", "certificate"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let control = FakeControl::start("127.0.0.1:0", Some(authority.server()), true).await;
    let config = config(dir.path(), control.address, false);
    authority.install(&config);
    fails_with(config, &["control refuses this node", "was revoked"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_certificate_names_the_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let control = FakeControl::start("127.0.0.1:0", Some(authority.server()), false).await;
    let config = config(dir.path(), control.address, false);
    authority.install(&config);
    std::fs::write(&config.control.key, "no key").unwrap();
    fails_with(config.clone(), &["certificates for control"]).await;
    std::fs::remove_file(&config.control.key).unwrap();
    fails_with(config, &["node.key", "No such file"]).await;
}
