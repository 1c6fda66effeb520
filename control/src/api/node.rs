//! NodeService: the door to the hub.

use std::time::Duration;

use marchproxy_proto::v1;
use tonic::{Request, Response, Status, Streaming};
use v1::from_node::Message;

use super::auth::Caller;
use super::errors;
use super::hub::{self, Hub};
use super::state::Control;
use crate::store::ConfirmState;

/// How long a node may take to say hello.
const HELLO: Duration = Duration::from_secs(10);

/// Serves NodeService.
#[derive(Clone, Debug)]
pub struct NodeApi {
    control: Control,
}

impl NodeApi {
    /// Over what all services share.
    pub fn new(control: Control) -> NodeApi {
        NodeApi { control }
    }

    fn hub(&self) -> &Hub {
        &self.control.hub
    }

    /// Whether the version that a node runs until somebody confirms it has been confirmed while it was away.
    async fn confirmed(&self, caller: &Caller, version: u64) -> bool {
        if version == 0 {
            return false;
        }
        match self.control.store.row(&caller.identity.cluster, version).await {
            Ok(row) => row.and_then(|row| row.confirmation).is_some_and(|found| found.state == ConfirmState::Confirmed),
            // The node returns to its former tables when its time is up, and is offered the newest ones then.
            Err(why) => {
                tracing::warn!(node = %caller.identity, version, %why, "cannot look whether its version was confirmed");
                false
            }
        }
    }
}

#[tonic::async_trait]
impl v1::node_service_server::NodeService for NodeApi {
    type AttachStream = hub::Outbound;

    async fn attach(&self, request: Request<Streaming<v1::FromNode>>) -> Result<Response<Self::AttachStream>, Status> {
        let caller = Caller::of(&request)?;
        let from = request.remote_addr().map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(HELLO, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello within 10 s"))??;
        let Some(v1::FromNode { message: Some(Message::Hello(hello)) }) = first else {
            return Err(errors::bad_field("message", "something else", "hello, as the first message"));
        };
        // Without the database the node stays attached all the same, and gets its version when the database is back.
        if let Err(why) = self.control.sync(&caller.identity.cluster).await {
            tracing::warn!(node = %caller.identity, why = why.message(), "attached while the newest version can't be loaded");
        }
        let confirmed = self.confirmed(&caller, hello.unconfirmed_version).await;
        Ok(Response::new(self.hub().attach(caller, &from, &hello, confirmed, inbound)))
    }
}
