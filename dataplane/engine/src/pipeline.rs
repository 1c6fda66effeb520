//! The order of the stages, and the state of one worker that they share.

use std::sync::Arc;

use marchproxy_cpu::tsc;
use rtrb::Producer;

use crate::burst::{Burst, Mask};
use crate::flow::FlowKey;
use crate::ledger::{Backend, Ledger};
use crate::observe;
use crate::ports::{PortFacts, PortSlot, UNTAGGED};
use crate::sampling::{Sample, Sampling};
use crate::snapshot::Snapshot;
use crate::stage::fragment::Arrival;
use crate::stage::{balance, express, finish, flows, fragment, parse, queue, route, rule, session, steer, urpf};
use crate::stats::{STAGES, ThreadStats};
use crate::table::fragments::Fragments;
use crate::table::neighbours::NeighbourTable;
use crate::table::policer::Policers;
use crate::table::sessions::Sessions;

/// Every this many bursts one is timed stage by stage: enough for figures, too few to cost anything. Odd, so that ports polled in turn are
/// all sampled.
const SAMPLE_EVERY: u32 = 17;

/// The stages of one worker and what they keep between bursts.
pub struct Pipeline {
    /// The worker's sessions.
    pub sessions: Sessions,
    policers: Policers,
    neighbours: NeighbourTable,
    facts: PortFacts,
    stats: Arc<ThreadStats>,
    sampling: Sampling,
    bursts: u32,
    /// [`Sessions::changes`] whose ends the statistics show.
    published: u32,
    /// The address of a source pool whose counters are next.
    pool_shown: usize,
    /// This worker's number and how many there are.
    seat: (usize, usize),
}

/// Times stages of sampled bursts.
struct Clock<'a> {
    stats: &'a ThreadStats,
    sampled: bool,
    last: u64,
    stage: usize,
}

impl<'a> Clock<'a> {
    fn start(stats: &'a ThreadStats, sampled: bool) -> Self {
        Self { stats, sampled, last: if sampled { tsc() } else { 0 }, stage: 0 }
    }

    #[inline]
    fn stage(&mut self, packets: usize) {
        let counters = &self.stats.stages[self.stage];
        self.stage += 1;
        counters.calls.add(1);
        counters.packets.add(packets as u64);
        if self.sampled {
            let now = tsc();
            counters.sampled_ticks.add(now.saturating_sub(self.last));
            counters.sampled_packets.add(packets as u64);
            self.last = now;
        }
    }
}

impl Pipeline {
    /// A pipeline with its tables. `policers` is the number of policer slots (the budget's).
    pub fn new(
        sessions: Sessions,
        policers: usize,
        neighbours: NeighbourTable,
        facts: PortFacts,
        stats: Arc<ThreadStats>,
    ) -> Self {
        // The hash of any tuple under the sessions' secret is as secret.
        let policers = Policers::new(policers, sessions.hash(&FlowKey::default()));
        let sampling = Sampling::new(None);
        Self {
            sessions,
            policers,
            neighbours,
            facts,
            stats,
            sampling,
            bursts: 0,
            published: 0,
            pool_shown: 0,
            seat: (0, 1),
        }
    }

    /// Gives it a ring for the packets that rules sample.
    #[must_use]
    pub fn with_samples(mut self, out: Producer<Sample>) -> Self {
        self.sampling = Sampling::new(Some(out));
        self
    }

    /// Makes it the pipeline of worker `me` of `workers`.
    #[must_use]
    pub fn with_seat(mut self, me: usize, workers: usize) -> Self {
        self.seat = (me, workers);
        self.sessions.seat(me, workers);
        if workers > 1 {
            self.policers.share();
        }
        self
    }

    /// Takes one burst from receive to the ledger under one generation. What waits in fragments stays in `fragments`.
    #[expect(clippy::too_many_arguments, reason = "a burst, what it meets, and where it goes")]
    pub fn process<K: Backend>(
        &mut self,
        burst: &mut Burst<K::Buf>,
        snapshot: &Snapshot,
        generation: u64,
        now: u64,
        arrival: Arrival<'_>,
        fragments: &mut Fragments<K::Buf>,
        ledger: &mut Ledger<K>,
    ) {
        const { assert!(STAGES.len() == 8) };
        self.bursts = self.bursts.wrapping_add(1);
        let mut clock = Clock::start(&self.stats, self.bursts.is_multiple_of(SAMPLE_EVERY));
        let packets = burst.len();
        if let Some(lens) = ledger.lens_mut() {
            lens.begin(burst);
        }
        // Whoever looks at packets wants to see each stage decide.
        if snapshot.only_ways && ledger.lens_mut().is_none() {
            express::process(burst, snapshot, &self.facts, &self.neighbours);
        }
        clock.stage(packets - burst.active.len());
        let packets = burst.active.len();
        parse::process(burst, snapshot, &self.facts);
        if !arrival.is_handed_over() {
            urpf::process(burst, snapshot);
        }
        let (me, workers) = self.seat;
        if !burst.fragments.is_empty() {
            fragment::process(burst, snapshot, arrival, fragments, self.seat, now, ledger);
        }
        if workers > 1 && arrival.may_move() {
            steer::process(burst, snapshot, me, workers);
        }
        clock.stage(packets);
        let packets = burst.active.len();
        session::process(burst, snapshot, &self.sessions, &self.stats, now);
        clock.stage(packets);
        rule::process(burst, snapshot, &self.stats);
        clock.stage(packets);
        let mut context = balance::Context {
            snapshot,
            generation,
            sessions: &mut self.sessions,
            sampling: &mut self.sampling,
            stats: &self.stats,
            now,
            hits: [0; 2],
            anew: Mask::default(),
        };
        balance::process(burst, &mut context);
        let anew = context.anew;
        if self.sessions.tells_flows() {
            flows::process(burst, &mut self.sessions, anew, now);
        }
        clock.stage(packets);
        let packets = burst.active.len();
        route::process(burst, snapshot, &self.neighbours);
        clock.stage(packets);
        let packets = burst.active.len();
        let mut context = finish::Context {
            snapshot,
            generation,
            facts: &self.facts,
            neighbours: &self.neighbours,
            policers: &mut self.policers,
            stats: &self.stats,
            now,
        };
        finish::process(burst, &mut context);
        if !burst.too_long.is_empty() {
            burst.cut_too_long();
        }
        if snapshot.shaping.shaped() != 0 {
            queue::process(burst, snapshot);
        }
        if let Some(lens) = ledger.lens_mut() {
            let handed = arrival.is_handed_over();
            lens.end(burst, &observe::Context { snapshot, generation, sessions: &self.sessions, handed });
        }
        clock.stage(packets);
        let packets = burst.len();
        burst.drain(ledger, |interface| {
            snapshot
                .interface(interface)
                .map_or_else(|| (PortSlot::default(), UNTAGGED, 0), |i| (i.port, i.vlan, i.mtu))
        });
        clock.stage(packets);
    }

    #[cold]
    fn tell_flows(&mut self, snapshot: &Snapshot, now: u64) {
        self.sessions.tell_active(snapshot.flows, now);
        self.show_flows();
    }

    /// Shows in the statistics what was told about sessions.
    pub fn show_flows(&self) {
        let totals = self.sessions.flow_totals();
        self.stats.flows_selected.set(totals.selected);
        self.stats.flows_passed_over.set(totals.passed_over);
        self.stats.flow_records.set(totals.records);
        self.stats.flow_records_lost.set(totals.lost);
    }

    /// Between bursts: small steps of upkeep.
    pub fn upkeep(&mut self, snapshot: &Snapshot, now: u64) {
        // Sixteen entries a turn pass over a million sessions in well under a second at 100,000 turns a second.
        self.sessions.upkeep(now);
        self.stats.sessions.set(self.sessions.len() as u64);
        if self.sessions.changes() != self.published {
            self.published = self.sessions.changes();
            for (counter, ended) in self.stats.sessions_ended.iter().zip(self.sessions.ended()) {
                counter.set(*ended);
            }
            self.stats.sources_untracked.set(self.sessions.untracked_sources());
        }
        self.policers.upkeep(&snapshot.policers, now);
        self.stats.policer_sources_placeless.set(self.policers.placeless());
        if self.sessions.tells_flows() {
            self.tell_flows(snapshot, now);
        }
        self.pool_shown = self.sessions.show_pool(self.pool_shown, &self.stats.pools);
    }
}
