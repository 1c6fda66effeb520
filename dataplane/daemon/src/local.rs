//! OperateService: questions to this node, over its local socket and relayed by control.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use marchproxy_proto::v1;
use marchproxy_proto::v1::operate_call::Request as Question;
use marchproxy_proto::v1::operate_reply::Response as Answer;
use marchproxy_proto::v1::operate_service_server::{OperateService, OperateServiceServer};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::runtime::Runtime;

/// Why there is no local socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error(
        "socket {path}: another marchproxy-dataplane listens there; stop it (systemctl stop marchproxy-dataplane), or give \
         this one another --socket"
    )]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket lies there.
    #[error("socket {path}: is there already and is no socket; remove it or give another --socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("socket {path}: {source}")]
    Kernel {
        /// The socket.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
}

/// Packets of a trace or capture on their way to the asker; behind that many the workers' lenses fill up, and packets are missed.
const OBSERVED: usize = 64;

/// A question whose answer is a stream.
#[derive(Debug)]
pub enum Watched {
    /// What stages decide.
    Trace(v1::TraceRequest),
    /// Copies.
    Capture(v1::CaptureRequest),
}

/// Answers questions about this node.
#[derive(Clone, Debug)]
pub struct Operate {
    node: Arc<str>,
    runtime: Arc<dyn Runtime>,
}

impl std::fmt::Debug for dyn Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("backend", &self.backend()).finish_non_exhaustive()
    }
}

impl Operate {
    /// For the node of this name.
    pub fn new(node: &str, runtime: Arc<dyn Runtime>) -> Self {
        Self { node: node.into(), runtime }
    }

    /// Answers a question that control relayed; blocks for as long as the answer takes.
    pub fn relayed(&self, question: Option<Question>) -> Answer {
        let answer = match question {
            Some(Question::Stats(_)) => Ok(Answer::Stats(self.stats_now())),
            Some(Question::Why(request)) => self.runtime.why(&request).map(Answer::Why),
            Some(Question::Sessions(request)) => self.runtime.sessions(&request).map(Answer::Sessions),
            Some(Question::Neighbours(request)) => self.runtime.neighbours(&request).map(Answer::Neighbours),
            Some(Question::Backends(request)) => self.runtime.backends(&request).map(Answer::Backends),
            Some(Question::Preview(call)) => self.preview(&call).map(Answer::Preview),
            Some(Question::Tiers(_)) => Ok(Answer::Tiers(self.runtime.tiers())),
            Some(Question::Qos(request)) => Ok(Answer::Qos(self.runtime.qos(&request))),
            Some(Question::Trace(_) | Question::Capture(_)) => Err("its answer is a stream; please report this".into()),
            None => Err("this release does not know the question; update marchproxy-dataplane".to_owned()),
        };
        answer.unwrap_or_else(Answer::Error)
    }

    fn preview(&self, call: &v1::PreviewCall) -> Result<v1::PreviewResponse, String> {
        let tables = crate::groups::decode(&call.groups)?;
        let answer = self.runtime.preview(tables, Duration::from_millis(call.duration_ms.into()))?;
        Ok(v1::PreviewResponse { node: self.node.to_string(), ..answer })
    }

    /// Starts a trace or capture on a thread of its own. It ends when the receiver goes away.
    pub fn watch(&self, watched: Watched) -> mpsc::Receiver<Result<v1::Observation, String>> {
        let (outlet, items) = mpsc::channel(OBSERVED);
        let runtime = self.runtime.clone();
        tokio::task::spawn_blocking(move || {
            let done = match &watched {
                Watched::Trace(request) => runtime.trace(request, &outlet),
                Watched::Capture(request) => runtime.capture(request, &outlet),
            };
            if let Err(error) = done {
                // Whoever went away does not want to know.
                let _ = outlet.blocking_send(Err(error));
            }
        });
        items
    }

    /// The items of a trace or capture as gRPC wants them.
    fn observed(&self, watched: Watched) -> Observed {
        let node = self.node.clone();
        Box::pin(ReceiverStream::new(self.watch(watched)).map(move |item| match item {
            Ok(mut observation) => {
                name(&mut observation, &node);
                Ok(observation)
            }
            Err(error) => Err(Status::invalid_argument(error)),
        }))
    }

    /// The node's name.
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }

    fn stats_now(&self) -> v1::StatsResponse {
        v1::StatsResponse { node: self.node.to_string(), ..self.runtime.stats() }
    }

    /// A question that names another node is not for us.
    fn for_us(&self, node: &str) -> Result<(), Status> {
        if node.is_empty() || node == &*self.node {
            return Ok(());
        }
        Err(Status::not_found(format!("node: found {node:?}, allowed: {:?} (this is its local socket)", self.node)))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Operate) -> Result<T, String> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let this = self.clone();
        let answer = tokio::task::spawn_blocking(move || call(&this)).await;
        let answer = answer.map_err(|_| Status::internal("the answer could not be made; please report this"))?;
        answer.map(Response::new).map_err(Status::invalid_argument)
    }
}

/// What tonic sends to the asker.
type Observed = Pin<Box<dyn Stream<Item = Result<v1::Observation, Status>> + Send>>;

/// Puts the node's name where one is asked for.
pub(crate) fn name(observation: &mut v1::Observation, node: &str) {
    if let Some(v1::observation::Item::Begun(begun)) = &mut observation.item {
        node.clone_into(&mut begun.node);
    }
}

#[tonic::async_trait]
impl OperateService for Operate {
    type TraceStream = Observed;
    type CaptureStream = Observed;

    async fn trace(&self, request: Request<v1::TraceRequest>) -> Result<Response<Observed>, Status> {
        self.for_us(&request.get_ref().node)?;
        Ok(Response::new(self.observed(Watched::Trace(request.into_inner()))))
    }

    async fn capture(&self, request: Request<v1::CaptureRequest>) -> Result<Response<Observed>, Status> {
        self.for_us(&request.get_ref().node)?;
        Ok(Response::new(self.observed(Watched::Capture(request.into_inner()))))
    }

    async fn stats(&self, request: Request<v1::StatsRequest>) -> Result<Response<v1::StatsResponse>, Status> {
        self.for_us(&request.get_ref().node)?;
        self.blocking(|this| Ok(this.stats_now())).await
    }

    async fn why(&self, request: Request<v1::WhyRequest>) -> Result<Response<v1::WhyResponse>, Status> {
        self.for_us(&request.get_ref().node)?;
        self.blocking(move |this| this.runtime.why(request.get_ref())).await
    }

    async fn sessions(&self, request: Request<v1::SessionsRequest>) -> Result<Response<v1::SessionsResponse>, Status> {
        self.for_us(&request.get_ref().node)?;
        self.blocking(move |this| this.runtime.sessions(request.get_ref())).await
    }

    async fn neighbours(
        &self,
        request: Request<v1::NeighboursRequest>,
    ) -> Result<Response<v1::NeighboursResponse>, Status> {
        self.for_us(&request.get_ref().node)?;
        self.blocking(move |this| this.runtime.neighbours(request.get_ref())).await
    }

    async fn backends(&self, request: Request<v1::BackendsRequest>) -> Result<Response<v1::BackendsResponse>, Status> {
        self.for_us(&request.get_ref().node)?;
        self.blocking(move |this| this.runtime.backends(request.get_ref())).await
    }

    async fn preview(&self, _: Request<v1::PreviewRequest>) -> Result<Response<v1::PreviewResponse>, Status> {
        Err(Status::unimplemented("a document is compiled by control: ask it (`marchctl diff -f FILE --live 10s`)"))
    }

    async fn tiers(&self, request: Request<v1::TiersRequest>) -> Result<Response<v1::TiersResponse>, Status> {
        self.for_us(&request.get_ref().node)?;
        self.blocking(move |this| Ok(this.runtime.tiers())).await
    }

    async fn qos(&self, request: Request<v1::QosRequest>) -> Result<Response<v1::QosResponse>, Status> {
        self.for_us(&request.get_ref().node)?;
        self.blocking(move |this| Ok(this.runtime.qos(request.get_ref()))).await
    }

    async fn nodes(&self, _: Request<v1::NodesRequest>) -> Result<Response<v1::NodesResponse>, Status> {
        Err(Status::unimplemented("only control knows the nodes; this is one node's local socket"))
    }
}

/// Listens on `path` with mode 0660. A socket file nobody listens on is what a crash left, and goes.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let kernel = |source| SocketError::Kernel { path: path.into(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(kernel)?;
    }
    if let Ok(there) = std::fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(SocketError::NotASocket { path: path.into() });
        }
        if UnixStream::connect(path).is_ok() {
            return Err(SocketError::Taken { path: path.into() });
        }
        std::fs::remove_file(path).map_err(kernel)?;
    }
    let listener = UnixListener::bind(path).map_err(kernel)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(kernel)?;
    listener.set_nonblocking(true).map_err(kernel)?;
    Ok(listener)
}

/// Serves until `stop`, then removes the socket.
pub async fn serve(listener: UnixListener, path: PathBuf, operate: Operate, mut stop: watch::Receiver<bool>) {
    let served = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => tonic::transport::Server::builder()
            .add_service(OperateServiceServer::new(operate))
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
                let _ = stop.wait_for(|stop| *stop).await;
            })
            .await
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = served {
        tracing::error!("socket {}: {error}", path.display());
    }
    let _ = std::fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_goes_and_a_live_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/dataplane.sock");
        let first = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let error = bind(&path).unwrap_err().to_string();
        assert!(error.contains("another marchproxy-dataplane listens there"), "{error}");
        drop(first);
        assert!(path.exists(), "a crash leaves the file");
        bind(&path).unwrap();
    }

    #[test]
    fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(SocketError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
