//! What is told of sessions to a flow collector, and what does not get there.

use marchproxy_metrics::{Family, Kind, Sample, family, one, sample};
use marchproxy_proto::v1;

use super::{NODE, Observation, REASON};

const WHEN: &str = "once flows are exported";

pub(super) const FAMILIES: &[Family<Observation>] = &[
    family(
        "flow_sessions",
        Kind::Counter,
        "",
        REASON,
        &["selected"],
        "New sessions that a flow collector hears of, and that sampling passed over.",
        |o| {
            flows(o, |f| {
                vec![
                    sample(vec!["yes".into()], f.sessions_selected),
                    sample(vec!["no".into()], f.sessions_passed_over),
                ]
            })
        },
    )
    .when(WHEN),
    family(
        "flow_records",
        Kind::Counter,
        "",
        NODE,
        &[],
        "Records about sessions that workers made for a flow collector.",
        |o| flows(o, |f| one(f.records)),
    )
    .when(WHEN),
    family(
        "flow_records_lost",
        Kind::Counter,
        "",
        NODE,
        &[],
        "Of them, records that found no room in a worker's ring to the exporter.",
        |o| flows(o, |f| one(f.records_lost)),
    )
    .when(WHEN),
    family(
        "flow_export_records",
        Kind::Counter,
        "",
        REASON,
        &["result"],
        "IPFIX data records sent, and not sent because the kernel refused the message or there was no socket.",
        |o| {
            flows(o, |f| {
                vec![sample(vec!["sent".into()], f.sent_records), sample(vec!["unsent".into()], f.unsent_records)]
            })
        },
    )
    .when(WHEN),
    family("flow_export_messages", Kind::Counter, "", NODE, &[], "IPFIX messages sent.", |o| {
        flows(o, |f| one(f.sent_messages))
    })
    .when(WHEN),
    family("flow_export_bytes", Kind::Counter, "bytes", NODE, &[], "Octets of IPFIX messages sent.", |o| {
        flows(o, |f| one(f.sent_octets))
    })
    .when(WHEN),
    family(
        "flow_export_failures",
        Kind::Counter,
        "",
        NODE,
        &[],
        "Times the kernel refused an IPFIX message or a socket for them, or said that nobody listens where the last one went.",
        |o| flows(o, |f| one(f.failures)),
    )
    .when(WHEN),
];

/// Nothing where no flows are exported.
fn flows(o: &Observation, samples: fn(&v1::FlowStats) -> Vec<Sample>) -> Vec<Sample> {
    o.stats.flows.as_ref().map(samples).unwrap_or_default()
}
