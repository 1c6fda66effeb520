//! Who calls, and may they: one layer before every service, so that no method can forget to ask.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use tonic::body::Body;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::errors;
use crate::pki::{Identity, Peer, Role};
use crate::store::Store;

/// Name of the node, where there are no certificates (`--insecure`).
pub const NODE_HEADER: &str = "marchproxy-node";
/// The caller's cluster, where there are no certificates (`--insecure`).
pub const CLUSTER_HEADER: &str = "marchproxy-cluster";

/// Who calls. Put into every request that needed a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The role and its cluster.
    pub identity: Identity,
    /// Serial number of the certificate; none with `--insecure`.
    pub serial: Option<String>,
}

impl Caller {
    /// The caller of a request that passed [`AuthLayer`].
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Caller, Status> {
        request
            .extensions()
            .get::<Caller>()
            .cloned()
            .ok_or_else(|| Status::internal("a call passed without its caller being looked at; please report this"))
    }

    /// The cluster asked for, if the caller belongs to it. Empty means `default`.
    pub fn cluster(&self, asked: &str) -> Result<String, Status> {
        let asked = if asked.is_empty() { "default" } else { asked };
        // Without certificates nobody belongs anywhere.
        if self.serial.is_none() || asked == self.identity.cluster {
            return Ok(asked.to_owned());
        }
        Err(errors::status(
            Code::PermissionDenied,
            "OTHER_CLUSTER",
            format!("{} asks for cluster {asked}: a role is valid in its own cluster only", self.identity),
            &[("cluster", asked.to_owned())],
        ))
    }

    /// The name in history and audit.
    pub fn author(&self) -> &str {
        &self.identity.name
    }
}

/// What a path asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Anybody who reaches the port.
    Nothing,
    /// Any valid role.
    AnyRole,
    /// This role.
    Only(Role),
}

/// The one table of who may call what. What isn't listed needs a role, whatever it is.
fn need(path: &str) -> Need {
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    match (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) {
        // Enrolment is how one gets a certificate; health says up or down to load balancers and supervisors.
        ("marchproxy.v1.EnrolService", "Enrol") | ("grpc.health.v1.Health", _) => Need::Nothing,
        ("marchproxy.v1.NodeService", _) => Need::Only(Role::Node),
        ("marchproxy.v1.ConfigService" | "marchproxy.v1.OperateService" | "marchproxy.v1.EnrolService", _) => {
            Need::Only(Role::Operator)
        }
        _ => Need::AnyRole,
    }
}

/// Puts the check before every service.
#[derive(Clone, Debug)]
pub struct AuthLayer {
    store: Store,
    insecure: bool,
}

impl AuthLayer {
    /// Revocations are looked up in this store. `insecure`: no certificates, everybody is who they say.
    pub fn new(store: Store, insecure: bool) -> AuthLayer {
        AuthLayer { store, insecure }
    }

    async fn check(
        &self,
        path: &str,
        headers: &HeaderMap,
        certificate: Option<Vec<u8>>,
    ) -> Result<Option<Caller>, Status> {
        let need = need(path);
        if need == Need::Nothing {
            return Ok(None);
        }
        let caller = if self.insecure { unchecked(need, headers)? } else { self.certified(certificate).await? };
        match need {
            Need::Only(role) if role != caller.identity.role => Err(errors::status(
                Code::PermissionDenied,
                "WRONG_ROLE",
                format!("{} may not call {path}: it needs the role {role}", caller.identity),
                &[("needed", role.to_string()), ("found", caller.identity.role.to_string())],
            )),
            _ => Ok(Some(caller)),
        }
    }

    async fn certified(&self, certificate: Option<Vec<u8>>) -> Result<Caller, Status> {
        let Some(certificate) = certificate else {
            return Err(errors::status(
                Code::Unauthenticated,
                "NO_CERTIFICATE",
                "no client certificate: present one of this control's authority (operators: --cert and --key, or \
                 `marchctl enrol`; nodes: the enrolment file of `marchctl node token`)",
                &[],
            ));
        };
        let peer = Peer::from_certificate(&certificate)
            .map_err(|why| errors::status(Code::Unauthenticated, "NO_ROLE", why.to_string(), &[]))?;
        // A store that can't answer means nobody comes in: a revoked certificate must never pass.
        if self.store.is_revoked(&peer.serial).await.map_err(|e| errors::store(&e))? {
            return Err(revoked(&peer.identity, &peer.serial));
        }
        Ok(Caller { identity: peer.identity, serial: Some(peer.serial) })
    }
}

/// The refusal of a revoked certificate.
pub fn revoked(identity: &Identity, serial: &str) -> Status {
    errors::status(
        Code::Unauthenticated,
        "REVOKED",
        format!("the certificate {serial} of {identity} was revoked; enrol again with a new token"),
        &[("serial", serial.to_owned())],
    )
}

fn unchecked(need: Need, headers: &HeaderMap) -> Result<Caller, Status> {
    let text = |header: &str| headers.get(header).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (role, name) = match need {
        Need::Only(Role::Node) => (Role::Node, text(NODE_HEADER)),
        _ => (Role::Operator, "insecure"),
    };
    if name.is_empty() {
        let allowed = "the node's name (control runs with --insecure, so no certificate says it)";
        return Err(errors::bad_field(NODE_HEADER, "nothing", allowed));
    }
    let identity = Identity::new(text(CLUSTER_HEADER), role, name).map_err(|why| errors::pki(&why))?;
    Ok(Caller { identity, serial: None })
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth { inner, layer: self.clone() }
    }
}

/// A service behind the check.
#[derive(Clone, Debug)]
pub struct Auth<S> {
    inner: S,
    layer: AuthLayer,
}

impl<S> Service<Request<Body>> for Auth<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The instance that was polled ready must be the one that is called.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let layer = self.layer.clone();
        Box::pin(async move {
            let certificate = request
                .extensions()
                .get::<TlsConnectInfo<TcpConnectInfo>>()
                .and_then(TlsConnectInfo::peer_certs)
                .and_then(|chain| chain.first().map(|leaf| leaf.as_ref().to_vec()));
            let path = request.uri().path().to_owned();
            match layer.check(&path, request.headers(), certificate).await {
                Ok(caller) => {
                    if let Some(caller) = caller {
                        request.extensions_mut().insert(caller);
                    }
                    inner.call(request).await
                }
                Err(status) => {
                    tracing::info!(path, code = ?status.code(), why = status.message(), "call refused");
                    Ok(status.into_http())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_contract_needs_its_role() {
        let expected = |service: &str, method: &str| match (service, method) {
            ("EnrolService", "Enrol") => Need::Nothing,
            ("NodeService", _) => Need::Only(Role::Node),
            _ => Need::Only(Role::Operator),
        };
        let set: prost_types::FileDescriptorSet = prost::Message::decode(marchproxy_proto::DESCRIPTORS).unwrap();
        let mut seen = 0;
        for file in set.file.iter().filter(|file| file.package() == "marchproxy.v1") {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/marchproxy.v1.{}/{}", service.name(), method.name());
                    assert_eq!(need(&path), expected(service.name(), method.name()), "{path}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 15, "{seen}");
        assert_eq!(need("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"), Need::AnyRole);
        assert_eq!(need("/unknown.Service/Method"), Need::AnyRole);
        // Another method name than Enrol: its service's role.
        assert_eq!(need("/marchproxy.v1.EnrolService/Enrol/"), Need::Only(Role::Operator));
    }
}
