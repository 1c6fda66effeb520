//! Tables that run until somebody confirms them, and what runs again when nobody does.
//!
//! Whoever applies tables holds [`Confirming::hold`] from before the builder gets them until it is noted here what runs; so an offer and a revert
//! never cross. The time is the node's own monotonic clock, and whether there is a stream to control does not matter to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use marchproxy_engine::tables::RuleTables;
use marchproxy_proto::tables::EncodedGroup;
use marchproxy_proto::v1;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::AbortHandle;

use super::status::SharedState;
use crate::last_good::LastGood;
use crate::runtime::{Applied, Push, Runtime};

/// Between two attempts to return to the former tables.
const AGAIN: Duration = Duration::from_secs(1);

/// What runs, and what it waits for; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Confirming {
    held: Arc<Mutex<Held>>,
    runtime: Arc<dyn Runtime>,
    state: SharedState,
    /// The newest version that control said stays. Written as it is heard, while somebody else may hold the rest.
    heard: Arc<AtomicU64>,
    reverted: Arc<watch::Sender<v1::TablesReverted>>,
}

/// The tables that run.
#[derive(Debug, Default)]
pub(super) struct Held {
    current: Option<LastGood>,
    waiting: Option<Waiting>,
}

/// The current tables wait for confirmation.
#[derive(Debug)]
struct Waiting {
    version: u64,
    /// None: nothing ran before.
    former: Option<LastGood>,
    watchdog: AbortHandle,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.watchdog.abort();
    }
}

impl Held {
    /// The encoded groups of the tables that run, if these are they.
    pub(super) fn groups_of(&self, content_hash: &[u8]) -> Option<Arc<[EncodedGroup]>> {
        self.current.as_ref().filter(|tables| tables.content_hash == content_hash).map(|tables| tables.groups.clone())
    }
}

impl Confirming {
    pub(super) fn new(runtime: Arc<dyn Runtime>, state: SharedState) -> Self {
        Self { held: Arc::default(), runtime, state, heard: Arc::default(), reverted: Arc::default() }
    }

    /// Nobody else applies tables until the guard is gone.
    pub(super) async fn hold(&self) -> OwnedMutexGuard<Held> {
        self.held.clone().lock_owned().await
    }

    /// Every worker runs these tables, until `deadline` unless they are confirmed.
    pub(super) fn settled(&self, held: &mut Held, tables: LastGood, deadline: Option<Instant>) {
        let version = tables.version;
        let before = held.current.replace(tables);
        // Tables that nobody confirmed are nothing to return to.
        let former = match held.waiting.take() {
            Some(mut waiting) if waiting.version != self.heard.load(Ordering::Acquire) => waiting.former.take(),
            _ => before,
        };
        self.state.update(|state| state.unconfirmed = if deadline.is_some() { version } else { 0 });
        let Some(deadline) = deadline else { return };
        tracing::info!(
            "version {version} waits for confirmation for {:.1} s",
            deadline.saturating_duration_since(Instant::now()).as_secs_f32()
        );
        let this = self.clone();
        let watchdog = tokio::spawn(async move { this.watch(version, deadline).await }).abort_handle();
        held.waiting = Some(Waiting { version, former, watchdog });
    }

    /// Control said that the version stays. The task it returns has the tables to keep as last good, if they still run.
    pub(super) fn confirmed(
        &self,
        version: u64,
    ) -> impl Future<Output = Option<(LastGood, OwnedMutexGuard<Held>)>> + use<> {
        self.heard.store(version, Ordering::Release);
        let this = self.clone();
        async move {
            let mut held = this.hold().await;
            held.waiting.take_if(|waiting| waiting.version == version)?;
            this.state.update(|state| state.unconfirmed = 0);
            tracing::info!("version {version} is confirmed");
            held.current.clone().map(|tables| (tables, held))
        }
    }

    /// Tells when this node returned to its former tables.
    pub(super) fn reverts(&self) -> watch::Receiver<v1::TablesReverted> {
        self.reverted.subscribe()
    }

    async fn watch(&self, version: u64, deadline: Instant) {
        tokio::time::sleep_until(deadline.into()).await;
        loop {
            let mut held = self.hold().await;
            let waits = held.waiting.as_ref().is_some_and(|waiting| waiting.version == version);
            if !waits || self.heard.load(Ordering::Acquire) == version {
                return;
            }
            let former = held.waiting.as_ref().and_then(|waiting| waiting.former.clone());
            match self.return_to(former.as_ref()).await {
                Ok(applied) => return self.returned(&mut held, version, former, applied),
                Err(reason) => {
                    tracing::error!(
                        "version {version} was not confirmed in time, but the former tables are refused: {reason}"
                    );
                    self.state.update(|state| state.last_refusal = reason);
                }
            }
            drop(held);
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Runs the former tables, or none where there were none.
    async fn return_to(&self, former: Option<&LastGood>) -> Result<Applied, String> {
        let received = Instant::now();
        let push = match former {
            None => Push {
                version: 0,
                content_hash: Vec::new(),
                tables: Some(RuleTables::default()),
                allow_port_restart: true,
                received,
            },
            Some(former) => {
                let same = self.runtime.running().content_hash == former.content_hash;
                let tables = if same { None } else { Some(super::push::decode(former.groups.clone()).await?) };
                let (version, content_hash) = (former.version, former.content_hash.clone());
                Push { version, content_hash, tables, allow_port_restart: true, received }
            }
        };
        self.runtime.apply(push).await.unwrap_or_else(|_| Err("the node is stopping".into()))
    }

    fn returned(&self, held: &mut Held, version: u64, former: Option<LastGood>, applied: Applied) {
        let to_version = former.as_ref().map_or(0, |former| former.version);
        let content_hash = former.as_ref().map(|former| former.content_hash.clone()).unwrap_or_default();
        tracing::warn!(
            "version {version} was not confirmed in time: version {to_version} runs again, generation {}",
            applied.generation
        );
        held.current = former;
        self.state.update(|state| {
            state.unconfirmed = 0;
            state.reverted = version;
            state.reverts += 1;
        });
        let generation = applied.generation;
        self.reverted.send_replace(v1::TablesReverted { version, to_version, content_hash, generation });
        // Last: it ends the watchdog that runs this.
        held.waiting = None;
    }
}
