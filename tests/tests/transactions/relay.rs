//! A bad line between nodes and control: messages late, answers late and in another order or twice, or no line at all.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use marchproxy_proto::v1;
use marchproxy_proto::v1::from_node::Message as From;
use marchproxy_proto::v1::node_service_client::NodeServiceClient;
use marchproxy_proto::v1::node_service_server::{NodeService, NodeServiceServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// How bad it is.
#[derive(Debug, Default)]
pub struct Line {
    /// There is none: streams break, and none begins.
    pub cut: AtomicBool,
    /// Each message of either direction waits for so long.
    pub delay_ms: AtomicU64,
    /// An ack comes behind the message after it, and then once more.
    pub reorder: AtomicBool,
}

pub struct Relay {
    pub address: SocketAddr,
    pub line: Arc<Line>,
    _runtime: tokio::runtime::Runtime,
}

impl Relay {
    pub fn start(control: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let line = Arc::new(Line::default());
        let service = Service { line: line.clone(), control };
        let address = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let router = Server::builder().add_service(NodeServiceServer::new(service));
            tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
            address
        });
        Self { address, line, _runtime: runtime }
    }
}

struct Service {
    line: Arc<Line>,
    control: SocketAddr,
}

fn broken() -> Status {
    Status::unavailable("the line is cut")
}

#[tonic::async_trait]
impl NodeService for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::ToNode, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<v1::FromNode>>) -> Result<Response<Self::AttachStream>, Status> {
        if self.line.cut.load(Ordering::Relaxed) {
            return Err(broken());
        }
        let channel = Endpoint::from_shared(format!("http://{}", self.control)).unwrap().connect().await;
        let channel = channel.map_err(|why| Status::unavailable(why.to_string()))?;
        let (up, going_up) = mpsc::channel(8);
        let mut outgoing = Request::new(ReceiverStream::new(going_up));
        if let Some(name) = request.metadata().get("marchproxy-node") {
            outgoing.metadata_mut().insert("marchproxy-node", name.clone());
        }
        let line = self.line.clone();
        tokio::spawn(carry_up(request.into_inner(), up, line.clone()));
        let down =
            NodeServiceClient::new(channel).max_decoding_message_size(256 << 20).attach(outgoing).await?.into_inner();
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(carry_down(down, sender, line));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Waits as the line has it. False: it is cut.
async fn passes(line: &Line) -> bool {
    tokio::time::sleep(Duration::from_millis(line.delay_ms.load(Ordering::Relaxed))).await;
    !line.cut.load(Ordering::Relaxed)
}

/// The next message; none at the stream's end or once the line is cut.
async fn next<T>(stream: &mut Streaming<T>, line: &Line) -> Option<T> {
    loop {
        match tokio::time::timeout(Duration::from_millis(20), stream.next()).await {
            Ok(message) => return message.and_then(Result::ok),
            Err(_) if line.cut.load(Ordering::Relaxed) => return None,
            Err(_) => {}
        }
    }
}

async fn carry_up(mut from: Streaming<v1::FromNode>, to: mpsc::Sender<v1::FromNode>, line: Arc<Line>) {
    let mut held: Option<v1::FromNode> = None;
    while let Some(message) = next(&mut from, &line).await {
        if !passes(&line).await {
            return;
        }
        let is_ack = matches!(message.message, Some(From::Ack(_) | From::Staged(_)));
        let mut going = Vec::new();
        if let Some(ack) = held.take() {
            going = vec![message, ack.clone(), ack];
        } else if is_ack && line.reorder.load(Ordering::Relaxed) {
            held = Some(message);
        } else {
            going.push(message);
        }
        for message in going {
            if to.send(message).await.is_err() {
                return;
            }
        }
    }
}

async fn carry_down(mut from: Streaming<v1::ToNode>, to: mpsc::Sender<Result<v1::ToNode, Status>>, line: Arc<Line>) {
    while let Some(message) = next(&mut from, &line).await {
        if !passes(&line).await || to.send(Ok(message)).await.is_err() {
            break;
        }
    }
    let _ = to.send(Err(broken())).await;
}
