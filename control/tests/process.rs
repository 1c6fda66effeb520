//! marchproxy-control as a process: first start, signals, a kill in mid-push, a port that is taken.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics says where")]

mod common;

use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Credential, FakeNode, PATIENCE, document, fresh, read};
use marchproxy_control::pki::Request;
use marchproxy_proto::v1;
use marchproxy_proto::v1::config_service_client::ConfigServiceClient;
use marchproxy_proto::v1::enrol_service_client::EnrolServiceClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

struct Control {
    child: Child,
    url: String,
}

/// A port nobody uses, as far as one can know.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn command(state: &Path, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_marchproxy-control"));
    // No settings of this machine: an empty file of our own.
    let config = state.parent().unwrap().join("control.toml");
    std::fs::write(&config, "").unwrap();
    command.arg("--config").arg(config).arg("--state-dir").arg(state);
    command.args(["--http", "127.0.0.1:0", "--listen", &format!("127.0.0.1:{port}")]).stderr(Stdio::piped());
    command
}

impl Control {
    async fn start(state: &Path, port: u16) -> Control {
        let child = command(state, port).spawn().unwrap();
        let control = Control { child, url: format!("https://127.0.0.1:{port}") };
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() || !state.join("operator-admin.pem").exists() {
            assert!(Instant::now() < deadline, "control does not come up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        control
    }

    async fn channel(&self, state: &Path, who: Option<&Credential>) -> Channel {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&state.join("ca.pem"))));
        if let Some(who) = who {
            tls = tls.identity(Identity::from_pem(&who.cert, &who.key));
        }
        let endpoint = Endpoint::from_shared(self.url.clone()).unwrap().tls_config(tls).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match endpoint.connect().await {
                Ok(channel) => return channel,
                Err(why) => assert!(Instant::now() < deadline, "{why:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    async fn end(mut self) -> (Option<i32>, String) {
        tokio::task::spawn_blocking(move || {
            let deadline = Instant::now() + PATIENCE;
            while self.child.try_wait().unwrap().is_none() {
                assert!(Instant::now() < deadline, "control does not end");
                std::thread::sleep(Duration::from_millis(10));
            }
            let mut text = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            (self.child.wait().unwrap().code(), text)
        })
        .await
        .unwrap()
    }
}

fn admin(state: &Path) -> Credential {
    Credential { cert: read(&state.join("operator-admin.pem")), key: read(&state.join("operator-admin.key")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_mid_push_it_goes_on_from_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let port = free_port();
    let control = Control::start(&state, port).await;
    let operator = control.channel(&state, Some(&admin(&state))).await;
    let request = v1::CreateTokenRequest { role: "node".into(), name: "edge-1".into(), ..Default::default() };
    let token = EnrolServiceClient::new(operator.clone()).create_token(request).await.unwrap().into_inner().token;
    let own = Request::generate().unwrap();
    let answer = EnrolServiceClient::new(control.channel(&state, None).await)
        .enrol(v1::EnrolRequest { token, csr_der: own.csr_der })
        .await
        .unwrap()
        .into_inner();
    let edge = Credential { cert: answer.certificate_pem, key: own.key_pem };
    let mut node = FakeNode::attach_over(control.channel(&state, Some(&edge)).await, fresh()).await.unwrap();
    node.welcome().await;
    let applying = tokio::spawn(async move {
        let content = Some(v1::apply_chunk::Content::Document(document(&["edge-1"], 1)));
        let chunk = v1::ApplyChunk { header: Some(v1::ApplyHeader::default()), content };
        ConfigServiceClient::new(operator).apply(tokio_stream::iter(vec![chunk])).await
    });
    let offer = node.offer().await;
    control.signal("-KILL");
    control.end().await;
    assert!(applying.await.unwrap().is_err(), "the operator learns that nobody answered");
    assert!(node.next().await.is_err(), "and so does the node");

    let control = Control::start(&state, port).await;
    let mut node = FakeNode::attach_over(control.channel(&state, Some(&edge)).await, fresh()).await.unwrap();
    node.welcome().await;
    let again = node.settle().await;
    assert_eq!((again.version, again.content_hash), (offer.version, offer.content_hash));
    let mut config = ConfigServiceClient::new(control.channel(&state, Some(&admin(&state))).await);
    let history = config.history(v1::HistoryRequest::default()).await.unwrap().into_inner();
    assert_eq!(history.versions.len(), 1);

    // A second one on the same port says so and leaves the first alone.
    let second = Control { child: command(&state, port).spawn().unwrap(), url: String::new() };
    let (code, text) = second.end().await;
    assert_eq!(code, Some(2));
    assert!(text.contains("cannot listen") && text.contains("--listen"), "{text}");

    // With a node attached and a watcher, SIGTERM still ends it at once and clean.
    let _events = config.watch(v1::WatchRequest::default()).await.unwrap();
    let began = Instant::now();
    control.signal("-TERM");
    let (code, text) = control.end().await;
    assert_eq!(code, Some(0), "{text}");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(text.contains("SIGTERM") && text.contains("stopped"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn insecure_says_so_loudly() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let port = free_port();
    let child = command(&state, port).arg("--insecure").spawn().unwrap();
    let control = Control { child, url: String::new() };
    let deadline = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() || !state.join("operator-admin.pem").exists() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    control.signal("-TERM");
    let (code, text) = control.end().await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("INSECURE: marchproxy-control runs without TLS"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_can_be_made_on_the_host_also_for_other_clusters() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut issue = command(&state, 1);
    issue.args(["issue-operator", "--cluster", "blue", "--name", "bob", "--out"]).arg(dir.path());
    let output = tokio::task::spawn_blocking(move || issue.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bob = Credential {
        cert: read(&dir.path().join("operator-bob.pem")),
        key: read(&dir.path().join("operator-bob.key")),
    };
    let control = Control::start(&state, free_port()).await;
    let mut config = ConfigServiceClient::new(control.channel(&state, Some(&bob)).await);
    config.history(v1::HistoryRequest { cluster: "blue".into(), limit: 0 }).await.unwrap();
    let other = config.history(v1::HistoryRequest::default()).await.unwrap_err();
    assert_eq!(other.code(), tonic::Code::PermissionDenied);
    control.signal("-TERM");
    assert_eq!(control.end().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_end_with_1_and_name_the_field() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("control.toml");
    std::fs::write(&config, "lisen = \"127.0.0.1:1\"\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_marchproxy-control"));
    command.arg("--config").arg(&config);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("lisen") && text.contains("control.toml"), "{text}");
}
