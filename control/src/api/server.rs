//! One listener with every service behind one check.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use marchproxy_proto::v1::config_service_server::ConfigServiceServer;
use marchproxy_proto::v1::enrol_service_server::EnrolServiceServer;
use marchproxy_proto::v1::node_service_server::NodeServiceServer;
use marchproxy_proto::v1::operate_service_server::OperateServiceServer;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::auth::AuthLayer;
use super::config::ConfigApi;
use super::enrol::EnrolApi;
use super::node::NodeApi;
use super::operate::OperateApi;
use super::state::{Control, StartError};

/// Largest message either way. Larger documents come in chunks, larger tables in groups.
pub const MESSAGE_MAX: usize = 64 << 20;
/// HTTP/2 pings, so that a peer that vanished is noticed.
pub const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long a ping's answer, or a TLS handshake, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Flow-control windows: a group should cross in few round trips.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How long open calls may take to end after a signal.
const DRAIN: Duration = Duration::from_secs(5);

/// A bound listener.
pub struct Listener {
    incoming: TcpIncoming,
    address: SocketAddr,
}

impl Listener {
    /// Binds the address.
    pub fn bind(listen: SocketAddr) -> Result<Listener, StartError> {
        let failed = |why| StartError::Listen { listen, option: "--listen", why };
        let incoming = TcpIncoming::bind(listen).map_err(failed)?.with_nodelay(Some(true));
        let address = incoming.local_addr().map_err(failed)?;
        Ok(Listener { incoming, address })
    }

    /// The address bound, with the port the system chose where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves until `stop` is done, then ends streams and lets calls finish for a moment.
pub async fn serve(control: Control, listener: Listener, stop: impl Future<Output = ()>) -> Result<(), StartError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    for service in ["ConfigService", "NodeService", "EnrolService", "OperateService"] {
        let name = format!("marchproxy.v1.{service}");
        health.set_service_status(name, tonic_health::ServingStatus::Serving).await;
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(marchproxy_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|why| StartError::Serve(why.to_string()))?;
    let config = ConfigServiceServer::new(ConfigApi::new(control.clone()))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let operate = OperateServiceServer::new(OperateApi::new(control.clone()))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let node = NodeServiceServer::new(NodeApi::new(control.clone()))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    // Small on purpose: Enrol is open to whoever reaches the port.
    let enrol = EnrolServiceServer::new(EnrolApi::new(control.clone())).max_decoding_message_size(64 << 10);

    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let signal = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let serving = builder(&control)?
        .layer(AuthLayer::new(control.store.clone(), control.settings.insecure))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(config)
        .add_service(operate)
        .add_service(node)
        .add_service(enrol)
        .serve_with_incoming_shutdown(listener.incoming, signal);
    let mut serving = std::pin::pin!(serving);
    let poll = tokio::spawn(control.clone().poll());
    let served = tokio::select! {
        ended = &mut serving => ended,
        () = stop => {
            health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
            stopping.send_replace(true);
            control.hub.close();
            tokio::time::timeout(DRAIN, serving).await.unwrap_or(Ok(()))
        }
    };
    control.hub.close();
    poll.abort();
    served.map_err(|why| StartError::Serve(chain(&why)))
}

fn builder(control: &Control) -> Result<Server, StartError> {
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(PATIENCE))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    if control.settings.insecure {
        return Ok(server);
    }
    let own = control.authority.server(&control.settings.all_server_names())?;
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(own.certificate_pem, own.key_pem))
        .client_ca_root(Certificate::from_pem(control.authority.ca_pem()))
        // Whoever enrols has no certificate yet. All other calls are checked one by one.
        .client_auth_optional(true)
        .timeout(PATIENCE);
    server.tls_config(tls).map_err(|why| StartError::Serve(chain(&why)))
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(why) = cause {
        text.push_str(": ");
        text.push_str(&why.to_string());
        cause = why.source();
    }
    text
}
