//! `diff --live`: what a candidate would change for the traffic that is there now.
//!
//! The candidate is a snapshot of its own beside the one that runs; no worker ever sees it. Workers lend their lenses' view of a few packets, as for a
//! trace: the first [`SAMPLE`] of every [`ROUND`], so that a worker looks at 2,560 packets a second at most, whatever its load. Each flow is judged
//! once by both snapshots, by the same look-ups as `why`, on the asker's thread.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::TryLockError;
use std::time::{Duration, Instant};

use marchproxy_engine::Snapshot;
use marchproxy_engine::burst::NONE;
use marchproxy_engine::flow::{FlowKey, to_ip};
use marchproxy_engine::observe::filter::Filter;
use marchproxy_engine::observe::{Kind, Lens, Order, Point, Record, Stages, language};
use marchproxy_engine::table::rules::Sight;
use marchproxy_engine::why::{Answer, Decided, Live, Question, Verdict, why};
use marchproxy_proto::v1;

use super::Shared;
use super::observe::Early;
use super::query::{endpoint, protocol_name};
use crate::driver::Driver;

/// Packets that a worker shows in a round.
const SAMPLE: usize = 256;
/// Between two looks.
const ROUND: Duration = Duration::from_millis(100);
/// Different flows that are judged; about 200 octets each.
const FLOWS: usize = 100_000;
/// Changes that are told.
const CHANGES: usize = 100;
const EXAMPLES: usize = 3;
const TCP: u8 = 6;
/// Decided by no generation of the node: sessions are judged as they will be at their first packet after the push.
const CANDIDATE: u64 = u64::MAX;

/// What tells flows apart that may be judged differently.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Flow {
    interface: u32,
    key: FlowKey,
    sight: Sight,
}

/// A verdict with what led to it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Outcome {
    verdict: Verdict,
    decided: Decided,
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Self {
        Self { verdict: answer.verdict, decided: answer.decided }
    }
}

impl Outcome {
    /// The ways in which a flow would notice the difference; another rule that says the same is none.
    fn differences(&self, other: &Self) -> Vec<&'static str> {
        let (a, b) = (&self.decided, &other.decided);
        let both_leave = self.verdict == Verdict::Forwarded && other.verdict == Verdict::Forwarded;
        [
            ("fate", self.verdict != other.verdict),
            ("backend", both_leave && a.backend != b.backend),
            ("mark", both_leave && a.mark != b.mark),
            ("policer", both_leave && a.policer != b.policer),
            ("way", both_leave && a.out != b.out),
        ]
        .into_iter()
        .filter_map(|(what, differs)| differs.then_some(what))
        .collect()
    }

    fn told(&self) -> v1::PreviewOutcome {
        let decided = self.decided.clone();
        v1::PreviewOutcome {
            fate: self.verdict.label().into(),
            reason: self.verdict.reason().into(),
            rule: decided.rule,
            backend: decided.backend,
            mark: decided.mark.map(u32::from),
            policer: decided.policer,
            out: decided.out,
        }
    }
}

/// Flows that change in the same way.
#[derive(Default)]
struct Change {
    flows: u64,
    packets: u64,
    examples: Vec<String>,
}

/// What was seen so far.
#[derive(Default)]
struct Tally {
    /// By flow, which change it has; none for those that stay as they are.
    flows: HashMap<Flow, Option<(Outcome, Outcome)>>,
    changes: HashMap<(Outcome, Outcome), Change>,
    packets: u64,
    missed: u64,
}

impl<D: Driver> Shared<D> {
    /// Compares the candidate with what runs for so long.
    pub(super) fn preview(&self, candidate: &Snapshot, span: Duration) -> Result<v1::PreviewResponse, String> {
        let _one = match self.watched.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(
                    "a trace, capture or preview runs on this node already; one at a time: wait for its end".into()
                );
            }
        };
        let _all = Early::leave(&*self.driver);
        let (deadline, mut tally) = (Instant::now() + span, Tally::default());
        let everything = language::parse("", None).map_err(|error| error.to_string())?;
        let lenses = Lenses { shared: self, filter: everything };
        let mut spare = Vec::new();
        for worker in 0..self.lines.len() {
            lenses.exchange(worker, Some(lenses.make(span)))?;
            spare.push(Some(lenses.make(span)));
        }
        while Instant::now() < deadline {
            std::thread::sleep(ROUND.min(deadline.saturating_duration_since(Instant::now())));
            for (worker, spare) in spare.iter_mut().enumerate() {
                let fresh = spare.take().map(|mut lens| {
                    lens.renew(SAMPLE, deadline.saturating_duration_since(Instant::now()).as_nanos() as u64);
                    lens
                });
                let Some(lens) = lenses.exchange(worker, fresh)? else { continue };
                self.judge(&lens.records, candidate, &mut tally);
                *spare = Some(lens);
            }
        }
        drop(lenses);
        Ok(self.told(tally))
    }

    fn judge(&self, records: &[Record], candidate: &Snapshot, tally: &mut Tally) {
        let mut observer = self.observer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        observer.refresh();
        let (live, generation) = (observer.current(), observer.generation());
        for record in records {
            let Some(stages) = &record.stages else { continue };
            if stages.head.interface == NONE || !matches!(record.seen.kind, Kind::V4 | Kind::V6) {
                continue;
            }
            tally.packets += 1;
            // Interfaces are numbered anew by every push; what an older generation judged can't be told by its numbers any more.
            if stages.generation != generation {
                tally.missed += 1;
                continue;
            }
            let closer = live.rules.look_closer() || candidate.rules.look_closer();
            let sight = if closer { sight(record, stages) } else { Sight::default() };
            let flow = Flow { interface: stages.head.interface, key: stages.key, sight };
            if !tally.flows.contains_key(&flow) {
                if tally.flows.len() >= FLOWS {
                    tally.missed += 1;
                    continue;
                }
                let change = compare(live, candidate, generation, &flow, record, stages);
                if let Some(change) = &change {
                    let seen = tally.changes.entry(change.clone()).or_default();
                    seen.flows += 1;
                    if seen.examples.len() < EXAMPLES {
                        seen.examples.push(named(live, &flow));
                    }
                }
                tally.flows.insert(flow, change);
            }
            if let Some(Some(change)) = tally.flows.get(&flow)
                && let Some(seen) = tally.changes.get_mut(change)
            {
                seen.packets += 1;
            }
        }
    }

    fn told(&self, tally: Tally) -> v1::PreviewResponse {
        let running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let flows_changed = tally.flows.values().flatten().count() as u64;
        let mut changes: Vec<v1::PreviewChange> = tally
            .changes
            .into_iter()
            .map(|((before, after), change)| v1::PreviewChange {
                what: before.differences(&after).into_iter().map(str::to_owned).collect(),
                before: Some(before.told()),
                after: Some(after.told()),
                flows: change.flows,
                packets: change.packets,
                examples: change.examples,
            })
            .collect();
        changes.sort_by(|a, b| b.flows.cmp(&a.flows).then_with(|| a.examples.cmp(&b.examples)));
        let changes_omitted = changes.len().saturating_sub(CHANGES) as u64;
        changes.truncate(CHANGES);
        v1::PreviewResponse {
            version: running.version,
            generation: running.generation,
            packets: tally.packets,
            missed: tally.missed,
            flows: tally.flows.len() as u64,
            flows_changed,
            changes,
            changes_omitted,
            ..v1::PreviewResponse::default()
        }
    }
}

/// Both judgements, if they differ.
fn compare(
    live: &Snapshot,
    candidate: &Snapshot,
    generation: u64,
    flow: &Flow,
    record: &Record,
    stages: &Stages,
) -> Option<(Outcome, Outcome)> {
    let session = stages.session.map(|(listed, reply)| Live { listed, reply, now: record.now });
    let ask = |interface, generation| Question {
        interface,
        key: flow.key,
        length: stages.head.l3_len,
        ttl: stages.head.ttl,
        sight: flow.sight,
        generation,
        session,
    };
    let name = live.interface(flow.interface).map(|interface| interface.name.as_str());
    let there = candidate.interfaces().iter().position(|interface| Some(interface.name.as_str()) == name);
    let before = Outcome::from(why(live, &ask(flow.interface, generation)));
    let after = Outcome::from(why(candidate, &ask(there.map_or(NONE, |at| at as u32), CANDIDATE)));
    (!before.differences(&after).is_empty()).then_some((before, after))
}

/// What rules see of the packet besides its tuple.
fn sight(record: &Record, stages: &Stages) -> Sight {
    let head = &stages.head;
    let flags = (head.protocol == TCP && !head.later_fragment).then_some(head.flags_or_type);
    let whole = Sight::new(head.vlan, record.seen.dscp, flags);
    if head.fragment { whole.fragment(head.later_fragment) } else { whole }
}

fn named(live: &Snapshot, flow: &Flow) -> String {
    let mut text = live.interface(flow.interface).map(|interface| interface.name.clone()).unwrap_or_default();
    let key = &flow.key;
    let _ = write!(text, " {} ", protocol_name(key.protocol));
    let _ = match (key.sport, key.dport) {
        (0, 0) => write!(text, "{} > {}", to_ip(key.src), to_ip(key.dst)),
        (sport, dport) => write!(text, "{} > {}", endpoint(key.src, sport), endpoint(key.dst, dport)),
    };
    text
}

/// The workers' lenses. Dropping this takes them back, however it ends.
struct Lenses<'a, D: Driver> {
    shared: &'a Shared<D>,
    filter: Filter,
}

impl<D: Driver> Lenses<'_, D> {
    fn make(&self, span: Duration) -> Box<Lens> {
        let order = Order {
            filter: self.filter.clone(),
            point: Point::Trace,
            snaplen: 0,
            wanted: SAMPLE,
            span: span.as_nanos() as u64,
        };
        Lens::new(order, SAMPLE, 0)
    }

    fn exchange(&self, worker: usize, lens: Option<Box<Lens>>) -> Result<Option<Box<Lens>>, String> {
        self.shared.lines[worker].observe(lens).map_err(|silent| format!("worker {worker}: {silent}"))
    }
}

impl<D: Driver> Drop for Lenses<'_, D> {
    fn drop(&mut self) {
        for worker in 0..self.shared.lines.len() {
            if let Err(silent) = self.exchange(worker, None) {
                tracing::error!("a worker's lens stays until its time is up: {silent}");
            }
        }
    }
}
