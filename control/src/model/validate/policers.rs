//! Policers, and the QoS profiles that give them to services.

use marchproxy_engine::tables::{Class, PolicerAction, PolicerSpec, QueueSpec};
use marchproxy_proto::v1::{self, Document};

use super::super::report::{At, Report, quoted};
use super::super::types::Node;
use super::super::words;
use super::References;
use super::qos::{Shaped, ingress, queue};

/// 100 Gbit/s; the engine's token arithmetic is exact up to here.
const MAX_KBPS: u64 = 100_000_000;

/// A burst below one full packet would never let one through.
const MIN_BURST: u64 = 1500;

/// More than a third of a second at 100 Gbit/s; the engine counts tokens of a burst in 32 bits of octets.
pub(super) const MAX_BURST: u64 = u32::MAX as u64;

/// A profile as services use it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Profile {
    pub policer: Option<usize>,
    pub mark: Option<u8>,
    pub class: Option<Class>,
    pub queue: QueueSpec,
    /// Polices what clients send: rate in kbit/s and burst in octets.
    pub ingress: Option<(u64, u64)>,
}

/// The policers, with holes where they are wrong.
pub(super) fn check_policers(document: &Document, nodes: &[Node], report: &mut Report) -> Vec<Option<PolicerSpec>> {
    let mtu = nodes.iter().flat_map(|node| &node.ports).map(|port| u64::from(port.mtu)).max().unwrap_or(MIN_BURST);
    document
        .policers
        .iter()
        .enumerate()
        .map(|(index, policer)| {
            check_policer(policer, &At::new("policers", index, "policer", &policer.name), mtu, report)
        })
        .collect()
}

fn check_policer(policer: &v1::Policer, at: &At<'_>, mtu: u64, report: &mut Report) -> Option<PolicerSpec> {
    let before = report.violations.len();
    report.choice(at, "kind", &policer.kind, None, &[("srtcm", ())]);
    report.within(at, "cir_kbps", policer.cir_kbps, 1..=MAX_KBPS, "kbit/s");
    let (cbs, ebs) = (policer.cbs_bytes, policer.ebs_bytes);
    for (field, burst) in [("cbs_bytes", cbs), ("ebs_bytes", ebs)] {
        if burst != 0 && !(MIN_BURST..=MAX_BURST).contains(&burst) {
            report.refuse(
                at,
                field,
                burst,
                format!("0, or {MIN_BURST} to {MAX_BURST} octets: a burst holds at least one packet"),
            );
        }
    }
    if cbs == 0 && ebs == 0 {
        report.refuse(
            at,
            "cbs_bytes",
            "0 and ebs_bytes 0",
            "one of them above 0, or every packet is red (RFC 2697 s1)",
        );
    } else if cbs.max(ebs) < mtu && cbs.max(ebs) >= MIN_BURST {
        let message =
            format!("packets longer than {} octets are always red, and a port has an mtu of {mtu}", cbs.max(ebs));
        report.warn(at, "cbs_bytes", message);
    }
    if policer.colour_aware {
        report.refuse(at, "colour_aware", "true", "false in this release");
    }
    let on_green = colour(policer.on_green.as_ref(), PolicerAction::Pass, at, "on_green", report);
    let on_yellow = colour(policer.on_yellow.as_ref(), PolicerAction::Pass, at, "on_yellow", report);
    let on_red = colour(policer.on_red.as_ref(), PolicerAction::Drop, at, "on_red", report);
    if report.violations.len() > before {
        return None;
    }
    Some(PolicerSpec {
        name: policer.name.clone(),
        cir_kbps: policer.cir_kbps,
        cbs_bytes: cbs,
        ebs_bytes: ebs,
        on_green,
        on_yellow,
        on_red,
    })
}

fn colour(
    action: Option<&v1::ColourAction>,
    default: PolicerAction,
    at: &At<'_>,
    field: &str,
    report: &mut Report,
) -> PolicerAction {
    let Some(action) = action else { return default };
    match action.kind.as_str() {
        "mark" => {
            let mark = report.word(at, format_args!("{field}.mark"), &action.mark, words::dscp);
            mark.map_or(default, PolicerAction::Mark)
        }
        "pass" if action.mark.is_empty() => PolicerAction::Pass,
        "drop" if action.mark.is_empty() => PolicerAction::Drop,
        kind => {
            report.refuse(at, field, quoted(kind), "pass, drop or {mark: DSCP}");
            default
        }
    }
}

/// The profiles; what is wrong with one is reported, and the rest of it used.
pub(super) fn check_qos(
    document: &Document,
    nodes: &[Node],
    references: &References<'_>,
    report: &mut Report,
) -> Vec<Profile> {
    let shaped = Shaped::new(nodes);
    document
        .qos
        .iter()
        .enumerate()
        .map(|(index, qos)| {
            let at = At::new("qos", index, "qos", &qos.name);
            let (class, queue) = queue(qos, &shaped, &at, report);
            Profile {
                class,
                queue,
                ingress: ingress(qos, &at, report),
                policer: match qos.policer.as_str() {
                    "" => None,
                    name => references.policers.find(report, &at, "policer", name),
                },
                mark: qos.priority.as_ref().and_then(|priority| check_priority(priority, &at, report)),
            }
        })
        .collect()
}

fn check_priority(priority: &v1::Priority, at: &At<'_>, report: &mut Report) -> Option<u8> {
    match priority.dscp.as_str() {
        "" => None,
        dscp => report.word(at, "priority.dscp", dscp, words::dscp),
    }
}
