//! Channels to control and to a node's local socket.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use marchproxy_proto::v1::config_service_client::ConfigServiceClient;
use marchproxy_proto::v1::enrol_service_client::EnrolServiceClient;
use marchproxy_proto::v1::operate_service_client::OperateServiceClient;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::failure::{Failure, from_transport};
use crate::settings::{Credentials, Effective};
use marchproxy_control::api::{CLUSTER_HEADER, KEEPALIVE, MESSAGE_MAX};

/// How long to knock.
const CONNECT: Duration = Duration::from_secs(3);
/// Refusals list what is wrong, field by field.
const HEADERS_MAX: u32 = 256 << 10;

/// A channel that says which cluster is meant, for a control without certificates.
pub type Connection = InterceptedService<Channel, Cluster>;

/// Adds the cluster to each call.
#[derive(Clone)]
pub struct Cluster(Option<MetadataValue<tonic::metadata::Ascii>>);

impl Interceptor for Cluster {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(cluster) = &self.0 {
            request.metadata_mut().insert(CLUSTER_HEADER, cluster.clone());
        }
        Ok(request)
    }
}

/// Connects to control.
pub async fn control(settings: &Effective) -> Result<Connection, Failure> {
    if settings.control.starts_with("https://") && settings.credentials.as_ref().is_none_or(|c| c.own.is_none()) {
        return Err(Failure::refused(
            "no operator's certificate: give --ca, --cert and --key, or put them into /etc/marchproxy as ca.pem, operator.pem \
             and operator.key, or enrol (`marchctl enrol FILE`); on control's own host, root uses the first operator's",
        ));
    }
    if let Some(credentials) = &settings.credentials {
        credentials.check()?;
    }
    channel(&settings.control, settings.credentials.as_ref())
        .await
        .map(|channel| InterceptedService::new(channel, Cluster(settings.cluster.parse().ok())))
}

async fn channel(url: &str, credentials: Option<&Credentials>) -> Result<Channel, Failure> {
    let bad = |why: tonic::transport::Error| from_transport(&why, url);
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|why| Failure::refused(format!("--control {url:?} is no URL: {why}; allowed is https://HOST:PORT")))?
        .connect_timeout(CONNECT)
        .http2_max_header_list_size(HEADERS_MAX)
        .http2_keep_alive_interval(KEEPALIVE)
        .user_agent(concat!("marchctl/", env!("CARGO_PKG_VERSION")))
        .map_err(bad)?;
    if let Some(credentials) = credentials {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&credentials.ca));
        if let Some((certificate, key)) = &credentials.own {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        endpoint = endpoint.tls_config(tls).map_err(bad)?;
    }
    endpoint.connect().await.map_err(bad)
}

/// ConfigService.
pub async fn config(settings: &Effective) -> Result<ConfigServiceClient<Connection>, Failure> {
    let client = ConfigServiceClient::new(control(settings).await?);
    Ok(client.max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX))
}

/// EnrolService.
pub async fn enrol(settings: &Effective) -> Result<EnrolServiceClient<Connection>, Failure> {
    Ok(EnrolServiceClient::new(control(settings).await?))
}

/// EnrolService as somebody without a certificate sees it.
pub async fn enrol_as_nobody(url: &str, ca: &str) -> Result<EnrolServiceClient<Channel>, Failure> {
    let credentials = Credentials { ca: ca.to_owned(), own: None };
    let credentials = url.starts_with("https://").then_some(&credentials);
    Ok(EnrolServiceClient::new(channel(url, credentials).await?))
}

/// OperateService of control.
pub async fn operate(settings: &Effective) -> Result<OperateServiceClient<Connection>, Failure> {
    let client = OperateServiceClient::new(control(settings).await?);
    Ok(client.max_decoding_message_size(MESSAGE_MAX))
}

/// OperateService of the node on this host.
pub async fn socket(path: &Path) -> Result<OperateServiceClient<Connection>, Failure> {
    let target = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let target = target.clone();
        async move { UnixStream::connect(target).await.map(TokioIo::new) }
    });
    // The name is never looked up; it only fills the :authority of the calls.
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await.map_err(|why| {
        let why = std::error::Error::source(&why).map_or_else(|| why.to_string(), ToString::to_string);
        Failure::Unreachable(format!(
            "cannot reach the node's socket {}: {why}; is marchproxy-dataplane running here, and may you open its socket?",
            path.display()
        ))
    })?;
    let client = OperateServiceClient::new(InterceptedService::new(channel, Cluster(None)));
    Ok(client.max_decoding_message_size(MESSAGE_MAX))
}
