//! ConfigService: documents and their versions.

use std::sync::Arc;
use std::time::Instant;

use marchproxy_proto::v1;
use tonic::{Request, Response, Status, Streaming};

use super::apply::{Change, Wish, apply, collect, named_cluster};
use super::auth::Caller;
use super::confirm::confirm;
use super::state::{Control, check, version_info};
use super::{errors, watch};
use crate::model;

/// Versions that History lists unless asked for more or fewer.
const HISTORY: u32 = 100;

/// Serves ConfigService.
#[derive(Clone, Debug)]
pub struct ConfigApi {
    control: Control,
}

impl ConfigApi {
    /// Over what all services share.
    pub fn new(control: Control) -> ConfigApi {
        ConfigApi { control }
    }
}

#[tonic::async_trait]
impl v1::config_service_server::ConfigService for ConfigApi {
    async fn validate(&self, request: Request<v1::ValidateRequest>) -> Result<Response<v1::ValidateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut document = required(request.into_inner().document)?;
        document.cluster = caller.cluster(&document.cluster)?;
        let checked = check(Arc::new(document)).await?;
        Ok(Response::new(v1::ValidateResponse { warnings: checked.warnings, content_hash: checked.content_hash }))
    }

    async fn apply(&self, request: Request<Streaming<v1::ApplyChunk>>) -> Result<Response<v1::ApplyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let (header, wish) = collect(request.into_inner()).await?;
        let received = Instant::now();
        let wish = wish.ok_or_else(|| errors::bad_field("content", "nothing", "a document or changes"))?;
        let inside = match &wish {
            Wish::Document(document) => Some(document),
            Wish::Changes(changes) => changes.upsert.as_ref(),
            Wish::Version(_) => None,
        };
        let cluster = caller.cluster(named_cluster(&header.cluster, inside)?)?;
        let change = Change {
            cluster,
            caller,
            wish,
            expected_version: header.expected_version,
            request_id: header.request_id,
            message: header.message,
            validate_only: header.validate_only,
            allow_port_restart: header.allow_port_restart,
            confirm_within_s: header.confirm_within_s,
            together: header.together,
            received,
        };
        apply(&self.control, change).await.map(Response::new)
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let stored = self.control.stored(&caller.cluster(&asked.cluster)?, asked.version).await?;
        Ok(Response::new(v1::GetResponse {
            document: Some(stored.document),
            version: stored.version,
            content_hash: stored.content_hash,
        }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let cluster = caller.cluster(&asked.cluster)?;
        // The kind first: a wrong one is wrong whether or not there is a document.
        let pick = Kind::of(&asked.kind)?;
        let stored = self.control.stored(&cluster, 0).await?;
        Ok(Response::new(v1::ListResponse { objects: Some(pick.only(stored.document)), version: stored.version }))
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Result<Response<v1::HistoryResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let limit = if asked.limit == 0 { HISTORY } else { asked.limit };
        let rows =
            self.control.store.history(&caller.cluster(&asked.cluster)?, limit).await.map_err(|e| errors::store(&e))?;
        Ok(Response::new(v1::HistoryResponse { versions: rows.into_iter().map(version_info).collect() }))
    }

    async fn diff(&self, request: Request<v1::DiffRequest>) -> Result<Response<v1::DiffResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let cluster = caller.cluster(&asked.cluster)?;
        let to = match asked.to {
            Some(v1::diff_request::To::ToVersion(version)) => self.control.stored(&cluster, version).await?.document,
            Some(v1::diff_request::To::Document(mut document)) => {
                document.cluster = caller.cluster(named_cluster(&cluster, Some(&document))?)?;
                check(Arc::new(document.clone())).await?;
                document
            }
            None => return Err(errors::bad_field("to", "nothing", "a version or a document")),
        };
        let from = match asked.from_version {
            0 => super::state::base(&self.control, &cluster).await?,
            version => self.control.stored(&cluster, version).await?.document,
        };
        let difference = tokio::task::spawn_blocking(move || model::diff(&from, &to))
            .await
            .map_err(|_| Status::internal("comparing ended unexpectedly; please report these documents"))?;
        Ok(Response::new(difference))
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        if asked.to_version == 0 {
            return Err(errors::bad_field("to_version", 0, "a version of `marchctl history`"));
        }
        let message =
            if asked.message.is_empty() { format!("rollback to version {}", asked.to_version) } else { asked.message };
        let change = Change {
            cluster: caller.cluster(&asked.cluster)?,
            caller,
            wish: Wish::Version(asked.to_version),
            expected_version: asked.expected_version,
            request_id: asked.request_id,
            message,
            validate_only: false,
            allow_port_restart: asked.allow_port_restart,
            confirm_within_s: asked.confirm_within_s,
            together: asked.together,
            received: Instant::now(),
        };
        apply(&self.control, change).await.map(Response::new)
    }

    async fn confirm(&self, request: Request<v1::ConfirmRequest>) -> Result<Response<v1::ConfirmResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let cluster = caller.cluster(&asked.cluster)?;
        confirm(&self.control, &cluster, asked.version, &caller).await.map(Response::new)
    }

    type WatchStream = watch::Events;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(&request)?;
        let asked = request.into_inner();
        let cluster = caller.cluster(&asked.cluster)?;
        watch::start(&self.control, cluster, &asked.resume_token).await.map(Response::new)
    }
}

fn required(document: Option<v1::Document>) -> Result<v1::Document, Status> {
    document.ok_or_else(|| errors::bad_field("document", "nothing", "a document"))
}

/// A kind of object.
#[derive(Clone, Copy)]
enum Kind {
    Node,
    Interface,
    Route,
    Rule,
    Service,
    Policer,
    Qos,
    DscpMap,
}

impl Kind {
    fn of(word: &str) -> Result<Kind, Status> {
        Ok(match word {
            "node" => Kind::Node,
            "interface" => Kind::Interface,
            "route" => Kind::Route,
            "rule" => Kind::Rule,
            "service" => Kind::Service,
            "policer" => Kind::Policer,
            "qos" => Kind::Qos,
            "dscp_map" => Kind::DscpMap,
            other => {
                let allowed = "node, interface, route, rule, service, policer, qos, dscp_map";
                return Err(errors::bad_field("kind", format!("{other:?}"), allowed));
            }
        })
    }

    fn only(self, all: v1::Document) -> v1::Document {
        let mut one = v1::Document { api_version: all.api_version, cluster: all.cluster, ..v1::Document::default() };
        match self {
            Kind::Node => one.nodes = all.nodes,
            Kind::Interface => one.interfaces = all.interfaces,
            Kind::Route => one.routes = all.routes,
            Kind::Rule => one.rules = all.rules,
            Kind::Service => one.services = all.services,
            Kind::Policer => one.policers = all.policers,
            Kind::Qos => one.qos = all.qos,
            Kind::DscpMap => one.dscp_maps = all.dscp_maps,
        }
        one
    }
}
