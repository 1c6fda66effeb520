//! The hub: what each node should run, what it runs, and its one live stream.
//!
//! Every cluster has one *target*, the newest stored version with its compiled tables, in a watch channel. Every attached node
//! has a task of its own ([`session`]) that follows the target: whatever happens to a node, it happens to its task only, and a
//! task that was busy finds the newest target when it looks again. So a slow or dead node delays nobody, and versions in
//! between are never sent.

mod node;
mod session;
mod status;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use marchproxy_proto::v1;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::{Code, Status, Streaming};

pub use session::Outbound;
pub use status::{Finished, NodeStatus, Verdict};

use self::node::{Followed, Node};
use super::auth::Caller;
use super::dry_run::NodeTables;
use super::errors;
use super::settings::Timings;
use crate::pki::Identity;
use crate::store::Store;

/// What a cluster's nodes should run.
#[derive(Debug)]
pub struct Target {
    /// The stored version.
    pub version: u64,
    /// Counts publications of the cluster, so that the same version can be offered again to nodes that refused it.
    pub attempt: u64,
    /// Tables by node.
    pub nodes: BTreeMap<String, Arc<NodeTables>>,
    /// While the version waits for confirmation: when that is over.
    pub until: Option<Instant>,
    /// The last versions that were confirmed, for nodes that run one of them and have not heard.
    pub confirmed: Vec<u64>,
}

/// Confirmed versions remembered. A node that missed more than that returns to its former tables and is offered the newest ones.
const CONFIRMED: usize = 16;

/// A question relayed to a node.
pub type Question = v1::operate_call::Request;
/// A node's answer.
pub type Answer = v1::operate_reply::Response;

/// All clusters and nodes; clones share them.
#[derive(Clone, Debug)]
pub struct Hub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clusters: Mutex<HashMap<String, Arc<Cluster>>>,
    timings: Timings,
    store: Store,
    closing: watch::Sender<bool>,
    /// Attempts to make a group of nodes ready, so that a late answer to an earlier one is told apart.
    stages: AtomicU64,
}

#[derive(Debug)]
struct Cluster {
    target: watch::Sender<Option<Arc<Target>>>,
    nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    /// The last version that a node gave up because nobody confirmed it, and the node.
    given_up: watch::Sender<(u64, String)>,
}

/// A poisoned lock means that another task panicked between two plain assignments; the data is whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// An empty hub; revocations are looked up in the store.
    pub fn new(store: Store, timings: Timings) -> Hub {
        let shared = Shared {
            clusters: Mutex::default(),
            timings,
            store,
            closing: watch::Sender::new(false),
            stages: AtomicU64::new(0),
        };
        Hub { shared: Arc::new(shared) }
    }

    /// Clusters anybody asked about since the start.
    pub fn clusters(&self) -> Vec<String> {
        lock(&self.shared.clusters).keys().cloned().collect()
    }

    /// Remembers the cluster, so that [`clusters`](Hub::clusters) lists it.
    pub fn touch(&self, cluster: &str) {
        self.cluster(cluster);
    }

    fn cluster(&self, name: &str) -> Arc<Cluster> {
        let mut clusters = lock(&self.shared.clusters);
        if let Some(known) = clusters.get(name) {
            return Arc::clone(known);
        }
        let new = Arc::new(Cluster {
            target: watch::Sender::new(None),
            nodes: Mutex::default(),
            given_up: watch::Sender::default(),
        });
        clusters.insert(name.to_owned(), Arc::clone(&new));
        new
    }

    /// Version of the cluster's target; 0 = none yet.
    pub fn version(&self, cluster: &str) -> u64 {
        self.cluster(cluster).target.borrow().as_ref().map_or(0, |target| target.version)
    }

    /// Changes whenever a target is published.
    pub fn follow(&self, cluster: &str) -> watch::Receiver<Option<Arc<Target>>> {
        self.cluster(cluster).target.subscribe()
    }

    /// True once the hub closes.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.shared.closing.subscribe()
    }

    /// Makes this the cluster's target, unless a newer one is there, and says which attempt it is. Publishing the version that
    /// is already the target offers it again to the nodes that don't run it.
    ///
    /// With `until` the version waits for confirmation until then; published again it waits as long as it did.
    pub fn publish(
        &self,
        cluster: &str,
        version: u64,
        nodes: BTreeMap<String, Arc<NodeTables>>,
        until: Option<Instant>,
    ) -> u64 {
        let mut published = 0;
        self.cluster(cluster).target.send_if_modified(|target| {
            let (newest, attempt, confirmed, waits) = match target.as_deref() {
                Some(t) => (t.version, t.attempt, t.confirmed.clone(), t.until),
                None => (0, 0, Vec::new(), None),
            };
            published = attempt;
            if version < newest {
                return false;
            }
            published = attempt + 1;
            let until = if version == newest { waits } else { until };
            *target = Some(Arc::new(Target { version, attempt: published, nodes, until, confirmed }));
            true
        });
        published
    }

    /// The version that waits for confirmation, and until when.
    pub fn waiting(&self, cluster: &str) -> Option<(u64, Instant)> {
        let found = self.cluster(cluster);
        let target = found.target.borrow();
        target.as_ref().and_then(|target| Some((target.version, target.until?)))
    }

    /// The target waits no longer: its nodes are told that it stays.
    pub fn confirm(&self, cluster: &str, version: u64) {
        self.cluster(cluster).target.send_if_modified(|target| {
            let Some(waiting) = target.as_deref().filter(|t| t.version == version && t.until.is_some()) else {
                return false;
            };
            let mut confirmed = waiting.confirmed.clone();
            confirmed.push(version);
            let surplus = confirmed.len().saturating_sub(CONFIRMED);
            confirmed.drain(..surplus);
            let (attempt, nodes) = (waiting.attempt, waiting.nodes.clone());
            *target = Some(Arc::new(Target { version, attempt, nodes, until: None, confirmed }));
            true
        });
    }

    /// Waits until the version waits no longer.
    pub async fn decided(&self, cluster: &str, version: u64) {
        let mut target = self.follow(cluster);
        let waits = |target: &Option<Arc<Target>>| {
            target.as_ref().is_some_and(|target| target.version == version && target.until.is_some())
        };
        // The sender lives as long as the hub.
        let _ = target.wait_for(|target| !waits(target)).await;
    }

    /// Waits until a node gave the version up because it heard of no confirmation in time, and names it.
    pub async fn given_up(&self, cluster: &str, version: u64) -> String {
        let mut given_up = self.cluster(cluster).given_up.subscribe();
        let found = given_up.wait_for(|(gone, _)| *gone == version).await.map(|found| found.1.clone());
        match found {
            Ok(node) => node,
            // The sender lives as long as the hub.
            Err(_) => std::future::pending().await,
        }
    }

    /// The newest attempt; 0 = none yet.
    pub fn attempt(&self, cluster: &str) -> u64 {
        self.cluster(cluster).target.borrow().as_ref().map_or(0, |target| target.attempt)
    }

    /// Waits until every connected node of the target finished with this attempt (or a later one), at most the settle timeout.
    pub async fn settled(&self, cluster: &str, attempt: u64) -> Vec<v1::NodeResult> {
        let cluster = self.cluster(cluster);
        let Some(target) = cluster.target.borrow().clone() else { return Vec::new() };
        let deadline = Instant::now() + self.shared.timings.settle;
        let mut waiting = JoinSet::new();
        let mut results = BTreeMap::new();
        for name in target.nodes.keys() {
            let node = lock(&cluster.nodes).get(name).cloned();
            match node {
                Some(node) => {
                    let name = name.clone();
                    waiting.spawn(async move { (name, node.finished(attempt, deadline).await) });
                }
                None => {
                    results.insert(name.clone(), (v1::NodeOutcome::NotConnected, status::never_attached(), None));
                }
            }
        }
        while let Some(joined) = waiting.join_next().await {
            if let Ok((name, result)) = joined {
                results.insert(name, result);
            }
        }
        results.into_iter().map(|(name, result)| status::node_result(name, result)).collect()
    }

    /// Has these nodes get ready for their tables. Returns those that are not in time, with why; then nobody stays ready.
    pub async fn stage(
        &self,
        cluster: &str,
        group: BTreeMap<String, Arc<NodeTables>>,
        within: Duration,
    ) -> Result<(), BTreeMap<String, String>> {
        let found = self.cluster(cluster);
        let stage = self.shared.stages.fetch_add(1, Ordering::Relaxed) + 1;
        let deadline = Instant::now() + within;
        let (mut waiting, mut missing) = (JoinSet::new(), BTreeMap::new());
        for (name, tables) in &group {
            let Some(node) = lock(&found.nodes).get(name).cloned() else {
                missing.insert(name.clone(), "has not connected since control started".to_owned());
                continue;
            };
            let (name, tables) = (name.clone(), Arc::clone(tables));
            waiting.spawn(async move { (name, node.stage(stage, tables, deadline).await) });
        }
        while let Some(joined) = waiting.join_next().await {
            if let Ok((name, Err(why))) = joined {
                missing.insert(name, why);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        self.unstage(cluster, group.keys());
        Err(missing)
    }

    /// What these nodes made ready is not wanted.
    pub fn unstage<'a>(&self, cluster: &str, group: impl Iterator<Item = &'a String>) {
        let found = self.cluster(cluster);
        let nodes = lock(&found.nodes);
        for node in group.filter_map(|name| nodes.get(name)) {
            node.unstage();
        }
    }

    /// Runs a node's stream until it ends. A stream that is already there under this name is ended: after a reboot or a lost
    /// network the old one may not have noticed, and the newcomer must not wait for that.
    ///
    /// `confirmed`: what the node runs until somebody confirms it has been confirmed.
    pub fn attach(
        &self,
        caller: Caller,
        from: &str,
        hello: &v1::Hello,
        confirmed: bool,
        inbound: Streaming<v1::FromNode>,
    ) -> Outbound {
        let cluster = self.cluster(&caller.identity.cluster);
        let node = {
            let mut nodes = lock(&cluster.nodes);
            Arc::clone(nodes.entry(caller.identity.name.clone()).or_default())
        };
        session::start(&self.shared, &cluster, node, caller, from, session::Greeting { hello, confirmed }, inbound)
    }

    /// Asks a node; an empty name means the only connected one.
    pub async fn ask(&self, cluster: &str, name: &str, question: Question) -> Result<Answer, Status> {
        self.ask_for(cluster, name, question, Duration::ZERO).await
    }

    /// The same where the answer itself takes so long.
    pub async fn ask_for(
        &self,
        cluster: &str,
        name: &str,
        question: Question,
        takes: Duration,
    ) -> Result<Answer, Status> {
        let (name, node) = self.pick(cluster, name)?;
        node.ask(&name, question, self.shared.timings.ask + takes).await
    }

    /// The name of a connected node; an empty one means the only connected one.
    pub fn name(&self, cluster: &str, name: &str) -> Result<String, Status> {
        self.pick(cluster, name).map(|(name, _)| name)
    }

    fn pick(&self, cluster: &str, name: &str) -> Result<(String, Arc<Node>), Status> {
        let found = self.cluster(cluster);
        let nodes = lock(&found.nodes);
        pick(cluster, name, &nodes, found.target.borrow().as_deref())
    }

    /// Starts a trace or capture on a node; see [`ask`](Self::ask).
    pub async fn observe(&self, cluster: &str, name: &str, question: Question) -> Result<Followed, Status> {
        let (name, node) = self.pick(cluster, name)?;
        node.observe(&name, question, self.shared.timings.ask).await
    }

    /// Every node that the target means or that was attached.
    pub fn nodes(&self, cluster: &str) -> BTreeMap<String, v1::NodeInfo> {
        let found = self.cluster(cluster);
        let target = found.target.borrow().clone();
        let mut infos: BTreeMap<String, v1::NodeInfo> =
            lock(&found.nodes).iter().map(|(name, node)| (name.clone(), node.info())).collect();
        if let Some(target) = target {
            for name in target.nodes.keys() {
                infos.entry(name.clone()).or_default().wanted_version = target.version;
            }
        }
        for (name, info) in &mut infos {
            info.name.clone_from(name);
            cluster.clone_into(&mut info.cluster);
        }
        infos
    }

    /// Ends the streams whose certificate was revoked; asks the store for each.
    pub async fn end_revoked(&self, cluster: &str) {
        let nodes: Vec<Arc<Node>> = lock(&self.cluster(cluster).nodes).values().cloned().collect();
        for node in nodes {
            let Some((identity, serial)) = node.credential() else { continue };
            match self.shared.store.is_revoked(&serial).await {
                Ok(true) => node.end(super::auth::revoked(&identity, &serial)),
                Ok(false) => {}
                // A stream that passed once stays while the store is away; new calls are refused meanwhile.
                Err(why) => tracing::warn!(%identity, %why, "cannot look whether the certificate was revoked"),
            }
        }
    }

    /// Ends all streams.
    pub fn close(&self) {
        self.shared.closing.send_replace(true);
    }
}

fn pick(
    cluster: &str,
    name: &str,
    nodes: &BTreeMap<String, Arc<Node>>,
    target: Option<&Target>,
) -> Result<(String, Arc<Node>), Status> {
    if name.is_empty() {
        let connected: Vec<&String> = nodes.iter().filter(|(_, node)| node.connected()).map(|(name, _)| name).collect();
        return match connected[..] {
            [only] => Ok((only.clone(), Arc::clone(&nodes[only]))),
            [] => Err(not_connected(&format!("no node of cluster {cluster} is connected"))),
            _ => Err(errors::bad_field("node", "nothing", &format!("one of {connected:?}"))),
        };
    }
    match nodes.get(name) {
        Some(node) if node.connected() => Ok((name.to_owned(), Arc::clone(node))),
        Some(_) => Err(not_connected(&format!("node {name} is not connected"))),
        None if target.is_some_and(|t| t.nodes.contains_key(name)) => {
            Err(not_connected(&format!("node {name} has not connected since control started")))
        }
        None => Err(errors::status(
            Code::NotFound,
            "NO_SUCH_NODE",
            format!("cluster {cluster} has no node {name:?}; `marchctl node list` names them"),
            &[("node", name.to_owned())],
        )),
    }
}

fn not_connected(what: &str) -> Status {
    let hint = "see `marchctl node list`; on the node itself, `marchctl --socket PATH` asks its local socket";
    errors::status(Code::Unavailable, "NODE_NOT_CONNECTED", format!("{what}; {hint}"), &[])
}

/// Why the node's stream ended, for people.
fn ended(identity: &Identity, why: &str) {
    tracing::info!(%identity, why, "node's stream ended");
}

/// How long the last words of a stream may take to be taken by its node.
const LAST_WORDS: Duration = Duration::from_secs(1);
