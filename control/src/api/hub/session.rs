//! One node's stream: follows the cluster's target, relays questions, watches for silence.
//!
//! ```text
//! idle --target changed--> offered --TablesWanted--> given --TablesAck|TablesNack--> idle, look at the target again
//! ```
//! An ack or nack is taken in either state of a push: a node that has all groups may answer at once.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use marchproxy_proto::v1;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use v1::from_node::Message as From;
use v1::to_node::Message as To;

use super::node::{Asked, Live, Node, ORDERS_MAX, Order, Pending, QUESTIONS_MAX};
use super::{Cluster, Finished, LAST_WORDS, NodeStatus, Shared, Target, Verdict, ended};
use crate::api::auth::Caller;
use crate::api::dry_run::NodeTables;
use crate::api::errors;

/// Messages between a node's task and its connection. Small: what waits behind it waits as references.
const OUTBOUND: usize = 8;

/// How often it is looked whether anybody still waits for a trace or capture.
const LOOK: Duration = Duration::from_millis(200);

/// What tonic sends to the node.
pub type Outbound = Pin<Box<ReceiverStream<Result<v1::ToNode, Status>>>>;

/// Something to be sent; groups are copied only when there is room for them.
enum Item {
    Message(To),
    Group(Arc<NodeTables>, usize),
}

/// An offer on its way.
struct Push {
    tables: Arc<NodeTables>,
    version: u64,
    attempt: u64,
    deadline: Instant,
    /// It runs there until somebody confirms it.
    waits: bool,
    /// It is only to be made ready, and who wants to know.
    staging: Option<(u64, oneshot::Sender<Result<(), String>>)>,
}

impl Push {
    fn stage(&self) -> u64 {
        self.staging.as_ref().map_or(0, |(stage, _)| *stage)
    }

    /// Whether an answer is about this push.
    fn is(&self, version: u64, stage: u64) -> bool {
        self.version == version && self.stage() == stage
    }
}

/// How a node introduced itself.
#[derive(Clone, Copy)]
pub(super) struct Greeting<'a> {
    pub hello: &'a v1::Hello,
    /// What it runs until somebody confirms it has been confirmed.
    pub confirmed: bool,
}

struct Session {
    node: Arc<Node>,
    caller: Caller,
    stream: u64,
    push_timeout: Duration,
    silence: Duration,
    cluster: Arc<Cluster>,
    target: watch::Receiver<Option<Arc<Target>>>,
    /// The version that it runs until somebody confirms it; 0 = none.
    unconfirmed: u64,
    /// The last version that it gave up because nobody confirmed it.
    given_up: u64,
    out: VecDeque<Item>,
    push: Option<Push>,
    pending: Pending,
    heard: Instant,
}

pub(super) fn start(
    shared: &Arc<Shared>,
    cluster: &Arc<Cluster>,
    node: Arc<Node>,
    caller: Caller,
    from: &str,
    Greeting { hello, confirmed }: Greeting<'_>,
    inbound: Streaming<v1::FromNode>,
) -> Outbound {
    let (sender, receiver) = mpsc::channel(OUTBOUND);
    let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
    let (orders, ordered) = mpsc::channel(ORDERS_MAX);
    let (end, ends) = mpsc::channel(1);
    let stream = take_over(&node, &caller, from, hello, Handles { questions, orders, end });
    tracing::info!(node = %caller.identity, from, software = hello.software, version = hello.version, "node attached");
    let welcome = v1::Welcome { node: caller.identity.name.clone(), cluster: caller.identity.cluster.clone() };
    let mut session = Session {
        node,
        caller,
        stream,
        push_timeout: shared.timings.push,
        silence: shared.timings.heartbeat,
        cluster: Arc::clone(cluster),
        target: cluster.target.subscribe(),
        unconfirmed: hello.unconfirmed_version,
        given_up: 0,
        out: VecDeque::from([Item::Message(To::Welcome(welcome))]),
        push: None,
        pending: Pending::default(),
        heard: Instant::now(),
    };
    if confirmed {
        session.confirmed();
    }
    if hello.reverted_version != 0 {
        session.gave_up(hello.reverted_version);
    }
    let closing = shared.closing.subscribe();
    tokio::spawn(async move {
        let last = session.run(inbound, Asks { asked, ordered }, ends, closing, &sender).await;
        session.leave(last.message());
        match sender.send_timeout(Err(last), LAST_WORDS).await {
            Ok(()) | Err(SendTimeoutError::Closed(_) | SendTimeoutError::Timeout(_)) => {}
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// How others reach a stream's task.
struct Handles {
    questions: mpsc::Sender<Asked>,
    orders: mpsc::Sender<Order>,
    end: mpsc::Sender<Status>,
}

/// What others want of it.
struct Asks {
    asked: mpsc::Receiver<Asked>,
    ordered: mpsc::Receiver<Order>,
}

/// Makes this the node's stream; one that is there is told why it ends.
fn take_over(
    node: &Node,
    caller: &Caller,
    from: &str,
    hello: &v1::Hello,
    Handles { questions, orders, end }: Handles,
) -> u64 {
    let mut live = super::lock(&node.live);
    let stream = match live.as_ref() {
        Some(old) => {
            let why = format!("a newer stream of {} from {from} took over", caller.identity);
            tracing::warn!(node = %caller.identity, from, "took over from a stream that was still open");
            let _ = old.end.try_send(errors::status(Code::Aborted, "TAKEN_OVER", why, &[]));
            old.stream + 1
        }
        None => node.status.borrow().stream + 1,
    };
    let (identity, serial) = (caller.identity.clone(), caller.serial.clone());
    *live = Some(Live { orders, stream, identity, serial, questions, end });
    node.status.send_modify(|status| {
        status.stream = stream;
        status.version = hello.version;
        status.content_hash.clone_from(&hello.content_hash);
        status.generation = hello.generation;
        status.hello = hello.clone();
        status.last_error.clear();
        status.last_seen = Some(SystemTime::now());
        // What it answered before says nothing about what it runs now.
        status.finished = None;
    });
    stream
}

impl Session {
    /// Runs until the stream ends, and says why it did.
    async fn run(
        &mut self,
        mut inbound: Streaming<v1::FromNode>,
        Asks { mut asked, mut ordered }: Asks,
        mut ends: mpsc::Receiver<Status>,
        mut closing: watch::Receiver<bool>,
        sender: &mpsc::Sender<Result<v1::ToNode, Status>>,
    ) -> Status {
        self.target.mark_changed();
        loop {
            for id in self.pending.given_up() {
                self.out.push_back(Item::Message(To::Cancel(v1::OperateCancel { id })));
            }
            let look = self.pending.follows().then(|| Instant::now() + LOOK);
            let push_deadline = self.push.as_ref().map(|push| push.deadline);
            let wake = push_deadline.into_iter().chain([self.heard + self.silence]).chain(look).min();
            tokio::select! {
                end = ends.recv() => {
                    return end.unwrap_or_else(|| Status::unavailable("the stream's handle is gone"));
                }
                _ = closing.wait_for(|closing| *closing) => {
                    return errors::status(Code::Unavailable, "CLOSING", "control is shutting down; connect again", &[]);
                }
                message = inbound.message() => match message {
                    Ok(Some(message)) => {
                        if let Err(status) = self.take(message) {
                            return status;
                        }
                    }
                    Ok(None) => return Status::ok("the node closed the stream"),
                    Err(status) => return Status::unavailable(format!("the stream broke: {}", status.message())),
                },
                Ok(()) = self.target.changed(), if self.push.is_none() => self.look(),
                Some(order) = ordered.recv(), if self.push.is_none() => self.obey(order),
                Some(question) = asked.recv() => {
                    if let Some(call) = self.pending.add(question) {
                        self.out.push_back(Item::Message(To::Call(call)));
                    }
                }
                permit = sender.reserve(), if !self.out.is_empty() => match permit {
                    Ok(permit) => if let Some(item) = self.out.pop_front() { permit.send(Ok(item.message())) },
                    Err(_) => return Status::unavailable("the connection is gone"),
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now).into()) => {
                    if let Err(status) = self.overdue() {
                        return status;
                    }
                }
            }
        }
    }

    /// Compares the target with what the node runs, and offers it when they differ.
    fn look(&mut self) {
        let Some(target) = self.target.borrow_and_update().clone() else { return };
        if target.confirmed.contains(&self.unconfirmed) {
            self.confirmed();
        }
        let Some(tables) = target.nodes.get(&self.caller.identity.name) else {
            // Taking traffic away because a name is missing would be the worst reading of a typing error.
            self.finish(Finished { attempt: target.attempt, version: target.version, verdict: Verdict::NotMeant });
            return;
        };
        let (version, attempt) = (target.version, target.attempt);
        let status = self.node.status.borrow().clone();
        if status.version == version && status.content_hash == tables.content_hash {
            let verdict = match status.finished.map(|finished| finished.verdict) {
                Some(settled @ Verdict::Settled { .. }) => settled,
                _ => Verdict::Settled { generation: status.generation, build_us: 0, settle_us: 0 },
            };
            self.finish(Finished { attempt, version, verdict });
            return;
        }
        let left = target.until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| version == self.given_up || left.is_zero()) {
            // Control stores what comes next in a moment.
            let verdict = Verdict::Refused("it was not confirmed in time".to_owned());
            self.finish(Finished { attempt, version, verdict });
            return;
        }
        let groups = tables.references();
        self.out.push_back(Item::Message(To::Offer(v1::TablesOffer {
            version,
            content_hash: tables.content_hash.clone(),
            groups,
            // Apply asked whether ports may stop before it stored the version; a node that was away must not be asked again.
            allow_port_restart: true,
            confirm_within_ms: left.map_or(0, |left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1)),
            stage: 0,
        })));
        let deadline = Instant::now() + self.push_timeout;
        self.push =
            Some(Push { tables: Arc::clone(tables), version, attempt, deadline, waits: left.is_some(), staging: None });
    }

    fn obey(&mut self, order: Order) {
        let Order::Stage { stage, tables, deadline, answer } = order else {
            self.out.push_back(Item::Message(To::Unstage(v1::TablesUnstage {})));
            return;
        };
        self.out.push_back(Item::Message(To::Offer(v1::TablesOffer {
            content_hash: tables.content_hash.clone(),
            groups: tables.references(),
            // As in every offer: it was asked before.
            allow_port_restart: true,
            stage,
            ..v1::TablesOffer::default()
        })));
        let staging = Some((stage, answer));
        self.push = Some(Push { tables, version: 0, attempt: 0, deadline, waits: false, staging });
    }

    /// The node is ready, or says why it is not.
    fn staged(&mut self, stage: u64, result: Result<(), String>) {
        let Some(push) = self.push.take_if(|push| push.is(0, stage)) else { return };
        self.out.retain(|item| matches!(item, Item::Message(_)));
        if let Some((_, answer)) = push.staging {
            // Control may have given the attempt up.
            let _ = answer.send(result);
        }
    }

    fn take(&mut self, message: v1::FromNode) -> Result<(), Status> {
        self.heard = Instant::now();
        match message.message {
            Some(From::Wanted(wanted)) => self.wanted(&wanted)?,
            Some(From::Ack(ack)) => self.acked(&ack),
            Some(From::Nack(nack)) => self.nacked(nack),
            Some(From::Reply(reply)) => self.pending.answer(reply),
            Some(From::Reverted(reverted)) => self.reverted(&reverted),
            Some(From::Staged(staged)) => self.staged(staged.stage, Ok(())),
            Some(From::Heartbeat(beat)) => self.update(|status| {
                status.last_seen = Some(SystemTime::now());
                status.generation = beat.generation;
            }),
            Some(From::Hello(_)) => {
                return Err(errors::bad_field("hello", "a second one", "one, as the first message of a stream"));
            }
            // A message of a newer node than this control knows.
            None => {}
        }
        Ok(())
    }

    fn wanted(&mut self, wanted: &v1::TablesWanted) -> Result<(), Status> {
        let Some(push) = self.push.as_ref().filter(|push| push.is(wanted.version, wanted.stage)) else { return Ok(()) };
        let places: HashMap<&[u8], usize> =
            push.tables.groups.iter().enumerate().map(|(place, group)| (&group.hash[..], place)).collect();
        for hash in &wanted.hashes {
            let Some(&place) = places.get(&hash[..]) else {
                return Err(errors::bad_field("wanted.hashes", "a hash that was not offered", "hashes of the offer"));
            };
            self.out.push_back(Item::Group(Arc::clone(&push.tables), place));
        }
        Ok(())
    }

    fn acked(&mut self, ack: &v1::TablesAck) {
        let Some(push) = self.push.take_if(|push| push.is(ack.version, 0)) else { return };
        self.unconfirmed = if push.waits { push.version } else { 0 };
        let verdict = if ack.content_hash == push.tables.content_hash {
            self.update(|status| {
                status.version = ack.version;
                status.content_hash.clone_from(&ack.content_hash);
                status.generation = ack.generation;
            });
            Verdict::Settled { generation: ack.generation, build_us: ack.build_us, settle_us: ack.settle_us }
        } else {
            Verdict::Refused("it acknowledged other tables than it was offered; please report this".to_owned())
        };
        self.finish(Finished { attempt: push.attempt, version: push.version, verdict });
    }

    fn nacked(&mut self, nack: v1::TablesNack) {
        if nack.stage != 0 {
            return self.staged(nack.stage, Err(nack.reason));
        }
        let Some(push) = self.push.take_if(|push| push.is(nack.version, 0)) else { return };
        tracing::warn!(node = %self.caller.identity, version = nack.version, why = nack.reason, "node refused");
        // Groups that still wait belong to the refused offer.
        self.out.retain(|item| matches!(item, Item::Message(_)));
        let verdict = Verdict::Refused(nack.reason);
        self.finish(Finished { attempt: push.attempt, version: push.version, verdict });
    }

    /// Tells the node that what it runs stays.
    fn confirmed(&mut self) {
        let version = std::mem::take(&mut self.unconfirmed);
        self.out.push_back(Item::Message(To::Confirmed(v1::TablesConfirmed { version })));
    }

    /// The node returned to its former tables by itself.
    fn reverted(&mut self, reverted: &v1::TablesReverted) {
        let v1::TablesReverted { version, to_version, .. } = *reverted;
        tracing::warn!(node = %self.caller.identity, version, to_version, "node returned to its former tables: nobody confirmed the version in time");
        self.unconfirmed = 0;
        self.update(|status| {
            status.version = to_version;
            status.content_hash.clone_from(&reverted.content_hash);
            status.generation = reverted.generation;
            status.last_error = format!("version {version} was not confirmed in time; it runs version {to_version}");
            status.finished = None;
        });
        self.gave_up(version);
        // What runs there is not what it was a moment ago: whatever the target is by now is offered.
        self.target.mark_changed();
    }

    fn gave_up(&mut self, version: u64) {
        self.given_up = version;
        self.cluster.given_up.send_replace((version, self.caller.identity.name.clone()));
    }

    fn finish(&mut self, finished: Finished) {
        self.update(|status| {
            status.last_error = finished.verdict.error(finished.version);
            status.finished = Some(finished);
        });
    }

    /// Changes the node's status, unless a newer stream speaks for the node by now.
    fn update(&self, change: impl FnOnce(&mut NodeStatus)) {
        self.node.status.send_if_modified(|status| {
            let ours = status.stream == self.stream;
            if ours {
                change(status);
            }
            ours
        });
    }

    /// Something took too long: an answer, or any word at all.
    fn overdue(&mut self) -> Result<(), Status> {
        let now = Instant::now();
        let late = self.push.as_ref().filter(|push| push.deadline <= now).map(Push::stage);
        if let Some(stage) = late.filter(|stage| *stage != 0) {
            // Only the group's attempt failed; the node may be slow at building and is fine otherwise.
            self.staged(stage, Err("was not ready in time".to_owned()));
            self.obey(Order::Unstage);
        } else if let Some(push) = self.push.take_if(|push| push.deadline <= now) {
            let why = format!("no answer in {} s; the stream is started over", self.push_timeout.as_secs_f32());
            let verdict = Verdict::TimedOut(why.clone());
            self.finish(Finished { attempt: push.attempt, version: push.version, verdict });
            return Err(errors::status(
                Code::DeadlineExceeded,
                "NO_ANSWER",
                format!("version {}: {why}", push.version),
                &[],
            ));
        }
        if self.heard + self.silence <= now {
            let why = format!("no heartbeat in {} s", self.silence.as_secs_f32());
            return Err(errors::status(Code::DeadlineExceeded, "SILENT", why, &[]));
        }
        Ok(())
    }

    /// Gives the node's place up, unless a newer stream took it.
    fn leave(&self, why: &str) {
        ended(&self.caller.identity, why);
        let mut live = super::lock(&self.node.live);
        if live.as_ref().is_some_and(|live| live.stream == self.stream) {
            *live = None;
            self.node.status.send_modify(|status| {
                status.stream = 0;
                if status.last_error.is_empty() {
                    why.clone_into(&mut status.last_error);
                }
            });
        }
    }
}

impl Item {
    fn message(self) -> v1::ToNode {
        let message = match self {
            Item::Message(message) => message,
            Item::Group(tables, place) => {
                let group = &tables.groups[place];
                To::Group(v1::TableGroup { hash: group.hash.to_vec(), encoded: group.bytes.to_vec() })
            }
        };
        v1::ToNode { message: Some(message) }
    }
}
