//! A whole control in this process, over real TLS on loopback, and a node that is not one.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use marchproxy_control::api::{Control, Listener, Settings, serve};
use marchproxy_control::pki::{Authority, Identity as Role_, Request, Role};
use marchproxy_proto::v1::config_service_client::ConfigServiceClient;
use marchproxy_proto::v1::enrol_service_client::EnrolServiceClient;
use marchproxy_proto::v1::node_service_client::NodeServiceClient;
use marchproxy_proto::v1::operate_service_client::OperateServiceClient;
use marchproxy_proto::{tables, v1};
use tempfile::TempDir;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Status, Streaming};
use v1::from_node::Message as From;
use v1::operate_call::Request as Q;
use v1::to_node::Message as To;

/// Long enough for a busy machine, short enough to notice.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Key and certificate of a client, PEM.
#[derive(Clone, Debug)]
pub struct Credential {
    pub cert: String,
    pub key: String,
}

pub struct Rig {
    pub dir: TempDir,
    pub url: String,
    settings: Settings,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

impl Rig {
    pub async fn start() -> Rig {
        Rig::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            state_dir: dir.path().join("state"),
            settle_timeout_s: 10,
            ..Settings::default()
        };
        change(&mut settings);
        let mut rig = Rig { dir, url: String::new(), settings, stop: None, serving: None };
        rig.resume().await;
        rig
    }

    /// Starts over the state there is.
    pub async fn resume(&mut self) {
        let listener = Listener::bind(self.settings.listen).unwrap();
        let scheme = if self.settings.insecure { "http" } else { "https" };
        self.url = format!("{scheme}://127.0.0.1:{}", listener.address().port());
        let control = Control::open(self.settings.clone()).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        self.stop = Some(stop);
        self.serving = Some(tokio::spawn(async move {
            serve(control, listener, async {
                let _ = stopped.await;
            })
            .await
            .unwrap();
        }));
    }

    /// For the next start.
    pub fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
    }

    pub async fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.serving.take().unwrap()).await.expect("stops in time").unwrap();
    }

    pub fn state(&self) -> PathBuf {
        self.settings.state_dir.clone()
    }

    pub fn ca(&self) -> String {
        read(&self.state().join("ca.pem"))
    }

    pub fn admin(&self) -> Credential {
        Credential {
            cert: read(&self.state().join("operator-admin.pem")),
            key: read(&self.state().join("operator-admin.key")),
        }
    }

    /// A channel with or without a certificate. The server judges the certificate after this is done.
    pub async fn channel(&self, who: Option<&Credential>) -> Channel {
        let mut endpoint = Endpoint::from_shared(self.url.clone()).unwrap();
        if !self.settings.insecure {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.ca()));
            if let Some(who) = who {
                tls = tls.identity(Identity::from_pem(&who.cert, &who.key));
            }
            endpoint = endpoint.tls_config(tls).unwrap();
        }
        endpoint.connect().await.expect("connects, whatever the certificate")
    }

    pub async fn config(&self) -> ConfigServiceClient<Channel> {
        ConfigServiceClient::new(self.channel(Some(&self.admin())).await)
    }

    pub async fn operate(&self) -> OperateServiceClient<Channel> {
        OperateServiceClient::new(self.channel(Some(&self.admin())).await)
    }

    pub async fn enrolment(&self) -> EnrolServiceClient<Channel> {
        EnrolServiceClient::new(self.channel(Some(&self.admin())).await)
    }

    pub async fn token(&self, role: &str, name: &str) -> String {
        let request = v1::CreateTokenRequest { role: role.into(), name: name.into(), ..Default::default() };
        self.enrolment().await.create_token(request).await.unwrap().into_inner().token
    }

    pub async fn redeem(&self, token: &str) -> Result<Credential, Status> {
        let request = Request::generate().unwrap();
        let mut nobody = EnrolServiceClient::new(self.channel(None).await);
        let answer = nobody.enrol(v1::EnrolRequest { token: token.into(), csr_der: request.csr_der }).await?;
        Ok(Credential { cert: answer.into_inner().certificate_pem, key: request.key_pem })
    }

    pub async fn enrol(&self, role: &str, name: &str) -> Credential {
        let token = self.token(role, name).await;
        self.redeem(&token).await.unwrap()
    }

    pub async fn apply(&self, document: v1::Document) -> Result<v1::ApplyResponse, Status> {
        self.apply_with(v1::ApplyHeader::default(), document).await
    }

    pub async fn apply_with(
        &self,
        header: v1::ApplyHeader,
        document: v1::Document,
    ) -> Result<v1::ApplyResponse, Status> {
        let content = Some(v1::apply_chunk::Content::Document(document));
        self.chunks(vec![v1::ApplyChunk { header: Some(header), content }]).await
    }

    pub async fn change(&self, header: v1::ApplyHeader, changes: v1::Changes) -> Result<v1::ApplyResponse, Status> {
        let content = Some(v1::apply_chunk::Content::Changes(changes));
        self.chunks(vec![v1::ApplyChunk { header: Some(header), content }]).await
    }

    pub async fn chunks(&self, chunks: Vec<v1::ApplyChunk>) -> Result<v1::ApplyResponse, Status> {
        self.config().await.apply(tokio_stream::iter(chunks)).await.map(tonic::Response::into_inner)
    }

    pub async fn newest(&self) -> u64 {
        let history = self.config().await.history(v1::HistoryRequest::default()).await.unwrap().into_inner();
        history.versions.first().map_or(0, |version| version.version)
    }

    pub async fn node_info(&self, name: &str) -> Option<v1::NodeInfo> {
        let nodes = self.operate().await.nodes(v1::NodesRequest::default()).await.unwrap().into_inner().nodes;
        nodes.into_iter().find(|node| node.name == name)
    }

    pub async fn until_node(&self, name: &str, holds: impl Fn(&v1::NodeInfo) -> bool) -> v1::NodeInfo {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let info = self.node_info(name).await;
            match info {
                Some(info) if holds(&info) => return info,
                info => assert!(tokio::time::Instant::now() < deadline, "{name} is still {info:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A certificate of an authority nobody here knows.
pub fn foreign(role: Role, name: &str) -> Credential {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), 30).unwrap();
    let request = Request::generate().unwrap();
    let who = Role_::new("default", role, name).unwrap();
    Credential { cert: authority.issue(&request.csr_der, &who).unwrap().pem, key: request.key_pem }
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// A document of these nodes; `seed` makes every node's tables different.
pub fn document(nodes: &[&str], seed: u32) -> v1::Document {
    let port = "{name: wan, device: \"af_packet:eth1\"}";
    let priority = 200 + seed;
    let node = |node: &&str| format!("  - {{name: {node}, ports: [{port}]}}\n");
    let ports = nodes.iter().map(node).collect::<Vec<_>>().concat();
    let interface = |(at, node): (usize, &&str)| {
        format!("  - {{name: wan-{node}, node: {node}, port: wan, addresses: [192.0.{at}.1/24]}}\n")
    };
    let interfaces = nodes.iter().enumerate().map(interface).collect::<Vec<_>>().concat();
    let text = format!(
        "api_version: marchproxy/v1\nnodes:\n{ports}interfaces:\n{interfaces}rules:\n\
         \x20 - {{name: no-telnet, priority: {priority}, match: {{protocol: tcp, dst_ports: [23]}}, action: deny}}\n\
         \x20 - {{name: rest, priority: 9999, match: {{}}, action: permit}}\n"
    );
    marchproxy_control::model::parse(&text).unwrap()
}

/// A node by hand.
pub struct FakeNode {
    pub to: mpsc::Sender<v1::FromNode>,
    pub from: Streaming<v1::ToNode>,
    /// Groups it has, by hash.
    pub groups: HashMap<Vec<u8>, Vec<u8>>,
    /// Groups that crossed the wire since it attached.
    pub received: usize,
    pub generation: u64,
    /// The last trace.
    pub waiting: u64,
    /// A permit for each trace that was cancelled.
    pub cancelled: Arc<Semaphore>,
}

impl FakeNode {
    pub async fn attach(rig: &Rig, who: &Credential, hello: v1::Hello) -> Result<FakeNode, Status> {
        FakeNode::attach_over(rig.channel(Some(who)).await, hello).await
    }

    pub async fn attach_over(channel: Channel, hello: v1::Hello) -> Result<FakeNode, Status> {
        let (to, outbound) = mpsc::channel(16);
        to.send(v1::FromNode { message: Some(From::Hello(hello)) }).await.unwrap();
        let from = NodeServiceClient::new(channel).attach(ReceiverStream::new(outbound)).await?.into_inner();
        Ok(FakeNode {
            to,
            from,
            groups: HashMap::new(),
            received: 0,
            generation: 0,
            waiting: 0,
            cancelled: Arc::new(Semaphore::new(0)),
        })
    }

    /// The next message, or why there is none.
    pub async fn next(&mut self) -> Result<To, Status> {
        let message = tokio::time::timeout(PATIENCE, self.from.message()).await.expect("a message in time")?;
        let message = message.ok_or_else(|| Status::ok("closed"))?;
        Ok(message.message.expect("no empty message"))
    }

    /// Whether nothing comes for a while.
    pub async fn quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.from.message()).await.is_err()
    }

    pub async fn welcome(&mut self) -> v1::Welcome {
        match self.next().await.unwrap() {
            To::Welcome(welcome) => welcome,
            other => panic!("not a welcome: {other:?}"),
        }
    }

    pub async fn offer(&mut self) -> v1::TablesOffer {
        match self.next().await.unwrap() {
            To::Offer(offer) => offer,
            other => panic!("not an offer: {other:?}"),
        }
    }

    pub async fn send(&self, message: From) {
        self.to.send(v1::FromNode { message: Some(message) }).await.unwrap();
    }

    /// Asks for what it lacks and takes it.
    pub async fn fetch(&mut self, offer: &v1::TablesOffer) {
        let lacks: Vec<Vec<u8>> =
            offer.groups.iter().map(|g| g.hash.clone()).filter(|hash| !self.groups.contains_key(hash)).collect();
        let wanted = v1::TablesWanted { version: offer.version, hashes: lacks.clone(), stage: offer.stage };
        self.send(From::Wanted(wanted)).await;
        for _ in lacks {
            match self.next().await.unwrap() {
                To::Group(group) => {
                    self.received += 1;
                    tables::EncodedGroup::decode(&group.hash, &group.encoded).expect("the group is what it says");
                    self.groups.insert(group.hash, group.encoded);
                }
                other => panic!("not a group: {other:?}"),
            }
        }
    }

    pub async fn ack(&mut self, offer: &v1::TablesOffer) {
        if offer.stage != 0 {
            return self.send(From::Staged(v1::TablesStaged { stage: offer.stage, build_us: 120 })).await;
        }
        self.generation += 1;
        self.send(From::Ack(v1::TablesAck {
            version: offer.version,
            content_hash: offer.content_hash.clone(),
            generation: self.generation,
            build_us: 120,
            settle_us: 340,
        }))
        .await;
    }

    /// Takes the next offer as a good node does.
    pub async fn settle(&mut self) -> v1::TablesOffer {
        let offer = self.offer().await;
        self.fetch(&offer).await;
        self.ack(&offer).await;
        offer
    }

    /// Takes every offer until told to stop by dropping the handle; answers questions too.
    pub fn run(mut self) -> JoinHandle<()> {
        tokio::spawn(async move {
            while let Ok(message) = self.from.message().await {
                let Some(message) = message.and_then(|m| m.message) else { return };
                match message {
                    To::Offer(offer) => {
                        self.fetch(&offer).await;
                        self.ack(&offer).await;
                    }
                    To::Call(v1::OperateCall { id, request: Some(Q::Trace(asked)) }) => {
                        self.waiting = id;
                        for item in traced(&asked.r#match) {
                            self.send(observed(id, item)).await;
                        }
                    }
                    To::Call(v1::OperateCall { id, request: Some(Q::Capture(asked)) }) => {
                        for item in captured(&asked) {
                            self.send(observed(id, item)).await;
                        }
                    }
                    To::Call(call) => {
                        let reply = v1::OperateReply { id: call.id, response: call.request.map(answer) };
                        self.send(From::Reply(reply)).await;
                    }
                    To::Cancel(cancel) => {
                        let ended = v1::observation::Item::End(v1::ObservationEnd::default());
                        assert_eq!(cancel.id, self.waiting);
                        // A word too late, which must do no harm.
                        self.send(observed(cancel.id, ended)).await;
                        self.cancelled.add_permits(1);
                    }
                    To::Welcome(_) | To::Group(_) | To::Confirmed(_) | To::Unstage(_) => {}
                }
            }
        })
    }
}

/// What the node that is not one answers.
pub fn answer(question: v1::operate_call::Request) -> v1::operate_reply::Response {
    use v1::operate_call::Request as Q;
    use v1::operate_reply::Response as A;
    match question {
        Q::Stats(_) => A::Stats(v1::StatsResponse { node: "edge-1".into(), generation: 1, ..Default::default() }),
        Q::Why(why) => A::Why(v1::WhyResponse {
            verdict: "dropped".into(),
            reason: "rule_denied".into(),
            steps: vec![v1::WhyStep {
                stage: "rule".into(),
                object: "rule no-telnet".into(),
                detail: format!("{} to {}", why.src, why.dst),
            }],
            ..Default::default()
        }),
        Q::Sessions(_) => A::Sessions(v1::SessionsResponse { sessions: vec![v1::Session::default()], total: 1 }),
        Q::Neighbours(_) => A::Error("no neighbour table yet".into()),
        Q::Backends(_) => A::Backends(v1::BackendsResponse { backends: backends() }),
        Q::Preview(call) => A::Preview(preview(&call)),
        Q::Tiers(_) => A::Tiers(v1::TiersResponse {
            backend: "sockets".into(),
            ports: vec![v1::PortTier {
                port: "wan".into(),
                device: "auto:eth1".into(),
                tier: "af_xdp_copy".into(),
                rx_packets: 4711,
                passed_over: vec![v1::PassedOverTier { tier: "dpdk".into(), reason: "no PCI device".into() }],
                ..Default::default()
            }],
            rules: vec![v1::RuleTier {
                rule: "no-telnet".into(),
                tier: "xdp".into(),
                reason: "denies by addresses, protocol and ports alone".into(),
                xdp_packets: 1234,
                xdp_bytes: 98_765,
            }],
        }),
        Q::Qos(_) => A::Qos(v1::QosResponse {
            ports: vec![v1::ShapedPort {
                port: "wan".into(),
                rate_kbps: 20_000,
                p0_kbps: 2_000,
                queues: vec![v1::Queue {
                    service: "web".into(),
                    class: "P1".into(),
                    waiting_packets: 12,
                    last_wait_s: 0.0042,
                    sent_packets: 4711,
                    waits: vec![4700, 10, 1],
                    dropped_aqm: 3,
                    marked: 5,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            wait_bounds_s: vec![0.001, 0.01],
        }),
        Q::Trace(_) | Q::Capture(_) => A::Error("its answer is a stream".into()),
    }
}

fn observed(id: u64, item: v1::observation::Item) -> From {
    let observation = v1::Observation { item: Some(item) };
    From::Reply(v1::OperateReply { id, response: Some(v1::operate_reply::Response::Observation(observation)) })
}

/// What a trace of the node that is not one shows. Filtered by `vlan 1` it never ends, by `vlan 2` it misses some.
pub fn traced(filter: &str) -> Vec<v1::observation::Item> {
    use v1::observation::Item;
    let begun = Item::Begun(v1::ObservationBegun {
        node: "edge-1".into(),
        ports: vec!["lan".into(), "wan".into()],
        generation: 1,
    });
    let step = |stage: &str, object: &str, detail: &str| v1::WhyStep {
        stage: stage.into(),
        object: object.into(),
        detail: detail.into(),
    };
    let packet = Item::Packet(v1::ObservedPacket {
        number: 1,
        at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        thread: "worker 0".into(),
        port: "wan".into(),
        length: 60,
        frame: "198.51.100.7:4242 > 203.0.113.10:23 tcp SYN".into(),
        fate: "punted".into(),
        reason: "no_route".into(),
        end: "to the slow path: no_route".into(),
        steps: vec![step("parse", "interface wan0", "46 octets, ttl 64"), step("rule", "rule rest", "permit")],
        ..Default::default()
    });
    let slow = Item::SlowPath(v1::SlowPathEnd {
        number: 1,
        fate: "dropped".into(),
        reason: "no_route".into(),
        reason_description: "No route leads to the destination.".into(),
    });
    match filter {
        "vlan 1" => vec![begun],
        "vlan 2" => vec![begun, Item::End(v1::ObservationEnd { packets: 0, missed: 7, ended: "timeout".into() })],
        _ => vec![begun, packet, slow, Item::End(v1::ObservationEnd { packets: 1, missed: 0, ended: "count".into() })],
    }
}

/// What a capture of it holds: two frames, the second cut.
pub fn captured(asked: &v1::CaptureRequest) -> Vec<v1::observation::Item> {
    use v1::observation::Item;
    let mut items = traced("");
    items.truncate(1);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0];
    // 198.51.100.7 to 203.0.113.10, UDP 53 to 54, no data.
    frame.extend([
        0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x6c, 0x93, 198, 51, 100, 7, 203, 0, 113, 10, 0, 53, 0, 54, 0, 8, 0, 0,
    ]);
    for number in 1..=2u32 {
        let octets = frame[..frame.len().min(asked.snaplen as usize)].to_vec();
        items.push(Item::Packet(v1::ObservedPacket {
            number: number.into(),
            at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: number as i32 }),
            thread: "worker 0".into(),
            port: "wan".into(),
            generation: 1,
            length: frame.len() as u32,
            fate: "dropped".into(),
            reason: "rule_deny".into(),
            end: "dropped: rule_deny".into(),
            steps: vec![v1::WhyStep { stage: "rule".into(), object: "rule no-dns".into(), detail: "deny".into() }],
            octets,
            ..Default::default()
        }));
    }
    items.push(Item::End(v1::ObservationEnd { packets: 2, missed: 0, ended: "count".into() }));
    items
}

/// One change of three flows, on the tables that were sent.
fn preview(call: &v1::PreviewCall) -> v1::PreviewResponse {
    let outcome = |fate: &str, reason: &str, rule: &str| v1::PreviewOutcome {
        fate: fate.into(),
        reason: reason.into(),
        rule: rule.into(),
        mark: (fate == "forwarded").then_some(10),
        ..Default::default()
    };
    v1::PreviewResponse {
        node: "edge-1".into(),
        version: 1,
        packets: call.duration_ms.into(),
        flows: call.groups.len() as u64 + 10,
        flows_changed: 3,
        changes: vec![v1::PreviewChange {
            what: vec!["fate".into()],
            before: Some(outcome("forwarded", "", "rule rest")),
            after: Some(outcome("dropped", "rule_deny", "rule no-telnet")),
            flows: 3,
            packets: 17,
            examples: vec!["wan tcp 198.51.100.7:4242 > 203.0.113.10:23".into()],
        }],
        ..Default::default()
    }
}

/// Two backends of a service: one healthy, one that answers with the wrong status.
fn backends() -> Vec<v1::BackendStatus> {
    let one = |name: &str, state: &str, result: &str, status: u32| v1::BackendStatus {
        service: "web".into(),
        name: name.into(),
        address: "10.0.20.11".into(),
        port: Some(8080),
        weight: 1,
        state: "up".into(),
        takes_sessions: state == "up",
        packets: 7,
        health: Some(v1::BackendHealth {
            state: state.into(),
            since_s: 61.0,
            kind: "http".into(),
            port: 8080,
            last_result: result.into(),
            last_status: status,
            rtt_s: Some(0.0015),
            streak: 3,
            checks: 10,
            failures: 3,
            ..Default::default()
        }),
    };
    vec![one("a", "up", "ok", 0), one("b", "down", "status", 503)]
}

/// A node that says nothing about what it runs.
pub fn fresh() -> v1::Hello {
    v1::Hello { software: "0.1.0".into(), backend: "none".into(), workers: 1, ..v1::Hello::default() }
}
