//! Policers, and the QoS profiles that give them to services.

use marchproxy_engine::table::policer::MAX_RATES;
use marchproxy_engine::tables::{Class, PolicerAction, PolicerKind, PolicerSpec, PolicerUnit, QueueSpec, SourcesSpec};
use marchproxy_proto::v1::{self, Document};

use super::super::report::{At, Report, quoted};
use super::super::types::Node;
use super::qos::{Shaped, ingress, queue};
use super::{References, marks};

/// A burst below one full packet would never let one through.
const MIN_BURST: u64 = 1500;

/// More than a third of a second at 100 Gbit/s, or more packets than pass in a second; far below what the engine's tokens count exactly.
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
pub(super) fn check_policers(
    document: &Document,
    nodes: &[Node],
    references: &References<'_>,
    report: &mut Report,
) -> Vec<Option<PolicerSpec>> {
    let mtu = nodes.iter().flat_map(|node| &node.ports).map(|port| u64::from(port.mtu)).max().unwrap_or(MIN_BURST);
    document
        .policers
        .iter()
        .enumerate()
        .map(|(index, policer)| {
            let at = At::new("policers", index, "policer", &policer.name);
            check_policer(policer, &at, mtu, references, report)
        })
        .collect()
}

/// The numbers of a policer in one unit, each with its field. A field that another kind has is refused.
struct Numbers {
    unit: PolicerUnit,
    /// What it is called, the largest rate, the smallest burst.
    words: (&'static str, &'static str),
    most: u64,
    least: u64,
    cir: (&'static str, u64),
    cbs: (&'static str, u64),
    ebs: (&'static str, u64),
    pir: (&'static str, u64),
    pbs: (&'static str, u64),
    eir: (&'static str, u64),
}

impl Numbers {
    fn octets(p: &v1::Policer) -> Self {
        Self {
            unit: PolicerUnit::Octets,
            words: ("kbit/s", "octets: a burst holds at least one packet"),
            most: MAX_RATES[0],
            least: MIN_BURST,
            cir: ("cir_kbps", p.cir_kbps),
            cbs: ("cbs_bytes", p.cbs_bytes),
            ebs: ("ebs_bytes", p.ebs_bytes),
            pir: ("pir_kbps", p.pir_kbps),
            pbs: ("pbs_bytes", p.pbs_bytes),
            eir: ("eir_kbps", p.eir_kbps),
        }
    }

    fn packets(p: &v1::Policer) -> Self {
        Self {
            unit: PolicerUnit::Packets,
            words: ("packets/s", "packets"),
            most: MAX_RATES[1],
            least: 1,
            cir: ("cir_pps", p.cir_pps),
            cbs: ("cbs_packets", p.cbs_packets),
            ebs: ("ebs_packets", p.ebs_packets),
            pir: ("pir_pps", p.pir_pps),
            pbs: ("pbs_packets", p.pbs_packets),
            eir: ("eir_pps", p.eir_pps),
        }
    }

    fn all(&self) -> [(&'static str, u64); 6] {
        [self.cir, self.cbs, self.ebs, self.pir, self.pbs, self.eir]
    }

    /// The ones of a policer: octets, unless it has numbers of packets.
    fn of(p: &v1::Policer, at: &At<'_>, report: &mut Report) -> Self {
        let (octets, packets) = (Self::octets(p), Self::packets(p));
        let given = |numbers: &Self| numbers.all().into_iter().find(|(_, number)| *number != 0);
        match (given(&octets), given(&packets)) {
            (Some((field, number)), Some((other, _))) => {
                report.refuse(at, field, format!("{number} with {other}"), "octets or packets, not both");
                octets
            }
            (None, Some(_)) => packets,
            _ => octets,
        }
    }

    /// What a kind has no use for.
    fn unused(kind: PolicerKind, fields: &[(&'static str, u64)], at: &At<'_>, report: &mut Report) {
        for &(field, number) in fields.iter().filter(|(_, number)| *number != 0) {
            report.refuse(at, field, number, format!("nothing, with kind {}", kind.label()));
        }
    }

    fn rate(&self, (field, rate): (&'static str, u64), least: u64, at: &At<'_>, report: &mut Report) -> u64 {
        report.within(at, field, rate, least..=self.most, self.words.0);
        rate
    }

    fn burst(&self, (field, burst): (&'static str, u64), may_be_none: bool, at: &At<'_>, report: &mut Report) -> u64 {
        let is_none = may_be_none && burst == 0;
        if !is_none && !(self.least..=MAX_BURST).contains(&burst) {
            let none = if may_be_none { "0, or " } else { "" };
            report.refuse(at, field, burst, format!("{none}{} to {MAX_BURST} {}", self.least, self.words.1));
        }
        burst
    }

    /// CIR, CBS, and what the second bucket has: its rate and its burst.
    fn check(&self, kind: PolicerKind, at: &At<'_>, report: &mut Report) -> [u64; 4] {
        match kind {
            PolicerKind::Srtcm => {
                Self::unused(kind, &[self.pir, self.pbs, self.eir], at, report);
                let cir = self.rate(self.cir, 1, at, report);
                let [cbs, ebs] = [self.cbs, self.ebs].map(|burst| self.burst(burst, true, at, report));
                if cbs == 0 && ebs == 0 {
                    let found = format!("0 and {} 0", self.ebs.0);
                    let allowed = "one of them above 0, or every packet is red (RFC 2697 s1)";
                    report.refuse(at, self.cbs.0, found, allowed);
                }
                [cir, cbs, 0, ebs]
            }
            PolicerKind::Trtcm => {
                Self::unused(kind, &[self.ebs, self.eir], at, report);
                let [cir, pir] = [self.cir, self.pir].map(|rate| self.rate(rate, 1, at, report));
                let [cbs, pbs] = [self.cbs, self.pbs].map(|burst| self.burst(burst, false, at, report));
                if (1..cir).contains(&pir) {
                    let allowed =
                        format!("{cir} ({}) or more: the peak rate is not below the committed one", self.cir.0);
                    report.refuse(at, self.pir.0, pir, allowed);
                }
                [cir, cbs, pir, pbs]
            }
            PolicerKind::Rfc4115 => {
                Self::unused(kind, &[self.pir, self.pbs], at, report);
                let [cir, eir] = [self.cir, self.eir].map(|rate| self.rate(rate, 0, at, report));
                if cir == 0 && eir == 0 {
                    let found = format!("0 and {} 0", self.eir.0);
                    report.refuse(at, self.cir.0, found, "one of them above 0, or every packet is red");
                }
                let [cbs, ebs] =
                    [(self.cbs, cir), (self.ebs, eir)].map(|(burst, rate)| self.burst(burst, rate == 0, at, report));
                for ((field, burst), (rate, _)) in [(self.cbs, (self.cir.0, cir)), (self.ebs, (self.eir.0, eir))]
                    .into_iter()
                    .filter(|((_, burst), (_, rate))| *rate == 0 && *burst != 0)
                {
                    report.refuse(at, field, burst, format!("0 where {rate} is 0: it would never be filled again"));
                }
                [cir, cbs, eir, ebs]
            }
        }
    }
}

fn check_policer(
    policer: &v1::Policer,
    at: &At<'_>,
    mtu: u64,
    references: &References<'_>,
    report: &mut Report,
) -> Option<PolicerSpec> {
    let before = report.violations.len();
    let kind = report.choice(at, "kind", &policer.kind, None, &PolicerKind::ALL.map(|kind| (kind.label(), kind)));
    let numbers = Numbers::of(policer, at, report);
    let [cir, cbs, eir, ebs] = numbers.check(kind?, at, report);
    let longest = if kind == Some(PolicerKind::Trtcm) { ebs } else { cbs.max(ebs) };
    if numbers.unit == PolicerUnit::Octets && longest < mtu && longest >= MIN_BURST {
        let message = format!("packets longer than {longest} octets are always red, and a port has an mtu of {mtu}");
        report.warn(at, numbers.cbs.0, message);
    }
    let per_source = policer.per_source.as_ref().map(|sources| SourcesSpec {
        v4: report.within(at, "per_source.prefix_v4", sources.prefix_v4.unwrap_or(32), 1..=32, "bits").unwrap_or(32)
            as u8,
        v6: report.within(at, "per_source.prefix_v6", sources.prefix_v6.unwrap_or(64), 1..=128, "bits").unwrap_or(64)
            as u8,
    });
    let mut colour =
        |action: Option<&v1::ColourAction>, default, field| colour(action, default, at, field, references, report);
    let on_green = colour(policer.on_green.as_ref(), PolicerAction::Pass, "on_green");
    let on_yellow = colour(policer.on_yellow.as_ref(), PolicerAction::Pass, "on_yellow");
    let on_red = colour(policer.on_red.as_ref(), PolicerAction::Drop, "on_red");
    if on_red == PolicerAction::Ce {
        let message = "packets that are not ECN-capable pass unmarked, however many there are";
        report.warn(at, "on_red", message);
    }
    if report.violations.len() > before {
        return None;
    }
    Some(PolicerSpec {
        name: policer.name.clone(),
        kind: kind?,
        unit: numbers.unit,
        cir,
        cbs,
        eir,
        ebs,
        colour_aware: policer.colour_aware,
        on_green,
        on_yellow,
        on_red,
        per_source,
    })
}

fn colour(
    action: Option<&v1::ColourAction>,
    default: PolicerAction,
    at: &At<'_>,
    field: &str,
    references: &References<'_>,
    report: &mut Report,
) -> PolicerAction {
    let Some(action) = action else { return default };
    match action.kind.as_str() {
        "mark" if action.mark.eq_ignore_ascii_case("ce") => PolicerAction::Ce,
        "mark" => {
            let mark = references.maps.mark(report, at, format_args!("{field}.mark"), &action.mark);
            mark.map_or(default, PolicerAction::Mark)
        }
        "class" => {
            let class = marks::lower(report, at, &format!("{field}.class"), &action.mark);
            class.map_or(default, PolicerAction::Class)
        }
        "pass" if action.mark.is_empty() => PolicerAction::Pass,
        "drop" if action.mark.is_empty() => PolicerAction::Drop,
        kind => {
            report.refuse(at, field, quoted(kind), "pass, drop, {mark: DSCP or CE} or {class: P0 to P3}");
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
                mark: qos.priority.as_ref().and_then(|priority| check_priority(priority, &at, references, report)),
            }
        })
        .collect()
}

fn check_priority(
    priority: &v1::Priority,
    at: &At<'_>,
    references: &References<'_>,
    report: &mut Report,
) -> Option<u8> {
    match priority.dscp.as_str() {
        "" => None,
        dscp => references.maps.mark(report, at, "priority.dscp", dscp),
    }
}
