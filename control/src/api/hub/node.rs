//! One node as the rest of control sees it: its status, and handles to its stream while there is one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use marchproxy_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Code, Status};

use super::status::NodeAnswer;
use super::{Answer, NodeStatus, Question, lock, not_connected};
use crate::api::dry_run::NodeTables;
use crate::api::errors;
use crate::pki::Identity;

/// Questions of a node that wait to be sent or answered; more are refused.
pub(super) const QUESTIONS_MAX: usize = 64;

/// Packets of a trace or capture between a node's task and its asker. Beyond that they are missed: a slow asker must not hold the node's stream up.
const OBSERVED: usize = 256;

/// A question on its way to the node's task.
pub(super) struct Asked {
    pub question: Question,
    pub answer: Waiting,
}

/// Who waits for an answer.
pub(super) enum Waiting {
    /// For one.
    One(oneshot::Sender<Result<Answer, Status>>),
    /// For the packets of a trace or capture, and how many found no room so far.
    Many(mpsc::Sender<Result<v1::Observation, Status>>, u64),
}

impl Waiting {
    fn is_closed(&self) -> bool {
        match self {
            Waiting::One(answer) => answer.is_closed(),
            Waiting::Many(items, _) => items.is_closed(),
        }
    }
}

/// Something a node's task is to do beside following the target.
pub(super) enum Order {
    /// Have the node get ready for these tables.
    Stage {
        /// Which attempt of control's to make a group ready.
        stage: u64,
        tables: Arc<NodeTables>,
        deadline: Instant,
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Tell the node that they are not wanted.
    Unstage,
}

/// Orders that wait for a push to end; a group is staged at a time.
pub(super) const ORDERS_MAX: usize = 4;

/// Handles to a live stream.
pub(super) struct Live {
    pub orders: mpsc::Sender<Order>,
    pub stream: u64,
    pub identity: Identity,
    pub serial: Option<String>,
    pub questions: mpsc::Sender<Asked>,
    pub end: mpsc::Sender<Status>,
}

/// A node that attached at least once.
#[derive(Default)]
pub(super) struct Node {
    pub status: watch::Sender<NodeStatus>,
    pub live: Mutex<Option<Live>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

impl Node {
    pub fn connected(&self) -> bool {
        self.status.borrow().stream != 0
    }

    pub fn credential(&self) -> Option<(Identity, String)> {
        let live = lock(&self.live);
        let live = live.as_ref()?;
        Some((live.identity.clone(), live.serial.clone()?))
    }

    /// Ends the live stream, if any, with these last words.
    pub fn end(&self, status: Status) {
        if let Some(live) = lock(&self.live).as_ref() {
            // A full channel means it is being ended already.
            let _ = live.end.try_send(status);
        }
    }

    /// Waits for the node's answer to this attempt.
    pub async fn finished(&self, attempt: u64, deadline: Instant) -> NodeAnswer {
        let mut status = self.status.subscribe();
        let done = |s: &NodeStatus| s.stream == 0 || s.finished.as_ref().is_some_and(|f| f.attempt >= attempt);
        let waited = tokio::time::timeout_at(deadline.into(), status.wait_for(done)).await;
        match waited {
            Ok(Ok(status)) => match &status.finished {
                Some(finished) if finished.attempt >= attempt => finished.answer(),
                _ => (v1::NodeOutcome::NotConnected, not_there(&status), None),
            },
            // The sender lives in `self`.
            Ok(Err(_)) => (v1::NodeOutcome::NotConnected, "control is closing".to_owned(), None),
            Err(_) => {
                let why = "has not answered yet; it runs what it had, and `marchctl node list` shows when it settles";
                (v1::NodeOutcome::TimedOut, why.to_owned(), None)
            }
        }
    }

    pub async fn ask(&self, name: &str, question: Question, patience: Duration) -> Result<Answer, Status> {
        let (answer, answered) = oneshot::channel();
        self.put(name, Asked { question, answer: Waiting::One(answer) })?;
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(went_away(name)),
            Err(_) => Err(silent(name, patience)),
        }
    }

    /// Has the node get ready for tables; the error says why it is not.
    pub async fn stage(&self, stage: u64, tables: Arc<NodeTables>, deadline: Instant) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Stage { stage, tables, deadline, answer })?;
        match tokio::time::timeout_at(deadline.into(), answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("went away before it was ready".to_owned()),
            Err(_) => Err("was not ready in time".to_owned()),
        }
    }

    /// Lets go what it made ready; a node that is gone has done so by itself.
    pub fn unstage(&self) {
        let _ = self.order(Order::Unstage);
    }

    fn order(&self, order: Order) -> Result<(), String> {
        let live = lock(&self.live);
        let live = live.as_ref().ok_or_else(|| "is not connected".to_owned())?;
        live.orders.try_send(order).map_err(|_| "has too much to do already".to_owned())
    }

    /// Starts a trace or capture. Returns its first item and the others; the node is told to end it when these are dropped.
    pub async fn observe(&self, name: &str, question: Question, patience: Duration) -> Result<Followed, Status> {
        let (items, mut rest) = mpsc::channel(OBSERVED);
        self.put(name, Asked { question, answer: Waiting::Many(items, 0) })?;
        match tokio::time::timeout(patience, rest.recv()).await {
            Ok(Some(first)) => Ok((first?, rest)),
            Ok(None) => Err(went_away(name)),
            Err(_) => Err(silent(name, patience)),
        }
    }

    fn put(&self, name: &str, asked: Asked) -> Result<(), Status> {
        let live = lock(&self.live);
        let Some(live) = live.as_ref() else {
            return Err(not_connected(&format!("node {name} is not connected")));
        };
        live.questions.try_send(asked).map_err(|_| {
            let why = format!("node {name} has {QUESTIONS_MAX} questions to answer already; try again");
            errors::status(Code::Unavailable, "NODE_BUSY", why, &[])
        })
    }

    pub fn info(&self) -> v1::NodeInfo {
        let status = self.status.borrow();
        v1::NodeInfo {
            connected: status.stream != 0,
            software: status.hello.software.clone(),
            backend: status.hello.backend.clone(),
            workers: status.hello.workers,
            version: status.version,
            generation: status.generation,
            last_error: status.last_error.clone(),
            last_seen: status.last_seen.map(Into::into),
            ..v1::NodeInfo::default()
        }
    }
}

/// A trace's or capture's first item and what follows.
pub(super) type Followed = (v1::Observation, mpsc::Receiver<Result<v1::Observation, Status>>);

fn went_away(name: &str) -> Status {
    not_connected(&format!("node {name} went away before it answered"))
}

fn silent(name: &str, patience: Duration) -> Status {
    errors::status(
        Code::DeadlineExceeded,
        "NODE_SILENT",
        format!(
            "node {name} did not answer in {} s; `marchctl node show {name}` says when it was last heard",
            patience.as_secs_f32()
        ),
        &[],
    )
}

fn not_there(status: &NodeStatus) -> String {
    if status.last_error.is_empty() {
        "is not connected; it gets this version when it is".to_owned()
    } else {
        format!("is not connected ({}); it gets this version when it is", status.last_error)
    }
}

/// Questions that were sent, by id.
#[derive(Default)]
pub(super) struct Pending {
    last: u64,
    waiting: BTreeMap<u64, Waiting>,
}

impl Drop for Pending {
    /// The node's stream ended.
    fn drop(&mut self) {
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            if let Waiting::Many(items, _) = waiting {
                let _ = items.try_send(Err(not_connected("the node went away")));
            }
        }
    }
}

impl Pending {
    /// Takes a question in and makes the message for the node; none when nobody waits any more or too many do.
    pub fn add(&mut self, asked: Asked) -> Option<v1::OperateCall> {
        self.waiting.retain(|_, waiting| matches!(waiting, Waiting::Many(..)) || !waiting.is_closed());
        if asked.answer.is_closed() || self.waiting.len() >= QUESTIONS_MAX {
            return None;
        }
        self.last += 1;
        self.waiting.insert(self.last, asked.answer);
        Some(v1::OperateCall { id: self.last, request: Some(asked.question) })
    }

    /// Hands an answer to whoever waits for it.
    pub fn answer(&mut self, reply: v1::OperateReply) {
        let Some(waiting) = self.waiting.remove(&reply.id) else { return };
        let answer = match reply.response {
            Some(Answer::Error(why)) => {
                Err(errors::status(Code::FailedPrecondition, "NODE_REFUSED", format!("the node answered: {why}"), &[]))
            }
            Some(answer) => Ok(answer),
            None => Err(errors::status(Code::Internal, "NODE_EMPTY_ANSWER", "the node's answer is empty", &[])),
        };
        match waiting {
            // Whoever asked may have given up.
            Waiting::One(asker) => drop(asker.send(answer)),
            Waiting::Many(items, missed) => {
                let item = answer.and_then(|answer| match answer {
                    Answer::Observation(observation) => Ok(observation),
                    _ => Err(Status::internal("the node answered another question; please report this")),
                });
                if let Some(missed) = pass_on(&items, missed, item) {
                    self.waiting.insert(reply.id, Waiting::Many(items, missed));
                }
            }
        }
    }

    /// Whether a trace or capture runs.
    pub fn follows(&self) -> bool {
        self.waiting.values().any(|waiting| matches!(waiting, Waiting::Many(..)))
    }

    /// Traces and captures that nobody waits for any more, each told once.
    pub fn given_up(&mut self) -> Vec<u64> {
        let gone = |(id, waiting): (&u64, &Waiting)| {
            matches!(waiting, Waiting::Many(items, _) if items.is_closed()).then_some(*id)
        };
        let ids: Vec<u64> = self.waiting.iter().filter_map(gone).collect();
        self.waiting.retain(|id, _| !ids.contains(id));
        ids
    }
}

/// Passes an item on. Returns how many were missed so far, or nothing after the last one: for that one there is always room.
fn pass_on(
    items: &mpsc::Sender<Result<v1::Observation, Status>>,
    missed: u64,
    item: Result<v1::Observation, Status>,
) -> Option<u64> {
    let mut last = item.is_err();
    let item = item.map(|mut observation| {
        if let Some(v1::observation::Item::End(end)) = &mut observation.item {
            end.missed += missed;
            last = true;
        }
        observation
    });
    if last || items.capacity() > 1 {
        // Closed: the node is told at the next look.
        let _ = items.try_send(item);
        return (!last).then_some(missed);
    }
    Some(missed + 1)
}
