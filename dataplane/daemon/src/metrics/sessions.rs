//! The session table and the ports of full NAT.

use marchproxy_engine::reason::{LookupResult, SessionEnd};
use marchproxy_metrics::{Class, Family, Kind, Sample, Value, family, one, sample};
use marchproxy_proto::v1;

use super::{NODE, Observation, REASON, reasons};

const POOL_NAMES: &[&str] = &["address", "protocol"];
const POOL: &Class = &Class { name: "address of a source pool and protocol", bound: "2 per address" };
const WHEN: &str = "with services in mode full_nat";

pub(super) const FAMILIES: &[Family<Observation>] = &[
    family(
        "session_lookup_packets",
        Kind::Counter,
        "packets",
        REASON,
        &["result"],
        "Packets by what the look-up of their session found.",
        |o| reasons(LookupResult::ALL.iter().map(|result| result.label()), &o.stats.session_lookups),
    ),
    family(
        "sessions_ended",
        Kind::Counter,
        "",
        REASON,
        &["why"],
        "Sessions ended, evicted ones by what they were.",
        |o| reasons(SessionEnd::ALL.iter().map(|end| end.label()), &o.stats.sessions_ended),
    ),
    family(
        "session_sources_untracked",
        Kind::Counter,
        "",
        NODE,
        &[],
        "New sessions whose source had no place of its own for its limits: only its service's held.",
        |o| one(o.stats.sources_untracked),
    ),
    family(
        "nat_ports_in_use",
        Kind::Gauge,
        "",
        POOL,
        POOL_NAMES,
        "Ports of a source pool's address that sessions have.",
        |o| pools(o, |p| p.in_use),
    )
    .when(WHEN),
    family(
        "nat_ports",
        Kind::Gauge,
        "",
        POOL,
        POOL_NAMES,
        "Ports of a source pool's address that sessions may have.",
        |o| pools(o, |p| p.capacity),
    )
    .when(WHEN),
];

fn pools<V: Into<Value>>(o: &Observation, value: impl Fn(&v1::NatPool) -> V) -> Vec<Sample> {
    o.stats.nat_pools.iter().map(|p| sample(vec![p.address.clone(), p.protocol.clone()], value(p))).collect()
}
