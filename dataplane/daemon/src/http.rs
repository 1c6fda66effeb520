//! Metrics and health over HTTP: `/metrics`, `/healthz`, `/readyz`.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

use crate::agent::{LastGoodState, SharedState};
use marchproxy_proto::v1;

use crate::metrics::{CONTENT_TYPE, Observation, is_ready, render};
use crate::runtime::Runtime;

/// Why the port can't be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Somebody has it.
    #[error(
        "metrics {address}: the address is in use, perhaps by another marchproxy-dataplane; stop that, or give this one \
         another --metrics"
    )]
    Taken {
        /// The address.
        address: SocketAddr,
    },
    /// The kernel refused.
    #[error("metrics {address}: {source}")]
    Kernel {
        /// The address.
        address: SocketAddr,
        /// The kernel's reason.
        source: std::io::Error,
    },
}

/// What the pages are made from.
#[derive(Clone, Debug)]
pub struct Pages {
    /// The node.
    pub runtime: Arc<dyn Runtime>,
    /// The agent.
    pub agent: SharedState,
}

/// Takes the address before anything else starts, so that a second daemon fails early.
pub fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    let kernel = |source: std::io::Error| {
        if source.kind() == std::io::ErrorKind::AddrInUse {
            HttpError::Taken { address }
        } else {
            HttpError::Kernel { address, source }
        }
    };
    let listener = TcpListener::bind(address).map_err(kernel)?;
    listener.set_nonblocking(true).map_err(kernel)?;
    Ok(listener)
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, pages: Pages, mut stop: watch::Receiver<bool>) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(pages);
    let served = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => {
            let stopped = async move {
                let _ = stop.wait_for(|stop| *stop).await;
            };
            axum::serve(listener, router).with_graceful_shutdown(stopped).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!("metrics: {error}");
    }
}

async fn metrics(State(pages): State<Pages>) -> Response {
    let made = tokio::task::spawn_blocking(move || {
        render(&Observation {
            stats: pages.runtime.stats(),
            // A slow path that does not answer has no backends to show.
            backends: pages.runtime.backends(&v1::BackendsRequest::default()).unwrap_or_default().backends,
            running: pages.runtime.running(),
            agent: pages.agent.read(),
            backend: pages.runtime.backend(),
        })
    });
    match made.await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn ready(State(pages): State<Pages>) -> (StatusCode, String) {
    let running = pages.runtime.running();
    if is_ready(&running) {
        return (StatusCode::OK, format!("ready: version {}, generation {}\n", running.version, running.generation));
    }
    let agent = pages.agent.read();
    let mut reasons = vec![if running.version == 0 {
        "no tables yet".to_owned()
    } else {
        format!("not every worker runs generation {}", running.generation)
    }];
    if let LastGoodState::Refused { reason } = &agent.last_good {
        reasons.push(format!("last good tables refused: {reason}"));
    }
    for (what, reason) in [("control", &agent.last_error), ("last push refused", &agent.last_refusal)] {
        if !reason.is_empty() {
            reasons.push(format!("{what}: {reason}"));
        }
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", reasons.join("; ")))
}
