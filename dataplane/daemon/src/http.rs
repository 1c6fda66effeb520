//! Metrics and health over HTTP: `/metrics`, `/healthz`, `/readyz`.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

use marchproxy_metrics::Format;

use crate::agent::SharedState;
use crate::health::{is_ready, missing, silent};
use crate::metrics::{Observation, render};
use crate::pulse::Pulse;
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

/// Between two looks at the packet threads: a fraction of [`crate::pulse::SILENCE`].
const LOOK: Duration = Duration::from_secs(1);

/// What the pages are made from.
#[derive(Clone, Debug)]
pub struct Pages {
    runtime: Arc<dyn Runtime>,
    agent: SharedState,
    pulse: Pulse,
    rules: bool,
}

impl Pages {
    /// Pages of a node; with `rules`, rules have series of their own.
    pub fn new(runtime: Arc<dyn Runtime>, agent: SharedState, rules: bool) -> Self {
        Self { runtime, agent, pulse: Pulse::default(), rules }
    }
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
    let watch = tokio::spawn(watch_threads(pages.clone()));
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthy))
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
    watch.abort();
    if let Err(error) = served {
        tracing::error!("metrics: {error}");
    }
}

/// So that a thread that stopped is known before anybody asks.
async fn watch_threads(pages: Pages) {
    loop {
        pages.pulse.look(&*pages.runtime);
        tokio::time::sleep(LOOK).await;
    }
}

async fn metrics(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
    let format = Format::accepted(&accept.join(","));
    let made = tokio::task::spawn_blocking(move || {
        render(Observation::of(&*pages.runtime, &pages.agent, &pages.pulse, pages.rules), format)
    });
    match made.await {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn healthy(State(pages): State<Pages>) -> (StatusCode, String) {
    let silent = silent(&pages.pulse.look(&*pages.runtime));
    if silent.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not healthy: {}\n", silent.join("; ")))
    }
}

async fn ready(State(pages): State<Pages>) -> (StatusCode, String) {
    let runtime = pages.runtime.clone();
    // Asks the devices.
    let Ok(stats) = tokio::task::spawn_blocking(move || runtime.stats()).await else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "not ready: the counters could not be read\n".to_owned());
    };
    let (running, beats) = (pages.runtime.running(), pages.pulse.look(&*pages.runtime));
    if is_ready(&running, &stats.ports, &beats) {
        return (StatusCode::OK, format!("ready: version {}, generation {}\n", running.version, running.generation));
    }
    let missing = missing(&running, &stats.ports, &beats, &pages.agent.read());
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join("; ")))
}
