//! The node's side of a flow export: gives workers the memory to count in, takes it back, and tells the exporter's thread.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use marchproxy_cpu::{MemoryOptions, TscClock};
use marchproxy_engine::stats::ThreadStats;
use marchproxy_engine::table::sessions::{FlowSettings, Flows as Memory};
use marchproxy_engine::tables::FlowsSpec;
use marchproxy_proto::v1;
use rtrb::RingBuffer;

use super::Shared;
use crate::driver::Driver;
use crate::flows::{self, Counters, Order, RING, Totals};

/// What of it the node's threads share.
pub(super) struct Flows {
    /// Entries of a worker's session table.
    sessions: usize,
    /// Whether huge pages are wanted.
    huge: bool,
    counters: Arc<Counters>,
    state: Mutex<State>,
}

struct State {
    /// `None` once it is to end.
    orders: Option<mpsc::Sender<Order>>,
    /// What is exported now.
    running: Option<FlowsSpec>,
}

/// The exporter before its thread runs.
pub(super) struct Exporter {
    orders: mpsc::Receiver<Order>,
    counters: Arc<Counters>,
}

/// The same, with a look at the workers' statistics.
pub(super) struct Exporting {
    exporter: Exporter,
    totals: Totals,
}

impl Flows {
    pub(super) fn new(sessions: usize, huge: bool) -> (Self, Exporter) {
        let (sender, orders) = mpsc::channel();
        let counters = Arc::new(Counters::default());
        let state = Mutex::new(State { orders: Some(sender), running: None });
        (Self { sessions, huge, counters: counters.clone(), state }, Exporter { orders, counters })
    }

    /// Nothing comes any more: what is in the rings is sent, and the thread ends.
    pub(super) fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).orders = None;
    }
}

impl Exporter {
    pub(super) fn totals(self, workers: Vec<Arc<ThreadStats>>) -> Exporting {
        let sum = move || {
            workers.iter().fold([0, 0], |[selected, passed], stats| {
                [selected + stats.flows_selected.value(), passed + stats.flows_passed_over.value()]
            })
        };
        Exporting { exporter: self, totals: Box::new(sum) }
    }
}

impl Exporting {
    pub(super) fn run(self, clock: TscClock) {
        flows::run(&self.exporter.orders, &self.exporter.counters, clock, &self.totals);
    }
}

impl<D: Driver> Shared<D> {
    /// Begins, changes or ends the export as the tables say. What fails leaves packets alone: it is logged, and the next push tries again.
    pub(super) fn export_flows(&self, wanted: Option<&FlowsSpec>) {
        let mut state = self.flows.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.running.as_ref() == wanted {
            return;
        }
        let order = match (state.running.is_some(), wanted) {
            (true, Some(spec)) => Order::Change(spec.clone()),
            (true, None) => {
                for (number, line) in self.lines.iter().enumerate() {
                    if let Err(silent) = line.flows(None) {
                        tracing::error!("flows: worker {number}: {silent}");
                    }
                }
                Order::End
            }
            (false, Some(spec)) => {
                let settings = FlowSettings::from(spec);
                let mut rings = Vec::with_capacity(self.lines.len());
                for (number, (line, worker)) in self.lines.iter().zip(&self.workers).enumerate() {
                    let (records, ring) = RingBuffer::new(RING);
                    let options = MemoryOptions { huge: self.flows.huge, numa_node: worker.core.node };
                    let name = format!("marchproxy-flows-{number}");
                    let told = Memory::memfd(&name, self.flows.sessions, options, settings, records)
                        .map_err(|error| error.to_string())
                        .and_then(|memory| line.flows(Some(memory)).map_err(|silent| silent.to_string()));
                    if let Err(why) = told {
                        tracing::error!("flows: worker {number} tells of no sessions: {why}");
                    }
                    rings.push(ring);
                }
                tracing::info!(
                    "flows: exported to {} (IPFIX over UDP), {} MB to count in",
                    spec.collector,
                    (self.lines.len() * self.flows.sessions * Memory::BYTES_PER_SESSION) >> 20
                );
                Order::Begin(spec.clone(), rings)
            }
            (false, None) => return,
        };
        state.running = wanted.cloned();
        if let Some(orders) = &state.orders
            && orders.send(order).is_err()
        {
            tracing::error!("flows: the exporter is gone; please report this");
        }
    }

    /// What became of flows; `None` where none are or were exported.
    pub(super) fn flow_stats(&self) -> Option<v1::FlowStats> {
        let sum = |count: fn(&ThreadStats) -> u64| self.workers.iter().map(|worker| count(&worker.stats)).sum::<u64>();
        let Counters { records, unsent, messages, octets, failures, trouble } = &*self.flows.counters;
        let state = self.flows.state.lock().unwrap_or_else(PoisonError::into_inner);
        let selected = sum(|stats| stats.flows_selected.value());
        if state.running.is_none() && selected == 0 && messages.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(v1::FlowStats {
            collector: state.running.as_ref().map(|spec| spec.collector.to_string()).unwrap_or_default(),
            one_of: state.running.as_ref().map_or(0, |spec| spec.one_of),
            sessions_selected: selected,
            sessions_passed_over: sum(|stats| stats.flows_passed_over.value()),
            records: sum(|stats| stats.flow_records.value()),
            records_lost: sum(|stats| stats.flow_records_lost.value()),
            sent_records: records.load(Ordering::Relaxed),
            unsent_records: unsent.load(Ordering::Relaxed),
            sent_messages: messages.load(Ordering::Relaxed),
            sent_octets: octets.load(Ordering::Relaxed),
            failures: failures.load(Ordering::Relaxed),
            trouble: trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        })
    }
}
