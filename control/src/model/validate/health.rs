//! Health checks of services.

use marchproxy_engine::tables::{HealthKind, HealthSpec, PortRange};
use marchproxy_proto::v1;

use super::super::report::{At, Report, quoted};
use super::super::types::Backend;

/// From 20 ms, which is as fast as the slow path can keep its promises, to an hour.
const MIN_SECONDS: f64 = 0.02;
const MAX_SECONDS: f64 = 3600.0;
/// The timeout where the document says nothing and the interval leaves room for it.
const TIMEOUT_MS: u32 = 1000;
/// Path and host fit into one request of a check.
const MAX_TEXT: usize = 255;
const STATUSES: std::ops::RangeInclusive<u16> = 100..=599;

/// Reads a service's health field; `None` when something in it is wrong.
pub(super) fn check(
    health: &v1::Health,
    ports: &[PortRange],
    backends: &[Backend],
    at: &At<'_>,
    report: &mut Report,
) -> Option<HealthSpec> {
    let before = report.violations.len();
    let kind = report.choice(
        at,
        "health.kind",
        &health.kind,
        None,
        &[("icmp", Kind::Icmp), ("tcp", Kind::Tcp), ("http", Kind::Http)],
    );
    let defaults = HealthSpec::default();
    let count = |report: &mut Report, field, count: Option<u32>, default: u16| {
        report.within(at, field, count.unwrap_or(default.into()), 1..=100, "checks").unwrap_or(default.into()) as u16
    };
    let (rise, fall) = (
        count(report, "health.rise", health.rise, defaults.rise),
        count(report, "health.fall", health.fall, defaults.fall),
    );
    let interval_ms = match health.interval_s {
        None => defaults.interval_ms,
        Some(seconds) if (MIN_SECONDS..=MAX_SECONDS).contains(&seconds) => (seconds * 1000.0).round() as u32,
        Some(seconds) => {
            report.refuse(at, "health.interval_s", seconds, format!("{MIN_SECONDS} to {MAX_SECONDS} seconds"));
            defaults.interval_ms
        }
    };
    let timeout_ms = timeout(health.timeout_s, interval_ms, fall, at, report);
    let panic = health.panic_below_percent.unwrap_or(0);
    let panic = report.within(at, "health.panic_below_percent", panic, 0..=100, "percent");
    let port = health.port.and_then(|port| report.within(at, "health.port", port, 1..=u16::MAX.into(), ""));
    let http = http(health, kind, at, report);
    let kind = match kind? {
        Kind::Icmp => HealthKind::Icmp,
        Kind::Tcp => HealthKind::Tcp,
        Kind::Http => http?,
    };
    if kind == HealthKind::Icmp {
        if let Some(port) = health.port {
            report.refuse(at, "health.port", port, "none with kind icmp");
        }
    } else if health.port.is_none() && ports.first().is_none_or(|range| range.first == 0) {
        // A range that begins with 0 is `all`.
        if let Some(backend) = backends.iter().find(|backend| backend.port.is_none()) {
            let found = format!("missing, and neither backend {} nor the service names one port", backend.name);
            report.refuse(at, "health.port", found, "the port to be asked, 1 to 65535");
        }
    }
    (report.violations.len() == before).then_some(HealthSpec {
        kind,
        interval_ms,
        timeout_ms,
        rise,
        fall,
        panic_below_percent: panic? as u8,
        port: port.map(|port| port as u16),
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Icmp,
    Tcp,
    Http,
}

/// A backend that falls silent has to be out within `fall` intervals: the last of `fall` timeouts has to end by then.
fn timeout(seconds: Option<f64>, interval_ms: u32, fall: u16, at: &At<'_>, report: &mut Report) -> u32 {
    let longest = HealthSpec::longest_timeout_ms(interval_ms, fall);
    let Some(seconds) = seconds else { return longest.min(TIMEOUT_MS) };
    let ms = (seconds * 1000.0).round();
    if ms >= 1.0 && ms <= f64::from(longest) {
        return ms as u32;
    }
    let allowed = format!(
        "0.001 to {} seconds: with interval {} and fall {fall}, so that a dead backend is out within fall intervals",
        f64::from(longest) / 1000.0,
        f64::from(interval_ms) / 1000.0
    );
    report.refuse(at, "health.timeout_s", seconds, allowed);
    longest
}

fn http(health: &v1::Health, kind: Option<Kind>, at: &At<'_>, report: &mut Report) -> Option<HealthKind> {
    let fields =
        [("health.path", &health.path), ("health.host", &health.host), ("health.expect_status", &health.expect_status)];
    if kind.is_some_and(|kind| kind != Kind::Http) {
        for (field, text) in fields.into_iter().filter(|(_, text)| !text.is_empty()) {
            report.refuse(at, field, quoted(text), "none: only kind http has one");
        }
        return None;
    }
    let plain = |text: &str| text.len() <= MAX_TEXT && text.bytes().all(|octet| octet.is_ascii_graphic());
    let path = if health.path.is_empty() { "/" } else { &health.path };
    let path = report.word(at, "health.path", path, |text| {
        let good = text.starts_with('/') && plain(text);
        good.then(|| text.to_owned()).ok_or_else(|| format!("/ and up to {} visible ASCII characters", MAX_TEXT - 1))
    });
    let host = report.word(at, "health.host", &health.host, |text| {
        plain(text).then(|| text.to_owned()).ok_or_else(|| format!("up to {MAX_TEXT} visible ASCII characters"))
    });
    let status = if health.expect_status.is_empty() { "200-399" } else { &health.expect_status };
    let status = report.word(at, "health.expect_status", status, |text| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if first <= last && STATUSES.contains(&first) && STATUSES.contains(&last) => {
                Ok((first, last))
            }
            _ => Err("STATUS or FIRST-LAST, 100 to 599".to_owned()),
        }
    });
    Some(HealthKind::Http { path: path?, host: host?, status: status? })
}
