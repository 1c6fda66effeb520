//! From an offer to an answer: ask for what is missing, build, publish, keep as last good.
//!
//! A push that is being applied outlives the stream it came over: when control is killed in the middle, the node either runs
//! the new tables (and has saved them) or still the old ones, and says which with its next hello.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use marchproxy_engine::tables::{RuleChanges, RuleTables};
use marchproxy_proto::tables::{EncodedGroup, changed_rules};
use marchproxy_proto::v1;
use marchproxy_proto::v1::from_node::Message as From;
use tokio::sync::{Mutex, oneshot, watch};

use super::confirm::Confirming;
use super::status::{LastGoodState, SharedState};
use crate::groups::{Cache, check_offer, hex};
use crate::last_good::{LastGood, Store};
use crate::runtime::{Applied, Change, Push, Runtime};

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
    outcome: oneshot::Receiver<Result<(Applied, Option<Known>), String>>,
}

/// Tables that were applied, as far as changes of rules can be told from them. Whether they still run is asked before they are used.
#[derive(Clone, Debug)]
struct Known {
    content_hash: Vec<u8>,
    groups: Arc<[EncodedGroup]>,
    /// Interfaces and policers.
    named: Arc<RuleTables>,
}

/// The last good tables on their way to the disk: the newest ones, whoever writes them.
#[derive(Clone, Debug)]
struct Disk {
    store: Arc<Mutex<Store>>,
    unsaved: Arc<std::sync::Mutex<Option<LastGood>>>,
}

/// Tables that the builder gets ready.
#[derive(Debug)]
struct Staging {
    stage: u64,
    outcome: oneshot::Receiver<Result<u64, String>>,
}

/// Takes offers one at a time.
#[derive(Debug)]
pub(super) struct Pusher {
    runtime: Arc<dyn Runtime>,
    disk: Disk,
    state: SharedState,
    confirming: Confirming,
    cache: Cache,
    /// The groups of the last tables that need no confirmation: what a revert brings back.
    former: Arc<[EncodedGroup]>,
    known: Option<Known>,
    pending: Option<Pending>,
    applying: Option<Applying>,
    staging: Option<Staging>,
}

impl Pusher {
    pub(super) fn new(runtime: Arc<dyn Runtime>, store: Store, state: SharedState) -> Self {
        let disk = Disk { store: Arc::new(Mutex::new(store)), unsaved: Arc::default() };
        let confirming = Confirming::new(runtime.clone(), state.clone());
        Self {
            runtime,
            disk,
            state,
            confirming,
            cache: Cache::default(),
            former: Arc::default(),
            known: None,
            pending: None,
            applying: None,
            staging: None,
        }
    }

    /// Runs the tables that were on disk.
    pub(super) async fn restore(&mut self, tables: LastGood) {
        self.keep(&tables.groups, false);
        let version = tables.version;
        let mut held = self.confirming.hold().await;
        let outcome = apply(&self.runtime, None, &tables, true, Instant::now()).await;
        let outcome = outcome.map(|(applied, known)| {
            self.confirming.settled(&mut held, tables, None);
            self.known = known;
            applied
        });
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
        self.unstage();
    }

    /// Whatever was made ready is not wanted: control says so, or can't say any more.
    pub(super) fn unstage(&mut self) {
        self.pending.take_if(|pending| pending.offer.stage != 0);
        self.staging = None;
        self.runtime.unstage();
    }

    /// An offer came; answers with the groups it lacks, or why it is refused.
    pub(super) fn offered(&mut self, offer: v1::TablesOffer, received: Instant) -> Option<From> {
        let running = self.runtime.running();
        tracing::debug!("offered version {} with {} groups", offer.version, offer.groups.len());
        if let Err(reason) = check_offer(&offer) {
            return Some(self.refuse(offer.version, offer.stage, reason));
        }
        if let Some(applying) = &self.applying
            && offer.stage == 0
            && applying.version == offer.version
            && applying.content_hash == offer.content_hash
        {
            // Offered again over a new stream; the answer comes when it is there.
            return None;
        }
        let same = running.content_hash == offer.content_hash && self.applying.is_none();
        let hashes = if same { Vec::new() } else { self.cache.missing(&offer) };
        let wanted = v1::TablesWanted { version: offer.version, hashes, stage: offer.stage };
        let complete = wanted.hashes.is_empty();
        self.pending = Some(Pending { offer, received });
        if complete {
            self.start();
        }
        Some(From::Wanted(wanted))
    }

    /// A group came; answers only when it is refused.
    pub(super) fn group(&mut self, group: v1::TableGroup) -> Option<From> {
        let v1::TablesOffer { version, stage, .. } = self.pending.as_ref()?.offer;
        if let Err(reason) = self.cache.insert(group) {
            self.pending = None;
            return Some(self.refuse(version, stage, reason));
        }
        self.start();
        None
    }

    /// Control said that a version stays: from now on it is the last good one.
    pub(super) fn confirmed(&self, version: u64) {
        let confirmed = self.confirming.confirmed(version);
        let (disk, state) = (self.disk.clone(), self.state.clone());
        tokio::spawn(async move {
            let Some((tables, held)) = confirmed.await else { return };
            disk.note(tables);
            drop(held);
            disk.save(&state).await;
        });
    }

    /// Tells when the node returned to its former tables by itself.
    pub(super) fn reverts(&self) -> watch::Receiver<v1::TablesReverted> {
        self.confirming.reverts()
    }

    /// Waits until what control heard of is on disk, too.
    pub(super) async fn saved(&self) {
        self.disk.save(&self.state).await;
    }

    /// Hands the pending offer to the builder, if it is complete and the builder is free.
    fn start(&mut self) {
        if self.applying.is_some() {
            return;
        }
        let Some(Pending { offer, received }) = self.pending.take() else { return };
        let groups = self.cache.collect(&offer);
        if groups.is_none() && self.runtime.running().content_hash != offer.content_hash {
            self.pending = Some(Pending { offer, received });
            return;
        }
        if offer.stage != 0 {
            return self.stage(offer, groups, received);
        }
        let waits = offer.confirm_within_ms != 0;
        if let Some(groups) = &groups {
            self.keep(groups, waits);
        }
        let (version, content_hash) = (offer.version, offer.content_hash.clone());
        let deadline = waits.then(|| received + Duration::from_millis(offer.confirm_within_ms));
        let (runtime, disk, state) = (self.runtime.clone(), self.disk.clone(), self.state.clone());
        let (confirming, known) = (self.confirming.clone(), self.known.clone());
        let (sender, outcome) = oneshot::channel();
        tokio::spawn(async move {
            let mut held = confirming.hold().await;
            // The content that runs already needs no groups: only its number changes.
            let Some(groups) = groups.or_else(|| held.groups_of(&offer.content_hash)) else {
                let _ = sender.send(Err("the node returned to other tables meanwhile; offer them again".to_owned()));
                return;
            };
            let tables = LastGood { version, content_hash: offer.content_hash, groups };
            let result = apply(&runtime, known, &tables, offer.allow_port_restart, received).await;
            let settled = result.is_ok();
            if settled {
                confirming.settled(&mut held, tables.clone(), deadline);
                if deadline.is_none() {
                    // Before anybody hears of it and while nobody else applies tables: a stop writes it, too, and a newer version
                    // takes its place.
                    disk.note(tables);
                }
            }
            drop(held);
            // Control hears first; the disk can take a moment.
            let _ = sender.send(result);
            if settled && deadline.is_none() {
                disk.save(&state).await;
            }
        });
        self.applying = Some(Applying { version, content_hash, outcome });
    }

    /// Has the builder get ready. Nothing of what runs changes, so nobody waits for it.
    fn stage(&mut self, offer: v1::TablesOffer, groups: Option<Arc<[EncodedGroup]>>, received: Instant) {
        let (sender, outcome) = oneshot::channel();
        self.staging = Some(Staging { stage: offer.stage, outcome });
        let runtime = self.runtime.clone();
        let same = runtime.running().content_hash == offer.content_hash;
        tokio::spawn(async move {
            let push = async {
                // What runs already needs nothing.
                let tables = match groups.filter(|_| !same) {
                    Some(groups) => Some(decode(groups).await?),
                    None => None,
                };
                let v1::TablesOffer { version, content_hash, allow_port_restart, .. } = offer;
                Ok(Push { version, content_hash, tables, allow_port_restart, received })
            };
            let result = match push.await {
                Ok(push) => runtime.stage(push).await.unwrap_or_else(|_| Err("the node is stopping".into())),
                Err(reason) => Err(reason),
            };
            // Nobody may want it any more.
            let _ = sender.send(result);
        });
    }

    /// Keeps the groups of tables that are applied now, and those that may come back.
    fn keep(&mut self, groups: &Arc<[EncodedGroup]>, waits: bool) {
        if waits {
            self.cache.keep(groups.iter().chain(&*self.former));
        } else {
            self.cache.keep(&**groups);
            self.former = groups.clone();
        }
    }

    /// Waits for the builder; pending for ever while nothing is being applied. Safe to cancel.
    pub(super) async fn finished(&mut self) -> From {
        let applying = self.applying.as_mut().map(|applying| &mut applying.outcome);
        let staging = self.staging.as_mut().map(|staging| &mut staging.outcome);
        let result = tokio::select! {
            result = answered(applying) => result,
            result = answered(staging) => return self.staged(result),
        };
        let Some(applying) = &mut self.applying else { return std::future::pending().await };
        let (version, content_hash) = (applying.version, std::mem::take(&mut applying.content_hash));
        self.applying = None;
        let answer = match result {
            Ok((applied, known)) => {
                self.known = known.or(self.known.take());
                self.state.update(|state| state.accepted += 1);
                self.state.applied(&applied);
                let Applied { generation, build_us, settle_us } = applied;
                tracing::info!(
                    "version {version} runs on all workers: generation {generation}, build {build_us} us, settled after {settle_us} us"
                );
                From::Ack(v1::TablesAck { version, content_hash, generation, build_us, settle_us })
            }
            Err(reason) => self.refuse(version, 0, reason),
        };
        self.start();
        answer
    }

    fn staged(&mut self, result: Result<u64, String>) -> From {
        let stage = self.staging.take().map_or(0, |staging| staging.stage);
        match result {
            Ok(build_us) => {
                tracing::info!("ready for the tables of stage {stage}, build {build_us} us");
                From::Staged(v1::TablesStaged { stage, build_us })
            }
            Err(reason) => self.refuse(0, stage, reason),
        }
    }

    fn refuse(&self, version: u64, stage: u64, reason: String) -> From {
        let what = if stage == 0 { format!("version {version}") } else { format!("stage {stage}") };
        tracing::error!("{what} refused: {reason}; generation {} runs on", self.runtime.running().generation);
        self.state.update(|state| {
            state.refused += 1;
            state.last_refusal.clone_from(&reason);
        });
        From::Nack(v1::TablesNack { version, reason, stage })
    }
}

/// The builder's answer; pending for ever where there is nothing to wait for.
async fn answered<T>(outcome: Option<&mut oneshot::Receiver<Result<T, String>>>) -> Result<T, String> {
    match outcome {
        Some(outcome) => outcome.await.unwrap_or_else(|_| Err("the node is stopping".into())),
        None => std::future::pending().await,
    }
}

/// Has the builder run these tables: as a change of the rules that run where they are one, else as a whole. What they are known by, unless they
/// ran already.
async fn apply(
    runtime: &Arc<dyn Runtime>,
    known: Option<Known>,
    tables: &LastGood,
    allow_port_restart: bool,
    received: Instant,
) -> Result<(Applied, Option<Known>), String> {
    let LastGood { version, ref content_hash, ref groups } = *tables;
    let stopping = |_| "the node is stopping".to_owned();
    let runs = runtime.running().content_hash;
    let push = |tables| Push { version, content_hash: content_hash.clone(), tables, allow_port_restart, received };
    if runs == *content_hash {
        let applied = runtime.apply(push(None)).await.map_err(stopping)??;
        return Ok((applied, None));
    }
    let known_as = |named| Some(Known { content_hash: content_hash.clone(), groups: groups.clone(), named });
    if let Some(known) = known.filter(|known| known.content_hash == runs)
        && let Some(rules) = changed(&known, groups.clone()).await
    {
        let change = Change { version, content_hash: content_hash.clone(), base: runs, rules, received };
        if let Some(applied) = runtime.change(change).await.map_err(stopping)?? {
            return Ok((applied, known_as(known.named)));
        }
    }
    let tables = decode(groups.clone()).await?;
    let named = RuleTables {
        interfaces: tables.interfaces.clone(),
        policers: tables.policers.clone(),
        ..RuleTables::default()
    };
    let applied = runtime.apply(push(Some(tables))).await.map_err(stopping)??;
    Ok((applied, known_as(Arc::new(named))))
}

/// What changes from tables to others, if it is rules alone. Off the async thread: it may be all of them. What can't be decoded is for
/// [`decode`] to say.
async fn changed(known: &Known, groups: Arc<[EncodedGroup]>) -> Option<RuleChanges> {
    let (named, before) = (known.named.clone(), known.groups.clone());
    let changed = tokio::task::spawn_blocking(move || changed_rules(&named, &before, &groups)).await;
    changed.ok()??.ok()
}

/// Decodes off the async thread.
pub(super) async fn decode(groups: Arc<[EncodedGroup]>) -> Result<RuleTables, String> {
    let decoded = tokio::task::spawn_blocking(move || crate::groups::decode(&groups)).await;
    decoded.map_err(|_| "the tables could not be decoded".to_owned())?
}

impl Disk {
    /// These are the ones to be written next; what waited before is out of date. Never tables that wait for confirmation.
    fn note(&self, tables: LastGood) {
        *self.unsaved.lock().unwrap_or_else(PoisonError::into_inner) = Some(tables);
    }

    /// Writes what waits, after what is being written.
    async fn save(&self, state: &SharedState) {
        let store = self.store.lock().await;
        let unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(tables) = unsaved else { return };
        let (copy, version, hash) = (store.clone(), tables.version, hex(&tables.content_hash));
        let error = match tokio::task::spawn_blocking(move || copy.save(&tables)).await {
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
}
