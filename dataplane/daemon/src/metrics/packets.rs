//! What became of packets, and the law that none is lost.

use marchproxy_engine::reason::{ConsumeReason, DropReason, PuntReason};
use marchproxy_metrics::{Class, Family, Kind, Sample, family, one, sample};

use super::{NODE, Observation, REASON, count, reasons};

const TERM: &Class = &Class { name: "term of the law", bound: "6" };

pub(super) const FAMILIES: &[Family<Observation>] = &[
    family(
        "dropped_packets",
        Kind::Counter,
        "packets",
        REASON,
        &["reason", "class"],
        "Packets dropped, by the one reason each has and its class: policy, error or congestion.",
        drops,
    ),
    family("punted_packets", Kind::Counter, "packets", REASON, &["reason"], "Packets passed to the slow path.", |o| {
        reasons(PuntReason::ALL.iter().map(|reason| reason.label()), &o.stats.punts)
    }),
    family(
        "consumed_packets",
        Kind::Counter,
        "packets",
        REASON,
        &["reason"],
        "Packets meant for the node itself.",
        |o| reasons(ConsumeReason::ALL.iter().map(|reason| reason.label()), &o.stats.consumed),
    ),
    family(
        "originate_failed_packets",
        Kind::Counter,
        "packets",
        NODE,
        &[],
        "Packets of the node's own that were not made because there was no buffer.",
        |o| one(o.stats.originate_failed),
    ),
    family(
        "icmp_errors_translated_packets",
        Kind::Counter,
        "packets",
        NODE,
        &[],
        "ICMP errors about packets of sessions, translated and sent on.",
        |o| one(o.stats.icmp_errors_translated),
    ),
    family(
        "icmp_errors_limited_packets",
        Kind::Counter,
        "packets",
        NODE,
        &[],
        "ICMP errors not sent because of their rate limit.",
        |o| one(o.stats.icmp_errors_limited),
    ),
    family(
        "conservation_packets",
        Kind::Gauge,
        "packets",
        TERM,
        &["term"],
        "Terms of rx + originated = tx + drops + consumed + held.",
        |o| {
            let c = o.stats.conservation.unwrap_or_default();
            [
                ("rx", c.rx),
                ("originated", c.originated),
                ("tx", c.tx),
                ("drops", c.drops),
                ("consumed", c.consumed),
                ("held", c.held),
            ]
            .map(|(term, value)| sample(vec![term.to_owned()], value))
            .into()
        },
    ),
    family(
        "conservation_residue_packets",
        Kind::Gauge,
        "packets",
        NODE,
        &[],
        "Left minus right side of the law; anything but 0 is a bug.",
        |o| one(o.stats.conservation.unwrap_or_default().residue),
    ),
];

fn drops(o: &Observation) -> Vec<Sample> {
    let reason = |reason: &DropReason| {
        let labels = vec![reason.label().to_owned(), reason.class().label().to_owned()];
        sample(labels, count(&o.stats.drops, reason.label()))
    };
    DropReason::ALL.iter().map(reason).collect()
}
