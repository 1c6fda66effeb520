//! What control knows of a node, and how it tells.

use std::time::SystemTime;

use marchproxy_proto::v1;

/// How a node answered an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs the version.
    Settled {
        /// The node's own publish counter.
        generation: u64,
        /// Time its build took.
        build_us: u64,
        /// Offer received to last worker.
        settle_us: u64,
    },
    /// It keeps what it had.
    Refused(String),
    /// It never answered.
    TimedOut(String),
    /// The document does not name it. It keeps what it runs: taking traffic away because a name is missing would be the worst
    /// reading of a typing error.
    NotMeant,
}

/// The newest target a node's task is done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// See [`Target::attempt`](super::Target::attempt).
    pub attempt: u64,
    /// The version offered.
    pub version: u64,
    /// The answer.
    pub verdict: Verdict,
}

/// What control knows of a node. Written by the node's task alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeStatus {
    /// Which stream it is; 0 = none. Counts up with each stream of the node.
    pub stream: u64,
    /// What the node said when it came.
    pub hello: v1::Hello,
    /// Version it runs.
    pub version: u64,
    /// Content hash of the tables it runs.
    pub content_hash: Vec<u8>,
    /// Its publish counter.
    pub generation: u64,
    /// The answer to the newest target.
    pub finished: Option<Finished>,
    /// Why the newest target is not running there, or why the last stream ended.
    pub last_error: String,
    /// Last message of any kind.
    pub last_seen: Option<SystemTime>,
}

/// Outcome, reason and figures of one node.
pub(super) type NodeAnswer = (v1::NodeOutcome, String, Option<Verdict>);

pub(super) fn never_attached() -> String {
    "has not connected since control started; it gets this version when it does".to_owned()
}

pub(super) fn node_result(node: String, (outcome, reason, verdict): NodeAnswer) -> v1::NodeResult {
    let (generation, build_us, settle_us) = match verdict {
        Some(Verdict::Settled { generation, build_us, settle_us }) => (generation, build_us, settle_us),
        _ => (0, 0, 0),
    };
    v1::NodeResult { node, outcome: outcome.into(), reason, generation, build_us, settle_us }
}

impl Finished {
    pub(super) fn answer(&self) -> NodeAnswer {
        match &self.verdict {
            settled @ Verdict::Settled { .. } => (v1::NodeOutcome::Settled, String::new(), Some(settled.clone())),
            Verdict::Refused(why) => (v1::NodeOutcome::Refused, why.clone(), None),
            Verdict::TimedOut(why) => (v1::NodeOutcome::TimedOut, why.clone(), None),
            Verdict::NotMeant => (v1::NodeOutcome::Refused, self.verdict.error(self.version), None),
        }
    }
}

impl Verdict {
    /// What `node list` says of it; nothing when all is well.
    pub(super) fn error(&self, version: u64) -> String {
        match self {
            Verdict::Settled { .. } => String::new(),
            Verdict::Refused(why) => format!("refused version {version}: {why}"),
            Verdict::TimedOut(why) => format!("version {version}: {why}"),
            Verdict::NotMeant => format!("is not in the document of version {version}; it keeps what it runs"),
        }
    }
}
