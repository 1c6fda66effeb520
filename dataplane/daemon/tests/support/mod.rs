//! A control and a node made for tests: the control does what each test tells it, the node says yes or no.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod pki;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use marchproxy_dataplane::config::{Config, File, Overrides};
use marchproxy_dataplane::runtime::{Applied, Change, Outlet, Push, Running, Runtime};
use marchproxy_engine::tables::{PortSpec, RuleTables};
use marchproxy_proto::v1::from_node::Message as FromNode;
use marchproxy_proto::v1::node_service_server::{NodeService, NodeServiceServer};
use marchproxy_proto::v1::to_node::Message as ToNode;
use marchproxy_proto::{tables, v1};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// Nothing in these tests takes longer unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A node that runs what it is told, or refuses the next pushes with these words.
#[derive(Default)]
pub struct FakeNode {
    pub running: Mutex<Running>,
    pub pushed: Mutex<Vec<Push>>,
    /// Changes of rules that it made; `None`: it makes none.
    pub changed: Mutex<Option<Vec<Change>>>,
    pub refusals: Mutex<VecDeque<String>>,
    /// Pushes wait for this long before they are answered.
    pub delay: Mutex<Duration>,
    /// The content that it is ready for.
    pub staged: Mutex<Option<Vec<u8>>>,
    /// Whether a trace noticed that nobody listens.
    pub listener_gone: Mutex<bool>,
}

impl Runtime for FakeNode {
    fn backend(&self) -> &'static str {
        "fake"
    }
    fn workers(&self) -> u32 {
        3
    }
    fn running(&self) -> Running {
        self.running.lock().unwrap().clone()
    }
    fn apply(&self, push: Push) -> oneshot::Receiver<Result<Applied, String>> {
        let (sender, receiver) = oneshot::channel();
        std::thread::sleep(*self.delay.lock().unwrap());
        let refusal = self.refusals.lock().unwrap().pop_front();
        let answer = refusal.map_or_else(
            || {
                let mut running = self.running.lock().unwrap();
                running.version = push.version;
                running.content_hash.clone_from(&push.content_hash);
                running.generation += u64::from(push.tables.is_some());
                running.settled = true;
                Ok(Applied { generation: running.generation, build_us: 1, settle_us: 2 })
            },
            Err,
        );
        self.pushed.lock().unwrap().push(push);
        sender.send(answer).unwrap();
        receiver
    }
    fn change(&self, change: Change) -> oneshot::Receiver<Result<Option<Applied>, String>> {
        let (sender, receiver) = oneshot::channel();
        let answer = self.changed.lock().unwrap().as_mut().map(|changed| {
            let mut running = self.running.lock().unwrap();
            assert_eq!(running.content_hash, change.base, "a change of what runs");
            running.version = change.version;
            running.content_hash.clone_from(&change.content_hash);
            running.generation += 1;
            changed.push(change);
            Applied { generation: running.generation, build_us: 1, settle_us: 2 }
        });
        sender.send(Ok(answer)).unwrap();
        receiver
    }
    fn stage(&self, push: Push) -> oneshot::Receiver<Result<u64, String>> {
        let (sender, receiver) = oneshot::channel();
        let refusal = self.refusals.lock().unwrap().pop_front();
        *self.staged.lock().unwrap() = refusal.is_none().then_some(push.content_hash);
        sender.send(refusal.map_or(Ok(7), Err)).unwrap();
        receiver
    }
    fn unstage(&self) {
        *self.staged.lock().unwrap() = None;
    }
    fn preview(&self, tables: RuleTables, span: Duration) -> Result<v1::PreviewResponse, String> {
        Ok(v1::PreviewResponse {
            packets: span.as_millis() as u64,
            flows: tables.ports.len() as u64,
            ..Default::default()
        })
    }

    fn turns(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
    fn stats(&self) -> v1::StatsResponse {
        let running = self.running();
        let conservation = v1::Conservation { rx: 10, tx: 9, drops: 1, ..Default::default() };
        v1::StatsResponse {
            version: running.version,
            generation: running.generation,
            conservation: Some(conservation),
            ..Default::default()
        }
    }
    fn why(&self, request: &v1::WhyRequest) -> Result<v1::WhyResponse, String> {
        if request.src.is_empty() {
            return Err("src: found \"\", allowed: an address".into());
        }
        Ok(v1::WhyResponse { verdict: "forwarded".into(), ..Default::default() })
    }
    /// Shows one packet; then waits for its listener to go away, or ends where one was asked for.
    fn trace(&self, request: &v1::TraceRequest, outlet: &Outlet) -> Result<(), String> {
        use v1::observation::Item;
        let send = |item| outlet.blocking_send(Ok(v1::Observation { item: Some(item) })).is_ok();
        if request.r#match == "scr" {
            return Err("match: at character 1: found \"scr\"".into());
        }
        send(Item::Begun(v1::ObservationBegun::default()));
        send(Item::Packet(v1::ObservedPacket { number: 1, ..Default::default() }));
        if request.count == 1 {
            send(Item::End(v1::ObservationEnd { packets: 1, ..Default::default() }));
            return Ok(());
        }
        while !outlet.is_closed() {
            std::thread::sleep(Duration::from_millis(5));
        }
        *self.listener_gone.lock().unwrap() = true;
        Ok(())
    }
    fn capture(&self, _: &v1::CaptureRequest, _: &Outlet) -> Result<(), String> {
        Err("at: found \"\"".into())
    }
    fn sessions(&self, _: &v1::SessionsRequest) -> Result<v1::SessionsResponse, String> {
        Ok(v1::SessionsResponse { total: 42, ..Default::default() })
    }
    fn samples(&self, _: usize) -> Vec<String> {
        Vec::new()
    }
    fn neighbours(&self, _: &v1::NeighboursRequest) -> Result<v1::NeighboursResponse, String> {
        Ok(v1::NeighboursResponse::default())
    }

    fn tiers(&self) -> v1::TiersResponse {
        v1::TiersResponse::default()
    }

    fn qos(&self, _: &v1::QosRequest) -> v1::QosResponse {
        v1::QosResponse::default()
    }

    fn backends(&self, _: &v1::BackendsRequest) -> Result<v1::BackendsResponse, String> {
        Ok(v1::BackendsResponse::default())
    }
}

/// Tables with one port of this name.
pub fn tables_with(port: &str) -> RuleTables {
    let spec = PortSpec { name: port.into(), device: format!("vdev:net_null_{port}0"), mtu: 1500 };
    RuleTables { ports: vec![spec], ..RuleTables::default() }
}

/// An offer for tables, and its groups.
pub fn offer(version: u64, rules: &RuleTables) -> (v1::TablesOffer, Vec<v1::TableGroup>) {
    let encoded = tables::encode(rules).unwrap();
    let content_hash = tables::content_hash(encoded.iter().map(|group| &group.hash)).to_vec();
    let groups = encoded.iter().map(|g| v1::GroupRef { hash: g.hash.to_vec(), objects: g.objects }).collect();
    let parts = encoded.iter().map(|g| v1::TableGroup { hash: g.hash.to_vec(), encoded: g.bytes.to_vec() }).collect();
    (v1::TablesOffer { version, content_hash, groups, ..v1::TablesOffer::default() }, parts)
}

/// One stream of the node, as control holds it.
pub struct Attached {
    pub inbound: Streaming<v1::FromNode>,
    pub outbound: mpsc::Sender<Result<v1::ToNode, Status>>,
    pub node_header: Option<String>,
}

impl Attached {
    pub async fn send(&self, message: ToNode) {
        self.outbound.send(Ok(v1::ToNode { message: Some(message) })).await.unwrap();
    }

    /// The next message that is no heartbeat.
    pub async fn next(&mut self) -> FromNode {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.inbound.next()).await.expect("a message in time");
            match message.expect("an open stream").expect("a message").message.unwrap() {
                FromNode::Heartbeat(_) => {}
                message => return message,
            }
        }
    }

    pub async fn hello(&mut self) -> v1::Hello {
        match self.next().await {
            FromNode::Hello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    /// Offers, sends what is asked for, and returns the hashes asked for.
    pub async fn push(&mut self, version: u64, rules: &RuleTables) -> Vec<Vec<u8>> {
        self.push_within(version, rules, 0).await
    }

    /// The same, to be confirmed.
    pub async fn push_within(&mut self, version: u64, rules: &RuleTables, confirm_within_ms: u64) -> Vec<Vec<u8>> {
        let (offer, groups) = offer(version, rules);
        let offer = v1::TablesOffer { confirm_within_ms, ..offer };
        self.send(ToNode::Offer(offer)).await;
        let FromNode::Wanted(wanted) = self.next().await else { panic!("no wanted") };
        assert_eq!(wanted.version, version);
        for group in groups.into_iter().filter(|group| wanted.hashes.contains(&group.hash)) {
            self.send(ToNode::Group(group)).await;
        }
        wanted.hashes
    }

    /// Has it get ready, sends what is asked for, and says how much that was.
    pub async fn stage(&mut self, stage: u64, rules: &RuleTables) -> usize {
        let (offer, groups) = offer(0, rules);
        self.send(ToNode::Offer(v1::TablesOffer { stage, ..offer })).await;
        let FromNode::Wanted(wanted) = self.next().await else { panic!("no wanted") };
        assert_eq!((wanted.version, wanted.stage), (0, stage));
        for group in groups.into_iter().filter(|group| wanted.hashes.contains(&group.hash)) {
            self.send(ToNode::Group(group)).await;
        }
        wanted.hashes.len()
    }

    pub async fn ack(&mut self) -> v1::TablesAck {
        match self.next().await {
            FromNode::Ack(ack) => ack,
            other => panic!("{other:?}"),
        }
    }

    pub async fn nack(&mut self) -> v1::TablesNack {
        match self.next().await {
            FromNode::Nack(nack) => nack,
            other => panic!("{other:?}"),
        }
    }
}

/// A control: every stream a node opens comes out of `streams`.
pub struct FakeControl {
    pub address: SocketAddr,
    pub streams: mpsc::Receiver<Attached>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
struct Service {
    streams: mpsc::Sender<Attached>,
    revoked: Arc<Mutex<bool>>,
}

#[tonic::async_trait]
impl NodeService for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::ToNode, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<v1::FromNode>>) -> Result<Response<Self::AttachStream>, Status> {
        if *self.revoked.lock().unwrap() {
            return Err(Status::unauthenticated("the certificate 01 of node/edge-1 was revoked; enrol again"));
        }
        let node_header = request.metadata().get("marchproxy-node").map(|v| v.to_str().unwrap().to_owned());
        let (outbound, receiver) = mpsc::channel(64);
        let welcome = ToNode::Welcome(v1::Welcome { node: "edge-1".into(), cluster: "default".into() });
        outbound.send(Ok(v1::ToNode { message: Some(welcome) })).await.unwrap();
        let attached = Attached { inbound: request.into_inner(), outbound, node_header };
        self.streams.send(attached).await.map_err(|_| Status::unavailable("closing"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl FakeControl {
    pub async fn start(address: &str, tls: Option<ServerTlsConfig>, revoked: bool) -> Self {
        Self::with_enrolment(address, tls, revoked, None).await
    }

    pub async fn with_enrolment(
        address: &str,
        tls: Option<ServerTlsConfig>,
        revoked: bool,
        enrolment: Option<pki::Enroller>,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, streams) = mpsc::channel(8);
        let service = Service { streams: sender, revoked: Arc::new(Mutex::new(revoked)) };
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let router = server
            .add_service(NodeServiceServer::new(service))
            .add_optional_service(enrolment.map(pki::Enroller::service));
        let task = tokio::spawn(async move {
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { address, streams, task }
    }

    pub async fn attached(&mut self) -> Attached {
        tokio::time::timeout(PATIENCE, self.streams.recv()).await.expect("a stream in time").unwrap()
    }

    /// Ends it as a kill would: no word to anybody. Streams die with their senders.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A configuration with everything inside `dir`.
pub fn config(dir: &Path, control: SocketAddr, insecure: bool) -> Config {
    let overrides = Overrides {
        node: Some("edge-1".into()),
        control: Some(control.to_string()),
        enrolment: Some(dir.join("enrolment.json")),
        state_dir: Some(dir.into()),
        socket: Some(dir.join("node.sock")),
        metrics: Some("127.0.0.1:0".into()),
        insecure,
        ..Overrides::default()
    };
    Config::resolve("test", File::default(), &overrides).unwrap()
}

/// Looks again and again until it is so.
pub async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
