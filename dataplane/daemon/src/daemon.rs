//! The whole program in order: check, take what must be ours alone, start the node, serve, stop.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use marchproxy_cpu::set_current_affinity;
use marchproxy_engine::Budget;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::agent::{Agent, SharedState};
use crate::backends::Backends;
use crate::config::{Config, ConfigError, CoreChoice};
use crate::host::{Host, HostError, StateError, StateLock, look};
use crate::http::{self, HttpError, Pages};
use crate::local::{self, Operate, SocketError};
use crate::node::{Place, Settings};
use crate::runtime::{Runtime, Stop};
use crate::samples;

/// A stop that takes longer than this is ended by force.
const STOP: Duration = Duration::from_secs(5);
/// Exit code of a stop by force.
const FORCED: i32 = 3;

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The machine, or the cores.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The metrics' address.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The local socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The backend, or the node on it.
    #[error("{0}")]
    Backend(String),
    /// The agent's runtime, or signals.
    #[error("{doing}: {source}")]
    Kernel {
        /// What was tried.
        doing: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// What must be ours alone.
struct Taken {
    _lock: StateLock,
    http: TcpListener,
    socket: UnixListener,
}

impl Taken {
    fn take(config: &Config) -> Result<Self, DaemonError> {
        let lock = StateLock::take(&config.state_dir)?;
        let http = http::bind(config.metrics)?;
        let socket = local::bind(&config.socket)?;
        Ok(Self { _lock: lock, http, socket })
    }
}

/// Runs the daemon until a signal ends it.
pub fn run(config: Config) -> Result<(), DaemonError> {
    let taken = Taken::take(&config)?;
    let host = look(&config)?;
    for line in host.topology_lines() {
        tracing::info!("{line}");
    }
    if config.insecure {
        tracing::warn!("insecure: no TLS towards control; everybody on the way reads and changes what this node runs");
    }
    // Every thread started from here on inherits this, until a worker pins itself.
    if let Err(error) = set_current_affinity(&host.decision.others) {
        tracing::warn!("the agent could not be kept off the worker cores: {error}");
    }
    let socket = config.socket.clone();
    let config = Arc::new(config);
    let settings = settings(&config, &host);
    let result = Backends::start(&config, &host, settings)
        .map_err(DaemonError::Backend)
        .and_then(|backends| serve(config, host, backends, taken));
    remove(&socket);
    result
}

fn serve(config: Arc<Config>, host: Host, backends: Backends, taken: Taken) -> Result<(), DaemonError> {
    let node = Arc::new(backends);
    tracing::info!(
        "marchproxy-dataplane {}: backend {}, {} worker(s), metrics on {}, socket {}",
        env!("CARGO_PKG_VERSION"),
        node.backend(),
        node.workers(),
        taken.http.local_addr().unwrap_or(config.metrics),
        config.socket.display()
    );
    let kernel = |doing| move |source| DaemonError::Kernel { doing, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("agent")
        .build()
        .map_err(kernel("starting the agent"))?;
    let served = runtime.block_on(agent(config, host, node.clone(), taken)).map_err(kernel("waiting for signals"));
    // Questions still being answered must not keep a stopped node alive.
    runtime.shutdown_timeout(Duration::from_millis(200));
    tracing::debug!("the agent is gone");
    served?;
    node.stop();
    tracing::info!("stopped");
    Ok(())
}

fn settings(config: &Config, host: &Host) -> Settings {
    Settings {
        cores: host.decision.workers.clone(),
        place: Place {
            machine: host.machine.clone(),
            named: matches!(config.workers, CoreChoice::List(_)),
            force_remote: config.force_remote_cores,
        },
        sessions: config.sessions,
        hugepages: config.memory.hugepages,
        idle: config.idle,
        budget: Budget::default(),
    }
}

/// Everything asynchronous; returns after the first SIGTERM or SIGINT.
async fn agent(config: Arc<Config>, host: Host, node: Arc<Backends>, taken: Taken) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let runtime: Arc<dyn Runtime> = node;
    let (stop, stopping) = watch::channel(false);
    let state = SharedState::default();
    let last_good = host.last_good.unwrap_or_else(|error| {
        tracing::error!("last good tables refused: {error}; waiting for control");
        state.refuse_last_good(error.to_string());
        None
    });
    tokio::spawn(samples::log(runtime.clone(), stopping.clone()));
    let operate = Operate::new(&config.node, runtime.clone());
    let pages = Pages::new(runtime.clone(), state.clone(), config.metrics_rules);
    let servers = [
        tokio::spawn(http::serve(taken.http, pages, stopping.clone())),
        tokio::spawn(local::serve(taken.socket, config.socket.clone(), operate.clone(), stopping.clone())),
        tokio::spawn(Agent::new(config, runtime, operate, state).run(last_good, stopping)),
    ];
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping; a second signal ends at once"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping; a second signal ends at once"),
    }
    // Its own thread and runtime: the stop itself blocks.
    std::thread::spawn(move || force_after_second_signal(terminate, interrupt));
    stop.send_replace(true);
    // Open connections (a scraper's keep-alive, a `marchctl top`) are not waited for long; the last good tables on their way to disk are.
    for ((name, patience), server) in
        [("metrics", 300), ("local socket", 300), ("agent", 2000)].into_iter().zip(servers)
    {
        if tokio::time::timeout(Duration::from_millis(patience), server).await.is_err() {
            tracing::debug!("{name}: not waited for any longer");
        }
    }
    Ok(())
}

/// Ends the process when a second signal comes, or when stopping takes too long.
fn force_after_second_signal(mut terminate: tokio::signal::unix::Signal, mut interrupt: tokio::signal::unix::Signal) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        tokio::select! {
            _ = terminate.recv() => tracing::warn!("second SIGTERM: ending at once"),
            _ = interrupt.recv() => tracing::warn!("second SIGINT: ending at once"),
            () = tokio::time::sleep(STOP) => tracing::error!("not stopped after {} s: ending by force", STOP.as_secs()),
        }
    });
    std::process::exit(FORCED);
}

/// The socket of a start that failed, or of a server that was not waited for.
fn remove(socket: &Path) {
    let _ = std::fs::remove_file(socket);
}
