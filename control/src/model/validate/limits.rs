//! Limits of a service's sessions.

use marchproxy_engine::tables::{LimitsSpec, ServiceLimitsSpec, ServiceProtocol};
use marchproxy_proto::v1::Limits;

use super::super::report::{At, Report};

/// What the limits say; `None` when they limit nothing.
pub(super) fn check(
    limits: &Limits,
    protocol: Option<ServiceProtocol>,
    at: &At<'_>,
    report: &mut Report,
) -> Option<ServiceLimitsSpec> {
    let mut spec = ServiceLimitsSpec {
        total: LimitsSpec { new_per_s: limits.new_per_s, half_open: limits.half_open, sessions: limits.sessions },
        ..ServiceLimitsSpec::default()
    };
    one("limits", &spec.total, protocol, at, report);
    if let Some(source) = &limits.per_source {
        spec.per_source =
            LimitsSpec { new_per_s: source.new_per_s, half_open: source.half_open, sessions: source.sessions };
        one("limits.per_source", &spec.per_source, protocol, at, report);
        let mut bits = |field: &str, found: Option<u32>, default: u8, most: u32| {
            let field = format_args!("limits.per_source.{field}");
            let bits = found.and_then(|bits| report.within(at, field, bits, 1..=most, "bits of a client's address"));
            bits.map_or(default, |bits| bits as u8)
        };
        spec.source_v4 = bits("prefix_v4", source.prefix_v4, spec.source_v4, 32);
        spec.source_v6 = bits("prefix_v6", source.prefix_v6, spec.source_v6, 128);
        if spec.per_source == LimitsSpec::default() {
            report.refuse(at, "limits.per_source", "without a limit", "new_per_s, half_open or sessions");
        }
        for (field, all, source) in [
            ("new_per_s", spec.total.new_per_s, spec.per_source.new_per_s),
            ("half_open", spec.total.half_open, spec.per_source.half_open),
            ("sessions", spec.total.sessions, spec.per_source.sessions),
        ] {
            if let (Some(all), Some(source)) = (all, source)
                && source > all
            {
                let message = format!("{source} is more than the whole service may have, which is {all}");
                report.warn(at, format_args!("limits.per_source.{field}"), message);
            }
        }
    }
    if limits.per_source.is_none() && spec.total == LimitsSpec::default() {
        report.refuse(at, "limits", "without a limit", "new_per_s, half_open, sessions or per_source");
    }
    Some(spec).filter(|spec| [spec.total, spec.per_source] != [LimitsSpec::default(); 2])
}

fn one(within: &str, spec: &LimitsSpec, protocol: Option<ServiceProtocol>, at: &At<'_>, report: &mut Report) {
    let fields = [("new_per_s", spec.new_per_s), ("half_open", spec.half_open), ("sessions", spec.sessions)];
    for (field, limit) in fields {
        if limit == Some(0) {
            let allowed = "1 or more; without backends, or with a rule, a service takes no session";
            report.refuse(at, format_args!("{within}.{field}"), 0, allowed);
        }
    }
    if spec.half_open.is_some() && protocol.is_some_and(|protocol| protocol != ServiceProtocol::Tcp) {
        let field = format_args!("{within}.half_open");
        report.refuse(
            at,
            field,
            "given for another protocol than tcp",
            "new_per_s and sessions: only TCP has a handshake",
        );
    }
}
