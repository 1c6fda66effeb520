//! Metrics and health over HTTP: `/metrics`, `/healthz`, `/readyz`.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use marchproxy_metrics::Format;

use super::metrics::{Observation, render};
use super::state::{Control, StartError};

/// The database gets so long to answer before control is not ready.
const PATIENCE: Duration = Duration::from_secs(2);
/// The task that follows the database goes round at least so often, the configured pause and a slow database included.
const SILENCE: Duration = Duration::from_secs(30);

/// Takes the address before anything else starts, so that a second control fails early.
pub fn bind(listen: SocketAddr) -> Result<TcpListener, StartError> {
    let failed = |why| StartError::Listen { listen, option: "--http", why };
    let listener = TcpListener::bind(listen).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Serves until the hub closes.
pub async fn serve(listener: TcpListener, control: Control) {
    let mut closing = control.hub.closing();
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .with_state(control);
    let stopped = async move {
        let _ = closing.wait_for(|closing| *closing).await;
    };
    let served = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => axum::serve(listener, router).with_graceful_shutdown(stopped).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!("metrics: {error}");
    }
}

async fn metrics(State(control): State<Control>, headers: HeaderMap) -> Response {
    let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let format = Format::accepted(&accept.join(","));
    let page = render(Observation::of(&control).await, format);
    ([(header::CONTENT_TYPE, format.content_type())], page).into_response()
}

async fn healthy(State(control): State<Control>) -> (StatusCode, String) {
    let silent = control.meters.looked();
    if silent < SILENCE + control.settings.timings().poll {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let said = format!("not healthy: the task that follows the database stands still for {} s\n", silent.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, said)
}

async fn ready(State(control): State<Control>) -> (StatusCode, String) {
    let reason = if *control.hub.closing().borrow() {
        "control is stopping".to_owned()
    } else {
        match tokio::time::timeout(PATIENCE, control.store.history("default", 1)).await {
            Ok(Ok(_)) => return (StatusCode::OK, "ready\n".to_owned()),
            Ok(Err(why)) => format!("database: {why}"),
            Err(_) => format!("database: no answer in {} s", PATIENCE.as_secs()),
        }
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n"))
}
