//! One stream to control: offers in, acks and heartbeats out, questions answered.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use marchproxy_proto::v1;
use marchproxy_proto::v1::from_node::Message as From;
use marchproxy_proto::v1::node_service_client::NodeServiceClient;
use marchproxy_proto::v1::operate_call::Request as Question;
use marchproxy_proto::v1::operate_reply::Response;
use marchproxy_proto::v1::to_node::Message as To;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::backoff::Backoff;
use super::{Agent, connect};
use crate::config::Config;
use crate::local::{self, Watched};

/// Control gives a silent node up after 15 s.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// The group of 100,000 rules has about 10 MB.
const MESSAGE_MAX: usize = 256 << 20;
/// Answers and heartbeats that wait for the network.
const OUTBOUND: usize = 64;
/// Questions being answered at a time; further ones are refused.
const QUESTIONS: usize = 16;

pub(super) type Inbound = Streaming<v1::ToNode>;
pub(super) type Outbound = mpsc::Sender<v1::FromNode>;

/// How a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// Control refused the stream or broke it.
    #[error("{}{}", refusal(.0), text(.0))]
    Status(Box<Status>),
    /// The connection broke before control said a word.
    #[error(
        "control closed the connection at the first call ({}): over TLS 1.3 that is how it refuses a certificate; look at \
         control's log, and enrol again (remove {certificate}, new enrolment file) if the certificate is of another authority or expired",
        text(.status)
    )]
    Untrusted {
        /// What is known.
        status: Box<Status>,
        /// The certificate shown.
        certificate: String,
    },
    /// Control closed it.
    #[error("control closed the stream")]
    Closed,
}

fn refusal(status: &Status) -> &'static str {
    match status.code() {
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => "control refuses this node: ",
        _ => "",
    }
}

fn text(status: &Status) -> String {
    let said = if status.message().is_empty() { status.code().description() } else { status.message() };
    std::error::Error::source(status).map_or_else(
        || said.to_owned(),
        |source| {
            let causes = connect::causes(source);
            if said.contains(&causes) { said.to_owned() } else { format!("{said}: {causes}") }
        },
    )
}

/// Opens the stream. Over TLS 1.3 a certificate that control refuses shows here and not when connecting.
pub(super) async fn open(config: &Config, channel: Channel, hello: v1::Hello) -> Result<(Inbound, Outbound), Ended> {
    let (sender, receiver) = mpsc::channel(OUTBOUND);
    // The channel is empty and has room.
    let _ = sender.try_send(message(From::Hello(hello)));
    let mut request = Request::new(ReceiverStream::new(receiver));
    connect::name_ourselves(config, request.metadata_mut());
    let mut client =
        NodeServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
    match client.attach(request).await {
        Ok(answer) => Ok((answer.into_inner(), sender)),
        // No status of control's making: a transport error stands behind it.
        Err(status) if !config.insecure && std::error::Error::source(&status).is_some() => {
            let certificate = config.control.certificate.display().to_string();
            Err(Ended::Untrusted { status: Box::new(status), certificate })
        }
        Err(status) => Err(Ended::Status(Box::new(status))),
    }
}

/// Runs the stream until it ends.
pub(super) async fn run(agent: &mut Agent, mut inbound: Inbound, outbound: Outbound, backoff: &mut Backoff) -> Ended {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (answered, mut answers) = mpsc::channel(QUESTIONS);
    let mut open_questions = 0;
    let mut followed = Followed::default();
    agent.pusher.forget_offer();
    // What happened before, hello told.
    let mut reverts = agent.pusher.reverts();
    loop {
        let out = tokio::select! {
            incoming = inbound.message() => match incoming {
                Ok(Some(v1::ToNode { message: Some(To::Call(v1::OperateCall { id, request: Some(Question::Trace(asked)) })) })) => {
                    followed.follow(agent, id, Watched::Trace(asked), &outbound);
                    None
                }
                Ok(Some(v1::ToNode { message: Some(To::Call(v1::OperateCall { id, request: Some(Question::Capture(asked)) })) })) => {
                    followed.follow(agent, id, Watched::Capture(asked), &outbound);
                    None
                }
                Ok(Some(v1::ToNode { message: Some(To::Cancel(v1::OperateCancel { id })) })) => {
                    followed.end(id);
                    None
                }
                Ok(Some(v1::ToNode { message: Some(To::Call(call)) })) if open_questions < QUESTIONS => {
                    open_questions += 1;
                    ask(agent, call, answered.clone());
                    None
                }
                Ok(Some(v1::ToNode { message: Some(To::Call(call)) })) => Some(busy(&call)),
                Ok(Some(v1::ToNode { message: Some(incoming) })) => heard(agent, incoming, backoff),
                // A message of a newer control than this node knows.
                Ok(Some(v1::ToNode { message: None })) => None,
                Ok(None) => return Ended::Closed,
                Err(status) => return Ended::Status(Box::new(status)),
            },
            outcome = agent.pusher.finished() => Some(outcome),
            Ok(()) = reverts.changed() => Some(From::Reverted(reverts.borrow_and_update().clone())),
            Some(reply) = answers.recv() => {
                open_questions -= 1;
                Some(From::Reply(reply))
            }
            _ = heartbeat.tick() => Some(beat(agent).await),
        };
        if let Some(out) = out
            && outbound.send(message(out)).await.is_err()
        {
            return Ended::Closed;
        }
    }
}

fn message(message: From) -> v1::FromNode {
    v1::FromNode { message: Some(message) }
}

fn heard(agent: &mut Agent, incoming: To, backoff: &mut Backoff) -> Option<From> {
    match incoming {
        To::Welcome(welcome) => {
            tracing::info!("control welcomed node {} of cluster {}", welcome.node, welcome.cluster);
            backoff.reset();
            agent.state.update(|state| {
                state.connected = true;
                state.connections += 1;
                state.last_error.clear();
            });
            None
        }
        To::Offer(offer) => agent.pusher.offered(offer, Instant::now()),
        To::Group(group) => agent.pusher.group(group),
        To::Unstage(v1::TablesUnstage {}) => {
            agent.pusher.unstage();
            None
        }
        To::Confirmed(confirmed) => {
            agent.pusher.confirmed(confirmed.version);
            None
        }
        To::Call(_) | To::Cancel(_) => None,
    }
}

/// Traces and captures that are relayed, by the id of their question. They end with the stream.
#[derive(Default)]
struct Followed(HashMap<u64, AbortHandle>);

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.values().for_each(AbortHandle::abort);
    }
}

impl Followed {
    fn follow(&mut self, agent: &Agent, id: u64, watched: Watched, outbound: &Outbound) {
        self.0.retain(|_, task| !task.is_finished());
        let (node, outbound) = (agent.operate.node().clone(), outbound.clone());
        let mut items = agent.operate.watch(watched);
        let task = tokio::spawn(async move {
            let mut last = false;
            while let Some(item) = items.recv().await {
                let response = match item {
                    Ok(mut observation) => {
                        local::name(&mut observation, &node);
                        last = matches!(observation.item, Some(v1::observation::Item::End(_)));
                        Response::Observation(observation)
                    }
                    Err(error) => {
                        last = true;
                        Response::Error(error)
                    }
                };
                if outbound.send(reply(id, response)).await.is_err() {
                    return;
                }
            }
            if !last {
                // The stream may be gone by now; nobody waits then.
                let _ = outbound.send(reply(id, Response::Error("it broke off; please report this".into()))).await;
            }
        });
        self.0.insert(id, task.abort_handle());
    }

    /// Nobody waits for it any more.
    fn end(&mut self, id: u64) {
        if let Some(task) = self.0.remove(&id) {
            task.abort();
        }
    }
}

fn reply(id: u64, response: Response) -> v1::FromNode {
    message(From::Reply(v1::OperateReply { id, response: Some(response) }))
}

/// Answers a question off the async thread: counting sessions may take milliseconds.
fn ask(agent: &Agent, call: v1::OperateCall, answered: mpsc::Sender<v1::OperateReply>) {
    let operate = agent.operate.clone();
    tokio::task::spawn_blocking(move || {
        let reply = v1::OperateReply { id: call.id, response: Some(operate.relayed(call.request)) };
        // The stream may be gone by now; nobody waits for the answer then.
        let _ = answered.blocking_send(reply);
    });
}

fn busy(call: &v1::OperateCall) -> From {
    let error = format!("{QUESTIONS} questions are being answered already; ask again");
    From::Reply(v1::OperateReply { id: call.id, response: Some(v1::operate_reply::Response::Error(error)) })
}

async fn beat(agent: &Agent) -> From {
    let runtime = agent.runtime.clone();
    let stats = tokio::task::spawn_blocking(move || runtime.stats()).await.unwrap_or_default();
    let terms = stats.conservation.unwrap_or_default();
    From::Heartbeat(v1::Heartbeat {
        version: stats.version,
        generation: stats.generation,
        packets_rx: terms.rx,
        packets_tx: terms.tx,
        packets_dropped: terms.drops,
        residue: terms.residue,
    })
}
