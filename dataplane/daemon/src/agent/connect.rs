//! The connection to control.

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::config::Config;

/// Long enough for a slow link, short enough that a dead address is noticed.
const CONNECT: Duration = Duration::from_secs(5);
/// A silent peer is given up after interval + timeout.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Names of node and cluster for a control without certificates (`--insecure`); with certificates it reads those.
const NODE_HEADER: &str = "marchproxy-node";
const CLUSTER_HEADER: &str = "marchproxy-cluster";

/// Why control was not reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is no URI.
    #[error("control.address {address:?}: {source}")]
    Address {
        /// The address.
        address: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// Certificates or keys are not usable.
    #[error("certificates for control: {}", causes(.0))]
    Tls(tonic::transport::Error),
    /// Nobody answers, or not the one we trust.
    #[error("control at {address}: {}", causes(.source))]
    Unreachable {
        /// The address.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// Somebody accepts the connection and says nothing.
    #[error("control at {address}: accepted the connection but did not answer in time; is this the gRPC port?")]
    Silent {
        /// The address.
        address: String,
    },
}

/// Connects, over TLS when `tls` is given.
pub async fn connect(config: &Config, tls: Option<ClientTlsConfig>) -> Result<Channel, ConnectError> {
    let address = &config.control.address;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .map_err(|source| ConnectError::Address { address: address.clone(), source })?
        .connect_timeout(CONNECT)
        .tcp_keepalive(Some(KEEPALIVE))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls).map_err(ConnectError::Tls)?;
    }
    let connected = tokio::time::timeout(2 * CONNECT, endpoint.connect());
    match connected.await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(source)) => Err(ConnectError::Unreachable { address: address.clone(), source }),
        // `connect_timeout` covers TCP alone; this one a peer that accepts and never speaks.
        Err(_) => Err(ConnectError::Silent { address: address.clone() }),
    }
}

/// Says who we are, for a control that runs without certificates.
pub fn name_ourselves(config: &Config, metadata: &mut MetadataMap) {
    for (header, value) in [(NODE_HEADER, &config.node), (CLUSTER_HEADER, &config.cluster)] {
        if let Ok(value) = MetadataValue::<Ascii>::try_from(value.as_str()) {
            metadata.insert(header, value);
        }
    }
}

/// An error and everything behind it: tonic's own text is only "transport error".
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}
