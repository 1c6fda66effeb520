//! From an offer to an answer: ask for what is missing, build, publish, keep as last good.
//!
//! A push that is being applied outlives the stream it came over: when control is killed in the middle, the node either runs
//! the new tables (and has saved them) or still the old ones, and says which with its next hello.

use std::sync::Arc;
use std::time::Instant;

use marchproxy_engine::tables::RuleTables;
use marchproxy_proto::v1;
use marchproxy_proto::v1::from_node::Message as From;
use tokio::sync::{Mutex, oneshot};

use super::status::{LastGoodState, SharedState};
use crate::groups::{Cache, check_offer, hex};
use crate::last_good::{LastGood, Store};
use crate::runtime::{Applied, Push, Runtime};

/// An offer whose groups are not all here.
#[derive(Debug)]
struct Pending {
    offer: v1::TablesOffer,
    received: Instant,
}

/// A push in the builder's hands.
#[derive(Debug)]
struct Applying {
    version: u64,
    content_hash: Vec<u8>,
    outcome: oneshot::Receiver<Result<Applied, String>>,
}

/// Takes offers one at a time.
#[derive(Debug)]
pub(super) struct Pusher {
    runtime: Arc<dyn Runtime>,
    store: Arc<Mutex<Store>>,
    state: SharedState,
    cache: Cache,
    pending: Option<Pending>,
    applying: Option<Applying>,
}

impl Pusher {
    pub(super) fn new(runtime: Arc<dyn Runtime>, store: Store, state: SharedState) -> Self {
        let store = Arc::new(Mutex::new(store));
        Self { runtime, store, state, cache: Cache::default(), pending: None, applying: None }
    }

    /// Runs the tables that were on disk.
    pub(super) async fn restore(&mut self, tables: LastGood) {
        let LastGood { version, content_hash, groups } = tables;
        self.cache.keep(&groups);
        let push = |tables| Push { version, content_hash, tables, allow_port_restart: true, received: Instant::now() };
        let outcome = apply(self.runtime.clone(), groups, push).await;
        self.state.update(|state| {
            state.last_good = match outcome {
                Ok(applied) => {
                    tracing::info!(
                        "running the last good tables: version {version}, generation {}",
                        applied.generation
                    );
                    LastGoodState::Used { version }
                }
                Err(reason) => {
                    tracing::error!("last good tables (version {version}) refused: {reason}; waiting for control");
                    LastGoodState::Refused { reason }
                }
            };
        });
    }

    /// A new stream knows nothing of what the old one was about to send.
    pub(super) fn forget_offer(&mut self) {
        self.pending = None;
    }

    /// An offer came; answers with the groups it lacks, or why it is refused.
    pub(super) fn offered(&mut self, offer: v1::TablesOffer, received: Instant) -> Option<From> {
        let running = self.runtime.running();
        tracing::debug!("offered version {} with {} groups", offer.version, offer.groups.len());
        if let Err(reason) = check_offer(&offer) {
            return Some(self.refuse(offer.version, reason));
        }
        if let Some(applying) = &self.applying
            && applying.version == offer.version
            && applying.content_hash == offer.content_hash
        {
            // Offered again over a new stream; the answer comes when it is there.
            return None;
        }
        let same = running.content_hash == offer.content_hash && self.applying.is_none();
        let hashes = if same { Vec::new() } else { self.cache.missing(&offer) };
        let wanted = v1::TablesWanted { version: offer.version, hashes };
        let complete = wanted.hashes.is_empty();
        self.pending = Some(Pending { offer, received });
        if complete {
            self.start();
        }
        Some(From::Wanted(wanted))
    }

    /// A group came; answers only when it is refused.
    pub(super) fn group(&mut self, group: v1::TableGroup) -> Option<From> {
        let version = self.pending.as_ref()?.offer.version;
        if let Err(reason) = self.cache.insert(group) {
            self.pending = None;
            return Some(self.refuse(version, reason));
        }
        self.start();
        None
    }

    /// Waits until what control heard of is on disk, too.
    pub(super) async fn saved(&self) {
        drop(self.store.lock().await);
    }

    /// Hands the pending offer to the builder, if it is complete and the builder is free.
    fn start(&mut self) {
        if self.applying.is_some() {
            return;
        }
        let Some(Pending { offer, received }) = self.pending.take() else { return };
        let same = self.runtime.running().content_hash == offer.content_hash;
        let Some(groups) = self.cache.collect(&offer) else {
            if !same {
                self.pending = Some(Pending { offer, received });
                return;
            }
            return self.renumber(&offer, received);
        };
        self.cache.keep(&groups);
        let (version, content_hash) = (offer.version, offer.content_hash.clone());
        let last_good = LastGood { version, content_hash: content_hash.clone(), groups: groups.clone() };
        let push = move |tables: Option<RuleTables>| Push {
            version,
            content_hash: offer.content_hash,
            tables: tables.filter(|_| !same),
            allow_port_restart: offer.allow_port_restart,
            received,
        };
        let (runtime, store, state) = (self.runtime.clone(), self.store.clone(), self.state.clone());
        let (sender, outcome) = oneshot::channel();
        tokio::spawn(async move {
            let result = apply(runtime, groups, push).await;
            // Taken before anybody hears of it and held until it is written: a newer version waits, so that it is also the later one
            // on disk, and so does a stop.
            let store = store.lock().await;
            let settled = result.is_ok();
            // Control hears first; the disk can take a moment.
            let _ = sender.send(result);
            if settled {
                save(&store, last_good, &state).await;
            }
        });
        self.applying = Some(Applying { version, content_hash, outcome });
    }

    /// The content that runs already, whose groups are not cached: only the number changes.
    fn renumber(&mut self, offer: &v1::TablesOffer, received: Instant) {
        let content_hash = offer.content_hash.clone();
        let push = Push {
            version: offer.version,
            content_hash: content_hash.clone(),
            tables: None,
            allow_port_restart: false,
            received,
        };
        self.applying = Some(Applying { version: offer.version, content_hash, outcome: self.runtime.apply(push) });
    }

    /// Waits for the builder; pending for ever while nothing is being applied. Safe to cancel.
    pub(super) async fn finished(&mut self) -> From {
        let Some(applying) = &mut self.applying else { return std::future::pending().await };
        let result = (&mut applying.outcome).await.unwrap_or_else(|_| Err("the node is stopping".into()));
        let (version, content_hash) = (applying.version, std::mem::take(&mut applying.content_hash));
        self.applying = None;
        let answer = match result {
            Ok(applied) => {
                self.state.update(|state| state.accepted += 1);
                self.state.applied(&applied);
                let Applied { generation, build_us, settle_us } = applied;
                tracing::info!(
                    "version {version} runs on all workers: generation {generation}, build {build_us} us, settled after {settle_us} us"
                );
                From::Ack(v1::TablesAck { version, content_hash, generation, build_us, settle_us })
            }
            Err(reason) => self.refuse(version, reason),
        };
        self.start();
        answer
    }

    fn refuse(&self, version: u64, reason: String) -> From {
        tracing::error!(
            "version {version} refused: {reason}; generation {} runs on",
            self.runtime.running().generation
        );
        self.state.update(|state| {
            state.refused += 1;
            state.last_refusal.clone_from(&reason);
        });
        From::Nack(v1::TablesNack { version, reason })
    }
}

/// Decodes off the async thread, then lets the builder work.
async fn apply(
    runtime: Arc<dyn Runtime>,
    groups: Vec<Vec<u8>>,
    push: impl FnOnce(Option<RuleTables>) -> Push + Send,
) -> Result<Applied, String> {
    let decoded = tokio::task::spawn_blocking(move || decode(&groups)).await;
    let tables = decoded.map_err(|_| "the tables could not be decoded".to_owned())??;
    runtime.apply(push(Some(tables))).await.unwrap_or_else(|_| Err("the node is stopping".into()))
}

fn decode(groups: &[Vec<u8>]) -> Result<RuleTables, String> {
    crate::groups::decode(groups)
}

async fn save(store: &Store, tables: LastGood, state: &SharedState) {
    let (copy, version, hash) = (store.clone(), tables.version, hex(&tables.content_hash));
    let saved = tokio::task::spawn_blocking(move || copy.save(&tables)).await;
    let error = match saved {
        Ok(Ok(())) => String::new(),
        Ok(Err(error)) => format!("{}: {error}", store.path().display()),
        Err(_) => "the task that writes the last good tables died".to_owned(),
    };
    if error.is_empty() {
        tracing::debug!("version {version} ({hash}) is the last good one");
    } else {
        tracing::error!("version {version} runs but was not kept as last good: {error}");
    }
    state.update(|state| state.save_error = error);
}
