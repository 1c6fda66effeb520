//! The seam between the agent (async, talks to the world) and the node (threads, moves packets).

use std::time::{Duration, Instant};

use marchproxy_engine::tables::{RuleChanges, RuleTables};
use marchproxy_proto::v1;
use tokio::sync::oneshot;

/// SHA-256 over the groups' hashes in order: equal hash, equal tables.
pub type ContentHash = Vec<u8>;

/// Tables to be run.
#[derive(Debug)]
pub struct Push {
    /// Control's number.
    pub version: u64,
    /// Of the tables.
    pub content_hash: ContentHash,
    /// `None`: the content that runs already, under a new version (a rollback to itself).
    pub tables: Option<RuleTables>,
    /// Whether ports may be stopped for it.
    pub allow_port_restart: bool,
    /// When the offer came, for `settle_us`.
    pub received: Instant,
}

/// The tables that run, with other rules.
#[derive(Debug)]
pub struct Change {
    /// Control's number.
    pub version: u64,
    /// Of the tables after the change.
    pub content_hash: ContentHash,
    /// Of the tables it changes.
    pub base: ContentHash,
    /// What changes.
    pub rules: RuleChanges,
    /// When the offer came, for `settle_us`.
    pub received: Instant,
}

/// A push that every worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The node's publish counter.
    pub generation: u64,
    /// Time the build took.
    pub build_us: u64,
    /// Offer received to last worker.
    pub settle_us: u64,
}

/// What runs now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Version of the tables; 0 before the first.
    pub version: u64,
    /// Their content hash; empty before the first.
    pub content_hash: ContentHash,
    /// The newest generation.
    pub generation: u64,
    /// Whether every worker runs it.
    pub settled: bool,
}

/// Where the packets of a trace or capture go, one by one. Closed when nobody wants them any more; an error is the last item.
pub type Outlet = tokio::sync::mpsc::Sender<Result<v1::Observation, String>>;

/// A node that can be ended.
pub trait Stop: Runtime {
    /// Ends all threads and closes all ports; returns the last conservation terms. A second call only returns them.
    fn stop(&self) -> v1::Conservation;
}

/// The node behind agent, local socket and metrics. Calls may block for some milliseconds: not from async code directly.
pub trait Runtime: Send + Sync + 'static {
    /// `dpdk` or `sockets`.
    fn backend(&self) -> &'static str;
    /// Worker threads.
    fn workers(&self) -> u32;
    /// What runs now; never blocks.
    fn running(&self) -> Running;
    /// Queues a push; the answer comes when all workers run it, or with the reason why none does.
    fn apply(&self, push: Push) -> oneshot::Receiver<Result<Applied, String>>;
    /// Queues a change of the tables that run, made for the price of what it changes. `None`: these tables are not changed in this way; push
    /// them as a whole.
    fn change(&self, change: Change) -> oneshot::Receiver<Result<Option<Applied>, String>>;
    /// Gets ready for a push, so that `apply` of the same content has nothing left that could take long or fail: builds, and opens new devices.
    /// Answers with the microseconds the build took. What was staged before is let go.
    fn stage(&self, push: Push) -> oneshot::Receiver<Result<u64, String>>;
    /// What is staged is not wanted any more.
    fn unstage(&self);
    /// Judges live packets by these tables and by those that run, for so long, and says what differs.
    fn preview(&self, tables: RuleTables, span: Duration) -> Result<v1::PreviewResponse, String>;
    /// The packet threads, each with a number that changes whenever it goes round its loop; never blocks.
    fn turns(&self) -> Vec<(String, u64)>;
    /// Counters.
    fn stats(&self) -> v1::StatsResponse;
    /// Runs a described packet through the live tables.
    fn why(&self, request: &v1::WhyRequest) -> Result<v1::WhyResponse, String>;
    /// Shows live packets and what each stage decided about them, until there are enough, time is up, or the outlet closes.
    fn trace(&self, request: &v1::TraceRequest, outlet: &Outlet) -> Result<(), String>;
    /// Copies live packets at one point of their way; ends as a trace does.
    fn capture(&self, request: &v1::CaptureRequest, outlet: &Outlet) -> Result<(), String>;
    /// Sessions.
    fn sessions(&self, request: &v1::SessionsRequest) -> Result<v1::SessionsResponse, String>;
    /// Up to so many packets that rules sampled, a line each.
    fn samples(&self, limit: usize) -> Vec<String>;
    /// Neighbours.
    fn neighbours(&self, request: &v1::NeighboursRequest) -> Result<v1::NeighboursResponse, String>;
    /// The way packets come, port by port.
    fn tiers(&self) -> v1::TiersResponse;
    /// Queues of shaped ports.
    fn qos(&self, request: &v1::QosRequest) -> v1::QosResponse;
    /// Backends and their health.
    fn backends(&self, request: &v1::BackendsRequest) -> Result<v1::BackendsResponse, String>;
}
