//! OperateService: questions relayed to nodes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use marchproxy_proto::v1;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status};

use super::apply::named_cluster;
use super::auth::Caller;
use super::errors;
use super::hub::{Answer, Question};
use super::server::MESSAGE_MAX;
use super::state::{Control, check};

/// How long live traffic is compared unless said otherwise, and at most.
const PREVIEW_MS: u32 = 10_000;
const PREVIEW_MAX_MS: u32 = 60_000;
/// A node may build this long before it compares: a hundred thousand rules take a few seconds.
const PREVIEW_BUILD: Duration = Duration::from_mins(1);
/// They cross in one message.
const PREVIEW_OCTETS: usize = MESSAGE_MAX / 4 * 3;

/// Serves OperateService.
#[derive(Clone, Debug)]
pub struct OperateApi {
    control: Control,
}

impl OperateApi {
    /// Over what all services share.
    pub fn new(control: Control) -> OperateApi {
        OperateApi { control }
    }

    async fn relay<T>(
        &self,
        caller: &Caller,
        node: String,
        question: Question,
        pick: fn(Answer) -> Option<T>,
    ) -> Result<Response<T>, Status> {
        let answer = self.control.hub.ask(&caller.identity.cluster, &node, question).await?;
        pick(answer)
            .map(Response::new)
            .ok_or_else(|| Status::internal("the node answered another question than it was asked; please report this"))
    }
}

type Observed = Pin<Box<dyn Stream<Item = Result<v1::Observation, Status>> + Send>>;

impl OperateApi {
    /// Relays a trace or capture, item by item; the node ends it when the caller goes away.
    async fn follow(&self, caller: &Caller, node: &str, question: Question) -> Result<Response<Observed>, Status> {
        let (first, rest) = self.control.hub.observe(&caller.identity.cluster, node, question).await?;
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(first)).chain(ReceiverStream::new(rest)))))
    }
}

#[tonic::async_trait]
impl v1::operate_service_server::OperateService for OperateApi {
    async fn stats(&self, request: Request<v1::StatsRequest>) -> Result<Response<v1::StatsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let pick = |answer| if let Answer::Stats(stats) = answer { Some(stats) } else { None };
        self.relay(&caller, asked.node.clone(), Question::Stats(asked), pick).await
    }

    async fn why(&self, request: Request<v1::WhyRequest>) -> Result<Response<v1::WhyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let pick = |answer| if let Answer::Why(why) = answer { Some(why) } else { None };
        self.relay(&caller, asked.node.clone(), Question::Why(asked), pick).await
    }

    type TraceStream = Observed;
    type CaptureStream = Observed;

    async fn trace(&self, request: Request<v1::TraceRequest>) -> Result<Response<Observed>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        self.follow(&caller, &asked.node.clone(), Question::Trace(asked)).await
    }

    async fn capture(&self, request: Request<v1::CaptureRequest>) -> Result<Response<Observed>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        self.follow(&caller, &asked.node.clone(), Question::Capture(asked)).await
    }

    async fn sessions(&self, request: Request<v1::SessionsRequest>) -> Result<Response<v1::SessionsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let pick = |answer| if let Answer::Sessions(sessions) = answer { Some(sessions) } else { None };
        self.relay(&caller, asked.node.clone(), Question::Sessions(asked), pick).await
    }

    async fn neighbours(
        &self,
        request: Request<v1::NeighboursRequest>,
    ) -> Result<Response<v1::NeighboursResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let pick = |answer| if let Answer::Neighbours(neighbours) = answer { Some(neighbours) } else { None };
        self.relay(&caller, asked.node.clone(), Question::Neighbours(asked), pick).await
    }

    async fn backends(&self, request: Request<v1::BackendsRequest>) -> Result<Response<v1::BackendsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let pick = |answer| if let Answer::Backends(backends) = answer { Some(backends) } else { None };
        self.relay(&caller, asked.node.clone(), Question::Backends(asked), pick).await
    }

    async fn preview(&self, request: Request<v1::PreviewRequest>) -> Result<Response<v1::PreviewResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let duration_ms = match asked.duration_ms {
            0 => PREVIEW_MS,
            ms if ms <= PREVIEW_MAX_MS => ms,
            ms => return Err(errors::bad_field("duration_ms", ms, "1 to 60000, or 0 for 10000")),
        };
        let mut document = asked.document.ok_or_else(|| errors::bad_field("document", "nothing", "a document"))?;
        let cluster = caller.cluster(named_cluster(&caller.identity.cluster, Some(&document))?)?;
        document.cluster.clone_from(&cluster);
        let checked = check(Arc::new(document)).await?;
        let node = self.control.hub.name(&cluster, &asked.node)?;
        let tables = checked.nodes.get(&node).ok_or_else(|| {
            let known: Vec<&String> = checked.nodes.keys().collect();
            errors::bad_field(
                "node",
                format!("{node:?}"),
                &format!("a connected node that the document names: {known:?}"),
            )
        })?;
        if tables.octets() > PREVIEW_OCTETS {
            return Err(errors::status(
                Code::ResourceExhausted,
                "TOO_LARGE",
                format!(
                    "the tables of node {node} have {} octets; a comparison may send {PREVIEW_OCTETS}",
                    tables.octets()
                ),
                &[],
            ));
        }
        let groups = tables.groups.iter().map(|group| group.bytes.to_vec()).collect();
        let question = Question::Preview(v1::PreviewCall { groups, duration_ms });
        let takes = Duration::from_millis(duration_ms.into()) + PREVIEW_BUILD;
        let answer = self.control.hub.ask_for(&cluster, &node, question, takes).await?;
        match answer {
            Answer::Preview(preview) => Ok(Response::new(preview)),
            _ => Err(Status::internal("the node answered another question than it was asked; please report this")),
        }
    }

    async fn tiers(&self, request: Request<v1::TiersRequest>) -> Result<Response<v1::TiersResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let pick = |answer| if let Answer::Tiers(tiers) = answer { Some(tiers) } else { None };
        self.relay(&caller, asked.node.clone(), Question::Tiers(asked), pick).await
    }

    async fn qos(&self, request: Request<v1::QosRequest>) -> Result<Response<v1::QosResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let pick = |answer| if let Answer::Qos(qos) = answer { Some(qos) } else { None };
        self.relay(&caller, asked.node.clone(), Question::Qos(asked), pick).await
    }

    async fn nodes(&self, request: Request<v1::NodesRequest>) -> Result<Response<v1::NodesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let cluster = caller.cluster(&request.into_inner().cluster)?;
        // What is connected can be told even when the database can't be asked what should be.
        if let Err(why) = self.control.sync(&cluster).await {
            tracing::warn!(cluster, why = why.message(), "listing nodes without the newest version");
        }
        Ok(Response::new(v1::NodesResponse { nodes: self.control.hub.nodes(&cluster).into_values().collect() }))
    }
}
