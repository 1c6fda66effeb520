//! Where a node tells of its sessions.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use marchproxy_engine::tables::FlowsSpec;
use marchproxy_proto::v1;

use super::super::report::{At, Report};
use super::super::types::Flows;
use super::References;

/// Up to an hour; a day would hide a session from its collector.
const TIMEOUT_S: RangeInclusive<u32> = 1..=3600;
const TIMEOUT_DEFAULT_S: u32 = 60;

/// Templates are lost like any datagram (RFC 7011 s8.4); a collector that starts anew waits for the next ones.
const REFRESH_DEFAULT_S: u32 = 60;

/// RFC 7011 s10.3.3 to what a jumbo frame carries.
const MESSAGE: RangeInclusive<u32> = 512..=8952;

/// IPv6's smallest MTU less the headers of IPv6 and UDP: fits every way.
const MESSAGE_DEFAULT: u32 = 1280 - 40 - 8;

/// More would not tell of anything.
const ONE_OF: RangeInclusive<u32> = 1..=1_000_000;

/// A node's export, or `None` where it is wrong.
pub(super) fn check(flows: &v1::Flows, at: &At<'_>, references: &References<'_>, report: &mut Report) -> Option<Flows> {
    let collector = report.word(at, "flows.collector", &flows.collector, collector);
    let mut number = |field: &str, found: Option<u32>, default, allowed, unit| {
        report.within(at, format_args!("flows.{field}"), found.unwrap_or(default), allowed, unit)
    };
    let one_of = number("one_of", flows.one_of, 1, ONE_OF, "sessions");
    let active = number("active_timeout_s", flows.active_timeout_s, TIMEOUT_DEFAULT_S, TIMEOUT_S, "seconds");
    let refresh = number("template_refresh_s", flows.template_refresh_s, REFRESH_DEFAULT_S, TIMEOUT_S, "seconds");
    let message = number("message_bytes", flows.message_bytes, MESSAGE_DEFAULT, MESSAGE, "octets");
    let mut services = Vec::with_capacity(flows.services.len());
    for (index, name) in flows.services.iter().enumerate() {
        services.extend(references.services.find(report, at, format_args!("flows.services[{index}]"), name));
    }
    let spec = FlowsSpec {
        collector: collector?,
        domain: flows.domain.unwrap_or(0),
        one_of: one_of?,
        active_timeout_s: active?,
        template_refresh_s: refresh?,
        message_octets: message? as u16,
        nat_events: flows.nat_events.unwrap_or(false),
        services: Vec::new(),
    };
    Some(Flows { spec, services })
}

fn collector(text: &str) -> Result<SocketAddr, String> {
    let allowed = || "ADDRESS:PORT with a unicast address, as in 192.0.2.50:4739 or [2001:db8::50]:4739".to_owned();
    let found: SocketAddr = text.parse().map_err(|_| allowed())?;
    let is_unicast = match found {
        SocketAddr::V4(v4) => !v4.ip().is_broadcast() && !v4.ip().is_multicast() && !v4.ip().is_unspecified(),
        // A link-local address says nothing without the host's name for the link, which differs from node to node.
        SocketAddr::V6(v6) => {
            let ip = v6.ip();
            !ip.is_multicast() && !ip.is_unspecified() && !ip.is_unicast_link_local() && v6.scope_id() == 0
        }
    };
    if found.port() == 0 || !is_unicast {
        return Err(allowed());
    }
    Ok(found)
}
