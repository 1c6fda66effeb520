//! The agent: the node's side of control. Enrols, keeps one stream open, takes tables, answers questions; without control the
//! node runs on, and starts on its last good tables.

mod backoff;
mod confirm;
mod connect;
mod identity;
mod push;
mod session;
mod status;

use std::sync::Arc;

use marchproxy_proto::v1;
use tokio::sync::watch;

pub use connect::ConnectError;
pub use identity::IdentityError;
pub use status::{AgentState, LastGoodState, SharedState, Timings};

use self::backoff::Backoff;
use self::push::Pusher;
use self::session::Ended;
use crate::config::Config;
use crate::last_good::{LastGood, Store};
use crate::local::Operate;
use crate::runtime::Runtime;

/// The agent of one node.
#[derive(Debug)]
pub struct Agent {
    config: Arc<Config>,
    runtime: Arc<dyn Runtime>,
    operate: Operate,
    pusher: Pusher,
    state: SharedState,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum Away {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Ended(#[from] Ended),
}

impl Agent {
    /// An agent for `runtime`.
    pub fn new(config: Arc<Config>, runtime: Arc<dyn Runtime>, operate: Operate, state: SharedState) -> Self {
        let store = Store::new(&config.state_dir, &config.cluster, &config.node);
        let pusher = Pusher::new(runtime.clone(), store, state.clone());
        Self { config, runtime, operate, pusher, state }
    }

    /// Brings the last good tables up (if there are any), then keeps the stream to control until `stop` says so.
    pub async fn run(mut self, last_good: Option<LastGood>, stop: watch::Receiver<bool>) {
        self.follow_control(last_good, stop).await;
        self.pusher.saved().await;
    }

    async fn follow_control(&mut self, last_good: Option<LastGood>, mut stop: watch::Receiver<bool>) {
        if let Some(tables) = last_good {
            self.pusher.restore(tables).await;
        }
        let mut backoff = Backoff::default();
        loop {
            let away = tokio::select! {
                away = self.connected(&mut backoff) => away,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let reason = away.to_string();
            let news = self.state.read().last_error != reason;
            self.state.update(|state| {
                state.connected = false;
                state.last_error.clone_from(&reason);
            });
            let wait = backoff.next_wait();
            if news {
                tracing::warn!(
                    "no stream to control: {reason}; the node runs on, next attempt in {} ms",
                    wait.as_millis()
                );
            } else {
                tracing::debug!("no stream to control: {reason}; next attempt in {} ms", wait.as_millis());
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// One connection from its first packet to its last.
    async fn connected(&mut self, backoff: &mut Backoff) -> Away {
        match self.attach().await {
            Ok((inbound, outbound)) => session::run(self, inbound, outbound, backoff).await.into(),
            Err(away) => away,
        }
    }

    async fn attach(&mut self) -> Result<(session::Inbound, session::Outbound), Away> {
        let tls = if self.config.insecure { None } else { Some(identity::tls(&self.config).await?) };
        let channel = connect::connect(&self.config, tls).await?;
        Ok(session::open(&self.config, channel, self.hello()).await?)
    }

    fn hello(&self) -> v1::Hello {
        let running = self.runtime.running();
        let state = self.state.read();
        v1::Hello {
            software: env!("CARGO_PKG_VERSION").into(),
            backend: self.runtime.backend().into(),
            workers: self.runtime.workers(),
            version: running.version,
            content_hash: running.content_hash,
            generation: running.generation,
            unconfirmed_version: state.unconfirmed,
            reverted_version: state.reverted,
        }
    }
}
