//! Log samples: of the packets that count under a rule one in N is recorded (`BEHAVIOUR.md` 6), for a person to read.
//!
//! A worker counts for itself and puts what is due into a ring that somebody else reads. When the ring is full the sample is lost, and
//! that is counted: a worker never waits, and a flood of packets makes no flood of records.

use arrayvec::ArrayString;
use rtrb::Producer;

use crate::flow::FlowKey;
use crate::snapshot::Snapshot;
use crate::stage::parse::Head;
use crate::stats::ThreadStats;
use crate::table::rules::Rule;
use crate::tables::RuleAction;

/// Most rules that sample: a worker keeps a counter for each.
pub const MOST: usize = 256;

/// Octets of a name that a record keeps; the control plane allows no longer ones.
const NAME: usize = 64;

/// A recorded packet. Names, so that a record means the same whatever was pushed meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The rule.
    pub rule: ArrayString<NAME>,
    /// What it decides.
    pub action: RuleAction,
    /// One of so many.
    pub one_of: u32,
    /// Where the packet came in.
    pub interface: ArrayString<NAME>,
    /// Its tuple as received.
    pub key: FlowKey,
    /// Octets of L3.
    pub length: u16,
    /// TCP flags, or the ICMP type.
    pub flags_or_type: u8,
}

/// One worker's counters.
pub struct Sampling {
    /// The generation they count in.
    generation: u64,
    /// Packets since the last sample, by [`Rule::sampler`]; 0: the next one is due.
    since: Box<[u32; MOST]>,
    out: Option<Producer<Sample>>,
}

impl Sampling {
    /// Records go into this ring, or nowhere.
    pub fn new(out: Option<Producer<Sample>>) -> Self {
        Self { generation: 0, since: Box::new([0; MOST]), out }
    }

    /// A packet counts under a rule that samples.
    pub fn count(
        &mut self,
        (snapshot, generation): (&Snapshot, u64),
        rule: &Rule,
        head: &Head,
        key: &FlowKey,
        stats: &ThreadStats,
    ) {
        if self.generation != generation {
            self.generation = generation;
            self.since.fill(0);
        }
        let Some(since) = self.since.get_mut(rule.sampler as usize) else { return };
        let due = *since == 0;
        *since = if *since + 1 >= rule.log_sample { 0 } else { *since + 1 };
        let Some(out) = self.out.as_mut().filter(|_| due) else { return };
        let interface = snapshot.interface(head.interface).map_or("", |interface| interface.name.as_str());
        let sample = Sample {
            rule: shortened(&rule.name),
            action: rule.action,
            one_of: rule.log_sample,
            interface: shortened(interface),
            key: *key,
            length: head.l3_len,
            flags_or_type: head.flags_or_type,
        };
        let counter = if out.push(sample).is_ok() { &stats.samples } else { &stats.samples_lost };
        counter.add(1);
    }
}

/// As much of a name as there is room for.
fn shortened(name: &str) -> ArrayString<NAME> {
    let mut out = ArrayString::new();
    for letter in name.chars() {
        if out.try_push(letter).is_err() {
            break;
        }
    }
    out
}
