//! What policers will do with a packet: which, how it arrives there, and what each colour means. Which colour it will be depends on
//! what passed before.

use std::fmt::Write as _;

use crate::burst::NONE;
use crate::flow::to_ip;
use crate::snapshot::Snapshot;
use crate::table::policer::{Colour, PolicerTable};
use crate::tables::{MARK_KEEP, PolicerAction};

use super::{Question, Steps};

/// The policers of a packet that goes on, in the order in which they meter it: its interface's, and the one of rule or service.
pub(super) fn police(snapshot: &Snapshot, question: &Question, flow: u32, step: Steps<'_>) {
    let interface = snapshot.interface(question.interface);
    let of_interface = interface.map_or(NONE, |interface| interface.policer);
    for (index, whose) in [(of_interface, "the receiving interface's"), (flow, "the flow's")] {
        let (Some(name), Some(policer)) = (snapshot.policer_name(index), snapshot.policers.get(index as usize)) else {
            continue;
        };
        let arrives =
            if policer.profile.is_aware() { Colour::of_dscp(question.sight.dscp() as u8) } else { Colour::Green };
        let mut details = format!("{whose}: {}", possible(snapshot, policer, arrives));
        if let Some(source) = policer.source_of(question.key.src) {
            let _ = write!(details, ", buckets of {}", to_ip(source));
        }
        step("police", format!("policer {name}"), details);
    }
}

/// The colours it may still get, and what they do.
fn possible(snapshot: &Snapshot, policer: &PolicerTable, arrives: Colour) -> String {
    let actions = Colour::ALL.into_iter().zip(&policer.actions).filter(|(colour, _)| *colour >= arrives);
    let colour = |(colour, action): (Colour, &PolicerAction)| {
        let does = match *action {
            PolicerAction::Pass => "pass".to_owned(),
            PolicerAction::Mark(code) => mark(snapshot, code),
            PolicerAction::Ce => "congestion experienced, if ECN-capable".to_owned(),
            PolicerAction::Class(class) => format!("class {} at best", class.label()),
            PolicerAction::Drop => "drop".to_owned(),
        };
        format!("{} {does}", colour.label())
    };
    let possible: Vec<String> = actions.map(colour).collect();
    format!("arrives {}; {}", arrives.label(), possible.join(", "))
}

/// A mark in words.
pub(super) fn mark(snapshot: &Snapshot, mark: u8) -> String {
    match (mark, snapshot.maps.name(mark)) {
        (MARK_KEEP, _) => "dscp kept".to_owned(),
        (_, Some(map)) => format!("dscp by map {map}"),
        (dscp, None) => format!("mark dscp {dscp}"),
    }
}
