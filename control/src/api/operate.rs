//! OperateService: questions relayed to nodes.

use std::pin::Pin;

use marchproxy_proto::v1;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::auth::Caller;
use super::hub::{Answer, Question};
use super::state::Control;

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

    async fn tiers(&self, request: Request<v1::TiersRequest>) -> Result<Response<v1::TiersResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let pick = |answer| if let Answer::Tiers(tiers) = answer { Some(tiers) } else { None };
        self.relay(&caller, asked.node.clone(), Question::Tiers(asked), pick).await
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
